"""LSAS: channel attention corrected by sub-attention."""
