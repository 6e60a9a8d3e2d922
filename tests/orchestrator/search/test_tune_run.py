"""Errors of ours that pass through Ray Tune."""

from __future__ import annotations

import traceback

import pytest
from ray.tune.error import TuneError

from orchestrator.errors import StorageError
from orchestrator.search.tune_run import _cause_of_ours


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
