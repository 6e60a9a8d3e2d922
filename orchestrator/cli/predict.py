"""Command `spatialsweep predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import (
    SOURCE_HELP,
    AllowCode,
    AsJson,
    Kind,
    Network,
    RunsDir,
    TrackingUri,
    Trial,
    location_option,
    path_option,
    require_network,
)
from orchestrator.cli.output import tell, wide_console

if TYPE_CHECKING:
    from orchestrator.inference.trained_network import TrainedNetwork

app = typer.Typer()

_Model = Annotated[
    str,
    typer.Argument(
        help=SOURCE_HELP,
        parser=location_option,
        metavar="MODEL",
    ),
]
_Images = Annotated[
    list[Path], typer.Argument(help="Image files, or folders of them.", parser=path_option, metavar="IMAGE...")
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "--to",
        help="Folder for pictures and results; default: named after MODEL.",
        parser=path_option,
        metavar="FOLDER",
    ),
]
_ClassNames = Annotated[
    str | None,
    typer.Option(
        help="With --model: dataset whose class names the weights have; default: numbers.",
        parser=location_option,
        metavar="URI",
    ),
]


@app.command()
def predict(
    run: _Model,
    images: _Images,
    *,
    output: _Output = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of earlier predictions there.")] = False,
    score: Annotated[float, typer.Option(help="Smallest score of a detected object.")] = 0.5,
    top: Annotated[int, typer.Option(help="Number of classes of an image, in classification.")] = 5,
    device: Annotated[str | None, typer.Option(help="Device; default: cuda where there is one, else cpu.")] = None,
    trial: Trial = None,
    model: Network = None,
    weights: Kind = None,
    dataset: _ClassNames = None,
    runs_dir: RunsDir = None,
    tracking_uri: TrackingUri = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Predict classes, boxes, masks or maps of image files, and draw them."""
    from orchestrator.cli.tables.predictions import PredictionTable
    from orchestrator.inference.images import recorded_settings
    from orchestrator.inference.predict.files import find_files
    from orchestrator.inference.predict.folder import PredictionFolder
    from orchestrator.inference.predict.prediction import check_choices, predicted_images, size_notes
    from orchestrator.inference.throughput import device_named
    from orchestrator.inference.trained_network import find_network
    from orchestrator.inference.weights.converted import WeightsOf

    require_network(model, weights)
    if dataset is not None and model is None:
        raise typer.BadParameter("names the classes of weights with --model", param_hint="--dataset")
    check_choices(score, top)
    files, passed_over = find_files(images)
    chosen = device_named(device)
    of = None if model is None else WeightsOf(model, weights, dataset)
    trained = find_network(run, trial=trial, runs_dir=runs_dir, tracking_uri=tracking_uri, allow_code=allow_code, of=of)
    folder = PredictionFolder.prepared(output or Path(f"{trained.label}-predicted"), files, force=force)
    settings = recorded_settings(trained.network, trained.dataset, trained.training)
    table = PredictionTable(f"{trained.name}, {trained.origin}")
    found = []
    results = predicted_images(trained.network, settings, files, score=score, top=top, device=chosen)
    for place, result in enumerate(results):
        found.append(folder.write(place, result, files.pixels(place)))
        table.add(result)
    notes = [*trained.notes, *passed_over, *size_notes(trained.network, settings, files)]
    text = folder.write_table({**_facts(trained), "score": score, "notes": notes}, found)
    if as_json:
        tell(text, nl=False)
        return
    table.print(wide_console())
    tell("\n".join([*(f"Note: {note}" for note in notes), f"Pictures and predictions.json: {folder.path}"]))


def _facts(trained: TrainedNetwork) -> dict[str, Any]:
    """Return the facts about the network."""
    facts = {"network": trained.name, "source": trained.label, "epoch": trained.epoch, "task": trained.task}
    return {**facts, "class_names": list(trained.network.class_names)}  # type: ignore[arg-type]  # of load_model
