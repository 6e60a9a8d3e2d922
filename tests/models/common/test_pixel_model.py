"""Trained networks with their normalisation, and their pickles, for every family."""

from __future__ import annotations

import io

import pytest
import torch

import models
from models.common.pixels import PixelModel
from tests.support.networks.small_networks import SMALL_NETWORKS

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


@pytest.mark.parametrize("family", SMALL_NETWORKS)
def test_pixels_are_normalised_and_a_pickle_changes_nothing(family: str) -> None:
    small = SMALL_NETWORKS[family]
    torch.manual_seed(0)
    network = models.create_model(small.model, num_classes=2, image_size=8, **small.options).eval()
    model = PixelModel(network, MEAN, STD, ("a", "b")).eval()
    pixels = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        channels = [(pixels[:, c] - MEAN[c]) / STD[c] for c in range(3)]
        expected = network(torch.stack(channels, dim=1))
        torch.testing.assert_close(model(pixels), expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(pixels), expected)
    assert loaded.class_names == ("a", "b")
