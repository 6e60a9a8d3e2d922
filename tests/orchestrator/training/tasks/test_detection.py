"""Detection of boxes and of instances as tasks: losses, metrics, exact resume, one rank against two, refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import interpolate

from orchestrator.config.tasks.registry import task_facts
from orchestrator.data.datasets import dataset_facts
from orchestrator.errors import DataError, TrialFailedError
from orchestrator.inference.evaluate import evaluate_checkpoint
from orchestrator.training.checkpoints.checkpoints import load_network_file
from orchestrator.training.evaluation_settings import EvaluationSettings
from orchestrator.training.evaluators.average_precision import DetectionEvaluator
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.memory.memory_estimate import estimate_memory
from orchestrator.training.memory.steps import StepShape, take_steps
from orchestrator.training.network_costs import NetworkCosts
from orchestrator.training.tasks.detection import PredictionEvaluator
from orchestrator.training.tasks.registry import find_task
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers
from tests.support.sweeps.command_line import run_command
from tests.support.tasks.few_scenes import few_scenes, scene_trial, write_scenes
from tests.support.training_pieces import differences, join_group, run, run_ranks, timeless

CPU = torch.device("cpu")
TASKS = ("detection", "instances")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def data(scenes: Path) -> dict[str, DeviceImages]:
    return {task: few_scenes(scenes, task) for task in TASKS}


def detection_trial(
    data: DeviceImages, folder: Path, *, task: str = "detection", metric: str | None = None, **changes: Any
) -> Trial:
    few = {"anchor_scale": 2.0, "proposals": 40, "samples": 32}
    options = {**few, **({"mask_channels": 8} if task == "instances" else {}), **changes.pop("options", {})}
    metric = metric or task_facts(task).objective
    return scene_trial(data, folder, task=task, metric=metric, options=options, loss="detector", **changes)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("task", TASKS)
def test_a_trial_reports_what_is_scored_image_by_image(
    task: str, data: dict[str, DeviceImages], scenes: Path, tmp_path: Path
) -> None:
    trial = detection_trial(data[task], tmp_path, task=task)
    reports = run(trial)
    last = reports[-1]
    assert last["train/loss"] < reports[0]["train/loss"]
    network = load_network_file(trial.checkpoints.best)
    assert (network.task, network.class_names) == (task, tuple(map(str, range(10))))

    evaluator, test = DetectionEvaluator(masks=task == "instances"), trial.data.test
    for place in range(len(test)):
        images, targets = test.batch(torch.tensor([place]))
        assert [tuple(image.shape) for image in images] == [(3, 32, 32)]
        with torch.no_grad():
            found = network(images)[0]
        scored = {**found, "boxes": found["boxes"] * 2}  # at the size of the image
        if "masks" in found:
            scored["masks"] = interpolate(found["masks"], (64, 64), mode="bilinear", align_corners=False)
        evaluator.update([scored], targets)
    expected = evaluator.compute()
    tested = {name.removeprefix("test/"): value for name, value in last.items() if name.startswith("test/")}
    named = {metric.name for metric in task_facts(task).metrics}
    assert tested.keys() == {name for name in named if not math.isnan(expected[name])}
    assert "ap_large" not in tested  # objects from 96 x 96 px, of which there are none
    assert tested == pytest.approx({name: expected[name] for name in tested})

    again = evaluate_checkpoint(trial.checkpoints.best, str(scenes))
    assert again.images == 9
    assert dict(again.metrics) == pytest.approx(tested)
    code, output = run_command("eval", str(trial.checkpoints.best), "--dataset", str(scenes))
    assert code == 0, output
    assert f"box AP50 {tested['ap50']:.2%}" in output
    assert "large" not in output


@pytest.mark.usefixtures("one_thread")
def test_a_trial_resumes_to_the_bit(data: dict[str, DeviceImages], tmp_path: Path) -> None:
    settings = {"task": "instances", "hflip": 0.5, "accumulation_steps": 2}
    whole = detection_trial(data["instances"], tmp_path / "whole", **settings)
    reports = run(whole)
    cut = detection_trial(data["instances"], tmp_path / "cut", checkpoint_every_steps=2, **settings)
    run(cut, cut_before=5)
    resumed = detection_trial(data["instances"], tmp_path / "cut", checkpoint_every_steps=2, **settings)
    assert (resumed.epoch, resumed.step) == (1, 1)
    assert timeless(run(resumed)) == timeless(reports)
    assert not differences(whole.network.state_dict(), resumed.network.state_dict())


@pytest.mark.usefixtures("one_thread")
def test_what_a_network_draws_follows_from_seed_epoch_and_place_alone(
    data: dict[str, DeviceImages], tmp_path: Path
) -> None:
    trial = detection_trial(data["detection"], tmp_path)
    split: Any = data["detection"].train
    settings = trial.config.training
    draws = {
        (seed, epoch, place): int(split.augmented(place, settings, seed=seed, epoch=epoch)[1]["draw"])
        for seed in (0, 1) for epoch in (1, 2) for place in (3, 4)
    }  # fmt: skip
    assert len(set(draws.values())) == 8
    torch.rand(5)
    image, target = split.augmented(3, settings, seed=1, epoch=2)
    assert int(target["draw"]) == draws[1, 2, 3]

    def losses(*targets: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        torch.rand(3)  # the state of the process does not matter
        with torch.no_grad():
            found: dict[str, torch.Tensor] = trial.task.forward(
                trial.network.train(), [image] * len(targets), [*targets]
            )
        return found

    twice = losses(target, target)
    assert all(torch.equal(twice[name], value) for name, value in losses(target, target).items())
    other = losses(target, {**target, "draw": target["draw"] + 1})
    assert any(not torch.equal(other[name], value) for name, value in twice.items())


def counted(outputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.stack([outputs[name] for name in sorted(outputs)])
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_averages_every_loss_over_what_it_counts(
    parts: int, data: dict[str, DeviceImages], tmp_path: Path
) -> None:
    """Each part of a step has the mean of every loss; the step has the mean of its parts by their images."""
    trial = detection_trial(
        data["instances"], tmp_path, task="instances", accumulation_steps=parts, optimizer="momentum", momentum=0.0
    )
    state, split = trial.train_state, trial.data.train
    assert hasattr(split, "augmented")
    samples = [split.augmented(place, trial.config.training, seed=0, epoch=1) for place in range(7)]
    images, targets = [image for image, _ in samples], [target for _, target in samples]
    state.begin_epoch()
    expected = 0.0
    sizes = [7] if parts == 1 else [3, 2, 2]
    trial.network.zero_grad()
    first = 0
    for size in sizes:
        part = slice(first, first + size)
        outputs = trial.network(images[part], targets[part])
        sums, counts = counted(outputs)
        assert len(counts) == 5
        loss = (sums / counts).sum() * (size / 7)
        loss.backward()
        expected += float(loss.detach())
        first += size
    gradients = {name: each.grad.clone() for name, each in trial.network.named_parameters() if each.grad is not None}
    found = state.step(images, targets, update=0, global_images=7)
    assert float(found) / 7 == pytest.approx(expected, rel=1e-5)
    after = {name: each.grad for name, each in trial.network.named_parameters() if each.grad is not None}
    assert after.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(after[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


HEADS = [
    *(("detection", head) for head in ("faster_rcnn", "retinanet", "cascade_rcnn")),
    *(("instances", head) for head in ("mask_rcnn", "cascade_rcnn", "htc")),
]


def small_detector(task: str, head: str) -> torch.nn.Module:
    of_boxes = {} if head == "retinanet" else {"head_channels": 8, "proposals": 20, "samples": 16}
    options = {"head": head, "fpn_channels": 8, "anchor_scale": 2.0, **of_boxes}
    options |= {"mask_channels": 8} if task == "instances" else {}
    options |= {"semantic_classes": 4} if head == "htc" else {}
    shape = {"num_classes": 3, "in_chans": 3, "image_size": 32}
    return find_task(task).build_network({"name": "conv_resnet26_small", "options": options, **shape})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("task", "head"), HEADS)
def test_a_network_whose_last_step_diverged_is_evaluated_as_one_that_finds_nothing(task: str, head: str) -> None:
    network = small_detector(task, head).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(math.nan)
        found = network([torch.rand(3, 32, 32), torch.rand(3, 24, 32)])
    assert [len(each["boxes"]) for each in found] == [0, 0]
    size = {"input_size": torch.tensor([32, 32]), "original_size": torch.tensor([64, 64])}
    target = {**size, "image_id": 1, "boxes": torch.tensor([[2.0, 4.0, 12.0, 14.0]]), "labels": torch.tensor([2])}
    target["masks"] = torch.ones(1, 64, 64, dtype=torch.uint8)
    evaluator = find_task(task).create_evaluator(3, CPU)
    evaluator.update(found[:1], [target])
    assert set(evaluator.compute().values()) == {0.0}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("task", "head"), HEADS)
def test_images_without_objects_and_ranks_without_images_reach_every_parameter(task: str, head: str) -> None:
    """Check that a rank has a gradient of every parameter, for which DDP waits, whatever its images hold."""
    network = small_detector(task, head).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "draw": torch.tensor(5)}
    if task == "instances":
        empty |= {"masks": torch.zeros(0, 32, 32, dtype=torch.uint8), "class_map": torch.zeros(32, 32)}
    trained = [each for each in network.parameters() if each.requires_grad]
    for images in (2, 0):
        network.zero_grad()
        outputs = find_task(task).forward(network, [torch.rand(3, 32, 32)] * images, [empty] * images)
        sums, counts = counted(outputs)
        assert bool(torch.isfinite(sums).all())
        assert bool(counts.any()) == (images > 0)
        sums.sum().backward()  # type: ignore[no-untyped-call]
        assert all(each.grad is not None for each in trained)
    assert not any(each.grad.any() for each in trained if each.grad is not None)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_networks_that_read_lists_are_evaluated_with_the_settings_of_their_run(
    precision: str, data: dict[str, DeviceImages], tmp_path: Path
) -> None:
    trial = detection_trial(data["instances"], tmp_path, task="instances")
    settings = EvaluationSettings.model_validate({"precision": precision, "channels_last": True})
    network = settings.place(trial.network.eval(), CPU)
    images, _ = trial.data.test.batch(torch.arange(2))
    with torch.no_grad():
        found = settings.predict(network, images)
    assert [set(each) for each in found] == [{"boxes", "labels", "scores", "masks"}] * 2
    assert all(each["masks"].dtype == torch.float32 and each["labels"].dtype == torch.int64 for each in found)


@pytest.mark.usefixtures("one_thread")
def test_memory_is_estimated_and_tried_with_images_of_the_largest_size(
    data: dict[str, DeviceImages], tmp_path: Path
) -> None:
    trial = detection_trial(data["instances"], tmp_path, task="instances")
    facts = dataset_facts("digits-scenes", None, 32, "masks")
    needs = estimate_memory(trial.config, facts, workers=1)
    weights = sum(each.nbytes for each in (*trial.network.parameters(), *trial.network.buffers()))
    assert (needs.images_at_once, needs.weights) == (7, weights)
    two = trial.config.training.model_copy(update={"accumulation_steps": 2})
    fewer = estimate_memory(trial.config.model_copy(update={"training": two}), facts, workers=1)
    assert fewer.activations * 7 == needs.activations * 4 > 0
    images, targets = trial.task.example_batch(trial.description, two, images=2, side=32, device=CPU)
    assert [tuple(image.shape) for image in images] == [(3, 32, 53)] * 2  # 1333 px for 800 px
    assert [tuple(target["masks"].shape) for target in targets] == [(8, 32, 53)] * 2
    take_steps(StepShape.of(trial.description, two), two, 2, CPU)
    with_maps = {"options": {**trial.description["options"], "head": "htc", "semantic_classes": 11}}
    take_steps(StepShape.of({**trial.description, **with_maps}, two), two, 2, CPU)
    costs = NetworkCosts(trial.description, frozenset({"params", "macs", "latency_ms"}), trial.task)
    found = costs.measure(trial.train_state, CPU)
    assert found["params"] == sum(each.numel() for each in trial.network.parameters())
    assert found["latency_ms"] > 0 < found["macs"]


def train_rank(rank: int, world_size: int, folder: str) -> None:
    """Train as one process of a group."""
    place = Path(folder)
    workers = join_group(rank, world_size, place)
    images = {task: few_scenes(place / "digits-scenes", task) for task in TASKS}
    torch.save(train_all(images, place / "pair", workers), place / f"{rank}.pt")
    dist.destroy_process_group()


# Synchronised norms round their statistics differently, and pass the difference on to all gradients behind them.
CASES: dict[str, dict[str, Any]] = {
    "synchronised norms": {"task": "detection", "sync_batch_norm": True, "global_batch_size": 21, "epochs": 1},
    "one step of all images": {
        "task": "instances", "options": {"backbone_norm": "eval"}, "global_batch_size": 21, "hflip": 0.5, "epochs": 1
    },
    "one image a step, so that a rank has none": {"task": "detection", "global_batch_size": 1, "epochs": 1},
}  # fmt: skip


def train_all(images: Mapping[str, DeviceImages], folder: Path, workers: Workers) -> dict[str, Any]:
    found = {}
    for place, (name, settings) in enumerate(CASES.items()):
        trial = detection_trial(
            images[settings["task"]], folder / str(place), workers=workers, optimizer="sgd", lr=0.01, **settings
        )
        found[name] = {"reports": timeless(run(trial)), "weights": trial.train_state.evaluated.state_dict()}
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_ranks_train_and_evaluate_as_one_does(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path)
    alone = train_all({task: few_scenes(scenes, task) for task in TASKS}, tmp_path / "alone", Workers())
    run_ranks(train_rank, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in CASES:
        one, other, whole = (each[name] for each in (first, second, alone))
        for key, value in one["weights"].items():
            atol = 1e-3 if "norms" in name else 1e-6
            torch.testing.assert_close(value, whole["weights"][key], rtol=1e-4, atol=atol, msg=key)
            assert torch.equal(value, other["weights"][key])
        report, expected = one["reports"][-1], whole["reports"][-1]
        assert report["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-4)
        assert report.keys() == expected.keys()
        assert report["val/ar100"] == pytest.approx(expected["val/ar100"], abs=1e-3)


def test_metrics_that_are_not_defined_are_left_out(data: dict[str, DeviceImages], tmp_path: Path) -> None:
    evaluator = PredictionEvaluator(task_facts("detection"), masks=False)
    size = {"input_size": torch.tensor([32, 32]), "original_size": torch.tensor([64, 64])}
    boxes = torch.tensor([[2.0, 4.0, 12.0, 14.0]])
    target = {**size, "image_id": 3, "boxes": 2 * boxes, "labels": torch.tensor([2])}
    evaluator.update([{"boxes": boxes, "labels": torch.tensor([2]), "scores": torch.ones(1)}], [target])
    assert evaluator.compute() == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1, "ap_small": 1, "ar100": 1})
    nothing = PredictionEvaluator(task_facts("detection"), masks=False)
    bare = {**target, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    nothing.update([{"boxes": boxes, "labels": torch.tensor([2]), "scores": torch.ones(1)}], [bare])
    with pytest.raises(
        DataError, match="no validation image, or no test image, has an object that counts, and box AP needs one"
    ):
        nothing.compute()
    trial = detection_trial(data["detection"], tmp_path, metric="val/ap_large", epochs=1)
    with pytest.raises(TrialFailedError, match="no val/ap_large: it is not defined on the validation images"):
        run(trial)
