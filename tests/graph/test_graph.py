"""The graph itself: order, ancestors, names, values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from verifix.errors import InvalidValue
from verifix.graph import INPUT, Graph, Node
from verifix.operations import Concatenation, Dense, Sum, TwoPiece, fixed


@pytest.fixture
def diamond() -> Graph:
    """Two branches that meet, and one node that nothing uses."""
    weight = fixed(torch.eye(2))
    return Graph(
        (2,),
        [
            Node("a", Dense((2,), weight), (INPUT,)),
            Node("left", TwoPiece((2,)), ("a",)),
            Node("unused", TwoPiece((2,), -1.0, 1.0), ("a",)),
            Node("right", Dense((2,), weight), ("a",)),
            Node("sum", Sum([(2,), (2,)]), ("left", "right")),
            Node("both", Concatenation([(2,), (2,)], 0), ("sum", INPUT)),
        ],
    )


def test_ancestors_are_in_order_and_complete(diamond: Graph) -> None:
    assert [node.name for node in diamond.ancestors("both")] == ["a", "left", "right", "sum", "both"]
    assert [node.name for node in diamond.ancestors("left")] == ["a", "left"]
    assert [node.name for node in diamond.nonlinear("both")] == ["left"]
    assert [node.name for node in diamond.nonlinear("unused")] == ["unused"]
    assert diamond.ancestors("both") is diamond.ancestors("both")


def test_values_of_every_node(diamond: Graph) -> None:
    x = torch.tensor([[1.0, -2.0]])
    values = diamond.activations(x)
    assert set(values) == {INPUT, *diamond.nodes}
    assert values["sum"].tolist() == [[2.0, -2.0]]
    assert diamond(x).tolist() == [[2.0, -2.0, 1.0, -2.0]]
    assert values["unused"].tolist() == [[1.0, 2.0]]


def test_shapes(diamond: Graph) -> None:
    assert (diamond.output, diamond.shape) == ("both", (4,))
    assert diamond.shape_of(INPUT) == diamond.shape_of("a") == (2,)


def test_an_unknown_node_is_named_with_the_known_ones(diamond: Graph) -> None:
    with pytest.raises(InvalidValue, match=r"^node = 'b': choose one of input, a, left, unused, right, sum, both$"):
        diamond.node("b")
    with pytest.raises(InvalidValue, match=r"^node = 'b'"):
        diamond.shape_of("b")


def test_no_nodes() -> None:
    with pytest.raises(InvalidValue, match=r"^model = a network without operations: needs at least one layer$"):
        Graph((2,), [])


def test_representation_lists_the_nodes(diamond: Graph) -> None:
    lines = repr(diamond).splitlines()
    assert lines[0] == "Graph((2,) -> (4,))"
    assert lines[5] == "  sum = Sum(left, right) (2,)"


class Total(nn.Module):
    """An activation of shape (), one number per input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.relu(self.linear(x)).sum(1) - 1
        return torch.stack([total.relu(), -total], 1)


def test_activations_without_axes() -> None:
    model = Total()
    graph = vx.capture(model, torch.zeros(1, 3))
    assert () in {node.shape for node in graph.nodes.values()}
    x = torch.randn(4, 3)
    torch.testing.assert_close(graph(x), model(x))
    ball = vx.Ball("linf", 0.1).around(x)
    inside = [ball.project(x + 0.2 * torch.randn_like(x)) for _ in range(100)]
    for method in ("ibp", "crown-ibp", "cap", "crown"):
        for name in graph.nodes:
            lower, upper = vx.bounds(graph, ball, method, node=name)
            assert lower.shape == (4, *graph.shape_of(name))
            for point in inside:
                value = graph.activations(point)[name]
                assert ((lower <= value) & (value <= upper)).all()
