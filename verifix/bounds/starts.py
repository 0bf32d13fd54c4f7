"""Rows that start at the input and at the errors of nonlinear nodes, for :mod:`verifix.bounds.projection`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from verifix.graph import INPUT, Graph
from verifix.operations import Shape, Slab
from verifix.sets.base import NormBall
from verifix.tensors import flatten

Drawn = Literal["cauchy", "normal"]
Start = Callable[[str], Tensor | None]
"""The rows that start at the input or at a nonlinear node; None for none."""


@dataclass(frozen=True)
class Starts:
    """What starts where. It knows nothing of the bundles that are made of it, so that these go with their owner and
    need no garbage collector.

    Args:
        slabs: the parallel planes of nonlinear nodes; grows between calls.
    """

    graph: Graph
    ball: NormBall
    slabs: Mapping[str, Slab]
    seed: int

    def terms(self, name: str) -> int:
        """How many norms are estimated for each entry of a node."""
        hidden = name != INPUT and len(self.graph.nonlinear(name)) > 0
        return {"linf": 1, "l2": 1 + hidden, "l1": int(hidden)}[self.ball.norm]

    def center(self, source: str) -> Tensor:
        """One row: the centers of the ball, and of every node between its planes."""
        return self.ball.center[:, None] if source == INPUT else self.slabs[source].middle[:, None]

    def drawn(self, kind: Drawn, label: str, k: int, largest: list[Tensor] | None = None) -> Start:
        """Cauchy rows at every source whose errors are bounded one by one, or normal rows at an l2 ball.

        ``largest`` gets the largest draw of every row, source by source.
        """

        def start(source: str) -> Tensor | None:
            if (kind == "normal") != (source == INPUT and self.ball.norm == "l2"):
                return None
            if source == INPUT and self.ball.norm == "l1":
                return None
            radius = self.ball.radius if source == INPUT else self.slabs[source].radius
            drawn = draw(kind, self.seed, f"{label}/{source}", k, self.graph.shape_of(source), radius)
            if largest is not None:
                largest.append(flatten(drawn, 2).abs().amax(2)[0])
            return radius[:, None] * drawn

        return start

    def coordinates(self, first: int, last: int) -> Start:
        """One row for each of some coordinates of the input."""
        shape = self.graph.input_shape
        rows = torch.eye(math.prod(shape))[first:last].reshape(1, -1, *shape)
        return lambda source: self.ball.radius[:, None] * rows.to(self.ball.radius) if source == INPUT else None


def draw(kind: Drawn, seed: int, label: str, k: int, shape: Shape, like: Tensor) -> Tensor:
    """Independent standard Cauchy or normal variables ``(1, k, *shape)``: for a seed and a label the same on every
    device, whatever else was drawn.

    Streams are chosen by 128 bits: torch's generator on CPU reads 32 bits of its seed, so that some two of the
    thousands of draws in a certificate would be the same too often.
    """
    key = hashlib.blake2b(f"{kind}/{seed}/{label}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    if kind == "cauchy":
        values = torch.from_numpy(generator.random((1, k, *shape))).sub_(0.5).mul_(math.pi).tan_()
    else:
        values = torch.from_numpy(generator.standard_normal((1, k, *shape)))
    return values.to(like)
