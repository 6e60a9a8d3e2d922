"""Commands about published training set-ups: `spatialsweep recipes` and `train`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import (
    Address,
    AllowChanged,
    AsJson,
    Assignments,
    DryRun,
    DryRunAsJson,
    NewName,
    Resume,
    RunsDir,
    TrackingUri,
    Verbose,
)
from orchestrator.cli.output import tell, wide_console
from orchestrator.cli.run import run_to_end, show_dry_run
from orchestrator.config.option_values import setting_values

app = typer.Typer()


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """List the published set-ups."""
    from orchestrator.cli.tables import recipes as recipe_table
    from orchestrator.config.recipe import load_recipe
    from orchestrator.config.recipes import list_recipes

    found = [load_recipe(name) for name in list_recipes()]
    if as_json:
        tell(recipe_table.as_json(found))
    else:
        recipe_table.print_recipes(found, wide_console())


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a published set-up; `spatialsweep recipes` lists them.")],
    *,
    assignments: Assignments = None,
    name: NewName = None,
    tracking_uri: TrackingUri = None,
    runs_dir: RunsDir = None,
    address: Address = None,
    resume: Resume = False,
    allow_changed: AllowChanged = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    as_json: DryRunAsJson = False,
) -> None:
    """Run a published set-up, as a sweep of one trial."""
    from orchestrator.config.recipe import recipe_sweep

    values = setting_values(name=name, tracking_uri=tracking_uri, runs_dir=runs_dir)
    config = recipe_sweep(recipe, assignments or (), values=values)
    if dry_run:
        show_dry_run(config, address, as_json=as_json)
    else:
        run_to_end(config, address, resume=resume, allow_changed=allow_changed, verbose=verbose)
