"""FCViT: a convolutional network with the layout of a vision transformer and an explicit global context.

Importing the package registers its networks with timm, and the code of its authors for their checkpoints.
"""

from models.fcvit import authors_checkpoint, variants

__all__ = ["authors_checkpoint", "variants"]
