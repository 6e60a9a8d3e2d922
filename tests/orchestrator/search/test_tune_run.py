"""Searcher for Ray Tune, and errors of ours that pass through Tune."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import pytest
from ray.tune.error import TuneError
from ray.tune.search import Searcher

from orchestrator.errors import StorageError
from orchestrator.lanes.tune_keys import TRIAL
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
    searcher = TuneSearcher(source, session.plan)
    assert searcher.set_search_properties(None, None, {})
    assert not searcher.set_search_properties(None, None, {"lr": 0.1})
    found = searcher.suggest("tune-0")
    assert isinstance(found, dict) and found[TRIAL]["number"] == 0
    assert searcher.suggest("tune-1") is None  # while the last trial runs
    searcher.on_trial_complete("tune-0")
    assert searcher.suggest("tune-1") == Searcher.FINISHED
    assert vars(pickle.loads(pickle.dumps(searcher))) == {}
    session.close()
