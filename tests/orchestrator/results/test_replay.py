"""Replays of stored sweeps: results and costs worked out by hand, and the limits of recorded curves."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import replay_sweep
from orchestrator.cli.main import app
from orchestrator.errors import ConfigError
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.results.replay import lanes_used
from tests.support.sweeps.fake_sweeps import write_sweep

FINISHED, PRUNED = TrialStatus.FINISHED, TrialStatus.PRUNED
RISING = [(FINISHED, [0.1 * number, 0.1 * number + 0.05, 0.1 * number + 0.08]) for number in range(9)]
TRAINING = {"epochs": 3}
SCHEDULER = {"name": "none", "grace_epochs": 1}


def test_a_replay_has_the_lanes_of_the_sweep_though_the_spans_of_paused_trials_overlap(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s", {}, {}, {})
        for number in (0, 1):
            ledger.trial_started(number, str(number), {}, {"training": {"epochs": 2}})
            ledger.trial_reported(number, 1, {"val/top1": 0.5}, held_s=1.0, lane=0)
            ledger.trial_paused(number, 1)
        assert lanes_used(journal.path) == 1
        ledger.trial_resumed(0, "2")
        ledger.trial_reported(0, 2, {"val/top1": 0.6}, held_s=1.0, lane=1)
        assert lanes_used(journal.path) == 2


def test_without_early_stopping_a_replay_trains_all_recorded_epochs(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", RISING, training=TRAINING, trial_scheduler=SCHEDULER)
    replay = replay_sweep("s", "random", lanes=2, seeds=2, runs_dir=tmp_path)
    assert (replay.sampler, replay.trial_scheduler, replay.configurations) == ("random", "none", 9)
    assert (replay.recorded.best, replay.recorded.trial, replay.recorded.epochs) == (pytest.approx(0.88), 8, 27)
    assert replay.recorded.lane_s == pytest.approx(270, rel=0.1)
    for each in replay.replays:
        assert (each.found.best, each.found.trial, each.found.epochs) == (pytest.approx(0.88), 8, 27)
        assert each.found.lane_s == pytest.approx(27 * 10 + 9 * 0.15)  # 10 s an epoch, 0.15 s to begin
        assert each.found.wall_s == pytest.approx(5 * 30 + 5 * 0.15)  # five of the nine trials on one lane
        assert (each.cut, each.trials) == (0, {"finished": 9})
    assert replay.found_recorded_best == 2
    assert replay.cut_share == 0.0
    assert replay.replays[0].epochs_to_recorded_best != replay.replays[1].epochs_to_recorded_best


def test_promotion_uses_fewer_epochs_and_finds_the_same(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", RISING, training=TRAINING, trial_scheduler=SCHEDULER)
    for strategy in ("random+asha", "pasha", "auto", "tpe+asha_stopping"):
        replay = replay_sweep("s", strategy, lanes=1, seeds=8, runs_dir=tmp_path)
        assert all(each.found.epochs < 27 for each in replay.replays), strategy
        if strategy != "tpe+asha_stopping":
            assert replay.found_recorded_best >= 4, strategy  # with a third of the epochs


def test_trials_that_would_be_trained_further_are_counted(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", [(PRUNED, [0.5]), (FINISHED, [0.4, 0.5, 0.6])], training=TRAINING)
    replay = replay_sweep("s", "none", seeds=1, runs_dir=tmp_path)
    each = replay.replays[0]
    assert (replay.partial, each.cut, replay.cut_share, each.found.epochs) == (1, 1, 0.5, 4)
    assert each.trials == {"pruned": 1, "finished": 1}


def test_a_loss_is_minimised_and_trials_without_reports_are_left_out(tmp_path: Path) -> None:
    trials = [(FINISHED, [0.9, 0.2, 0.3]), (TrialStatus.FAILED, []), (FINISHED, [0.5, 0.4, 0.35])]
    objective = {"metric": "val/loss", "mode": "min"}
    write_sweep(tmp_path, "s", trials, training=TRAINING, objective=objective, trial_scheduler=SCHEDULER)
    replay = replay_sweep("s", "random", seeds=1, runs_dir=tmp_path)
    assert (replay.replays[0].found.best, replay.replays[0].found.trial, replay.left_out) == (0.2, 0, 1)


def test_repeats_with_other_seeds_are_not_compared_with(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", [(FINISHED, [0.7, 0.8]), (FINISHED, [0.8, 0.9])], ended=None, training={"epochs": 2})
    with Journal(tmp_path / "s" / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        for number, repeated, value in ((2, 1, 0.93), (3, 0, 0.79)):
            first = ledger.trial(repeated)
            ledger.trial_started(number, f"tune{number}", first.params, first.config, repeats=repeated, replicate=1)
            for epoch in (1, 2):
                ledger.trial_reported(number, epoch, {"val/top1": value}, held_s=10.0 * epoch, lane=0)
            ledger.trial_ended(number, FINISHED)
        ledger.sweep_ended(FINISHED, {}, [])
    replay = replay_sweep("s", "random+none", lanes=1, seeds=2, runs_dir=tmp_path)
    assert (replay.recorded.best, replay.recorded.trial, replay.recorded.epochs) == (0.9, 1, 4)
    assert replay.recorded.lane_s == pytest.approx(40, rel=0.1)
    assert replay.recorded.wall_s is None
    assert (replay.configurations, replay.left_out, replay.repeats, replay.found_recorded_best) == (2, 0, 2, 2)
    command = ["replay", "s", "--strategy", "random+none", "--seeds", "1", "--runs-dir", str(tmp_path)]
    shown = CliRunner().invoke(app, command).output
    assert "not found" not in shown
    assert (
        "The 2 trials with other seeds are not counted; how long the sweep took without them is not recorded" in shown
    )


@pytest.mark.parametrize(
    ("strategy", "lanes", "message"),
    [
        ("freze_thaw", 1, "--strategy: got 'freze_thaw'.*Did you mean 'freeze_thaw'"),
        ("pbt", 1, "--strategy: 'pbt' changes settings while it trains"),
        ("random", 0, "--lanes: got 0; must be at least 1"),
    ],
)
def test_what_cannot_be_replayed_is_refused(tmp_path: Path, strategy: str, lanes: int, message: str) -> None:
    write_sweep(tmp_path, "s", RISING, training=TRAINING)
    with pytest.raises(ConfigError, match=message):
        replay_sweep("s", strategy, lanes=lanes, runs_dir=tmp_path)


def test_a_replay_of_several_objectives_warns_of_nothing_experimental(tmp_path: Path) -> None:
    objective = [{"metric": "val/top1", "mode": "max"}, {"metric": "params", "mode": "min"}]
    write_sweep(tmp_path, "s", RISING, training=TRAINING, objective=objective)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        replay_sweep("s", "tpe+asha", seeds=1, runs_dir=tmp_path)
    assert [str(warning.message) for warning in caught] == []


def test_a_sweep_without_reports_cannot_be_replayed(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", [])
    with pytest.raises(ConfigError, match="no trial has reported yet"):
        replay_sweep("s", "random", runs_dir=tmp_path)


def test_the_command_shows_results_and_limits(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", [(PRUNED, [0.5]), (FINISHED, [0.4, 0.5, 0.6])], training=TRAINING)
    arguments = ["replay", "s", "--strategy", "random+none", "--seeds", "1", "--runs-dir", str(tmp_path)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "s replayed: random + none, 1 lane" in shown.output
    assert "Only the 2 recorded configurations can be proposed, each once; 1 of them was not" in shown.output
    assert "50% of the trials would have been trained beyond their recorded epochs" in shown.output
    plain = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert plain["replays"][0]["found"]["epochs"] == 4
    assert plain["cut_share"] == 0.5
