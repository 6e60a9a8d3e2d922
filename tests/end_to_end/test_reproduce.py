"""A table reproduced on a real Ray instance, in two commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from tests.support.sweeps.local_ray import local_ray

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = ["reproduce", "spatial_bias", "resnet38", "--scale", "small", "--set", "training.epochs=1", "--only", "none"]


@pytest.fixture
def ray_instance() -> Iterator[None]:
    """One Ray instance for both commands; it has room for one lane, since each further one starts four processes."""
    with local_ray(num_cpus=1):
        yield


@pytest.mark.usefixtures("ray_instance")
def test_a_table_is_continued_by_the_same_command(tmp_path: Path) -> None:
    place = ["--runs-dir", str(tmp_path / "runs"), "--json"]
    first = CliRunner().invoke(app, [*COMMAND, "--seeds", "2", *place])
    assert first.exit_code == 0, first.output
    [none] = json.loads(first.stdout)["rows"]
    assert none["measured"]["n"] == 2
    assert len(set(none["values"].values())) == 2  # the seed of a trial decides its result
    assert 0 < none["measured"]["mean"] < 60
    second = CliRunner().invoke(app, [*COMMAND, "--only", "stage1", "--seeds", "2", *place])
    assert second.exit_code == 0, second.output
    result = json.loads(second.stdout)
    assert result["rows"][0]["values"] == none["values"]
    assert result["rows"][1]["difference"]["n"] == 2
    assert result["sweeps"] == ["spatial_bias-resnet38-small-1", "spatial_bias-resnet38-small-2"]
    assert (tmp_path / "runs" / "reproduce" / "spatial_bias-resnet38-small" / "report.png").is_file()
