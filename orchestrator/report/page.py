"""Page of the report: sections from the journal of the sweep, rendered as one HTML file."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import read_events
from orchestrator.records.provenance import package_version
from orchestrator.report import cost_plots, curves, facts, search_plots
from orchestrator.report.figures import Chart, plotly_script
from orchestrator.report.lane_times import lane_times
from orchestrator.report.study_view import StudyView, study_view
from orchestrator.report.trial_rows import MOST_PARAMS, TrialRows
from orchestrator.results.sample_pictures import SamplePictures
from orchestrator.results.stored_sweep import StoredSweep, SweepState

_START_BYTES = 1_000
_HERE = files("orchestrator.report")
_BROKE_OFF = (SweepState.DEAD, SweepState.FAILED, SweepState.INTERRUPTED)
_TEMPLATE, _STYLE, _SCRIPT = FILES = ("report.html.j2", "report.css", "report.js")


@dataclass(frozen=True)
class Section:
    """Section of the page.

    Args:
        name: Anchor, and kind of the content for the template.
        title: Heading.
        caption: Text under the heading.
        charts: Charts, in order.
        columns: Number of charts side by side on a wide page.
        content: Further content for the template.
    """

    name: str
    title: str
    caption: str = ""
    charts: Sequence[Chart] = ()
    columns: int = 1
    content: Any = None


def write_report(sweep: StoredSweep, path: Path, samples: SamplePictures | None = None) -> Path:
    """Write the report of a sweep, completely or not at all.

    Args:
        sweep: Stored sweep, in any state.
        path: Path of the file.
        samples: Pictures of predictions; None for none.

    Returns:
        Path of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(render(sweep, samples), encoding="utf-8")
    return path


def is_report(path: Path) -> bool:
    """Return whether a file is a report, which another report may replace."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES).decode(errors="replace").lower()
    return start.lstrip().startswith("<!doctype html>") and "spatialsweep" in start


def template(package: str, name: str) -> jinja2.Template:
    """Return the template of a page; values are escaped, and an unknown one is an error.

    Args:
        package: Package that has the file.
        name: Name of the file.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render(sweep: StoredSweep, samples: SamplePictures | None = None) -> str:
    """Render the page as HTML.

    Args:
        sweep: Stored sweep, in any state.
        samples: Pictures of predictions; None for none.
    """
    assert sweep.result.objectives is not None
    view = study_view(sweep.result.records, sweep.searched, sweep.result.objectives)
    rows = TrialRows(sweep, view.importance)
    sections = [section for section in _sections(sweep, view, rows, samples) if section.charts or section.content]
    return template("orchestrator.report", _TEMPLATE).render(
        name=sweep.name,
        state=facts.state(sweep),
        broke_off=sweep.state in _BROKE_OFF,
        question=facts.question(sweep),
        tiles=facts.tiles(sweep),
        sections=sections,
        metrics=sweep.result.objectives.metrics,
        most_params=MOST_PARAMS,
        cost_unit=rows.unit.name,
        has_repeats=rows.has_repeats,
        written=time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        version=package_version(),
        style=(_HERE / _STYLE).read_text(encoding="utf-8"),
        script=(_HERE / _SCRIPT).read_text(encoding="utf-8"),
        plotly=plotly_script() if any(section.charts for section in sections) else "",
    )


def _sections(sweep: StoredSweep, view: StudyView, rows: TrialRows, samples: SamplePictures | None) -> list[Section]:
    """Build all sections; the page leaves out those without content."""
    return [*_found(sweep, rows), _predicted(samples), *_learnt(sweep, view, rows), *_spent(sweep), *_described(sweep)]


def _found(sweep: StoredSweep, rows: TrialRows) -> list[Section]:
    result, objectives = sweep.result, sweep.result.objectives
    assert objectives is not None
    best, hidden = result.best, curves.left_out(result.records)
    ranked = sum(record.best(result.metric, result.mode) is not None for record in result.records)
    shown = rows.leaderboard()
    if rows.has_repeats:
        ranked = len(result.configurations())
    seeds = (
        " A row is a configuration: the value of its last seed, and the mean over its seeds with Student's interval. "
        "The first seed chose which configurations got more; a dagger marks those without all seeds."
        if rows.has_repeats
        else ""
    )
    kind = "configurations" if rows.has_repeats else "trials"
    some = f"The best {len(shown)} of {ranked} {kind} that" if ranked > len(shown) else f"All {kind} that"
    fewer = f" {curves.MOST_CURVES} curves are drawn, the best among them; {hidden} are left out." if hidden else ""
    return [
        Section("published", "Beside the published number", content=_published(sweep)),
        Section("leaderboard", "Leaderboard", f"{some} finished an epoch, best first.{seeds}", content=shown),
        Section(
            "curves",
            "Learning curves",
            "A line per trial. A ring marks where the trial scheduler stopped it, a cross where it failed or diverged."
            + fewer,
            curves.curve_charts(result.records, objectives, best.number if best else None),
            columns=2,
        ),
    ]


