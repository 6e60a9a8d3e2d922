"""Pictures of a sweep's predictions: drawn when it ends, in its report and in MLflow."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from orchestrator.data.datasets import open_any_dataset
from orchestrator.data.scenes.drawing import blend_map
from orchestrator.inference.predict.samples import sweep_pictures
from orchestrator.inference.trained_network import find_network
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.results.sample_pictures import store_pictures, stored_pictures
from orchestrator.results.stored_sweep import StoredSweep, find_sweep, read_sweep
from orchestrator.server_addresses import embedded_uri
from orchestrator.sweep.finalize import _draw_predictions
from tests.support.sweeps.command_line import run_command
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.sweeps.tracked_sweep import replay
from tests.support.tasks.few_scenes import few_scenes, scene_trial, write_scenes
from tests.support.training_pieces import run

pytestmark = pytest.mark.usefixtures("one_thread")

SWEEP = {
    "task": "segmentation",
    "dataset": {"name": "digits-scenes", "image_size": 32},
    "model": {"name": "conv_resnet26_small", "options": {"fpn_channels": 8, "head_channels": 8}},
}


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a sweep of two trials, of which the second one, the best, has been trained for a moment."""
    folder = tmp_path_factory.mktemp("runs")
    data = few_scenes(write_scenes(folder / "datasets"), "segmentation")
    write_sweep(folder, "maps", [(TrialStatus.FINISHED, [0.1]), (TrialStatus.FINISHED, [0.2])], **SWEEP)
    settings = {"task": "segmentation", "metric": "val/miou", "loss": "pixel_cross_entropy", "epochs": 1}
    run(scene_trial(data, folder / "maps/trials/trial-00001", **settings))
    return folder


def sweep_of(runs_dir: Path) -> StoredSweep:
    return read_sweep(find_sweep("maps", runs_dir))


def pictures_in(page: Path) -> list[bytes]:
    found = re.findall(r'class="sample" src="data:image/png;base64,([^"]+)"', page.read_text())
    return [base64.b64decode(each) for each in found]


def test_a_report_has_the_predictions_of_the_best_trial(runs_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs_dir, copy)
    page = copy / "maps" / "report.html"
    assert run_command("report", "maps", "--runs-dir", str(copy))[0] == 0
    drawn = pictures_in(page)
    assert len(drawn) == 6
    assert "Trial 1 on test images, annotated and predicted." in page.read_text()
    assert sum(map(len, drawn)) < 2**20
    whole = np.asarray(Image.open(io.BytesIO(drawn[0])))
    assert whole.shape[1] == 2 * 384 + 4
    image, target = open_any_dataset(copy / "datasets/digits-scenes").splits["test"][0]
    truth = blend_map(image.permute(1, 2, 0).numpy(), target["class_map"].numpy())
    assert np.array_equal(whole[18 : 18 + 384, :384], truth.repeat(6, 0).repeat(6, 1))

    store_pictures(copy / "maps", 1, drawn[:2])
    shutil.rmtree(copy / "datasets")
    (copy / "maps/trials/trial-00001/best.pt").unlink()
    assert run_command("report", "maps", "--runs-dir", str(copy))[0] == 0
    assert pictures_in(page) == drawn[:2]  # of the folder of the trial

    shutil.rmtree(copy / "maps/trials/trial-00001/predictions")
    assert run_command("report", "maps", "--runs-dir", str(copy))[0] == 0
    assert pictures_in(page) == []
    assert "There are no pictures." in page.read_text()
    assert "trial 1 left no checkpoint" in page.read_text()


def test_images_on_a_server_of_a_journal_are_not_read(runs_dir: Path) -> None:
    sweep = sweep_of(runs_dir)
    found = sweep_pictures(replace(sweep, config={**sweep.config, "dataset": {"uri": "s3://somebody/scenes"}}))
    assert (found.pictures, "its images are on a server" in found.note) == ((), True)
    assert sweep_pictures(sweep_of(runs_dir)).trial == 1


def test_the_end_of_a_sweep_draws_them_and_mlflow_gets_them(runs_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs_dir, copy)
    best = copy / "maps/trials/trial-00001/best.pt"
    assert _draw_predictions(sweep_of(copy).result) == ""
    assert len(stored_pictures(copy / "maps", 1).pictures) == 6
    journal = copy / "maps" / "journal.jsonl"
    with Journal(journal) as opened:
        ledger = Ledger(opened)
        ledger.checkpoint_kept(1, str(best))
    uri = embedded_uri(copy)
    run_id = replay(journal, uri).run_id(1)
    kept = MlflowClient(uri).list_artifacts(str(run_id), "predictions")
    assert sorted(Path(each.path).name for each in kept) == [f"{place}.png" for place in range(1, 7)]
    assert find_network(best).task == "segmentation"

    best.write_bytes(b"damaged")
    assert _draw_predictions(sweep_of(copy).result).startswith("Its predictions were not drawn (")
    assert len(stored_pictures(copy / "maps", 1).pictures) == 6


def test_files_that_are_no_pictures_are_left_out(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (2, 2)).save(content, "PNG")
    store_pictures(tmp_path, 3, [content.getvalue(), b"<svg>"])
    (tmp_path / "trials/trial-00003/predictions/3.png").symlink_to("/etc/hostname")
    found = stored_pictures(tmp_path, 3)
    assert (list(found.pictures), found.note) == (
        [content.getvalue()], "left out as no pictures of a sweep: 2.png, 3.png",
    )  # fmt: skip
    store_pictures(tmp_path, 3, [content.getvalue()])
    assert stored_pictures(tmp_path, 3).note == ""
