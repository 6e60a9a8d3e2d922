"""Searcher for Ray Tune, and errors of ours that pass through Tune."""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.error import TuneError
from ray.tune.search import Searcher
from ray.tune.utils import flatten_dict

from orchestrator.errors import StorageError
from orchestrator.lanes.trial_client import TrialClient
from orchestrator.lanes.tune_keys import EPOCH, FAILURES, HELD, LANE, NODES, REPORTED, TRIAL, WholeConfig
from orchestrator.search.tune_run import TuneSearcher, _cause_of_ours
from tests.orchestrator.search.test_steered_trials import Session


def wrapped(error: Exception) -> Exception:
    """Wrap an error as Tune's controller and its tuner do."""
    with pytest.raises(TuneError) as caught:
        try:
            try:
                raise error
            except Exception:
                raise TuneError(traceback.format_exc())  # noqa: B904
        except TuneError as inner:
            raise TuneError("the trials failed") from inner
    return caught.value


def test_an_error_for_the_user_is_unwrapped() -> None:
    ours = StorageError("the study's database has not answered for 300 s")
    assert _cause_of_ours(wrapped(ours)) is ours


def test_an_error_of_tune_stays_wrapped() -> None:
    theirs = wrapped(KeyError("of Tune's own"))
    assert _cause_of_ours(theirs) is theirs


def test_tune_gets_the_configurations_of_the_source_and_the_end_of_the_search(tmp_path: Path) -> None:
    session = Session(tmp_path, trials=1)
    source = session.search._searcher
    leased: list[str] = []
    searcher = TuneSearcher(source, session.plan, lambda tune_id, config: leased.append(tune_id))
    assert searcher.set_search_properties(None, None, {})
    assert not searcher.set_search_properties(None, None, {"lr": 0.1})
    found = searcher.suggest("tune-0")
    assert isinstance(found, dict) and found[TRIAL]["number"] == 0
    assert leased == ["tune-0"]
    assert searcher.suggest("tune-1") is None  # while the last trial runs
    searcher.on_trial_complete("tune-0")
    assert searcher.suggest("tune-1") == Searcher.FINISHED
    assert vars(pickle.loads(pickle.dumps(searcher))) == {}
    session.close()


def test_a_lane_is_leased_with_the_proposal_as_its_actor_will_ask_for_it(tmp_path: Path) -> None:
    session = Session(tmp_path)
    search = session.search
    found = TuneSearcher(search._searcher, session.plan, search._lease_early).suggest("tune-0")
    client = object.__new__(TrialClient)
    client._trial_info = SimpleNamespace(trial_id="tune-0")
    client.setup(found, hub=AskedHub(), trials_folder=str(search._folder.trials))  # type: ignore[arg-type]
    with pytest.raises(AskedError) as asked:
        client.step()
    assert session.hub.calls == [("lease", asked.value.args[0])]
    session.close()


class AskedError(Exception):
    """Call of a hub, with its argument."""


class AskedHub:
    """Hub that raises the first call of a trial's client."""

    def __getattr__(self, name: str) -> Any:
        def call(argument: Any) -> None:
            raise AskedError(argument, name)

        return SimpleNamespace(remote=call)


def test_a_trial_that_waits_for_weights_of_others_is_leased_by_its_actor_alone(tmp_path: Path) -> None:
    rate = {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}}
    session = Session(tmp_path, trial_scheduler={"name": "pbt"}, sampler={"name": "random"}, search=rate)
    session.search._lease_early("tune-0", {TRIAL: {"number": 0}, FAILURES: 0})
    session.epoch()
    assert [call for call in session.hub.calls if call[0] != "release"] == []
    session.close()


def test_an_epoch_is_acknowledged_where_tune_continues(tmp_path: Path) -> None:
    session = Session(tmp_path, trials=1, training={"epochs": 3})
    session.fill()
    trial = session.running[0]
    for epoch, done in ((1, False), (2, True)):
        result = {
            REPORTED: (("val/top1", 0.5),),
            EPOCH: epoch,
            HELD: 1.0,
            LANE: 0,
            NODES: (),
            FAILURES: 0,
            "done": done,
        }
        session.search._callback.on_trial_result(0, [], trial, result)
    assert session.hub.calls == [("acknowledge", trial.trial_id, 1)]
    session.close()


def test_tune_passes_a_configuration_on_as_one_value() -> None:
    content = {"number": 7, "training": {"lr": 0.1}}
    config = WholeConfig(content)
    assert (dict(config), config["training"]) == (content, {"lr": 0.1})
    assert copy.deepcopy({"trial": config})["trial"] is config
    assert flatten_dict({"trial": config}) == {"trial": config}
    assert pickle.loads(pickle.dumps(config)) == config == content
    assert str(config) == "trial 7"
