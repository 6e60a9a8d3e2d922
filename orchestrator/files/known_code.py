"""List of the files of networks that this user has run: in their own sweeps, or after they allowed it.

A checkpoint or a sweep's folder may come from somebody else, and to build a network of a file runs its code. The code
that only such a record holds is therefore run only if its hash is in this list. See docs/networks/own-networks.md.
"""

from __future__ import annotations

import logging

from orchestrator.files.user_list import add_to_list, list_path, read_list

__all__ = ["is_known_code", "note_code"]

_LIST = "code"
logger = logging.getLogger(__name__)


def note_code(sha256: str) -> None:
    """Add a file that the user has named or allowed to the list.

    Args:
        sha256: Hash of its text.
    """
    if is_known_code(sha256):
        return
    try:
        add_to_list(_LIST, sha256)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): networks of files have to be allowed again with --allow-code",
            list_path(_LIST),
            error.strerror,
        )


def is_known_code(sha256: str) -> bool:
    """Return whether the user has run a file with this hash before."""
    return sha256 in read_list(_LIST)
