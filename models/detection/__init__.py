"""Detectors of boxes and of instances over the maps of any backbone.

`create_detector` builds Faster R-CNN, Mask R-CNN and RetinaNet of torchvision, Cascade R-CNN and HTC.
"""

from models.detection.cascade import STAGES, StagePlan
from models.detection.detector import DETECTORS, DetectorSettings, create_detector

__all__ = ["DETECTORS", "STAGES", "DetectorSettings", "StagePlan", "create_detector"]
