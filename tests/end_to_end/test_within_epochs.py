"""A sweep whose budget of time ends within a long epoch: saved there, and resumed to the result of one that was not."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import load_sweep, resume_sweep, run_sweep
from orchestrator.config import TrialConfig
from orchestrator.data import open_dataset, prepare_dataset
from orchestrator.records.budget import Budget
from orchestrator.records.costs import SweepTotals
from orchestrator.records.folder.live_progress import EpochProgress, read_live
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import read_events
from orchestrator.records.ledger import TrialStatus
from orchestrator.sweep import session
from orchestrator.training.checkpoints.checkpoint_content import read_state
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints
from orchestrator.training.images.placement import place_dataset
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers
from tests.support.sweeps.local_ray import local_ray

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("one_thread")]

LIMIT_S = 4.0
STEPS = 288  # 1,437 images, of which a fifth is held out, in batches of 4

NETWORK = """
import time
from pathlib import Path
from torch import nn

class Slow(nn.Sequential):
    def forward(self, x):
        if self.training and Path({pause!r}).exists():
            time.sleep(0.2)
        return super().forward(x)

def slow(num_classes: int = 10, in_chans: int = 1):
    return Slow(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, num_classes))
"""


@pytest.fixture(scope="module", autouse=True)
def ray_instance() -> Iterator[None]:
    with local_ray(num_cpus=2):
        yield


@dataclass
class BudgetOfTraining(Budget):
    """Budget whose clock starts with the first progress, since on a busy machine a lane may take minutes to start."""

    seen: Mapping[int, EpochProgress] = field(default_factory=dict)
    began_s: list[float] = field(default_factory=list)

    def exhausted_limit(self, totals: SweepTotals) -> str | None:
        if not self.seen:
            return None
        self.began_s.append(totals.wall_s)
        return super().exhausted_limit(replace(totals, wall_s=totals.wall_s - self.began_s[0]))


def watch(folder: SweepFolder, over: threading.Event) -> dict[int, EpochProgress]:
    """Collect the progress that another process sees."""
    seen: dict[int, EpochProgress] = {}

    def collect() -> None:
        while not over.wait(0.2):
            seen.update(read_live(folder.scratch))

    threading.Thread(target=collect, daemon=True).start()
    return seen


def uninterrupted(config: dict[str, Any], sweep: dict[str, Any], place: Path) -> dict[str, float]:
    """Train the same trial in this process, without the pauses."""
    settings = load_sweep(sweep)
    data = place_dataset(open_dataset(prepare_dataset("digits", place)), torch.device("cpu"), settings.dataset)
    trial = Trial(TrialConfig(**config), settings.objective, data, Workers(), TrialCheckpoints(place / "trial"))
    reports: list[dict[str, float]] = []
    trial.run(lambda epoch, metrics: reports.append(dict(metrics)))
    return reports[-1]


def test_a_budget_of_time_ends_within_an_epoch_and_the_trial_resumes_there(tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    pause.touch()
    (tmp_path / "slow_net.py").write_text(NETWORK.format(pause=str(pause)))
    sweep: dict[str, Any] = {
        "name": "long",
        "dataset": {"name": "digits"},
        "model": {"name": f"{tmp_path / 'slow_net.py'}:slow"},
        "training": {"epochs": 1, "global_batch_size": 4, "warmup_epochs": 0},
        "trials": 1,
        "trial_scheduler": {"name": "none"},
        "resources": {"workers": 1, "lanes": 1},
        "budget": {"wall_clock": LIMIT_S},
        "runs_dir": str(tmp_path / "runs"),
    }
    folder, over = SweepFolder(tmp_path / "runs" / "long"), threading.Event()
    seen = watch(folder, over)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Budget", functools.partial(BudgetOfTraining, seen=seen))
        result = run_sweep(load_sweep(sweep))
    over.set()

    assert result.ended_by.startswith("budget.wall_clock is spent")
    assert [record.status for record in result.records] == [TrialStatus.INTERRUPTED]
    assert result.records[0].reports == []
    times = {event.event: event.time for event, _ in read_events(folder.journal)}
    assert times["budget_spent"] < times["trial_ended"]
    state = folder.trials / "trial-00000" / "last.pt"
    content = read_state(state)
    assert (content["epoch"], 0 < content["step"] < STEPS) == (0, True)
    assert (seen[0].epoch, seen[0].steps) == (1, STEPS)
    assert 0 < seen[0].step <= content["step"]
    assert seen[0].images_per_s < 4 / 0.2
    assert "left within epoch 1" in (state.parent / "rank-0.log").read_text()

    pause.unlink()
    result = resume_sweep("long", ["budget.wall_clock=10m"], runs_dir=str(tmp_path / "runs"))
    assert [record.status for record in result.records] == [TrialStatus.FINISHED]
    (report,) = result.records[0].reports
    expected = uninterrupted(dict(result.records[0].config), sweep, tmp_path / "alone")
    for name in ("train/loss", "val/loss", "val/top1", "test/top1", "lr"):
        assert report[name] == expected[name], name
    started = [event.time for event, _ in read_events(folder.journal) if event.event == "trial_started"]
    assert len(started) == 1
