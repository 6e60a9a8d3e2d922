"""Report of a sweep, as rendered by a browser and in its source; no sweep is trained."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from orchestrator import load_result
from orchestrator.cli.main import app
from orchestrator.errors import SweepNameError
from orchestrator.records.ledger import TrialStatus
from orchestrator.report import search_plots, write_report
from orchestrator.report.curves import curve_charts
from orchestrator.report.facts import remark_on_test
from orchestrator.report.lane_times import lane_times
from orchestrator.report.study_view import StudyView
from orchestrator.results.stored_sweep import find_sweep, read_sweep
from orchestrator.server_addresses import embedded_uri
from tests.support.browser import Browser
from tests.support.journal_events import an_event, rewrite
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.sweeps.tracked_sweep import replay

FINISHED, PRUNED, FAILED = TrialStatus.FINISHED, TrialStatus.PRUNED, TrialStatus.FAILED
TRIALS = [
    (FINISHED, [0.3, 0.7, 0.8]),
    (PRUNED, [0.2]),
    (FAILED, []),
    (FINISHED, [0.4, 0.8, 0.9]),
    (FINISHED, [0.2, 0.5, 0.6]),
    (TrialStatus.DIVERGED, [0.1]),
]
OBJECTIVES = [{"metric": "val/top1", "mode": "max"}, {"metric": "train/loss", "mode": "min"}]
ALWAYS = ["budget", "space", "settings"]


def report(tmp_path: Path, trials: Any, **settings: Any) -> Path:
    write_sweep(tmp_path, "s", trials, **settings)
    return write_report(read_sweep(find_sweep("s", tmp_path)), tmp_path / "s" / "report.html")


def sections(page: Path) -> list[str]:
    return re.findall(r'<section id="(\w+)">', page.read_text())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, ["leaderboard", "curves", "importance", "parallel", "slices"], id="one objective"),
        pytest.param(
            {"objective": OBJECTIVES, "constraints": ["val/top1 <= 0.85"]},
            ["leaderboard", "curves", "front", "importance", "parallel", "slices"],
            id="two objectives",
        ),
    ],
)
def test_a_browser_shows_every_section(
    browser: Browser, tmp_path: Path, settings: dict[str, Any], expected: list[str]
) -> None:
    page = report(tmp_path, TRIALS, **settings)
    for width, dark in ((1280, False), (390, True)):
        view = browser.open(page, width, dark=dark)
        assert (view.errors, view.requests) == ([], [])
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        found = browser.evaluate("[...document.querySelectorAll('section')].map(part => part.id)")
        assert found == [*expected, "budget", "lanes", "failures", "space", "settings"]
        drawn = "[...document.querySelectorAll('.chart')].map(chart => chart.querySelectorAll('.main-svg').length > 0)"
        assert all(browser.evaluate(drawn))
        wide = "[...document.querySelectorAll('section')].filter(part => part.scrollWidth > part.clientWidth).length"
        assert browser.evaluate(wide) == 0
    assert "prefers-color-scheme: dark" in page.read_text()


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        pytest.param([], ALWAYS, id="none"),
        pytest.param([(FINISHED, [0.5])], ["leaderboard", "curves", "budget", "lanes", "space", "settings"], id="one"),
        pytest.param([(FAILED, [])], ["budget", "lanes", "failures", "space", "settings"], id="one that failed"),
        pytest.param(
            [(PRUNED, [0.5]), (TrialStatus.RUNNING, [0.3])],
            ["leaderboard", "curves", "budget", "lanes", "failures", "space", "settings"],
            id="none complete",
        ),
    ],
)
def test_sections_without_content_are_left_out(tmp_path: Path, trials: Any, expected: list[str]) -> None:
    page = report(tmp_path, trials, ended=None)
    assert sections(page) == expected
    assert "its driver died" in page.read_text()


def test_a_report_of_1000_trials_is_small(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # nothing is to outlive this test
    trials = [(FINISHED if number % 3 == 0 else PRUNED, [0.5 + number / 3000, 0.6]) for number in range(1000)]
    page = report(tmp_path, trials)
    assert page.stat().st_size < 7e6
    view = browser.open(page, 1280)
    assert (view.errors, view.requests) == ([], [])
    text = browser.evaluate("document.body.innerText")
    assert "The best 25 of 1000 trials" in text
    assert "200 curves are drawn, the best among them; 800 are left out." in text


def test_the_best_curve_is_always_drawn(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", [*[(PRUNED, [0.9])] * 250, (FINISHED, [0.4, 0.5])])
    result = load_result("s", tmp_path)
    assert result.best is not None
    assert result.objectives is not None
    (chart, _) = curve_charts(result.records, result.objectives, result.best.number)
    assert "best: trial 250" in chart.content


def test_an_accuracy_selected_on_the_test_images_is_marked(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", [], dataset={"name": "digits", "select_on": "test"})
    assert "too good" in remark_on_test(read_sweep(find_sweep(folder)).config)


def test_names_and_reasons_are_text_never_markup(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", TRIALS)
    evil = "</script><script>alert(1)</script>"
    journal = folder / "journal.jsonl"

    def change(event: dict[str, Any]) -> None:
        if event["event"] == "trial_ended":
            event["reason"] = evil
        if event["event"] == "trial_reported":
            event["metrics"] = {"val/top1": event["metrics"]["val/top1"], "val/loss": event["metrics"]["train/loss"]}
        if event["event"] == "sweep_started":
            event["config"]["dataset"]["name"] = evil

    rewrite(journal, change)
    page = write_report(read_sweep(find_sweep(folder)), folder / "report.html")
    assert evil not in page.read_text()
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page.read_text()


def test_lanes_are_read_from_the_journal_with_the_time_between_sessions_cut_out() -> None:
    events = [
        an_event("sweep_started", 100.0),
        an_event("trial_started", 110.0, trial=0),
        an_event("trial_started", 111.0, trial=1),
        an_event("trial_reported", 130.0, trial=0, held_s=15.0, lane=0),
        an_event("trial_reported", 131.0, trial=1, held_s=16.0, lane=1),
        an_event("trial_ended", 139.0, trial=0),
        an_event("trial_reported", 140.0, trial=1, held_s=25.0, lane=0),
        an_event("trial_ended", 141.0, trial=1),
        an_event("sweep_resumed", 9_000.0),
        an_event("trial_resumed", 9_010.0, trial=1),
        an_event("trial_ended", 9_020.0, trial=1),
    ]
    times = lane_times(events)
    found = [(interval.trial, interval.lane, interval.start_s, interval.end_s) for interval in times.intervals]
    assert found == [(0, 0, 15.0, 39.0), (1, 1, 15.0, 40.0), (1, 0, 40.0, 41.0), (1, 0, 51.0, 61.0)]
    assert (times.lanes, times.total_s, list(times.session_starts)) == (2, 61.0, [41.0])
    assert times.busy_share == pytest.approx((24 + 25 + 1 + 10) / (2 * 61))


def test_lanes_of_a_journal_that_does_not_name_them_are_inferred() -> None:
    events = [an_event("sweep_started")]
    for number, (start, end) in enumerate([(0, 10), (1, 5), (5, 9), (10, 12)]):
        events.append(an_event("trial_started", start, trial=number))
        events.append(an_event("trial_ended", end, trial=number))
    times = lane_times(sorted(events, key=lambda event: event.time))
    assert [(interval.trial, interval.lane) for interval in times.intervals] == [(0, 0), (1, 1), (2, 1), (3, 0)]
    assert not times.lanes_known


def test_the_report_is_kept_with_the_run_of_its_sweep(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", TRIALS)
    replay(folder / "journal.jsonl", embedded_uri(tmp_path))
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    run = re.search(r"In MLflow: run (\w+)", done.output)
    assert run is not None
    client = MlflowClient(embedded_uri(tmp_path))
    assert client.get_run(run[1]).data.tags["spatialsweep.kind"] == "sweep"
    kept = Path(client.download_artifacts(run[1], "results/report.html", str(tmp_path)))
    assert kept.read_bytes() == (folder / "report.html").read_bytes()


def test_the_command_writes_the_file_and_finds_sweeps_by_name(tmp_path: Path) -> None:
    write_sweep(tmp_path, "digits", TRIALS)
    wanted = tmp_path / "elsewhere" / "page.html"
    done = CliRunner().invoke(app, ["report", "digits", "--runs-dir", str(tmp_path), "--output", str(wanted)])
    assert done.exit_code == 0, done.output
    assert str(wanted) in done.output
    assert wanted.read_text().startswith("<!doctype html>")
    assert "Warning: the report is not in MLflow: there is no sqlite:///" in done.output
    missing = CliRunner().invoke(app, ["report", "digit", "--runs-dir", str(tmp_path)])
    assert isinstance(missing.exception, SweepNameError)
    assert "Did you mean 'digits'" in str(missing.exception)


@pytest.mark.parametrize(
    ("recipe", "published"),
    [
        ("lsas_cifar100", ["76.47 %"]),
        ("adaptive_span_cifar100", ["\N{EN DASH}"]),
        ("lesa_resnet50_imagenet", ["79.55 %", "94.79 %"]),
    ],
)
def test_the_published_numbers_stand_beside_ours(tmp_path: Path, recipe: str, published: list[str]) -> None:
    folder = write_sweep(tmp_path, "s", [(FINISHED, [0.5])], recipe=recipe)

    def measure(event: dict[str, Any]) -> None:
        if event["event"] == "trial_reported":
            event["metrics"] |= {"test/top1": 0.45, "test/top5": 0.7}

    rewrite(folder / "journal.jsonl", measure)
    page = write_report(read_sweep(find_sweep(folder)), folder / "report.html")
    assert sections(page)[0] == "published"
    shown = page.read_text()
    assert re.findall(r"<dt>published</dt><dd>(.*?)</dd>", shown) == published
    ours = re.findall(r"<dt>ours</dt><dd>(.*?)</dd>", shown)
    assert ours == ["45.00 %", "70.00 %"][: len(published)]


def test_published_numbers_of_another_task_stand_beside_ours_with_those_on_other_images(tmp_path: Path) -> None:
    scenes = {"task": "instances", "dataset": {"name": "digits-scenes"}}
    folder = write_sweep(tmp_path, "s", [(FINISHED, [0.5])], recipe="lesa_resnet50_mask_rcnn_coco", **scenes)

    def measure(event: dict[str, Any]) -> None:
        if event["event"] == "trial_reported":
            event["metrics"] |= {"test/mask_ap": 0.375, "test/ap": 0.42}

    rewrite(folder / "journal.jsonl", measure)
    shown = write_report(read_sweep(find_sweep(folder)), folder / "report.html").read_text()
    assert re.findall(r"<dt>published</dt><dd>(.*?)</dd>", shown) == ["39.20 %", "44.00 %"]
    assert re.findall(r"<dt>ours</dt><dd>(.*?)</dd>", shown) == ["37.50 %", "42.00 %"]
    assert "mask AP on test images, 39.60 % on test-dev, 20 epochs" in shown
    assert "box AP on test images, 44.20 % on test-dev, 20 epochs" in shown


def test_values_closer_than_their_rounding_are_drawn() -> None:
    study = optuna.create_study(direction="maximize")
    for value in (0.1004, 0.10042, 0.10044):  # a line has three digits, the colour bar all
        study.tell(study.ask({"lr": optuna.distributions.FloatDistribution(0.0, 1.0)}), value)
    assert search_plots.parallel_chart(StudyView(study, strangers=0), ["val/miou"])


def test_a_name_of_few_trials_is_drawn_for_those_only() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(400):
        trial = study.ask()
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        if trial.suggest_categorical("model", ["a", "b"]) == "a" and number > 380:
            lr -= trial.suggest_float("rare", 0.0, 1.0)
        study.tell(trial, lr)
    view = StudyView(study, strangers=0)
    assert "rare" in view.varied
    assert len(view.thinned(150).complete) == 150
    assert search_plots.parallel_chart(view, ["val/top1"])
    labels = [chart.label for chart in search_plots.contour_charts(view, ["val/top1"])]
    assert "val/top1 by lr and rare" in labels or "val/top1 by rare and lr" in labels


def test_three_objectives_are_shown_in_pairs() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for number in range(6):
        trial = study.ask()
        trial.suggest_float("lr", 1e-3, 1e-1)
        study.tell(trial, [number / 10, float(number), float(6 - number)])
    metrics = ["val/top1", "params", "macs"]
    labels = [chart.label for chart in search_plots.pareto_charts(StudyView(study, strangers=0), metrics)]
    assert labels == ["params against val/top1", "macs against val/top1", "macs against params"]


def test_packages_of_the_report_are_imported_on_demand() -> None:
    script = "import sys, orchestrator.cli.main; print(*{'plotly', 'jinja2', 'mlflow', 'IPython'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
