"""Keeps what belongs to a sweep out of Tune's pickles."""

from __future__ import annotations

from typing import Any


class NotPickled:
    """Tune pickles what it is given, as a cache we do without: the truth is in the database and the journal."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> NotPickled:
        return self
