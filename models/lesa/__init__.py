"""LESA: self-attention whose local term is a convolution.

Importing the package registers its networks with timm, and the code of its authors for their checkpoints.
"""

from models.lesa import authors_checkpoint, variants

__all__ = ["authors_checkpoint", "variants"]
