"""Size of the folders, and a README in every package."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES = 15  # README.md is one of them
PACKAGES = ("cluster", "models", "orchestrator", "search_spaces")
FEWEST_MODULES = 3  # from here on a package has a README
UNCOUNTED = ("__init__.py", "py.typed")


def tracked_files() -> list[Path]:
    """Return the files of the working tree, without ignored ones."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_a_folder_holds_at_most_15_files() -> None:
    counts = Counter(path.parent for path in tracked_files() if path.name not in UNCOUNTED)
    too_large = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MOST_FILES}
    assert too_large == {}


def test_every_package_of_three_modules_has_a_readme() -> None:
    modules = Counter(
        path.parent
        for path in tracked_files()
        if path.suffix == ".py" and path.name != "__init__.py" and path.relative_to(ROOT).parts[0] in PACKAGES
    )
    packages = [folder for folder, count in modules.items() if count >= FEWEST_MODULES]
    without = [str(folder.relative_to(ROOT)) for folder in packages if not has_readme(folder)]
    assert sorted(without) == []


def has_readme(folder: Path) -> bool:
    """Return whether a package, or the one around it, has a README; those in `orchestrator` have one each."""
    shared = [] if folder.parent in (ROOT, ROOT / "orchestrator") else [folder.parent]
    return any((each / "README.md").is_file() for each in (folder, *shared))
