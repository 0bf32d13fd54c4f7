"""Backward passes by the compiled plan where it can express them, and tile by tile in plain torch elsewhere."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from verifix.bounds.backward import backward, unit_rows
from verifix.bounds.first_use import trusted
from verifix.bounds.forward import Compiled
from verifix.bounds.lowered import Inexpressible
from verifix.bounds.native import NativePass
from verifix.bounds.tiles import inputs_in_caches, row_tiles
from verifix.graph import Graph
from verifix.operations import Relaxation, Shape
from verifix.sets import InputSet
from verifix.tensors import flatten

logger = logging.getLogger(__name__)


class BackwardPass:
    """Backward passes over one batch of input sets.

    Args:
        memory: byte budget of the rows of a pass.
        compiled: forward steps; where they are in use, the graph is on the plan already.
        wanted: whether to use the compiled pass at all. It records no gradients.
    """

    def __init__(self, graph: Graph, inputs: InputSet, memory: int, compiled: Compiled, *, wanted: bool) -> None:
        self.graph, self.inputs, self.memory, self.compiled = graph, inputs, memory, compiled
        self.native: NativePass | None = None
        self._wanted = wanted

    def __call__(
        self,
        name: str,
        rows: Tensor | None,
        relaxations: Mapping[str, Relaxation],
        *,
        upper: bool,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One backward pass: lower and upper bounds of rows ``(n, r)``, or of the entries of a node ``(n, *shape)``.

        Of entries, ``wanted`` ``(n, *shape)`` may choose some; the others have infinite bounds.
        """
        if self._wanted and not torch.is_grad_enabled():
            try:
                if self.native is None:
                    if not trusted(self.inputs.center.device, self.inputs.center.dtype):
                        raise Inexpressible("this GPU, where it disagrees with plain torch")
                    self.native = NativePass(self.graph, self.inputs, self.memory, self.compiled.lowered)
                return self.native(name, rows, relaxations, upper=upper, wanted=wanted)
            except Inexpressible as reason:
                _say_once(str(reason))
                self._wanted = False
        if rows is not None:
            return self.by_tiles(name, rows, relaxations, upper=upper)
        shape, size = self.graph.shape_of(name), math.prod(self.graph.shape_of(name))
        places = torch.arange(size, device=self.inputs.center.device)
        if wanted is not None:
            places = flatten(wanted, 1).any(0).nonzero()[:, 0]
        low, high = self.by_tiles(name, places, relaxations, upper=upper)
        return _spread(low, places, wanted, shape, -math.inf), (
            None if high is None else _spread(high, places, wanted, shape, math.inf)
        )

    def by_tiles(
        self, name: str, rows: Tensor, relaxations: Mapping[str, Relaxation], *, upper: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The same in plain torch, tile by tile, for rows or for the unit rows of some entries ``(r,)``: ``(n, r)``."""
        shape = self.graph.shape_of(name)
        lows, highs = [], []
        count = len(rows) if rows.dim() == 1 else rows.shape[1]
        center = self.inputs.center
        together = len(self.inputs)
        if torch.is_grad_enabled():  # passes cut the inputs first
            together = min(together, inputs_in_caches(self.graph, center.new_zeros(1, count)))
        for tile in row_tiles(count, together, self.graph, center.dtype, self.memory, center.device):
            part = unit_rows(rows[tile], shape, center) if rows.dim() == 1 else rows[:, tile]
            low, high = backward(self.graph, name, part, relaxations, self.inputs, upper=upper)
            lows.append(low)
            highs.append(high)
        if not lows:
            empty = center.new_zeros(len(self.inputs), 0)
            return empty, empty if upper else None
        return torch.cat(lows, 1), torch.cat([high for high in highs if high is not None], 1) if upper else None


def _spread(bound: Tensor, places: Tensor, wanted: Tensor | None, shape: Shape, rest: float) -> Tensor:
    """Bounds of some entries among all of a node's."""
    if wanted is None:
        return bound.reshape(len(bound), *shape)
    full = bound.new_full((len(bound), math.prod(shape)), rest).index_copy(1, places, bound)
    return torch.where(wanted, full.reshape(len(bound), *shape), rest)


@functools.cache
def _say_once(reason: str) -> None:
    logger.info("backward passes in plain torch: the compiled pass has no step for %s", reason)
