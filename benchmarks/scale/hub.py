"""Cost of a call to the lane hub, by the number of lanes.

    python benchmarks/scale/hub.py [--lanes 10 100 1000] [--workers 2] [--seconds 5]
    python benchmarks/scale/hub.py --ray [--lanes 10 100 1000] [--workers 2]

Each lane is as many coroutines as it has workers, and each trial one more. A trial reports nine epochs, and the next
one takes its place. Without Ray all run in one event loop with the hub, and calls arrive one at a time: the next one
when the event loop is at rest after the one before. With Ray the hub is an actor as in a sweep, and two other processes
call it. Prints JSON, for each number of lanes:

    us_per_call   processor time: of both sides without Ray, of the hub's process with it
    calls_per_s   calls for each second of one core
    start_s       processor time from the first call until every lane trains
    memory_mb     with Ray, of the hub's process while all lanes train
    look_ms       with Ray, processor time of the hub for the driver's call once a second
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Decision, Outcome, RankId, Report, TrialAssignment, TrialOutcome

EPOCHS = 9
METRICS = {"val/top1": 0.5, "val/loss": 1.0, "train/loss": 1.0, "lr": 0.1, "images_per_s": 1e3, "epoch_time_s": 1.0}
CALLERS = 2
STATE_CALLS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--ray", action="store_true")
    arguments = parser.parse_args()
    found = {}
    for lanes in arguments.lanes:
        if arguments.ray:
            found[lanes] = measure_with_ray(lanes, arguments.workers, arguments.seconds)
        else:
            found[lanes] = asyncio.run(measure_alone(lanes, arguments.workers, arguments.seconds))
        print(json.dumps({lanes: found[lanes]}), file=sys.stderr, flush=True)
    print(json.dumps({"setting": vars(arguments), "lanes": found}, indent=2))


async def measure_alone(lanes: int, workers: int, seconds: float) -> dict[str, Any]:
    """Return the numbers that the module's docstring lists."""
    began = time.process_time()
    hub = OneAtATime(LaneHub())
    deliverer = asyncio.create_task(hub.deliver())
    exchange = Exchange(hub.call, range(lanes), workers)
    callers = asyncio.create_task(exchange.run())
    await exchange.all_train.wait()
    trains, before = time.process_time(), exchange.calls.total()
    await asyncio.sleep(seconds)
    calls, spent_s = exchange.calls.total() - before, time.process_time() - trains
    await hub.call("close")
    await callers
    deliverer.cancel()
    return _costs(calls, spent_s) | {"start_s": round(trains - began, 2)}


def measure_with_ray(lanes: int, workers: int, seconds: float) -> dict[str, Any]:
    """Return the numbers that the module's docstring lists."""
    import ray
    from resource_use import own_process

    with ray.init(address="local", include_dashboard=False, num_cpus=CALLERS, log_to_driver=False):
        remote: Any = ray.remote(LaneHub)
        hub = remote.options(num_cpus=0, max_concurrency=(workers + 2) * lanes + 100).remote()
        ray.get(hub.is_ending.remote())
        process = own_process("ray::LaneHub")
        empty_mb = process.memory_full_info().uss / 2**20
        shares = [range(index, lanes, CALLERS) for index in range(CALLERS)]
        callers: list[Any] = [ray.remote(num_cpus=1)(RemoteCaller).remote(hub, share, workers) for share in shares]
        ray.get([caller.start.remote() for caller in callers])
        trains = sum(process.cpu_times()[:2])
        before = sum(ray.get([caller.count.remote() for caller in callers]))
        time.sleep(seconds)
        spent_s = sum(process.cpu_times()[:2]) - trains
        calls = sum(ray.get([caller.count.remote() for caller in callers])) - before
        found = _costs(calls, spent_s) | {"start_s": round(trains, 2)}
        found["memory_mb"] = [round(empty_mb), round(process.memory_full_info().uss / 2**20)]
        ray.get([caller.pause.remote() for caller in callers])
        ray.get(hub.is_ending.remote())
        quiet = sum(process.cpu_times()[:2])
        for _ in range(STATE_CALLS):
            ray.get(hub.hub_state.remote())
        found["look_ms"] = round(1e3 * (sum(process.cpu_times()[:2]) - quiet) / STATE_CALLS, 1)
        return found


