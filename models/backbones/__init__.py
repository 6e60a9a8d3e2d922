"""Networks as backbones of detectors and segmentors: maps of their stages, freezing, weights of classifiers."""

from models.backbones.pretrained import BackboneFit, LoadedBackbone, fit_backbone, load_backbone
from models.backbones.settings import BackboneSettings, backbone_settings
from models.backbones.stage_maps import StageMaps, create_backbone

__all__ = [
    "BackboneFit",
    "BackboneSettings",
    "LoadedBackbone",
    "StageMaps",
    "backbone_settings",
    "create_backbone",
    "fit_backbone",
    "load_backbone",
]
