"""Requests to the driver of a running sweep and its answers, with the types and bounds of their values.

Both come from files that another process has written, so that they are checked when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.errors import SpatialSweepError
from search_spaces import Scalar

MOST_VALUES = 200
LONGEST_TEXT = 4_000

Number = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class SteeringError(SpatialSweepError, ValueError):
    """Request that a running sweep refuses, or that no driver answers."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SteerTrial(_Message):
    """Request to stop, pause or resume a trial.

    Args:
        kind: Action.
        trial: Number of the trial.
    """

    kind: Literal["stop", "pause", "resume"]
    trial: Number


class Enqueue(_Message):
    """Request to train a configuration before the sampler proposes another.

    Args:
        kind: Action.
        settings: Values by searched name, or by setting; the sampler draws the others.
    """

    kind: Literal["enqueue"] = "enqueue"
    settings: Annotated[Mapping[Name, Scalar], Field(min_length=1, max_length=MOST_VALUES)]


class ChangeSettings(_Message):
    """Request to change the number of trials, limits of the budget, or domains of searched names.

    Args:
        kind: Action.
        assignments: Assignments such as `trials=40`, as for `--set`, applied in order.
    """

    kind: Literal["set"] = "set"
    assignments: Annotated[tuple[Text, ...], Field(min_length=1, max_length=MOST_VALUES, strict=False)]


class EndSweep(_Message):
    """Request to end the session after the epochs now running, as Ctrl-C does."""

    kind: Literal["end"] = "end"


Request: TypeAlias = SteerTrial | Enqueue | ChangeSettings | EndSweep

REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
"""Parser of requests from JSON."""


class Answer(_Message):
    """Answer of the driver.

    Args:
        done: Whether the request was carried out.
        text: What was done, or why not, for the user.
    """

    done: bool
    text: Annotated[str, Field(max_length=20 * LONGEST_TEXT)]


ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)
"""Parser of answers from JSON."""


def parse_request(content: bytes) -> Request:
    """Return the request in a file.

    Raises:
        SteeringError: The content is no request.
    """
    try:
        return REQUESTS.validate_json(content)
    except ValidationError as error:
        raise SteeringError(f"the request cannot be read: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:60] for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
