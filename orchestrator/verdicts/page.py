"""Page of a verdict: one HTML file with charts that needs no network, in the style of the report of a sweep."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path

from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.budget import as_duration
from orchestrator.records.provenance import package_version
from orchestrator.report.figures import plotly_script
from orchestrator.report.page import template
from orchestrator.verdicts.charts import superiority_chart, value_chart
from orchestrator.verdicts.statistics import Unit
from orchestrator.verdicts.verdict import Verdict

_STYLE = files("orchestrator.report") / "report.css"
_SCRIPT = files("orchestrator.report") / "report.js"
FILES = ("verdict.html.j2",)


def write_verdict(found: Verdict, path: Path) -> Path:
    """Write the page of a verdict, completely or not at all.

    Args:
        found: Verdict to show.
        path: Path of the file.

    Returns:
        Path of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(render(found), encoding="utf-8")
    return path


def render(found: Verdict) -> str:
    """Render the page as HTML.

    Args:
        found: Verdict to show.
    """
    return template("orchestrator.verdicts", FILES[0]).render(
        found=found,
        test="Welch's t-test" if found.unit is Unit.SEEDS else "the rank test of Mann and Whitney",
        level=f"{1 - found.alpha:.0%}",
        values=value_chart(found),
        superiority=superiority_chart(found),
        sizes={arm.name: len(arm.sample(found.unit)) for arm in found.arms},
        times={arm.name: as_duration(arm.device_s) for arm in found.arms},
        written=time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        version=package_version(),
        style=_STYLE.read_text(encoding="utf-8"),
        script=_SCRIPT.read_text(encoding="utf-8"),
        plotly=plotly_script(),
    )
