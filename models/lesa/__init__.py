"""LESA: self-attention whose local term is a convolution."""
