"""Every family learns real images: its small network passes 95% on held-out digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.config import DatasetConfig
from orchestrator.data import open_dataset, prepare_dataset
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.images.placement import place_dataset
from search_spaces import KINDS, kind_of, named_space
from tests.support.networks.small_networks import SMALL_NETWORKS, SmallNetwork
from tests.support.training_pieces import make_trial, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DeviceImages:
    """Return all digits, split as in the demo."""
    source = open_dataset(prepare_dataset("digits", tmp_path_factory.mktemp("digits")))
    return place_dataset(source, torch.device("cpu"), DatasetConfig(name="digits"))


@pytest.mark.parametrize(("family", "network"), SMALL_NETWORKS.items(), ids=list(SMALL_NETWORKS))
def test_a_family_learns_the_digits_with_a_setting_of_its_space(
    family: str, network: SmallNetwork, digits: DeviceImages, tmp_path: Path
) -> None:
    space = named_space(KINDS[kind_of(network.model) or ""].family, [network.model])
    assert space.project({**network.options, **network.training}).left_out == {}
    trial = make_trial(
        digits,
        tmp_path,
        model=network.model,
        options=network.options,
        epochs=network.epochs,
        **network.training,
    )
    reports = run(trial)
    # The validation images choose the epoch; the test images are read once, after the last.
    assert reports[-1]["test/top1"] > 0.95, reports
