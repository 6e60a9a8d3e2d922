"""Data-parallel training of every class of network: two processes, gloo, no unused parameters allowed."""

import datetime
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import models
from tests.support.networks.registered import ONE_EACH, smallest_images

WORLD_SIZE = 2
STEPS = 2


def fingerprint(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in network.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def train(name: str, rank: int) -> str:
    """Train on images of this rank, as the training loop does, and return the fingerprint of the parameters."""
    torch.manual_seed(rank)  # DDP starts all ranks from the first one's parameters
    images = smallest_images(name, batch=2 * WORLD_SIZE).chunk(WORLD_SIZE)[rank]
    network = models.create_model(name, num_classes=3, image_size=images.shape[-1])
    replica = DistributedDataParallel(network, find_unused_parameters=False)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    started_with = fingerprint(network)
    for step in range(STEPS):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(replica(images), torch.tensor([rank, 2])) + models.penalty(network)
        loss.backward()
        without = [key for key, parameter in network.named_parameters() if parameter.grad is None]
        assert not without, f"{name}, step {step}: no gradient for {without}"
        optimiser.step()
        models.project_(network)
    assert fingerprint(network) != started_with, name
    return fingerprint(network)


def worker(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=120)  # for a peer that has failed
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD_SIZE, timeout=patience
    )
    for name in ONE_EACH:
        print(name, train(name, rank), flush=True)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_replicas_stay_the_same_without_unused_parameters(tmp_path: Path) -> None:
    path = str(Path(__file__).resolve().parents[2])
    command = [
        sys.executable,
        "-c",
        "import sys; from tests.models import test_ddp; test_ddp.worker(int(sys.argv[1]), sys.argv[2])",
    ]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD_SIZE)
    ]
    try:
        outputs = [process.communicate() for process in workers]
    finally:
        for process in workers:
            process.kill()
    for process, (_, errors) in zip(workers, outputs, strict=True):
        assert process.returncode == 0, errors
    (first, _), (second, _) = outputs
    assert first == second
    assert [line.split()[0] for line in first.splitlines()] == list(ONE_EACH)
