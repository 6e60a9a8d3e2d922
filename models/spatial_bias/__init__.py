"""Spatial bias: global context in a few extra channels.

Importing the package registers its networks with timm, and the code of its authors for their checkpoints.
"""

from models.spatial_bias import authors_checkpoint, variants

__all__ = ["authors_checkpoint", "variants"]
