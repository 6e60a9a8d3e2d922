"""Exclusion of a sweep's own objects from Tune's pickles."""

from __future__ import annotations

from typing import Any


class NotPickled:
    """Mixin of objects that Tune pickles empty: the database and the journal hold their state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> NotPickled:
        return self
