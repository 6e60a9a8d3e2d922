"""Maps of the stages of a network, for the heads of detectors and segmentors.

timm's `features_only` gives the maps; here come the norms of the maps, stages that are not trained, batch norms that
stay in evaluation mode, and padding of images of different sizes.
"""

from typing import Any

import timm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.backbones.head_options import build_on_meta
from models.backbones.settings import BackboneSettings, backbone_settings
from models.common.options import ModelOptionError, OptionProblem
from models.common.weight_decay import declared_without_decay
from models.padding import MapNorm, PaddingRecord, share_padding
from models.registry.catalogue import model_family
from models.registry.outside.network import name_problem
from models.registry.recomputation import recompute_blocks

__all__ = ["StageMaps", "create_backbone"]

MOST_MAPS = 4


class StageMaps(nn.Module):
    """Network that returns the maps of its stages, from the first to the last.

    Shape: x (B, in_chans, H, W) -> one (B, channels[i], H / reductions[i], W / reductions[i]) for each map.

    Args:
        settings: Network and its form.

    Attributes:
        body: Network of timm's `features_only`.
        norms: Norm of each map, without parameters where there is none.
        channels: Channels of each map.
        reductions: Side of the images over that of each map.
        padding: Padding of the present batch, which the layers that read a whole map leave out.

    Raises:
        ModelOptionError: The network cannot be built with these options, or has no maps of stages.
    """

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        self.settings = settings
        self.body = _features_only(settings)
        info: Any = self.body.feature_info
        self.channels: list[int] = info.channels()
        self.reductions: list[int] = info.reduction()
        is_normed = settings.output_norm == "groupnorm1"
        self.norms = nn.ModuleList([MapNorm(1, chs) for chs in self.channels] if is_normed else [])
        self.padding = PaddingRecord()
        share_padding(self, self.padding)
        self._freeze()
        if settings.recompute and not recompute_blocks(getattr(self.body, "model", self.body)):
            rule = f"{settings.name} cannot compute its blocks again in the backward pass"
            raise ModelOptionError([OptionProblem("recompute", True, rule, "Leave it out.")], model=settings.name)
        self.train(self.training)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the maps."""
        self.padding.drop_unless_of(x)
        maps: list[Tensor] = self.body(x)
        return [norm(y) for norm, y in zip(self.norms, maps, strict=True)] if self.norms else maps

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay, as the network and its layers declare them."""
        parameters = {name for name, _ in self.named_parameters()}
        of_network = {f"body.{each}" for name in self._of_whole_network() for each in (name, name.replace(".", "_", 1))}
        return declared_without_decay(self) | (of_network & parameters)

    def _of_whole_network(self) -> set[str]:
        """Return what the network declares as a whole, which timm takes apart for its maps unless it keeps it."""
        if hasattr(self.body, "model"):
            return set()
        whole = build_on_meta(lambda: timm.create_model(self.settings.name, **_options(self.settings)))
        declare = getattr(whole, "no_weight_decay", None)
        return set(declare()) if callable(declare) else set()

    def train(self, mode: bool = True) -> "StageMaps":
        """Switch to training or evaluation mode, but for frozen stages and norms in evaluation mode."""
        super().train(mode)
        for module in self.body.modules():
            parameters = list(module.parameters())
            is_frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
            if is_frozen or (isinstance(module, _BatchNorm) and self.settings.norm != "train"):
                module.eval()
        return self

    def _freeze(self) -> None:
        """Exclude stages and, with `norm: frozen`, scales and shifts of the batch norms from training."""
        if self.settings.norm == "frozen":
            for module in self.body.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)
        count = self.settings.frozen_stages
        if not count:
            return
        if count > len(self.channels):
            rule = f"the backbone returns {len(self.channels)} maps"
            problem = OptionProblem("frozen_stages", count, rule, f"Use {len(self.channels)} for all of it.")
            raise ModelOptionError([problem], model=self.settings.name)
        named = list(self.body.named_parameters())
        info: Any = self.body.feature_info
        stage: str = info.module_name()[count - 1]
        prefixes = tuple(f"{lead}{name}." for lead in ("", "model.") for name in (stage, stage.replace(".", "_", 1)))
        last = max((place for place, (name, _) in enumerate(named) if name.startswith(prefixes)), default=None)
        if last is None:
            rule = f"stage {stage!r} has no parameters of its own here"
            raise ModelOptionError([OptionProblem("frozen_stages", count, rule, "Use 0.")], model=self.settings.name)
        for _, parameter in named[: last + 1]:
            parameter.requires_grad_(False)


def create_backbone(backbone: str | BackboneSettings, **changes: Any) -> StageMaps:
    """Build a backbone with random weights.

    Args:
        backbone: Name of a network, for the settings of its authors (`backbone_settings`), or settings.
        changes: Keywords of `backbone_settings`, with a name.

    Raises:
        ModelOptionError: The network cannot be built with these options, or has no maps of stages.
    """
    return StageMaps(backbone_settings(backbone, **changes) if isinstance(backbone, str) else backbone)


def _features_only(settings: BackboneSettings) -> nn.Module:
    """Build the network of timm's `features_only` with the maps that the settings choose."""
    name = settings.name
    problem = name_problem(name)
    if problem is None and model_family(name) == "file":
        rule = "a backbone is a network of this package or of timm"
        problem = OptionProblem("name", name, rule, "Register the class of the file with timm.")
    if problem is not None:
        raise ModelOptionError([problem], model=name)
    chosen = _options(settings)
    try:
        network: nn.Module = timm.create_model(name, features_only=True, **chosen)
        info: Any = network.feature_info
        available = len(info.channels())
        wanted = settings.out_indices
        indices = tuple(range(max(0, available - MOST_MAPS), available)) if wanted is None else tuple(wanted)
        if not indices or any(not 0 <= index < available for index in indices) or sorted(set(indices)) != [*indices]:
            rule = f"out_indices are ascending indices of the {available} maps of {name}, from 0"
            problem = OptionProblem("out_indices", wanted, rule, f"Use {tuple(range(available))}.")
            raise ModelOptionError([problem], model=name)
        if len(indices) == available:
            return network
        network = timm.create_model(name, features_only=True, out_indices=indices, **chosen)
    except ModelOptionError:
        raise
    except (RuntimeError, AttributeError, TypeError, ValueError, AssertionError) as error:  # of networks of timm
        rule = f"timm makes no backbone of it: {type(error).__name__}: {error}"
        raise ModelOptionError([OptionProblem("name", name, rule, "Use another network.")], model=name) from error
    return network


def _options(settings: BackboneSettings) -> dict[str, Any]:
    return {"in_chans": settings.in_chans, **settings.options}
