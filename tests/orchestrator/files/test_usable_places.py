from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.files.sqlite_files import sqlite_uri
from orchestrator.files.usable_places import require_usable_places


def test_a_folder_that_can_be_made_passes_with_its_own_database(tmp_path: Path) -> None:
    runs_dir = tmp_path / "new" / "runs"

    require_usable_places(runs_dir, sqlite_uri(runs_dir / "optuna.db"))

    assert not runs_dir.parent.exists(), "a check makes nothing"


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").touch()

    with pytest.raises(ConfigError, match=r"^runs_dir: .*since .*/taken is none\. Choose another folder$"):
        require_usable_places(tmp_path / "taken" / below, "postgresql://user@host/studies")


def test_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "absent")

    with pytest.raises(ConfigError, match="/link is none"):
        require_usable_places(tmp_path / "link", "postgresql://user@host/studies")


def test_a_database_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^storage\.uri: .*no folder .*/absent\. Make it"):
        require_usable_places(tmp_path, sqlite_uri(tmp_path / "absent" / "studies.db"))
