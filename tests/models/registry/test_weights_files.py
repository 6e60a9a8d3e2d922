"""Files of weights as training scripts write them, and files that are no weights."""

import argparse
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import models
from models.registry.authors.loading import family_of

SMALL = "sb_resnet29_cifar"


def theirs(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network as its authors would have saved it."""
    ours = network.state_dict()
    return {
        key: entry.to_authors(ours[entry.ours]).clone() for key, entry in family_of(network).entries(network).items()
    }


def assert_same(a: nn.Module, b: nn.Module, *, but: str | tuple[str, ...] = "nothing") -> None:
    ours = b.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in a.state_dict().items() if not key.startswith(but))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return models.create_model(SMALL, num_classes=6)


def test_a_file_of_lesa_with_numbers_of_numpy(tmp_path: Path) -> None:
    network = models.create_model("lesa_resnet26_cifar", num_classes=3, image_size=16)
    state = {f"module.{key}": value for key, value in theirs(network).items()}
    state |= {"module.layer3.1.conv2.flatten_index": torch.zeros(16 * 16, dtype=torch.long)}
    accuracies = {"epoch": np.int64(95), "best": np.float64(79.55), "curve": np.arange(3.0), "flag": np.bool_(True)}
    path = tmp_path / "checkpoint"
    torch.save({"net": state, "optim": {"lr": np.float32(0.1), "state": {}}, **accuracies}, path)
    assert b"numpy" in path.read_bytes()
    assert_same(models.load_authors_checkpoint("lesa_resnet26_cifar", path), network)


def test_names_of_older_numpy_are_not_looked_up(tmp_path: Path, small: nn.Module) -> None:
    path = tmp_path / "old.pth"
    torch.save({"state_dict": theirs(small), "top1": np.float64(0.5)}, path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert_same(models.load_authors_checkpoint(SMALL, path), small)


@pytest.mark.parametrize("positions", ["detection", "classification"])
def test_position_tables_of_lesa_choose_the_network(positions: str) -> None:
    built = models.create_model(
        "lesa_resnet26_cifar", num_classes=2, image_size=(16, 8), position_embedding="detection"
    )
    if positions == "classification":
        built = models.create_model("lesa_resnet26_cifar", num_classes=2, image_size=24)
    loaded = models.load_authors_checkpoint("lesa_resnet26_cifar", theirs(built))
    assert_same(loaded, built)
    assert ("rel_height" in " ".join(loaded.state_dict())) == (positions == "detection")


def test_a_backbone_of_openmmlab(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = models.create_model("fcvit_micro_cifar", num_classes=5)
    state = {f"backbone.{key}": value for key, value in theirs(network).items() if not key.startswith(("head", "norm"))}
    others = {"neck.conv.weight": torch.zeros(1), "backbone.norm0.weight": torch.zeros(1)}
    others |= {f"decode_head.{index}": torch.zeros(1) for index in range(3)}
    path = tmp_path / "epoch_12.pth"
    torch.save({"meta": {"CLASSES": ("cat",), "epoch": 12}, "state_dict": state | others, "optimizer": {}}, path)
    fresh = models.create_model("fcvit_micro_cifar", num_classes=5)
    head = fresh.get_submodule("head.fc").weight.clone()
    fit = models.load_weights(fresh, models.read_weights(path))
    assert fit.new_head
    assert fit.notes == (
        "only the backbone of the checkpoint is used; left out: decode_head (3), neck (1)",
        "the checkpoint has no classifier: the network's keeps its random weights, and so do norm.weight, norm.bias",
        "left out, as they have no effect on the result: norm0.weight",
    )
    assert_same(fresh, network, but=("head", "norm"))
    assert torch.equal(fresh.get_submodule("head.fc").weight, head)
    models.load_authors_checkpoint("fcvit_micro_cifar", path)
    assert "the checkpoint has no classifier" in caplog.text


def test_another_number_of_classes_keeps_the_new_classifier(small: nn.Module) -> None:
    fresh = models.create_model(SMALL, num_classes=3)
    head = fresh.get_submodule("head.fc").weight.clone()
    fit = models.load_weights(fresh, models.Weights(theirs(small)))
    assert fit.notes == ("the checkpoint has 6 classes and the network 3: its classifier keeps its random weights",)
    assert_same(fresh, small, but="head.fc")
    assert torch.equal(fresh.get_submodule("head.fc").weight, head)


@pytest.mark.parametrize("positions", ["detection", "classification"])
def test_position_tables_of_another_size_of_images_start_anew(positions: str) -> None:
    options = {"num_classes": 2, "position_embedding": positions}
    source = models.create_model("lesa_resnet26_cifar", image_size=24, **options)
    for state in (theirs(source), source.state_dict()):
        fresh = models.create_model("lesa_resnet26_cifar", image_size=16, **options)
        before = {key: value.clone() for key, value in fresh.state_dict().items()}
        fit = models.load_weights(fresh, models.Weights(state))
        assert not fit.new_head
        assert fit.notes[0].startswith("tables for another size of images keep their random weights: ")
        for key, value in fresh.state_dict().items():
            is_table = ".flattened.table" in key or ".axial.rel" in key
            assert torch.equal(value, before[key] if is_table else source.state_dict()[key]), key


def test_our_own_names_and_networks_of_timm(small: nn.Module) -> None:
    fresh = models.create_model(SMALL, num_classes=6)
    assert not models.load_weights(fresh, models.Weights(small.state_dict())).new_head
    assert_same(fresh, small)
    source, target = timm.create_model("test_resnet", num_classes=4), timm.create_model("test_resnet", num_classes=4)
    assert not models.load_weights(target, models.Weights(source.state_dict())).new_head
    assert_same(target, source)


def test_a_backbone_of_ones_own_is_no_prefix() -> None:
    def make(classes: int) -> nn.Module:
        network = nn.Sequential()
        network.add_module("backbone", nn.Linear(2, 3))
        network.add_module("head", nn.Linear(3, classes))
        return network

    source, target = make(2), make(2)
    models.load_weights(target, models.Weights(source.state_dict()))
    assert_same(target, source)


@pytest.mark.parametrize(("kind", "value"), [(None, 2.0), ("ema", 2.0), ("plain", 1.0)])
def test_average_or_plain_weights(kind: str | None, value: float) -> None:
    plain, average = {"a": torch.ones(1)}, {"module.a": torch.full((1,), 2.0)}
    for content in ({"state_dict": plain, "state_dict_ema": average}, {"model": plain, "model_ema": average}):
        found = models.read_weights(content, weights=kind)
        assert float(found.tensors["a"]) == value
        assert found.kind == (kind or "ema")
        assert "was not read" in found.notes[0]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ({"net": {"a": torch.ones(1)}}, "ema", "holds no moving average of the weights, only net; use weights plain"),
        ({"a": torch.ones(1)}, "ema", "only a state dict alone; use weights plain"),
        ({"model_ema": {"a": torch.ones(1)}}, "plain", "only model_ema; use weights ema"),
        ({"a": torch.ones(1)}, "best", "weights: got 'best'; use one of ema, plain"),
        ({"a": torch.ones(1), "module.a": torch.ones(1)}, None, "holds some entries twice"),
        ({"epoch": 3, "b\n": 1}, None, r"no state dict found: it holds b\\n, epoch"),
    ],
)
def test_content_that_does_not_hold_the_asked_weights(content: Any, kind: str | None, message: str) -> None:
    with pytest.raises(models.AuthorsCheckpointError, match=message):
        models.read_weights(content, weights=kind)


def gz(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())


def folder_of_weights(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lesa/checkpoint", b"x")


def cut(path: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def cut_legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder; name the file in it"),
        (lambda path: path.write_bytes(b""), "is empty; download it again"),
        (lambda path: path.write_text("\n <!DOCTYPE html><html>Virus scan"), "is a web page, not weights"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a Python pickle, which can run code"),
        (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0 a photo"), "is no file of torch.save or safetensors"),
        (cut, "is cut short; download it again"),
        (cut_legacy, "download it again"),
        (gz, "is a gzip archive; unpack it"),
        (tar, "is a tar archive; unpack it"),
        (folder_of_weights, "is a zip archive of lesa/checkpoint; unpack it"),
        (lambda path: torch.save(nn.Linear(1, 1), path), "holds an object of torch.nn.modules.linear.Linear"),
        (lambda path: torch.save({"state_dict": {}, "net": 3}, path), "no state dict found: it is empty"),
    ],
)
def test_files_that_are_no_weights_are_one_line(write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    write(path)
    with pytest.raises(models.AuthorsCheckpointError) as caught:
        models.read_weights(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text


def test_a_pickled_call_in_an_entry_is_not_carried_out(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "arguments": argparse.Namespace(call=Call())}, path)
    with pytest.raises(models.AuthorsCheckpointError, match="which could run code and is not read"):
        models.read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_older_files_and_safetensors(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0)}
    torch.save({"model": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "new.safetensors")
    for name in ("old.pth", "new.safetensors"):
        assert torch.equal(models.read_weights(tmp_path / name).tensors["a"], state["a"])
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(models.AuthorsCheckpointError, match=r"bad.safetensors: is damaged"):
        models.read_weights(tmp_path / "bad.safetensors")


def test_a_mismatch_names_ten_entries_and_counts_the_rest(small: nn.Module) -> None:
    state = dict(list(theirs(small).items())[20:])
    state["conv1\nx"] = torch.zeros(1)
    with pytest.raises(models.AuthorsCheckpointError) as caught:
        models.load_authors_checkpoint(small, state)
    lines = str(caught.value).splitlines()
    assert len(caught.value.missing) == 20
    assert len(lines) == 12
    assert lines[1].startswith("  missing: conv1.weight")
    assert lines[-1] == "  and 11 more; altogether 20 missing, 1 unexpected"
