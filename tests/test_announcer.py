"""What the controller of a lane makes of an error of Ray Train."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from orchestrator.lanes.announcer import _is_loss_of_host

NODE_GONE = RayActorError(error_msg="The actor died because its node has died. Node Id: 42")
KILLED = RayActorError(error_msg="The actor is dead because its worker process has died.")


@pytest.mark.parametrize(
    ("failures", "lost"),
    [
        ({0: RuntimeError("its peer is gone"), 1: WorkerHealthCheckFailedError("away", NODE_GONE)}, True),
        ({0: NODE_GONE}, True),
        ({1: WorkerHealthCheckFailedError("away", KILLED)}, False),
        ({0: RuntimeError("a test says: its node has died")}, False),
        ({}, False),
    ],
)
def test_the_loss_of_a_host_is_told_from_other_deaths(failures: dict[int, Exception], lost: bool) -> None:
    assert _is_loss_of_host(SimpleNamespace(worker_failures=failures)) is lost


def test_other_errors_are_no_loss_of_a_host() -> None:
    assert not _is_loss_of_host(None)
