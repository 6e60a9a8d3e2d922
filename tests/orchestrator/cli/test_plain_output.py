"""Names from outside are printed without rich markup and without control characters."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from models import model_facts
from orchestrator.cli import main as cli
from orchestrator.cli.main import app
from orchestrator.cli.tables.models import print_models
from orchestrator.cli.tables.recipes import print_recipes
from orchestrator.cli.tables.sweeps import print_comparison, print_list, print_status
from orchestrator.config.recipe import load_recipe
from orchestrator.errors import SpatialSweepError
from orchestrator.plain_output import add_column, add_row, cell, printable, say
from orchestrator.progress.progress_view import print_outcome
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import TrialStatus
from orchestrator.results.comparison import comparison, facts_of
from orchestrator.results.stored_sweep import load_result, read_sweep
from orchestrator.results.sweep_result import SweepResult
from tests.support.sweeps.fake_sweeps import write_sweep

MARKUP = ("[red]", "[/]", "[/red]", "[link=http://x]y[/link]", "[bold", "\\[x]", "[@click=app.bell]")
ESCAPES = "a\x1b[31m\x07\x9b\x00\u202eb\udcff"
SHOWN = r"a\x1b[31m\x07\x9b\x00\u202eb\udcff"


def printed(show: object, *values: object) -> str:
    assert callable(show)
    console = Console(file=io.StringIO(), width=400, force_terminal=False)
    show(*values, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_control_characters_are_written_out_but_for_lines() -> None:
    assert printable(ESCAPES) == SHOWN
    assert printable("a\tb\nü [red] 漢") == "a\tb\nü [red] 漢"
    assert cell("a\nb\tc").plain == r"a\nb c"


@pytest.mark.parametrize("text", [*MARKUP, ESCAPES])
def test_tables_and_lines_say_what_they_are_given(text: str) -> None:
    def show(console: Console) -> None:
        table = Table(title=cell(text))
        add_column(table, text)
        add_row(table, text, style="bold")
        console.print(table)
        say(console, text, style="bold")

    assert printed(show).count(printable(text)) == 4


@pytest.mark.parametrize("text", [*MARKUP, ESCAPES])
def test_every_table_prints_names_literally(text: str, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", [(TrialStatus.FINISHED, [0.5]), (TrialStatus.FAILED, [])])
    sweep, shown = read_sweep(SweepFolder(folder)), printable(text)
    facts = {**facts_of(sweep), "name": text, "folder": text, "space": text, "ended_by": text}
    facts["best"] = {**facts["best"], "params": {text: text}}
    assert printed(lambda console: print_status(facts, text, console)).count(shown) >= 5
    assert printed(lambda console: print_list([facts], text, console)).count(shown) == 2
    found = comparison([sweep, sweep])
    found = {**found, "sweeps": [facts], "differing_settings": {text: [text]}, "best_params": {text: [text]}}
    assert printed(lambda console: print_comparison(found, console)).count(shown) >= 6
    result = load_result(folder)
    for record in result.records:
        record.params = {text: text}
        record.reason = text
    odd = dataclasses.replace(result, name=text, ended_by=text, records=result.records)
    assert isinstance(odd, SweepResult)
    assert printed(lambda console: print_outcome(odd, console, text)).count(shown) >= 4
    facts_of_model = {**dataclasses.asdict(model_facts("conv_resnet26_small")), "source": text}
    assert printed(lambda console: print_models([facts_of_model], console)).count(shown) == 1
    recipe = dataclasses.replace(load_recipe("lsas_cifar10"), title=text, source=text)
    assert printed(lambda console: print_recipes([recipe], console)).count(shown) == 2


@pytest.mark.parametrize("error", [SpatialSweepError(f"x {ESCAPES}")])
def test_errors_reach_a_terminal_without_control_characters(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(fail, "add_typer", lambda _app: None, raising=False)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == f"spatialsweep: x {SHOWN}\n"


@pytest.mark.parametrize("text", ["[/]", "[red]", "[link=x]"])
def test_a_fault_shows_markup_as_it_was_written(text: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(tmp_path / "x.yaml"), "--set", f"{text}=1"])
    assert "no such file" in str(done.exception)
    done = CliRunner().invoke(app, ["status", text, "--runs-dir", str(tmp_path)])
    assert f"no sweep '{text}'" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rn", "x.yaml"], "Did you mean 'run'?"),
        (["recipe"], "Did you mean 'recipes'?"),
        (["run", "x.yaml", "--dry-rn"], "--dry-run"),
        (["status", "s", "--run-dir", "x"], "--runs-dir"),
        (["[red]x[/]"], "No such command '[red]x[/]'"),
    ],
)
def test_a_misspelt_command_or_option_names_the_nearest(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert told in done.output
