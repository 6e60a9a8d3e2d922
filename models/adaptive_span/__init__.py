"""Networks with adaptive attention span, and their fixed-window, augmented and convolutional controls.

Importing the package registers its networks with timm, and the code of its authors for their checkpoints.
"""

from models.adaptive_span import authors_checkpoint, variants

__all__ = ["authors_checkpoint", "variants"]
