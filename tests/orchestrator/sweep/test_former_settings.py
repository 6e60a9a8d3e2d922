"""Sweeps that were begun by an earlier version keep what it did where settings have been added since."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import load_sweep
from orchestrator.data.conversion.prepare import prepare
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.sweep.compatibility import stored_config
from tests.support.tiny_archives import photo_tree


@pytest.mark.parametrize("files", [True, False])
def test_image_files_are_decoded_as_before_there_was_a_choice(tmp_path: Path, files: bool) -> None:
    dataset = {"name": "digits"}
    if files:
        prepare("folder", photo_tree(tmp_path, per_class=10), str(tmp_path / "to"))
        dataset = {"uri": str(tmp_path / "to")}
    content = {"name": "old", "dataset": dataset, "model": {"name": "conv_resnet26_small"}, "trials": 1}
    recorded = load_sweep(content).model_dump(mode="json")
    for name, expected in (("new", "torchvision"), ("old", "pillow" if files else "torchvision")):
        if name == "old":
            del recorded["dataset"]["decoder"]
        folder = SweepFolder(tmp_path / name)
        folder.path.mkdir()
        with Journal(folder.journal) as journal:
            Ledger(journal).sweep_started(name, recorded, {}, {})
        assert stored_config(folder, contacted=()).dataset.decoder == expected
        chosen = stored_config(folder, ["dataset.decoder=torchvision"], contacted=())
        assert chosen.dataset.decoder == "torchvision"
