"""Kinds of events in a journal, with the types and bounds of their values.

An event is checked when it is created and when it is read. Unknown keys are refused, so that a damaged name is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from orchestrator.records.status import TrialStatus

FORMAT: Final = 1
"""Format of the journals that are written; the first event of a journal names it, except in the oldest journals."""

_STRICT = ConfigDict(strict=True, extra="forbid")
_LATEST_S = 1e11  # in the year 5138

Time = Annotated[float, Field(ge=0.0, lt=_LATEST_S, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0.0, lt=_LATEST_S, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0, lt=2**31)]
Epoch = Annotated[int, Field(ge=1, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
Metrics = Mapping[str, float]  # a loss may be infinite or not a number
Plain = Mapping[str, Any]
Scalar = bool | int | float | str | None
Ended = Literal[
    TrialStatus.FINISHED, TrialStatus.PRUNED, TrialStatus.DIVERGED, TrialStatus.FAILED, TrialStatus.INTERRUPTED
]
SweepEnd = Literal[TrialStatus.FINISHED, TrialStatus.FAILED, TrialStatus.INTERRUPTED]
CostFigures = Mapping[Literal["held_s", "cpu_s", "gpu_s", "price"], Amount]  # a figure that is not known is absent


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SweepStarted:
    """Start of the sweep: the first event of a journal, and no other.

    Args:
        time: Unix time, as in all events.
        name: Name of the sweep.
        uid: Identifier that distinguishes equal names on a shared server, 32 hexadecimal digits.
        config: Settings, without passwords.
        facts: Versions of packages and revision of the code.
        identity: Settings that decide the results; None in the oldest journals.
        format: Format of the journal; 0 in journals that name none.
    """

    event: Literal["sweep_started"] = "sweep_started"
    time: Time
    name: Text
    uid: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    config: Plain
    facts: Mapping[str, str]
    identity: Plain | None = None
    format: Literal[0, 1] = 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SweepResumed:
    """Start of a session in which a new driver resumes the sweep."""

    event: Literal["sweep_resumed"] = "sweep_resumed"
    time: Time
    config: Plain
    facts: Mapping[str, str]
    identity: Plain


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SessionDescribed:
    """Files to be stored for the session just begun, and facts about its dataset."""

    event: Literal["session_described"] = "session_described"
    time: Time
    session: Number
    files: tuple[str, ...]
    dataset: Plain


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LanesPlanned:
    """Lanes, and devices that each trial reserves from here on.

    Args:
        waits: Whether `trial_lane_changed` tells when a trial of the session waits for a lane; None in older journals.
    """

    event: Literal["lanes_planned"] = "lanes_planned"
    time: Time
    lanes: Number
    workers: Annotated[int, Field(ge=1, lt=2**31)] = 1
    cpus_per_trial: Amount
    gpus_per_trial: Amount
    waits: Literal[True] | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialStarted:
    """Start of a trial: it was proposed and passed to Tune.

    Args:
        time: Unix time.
        trial: Number of the trial.
        tune_id: Tune's id of the trial.
        params: Searched values, by name.
        config: `TrialConfig` as plain data.
        repeats: Number of the trial whose configuration this one trains with another seed; None for the first seed.
        replicate: Index of that seed, from 1; None for the first seed.
    """

    event: Literal["trial_started"] = "trial_started"
    time: Time
    trial: Number
    tune_id: str
    params: Mapping[str, Scalar]
    config: Plain
    repeats: Number | None = None
    replicate: Annotated[int, Field(ge=1, lt=2**31)] | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialRejected:
    """Proposed configuration that breaks a rule or limit and is not trained."""

    event: Literal["trial_rejected"] = "trial_rejected"
    time: Time
    trial: Number
    params: Mapping[str, Scalar]
    rule: str
    reason: str


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialResumed:
    """Resumption of an interrupted or paused trial: it was passed to Tune again."""

    event: Literal["trial_resumed"] = "trial_resumed"
    time: Time
    trial: Number
    tune_id: str


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialChanged:
    """Exploit step of a trial: it resumes from the weights of another one, with another configuration."""

    event: Literal["trial_changed"] = "trial_changed"
    time: Time
    trial: Number
    donor: Number
    epoch: Annotated[int, Field(ge=0, lt=2**31)]
    config: Plain


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialLaneChanged:
    """Lease of a lane by a running trial, or its loss; recorded within seconds, and not where a report shows the lease.

    Args:
        time: Unix time.
        trial: Number of the trial.
        lane: Index of the lane it holds; None where it waits for another one.
    """

    event: Literal["trial_lane_changed"] = "trial_lane_changed"
    time: Time
    trial: Number
    lane: Number | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialReported:
    """Report of a trial after an epoch.

    Args:
        time: Unix time.
        trial: Number of the trial.
        epoch: Epoch, from 1.
        metrics: Values of the epoch, by metric.
        held_s: Seconds the trial has held a lane since it began or resumed, if known.
        lane: Index of the lane, if known.
        nodes: Name and address of the node of every rank; None when unchanged since the last report.
        failures: Number of failures of the trial, over pauses and sessions; None when unchanged.
    """

    event: Literal["trial_reported"] = "trial_reported"
    time: Time
    trial: Number
    epoch: Epoch
    metrics: Metrics
    held_s: Seconds | None = None
    lane: Number | None = None
    nodes: tuple[str, ...] | None = None
    failures: Number | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialPaused:
    """Pause of a trial, which may be resumed; recorded again when its checkpoint is removed.

    Args:
        time: Unix time.
        trial: Number of the trial.
        epoch: Epoch of the checkpoint from which it would resume; 0 where none is left.
        cost: Its cost so far, over all sessions.
        best: Value of every objective at its best epoch.
    """

    event: Literal["trial_paused"] = "trial_paused"
    time: Time
    trial: Number
    epoch: Annotated[int, Field(ge=0, lt=2**31)]
    cost: CostFigures | None = None
    best: Metrics | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialProgressed:
    """Progress of a trial within a long epoch, at most twice a minute; no state follows from it.

    Args:
        time: Unix time.
        trial: Number of the trial.
        epoch: Number of the epoch that trains, from 1.
        step: Number of complete steps of the whole training.
        metrics: Values since the progress before, by metric.
    """

    event: Literal["trial_progressed"] = "trial_progressed"
    time: Time
    trial: Number
    epoch: Epoch
    step: Annotated[int, Field(ge=0, lt=2**53)]
    metrics: Metrics


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialEnded:
    """End of a trial; of the trials that have ended, only an interrupted one can be resumed."""

    event: Literal["trial_ended"] = "trial_ended"
    time: Time
    trial: Number
    status: Ended
    reason: str = ""
    cost: CostFigures | None = None
    best: Metrics | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ConfigurationMeasured:
    """Mean of the first objective over the seeds of a configuration, after another of them has ended.

    Args:
        time: Unix time.
        trial: Number of the trial that trained the first seed.
        trials: Numbers of the trials that the mean is of, by seed; at least two.
        mean: Mean of the values.
        ci_low: Lower end of the 95% interval of the mean.
        ci_high: Upper end of that interval.
    """

    event: Literal["configuration_measured"] = "configuration_measured"
    time: Time
    trial: Number
    trials: Annotated[tuple[Number, ...], Field(min_length=2)]
    mean: Finite
    ci_low: Finite
    ci_high: Finite


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CheckpointKept:
    """Request to store a checkpoint as an artifact."""

    event: Literal["checkpoint_kept"] = "checkpoint_kept"
    time: Time
    trial: Number
    path: Text


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CheckpointDropped:
    """Request to remove a checkpoint from the artifacts."""

    event: Literal["checkpoint_dropped"] = "checkpoint_dropped"
    time: Time
    trial: Number
    path: Text


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SettingsChanged:
    """Change of settings while the sweep runs.

    Args:
        time: Unix time.
        request: Identifier of the request.
        changes: Changed settings with their new values, such as `{"budget.wall_clock": 7200.0}`.
        config: All settings from now on, without passwords.
        identity: Settings that decide the results from now on.
    """

    event: Literal["settings_changed"] = "settings_changed"
    time: Time
    request: str
    changes: Plain
    config: Plain
    identity: Plain


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialEnqueued:
    """Configuration that the user enqueued while the sweep runs.

    Args:
        time: Unix time.
        request: Identifier of the request, and of the configuration in the study.
        params: Values by searched name; the sampler draws the others.
    """

    event: Literal["trial_enqueued"] = "trial_enqueued"
    time: Time
    request: str
    params: Mapping[str, Scalar]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrialSteered:
    """Request of the user to stop, pause or resume a trial; it takes effect at the next report of the trial."""

    event: Literal["trial_steered"] = "trial_steered"
    time: Time
    request: str
    trial: Number
    action: Literal["stop", "pause", "resume"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BudgetSpent:
    """Limit of the budget that ends the sweep although trials are left."""

    event: Literal["budget_spent"] = "budget_spent"
    time: Time
    reason: str


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FrontFound:
    """Trials of the Pareto front, when there are several objectives."""

    event: Literal["front_found"] = "front_found"
    time: Time
    trials: tuple[Number, ...]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SweepEnded:
    """End of a session; `files` are result files to be stored with the sweep."""

    event: Literal["sweep_ended"] = "sweep_ended"
    time: Time
    status: SweepEnd
    summary: Mapping[str, Scalar]
    files: tuple[str, ...]


Event: TypeAlias = (
    SweepStarted
    | SweepResumed
    | SessionDescribed
    | LanesPlanned
    | TrialStarted
    | TrialRejected
    | TrialResumed
    | TrialChanged
    | TrialLaneChanged
    | TrialReported
    | TrialPaused
    | TrialProgressed
    | TrialEnded
    | ConfigurationMeasured
    | CheckpointKept
    | CheckpointDropped
    | SettingsChanged
    | TrialEnqueued
    | TrialSteered
    | BudgetSpent
    | FrontFound
    | SweepEnded
)
SESSION_STARTS = (SweepStarted, SweepResumed)

EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
"""Parser of events from JSON."""
