"""Networks of semantic segmentation over the maps of any backbone: Semantic FPN and UPerNet."""

from models.segmentation.options import HEAD_OPTIONS, build_segmentor, segmentor_cost, segmentor_problems
from models.segmentation.segmentor import SEGMENTORS, Segmentor, create_segmentor
from models.segmentation.semantic_fpn import SemanticFPNHead
from models.segmentation.upernet import UPerHead

__all__ = [
    "HEAD_OPTIONS",
    "SEGMENTORS",
    "Segmentor",
    "SemanticFPNHead",
    "UPerHead",
    "build_segmentor",
    "create_segmentor",
    "segmentor_cost",
    "segmentor_problems",
]
