"""Random images in each format of the distributed datasets, byte for byte."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from scipy.io import savemat


@dataclass(frozen=True)
class Tiny:
    """A packed dataset and its expected content: images (N, C, H, W) and labels (N,) of each split."""

    place: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]]


def images(count: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count: int, classes: int) -> np.ndarray:
    """Return labels in which every class occurs."""
    return (np.arange(count) % classes).astype(np.int32)


def tar_gz(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Encode (C, H, W) pixels as an image file; one channel gives a grey one."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0).squeeze())).save(buffer, kind)
    return buffer.getvalue()


class _OldPickler(pickle._Pickler):  # type: ignore[name-defined]
    """Pickler that writes text and bytes like Python 2: both are byte strings."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def _save_string(self, obj: str | bytes) -> None:
        content = obj.encode("latin1") if isinstance(obj, str) else obj
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = _save_string


def old_pickle(content: dict[str, Any]) -> bytes:
    """Pickle like Python 2 with an old NumPy: protocol 2, byte strings, former module names of NumPy."""
    buffer = io.BytesIO()
    _OldPickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10_splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    shape = (3, 32, 32)
    return {"train": (images(50, shape, 0), labels(50, 10)), "test": (images(20, shape, 1), labels(20, 10))}


def cifar10_python(folder: Path) -> Tiny:
    splits = cifar10_splits()
    batches = {f"data_batch_{n + 1}": [part[n * 10 : n * 10 + 10] for part in splits["train"]] for n in range(5)}
    batches["test_batch"] = list(splits["test"])
    files = {
        f"cifar-10-batches-py/{name}": old_pickle(
            {"batch_label": name, "data": part.reshape(len(part), -1), "labels": marks.tolist(), "filenames": []}
        )
        for name, (part, marks) in batches.items()
    }
    files["cifar-10-batches-py/batches.meta"] = old_pickle({"label_names": list(CIFAR10), "num_vis": 3072})
    return Tiny(tar_gz(folder / "cifar-10-python.tar.gz", files), CIFAR10, splits)


def records(part: np.ndarray, *marks: np.ndarray) -> bytes:
    columns = [mark.astype(np.uint8)[:, None] for mark in marks]
    return np.concatenate([*columns, part.reshape(len(part), -1)], axis=1).tobytes()


def cifar10_binary(folder: Path) -> Tiny:
    splits = cifar10_splits()
    train, marks = splits["train"]
    files = {
        f"cifar-10-batches-bin/data_batch_{n + 1}.bin": records(
            train[n * 10 : n * 10 + 10], marks[n * 10 : n * 10 + 10]
        )
        for n in range(5)
    }
    files["cifar-10-batches-bin/test_batch.bin"] = records(*splits["test"])
    files["cifar-10-batches-bin/batches.meta.txt"] = ("\n".join(CIFAR10) + "\n\n").encode()
    return Tiny(tar_gz(folder / "cifar-10-binary.tar.gz", files), CIFAR10, splits)


FINE = tuple(f"fine{number:02d}" for number in range(100))


def cifar100_splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    shape = (3, 32, 32)
    return {"train": (images(200, shape, 2), labels(200, 100)), "test": (images(100, shape, 3), labels(100, 100))}


