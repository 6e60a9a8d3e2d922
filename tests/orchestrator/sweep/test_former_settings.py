"""Sweeps that were begun by an earlier version keep what it did where settings have been added since."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import load_sweep
from orchestrator.data.conversion.prepare import prepare
from orchestrator.errors import ConfigError
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import read_begun
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.sweep.compatibility import chosen_before, stored_config
from orchestrator.sweep.steering.changed_settings import change_settings
from tests.support.tiny_archives import photo_tree


def test_settings_that_no_trial_uses_are_kept_where_they_were_accepted_before(tmp_path: Path) -> None:
    prepare("folder", photo_tree(tmp_path, per_class=10), str(tmp_path / "to"))
    network = {"name": "conv_resnet26_small"}
    content = {"name": "old", "dataset": {"uri": str(tmp_path / "to")}, "model": network, "trials": 1}
    config = load_sweep({**content, "training": {"color_jitter": 0.4}})
    recorded = config.model_dump(mode="json")
    recorded["training"]["auto_augment"] = "rand-m9"
    folder = SweepFolder(tmp_path / "old")
    folder.path.mkdir()
    with Journal(folder.journal) as journal:
        Ledger(journal).sweep_started("old", recorded, {}, {})
    again = stored_config(folder, ["trials=2"], contacted=())
    assert (again.training.color_jitter, again.training.auto_augment, again.trials) == (0.4, "rand-m9", 2)
    assert chosen_before(again, read_begun(folder.journal)) == (again, "")
    changed = change_settings(again, recorded["search"], ["trials=3"], begun=1, sampler="grid").config
    assert (changed.training, changed.trials) == (again.training, 3)
    with pytest.raises(ConfigError, match="timm leaves it out beside a policy"):
        load_sweep(recorded)  # of a sweep that begins


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
