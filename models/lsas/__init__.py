"""LSAS: channel attention corrected by sub-attention.

Importing the package registers its networks with timm, and the code of its authors for their checkpoints.
"""

from models.lsas import authors_checkpoint, variants

__all__ = ["authors_checkpoint", "variants"]
