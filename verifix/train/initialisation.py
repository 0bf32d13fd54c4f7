"""Weights to start training by intervals from: whose bounds neither explode nor vanish on their way through."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.graph import Graph, Node
from verifix.operations import Convolution, Dense, Movement, Nonlinear, Pooling, Sum

Initialisation = Literal["none", "ibp"]


@dataclass(frozen=True)
class Drawn:
    """A weight that is drawn anew: from a normal distribution of mean 0 and this standard deviation."""

    name: str
    weight: Tensor
    deviation: float


@torch.enable_grad()  # so that what is computed from parameters shows it
def drawn_weights(graph: Graph) -> tuple[Drawn, ...]:
    """What :func:`initialise` draws, in the order in which it does.

    Raises:
        InvalidValue: a layer whose weight is trained, but is computed from parameters and is none itself; or no layer
            but the last one.
    """
    layers = [node for node in graph.nodes.values() if isinstance(node.operation, Dense | Convolution)]
    found: list[Drawn] = []
    last = _weight(layers[-1]) if layers else None
    for node in layers[:-1]:
        weight = _weight(node)
        if not weight.requires_grad or weight is last or any(weight is other.weight for other in found):
            continue
        if not weight.is_leaf:
            remedy = f"the weight of layer {node.name} is computed from others: leave initialisation out"
            raise InvalidValue("initialisation", "ibp", remedy)
        inputs = math.prod(weight.shape[1:])
        halved = 0.5 if _reads_a_sum(graph, node) else 1.0
        found.append(Drawn(node.name, weight, halved * math.sqrt(2 * math.pi) / inputs))
    if not found:
        remedy = "the network has no dense layer or convolution to be drawn but the last: leave initialisation out"
        raise InvalidValue("initialisation", "ibp", remedy)
    return tuple(found)


@torch.no_grad()
def initialise(graph: Graph, seed: int) -> None:
    """Draw weights so that intervals keep their width from layer to layer (Shi et al. 2021).

    The weight of every dense layer and convolution but the last is drawn anew, normally with mean 0 and standard
    deviation ``sqrt(2 pi) / n``, ``n`` the number of inputs of one of its outputs (channels of its group times entries
    of the kernel). For such weights ``E|W_ij| = 2 / n``, so that a layer makes an interval twice as wide on average,
    and the ReLU after it, which is inactive at half of all units, half as wide. Where the layer reads the sum of two
    branches, directly or through activations, pooling and reshaping, the deviation is halved: a sum is as wide as both.

    Biases, batch norm, the last layer and all that is frozen stay what they are. The same seed gives the same weights,
    up to the rounding of their dtype, on every device.

    Raises:
        InvalidValue: as :func:`drawn_weights`, and nothing has been changed then.

    >>> import verifix as vx
    >>> model = torch.nn.Sequential(torch.nn.Linear(1000, 200), torch.nn.ReLU(), torch.nn.Linear(200, 2))
    >>> initialise(vx.capture(model, torch.zeros(1, 1000)), seed=0)
    >>> round(1000 * model[0].weight.std().item(), 2)  # sqrt(2 pi) = 2.507
    2.51
    """
    generator = torch.Generator().manual_seed(seed)
    for drawn in drawn_weights(graph):
        values = torch.randn(drawn.weight.shape, generator=generator, dtype=torch.float64)
        drawn.weight.copy_(values * drawn.deviation)


def _weight(node: Node) -> Tensor:
    operation = node.operation
    if not isinstance(operation, Dense | Convolution):
        raise InvalidValue("node", node.name, "is no dense layer and no convolution")
    return operation.weight()


def _reads_a_sum(graph: Graph, node: Node) -> bool:
    """Whether what a layer reads is the sum of two activations, but for what keeps or shrinks intervals."""
    name = node.inputs[0]
    while name in graph.nodes:
        node = graph.node(name)
        if not isinstance(node.operation, Nonlinear | Movement | Pooling):
            return isinstance(node.operation, Sum)
        name = node.inputs[0]
    return False
