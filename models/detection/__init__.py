"""Detectors of boxes and of instances over the maps of any backbone.

`create_detector` builds Faster R-CNN, Mask R-CNN and RetinaNet of torchvision, Cascade R-CNN and HTC; `build_detector`
builds them by flat options, for sweeps.
"""

from models.detection.cascade import STAGES, StagePlan
from models.detection.detector import DETECTORS, DetectorSettings, create_detector
from models.detection.options import build_detector, detection_options, detector_cost, detector_problems
from models.detection.shapes import training_shapes

__all__ = [
    "DETECTORS",
    "STAGES",
    "DetectorSettings",
    "StagePlan",
    "build_detector",
    "create_detector",
    "detection_options",
    "detector_cost",
    "detector_problems",
    "training_shapes",
]
