"""Datasets in an object store: written to, read from and resumed in an S3 server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs
from typer.testing import CliRunner

from orchestrator import load_sweep
from orchestrator.cli.main import app
from orchestrator.data import locate_dataset, open_dataset
from orchestrator.data.conversion.prepare import prepare
from orchestrator.data.conversion.shards import ShardRecord, ShardTask
from orchestrator.data.manifest import read_manifest
from orchestrator.data.sources import Source
from orchestrator.data.storage import Folder, open_folder
from orchestrator.errors import DataError
from orchestrator.records.settings.stored_config import complete_settings
from tests.support import tiny_archives

moto_server = pytest.importorskip("moto.server", reason="needs moto, of the development tools")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Start a server on a free local port."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Create a bucket for the test; return a URI pattern with a placeholder for the folder."""
    for key, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{key}", value)
    name = request.node.name.replace("_", "-")[-40:].strip("-")
    store = fs.S3FileSystem(endpoint_override=endpoint, scheme="http", allow_bucket_creation=True, region="us-east-1")
    store.create_dir(name)
    return f"s3://{name}/{{}}?endpoint_override={endpoint}&scheme=http&region=us-east-1"


def keys(folder: Folder) -> set[str]:
    found = folder.filesystem.get_file_info(fs.FileSelector(folder.path, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(f"{folder.path}/") for info in found if info.is_file}


def test_a_dataset_is_prepared_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    tiny = tiny_archives.cifar10_binary(tmp_path)
    uri = bucket.format("sets/cifar")
    manifest = prepare("cifar10", tiny.place, uri, images_per_shard=30)
    folder = open_folder(uri)
    assert keys(folder) == {"manifest.json", "train-00000.arrow", "train-00001.arrow", "test-00000.arrow"}
    assert read_manifest(folder) == manifest
    assert prepare("cifar10", tiny.place, str(tmp_path / "here"), images_per_shard=30).splits == manifest.splits
    for shard in manifest.splits["train"].shards:
        folder.fetch(shard.file, tmp_path / "fetched" / shard.file)
        assert (tmp_path / "fetched" / shard.file).read_bytes() == (tmp_path / "here" / shard.file).read_bytes()
    with folder.filesystem.open_input_file(f"{folder.path}/test-00000.arrow") as file:
        table = pa.ipc.open_file(file).read_all()
    np.testing.assert_array_equal(table.column("label").to_numpy(), tiny.splits["test"][1])


def test_a_conversion_into_a_bucket_resumes(bucket: str, tmp_path: Path) -> None:
    root = tiny_archives.photo_tree(tmp_path)
    (root / "train/dog/2.jpg").write_bytes(b"words")
    uri = bucket.format("photos")
    with pytest.raises(DataError, match="1 images cannot be read"):
        prepare("folder", root, uri, images_per_shard=5)
    folder = open_folder(uri)
    assert "manifest.json" not in keys(folder)
    assert len(keys(folder)) == 2 * 6 + 1  # every shard and its record, and the mark of an unfinished conversion
    left: list[ShardTask] = []

    def nothing_left(source: Source, tasks: Sequence[ShardTask]) -> list[ShardRecord]:
        left.extend(tasks)
        return []

    manifest = prepare("folder", root, uri, images_per_shard=5, max_bad=1, run=nothing_left)
    assert left == []
    assert manifest.splits["train"].images == 11
    assert not any(key.startswith(".parts") for key in keys(folder))


def test_inspect_reads_a_bucket(bucket: str, tmp_path: Path) -> None:
    uri, sheet = bucket.format("digits"), tmp_path / "sheet.png"
    prepare("digits", None, uri)
    result = CliRunner().invoke(app, ["data", "inspect", uri, "--sheet", str(sheet)], catch_exceptions=False)
    assert "1437 train, 360 test, 10 classes" in result.output
    assert sheet.stat().st_size > 1000


def test_a_missing_bucket_is_reported(bucket: str, tmp_path: Path) -> None:
    absent = bucket.replace("s3://", "s3://no-").format("digits")
    with pytest.raises(DataError, match=r"s3://no-[^ ?]*/digits/.*: the storage refuses \("):
        prepare("digits", None, absent)
    with pytest.raises(DataError, match=r"s3://[^ ?]*/nothing/manifest\.json: no such file"):
        read_manifest(open_folder(bucket.format("nothing")))


def test_training_copies_a_bucket_to_the_cache_once(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPATIALSWEEP_CACHE", str(tmp_path / "cache"))
    tiny = tiny_archives.cifar10_binary(tmp_path)
    uri = bucket.format("cifar")
    manifest = prepare("cifar10", tiny.place, uri, images_per_shard=30)
    for _ in range(2):
        data = open_dataset(locate_dataset(None, uri, tmp_path))
        for split, (images, labels) in tiny.splits.items():
            np.testing.assert_array_equal(np.asarray(data.splits[split].images), images)
            np.testing.assert_array_equal(data.splits[split].labels, labels)
    kept = tmp_path / "cache" / manifest.content_hash
    written = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.arrow")}
    (kept / "train-00001.arrow").write_bytes(b"cut")
    open_dataset(uri)  # fetches again only what is not whole
    again = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.arrow")}
    assert {name for name in written if written[name] != again[name]} == {"train-00001.arrow"}
    folder = open_folder(uri)
    folder.filesystem.delete_file(f"{folder.path}/train-00000.arrow")
    with pytest.raises(DataError, match=r"s3://[^?]*: train-00000\.arrow is missing\. Prepare the dataset again"):
        open_dataset(uri)


def test_a_secret_in_a_uri_is_not_shown(bucket: str, tmp_path: Path) -> None:
    uri = bucket.format("digits").replace("s3://", "s3://someone:hush@")
    command = ["data", "prepare", "digits", "--to", uri]
    assert "hush" not in CliRunner().invoke(app, command, catch_exceptions=False).output
    for refused in (
        lambda: prepare("mnist", tiny_archives.mnist(tmp_path).place, uri),
        lambda: open_dataset(f"{uri}&x=y"),
    ):
        with pytest.raises(DataError) as caught:
            refused()
        assert "someone" in str(caught.value)
        assert "hush" not in str(caught.value)
    content = complete_settings(
        load_sweep({"name": "t", "dataset": {"uri": uri}, "model": {"name": "conv_resnet26_small"}})
    )
    assert "hush" not in json.dumps(content)


def put(folder: Folder, name: str, content: bytes) -> None:
    with folder.filesystem.open_output_stream(f"{folder.path}/{name}") as stream:
        stream.write(content)


def test_a_foreign_dataset_writes_only_to_the_cache(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content hash and names of shards become paths in the cache: unchecked, they could name any file."""
    monkeypatch.setenv("SPATIALSWEEP_CACHE", str(tmp_path / "home" / ".cache" / "spatialsweep"))
    keys_file = tmp_path / "home" / ".ssh" / "authorized_keys"
    keys_file.parent.mkdir(parents=True)
    keys_file.write_text("mine")
    uri = bucket.format("strange")
    prepare("cifar10", tiny_archives.cifar10_binary(tmp_path).place, uri)
    folder = open_folder(uri)
    original = json.loads(folder.read("manifest.json") or b"")
    stranger = b"ssh-ed25519 AAAA stranger"
    for content_hash, name in (
        (str(keys_file.parent), "authorized_keys"),
        ("../../.ssh", "authorized_keys"),
        (original["content_hash"], "../../../.ssh/authorized_keys"),
        (original["content_hash"], str(keys_file)),
        (original["content_hash"], ".lock"),
    ):
        content = json.loads(json.dumps(original))
        content["content_hash"] = content_hash
        content["splits"]["train"]["shards"][0].update(file=name, bytes=len(stranger))
        put(folder, "manifest.json", json.dumps(content).encode())
        put(folder, "authorized_keys", stranger)
        with pytest.raises(
            DataError, match=r"manifest\.json: is no manifest of SpatialSweep's \('(content_hash|splits)"
        ):
            open_dataset(uri)
    assert keys_file.read_text() == "mine"
    assert {path.name for path in (tmp_path / "home").rglob("*")} == {".ssh", "authorized_keys"}


def test_other_images_under_a_known_hash_do_not_enter_the_cache(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of the cache are content hashes: a copied manifest of a known dataset must not fill it with other images."""
    monkeypatch.setenv("SPATIALSWEEP_CACHE", str(tmp_path / "cache"))
    place = tiny_archives.cifar10_binary(tmp_path).place
    manifest = prepare("cifar10", place, bucket.format("known"))
    prepare("cifar10", place, bucket.format("strange"))
    folder = open_folder(bucket.format("strange"))
    with folder.filesystem.open_input_file(f"{folder.path}/train-00000.arrow") as file:
        shard = bytearray(file.read())
    shard[len(shard) // 2] ^= 1  # a pixel
    put(folder, "train-00000.arrow", bytes(shard))
    with pytest.raises(DataError, match=r"strange/train-00000\.arrow: holds other images than its manifest says"):
        open_dataset(bucket.format("strange"))
    assert {path.name for path in (tmp_path / "cache" / manifest.content_hash).iterdir()} <= {
        ".lock",
        "test-00000.arrow",
    }
    known = open_dataset(bucket.format("known"))
    np.testing.assert_array_equal(np.asarray(known.splits["train"].images), tiny_archives.cifar10_splits()["train"][0])
