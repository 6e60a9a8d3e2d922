"""Conversion to shards and a manifest: complete, resumable, with a list of unreadable images."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.data.conversion.prepare import prepare, run_here
from orchestrator.data.conversion.shards import ShardRecord, ShardTask
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.data.manifest import Manifest, read_manifest
from orchestrator.data.sources import Source
from orchestrator.data.storage import open_folder
from orchestrator.errors import DataError
from tests.support import tiny_archives
from tests.support.tiny_archives import images, photo_tree, png

ROOT = Path(__file__).parents[3]


class CutError(Exception):
    """Interruption of a conversion."""


def cut_after(shards: int, converted: list[str]) -> object:
    """Return a runner that fails after some shards, and records the converted ones."""

    def run(source: Source, tasks: Sequence[ShardTask]) -> Iterator[ShardRecord]:
        for number, record in enumerate(run_here(source, tasks)):
            converted.append(record.shard.file)
            if number == shards:
                raise CutError
            yield record

    return run


def icons(folder: Path, *, per_class: int) -> Path:
    """Write small PNG files of one size, in two classes and two splits."""
    root = folder / "icons"
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(per_class):
                (root / split / name / f"{number:02d}.png").write_bytes(png(images(1, (3, 12, 12), number)[0]))
    return root


def pixels(folder: Path, manifest: Manifest, split: str) -> np.ndarray:
    tables = [pa.ipc.open_file(folder / shard.file).read_all() for shard in manifest.splits[split].shards]
    column = pa.concat_tables(tables).column("image").combine_chunks()
    assert manifest.image_shape is not None
    return column.flatten().to_numpy().reshape(-1, *manifest.image_shape)


def test_small_images_become_pixels_with_their_facts(tmp_path: Path) -> None:
    tiny = tiny_archives.stl10(tmp_path)
    target = tmp_path / "deep" / "stl"
    seen: list[tuple[int, int]] = []
    manifest = prepare(
        "stl10", tiny.place, str(target), images_per_shard=8, progress=lambda done, whole: seen.append((done, whole))
    )
    assert {name: split.images for name, split in manifest.splits.items()} == {"train": 20, "test": 10, "unlabelled": 7}
    assert [shard.file for shard in manifest.splits["train"].shards] == [f"train-0000{n}.arrow" for n in range(3)]
    assert manifest.splits["train"].per_class == (2,) * 10
    assert manifest.splits["unlabelled"].per_class == ()
    for split, (wanted, _) in tiny.splits.items():
        np.testing.assert_array_equal(pixels(target, manifest, split), wanted)
    scaled = tiny.splits["train"][0] / 255
    np.testing.assert_allclose(manifest.mean, scaled.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(manifest.std, scaled.std(axis=(0, 2, 3)))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == ((0, 37), (37, 37))
    assert read_manifest(open_folder(target)) == manifest
    assert {path.name for path in target.iterdir()} == {
        "manifest.json",
        *(shard.file for split in manifest.splits.values() for shard in split.shards),
    }


def test_large_images_stay_files(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    manifest = prepare("folder", root, str(tmp_path / "to"), images_per_shard=5)
    assert (manifest.kind, manifest.image_shape) == ("encoded", None)
    stored = EncodedImages([tmp_path / "to" / shard.file for shard in manifest.splits["train"].shards])
    files = sorted((root / "train").rglob("*.jpg"))
    assert [stored[place] for place in range(len(stored))] == [file.read_bytes() for file in files]
    assert stored.labels.tolist() == np.repeat(np.arange(3), 4).tolist()
    np.testing.assert_allclose(manifest.mean, 0.5, atol=0.05)  # noise


def test_an_interrupted_conversion_resumes(tmp_path: Path) -> None:
    tiny = tiny_archives.cifar10_binary(tmp_path)
    whole = prepare("cifar10", tiny.place, str(tmp_path / "whole"), images_per_shard=12)
    target, first, second = str(tmp_path / "cut"), [], []
    with pytest.raises(CutError):
        prepare("cifar10", tiny.place, target, images_per_shard=12, run=cut_after(2, first))
    assert len(first) == 3
    with pytest.raises(DataError, match=r"no such file\. Make it: spatialsweep data prepare"):
        read_manifest(open_folder(target))
    (tmp_path / "cut" / first[0]).write_bytes(b"cut short")  # found again by its size
    manifest = prepare("cifar10", tiny.place, target, images_per_shard=12, run=cut_after(99, second))
    assert (len(second), second[0]) == (
        len(whole.splits["train"].shards) + len(whole.splits["test"].shards) - 2,
        first[0],
    )
    assert (manifest.content_hash, manifest.mean, manifest.splits) == (whole.content_hash, whole.mean, whole.splits)
    assert not (tmp_path / "cut" / ".parts").exists()


# The command line, which stops for ever within the seventh shard of three images.
HELD = """
import time
from orchestrator.cli.main import main
from orchestrator.data.conversion import shards

decode, left = shards.decode_pixels, 20

def held(*arguments, **settings):
    global left
    left -= 1
    if left < 0:
        time.sleep(600)
    return decode(*arguments, **settings)

