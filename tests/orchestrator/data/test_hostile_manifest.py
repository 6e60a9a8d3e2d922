"""Hostile and damaged manifests and shards: a one-line error before any path is used or any image is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.data import dataset_facts, open_dataset
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.manifest import read_manifest
from orchestrator.data.storage import open_folder
from orchestrator.errors import DataError
from tests.support import tiny_archives
from tests.support.tiny_archives import photo_tree

Content = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare CIFAR-10 in shards of 20 images, which no test changes."""
    folder = tmp_path_factory.mktemp("whole")
    prepare("cifar10", tiny_archives.cifar10_binary(folder).place, str(folder / "cifar"), images_per_shard=20)
    return folder / "cifar"


@pytest.fixture
def cifar(whole: Path, tmp_path: Path) -> Path:
    """Copy the dataset, for a test to damage."""
    folder = tmp_path / "cifar"
    folder.mkdir()
    for path in whole.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit(folder: Path, change: Callable[[Content], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    """Return the error of opening a dataset for training, checked to be one printable line."""
    with pytest.raises(DataError) as caught:
        list(open_dataset(folder).splits.values())  # each split is opened
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert message.isprintable()
    return message


def at(*path: str | int) -> Callable[[Content, Any], None]:
    """Return a function that sets a nested field of a manifest."""

    def change(content: Content, value: Any) -> None:
        here: Any = content
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = value

    return change


SHARD = ("splits", "train", "shards", 0)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (("content_hash",), ["/root/.ssh", "../../.ssh", "", "..", "0" * 15, "0" * 17, "0" * 15 + "G", "A" * 16, 7]),
        (
            (*SHARD, "file"),
            ["authorized_keys", "../x-00000.arrow", "/x-00000.arrow", "a/x-00000.arrow", ".lock", "", 1],
        ),
        ((*SHARD, "images"), [-1, 1.5, "20", True, None, 1 << 70]),
        ((*SHARD, "bytes"), [-1, 1.5, "20", True, None, 1 << 70]),
        ((*SHARD, "content_hash"), ["../x", "", None]),
        (("splits", "train", "images"), [-1, "50", None, []]),
        (("splits", "train", "per_class"), [[-1] * 10, "5555555555", None, [5.0] * 10, {}]),
        (("splits", "train", "shards"), [None, {}, [None], ["train-00000.arrow"], 3]),
        (("splits", "train"), [None, [], "x"]),
        (("splits", "../up"), [{"images": 0, "per_class": [], "shards": []}]),
        (("splits",), [None, [], "x"]),
        (("image_shape",), [[3, 32], [3, 32, -32], [3, 0, 32], "3x3", [3, 32, 1 << 40], [3.5, 32, 32]]),
        (("class_names",), ["abcdefghij", [1] * 10, [""] * 10, None, [["a"]] * 10, ["x" * 2000] * 10]),
        (("mean",), [["0.5"] * 3, [2.0] * 3, [-1.0] * 3, None, [float("nan")] * 3, [float("inf")] * 3]),
        (("std",), [["0.5"] * 3, [2.0] * 3, None, [float("nan")] * 3]),
        (("kind",), ["other", None, 3]),
        (("name",), ["", None, 3]),
        (("source",), [None, [], {"place": 3}]),
        (("bad_images",), [None, {}, ["x"], [{"image": "x"}], [{"image": "x", "reason": "y", "more": 1}]]),
        (("more",), [1]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_every_field_is_typed_and_bounded(path: tuple[str | int, ...], values: list[Any], cifar: Path) -> None:
    original = (cifar / "manifest.json").read_text()
    for value in values:
        (cifar / "manifest.json").write_text(original)
        edit(cifar, lambda content, value=value: at(*path)(content, value))
        message = refusal(cifar)
        assert message.startswith(f"{cifar}/manifest.json: is no manifest of SpatialSweep's ("), (value, message)
        assert message.endswith("); prepare the dataset again")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["class_names"].__setitem__(1, "airplane"), "class airplane comes twice"),
        (lambda c: c["mean"].pop(), "mean has 2 values for images of 3 channels"),
        (lambda c: c.update(std=[0.2, 0, 0.2]), "a deviation of 0 in channel 1"),
        (lambda c: c.update(kind="encoded"), "kind 'encoded' and image_shape (3, 32, 32) contradict each other"),
        (lambda c: c.update(image_shape=None), "kind 'pixels' and image_shape None contradict each other"),
        (lambda c: c.update(image_shape=[3, 32768, 32768]), "images of (3, 32768, 32768) values are larger than any"),
        (lambda c: c["splits"]["train"].update(images=51), "split 'train' announces 51 images, its shards 50"),
        (lambda c: c["splits"]["train"]["per_class"].__setitem__(0, 9), "announces 50 images, its classes 54"),
        (lambda c: c["splits"]["train"].update(per_class=[]), "split 'train' counts 0 classes, 10 have names"),
        (
            lambda c: c["splits"]["test"]["shards"].append(c["splits"]["train"]["shards"][0]),
            "shard train-00000.arrow is listed 2 times",
        ),
        (lambda c: c.update(content_hash="0" * 16), "its hash 0000000000000000 is not that of its shards and classes"),
        (lambda c: c["class_names"].__setitem__(0, "[red]\n\x1b"), "is not that of its shards and classes"),
        (lambda c: c["splits"]["train"]["shards"][0].update(bytes=1), "train-00000.arrow has "),
    ],
)
def test_contradictions_are_reported(change: Callable[[Content], object], reason: str, cifar: Path) -> None:
    edit(cifar, change)
    assert reason in refusal(cifar)


