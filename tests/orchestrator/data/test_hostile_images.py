"""Unusual and hostile images, and trees with other files: decoded correctly, rejected, or reported."""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from typer.testing import CliRunner

from orchestrator.cli.main import app, main
from orchestrator.data import dataset_facts
from orchestrator.data.conversion.contact_sheet import contact_sheet
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.decoding import EncodedImage, ImageError, decode_image
from orchestrator.data.encoded_images import EncodedImages, write_encoded_shard
from orchestrator.data.manifest import Manifest, read_manifest
from orchestrator.data.storage import open_folder
from orchestrator.errors import DataError
from orchestrator.training.images.image_loader import ImageLoader, ImageTransforms, SampleKey
from tests.support.tiny_archives import images, photo_tree, png


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(content: bytes) -> list[list[int]]:
    """Return all pixels in row order."""
    return np.asarray(decode_image(content)).reshape(-1, 3).tolist()


GREY16 = Image.fromarray(np.array([[0, 257], [32768, 65535]], np.uint16))
GREY16_AS_RGB = [[0] * 3, [1] * 3, [128] * 3, [255] * 3]
RED = (200, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    assert rgb(encoded(GREY16, kind)) == GREY16_AS_RGB


def test_sixteen_bit_grey_of_a_portable_map_is_scaled() -> None:
    big_endian = np.asarray(GREY16).astype(">u2").tobytes()
    assert rgb(b"P5 2 2 65535\n" + big_endian) == GREY16_AS_RGB
    assert rgb(b"P5 1 1 4095\n\x0f\xff") == [[255] * 3]


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.fromarray(np.zeros((2, 2), np.int32)), "holds 32-bit integers, of unknown range"),
        (Image.fromarray(np.ones((2, 2), np.float32)), "holds floating-point values, of unknown range"),
        (Image.new("LAB", (2, 2)), "holds CIELAB values"),
    ],
)
def test_values_of_unknown_range_are_rejected_by_name(picture: Image.Image, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(encoded(picture, "TIFF"))


def transparent(mode: str) -> bytes:
    """Return a fully transparent red pixel, then an opaque one."""
    pixels = np.array([[[*RED, 0], [*RED, 255]]], np.uint8)
    picture = Image.fromarray(pixels)
    if mode == "P":
        palette = Image.new("P", (2, 1))
        palette.putpalette([*RED, *RED])
        palette.putdata([0, 1])
        return encoded(palette, "PNG", transparency=0)
    if mode == "RGB":
        return encoded(Image.fromarray(np.array([[[1, 2, 3], RED]], np.uint8)), "PNG", transparency=(1, 2, 3))
    return encoded(picture.convert(mode), "PNG")


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB", "LA"])
def test_transparent_pixels_become_white(mode: str) -> None:
    luminance = [60] * 3
    assert rgb(transparent(mode)) == [[255] * 3, luminance if mode == "LA" else list(RED)]


def test_half_transparent_is_half_white() -> None:
    assert rgb(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), "PNG")) == [[204] * 3]


