"""Subjects of the fuzz test of files: a whole file of each kind, its place in a dataset, and its use."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torchvision.io  # noqa: F401 - seconds that are no hang of the first file that it decodes
from PIL import Image

from orchestrator.data import open_dataset
from orchestrator.data.conversion.contact_sheet import contact_sheet
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.decoding import EncodedImage, ImageError, decode_image, image_size
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.data.manifest import read_manifest
from orchestrator.data.manifest_checks import contradictions
from orchestrator.data.sources.archives import unpack
from orchestrator.data.storage import open_folder
from orchestrator.errors import DataError
from tests.support import tiny_archives

__all__ = ["REFUSALS", "Subject", "subjects"]

REFUSALS = (DataError, ImageError)

Use = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """File to damage.

    Args:
        kind: Name of its kind.
        number: Number of the subject, part of the seed of its damage.
        content: Content of the whole file.
        place: Function that puts a damaged file into a folder and returns a function that reads it.
        check: Function that uses the accepted content of a folder.
        structured: Whether the file is JSON.
    """

    kind: str
    number: int
    content: bytes
    place: Callable[[bytes, Path], Use]
    check: Callable[[Path], object]
    structured: bool = False


def subjects(folder: Path) -> list[Subject]:
    """Create whole files of every kind.

    Args:
        folder: Folder for the datasets they belong to.
    """
    folder.joinpath("whole").mkdir()
    made = [*_archives(folder / "whole"), *_batches(folder / "whole"), *_pictures(), *_prepared(folder / "whole")]
    return [Subject(kind, number, *rest) for number, (kind, *rest) in enumerate(made)]


def _used(place: Path) -> None:
    """Open a dataset as training and `inspect` do, and read every image."""
    target = place / "to"
    folder = open_folder(target)
    manifest = read_manifest(folder)
    if faults := contradictions(manifest):
        raise DataError("; ".join(faults))
    contact_sheet(folder, manifest)
    found = open_dataset(str(target))
    for part in found.splits.values():
        if isinstance(part, EncodedImages):
            for content in part:
                decode_image(content)
            continue
        pixels = np.asarray(part.images)
        assert pixels.dtype == np.uint8
        assert len(pixels) == len(part.labels)
        assert 0 <= part.labels.min() <= part.labels.max() < len(found.class_names)


def _unchanged(whole: str) -> Callable[[Path], object]:
    """Return a check of a dataset whose format has a checksum: its content is unchanged.

    Args:
        whole: Hash of the content of the whole dataset.
    """

    def check(place: Path) -> None:
        _used(place)
        found = read_manifest(open_folder(place / "to")).content_hash
        assert found == whole, f"the checksum was not checked: {found}"

    return check


def _archives(folder: Path) -> list[tuple]:
    def reader(name: str, file: str) -> Callable[[bytes, Path], Use]:
        def place(content: bytes, case: Path) -> Use:
            (case / file).write_bytes(content)
            return lambda: prepare(name, case / file, str(case / "to"), scratch=case)

        return place

    cifar, tiny = tiny_archives.cifar10_binary(folder).place, tiny_archives.tiny_imagenet(folder).place
    packed = cifar.read_bytes()
    plain = gzip.decompress(packed)
    cifar_hash = prepare("cifar10", cifar, str(folder / "cifar-to")).content_hash
    tiny_hash = prepare("tinyimagenet", tiny, str(folder / "tiny-to")).content_hash
    return [
        ("tar.gz", packed, reader("cifar10", "a.tar.gz"), _unchanged(cifar_hash)),
        ("tar", plain, reader("cifar10", "a.tar"), _used),
        ("zip", tiny.read_bytes(), reader("tinyimagenet", "a.zip"), _unchanged(tiny_hash)),
    ]


def _batches(folder: Path) -> list[tuple]:
    """Return files of unpacked datasets."""

    def beside(name: str, whole: Path, file: str) -> Callable[[bytes, Path], Use]:
        def place(content: bytes, case: Path) -> Use:
            shutil.copytree(whole, case / "from")
            (case / "from" / file).write_bytes(content)
            return lambda: prepare(name, case / "from", str(case / "to"))

        return place

    for archive in (tiny_archives.cifar10_python(folder), tiny_archives.tiny_imagenet(folder)):
        unpack(archive.place, folder)
    mnist = tiny_archives.mnist(folder).place
    imagenet = tiny_archives.imagenet(folder)[0]
    mnist_check = _unchanged(prepare("mnist", mnist, str(folder / "mnist-to")).content_hash)
    imagenet_check = _unchanged(prepare("imagenet", imagenet, str(folder / "imagenet-to")).content_hash)
    chosen = [
        ("pickle", "cifar10", folder / "cifar-10-batches-py", "data_batch_2", _used),
        ("pickle of names", "cifar10", folder / "cifar-10-batches-py", "batches.meta", _used),
        ("idx", "mnist", mnist, "train-images-idx3-ubyte.gz", mnist_check),
        ("labels", "mnist", mnist, "train-labels-idx1-ubyte.gz", mnist_check),
        ("annotations", "tinyimagenet", folder / "tiny-imagenet-200", "val/val_annotations.txt", _used),
        ("tar of tars", "imagenet", imagenet, "ILSVRC2012_img_train.tar", _used),
        ("kit", "imagenet", imagenet, "ILSVRC2012_devkit_t12.tar.gz", imagenet_check),
    ]
    return [
        (kind, (whole / file).read_bytes(), beside(name, whole, file), check)
        for kind, name, whole, file, check in chosen
    ]


def _pictures() -> list[tuple]:
    colours = Image.fromarray(tiny_archives.images(1, (48, 64, 3), 0)[0])
    deep = Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64))
    exif = Image.Exif()
    exif[0x0112] = 6

    def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        return buffer.getvalue()

    def place(content: bytes, case: Path) -> Use:
        (case / "picture").write_bytes(content)

        def use() -> None:
            decode_image(content, reduced_px=64)
            image_size(io.BytesIO(content))
            decoded = decode_image(content)
            assert decoded.mode == "RGB"
            image = EncodedImage(content)
            assert np.array_equal(image.pixels(), np.asarray(decoded)), "the two decoders differ"
            assert image.pixels(2).shape[2] == 3

        return use

    files = {
        "JPEG": encoded(colours, "JPEG", exif=exif),
        "PNG": encoded(colours, "PNG", exif=exif),
        "PNG of 16 bits": encoded(deep, "PNG"),
        "WebP": encoded(colours, "WEBP"),
        "TIFF": encoded(deep, "TIFF", compression="tiff_lzw"),
        "GIF": encoded(colours.quantize(16), "GIF", transparency=0),
        "BMP": encoded(colours, "BMP"),
        "PPM": encoded(colours, "PPM"),
        "AVIF": encoded(colours, "AVIF"),
    }
    return [(kind, content, place, lambda _case: None) for kind, content in files.items()]


def _prepared(folder: Path) -> list[tuple]:
    """Return manifests and shards of prepared datasets."""
    pixels, photos = folder / "pixels", folder / "photos-to"
    prepare("cifar10", tiny_archives.cifar10_binary(folder).place, str(pixels), images_per_shard=30)
    prepare("folder", tiny_archives.photo_tree(folder), str(photos))

    def beside(whole: Path, file: str) -> Callable[[bytes, Path], Use]:
        def place(content: bytes, case: Path) -> Use:
            target = case / "to"
            shutil.copytree(whole, target)
            (target / file).write_bytes(content)
            if file.endswith(".arrow"):  # the manifest names the new size, so that the shard itself is read
                manifest = json.loads((target / "manifest.json").read_text())
                for split in manifest["splits"].values():
                    for shard in split["shards"]:
                        if shard["file"] == file:
                            shard["bytes"] = len(content)
                (target / "manifest.json").write_text(json.dumps(manifest))
            return lambda: _used(case)

        return place

    return [
        ("manifest", (pixels / "manifest.json").read_bytes(), beside(pixels, "manifest.json"), _used, True),
        ("manifest of files", (photos / "manifest.json").read_bytes(), beside(photos, "manifest.json"), _used, True),
        ("shard", (pixels / "test-00000.arrow").read_bytes(), beside(pixels, "test-00000.arrow"), _used),
        ("shard of files", (photos / "train-00000.arrow").read_bytes(), beside(photos, "train-00000.arrow"), _used),
    ]
