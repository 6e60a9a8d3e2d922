"""Tasks: what the training loop, configuration and readers need of one that is not classification."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

from orchestrator.config import DatasetConfig, ModelConfig, ObjectiveConfig, SweepConfig, TrainingConfig, TrialConfig
from orchestrator.config.tasks import registry as known_facts
from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.config.tasks.facts import TaskFacts, TaskMetric
from orchestrator.config.tasks.registry import list_tasks, recorded_task, register_facts
from orchestrator.data import ImageDataset, PixelImages, open_dataset, prepare_dataset
from orchestrator.errors import CheckpointError, ConfigError
from orchestrator.training.checkpoints.checkpoint_content import read_best
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints, load_network_file
from orchestrator.training.evaluation import evaluate
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.tasks import registry
from orchestrator.training.tasks.classification import Classification, ClassificationEvaluator
from orchestrator.training.tasks.registry import find_task, register_task
from orchestrator.training.tasks.trees import in_float32, map_tensors, split_tree
from orchestrator.training.train_state import TrainState
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers
from tests.support.tasks.point_task import IGNORED, BrightTask, DigitTask, PointEvaluator, PointTask
from tests.support.training_pieces import differences, join_group, run, run_ranks, timeless

POINTS = ObjectiveConfig.model_validate({"metric": "val/centre_px", "mode": "min"})
CPU = torch.device("cpu")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter both tasks through the public function, and take them out again."""
    monkeypatch.setattr(known_facts, "_FACTS", dict(known_facts._FACTS))
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    register_task(PointTask())
    register_task(BrightTask())


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    return few(tmp_path_factory.mktemp("digits"))


def few(folder: Path) -> ImageDataset:
    whole = open_dataset(prepare_dataset("digits", folder))
    counts = {"train": 160, "test": 41}
    splits = {
        name: PixelImages(split.images[: counts[name]], split.labels[: counts[name]])
        for name, split in whole.splits.items()
        if isinstance(split, PixelImages)
    }
    return dataclasses.replace(whole, splits=splits)


def placed(task: DigitTask, digits: ImageDataset) -> DeviceImages:
    return task.place_dataset(digits, CPU, DatasetConfig(name="digits", validation_fraction=0.25))


def make_trial(
    task: str,
    data: DeviceImages,
    folder: Path,
    *,
    objective: ObjectiveConfig = POINTS,
    workers: Workers,
    **training: Any,
) -> Trial:
    settings = {"epochs": 2, "global_batch_size": 27, "optimizer": "adamw", "lr": 3e-3, "hflip": 0.5, **training}
    config = TrialConfig(
        number=0,
        model=ModelConfig(name="conv_resnet26_small"),
        training=TrainingConfig(**settings),
        seed=0,
        task=task,
    )
    costs = frozenset({"params", "latency_ms"})
    return Trial(config, objective, data, workers, TrialCheckpoints(folder), costs=costs)


@pytest.mark.usefixtures("tasks", "one_thread")
def test_a_task_of_lists_and_dictionaries_is_trained_by_its_own_metric(digits: ImageDataset, tmp_path: Path) -> None:
    data = placed(PointTask(), digits)
    trial = make_trial("points", data, tmp_path / "whole", workers=Workers(), loss="of_network", epochs=4)
    before = evaluate(trial.train_state, data.validation, Workers(), trial.task, num_classes=2)
    reports = run(trial)
    assert reports[-1]["train/loss"] < reports[0]["train/loss"]
    assert reports[-1]["val/centre_px"] < before["centre_px"]
    best = min(reports, key=lambda report: report["val/centre_px"])
    last = reports[-1]
    assert last["best_epoch"] == best["epoch"]
    assert {name for name in last if name.startswith("test/")} == {"test/centre_px", "test/within_half"}
    assert last["params"] == sum(each.numel() for each in trial.network.parameters())
    assert last["latency_ms"] > 0

    network = load_network_file(trial.checkpoints.best)
    assert (network.task, network.output_shape) == ("points", None)
    assert read_best(trial.checkpoints.best)["model"]["task"] == "points"
    rows, truth = [], list(data.test.batch(torch.arange(len(data.test)))[1])
    with torch.no_grad():
        found = network(data.test.batch(torch.arange(len(data.test)))[0])
    for one, wanted in zip(found, truth, strict=True):
        rows.append(float((one["centre"].double() - wanted["points"].double().mean(0)).norm()))
    assert last["test/centre_px"] == pytest.approx(sum(rows) / len(rows), rel=1e-6)


