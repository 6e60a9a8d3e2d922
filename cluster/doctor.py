"""Checks of a cluster before a sweep uses it: one finding per check, with the remedy for a problem."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.node_checks import clock, look_at_node
from orchestrator.errors import first_line
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.uris import without_password, without_secrets

OK, WARNING, FAILURE = "ok", "warning", "failure"

_NODE_ANSWER_S = 60.0
_SKEW_S = 2.0
_LITTLE_GB = 20.0
_TOO_LITTLE_GB = 2.0

Node = Mapping[str, Any]
"""Facts of one node from `look_at_node`, or only `host` and `error`."""


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Args:
        level: `ok`, `warning` or `failure`.
        subject: Name of the check.
        message: Observation, and the remedy for a problem.
    """

    level: str
    subject: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", without_secrets(self.message))

    def as_dict(self) -> dict[str, str]:
        """Return the finding as plain data."""
        return asdict(self)


def examine(runs_dir: str | None, tracking_uri: str | None, storage_uri: str | None) -> list[Finding]:
    """Run all checks on the cluster this process is connected to; blocks until every node has answered.

    Args:
        runs_dir: Folder of results; None takes the one a sweep would take here.
        tracking_uri: MLflow server of the sweeps; None where it is a file.
        storage_uri: Database of the studies; None where it is a file.
    """
    import ray

    folder = resolve_runs_dir(runs_dir)
    alive = [node for node in ray.nodes() if node["Alive"]]
    with _marked(folder) as marker:
        nodes = _ask(alive, (str(folder), marker, tracking_uri, storage_uri))
    answered = [node for node in nodes if "error" not in node]
    return [
        *_answers(nodes),
        versions(answered),
        *access(),
        devices(answered, _claimed_gpus(alive)),
        storage(answered, str(folder)),
        reached(answered, "tracking", "MLflow", tracking_uri),
        reached(answered, "database", "study database", storage_uri),
        clocks(answered),
        disks(answered, str(folder)),
    ]


@contextlib.contextmanager
def _marked(folder: Path) -> Iterator[str]:
    """Create a marker file in the shared folder for the other nodes to find; yield its name, or an empty text."""
    marker = f".doctor-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / marker).touch()
    except OSError:
        yield ""
        return
    try:
        yield marker
    finally:
        (folder / marker).unlink(missing_ok=True)


