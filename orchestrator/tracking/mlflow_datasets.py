"""Dataset of a sweep as an MLflow dataset: an input of a run, found by name and digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from orchestrator.server_addresses import scheme_of

_DIGEST_LENGTH = 36
_NAME_LENGTH = 500
_CONTEXT = "mlflow.data.context"


def dataset_input(facts: Mapping[str, Any]) -> DatasetInput:
    """Convert the result of `describe_dataset` to an input of a training run.

    Args:
        facts: Facts of the dataset: `name`, `uri`, `content_hash`, `image_shape`, `splits` and its classes.
    """
    uri = str(facts["uri"])
    # What an annotated image is labelled with is no tensor of one shape.
    targets = {} if "annotations" in facts else {"targets": _labels()}
    splits = {name: split["images"] for name, split in facts["splits"].items()}
    dataset = Dataset(
        name=str(facts["name"])[:_NAME_LENGTH],
        digest=str(facts["content_hash"])[:_DIGEST_LENGTH],
        source_type=scheme_of(uri) if "://" in uri else "local",
        source=json.dumps({"uri": uri}),
        schema=json.dumps({"mlflow_tensorspec": {"features": _pixels(facts), **targets}}),
        profile=json.dumps(
            {"images": splits, "num_classes": facts["num_classes"], "class_names": facts["class_names"]}
        ),
    )
    return DatasetInput(dataset, [InputTag(_CONTEXT, "training")])


def _pixels(facts: Mapping[str, Any]) -> str:
    shape = facts["image_shape"] or [3, -1, -1]
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, *shape]}}])


def _labels() -> str:
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "int32", "shape": [-1]}}])
