"""Early instance with Ray: it has the settings of one that a session starts itself, and ends with a killed driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[4]
# Starts both kinds of instance one after the other, and is killed in the second.
DRIVER = """
import base64, contextlib, json, os, re, signal, sys, time
import psutil, ray
from orchestrator.runtime.early import early_start
from orchestrator.runtime.ray_session import ray_session

MODULES = ("json",)
CHOSEN = re.compile(
    r"session_[-_0-9]+|ray[a-z0-9_]{8}|[0-9a-f]{56}|(?<=port=)[0-9]+|(?<=127.0.0.1:)[0-9]+|fork[a-z0-9_]{8}"
)
SIZE = re.compile(r"(memory[=,]|object_store_memory=)[0-9.]+")

def status_of(process):
    lines = open(f"/proc/{process.pid}/status").read().splitlines()
    return [line for line in lines if line.startswith(("SigIgn", "SigBlk", "Umask", "Cpus_allowed:"))]

def seen_by(process):
    environ = process.environ()
    chosen = ("RAY_AUTH_TOKEN", "SPATIALSWEEP_FORK_SERVER")
    fixed = {name: value for name, value in environ.items() if name not in chosen}
    words = [re.sub("(?<=^--config_list=).*", lambda m: str(base64.b64decode(m[0])), w) for w in process.cmdline()]
    command = [SIZE.sub(r"\\1N", CHOSEN.sub("X", word)) for word in words]
    return {
        "command": command, "environ": fixed, "folder": process.cwd(), "niceness": process.nice(),
        "status": status_of(process), "files": process.rlimit(psutil.RLIMIT_NOFILE),
        "token": len(environ["RAY_AUTH_TOKEN"]), "forked": "SPATIALSWEEP_FORK_SERVER" in environ,
    }

def processes_by_name():
    # Ray's agents give themselves their names a while after they have started.
    found = {}
    while not {"ray::D", "ray::R"} <= {name[:6] for name in found}:
        time.sleep(0.05)
        for each in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[each.name()] = each
    return found

def facts():
    found = processes_by_name()
    worker = psutil.Process(ray.get(ray.remote(lambda: os.getpid()).remote()))
    resources = {name: value for name, value in ray.cluster_resources().items() if "memory" not in name}
    return {
        "raylet": seen_by(found["raylet"]), "gcs_server": seen_by(found["gcs_server"]),
        "processes": sorted(name for name in found if name.startswith(("raylet", "gcs", "ray::D", "ray::Run", "log"))),
        "worker": [worker.ppid() == early_start.fork_server._servers[-1].pid, status_of(worker)],
        "resources": resources, "job": ray.get_runtime_context().get_job_id(),
        "node": ray.get_runtime_context().gcs_address.split(":")[0], "environ": dict(os.environ),
    }

with ray_session(modules=MODULES):
    own = facts()
os.environ.pop("PYTHONBREAKPOINT", None)  # set by the connection of this process
left = [each.name() for each in psutil.Process().children(recursive=True)]
early_start.begin_early(None, MODULES)
(instance,) = early_start._instances
with ray_session(modules=MODULES):
    assert instance.is_used
    early = facts()
    processes = [each.pid for each in psutil.Process().children(recursive=True)]
    folder = instance._folder
    ends = {"left": left, "processes": processes, "folder": folder, "mode": os.stat(folder).st_mode & 0o777}
    print(json.dumps({"own": own, "early": early, **ends}))
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_has_the_settings_of_an_own_instance_and_ends_with_a_killed_driver() -> None:
    # Ray sets the second one where this process has connected to an instance.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONBREAKPOINT"))}
    done = subprocess.run([sys.executable, "-c", DRIVER], env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    own, early = found["own"], found["early"]
    for variable in ("RAY_AUTH_TOKEN", "SPATIALSWEEP_FORK_SERVER"):
        own["environ"].pop(variable)
        early["environ"].pop(variable)
    for name, facts in own.items():
        assert early[name] == facts, name
    assert early["raylet"]["token"] == 64
    assert early["node"] == "127.0.0.1"
    assert early["worker"][0]
    assert [name for name in found["left"] if not name.startswith("python")] == []
    assert found["mode"] == 0o700
    deadline = time.monotonic() + 200
    while any(map(runs, found["processes"])) or Path(found["folder"]).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
