"""Triton kernels on a GPU or in Triton's interpreter; `test_gpu_kernels.py` runs this file in a process of its own.

The interpreter takes milliseconds per offset of the window and tile: maps are tiny, and so are tiles where there are
to be several.
"""

import pytest
import torch
from torch import Tensor

from models.adaptive_span.attention import AdaptiveAttention, LocalAttention
from models.local_attention.gpu import launch
from models.local_attention.gpu.operator import gpu_serves
from models.local_attention.operator import attend_by_head, local_attention, tables_by_head
from tests.support.networks.attention_oracle import unfold_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 4e-2}  # of the largest value of a tensor
NAMES = ("output", "q", "k", "v", "rel_h", "rel_w", "mask")


def inputs(
    size: tuple[int, ...], side: int, mask: list[list[float]] | None = None, *, scale: float = 0.6
) -> list[Tensor]:
    """Return maps (B, C, H, W) of queries, keys and values, both tables, and a mask where one is given."""
    generator = torch.Generator().manual_seed(sum(size) + side)
    shapes = [size] * 3 + [(size[1] // 2, side)] * 2
    given = [scale * torch.randn(shape, generator=generator) for shape in shapes]
    return given if mask is None else [*given, torch.tensor(mask)]


def outcome(attend, given: list[Tensor], **options) -> list[Tensor]:
    """Return the output and the gradients of all inputs."""
    given = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in given]
    y = attend(*given[:5], ring_mask=given[5] if len(given) > 5 else None, **options)
    probe = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, given, probe)]


def assert_exact(given: list[Tensor], *, dtype: torch.dtype = torch.float32, layout=None, **options) -> list[Tensor]:
    """Compare with unfolded windows in double precision over the same rounded maps; return the outcome."""
    maps = [x.to(DEVICE, dtype) for x in given[:3]]
    maps = [x.contiguous(memory_format=layout) for x in maps] if layout else maps
    given = [*maps, *(x.to(DEVICE) for x in given[3:])]
    assert gpu_serves(maps[0], num_heads=options["num_heads"], side=given[3].shape[1])
    found = outcome(local_attention, given, **options)
    expected = outcome(unfold_attention, [x.double().cpu() for x in given], **options)
    if len(given) > 5:  # which rings get a gradient is the rule of the operator, not of the formula
        expected[6] = torch.where(found[6].cpu() == 0, 0.0, expected[6])
    for name, ours, reference in zip(NAMES, found, expected, strict=False):
        largest = max(float(reference.abs().max()), 1e-3)
        error = float((ours.double().cpu() - reference).abs().max()) / largest
        assert error < TOLERANCE[dtype], f"{name}: {error:.1e}"
    return found


@pytest.fixture
def tiles_of_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MOST_PIXELS", 16)


@pytest.mark.parametrize(
    ("size", "heads", "layout"), [((1, 4, 5, 6), 1, None), ((2, 12, 2, 5), 2, torch.channels_last)]
)
def test_several_tiles_and_a_head_of_rows_and_columns(size, heads, layout, tiles_of_16) -> None:
    """Use heads of 4 and 6 channels; the only head of the first case has channels of both tables."""
    mask = [[1.0, 0.4], [1.0, 0.9]][:heads]
    found = assert_exact(inputs(size, 3, mask), layout=layout, num_heads=heads)
    assert found[0].is_contiguous(memory_format=layout or torch.contiguous_format)
    assert all(x.stride() == found[0].stride() for x in found[1:4])


@pytest.mark.parametrize("before", [False, True])
def test_spans_of_several_lengths_in_a_window_beyond_the_map(before: bool) -> None:
    mask = [[1.0, 0.7, 0.0], [1.0, 1.0, 0.2]]
    found = assert_exact(inputs((1, 8, 3, 2), 5, mask), num_heads=2, mask_before_softmax=before)
    assert (found[6] != 0).tolist() == [[True, True, not before], [True] * 3]


def test_a_wide_window_with_short_and_long_spans() -> None:
    short, long = [1.0, 0.5] + [0.0] * 3, [1.0] * 4 + [0.5]
    assert_exact(inputs((1, 4, 3, 3), 9, [short, long], scale=0.3), num_heads=2)


def test_a_mask_that_keeps_little() -> None:
    """Let far queries attend to one key beyond their mask, which gets a gradient from them by the epsilon alone."""
    q, k, *more = inputs((1, 4, 3, 3), 5, [[1.0, 0.6, 0.0]])
    k = 0.1 * k - 0.4
    k[:, :, 0, 0] = 1.0
    assert_exact([q + 2.0, k, *more], num_heads=1)


