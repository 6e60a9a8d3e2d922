"""Statistics of compared strategies, worked out by hand, and the simulation of lanes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "search"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_equal_scores_share_the_mean_of_their_ranks() -> None:
    from ranks import ranks

    assert ranks(np.array([0.5, 0.9, 0.5, 0.1])).tolist() == [2.5, 1, 2.5, 4]


def test_expected_ranks_are_one_and_the_chances_that_others_are_better() -> None:
    from ranks import expected_ranks

    # b beats a in 3 of 4 pairs and equals it in one; c loses to all
    found = expected_ranks(np.array([[1.0, 2.0], [2.0, 3.0], [0.0, math.nan]]))
    assert found == pytest.approx([1 + 3.5 / 4, 1 + 0.5 / 4, 3])
    assert found.sum() == pytest.approx(1 + 2 + 3)


def test_average_ranks_weigh_tasks_equally_and_widen_with_the_scatter_of_seeds() -> None:
    from ranks import average_ranks

    clear = np.array([[3.0, 3.0, 3.0], [2.0, 2.0, math.nan]])
    reversed_ = clear[::-1]
    first, second = average_ranks([clear, clear, clear, reversed_], resamples=50)
    assert (first.value, first.low, first.high) == pytest.approx((1.25, 1.25, 1.25))
    assert second.value == pytest.approx(1.75)
    mixed = average_ranks([np.array([[0.0, 4.0, 1.0], [1.0, 2.0, 3.0]])], resamples=200)
    assert mixed[0].low < mixed[0].value < mixed[0].high


def test_a_task_that_repeats_another_makes_no_interval_narrower() -> None:
    from ranks import average_ranks

    chance = np.random.default_rng(0)
    task = chance.normal(size=(3, 9))
    assert average_ranks([task, task]) == average_ranks([task])
    fewer = task.copy()
    fewer[1, 8] = math.nan
    assert all(interval.low < interval.value < interval.high for interval in average_ranks([task, fewer]))


@pytest.mark.parametrize(
    ("needed", "expected"),
    [([10.0, 20.0], 15.0), ([10.0, math.inf], 110.0), ([math.inf, math.inf], math.inf)],
)
def test_searches_that_do_not_find_the_target_cost_their_budget(needed: list[float], expected: float) -> None:
    from ranks import expected_epochs

    assert expected_epochs(needed, budget=100) == expected


def test_geometric_mean_and_worst_task() -> None:
    from ranks import geometric_mean, worst

    assert geometric_mean([0.5, 2.0]) == pytest.approx(1)
    assert geometric_mean([0.5, math.inf]) == math.inf
    assert worst({"a": 0.5, "b": 1.4}) == ("b", 1.4)


def test_each_row_of_a_table_is_taken_once_the_nearest_that_is_left_first() -> None:
    from tasks import Choice, ListedRows, Real, Row

    parameters = {"x": Real(0, 10), "kind": Choice(("a", "b"))}
    rows = [Row({"x": x, "kind": kind}, [x]) for x, kind in ((0.0, "a"), (6.0, "a"), (5.0, "b"))]
    table = ListedRows(parameters, rows)
    take = table.open()
    wanted = {"x": 5.0, "kind": "a"}
    taken = [take(wanted) for _ in range(4)]
    assert [row.curve for row in taken] == [[6.0], [0.0], [5.0], [6.0]]  # another kind is farther than any x
    assert table.open()(wanted) is rows[1]


def test_auto_is_a_method_of_the_benchmark() -> None:
    from methods import METHODS, method_of_auto
    from tasks import Choice, Index, ListedRows, Real, Task

    def auto(epochs: int, **parameters: Any) -> str:
        return method_of_auto(Task("t/t", parameters, epochs, ListedRows(parameters, []).open, 1.0, 0.5))

    chosen = [
        auto(27, x=Real(0, 1)),
        auto(27, x=Real(0, 1), kind=Choice(("a", "b"))),
        auto(1, x=Index(500)),
        auto(1, x=Index(500), kind=Choice(("a", "b"))),
    ]
    assert chosen == ["freeze_thaw, middle GP", "freeze_thaw, middle GP and TPE", *["middle GP and TPE"] * 2]
    assert set(chosen) <= set(METHODS)


def scripted(curves: dict[int, list[float]], stops: dict[int, int]) -> Any:
    """Return a task and a strategy that begins each curve once, pauses it once, and resumes it when nothing is left."""
    from lane_simulation import Job, Strategy
    from tasks import ListedRows, Real, Row, Task

    class Scripted(Strategy):
        def __init__(self) -> None:
            self.new, self.paused, self.left = list(curves), [], []

        def next_job(self) -> Job | None:
            if self.new:
                number = self.new.pop(0)
                return Job(number, Row({"x": number}, curves[number]))
            return Job(self.paused.pop(0)) if self.paused else None

        def report(self, number: int, epoch: int, score: float) -> bool:
            return stops.get(number) != epoch

        def leave(self, number: int, *, ended: bool) -> None:
            self.left.append((number, ended))
            if not ended:
                self.paused.append(number)

    task = Task("t/t", {"x": Real(0, 9)}, 3, ListedRows({}, []).open, 1.0, 0.5)
    return task, Scripted()


def test_lanes_train_pause_and_resume_and_every_epoch_counts_once() -> None:
    from lane_simulation import simulate

    task, strategy = scripted({0: [0.1, 0.2, 0.6], 1: [0.3, 0.4, 0.5], 2: [0.2]}, stops={0: 1})
    run = simulate(task, strategy, lanes=2, budget=100)
    # time 1: 0 (0.1), 1 (0.3); 0 pauses, 2 begins; 2: 2 (0.2), 1 (0.4); 3: 2 diverges, 1 (0.5); then 0 resumes
    assert run.improvements == [(1, 0.1), (2, 0.3), (4, 0.4), (6, 0.5), (8, 0.6)]
    assert (run.spent, run.trials) == (8, 3)
    assert strategy.left == [(0, False), (2, True), (1, True), (0, True)]
    assert run.best_at(4) == 0.4 and run.best_at(0) == -math.inf
    assert run.epochs_to(0.45) == 6 and run.epochs_to(0.7) == math.inf


def test_a_budget_ends_the_search() -> None:
    from lane_simulation import simulate

    task, strategy = scripted({0: [0.1, 0.2, 0.6], 1: [0.3, 0.4, 0.5]}, stops={})
    assert simulate(task, strategy, lanes=1, budget=4).spent == 4


def test_regret_is_a_share_of_a_typical_configurations() -> None:
    task, _ = scripted({0: [0.1]}, stops={})
    assert [task.regret(score) for score in (1.0, 0.75, 0.5, 0.0, -math.inf)] == [0, 0.5, 1, 1, 1]


def test_runs_are_the_same_after_a_round_trip(tmp_path: Path) -> None:
    from lane_simulation import Run
    from recorded_runs import Key, append_runs, pack_runs, read_runs

    key, run = Key("t", "random", 4, 0, 10), Run([(1, 0.5), (3, 0.75)], 10, 2, 0.1)
    append_runs(tmp_path / "runs-1.jsonl", [(key, run)])
    append_runs(tmp_path / "runs-2.jsonl", [(Key("t", "random", 4, 1, 10), run)])
    assert read_runs(tmp_path)[key] == run
    assert len(read_runs(tmp_path)) == 2
    (tmp_path / "packed").mkdir()
    pack_runs(tmp_path / "packed/runs.parquet", read_runs(tmp_path))
    assert read_runs(tmp_path / "packed") == read_runs(tmp_path)


@pytest.mark.parametrize(
    "name", ["random", "TPE", "Ray ASHA, TPE", "asha, random", "asha, TPE", "Optuna TPE + Hyperband"]
)
def test_a_strategy_searches_the_digits_within_its_budget_and_repeats_itself(name: str) -> None:
    from lane_simulation import simulate
    from methods import METHODS, Search
    from tasks import digits_tasks

    (task,) = digits_tasks()
    one, two = (simulate(task, METHODS[name].create(Search(task, 1, 81)), lanes=3, budget=81) for _ in range(2))
    assert one.spent == 81
    assert one.improvements == two.improvements
    assert one.improvements[-1][1] > 0.5


def test_missing_curves_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import search_quality
    from tasks import taskset_tasks

    with pytest.raises(FileNotFoundError, match="give the folder of the curves with --curves"):
        list(taskset_tasks(tmp_path))
    assert search_quality.read_tasks(["taskset"], None, tmp_path) == []
    assert "taskset: left out" in capsys.readouterr().out


def test_the_tables_of_a_page_are_written_again_and_its_text_stays(tmp_path: Path) -> None:
    from comparison import Comparison
    from lane_simulation import Run
    from recorded_runs import Key, append_runs
    from result_page import update_page
    from tasks import digits_tasks

    (task,) = digits_tasks()
    scores = {"random": 0.5, "TPE": 0.6, "GP": 0.9}
    runs = [
        (Key(task.name, name, 4, seed, 540), Run(improvements=[(9, 0.4), (200 + seed, score)], spent=540, trials=20))
        for name, score in scores.items()
        for seed in range(2)
    ]
    append_runs(tmp_path / "runs-1.jsonl", runs)
    page = tmp_path / "page.md"
    table = "**digits, 4 lanes: 1 of 1 tasks**\n\nold note\n\n| method | seeds |\n|---|---|\n| random | 1 |\n| TPE |\n"
    page.write_text(f"# Title\n\nWritten by hand.\n\n{table}\nAlso by hand, 4 lanes.\n")
    comparison = Comparison(tmp_path, [task], {task.name: 540})
    update_page(page, comparison)
    written = page.read_text()
    assert written.startswith("# Title\n\nWritten by hand.\n\n**digits, 4 lanes: 1 of 1 tasks**\n\n`strategy: auto` is")
    assert written.endswith("\n\nAlso by hand, 4 lanes.\n")
    rows = [line.split(" | ") for line in written.splitlines() if line.startswith("| ")]
    assert [(row[0], row[1][:3], row[-2]) for row in rows[1:]] == [("| TPE", "1.5", "2"), ("| random", "1.5", "2")]
    update_page(page, comparison)
    assert page.read_text() == written

    page.write_text("**digits, 16 lanes: 1 of 1 tasks**\n\n| method |\n|---|\n| random |\n")
    with pytest.raises(SystemExit, match=r"16 lanes.*no searches"):
        update_page(page, comparison)
