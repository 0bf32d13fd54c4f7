"""Work is cut into tiles of rows and of inputs; what comes out does not depend on how."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.bounds.cases import METHODS, input_sets
from tests.networks import graphs, relu_network
from verifix.bounds import bounds
from verifix.bounds.tiles import budget, bytes_per_row, check_memory, least_memory, row_tiles
from verifix.certify import certify
from verifix.errors import InvalidValue
from verifix.graph import Graph, capture
from verifix.sets import Ball


def close(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Equal up to the rounding of sums in another order."""
    scale = 1 + torch.maximum(a.abs(), b.abs()).max() if a.numel() else 1.0
    return bool(((a - b).abs() <= 1e3 * torch.finfo(dtype).eps * scale).all())


@settings(max_examples=40)
@given(st.data(), graphs(), st.sampled_from(METHODS), st.sampled_from((0, 700, 5000)), st.booleans())
def test_any_budget(data: st.DataObject, graph: Graph, method: str, more: int, gradients: bool) -> None:
    inputs = data.draw(input_sets(graph.input_shape, torch.float64, most=3))
    least = least_memory(graph, [torch.float64])
    rows = torch.randn(len(inputs), 2, *graph.shape, dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        for name, asked in ((graph.output, rows), (graph.output, None), (next(iter(graph.nodes)), None)):
            whole, cut = (
                bounds(graph, inputs, method, node=name, rows=asked, memory=memory)
                for memory in (1 << 30, 1 + more if gradients else least + more)
            )
            assert all(close(a, b, torch.float64) for a, b in zip(whole, cut, strict=True))


@settings(max_examples=40)
@given(graphs(), st.sampled_from((torch.float32, torch.float64)))
def test_a_budget_that_cannot_hold_is_refused(graph: Graph, dtype: torch.dtype) -> None:
    inputs = Ball("linf", 0.1).around(torch.zeros(2, *graph.input_shape, dtype=dtype))
    least = least_memory(graph, [dtype])
    with torch.no_grad():
        bounds(graph, inputs, "ibp", memory=least)
        with pytest.raises(InvalidValue, match=f"^memory = {least - 1}: this network needs at least {least} bytes"):
            bounds(graph, inputs, "ibp", memory=least - 1)


@settings(max_examples=40)
@given(st.data(), graphs(), st.sampled_from(METHODS))
def test_a_batch_is_its_inputs(data: st.DataObject, graph: Graph, method: str) -> None:
    inputs = data.draw(input_sets(graph.input_shape, torch.float64, most=4))
    whole = bounds(graph, inputs, method)
    for i in range(len(inputs)):
        single = bounds(graph, inputs.select(slice(i, i + 1)), method)
        assert all(close(a[i : i + 1], b, torch.float64) for a, b in zip(whole, single, strict=True))


def test_certify_in_tiles() -> None:
    """Verdicts do not depend on the budget, in float32 and with inputs that float64 decides."""
    model = relu_network((4, 9, 9, 3), 3).float()
    x = 2 * torch.randn(41, 4)
    y = model(x).argmax(1)
    least = least_memory(capture(model, x), [torch.float32, torch.float64])
    whole, cut = (certify(model, x, y, Ball("linf", 0.2), "crown", memory=memory) for memory in (1 << 30, least))
    with pytest.raises(InvalidValue, match=f"needs at least {least} bytes"):
        certify(model, x, y, Ball("linf", 0.2), "crown", memory=least - 1)
    assert len(set(whole.verdicts.tolist())) > 1
    assert whole.verdicts.tolist() == cut.verdicts.tolist()
    assert torch.equal(whole.recomputed, cut.recomputed)
    assert close(whole.margins.nan_to_num(posinf=0), cut.margins.nan_to_num(posinf=0), torch.float32)


@pytest.mark.parametrize("rows", (0, 1, 7))
@pytest.mark.parametrize("inputs", (0, 1, 5))
@pytest.mark.parametrize("memory", (1, 1000, 1 << 20))
def test_tiles_cover_everything_once(rows: int, inputs: int, memory: int) -> None:
    graph = capture(relu_network((4, 9, 3), 0), torch.zeros(1, 4, dtype=torch.float64))
    taken = [
        i
        for tile in row_tiles(rows, inputs, graph, torch.float64, memory, torch.device("cpu"))
        for i in range(rows)[tile]
    ]
    assert taken == list(range(rows))
    within = budget(graph, [torch.float64], torch.device("cpu"), least_memory(graph, [torch.float64]) + memory)
    assert [i for tile in within.tiles(inputs, torch.float64) for i in range(inputs)[tile]] == list(range(inputs))
    for tile in row_tiles(rows, inputs, graph, torch.float64, memory, torch.device("cpu")):
        width = tile.stop - tile.start
        assert width == 1 or width * max(inputs, 1) * bytes_per_row(graph, torch.float64) <= memory


def test_the_default_budget_is_positive() -> None:
    assert check_memory(None, torch.device("cpu")) > 1 << 20
