"""Writer of the facts that `spatialsweep models` shows: the stored file, and the page docs/networks/models.md.

`python tools/model_facts.py` counts every registered network and rewrites both; needed after a change in `models/`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import models
from orchestrator.cli.tables.models import as_markdown
from orchestrator.cli.tables.stored_models import STORED, text_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "networks" / "models.md"


def main() -> None:
    """Count the networks and write both files."""
    facts = [dataclasses.asdict(models.model_facts(name)) for name in models.list_models()]
    STORED.write_text(text_of(facts), encoding="utf-8")
    PAGE.write_text(as_markdown(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
