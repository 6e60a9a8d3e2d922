"""Settings that follow from the memory of devices: `auto`, shares of a GPU, and the answer to too little memory."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import ConfigError, load_sweep
from orchestrator.config.plans import resolve_plans
from orchestrator.config.searched_values import Setting

BASE: dict[str, Any] = {
    "name": "memory",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "resources": {"workers": 1},
}
AUTO = {"global_batch_size": "auto"}


def fault(changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as raised:
        load_sweep({**BASE, **changes})
    (problem,) = raised.value.problems
    return f"{problem.where}: {problem.message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training": {"global_batch_size": "automatic"}},
            "training.global_batch_size: got 'automatic'; must be a number of images, 1 or more, or auto. Use 64",
        ),
        ({"training": {"global_batch_size": 0}}, "training.global_batch_size: got 0; must be a number of images, 1 or"),
        ({"training": {"global_batch_size": True}}, "training.global_batch_size: got True; must be a number of images"),
        (
            {"search": {"global_batch_size": ["auto", 64]}},
            "search.global_batch_size: got auto; a batch size that is found is not searched. Write training.global_",
        ),
        (
            {"training": {"max_global_batch_size": 512}},
            "training.max_global_batch_size: got 512; it bounds a batch size that is found. Add training.global_batch",
        ),
        (
            {"training": {**AUTO, "max_global_batch_size": 8, "accumulation_steps": 4}},
            "training.max_global_batch_size: got 8; the smallest batch that is tried with 1 workers has 16 image",
        ),
        (
            {"training": AUTO, "resources": {"workers": [1, 4]}},
            "training.global_batch_size: got auto; it depends on the number of workers, and resources.workers is",
        ),
        (
            {"training": AUTO, "resources": {"workers": 1, "gpus_per_worker": "auto"}},
            "resources.gpus_per_worker: got auto; it depends on the batch size, and training.global_batch_size is auto",
        ),
        (
            {"training": {"on_out_of_memory": "retry"}},
            "training.on_out_of_memory: got 'retry'; should be 'fail', 'accumulate' or 'accumulate_always'",
        ),
        (
            {"training": {"on_out_of_memory": "accumulate", "sync_batch_norm": True}, "resources": {"workers": 2}},
            "training.on_out_of_memory: got 'accumulate'; with training.sync_batch_norm a worker out of memory w",
        ),
        (
            {"resources": {"workers": 1, "gpus_per_worker": "all"}},
            "resources.gpus_per_worker: got 'all'; must be a number of GPUs, 0 or more, or auto. Use 1, or 0.25",
        ),
        (
            {"resources": {"workers": 1, "gpus_per_worker": -1}},
            "resources.gpus_per_worker: got -1; must be a number of",
        ),
        (
            {"resources": {"workers": 2, "gpus_per_worker": "auto"}},
            "resources.gpus_per_worker: got auto; it lets trials share a GPU, and workers of one trial cannot (N",
        ),
        (
            {"resources": {"workers": 1, "gpus_per_worker": 1.5}},
            "resources.gpus_per_worker: got 1.5; above 1 Ray reserves whole GPUs. Use 1 or 2",
        ),
        (
            {"resources": {"workers": 1, "gpus_per_worker": 0.01}},
            "resources.gpus_per_worker: got 0.01; at most 16 trials share a GPU. Use 0.0625 or more, or 0",
        ),
    ],
)
def test_what_does_not_go_together_is_named(changes: dict[str, Any], message: str) -> None:
    assert fault(changes).startswith(message)


REFUSED = (
    "gradient_checkpointing: got True; selecsls42 does not support it. Leave it out, or save memory with training."
)
WITHOUT_BLOCKS, WITH_BLOCKS = {"name": "selecsls42"}, {"name": "resnet10t"}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"model": WITHOUT_BLOCKS, "training": {"gradient_checkpointing": True}}, "training."),
        ({"model": WITHOUT_BLOCKS, "search": {"gradient_checkpointing": [False, True]}}, "search."),
        (
            {
                "model": None,
                "search": {"model": ["selecsls42", "resnet10t"]},
                "training": {"gradient_checkpointing": True},
            },
            "training.",
        ),
    ],
)
def test_gradient_checkpointing_of_a_network_that_has_none_is_named(changes: dict[str, Any], place: str) -> None:
    assert fault(changes).startswith(place + REFUSED)


def test_gradient_checkpointing_is_accepted_where_it_is_supported() -> None:
    only = {"choices": [False, True], "when": {"model": "resnet10t"}}
    search = {"model": ["selecsls42", "resnet10t"], "gradient_checkpointing": only}
    assert load_sweep({**BASE, "model": None, "search": search})
    assert load_sweep({**BASE, "model": WITH_BLOCKS, "training": {"gradient_checkpointing": True}})
    assert load_sweep({**BASE, "training": {"gradient_checkpointing": True}})


def test_auto_is_not_varied_by_a_named_space() -> None:
    config = load_sweep({**BASE, "space": "conv", "training": AUTO})
    assert Setting.of("global_batch_size", config.training, config.space).values == ("auto",)
    plan = resolve_plans(config).search
    assert (plan.training.global_batch_size, plan.training.batch_size) == ("auto", 1024)


def test_settings_are_read_as_they_are_written() -> None:
    config = load_sweep(
        {
            **BASE,
            "training": {**AUTO, "max_global_batch_size": 256},
            "resources": {"workers": 1, "gpus_per_worker": 0.25},
        }
    )
    again = load_sweep(config.model_dump(mode="json"))
    assert (again.training.global_batch_size, again.training.batch_size) == ("auto", 256)
    assert again.resources.gpus_per_worker == 0.25
    assert load_sweep({**BASE, "resources": {"workers": 1, "gpus_per_worker": 1}}).resources.gpus_per_worker == 1.0
    assert load_sweep({**BASE, "training": {"sync_batch_norm": True, "on_out_of_memory": "accumulate"}})
