"""Settings in a journal that readers rely on, with their types.

A driver writes settings that were validated; an older version, or another program, may have written others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.config.sections.objective import ObjectiveConfig, parse_constraint
from orchestrator.records.events import Event, SettingsChanged, SweepResumed, SweepStarted, TrialChanged, TrialStarted
from search_spaces import Domain


def _constraint(text: str) -> str:
    parse_constraint(text)
    return text


_Section = Mapping[str, Any] | None
_Positive = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
_AnyKey = ConfigDict(extra="allow")


class _Address(TypedDict):
    __pydantic_config__ = _AnyKey  # type: ignore[misc]
    uri: NotRequired[str | None]


class _Model(TypedDict):
    __pydantic_config__ = _AnyKey  # type: ignore[misc]
    name: str
    options: Mapping[str, Any]


class _Training(TypedDict):
    __pydantic_config__ = _AnyKey  # type: ignore[misc]
    epochs: _Positive


class _TrialSettings(TypedDict):
    __pydantic_config__ = _AnyKey  # type: ignore[misc]
    model: _Model
    training: _Training


class _SweepSettings(TypedDict):
    __pydantic_config__ = _AnyKey  # type: ignore[misc]
    objective: ObjectiveConfig | list[ObjectiveConfig]
    trials: _Positive
    constraints: NotRequired[list[Annotated[str, AfterValidator(_constraint)]] | None]
    budget: NotRequired[BudgetConfig | None]
    search: NotRequired[Mapping[str, Domain] | None]
    tracking: NotRequired[_Address | None]
    storage: NotRequired[_Address | None]
    dataset: NotRequired[_Address | None]
    recipe: NotRequired[str | None]
    model: NotRequired[_Section]
    training: NotRequired[_Section]
    resources: NotRequired[_Section]
    sampler: NotRequired[_Section]
    trial_scheduler: NotRequired[_Section]


_OF_SWEEP: TypeAdapter[_SweepSettings] = TypeAdapter(_SweepSettings)
_OF_TRIAL: TypeAdapter[_TrialSettings] = TypeAdapter(_TrialSettings)


def check_settings(event: Event) -> None:
    """Check the settings in an event.

    Raises:
        ValidationError: A reader could not use them.
    """
    match event:
        case SweepStarted() | SweepResumed() | SettingsChanged():
            _OF_SWEEP.validate_python(event.config)
        case TrialStarted() | TrialChanged():
            _OF_TRIAL.validate_python(event.config)