def _costs(calls: int, spent_s: float) -> dict[str, Any]:
    return {"calls": calls, "us_per_call": round(1e6 * spent_s / calls, 1), "calls_per_s": round(calls / spent_s)}


class OneAtATime:
    """Delivery of calls as by Ray, but each to a hub at rest."""

    def __init__(self, hub: LaneHub) -> None:
        self._hub = hub
        self._arriving: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call the hub in turn and return its answer."""
        turn = asyncio.Event()
        self._arriving.put_nowait(turn)
        await turn.wait()
        return await getattr(self._hub, method)(*arguments)

    async def deliver(self) -> None:
        """Deliver calls until cancelled."""
        at_hand: Any = vars(asyncio.get_running_loop())["_ready"]
        while True:
            (await self._arriving.get()).set()
            await asyncio.sleep(0)
            while at_hand:
                await asyncio.sleep(0)


class Exchange:
    """Callers of a hub: the ranks of lanes, and as many trials at a time as there are lanes.

    Args:
        call: Function that calls a method of the hub.
        lanes: Indices of the lanes.
        workers: Number of ranks of each.

    Attributes:
        calls: Number of answered calls, by method.
        all_train: Event that is set when each of the lanes has had a trial.
        running: Event without which no trial continues.
    """

    def __init__(self, call: Callable[..., Any], lanes: range, workers: int) -> None:
        self._hub_call = call
        self._lanes, self._workers = lanes, workers
        self._leased = 0
        self.calls: Counter[str] = Counter()
        self.all_train = asyncio.Event()
        self.running = asyncio.Event()
        self.running.set()

    async def run(self) -> None:
        """Call the hub until it is closed."""
        rank_ids = [RankId(lane, 1, rank, self._workers) for lane in self._lanes for rank in range(self._workers)]
        await asyncio.gather(*map(self._rank, rank_ids), *map(self._client, self._lanes))

    async def _call(self, method: str, *arguments: Any) -> Any:
        answer = await self._hub_call(method, *arguments)
        self.calls[method] += 1
        return answer

    async def _rank(self, rank_id: RankId) -> None:
        await self._call("join", rank_id)
        left, last_report = None, None
        while (assignment := await self._call("next_assignment", rank_id, left, last_report)) is not None:
            await self._call("begin", rank_id, assignment)
            left, last_report = assignment, None
            for epoch in range(1, EPOCHS + 1):
                report = Report(epoch, METRICS, is_last=epoch == EPOCHS)
                if report.is_last:
                    last_report = report
                elif await self._call("report", rank_id, assignment, report) is Decision.STOP:
                    await self._call("finish", rank_id, assignment, TrialOutcome(Outcome.STOPPED))
                    break

    async def _client(self, number: int) -> None:
        event: Any = None
        while not isinstance(event, TrialOutcome):
            assignment, after = TrialAssignment(f"trial-{number}", {}, ""), 0
            lane = await self._call("lease", assignment)
            if lane is None:
                return
            self._leased += 1
            if self._leased >= len(self._lanes):
                self.all_train.set()
            while after < EPOCHS and not isinstance(event, TrialOutcome):
                await self.running.wait()
                event = await self._call("next_event", assignment, lane, after)
                after = getattr(event, "epoch", after)
                await self._call("acknowledge", assignment.trial_id, after)  # by the driver
            await self._call("release", assignment.trial_id)
            number += 1_000_000


class RemoteCaller:
    """Exchange in a process of its own.

    Args:
        hub: Handle of the hub.
        lanes: Indices of its lanes.
        workers: Number of ranks of each.
    """

    def __init__(self, hub: Any, lanes: range, workers: int) -> None:
        self._exchange = Exchange(lambda method, *arguments: getattr(hub, method).remote(*arguments), lanes, workers)

    async def start(self) -> None:
        """Start the callers; return when all its lanes train."""
        self._task = asyncio.create_task(self._exchange.run())
        await self._exchange.all_train.wait()

    async def count(self) -> int:
        """Return the number of answered calls."""
        return self._exchange.calls.total()

    async def pause(self) -> None:
        """Let no trial continue; return when no call is answered any more."""
        self._exchange.running.clear()
        before = -1
        while before != self._exchange.calls.total():
            before = self._exchange.calls.total()
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    main()
