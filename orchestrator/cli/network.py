"""Commands about networks: `spatialsweep models`, `eval`, `export` and `explain`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import (
    SOURCE_HELP,
    AllowCode,
    AsJson,
    Kind,
    Network,
    RunsDir,
    Split,
    TrackingUri,
    Trial,
    location_option,
    path_option,
    require_network,
)
from orchestrator.cli.output import tell, tell_json, wide_console
from orchestrator.errors import ConfigError, Problem, did_you_mean

if TYPE_CHECKING:
    from orchestrator.inference.explain import Explanation
    from orchestrator.inference.export import Exported
    from orchestrator.inference.trained_network import TrainedNetwork
    from orchestrator.inference.weights.converted import WeightsOf

app = typer.Typer()


def _batch_sizes(text: str) -> str:
    """Check a list of batch sizes.

    Raises:
        BadParameter: It holds something else than whole numbers from 1.
    """
    if not all(part.strip().isdecimal() and int(part) > 0 for part in text.split(",")):
        raise typer.BadParameter(f"got {text!r}; batch sizes are whole numbers from 1. Use, for example, 1,8,32")
    return text


Run = Annotated[
    str,
    typer.Argument(
        help=SOURCE_HELP,
        parser=location_option,
        metavar="RUN",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        help="URI of a prepared dataset, or digits; default: the one it was trained on.",
        parser=location_option,
        metavar="URI",
    ),
]
Regions = Annotated[
    Path | None,
    typer.Option(help="Object regions: a .csv of boxes or a .npz of masks.", parser=path_option, metavar="PATH"),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(help="ViT of timm to compare with, such as deit_base_patch16_224. Repeatable.", metavar="NAME"),
]
CompareCheckpoint = Annotated[
    list[str] | None,
    typer.Option(
        help="Weights of each ViT in turn: a file, 'pretrained' (timm's) or 'untrained', the default. Repeatable.",
        metavar="PATH",
    ),
]
Query = Annotated[
    list[str] | None,
    typer.Option(
        help="Point whose attention is drawn, as shares of width and height: 0.5,0.5. Repeatable.", metavar="X,Y"
    ),
]


@app.command(name="eval")
def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A best.pt, the MLflow run of a trial, or weights with --model.",
            parser=location_option,
            metavar="CHECKPOINT",
        ),
    ],
    *,
    dataset: Annotated[
        str, typer.Option(help="URI of a prepared dataset, or digits.", parser=location_option, metavar="URI")
    ],
    model: Network = None,
    weights: Kind = None,
    split: Split = "test",
    crop_pct: Annotated[
        float | None,
        typer.Option(help="Share of an image file's shorter side to keep; default: as in its run."),
    ] = None,
    tta: Annotated[
        str | None,
        typer.Option(
            help="Test-time augmentation: hflip averages over mirror images, none does not; default: as in its run."
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure a trained network on a split of a dataset; of a classifier accuracy and loss."""
    from orchestrator.config.tasks.registry import task_facts
    from orchestrator.inference.evaluate import evaluate_checkpoint

    require_network(model, weights)
    found = evaluate_checkpoint(
        checkpoint,
        dataset,
        split=split,
        crop_pct=crop_pct,
        tta=tta,
        tracking_uri=tracking_uri,
        model=model,
        weights=weights,
        allow_code=allow_code,
    )
    if as_json:
        tell(json.dumps(found.as_dict()))
    else:
        measured = [metric for metric in task_facts(found.task).metrics if metric.name in found.metrics]
        shown = [f"{metric.label} {metric.text(found.metrics[metric.name])}" for metric in measured]
        tell(f"{', '.join(shown)} on {found.images} images of '{split}'")
        for note in found.notes:
            tell(f"Note: {note}")


@app.command()
def models(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the page docs/networks/models.md.")] = False,
    timm: Annotated[
        str | None,
        typer.Option("--timm", metavar="PATTERN", help="List timm's networks instead, such as 'vit_tiny*' or '*'."),
    ] = None,
) -> None:
    """List all networks with their parameters and multiply-accumulates.

    A sweep takes any network of timm as well, and FILE.py:FACTORY of your own.
    """
    from orchestrator.cli.tables import models as model_table
    from orchestrator.cli.tables.stored_models import facts_of_all

    if timm is not None:
        from models import list_timm_models

        names = list_timm_models(timm)
        tell(json.dumps(names, indent=2) if as_json else "\n".join(names) or f"timm has no network {timm}")
        return
    facts = facts_of_all()
    if as_json:
        tell(model_table.as_json(facts))
    elif markdown:
        tell(model_table.as_markdown(facts), nl=False)
    else:
        model_table.print_models(facts, wide_console())