@pytest.mark.usefixtures("tasks", "one_thread")
def test_a_task_of_trees_resumes_to_the_bit(digits: ImageDataset, tmp_path: Path) -> None:
    data = placed(PointTask(), digits)
    whole = make_trial("points", data, tmp_path / "whole", workers=Workers(), loss="of_network")
    reports = run(whole)
    settings = {"loss": "of_network", "checkpoint_every_steps": 2}
    cut = make_trial("points", data, tmp_path / "cut", workers=Workers(), **settings)
    run(cut, cut_before=7)  # in the second epoch of five steps
    resumed = make_trial("points", data, tmp_path / "cut", workers=Workers(), **settings)
    assert (resumed.epoch, resumed.step) == (1, 1)
    again = run(resumed)
    wanted = [{k: v for k, v in report.items() if k != "latency_ms"} for report in timeless(reports)]
    assert [{k: v for k, v in report.items() if k != "latency_ms"} for report in timeless(again)] == wanted
    assert not differences(whole.network.state_dict(), resumed.network.state_dict())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("parts", [1, 3])
def test_a_loss_over_counted_pixels_is_their_mean(digits: ImageDataset, parts: int) -> None:
    task = BrightTask()
    data = placed(task, digits)
    images, targets = data.train.batch(torch.arange(25))
    assert (targets["class_map"] == IGNORED).any()
    torch.manual_seed(0)
    network = task.build_network({"in_chans": 1})
    twin = task.build_network({"in_chans": 1})
    twin.load_state_dict(network.state_dict())
    training = TrainingConfig(optimizer="sgd", lr=0.1, accumulation_steps=parts, global_batch_size=25, warmup_epochs=0)
    state = TrainState(network, training, Workers(), 10, task)
    state.begin_epoch()
    loss = state.step(images, targets, update=0, global_images=25)
    mean = torch.nn.functional.cross_entropy(twin(images), targets["class_map"], ignore_index=IGNORED)
    mean.backward()
    assert float(loss) / 25 == pytest.approx(float(mean.detach()), rel=1e-5)
    for own, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.usefixtures("tasks", "one_thread")
def test_a_task_that_counts_pixels_is_trained(digits: ImageDataset, tmp_path: Path) -> None:
    objective = ObjectiveConfig(metric="val/pixel_accuracy", mode="max")
    settings = {"loss": "pixel_cross_entropy", "hflip": 0.0, "lr": 0.05}
    trial = make_trial(
        "bright", placed(BrightTask(), digits), tmp_path, objective=objective, workers=Workers(), **settings
    )
    reports = run(trial)
    assert reports[-1]["val/pixel_accuracy"] > 0.9
    assert reports[-1]["test/pixel_accuracy"] > 0.9
    assert 0 < reports[-1]["train/loss"] < 1  # of a pixel, not of an image
    assert load_network_file(trial.checkpoints.best).output_shape == (2, 8, 8)


def train_both(digits: ImageDataset, folder: Path, workers: Workers) -> dict[str, Any]:
    """Train both tasks for an epoch and return their reports and weights."""
    found: dict[str, Any] = {}
    pixels = ObjectiveConfig(metric="val/pixel_accuracy", mode="max")
    for task, objective, loss in ((PointTask(), POINTS, "of_network"), (BrightTask(), pixels, "pixel_cross_entropy")):
        name = task.facts.name
        trial = make_trial(
            name, placed(task, digits), folder / name, objective=objective, workers=workers, loss=loss, epochs=1,
            optimizer="sgd", lr=0.05, hflip=0.5 if name == "points" else 0.0,
        )  # fmt: skip
        found[name] = {"reports": timeless(run(trial)), "weights": trial.train_state.evaluated.state_dict()}
    return found


