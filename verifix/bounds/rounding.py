"""How far computed bounds can be from the bounds they stand for: the one place where rounding is accounted.

The statement, proved in ``docs/rounding.md``: let a pass start from rows ``c`` on node ``v``, and let ``M_v`` bound,
entry by entry, the sum of the absolute values of all terms in the expansion of ``z_v`` through the lines down to the
input. If no entry goes through more than ``K`` roundings of unit roundoff ``u`` on its way, then computed and exact
bound differ by at most

    gamma_K |c| . M_v + (underflow),    gamma_K = K u / (1 - K u),

whatever the order of summation. ``M`` is one forward pass with absolute weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from verifix.graph import INPUT, Graph

SAFETY = 1.0625
"""Covers the rounding of ``M`` and of the error bound itself (each a sum of nonnegative terms, so relative)."""


def roundings(graph: Graph, name: str) -> int:
    """``K``: how many roundings any term of a pass from a node can go through."""
    nodes = graph.ancestors(name) if name != INPUT else []
    through = sum(node.operation.roundings + 4 for node in nodes)
    longest = max(math.prod(shape) for shape in [graph.input_shape, *(node.shape for node in nodes)])
    return through + longest + 16


def relative_error(graph: Graph, name: str, dtype: torch.dtype) -> float:
    """``gamma_K`` times the safety factor, or infinity where the analysis does not hold (``K u`` too near 1)."""
    ku = roundings(graph, name) * torch.finfo(dtype).eps / 2
    return SAFETY * ku / (1 - ku) if ku < 0.03 else math.inf


def quantum(dtype: torch.dtype) -> float:
    """What ``M`` gains at every node: ``gamma_K`` times this covers the underflow of the node's own terms, however
    much the layers after it enlarge it."""
    return 2.0 * torch.finfo(dtype).tiny / torch.finfo(dtype).eps


def underflow(graph: Graph, name: str, dtype: torch.dtype) -> float:
    """An absolute error for coefficients below the normal range, per unit of the largest magnitude they multiply."""
    nodes = graph.ancestors(name) if name != INPUT else []
    results = sum(math.prod(node.shape) * node.operation.roundings for node in nodes) + math.prod(graph.input_shape)
    return 4.0 * results * torch.finfo(dtype).tiny


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Float32 means float32, and sums are sums of products: no TF32 and no bfloat16 inside matrix products and
    convolutions, no autocast, and no library that may choose fast (Winograd) convolutions, whose errors are not
    bounded entry by entry: neither NNPACK nor cuDNN."""
    backends: Any = torch.backends
    switches: list[Any] = [
        backends, backends.cuda.matmul, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn,
        backends.mkldnn, backends.mkldnn.conv, backends.mkldnn.matmul, backends.mkldnn.rnn,
    ]  # fmt: skip
    before = [switch.fp32_precision for switch in switches]
    cudnn_enabled = backends.cudnn.enabled
    backends.cudnn.enabled = False
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        with (
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            backends.nnpack.flags(enabled=False),
        ):
            yield
    finally:
        backends.cudnn.enabled = cudnn_enabled
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def lower_bound(computed: Tensor, error: Tensor | float = 0.0) -> Tensor:
    """A computed lower bound less its error; NaN where it is +inf, which no network reaches: something overflowed."""
    bound = computed if isinstance(error, float) and error == 0.0 else computed - error
    return bound.nan_to_num(math.nan, math.nan, -math.inf)  # one sweep


def upper_bound(computed: Tensor, error: Tensor | float = 0.0) -> Tensor:
    """A computed upper bound plus its error; NaN where it is -inf."""
    bound = computed if isinstance(error, float) and error == 0.0 else computed + error
    return bound.nan_to_num(math.nan, math.inf, math.nan)
