"""Report of a table: Markdown, an HTML page, a picture and JSON, written together."""

from __future__ import annotations

import importlib.util
import json
import time
from base64 import b64encode
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2

from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.provenance import package_version
from orchestrator.reproduce.result import TableResult
from orchestrator.seeds.estimates import CONFIDENCE, Estimate

__all__ = ["HEADINGS", "ReportFiles", "as_markdown", "remarks", "table_rows", "write_report"]

HEADINGS = ("row", "network", "parameters", "MACs", "published", "measured", "published difference", "difference", "")
"""Columns of a report; the last is the verdict."""
NOT_PUBLISHED = "not published"
_TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class ReportFiles:
    """Files of a report.

    Args:
        json: Numbers for programs.
        markdown: Table and remarks as Markdown.
        html: The same as a page that needs no network.
        picture: Means with intervals as PNG; None without Matplotlib.
    """

    json: Path
    markdown: Path
    html: Path
    picture: Path | None


def write_report(result: TableResult, folder: Path) -> ReportFiles:
    """Write all files of a report, each completely or not at all.

    Args:
        result: Result of the table.
        folder: Folder of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ReportFiles(folder / "results.json", folder / "report.md", folder / "report.html", folder / "report.png")
    picture = _picture(result, folder / "report.png")
    _write(names.json, json.dumps(result.as_dict(), indent=2) + "\n")
    _write(names.markdown, as_markdown(result, picture is not None))
    _write(names.html, as_html(result, picture))
    return ReportFiles(names.json, names.markdown, names.html, picture)


def as_markdown(result: TableResult, with_picture: bool = False) -> str:
    """Return the report as Markdown.

    Args:
        result: Result of the table.
        with_picture: Whether to show `report.png`, which lies beside it.
    """
    rules = ["---" if heading in ("row", "network", "") else "---:" for heading in HEADINGS]
    rows = [list(HEADINGS), rules, *table_rows(result)]
    lines = [f"# {result.title}", "", f"{result.table.source}. {result.scale.in_words}", ""]
    lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]
    lines += ["", *(f"- {remark}" for remark in remarks(result))]
    if with_picture:
        lines += ["", f"![{result.title}](report.png)"]
    return "\n".join(lines) + "\n"


def as_html(result: TableResult, picture: Path | None) -> str:
    """Return the report as a page that needs no network.

    Args:
        result: Result of the table.
        picture: Picture to embed; None for a page without one.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.reproduce", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        result=result,
        headings=HEADINGS,
        rows=table_rows(result),
        remarks=remarks(result),
        picture=_embedded(picture),
        written=time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        version=package_version(),
        style=(files("orchestrator.report") / "report.css").read_text(encoding="utf-8"),
    )


def table_rows(result: TableResult) -> list[list[str]]:
    """Return the cells of the report, a list for each row in the order of `HEADINGS`."""
    decimals = result.measure.decimals
    rows = []
    for row in result.rows:
        published = NOT_PUBLISHED if row.published is None else f"{row.published:.{decimals}f}"
        gain = "" if row.published_difference is None else f"{row.published_difference:+.{decimals}f}"
        rows.append(
            [
                row.label,
                row.network,
                f"{row.params / 1e6:.3f} M",
                f"{row.macs / 1e6:.1f} M",
                published,
                _with_interval(row.measured, decimals, ""),
                gain,
                _with_interval(row.difference, decimals, "+") if row.difference else "",
                "control" if row.name == row.control else row.verdict,
            ]
        )
    return rows


def remarks(result: TableResult) -> list[str]:
    """Return the sentences that say how to read the numbers."""
    table, measure = result.table, result.measure
    unit = f" in {measure.unit}" if measure.unit else ""
    found = [f"Measured: {measure.words}{unit}, mean over seeds ± half of its {CONFIDENCE:.0%} interval (Student's t)."]
    if table.control:
        found.append(
            f"Differences are to {table.control}, paired by seed, with their own interval; one is resolved when its "
            "interval does not contain zero."
        )
    found.append(
        f"Published numbers: {table.published_in}." if table.published_in else "No number of this table was found."
    )
    if result.scale.name != "paper":
        found.append(
            "Published numbers belong to the networks, images and epochs of the paper, measured ones to the scale "
            "above: only the direction of a difference can be compared."
        )
    if table.notes:
        found.append(table.notes.strip())
    if result.left_out:
        found.append(f"Rows that were not run: {', '.join(result.left_out)}.")
    for row in result.rows:
        if row.layers:
            spans = ", ".join(f"{span:.2f}" for span in row.layers)
            found.append(f"Learned spans of {row.label}, first layer to last, in px: {spans}.")
        found += [f"{row.label}, seed {seed}: no value ({why})." for seed, why in row.without_value.items()]
    found.append(f"Sweeps: {', '.join(result.sweeps) or 'none has begun'}. {_versions(result)}".rstrip())
    return found


def _versions(result: TableResult) -> str:
    names = {"spatialsweep.version": "SpatialSweep", "git.revision": "revision", "version.torch": "torch"}
    parts = [f"{words} {result.facts[name]}" for name, words in names.items() if name in result.facts]
    return f"Trained with {', '.join(parts)}." if parts else ""


def _with_interval(found: Estimate | None, decimals: int, sign: str) -> str:
    if found is None:
        return "no value"
    mean = f"{found.mean:{sign}.{decimals}f}"
    return f"{mean} (1 seed)" if found.half_width is None else f"{mean} ± {found.half_width:.{decimals}f}"


def _picture(result: TableResult, path: Path) -> Path | None:
    """Draw the picture; return None, and remove an older one, without Matplotlib or without a value."""
    if importlib.util.find_spec("matplotlib") is None or not any(row.measured for row in result.rows):
        path.unlink(missing_ok=True)
        return None
    from orchestrator.reproduce.picture import draw

    with atomic_file(path) as partial:
        draw(result, partial)
    return path


def _embedded(picture: Path | None) -> str:
    return "" if picture is None else f"data:image/png;base64,{b64encode(picture.read_bytes()).decode()}"


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")
