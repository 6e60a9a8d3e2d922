"""Verdicts on stored sweeps: arms, warnings, page and command; no sweep is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator import ConfigError, Verdict, load_sweep, verdict
from orchestrator.cli.main import app
from orchestrator.config import resolve_trial
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.verdicts.page import write_verdict
from orchestrator.verdicts.tournament import SEEDS, load_tournament
from orchestrator.verdicts.verdict import unfairness
from tests.support.browser import Browser
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.sweeps.settings import faults

A, B = "conv_resnet26_small", "sb_resnet29_cifar"
Values = Sequence[float | None]
SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits"},
    "search": {"model": {"choices": [A, B]}, "lr": {"type": "float", "low": 1e-3, "high": 1e-2}},
    "sampler": {"name": "random"},
    "trial_scheduler": {"name": "none"},
    "trials": 8,
}


def write(
    runs_dir: Path, firsts: Mapping[str, Values], fresh: Mapping[str, Values] | None = None, **settings: Any
) -> Path:
    """Write the journal of a sweep: values of each network's configurations, and further seeds of its best one.

    A value of None stands for a configuration that diverged.
    """
    config = load_sweep({**SWEEP, **settings})
    with Journal(runs_dir / config.name / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started(config.name, config.model_dump(mode="json"), {}, {})
        ledger.lanes_planned(1, 1, 1.0, 0.0)

        def train(model: str, value: float | None, **repeat: Any) -> int:
            number = len(ledger.trials())
            params = {"model": model, "lr": 0.001 + 1e-5 * (repeat.get("repeats", number))}
            trial = resolve_trial(config, number, params).model_dump(mode="json")
            ledger.trial_started(number, f"t{number}", params, trial, **repeat)
            if value is not None:
                ledger.trial_reported(number, 1, {"val/top1": value, "test/top1": 1 - value}, held_s=5.0, lane=0)
            ledger.trial_ended(number, TrialStatus.DIVERGED if value is None else TrialStatus.FINISHED)
            return number

        best = {}
        for model, values in firsts.items():
            numbers = {train(model, value): value for value in values}
            best[model] = max(numbers, key=lambda number: numbers[number] or 0.0)
        for model, values in (fresh or {}).items():
            for replicate, value in enumerate(values, start=1):
                train(model, value, repeats=best[model], replicate=replicate)
        ledger.sweep_ended(TrialStatus.FINISHED, {}, [])
    return runs_dir / config.name


def test_fresh_seeds_of_the_best_configurations_are_compared(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {A: [0.5, 0.99, 0.6, 0.7], B: [0.8, 0.81, 0.9, 0.7]},
        {A: [0.80, 0.81, 0.82, 0.81], B: [0.90, 0.91, 0.92, 0.91]},
        seeds=5,
    )
    found = verdict(folder)
    assert isinstance(found, Verdict)
    assert (found.by, found.metric, found.unit, found.winner) == ("model", "val/top1", "seeds", B)
    assert found.arms[0].fresh == (0.80, 0.81, 0.82, 0.81)  # 0.99 has chosen the configuration, and is left out
    (pair,) = found.comparisons
    assert (pair.superiority, pair.cliffs_delta, pair.magnitude) == (0.0, -1.0, "large")
    assert pair.difference == pytest.approx(-0.1)
    assert found.text == f"{B} is better than {A}"
    assert not [warning for warning in found.warnings if "BUDGETS" in warning]


def test_without_seeds_the_configurations_are_compared(tmp_path: Path) -> None:
    found = verdict(write(tmp_path, {A: [0.5, 0.6, 0.7, None], B: [0.55, 0.65, 0.75, 0.85]}))
    assert (found.unit, found.winner) == ("configurations", None)
    (pair,) = found.comparisons
    assert pair.superiority == 3 / 16  # 0.6 > 0.55, 0.7 > 0.55, 0.7 > 0.65; the diverged one loses all
    assert found.text.startswith(f"Not decided: {A} or {B}. About ")
    assert "more configurations for each would decide" in found.text
    assert any("1 configurations diverged" in note for note in found.notes)
    plain = found.as_dict()
    assert plain["arms"][0]["values"] == [0.5, 0.6, 0.7, None]
    json.dumps(plain, allow_nan=False)


def test_a_lead_that_seeds_do_not_confirm_is_not_decided(tmp_path: Path) -> None:
    folder = write(tmp_path, {A: [0.5, 0.6], B: [0.5, 0.7]}, {A: [0.60, 0.62, 0.61], B: [0.61, 0.63, 0.62]}, seeds=4)
    found = verdict(folder)
    assert found.winner is None
    assert found.comparisons[0].needed is not None
    assert found.comparisons[0].needed > 3


@pytest.mark.parametrize(
    ("firsts", "fresh", "word"),
    [
        ({A: [0.5, 0.6, 0.7], B: [0.5, 0.6]}, {}, f"configurations: {A} 3, {B} 2"),
        ({A: [0.5, 0.6], B: [0.5, 0.6]}, {A: [0.5, 0.6]}, f"seeds: {A} 3, {B} 1"),
    ],
)
def test_unequal_budgets_are_said_loudly(tmp_path: Path, firsts: Any, fresh: Any, word: str) -> None:
    found = verdict(write(tmp_path, firsts, fresh))
    assert any(warning.startswith(f"THE BUDGETS WERE NOT EQUAL: {word}") for warning in found.warnings)


def test_networks_of_different_size_are_said_loudly(tmp_path: Path) -> None:
    """Accept two networks that differ by less than a tenth, and warn at a factor of 1.2."""
    found = verdict(write(tmp_path, {A: [0.5, 0.6], B: [0.5, 0.6]}))
    assert found.warnings == ()
    one, other = found.arms
    assert one.macs is not None
    assert one.macs != other.macs
    larger = replace(other, macs=round(1.2 * one.macs))
    assert unfairness([one, larger])[0].startswith("NOT AT EQUAL MACS: the best networks differ by a factor of 1.20.")


def test_another_metric_and_another_setting(tmp_path: Path) -> None:
    folder = write(tmp_path, {A: [0.5, 0.6], B: [0.7, 0.8]})
    assert verdict(folder, objective="test/top1").arms[0].values == (0.5, 0.4)
    with pytest.raises(ConfigError, match=r"--objective: no trial of s has reported 'test/top'. Did you mean"):
        verdict(folder, objective="test/top")


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("modl", "--by: no trial has 'modl'. Did you mean 'model'"),
        ("optimizer", "--by: all trials have optimizer sgd. Name a setting that varies, such as model, lr"),
        ("lr", "--by: 'lr' has 14 values; at most 12 are compared. Name one with few choices"),
    ],
)
def test_a_setting_that_cannot_be_compared(tmp_path: Path, by: str, message: str) -> None:
    folder = write(tmp_path, {A: [0.5] * 7, B: [0.6] * 7}, training={"optimizer": "sgd"})
    with pytest.raises(ConfigError) as caught:
        verdict(folder, by=by)
    assert message in str(caught.value)


def test_a_sweep_without_trials_has_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^verdict: sweep 'none' has no trial yet; there is nothing to compare$"):
        verdict(write_sweep(tmp_path, "none", []))


def test_an_arm_with_one_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"too few trials of {A} \(1\); each needs at least 2 configurations"):
        verdict(write(tmp_path, {A: [0.5], B: [0.6, 0.7]}))


def test_a_journal_from_before_seeds(tmp_path: Path) -> None:
    """Its trials are configurations of their own; both networks of it are compared, or the error says why not."""
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(Path(__file__).parents[1] / "records" / "old_journal" / "journal.jsonl", old / "journal.jsonl")
    with pytest.raises(ConfigError, match=r"verdict: (all trials have model|too few trials)"):
        verdict(old)


def test_the_page_and_the_command(browser: Browser, tmp_path: Path) -> None:
    write(tmp_path, {A: [0.5, 0.6, 0.7], B: [0.5, 0.6]}, {A: [0.6, 0.61], B: [0.8, 0.82]}, seeds=3)
    shown = CliRunner().invoke(app, ["verdict", "s", "--runs-dir", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "WARNING: THE BUDGETS WERE NOT EQUAL" in shown.output
    assert "Verdict: " in shown.output
    page = tmp_path / "s" / "verdict.html"
    for width, dark in ((1280, False), (390, True)):
        view = browser.open(page, width, dark=dark)
        assert (view.errors, view.requests) == ([], [])
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        found = browser.evaluate("[...document.querySelectorAll('section')].map(part => part.id)")
        assert found == ["warnings", "values", "superiority", "budgets", "notes"]
        drawn = "[...document.querySelectorAll('.chart')].map(chart => chart.querySelectorAll('.main-svg').length > 0)"
        assert browser.evaluate(drawn) == [True, True]
    asked = CliRunner().invoke(app, ["verdict", "s", "--runs-dir", str(tmp_path), "--json"])
    assert json.loads(asked.stdout)["comparisons"][0]["superiority"] == 0.0


def test_names_are_text_never_markup(tmp_path: Path) -> None:
    folder = write(tmp_path, {A: [0.5, 0.6], B: [0.7, 0.8]})
    found = verdict(folder)
    arms = tuple(replace(arm, name=f"<script>{arm.name}") for arm in found.arms)
    text = write_verdict(replace(found, arms=arms), tmp_path / "page.html").read_text()
    assert f"<script>{A}" not in text


def test_a_sweep_file_becomes_a_fair_tournament(tmp_path: Path) -> None:
    raw = {key: value for key, value in SWEEP.items() if key != "trial_scheduler"}
    config = load_tournament(raw)
    assert (config.tournament, config.seeds, config.trial_scheduler.name) == ("model", SEEDS, "none")
    assert load_tournament({**raw, "strategy": "none"}).trial_scheduler.name == "none"
    assert load_tournament({**raw, "seeds": 2}).seeds == 2
    assert load_tournament(raw, ["seeds=7"]).seeds == 7
    with pytest.raises(ConfigError, match=r"trial_scheduler.name: got asha; in a tournament every configuration is"):
        load_tournament({**raw, "trial_scheduler": {"name": "asha"}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tournament": "modle"}, "tournament: got 'modle'; must be a searched name. Did you mean 'model'?"),
        ({"tournament": "lr"}, "tournament: got 'lr'; its arms are the choices of a name without a condition"),
        ({"tournament": "model", "trials": 7}, "trials: got 7; each of the 2 arms of the tournament"),
        ({"seeds": 0}, "seeds: got 0"),
        ({"seeds": 2, "search": {**SWEEP["search"], "seed": [1, 2]}}, "search.seed: is searched, and seeds is 2"),
        ({"seeds": 2, "objective": [{"metric": "val/top1"}, {"metric": "macs"}]}, "seeds: got 2 with 2 objectives"),
        ({"seeds": 2, "trial_scheduler": {"name": "pbt"}}, "seeds: got 2 with trial_scheduler pbt"),
    ],
)
def test_unfair_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    assert any(message in line for line in faults({**SWEEP, **settings})), faults({**SWEEP, **settings})


def test_a_searched_seed_is_an_ordinary_value() -> None:
    config = load_sweep({**SWEEP, "search": {**SWEEP["search"], "seed": {"type": "int", "low": 0, "high": 99}}})
    assert resolve_trial(config, 0, {"model": A, "lr": 0.1, "seed": 42}).seed == 42


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep.yaml", "--json"], "is for a stored sweep; run the tournament first"),
        (["s", "--set", "seeds=3"], "Invalid value for --set: is for a tournament; give a sweep file"),
    ],
)
def test_options_of_the_other_form_are_refused(arguments: list[str], message: str) -> None:
    shown = CliRunner().invoke(app, ["verdict", *arguments], env={"COLUMNS": "200"})
    assert shown.exit_code == 2
    assert message in shown.output