def _ask(alive: Sequence[Mapping[str, Any]], arguments: tuple[Any, ...]) -> list[Node]:
    """Run one task on each node in parallel; a node that does not answer is reported with its error."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(look_at_node)
    tell_time = ray.remote(num_cpus=0, max_retries=0)(clock)
    places = {
        node["NodeManagerAddress"]: {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)}
        for node in alive
    }
    asked = {address: look.options(**place).remote(*arguments) for address, place in places.items()}
    found: list[Node] = []
    for address, answer in asked.items():
        try:
            told = ray.get(answer, timeout=_NODE_ANSWER_S)
            began = time.time()
            there = ray.get(tell_time.options(**places[address]).remote(), timeout=_NODE_ANSWER_S)
            ended = time.time()
        except ray.exceptions.RayError as error:
            found.append({"host": address, "error": first_line(error)})
        else:
            # What the way there and back took is how little the difference can be known.
            skew = max(0.0, abs(there - (began + ended) / 2) - (ended - began) / 2)
            found.append({**told, "skew_s": skew})
    return found


def _claimed_gpus(alive: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(node["Resources"].get("GPU", 0.0) for node in alive))


def _answers(nodes: Sequence[Node]) -> list[Finding]:
    silent = [f"{node['host']} ({node['error']})" for node in nodes if "error" in node]
    if silent:
        remedy = "Look at its raylet's log, or take it out of the cluster"
        return [Finding(FAILURE, "nodes", f"no answer from {', '.join(silent)}. {remedy}")]
    return [Finding(OK, "nodes", f"{len(nodes)} answer: {_hosts(nodes)}")]


def versions(nodes: Sequence[Node]) -> Finding:
    """Check that Python and package versions agree: pickles and checkpoints move between nodes."""
    names = list(nodes[0]["versions"]) if nodes else []
    differing, missing = [], []
    for name in names:
        by_version: dict[str, list[str]] = {}
        for node in nodes:
            by_version.setdefault(node["versions"][name], []).append(node["host"])
        if "missing" in by_version:
            missing.append(f"{name} on {', '.join(by_version['missing'])}")
        elif len(by_version) > 1:
            shown = "; ".join(f"{number} on {', '.join(hosts)}" for number, hosts in sorted(by_version.items()))
            differing.append(f"{name} {shown}")
    if missing or differing:
        said = "; ".join([*(f"missing: {text}" for text in missing), *(f"differing: {text}" for text in differing)])
        return Finding(FAILURE, "versions", f"{said}. Run one image everywhere, or submit with --install")
    return Finding(OK, "versions", ", ".join(f"{name} {nodes[0]['versions'][name]}" for name in names))


def access() -> list[Finding]:
    """Check token authentication, and the dashboard, which jobs and the State API need."""
    import ray

    from orchestrator.runtime.ray_private.core import dashboard_url

    context = ray.get_runtime_context()
    url = dashboard_url()
    found = []
    if url:
        found.append(Finding(OK, "dashboard", f"http://{url}"))
    else:
        found.append(
            Finding(WARNING, "dashboard", "none; start the head with --include-dashboard=true to submit jobs to it")
        )
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        found.append(Finding(OK, "token", "asked of every client"))
    elif context.gcs_address.startswith(("127.", "localhost")):
        found.append(Finding(OK, "token", "none, but the cluster is this machine's alone"))
    else:
        remedy = "Start every node with RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN"
        found.append(
            Finding(WARNING, "token", f"none: whoever reaches {context.gcs_address} runs what he likes. {remedy}")
        )
    return found


def devices(nodes: Sequence[Node], claimed: float) -> Finding:
    """Check that Ray offers the GPUs that the driver reports, under one driver version."""
    broken = [f"{node['host']}: {node['devices']['error']}" for node in nodes if "error" in node["devices"]]
    if broken:
        return Finding(FAILURE, "devices", f"{'; '.join(broken)}. Restart the node, or reinstall its driver")
    seen = [name for node in nodes for name in node["devices"]["gpus"]]
    drivers = sorted({node["devices"]["driver"] for node in nodes if node["devices"]["driver"]})
    if claimed > len(seen):
        text = f"Ray hands out {claimed:g} GPU(s), the drivers see {len(seen)}"
        return Finding(FAILURE, "devices", f"{text}. Start Ray's nodes without --num-gpus, or mend the driver")
    if not seen:
        return Finding(OK, "devices", "no GPU; trials train on CPUs")
    kinds = ", ".join(f"{seen.count(name)} {name}" for name in sorted(set(seen)))
    if claimed < len(seen):
        return Finding(
            WARNING, "devices", f"{kinds}, of which Ray hands out {claimed:g}. Start its nodes with --num-gpus"
        )
    if len(drivers) > 1:
        return Finding(WARNING, "devices", f"{kinds}, drivers {', '.join(drivers)}. One driver everywhere is safer")
    served = [node["host"] for node in nodes if node["devices"].get("mps")]
    mps = f", MPS on {', '.join(served)}" if served else ""
    return Finding(OK, "devices", f"{kinds}, driver {drivers[0] if drivers else 'unknown'}{mps}")


def storage(nodes: Sequence[Node], folder: str) -> Finding:
    """Check that all nodes share one writable folder of results."""
    return _everywhere(
        nodes,
        "storage",
        "shared storage",
        f"{folder} is one folder, and writable from all",
        "Mount one file system at the same path on every node, writable by Ray's user, and name it with --runs-dir",
    )


def reached(nodes: Sequence[Node], key: str, subject: str, uri: str | None) -> Finding:
    """Check that every node reaches a server."""
    if uri is None or uri.startswith("sqlite"):
        return Finding(OK, subject, "a file of the driver's; name a server to have it checked")
    return _everywhere(
        nodes,
        key,
        subject,
        f"{without_password(uri)} is reached from all",
        "Is the server up, its name known there, its port let through?",
    )


def _everywhere(nodes: Sequence[Node], key: str, subject: str, good: str, remedy: str) -> Finding:
    bad = [f"{node['host']}: {node[key]['error']}" for node in nodes if "error" in node[key]]
    if bad:
        return Finding(FAILURE, subject, f"{'; '.join(bad)}. {remedy}")
    return Finding(OK, subject, good)


def clocks(nodes: Sequence[Node]) -> Finding:
    """Check that the clocks of the nodes agree with this machine's."""
    wrong = [f"{node['host']} by {node['skew_s']:.1f} s" for node in nodes if node["skew_s"] > _SKEW_S]
    if wrong:
        return Finding(WARNING, "clocks", f"differ: {', '.join(wrong)}. Have chrony or systemd-timesyncd set them")
    return Finding(OK, "clocks", f"within {_SKEW_S:g} s of each other")


def disks(nodes: Sequence[Node], folder: str) -> Finding:
    """Check free disk space for checkpoints and spilled objects."""
    least: list[tuple[float, str]] = []
    for place, key in ((folder, "free_gb"), ("/tmp", "free_tmp_gb")):  # noqa: S108
        least += [(node[key], f"{node['host']} has {node[key]:.0f} GB free in {place}") for node in nodes]
    if not least:
        return Finding(OK, "disks", "nobody to ask")
    room, text = min(least)
    level = FAILURE if room < _TOO_LITTLE_GB else WARNING if room < _LITTLE_GB else OK
    remedy = "" if level == OK else ". Make room, or lower `keep`; `spatialsweep delete` removes whole sweeps"
    return Finding(level, "disks", text + remedy)


def _hosts(nodes: Sequence[Node]) -> str:
    return ", ".join(sorted(str(node["host"]) for node in nodes)) or "none"
