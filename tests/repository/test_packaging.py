"""Built wheel: complete, and usable from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORT_ROOTS = ("cluster", "models", "orchestrator", "search_spaces")


@pytest.mark.slow
def test_the_wheel_works_from_any_directory(tmp_path: Path) -> None:
    run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)])
    (wheel,) = tmp_path.glob("spatialsweep-*.whl")
    environment = tmp_path / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    python = environment / "bin" / "python"
    # The dependencies are borrowed; a path file adds them without this checkout's own editable install.
    site = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run([sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)])

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    version = run([str(environment / "bin" / "spatialsweep"), "--version"], cwd=elsewhere)
    assert version.startswith("spatialsweep 0.")
    imports = "\n".join(f"import {name}; print({name}.__file__)" for name in IMPORT_ROOTS)
    page = "import orchestrator.report.page as page; print(all((page._HERE / name).is_file() for name in page.FILES))"
    api = "from orchestrator import *; import orchestrator; print(all(n in globals() for n in orchestrator.__all__))"
    *files, has_page, has_api = run([str(python), "-c", f"{imports}\n{page}\n{api}"], cwd=elsewhere).splitlines()
    assert len(files) == len(IMPORT_ROOTS)
    assert [line for line in files if not Path(line).is_relative_to(site)] == []
    assert (has_page, has_api) == ("True", "True")


def run(command: list[str], cwd: Path | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
