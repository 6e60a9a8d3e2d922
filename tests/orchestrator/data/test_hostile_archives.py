"""Hostile archives: nothing is written outside the target, no code runs, and one line names archive and member."""

from __future__ import annotations

import io
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.sources import open_source
from orchestrator.data.sources.archives import is_archive, unpack
from orchestrator.data.sources.unpacking_limits import Limits
from orchestrator.errors import DataError
from tests.support import tiny_archives
from tests.support.tiny_archives import old_pickle, tar_gz


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unpacking(archive: Path, **limits: int) -> str:
    """Return the error of unpacking; check that nothing is written outside the target."""
    target = archive.parent / "target"
    target.mkdir(exist_ok=True)
    before = {path.name for path in archive.parent.iterdir()}
    message = refusal(lambda: unpack(archive, target, Limits(**limits)))
    assert {path.name for path in archive.parent.iterdir()} == before
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert message.startswith(str(archive))
    return message


def tar_of(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """Return a tar file of members with these names, types and link targets."""
    with tarfile.open(path, "w") as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            content = b"x" if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("kind", "link", "reason"),
    [
        (tarfile.SYMTYPE, "../outside", "is a symbolic link"),
        (tarfile.SYMTYPE, "inside", "is a symbolic link"),
        (tarfile.LNKTYPE, "first", "is a hard link"),
        (tarfile.CHRTYPE, "", "is a device"),
        (tarfile.BLKTYPE, "", "is a device"),
        (tarfile.FIFOTYPE, "", "is a named pipe"),
    ],
)
def test_only_files_and_folders_are_unpacked_from_a_tar(kind: bytes, link: str, reason: str, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", ("first", tarfile.REGTYPE, ""), ("odd", kind, link))
    assert f"cannot be unpacked: odd {reason}" in unpacking(archive)


def test_a_chain_of_links_writes_nothing_outside(tmp_path: Path) -> None:
    """CVE-2025-4517: a chain of links too long for `realpath`, then a file through it."""
    long, members = "d" * 240, []
    where = ""
    for letter in "abcdefghijklmnop":
        members.append((f"{where}{long}", tarfile.DIRTYPE, ""))
        members.append((f"{where}{letter}", tarfile.SYMTYPE, long))
        where += f"{letter}/"
    members.append(("escape", tarfile.SYMTYPE, f"{where}/../../planted"))
    members.append(("escape", tarfile.REGTYPE, ""))
    assert "a is a symbolic link" in unpacking(tar_of(tmp_path / "a.tar", *members))


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/tmp/up", "a\\..\\up", "a\nb"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_outside_the_target_are_rejected(name: str, kind: str, tmp_path: Path) -> None:
    archive = tmp_path / "a"
    if kind == "tar":
        tar_of(archive, (name, tarfile.REGTYPE, ""))
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr(name, "x")
    assert "cannot be unpacked: " in unpacking(archive)


@pytest.mark.parametrize("second", ["a/b", "./a//b", "a/b/c"])
def test_members_that_collide_are_rejected(second: str, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", ("a/b", tarfile.REGTYPE, ""), (second, tarfile.REGTYPE, ""))
    assert "twice, or as a file and a folder; pack it again" in unpacking(archive)


def test_links_devices_and_locked_members_of_a_zip_are_rejected(tmp_path: Path) -> None:
    def packed(name: str, change: Callable[[zipfile.ZipInfo], None]) -> Path:
        path = tmp_path / f"{name}.zip"
        info = zipfile.ZipInfo(name)
        change(info)
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr(info, "/etc")
        return path

    link = packed("link", lambda info: setattr(info, "external_attr", 0o120777 << 16))
    assert "link is a symbolic link" in unpacking(link)
    pipe = packed("pipe", lambda info: setattr(info, "external_attr", 0o010777 << 16))
    assert "pipe is neither a file nor a folder" in unpacking(pipe)
    for field, value, reason in ((8, 1, "is locked with a password"), (10, 9, "is compressed with Deflate64")):
        path = packed("plain", lambda info: None)
        content = bytearray(path.read_bytes())
        struct.pack_into("<H", content, content.index(b"PK\x01\x02") + field, value)
        path.write_bytes(content)
        assert f"plain {reason}" in unpacking(path)
        assert "unpack it, and name the folder" in unpacking(path)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "zip"])
