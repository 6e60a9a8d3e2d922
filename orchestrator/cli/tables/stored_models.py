"""Facts of all registered networks, counted once and stored in `models.json`, so that to list them imports no torch.

`python tools/model_facts.py` writes the file. Facts that were counted from other sources than those of the installed
networks, or with another version of timm, whose layers they have, are not used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["STORED", "digest_of_sources", "facts_of_all", "stored_models", "text_of"]

STORED = Path(__file__).with_name("models.json")


def facts_of_all() -> list[Mapping[str, Any]]:
    """Return the facts of every registered network, counted only where they are not stored."""
    stored = stored_models()
    if stored and "models" not in sys.modules:
        return list(stored.values())
    from models import list_models, model_facts

    return [stored.get(name) or dataclasses.asdict(model_facts(name)) for name in list_models()]


def stored_models(stored: Path = STORED, sources: Path | None = None) -> dict[str, Mapping[str, Any]]:
    """Return the stored facts by the name of the network; none where the sources have changed since.

    Args:
        stored: File of the facts.
        sources: Folder of the package `models`; default: the one that Python finds.
    """
    try:
        content = json.loads(stored.read_text(encoding="utf-8"))
        counted, facts = content["sources"], {entry["name"]: entry for entry in content["networks"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return facts if counted == digest_of_sources(sources or _installed()) else {}


def text_of(facts: list[Mapping[str, Any]], sources: Path | None = None) -> str:
    """Return the content of the file for the facts of all networks, as `dataclasses.asdict` returns them.

    Args:
        facts: Facts of every registered network.
        sources: Folder of the package `models`; default: the one that Python finds.
    """
    entries = ",\n".join(f"  {json.dumps(entry)}" for entry in facts)
    return f'{{"sources": "{digest_of_sources(sources or _installed())}",\n "networks": [\n{entries}\n]}}\n'


def digest_of_sources(folder: Path) -> str:
    """Return a hash of the Python files of a folder and its sub-folders, their names included, and of timm's version.

    Args:
        folder: Folder of a package.
    """
    found = hashlib.sha256(f"timm {version('timm')}\n".encode())
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        found.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _installed() -> Path:
    """Return the folder of the package `models`, which is not imported."""
    spec = importlib.util.find_spec("models")
    assert spec is not None and spec.origin is not None, "checked when `orchestrator` is imported"
    return Path(spec.origin).parent
