"""Private names of Ray Tune (2.60), for annotations: methods of its schedulers are given the controller."""

from __future__ import annotations

from ray.tune.execution.tune_controller import TuneController

__all__ = ["TuneController"]
