"""Networks that the compiled pass holds, one for each kind of step: bounds within rounding of plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.bounds.native_cases import assert_within, some_rows, unit_rows
from verifix.bounds import Engine, parse_method
from verifix.bounds.tiles import bytes_per_row
from verifix.graph import Graph, Node, capture
from verifix.kernels.plan import Stored
from verifix.operations import Concatenation, Dense, Lines, Movement, Reduction, TwoPiece, fixed
from verifix.sets import Ball, InputSet
from verifix.tensors import contract

IMAGE = (2, 6, 6)


class Residual(nn.Module):
    """Two blocks with a shortcut, the second of half the size, then the mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(2, 5, 3, 1, 1),
            nn.Conv2d(5, 5, 3, 1, 1),
            nn.Conv2d(5, 9, 3, 2, 1),
        )
        self.norm, self.short, self.last = nn.BatchNorm2d(5), nn.Conv2d(5, 9, 1, 2), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.norm(self.second(x)))
        x = torch.relu(F.avg_pool2d(self.short(x), 1) + self.third(x))
        return self.last(x.mean((2, 3)))


class Pyramid(nn.Module):
    """Means over windows of several sizes, side by side along each axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Conv2d(2, 3, 3), nn.Linear(3 * 15, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.layer(x))
        parts = [F.adaptive_avg_pool2d(x, size) for size in ((2, 3), (1, 3), (2, 3))]
        return self.last(F.leaky_relu(torch.cat(parts, 2), 0.1).flatten(1))


def sequence(*modules: nn.Module) -> nn.Module:
    model = nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, *IMAGE))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "average": lambda: sequence(nn.Conv2d(2, 4, 3, 1, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 3, 2), nn.ReLU()),
    "overlapping average": lambda: sequence(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), nn.Tanh()
    ),
    "adaptive average": lambda: sequence(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 3)), nn.ReLU()),
    "residual": Residual,
    "pyramid": Pyramid,
    "dense on an axis": lambda: sequence(nn.Linear(6, 4), nn.ReLU(), nn.Conv2d(2, 3, 2), nn.Linear(3, 5), nn.ReLU()),
    "maximum": lambda: sequence(
        nn.Conv2d(2, 20, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 3, 2), nn.Sigmoid(), nn.MaxPool2d(2)
    ),
    "overlapping maximum": lambda: sequence(
        nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, 1, 1), nn.ReLU(), nn.MaxPool2d((3, 2), 2, 1, ceil_mode=True), nn.Tanh()
    ),
    "padding": lambda: sequence(
        nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(2, 3, 3, 2), nn.ReLU(), nn.Upsample(scale_factor=2)
    ),
}  # fmt: skip


def network(name: str) -> Graph:
    model = MODELS[name]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return capture(model.double().eval(), torch.zeros(1, *IMAGE, dtype=torch.float64))


def spelled_out() -> Graph:
    """Four axes, sums over some of them, and parts along the last: what torch layers seldom do."""
    weight = torch.randn(2, 3, dtype=torch.float64)
    four = (2, 3, 2, 6)
    return Graph(IMAGE, [
        Node("split", Movement(IMAGE, torch.arange(72).reshape(four)), ("input",)),
        Node("bent", TwoPiece(four, 0.1, 1.0), ("split",)),
        Node("pairs", Movement(four, torch.arange(72).reshape(2, 3, 2, 3, 2)), ("bent",)),
        Node("halves", Reduction((2, 3, 2, 3, 2), [4], False, 0.5), ("pairs",)),
        Node("mixed", Dense((2, 3, 2, 3), fixed(weight)), ("halves",)),
        Node("bent again", TwoPiece((2, 3, 2, 2)), ("mixed",)),
        Node("flipped", Movement((2, 3, 2, 2), torch.arange(24).reshape(2, 3, 2, 2).flip(2)), ("bent again",)),
        Node("beside", Concatenation([(2, 3, 2, 2), (2, 3, 2, 2), (2, 3, 2, 6)], 3), ("flipped", "bent again", "bent")),
        Node("bent last", TwoPiece((2, 3, 2, 10), -0.5, 1.0), ("beside",)),
        Node("mean", Reduction((2, 3, 2, 10), [0, 1, 2, 3], True, 1 / 120), ("bent last",)),
        Node("scalar", Reduction((1, 1, 1, 1), [0, 1, 2, 3], False, -3.0), ("mean",)),
        Node("output", Movement((), torch.tensor([0])), ("scalar",)),
    ])  # fmt: skip


def agrees(graph: Graph, inputs: InputSet, method: str) -> None:
    """At every node, for unit rows and for others, from below and from both sides."""
    dtype = inputs.center.dtype
    engine = Engine(graph, inputs, parse_method(method)[0])
    with torch.no_grad():
        for name in graph.nodes:
            engine.node(name)
            shape = graph.shape_of(name)
            for kind, upper in (("unit", True), ("many", False), ("shared", True)):
                rows = some_rows(shape, len(inputs), kind, dtype)
                ours = engine._backward(name, rows, engine.relaxations, upper=upper)
                all_rows = unit_rows(shape, dtype) if rows is None else rows
                torchs = engine._backward.by_tiles(name, all_rows, engine.relaxations, upper=upper)
                error = 2 * engine._magnitudes.error_of_rows(name, all_rows)
                assert_within(ours[0], torchs[0], error)
                if upper:
                    assert_within(ours[1], torchs[1], error)
    assert engine._backward.native is not None


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("method", ("crown", "cap", "interval:zero"))
@pytest.mark.parametrize("name", [*MODELS, "spelled out"])
def test_every_step(name: str, method: str, dtype: torch.dtype) -> None:
    graph = spelled_out() if name == "spelled out" else network(name)
    x = torch.rand(2, *IMAGE, dtype=torch.float64).to(dtype)
    for norm in ("linf", "l2"):
        agrees(graph, Ball(norm, 0.1).around(x), method)


class Segments(InputSet):
    """All points between two ends: a set that the plan has never heard of."""

    def __init__(self, first: Tensor, last: Tensor) -> None:
        self.ends = first, last

    @property
    def center(self) -> Tensor:
        return (self.ends[0] + self.ends[1]) / 2

    def hull(self) -> tuple[Tensor, Tensor]:
        return torch.minimum(*self.ends), torch.maximum(*self.ends)

    def support(self, rows: Tensor) -> Tensor:
        return torch.maximum(*(contract(rows, end) for end in self.ends))

    def magnitude(self) -> Tensor:
        return torch.maximum(*(end.abs() for end in self.ends))

    def project(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def contains(self, x: Tensor, tolerance: float = 0.0) -> Tensor:
        raise NotImplementedError

    def distance(self, x: Tensor) -> Tensor:
        raise NotImplementedError  # bounds do not ask

    def select(self, index: Tensor | slice) -> InputSet:
        return Segments(self.ends[0][index], self.ends[1][index])

    def to(self, target: torch.dtype | torch.device) -> InputSet:
        return Segments(self.ends[0].to(target), self.ends[1].to(target))


def awkward_sets(dtype: torch.dtype, n: int = 2) -> dict[str, InputSet]:
    """Sets whose support function is not compiled."""
    x, other = (torch.rand(n, *IMAGE, dtype=torch.float64).to(dtype) for _ in range(2))
    return {
        "l1 with box": Ball("l1", 1.5, (0, 1)).around(x),
        "l2 with box": Ball("l2", 0.5 * torch.rand(1, *IMAGE), (-0.1, 1)).around(x),
        "segments": Segments(x, other),
    }


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("method", ("crown", "cap", "interval:zero"))
@pytest.mark.parametrize("kind", awkward_sets(torch.float32))
@pytest.mark.parametrize("name", ("residual", "spelled out"))
def test_every_set(name: str, kind: str, method: str, dtype: torch.dtype) -> None:
    graph = spelled_out() if name == "spelled out" else network(name)
    agrees(graph, awkward_sets(dtype)[kind], method)


@pytest.mark.parametrize("memory", (1, 30_000, 2**30))
def test_forms_fit_the_byte_budget(memory: int) -> None:
    """Not all coefficients are held at once; how many are makes no difference."""
    graph, inputs = network("average"), awkward_sets(torch.float64)["l2 with box"]
    engine = Engine(graph, inputs, parse_method("cap")[0], memory=memory)
    with torch.no_grad():
        engine.node(graph.output)
        native, plain = engine._backward.native, Engine(graph, inputs, parse_method("cap")[0], native=False)
        assert native is not None
        forms, tiles = native.plan.forms, list[list[int]]()

        def seen(start: Stored, **options: Any) -> Any:
            tiles.append(options["places"].tolist())
            return forms(start, **options)

        native.plan.forms = seen  # type: ignore[method-assign]
        for name, node in graph.nodes.items():
            tiles.clear()
            low, high = engine._backward(name, None, engine.relaxations, upper=True)
            size = math.prod(node.shape)
            assert [place for tile in tiles for place in tile] == list(range(size))
            most = max(map(len, tiles))
            assert most == 1 or most * len(inputs) * bytes_per_row(graph, torch.float64) <= memory
            assert (most == size) == (memory == 2**30)
            plain.node(name)
            below, above = plain._backward(name, None, plain.relaxations, upper=True)
            error = 2 * plain._magnitudes.error_of_rows(name, unit_rows(node.shape, torch.float64))
            assert_within(low, below, error)
            assert_within(high, above, error)
            wanted = torch.rand(len(inputs), *node.shape) < 0.3
            low, high = engine._backward(name, None, engine.relaxations, upper=True, wanted=wanted)
            below, above = plain._backward(name, None, plain.relaxations, upper=True, wanted=wanted)
            assert bool((low[~wanted] == -torch.inf).all())
            assert high is not None and above is not None
            assert bool((high[~wanted] == torch.inf).all())
            for ours, torchs in ((low, below), (high, above)):
                assert_within(ours.masked_fill(~wanted, 0.0), torchs.masked_fill(~wanted, 0.0), error)


@pytest.mark.parametrize("kind", awkward_sets(torch.float32))
def test_no_inputs_and_no_rows(kind: str) -> None:
    graph = network("residual")
    for n in (0, 2):
        engine = Engine(graph, awkward_sets(torch.float32, n)[kind], parse_method("crown")[0])
        with torch.no_grad():
            for count in (0, 1):
                low, high = engine.rows(graph.output, torch.ones(1, count, 3))
                assert low.shape == (n, count)
                assert high is not None
                assert high.shape == (n, count)
        assert engine._backward.native is not None


@pytest.mark.parametrize("kind", awkward_sets(torch.float32))
def test_not_a_number_is_unknown(kind: str) -> None:
    """A weight, or a line, that is NaN makes every bound that depends on it NaN."""
    graph = network("average")
    engine = Engine(graph, awkward_sets(torch.float64)[kind], parse_method("crown")[0])
    with torch.no_grad():
        engine.node(graph.output)
        name, lines = next((name, lines) for name, lines in engine.relaxations.items() if isinstance(lines, Lines))
        spoiled = lines.lower_slope.clone()
        spoiled[0] = torch.nan
        engine.relaxations[name] = Lines(spoiled, lines.lower_offset, spoiled, lines.upper_offset)
        lower, upper = engine._backward(graph.output, None, engine.relaxations, upper=True)
    assert upper is not None
    assert torch.isnan(lower[0]).all()
    assert torch.isnan(upper[0]).all()
    assert torch.isfinite(lower[1]).all()
