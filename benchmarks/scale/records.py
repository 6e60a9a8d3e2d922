"""Cost of a trial and of a report in the study's database and MLflow, without Ray and without training.

    python benchmarks/scale/records.py [--trials 60]

Writes a sweep of synthetic trials as a driver does: first into a study on PostgreSQL, then from its journal into an
MLflow server on another database, once as a writer that is behind and sends all reports of a trial in one request, once
as one that is up to date and sends each event on its own, with the code of the searcher and the writer. A report
has the metrics that the first rank of a node with eight GPUs sends. Each trial has one report, in a second sweep nine.

Needs root: it runs in a network namespace of its own, whose traffic is counted. Prints JSON: the cost of each trial and
of each report: requests or statements, bytes on the network, and milliseconds of the processor by
kind of process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from resource_use import Requests, Watch, require_own_network
from scale import SEARCH, invented_curve
from simulated_cluster import servers
from simulated_lanes import node_load

REPORTS = (1, 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    arguments = parser.parse_args()
    require_own_network()
    count = Count()
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as (study, mlflow):
        costs: dict[str, list[Mapping[str, float]]] = defaultdict(list)
        for reports in REPORTS:
            from orchestrator import SweepConfig

            config = SweepConfig(
                name=f"records-{reports}",
                dataset={"name": "digits"},
                search=SEARCH,
                training={"epochs": reports},
                trials=arguments.trials,
                trial_scheduler={"name": "none"},
                runs_dir=folder,
                storage={"uri": study},
                tracking={"uri": mlflow},
            )
            ways = {"study": write_study, "mlflow, behind": write_mlflow, "mlflow, following": follow_with_mlflow}
            for where, write in ways.items():
                with count.calls() as found:
                    write(config)
                costs[where].append({name: number / arguments.trials for name, number in found.items()})
    print(json.dumps({"setting": vars(arguments), **{where: slopes(*both) for where, both in costs.items()}}, indent=2))


def slopes(few: Mapping[str, float], many: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the cost of a trial without its reports, and the cost of a report."""
    found = {}
    for name in sorted(many):
        each = (many[name] - few.get(name, 0.0)) / (REPORTS[1] - REPORTS[0])
        found[name] = {"trial": round(few.get(name, 0.0) - REPORTS[0] * each, 2), "report": round(each, 2)}
    return found


class Count:
    """Counter of requests, bytes and milliseconds."""

    def __init__(self) -> None:
        self._watch, self._requests = Watch(), Requests()
        self._requests.listen()

    @contextmanager
    def calls(self) -> Iterator[Counter[str]]:
        """Count within the context."""
        found: Counter[str] = Counter()
        use, requests = self._watch.snapshot(memory=False), Counter(self._requests.counts)
        yield found
        after = self._watch.snapshot(memory=False)
        found.update(self._requests.counts - requests)
        found["network bytes"] = after.traffic_bytes - use.traffic_bytes
        spent = after.cpu_since(use).items()
        found.update({f"ms of {kind}": round(1e3 * seconds) for kind, seconds in spent if seconds > 0.05})


def write_study(config: Any) -> None:
    """Write all trials into the study, and into a journal."""
    from orchestrator.config.plans import resolve_plans
    from orchestrator.config.trial import resolve_trial
    from orchestrator.records.journal import Journal
    from orchestrator.records.ledger import Ledger, TrialStatus
    from orchestrator.records.objectives import Objectives
    from orchestrator.search.optuna_state import optuna_state
    from orchestrator.search.scores import note_report
    from orchestrator.search.storage import open_storage
    from orchestrator.search.study import open_study
    from orchestrator.search.write_behind import flush_study

    study = open_study(resolve_plans(config).search, config.name, open_storage(config.storage.uri), resumed=False)
    objectives = Objectives.of(config.objectives, config.constraints)
    with Journal(journal_of(config)) as journal:
        ledger = Ledger(journal)
        ledger.sweep_started(config.name, config.model_dump(mode="json"), {}, {})
        for number in range(config.trials):
            trial = study.ask()
            plain = resolve_trial(config, trial.number, config.space.sample(trial)).model_dump(mode="json")
            trial.set_user_attr("tune_trial", str(number))
            ledger.trial_started(trial.number, str(number), trial.params, plain)
            for epoch, metrics in invented_curve(plain):
                sent = metrics | node_load(number)
                ledger.trial_reported(trial.number, epoch, sent, 1.0, number)
                note_report(study, trial, epoch, sent, objectives)
            record = ledger.trial(trial.number)
            ledger.trial_ended(trial.number, TrialStatus.FINISHED, "", objectives.values(record))
            state, values = optuna_state(record, objectives)
            study.tell(trial, values=values, state=state)
    flush_study(study)


def write_mlflow(config: Any) -> None:
    """Write the journal to the server."""
    from orchestrator.tracking.mlflow_writer import MlflowWriter

    artifacts = Path(config.runs_dir) / "artifacts"
    uri = config.tracking.uri
    writer = MlflowWriter(journal_of(config), tracking_uri=uri, experiment="records", artifacts=artifacts)
    writer.start()
    writer.drain(600)


def follow_with_mlflow(config: Any) -> None:
    """Write the journal to the server, into other runs, one event at a time."""
    from orchestrator.records.events import SweepStarted
    from orchestrator.records.journal import read_events
    from orchestrator.records.lines import seal
    from orchestrator.tracking import journal_follower

    at_once = journal_follower._EVENTS_PER_BATCH
    journal_follower._EVENTS_PER_BATCH = 1
    journal = journal_of(config)
    journal.with_name("tracked.json").unlink()
    events = [event for event, _ in read_events(journal)]
    again = [replace(event, uid=uuid.uuid4().hex) if isinstance(event, SweepStarted) else event for event in events]
    journal.write_bytes(b"".join(seal(event, number) for number, event in enumerate(again, start=1)))
    write_mlflow(config)
    journal_follower._EVENTS_PER_BATCH = at_once


def journal_of(config: Any) -> Path:
    """Return the path of the sweep's journal."""
    return Path(config.runs_dir) / config.name / "journal.jsonl"


if __name__ == "__main__":
    main()
