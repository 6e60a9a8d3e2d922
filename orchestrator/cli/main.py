"""The command line: `spatialsweep`, and the same as `python -m orchestrator`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator.cli import data as data_cli
from orchestrator.cli import network as network_cli
from orchestrator.cli import report as report_cli
from orchestrator.cli import sweep as sweep_cli
from orchestrator.cli import tracking as tracking_cli
from orchestrator.cli.options import location_option, path_option
from orchestrator.cli.submitted_versions import version_report
from orchestrator.cli.sweep import RunsDir, tell, wide_console
from orchestrator.config.option_values import setting_values
from orchestrator.errors import (
    ConfigError,
    DataError,
    JournalError,
    RayLostError,
    ResumeError,
    SpatialSweepError,
    SweepNameError,
    UnsafePathError,
)
from orchestrator.masked_output import masked_output, masked_traceback
from orchestrator.quick_imports import quick_imports
from orchestrator.records.provenance import package_version
from orchestrator.runtime.loopback_proxies import keep_loopback_direct
from orchestrator.uris import remember_secrets, without_secrets

if TYPE_CHECKING:
    from orchestrator.config import SweepConfig


class _Commands(TyperGroup):
    """Shows no password of an argument that is refused."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            given = vars(error).get("message")
            if isinstance(given, str):
                vars(error)["message"] = without_secrets(given)
            raise