def test_a_bomb_is_stopped_at_its_ratio(kind: str, tmp_path: Path) -> None:
    archive, zeros = tmp_path / f"a.{kind}", bytes(4 << 20)
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("zeros", zeros)
    else:
        archive.write_bytes(tiny_archives.tar({"zeros": zeros}, f"w:{kind[4:]}"))
    assert "unpacks to more than " in unpacking(archive, free_bytes=1 << 20, ratio=10)
    written = sum(path.stat().st_size for path in (tmp_path / "target").rglob("*") if path.is_file())
    assert written <= 3 << 20
    assert "unpacks to more than 0 files" in unpacking(archive, members=0)


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """Return a tar header with any twelve bytes as its size."""
    block = bytearray(tarfile.TarInfo(name).tobuf())
    block[124:136], block[156:157] = size, kind
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def damaged_header() -> bytes:
    """Return a tar header with a flipped letter in its name."""
    return b"b" + header("a.JPEG", b"00000000000\0")[1:]


@pytest.mark.parametrize("end", [damaged_header(), header("odd", b"00000000000\0")[:300]], ids=["damaged", "cut"])
def test_a_damaged_header_is_not_the_end_of_an_archive(end: bytes, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(header("first", b"00000000000\0") + end)
    assert "cannot be unpacked at first (damaged header: " in unpacking(archive)


@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"g", b"S"])
@pytest.mark.parametrize(
    "size", [b"\xff" * 11 + b"\x00", b"\x80" + b"\x7f" * 11, b"77777777777\0"], ids=["-", "+", "8G"]
)
def test_impossible_sizes_end_at_once(kind: bytes, size: bytes, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(header("first", b"00000000000\0") + header("odd", size, kind) + bytes(1024))
    assert "cannot be unpacked" in unpacking(archive)


def test_damage_behind_a_checksum_is_always_found(tmp_path: Path) -> None:
    """`tarfile` stops before the checksum of the compression: a flipped pixel in a tar.gz would go unnoticed."""
    noise = np.random.default_rng(0).bytes(40_000)  # which compression stores as it is
    content = tar_gz(tmp_path / "a.tar.gz", {"noise": noise, "more": b"x" * 5000}).read_bytes()
    path, refused = tmp_path / "b.tar.gz", 0
    for place in range(12, len(content), 997):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        assert is_archive(path)
        target = tmp_path / f"to{place}"
        target.mkdir()
        try:
            unpack(path, target)
        except DataError as error:
            assert "cannot be unpacked" in str(error)
            refused += 1
        else:
            assert (target / "noise").read_bytes() == noise
    assert refused > 30


def batch(**changes: Any) -> dict[Any, Any]:
    images, labels = tiny_archives.cifar10_splits()["test"]
    return {"data": images.reshape(len(images), -1), "labels": labels.tolist(), **changes}


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    with tarfile.open(tiny_archives.cifar10_python(tmp_path).place) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "cifar-10-batches-py"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["rows", "NCHW", "array of labels", "keys of bytes", "column by column"])
def test_every_pickle_protocol_and_form_gives_the_same_images(protocol: int, form: str, cifar: Path) -> None:
    images, labels = tiny_archives.cifar10_splits()["test"]
    content = {
        "rows": batch(),
        "NCHW": batch(data=images),
        "array of labels": batch(labels=labels.astype(np.int64)),
        "keys of bytes": {key.encode(): value for key, value in batch().items()},
        "column by column": batch(data=np.asfortranarray(images.reshape(len(images), -1))),
    }[form]
    (cifar / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
    with open_source("cifar10", cifar) as source:
        samples = list(source.read("test", 0, 20))
    np.testing.assert_array_equal(np.stack([sample.image for sample in samples]), images)
    assert [sample.label for sample in samples] == labels.tolist()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (batch(data=np.zeros((20, 3072))), "it holds an array of dtype 'f8'; only u1, i4, i8 are read"),
        (batch(data=np.zeros((20, 3071), np.uint8)), "its data has the shape (20, 3071), not (N, 3072)"),
        (batch(data=np.zeros((20, 32, 32, 3), np.uint8)), "its data has the shape (20, 32, 32, 3), not (N, 3072)"),
        (batch(data=np.zeros((20, 3072), np.int64)), "its data is an array of int64 of the shape (20, 3072)"),
        (batch(data=b"x"), "its data is a "),
        (batch(labels=[0] * 19), "its labels is a list of 19, not 20 whole numbers"),
        (batch(labels=[0.5] * 20), "its labels is a list of 20, not 20 whole numbers"),
        (batch(labels=[1 << 70] * 20), "its labels is a list of 20, not 20 whole numbers"),
        (batch(labels=[-1] * 20), "its labels reaches from -1 to -1"),
        (batch(labels=None), "its labels is a NoneType"),
        (batch(data=np.zeros((20, 3072), object)), "it holds an array of dtype 'O8'"),
        (batch(data=np.zeros(20, [("a", "u1")])), "it holds an array of dtype 'V1'"),
        ({"labels": [0]}, "it has no data"),
        ({"data": batch()["data"]}, "it has no labels"),
        ([1, 2], "it holds a list of 2, not a dictionary"),
        ({(1, 2): 3}, "it has a dictionary whose keys are no texts"),
        (batch(more=np.uint8), "it calls numpy.uint8"),
    ],
)
def test_a_batch_of_other_content_is_a_one_line_error(content: Any, reason: str, cifar: Path) -> None:
    (cifar / "data_batch_3").write_bytes(old_pickle(content))
    message = refusal(lambda: prepare("cifar10", cifar, str(cifar.parent / "to")))
    assert f"data_batch_3: is no file of CIFAR's ({reason}" in message
    assert not (cifar.parent / "to").exists()


