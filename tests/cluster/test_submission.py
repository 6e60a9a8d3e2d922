"""Package, command and checks of `spatialsweep submit`, without a cluster."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from cluster import remote_tell
from cluster.cli import _note_sources
from cluster.job_client import JobClient, dashboard_url
from cluster.package import IMPORT_ROOTS, plan_package
from cluster.submission import (
    CheckedSweep,
    check_sweep,
    entrypoint,
    passed_on,
    require_checkpoints,
    runtime_env,
)
from orchestrator.config import load_sweep
from orchestrator.data.conversion.prepare import prepare
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.records.folder.known_servers import is_known
from orchestrator.runtime.submitted_versions import SUBMITTED_WITH, version_report
from tests.support.networks.own_file import write_own_file
from tests.support.tiny_archives import photo_tree

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "sweeps" / "digits.yaml"


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_a_checkout_is_packed_without_what_a_job_does_not_need() -> None:
    packed = plan_package(ROOT, DIGITS)
    assert packed.sweep == "sweeps/digits.yaml"
    assert {"pyproject.toml", "orchestrator/data/__init__.py", "cluster/cli.py"} <= set(packed.files)
    unwanted = re.compile(r"(^|/)(\.git|\.venv|__pycache__|\.mypy_cache)/|^(runs|data|build)/")
    assert [name for name in packed.files if unwanted.search(name)] == []
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:
        assert set(tracked.stdout.split()) - set(packed.files) == set()


def test_any_other_folder_is_packed_with_our_code_and_its_own_ignore_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    fill(folder, "sweep.yaml", "notes.txt", "data/big.bin", "deep/data/kept.txt", "secret.key", "out/log.txt")
    (folder / ".gitignore").write_text("sweep.yaml\n*.key\n")
    (folder / ".rayignore").write_text("out\n")
    packed = plan_package(folder, folder / "sweep.yaml")
    own = {name for name in packed.files if name.split("/")[0] in IMPORT_ROOTS}
    assert set(packed.files) - own == {"sweep.yaml", "notes.txt", "deep/data/kept.txt", ".gitignore", ".rayignore"}
    ours = {path.relative_to(ROOT).as_posix() for root in IMPORT_ROOTS for path in (ROOT / root).rglob("*.py")}
    assert ours <= own
    assert plan_package(folder, DIGITS).sweep == "digits.yaml"


def test_the_file_of_a_network_is_sent_where_the_job_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, here = tmp_path / "mine", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    fill(folder, ".gitignore")
    (folder / ".gitignore").write_text("*.py\n")
    write_own_file(folder / "sweeps/nets")
    text = "name: s\ndataset: {name: digits}\nmodel: {name: nets.own_net:make}\n"
    (folder / "sweeps/s.yaml").write_text(text)
    checked = check_sweep(folder / "sweeps/s.yaml", [])
    for root, sweep in ((folder, "sweeps/s.yaml"), (here, "s.yaml")):
        packed = plan_package(root, folder / "sweeps/s.yaml", network_files=checked.network_files)
        assert packed.sweep == sweep
        packed.write(tmp_path / "job.zip")
        job = tmp_path / f"job-{root.name}"
        with zipfile.ZipFile(tmp_path / "job.zip") as archive:
            archive.extractall(job)
        monkeypatch.chdir(job)
        assert load_sweep(Path(sweep)).network_files.hashes == {
            source.name: source.sha256 for source in checked.network_files
        }
        monkeypatch.chdir(here)

    (folder / "sweeps/s.yaml").write_text(text.replace("nets.own_net", f"{folder}/sweeps/nets/own_net.py"))
    outside = check_sweep(folder / "sweeps/s.yaml", [])
    with pytest.raises(ConfigError, match=r"own_net.py leads out of the sweep file's folder, which is all a job has"):
        plan_package(folder, folder / "sweeps/s.yaml", network_files=outside.network_files)


def test_equal_files_make_an_equal_package_that_runs(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    fill(folder, "notes.txt")
    for name in ("one.zip", "two.zip"):
        plan_package(folder, DIGITS).write(tmp_path / name)
        (folder / "notes.txt").touch()
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("digits.yaml") == DIGITS.read_bytes()
        assert archive.getinfo("notes.txt").external_attr >> 16 == (folder / "notes.txt").stat().st_mode & 0o777


def test_too_much_is_refused_with_the_largest_files(tmp_path: Path) -> None:
    (tmp_path / "huge.npy").write_bytes(bytes(3 * 2**20))
    (tmp_path / "large.npy").write_bytes(bytes(2 * 2**20))
    with pytest.raises(ConfigError, match=r"Largest: huge.npy \(3.0 MiB\), large.npy \(2.0 MiB\), .*\.rayignore"):
        plan_package(tmp_path, DIGITS, limit=2**20)


def test_a_folder_with_a_package_called_like_ours_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "models/mine.py")
    with pytest.raises(ConfigError, match="would take the place of SpatialSweep's own package 'models'"):
        plan_package(tmp_path, DIGITS)


def test_what_would_be_lost_or_seen_in_a_job_is_refused_all_at_once() -> None:
    overrides = [
        *("trials=0", "runs_dir=results", "dataset.name=null", "dataset.uri=data/cifar100"),
        *("storage.uri=sqlite:///here.db", "tracking.uri=http://me:hush@mlflow:5000"),
    ]
    with pytest.raises(ConfigError) as caught:
        check_sweep(DIGITS, overrides)
    where = ["trials", "--set tracking.uri", "runs_dir", "dataset.uri", "storage.uri"]
    assert [problem.where for problem in caught.value.problems] == where
    assert "hush" not in str(caught.value)
    assert str(caught.value).count("digits.yaml: ") == len(where)


def test_what_all_nodes_reach_is_taken() -> None:
    overrides = ["runs_dir=/shared/runs", "tracking.uri=http://mlflow:5000", "storage.uri=sqlite:////shared/s.db"]
    expected = CheckedSweep("digits", "http://mlflow:5000", "", runs_dir="/shared/runs")
    assert check_sweep(DIGITS, overrides) == expected


def test_the_address_of_a_webhook_is_passed_as_a_variable() -> None:
    with pytest.raises(ConfigError, match=r"Write --set notify=\$NAME and pass the variable on with --env NAME"):
        check_sweep(DIGITS, ["notify=https://hooks.example.com/services/T01/XXXXYYYYZZZZ"])
    check_sweep(DIGITS, ["notify=$HOOK"])


def test_a_running_job_is_steered_in_the_folder_of_its_own_results() -> None:
    command = remote_tell.entrypoint("digits", ["set", "search.lr.high=0.1", "search.optimizer=[a, b]"], "/shared/runs")
    assert command == (
        "python -m orchestrator tell digits set search.lr.high=0.1 'search.optimizer=[a, b]' --runs-dir=/shared/runs"
    )
    run = "python -m orchestrator run sweep.yaml '--runs-dir=/with space/runs'"
    assert remote_tell._runs_dir(run, {"spatialsweep.runs_dir": "/of/file"}) == "/with space/runs"
    assert remote_tell._runs_dir("python -m orchestrator run sweep.yaml", {"spatialsweep.runs_dir": "/x"}) == "/x"
    assert remote_tell._runs_dir("python -m orchestrator run sweep.yaml", {}) is None


def test_images_that_only_the_cluster_has_are_left_to_the_job() -> None:
    overrides = ["dataset.name=null", "dataset.uri=/nowhere/imagenet"]
    checked = check_sweep(DIGITS, overrides)
    assert "/nowhere/imagenet" in checked.unread
    assert checked.dataset_uri == "/nowhere/imagenet"
    with pytest.raises(ConfigError, match=r"trials"):
        check_sweep(DIGITS, [*overrides, "trials=0"])


def test_the_servers_of_a_submitted_sweep_are_known_on_this_machine() -> None:
    _note_sources(CheckedSweep("s", "http://mlflow.submitted:5000", "", dataset_uri="s3://submitted/images"))
    assert is_known("http://mlflow.submitted:5000")
    assert is_known("s3://submitted/images")


def test_a_sweep_that_resumes_keeps_a_setting_without_effect(tmp_path: Path) -> None:
    prepare("folder", photo_tree(tmp_path, per_class=6), str(tmp_path / "photos"))
    sweep = tmp_path / "s.yaml"
    settings = {"uri": str(tmp_path / "photos"), "image_size": 24}, {"color_jitter": 0.4, "auto_augment": "original"}
    sweep.write_text(
        json.dumps({"name": "s", "dataset": settings[0], "training": settings[1], "model": {"name": "resnet18"}})
    )
    with pytest.raises(ConfigError, match=r"training\.color_jitter: got 0\.4"):
        check_sweep(sweep, [])
    assert check_sweep(sweep, [], resume=True).name == "s"


def test_variables_are_passed_on_by_name_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "hush")
    monkeypatch.delenv("MISSING", raising=False)
    assert passed_on(["PGPASSWORD"]) == {"PGPASSWORD": "hush"}
    with pytest.raises(ConfigError) as caught:
        passed_on(["PGPASSWORD=hush", "MISSING", "RAY_AUTH_TOKEN"])
    assert len(caught.value.problems) == 3
    assert "hush" not in str(caught.value)


def test_the_command_is_quoted_for_the_shell() -> None:
    command = entrypoint("my sweep.yaml", ["search.lr.low=1e-3", "name='a'"], resume=True, allow_changed=False)
    expected = (
        """python -m orchestrator run 'my sweep.yaml' --set search.lr.low=1e-3 --set 'name='"'"'a'"'"'' --resume"""
    )
    assert command == expected


def test_versions_are_pinned_only_where_asked(tmp_path: Path) -> None:
    plain = runtime_env(tmp_path / "p.zip", {"A": "b"}, install=False, constrained=True)
    assert "pip" not in plain
    assert plain["env_vars"]["A"] == "b"
    pinned = runtime_env(tmp_path / "p.zip", {}, install=True, constrained=True)["pip"]["packages"]
    assert pinned[0].startswith("--constraint ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^+]+", line) for line in pinned[1:])
    names = {line.partition("==")[0] for line in pinned[1:]}
    assert {"torch", "timm", "optuna"} <= names
    assert "ray" not in names


def test_a_job_tells_where_its_versions_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUBMITTED_WITH, raising=False)
    assert version_report() == []
    sent = json.loads(runtime_env(Path("p.zip"), {}, install=False, constrained=False)["env_vars"][SUBMITTED_WITH])
    monkeypatch.setenv(SUBMITTED_WITH, json.dumps(sent))
    (line,) = version_report()
    assert line.startswith("Versions:  python 3.")
    monkeypatch.setenv(SUBMITTED_WITH, json.dumps({**sent, "torch": "1.0"}))
    _, warning = version_report()
    assert f"torch {sent['torch']} (submitted with 1.0)" in warning


def test_addresses_are_completed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert dashboard_url(None) == "http://127.0.0.1:8265"
    assert dashboard_url("head:8265") == "http://head:8265"
    assert dashboard_url("https://ray.example/") == "https://ray.example"
    with pytest.raises(ClusterError, match=r"no address of a Ray dashboard. Use one such as http://"):
        dashboard_url("ray://head:10001")
    with pytest.raises(ClusterError, match=r"no Ray dashboard answers at http://127.0.0.1:9: .* ssh -L"):
        JobClient("http://127.0.0.1:9")


def test_checkpoints_are_sent_with_the_job(tmp_path: Path) -> None:
    sweep, weights = tmp_path / "sweep.yaml", tmp_path / "weights"
    weights.mkdir()
    (weights / "sent.pth").write_bytes(b"x")
    (weights / "ignored.pth").write_bytes(b"x")
    (tmp_path / ".rayignore").write_text("ignored.pth\n")
    search = "[random, ./weights/sent.pth, weights/ignored.pth, /far/w.pth, 's3://b/w.pth', 'runs:/0', 'timm:a']"
    sweep.write_text(
        "name: t\ndataset: {name: digits}\nruns_dir: /shared\n"
        "model: {name: conv_resnet26_small, checkpoint: gone.pth}\n"
        f"search: {{checkpoint: {search}}}\n"
    )
    checked = check_sweep(sweep, [])
    assert checked.checkpoints == ("gone.pth", "./weights/sent.pth", "weights/ignored.pth")
    packed = plan_package(tmp_path, sweep)
    require_checkpoints(["./weights/sent.pth"], packed, tmp_path)
    with pytest.raises(ConfigError) as caught:
        require_checkpoints(checked.checkpoints, packed, tmp_path)
    lines = str(caught.value).splitlines()
    assert [line.partition(" is not among")[0] for line in lines] == [
        "checkpoint: 'gone.pth'",
        "checkpoint: 'weights/ignored.pth'",
    ]
