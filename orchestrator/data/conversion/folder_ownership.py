"""Check of a target folder: it holds no files that a conversion would overwrite, except its own unfinished ones."""

from __future__ import annotations

import re

from orchestrator.data.storage import PARTS, Folder
from orchestrator.errors import DataError

__all__ = ["claim"]

_MARK = f"{PARTS}/prepare.mark"
_MARK_CONTENT = b"Unfinished shards of `spatialsweep data prepare`; the same command resumes.\n"
_OF_PREPARE = re.compile(r"[A-Za-z0-9_]{1,64}-[0-9]{5,9}\.json|\..+\.partial|prepare\.mark")
_NAMED = 3


def claim(folder: Folder, files: list[str]) -> None:
    """Mark a folder as the target of a conversion.

    Args:
        folder: Target folder.
        files: Names of the shards to write.

    Raises:
        DataError: It holds files with the names of shards or records that no conversion wrote.
    """
    if folder.local and (folder.local / PARTS).is_symlink():
        _refuse(folder, [PARTS])
    records = folder.names(PARTS)
    strangers = sorted(f"{PARTS}/{name}" for name in records if not _OF_PREPARE.fullmatch(name))
    if strangers:
        _refuse(folder, strangers)
    if records:
        return
    taken = sorted(set(files) & folder.sizes().keys())
    if taken:
        _refuse(folder, taken)
    folder.write(_MARK, _MARK_CONTENT)


def _refuse(folder: Folder, names: list[str]) -> None:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise DataError(
        f"{folder.shown}: holds {', '.join(names[:_NAMED])}{more}, which data prepare did not write and would "
        "overwrite; choose another folder, or move them"
    )
