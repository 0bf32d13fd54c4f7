"""The count of multiply-adds against patterns of nonzeros that are pushed through written-out matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from bench.operations import exact_multiply_adds
from verifix import zoo
from verifix.graph import INPUT, Graph
from verifix.operations import Affine, Convolution, Dense, Nonlinear, Sum


def ones(model: nn.Module) -> nn.Module:
    """Weights of one: no coefficient cancels, so nonzero means reached."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    return model.double().eval()


def matrix(graph: Graph, name: str) -> Tensor:
    """The affine operation of a node as a matrix (outputs, inputs)."""
    operation = graph.nodes[name].operation
    assert isinstance(operation, Affine)
    size = int(torch.tensor(operation.inputs[0]).prod())
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *operation.inputs[0])
    return operation.absolute(basis).reshape(size, -1).T


def counted(graph: Graph, start: str, rows: Tensor, units: bool) -> int:
    """Products of a nonzero coefficient and a nonzero weight; none where a row is still a unit vector."""
    pending, total = {start: (rows, units)}, 0
    for node in reversed(graph.ancestors(start)):
        if node.name not in pending:
            continue
        pattern, unit = pending.pop(node.name)
        if isinstance(node.operation, Nonlinear):
            parts = [(pattern, False)]
        elif isinstance(node.operation, Sum):
            parts = [(pattern, unit), (pattern, unit)]
        elif isinstance(node.operation, Dense | Convolution):
            weights = (matrix(graph, node.name) != 0).double()
            total += 0 if unit else int((pattern @ weights).sum())
            parts = [((pattern @ weights > 0).double(), False)]
        else:
            parts = [(pattern, unit)]
        for source, part in zip(node.inputs, parts, strict=True):
            if source in pending:
                before = pending[source]
                part = (((part[0] + before[0]) > 0).double(), part[1] and before[1])
            pending[source] = part
    return total


def by_hand(graph: Graph, rows: int) -> int:
    starts = {node.inputs[0] for node in graph.nodes.values() if isinstance(node.operation, Nonlinear)} - {INPUT}
    sizes = {name: int(torch.tensor(graph.shape_of(name)).prod()) for name in starts}
    hidden = sum(counted(graph, name, torch.eye(sizes[name], dtype=torch.float64), True) for name in starts)
    outputs = torch.ones(rows, graph.shape[0], dtype=torch.float64)
    return hidden + counted(graph, graph.output, outputs, False)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.block = zoo.ResidualBlock(2, 3)
        self.down = zoo.ResidualBlock(3, 2, downsample=True)
        self.last = nn.Linear(2 * 3 * 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.down(self.block(self.first(x).relu())).flatten(1))


NETWORKS = {
    "dense": (nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (5,)),
    "convolutions": (
        nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(2, 4, (2, 3), stride=(1, 2), padding=(0, 2)), nn.ReLU(), nn.Flatten(),
            nn.Linear(4 * 3 * 3, 5), nn.ReLU(), nn.Linear(5, 3),
        ),
        (2, 8, 8),
    ),
    "residual": (Residual(), (1, 6, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_what_is_there_to_multiply(name: str) -> None:
    model, shape = NETWORKS[name]
    graph = vx.capture(ones(model), torch.zeros(2, *shape, dtype=torch.float64))
    assert exact_multiply_adds(graph, 3) == by_hand(graph, 3)


def test_small_mnist_network() -> None:
    """3,136 rows in closed form; 1,568 touch 256 units of 16 weights; 109 go through everything; less on borders."""
    graph = vx.capture(zoo.mnist_small(), torch.zeros(2, 1, 28, 28))
    full = 1568 * 256 * 16 + 100 * (1568 * 256 + 3136 * 16) + 9 * (10 * 100 + 100 * 1568 + 1568 * 256 + 3136 * 16)
    assert 0.85 * full < exact_multiply_adds(graph, 9) < full


def test_refuses_what_it_cannot_count() -> None:
    graph = vx.capture(nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Flatten()), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="no count"):
        exact_multiply_adds(graph, 1)