@pytest.mark.parametrize("version", [0, 2, 99, 1 << 80])
def test_another_format_is_reported_by_its_number(version: int, cifar: Path) -> None:
    edit(cifar, lambda content: content.update(schema_version=version, fields_of_the_future=1))
    assert f"has format {version}, this version reads 1; prepare it again" in refusal(cifar)


NO_MANIFESTS = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "no UTF-8": b"\xff\xfe",
    "deep": b"[" * 1_000_000,
    "a long number": b"9" * 100_000,
    "only a version": b'{"schema_version": 1}',
    "a version in words": b'{"schema_version": "1"}',
    "a version that is true": b'{"schema_version": true}',
    "a fraction of a version": b'{"schema_version": 1.0}',
    "half a surrogate": b'{"schema_version": 1, "a": "\\ud800"}',
}


@pytest.mark.parametrize("raw", NO_MANIFESTS.values(), ids=NO_MANIFESTS.keys())
def test_an_invalid_manifest_is_reported(raw: bytes, cifar: Path) -> None:
    (cifar / "manifest.json").write_bytes(raw)
    assert "manifest.json: is no manifest of SpatialSweep's (" in refusal(cifar)
    with pytest.raises(DataError):  # and `prepare` leaves it where it is
        prepare("digits", None, str(cifar))
    assert (cifar / "manifest.json").read_bytes() == raw


def test_an_oversized_manifest_is_not_read(cifar: Path) -> None:
    with (cifar / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "manifest.json: has more than 67108864 bytes" in refusal(cifar)
    (cifar / "manifest.json").unlink()
    (cifar / "manifest.json").mkdir()
    assert "manifest.json: is no file" in refusal(cifar)


def test_every_cut_and_flip_is_a_one_line_error(cifar: Path) -> None:
    content = (cifar / "manifest.json").read_bytes()
    manifest = read_manifest(open_folder(cifar))
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(content), 300):
        damaged = bytearray(content[:place] if place % 2 else content)
        if not place % 2:
            damaged[place] ^= 1 << int(generator.integers(8))
        (cifar / "manifest.json").write_bytes(damaged)
        try:
            opened, found = open_dataset(cifar), read_manifest(open_folder(cifar))
        except DataError as error:
            assert "\n" not in str(error)
        else:  # only fields that are not used may differ
            assert found.splits == manifest.splits
            assert found.content_hash == opened.content_hash == manifest.content_hash


# --- shards ---


def rows(count: int, size: int = 3072, *, labels: Any = None) -> dict[str, pa.Array]:
    flat = pa.array(np.arange(count * size) % 251, pa.uint8())
    marks = pa.array(np.arange(count) % 10 if labels is None else labels, pa.int32())
    return {"image": pa.FixedSizeListArray.from_arrays(flat, size), "label": marks}


def write(folder: Path, name: str, columns: dict[str, pa.Array], **options: Any) -> None:
    """Replace a shard, and update its size in the manifest."""
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    settings = pa.ipc.IpcWriteOptions(**options)
    with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_file(sink, batch.schema, options=settings) as writer:
        writer.write_batch(batch)
    update_size(folder, name)


