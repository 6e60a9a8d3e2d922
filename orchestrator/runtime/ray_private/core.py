"""Private names of Ray's core, as of Ray 2.60: driver, authentication, tables of the cluster, working directories.

Importing this module imports `ray` and nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.runtime_env import packaging
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._private.state import state
from ray._private.worker import global_worker
from ray._raylet import RAY_NODE_ID_KEY, AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup


def driver_node() -> Any | None:
    """Return Ray's `Node` of this process; None where it is not connected, or through Ray's client.

    Ray offers no other way to the raylet's socket, the dashboard's address and the processes of a private instance.
    """
    return global_worker.node


def on_this_node() -> dict[str, str]:
    """Return the label selector with which Ray Train binds an actor to the node of the calling process."""
    return {RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}


def dashboard_url() -> str:
    """Return host and port of the dashboard; empty where there is none. `ray.init` returns it to its caller only."""
    return str(getattr(global_worker.node, "address_info", {}).get("webui_url") or "")


def bootstrap_address(target: str) -> str:
    """Return host and port of a cluster's control service; `auto` is resolved as `ray.init` does it.

    Args:
        target: Address as `ray.init` takes it.

    Raises:
        ConnectionError: No cluster runs on this machine.
        ValueError: The address is malformed.
    """
    return str(canonicalize_bootstrap_address_or_die(target))


def reload_authentication() -> None:
    """Have Ray read `RAY_AUTH_MODE` and the token again, which it otherwise reads once, when it is imported."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def loopback_only() -> Iterator[None]:
    """Have Ray take 127.0.0.1 for its address, as it does on macOS and Windows.

    `ray.init(_node_ip_address=...)` is overruled by the address of the default route.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def autoscaled_resources() -> dict[str, float] | None:
    """Return the resources that a cluster may grow to; None where no autoscaler adds nodes, or where it sets no limit.

    Public functions of Ray return present resources only.
    """
    most = state.get_max_resources_from_cluster_config()
    return None if most is None else {name: float(amount) for name, amount in most.items()}


def placement_groups_by_creator() -> Iterator[tuple[str, PlacementGroup]]:
    """Yield the hex id of the creating actor, and the group, for each placement group that is not removed.

    `ray.util.placement_group_table` leaves the creator out; the record behind it has it.
    """
    kind: Any = vars(gcs_pb2)["PlacementGroupTableData"]  # made while Ray is imported
    for record in state._connect_and_get_accessor().get_placement_group_table():
        group = kind.FromString(record)
        if group.state != kind.REMOVED:
            yield group.creator_actor_id.hex(), PlacementGroup(ray.PlacementGroupID(group.placement_group_id))


def actor_id(handle: Any) -> str:
    """Return the hex id of an actor from its handle; handles have no public attribute for it."""
    return str(handle._actor_id.hex())


def package_size_limit() -> int:
    """Return the bytes that a working directory may have; `ray job submit` fails above them, after the upload."""
    return int(packaging.GCS_STORAGE_MAX_SIZE)


def excluding(folder: Path, patterns: list[str]) -> Callable[[Path], bool]:
    """Return the rule by which `ray job submit` leaves files out.

    Args:
        folder: Working directory.
        patterns: Patterns as in a `.gitignore` file.
    """
    rule: Callable[[Path], bool] = packaging._get_excludes(folder, patterns)
    return rule


def ignore_rules(folder: Path, logger: logging.Logger) -> list[Callable[[Path], bool]]:
    """Return the rules of the ignore files of a folder, `.gitignore` and `.rayignore`, as `ray job submit` has them.

    Args:
        folder: Folder whose files are read; those of its sub-folders are not.
        logger: Takes Ray's messages about the files found.
    """
    return list(packaging.get_excludes_from_ignore_files(folder, include_gitignore=True, logger=logger))
