"""Images per second of SpatialSweep's training loop against a minimal DDP loop.

    python benchmarks/ddp.py [--model conv_resnet26_small] [--image-size 32] [--images 1024] [--batch 128] [--epochs 8]
                             [--processes 2] [--clock wall] [--parallel ddp] [--bucket-mb MIB] [--static-graph]
                             [--compile] [--compiled-autograd]

Starts itself under torchrun with `--processes` processes (gloo, one thread each). They train the same network on the
same batches in both ways, with alternating epochs, so that other load on the machine affects both alike:

    plain   a loop of indexing, normalising, forward, cross-entropy, backward and step
    engine  `orchestrator.training.Trial`: the same, with the learning rate's schedule, seeds, clocks, and the check for
            a loss that is not finite

Both wrap their network with the settings of `Workers.wrap`, with which DDP is fastest; `--parallel`, `--bucket-mb` and
`--static-graph` change the engine's alone. With `--compile` both are compiled, and `--compiled-autograd` compiles the
engine's backward pass as well; every step should have as many images then. Evaluation and checkpoints are not timed.
With `--clock cpu` the images are divided by the processor seconds of all processes, which is the fair clock where they
are more than the cores. Prints JSON; `ratio` is the median over epochs of engine / plain. The first pair, which
compiles, is left out; its processor seconds on the first rank are `first_epoch_s`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from timm.optim import create_optimizer_v2
from torch.nn.functional import cross_entropy

from orchestrator.config import ModelConfig, ObjectiveConfig, TrainingConfig, TrialConfig
from orchestrator.data import epoch_batches
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints, build_network
from orchestrator.training.images.device_images import DeviceImages, DeviceSplit
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers

LR, CLASSES = 0.01, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="conv_resnet26_small")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=128, help="over both processes")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp", help="of the engine")
    parser.add_argument("--bucket-mb", type=float, help="of the engine")
    parser.add_argument("--static-graph", action="store_true", help="of the engine")
    parser.add_argument("--compile", action="store_true", help="of both")
    parser.add_argument("--compiled-autograd", action="store_true", help="of the engine, with --compile")
    arguments = parser.parse_args()
    if arguments.compiled_autograd and not arguments.compile:
        parser.error("--compiled-autograd compiles further what --compile does: give both")
    if "LOCAL_RANK" in os.environ:
        compare(arguments)
        return
    count = f"--nproc-per-node={arguments.processes}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", count]
    subprocess.run([*torchrun, __file__, *sys.argv[1:]], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def compare(arguments: argparse.Namespace) -> None:
    """Train in both ways, in each process, and print the result on the first rank."""
    dist.init_process_group("gloo")
    workers = Workers(dist.get_rank(), dist.get_world_size())
    data = random_images(arguments)
    plain = PlainLoop(data.train, arguments, workers)
    pairs: list[tuple[float, float]] = []
    engine_s: list[float] = []
    first_s: list[float] = []

    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        dist.barrier()  # the first rank has just written a checkpoint; the other must not start the epoch before it
        begun = time.process_time()
        plain_rate = plain.epoch(epoch)
        if not first_s:
            first_s.extend((engine_s[0], time.process_time() - begun))
        if arguments.clock == "wall":
            pairs.append((metrics["images_per_s"], plain_rate))
            return
        seconds = workers.sum(torch.tensor([engine_s.pop(), time.process_time() - begun], dtype=torch.float64))
        ours, theirs = (len(data.train) / seconds).tolist()
        pairs.append((ours, theirs))

    with tempfile.TemporaryDirectory() as folder:
        place = [folder]
        dist.broadcast_object_list(place)
        training = TrainingConfig(
            epochs=arguments.epochs,
            global_batch_size=arguments.batch,
            lr=LR,
            lr_schedule="constant",
            warmup_epochs=0,
            parallel=arguments.parallel,
            bucket_mb=arguments.bucket_mb,
            static_graph=arguments.static_graph,
            compile=arguments.compile,
            compiled_autograd=arguments.compiled_autograd,
        )
        config = TrialConfig(number=0, model=ModelConfig(name=arguments.model), training=training, seed=0)
        trial = Trial(config, ObjectiveConfig(), data, workers, TrialCheckpoints(Path(place[0])))
        _time_epochs(trial, engine_s)
        trial.run(report)
        dist.barrier()
    if workers.is_first:
        engine, other = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
        ratios = [ours / theirs for ours, theirs in pairs[1:]]
        facts = {"engine_images_per_s": engine, "plain_images_per_s": other, "ratio": statistics.median(ratios)}
        spread = {"ratio_min": min(ratios), "ratio_max": max(ratios)}
        rounded = {key: round(value, 3) for key, value in {**facts, **spread}.items()}
        first = dict(zip(("engine", "plain"), (round(seconds, 1) for seconds in first_s), strict=True))
        print(json.dumps({"setting": vars(arguments), **rounded, "first_epoch_s": first}, indent=2))
    dist.destroy_process_group()


def _time_epochs(trial: Trial, seconds: list[float]) -> None:
    """Append the processor seconds of this process in each epoch of the trial to a list."""
    train_epoch = trial._train_epoch

    def timed(epoch: int) -> dict[str, float]:
        begun = time.process_time()
        metrics = train_epoch(epoch)
        seconds.append(time.process_time() - begun)
        return metrics

    trial._train_epoch = timed  # type: ignore[method-assign]


class PlainLoop:
    """Minimal DDP training loop.

    Args:
        split: Training images.
        arguments: Arguments of the command line.
        workers: This rank and its process group.
    """

    def __init__(self, split: DeviceSplit, arguments: argparse.Namespace, workers: Workers) -> None:
        torch.manual_seed(0)
        size = {"in_chans": 3, "image_size": arguments.image_size, "num_classes": CLASSES}
        network = build_network({"name": arguments.model, "options": {}, **size})
        self._model = workers.wrap(network)
        self._program = torch.compile(self._model) if arguments.compile else self._model
        self._optimizer = create_optimizer_v2(network, opt="sgd", lr=LR, weight_decay=5e-4, momentum=0.9)
        self._split, self._batch, self._workers = split, arguments.batch, workers

    def epoch(self, number: int) -> float:
        """Train one epoch and return its images per second."""
        split = self._split
        self._model.train()
        started = time.perf_counter()
        total = torch.zeros(())
        for batch in epoch_batches(len(split), self._batch, seed=0, epoch=number):
            index = torch.from_numpy(batch).tensor_split(self._workers.world_size)[self._workers.rank]
            images = (split.images[index].float() - split.mean) / split.std
            loss = cross_entropy(self._program(images), split.labels[index])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        return len(split) / (time.perf_counter() - started)


def random_images(arguments: argparse.Namespace) -> DeviceImages:
    """Create images of noise, whose content does not affect the speed."""
    shape = (3, arguments.image_size, arguments.image_size)
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> DeviceSplit:
        images = torch.randint(0, 256, (count, *shape), generator=generator).to(torch.uint8)
        labels = torch.randint(CLASSES, (count,), generator=generator)
        return DeviceSplit(images, labels, torch.full((1, 3, 1, 1), 127.0), torch.full((1, 3, 1, 1), 60.0))

    return DeviceImages(split(arguments.images), split(64), split(64), tuple(map(str, range(CLASSES))))


if __name__ == "__main__":
    main()
