"""Settings of images and of their augmentation: what does not fit the images or the network is refused at once."""

from typing import Any

import pytest

from orchestrator.config import SweepConfig, TrainingConfig
from orchestrator.config.validation.training_rules import augmentation_problems
from orchestrator.data import DatasetFacts
from orchestrator.errors import ConfigError

SMALL = DatasetFacts(image_size=32, in_chans=3, num_classes=10, train_images=5000)
PHOTOS = DatasetFacts(image_size=224, in_chans=3, num_classes=10, train_images=5000, files=True)


def sweep(**sections: Any) -> SweepConfig:
    base: dict[str, Any] = {"name": "t", "dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}}
    return SweepConfig(**{**base, **sections})


def digits(**settings: Any) -> dict[str, Any]:
    return {"dataset": {"name": "digits", **settings}}


def test_the_settings_of_images_are_accepted() -> None:
    config = sweep(
        **digits(mean=[0.3], std=[0.38], train_fraction=0.1, tta="hflip"),
        training={"crop_px": 6, "mixup_alpha": 0.2, "mixup_mode": "batch", "mix_prob": 0.5, "repeats": 3},
    )
    assert (config.dataset.mean, config.dataset.std) == ((0.3,), (0.38,))
    assert SweepConfig.model_validate(config.model_dump(mode="json")) == config
    plain = TrainingConfig()
    assert (plain.mixup_mode, plain.mix_prob, plain.dist_bn, plain.drop_last) == ("elem", 1.0, "broadcast", False)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (digits(mean=[0.3]), r"dataset\.std: is missing beside mean\. Give both, for pixels in \[0, 1\]"),
        (digits(std=[0.3]), r"dataset\.mean: is missing beside std"),
        (digits(mean=[0.3] * 3, std=[0.3]), r"dataset\.mean: got 3 numbers; these images have 1 channels"),
        (digits(mean=[125.0], std=[60.0]), r"dataset\.mean: got \[125\.0\]; must hold .* divide numbers for 0\.\.255"),
        (digits(mean="imagenet", std=[0.2]), r"dataset\.mean: got 'imagenet'; must hold a number for each channel"),
        (digits(mean=[0.3], std=[0.0]), r"dataset\.std: got \[0\.0\]; holds 0"),
        (digits(normalization="imagenet"), r"dataset\.normalization: got imagenet; .* 1 channels.*Use measured"),
        (digits(normalization="imagenett"), r"dataset\.normalization: .*Did you mean 'imagenet'"),
        (digits(normalization="imagenet", mean=[0.3], std=[0.3]), r"got imagenet beside mean and std"),
        (digits(train_fraction=0), r"dataset\.train_fraction: got 0"),
        (digits(tta="flip"), r"dataset\.tta: .*Did you mean 'hflip'"),
        (
            {**digits(train_fraction=0.001), "resources": {"workers": 8}},
            r"dataset\.train_fraction: got 0\.001; it leaves about 10 training images, .*8 workers.*Use 0\.014 or more",
        ),
        ({"training": {"hue": 0.1}}, r"training\.hue: got 0\.1; these images have 1 channels"),
        ({"training": {"lighting": 0.1}}, r"training\.lighting: got 0\.1; these images have 1 channels"),
        ({"training": {"hue": 0.6}}, r"training\.hue: got 0\.6"),
        ({"training": {"mixup_mode": "elements"}}, r"training\.mixup_mode: .*Did you mean 'elem'"),
        ({"training": {"mix_prob": 0.0}}, r"training\.mix_prob: got 0\.0"),
        ({"training": {"dist_bn": "reduced"}}, r"training\.dist_bn: .*Did you mean 'reduce'"),
        ({"training": {"crop_px": 9}}, r"training\.crop_px: got 9; images of 8 px are smaller\. Use 8 or less"),
        (
            {"training": {"crop_px": 11, "crop_padding": 1}},
            r"got 11; images of 8 px and 1 px of padding on each side are smaller\. Use 10 or less",
        ),
        (
            {"training": {"crop_px": 6}, "model": {"name": "lesa_resnet26_cifar"}},
            r"training\.crop_px: got 6; lesa_resnet26_cifar is built for one size of images, 8 px here",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(**sections)


@pytest.mark.parametrize(
    ("facts", "settings", "refused"),
    [
        (SMALL, {"hue": 0.1, "lighting": 0.1, "crop_px": 24, "repeats": 3, "crop_padding": 2}, []),
        (PHOTOS, {"hue": 0.1, "lighting": 0.1, "repeats": 3, "color_jitter": 0.4}, []),
        (PHOTOS, {"crop_px": 24, "crop_padding": 2}, ["training.crop_padding", "training.crop_px"]),
        (SMALL, {"color_jitter": 0.4, "auto_augment": "rand-m9"}, ["training.color_jitter", "training.auto_augment"]),
    ],
)
def test_augmentations_of_small_images_and_of_files(
    facts: DatasetFacts, settings: dict[str, Any], refused: list[str]
) -> None:
    assert [problem.where for problem in augmentation_problems(TrainingConfig(**settings), {}, facts)] == refused
