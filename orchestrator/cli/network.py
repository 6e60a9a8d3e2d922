"""The commands about one trained network: `spatialsweep export` and `spatialsweep explain`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import location_option, path_option
from orchestrator.cli.sweep import RunsDir, tell

if TYPE_CHECKING:
    from orchestrator.inference.explain import Explanation
    from orchestrator.inference.export import Exported
    from orchestrator.inference.trained_network import TrainedNetwork

app = typer.Typer()

Run = Annotated[
    str,
    typer.Argument(
        help="MLflow run of a trial, a best.pt, or a sweep (its best trial, or --trial).",
        parser=location_option,
        metavar="RUN",
    ),
]
Trial = Annotated[int | None, typer.Option(help="Number of a trial of that sweep.", min=0)]
Dataset = Annotated[
    str | None,
    typer.Option(
        help="A prepared dataset's URI, or digits; default: what it was trained on.",
        parser=location_option,
        metavar="URI",
    ),
]
Split = Annotated[str, typer.Option(help="Which of its images.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow server or database; default: that of the sweep.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]


@app.command()
def export(
    run: Run,
    *,
    to: Annotated[str, typer.Option("--format", help="onnx, or torch-export.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The file; default: named after the run, here.", parser=path_option, metavar="PATH"),
    ] = None,
    trial: Trial = None,
    dataset: Dataset = None,
    split: Split = "test",
    images: Annotated[int, typer.Option(help="Images that outputs are compared on.", min=2)] = 256,
    runs_dir: RunsDir = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained network as a file that runs without SpatialSweep, outputs checked; learned spans are frozen."""
    from orchestrator.inference.export import export_network
    from orchestrator.inference.export.formats import format_named
    from orchestrator.inference.images import sample_images
    from orchestrator.inference.trained_network import find_network

    form = format_named(to)
    trained = find_network(run, trial=trial, runs_dir=runs_dir, tracking_uri=tracking_uri)
    seen = sample_images(trained, dataset, split=split, count=images)
    path = output or Path(f"{trained.label}{form.suffix}")
    exported = export_network(trained, seen, format_name=to, path=path)
    if as_json:
        tell(json.dumps({**dataclasses.asdict(exported), "path": str(exported.path)}, indent=2))
    else:
        for line in _told(trained, exported):
            tell(line)


@app.command()
def explain(
    run: Run,
    *,
    images: Annotated[int, typer.Option(help="Images that numbers are taken over.", min=2)] = 256,
    show: Annotated[int, typer.Option(help="Images that pictures show.", min=1, max=16)] = 4,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pictures; default: named after the run, here.", parser=path_option, metavar="PATH"
        ),
    ] = None,
    trial: Trial = None,
    dataset: Dataset = None,
    split: Split = "test",
    regions: Annotated[
        Path | None,
        typer.Option(help="Where objects are: a .csv of boxes or a .npz of masks.", parser=path_option, metavar="PATH"),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer whose map Grad-CAM reads; default: a late one.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="A ViT of timm, such as vit_tiny_patch16_224, held beside.")
    ] = None,
    compare_checkpoint: Annotated[
        Path | None, typer.Option(help="Its weights; default: untrained.", parser=path_option, metavar="PATH")
    ] = None,
    to_mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Log to the trial's MLflow run.")] = True,
    runs_dir: RunsDir = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Draw what a trained network has learned: spans, masks, similarities, gates, biases, Grad-CAM."""
    from orchestrator.inference.explain import explain_network
    from orchestrator.inference.explain.regions import regions_for
    from orchestrator.inference.images import sample_images
    from orchestrator.inference.trained_network import find_network

    trained = find_network(run, trial=trial, runs_dir=runs_dir, tracking_uri=tracking_uri)
    seen = sample_images(trained, dataset, split=split, count=images)
    known, regions_from = regions_for(seen, regions)
    folder = output or Path(f"{trained.label}-explained")
    found = explain_network(
        trained,
        seen,
        folder,
        regions=known,
        regions_from=regions_from,
        layer=layer,
        drawn=show,
        compare=compare,
        compare_checkpoint=compare_checkpoint,
    )
    logged = _log(trained, found) if to_mlflow else "not logged to MLflow"
    if as_json:
        tell((folder / "explain.json").read_text(), nl=False)
        return
    tell(f"{trained.name}, epoch {trained.epoch} of {trained.label}, {len(seen.positions)} images of '{split}'")
    for path in found.pictures:
        tell(f"  {path}")
    tell(f"  {folder / 'explain.json'}: the numbers")
    tell(logged)


def _log(trained: TrainedNetwork, found: Explanation) -> str:
    """Logs what was written to the run of the trial, where it has one; says what became of it."""
    if trained.run_id is None:
        return "not logged to MLflow: the checkpoint names no run"
    if trained.tracking_uri is None:
        return "not logged to MLflow: you have not named its server yourself. If it is yours, add --tracking-uri"
    import shutil
    import tempfile

    from orchestrator.tracking.mlflow_runs import log_folder

    with tempfile.TemporaryDirectory() as folder:
        for path in (*found.pictures, found.folder / "explain.json"):
            shutil.copy(path, folder)
        log_folder(trained.run_id, Path(folder), "explain", trained.tracking_uri)
    return f"logged to MLflow run {trained.run_id} under explain/"


def _told(trained: TrainedNetwork, exported: Exported) -> list[str]:
    """What was written, for a reader."""
    batch = "any number of images" if exported.batch is None else f"{exported.batch} images"
    lines = [
        f"{exported.path}: {trained.name}, epoch {trained.epoch} of {trained.label}; {batch} at once",
        f"outputs equal to {exported.difference:.1e} of the largest logit on {exported.images} images",
    ]
    for layer, windows in enumerate(exported.windows):
        groups = ", ".join(
            f"{side}x{side} px for {heads} {'head' if heads == 1 else 'heads'}" for side, heads in windows
        )
        lines.append(f"layer {layer}: {groups}")
    times = exported.times_ms
    told = {"network": "in PyTorch", "uncut": "exported uncut", "file": "exported"}
    speeds = ", ".join(f"{told[name]} {taken:.2f} ms" for name, taken in times.items())
    lines.append(f"{exported.timed_batch} images: {speeds} (medians on one thread, taken in turns)")
    if exported.uncut_bytes is not None:
        share = exported.bytes / exported.uncut_bytes - 1
        size = f"{abs(share):.1%} {'larger' if share > 0 else 'smaller'}"
        lines.append(f"against the uncut file: {size}, {times['uncut'] / times['file']:.2f} times as fast")
    lines.append(f"{exported.bytes / 2**20:.2f} MiB; the checkpoint has {trained.checkpoint_bytes / 2**20:.2f} MiB")
    return [*lines, exported.note] if exported.note else lines
