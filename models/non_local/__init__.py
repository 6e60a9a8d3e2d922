"""Non-local networks, the baseline of spatial bias.

Importing the package registers its networks with timm.
"""

from models.non_local import variants

__all__ = ["variants"]
