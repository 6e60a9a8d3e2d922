"""Stand-alone self-attention: ResNets for large images whose spatial convolutions are local attention.

Importing the package registers its networks with timm.
"""

from models.stand_alone import variants

__all__ = ["variants"]
