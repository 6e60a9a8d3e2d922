"""What the controllers of lanes have reserved on the cluster, found by who asked for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ray
from ray._private.state import state as cluster_state
from ray.core.generated import gcs_pb2
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup


def remove_placement_groups_of(actors: Iterable[str]) -> None:
    """Removes what these actors have reserved: a killed controller does not, and Ray waits for the end of the job.

    Args:
        actors: Hex ids.
    """
    creators = set(actors)
    if not creators:
        return
    # Ray's own table of placement groups does not tell who created them; the record behind it does.
    kind: Any = vars(gcs_pb2)["PlacementGroupTableData"]  # made while Ray is imported
    for record in cluster_state._connect_and_get_accessor().get_placement_group_table():
        group = kind.FromString(record)
        if group.state != kind.REMOVED and group.creator_actor_id.hex() in creators:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
