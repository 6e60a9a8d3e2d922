"""Commands `spatialsweep data prepare` and `spatialsweep data inspect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.exit_codes import INTERRUPTED
from orchestrator.cli.options import AsJson, location_option, path_option
from orchestrator.errors import DataError

if TYPE_CHECKING:
    from rich.progress import Progress

    from orchestrator.data.manifest import Manifest
    from orchestrator.data.scenes.manifest import SceneManifest

app = typer.Typer(help="Prepare and inspect datasets.", no_args_is_help=True)

_MOST_CLASSES = 20

Target = Annotated[
    str,
    typer.Option(
        "--to",
        help="Folder to write: a path, s3://bucket/folder, gs:// or hdfs://.",
        parser=location_option,
        metavar="URI",
    ),
]


@app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            help="cifar10, cifar100, stl10, mnist, fashion-mnist, tinyimagenet, imagenet, digits, or folder; with "
            "boxes, masks or maps: coco, coco-json, coco-stuff, coco-stuffthings, ade20k, voc, voc-instances, "
            "voc-segmentation, or digits-scenes."
        ),
    ],
    *,
    to: Target,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR_OR_ARCHIVE", help="The dataset as distributed.", parser=path_option),
    ] = None,
    max_bad: Annotated[int, typer.Option(help="Number of unreadable images that may be left out.", min=0)] = 0,
    max_bad_annotations: Annotated[
        int, typer.Option(help="Number of faulty boxes and masks that may be left out.", min=0)
    ] = 0,
    images_per_shard: Annotated[
        int | None, typer.Option(help="Images per shard; default: 64 MiB of pixels, or 1024 image files.", min=1)
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to convert on, or 'local' for this machine's cores; default: this process."),
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(
            help="Folder to unpack archives in; with Ray, one that every node reaches.",
            parser=path_option,
            metavar="PATH",
        ),
    ] = None,
) -> None:
    """Convert a dataset to Arrow shards with a manifest. Repeat the command to resume after an interruption."""
    from orchestrator.data.conversion import prepare as conversion
    from orchestrator.data.storage import open_folder
    from orchestrator.runtime.conversion_tasks import ray_tasks

    tasks = ray_tasks(address) if address else nullcontext(conversion.run_here)
    try:
        with tasks as run, _progress_bar(name) as bar:
            task = bar.add_task(name, total=None)
            manifest = conversion.prepare(
                name,
                source,
                to,
                max_bad=max_bad,
                max_bad_annotations=max_bad_annotations,
                images_per_shard=images_per_shard,
                run=run,
                progress=lambda done, whole: bar.update(task, completed=done, total=whole),
                scratch=scratch,
                notice=lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True),
            )
    except KeyboardInterrupt:
        typer.echo("spatialsweep: interrupted; repeat the same command to resume", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"{open_folder(to).shown}: {_summary(manifest)}")


def _progress_bar(name: str) -> Progress:
    """Return a progress bar on standard error, hidden where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(escape(name)), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


@app.command()
def inspect(
    uri: Annotated[str, typer.Argument(help="URI of a prepared dataset.", parser=location_option, metavar="URI")],
    sheet: Annotated[
        Path, typer.Option(help="PNG file to write, with images of every split.", parser=path_option, metavar="PATH")
    ] = Path("contact_sheet.png"),
    as_json: AsJson = False,
) -> None:
    """Print the contents of a prepared dataset, and write a contact sheet."""
    from orchestrator.data.conversion.contact_sheet import contact_sheet
    from orchestrator.data.conversion.scene_sheet import scene_sheet
    from orchestrator.data.manifest_checks import contradictions
    from orchestrator.data.scenes.manifest import SceneManifest, read_any_manifest
    from orchestrator.data.storage import open_folder

    folder = open_folder(uri)
    manifest = read_any_manifest(folder)
    if isinstance(manifest, SceneManifest):
        picture = scene_sheet(folder, manifest)
    else:
        if faults := contradictions(manifest):
            raise DataError(f"{folder.shown}: {'; '.join(faults)}. Prepare the dataset again")
        picture = contact_sheet(folder, manifest)
    try:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        picture.save(sheet, "PNG")
    except OSError as error:
        raise DataError(f"{sheet}: the picture cannot be written ({error.strerror}); choose another --sheet") from None
    if as_json:
        typer.echo(manifest.to_json(), nl=False)
        return
    _print(manifest, Console())
    typer.echo(f"Contact sheet: {sheet}")


def _summary(manifest: Manifest | SceneManifest) -> str:
    from orchestrator.data.scenes.manifest import SceneManifest
    from orchestrator.data.shown_names import shown_name

    splits = ", ".join(f"{split.images} {name}" for name, split in manifest.splits.items())
    left_out = f"; {len(manifest.bad_images)} unreadable left out" if manifest.bad_images else ""
    classes = f"{len(manifest.class_names)} classes"
    if isinstance(manifest, SceneManifest):
        kinds = {"boxes": classes, "masks": None, "class_map": f"{len(manifest.map_class_names)} classes"}
        shown = (f"{kind} ({kinds[kind]})" if kinds[kind] else kind for kind in manifest.annotations)
        classes = f"annotations: {', '.join(shown)}"
        faulty = sum(group.count for group in manifest.bad_annotations)
        left_out += f"; {faulty} faulty annotations left out" if faulty else ""
    return f"{shown_name(manifest.name)}, {splits}, {classes}, {manifest.content_hash}{left_out}"


def _print(manifest: Manifest | SceneManifest, console: Console) -> None:
    from orchestrator.data.scenes.manifest import SceneManifest
    from orchestrator.data.shown_names import shown_name

    place = shown_name(manifest.source.get("place", "an unknown place"))
    if isinstance(manifest, SceneManifest):
        described = "annotated images of any size"
    else:
        shape = " x ".join(map(str, manifest.image_shape)) if manifest.image_shape else "image files of any size"
        described = f"{manifest.kind}: {shape}"
    console.print(f"{_summary(manifest)}\n{described}; from {place}", markup=False)
    for what, values in (("mean", manifest.mean), ("std", manifest.std)):
        console.print(f"{what} {', '.join(f'{value:.4f}' for value in values)}")
    if isinstance(manifest, SceneManifest):
        splits = manifest.splits.items()
        _print_counts(console, "objects of class", manifest.class_names, {name: each.objects for name, each in splits})
        _print_counts(
            console, "pixels of class", manifest.map_class_names, {name: each.pixels for name, each in splits}
        )
        for group in manifest.bad_annotations:
            console.print(f"left out: {group.count} annotations: {shown_name(group.kind)}", markup=False)
    else:
        labelled = {name: split.per_class for name, split in manifest.splits.items() if split.per_class}
        _print_counts(console, "class", manifest.class_names, labelled)
    for bad in manifest.bad_images:
        console.print(f"left out: {shown_name(bad.image)}: {shown_name(bad.reason)}", markup=False)


def _print_counts(
    console: Console, title: str, class_names: Sequence[str], counts: Mapping[str, Sequence[int]]
) -> None:
    """Print a table of classes with a column for each split; nothing without classes."""
    from orchestrator.data.shown_names import shown_name

    if not class_names:
        return
    table = Table(title, *counts)
    for number, name in enumerate(class_names[:_MOST_CLASSES]):
        table.add_row(escape(shown_name(name)), *(str(each[number]) for each in counts.values()))
    if len(class_names) > _MOST_CLASSES:
        table.add_row(f"... {len(class_names) - _MOST_CLASSES} more", *("" for _ in counts))
    console.print(table)
