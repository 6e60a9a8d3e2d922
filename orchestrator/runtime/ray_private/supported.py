"""Versions of Ray, and the check that a version which was not tested still has the names that this package uses.

The names are read from Ray's source files, so that the check imports nothing. Those that `ray_private` imports are
found in its own source; `RELIED_ON` has the others.
"""

from __future__ import annotations

import ast
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.errors import UnsupportedRayError

__all__ = ["RELIED_ON", "TESTED", "missing_names", "require_supported"]

TESTED = ((2, 59), (2, 60))
"""Versions that the tests run with."""

_COMPILED = "ray._raylet"  # imported with `ray`; has no source
_GROUP = "ray.train.v2._internal.execution.worker_group"
RELIED_ON = (
    "ray._private.node: Node.start_api_server, Node._webui_url",
    "ray._private.parameter: RayParams.worker_path, RayParams.no_monitor, RayParams.include_log_monitor",
    "ray._private.ray_constants: ENABLE_RAY_CLUSTER",
    "ray._private.runtime_env.packaging: GCS_STORAGE_MAX_SIZE, _get_excludes, get_excludes_from_ignore_files",
    "ray._private.utils: set_omp_num_threads_if_unset()",
    "ray._private.workers: default_worker",
    "ray.actor: ActorClassID",
    "ray.air._internal.usage: _count_callbacks(callbacks)",
    "ray._private.state: GlobalState.get_max_resources_from_cluster_config, GlobalState._connect_and_get_accessor",
    "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator: "
    "_AutoscalingCoordinatorActor.cancel_request(requester_id)",
    "ray.train.torch.config: _shutdown_torch(destroy_process_group), _set_torch_distributed_env_vars, "
    "TorchConfigContextManager",
    "ray.train.v2._internal.execution.context: TrainContext.preemption_context",
    "ray.train.v2._internal.execution.controller.controller: TrainController.worker_group_cls, "
    "TrainController.abort, TrainController.run, TrainController.get_result",
    "ray.train.v2._internal.execution.preemption: PreemptionWatcher._stop_event",
    f"{_GROUP}.state: _shutdown_sync_actor",
    f"{_GROUP}.worker_group: SynchronizationActor, WorkerGroup._get_worker_runtime_env, "
    "WorkerGroup._init_train_context(workers; sync_actor), WorkerGroup.get_workers",
    f"{_GROUP}.execution_group: ExecutionGroup.execute_async(fn), ExecutionGroup.execute_single(rank; fn), "
    "ExecutionGroup.execute_single_async(rank; fn)",
    "ray.train.v2._internal.util: ObjectRefWrapper._ref, ObjectRefWrapper.get",
    "ray.train.v2.api.data_parallel_trainer: DataParallelTrainer._create_default_callbacks, "
    "DataParallelTrainer._initialize_and_run_controller",
    "ray.tune.execution.class_cache: _ActorClassCache.get(trainable_cls)",
    "ray.tune.execution.tune_controller: _ActorClassCache, logger, TuneController.get_live_trials",
    "ray.tune.schedulers.async_hyperband: AsyncHyperBandScheduler._brackets, AsyncHyperBandScheduler._trial_info",
    "ray.tune.schedulers.median_stopping_rule: MedianStoppingRule._results, MedianStoppingRule._metric, "
    "MedianStoppingRule._time_attr, MedianStoppingRule._on_insufficient_samples(tune_controller; trial; time)",
)
"""Attributes that are reached without an import: `module: name, Class.member, Class.method(first; second)`."""

_NAME = re.compile(r"(?P<name>\w+)(?:\.(?P<member>\w+))?(?:\((?P<arguments>[\w; ]*)\))?")

logger = logging.getLogger(__name__)


def require_supported(version: str, folder: Path) -> None:
    """Check that this package works with a version of Ray: one that was tested, or that has all names.

    Args:
        version: Version of Ray.
        folder: Folder of the package `ray`.

    Raises:
        UnsupportedRayError: Names are missing.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) in TESTED:
        return
    tested = " and ".join(f"{major}.{minor}" for major, minor in TESTED)
    if missing := missing_names(folder):
        (low, *_), (*_, (major, minor)) = TESTED, TESTED
        pin = f"ray[default,train,tune]>={low[0]}.{low[1]},<{major}.{minor + 1}"
        raise UnsupportedRayError(
            f"Ray {version} lacks names that SpatialSweep uses: {', '.join(missing)}. "
            f"It is tested with Ray {tested}: pip install '{pin}'"
        )
    logger.warning("Ray %s was not tested with SpatialSweep, which is tested with %s.", version, tested)


def missing_names(folder: Path, used: Iterable[tuple[str, str]] | None = None) -> list[str]:
    """Return the names that a version of Ray does not have, each with its module, in alphabetical order.

    Args:
        folder: Folder of the package `ray`.
        used: Modules and names, as in `RELIED_ON`; None takes all that this package uses.
    """
    trees: dict[str, ast.Module | None] = {}
    missing = set()
    for module, name in _used() if used is None else used:
        if module == _COMPILED:
            found = hasattr(sys.modules[module], name)
        else:
            if module not in trees:
                trees[module] = _parsed(folder, module)
            found = _has(trees[module], name) or _source(folder, f"{module}.{name}") is not None
            found = found or (name == "__file__" and trees[module] is not None)
        if not found:
            missing.add(f"{module}.{name.replace(';', ',')}")
    return sorted(missing)


def _used() -> Iterator[tuple[str, str]]:
    """Yield module and name of all that the files of this package import from Ray, and of `RELIED_ON`."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ray."):
                yield from ((node.module, alias.name) for alias in node.names)
    for line in RELIED_ON:
        module, _, names = line.partition(": ")
        yield from ((module, name) for name in names.split(", "))


def _source(folder: Path, module: str) -> Path | None:
    """Return the file of a module of Ray; None where there is none."""
    path = folder.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _parsed(folder: Path, module: str) -> ast.Module | None:
    file = _source(folder, module)
    return None if file is None else ast.parse(file.read_text(encoding="utf-8"))


def _has(tree: ast.Module | None, wanted: str) -> bool:
    """Return whether a module defines a name, or a member of a class, with these arguments."""
    parts = _NAME.fullmatch(wanted)
    assert parts is not None, wanted
    if tree is None:
        return False
    found = [node for node in _statements(tree.body) if parts["name"] in _bound(node)]
    if parts["member"] is not None:
        classes = [node for node in found if isinstance(node, ast.ClassDef)]
        found = [node for each in classes for node in _members(each) if parts["member"] in _bound(node)]
    if parts["arguments"] is None:
        return bool(found)
    arguments = parts["arguments"].split("; ") if parts["arguments"] else []
    functions = [node for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return any([each.arg for each in node.args.args if each.arg != "self"] == arguments for node in functions)


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.AST]:
    """Yield the statements of a module or class, those within `if` and `try` included."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from _statements(getattr(node, part, ()))


def _members(node: ast.ClassDef) -> Iterator[ast.AST]:
    """Yield what a class defines: methods, attributes, and assignments to attributes of `self`."""
    yield from _statements(node.body)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assign | ast.AnnAssign):
            yield inner


def _bound(node: ast.AST) -> set[str]:
    """Return the names that a statement binds, attributes of `self` among them."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = {each.id for each in targets if isinstance(each, ast.Name)}
    return names | {each.attr for each in targets if isinstance(each, ast.Attribute)}