def _predicted(samples: SamplePictures | None) -> Section:
    """Build the section of predictions, whose pictures are part of the page."""
    if samples is None:
        return Section("predictions", "Predictions")
    shown = [f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in samples.pictures]
    caption = f"Trial {samples.trial} on test images, annotated and predicted." if shown else "There are no pictures."
    return Section("predictions", "Predictions", caption, content={"pictures": shown, "note": samples.note})


def _learnt(sweep: StoredSweep, view: StudyView, rows: TrialRows) -> list[Section]:
    objectives = sweep.result.objectives
    assert objectives is not None
    metrics = objectives.metrics
    complete, names = len(view.complete), len(view.varied)
    trials = f"{complete} trials trained to the end"
    axes = f" The {search_plots.MOST_AXES} names that decide most of {names}." if names > search_plots.MOST_AXES else ""
    lines = f" {search_plots.MOST_LINES} lines are drawn." if complete > search_plots.MOST_LINES else ""
    shown = sum(share >= search_plots.LEAST_SHARE for share in view.importance.values())
    hidden = len(view.importance) - min(shown, search_plots.MOST_BARS)
    most = f" {hidden} names that decide less are left out." if hidden else ""
    behind = "; the others lie behind the dotted line" if len(metrics) == 2 else ", two objectives at a time"
    beyond = " Dotted ones lie beyond a constraint." if objectives.constraints else ""
    strangers = f" {view.strangers} trials of an earlier search space are left out." if view.strangers else ""
    colours = "on the front are in the accent" if len(metrics) > 1 else f"of a better {metrics[0]} are stronger"
    return [
        Section(
            "front",
            "Pareto front",
            f"Trials that no other beats in every objective{behind}.",
            search_plots.pareto_charts(view, metrics),
            columns=2,
            content=rows.front(),
        ),
        Section(
            "importance",
            "What decides",
            f"How differently each name is spread among the best tenth of the {trials} and among all (PED-ANOVA). "
            f"With few trials this is a hint, no more.{most}{strangers}",
            search_plots.importance_chart(view),
        ),
        Section(
            "parallel",
            "Parallel coordinates",
            f"A line per trial, {trials}; lines {colours}.{beyond}{axes}{lines}",
            search_plots.parallel_chart(view, metrics),
        ),
        Section(
            "slices",
            "One setting at a time",
            f"{metrics[0]} of each trial against one name. A slope or a hump says where to look next.",
            search_plots.slice_charts(view, metrics),
            columns=3,
        ),
        Section(
            "contours",
            "Two settings at a time",
            "Between the trials, which are the dots, the surface is only interpolated.",
            search_plots.contour_charts(view, metrics),
            columns=2,
        ),
    ]


def _spent(sweep: StoredSweep) -> list[Section]:
    objectives = sweep.result.objectives
    assert objectives is not None
    events = [event for event, _ in read_events(SweepFolder(sweep.folder).journal)]
    times = lane_times(events)
    inferred = "" if times.lanes_known else " Which lane trained which trial was not recorded, and is inferred."
    sessions = " A dotted line marks where the sweep was resumed." if times.session_starts else ""
    return [
        Section(
            "budget",
            "Budget and cost",
            "Used part of each limit, best value over time, and device time by outcome of the trials.",
            [*cost_plots.progress_chart(events, objectives), *cost_plots.cost_chart(sweep.result.records)],
            content=facts.meters(sweep),
        ),
        Section(
            "lanes",
            "Lanes over time",
            f"Lanes held a trial for {times.busy_share:.0%} of the time; gaps are starting up and waiting. Numbers are "
            f"trials.{sessions}{inferred}",
            cost_plots.lane_chart(times, sweep.result.records),
        ),
    ]


def _described(sweep: StoredSweep) -> list[Section]:
    failures, rejected = facts.failures(sweep), dict(sweep.rejected)
    bad = {"failures": failures, "rejected": sorted(rejected.items(), key=lambda item: -item[1])}
    return [
        Section(
            "failures",
            "Failures and rejections",
            "Trials that failed, diverged or were interrupted, by reason; configurations rejected before training.",
            content=bad if failures or rejected else None,
        ),
        Section(
            "space", "Search space", "Searched settings and their conditions.", content=facts.space_rows(sweep.config)
        ),
        Section(
            "settings",
            "Settings and versions",
            "Everything needed to repeat this sweep.",
            content=facts.settings(sweep),
        ),
    ]


def _published(sweep: StoredSweep) -> Any:
    recipe, best = facts.recipe_of(sweep), sweep.result.best
    if recipe is None:
        return None
    ours = {} if best is None else best.test
    primary = sweep.result.task.primary.name
    labels = {metric.name: metric.label for metric in sweep.result.task.tested}
    others = recipe.published_on.items()
    return {
        "recipe": recipe,
        "pairs": [
            {
                "accuracy": labels.get(name, name),
                "published": value,
                "ours": ours.get(name),
                "on": [f"{numbers[name]:.2f} % on {images}" for images, numbers in others if name in numbers],
            }
            for name, value in recipe.published.items()
            if name == primary or value is not None
        ],
        "wanted_epochs": facts.epochs_in_words(recipe.settings["training"]),
        "best": best,
        "remark": facts.remark_on_test(sweep.config),
    }