def cifar100_python(folder: Path) -> Tiny:
    splits = cifar100_splits()
    files = {
        f"cifar-100-python/{name}": old_pickle(
            {
                "data": part.reshape(len(part), -1),
                "fine_labels": marks.tolist(),
                "coarse_labels": (marks // 5).tolist(),
            }
        )
        for name, (part, marks) in splits.items()
    }
    files["cifar-100-python/meta"] = old_pickle({"fine_label_names": list(FINE), "coarse_label_names": ["all"] * 20})
    return Tiny(tar_gz(folder / "cifar-100-python.tar.gz", files), FINE, splits)


def cifar100_binary(folder: Path) -> Tiny:
    splits = cifar100_splits()
    files = {f"cifar-100-binary/{name}.bin": records(part, m // 5, m) for name, (part, m) in splits.items()}
    files["cifar-100-binary/fine_label_names.txt"] = "\n".join(FINE).encode()
    files["cifar-100-binary/coarse_label_names.txt"] = b"all"
    return Tiny(tar_gz(folder / "cifar-100-binary.tar.gz", files), FINE, splits)


def stl10(folder: Path) -> Tiny:
    names = tuple(f"kind{number}" for number in range(10))
    shape = (3, 96, 96)
    splits = {
        "train": (images(20, shape, 4), labels(20, 10)),
        "test": (images(10, shape, 5), labels(10, 10)),
        "unlabelled": (images(7, shape, 6), np.full(7, -1, np.int32)),
    }
    files = {"stl10_binary/class_names.txt": "\n".join(names).encode()}
    for split, (part, marks) in splits.items():
        stem = "unlabeled" if split == "unlabelled" else split
        files[f"stl10_binary/{stem}_X.bin"] = part.transpose(0, 1, 3, 2).tobytes()  # column by column
        if split != "unlabelled":
            files[f"stl10_binary/{stem}_y.bin"] = (marks + 1).astype(np.uint8).tobytes()
    return Tiny(tar_gz(folder / "stl10_binary.tar.gz", files), names, splits)


def mnist(folder: Path) -> Tiny:
    place = folder / "mnist"
    place.mkdir()
    splits = {
        "train": (images(30, (1, 28, 28), 7), labels(30, 10)),
        "test": (images(10, (1, 28, 28), 8), labels(10, 10)),
    }
    for split, stem in (("train", "train"), ("test", "t10k")):
        part, marks = splits[split]
        head = struct.pack(">HBBIII", 0, 8, 3, len(part), 28, 28)
        (place / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + part.tobytes()))
        head = struct.pack(">HBBI", 0, 8, 1, len(marks))
        (place / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + marks.astype(np.uint8).tobytes()))
    return Tiny(place, tuple("0123456789"), splits)


def tiny_imagenet(folder: Path) -> Tiny:
    """Write lossless files under names of lossy ones, so that pixels can be compared; one of them is grey."""
    names = ("n01443537", "n01629819", "n01641577")
    splits = {
        "train": (images(9, (3, 64, 64), 9), np.repeat(np.arange(3), 3)),
        "test": (images(3, (3, 64, 64), 10), labels(3, 3)),
    }
    splits["train"][0][4] = splits["train"][0][4][:1]
    path = folder / "tiny-imagenet-200.zip"
    root = "tiny-imagenet-200"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(f"{root}/wnids.txt", "\n".join(names))
        zipped.writestr(f"{root}/words.txt", "n01443537\tgoldfish")
        for name in names:
            zipped.writestr(f"{root}/train/{name}/{name}_boxes.txt", "0 0 1 1")
        for place, pixels in enumerate(splits["train"][0]):
            name = names[place // 3]
            content = png(pixels[:1] if place == 4 else pixels)
            zipped.writestr(f"{root}/train/{name}/images/{name}_{place}.JPEG", content)
        lines = [f"val_{place}.JPEG\t{names[place]}\t0\t0\t1\t1" for place in range(3)]
        zipped.writestr(f"{root}/val/val_annotations.txt", "\n".join(lines) + "\n")
        for place, pixels in enumerate(splits["test"][0]):
            zipped.writestr(f"{root}/val/images/val_{place}.JPEG", png(pixels))
        zipped.writestr(f"{root}/test/images/test_0.JPEG", png(images(1, (3, 64, 64), 11)[0]))
    return Tiny(path, names, splits)


def photo_tree(folder: Path, *, per_class: int = 4, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """Write large JPEG files of different sizes, one folder per class."""
    root = folder / "photos"
    for split in splits:
        for number, name in enumerate(("cat", "dog", "owl")):
            place = root / split / name
            place.mkdir(parents=True)
            for image in range(per_class):
                pixels = images(1, (3, 100 + 8 * image, 120), 100 * number + image)[0]
                (place / f"{image}.jpg").write_bytes(png(pixels, "JPEG"))
    return root


def tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def imagenet(folder: Path) -> tuple[Path, dict[str, list[tuple[bytes, int]]]]:
    """Write the three files of ImageNet-1K with four classes, whose numbers are not in the order of their names."""
    place = folder / "ILSVRC2012"
    place.mkdir()
    names = {1: "n02119789", 2: "n02100735", 3: "n02110185", 4: "n01440764"}
    order = sorted(names.values())

    def photo(seed: int) -> bytes:
        return png(images(1, (3, 40 + seed, 50), seed)[0], "JPEG")

    train = {name: {f"{name}_{n}.JPEG": photo(4 * n + k) for n in range(3)} for k, name in enumerate(names.values())}
    truth = [3, 1, 4, 4, 2]
    validation = {f"ILSVRC2012_val_{n + 1:08d}.JPEG": photo(20 + n) for n in range(len(truth))}
    (place / "ILSVRC2012_img_train.tar").write_bytes(tar({f"{name}.tar": tar(train[name]) for name in names.values()}))
    (place / "ILSVRC2012_img_val.tar").write_bytes(tar(dict(reversed(validation.items()))))
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = [(number, name, "a name", 0) for number, name in names.items()] + [(5, "n00000005", "their union", 4)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kind).reshape(-1, 1)})
    kit = {
        "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{n}\n" for n in truth).encode(),
    }
    (place / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(tar(kit, "w:gz"))
    return place, {
        "train": [(content, order.index(name)) for name in order for content in train[name].values()],
        "test": [
            (content, order.index(names[number])) for content, number in zip(validation.values(), truth, strict=True)
        ],
    }
