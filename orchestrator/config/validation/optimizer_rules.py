"""Rules that join the learning rate schedule, the optimiser and the clipping with each other.

They concern a sweep as a whole: a setting of a schedule is in order when any of the searched schedules uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.config.searched_values import Setting
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.validation.pydantic_problems import unknown
from orchestrator.errors import Problem

_OWNERS = {
    "anneal_epochs": ("cosine", "poly"),
    "poly_power": ("poly",),
    "decay_epochs": ("step",),
    "plateau_patience": ("plateau",),
}
"""Settings of only some schedules, which others reject."""


def optimizer_name_problems(where: str, names: Iterable[str]) -> Iterator[Problem]:
    """Yield optimisers that timm does not have, or that need second derivatives, which no step computes.

    Args:
        where: Setting that names them.
        names: Names of optimisers.
    """
    from timm.optim import get_optimizer_info, list_optimizers

    for name in names:
        if name not in list_optimizers():
            yield unknown(where, name, list_optimizers())
        elif get_optimizer_info(name).second_order:
            yield Problem(where, f"got {name}; it needs second derivatives, which are not computed. Use adamw")


def optimizer_problems(training: TrainingConfig, search: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield settings of the optimiser step that do not go together.

    Args:
        training: Section `training`, the fixed values.
        search: Searched domains by name.
    """

    def setting(name: str) -> Setting:
        return Setting.of(name, training, search)

    shapes = setting("lr_schedule").values
    for name, owners in _OWNERS.items():
        yield from _owner_problems(setting(name), name, owners, shapes)
    milestones = setting("decay_milestones")
    for points in milestones.values:
        if points and isinstance(points, tuple) and "multistep" not in shapes:
            yield Problem(
                milestones.where, f"got {list(points)}; only multistep has some. Add training.lr_schedule: multistep"
            )
    yield from _warmup_problems(setting("warmup_steps"), setting("warmup_epochs"), setting("lr_per"))
    yield from _betas_problems(setting("betas"), setting("optimizer").values)
    norm, factor = setting("clip_grad_norm"), setting("agc_factor")
    if None not in norm.values and None not in factor.values:
        yield Problem(
            factor.where, f"got {factor.values[0]}; {norm.where} clips the same gradients. Leave one of them out"
        )


def _owner_problems(setting: Setting, name: str, owners: tuple[str, ...], shapes: tuple[Any, ...]) -> Iterator[Problem]:
    usual = TrainingConfig.model_fields[name].default
    given = [value for value in setting.values if value != usual]
    if given and not set(owners) & set(shapes):
        listed = " and ".join([", ".join(owners[:-1]), owners[-1]] if len(owners) > 1 else owners)
        yield Problem(
            setting.where,
            f"got {given[0]}; it is a setting of {listed}, not of {shapes[0]}. Add training.lr_schedule: {owners[0]}, "
            "or leave it out",
        )


def _warmup_problems(steps: Setting, epochs: Setting, per: Setting) -> Iterator[Problem]:
    """Check that a warm-up has one length, and a rate for each of its steps where it is counted in steps."""
    given = [value for value in steps.values if value is not None]
    if not given:
        return
    usual = TrainingConfig.model_fields["warmup_epochs"].default
    if epochs.values != (usual,):
        yield Problem(steps.where, f"got {given[0]}; {epochs.where} sets the warm-up as well. Leave one of them out")
    if "epoch" in per.values:
        yield Problem(
            steps.where,
            f"got {given[0]}; {per.where} is epoch, and the rate of an epoch is that of its first step. Use "
            "training.lr_per: step, or training.warmup_epochs",
        )


def _betas_problems(betas: Setting, optimizers: tuple[Any, ...]) -> Iterator[Problem]:
    from timm.optim import get_optimizer_info, list_optimizers

    known = [get_optimizer_info(name) for name in optimizers if name in list_optimizers()]
    having = [info for info in known if info.has_betas]
    for given in betas.values:
        if not isinstance(given, tuple) or not known:
            continue  # None, or a problem that another rule reports
        shown = f"got {list(given)}"
        if not having:
            yield Problem(
                betas.where, f"{shown}; {known[0].name} has none. Use training.optimizer: adamw, or leave them out"
            )
        for info in having:
            if len(given) != info.num_betas:
                yield Problem(betas.where, f"{shown}; {info.name} has {info.num_betas}. Write {info.num_betas} numbers")
