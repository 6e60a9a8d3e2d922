"""Throughput side by side: turns, quartiles and ratios by hand, memory by hand, names, the command."""

from __future__ import annotations

import dataclasses
import itertools
import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.errors import ConfigError
from orchestrator.inference.throughput import compared_networks, device_named, measure_throughput, side_for
from orchestrator.inference.throughput.compared import ComparedNetwork
from orchestrator.inference.throughput.memory import peak_bytes, resident_bytes
from orchestrator.inference.timing import times_in_turns_s

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SMALL = "conv_resnet26_small"


def test_programs_take_turns_until_rounds_or_seconds_end() -> None:
    now, order = [0.0], []

    def taking(name: str, seconds: float) -> Callable[[], None]:
        def program() -> None:
            order.append(name)
            now[0] += seconds

        return program

    programs = {"a": taking("a", 2.0), "b": taking("b", 1.0)}
    times = times_in_turns_s(programs, rounds=4, clock=lambda: now[0])
    assert times == {"a": [2.0] * 4, "b": [1.0] * 4}
    assert order == ["a", "b", *["a", "b", "b", "a"] * 2]
    times = times_in_turns_s(programs, rounds=9, most_s=1.0, clock=lambda: now[0])
    assert len(times["a"]) == len(times["b"]) == 3


def test_peak_of_tensors_alive_at_once() -> None:
    weight = torch.ones(1000, requires_grad=True)  # 4,000 bytes each

    def in_turn() -> None:
        x = weight.detach() + 1
        for _ in range(5):
            x = x.view(10, 100) * 2  # old and new one
        x.add_(1)

    def held() -> None:
        for_backward = [weight.detach() + step for step in range(3)]
        for_backward.clear()

    def trained() -> None:
        (weight * weight).sum().backward()  # the product, its sum of 4 bytes and ones like it; two gradients
        weight.grad = None

    assert peak_bytes(in_turn, CPU) == 8000
    assert peak_bytes(held, CPU) == 12000
    assert 8000 < peak_bytes(trained, CPU) <= 16000
    assert resident_bytes(nn.Linear(10, 5), torch.zeros(2, 10)) == 4 * (55 + 20)


def test_rows_of_networks_in_turns() -> None:
    networks = compared_networks([SMALL, "test_vit{num_heads: 4}"], ["drop_rate=0.0"])
    report = measure_throughput(networks, [1, 2], image_size=32, device=CPU, training=True, rounds=3, most_s=60)
    labels = [network.label for network in networks]
    assert [(row.training, row.batch, row.network) for row in report.rows] == list(
        itertools.product((False, True), (1, 2), labels)
    )
    for row in report.rows:
        assert row.images_per_s is not None and row.low is not None and row.high is not None
        assert 0 < row.low <= row.images_per_s <= row.high
        assert row.rounds == 3
        assert row.peak_bytes is not None and row.peak_bytes > 4 * row.params * (2 if row.training else 1)
        assert (row.times_first == 1) == (row.network == labels[0])
    small, large = (row.peak_bytes for row in report.rows[4::2])
    assert small is not None and large is not None and small < large


