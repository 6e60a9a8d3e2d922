"""Sweeps over image files: settings, training and exact resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import ConfigError, SweepConfig, load_sweep
from orchestrator.config import DatasetConfig
from orchestrator.data import dataset_facts, locate_dataset, open_dataset
from orchestrator.data.conversion.prepare import prepare
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.images.placement import place_dataset
from orchestrator.training.workers import Workers
from tests.support.tiny_archives import photo_tree
from tests.support.training_pieces import make_trial, run, timeless

pytestmark = pytest.mark.usefixtures("one_thread")

EVERYTHING: dict[str, Any] = {
    "epochs": 2,
    "global_batch_size": 8,
    "hflip": 0.5,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.25,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "repeats": 2,
    "label_smoothing": 0.1,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepare ten photographs of each of three classes, and as many to test."""
    folder = tmp_path_factory.mktemp("photos")
    prepare("folder", photo_tree(folder, per_class=10), str(folder / "to"), images_per_shard=12)
    return str(folder / "to")


def placed(photos: str, **options: Any) -> DeviceImages:
    config = DatasetConfig(uri=photos, image_size=24, decode_processes=0, **options)
    return place_dataset(open_dataset(locate_dataset(None, photos, Path())), torch.device("cpu"), config)


def sweep(photos: str, training: dict[str, Any], **dataset: Any) -> SweepConfig:
    content = {"uri": photos, "image_size": 24, **dataset}
    model = {"name": "conv_resnet26_small"}
    return load_sweep({"name": "photos", "dataset": content, "model": model, "training": training, "trials": 1})


def test_splits_of_files(photos: str) -> None:
    data = placed(photos, validation_fraction=0.2)
    assert [len(data.train), len(data.validation), len(data.test)] == [24, 6, 30]
    assert isinstance(data.train, DecodedSplit)
    assert not set(data.train.positions) & set(data.validation.positions)
    assert (data.image_size, data.in_chans, data.class_names) == (24, 3, ("cat", "dog", "owl"))
    ((images, labels),) = data.validation.share(Workers())
    assert images.shape == (6, 3, 24, 24)
    assert labels.bincount().tolist() == [2, 2, 2]


def test_selecting_on_the_test_images(photos: str, tmp_path: Path) -> None:
    data = placed(photos, select_on="test")
    assert [len(data.train), len(data.validation), len(data.test)] == [30, 30, 30]
    digits = DatasetConfig(name="digits", select_on="test")
    small = place_dataset(open_dataset(locate_dataset("digits", None, tmp_path)), torch.device("cpu"), digits)
    assert [len(small.train), len(small.validation), len(small.test)] == [1437, 360, 360]
    assert torch.equal(small.validation.labels, small.test.labels)
    shares = [[labels for _, labels in small.test.share(Workers(rank, 400))] for rank in range(400)]  # more than images
    assert [sum(map(len, share)) for share in shares] == [1] * 360 + [0] * 40
    assert [len(share) for share in shares] == [1] * 360 + [0] * 40
    assert sweep(photos, {}, select_on="test", validation_fraction=1e-9).dataset.select_on == "test"


@pytest.mark.parametrize(("more", "every"), [({}, 2), ({"epoch_steps": 4}, 5)])
def test_training_on_files_and_exact_resume(photos: str, tmp_path: Path, more: dict[str, int], every: int) -> None:
    data, settings = placed(photos), {**EVERYTHING, **more}  # passes of three steps
    whole = make_trial(data, tmp_path / "whole", **settings)
    reports = run(whole)
    assert reports[-1]["epoch"] == 2
    assert 0 <= reports[-1]["test/top1"] <= 1
    run(make_trial(data, tmp_path / "cut", checkpoint_every_steps=every, **settings), cut_before=6 if more else 4)
    continued = make_trial(data, tmp_path / "cut", checkpoint_every_steps=every, **settings)
    assert (continued.epoch, continued.step) == (1, 1)
    assert timeless(run(continued))[-1] == timeless(reports)[-1]
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, continued.network.state_dict()[key]), key


def test_the_settings_of_files_and_of_small_images(photos: str) -> None:
    assert sweep(photos, {"color_jitter": 0.4, "auto_augment": "3a"}).dataset.crop_size == 24
    assert dataset_facts(None, photos, 224).files
    message = [
        ({"crop_padding": 4}, "training.crop_padding: got 4; image files are augmented without it. Leave it out"),
        (
            {"color_jitter": 0.4, "auto_augment": "original"},
            "training.color_jitter: got 0.4; timm leaves it out beside a policy, and auto_augment is 'original'. Leave",
        ),
        ({"auto_augment": "rnad-m9"}, "training.auto_augment: got 'rnad-m9'; timm has no such policy. Use rand-m9"),
    ]
    for training, text in message:
        with pytest.raises(ConfigError, match=re.escape(text)):
            sweep(photos, training)
    small = {
        "name": "digits",
        "dataset": {"name": "digits", "image_size": 32},
        "model": {"name": "conv_resnet26_small"},
    }
    with pytest.raises(ConfigError) as caught:
        load_sweep({**small, "training": {"color_jitter": 0.4}})
    assert [str(problem) for problem in caught.value.problems] == [
        "dataset.image_size: got 32; these images have 8 px and keep them. Leave it out",
        "training.color_jitter: got 0.4; small images are augmented without it. Leave it out",
    ]


def test_the_decoder_of_training_images(photos: str) -> None:
    chosen = placed(photos, decoder="pillow", interpolation="bilinear").train
    assert isinstance(chosen, DecodedSplit)
    assert (chosen.transforms.decoder, chosen.transforms.scaled_decoding) == ("pillow", False)
    for decoder in ("pillow", "nvjpeg"):
        message = (
            f"dataset.scaled_decoding: got true with decoder: {decoder}, which decodes whole images. Use decoder: "
        )
        with pytest.raises(ConfigError, match=re.escape(message)):
            sweep(photos, {}, decoder=decoder, scaled_decoding=True)
    digits = {"name": "digits", "decoder": "pillow"}
    message = "dataset.decoder: got 'pillow'; these images are stored as pixels. Leave it out"
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_sweep({"name": "digits", "dataset": digits, "model": {"name": "conv_resnet26_small"}})