def test_cmyk_becomes_rgb() -> None:
    picture = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    np.testing.assert_allclose(rgb(encoded(picture, "JPEG", quality=100))[0], (0, 255, 255), atol=3)
    np.testing.assert_allclose(rgb(encoded(picture, "TIFF"))[0], (0, 255, 255), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_pictures_are_upright(orientation: int, kind: str) -> None:
    upright = images(1, (3, 4, 6), 0)[0].transpose(1, 2, 0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    np.testing.assert_array_equal(np.asarray(decode_image(content)), upright)


def test_damaged_exif_leaves_the_picture(recwarn: pytest.WarningsRecorder) -> None:
    content = encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    np.testing.assert_allclose(rgb(content)[0], RED, atol=3)
    assert not recwarn.list


def bomb() -> bytes:
    """Return a PNG whose header announces 400 million pixels."""
    content = bytearray(png(images(1, (3, 8, 8), 0)[0]))
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1, "subsampling": 0}])
def test_damaged_files_are_decoded_or_rejected_alike_by_both_decoders(options: dict[str, Any]) -> None:
    whole = encoded(Image.fromarray(load_sample_image("china.jpg")[200:263, 300:349]), "JPEG", **options)
    drawn = np.random.default_rng(0)
    outcomes = set()
    for number in range(80):
        content = bytearray(whole)
        if number % 4:
            for place in drawn.integers(2 if number % 2 else 620, len(content), number % 3):
                content[place] = drawn.integers(0, 256)
        else:
            del content[drawn.integers(2, len(content)) :]
        seen: list[Any] = []
        for decode in (decode_image, lambda given: EncodedImage(given).pixels()):
            try:
                seen.append(np.asarray(decode(bytes(content))))
            except ImageError as error:
                seen.append(str(error))
        np.testing.assert_array_equal(*seen)
        outcomes.add(type(seen[0]))
    assert outcomes == {np.ndarray, str}


