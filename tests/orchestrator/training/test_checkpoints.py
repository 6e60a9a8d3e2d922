"""Checkpoints: writing, damage, and loading as a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from orchestrator import disk_space as full_disk
from orchestrator import load_model
from orchestrator.config import SweepConfig, resolve_trial
from orchestrator.errors import CheckpointError, SpatialSweepError, StorageFullError
from orchestrator.training.checkpoints.checkpoint_file import read_checkpoint, save_checkpoint
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.trial import Trial
from tests.support.training_pieces import differences, few_digits, make_trial, run, timeless

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DeviceImages:
    return few_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def trained(data: DeviceImages, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, list[dict[str, float]]]:
    options = {"ramp": 3.0, "max_span": 3}
    trial = make_trial(
        data, tmp_path_factory.mktemp("trial"), model="adaptive_resnet26_small", options=options, epochs=2, lr=1e-2
    )
    return trial, run(trial)


def test_a_checkpoint_loads_as_the_trained_network(
    trained: tuple[Trial, list[dict[str, float]]], data: DeviceImages
) -> None:
    trial, reports = trained
    model = load_model(trial.checkpoints.best)
    best = read_checkpoint(trial.checkpoints.best)
    assert not model.training
    assert list(model.state_dict()) == list(trial.network.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(best["state_dict"][key], value), key
    if reports[-1]["best_epoch"] == reports[-1]["epoch"]:
        assert all(torch.equal(trial.network.state_dict()[key], value) for key, value in model.state_dict().items())
    assert best["model"]["options"] == {"ramp": 3.0, "max_span": 3}
    assert model.class_names == tuple("0123456789")

    pixels = data.test.images.float() / 255
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (model.pixel_mean, model.pixel_std))
    with torch.no_grad():
        correct = (model((pixels - mean) / std).argmax(dim=1) == data.test.labels).float().mean()
    assert float(correct) == pytest.approx(reports[-1]["test/top1"])


def test_a_checkpoint_loads_from_a_string_path(trained: tuple[Trial, list[dict[str, float]]]) -> None:
    assert load_model(str(trained[0].checkpoints.best)).num_classes == 10


def test_a_network_recorded_by_0_1_0_has_the_defaults_of_its_time(data: DeviceImages, tmp_path: Path) -> None:
    """Load weights, and resume a trial, whose options leave out the pooled size, which was 10 cells."""
    recorded = {"name": "sb_resnet29_cifar", "options": {}, "num_classes": 10, "in_chans": 1, "image_size": 8}
    network = models.create_model("sb_resnet29_cifar", num_classes=10, in_chans=1, pooled_size=10)
    facts = {"pixel_mean": [0.5], "pixel_std": [0.25], "class_names": list("0123456789")}
    path = tmp_path / "best.pt"
    save_checkpoint(path, {"model": recorded, "data": facts, "state_dict": network.state_dict()})
    loaded = load_model(path).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())
    resumed = make_trial(data, tmp_path, model="sb_resnet29_cifar")
    assert resumed.description["options"] == {"pooled_size": 10}
    assert resumed.network.state_dict().keys() == loaded.keys()


def test_new_trials_record_the_defaults_that_have_changed(data: DeviceImages, tmp_path: Path) -> None:
    settings = {"name": "s", "dataset": {"name": "digits"}, "resources": {"workers": 1}}
    fixed = SweepConfig(model={"name": "sb_resnet29_cifar", "options": {"key_size": 1}}, **settings)
    options = resolve_trial(fixed, 0, {}).model.options
    assert options == {"key_size": 1, "pooled_size": 6}
    made = make_trial(data, tmp_path, model="sb_resnet29_cifar", options=options)
    assert made.network.stages[0][0].spatial.bias.pooled_size == 6
    searched = SweepConfig(search={"model": ["sb_resnet50", "sb_resnet56_cifar"], "pooled_size": [4, 8]}, **settings)
    drawn = resolve_trial(searched, 0, {"model": "sb_resnet56_cifar", "pooled_size": 4}).model
    assert drawn.options == {"pooled_size": 4}
    assert resolve_trial(searched, 0, {"model": "sb_resnet50"}).model.options == {}


def test_a_state_to_resume_from_is_refused_as_a_network(trained: tuple[Trial, list[dict[str, float]]]) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pt: is a state to resume from; .*best\.pt"):
        load_model(trained[0].checkpoints.last)


def test_an_unreadable_checkpoint_names_the_reason(
    trained: tuple[Trial, list[dict[str, float]]], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.pt: neither a checkpoint file nor an MLflow run id"):
        load_model(tmp_path / "nothing.pt")
    content = trained[0].checkpoints.best.read_bytes()
    path = tmp_path / "damaged.pt"
    for damaged in (b"", b"words\n", b"PK\x03\x04", content[: len(content) // 2], content[:-100], content[100:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged\.pt: (is no checkpoint of SpatialSweep|was altered)"):
            load_model(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"damaged\.pt: is no checkpoint of SpatialSweep"):
        load_model(path)
    save_checkpoint(path, {"format": 99})
    with pytest.raises(CheckpointError, match="is no checkpoint of this version"):
        load_model(path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "nothing.pt")
    assert issubclass(CheckpointError, SpatialSweepError)


class CodeInPickle:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code from a checkpoint was run')",))


def test_no_code_from_a_checkpoint_is_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    save_checkpoint(path, {"model": CodeInPickle()})
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_model(path)


def altered(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_every_altered_byte_and_every_truncation_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    save_checkpoint(path, {"weights": torch.arange(3.0)})
    content = path.read_bytes()
    assert torch.load(path, weights_only=True)["weights"].tolist() == [0, 1, 2]  # an ordinary file for other readers
    for place in {*range(0, len(content), 7), *range(len(content) - 100, len(content))}:
        for damaged in (altered(content, place), content[:place]):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                read_checkpoint(path)


@pytest.mark.parametrize("damage", [lambda content: content[:1000], lambda content: altered(content, 5000)])
def test_a_damaged_state_is_skipped_for_the_one_before(
    data: DeviceImages, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    whole = make_trial(data, tmp_path / "whole", epochs=3)
    undisturbed = run(whole)
    run(make_trial(data, tmp_path / "cut", epochs=3), stop_after=2)
    last = tmp_path / "cut" / "last.pt"
    last.write_bytes(damage(last.read_bytes()))
    resumed = make_trial(data, tmp_path / "cut", epochs=3)
    assert "last.pt" in caplog.text
    assert "resumes from the state before it, previous.pt" in caplog.text
    assert timeless(run(resumed)) == timeless(undisturbed)
    assert differences(resumed.train_state.state_dict(), whole.train_state.state_dict()) == []


def test_a_crash_between_the_two_renames_loses_nothing(data: DeviceImages, tmp_path: Path) -> None:
    run(make_trial(data, tmp_path, epochs=3), stop_after=2)
    (tmp_path / "last.pt").replace(tmp_path / "previous.pt")
    (tmp_path / "last.pt.17.partial").write_bytes(b"half a checkpoint")
    assert make_trial(data, tmp_path, epochs=3).epoch == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "previous.pt"]


def test_one_damaged_state_restarts_the_trial_and_two_fail_it(
    data: DeviceImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_trial(data, tmp_path, epochs=3), stop_after=1)
    (tmp_path / "last.pt").write_bytes(b"")
    assert make_trial(data, tmp_path, epochs=3).epoch == 0
    assert "the trial starts from its beginning" in caplog.text
    (tmp_path / "previous.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.pt: .*; .*previous\.pt: "):
        make_trial(data, tmp_path, epochs=3)


def test_saving_replaces_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.pt"
    save_checkpoint(path, {"epoch": 1})
    with path.open("rb") as reader:
        save_checkpoint(path, {"epoch": 2})
        assert torch.load(reader, weights_only=True)["epoch"] == 1
    assert read_checkpoint(path)["epoch"] == 2
    with pytest.raises(Exception, match=r"pickle|local object"):  # the wording differs by version of Python
        save_checkpoint(path, {"epoch": lambda: 3})
    assert read_checkpoint(path)["epoch"] == 2


def test_saving_waits_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, calls = shutil.disk_usage(tmp_path), []

    def full_at_first(_: Path) -> Any:
        calls.append(1)
        return usage._replace(free=0 if len(calls) < 3 else 2**30)

    monkeypatch.setattr(shutil, "disk_usage", full_at_first)
    monkeypatch.setattr(full_disk, "_PAUSE_S", 0.01)
    save_checkpoint(tmp_path / "last.pt", {"epoch": 1})
    assert read_checkpoint(tmp_path / "last.pt")["epoch"] == 1
    assert len(calls) == 3


def test_a_disk_that_stays_full_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_disk, "PATIENCE_S", 0.0)
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"weights": torch.zeros(10)})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4 * 2**20))
    with pytest.raises(StorageFullError, match=r"needs 9 MiB, and 4 MiB are free. Make room there"):
        save_checkpoint(path, {"optimizer": {"state": [torch.zeros(2**21)]}})
    assert torch.equal(read_checkpoint(path)["weights"], torch.zeros(10))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt"]
