"""Steering of a running sweep: the driver's main thread reads requests, carries them out and answers them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from orchestrator.config import SweepConfig
from orchestrator.config.fixed_settings import shown
from orchestrator.config.plans import SearchPlan, resolve_plans
from orchestrator.errors import SpatialSweepError, first_line
from orchestrator.records.budget import Budget
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.records.settings.stored_config import complete_settings
from orchestrator.search.tune_run import TuneRun
from orchestrator.steering.request_folder import RequestFolder
from orchestrator.steering.requests import (
    Answer,
    ChangeSettings,
    EndSweep,
    Enqueue,
    Request,
    SteeringError,
    SteerTrial,
    parse_request,
)
from orchestrator.sweep.compatibility import identity_of_search
from orchestrator.sweep.signals import SignalWatch
from orchestrator.sweep.steering.changed_settings import change_settings
from orchestrator.uris import without_secrets

logger = logging.getLogger(__name__)

_SOURCE = "enqueue"


class Steering:
    """Requests to one session of a sweep; its methods are called in the driver's main thread.

    Nothing here waits for training: what concerns a running trial takes effect at its next report. The first poll also
    answers the requests that have come since the driver took the lock.

    Args:
        config: Configuration of the sweep.
        plan: Search plan of the session.
        folder: Folder of the sweep, locked by this process.
        ledger: Ledger of the sweep; every request that is accepted is recorded there first.
        search: Search that is to be steered.
        budget: Limits of the sweep, which are changed in place.
        signals: Requests to stop the session.
        changed: Called with the search plan after a change.
        say: Called with a line for the user.
    """

    def __init__(
        self,
        config: SweepConfig,
        plan: SearchPlan,
        folder: SweepFolder,
        ledger: Ledger,
        search: TuneRun,
        *,
        budget: Budget,
        signals: SignalWatch,
        changed: Callable[[SearchPlan], None],
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._plan = plan
        self._folder = folder
        self._ledger = ledger
        self._search = search
        self._budget = budget
        self._signals = signals
        self._changed = changed
        self._say = say
        self._requests = RequestFolder(folder)

    def poll(self) -> None:
        """Carry out the requests that have come since the last call, and answer them."""
        for number, content in self._requests.pending():
            answer = self._answer(number, content)
            self._requests.answer(number, answer)
            self._say(f"{'Request' if answer.done else 'Request refused'}: {answer.text.splitlines()[0]}")

    def close(self) -> None:
        """Answer what has come while the session ended."""
        for number, _ in self._requests.pending():
            self._requests.answer(number, Answer(done=False, text=self._ending()))

    def _answer(self, number: str, content: bytes | SteeringError) -> Answer:
        try:
            if isinstance(content, SteeringError):
                raise content
            return Answer(done=True, text=without_secrets(self._carry_out(number, parse_request(content))))
        except SpatialSweepError as error:
            return Answer(done=False, text=str(error))
        except Exception as error:  # a request must not end the sweep, whatever is wrong with it
            logger.exception("A request to the sweep could not be carried out")
            return Answer(done=False, text=without_secrets(f"the request failed: {first_line(error)}"))

    def _carry_out(self, number: str, request: Request) -> str:
        """Carry out a request and return what was done.

        Raises:
            SpatialSweepError: The request cannot be carried out.
        """
        if self._search.is_closing or self._signals.stop_requested:
            raise SteeringError(self._ending())
        match request:
            case SteerTrial(kind="stop"):
                return self._stop(number, request.trial)
            case SteerTrial(kind="pause"):
                return self._pause(number, request.trial)
            case SteerTrial():
                return self._resume(number, request.trial)
            case Enqueue():
                return self._enqueue(number, request)
            case ChangeSettings():
                return self._change(number, request)
            case EndSweep():
                self._signals.request_stop()
                return f"sweep '{self._folder.name}' ends after the epochs now running"

    def _stop(self, number: str, trial: int) -> str:
        record = self._trial(trial)
        self._refuse_ended(record)
        if record.steered == "stop":
            return f"trial {trial} ends at its next report, as requested before"
        self._ledger.trial_steered(number, trial, "stop")
        if self._search.stop_trial(trial):
            return f"trial {trial} is stopped after {record.epochs} epochs; its results stay"
        return f"trial {trial} is stopped at its next report; its results stay"

    def _pause(self, number: str, trial: int) -> str:
        record = self._trial(trial)
        self._refuse_ended(record)
        if self._plan.trial_scheduler.name == "pbt":
            raise SteeringError(
                "the trials of a population (trial_scheduler.name: pbt) train together; none pauses alone"
            )
        if record.steered:
            raise SteeringError(f"trial {trial} {'is paused' if record.steered == 'pause' else 'ends'} already")
        self._search.hold_trial(trial)  # first, so that the allocation rule does not resume it
        self._ledger.trial_steered(number, trial, "pause")
        if record.status is TrialStatus.PAUSED:
            return f"trial {trial} stays paused after {record.epochs} epochs, until it is resumed by hand"
        return f"trial {trial} is paused at its next report, until it is resumed by hand"

    def _resume(self, number: str, trial: int) -> str:
        record = self._trial(trial)
        self._refuse_ended(record)
        if record.steered == "stop":
            raise SteeringError(f"trial {trial} ends at its next report; that is final")
        if record.status is TrialStatus.RUNNING and not record.steered:
            raise SteeringError(f"trial {trial} is not paused, it is running")
        self._ledger.trial_steered(number, trial, "resume")
        self._search.resume_trial(trial)
        if record.status is TrialStatus.PAUSED:
            return f"trial {trial} resumes after epoch {record.resume_epoch} as soon as a lane is free"
        return f"trial {trial} continues; it had not paused yet"

    def _enqueue(self, number: str, request: Enqueue) -> str:
        params = self._search.enqueue(_SOURCE, request.settings, number)
        values = ", ".join(f"{name} {shown(value)}" for name, value in params.items())
        full = self._search.begun >= self._plan.trials
        hint = f". All {self._plan.trials} trials have begun: raise `trials` to train it" if full else ""
        return f"enqueued: {values}; what is left open is drawn by the sampler{hint}"

    def _change(self, number: str, request: ChangeSettings) -> str:
        found = change_settings(
            self._config,
            self._ledger.searched,
            request.assignments,
            begun=self._search.begun,
            sampler=self._search.sampler,
        )
        if not found.changes:
            return "nothing changes: the settings have these values"
        plan = resolve_plans(found.config).search
        plan = replace(plan, initial_weights=self._plan.initial_weights)
        recorded = complete_settings(found.config)
        self._ledger.settings_changed(
            number, found.changes, recorded, identity_of_search(self._ledger.identity or {}, found.config)
        )
        self._search.change_plan(plan)
        self._budget.limits = found.config.budget  # before the call below, which reads them
        self._config, self._plan = found.config, plan
        self._changed(plan)
        return found.in_words

    def _trial(self, number: int) -> TrialRecord:
        if self._ledger.has_trial(number):
            return self._ledger.trial(number)
        known = [str(trial.number) for trial in self._ledger.trials() if not trial.is_over]
        raise SteeringError(
            f"sweep '{self._folder.name}' has no trial {number}. Running or paused: {', '.join(known) or 'none'}"
        )

    def _refuse_ended(self, record: TrialRecord) -> None:
        if record.is_over:
            raise SteeringError(f"trial {record.number} has ended already: {record.status.in_words}")

    def _ending(self) -> str:
        return (
            f"the session of sweep '{self._folder.name}' is ending. `spatialsweep resume {self._folder.name}` continues"
        )
