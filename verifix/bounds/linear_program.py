"""The linear program that the dual bounds relax: the optimum over the convex outer polytope, solved by HiGHS.

Thesis, equation 3.6. Backward passes give feasible values of its dual, so this is how much any choice of slopes leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from verifix.bounds.bounds import check_rows
from verifix.bounds.engine import Engine
from verifix.bounds.method import exact_methods
from verifix.bounds.rounding import plain_arithmetic
from verifix.errors import InvalidValue, UnsupportedOperation
from verifix.graph import INPUT, Graph, Node
from verifix.operations import Affine, TwoPiece
from verifix.sets import Box, InputSet, LpBall
from verifix.tensors import flatten

Array = NDArray[np.float64]
MOST = 4000
"""Undecided units of the largest program that is tried."""
_CHUNK = 256


@torch.no_grad()
@plain_arithmetic()
def linear_program(engine: Engine, rows: Tensor, *, most: int = MOST) -> tuple[Tensor, Tensor]:
    """The least ``rows . f`` over the outer polytope of equation 3.6, on the pre-activation bounds of an engine.

    Undecided units lie between both pieces and the chord on their interval; all else is exact. The optimum is never
    below what a backward pass finds with the same pre-activation bounds, and never above any output of the network.

    Args:
        engine: of a graph of affine operations and ReLU-like ones (``TwoPiece`` with ``left <= right``), over l_inf
            balls or boxes.
        rows: linear forms of the output: ``(r, *shape)`` for all inputs, or ``(n, r, *shape)``.
        most: refuse to solve a program with more undecided units; a thousand take about a second, three thousand half a
            minute.

    Returns:
        ``lower, upper``: float64 ``(n, r)`` that enclose the optimum, up to float64 rounding whatever the solver's
        tolerance: the value of its multipliers, and that of its point after it was moved into the polytope.

    Raises:
        UnsupportedOperation: another nonlinear operation, by name.
        InvalidValue: another input set, an estimator other than exact, more than ``most`` undecided units, a
            program that HiGHS does not solve.
    """
    exact_methods(engine.method)
    low, high = _sides(engine.inputs)
    shape = engine.graph.shape
    objectives = flatten(check_rows(rows, len(low), shape), 2).detach().double().cpu().numpy()
    maps = _maps(engine.graph)
    found = np.empty((2, len(low), objectives.shape[1]))
    for i in range(len(low)):
        program = _Program(engine, maps, i, low[i], high[i], most)
        for j, c in enumerate(objectives[i if len(objectives) > 1 else 0]):
            found[:, i, j] = program.least(c)
    lower, upper = torch.from_numpy(found)
    return lower, upper


def _sides(inputs: InputSet) -> tuple[Array, Array]:
    if not (isinstance(inputs, Box) or (isinstance(inputs, LpBall) and inputs.norm == "linf")):
        kind = f"{inputs.norm} balls" if isinstance(inputs, LpBall) else type(inputs).__name__
        raise InvalidValue("inputs", kind, "the linear program takes l_inf balls and boxes")
    low, high = (flatten(side.detach(), 1).cpu().numpy() for side in inputs.to(torch.float64).hull())
    return low, high


@dataclass(frozen=True)
class _Map:
    """An affine operation as a matrix for each of its inputs, and what it adds."""

    matrices: list[Any]
    offset: Array


def _maps(graph: Graph) -> dict[str, _Map]:
    maps = {}
    for node in graph.ancestors(graph.output):
        if isinstance(node.operation, Affine):
            maps[node.name] = _map(node.operation)
        elif not (isinstance(node.operation, TwoPiece) and node.operation.left <= node.operation.right):
            where = f" ({node.source})" if node.source else ""
            raise UnsupportedOperation(
                f"node {node.name}: {type(node.operation).__name__}{where} has no place in the linear program, "
                "which knows affine operations and ReLU, leaky ReLU and absolute values"
            )
    return maps


def _map(operation: Affine) -> _Map:
    size = math.prod(operation.shape)
    parts: list[list[Any]] = [[] for _ in operation.inputs]
    for start in range(0, size, _CHUNK):
        count = min(_CHUNK, size - start)
        unit = torch.zeros(count, size, dtype=torch.float64)
        unit[torch.arange(count), start + torch.arange(count)] = 1.0
        for part, rows in zip(parts, operation.adjoint(unit.reshape(count, *operation.shape)), strict=True):
            part.append(sparse.csr_array(flatten(rows, 1).numpy()))
    full = torch.zeros(1, *operation.shape, dtype=torch.float64)
    offset = operation.offset(full)
    full = full if offset is None else full + offset
    return _Map([sparse.csr_array(sparse.vstack(part)) for part in parts], full.flatten().numpy())


@dataclass(frozen=True)
class _Expression:
    """``matrix @ variables + offset``: the entries of a node by the variables that there were when it was reached."""

    matrix: Any
    offset: Array

    def wide(self, columns: int) -> Any:
        m = self.matrix
        return sparse.csr_array((m.data, m.indices, m.indptr), shape=(m.shape[0], columns))


@dataclass(frozen=True)
class _Units:
    """Undecided units of one node: their variables, pre-activations and lines."""

    columns: slice
    before: _Expression
    pieces: tuple[float, float]
    slope: Array
    offset: Array


class _Program:
    """The program of one input; its variables are the inputs and the undecided units, all between finite sides."""

    def __init__(self, engine: Engine, maps: dict[str, _Map], index: int, low: Array, high: Array, most: int) -> None:
        self.low, self.high, self.most = [low], [high], most
        self.columns = len(low)
        self.units: list[_Units] = []
        graph = engine.graph
        known = {INPUT: _Expression(sparse.eye_array(self.columns, format="csr"), np.zeros(self.columns))}
        for node in graph.ancestors(graph.output):
            if isinstance(node.operation, TwoPiece):
                lower, upper = (
                    side[index].detach().double().cpu().flatten().numpy() for side in engine.preactivation(node)
                )
                known[node.name] = self._relax(node.operation, known[node.inputs[0]], lower, upper)
            else:
                known[node.name] = self._affine(maps[node.name], node, known)
        self.output = known[graph.output]
        self.matrix, self.side = self._inequalities()
        self.lows, self.highs = np.concatenate(self.low), np.concatenate(self.high)

    def _affine(self, map_: _Map, node: Node, known: dict[str, _Expression]) -> _Expression:
        terms = [
            (matrix @ known[source].wide(self.columns), matrix @ known[source].offset)
            for matrix, source in zip(map_.matrices, node.inputs, strict=True)
        ]
        matrix, offset = terms[0]
        for more, constant in terms[1:]:
            matrix, offset = matrix + more, offset + constant
        return _Expression(sparse.csr_array(matrix), offset + map_.offset)

    def _relax(self, operation: TwoPiece, before: _Expression, lower: Array, upper: Array) -> _Expression:
        if not np.isfinite(upper - lower).all():
            raise InvalidValue("engine", "NaN or infinite bounds of pre-activations", "no linear program holds them")
        left, right = operation.left, operation.right
        undecided = (lower < 0) & (upper > 0)
        here = slice(self.columns, self.columns + int(undecided.sum()))
        self.columns = here.stop
        if (count := self.columns - len(self.low[0])) > self.most:
            remedy = f"the linear program takes at most {self.most}: use a smaller network or a smaller eps"
            raise InvalidValue("network", f"{count} or more undecided units", remedy)
        low, high = lower[undecided], upper[undecided]
        slope = (right * high - left * low) / (high - low)
        self.low.append(np.minimum(0.0, np.minimum(left * low, right * high)))
        self.high.append(np.maximum(left * low, right * high))
        inside = _Expression(before.matrix[undecided], before.offset[undecided])
        self.units.append(_Units(here, inside, (left, right), slope, left * low - slope * low))
        scale = np.where(undecided, 0.0, np.where(lower >= 0, right, left))
        fresh = sparse.csr_array(
            (np.ones(here.stop - here.start), (undecided.nonzero()[0], np.arange(here.start, here.stop))),
            shape=(len(lower), self.columns),
        )
        kept = sparse.csr_array(sparse.diags_array(scale) @ before.wide(self.columns))
        return _Expression(sparse.csr_array(kept + fresh), scale * before.offset)

    def _inequalities(self) -> tuple[Any, Array]:
        """``matrix @ variables <= side``: above both pieces, below the chord."""
        matrices, sides = [], []
        for units in self.units:
            before, own = units.before.wide(self.columns), np.arange(units.columns.start, units.columns.stop)
            unit = sparse.csr_array((np.ones(len(own)), (np.arange(len(own)), own)), shape=before.shape)
            for piece in units.pieces:
                matrices.append(piece * before - unit)
                sides.append(-piece * units.before.offset)
            matrices.append(unit - sparse.diags_array(units.slope) @ before)
            sides.append(units.slope * units.before.offset + units.offset)
        if not matrices:
            return sparse.csr_array((0, self.columns)), np.zeros(0)
        return sparse.csr_array(sparse.vstack(matrices)), np.concatenate(sides)

    def least(self, c: Array) -> tuple[float, float]:
        """An interval around the least ``c . output``."""
        objective, constant = self.output.wide(self.columns).T @ c, float(c @ self.output.offset)
        sides = np.stack([self.lows, self.highs], 1)
        solved = linprog(objective, self.matrix, self.side, bounds=sides, method="highs")
        if solved.status != 0:
            raise InvalidValue("linear program", f"{self.columns} variables", f"HiGHS: {solved.message}")
        multipliers = np.minimum(solved.ineqlin.marginals, 0.0)
        rest = objective - self.matrix.T @ multipliers
        lower = multipliers @ self.side + np.minimum(rest * self.lows, rest * self.highs).sum()
        return float(lower) + constant, float(objective @ self._inside(solved.x)) + constant

    def _inside(self, point: Array) -> Array:
        """The point, with every variable moved between the sides that those before it leave."""
        point = np.clip(point, self.lows, self.highs)
        for units in self.units:
            before = units.before.wide(self.columns) @ point + units.before.offset
            floor = np.maximum(units.pieces[0] * before, units.pieces[1] * before)
            ceiling = units.slope * before + units.offset
            point[units.columns] = np.clip(point[units.columns], floor, np.maximum(floor, ceiling))
        return point
