"""List of servers and databases that this user has named, on the command line or in their own sweep files.

A journal may come from somebody else, and the clients of MLflow and of object stores send the credentials of the
environment to any server they are pointed at. An address that only a journal names is therefore used only if it is in
this list. See decision 0011.
"""

from __future__ import annotations

import logging
import os
from urllib.parse import urlsplit, urlunsplit

from orchestrator.files.sqlite_files import sqlite_file
from orchestrator.files.user_list import add_to_list, list_path, read_list
from orchestrator.uris import without_password, without_user

_LIST = "servers"
logger = logging.getLogger(__name__)


def note_server(uri: str) -> None:
    """Add an address that the user has named to the list, without user and password.

    Args:
        uri: Address of a server or a database.
    """
    if is_known(uri):
        return
    try:
        add_to_list(_LIST, _identity(uri))
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): %s has to be named again when the sweep is resumed",
            list_path(_LIST),
            error.strerror,
            without_password(uri),
        )


def note_dataset(uri: str | None) -> None:
    """Add the server of a dataset that the user has named to the list; a folder on this machine is none.

    Args:
        uri: URI or path of the dataset, or its name; None without any.
    """
    if uri is not None and is_server(uri):
        note_server(uri)


def is_server(uri: str) -> bool:
    """Return whether the URI of a dataset names a server, and no folder on this machine."""
    return "://" in uri and not uri.startswith("file:///")


def is_known(uri: str) -> bool:
    """Return whether the user has named an address, here or in MLFLOW_TRACKING_URI."""
    named = [*read_list(_LIST), *([_identity(own)] if (own := os.environ.get("MLFLOW_TRACKING_URI")) else [])]
    return _identity(uri) in named


def _identity(uri: str) -> str:
    """Return the normal form of an address, without user and password."""
    path = sqlite_file(uri)
    if path is not None:
        return f"sqlite:///{path}"
    try:
        parts = urlsplit(without_user(without_password(uri)))
        whole = urlunsplit(parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()))
    except ValueError:  # not an address
        whole = uri
    return " ".join(whole.split()).rstrip("/")
