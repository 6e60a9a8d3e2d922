"""Settings of a backbone, and those with which the authors of our families use theirs in detection and segmentation.

Sources: the detection and segmentation code of Ma et al. 2022 (FCViT) and of Yang et al. 2021 (LESA); the other papers
publish no such settings.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from models.common.image_size import IMG_SIZE
from models.common.options import ModelOptionError, OptionProblem, nearest_name
from models.registry.catalogue import model_family, model_options

__all__ = ["NORM_MODES", "OUTPUT_NORMS", "BackboneSettings", "backbone_settings"]

NORM_MODES = ("train", "eval", "frozen")
OUTPUT_NORMS = ("none", "groupnorm1")
IMAGE_SIZE_REMEDY = "Give the size of the images that the detector reads, as img_size, such as 1024"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """Network and its form as a backbone.

    Args:
        name: Name of a network of this package or of timm.
        options: Keywords of the network.
        in_chans: Channels of the images.
        out_indices: Stages whose maps are returned, by index from 0; the last four, or all of a network with fewer,
            when left out.
        frozen_stages: Stages of those returned, from the first, that are not trained; with one or more, everything
            ahead of them is not trained either.
        norm: Batch norms: `train` for statistics of the batch, `eval` for the running ones, `frozen` for running ones
            and fixed scales and shifts.
        output_norm: Norm of each map that is returned: `none`, or `groupnorm1`, over all channels and positions of
            an image.
        recompute: True to compute blocks again in the backward pass instead of keeping them.

    Raises:
        ModelOptionError: A setting has no such value.
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    in_chans: int = 3
    out_indices: Sequence[int] | None = None
    frozen_stages: int = 0
    norm: str = "train"
    output_norm: str = "none"
    recompute: bool = False

    def __post_init__(self) -> None:
        problems = []
        for setting, known in (("norm", NORM_MODES), ("output_norm", OUTPUT_NORMS)):
            given = getattr(self, setting)
            if given not in known:
                nearest = nearest_name(str(given), known) or known[0]
                rule = f"{setting} is one of {', '.join(map(repr, known))}"
                problems.append(OptionProblem(setting, given, rule, f"Use {nearest!r}."))
        if self.frozen_stages < 0:
            problems.append(
                OptionProblem("frozen_stages", self.frozen_stages, "frozen_stages is at least 0", "Use 0 for none.")
            )
        if problems:
            raise ModelOptionError(problems, model=self.name)


def backbone_settings(name: str, *, img_size: int | tuple[int, int] | None = None, **changes: Any) -> BackboneSettings:
    """Return the settings with which the authors of a network use it as a backbone.

    FCViT has a norm on each map, a first layer scale of 1e-6, no stochastic depth, and is trained as a whole. LESA
    halves its last map, attends in the first block of the last stage to the map ahead of that, deforms the 3x3
    convolutions of its last three stages, has positions on rows and columns, computes its terms again in the backward
    pass, and has its first stage frozen and its norms in evaluation mode. Other networks have their defaults.

    Args:
        name: Name of a network of this package or of timm.
        img_size: Side of the padded images in pixels, or height and width; networks with the option `img_size` are
            built for it.
        changes: Fields of `BackboneSettings` in place of the authors'; `options` are added to theirs.

    Raises:
        ModelOptionError: There is no such network, or a setting has no such value.
    """
    family = model_family(name)
    fields: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if family == "fcvit":
        fields = {"output_norm": "groupnorm1"}
        options = {"layer_scale_init": 1e-6, "drop_path_rate": 0.0}
    elif family == "lesa":
        fields = {"frozen_stages": 1, "norm": "eval"}
        options = {
            "last_stride": 2,
            "lesa_before_stride": True,
            "position_embedding": "detection",
            "recompute_terms": True,
        }
        if name.startswith("lesa_"):
            options["deformable_stages"] = (False, True, True, True)
    if img_size is not None and IMG_SIZE in model_options(name):
        options[IMG_SIZE] = img_size
    options |= dict(changes.pop("options", {}))
    return BackboneSettings(name=name, **{**fields, **changes, "options": options})