def test_names_of_classes_are_checked(cifar: Path) -> None:
    for names, reason in (
        (["a", "a"], "class a comes twice"),
        ([1, 2], "its label_names is a list of 2, not a list of names"),
        ([], "its label_names is a list of 0, not a list of names"),
        (["a\nb"], "class a\\nb is too long or holds control characters"),
        (["\u00e9", "e\u0301"], "comes in two spellings of the same letters (NFC and NFD)"),
    ):
        (cifar / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
        assert reason in refusal(lambda: open_source("cifar10", cifar).__enter__())


def array_program(dtype: bytes, state: bytes) -> bytes:
    """Return a hand-written pickle that rebuilds an array of any dtype from any state."""
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    return b"(dS'data'\n" + made + b"(I1\n(I20\nI3072\nt" + dtype + b"I00\n" + state + b"tbs."


@pytest.mark.parametrize(
    "content",
    [
        # object arrays over bytes: dereferencing them is a crash by signal
        array_program(
            b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb", b"S'" + b"A" * 2000 + b"'\n"
        ),
        # the type itself, called with the address and strides of one's choice
        b"(dS'data'\ncnumpy\nndarray\n((I20\nI3072\ntS'O8'\ntRs.",
        b"(dS'data'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I9\ntS'b'\ntRs.",
        array_program(b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR", b"S'short'\n"),
        array_program(b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'>'\nNNNI-1\nI-1\nI0\ntb", b"S'short'\n"),
        b"\x80\x02cnumpy\ndtype\nq\x00}X\x01\x00\x00\x00ab.",
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo of two thousand million places
        b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",  # eight exabytes
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        b"cposix\nsystem\n(S'touch /tmp/never'\ntR.",
        b"\x80\x02(cos\nsystem\no.",
        b"P12\n.",
        b"\x82\x01.",
        b"0.",
        b"e.",
        b"h\x05.",
        b"\x80\x09.",
        b".",
    ],
)
def test_a_program_instead_of_a_batch_is_a_one_line_error(content: bytes, cifar: Path) -> None:
    (cifar / "data_batch_4").write_bytes(content)
    message = refusal(lambda: prepare("cifar10", cifar, str(cifar.parent / "to")))
    assert "data_batch_4: is no file of CIFAR's (" in message


def test_repeatedly_doubled_references_are_never_expanded(cifar: Path) -> None:
    """Sixty doublings of a tuple are 2**60 elements when printed."""
    doubled = b"\x80\x02]" + b"2\x86" * 60
    for program in (b"cnumpy\ndtype\n" + doubled + b"\x85R.", doubled + b"\x8c\x01a\x93.", doubled + b"2\x93."):
        (cifar / "data_batch_1").write_bytes(program)
        assert "is no file of CIFAR's" in refusal(lambda: open_source("cifar10", cifar).__enter__())


def test_paths_in_lists_of_images_stay_within_the_dataset(tmp_path: Path) -> None:
    with zipfile.ZipFile(tiny_archives.tiny_imagenet(tmp_path).place) as zipped:
        zipped.extractall(tmp_path)
    root = tmp_path / "tiny-imagenet-200"
    annotations = root / "val" / "val_annotations.txt"
    lines = annotations.read_text()
    for line, reason in (("../../secret.png\tn01443537", "not a plain file name"), ("word", "line 4 does not name")):
        annotations.write_text(f"{lines}{line}\n")
        assert reason in refusal(lambda: open_source("tinyimagenet", root).__enter__())
    annotations.write_bytes(b"\xff\xfe")
    assert "val_annotations.txt: cannot be read" in refusal(lambda: open_source("tinyimagenet", root).__enter__())
    annotations.write_text(lines)
    (root / "wnids.txt").write_text("../../elsewhere\n")
    assert "wnids.txt: name '../../elsewhere' is not a plain file name" in refusal(
        lambda: open_source("tinyimagenet", root).__enter__()
    )


def test_labels_and_shapes_of_raw_files_are_checked(tmp_path: Path) -> None:
    place = tiny_archives.mnist(tmp_path).place
    images = place / "train-images-idx3-ubyte"
    (place / "train-images-idx3-ubyte.gz").unlink()
    for shape, reason in (
        ((1 << 31, 1 << 31, 1 << 31), "more than 2147483648 bytes"),
        ((30, 0, 0), "not (N, side, side) of one size"),
        ((30, 28), "not (N, side, side) of one size"),
        ((), "is no idx file of bytes"),
        ((30, 28, 29), "holds 23520 bytes"),
        ((30, 28, 27), "holds more than 22680 bytes"),
    ):
        head = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        body = 840 if len(shape) == 2 else 0 if 0 in shape else 30 * 28 * 28
        images.write_bytes(head + bytes(body))
        assert reason in refusal(lambda: prepare("mnist", place, str(tmp_path / "to")))
    stl = tiny_archives.stl10(tmp_path).place
    with tarfile.open(stl) as tar:
        tar.extractall(tmp_path, filter="data")
    (tmp_path / "stl10_binary" / "test_y.bin").write_bytes(bytes(10))
    message = refusal(lambda: prepare("stl10", tmp_path, str(tmp_path / "to")))
    assert "test_y.bin: has a label 0; its classes count from 1" in message
    (tmp_path / "stl10_binary" / "class_names.txt").write_bytes(b"\xff")
    assert "class_names.txt: cannot be read as class names" in refusal(
        lambda: open_source("stl10", tmp_path).__enter__()
    )


def test_an_archive_within_imagenet_cannot_point_elsewhere(tmp_path: Path) -> None:
    place, _ = tiny_archives.imagenet(tmp_path)
    train = place / "ILSVRC2012_img_train.tar"
    for member, reason in (
        (header("a.JPEG", b"00000000000\0", tarfile.SYMTYPE), "holds a.JPEG, which is no regular file"),
        (header("a.JPEG", b"77777777777\0"), "is cut within a.JPEG"),
        # From some release of each Python on, `tarfile` itself rejects a negative size.
        (header("a.JPEG", b"\xff" * 11 + b"\x00"), r"is cut within a\.JPEG|damaged header: invalid offset"),
        (header("a.JPEG", b"00000000000\0") + damaged_header(), "damaged header: bad checksum"),
    ):
        train.write_bytes(tiny_archives.tar({"n01440764.tar": member + bytes(1024)}))
        assert re.search(reason, refusal(lambda: open_source("imagenet", place).__enter__()))
