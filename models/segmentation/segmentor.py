"""Networks of semantic segmentation by name: backbone, head, and a second head for training.

Sources: Kirillov et al. 2019 (arXiv 1901.02446); Xiao et al. 2018 (arXiv 1807.10221).
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from models.backbones import BackboneSettings, StageMaps, create_backbone
from models.common.options import ModelOptionError, OptionProblem, UnknownOptionError, nearest_name
from models.common.weight_decay import declared_without_decay
from models.segmentation.semantic_fpn import SemanticFPNHead
from models.segmentation.upernet import AuxiliaryHead, UPerHead

__all__ = ["IGNORED", "SEGMENTORS", "Segmentor", "create_segmentor"]

IGNORED = 255
AUXILIARY_WEIGHT = 0.4
SEGMENTORS: Mapping[str, Callable[..., nn.Module]] = {"semantic_fpn": SemanticFPNHead, "upernet": UPerHead}
"""Heads by name."""
_OF_BACKBONE = ("self", "channels", "reductions", "num_classes")


class Segmentor(nn.Module):
    """Backbone and head, with logits of every pixel.

    Shape: images (B, in_chans, H, W) -> logits (B, num_classes, H, W).

    Args:
        backbone: Maps of the stages.
        head: Head, from these maps to logits of the size of the finest one.
        num_classes: Classes.
        auxiliary: Second head for training, on the map ahead of the last one; None for none.
        auxiliary_weight: Weight of its loss.
        only_px: Side of the only images that the backbone reads, squares; None where it reads images of any size.
    """

    def __init__(
        self,
        backbone: StageMaps,
        head: nn.Module,
        num_classes: int,
        *,
        auxiliary: AuxiliaryHead | None = None,
        auxiliary_weight: float = AUXILIARY_WEIGHT,
        only_px: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary
        self.auxiliary_weight = auxiliary_weight
        self.only_px = only_px

    def forward(self, images: Tensor, class_map: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Compute the logits, or the losses for class maps.

        Args:
            images: Normalised images (B, in_chans, H, W).
            class_map: Classes of the pixels (B, H, W), from 0; 255 is ignored.

        Returns:
            Logits (B, num_classes, H, W); with a class map `loss_semantic` and, with a second head,
            `loss_auxiliary` times its weight, each the mean over the pixels with a class.
        """
        maps = self.backbone(images)
        if class_map is None:
            return _at_pixels(self.head(maps), images)
        losses = {"loss_semantic": _loss(_at_pixels(self.head(maps), images), class_map, self.num_classes)}
        if self.auxiliary is not None:
            second = _at_pixels(self.auxiliary(maps[max(0, len(maps) - 2)]), images)
            losses["loss_auxiliary"] = self.auxiliary_weight * _loss(second, class_map, self.num_classes)
        return losses

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay, as backbone and layers declare them."""
        return declared_without_decay(self)


def _at_pixels(logits: Tensor, images: Tensor) -> Tensor:
    return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def _loss(logits: Tensor, class_map: Tensor, num_classes: int) -> Tensor:
    """Compute the mean cross-entropy over the pixels with a class; zero where there are none.

    Raises:
        ModelOptionError: The map is of another size, or, on a CPU, has classes that the network does not have.
    """
    wanted = class_map.long()
    if wanted.shape != (logits.shape[0], *logits.shape[2:]):
        rule = f"the images are {tuple(logits.shape[2:])} in a batch of {len(logits)}"
        problem = OptionProblem("class_map", tuple(wanted.shape), rule, "Resize class maps with their images.")
        raise ModelOptionError([problem])
    if wanted.is_cpu:  # a GPU would have to finish first, and its cross-entropy checks classes itself
        _check_classes(wanted, num_classes)
    total = functional.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
    return total / (wanted != IGNORED).sum().clamp_min(1)


def _check_classes(class_map: Tensor, num_classes: int) -> None:
    beyond = class_map[(class_map != IGNORED) & ((class_map >= num_classes) | (class_map < 0))]
    if beyond.numel():
        rule = f"the network has {num_classes} classes, from 0; {IGNORED} is ignored"
        problem = OptionProblem("class_map", int(beyond[0]), rule, "Set num_classes to the classes of the data.")
        raise ModelOptionError([problem])


def create_segmentor(
    name: str,
    backbone: str | BackboneSettings,
    num_classes: int,
    *,
    auxiliary: bool | None = None,
    auxiliary_weight: float = AUXILIARY_WEIGHT,
    **settings: Any,
) -> Segmentor:
    """Build a network of semantic segmentation with random weights.

    Args:
        name: `semantic_fpn` or `upernet`.
        backbone: Name of a network, for the settings of its authors (`backbone_settings`), or settings.
        num_classes: Classes of the pixels, from 0.
        auxiliary: True for a second head in training; UPerNet has one when left out.
        auxiliary_weight: Weight of its loss.
        settings: Keywords of the head: `SemanticFPNHead` or `UPerHead`.

    Raises:
        ModelOptionError: There is no such head, network or keyword, or one has no such value.
    """
    if name not in SEGMENTORS:
        nearest = nearest_name(name, SEGMENTORS)
        remedy = f"Did you mean {nearest!r}?" if nearest else "Use 'semantic_fpn'."
        problem = OptionProblem("name", name, f"heads are {', '.join(SEGMENTORS)}", remedy)
        raise ModelOptionError([problem])
    make = SEGMENTORS[name]
    known = [key for key in inspect.signature(make).parameters if key not in _OF_BACKBONE]
    problems = [] if num_classes >= 1 else [_at_least_one("num_classes", num_classes)]
    problems += [
        _at_least_one(key, value) for key, value in settings.items() if key.endswith("_channels") and value < 1
    ]
    dropout = settings.get("dropout", 0.0)
    if not 0 <= dropout < 1:
        problems.append(OptionProblem("dropout", dropout, "dropout is from 0 to below 1", "Use 0.1."))
    for key in settings.keys() - set(known):
        nearest = nearest_name(key, known)
        remedy = f"Did you mean {nearest!r}?" if nearest else f"Its settings: {', '.join(known)}."
        raise UnknownOptionError([OptionProblem(key, settings[key], f"{name} has no such setting", remedy)], model=name)
    if problems:
        raise ModelOptionError(problems, model=name)
    maps = create_backbone(backbone)
    if name == "semantic_fpn":
        head = make(maps.channels, maps.reductions, num_classes, **settings)
    else:
        head = make(maps.channels, num_classes, **settings)
    second = None
    if name == "upernet" if auxiliary is None else auxiliary:
        norm = settings.get("norm", "batchnorm")
        second = AuxiliaryHead(maps.channels[max(0, len(maps.channels) - 2)], num_classes, norm=norm)
    return Segmentor(maps, head, num_classes, auxiliary=second, auxiliary_weight=auxiliary_weight)


def _at_least_one(name: str, given: int) -> OptionProblem:
    return OptionProblem(name, given, f"{name} is at least 1", "Use 1 or more.")
