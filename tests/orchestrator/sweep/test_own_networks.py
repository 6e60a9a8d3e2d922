"""Sweeps and checkpoints of networks of the user's own files: recorded whole, resumed, and not run unasked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

import models
from orchestrator import load_model, load_sweep
from orchestrator.cli.main import app
from orchestrator.config import ModelConfig
from orchestrator.config.plans import resolve_plans
from orchestrator.config.sweep import SweepConfig
from orchestrator.data import describe_dataset
from orchestrator.errors import CheckpointError, ConfigError, ResumeError
from orchestrator.files.known_code import is_known_code, note_code
from orchestrator.lanes.lane_setting import LaneInputs, LaneSetting
from orchestrator.lanes.messages import Outcome, RankId, TrialAssignment
from orchestrator.lanes.worker import worker
from orchestrator.records.folder.first_event import rebuild_first_event
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import read_begun
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.records.settings.stored_config import complete_settings, non_default_settings
from orchestrator.sweep import run
from orchestrator.sweep.compatibility import identity, refuse_changes, stored_config
from orchestrator.training.checkpoints.checkpoint_content import read_best
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from orchestrator.training.checkpoints.checkpoints import build_network, describe_network
from orchestrator.training.workers import Workers
from tests.support.networks.own_file import NAME, TEXT, write_own_file
from tests.support.sweeps.tracked_sweep import replay
from tests.support.training_pieces import few_digits, make_trial
from tests.support.training_pieces import run as train


@pytest.fixture(autouse=True)
def _strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with a user who has run no file before, in a process that has not either."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    models.forget_network_file("own_net.py")


def sweep(folder: Path, text: str = TEXT, **changes: Any) -> SweepConfig:
    write_own_file(folder, text)
    settings = {"name": "s", "dataset": {"name": "digits"}, "model": {"name": NAME}, "runs_dir": str(folder / "runs")}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**settings, **changes}))
    return load_sweep(path)


def begin(config: SweepConfig, folder: Path, digits: str) -> SweepFolder:
    """Record the start of a session as `run_sweep` does, without training."""
    begun = SweepFolder(Path(str(config.runs_dir)) / config.name)
    with Journal(begun.journal) as journal:
        settings = complete_settings(config), non_default_settings(config)
        inputs = run._Inputs(*settings, folder / "sweep.yaml", config.network_files)
        run._record_session(Ledger(journal), begun, identity(config, digits), describe_dataset(digits), inputs)
    return begun


@pytest.fixture
def digits(tmp_path: Path) -> str:
    from orchestrator.data import prepare_dataset

    return str(prepare_dataset("digits", tmp_path / "data"))


def test_a_session_records_text_and_hash_in_its_folder_and_in_mlflow(tmp_path: Path, digits: str) -> None:
    config = sweep(tmp_path)
    folder = begin(config, tmp_path, digits)
    sha256 = models.NetworkFile("own_net.py", TEXT).sha256
    assert (folder.path / "sessions/001/own_net.py").read_text() == TEXT
    history = read_begun(folder.journal)
    assert history.identity is not None and history.identity["network file own_net.py"] == sha256
    assert history.facts["network_file.own_net.py"] == sha256

    writer = replay(folder.journal, f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(writer.tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (recorded,) = client.search_runs(experiments)
    stored = client.download_artifacts(recorded.info.run_id, "sessions/001/own_net.py", str(tmp_path))
    assert Path(stored).read_text() == TEXT
    assert recorded.data.tags["network_file.own_net.py"] == sha256
    # the folder of the session suffices to run the sweep again
    assert load_sweep(folder.path / "sessions/001/sweep.yaml").network_files.texts == {"own_net.py": TEXT}


def test_a_resumed_sweep_takes_the_recorded_file_and_refuses_a_changed_one(tmp_path: Path, digits: str) -> None:
    before = sweep(tmp_path)
    folder = begin(before, tmp_path, digits)
    run._note_network_files(before.network_files, resolve_plans(before))
    changed = sweep(tmp_path, f"{TEXT}\nCHANGED = True\n")
    with pytest.raises(ResumeError, match=r"network file own_net.py: was [0-9a-f]{64}, is [0-9a-f]{64}\nRestore them"):
        refuse_changes(identity(before, digits), identity(changed, digits), name="s")
    assert stored_config(folder).network_files.texts == {
        "own_net.py": TEXT
    }  # `resume s` continues with what it recorded
    assert identity(stored_config(folder), digits) == identity(before, digits)


def test_a_sweep_from_somebody_else_runs_no_code_until_it_is_allowed(
    tmp_path: Path, digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    text = f"open({str(ran)!r}, 'w').close()\n{TEXT}"
    folder = begin(sweep(tmp_path, text), tmp_path, digits)
    for name in [name for name in sys.modules if name.startswith("network_file_")]:
        monkeypatch.delitem(sys.modules, name)
    models.forget_network_file("own_net.py")
    ran.unlink()
    monkeypatch.chdir(tmp_path)  # where a file of that name lies

    config = stored_config(folder, ["trials=9"])
    assert config.network_files.withheld == ("own_net.py",)
    with pytest.raises(ConfigError, match=r"own_net.py is code in .*sessions, which you have not run before. Read it"):
        run.run_sweep(config, resume=True)
    rebuilt, _ = rebuild_first_event(folder, [], sealed=True)
    assert rebuilt.config["model"]["name"] == NAME
    assert not ran.exists()

    allowed = stored_config(folder, allow_code=True)
    assert ran.exists() and allowed.network_files.texts == {"own_net.py": text}
    run._note_network_files(allowed.network_files, resolve_plans(allowed))
    assert stored_config(folder).network_files.withheld == ()  # known from now on


@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_a_copy_that_is_not_the_recorded_file_is_an_error(tmp_path: Path, digits: str, fault: str) -> None:
    folder = begin(sweep(tmp_path), tmp_path, digits)
    copy = folder.path / "sessions/001/own_net.py"
    copy.write_text(f"{TEXT}\n") if fault == "changed" else copy.unlink()
    text = "is not the file that the sweep was begun with" if fault == "changed" else "cannot be read"
    with pytest.raises(ConfigError, match=f"model.name: its copy {copy} {text}"):
        stored_config(folder, allow_code=True)


def test_a_trial_trains_it_and_its_checkpoint_suffices_to_load_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = models.register_network_file("own_net.py", TEXT)
    data = few_digits(tmp_path / "data", train=200, test=50)
    trial = make_trial(data, tmp_path, model=NAME, options={"width": 16}, epochs=2)
    losses = [report["train/loss"] for report in train(trial)]
    assert losses[1] < losses[0]
    expected = build_network(trial.description)
    expected.load_state_dict(read_best(tmp_path / "best.pt")["state_dict"])
    images = torch.rand(3, 1, 8, 8)

    models.forget_network_file("own_net.py")
    monkeypatch.delitem(sys.modules, file.module_name)
    with pytest.raises(CheckpointError) as refused:
        load_model(tmp_path / "best.pt")
    assert f"{NAME} (SHA-256 {file.sha256[:12]}), which you have not run before" in str(refused.value)
    assert file.module_name not in sys.modules
    command = ["eval", str(tmp_path / "best.pt"), "--dataset", "digits"]
    monkeypatch.chdir(tmp_path)
    assert isinstance(CliRunner().invoke(app, command).exception, CheckpointError)
    assert "of 'test'" in CliRunner().invoke(app, [*command, "--allow-code"]).output
    network = load_model(tmp_path / "best.pt")
    assert torch.equal(network(images), expected.eval()(images))
    assert is_known_code(file.sha256)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("test_vitt", "there is no such network. Did you mean 'test_vit'? Networks are those of"),
        ("lost.py:make", "no file lost.py in"),
        ("own_net.py:mak", "there is no such network. Write FILE.py:FACTORY"),
    ],
)
def test_a_network_of_weights_of_another_program_may_be_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, fault: str
) -> None:
    write_own_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "plain.pth")
    found = CliRunner().invoke(app, ["eval", "plain.pth", "--dataset", "digits", "--model", model]).exception
    assert isinstance(found, CheckpointError) and f"--model {model}: {fault}" in str(found)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda model: model.pop("code"), "the checkpoint does not hold that file"),
        (lambda model: model["code"].update(file="other.py"), "the checkpoint does not hold that file"),
        (lambda model: model.update(code="import os"), "does not hold the weights of a trained network"),
        (
            lambda model: model["code"].update(text="import nothing_like_it"),
            "its network cannot be built: own_net.py can",
        ),
        (
            lambda model: model.update(name="own_net.py:other"),
            "names a network that cannot be built (name: got 'own_net",
        ),
    ],
)
def test_a_checkpoint_that_does_not_hold_its_file_is_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], fault: str
) -> None:
    write_own_file(Path(tmp_path))
    models.register_network_file("own_net.py", TEXT)
    model = describe_network(ModelConfig(name=NAME), num_classes=10, in_chans=1, image_size=8)
    data = {"pixel_mean": [0.5], "pixel_std": [0.25], "class_names": list("abcdefghij")}
    content = {"model": json.loads(json.dumps(model)), "data": data, "state_dict": build_network(model).state_dict()}
    change(content["model"])
    save_checkpoint(tmp_path / "best.pt", content)
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path / "best.pt", allow_code=True)
    assert fault in str(error.value) and "\n" not in str(error.value)


def test_a_worker_runs_the_text_it_is_sent_and_reports_a_node_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without the file
    built: list[str] = []
    monkeypatch.setattr(worker, "Trial", lambda config, *_, **__: built.append(config.model.name) or _NoTrial())
    config = {"number": 0, "model": {"name": NAME, "options": {}}, "training": {"epochs": 1}, "seed": 0}

    def outcome(text: str) -> Any:
        inputs = LaneInputs(None, "", None, network_files={"own_net.py": text})  # type: ignore[arg-type]
        lane, data = LaneSetting(0, None, inputs), None
        return worker._train(lane, RankId(0, 1, 0, 1), Workers(), data, TrialAssignment("a", config, str(tmp_path)))  # type: ignore[arg-type]

    assert outcome(TEXT).kind is Outcome.COMPLETED
    assert built == [NAME] and models.name_problem(NAME) is None
    failed = outcome("import only_installed_elsewhere\n")
    assert (failed.kind, failed.final) == (Outcome.FAILED, True)
    assert "own_net.py cannot be imported: ModuleNotFoundError: No module named 'only_inst" in failed.reason


class _NoTrial:
    def run(self, report: Any) -> None:
        del report


def test_an_mlflow_model_carries_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pytorch

    from orchestrator.tracking.model_folder import write_model_folder

    file = models.register_network_file("own_net.py", TEXT)
    note_code(file.sha256)
    model = describe_network(ModelConfig(name=NAME), num_classes=10, in_chans=1, image_size=8)
    data = {"pixel_mean": [0.0], "pixel_std": [1.0], "class_names": list("abcdefghij")}
    network = build_network(model).eval()
    save_checkpoint(tmp_path / "best.pt", {"model": model, "data": data, "state_dict": network.state_dict()})
    write_model_folder(tmp_path / "best.pt", tmp_path / "stored")
    assert (tmp_path / "stored/code" / f"{file.module_name}.py").read_text() == TEXT

    monkeypatch.delitem(sys.modules, file.module_name)  # as in a process without SpatialSweep
    monkeypatch.setattr(sys, "path", [*sys.path])
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(mlflow.pytorch.load_model(str(tmp_path / "stored"))(images), network(images))
