"""Rules of how the workers of a trial share a network: `training.parallel`, and how `ddp` exchanges gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.config.searched_values import Setting
from orchestrator.config.sections.training import AUTO, TrainingConfig
from orchestrator.errors import Problem

__all__ = ["parallel_problems"]

_DIVIDED_OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "lamb")
"""Optimisers whose state is a number or has the shape of its parameter, so that it is divided as the parameter is."""

_WHOLE = {
    "ema_decay": "an average of the weights is kept whole on each worker",
    "agc_factor": "adaptive clipping needs whole gradients",
    "compile": "compiled networks are not divided",
    "compiled_autograd": "compiled networks are not divided",
    "channels_last": "weights are divided in rows, and this format has other strides",
    "bucket_mb": "gradients are exchanged block by block",
    "static_graph": "it is an assurance to ddp",
}
"""Settings that a divided network does not take, each with its reason."""


def parallel_problems(setting: Callable[[str], Setting]) -> Iterator[Problem]:
    """Yield combinations of settings that a network on several workers does not take.

    Args:
        setting: Function from the name of a setting of `training` to its values.
    """
    if "fsdp" in setting("parallel").values:
        yield from _divided(setting)
        return
    yield from _compiled_autograd(setting)
    graph = setting("static_graph")
    parts = [value for value in setting("accumulation_steps").values if isinstance(value, int) and value > 1]
    if True in graph.values and parts:
        rule = f"got true with accumulation_steps: {parts[0]}, whose parts are exchanged differently from each other"
        yield Problem(graph.where, f"{rule}. Leave one of them out")
    for name in ("bucket_mb", "static_graph"):
        given = _changed(setting(name), name)
        retried = [value for value in setting("on_out_of_memory").values if value != "fail"]
        if given and retried:
            rule = f"got {given[0]}; with on_out_of_memory: {retried[0]} gradients are exchanged after the step"
            yield Problem(setting(name).where, f"{rule}, without ddp. Leave one of them out")


def _compiled_autograd(setting: Callable[[str], Setting]) -> Iterator[Problem]:
    given = setting("compiled_autograd")
    if True not in given.values:
        return
    if False in (compiled := setting("compile")).values:
        rule = f"got true with {compiled.where.removeprefix('training.')}: false; it continues a compiled network"
        yield Problem(given.where, f"{rule}. Set training.compile: true, or leave it out")
    if True in setting("static_graph").values:
        rule = "got true with static_graph: true, which torch's exchange of compiled gradients does not have"
        yield Problem(given.where, f"{rule}. Leave one of them out")
    if retried := [value for value in setting("on_out_of_memory").values if value != "fail"]:
        rule = f"got true with on_out_of_memory: {retried[0]}, whose smaller parts would each be compiled again"
        yield Problem(given.where, f"{rule}. Leave one of them out, or set training.accumulation_steps")


def _divided(setting: Callable[[str], Setting]) -> Iterator[Problem]:
    where = setting("parallel").where
    for name, reason in _WHOLE.items():
        if given := _changed(setting(name), name):
            yield Problem(where, f"got fsdp with {name}: {given[0]}; {reason}. Use ddp, or leave {name} out")
    checks = (
        ("optimizer", [name for name in setting("optimizer").values if name not in _DIVIDED_OPTIMIZERS]),
        ("precision", [name for name in setting("precision").values if name == "float16"]),
        ("on_out_of_memory", [name for name in setting("on_out_of_memory").values if name != "fail"]),
        ("global_batch_size", [size for size in setting("global_batch_size").values if size == AUTO]),
    )
    remedies = {
        "optimizer": f"its state is not divided. Use one of {', '.join(_DIVIDED_OPTIMIZERS)}",
        "precision": "the scale of the loss is not shared. Use bfloat16 or float32",
        "on_out_of_memory": "a worker out of memory would leave the others waiting. Use fail, or ddp",
        "global_batch_size": "batch sizes are tried on a whole network. Use a number, or ddp",
    }
    for name, given in checks:
        if given:
            yield Problem(where, f"got fsdp with {name}: {given[0]}; {remedies[name]}")


def _changed(setting: Setting, name: str) -> list[object]:
    usual = TrainingConfig.model_fields[name].default
    return [value for value in setting.values if value != usual]
