"""Predictions of a trained network for image files: typed results, pictures, and JSON."""

from orchestrator.inference.predict.prediction import predict
from orchestrator.inference.predict.results import (
    ClassifiedImage,
    ClassScore,
    ClassShare,
    DetectedImage,
    DetectedObject,
    PredictedImage,
    SegmentedImage,
)

__all__ = [
    "ClassScore",
    "ClassShare",
    "ClassifiedImage",
    "DetectedImage",
    "DetectedObject",
    "PredictedImage",
    "SegmentedImage",
    "predict",
]
