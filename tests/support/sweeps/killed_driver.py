"""Death of a driver, for tests that go on in the same process."""

from __future__ import annotations

import optuna

from orchestrator.search.write_behind import WriteBehindStorage


def lose_unwritten(study: optuna.Study) -> None:
    """Lose what a study has not written to its database yet, as when its driver is killed.

    Args:
        study: Study of the killed driver, which is not used any more.
    """
    storage = study._storage
    assert isinstance(storage, WriteBehindStorage)
    with storage._writing, storage._lock:
        storage._queue = []
        storage._kept = None
        if storage._timer is not None:
            storage._timer.cancel()