def train_rank(rank: int, world_size: int, folder: str) -> None:
    """Train both tasks as one process of a group."""
    register_task(PointTask())
    register_task(BrightTask())
    place = Path(folder)
    workers = join_group(rank, world_size, place)
    found = train_both(few(place / f"data-{rank}"), place, workers)
    rows = workers.gather_rows(torch.arange(3 * rank).reshape(-1, 1).float() + 10 * rank)
    torch.save({**found, "rows": rows}, place / f"rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("tasks", "one_thread")
def test_two_ranks_train_and_evaluate_as_one_does(digits: ImageDataset, tmp_path: Path) -> None:
    alone = train_both(digits, tmp_path / "alone", Workers())
    run_ranks(train_rank, 2, str(tmp_path))
    pair = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    for name in ("points", "bright"):
        one, other = (rank[name] for rank in pair)
        for key, value in one["weights"].items():
            torch.testing.assert_close(value, alone[name]["weights"][key], rtol=1e-4, atol=1e-6)
            assert torch.equal(value, other["weights"][key])
        for key, value in alone[name]["reports"][0].items():
            if key != "latency_ms":
                assert one["reports"][0][key] == pytest.approx(value, rel=1e-4), key
    assert pair[0]["rows"].flatten().tolist() == [10.0, 11.0, 12.0]  # the first rank has none


class Logits:
    """A predictor whose images are its logits."""

    evaluated = torch.nn.Identity()

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        return images


def test_the_metrics_of_classification_are_those_counted_by_hand() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 0.0], [0.0, 1.0, 5.0]])
    labels = torch.tensor([1, 1, 0])  # right; equal logits, of which the lower class wins; wrong
    evaluator = ClassificationEvaluator(CPU)
    task, predictor = Classification(), Logits()
    for part in (slice(0, 2), slice(2, 3)):
        evaluator.update(task.predict(predictor, logits[part], "none"), labels[part])
    evaluator.all_reduce(Workers())
    expected = -logits.double().log_softmax(1)[torch.arange(3), labels].mean()
    assert evaluator.compute() == pytest.approx({"top1": 1 / 3, "top5": 1.0, "loss": float(expected)})


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_tree_is_split_as_a_tensor_is(parts: int) -> None:
    rows = torch.arange(7)
    tree = {"rows": rows, "each": [f"image {row}" for row in rows], "pair": (rows * 2, list(rows))}
    for piece, expected in zip(split_tree(tree, parts), rows.tensor_split(parts), strict=True):
        assert piece["rows"].equal(expected)
        assert piece["each"] == [f"image {row}" for row in expected]
        assert piece["pair"][0].equal(expected * 2)
        assert piece["pair"][1] == list(expected)
    with pytest.raises(TypeError, match="not of str"):
        split_tree("images", 2)


def test_a_tree_is_mapped_tensor_by_tensor() -> None:
    class Padded(NamedTuple):
        images: torch.Tensor
        sizes: list[int]

    padded = Padded(torch.arange(4), [5, 6, 7, 8])
    assert map_tensors(len, padded) == Padded(4, [5, 6, 7, 8])
    assert [piece.sizes for piece in split_tree(padded, 2)] == [[5, 6], [7, 8]]
    tree = [{"boxes": torch.ones(2, 4, dtype=torch.float16), "labels": torch.ones(2, dtype=torch.int64)}, "name"]
    assert map_tensors(len, tree) == [{"boxes": 2, "labels": 2}, "name"]
    found = in_float32(tree)[0]
    assert (found["boxes"].dtype, found["labels"].dtype) == (torch.float32, torch.int64)


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        sweep(**settings)
    return str(caught.value)