def test_no_mask() -> None:
    assert_exact(inputs((1, 4, 3, 2), 7), num_heads=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types(dtype: torch.dtype) -> None:
    found = assert_exact(inputs((1, 8, 3, 4), 3, [[1.0, 0.5], [1.0, 0.9]]), dtype=dtype, num_heads=2)
    assert [x.dtype for x in found] == [dtype] * 4 + [torch.float32] * 3


def test_two_runs_give_the_same_bits_and_nan_is_kept(tiles_of_16) -> None:
    given = [x.to(DEVICE) for x in inputs((1, 4, 5, 3), 3, [[1.0, 0.5]])]
    first, second = (outcome(local_attention, given, num_heads=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    given[0][0, 1, 2, 2] = torch.nan
    with torch.no_grad():
        assert local_attention(*given[:5], num_heads=1)[0, :, 2, 2].isnan().all()


def test_a_window_that_follows_the_spans_is_the_one_cut_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the layer, whose tables are those of its largest window, with the one that reads its spans first."""
    torch.manual_seed(0)
    layer = AdaptiveAttention(8, num_heads=2, max_span=4, ramp=1.5, span_init=0.0, span_penalty=0.0).to(DEVICE)
    with torch.no_grad():
        layer.span.copy_(torch.tensor([0.05, 0.1]))
    x = torch.randn(1, 8, 3, 4, device=DEVICE)
    results = []
    for switch in ("1", "0"):
        monkeypatch.setenv("SPATIALSWEEP_KERNELS", switch)
        monkeypatch.setattr(layer, "window_radius", (lambda: pytest.fail("read")) if switch == "1" else lambda: 2)
        given = x.clone().requires_grad_()
        layer.zero_grad()
        y = layer(given)
        y.square().sum().backward()
        with torch.no_grad():
            layer.project_parameters_()
        results.append([y.detach(), given.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5 * float(reference.abs().max()))


def test_a_change_of_mode_reads_the_window_of_exported_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = AdaptiveAttention(4, num_heads=1, max_span=5, ramp=1.0, span_init=0.1, span_penalty=0.0).to(DEVICE)
    with torch.no_grad():
        layer.span.fill_(1.0)
        layer.project_parameters_()
    assert layer._radius == 2
    layer.eval()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert layer.window_radius() == 5


def test_heads_computed_apart() -> None:
    q, k, v, rel_h, rel_w, mask = (x.to(DEVICE) for x in inputs((1, 8, 3, 3), 3, [[1.0, 0.5], [1.0, 0.9]]))
    expected = local_attention(q, k, v, rel_h, rel_w, num_heads=2, ring_mask=mask)
    second = attend_by_head(q[:, 4:], k[:, 4:], v[:, 4:], tables_by_head(rel_h, rel_w, 2)[1:], mask[1:])
    torch.testing.assert_close(second, expected[:, 4:])


def test_what_the_kernels_do_not_compute() -> None:
    x = torch.randn(1, 4, 3, 3, device=DEVICE)
    assert gpu_serves(x, num_heads=1, side=63)
    assert not gpu_serves(x, num_heads=1, side=65)
    assert not gpu_serves(x.double(), num_heads=1, side=3)
    assert not gpu_serves(x.to("meta"), num_heads=1, side=3)
    assert not gpu_serves(x[:0], num_heads=1, side=3)
    assert not gpu_serves(x.expand(1, 4, 3, 3).repeat(1, 40, 1, 1), num_heads=1, side=3)
    local_attention(*torch.zeros(3, 1, 256, 1, 1, device=DEVICE), *torch.zeros(2, 128, 3, device=DEVICE), num_heads=1)
    torch.export.export(LocalAttention(4, num_heads=2, kernel_size=3).to(DEVICE), (x,))  # with the formula


@pytest.mark.parametrize(
    ("layout", "checks"),
    [
        (torch.contiguous_format, ("test_faketensor",)),
        (torch.channels_last, ("test_schema", "test_autograd_registration", "test_aot_dispatch_dynamic")),
    ],
)
def test_the_operators_follow_the_rules_of_torch(layout: torch.memory_format, checks: tuple[str, ...]) -> None:
    """Check schema, shapes and strides of the results, and gradients in compiled programs."""
    q, k, v, rel_h, rel_w, mask = (x.to(DEVICE) for x in inputs((1, 4, 2, 3), 3, [[1.0, 0.5]]))
    maps = [x.contiguous(memory_format=layout).requires_grad_() for x in (q, k, v)]
    table = torch.cat([rel_h, rel_w]).t().requires_grad_()
    arguments = (*maps, table, mask.requires_grad_(), 1, False, True)
    torch.library.opcheck(torch.ops.spatialsweep.local_attention.default, arguments, test_utils=checks)
    with torch.no_grad():
        out, stats = torch.ops.spatialsweep.local_attention(*arguments)
        more = (*maps, table, mask, out, stats, torch.ones_like(out), 1, False, True)
        backward = torch.ops.spatialsweep.local_attention_backward.default
        torch.library.opcheck(backward, more, test_utils=checks[:1])


def test_a_compiled_layer_is_captured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = AdaptiveAttention(4, num_heads=1, max_span=2, ramp=1.0, span_init=0.1, span_penalty=0.0).to(DEVICE)
    monkeypatch.setattr(layer, "window_radius", lambda: pytest.fail("read"))
    graphs: list[torch.fx.GraphModule] = []

    def record(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    program = torch.compile(layer, fullgraph=True, backend=record)
    x, results = torch.randn(1, 4, 2, 3, device=DEVICE), []
    for each in (program, layer):
        layer.zero_grad()
        y = each(x)
        y.square().sum().backward()
        results.append([y.detach(), *(parameter.grad for parameter in layer.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    with torch.no_grad():
        layer.span.fill_(0.6)
    wider = program(x)  # without another compilation
    assert torch.equal(wider, layer(x)) and not torch.equal(wider, y)
    assert ["local_attention" in str(node.target) for node in graphs[0].graph.nodes].count(True) == 1
    assert len(graphs) == 1


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_a_cuda_graph_replays_a_step_while_spans_change() -> None:
    torch.manual_seed(0)
    layer = AdaptiveAttention(8, num_heads=2, max_span=4, ramp=1.0, span_init=0.1, span_penalty=0.0).cuda()
    x = torch.randn(2, 8, 9, 7, device="cuda")

    def step() -> Tensor:
        for parameter in layer.parameters():
            parameter.grad = None
        y = layer(x)
        y.square().sum().backward()
        return y

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    captured_grad = layer.span.grad
    for span in (0.1, 0.8):
        with torch.no_grad():
            layer.span.fill_(span)
        graph.replay()
        replayed = captured.detach().clone(), captured_grad.clone()
        eager = step()
        assert torch.equal(replayed[0], eager) and torch.equal(replayed[1], layer.span.grad)
