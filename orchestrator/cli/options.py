"""Arguments and options that several commands share, and the parsers of paths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.files.home_paths import expanded_location, expanded_path


def path_option(text: str) -> Path:
    """Return the path an option names, `~` expanded."""
    try:
        return expanded_path(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def location_option(text: str) -> str:
    """Return the URI or the path an option names, `~` of a path expanded."""
    try:
        return expanded_location(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


AsJson = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]

StoredSweepName = Annotated[str, typer.Argument(help="Name of a sweep, or its folder.")]
SweepFile = Annotated[
    Path, typer.Argument(help="A sweep file, such as sweeps/digits.yaml.", parser=path_option, metavar="SWEEP")
]
RunsDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of all results; default: runs here, ~/spatialsweep/runs in a Ray job.",
        parser=path_option,
        metavar="PATH",
    ),
]

# Settings of a sweep that is run
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as search.lr.low=1e-3. Repeatable."),
]
NewName = Annotated[
    str | None, typer.Option("--name", help="Name of the sweep, instead of the file's; every sweep needs its own.")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join ('auto' finds one here); default: a private instance.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the sweep of this name.")]
AllowChanged = Annotated[
    bool, typer.Option("--allow-changed", help="Resume although space, data, code or objective have changed.")
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Run the code of a network that a record holds as FILE.py:FACTORY, though you never did."
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the output of Ray and its workers, too.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the plan; start nothing.")]
DryRunAsJson = Annotated[bool, typer.Option("--json", help="With --dry-run: write JSON for programs.")]

# Servers. A password in a recorded address is not stored, so that it has to be given again.
TrackingUri = Annotated[str | None, typer.Option(help="MLflow server or database; default: a file in the runs folder.")]
RecordedTrackingUri = Annotated[
    str | None, typer.Option("--tracking-uri", help="MLflow server of the sweep, with its password.")
]
RecordedStorageUri = Annotated[
    str | None, typer.Option("--storage-uri", help="Database of the study, with its password.")
]

# Trained networks and the images they run on
SOURCE_HELP = "MLflow run of a trial, a best.pt, a sweep (its best trial, or --trial), or weights with --model."
"""Help of the argument that names a trained network."""

Trial = Annotated[int | None, typer.Option(help="Number of a trial of that sweep; default: the best.", min=0)]
Network = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NETWORK", help="Network of a file of weights of another program, such as its authors'."
    ),
]
Kind = Annotated[
    str | None,
    typer.Option("--weights", metavar="ema|plain", help="Weights of such a file that holds both; default: ema."),
]
Split = Annotated[str, typer.Option(help="Split of the dataset.")]


def require_network(network: str | None, kind: str | None) -> None:
    """Check the options `--model` and `--weights` together.

    Raises:
        typer.BadParameter: `--weights` has another value than `ema` and `plain`, or `--model` is missing.
    """
    if kind not in (None, "ema", "plain"):
        raise typer.BadParameter(f"got '{kind}'; use ema or plain", param_hint="--weights")
    if kind is not None and network is None:
        raise typer.BadParameter("name the network of the file with --model", param_hint="--weights")
