"""Lanes without training, on the declared devices of simulated nodes.

A lane holds a real placement group, one bundle a worker, for as long as it is open. Its ranks are threads of one actor
in that group. They call the hub as workers do, with all the numbers that workers send.
"""

from __future__ import annotations

import random
import threading
from typing import Any

from scale import invented_curve

GPUS_PER_NODE = 8
START_S = 300.0


def replace_lanes(starter: Any) -> None:
    """Replace Ray Train's worker groups by simulated ones."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from orchestrator.lanes.pool import lane_trainer

    def run_lane(setting: Any, placement: Any, on_start: Any) -> None:
        bundle = placement.resources.per_worker(placement.gpus_per_worker)
        group = placement_group([bundle] * placement.resources.max_workers, strategy="PACK")
        try:
            if not group.wait(START_S):
                raise TimeoutError(f"lane {setting.lane} found no room")
            here = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
            shape = {"num_cpus": 1, "num_gpus": 1, "max_concurrency": 2, "scheduling_strategy": here}
            lane: Any = ray.remote(SimulatedLane).options(**shape).remote(starter, placement.resources.max_workers)
            on_start(lane)
            ray.get(lane.serve.remote(setting.hub, setting.lane))
        finally:
            remove_placement_group(group)

    lane_trainer.run_lane = run_lane


class Starter:
    """Barrier that holds all lanes at their first trial until each has one.

    Tune discards an actor that has not started when another is free, so with trials of milliseconds there would never
    be as many actors as lanes.
    """

    def __init__(self, lanes: int) -> None:
        import asyncio

        self._missing = lanes
        self._all = asyncio.Event()

    async def has_one(self) -> None:
        """Count a lane that has its first trial; return when all have."""
        self._missing -= 1
        if self._missing == 0:
            self._all.set()
        await self._all.wait()

    async def all_train(self) -> None:
        """Wait until all lanes have a trial."""
        await self._all.wait()


class SimulatedLane:
    """All ranks of a lane, without training.

    Args:
        starter: Barrier of the first trials.
        workers: Number of ranks.
    """

    def __init__(self, starter: Any, workers: int) -> None:
        self._starter, self._workers = starter, workers

    def serve(self, hub: Any, lane: int) -> None:
        """Answer assignments until the sweep is over."""
        import ray

        from orchestrator.lanes.messages import RankId

        generation = ray.get(hub.new_generation.remote(lane))
        rank_ids = [RankId(lane, generation, rank, self._workers) for rank in range(self._workers)]
        ranks = [threading.Thread(target=self._rank, args=(hub, rank_id)) for rank_id in rank_ids]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()

    def abort(self) -> None:
        """Do nothing; a controller has this method."""

    def _rank(self, hub: Any, rank_id: Any) -> None:
        import ray

        from orchestrator.lanes.messages import Decision, Outcome, Report, TrialOutcome

        ray.get(hub.join.remote(rank_id))
        left, last_report = None, None
        while (assignment := ray.get(hub.next_assignment.remote(rank_id, left, last_report))) is not None:
            hub.begin.remote(rank_id, assignment)
            if left is None and rank_id.rank == 0:
                ray.get(self._starter.has_one.remote())
            left, last_report = assignment, None
            for epoch, metrics in invented_curve(assignment.config):
                sent = metrics | node_load(rank_id.lane) if rank_id.rank == 0 else {}
                report = Report(epoch, sent, is_last=epoch >= assignment.config["training"]["epochs"])
                if report.is_last:
                    last_report = report
                elif ray.get(hub.report.remote(rank_id, assignment, report)) is Decision.STOP:
                    ray.get(hub.finish.remote(rank_id, assignment, TrialOutcome(Outcome.STOPPED)))
                    break


def node_load(node: int) -> dict[str, float]:
    """Return the load that the first rank of a node reports: as many numbers as with eight GPUs."""
    prefix = f"system/simulated-{node:04}/"
    names = ["cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage"]
    of_gpu = ["memory_usage_megabytes", "memory_usage_percentage", "utilization_percentage", "power_usage_watts"]
    names += [f"gpu_{gpu}_{name}" for gpu in range(GPUS_PER_NODE) for name in of_gpu]
    return {prefix + name: round(random.uniform(0, 100), 1) for name in names}