def sweep(**settings: Any) -> SweepConfig:
    base = {"name": "s", "dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}}
    return SweepConfig(**{**base, **settings})


@pytest.mark.usefixtures("tasks")
def test_the_task_sets_objective_and_loss_of_a_sweep() -> None:
    config = sweep(task="points")
    assert (config.objective.metric, config.objective.mode) == ("val/centre_px", "min")
    assert config.training.loss == "of_network"
    natural = sweep(task="points", objective=[{"metric": "val/within_half"}, {"metric": "params"}])
    assert [each.mode for each in natural.objectives] == ["max", "min"]
    assert sweep().model_dump()["task"] == "classification"


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "clasification"}, "task: unknown 'clasification'. Did you mean 'classification'?"),
        ({"task": "point"}, "task: unknown 'point'. Did you mean 'points'?"),
        ({"task": 3}, "task: "),
        ({"task": "points", "objective": {"metric": "val/top1"}}, "objective.metric: unknown 'val/top1'"),
        ({"objective": {"metric": "val/centre_px"}}, "objective.metric: unknown 'val/centre_px'"),
        ({"task": "points", "objective": {"metric": "params"}}, "Put val/centre_px before it"),
        ({"task": "points", "constraints": ["val/top1 >= 0.5"]}, "constraints.0: unknown 'val/top1'"),
        (
            {"task": "points", "training": {"loss": "cross_entropy"}},
            "training.loss: got 'cross_entropy'; points has no",
        ),
        ({"training": {"loss": "of_network"}}, "training.loss: got 'of_network'; classification has no such loss"),
        ({"training": {"loss": "cross_entrpy"}}, "Did you mean 'cross_entropy'?"),
        ({"task": "points", "training": {"mixup_alpha": 0.2}}, "training.mixup_alpha: got 0.2; points does not use it"),
        (
            {"task": "points", "dataset": {"name": "digits", "tta": "hflip"}},
            "dataset.tta: got 'hflip'; points does not",
        ),
        ({"task": "points", "objective": {"metric": "val/within_half"}, "budget": {"target": 90}}, "Use 0.9"),
    ],
)
def test_settings_that_the_task_does_not_take_are_refused(settings: Mapping[str, Any], message: str) -> None:
    assert message in refusal(**settings)


def facts(**changes: Any) -> TaskFacts:
    metric = TaskMetric(name="ap", mode="max", label="AP")
    return TaskFacts(**{"name": "other", "metrics": (metric,), "losses": ("sum",), **changes})


@pytest.fixture
def bad_facts() -> Iterator[list[tuple[dict[str, Any], str]]]:
    top1 = TaskMetric(name="top1", mode="min", label="errors")
    hidden = TaskMetric(name="ap", mode="max", label="AP", in_test=False)
    yield [
        ({"name": "a task"}, "a name is of letters"),
        ({"metrics": (hidden,)}, "not reported of the test images"),
        ({"metrics": (facts().primary,) * 2}, "names a metric twice"),
        ({"losses": ()}, "at least one metric and one loss"),
        ({"metrics": (top1,)}, "metric top1 differs in direction"),
        ({"name": "classification"}, "is registered already"),
    ]


def test_facts_that_contradict_themselves_or_others_are_refused(bad_facts: list[tuple[dict[str, Any], str]]) -> None:
    for changes, message in bad_facts:
        with pytest.raises(ValueError, match=message):
            register_facts(facts(**changes))
    assert list_tasks() == ["classification", "detection", "instances", "segmentation"]


def test_a_task_is_found_by_name_and_kept_by_its_own_class() -> None:
    assert find_task("classification").facts is CLASSIFICATION
    with pytest.raises(ConfigError, match="Did you mean 'classification'"):
        find_task("classificaton")

    class Impostor(PointTask):
        facts = CLASSIFICATION

    with pytest.raises(ValueError, match="is registered already"):
        register_task(Impostor())


def test_records_of_a_task_that_is_gone_are_read() -> None:
    assert recorded_task({}) is CLASSIFICATION
    gone = recorded_task({"task": "points", "objective": {"metric": "val/centre_px", "mode": "min"}})
    assert (gone.name, gone.primary.name, gone.primary.mode) == ("points", "centre_px", "min")
    assert gone.primary.text(1.25) == "1.2500"
    odd = recorded_task({"task": 7, "objective": [{"metric": "val/!"}]})
    assert (odd.name, odd.primary.name) == ("unknown", "value")


def test_a_checkpoint_of_a_task_that_is_gone_is_refused(
    digits: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(known_facts, "_FACTS", dict(known_facts._FACTS))
        patch.setattr(registry, "_TASKS", dict(registry._TASKS))
        register_task(PointTask())
        trial = make_trial(
            "points", placed(PointTask(), digits), tmp_path, workers=Workers(), epochs=1, loss="of_network"
        )
        run(trial)
    with pytest.raises(CheckpointError, match="task: unknown 'points'"):
        load_network_file(trial.checkpoints.best)


def test_an_evaluator_of_rows_has_no_rows_of_an_empty_share() -> None:
    evaluator = PointEvaluator(CPU)
    evaluator.all_reduce(Workers())
    assert evaluator.gathered.shape == (0, 3)
