"""What keeps intervals narrow and units in balance while eps rises: the regularisers of Shi et al. 2021.

For a batch, and the layers ``i = 1 ... m`` of units with a kink at zero (ReLU, leaky ReLU, absolute value) with bounds
``l_i <= z_i <= u_i`` of what enters them, let ``mean`` and ``sum`` be over the inputs of the batch and the units of a
layer, ``c_i = (l_i + u_i) / 2``, ``d_i = mean(u_i - l_i)``, and ``d_0`` the same mean for the input set's hull. With a
tolerance ``t``

    tightness = 1/m sum_i  max(0, t - d_0 / d_i) / t
    balance   = 1/m sum_i (max(0, t - r(a_i, b_i)) + max(0, t - r(a'_i, b'_i))) / t,   r(a, b) = min(a, b) / max(a, b)
    a_i  = sum over l_i > 0 of  c_i              b_i  = sum over u_i < 0 of -c_i
    a'_i = sum over l_i > 0 of (c_i - mean c_i)^2    b'_i = sum over u_i < 0 of (c_i - mean c_i)^2

The first is positive where bounds are more than ``1/t`` times as wide as the input, on average; the second where
active units and inactive ones differ by more than a factor ``1/t``, in the sum of their centers or in their variance.
The published ``min(R, 1/R)`` is ``r`` written without division by zero: of a layer without units of one kind ``r`` is
0, and without units of either kind there is nothing to balance, and its term is 0. So is the tightness of a layer whose
bounds have no width. Training adds ``w (1 - eps / eps_target) (tightness + balance)`` to the mean loss of a batch; of
one that is worked through in parts, the terms of the parts are averaged by their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verifix.bounds import Engine
from verifix.errors import InvalidValue
from verifix.graph import Graph, Node
from verifix.operations import TwoPiece
from verifix.tensors import Interval


def regularised(graph: Graph) -> list[Node]:
    """The nodes whose inputs the regularisers are about.

    Raises:
        InvalidValue: there are none.
    """
    nodes = [node for node in graph.nonlinear(graph.output) if isinstance(node.operation, TwoPiece)]
    if not nodes:
        remedy = "the network has no ReLU, leaky ReLU or absolute value for it: leave it out"
        raise InvalidValue("regulariser", "above 0", remedy)
    return nodes


def regularisation(engine: Engine, tolerance: float = 0.5) -> Tensor:
    """``tightness + balance`` of the bounds that an engine has made its lines of, a scalar; see the module.

    What the engine has computed for its loss is used again. Differentiable in parameters and inputs.

    Args:
        tolerance: ``t``, above 0.

    Raises:
        InvalidValue: a network without units that it is about.
    """
    layers = [engine.preactivation(node) for node in regularised(engine.graph)]
    return tightness(engine.inputs.hull(), layers, tolerance) + balance(layers, tolerance)


def tightness(inputs: Interval, layers: Sequence[Interval], tolerance: float = 0.5) -> Tensor:
    """How much wider than the inputs the bounds of layers are, at least 0 and below 1; see the module.

    Args:
        inputs: lower and upper bounds of the inputs, ``(n, *shape)``.
        layers: those of what enters each layer, ``(n, *shape_i)``.

    >>> zero, one = torch.zeros(1, 2), torch.ones(1, 2)
    >>> tightness((zero, one), [(zero, 8 * one), (zero, one)])
    tensor(0.3750)
    """
    narrow = _width(inputs)
    terms = []
    for layer in layers:
        wide = _width(layer)
        known = wide > 0
        ratio = narrow / torch.where(known, wide, 1.0)
        terms.append(torch.where(known, (tolerance - ratio).clamp(min=0), 0.0))
    return torch.stack(terms).mean() / tolerance


def balance(layers: Sequence[Interval], tolerance: float = 0.5) -> Tensor:
    """How far active and inactive units of layers are from balance, at least 0 and at most 2; see the module.

    >>> lower, upper = torch.tensor([[0.0, -8.0, -1.0]]), torch.tensor([[2.0, -4.0, 1.0]])
    >>> balance([(lower, upper)])  # nothing is active: 0 is not above 0
    tensor(2.)
    """
    terms = []
    for lower, upper in layers:
        center = (lower + upper) / 2
        active, inactive = (lower > 0).to(center), (upper < 0).to(center)
        squares = (center - center.mean()).square()
        terms.append(_excess((center * active).sum(), -(center * inactive).sum(), tolerance))
        terms.append(_excess((squares * active).sum(), (squares * inactive).sum(), tolerance))
    return torch.stack(terms).sum() / (len(layers) * tolerance)


def _excess(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    """``max(0, t - r(a, b))``, or 0 where both are."""
    large = torch.maximum(a, b)
    some = large > 0
    ratio = torch.minimum(a, b) / torch.where(some, large, 1.0)
    return torch.where(some, (tolerance - ratio).clamp(min=0), 0.0)


def _width(interval: Interval) -> Tensor:
    lower, upper = interval
    return (upper - lower).mean()