@app.command()
def throughput(
    networks: Annotated[
        list[str],
        typer.Argument(
            help="Networks, also of timm or FILE.py:FACTORY; options in braces, as in 'sb_resnet50{pooled_size: 6}'.",
            metavar="NETWORK...",
        ),
    ],
    *,
    batch: Annotated[
        str, typer.Option(help="Batch sizes, separated by commas.", callback=_batch_sizes, metavar="N,N,...")
    ] = "1,8,32",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of all networks. Repeatable.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels; default: that of the networks.", min=1)
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Measure training steps too.")] = False,
    device: Annotated[str | None, typer.Option(help="Device; default: cuda where there is one, else cpu.")] = None,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 or float16 by autocast.")] = "float32",
    clock: Annotated[
        str, typer.Option(help="wall, or cpu: processor seconds, which hold on a machine with other load.")
    ] = "wall",
    threads: Annotated[int | None, typer.Option(help="Threads of torch on a CPU; default: torch's.", min=1)] = None,
    rounds: Annotated[int, typer.Option(help="Most timed calls of each network at a batch size.", min=1)] = 11,
    seconds: Annotated[
        float, typer.Option(help="Seconds after which a batch size gets no further round, once there are three.", min=0)
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Compare networks by images per second and peak memory; they take turns on the same images."""
    import torch

    from orchestrator.cli.tables import throughput as throughput_table
    from orchestrator.inference.throughput import compared_networks, device_named, measure_throughput, side_for

    compared = compared_networks(networks, assignments or ())
    if threads is not None:
        torch.set_num_threads(threads)
    report = measure_throughput(
        compared,
        list(map(int, batch.split(","))),
        image_size=side_for(compared, image_size),
        device=device_named(device),
        precision=precision,
        clock=clock,
        training=train,
        rounds=rounds,
        most_s=seconds,
    )
    if as_json:
        tell(throughput_table.as_json(report))
    else:
        throughput_table.print_throughput(report, wide_console())


@app.command()
def export(
    run: Run,
    *,
    to: Annotated[str, typer.Option("--format", help="Format: onnx, or torch-export.")],
    output: Annotated[
        Path | None,
        typer.Option(help="File to write; default: named after the run.", parser=path_option, metavar="PATH"),
    ] = None,
    trial: Trial = None,
    model: Network = None,
    weights: Kind = None,
    dataset: Dataset = None,
    split: Split = "test",
    images: Annotated[int, typer.Option(help="Number of images that outputs are compared on.", min=2)] = 256,
    runs_dir: RunsDir = None,
    tracking_uri: TrackingUri = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Export a trained network to a file that runs without SpatialSweep; check its outputs and freeze learned spans."""
    from orchestrator.inference.export import export_network, require_target
    from orchestrator.inference.export.formats import FORMATS, format_named
    from orchestrator.inference.images import sample_images
    from orchestrator.inference.trained_network import find_network

    if to not in FORMATS:
        raise ConfigError([Problem("--format", f"got '{to}'. {did_you_mean(to, list(FORMATS))}")])
    form = format_named(to)
    if output is not None:
        require_target(output, form)
    of = _weights_of(model, weights, dataset)
    trained = find_network(run, trial=trial, runs_dir=runs_dir, tracking_uri=tracking_uri, allow_code=allow_code, of=of)
    seen = sample_images(trained, dataset, split=split, count=images)
    path = output or Path(f"{trained.label}{form.suffix}")
    exported = export_network(trained, seen, format_name=to, path=path)
    if as_json:
        tell_json({**dataclasses.asdict(exported), "path": str(exported.path)})
    else:
        for line in _export_lines(trained, exported):
            tell(line)


@app.command()
def explain(
    run: Run,
    *,
    images: Annotated[int, typer.Option(help="Number of images that statistics are computed over.", min=2)] = 256,
    show: Annotated[int, typer.Option(help="Number of images that pictures show.", min=1, max=16)] = 4,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures; default: named after the run.", parser=path_option, metavar="PATH"),
    ] = None,
    trial: Trial = None,
    model: Network = None,
    weights: Kind = None,
    dataset: Dataset = None,
    split: Split = "test",
    regions: Regions = None,
    layer: Annotated[str | None, typer.Option(help="Layer whose map Grad-CAM reads; default: a late one.")] = None,
    compare: Compare = None,
    compare_checkpoint: CompareCheckpoint = None,
    query: Query = None,
    to_mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Log to the trial's MLflow run.")] = True,
    runs_dir: RunsDir = None,
    tracking_uri: TrackingUri = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Visualise a trained network: spans, masks, similarities, gates, biases, Grad-CAM."""
    from orchestrator.inference.explain import explain_network
    from orchestrator.inference.explain.compared import comparisons
    from orchestrator.inference.explain.query_maps import query_points
    from orchestrator.inference.explain.regions import regions_for
    from orchestrator.inference.images import sample_images
    from orchestrator.inference.trained_network import find_network

    beside, queries = comparisons(compare or (), compare_checkpoint or ()), query_points(query or ())
    of = _weights_of(model, weights, dataset)
    trained = find_network(run, trial=trial, runs_dir=runs_dir, tracking_uri=tracking_uri, allow_code=allow_code, of=of)
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
        compare=beside,
        queries=queries,
    )
    logged = _log(trained, found) if to_mlflow else "not logged to MLflow"
    if as_json:
        tell((folder / "explain.json").read_text(), nl=False)
        return
    heading = f"{trained.name}, {trained.origin}, {len(seen.positions)} images of '{split}'"
    pictures = [f"  {path}" for path in found.pictures]
    notes = [f"Note: {note}" for note in trained.notes]
    tell("\n".join([heading, *notes, *pictures, f"  {folder / 'explain.json'}: the numbers", logged]))


def _weights_of(model: str | None, kind: str | None, dataset: str | None) -> WeightsOf | None:
    """Return the network of weights of another program; None for our own checkpoints."""
    from orchestrator.inference.weights.converted import WeightsOf

    require_network(model, kind)
    return None if model is None else WeightsOf(model, kind, dataset)


def _log(trained: TrainedNetwork, found: Explanation) -> str:
    """Log pictures and numbers to the MLflow run of the trial; return a line that describes the result."""
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


def _export_lines(trained: TrainedNetwork, exported: Exported) -> list[str]:
    """Return the description of an exported file, for a terminal."""
    batch = "any number of images" if exported.batch is None else f"{exported.batch} images"
    equal = f"outputs equal to {exported.difference:.1e} of the largest logit on {exported.images} images"
    if exported.input_px is not None:
        batch = "one image of {} x {} px".format(*exported.input_px)
        equal = (
            f"{exported.detections} detections on {exported.images} images compared, scores and edges equal to "
            f"{exported.difference:.1e}"
        )
    lines = [
        f"{exported.path}: {trained.name}, {trained.origin}; {batch} at once",
        *(f"Note: {note}" for note in trained.notes),
        equal,
    ]
    for layer, windows in enumerate(exported.windows):
        groups = ", ".join(
            f"{side}x{side} px for {heads} {'head' if heads == 1 else 'heads'}" for side, heads in windows
        )
        lines.append(f"layer {layer}: {groups}")
    times = exported.times_ms
    labels = {"network": "in PyTorch", "uncut": "exported uncut", "file": "exported"}
    speeds = ", ".join(f"{labels[name]} {taken:.2f} ms" for name, taken in times.items())
    lines.append(f"{exported.timed_batch} images: {speeds} (medians on one thread, taken in turns)")
    if exported.uncut_bytes is not None:
        share = exported.bytes / exported.uncut_bytes - 1
        size = f"{abs(share):.1%} {'larger' if share > 0 else 'smaller'}"
        lines.append(f"against the uncut file: {size}, {times['uncut'] / times['file']:.2f} times as fast")
    lines.append(f"{exported.bytes / 2**20:.2f} MiB; the checkpoint has {trained.checkpoint_bytes / 2**20:.2f} MiB")
    return [*lines, exported.note] if exported.note else lines
