"""Environment of the processes of a private Ray instance."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from orchestrator.runtime.forking.start_worker import SCRIPT, SOCKET
from orchestrator.runtime.loopback_proxies import keep_loopback_direct

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # the lanes have their own, without a process
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # sweeps do not resume from Tune's own snapshots
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_OF_ONE_WORKER = frozenset(
    {
        SCRIPT,
        SOCKET,
        # Set by Ray for an instance or a worker, and read after its start.
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_JOB_ID",
        "RAY_LD_PRELOAD_ON_WORKERS",
        "RAY_RAYLET_PID",
        "RAY_USAGE_STATS_ENABLED",
        "SPT_NOENV",
        # Set by packages in the driver when they are imported or used.
        "PYTHONBREAKPOINT",
        "KMP_DUPLICATE_LIB_OK",
        "KMP_INIT_AT_FORK",
        "RAY_CLIENT_MODE",
        "_MLFLOW_TELEMETRY_SESSION_ID",
        # Set by torch and Triton on first use, to what it is without.
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        # Set by the shell, and read by nothing that a worker does.
        "_",
        "COLUMNS",
        "LINES",
        "OLDPWD",
        "PYTEST_CURRENT_TEST",
        "SHLVL",
    }
)


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Return the names of variables that differ and that modules may read while they are imported.

    Args:
        first: Environment of one process.
        second: Environment of another.
    """
    names = (first.keys() | second.keys()) - _OF_ONE_WORKER
    return sorted(name for name in names if first.get(name) != second.get(name))


def prepare_environment(environ: MutableMapping[str, str]) -> None:
    """Set what Ray reads in the driver and in workers of a sweep, unless the user has set it.

    Args:
        environ: Environment of this process.
    """
    for name, value in _QUIET.items():
        environ.setdefault(name, value)
    keep_loopback_direct(environ)


def chosen_address(address: str | None) -> str:
    """Return the address of the cluster to join, or `local` for a private instance.

    Args:
        address: Address that the user has given; None takes `RAY_ADDRESS`, as it is set inside a Ray job.
    """
    return address or os.environ.get("RAY_ADDRESS") or "local"
