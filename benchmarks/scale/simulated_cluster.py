"""Cost of the control plane of a sweep on many simulated nodes, by nodes, lanes, trials and reports. Needs root.

    python benchmarks/scale/simulated_cluster.py [--nodes 50] [--trials 1000] [--epochs 3]

Every node is a raylet with declared GPUs. Everything of a sweep is real, `run_sweep` from end to end: planning of the
lanes, Tune with its trial actors, our searcher over PostgreSQL, the hub, the journal, an MLflow server over HTTP. Only
the worker groups are replaced, by those of `simulated_lanes.py`: an epoch lasts no longer than its calls.

With `--train` the lanes are real as well, of one worker on the CPU: a few of them on one node show what a lane costs
the node of the driver.

All runs in a network namespace of its own, whose traffic is counted. The two agents of each node, Python processes that
a sweep has no use for, are left out unless `--agents` is given. Prints JSON:

    idle           the cluster alone: processor seconds and bytes on the network a second, and memory
    starting       from `run_sweep` to the first report of the last lane to start
    sweep          from then to the last report: reports, trials, by the clock and by processor seconds of each kind
    memory_mb      by kind when half of the trials have started: processes, and megabytes of all of them
    requests       on MLflow and the study's database, and bytes
    traffic        bytes from one kind of process to another over connections open at the end
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from resource_use import Requests, Snapshot, Watch, require_own_network
from scale import SEARCH, databases
from simulated_lanes import GPUS_PER_NODE, START_S, Starter, replace_lanes

_IDLE_S = 10.0
_MARK_S = 10.0
_NO_AGENT = """
for argument; do
    case $argument in
        --node-id=*) node=${argument#*=} ;;
        --session-dir=*) session=${argument#*=} ;;
    esac
done
for port in metrics_agent_port:-1 metrics_export_port:-1 dashboard_agent_listen_port:-1 runtime_env_agent_port:1; do
    file=$session/${port%%:*}_$node
    printf %s "${port#*:}" > "$file.partial"
    mv "$file.partial" "$file"
done
exec sleep infinity
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=GPUS_PER_NODE, help="of a lane, each with a GPU")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--wall-clock", default="5m", help="end the sweep after so long with what there is")
    parser.add_argument("--train", type=int, metavar="LANES", help="train for real, on so many lanes")
    parser.add_argument("--agents", action="store_true", help="start Ray's agents on every node")
    arguments = parser.parse_args()
    require_own_network()
    logging.getLogger("ray").setLevel(logging.ERROR)
    watch, requests = Watch(), Requests()
    with ExitStack() as stack:
        stack.enter_context(watch.running())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="simulated-")))
        study, mlflow = stack.enter_context(servers(folder))
        began = time.time()
        stack.enter_context(simulated_cluster(arguments.nodes, folder, agents=arguments.agents))
        found: dict[str, Any] = {"setting": vars(arguments) | {"cpus": os.cpu_count()}}
        found["cluster_start_s"] = round(time.time() - began, 1)
        before = watch.snapshot(memory=False)
        time.sleep(_IDLE_S)
        after = watch.snapshot()
        found["idle"] = difference(before, after, per=_IDLE_S) | {"memory_mb": after.memory_mb}
        say(found)
        requests.listen()
        lanes = arguments.train or min(arguments.nodes * GPUS_PER_NODE // arguments.workers, arguments.trials)
        config = sweep_config(arguments, lanes, folder, (study, mlflow))
        all_train = sight_of_reports(config, lanes) if arguments.train else simulated_lanes(lanes)
        found |= {"lanes": lanes, **measure(config, all_train, watch, requests)}
        print(json.dumps(found, indent=2), flush=True)


def say(found: Mapping[str, Any]) -> None:
    print(json.dumps(found), file=sys.stderr, flush=True)


@contextmanager
def servers(folder: Path) -> Iterator[tuple[str, str]]:
    """Start PostgreSQL for the study, and an MLflow server on another database of it; yield their addresses."""
    with databases("postgresql") as (study, tracking):
        from tests.support.servers.mlflow_server import MlflowServer

        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        command += ["--backend-store-uri", str(tracking).replace("postgresql:", "postgresql+psycopg:")]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        server = MlflowServer(folder, command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
        server.start()
        try:
            yield str(study), server.uri
        finally:
            server.stop()


@contextmanager
def simulated_cluster(nodes: int, folder: Path, *, agents: bool) -> Iterator[None]:
    """Start a head without GPUs, which starts up to four processes at a time, and nodes with declared GPUs."""
    import ray
    from ray.cluster_utils import Cluster

    from orchestrator.runtime.ray_session import ray_session

    os.environ |= {"RAY_enable_worker_prestart": "0", "RAY_worker_niceness": "0"}
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=4, include_dashboard=False, object_store_memory=200 * 2**20, no_monitor=True)
        if not agents:
            leave_out_agents(folder)
        shape = {"num_cpus": 2 * GPUS_PER_NODE, "num_gpus": GPUS_PER_NODE, "memory": 64 * 2**30}
        for _ in range(nodes):
            cluster.add_node(wait=False, object_store_memory=80 * 2**20, **shape)
        cluster.wait_for_nodes(timeout=START_S)
        with ray_session(cluster.address):
            yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def leave_out_agents(folder: Path) -> None:
    """Start a shell in place of each agent from now on, which writes the ports that a raylet waits for."""
    from ray._private import ray_constants, services

    script = folder / "no_agent.sh"
    script.write_text(_NO_AGENT)
    agents = (ray_constants.PROCESS_TYPE_DASHBOARD_AGENT, ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT)
    original = services._build_python_executable_command_memory_profileable

    def command(component: str, *rest: Any, **options: Any) -> list[str]:
        return ["sh", str(script)] if component in agents else original(component, *rest, **options)

    services._build_python_executable_command_memory_profileable = command


def sweep_config(arguments: argparse.Namespace, lanes: int, folder: Path, addresses: tuple[str, str]) -> Any:
    """Return the sweep's configuration; addresses are those of the study's database and of MLflow."""
    from orchestrator import SweepConfig

    worker = {"workers": arguments.workers, "gpus_per_worker": 1}
    if arguments.train:
        worker = {"workers": 1, "gpus_per_worker": 0}
    return SweepConfig(
        name="simulated",
        dataset={"name": "digits"},
        search=SEARCH,
        training={"epochs": arguments.epochs},
        trials=arguments.trials,
        sampler={"name": arguments.sampler},
        trial_scheduler={"name": "asha", "grace_epochs": 1, "reduction_factor": 3},
        resources={**worker, "cpus_per_worker": 1, "lanes": lanes},
        runs_dir=str(folder / "runs"),
        budget={"wall_clock": arguments.wall_clock},
        storage={"uri": addresses[0]},
        tracking={"uri": addresses[1]},
    )


def simulated_lanes(lanes: int) -> Callable[[], None]:
    """Replace Ray Train's lanes; return a function that waits until all of them train."""
    import ray

    starter: Any = ray.remote(num_cpus=0, max_concurrency=10_000)(Starter).remote(lanes)
    replace_lanes(starter)
    return lambda: ray.get(starter.all_train.remote())


def sight_of_reports(config: Any, lanes: int) -> Callable[[], None]:
    """Return a function that waits until a number of trials have reported."""

    def wait() -> None:
        while len({event["trial"] for event in events_of(config) if event["event"] == "trial_reported"}) < lanes:
            time.sleep(1)

    return wait


def events_of(config: Any) -> list[dict[str, Any]]:
    """Return the events of the journal so far."""
    journal = Path(config.runs_dir) / config.name / "journal.jsonl"
    whole = journal.read_text().rpartition("\n")[0] if journal.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def measure(config: Any, all_train: Callable[[], None], watch: Watch, requests: Requests) -> dict[str, Any]:
    """Run one sweep on the cluster, and return its numbers."""
    from orchestrator import run_sweep

    marks = {"called": Mark.now(watch, requests)}
    over = threading.Event()

    def mark() -> None:
        all_train()
        marks["all train"] = marks["memory"] = marks["near the end"] = Mark.now(watch, requests, memory=True)
        say(difference(marks["called"].use, marks["all train"].use, per=1))
        while not over.wait(_MARK_S):
            started = sum(event["event"] == "trial_started" for event in events_of(config))
            if started >= config.trials:
                return  # from here on lanes are idle
            if started > config.trials / 2 and marks["memory"] is marks["all train"]:
                marks["memory"] = Mark.now(watch, requests, memory=True)
            marks["near the end"] = Mark.now(watch, requests)
            say(summary(events_of(config), marks))

    marker = threading.Thread(target=mark, daemon=True)
    marker.start()
    result = run_sweep(config)
    over.set()
    marker.join()
    return {"notice": result.notice, **summary(events_of(config), marks)}


class Mark(NamedTuple):
    """Resource use, requests and traffic at a moment."""

    use: Snapshot
    requests: Mapping[str, int]
    traffic: Mapping[str, int]

    @classmethod
    def now(cls, watch: Watch, requests: Requests, *, memory: bool = False) -> Mark:
        """Measure now; memory takes a second or more."""
        return cls(watch.snapshot(memory=memory), dict(requests.counts), watch.traffic())


def summary(events: Sequence[Mapping[str, Any]], marks: Mapping[str, Mark]) -> dict[str, Any]:
    """Return the numbers that the module's docstring lists."""
    first, last = marks["all train"], marks["near the end"]
    start, end = first.use, last.use
    inside = [event["event"] for event in events if start.time_s <= event["time"] <= end.time_s]
    reports, trials = inside.count("trial_reported"), inside.count("trial_ended")
    spent = difference(start, end, per=1)
    each = 1e3 / max(reports, 1)
    counts = {name: number - first.requests.get(name, 0) for name, number in last.requests.items()}
    ways = {way: number - first.traffic.get(way, 0) for way, number in last.traffic.items()}
    return {
        "starting": difference(marks["called"].use, start, per=1),
        "sweep": {
            "trials": trials,
            "reports": reports,
            **spent,
            "ms_per_report": round(each * (end.time_s - start.time_s), 2),
            "cpu_ms_per_report": {kind: round(each * s, 2) for kind, s in spent["cpu_s"].items()},
        },
        "memory_mb": marks["memory"].use.memory_mb,
        "requests": counts,
        "traffic": {way: number for way, number in sorted(ways.items(), key=lambda item: -item[1]) if number > 100_000},
    }


def difference(before: Snapshot, after: Snapshot, *, per: float) -> dict[str, Any]:
    """Return the resource use in between, divided by `per`."""
    return {
        "seconds": round(after.time_s - before.time_s, 1),
        "cpu_s": {kind: round(spent / per, 4) for kind, spent in after.cpu_since(before).items() if spent},
        "network_bytes": round((after.traffic_bytes - before.traffic_bytes) / per),
    }


if __name__ == "__main__":
    main()
