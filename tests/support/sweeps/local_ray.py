"""Ray instance for the sweeps of several tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from orchestrator.lanes.lane_modules import LANE_MODULES
from orchestrator.runtime.forking.environment import prepare_environment
from orchestrator.runtime.forking.fork_server import forked_workers
from orchestrator.runtime.ray_private.instance import without_helpers
from orchestrator.runtime.ray_session import ray_session


@contextmanager
def local_ray(**resources: Any) -> Iterator[None]:
    """Start an instance as a sweep starts its own, except that it claims chosen resources; sweeps within use it.

    Args:
        resources: Resources, as `ray.init` takes them.
    """
    prepare_environment(os.environ)
    with forked_workers(LANE_MODULES) as server, without_helpers(logs=False):
        ray.init(address="local", include_dashboard=False, log_to_driver=False, **resources)
        try:
            with ray_session():
                yield
        finally:
            ray.shutdown()
        faults = [] if server is None else server._new_faults()
        assert [fault for fault in faults if "import" in fault or "environment" in fault] == []
