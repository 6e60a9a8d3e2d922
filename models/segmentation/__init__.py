"""Networks of semantic segmentation over the maps of any backbone: Semantic FPN and UPerNet."""

from models.segmentation.segmentor import SEGMENTORS, Segmentor, create_segmentor
from models.segmentation.semantic_fpn import SemanticFPNHead
from models.segmentation.upernet import UPerHead

__all__ = ["SEGMENTORS", "Segmentor", "SemanticFPNHead", "UPerHead", "create_segmentor"]