@dataclasses.dataclass(frozen=True)
class LimitedNetwork(ComparedNetwork):
    """Network whose device has room for one image."""

    def build(self, side: int) -> nn.Module:
        class Limited(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                if len(x) > 1:
                    raise torch.OutOfMemoryError
                return super().forward(x.mean((2, 3)))

        return Limited(3, self.num_classes)


@pytest.mark.parametrize("first", [True, False])
def test_a_batch_that_does_not_fit_is_a_row_without_numbers(first: bool) -> None:
    limited = LimitedNetwork("limited", "limited", {}, (3, 32, 32), 2)
    networks = [*compared_networks([SMALL]), limited]
    report = measure_throughput(networks[:: -1 if first else 1], [1, 2], image_size=8, device=CPU, rounds=2)
    speeds = {(row.network, row.batch): (row.images_per_s is None, row.times_first is None) for row in report.rows}
    assert speeds == {
        ("limited", 1): (False, False),
        ("limited", 2): (True, True),
        (SMALL, 1): (False, False),
        (SMALL, 2): (False, first),
    }


@pytest.mark.parametrize(
    ("texts", "assignments", "message"),
    [
        (
            ["conv_resnet26_smal"],
            [],
            "conv_resnet26_smal: no network has this name. Did you mean 'conv_resnet26_small'",
        ),
        (["resnet18{"], [], "options stand in braces behind the name"),
        (["resnet18{3}"], [], "options stand in braces behind the name"),
        (["resnet18", "resnet18"], [], "named twice"),
        (["resnet18{a: [4}"], [], r"not valid YAML: line \d, column \d+: .* options stand in braces behind the name"),
        (["resnet18"], ["drop_rate"], "--set drop_rate: no assignment. Use KEY=VALUE"),
        (["resnet18"], ["groups=[4"], r"--set groups=\[4: not valid YAML: line \d"),
        (["resnet18"], ["seen=!!python/object:int {}"], r"--set seen=.*: not valid YAML: line \d"),
    ],
)
def test_networks_that_are_not_understood(texts: list[str], assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compared_networks(texts, assignments)


def test_options_are_read_as_settings_are() -> None:
    (network,) = compared_networks(["sb_resnet50{pooled_size: 010, mode: no}"], ["drop_path_rate=1e-1"])
    assert network.options == {"drop_path_rate": 0.1, "pooled_size": 10, "mode": "no"}


def test_a_network_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = """
        from torch import nn
        def make(num_classes=2, in_chans=3, img_size=32, width=4):
            layers = nn.Conv2d(in_chans, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            return nn.Sequential(*layers, nn.Linear(width, num_classes))
    """
    (tmp_path / "own_throughput.py").write_text(textwrap.dedent(source))
    networks = compared_networks(["own_throughput.py:make{width: 8}", SMALL])
    report = measure_throughput(networks, [1], image_size=8, device=CPU, rounds=1)
    assert report.rows[0].params == 8 * 4 + 1000 * 9
    with pytest.raises(ConfigError, match="no_such"):
        compared_networks(["no_such.py:make"])


def test_options_and_sizes_that_do_not_fit() -> None:
    several = compared_networks([SMALL, "resnet18"])
    with pytest.raises(ConfigError, match="--image-size: the networks are described for 32 px and 224 px"):
        side_for(several, None)
    assert (side_for(several, 64), side_for(several[:1], None)) == (64, 32)
    (own,) = compared_networks(["lesa_resnet26_cifar{groups: 24}"], ["groups=3"])
    with pytest.raises(ConfigError, match=r"lesa_resnet26_cifar\{groups: 24\}: groups: got 24; .* Use 16"):
        own.build(32)
    (timms,) = compared_networks(["resnet18{spans: 3}"])
    with pytest.raises(ConfigError, match="resnet18 has no option of this name"):
        timms.build(32)
    with pytest.raises(ConfigError, match="--device: got 'gpu'; torch finds no such device here"):
        device_named("gpu")
    for clock, message in (("cup", "--clock: got 'cup'. Did you mean"), ("cpu", "it does not time cuda:0")):
        with pytest.raises(ConfigError, match=message):
            measure_throughput(several, [1], image_size=32, device=torch.device("cuda:0"), clock=clock)
    with pytest.raises(ConfigError, match="--precision: got 'bf16'"):
        measure_throughput(several, [1], image_size=32, device=CPU, precision="bf16")


def test_the_command_prints_a_table_or_json() -> None:
    asked = ["throughput", SMALL, f"{SMALL}{{drop_rate: 0.5}}", "--batch", "2", "--image-size", "8", "--rounds", "1"]
    shown = CliRunner().invoke(app, [*asked, "--device", "cpu", "--precision", "bfloat16"], catch_exceptions=False)
    assert "8 px, bfloat16" in shown.output
    assert "drop_rate: 0.5" in shown.output
    written = json.loads(CliRunner().invoke(app, [*asked, "--device", "cpu", "--json", "--clock", "cpu"]).stdout)
    assert (written["image_size"], written["device"], written["clock"], len(written["rows"])) == (8, "cpu", "cpu", 2)
    assert written["rows"][0]["params"] == 546_180
    refused = CliRunner().invoke(app, [*asked, "--batch", "1,0"])
    assert refused.exit_code == 2
    assert "got '1,0'" in refused.output
