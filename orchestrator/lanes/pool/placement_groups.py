"""Placement groups that the controllers of lanes have created, found by their creator."""

from __future__ import annotations

from collections.abc import Iterable

from ray.util import remove_placement_group

from orchestrator.runtime.ray_private.core import placement_groups_by_creator


def remove_placement_groups_of(actors: Iterable[str]) -> None:
    """Remove the placement groups of these actors: a killed controller does not, and Ray waits for the end of the job.

    Args:
        actors: Hex ids of actors.
    """
    creators = set(actors)
    if not creators:
        return
    for creator, group in placement_groups_by_creator():
        if creator in creators:
            remove_placement_group(group)
