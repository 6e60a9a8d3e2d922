"""Keys of Tune's configurations, and of the results that its trial actors return; this module imports no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TRIAL = "trial"
EPOCHS_DONE = "epochs_done"
EPOCH = "epoch"
FAILURES = "failures"
REPORTED = "reported"
ENDED = "ended"
HELD = "held_s"
LANE = "lane"
NODES = "nodes"


class WholeConfig(Mapping[str, Any]):
    """Configuration of a trial that Tune passes on as one value.

    Of a dictionary Tune copies, flattens, prints and parses every setting, several times for each trial.

    Args:
        content: Configuration as plain data.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = dict(content)

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return f"trial {self._content.get('number')}"

    def __deepcopy__(self, memo: Any) -> WholeConfig:
        return self