def test_a_jpeg_file_that_announces_too_many_pixels_is_rejected_before_it_is_decoded() -> None:
    content = bytearray(encoded(Image.new("RGB", (16, 16), RED), "JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match="more than 89478485 pixels"):
        EncodedImage(bytes(content))


BAD: dict[str, tuple[bytes, str]] = {
    "bomb.png": (bomb(), "pixels"),
    "large.png": (bomb()[:16] + (10_000).to_bytes(4, "big") * 2 + bomb()[24:], "is no image file"),
    "words.jpg": (b"words", "is no image file"),
    "empty.png": (b"", "is no image file"),
    "cut.png": (png(images(1, (3, 100, 100), 0)[0])[:-2000], "truncated"),
    "head.jpg": (b"\xff\xd8\xff\xe0", "is no image file"),
    "float.tif": (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "holds floating-point values"),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "is no image file"),
}


def test_single_bad_images_are_listed_and_may_be_left_out(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    for name, (content, _) in BAD.items():
        (root / "train" / "cat" / name).write_bytes(content)
    undecodable = os.fsencode(root / "train" / "cat") + b"/caf\xe9.jpg"
    Path(os.fsdecode(undecodable)).write_bytes((root / "train/cat/0.jpg").read_bytes())
    with pytest.raises(DataError) as caught:
        prepare("folder", root, str(tmp_path / "to"))
    message = str(caught.value)
    message.encode()  # no surrogates
    assert f"{len(BAD) + 1} images cannot be read, 0 are allowed" in message
    for name, (_, reason) in BAD.items():
        assert any(f"train/cat/{name}: " in line and reason in line for line in message.splitlines()), (name, message)
    assert "train/cat/caf\\xe9.jpg: has a name that is not UTF-8; rename it" in message
    manifest = prepare("folder", root, str(tmp_path / "to"), max_bad=len(BAD) + 1)
    assert manifest.splits["train"].images == 12
    assert read_manifest(open_folder(tmp_path / "to")) == manifest


def test_preparation_training_and_contact_sheet_decode_alike(tmp_path: Path) -> None:
    """One function decodes 16-bit, transparent and rotated images everywhere."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, :20] = 255
    turned = encoded(Image.fromarray(wide), "PNG", exif=exif)  # upright: white above black
    deep = encoded(Image.fromarray(np.full((40, 40), 32768, np.uint16)), "PNG")
    write_encoded_shard(tmp_path / "s.arrow", [(turned, 0), (deep, 0)])
    loader = ImageLoader(
        EncodedImages([tmp_path / "s.arrow"]),
        ImageTransforms(image_size=16, crop_pct=1.0, interpolation="bilinear").for_evaluation(),
        processes=0,
    )
    ((seen, _),) = loader.batches([[SampleKey(0), SampleKey(1)]])
    assert (seen[0, :, :6].min(), seen[0, :, -6:].max()) == (255, 0)
    assert torch.equal(seen[1].unique(), torch.tensor([128], dtype=torch.uint8))
    root = photo_tree(tmp_path)
    for number in range(4):
        (root / "train" / "cat" / f"{number}.jpg").write_bytes(deep)
    manifest = prepare("folder", root, str(tmp_path / "to"))
    assert manifest.mean[0] == pytest.approx(0.5, abs=0.05)
    contact_sheet(open_folder(tmp_path / "to"), manifest)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_of_equal_pixels_is_rejected(split: str, tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    for path in (root / split).rglob("*.jpg"):
        path.write_bytes(encoded(Image.new("RGB", (120, 100), "white"), "JPEG"))
    message = "train" if split == "train" else "test"
    with pytest.raises(
        DataError, match=rf"split '{message}' has a deviation of 0 in channel 0: its pixels are all alike"
    ):
        prepare("folder", root, str(tmp_path / "to"))
    assert not (tmp_path / "to" / "manifest.json").exists()


def prepared(root: Path) -> tuple[Manifest, list[str]]:
    notices: list[str] = []
    return prepare("folder", root, f"{root}-to", notice=notices.append), notices


def test_ignored_files_are_counted_and_named(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    cat = root / "train" / "cat"
    for number in range(5):
        (cat / f"{number}.heic").write_bytes(b"x")
    (cat / "noending").write_bytes(b"x")
    (cat / "dangling.jpg").symlink_to("nowhere.jpg")
    (cat / "linked").symlink_to(root / "train" / "dog")
    (cat / ".hidden").mkdir()
    (root / "train" / "readme.md").write_text("x")
    (root / "extra").mkdir()
    os.mkfifo(cat / "pipe.png")
    _, notices = prepared(root)
    assert sorted(notices) == sorted(
        f"{root}: passed over {text}"
        for text in (
            f"5 files with the ending .heic: {names_in(cat, '.heic')} and 2 more",
            "1 files without an ending: train/cat/noending",
            "1 links to nothing: train/cat/dangling.jpg",
            "1 links to folders: train/cat/linked",
            "1 hidden folders: train/cat/.hidden",
            "1 files beside the folders of classes: train/readme.md",
            "1 folders that are no split (train, test, val, valid or validation): extra",
            "1 that are neither files nor folders: train/cat/pipe.png",
        )
    )


def names_in(folder: Path, ending: str) -> str:
    """Return the names in a notice; their order is that of the file system."""
    with os.scandir(folder) as entries:
        return ", ".join([f"train/cat/{entry.name}" for entry in entries if entry.name.endswith(ending)][:3])


def test_clutter_is_ignored_without_notice(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    content = (root / "train/cat/0.jpg").read_bytes()
    for place in (root, root / "train", root / "train" / "cat"):
        for folder in (".ipynb_checkpoints", ".Trash-1000", "@eaDir", "__MACOSX"):
            (place / folder).mkdir()
            (place / folder / "copy.jpg").write_bytes(content)
        for name in ("._0.jpg", "Thumbs.db", "desktop.ini", ".DS_Store"):
            (place / name).write_bytes(b"x")
    manifest, notices = prepared(root)
    assert notices == []
    assert manifest.class_names == ("cat", "dog", "owl")
    assert manifest.splits["train"].per_class == (4, 4, 4)


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".JPG"])
def test_other_endings_of_jpeg_are_read(ending: str, tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    (root / "train/cat/0.jpg").rename(root / f"train/cat/0{ending}")
    assert prepared(root)[0].splits["train"].per_class == (4, 4, 4)


def test_avif_is_read(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    (root / "train/cat/9.avif").write_bytes(encoded(Image.fromarray(images(1, (3, 90, 90), 3)[0].T), "AVIF"))
    manifest, notices = prepared(root)
    assert (manifest.splits["train"].per_class, notices) == ((5, 4, 4), [])


def test_valid_is_a_validation_split(tmp_path: Path) -> None:
    root = photo_tree(tmp_path, splits=("train", "valid", "test"))
    assert set(prepared(root)[0].splits) == {"train", "validation", "test"}
    (root / "val").symlink_to(root / "valid")
    with pytest.raises(DataError, match="has images both in val and in valid; keep one of these folders"):
        prepared(root)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: (root / "train/cat").rename(root / "train/caf\udce9"), r"class caf\\xe9 is not written in UTF-8"),
        (lambda root: (root / "train/cat").rename(root / "train/a\x1b[31m"), r"class a\\x1b\[31m is too long or holds"),
        (lambda root: [(root / "train" / name).mkdir() for name in ("\xe9", "e\u0301")], r"\(NFC and NFD\)"),
        (lambda root: [path.unlink() for path in (root / "train/cat").iterdir()], "'train' has no image of cat"),
        (lambda root: [path.unlink() for path in (root / "val/dog").iterdir()], "'test' has no image of dog"),
        (lambda root: [(root / f"train/owl/{n}.jpg").unlink() for n in range(3)], "has a single image of owl"),
    ],
)
def test_datasets_that_no_sweep_accepts_are_rejected_before_any_conversion(
    change: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    root = photo_tree(tmp_path)
    change(root)
    with pytest.raises(DataError, match=reason) as caught:
        prepared(root)
    str(caught.value).encode()
    assert not Path(f"{root}-to").exists()


def test_classes_spelt_differently_in_another_split_are_reported(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    (root / "train/cat").rename(root / "train/\xe9")
    (root / "val/cat").rename(root / "val/e\u0301")
    with pytest.raises(DataError, match=r"is not among those of train\. Its letters are spelt otherwise there"):
        prepared(root)


def test_a_class_without_readable_images_is_rejected_at_the_end(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    for number in range(3):
        (root / f"train/owl/{number}.jpg").write_bytes(b"words")
    with pytest.raises(DataError, match=r"cannot be trained on: split 'train' has a single image of owl"):
        prepare("folder", root, str(tmp_path / "to"), max_bad=3)


@pytest.mark.parametrize("name", ["[red]", "[/]", "[bold]x[/bold]", "a[/red]"])
def test_names_are_printed_as_they_are(name: str, tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    for split in ("train", "val"):
        (root / split / "cat").rename(root / split / name.replace("/", "\N{DIVISION SLASH}"))
    target = tmp_path / name.replace("/", "")
    for arguments in (
        ["prepare", "folder", "--from", str(root), "--to", str(target)],
        ["inspect", str(target), "--sheet", str(tmp_path / "sheet.png")],
    ):
        result = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False, env={"COLUMNS": "200"})
        assert result.exit_code == 0
    assert name.replace("/", "\N{DIVISION SLASH}") in result.output
    manifest = (target / "manifest.json").read_text()
    assert manifest


def test_small_images_that_are_not_square_stay_files(tmp_path: Path) -> None:
    root = photo_tree(tmp_path)
    for number, path in enumerate(root.rglob("*.jpg")):
        path.write_bytes(png(images(1, (3, 12, 10), number)[0], "JPEG"))
    manifest, _ = prepared(root)
    assert (manifest.kind, manifest.image_shape) == ("encoded", None)
    assert dataset_facts(None, f"{root}-to", 16).image_size == 16


def test_the_manifest_is_readable_for_any_name_of_the_source(tmp_path: Path) -> None:
    root = photo_tree(tmp_path).rename(tmp_path / "caf\udce9")
    manifest = prepare("folder", root, str(tmp_path / "to"))
    assert manifest.source["place"].endswith("caf\\xe9")
    assert read_manifest(open_folder(tmp_path / "to")) == manifest


@pytest.mark.parametrize("command", [["inspect", "nowhere"], ["prepare", "folder", "--from", "nowhere", "--to", "to"]])
def test_data_that_cannot_be_read_ends_a_command_with_2(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["spatialsweep", "data", *command])
    monkeypatch.setattr(app, "registered_groups", [*app.registered_groups])  # `main` adds to both
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("spatialsweep: nowhere")
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
