"""Transfers of weights between the folders of trials: taken, carried out, cut short."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import CheckpointError
from orchestrator.lanes.weight_transfer import WeightTransfer, changed_config, take_checkpoints

CONFIG = {"number": 1}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folders of a donor and of the trial that takes its weights over."""
    for name in ("donor", "own"):
        (tmp_path / name).mkdir()
        for file in ("best.pt", "last.pt"):
            (tmp_path / name / file).write_text(name)
    return tmp_path / "donor", tmp_path / "own"


def decided(donor: Path, own: Path) -> WeightTransfer:
    take_checkpoints(donor, own)
    WeightTransfer(donor=str(donor), config=CONFIG, epoch=2, change=1).write(own)
    note = WeightTransfer.read(own)
    assert note == WeightTransfer(donor=str(donor), config=CONFIG, epoch=2, change=1)
    return note


def content(folder: Path) -> dict[str, str]:
    """Return the files of a folder but partial ones, which the next lane deletes."""
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix != ".partial"}


APPLIED = {"best.pt": "donor", "last.pt": "donor", "changed_config.json": json.dumps(CONFIG)}


def test_a_note_is_carried_out_once(folders: tuple[Path, Path]) -> None:
    donor, own = folders
    note = decided(donor, own)
    shutil.rmtree(donor)
    note.apply(own)
    assert content(own) == APPLIED
    assert WeightTransfer.read(own) is None
    assert changed_config(own) == CONFIG


def test_a_donor_that_trains_on_does_not_change_what_was_taken(folders: tuple[Path, Path]) -> None:
    donor, own = folders
    note = decided(donor, own)
    for name in ("best.pt", "last.pt"):
        (donor / "partial").write_text("a later epoch")
        (donor / "partial").replace(donor / name)
    note.apply(own)
    assert content(own) == APPLIED


@pytest.mark.parametrize("changes", range(7))
def test_a_note_that_was_cut_short_is_carried_out_again(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    donor, own = folders
    note, left = decided(donor, own), iter(range(changes))

    def killed_after(act: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return act(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, _called_by(killed_after, getattr(Path, name)))
        note.apply(own)
    assert WeightTransfer.read(own) == note  # the trial's client carries it out before it leases a lane
    note.apply(own)
    assert content(own) == APPLIED


def _called_by(caller: Callable[..., Any], act: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: caller(act, *args, **kwargs)


def test_weights_that_a_trial_has_already_leave_no_file_behind(folders: tuple[Path, Path]) -> None:
    """Rename a link over another link to the same file: the system does nothing, and leaves both."""
    donor, own = folders
    decided(donor, own).apply(own)
    assert (own / "best.pt").samefile(donor / "best.pt")
    decided(donor, own).apply(own)
    assert content(own) == APPLIED


@pytest.mark.parametrize("has_links", [True, False])
def test_files_of_an_earlier_decision_are_replaced_or_deleted(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    donor, own = folders
    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    (own / "handover-last.pt").write_text("of an earlier decision")
    take_checkpoints(donor, own)
    assert {name: text for name, text in content(own).items() if name.startswith("handover")} == {
        "handover-best.pt": "donor",
        "handover-last.pt": "donor",
    }
    assert (own / "handover-last.pt").samefile(donor / "last.pt") is has_links
    WeightTransfer().apply(own)
    assert content(own) == {"best.pt": "own", "last.pt": "own"}


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_missing_checkpoint_is_an_error(folders: tuple[Path, Path], name: str) -> None:
    donor, own = folders
    note = decided(donor, own)
    (own / f"handover-{name}").unlink()
    with pytest.raises(CheckpointError, match=f"handover-{name}: the checkpoint taken over from"):
        note.apply(own)
    assert (content(own)["last.pt"], changed_config(own)) == ("own", None)
    (donor / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        take_checkpoints(donor, own)


def test_the_note_is_plain_json(tmp_path: Path) -> None:
    WeightTransfer(donor="/there", config={"number": 3}, epoch=4, change=2).write(tmp_path)
    assert json.loads((tmp_path / "handover.json").read_text()) == {
        "donor": "/there",
        "config": {"number": 3},
        "epoch": 4,
        "change": 2,
        "waits": False,
    }
