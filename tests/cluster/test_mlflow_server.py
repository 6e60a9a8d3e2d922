"""`python -m cluster.mlflow`: a real server with PostgreSQL and passwords, and tracking through it."""

from __future__ import annotations

import base64
import json
import random
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

from cluster.mlflow import ServerSettings, TrackingServerError, run_server
from cluster.mlflow.user import make_user
from orchestrator import load_model
from orchestrator.errors import TrackingError
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from orchestrator.training.checkpoints.checkpoints import build_network
from tests.support.servers.mlflow_server import MlflowServer
from tests.support.servers.postgresql import PASSWORD as DATABASE_PASSWORD
from tests.support.servers.postgresql import PostgresqlServer
from tests.support.sweeps.tracked_sweep import replay, tell

moto_server = pytest.importorskip("moto.server", reason="needs moto, of the development tools")

BUCKET = "runs"
STORE_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
ADMIN, WRITER, OTHER = "admin-drowssap", "writer-drowssap", "other-drowssap"
FINE = ServerSettings(database="postgresql://me:pw@db/mlflow", artifacts="s3://b/m", admin_password="long enough it is")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"admin_password": ""},
            "there is no default password: choose one for 'admin' and set MLFLOW_AUTH_ADMIN_PASSWORD",
        ),
        ({"admin_password": "short"}, "MLFLOW_AUTH_ADMIN_PASSWORD: has fewer than 12 characters"),
        ({"database": ""}, "set MLFLOW_BACKEND_STORE_URI"),
        ({"database": "mysql://me:secret@db/mlflow"}, "got mysql://me:***@db/mlflow; several users need postgresql://"),
        ({"artifacts": "ftp://host/folder"}, "--artifacts: got ftp://host/folder"),
        ({"host": "0.0.0.0"}, "--allowed-hosts: others reach 0.0.0.0"),
        ({"allowed_hosts": ("*",)}, "--allowed-hosts: '*' lets any web page"),
    ],
)
def test_what_would_be_open_to_all_is_not_started(changed: dict[str, Any], problem: str) -> None:
    assert list(FINE.problems()) == []
    settings = ServerSettings(**{**vars(FINE), **changed})
    with pytest.raises(TrackingServerError) as caught:
        run_server(settings)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_secret_stands_in_the_command_line_and_the_file_is_private(tmp_path: Path) -> None:
    settings = ServerSettings(**{**vars(FINE), "database": "postgresql://me:s%40cret@db/mlflow"})
    settings.write_auth_file(tmp_path / "auth.ini")
    assert "s%40cret" not in " ".join(settings.command)
    assert (tmp_path / "auth.ini").stat().st_mode & 0o777 == 0o600
    assert "s%%40cret" in (tmp_path / "auth.ini").read_text()
    keys = [settings.environment(tmp_path, {})["MLFLOW_FLASK_SERVER_SECRET_KEY"] for _ in range(2)]
    assert keys[0] != keys[1]


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Start an object store on this machine, with a bucket."""
    running = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    bucket_of(address).create()
    yield address
    running.stop()


def bucket_of(store: str) -> Any:
    import boto3

    keys = {name.lower(): value for name, value in STORE_KEYS.items() if name != "AWS_DEFAULT_REGION"}
    return boto3.resource("s3", endpoint_url=store, region_name="us-east-1", **keys).Bucket(BUCKET)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, store: str, postgresql: PostgresqlServer
) -> Iterator[MlflowServer]:
    """Start a server over an object store, with an administrator and two users."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "cluster.mlflow", "--artifacts", f"s3://{BUCKET}/mlflow", "--workers", "1"]
    command += ["--allowed-hosts", "127.0.0.1:{port}"]
    environment = {"MLFLOW_BACKEND_STORE_URI": postgresql.uri(), "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN}
    server = MlflowServer(folder, command, {**environment, **STORE_KEYS, "MLFLOW_S3_ENDPOINT_URL": store})
    server.start()
    try:
        for name, password in (("writer", WRITER), ("other", OTHER)):
            ask(server, "users/create", {"username": name, "password": password}, user="admin", password=ADMIN)
        yield server
    finally:
        server.stop()


def ask(
    server: MlflowServer, call: str, content: dict[str, Any], *, user: str = "", password: str = "", host: str = ""
) -> Any:
    """Call MLflow's REST API; return the status if the call is refused."""
    request = urllib.request.Request(f"{server.uri}/api/2.0/mlflow/{call}", json.dumps(content).encode())
    request.add_header("Content-Type", "application/json")
    if user:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code


def as_user(patch: pytest.MonkeyPatch, name: str, password: str) -> None:
    patch.setenv("MLFLOW_TRACKING_USERNAME", name)
    patch.setenv("MLFLOW_TRACKING_PASSWORD", password)


@pytest.mark.slow
def test_who_has_no_password_or_no_rights_is_refused(server: MlflowServer) -> None:
    search = {"max_results": 1}
    assert ask(server, "experiments/search", search) == 401
    assert ask(server, "experiments/search", search, user="admin", password="guessed") == 401
    assert ask(server, "experiments/search", search, user="other", password=OTHER) == {}
    assert ask(server, "experiments/search", search, user="admin", password=ADMIN)["experiments"]
    assert ask(server, "users/create", {"username": "x", "password": "y" * 12}, user="other", password=OTHER) == 403
    assert ask(server, "experiments/search", search, user="admin", password=ADMIN, host="evil.example") == 403


@pytest.mark.slow
def test_a_user_of_a_cluster_is_made_and_gets_a_new_password(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = ("admin", ADMIN)
    assert make_user(server.uri, admin, ("cluster-2", "a first password")) == "made the user 'cluster-2'"
    assert (
        make_user(server.uri, admin, ("cluster-2", "a second password")) == "set the password of the user 'cluster-2'"
    )
    made = ask(server, "experiments/create", {"name": "own"}, user="cluster-2", password="a second password")
    described = {"experiment_id": made["experiment_id"], "new_name": "mine"}
    assert ask(server, "experiments/update", described, user="cluster-2", password="a second password") == {}
    assert ask(server, "experiments/update", described, user="other", password=OTHER) == 403
    assert ask(server, "users/list", {}, user="cluster-2", password="a second password") == 403
    with pytest.raises(TrackingServerError, match="refuses to create 'x': 401"):
        make_user(server.uri, ("admin", "guessed"), ("x", "y" * 12))
    with pytest.raises(TrackingServerError, match="no MLflow server answers"):
        make_user("http://127.0.0.1:9", admin, ("x", "y" * 12))


@pytest.mark.slow
def test_a_sweep_is_written_with_the_credentials_of_the_environment_which_stand_nowhere(
    server: MlflowServer, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = {"name": "conv_resnet26_small", "options": {}, "num_classes": 10, "in_chans": 1, "image_size": 8}
    facts = {"pixel_mean": [0.5], "pixel_std": [0.25], "class_names": list("0123456789")}
    weights = {"state_dict": build_network(network).state_dict(), "epoch": 2, "metrics": {"val/top1": 0.8}}
    checkpoint = tmp_path / "s-001" / "best.pt"
    checkpoint.parent.mkdir()
    save_checkpoint(checkpoint, {"model": network, "data": facts, **weights})
    tell(tmp_path / "s-001" / "journal.jsonl", checkpoint)

    as_user(monkeypatch, "writer", WRITER)
    writer = replay(tmp_path / "s-001" / "journal.jsonl", server.uri)
    run = writer.run_id(0)
    assert run is not None
    ends = [MlflowClient(server.uri).get_run(str(writer.run_id(number))).info.status for number in range(4)]
    assert ends == ["FINISHED", "KILLED", "FAILED", "KILLED"]
    assert not (tmp_path / "s-001" / "artifacts").exists()
    assert load_model(f"runs:/{run}", tracking_uri=server.uri).num_classes == 10
    client = MlflowClient(server.uri)
    (model,) = client.search_logged_models([client.get_run(run).info.experiment_id])
    assert model.status == "READY"

    contents = [path.read_bytes() for path in (*tmp_path.rglob("*"), *server.folder.rglob("*")) if path.is_file()]
    contents += [stored.get()["Body"].read() for stored in bucket_of(store).objects.all()]
    assert len(contents) > 20
    for secret in (WRITER, ADMIN, DATABASE_PASSWORD):
        assert not [content for content in contents if secret.encode() in content]
        assert secret not in caplog.text
    recorded = json.dumps([client.get_run(str(found)).to_dictionary() for found in (writer.sweep_run_id, run)])
    assert WRITER not in recorded

    as_user(monkeypatch, "other", OTHER)
    with pytest.raises(MlflowException, match=r"403|Permission denied"):
        MlflowClient(server.uri).get_run(run)
    as_user(monkeypatch, "admin", ADMIN)
    users = get_app_client("basic-auth", tracking_uri=server.uri)
    users.grant_user_permission("other", "experiment", model.experiment_id, "READ")
    as_user(monkeypatch, "other", OTHER)
    assert MlflowClient(server.uri).get_run(run).info.run_name == "s-001/trial-00000"
    tell(tmp_path / "t" / "journal.jsonl")
    with pytest.raises(TrackingError, match="events did not reach MLflow"):
        replay(tmp_path / "t" / "journal.jsonl", server.uri, timeout_s=3)


@pytest.mark.slow
def test_a_large_file_goes_up_in_parts_to_a_store_that_the_client_has_no_keys_of(
    server: MlflowServer, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(6 << 20))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 << 20))
    content = random.Random(0).randbytes(11 << 20)
    last = tmp_path / "large" / "last.pt"
    last.parent.mkdir()
    last.write_bytes(content)
    tell(last.with_name("journal.jsonl"), last)
    as_user(monkeypatch, "admin", ADMIN)
    replay(last.with_name("journal.jsonl"), server.uri)
    (stored,) = [found for found in bucket_of(store).objects.all() if found.key.endswith("/checkpoint/last.pt")]
    assert stored.get()["Body"].read() == content
    assert stored.e_tag.strip('"').endswith("-3")  # what a store calls an object of three parts


@pytest.mark.slow
def test_the_processes_of_the_server_show_no_password(server: MlflowServer) -> None:
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert any(str(server.port).encode() in line for line in lines)
    for secret in (ADMIN, DATABASE_PASSWORD):
        assert not any(secret.encode() in line for line in lines)
