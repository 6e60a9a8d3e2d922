"""Private names of Ray Tune (2.60): the controller that its schedulers are given, and the start of trial actors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.air._internal import usage
from ray.exceptions import ActorDiedError
from ray.tune.execution import experiment_state, tune_controller
from ray.tune.execution.class_cache import _ActorClassCache
from ray.tune.execution.tune_controller import TuneController

__all__ = [
    "TuneController",
    "direct_trial_actors",
    "without_count_of_callbacks",
    "without_experiment_state",
    "without_loss_of_node",
]


class _DirectActors(_ActorClassCache):
    """Classes of trial actors without a runtime environment, for which Ray would start each process twice."""

    def get(self, trainable_cls: Any) -> Any:
        """Return the class as one of actors; it is registered once."""
        if trainable_cls not in self._cache:
            self._cache[trainable_cls] = ray.remote(trainable_cls)
        return self._cache[trainable_cls]


class _ControllerWithoutState(TuneController):
    """Controller that writes the state of an experiment once, at its end, and without the trials."""

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        if force:
            super().checkpoint(force=force, wait=wait)

    def _get_trial_checkpoints(self) -> dict[str, str]:
        return {}


def _is_not_of_lost_node(record: logging.LogRecord) -> bool:
    """Return whether a record is about something else than trial actors whose owner is lost, which is this process."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, ActorDiedError) and "its owner has died" in str(error))


@contextmanager
def without_loss_of_node() -> Iterator[None]:
    """Have Tune log no traceback for each running trial when Ray has lost the node of this process.

    The driver notices the loss itself, and ends with an error that says how to resume.
    """
    tune_controller.logger.addFilter(_is_not_of_lost_node)
    try:
        yield
    finally:
        tune_controller.logger.removeFilter(_is_not_of_lost_node)


@contextmanager
def direct_trial_actors() -> Iterator[None]:
    """Have experiments that begin within the context start their trial actors without variables of their own.

    Tune sets `RAY_CHDIR_TO_TRIAL_DIR` and credentials of AWS; `TrialClient` sets the former and needs no other.
    """
    names = vars(tune_controller)
    before, names["_ActorClassCache"] = names["_ActorClassCache"], _DirectActors
    try:
        yield
    finally:
        names["_ActorClassCache"] = before


@contextmanager
def without_count_of_callbacks() -> Iterator[None]:
    """Have experiments that begin within the context not count their callbacks for Ray's usage statistics.

    To tell its own kinds of callbacks, Ray imports MLflow for it: a second of processor time before the first trial.
    """
    names = vars(usage)
    before, names["_count_callbacks"] = names["_count_callbacks"], lambda _: {}
    try:
        yield
    finally:
        names["_count_callbacks"] = before


@contextmanager
def without_experiment_state() -> Iterator[None]:
    """Have experiments that begin within the context write their state once, at their end, and without the trials.

    Tune would write it again and again, for a longer time the more trials there are; a sweep resumes from its journal.
    On a full disk the state is not written, and Tune logs no traceback about it.
    """
    names, log = vars(sys.modules["ray.tune.tune"]), logging.getLogger(experiment_state.__name__)
    before, names["TuneController"] = names["TuneController"], _ControllerWithoutState
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        names["TuneController"] = before