app = typer.Typer(
    name="spatialsweep",
    cls=_Commands,
    help="Sweeps over the networks that replace or repair self-attention.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(data_cli.app, name="data")
app.add_typer(sweep_cli.app)
app.add_typer(report_cli.app)
app.add_typer(network_cli.app)
app.add_typer(tracking_cli.app)

_INTERRUPTED = 130
_BAD_INPUT = 2

Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as search.lr.low=1e-3. Repeatable."),
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join ('auto' finds one here); default: a private instance.")
]
Name = Annotated[str | None, typer.Option(help="Of the sweep, instead of the file's; every sweep needs its own.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the sweep of this name.")]
AllowChanged = Annotated[
    bool, typer.Option("--allow-changed", help="Resume although space, data, code or objective have changed.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what Ray and its workers print, too.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done; starts nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="With --dry-run: write JSON for programs.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow server or database; default: one beneath the runs.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        tell(f"spatialsweep {package_version()}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Sweeps over the networks that replace or repair self-attention."""


@app.command()
def run(
    sweep: Annotated[
        Path, typer.Argument(help="A sweep file, such as sweeps/digits.yaml.", parser=path_option, metavar="SWEEP")
    ],
    *,
    assignments: Assignments = None,
    name: Name = None,
    tracking_uri: TrackingUri = None,
    runs_dir: RunsDir = None,
    address: Address = None,
    resume: Resume = False,
    allow_changed: AllowChanged = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a sweep to its end and show what it found."""
    for line in version_report():
        tell(line)
    with quick_imports():
        from orchestrator.config import load_sweep

        config = load_sweep(
            sweep,
            assignments or (),
            values=setting_values(name=name, tracking_uri=tracking_uri, runs_dir=runs_dir),
        )
    if dry_run:
        _dry_run(config, address, as_json=as_json)
    else:
        _run(config, address, resume=resume, allow_changed=allow_changed, verbose=verbose, sweep_file=sweep)


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="Of a sweep that was begun.")],
    *,
    assignments: Assignments = None,
    tracking_uri: TrackingUri = None,
    runs_dir: RunsDir = None,
    address: Address = None,
    allow_changed: AllowChanged = False,
    verbose: Verbose = False,
) -> None:
    """Go on with a sweep: what has ended is kept, what was interrupted continues from its checkpoint."""
    from orchestrator.files.runs_dir import resolve_runs_dir
    from orchestrator.records.folder.sweep_folder import existing_folder
    from orchestrator.records.folder.sweep_identity import require_original
    from orchestrator.sweep.compatibility import stored_config

    folder = existing_folder(resolve_runs_dir(runs_dir), name)
    require_original(folder)
    values = setting_values(tracking_uri=tracking_uri, runs_dir=folder.path.parent)
    config = stored_config(folder, assignments or (), values=values)
    _run(config, address, resume=True, allow_changed=allow_changed, verbose=verbose)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A published set-up; `spatialsweep recipes` lists them.")],
    *,
    assignments: Assignments = None,
    name: Name = None,
    tracking_uri: TrackingUri = None,
    runs_dir: RunsDir = None,
    address: Address = None,
    resume: Resume = False,
    allow_changed: AllowChanged = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a published set-up, as a sweep of one trial."""
    from orchestrator.config.recipe import recipe_sweep

    values = setting_values(name=name, tracking_uri=tracking_uri, runs_dir=runs_dir)
    config = recipe_sweep(recipe, assignments or (), values=values)
    if dry_run:
        _dry_run(config, address, as_json=as_json)
    else:
        _run(config, address, resume=resume, allow_changed=allow_changed, verbose=verbose)


@app.command()
def recipes(as_json: Annotated[bool, typer.Option("--json", help="Write JSON for programs.")] = False) -> None:
    """List the published set-ups."""
    from orchestrator.cli import recipe_table
    from orchestrator.config.recipe import load_recipe
    from orchestrator.config.recipes import list_recipes

    found = [load_recipe(name) for name in list_recipes()]
    if as_json:
        tell(recipe_table.as_json(found))
    else:
        recipe_table.print_recipes(found, wide_console())


@app.command(name="eval")
def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A best.pt, or the MLflow run of a trial.", parser=location_option, metavar="CHECKPOINT"),
    ],
    *,
    dataset: Annotated[
        str, typer.Option(help="A prepared dataset's URI, or digits.", parser=location_option, metavar="URI")
    ],
    split: Annotated[str, typer.Option(help="Which of its images.")] = "test",
    crop_pct: Annotated[
        float | None, typer.Option(help="Image files: share of the shorter side that is kept; default: as in its run.")
    ] = None,
    tracking_uri: TrackingUri = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON for programs.")] = False,
) -> None:
    """Measure a trained network on a split of a dataset."""
    import json

    from orchestrator.inference.evaluate import evaluate_checkpoint

    found = evaluate_checkpoint(checkpoint, dataset, split=split, crop_pct=crop_pct, tracking_uri=tracking_uri)
    if as_json:
        tell(json.dumps(vars(found)))
    else:
        counted = f"{found.images} images of '{split}'"
        tell(f"top-1 {found.top1:.2%}, top-5 {found.top5:.2%}, loss {found.loss:.4f} on {counted}")
        for note in found.notes:
            tell(f"Note: {note}")


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON for programs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the page docs/models.md.")] = False,
) -> None:
    """List all networks with their parameters and multiply-accumulates."""
    from models import list_models, model_facts
    from orchestrator.cli import model_table

    facts = [model_facts(name) for name in list_models()]
    if as_json:
        tell(model_table.as_json(facts))
    elif markdown:
        tell(model_table.as_markdown(facts), nl=False)
    else:
        model_table.print_models(facts, wide_console())


def _run(
    config: SweepConfig,
    address: str | None,
    *,
    resume: bool,
    allow_changed: bool,
    verbose: bool,
    sweep_file: Path | None = None,
) -> None:
    """Runs a sweep, shows what it found, and leaves with a code that says how it went."""
    with quick_imports():
        from orchestrator.files.runs_dir import inside_ray_job
        from orchestrator.progress.progress_view import print_outcome
        from orchestrator.records.ledger import TrialStatus
        from orchestrator.sweep.run import run_sweep

    console = wide_console()
    result = run_sweep(
        config,
        resume=resume,
        allow_changed=allow_changed,
        address=address,
        console=console,
        verbose=verbose,
        sweep_file=sweep_file,
    )
    there = f" --runs-dir {shlex.quote(str(result.folder.parent))}"
    print_outcome(result, console, f"{_own_command()} dashboard {result.name}{there}")
    elsewhere = "" if config.runs_dir is None else there
    tell(f"Report:    {_own_command()} report {result.name}{elsewhere}")
    if result.status is TrialStatus.INTERRUPTED:
        again = f"{_own_command()} resume {result.name}{elsewhere}"
        tell(f"Resume:    {'submit it again with --resume' if inside_ray_job() else again}")
        raise typer.Exit(_INTERRUPTED)
    if result.best is None:
        raise typer.Exit(1)


def _dry_run(config: SweepConfig, address: str | None, *, as_json: bool) -> None:
    """Says what a sweep would do; the code is 1 where it could not be done here."""
    import json

    with quick_imports():
        from orchestrator.cli.dry_run_table import print_dry_run
        from orchestrator.sweep.dry_run import dry_run

    found = dry_run(config, address=address, say=lambda text: typer.echo(text, err=True))
    if as_json:
        tell(json.dumps(found.as_dict(), indent=2))
    else:
        print_dry_run(found, wide_console())
    if found.plan is None:
        raise typer.Exit(1)


def _own_command() -> str:
    """How to call this command here: by name where the shell finds it, else by its path."""
    return "spatialsweep" if shutil.which("spatialsweep") else f"{sys.executable} -m orchestrator"


def main() -> None:
    """Entry point: errors meant for users become text and an exit code."""
    from cluster.cli import app as cluster_app  # the one look upwards: decision 0010

    # A thread that Tune has left behind on a lost cluster must not join whatever other one it finds.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    keep_loopback_direct(os.environ)
    app.add_typer(cluster_app)
    remember_secrets(sys.argv)
    with masked_output():
        _guarded()


def _guarded() -> None:
    """Runs the command; no password stands in what it prints of an error."""
    try:
        app()
    except KeyboardInterrupt:
        tell("spatialsweep: interrupted before a sweep began", err=True)
        sys.exit(_INTERRUPTED)
    except (ConfigError, JournalError, SweepNameError, ResumeError) as error:
        tell(str(error), err=True)
        sys.exit(_BAD_INPUT)
    except SpatialSweepError as error:
        said = [f"spatialsweep: {error}", *getattr(error, "__notes__", ())]
        tell(without_secrets("\n".join(said)), err=True)
        if isinstance(error, RayLostError):
            from orchestrator.runtime.raylet import exit_without_ray

            exit_without_ray(1)
        sys.exit(_BAD_INPUT if isinstance(error, DataError | UnsafePathError) else 1)
    except Exception as error:
        typer.echo(masked_traceback(error), err=True, nl=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
