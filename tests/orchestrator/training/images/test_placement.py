"""Placed splits: share of the training images, normalisation that is set, and averaging over mirror images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator.config import DatasetConfig
from orchestrator.data import ImageDataset, draw_fraction, epoch_batches, open_dataset, prepare_dataset
from orchestrator.errors import ConfigError
from orchestrator.inference.evaluate import evaluate_checkpoint
from orchestrator.inference.load import load_model
from orchestrator.training.evaluation import evaluate
from orchestrator.training.images.device_images import DeviceSplit
from orchestrator.training.images.placement import place_dataset
from orchestrator.training.tasks.classification import Classification
from orchestrator.training.workers import Workers
from tests.support.training_pieces import make_trial, run

CPU = torch.device("cpu")
LABELS = np.repeat(np.arange(4, dtype=np.int32), [40, 20, 10, 1])

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    return open_dataset(prepare_dataset("digits", tmp_path_factory.mktemp("data")))


def test_a_share_is_drawn_per_class_and_is_part_of_a_larger_one() -> None:
    positions = np.random.default_rng(0).permutation(len(LABELS))
    shares = {fraction: draw_fraction(LABELS, positions, fraction, seed=3) for fraction in (0.01, 0.1, 0.25, 0.5, 1.0)}
    assert [np.bincount(LABELS[share]).tolist() for share in shares.values()] == [
        [1, 1, 1, 1],
        [4, 2, 1, 1],
        [10, 5, 2, 1],
        [20, 10, 5, 1],
        [40, 20, 10, 1],
    ]
    for smaller, larger in zip(list(shares.values())[:-1], list(shares.values())[1:], strict=True):
        assert set(smaller) <= set(larger)
    assert all((np.diff(share) > 0).all() for share in list(shares.values())[:-1])
    assert np.array_equal(shares[0.5], draw_fraction(LABELS, positions, 0.5, seed=3))
    assert not np.array_equal(shares[0.5], draw_fraction(LABELS, positions, 0.5, seed=4))


@pytest.mark.parametrize("select_on", ["validation", "test"])
def test_a_share_of_the_training_images_leaves_the_other_splits(digits: ImageDataset, select_on: str) -> None:
    whole, part = (
        place_dataset(digits, CPU, DatasetConfig(name="digits", select_on=select_on, train_fraction=fraction))
        for fraction in (1.0, 0.1)
    )
    assert len(part.train) == pytest.approx(0.1 * len(whole.train), abs=5)
    assert torch.bincount(part.train.labels).tolist() == [
        round(0.1 * count) for count in torch.bincount(whole.train.labels).tolist()
    ]
    for name in ("validation", "test"):
        assert torch.equal(getattr(part, name).images, getattr(whole, name).images)


def test_mean_and_deviation_of_the_settings_are_used_and_stored(digits: ImageDataset, tmp_path: Path) -> None:
    config = DatasetConfig(name="digits", mean=[0.25], std=[0.5], train_fraction=0.2)
    data = place_dataset(digits, CPU, config)
    images, _ = data.train.batch(torch.arange(5))
    torch.testing.assert_close(images, (data.train.images[:5] / 255 - 0.25) / 0.5)
    reports = run(make_trial(data, tmp_path, epochs=1))
    network = load_model(tmp_path / "best.pt")
    assert (network.pixel_mean, network.pixel_std) == ((0.25,), (0.5,))
    found = evaluate_checkpoint(tmp_path / "best.pt", "digits", datasets_folder=tmp_path)
    assert found.top1 == reports[-1]["test/top1"]


def test_the_numbers_of_imagenet(digits: ImageDataset) -> None:
    data = place_dataset(digits, CPU, DatasetConfig(name="digits", normalization="imagenet"))
    mean, std = (values.flatten() / 255 for values in (data.test.mean, data.test.std))
    torch.testing.assert_close(mean, torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(std, torch.tensor([0.229, 0.224, 0.225]))


class _Linear:
    """Predictor that is not the same for mirror images."""

    def __init__(self) -> None:
        self.evaluated = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def predict(self, images: Tensor) -> Tensor:
        return self.evaluated(images)


def test_probabilities_are_averaged_over_an_image_and_its_mirror_image(digits: ImageDataset) -> None:
    torch.manual_seed(0)
    predictor = _Linear()
    plain, mirrored = (
        place_dataset(digits, CPU, DatasetConfig(name="digits", tta=tta)).test for tta in ("none", "hflip")
    )
    assert isinstance(plain, DeviceSplit)
    images, labels = plain.batch(torch.arange(len(plain)))
    hits, loss = 0, 0.0
    with torch.no_grad():
        for image, label in zip(images, labels.tolist(), strict=True):
            views = [predictor.predict(view[None])[0].double().softmax(0) for view in (image, image.flip(2))]
            probability = (views[0] + views[1]) / 2
            hits += int(probability.argmax()) == label
            loss -= float(probability[label].log()) / len(labels)
    found = evaluate(predictor, mirrored, Workers(), Classification(), num_classes=10)
    assert found["top1"] == pytest.approx(hits / len(labels), abs=1e-9)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert evaluate(predictor, plain, Workers(), Classification(), num_classes=10)["loss"] != found["loss"]


def test_eval_averages_over_mirror_images_as_the_run_did_or_as_told(digits: ImageDataset, tmp_path: Path) -> None:
    data = place_dataset(digits, CPU, DatasetConfig(name="digits", tta="hflip", train_fraction=0.2))
    trial = make_trial(data, tmp_path, epochs=1)
    reports = run(trial)
    found = evaluate_checkpoint(tmp_path / "best.pt", "digits", datasets_folder=tmp_path)
    assert (found.top1, found.notes) == (reports[-1]["test/top1"], ())
    assert found.loss == evaluate(trial.train_state, data.test, Workers(), Classification(), num_classes=10)["loss"]
    other = evaluate_checkpoint(tmp_path / "best.pt", "digits", tta="none", datasets_folder=tmp_path)
    assert other.notes == ("tta none: the run had hflip",)
    assert other.loss != found.loss
    with pytest.raises(ConfigError, match=r"tta: got 'flip', which is none\. Did you mean 'hflip'\?"):
        evaluate_checkpoint(tmp_path / "best.pt", "digits", tta="flip", datasets_folder=tmp_path)


@pytest.mark.parametrize(("count", "size", "sizes"), [(100, 16, [16] * 6), (48, 16, [16] * 3), (10, 16, [10])])
def test_batches_of_exactly_one_size(count: int, size: int, sizes: list[int]) -> None:
    exact = epoch_batches(count, size, seed=1, epoch=2, drop_last=True)
    assert list(map(len, exact)) == sizes
    order = np.concatenate(epoch_batches(count, size, seed=1, epoch=2))
    assert np.array_equal(np.concatenate(exact), order[: sum(sizes)])
