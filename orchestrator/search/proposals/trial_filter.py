"""Filter of configurations that are not worth a trial.

It rejects options that do not go together, parts larger than the map they work on, and networks beyond the limits of
the sweep. A sweep file is checked value by value when it is loaded; here whole configurations are.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.config.fixed_settings import CHECKPOINT
from orchestrator.config.plans import SearchPlan
from orchestrator.config.tasks.networks import facts_of_images, option_problems
from orchestrator.config.tasks.registry import task_facts
from orchestrator.config.trial import TrialConfig
from orchestrator.config.validation.search_rules import crop_fault
from orchestrator.config.validation.training_rules import augmentation_problems, training_problems
from orchestrator.data.datasets import DatasetFacts
from search_spaces import setting_of

if TYPE_CHECKING:
    from models import ModelCost

_STEM = ("stem", "stem_stride")
_SIZED = ("pooled_size", "max_span", "kernel_size", "kernel_size_1", "kernel_size_2")


class Rejection(NamedTuple):
    """Reason why a configuration is not worth a trial.

    Args:
        rule: Setting or limit that it breaks.
        text: Given value and the rule in words.
        counted: Number compared with a limit; None for other rules.
    """

    rule: str
    text: str
    counted: int | None = None


class TrialFilter:
    """Filter of the configurations of one sweep.

    Args:
        plan: Search plan of the sweep.
        facts: Facts about its dataset; None looks them up.

    Raises:
        DataError: The dataset is not there.
    """

    def __init__(self, plan: SearchPlan, facts: DatasetFacts | None = None) -> None:
        self._facts = facts or facts_of_images(plan.dataset, plan.task)
        self._limits = plan.limits
        self._initial_weights = plan.initial_weights
        self._workers = plan.workers
        self._fit_faults: dict[str, str] = {}
        self._searched = {setting_of(name) for name in plan.searched}

    def rejection(self, trial: TrialConfig) -> Rejection | None:
        """Return why a configuration is not worth a trial; None where it is."""
        return next(self._rejections(trial), None)

    def cost_of(self, trial: TrialConfig) -> ModelCost:
        """Return parameters and multiply-accumulates of a network on the images of the sweep."""
        from orchestrator.training.checkpoints.checkpoints import describe_network
        from orchestrator.training.tasks.registry import find_task

        description = describe_network(trial.model, **_shape(self._facts), task=trial.task)
        return find_task(trial.task).model_cost(description)

    def _rejections(self, trial: TrialConfig) -> Iterator[Rejection]:
        """Yield the broken rules, cheap ones first: the caller stops at the first."""
        shape = _shape(self._facts)
        for fault in option_problems(trial.task, trial.model.name, trial.model.options, **shape):
            yield Rejection(fault.option, f"got {fault.given!r} for {trial.model.name}; {fault.rule}")
        yield from self._weights_rejections(trial)
        yield from self._training_rejections(trial)
        yield from self._map_rejections(trial)
        yield from self._limit_rejections(trial)

    def _weights_rejections(self, trial: TrialConfig) -> Iterator[Rejection]:
        """Yield the rejection of a network that its checkpoint is not of, because of a searched option."""
        weights = self._initial_weights.get((str(trial.model.checkpoint), trial.model.name))
        if weights is None:
            return
        from orchestrator.training.checkpoints.checkpoints import describe_network
        from orchestrator.training.checkpoints.initial_weights import fit_fault

        description = describe_network(trial.model, **_shape(self._facts), task=trial.task)
        key = json.dumps([weights.name, description], sort_keys=True, default=str)
        if key not in self._fit_faults:
            self._fit_faults[key] = fit_fault(description, weights.shapes)[0]
        if fault := self._fit_faults[key]:
            lines = " ".join(line.strip() for line in fault.splitlines()[:2])
            yield Rejection(CHECKPOINT, f"got {trial.model.checkpoint!r} for {trial.model.name}; {lines}")

    def _training_rejections(self, trial: TrialConfig) -> Iterator[Rejection]:
        for problem in training_problems(trial.training, {}, self._workers, task=task_facts(trial.task)):
            yield Rejection(problem.where.removeprefix("training."), problem.message)
        for problem in augmentation_problems(trial.training, {}, self._facts):
            yield Rejection(problem.where.removeprefix("training."), problem.message)
        crop = trial.training.crop_px
        if crop is not None and (fault := crop_fault(trial.model.name, crop, self._facts.image_size)):
            yield Rejection("crop_px", fault)

    def _map_rejections(self, trial: TrialConfig) -> Iterator[Rejection]:
        """Yield searched sizes beyond the largest map; a size that the user fixed is accepted."""
        import models

        model, facts = trial.model, self._facts
        if model.name not in models.list_models():
            return  # what a keyword of another network means is not known
        sized = [name for name in _SIZED if name in model.options and name in self._searched]
        if not sized:
            return
        stem = tuple((name, model.options[name]) for name in _STEM if name in model.options)
        side = _map_side(model.name, stem, facts.image_size, facts.in_chans)
        for name in sized:
            given, most = model.options[name], _largest(name, side, model.name)
            if isinstance(given, int) and given > most:
                rule = f"its largest map is {side} x {side}, where {name} above {most} changes nothing"
                yield Rejection(name, f"got {given} for {model.name}; {rule}")

    def _limit_rejections(self, trial: TrialConfig) -> Iterator[Rejection]:
        limits, name = self._limits, trial.model.name
        if limits.max_params is not None and (given := self._params_of(trial)) > limits.max_params:
            text = f"{name} has {given:,}; limits.max_params is {limits.max_params:,.0f}"
            yield Rejection("max_params", text, given)
        if limits.max_macs is not None and (given := self.cost_of(trial).macs) > limits.max_macs:
            yield Rejection("max_macs", f"{name} has {given:,}; limits.max_macs is {limits.max_macs:,.0f}", given)

    def _params_of(self, trial: TrialConfig) -> int:
        from orchestrator.training.checkpoints.checkpoints import describe_network
        from orchestrator.training.tasks.registry import find_task

        if self._limits.max_macs is not None:  # counted in any case
            return self.cost_of(trial).params
        return find_task(trial.task).model_params(describe_network(trial.model, **_shape(self._facts), task=trial.task))


def _shape(facts: DatasetFacts) -> dict[str, int]:
    return {"num_classes": facts.num_classes, "in_chans": facts.in_chans, "image_size": facts.image_size}


@functools.lru_cache
def _map_side(name: str, stem: tuple[tuple[str, Any], ...], image_size: int, in_chans: int) -> int:
    import models

    return models.first_map_side(name, dict(stem), image_size=image_size, in_chans=in_chans)


def _largest(name: str, side: int, model: str) -> int:
    """Return the largest value of a size that still makes a difference at a map of this side."""
    import models

    if name == "pooled_size":
        return side
    if name == "max_span":
        return side - 1
    is_cut_to_map = "img_size" in models.model_options(model)
    return side if is_cut_to_map else 2 * side - 1
