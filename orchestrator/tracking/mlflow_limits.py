"""Limits of a request to an MLflow server; larger content is divided or cut.

A server refuses a whole request for one name or value that is too long, so names and values are cut beforehand.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

METRICS_PER_REQUEST = 1_000
PARAMS_PER_REQUEST = 100
TAGS_PER_REQUEST = 100
ENTITIES_PER_REQUEST = 1_000
BYTES_PER_REQUEST = 900_000  # a server accepts 1,000,000, with names and punctuation
KEY_LENGTH = 250
PARAM_LENGTH = 6_000
TAG_LENGTH = 5_000

_BYTES_PER_ENTITY = 120  # names of the fields, time and step
_CUT = "..."
_NOT_IN_KEYS = re.compile(r"[^\w\-. :/]", re.ASCII)

Entity = Metric | Param | RunTag
AnyEntity = TypeVar("AnyEntity", Metric, Param, RunTag)


def metric(name: str, value: float, timestamp_ms: int, step: int) -> Metric:
    """Create one value of a metric."""
    return Metric(key_of(name), float(value), timestamp_ms, step)


def param(name: str, value: object) -> Param:
    """Create a parameter; a long value is cut, and stands whole in the artifacts of the sweep."""
    return Param(key_of(name), cut(str(value), PARAM_LENGTH))


def tag(name: str, value: object) -> RunTag:
    """Create a tag; a long value is cut."""
    return RunTag(key_of(name), cut(str(value), TAG_LENGTH))


def key_of(name: str) -> str:
    """Convert a name to one that MLflow accepts; a long name is cut, with a hash that distinguishes it from others."""
    key = _NOT_IN_KEYS.sub("_", name)
    if len(key) <= KEY_LENGTH:
        return key
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{key[: KEY_LENGTH - len(digest) - 1]}-{digest}"


def cut(text: str, length: int) -> str:
    """Cut a text to a length, with three dots at its end."""
    return text if len(text) <= length else text[: length - len(_CUT)] + _CUT


def log(
    client: MlflowClient,
    run_id: str,
    *,
    metrics: Sequence[Metric] = (),
    params: Sequence[Param] = (),
    tags: Sequence[RunTag] = (),
) -> None:
    """Send values to a run in as few requests as possible; blocks until the server has them."""
    if _fit(metrics, params, tags):
        client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
        return
    for some_params in batches(params, PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=some_params)
    for some_tags in batches(tags, TAGS_PER_REQUEST):
        client.log_batch(run_id, tags=some_tags)
    for some_metrics in batches(metrics, METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=some_metrics)


def _fit(metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]) -> bool:
    return (
        len(params) <= PARAMS_PER_REQUEST
        and len(tags) <= TAGS_PER_REQUEST
        and len(metrics) + len(params) + len(tags) <= ENTITIES_PER_REQUEST
        and sum(_bytes(entity) for part in (metrics, params, tags) for entity in part) <= BYTES_PER_REQUEST
    )


def batches(entities: Iterable[AnyEntity], at_most: int) -> Iterator[list[AnyEntity]]:
    """Divide values into requests, by number and by size."""
    batch: list[AnyEntity] = []
    size = 0
    for entity in entities:
        needed = _bytes(entity)
        if batch and (len(batch) == at_most or size + needed > BYTES_PER_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(entity)
        size += needed
    if batch:
        yield batch


def _bytes(entity: Entity) -> int:
    """Bound the bytes of a value in JSON, where a letter beyond ASCII takes up to twelve."""
    value = entity.value
    written = len(value) + 11 * sum(letter > "\x7f" for letter in value) if isinstance(value, str) else 25
    return _BYTES_PER_ENTITY + len(entity.key) + written
