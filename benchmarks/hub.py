"""What a call to the lane hub costs, by the number of lanes: the hub alone, without Ray.

    python benchmarks/hub.py [--lanes 10 100 1000] [--workers 2] [--seconds 5]

Each lane is as many coroutines as it has workers, and each trial one more, all in one event loop with the hub. A trial
reports nine epochs, and the next one takes its place. Calls arrive one at a time, as Ray delivers them: the next one
when all that the one before has set in motion has come to rest. Prints JSON, for each number of lanes:

    calls_per_s    answered calls of ranks and clients per second of the processor, which both sides share
    us_per_call    the same as microseconds a call
    start_s        from the first hello until every lane trains
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

from orchestrator.lanes.hub import LaneHub
from orchestrator.lanes.messages import Ending, Fate, Member, Order, Report, Verdict

EPOCHS = 9
METRICS = {"val/top1": 0.5, "val/loss": 1.0, "train/loss": 1.0, "lr": 0.1, "images_per_s": 1e3, "epoch_time_s": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    found = {}
    for lanes in arguments.lanes:
        found[lanes] = asyncio.run(Exchange(lanes, arguments.workers).measure(arguments.seconds))
        print(json.dumps({lanes: found[lanes]}), file=sys.stderr, flush=True)
    print(json.dumps({"setting": vars(arguments), "lanes": found}, indent=2))


class Exchange:
    """A hub with all that calls it.

    Args:
        lanes: How many there are.
        workers: Ranks of each.
    """

    def __init__(self, lanes: int, workers: int) -> None:
        self._hub = LaneHub()
        self._lanes, self._workers = lanes, workers
        self._calls: Counter[str] = Counter()
        self._arriving: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        self._leased = 0
        self._all_train = asyncio.Event()
        self._over = False

    async def measure(self, seconds: float) -> dict[str, Any]:
        """Numbers of the module's docstring."""
        began = time.process_time()
        deliverer = asyncio.create_task(self._deliver())
        members = [Member(lane, 1, rank, self._workers) for lane in range(self._lanes) for rank in range(self._workers)]
        tasks = [asyncio.create_task(self._rank(member)) for member in members]
        tasks += [asyncio.create_task(self._client(number)) for number in range(self._lanes)]
        await self._all_train.wait()
        trains = time.process_time()
        before = self._calls.total()
        await asyncio.sleep(seconds)
        calls, spent_s = self._calls.total() - before, time.process_time() - trains
        self._over = True
        await self._hub.close()
        await asyncio.gather(*tasks)
        deliverer.cancel()
        return {
            "calls": calls,
            "calls_per_s": round(calls / spent_s),
            "us_per_call": round(1e6 * spent_s / calls, 1) if calls else None,
            "start_s": round(trains - began, 2),
        }

    async def _deliver(self) -> None:
        at_hand: Any = vars(asyncio.get_running_loop())["_ready"]
        while True:
            (await self._arriving.get()).set()
            await asyncio.sleep(0)
            while at_hand:
                await asyncio.sleep(0)

    async def _call(self, method: str, *arguments: Any) -> Any:
        turn = asyncio.Event()
        self._arriving.put_nowait(turn)
        await turn.wait()
        answer = await getattr(self._hub, method)(*arguments)
        self._calls[method] += 1
        return answer

    async def _rank(self, member: Member) -> None:
        await self._call("join", member)
        left = None
        while (order := await self._call("next_order", member, left)) is not None:
            await self._call("begin", member, order)
            ending = Ending(Fate.COMPLETED)
            for epoch in range(1, EPOCHS + 1):
                if await self._call("report", member, order, Report(epoch, METRICS)) is Verdict.STOP:
                    ending = Ending(Fate.STOPPED)
                    break
            await self._call("finish", member, order, ending)
            left = order.trial_id

    async def _client(self, number: int) -> None:
        while not self._over:
            order = Order(f"trial-{number}", {}, "")
            lane = await self._call("lease", order)
            self._leased += 1
            if self._leased >= self._lanes:
                self._all_train.set()
            after = 0
            while after < EPOCHS:
                event = await self._call("next_event", order, lane, after)
                if isinstance(event, Ending):
                    break
                after = event.epoch
            await self._call("release", order.trial_id)
            number += self._lanes


if __name__ == "__main__":
    main()
