"""The searches of docs/tracking.md on a real MLflow database with two sweeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.server_addresses import embedded_uri
from tests.support.sweeps.tracked_sweep import DATASET, replay

PAGE = (Path(__file__).parents[3] / "docs" / "tracking.md").read_text()
ANSWERS = {
    "All sweeps, newest first": ["other", "digits"],
    "The trials of a sweep, best first": ["digits/0", "digits/1"],
    "Trials better than 70 % of any sweep": ["other/0", "digits/0"],
    "Trials that failed, and why (tag `spatialsweep.reason`)": ["digits/2"],
    "Trials out of memory": ["digits/2"],
    "Trials stopped early": ["digits/1"],
    "Trials of one network with a learning rate above 0.01": ["digits/0"],
    "The Pareto front": ["digits/0"],
    "Everything trained on these images": ["digits", "digits/0", "digits/1", "digits/2"],
    "Sweeps over the same space": ["digits"],
    "Sweeps of one git revision": ["digits"],
    "What cost more than an hour of CPU": ["digits/0"],
    "What has not ended": ["other", "other/1"],
}


def documented() -> dict[str, tuple[str, str | None]]:
    """Return filter and order of every search on the page, by its title."""
    rows = re.findall(r"^\| (.+?) \| (`.+?`) \| (.*?)\|$", PAGE[PAGE.index("## Searches") :], re.MULTILINE)
    return {question: (code(wanted) or "", code(order)) for question, wanted, order in rows}


def code(cell: str) -> str | None:
    text = cell.strip()
    ticks = len(text) - len(text.lstrip("`"))
    return text[ticks:-ticks] if ticks else None


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """Open a database with one sweep that has ended and one that has not."""
    runs_dir = tmp_path_factory.mktemp("runs")
    write_digits(runs_dir / "digits" / "journal.jsonl")
    write_other(runs_dir / "other" / "journal.jsonl")
    uri = embedded_uri(runs_dir)
    for name in ("digits", "other"):
        replay(runs_dir / name / "journal.jsonl", uri)
    return MlflowClient(uri)


def write_digits(path: Path) -> None:
    with Journal(path) as journal:
        ledger = Ledger(journal)
        begin(ledger, "digits", {"git.revision": "abcdef123456+"}, "0123456789abcdef", DATASET)
        for number, network in enumerate(("sb_resnet29_cifar", "conv_resnet26_small", "sb_resnet29_cifar")):
            start(ledger, number, network)
        report(ledger, 0, 0.9, lr=0.02, held_s=4000.0)
        report(ledger, 0, 0.8, lr=0.02, held_s=8000.0)
        report(ledger, 1, 0.6, lr=0.03, held_s=20.0)
        ledger.trial_ended(0, TrialStatus.FINISHED, best={"val/top1": 0.9})
        ledger.trial_ended(1, TrialStatus.PRUNED, best={"val/top1": 0.6})
        ledger.trial_ended(2, TrialStatus.FAILED, "out of memory with 64 images\nTraceback ...")
        ledger.front_found([0])
        ledger.sweep_ended(TrialStatus.FINISHED, {"best_trial": 0}, [])


def write_other(path: Path) -> None:
    with Journal(path) as journal:
        ledger = Ledger(journal)
        elsewhere = {**DATASET, "name": "other", "content_hash": "b" * 16}
        begin(ledger, "other", {"git.revision": "123456abcdef"}, "fedcba9876543210", elsewhere)
        start(ledger, 0, "conv_resnet26_small")
        start(ledger, 1, "conv_resnet26_small")
        report(ledger, 0, 0.95, lr=0.02)
        ledger.trial_ended(0, TrialStatus.FINISHED, best={"val/top1": 0.95})


def begin(ledger: Ledger, name: str, facts: Mapping[str, str], space: str, dataset: Mapping[str, Any]) -> None:
    config = {"name": name, "objective": {"metric": "val/top1", "mode": "max"}}
    ledger.sweep_started(name, config, facts, {"search space": space})
    ledger.session_described([], dataset)
    ledger.lanes_planned(lanes=1, workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0)


def start(ledger: Ledger, number: int, network: str) -> None:
    config = {"number": number, "model": {"name": network, "options": {}}, "training": {"epochs": 2}}
    ledger.trial_started(number, f"tune{number}", {"lr": 0.1}, config)


def report(ledger: Ledger, number: int, top1: float, *, lr: float, held_s: float = 1.0) -> None:
    epoch = ledger.trial(number).epochs + 1
    ledger.trial_reported(number, epoch, {"val/top1": top1, "lr": lr}, held_s)


def test_every_documented_search_is_tested() -> None:
    assert list(documented()) == list(ANSWERS)


@pytest.mark.parametrize("question", ANSWERS)
def test_a_documented_search_finds_its_runs(client: MlflowClient, question: str) -> None:
    wanted, order = documented()[question]
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, wanted, order_by=[order] if order else None)
    names = [run.info.run_name.replace("/trial-0000", "/") for run in found]
    assert (names if order else sorted(names)) == ANSWERS[question]