def update_size(folder: Path, name: str) -> None:
    def set_size(content: Content) -> None:
        for split in content["splits"].values():
            for shard in split["shards"]:
                if shard["file"] == name:
                    shard["bytes"] = (folder / name).stat().st_size

    edit(folder, set_size)


def with_null(column: pa.Array) -> pa.Array:
    return pa.array([*column.to_pylist()[:-1], None], column.type)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (rows(19), "has 19 images, not 20 as announced"),
        (rows(20, labels=[10] * 20), "has labels 0..10; there are 10 classes"),
        (rows(20, labels=[-1] * 20), "has labels -1..9; there are 10 classes"),
        (rows(20, labels=[0] * 20), "other numbers of images per class"),
        (rows(20, 3071), "has images of 3071 values, not 3 x 32 x 32 as announced"),
        ({**rows(20), "label": with_null(rows(20)["label"])}, "has images or labels that are missing (null)"),
        ({**rows(20), "image": with_null(rows(20)["image"])}, "has images or labels that are missing (null)"),
        ({**rows(20), "label": rows(20)["label"].cast(pa.int64())}, "it is no shard of pixels"),
        ({**rows(20), "label": rows(20)["label"].cast(pa.float32())}, "it is no shard of pixels"),
        (
            {"image": rows(20)["image"].cast(pa.list_(pa.int8(), 3072), safe=False)} | {"label": rows(20)["label"]},
            "is no",
        ),
        ({"label": rows(20)["label"], "image": rows(20)["image"]}, "it is no shard of pixels"),
        ({**rows(20), "more": rows(20)["label"]}, "it is no shard of pixels"),
        ({"image": pa.array([b"x"] * 20, pa.binary()), "label": rows(20)["label"]}, "it is no shard of pixels"),
    ],
)
def test_a_shard_of_another_form_is_reported_by_name(columns: dict[str, pa.Array], reason: str, cifar: Path) -> None:
    write(cifar, "train-00000.arrow", columns)
    message = refusal(cifar)
    assert reason in message
    assert "train-00000.arrow: " in message or "split 'train'" in message
    assert "Prepare the dataset again" in message


def test_a_compressed_shard_is_reported(cifar: Path) -> None:
    write(cifar, "train-00000.arrow", rows(20), compression="zstd")
    assert "train-00000.arrow: is compressed; shards of images are not" in refusal(cifar)


def test_offsets_beyond_the_data_are_found_before_they_are_followed(tmp_path: Path) -> None:
    prepare("folder", photo_tree(tmp_path), str(tmp_path / "to"))
    path = tmp_path / "to" / "train-00000.arrow"
    table = pa.ipc.open_file(path).read_all()
    offsets = np.frombuffer(table.column("image").chunk(0).buffers()[1], np.int32)[: len(table) + 1]
    content = path.read_bytes()
    place = content.index(offsets.tobytes())
    for change in ([1 << 30], [-5], [1 << 30, 5]):
        damaged = np.array(offsets)
        damaged[-len(change) :] = change
        path.write_bytes(content.replace(offsets.tobytes(), damaged.tobytes()))
        assert "train-00000.arrow: cannot be read as a shard of images (" in refusal(tmp_path / "to")
        result = CliRunner().invoke(app, ["data", "inspect", str(tmp_path / "to"), "--sheet", str(tmp_path / "s.png")])
        assert isinstance(result.exception, DataError)
    assert place


def test_inspect_rejects_damaged_shards_and_manifests(cifar: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"

    def message(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["data", "inspect", str(cifar), "--sheet", str(sheet), *arguments])
        assert isinstance(result.exception, DataError), result.output
        assert not sheet.is_file()
        return str(result.exception)

    write(cifar, "train-00000.arrow", rows(20, labels=[10] * 20))
    assert "train-00000.arrow: row 0 has label 10; there are 10 classes" in message()
    (cifar / "train-00000.arrow").unlink()
    assert "train-00000.arrow: cannot be opened" in message()
    edit(cifar, lambda content: content["splits"]["train"]["per_class"].pop())
    assert "counts 9 classes, 10 have names" in message("--json") or "its classes 45" in message("--json")
    sheet.mkdir()
    edit(cifar, lambda content: content["splits"].pop("train"))
    assert "the picture cannot be written" in message()


def test_an_intact_dataset_is_accepted(cifar: Path) -> None:
    assert len(open_dataset(str(cifar)).splits["train"]) == 50
    assert dataset_facts(None, str(cifar), 224).num_classes == 10
