"""Fuzz test of configurations: checks that randomly changed sweep files are accepted or refused with a message.

    python tools/fuzz/configurations.py --count 20000 --seconds 3000

Seed and number determine a configuration, so that `--only NUMBER` repeats it. The summary is JSON; the exit code is 1
if a configuration ended with a traceback or took longer than 5 s.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from odd_values import KEYS, NASTY, PIECES

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 5.0
_FAILURES_SHOWN = 20

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "utf-16-le")


class _HangError(BaseException):
    """Timeout of one configuration; a `BaseException`, so that no handler of the product catches it."""


@dataclass
class Findings:
    """Outcomes of all configurations; `delayed` ones took long only once, on a busy machine."""

    configurations: int = 0
    accepted: int = 0
    refused: int = 0
    tracebacks: int = 0
    hangs: int = 0
    delayed: int = 0
    slowest_s: float = 0.0
    slowest: int = -1
    seconds: float = 0.0
    failures: list[dict[str, Any]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Return the findings as plain data for JSON."""
        return {**vars(self), "failures": self.failures[:_FAILURES_SHOWN], "kinds": dict(self.kinds)}


def photographs(folder: Path) -> str:
    """Prepare a dataset of a few image files and return its folder."""
    import numpy
    from PIL import Image

    from orchestrator.data.conversion.prepare import prepare

    chance = numpy.random.default_rng(0)
    for place in ("train/red", "train/blue", "test/red", "test/blue"):
        (folder / "from" / place).mkdir(parents=True)
        for number in range(10):
            pixels = chance.integers(0, 256, (20 + number, 24, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / "from" / place / f"{number}.png")
    prepare("folder", folder / "from", str(folder / "photographs"))
    return str(folder / "photographs")


def seeds(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return text and settings of valid sweeps: those of the repository, recipes on available images, and others.

    Args:
        folder: Folder for temporary files.
    """
    from orchestrator.config.settings_text import as_yaml, parse_yaml

    others = parse_yaml(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    found, uri = [(as_yaml(settings), settings) for settings in others], photographs(folder)
    for path in sorted([*ROOT.glob("sweeps/*.yaml"), *ROOT.glob("orchestrator/config/recipes/*/*.yaml")]):
        text = path.read_text(encoding="utf-8")
        settings = parse_yaml(text)
        if isinstance(settings.pop("recipe", None), Mapping):
            settings["dataset"] = {"uri": uri} if "auto_augment" in settings["training"] else {"name": "digits"}
            text = as_yaml(settings)
        found.append((text, settings))
    return found


class Mutator:
    """Generator of configurations from valid sweep files.

    Args:
        chance: Generator of random numbers.
        files: Text and settings of valid sweep files.
    """

    def __init__(self, chance: random.Random, files: list[tuple[str, dict[str, Any]]]) -> None:
        self._chance = chance
        self._files = files

    def settings(self) -> dict[Any, Any]:
        """Return the settings of a file with some changed."""
        settings = copy.deepcopy(self._chance.choice(self._files)[1])
        for _ in range(self._chance.choice((0, 1, 1, 1, 2, 3, 5))):
            self._change(settings)
        return settings

    def text(self) -> bytes:
        """Return the bytes of a file with some changed."""
        text = self._chance.choice(self._files)[0]
        for _ in range(self._chance.choice((1, 1, 2, 4))):
            text = self._rewritten(text)
        encoding = self._chance.choice(ENCODINGS) if self._chance.random() < 0.05 else "utf-8"
        content = text.encode(encoding, "replace")
        if self._chance.random() < 0.1:
            place = self._chance.randrange(len(content) + 1)
            content = content[:place] + bytes([self._chance.randrange(256)]) + content[place + 1 :]
        return content

    def assignments(self) -> list[str]:
        """Return values of `--set`, often none."""
        count = self._chance.choice((0, 0, 0, 1, 2))
        return [f"{self._path()}={self._chance.choice(PIECES + tuple(map(str, NASTY)))}" for _ in range(count)]

    def values(self) -> dict[str, Any]:
        """Return values of other options, often none."""
        texts = ("exp #2", "null", "2026", "~/x", "what?", "a'b", "[/]", "", "\x1b", "\udcff", "x" * 300)
        if self._chance.random() < 0.8:
            return {}
        return {self._chance.choice(("name", "runs_dir", "tracking.uri")): self._chance.choice(texts)}

    def _path(self) -> str:
        return ".".join(self._chance.choice(KEYS) for _ in range(self._chance.choice((1, 1, 2, 3))))

    def _nasty(self) -> Any:
        if self._chance.random() < 0.02:
            return self._large()
        return copy.deepcopy(self._chance.choice(NASTY))

    def _large(self) -> Any:
        count = self._chance.choice((300, 3_000, 11_000))
        makers: tuple[Callable[[], Any], ...] = (
            lambda: list(range(count)),
            lambda: [f"x{number}" for number in range(count)],
            lambda: {f"c{number}": [0, 1] for number in range(count)},
            lambda: {f"c{number}/lr": {"value": 0.1, "when": {f"c{number - 1}": 1}} for number in range(count)},
            lambda: {f"c{n}": {"choices": [0, 1], "when": {f"c{n - 1}": 1} if n else {}} for n in range(count)},
            lambda: [{f"c{number}": number} for number in range(count)],
            lambda: _nested(min(count, 200)),
        )
        return self._chance.choice(makers)()

    def _change(self, settings: dict[Any, Any]) -> None:
        groups = list(_groups(settings))
        group = self._chance.choice(groups)
        keys = list(group) if isinstance(group, dict) else list(range(len(group)))
        kind = self._chance.randrange(6)
        if not keys or kind == 0:
            if isinstance(group, dict):
                group[self._chance.choice((*KEYS, self._misspelt(keys)))] = self._nasty()
            else:
                group.append(self._nasty())
            return
        key = self._chance.choice(keys)
        if kind == 1:
            del group[key]
        elif kind == 2:
            other = self._chance.choice(groups)
            group[key] = copy.deepcopy(other)
        elif kind == 3:
            group[key] = _nudged(group[key], self._chance)
        else:
            group[key] = self._nasty()

    def _misspelt(self, keys: list[Any]) -> Any:
        key = str(self._chance.choice(keys)) if keys else "x"
        place = self._chance.randrange(len(key) + 1)
        return key[:place] + self._chance.choice("aex._/ ") + key[place + 1 :]

    def _rewritten(self, text: str) -> str:
        lines = text.splitlines(keepends=True) or [""]
        line, place = self._chance.randrange(len(lines)), self._chance.randrange(len(text) + 1)
        match self._chance.randrange(6):
            case 0:
                return text[:place] + self._chance.choice(PIECES) + text[place:]
            case 1:
                return "".join(lines[:line] + lines[line + 1 :])
            case 2:
                return "".join([*lines[:line], lines[self._chance.randrange(len(lines))], *lines[line:]])
            case 3:
                return text[:place] + text[place + self._chance.randrange(1, 40) :]
            case 4:
                other = self._chance.choice(self._files)[0]
                return text[:place] + other[self._chance.randrange(len(other)) :]
            case _:
                return text.replace(self._chance.choice(text.split() or ["x"]), self._chance.choice(PIECES), 1)


def _groups(content: Any) -> list[Any]:
    found, left = [], [content]
    while left:
        group = left.pop()
        found.append(group)
        inner = group.values() if isinstance(group, dict) else group
        left += [value for value in inner if isinstance(value, dict | list)]
    return found


def _nested(depth: int) -> Any:
    content: Any = 1
    for _ in range(depth):
        content = {"x": content}
    return content


def _nudged(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return chance.choice((-value, value * 10, value // 7, value + 1, value * 10**6, str(value), [value]))
    if isinstance(value, str):
        return chance.choice((value[1:], value + "x", value.upper(), [value], {value: value}, value * 2))
    return [value] if isinstance(value, dict) else {"value": value}


def check(number: int, seed: int, files: list[tuple[str, dict[str, Any]]], folder: Path) -> str:
    """Generate a configuration, load it, and use it if it is valid; return the outcome.

    Args:
        number: Number of the configuration.
        seed: Seed of all configurations.
        files: Text and settings of the files to change.
        folder: Folder for temporary files.
    """
    from orchestrator.config import SweepConfig, load_sweep
    from orchestrator.config.settings_text import as_yaml, parse_yaml
    from orchestrator.errors import SpatialSweepError
    from orchestrator.records.settings.stored_config import complete_settings, non_default_settings

    mutator = Mutator(random.Random(f"{seed}/{number}"), files)  # noqa: S311 - repeatable
    source: Any = mutator.settings()
    if number % 2:
        source = folder / "sweep.yaml"
        source.write_bytes(mutator.text())
    try:
        config = load_sweep(source, mutator.assignments(), values=mutator.values())
    except SpatialSweepError as error:
        if not all(line.strip() for line in str(error).splitlines()) or not str(error):
            raise AssertionError(f"an empty line among the faults: {str(error)!r}") from None
        return "refused"
    if SweepConfig(**config.model_dump(mode="json")) != config:
        raise AssertionError("a configuration that is not the same once it is read back")
    if parse_yaml(as_yaml(non_default_settings(config))) != non_default_settings(config):
        raise AssertionError("settings that are not the same once they are written as YAML")
    json.dumps(complete_settings(config), allow_nan=False)
    _draw(config, number)
    return "accepted"


def _draw(config: Any, seed: int) -> None:
    """Draw a trial, as a dry run does first."""
    import optuna

    from orchestrator.config import resolve_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    space = config.space
    params = space.sample(study.ask())
    if strays := space.strays(params):
        raise AssertionError(f"the space draws what it does not hold: {strays[0]}")
    resolve_trial(config, 0, params)


def fuzz(count: int, seconds: float, *, seed: int = 0, first: int = 0) -> Findings:
    """Check configurations up to a number, or until the time is over.

    Args:
        count: Number of configurations.
        seconds: Limit of the whole run in seconds.
        seed: Seed of all configurations.
        first: Number of the first configuration.
    """
    import optuna  # noqa: F401 - imports take longer than any configuration may

    from orchestrator.config import load_sweep

    load_sweep(ROOT / "sweeps" / "digits.yaml")
    found = Findings()
    before = signal.signal(signal.SIGALRM, _interrupt)
    try:
        with tempfile.TemporaryDirectory() as folder:
            files, began = seeds(Path(folder)), time.monotonic()
            for number in range(first, first + count):
                if time.monotonic() - began > seconds:
                    break
                _check_within_limit(number, seed, files, Path(folder), found)
            found.seconds = round(time.monotonic() - began, 1)
    finally:
        signal.signal(signal.SIGALRM, before)
    return found


def _check_within_limit(
    number: int,
    seed: int,
    files: list[tuple[str, dict[str, Any]]],
    folder: Path,
    found: Findings,
    *,
    again: bool = False,
) -> None:
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        outcome = check(number, seed, files, folder)
        found.accepted += outcome == "accepted"
        found.refused += outcome == "refused"
    except _HangError:
        if not again:
            found.delayed += 1
            _check_within_limit(number, seed, files, folder, found, again=True)
            return
        found.hangs += 1
        found.failures.append({"number": number, "hang": traceback.format_exc(limit=-4)})
    except Exception as error:  # every other error is a finding
        found.tracebacks += 1
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
        if kind not in found.kinds:
            found.failures.append({"number": number, "kind": kind, "error": str(error)[:300]})
        found.kinds[kind] += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    found.configurations += 1
    if (took := time.monotonic() - began) > found.slowest_s:
        found.slowest_s, found.slowest = round(took, 3), number


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise _HangError


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="Number of a single configuration; its traceback is shown.")
    given = parser.parse_args()
    if given.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(f"{check(given.only, given.seed, seeds(Path(folder)), Path(folder))}\n")
        return 0
    found = fuzz(given.count, given.seconds, seed=given.seed)
    sys.stdout.write(f"{json.dumps(found.as_dict(), indent=2)}\n")
    return 1 if found.tracebacks or found.hangs else 0


if __name__ == "__main__":
    sys.exit(main())
