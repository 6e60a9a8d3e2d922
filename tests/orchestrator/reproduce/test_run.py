"""Tables in their folder: what is measured, what is left to run, what may not change, and the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.config import load_sweep, resolve_trial
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.manifest import read_manifest
from orchestrator.data.storage import open_folder
from orchestrator.errors import ConfigError, ReproduceError
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.reproduce.dry_run import plan_of
from orchestrator.reproduce.measurements import read_measurements
from orchestrator.reproduce.report import write_report
from orchestrator.reproduce.result import TableResult
from orchestrator.reproduce.run import TableRun, prepare_run, result_of
from orchestrator.reproduce.sweeps import cells_of
from tests.support import tiny_archives

FINISHED, DIVERGED, FAILED = TrialStatus.FINISHED, TrialStatus.DIVERGED, TrialStatus.FAILED


def table(runs_dir: Path, which: str = "resnet38", paper: str = "spatial_bias", **options: Any) -> TableRun:
    return prepare_run(paper, which, scale="small", values={"runs_dir": str(runs_dir)}, **options)


def train(
    run: TableRun,
    outcomes: Mapping[tuple[str, int], tuple[TrialStatus, float]],
    *,
    ended: TrialStatus | None = FINISHED,
    **metrics: float,
) -> None:
    """Write what the sweep of a table would record, without training; the best epoch is the first of two."""
    run.folder.begin(run.identity, run.rows)
    [planned] = run.folder.plan(run.missing())
    config = planned.config(run.rows[0])
    with Journal(planned.folder.journal) as journal:
        ledger = Ledger(journal)
        ledger.sweep_started(planned.name, config.model_dump(mode="json"), {"git.revision": "abc"}, {})
        for number, (row, seed) in enumerate(cells_of(config.space)):
            if (row, seed) not in outcomes:
                continue
            status, top1 = outcomes[row, seed]
            params = {"row": row, "seed": seed}
            ledger.trial_started(number, f"t{number}", params, resolve_trial(config, 0, params).model_dump(mode="json"))
            first = {"val/top1": 0.9, "train/loss": 1.0, **metrics}
            last = {"val/top1": 0.8, "train/loss": 1.0, "test/top1": top1, **dict.fromkeys(metrics, 0.0)}
            ledger.trial_reported(number, 1, first, held_s=1.0, lane=0)
            ledger.trial_reported(number, 2, last, held_s=2.0, lane=0)
            ledger.trial_ended(number, status, "loss is nan" if status is DIVERGED else "")
        if ended is not None:
            ledger.sweep_ended(ended, {}, [])


def whole_table(run: TableRun) -> TableResult:
    values = {"none": (0.90, 0.91), "stage1": (0.905, 0.914), "stages12": (0.95, 0.96), "stages123": (0.95, 0.97)}
    train(run, {(row, seed): (FINISHED, top1) for row, pair in values.items() for seed, top1 in enumerate(pair)})
    return result_of(run)


def test_published_beside_measured(tmp_path: Path) -> None:
    result = whole_table(table(tmp_path, seeds=2))
    rows = {row.name: row for row in result.rows}
    none, last = rows["none"], rows["stages12"]
    assert none.measured is not None
    assert none.values == pytest.approx({0: 10.0, 1: 9.0})
    assert none.measured.mean == pytest.approx(9.5)
    assert (none.published, none.difference, none.verdict) == (23.98, None, "")
    assert last.difference is not None
    assert (last.published_difference, last.difference.mean) == (pytest.approx(-1.54), pytest.approx(-5.0))
    assert last.verdict == "same direction"  # both seeds differ by 5.0 points exactly
    assert rows["stage1"].verdict == "not resolved"
    assert result.is_complete
    assert "1,150 for training, 287 for validation, 360 for testing; 6 epochs; 2 seeds" in result.scale.in_words


def test_the_files_of_a_report(tmp_path: Path) -> None:
    run = table(tmp_path, seeds=2)
    files = write_report(whole_table(run), run.folder.path)
    content = json.loads(files.json.read_text())
    assert content["scale"]["name"] == "small"
    assert [row["name"] for row in content["rows"]] == ["none", "stage1", "stages12", "stages123"]
    assert content["rows"][2]["measured"]["mean"] == pytest.approx(4.5)
    assert content["rows"][2]["verdict"] == "same direction"
    text = files.markdown.read_text()
    assert (
        "| bias in stages 1-2 | sb_resnet29_cifar | 0.320 M | 3.0 M | 22.44 | 4.50 ± 6.35 | -1.54 | -5.00 ± 0.00 |"
        in text
    )
    assert "Scale small: digits, images of 8 x 8 px" in text
    assert "only the direction of a difference can be compared" in text
    assert "Sweeps: spatial_bias-resnet38-small-1. Trained with revision abc." in text
    page = files.html.read_text()
    assert "4.50 ± 6.35" in page
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert files.picture is not None
    assert files.picture.read_bytes().startswith(b"\x89PNG")


def test_a_finished_row_is_not_repeated_and_a_failed_one_is(tmp_path: Path) -> None:
    run = table(tmp_path, seeds=2, only=["none", "stage1"])
    cells = {("none", 0): (FINISHED, 0.9), ("none", 1): (DIVERGED, 0.1), ("stage1", 0): (FAILED, 0.1)}
    train(run, cells)
    [rest] = run.missing()
    assert sorted(cells_of(load_sweep({"name": "rest", **rest}).space)) == [("stage1", 0), ("stage1", 1)]
    result = result_of(run)
    assert result.rows[0].without_value == {1: "diverged: loss is nan"}
    assert not result.is_complete
    train(run, {("stage1", 0): (FINISHED, 0.8), ("stage1", 1): (FINISHED, 0.7)})
    assert run.missing() == []
    assert [sweep.name for sweep in run.folder.sweeps()] == [
        "spatial_bias-resnet38-small-1",
        "spatial_bias-resnet38-small-2",
    ]
    more = table(tmp_path, seeds=3)
    [settings] = more.missing()
    left = sorted(cells_of(load_sweep({"name": "more", **settings}).space))
    assert left == [
        ("none", 2),
        ("stage1", 2),
        *((row, seed) for row in ("stages12", "stages123") for seed in range(3)),
    ]
    # rows of an earlier command stay in the report of a later one
    assert [row.name for row in result_of(table(tmp_path, only=["stages12"])).rows] == ["none", "stage1", "stages12"]


def test_an_interrupted_sweep_is_resumed_first(tmp_path: Path) -> None:
    run = table(tmp_path, seeds=2, only=["none"])
    train(run, {("none", 0): (FINISHED, 0.9)}, ended=TrialStatus.INTERRUPTED)
    [begun] = run.unfinished()
    assert begun.name == "spatial_bias-resnet38-small-1"
    assert run.missing(besides=[begun]) == []  # the rest of it is trained when it is resumed
    plan = plan_of(run)
    assert [(row.name, row.done, row.left) for row in plan.rows] == [("none", [0], [1])]
    assert [(sweep.name, sweep.resumed) for sweep in plan.sweeps] == [("spatial_bias-resnet38-small-1", True)]
    assert plan.rows[0].training_macs == 3 * plan.rows[0].macs * 1150 * 6


def test_another_setting_under_the_same_name_is_refused(tmp_path: Path) -> None:
    whole_table(table(tmp_path, seeds=2))
    changed = table(tmp_path, assignments=["training.epochs=7"])
    with pytest.raises(ReproduceError, match=r"row none: training.epochs was 6, is 7") as caught:
        changed.folder.check(changed.identity, changed.rows)
    assert str(caught.value).endswith("Restore them, or give another --name")
    other = table(tmp_path, assignments=["training.epochs=7"], name="longer")
    assert other.folder.check(other.identity, other.rows) == {}
    (tmp_path / "reproduce" / "spatial_bias-resnet38-small" / "table.json").write_text("{")
    with pytest.raises(ReproduceError, match="cannot be read"):
        changed.folder.check(changed.identity, changed.rows)


def test_other_images_under_the_same_name_are_refused(tmp_path: Path) -> None:
    for name, place in (("digits", None), ("mnist", tiny_archives.mnist(tmp_path).place)):
        prepare(name, place, str(tmp_path / name))
    shutil.copytree(tmp_path / "digits", tmp_path / "moved")

    def on(dataset: str, row: str = "none") -> TableRun:
        assignments = [f"dataset.uri={tmp_path / dataset}", "dataset.validation_fraction=0.5"]
        return table(tmp_path / "runs", only=[row], assignments=assignments)

    run = on("digits")
    run.folder.begin(run.identity, run.rows)
    for same in (on("digits"), on("moved"), on("moved", "stage1")):
        same.folder.check(same.identity, same.rows)
    images = read_manifest(open_folder(tmp_path / "digits")).content_hash
    for other in (on("mnist"), on("mnist", "stage1"), table(tmp_path / "runs", only=["stage1"])):
        with pytest.raises(ReproduceError, match=rf"dataset_content: was {images}, is "):
            other.folder.check(other.identity, other.rows)
    record = run.folder.path / "table.json"
    content = json.loads(record.read_text())
    assert content.pop("dataset_content") == images
    record.write_text(json.dumps(content))  # as an earlier version wrote it
    unknown = on("mnist")
    assert unknown.folder.check(unknown.identity, unknown.rows) == content


def test_learned_spans_of_the_best_epoch(tmp_path: Path) -> None:
    run = table(tmp_path, "spans", "adaptive_span", seeds=1, only=["small"])
    spans = {"span/mean_px": 1.5, "span/layer0_px": 1.0, "span/layer1_px": 2.0}
    train(run, {("small", 0): (FINISHED, 0.9)}, **spans)
    [row] = [row for row in result_of(run).rows if row.values]
    assert (row.values, row.layers, row.difference) == ({0: 1.5}, (1.0, 2.0), None)
    measured = read_measurements(run.folder.sweeps(), run.table.measure)
    assert measured["small", 0].value == 1.5


def test_seeds_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--seeds: got 0; must be from 1 to 1000. Use 3"):
        table(tmp_path, seeds=0)
    assert list(table(tmp_path).seeds) == [0, 1, 2, 3, 4]


def test_the_command_shows_tables_and_a_plan(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["reproduce", "--json"])
    found = {(entry["paper"], entry["table"]): entry for entry in json.loads(listed.output)}
    assert found["lsas", "cifar100"]["published"] == {"plain": 74.30, "senet": 75.30, "order0": None, "lsas": 76.47}
    assert "ResNet-164" in CliRunner().invoke(app, ["reproduce", "lsas"]).output
    command = ["reproduce", "lsas", "order", "--scale", "small", "--only", "order2", "--seeds", "4", "--dry-run"]
    place = ["--runs-dir", str(tmp_path / "runs")]
    plan = json.loads(CliRunner().invoke(app, [*command, *place, "--json"]).stdout)
    assert [(row["name"], row["left"]) for row in plan["rows"]] == [("order2", [0, 1, 2, 3])]
    assert [sweep["bounds"]["epochs"] for sweep in plan["sweeps"]] == [4 * 7]
    shown = CliRunner().invoke(app, [*command, *place]).output
    assert "Left: 4 trials in 1 sweep" in shown
    assert not (tmp_path / "runs").exists()
    refused = CliRunner().invoke(app, ["reproduce", "lsas", "order", "--scale", "small", "--only", "order9"])
    assert isinstance(refused.exception, ReproduceError)