shards.decode_pixels = held
main()
"""


@pytest.mark.parametrize(("end", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_killed_command_resumes_when_called_again(end: int, code: int, tmp_path: Path) -> None:
    root = icons(tmp_path, per_class=15)
    target = tmp_path / "to"
    command = [sys.executable, "-c", HELD, "data", "prepare", "folder", "--from", str(root), "--to", str(target)]
    process = subprocess.Popen([*command, "--images-per-shard", "3"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(list((target / ".parts").glob("*.json"))) < 6:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(end)
    _, message = process.communicate(timeout=120)
    assert process.returncode == code
    assert ("repeat the same command to resume" in message) == (end == signal.SIGINT)
    assert not (target / "manifest.json").exists()
    converted: list[str] = []
    manifest = prepare("folder", root, str(target), images_per_shard=3, run=cut_after(9999, converted))
    assert len(converted) == 20 - 6
    assert manifest.content_hash == prepare("folder", root, str(tmp_path / "whole"), images_per_shard=3).content_hash
    assert {path.name for path in target.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


def test_a_prepared_dataset_is_neither_converted_again_nor_overwritten(tmp_path: Path) -> None:
    target, converted = str(tmp_path / "to"), []
    manifest = prepare("digits", None, target)
    assert prepare("digits", None, target, run=cut_after(0, converted)) == manifest
    assert converted == []
    place = tiny_archives.mnist(tmp_path).place
    with pytest.raises(DataError, match="holds digits, made from other files or cut otherwise"):
        prepare("mnist", place, target)


def test_unreadable_images_are_counted_listed_and_rejected(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    bad = {
        "train/cat/2.jpg": b"words",
        "train/owl/0.jpg": b"",
        "val/dog/3.jpg": (root / "val/dog/3.jpg").read_bytes()[:900],
    }
    for name, content in bad.items():
        (root / name).write_bytes(content)
    target = str(tmp_path / "to")
    with pytest.raises(DataError) as caught:
        prepare("folder", root, target, max_bad=2)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(
        "3 images cannot be read, 2 are allowed. Fetch them again, or leave them out with --max-bad 3:"
    )
    assert [line.strip().partition(":")[0] for line in lines[1:]] == list(bad)
    converted: list[str] = []
    manifest = prepare("folder", root, target, max_bad=3, run=cut_after(99, converted))
    assert converted == []  # what was converted the first time is kept
    assert [image.image for image in manifest.bad_images] == list(bad)
    assert manifest.splits["train"].per_class == (3, 4, 3)
    assert manifest.splits["test"].per_class == (4, 3, 4)


def test_a_mended_image_of_the_same_size_is_read_again(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    whole = prepare("folder", root, str(tmp_path / "whole"), images_per_shard=4)
    path = root / "train/cat/2.jpg"
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))  # as a download that was interrupted leaves it
    target = str(tmp_path / "to")
    with pytest.raises(DataError, match=r"1 images cannot be read, 0 are allowed\. Fetch them again"):
        prepare("folder", root, target, images_per_shard=4)
    path.write_bytes(content)
    converted: list[str] = []
    manifest = prepare("folder", root, target, images_per_shard=4, run=cut_after(99, converted))
    assert converted == ["train-00000.arrow"]  # the other shards are kept
    assert (manifest.bad_images, manifest.content_hash) == ((), whole.content_hash)


def test_a_small_image_of_another_size_is_unreadable(tmp_path: Path) -> None:
    root = icons(tmp_path, per_class=20)
    (root / "train" / "b" / "13.png").write_bytes(png(images(1, (3, 12, 11), 0)[0]))
    with pytest.raises(DataError, match=r"train/b/13.png: has the shape \(3, 12, 11\), not \(3, 12, 12\)"):
        prepare("folder", root, str(tmp_path / "to"))


def test_the_hash_follows_images_and_labels(tmp_path: Path) -> None:
    def hash_of(root: Path, number: int) -> str:
        return prepare("folder", root, str(tmp_path / str(number))).content_hash

    root = photo_tree(tmp_path)
    before = hash_of(root, 0)
    assert hash_of(root, 1) == before
    (root / "train/cat/0.jpg").rename(root / "train/dog/9.jpg")
    moved = hash_of(root, 2)
    (root / "train/dog/9.jpg").write_bytes((root / "train/dog/0.jpg").read_bytes())
    assert len({before, moved, hash_of(root, 3)}) == 3


def test_the_commands(tmp_path: Path) -> None:
    def call(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    tiny = tiny_archives.cifar100_python(tmp_path)
    target, sheet = str(tmp_path / "to"), tmp_path / "pictures" / "sheet.png"
    message = call("prepare", "cifar100", "--from", str(tiny.place), "--to", target)
    assert message.startswith(f"{target}: cifar100, 200 train, 100 test, 100 classes, ")
    shown = call("inspect", target, "--sheet", str(sheet))
    assert "pixels: 3 x 32 x 32" in shown
    assert "fine07" in shown
    assert "80 more" in shown
    with Image.open(sheet) as picture:
        assert picture.width > 1000
        assert len(picture.getcolors(picture.width * picture.height) or ()) > 1000
    content = json.loads(call("inspect", target, "--json", "--sheet", str(sheet)))
    assert content["schema_version"] == 1
    assert content["splits"]["train"]["per_class"] == [2] * 100
    prepare("folder", photo_tree(tmp_path), str(tmp_path / "photos-to"))
    call("inspect", str(tmp_path / "photos-to"), "--sheet", str(sheet))


def test_an_invalid_manifest_is_an_error_of_the_command(tmp_path: Path) -> None:
    prepare("digits", None, str(tmp_path))
    path = tmp_path / "manifest.json"
    content = path.read_text()
    for damaged in ("words", "[]", "{}", content.replace('"mean"', '"man"')):
        path.write_text(damaged)
        with pytest.raises(DataError, match=r"manifest\.json: is no manifest of SpatialSweep's"):
            read_manifest(open_folder(tmp_path))
    path.write_text(content.replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(DataError, match="has format 9, this version reads 1; prepare it again"):
        read_manifest(open_folder(tmp_path))
    with pytest.raises(DataError, match=r"ftp://x/y: cannot be opened .* Use a path, or a URI such as s3://bucket"):
        open_folder("ftp://x/y")
