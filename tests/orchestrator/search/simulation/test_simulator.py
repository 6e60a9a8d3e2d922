"""Simulated sweeps whose course is worked out by hand, and whose trials reach the sampler as in a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from orchestrator.search.allocation.allocator import AllocationSetting, Allocator, Feasibility, Propose, Resume, Scores
from orchestrator.search.simulation.curves import Curve, ListedCurves
from orchestrator.search.simulation.simulator import SimulationSetting, simulate
from search_spaces import SearchSpace
from search_spaces.domains import ChoiceDomain, FloatDomain

SPACE = SearchSpace({"x": FloatDomain(low=0.0, high=1.0)})


class Script(Allocator):
    """Allocator that pauses each trial after the given epochs and takes its decisions from a list."""

    def __init__(self, trials: int, pauses: Mapping[int, int], decisions: Sequence[Resume | Propose | None]) -> None:
        super().__init__(AllocationSetting(trials, 3))
        self.pauses, self.decisions = dict(pauses), list(decisions)
        self.calls: list[Any] = []

    def start(self, number: int, params: Mapping[str, Any]) -> None:
        self.calls.append(("start", number))

    def report(
        self,
        number: int,
        epoch: int,
        scores: Scores,
        seconds: float,
        feasibility: Feasibility = Feasibility.FEASIBLE,
    ) -> bool:
        self.calls.append(("report", number, epoch, scores[0]))
        return self.pauses.get(number) != epoch

    def pause(self, number: int, resume_epoch: int) -> None:
        self.pauses.pop(number, None)
        self.calls.append(("pause", number, resume_epoch))

    def end(self, number: int) -> None:
        self.calls.append(("end", number))

    def next_trial(self, proposed: int) -> Resume | Propose | None:
        return self.decisions.pop(0)

    @property
    def is_finished(self) -> bool:
        return not self.decisions


def listed(*curves: Curve, max_epochs: int | None = None) -> ListedCurves:
    return ListedCurves(SPACE, [{"x": number / 10} for number in range(len(curves))], curves, max_epochs)


def first(*xs: float, **setting: Any) -> SimulationSetting:
    return SimulationSetting(try_first=[{"x": x} for x in xs], start_s=0.5, **setting)


def test_a_trial_pauses_and_another_lane_waits_for_it() -> None:
    table = listed(Curve.of([1, 5, 6], 1.0), Curve.of([2, 3, 4], 2.0))
    rule = Script(2, {0: 1}, [Propose(), Propose(), None, Resume(0)])
    trace = simulate(table, RandomSampler(), rule, first(0.0, 0.1, lanes=2))
    assert [(point.seconds, point.trial, point.epoch, point.incumbent) for point in trace.points] == [
        (1.5, 0, 1, 1.0),
        (2.5, 1, 1, 2.0),
        (4.0, 0, 2, 5.0),  # paused at 1.5, resumed at 2.5 when trial 1 reports, half a second to resume
        (4.5, 1, 2, 5.0),
        (5.0, 0, 3, 6.0),
        (6.5, 1, 3, 6.0),
    ]
    assert trace.idle_s == pytest.approx(1.0 + 1.5)
    assert (trace.resumes, trace.best, trace.best_trial, trace.epochs) == (1, 6.0, 0, 6)
    assert (trace.epochs_to(5.0), trace.seconds_to(5.0), trace.epochs_to(7.0)) == (3, 4.0, math.inf)
    assert (trace.best_after(2), trace.best_at(3.9), trace.best_at(0.1)) == (2.0, 2.0, -math.inf)
    assert trace.counts() == {"finished": 2}


def test_a_lost_checkpoint_costs_its_epochs_again() -> None:
    table = listed(Curve.of([1, 2, 3]), Curve.of([4, 5, 6]))
    rule = Script(2, {0: 2, 1: 1}, [Propose(), Propose(), Resume(0)])
    trace = simulate(table, RandomSampler(), rule, first(0.0, 0.1, checkpoints=1))
    assert rule.calls[5:8] == [("report", 1, 1, 4.0), ("pause", 1, 1), ("pause", 0, 0)]
    assert [(point.trial, point.epoch, point.is_repeated) for point in trace.points[3:]] == [
        (0, 1, True),
        (0, 2, True),
        (0, 3, False),
    ]
    assert trace.counts() == {"finished": 1, "pruned": 1}


def test_a_curve_that_ends_early_diverged_or_was_cut() -> None:
    table = listed(Curve.of([1, math.nan]), Curve.of([2], is_cut=True), Curve.of([3], is_cut=True), Curve.of([1, 2, 3]))
    rule = Script(4, {2: 1}, [Propose()] * 4)
    trace = simulate(table, RandomSampler(), rule, first(0.0, 0.1, 0.2, 0.3))
    assert {number: str(status) for number, status in trace.statuses.items()} == {
        0: "diverged",
        1: "pruned",
        2: "pruned",
        3: "finished",
    }
    assert trace.cut == {1}  # the rule would have paused trial 2 there anyway
    assert trace.points[1].scores == (-math.inf,)


def test_limits_end_the_sweep() -> None:
    table = listed(*[Curve.of([1, 2, 3])] * 4)
    by_epochs = simulate(table, RandomSampler(), Script(4, {}, [Propose()] * 4), SimulationSetting(epochs=4))
    assert by_epochs.epochs == 4
    assert by_epochs.counts() == {"finished": 1, "pruned": 1}
    by_time = simulate(table, RandomSampler(), Script(4, {}, [Propose()] * 4), first(seconds=3.5))
    assert by_time.seconds == 3.5


def test_a_sampler_learns_about_paused_trials_and_about_the_values_that_were_trained() -> None:
    seen: list[list[optuna.trial.FrozenTrial]] = []

    class Looking(RandomSampler):
        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            seen.append([other for other in study.get_trials() if other.number != trial.number])
            return super().sample_independent(study, trial, param_name, param_distribution)

    table = listed(Curve.of([1, 2, 3]), Curve.of([4, 5, 6]), Curve.of([7, 8, 9]))
    rule = Script(3, {0: 2}, [Propose(), Propose(), Propose()])
    simulate(table, Looking(seed=1), rule, first(0.04, 0.12))
    assert [trial.params for trial in seen[0]] == [{"x": 0.0}, {"x": 0.1}]
    assert seen[0][0].user_attrs == {"paused_at": 2}
    assert seen[0][0].intermediate_values == {1: 1.0, 2: 2.0}
    assert (seen[0][1].state, seen[0][1].value) == (TrialState.COMPLETE, 6.0)


def test_each_listed_configuration_is_drawn_once() -> None:
    space = SearchSpace(
        {
            "kind": ChoiceDomain(choices=("a", "b")),
            "x": FloatDomain(low=1e-3, high=1.0, log=True, when={"kind": "b"}),
        }
    )
    configurations: list[dict[str, Any]] = [{"kind": "a"}, *({"kind": "b", "x": 10.0**-power} for power in range(4))]
    curves = [Curve.of([number]) for number in range(5)]
    table = ListedCurves(space, configurations, curves)
    for _ in range(2):
        trace = simulate(table, RandomSampler(seed=3), Script(5, {}, [Propose()] * 5))
        assert sorted(point.scores[0] for point in trace.points) == [0, 1, 2, 3, 4]
    near = [{"kind": "b", "x": 0.04}, {"kind": "b", "x": 0.03}]
    trace = simulate(table, RandomSampler(), Script(2, {}, [Propose()] * 2), SimulationSetting(try_first=near))
    assert [point.scores[0] for point in trace.points] == [2, 3]  # the second is nearest to 0.1 on the log scale, taken


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"lanes": 0}, "lanes: got 0"), ({"start_s": -1.0}, "start_s: got -1"), ({"epochs": -2}, "epochs: got -2")],
)
def test_impossible_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulationSetting(**setting)


def test_a_table_that_is_too_small_or_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3; the table has 1 configurations"):
        simulate(listed(Curve.of([1])), RandomSampler(), Script(3, {}, []))
    with pytest.raises(ValueError, match=r"configuration 0: x: got 2\.0; is outside its domain"):
        ListedCurves(SPACE, [{"x": 2.0}], [Curve.of([1])])
    with pytest.raises(ValueError, match="2 epochs and 1 durations"):
        Curve([(1.0,), (2.0,)], [1.0])
