"""Bounds of ReLU networks against the optimum of the linear program of equation 3.6, solved by HiGHS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog
from torch import nn

from tests.bounds.cases import METHODS as EVERY
from tests.bounds.cases import SLOPES, input_sets, points
from tests.bounds.dense import Array, Interval, Piece, pieces
from tests.networks import graphs, relu_network
from verifix.bounds import Engine, Method, parse_method
from verifix.bounds.linear_program import linear_program
from verifix.errors import InvalidValue, UnsupportedOperation
from verifix.graph import Graph, Node, capture
from verifix.operations import Affine, MaxPool, TwoPiece
from verifix.sets import Ball, InputSet, LpBall

METHODS = (
    "ibp",
    *(f"{intermediate}:{slopes}" for intermediate in ("interval", "backward") for slopes in SLOPES),
)


class Program:
    """The feasible set of equation 3.6 with the variables ``z_1 ... z_i``; pre-activations are eliminated."""

    def __init__(self, inputs: LpBall) -> None:
        lower, upper = (side[0].flatten().numpy() for side in inputs.hull())
        self.sides = [np.stack([lower, upper], 1)]
        self.columns = len(lower)
        self.previous = slice(0, len(lower))
        self.less: list[tuple[sparse.csr_array, Array]] = []
        if inputs.norm == "l1":
            self._within_l1(inputs)

    def _within_l1(self, inputs: LpBall) -> None:
        """``sum_j t_j / w_j <= 1`` with ``t_j >= |z_j - x_j|``."""
        center = inputs.center[0].flatten().numpy()
        weight = inputs.eps.expand_as(inputs.center)[0].flatten().numpy()
        n = len(center)
        eye = sparse.eye_array(n)
        self.columns += n
        self.sides.append(np.stack([np.zeros(n), weight], 1))
        self.less.append((sparse.csr_array(sparse.hstack([eye, -eye])), center))
        self.less.append((sparse.csr_array(sparse.hstack([-eye, -eye])), -center))
        self.less.append((sparse.csr_array(np.concatenate([np.zeros(n), 1 / weight])[None]), np.ones(1)))

    def add(self, piece: Piece, interval: Interval) -> None:
        """``z = relu(W z_previous + b)``, relaxed on the given bounds of the pre-activation."""
        lower, upper = interval
        n = len(lower)
        here = slice(self.columns, self.columns + n)
        self.columns += n
        weight, eye, b = np.zeros((n, self.columns)), np.zeros((n, self.columns)), piece.bias
        weight[:, self.previous] = piece.weight
        eye[np.arange(n), np.arange(here.start, here.stop)] = 1.0
        active, crossing = lower >= 0, (lower < 0) & (upper > 0)
        top = np.where(active | crossing, np.inf, 0.0)
        self.sides.append(np.stack([np.where(active, -np.inf, 0.0), top], 1))
        width = (upper - lower)[:, None]
        rows = [
            (weight - eye, -b, active | crossing),
            (eye - weight, b, active),
            (width * eye - upper[:, None] * weight, upper * b - upper * lower, crossing),
        ]
        self.less += [(sparse.csr_array(row[where]), side[where]) for row, side, where in rows]
        self.previous = here

    def least(self, piece: Piece, c: Array) -> float:
        """The least ``c . (W z + b)``."""
        objective = np.zeros(self.columns)
        objective[self.previous] = c @ piece.weight
        matrix = sparse.vstack([_widened(row, self.columns) for row, _ in self.less]) if self.less else None
        side = np.concatenate([side for _, side in self.less]) if self.less else None
        solved = linprog(objective, matrix, side, bounds=np.concatenate(self.sides), method="highs")
        assert solved.status == 0, solved.message
        return float(solved.fun + c @ piece.bias)


def _widened(row: sparse.csr_array, columns: int) -> sparse.csr_array:
    return sparse.csr_array((row.data, row.indices, row.indptr), shape=(row.shape[0], columns))


def networks() -> list[tuple[str, nn.Sequential, tuple[int, ...]]]:
    torch.manual_seed(3)
    convolutional = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    return [
        ("wide", relu_network((4, 20, 20, 10, 3), 0), (4,)),
        ("deep", relu_network((3, 6, 6, 6, 6, 2), 1, scale=1.5), (3,)),
        ("single", relu_network((1, 1, 1), 2), (1,)),
        ("convolutional", convolutional.double().eval(), (1, 6, 6)),
    ]


CASES = networks()
(CAP,) = parse_method("cap")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("model", "shape"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize(
    ("norm", "eps", "box"), [("linf", 0.1, None), ("linf", 0.3, (0, 1)), ("l1", 0.5, (0, 1)), ("linf", 0.005, None)]
)
def test_below_the_optimum(
    model: nn.Sequential, shape: tuple[int, ...], method: str, norm: str, eps: float, box: tuple[float, float] | None
) -> None:
    """Margins of the output and units of every hidden layer; equal where no unit before them crosses zero."""
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs = Ball(norm, eps, box).around(x)
    (choice,) = parse_method(method)
    engine = Engine(capture(model, x), inputs, choice, rounding=False)
    program = Program(inputs)
    crossing = False
    network = pieces(model, shape)
    for piece in network:
        last = piece is network[-1]
        size = len(piece.bias)
        rows = np.eye(size)[[0] * (size - 1)] - np.eye(size)[1:] if last and size > 1 else np.eye(size)
        rows = np.concatenate([rows, -rows])[:: max(1, size // 4)]
        lower, _ = engine.rows(
            piece.name, torch.from_numpy(rows).reshape(1, -1, *engine.graph.shape_of(piece.name)), upper=False
        )
        best = np.array([program.least(piece, row) for row in rows])
        computed = lower[0].detach().numpy()
        tolerance = 1e-7 * (1 + np.abs(best))
        assert (computed <= best + tolerance).all()
        if not crossing and method != "ibp":
            np.testing.assert_allclose(computed, best, atol=1e-7, rtol=1e-7)
        interval = engine._preactivation(piece.name)
        low, high = (side[0].detach().flatten().numpy() for side in interval)
        crossing |= bool(((low < 0) & (high > 0)).any())
        if not last:
            program.add(piece, (low, high))


def test_some_networks_are_stable_and_some_are_not() -> None:
    """The equality above is not vacuous, nor is the inequality."""
    seen = set()
    for _, model, shape in CASES:
        x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for eps in (0.005, 0.3):
            engine = Engine(capture(model, x), _ball(x, eps), parse_method("cap")[0])
            engine.node(engine.graph.output)
            for node in engine.graph.nonlinear(engine.graph.output):
                lower, upper = engine._preactivation(node.inputs[0])
                seen.add((bool(((lower < 0) & (upper > 0)).any()), eps))
    assert {(True, 0.3), (False, 0.005)} <= seen


def _ball(x: torch.Tensor, eps: float) -> InputSet:
    return Ball("linf", eps).around(x)


@pytest.mark.parametrize("method", ["cap", "crown-ibp"])
@pytest.mark.parametrize(("model", "shape"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize(("eps", "box"), [(0.1, None), (0.3, (0, 1)), (0.005, None)])
def test_encloses_the_optimum(
    model: nn.Sequential, shape: tuple[int, ...], method: str, eps: float, box: tuple[float, float] | None
) -> None:
    """The package's program, without pre-activations and stable units, has the optimum of the one written out above."""
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    engine = Engine(capture(model, x), Ball("linf", eps, box).around(x), parse_method(method)[0])
    network = pieces(model, shape)
    rows = np.random.default_rng(0).normal(size=(3, len(network[-1].bias)))
    lower, upper = linear_program(engine, torch.from_numpy(rows))
    assert lower.shape == upper.shape == (2, 3)
    for i in range(2):
        program = Program(Ball("linf", eps, box).around(x[i : i + 1]))
        for piece in network[:-1]:
            low, high = engine._preactivation(piece.name)
            program.add(piece, (low[i].detach().flatten().numpy(), high[i].detach().flatten().numpy()))
        best = np.array([program.least(network[-1], row) for row in rows])
        tolerance = 1e-6 * (1 + np.abs(best))  # HiGHS keeps constraints to 1e-7
        assert (lower[i].numpy() <= best + tolerance).all()
        assert (best <= upper[i].numpy() + tolerance).all()
        assert (upper[i] - lower[i] <= torch.from_numpy(tolerance)).all()


@settings(max_examples=250)
@given(st.data(), graphs(), st.sampled_from([0.0, 0.1, -1.0]), st.sampled_from([m for m in EVERY if "+" not in m]))
def test_between_the_dual_bound_and_the_network(data: st.DataObject, graph: Graph, left: float, method: str) -> None:
    """Of any graph, with residual and dense connections."""
    assume(not any(isinstance(node.operation, MaxPool) for node in graph.nodes.values()))
    graph = Graph(graph.input_shape, [_with_pieces(node, left) for node in graph.nodes.values()])
    inputs = data.draw(input_sets(graph.input_shape, torch.float64).filter(_is_box))
    rows = torch.eye(graph.shape[0], dtype=torch.float64)
    engine = Engine(graph, inputs, parse_method(method)[0])
    lower, upper = linear_program(engine, rows)
    x = points(inputs, graph).detach()
    with torch.no_grad():
        dual, _ = engine.rows(graph.output, rows[None])
        rounding = Engine(graph, inputs, engine.method, rounding=False).rows(graph.output, rows[None])[0] - dual
        reached = graph(x.flatten(0, 1)).unflatten(0, (-1, len(inputs))).amin(0)
    assert (dual <= upper).all()
    assert (lower <= upper + rounding).all()
    assert (lower <= reached + rounding).all()
    sides = [engine.preactivation(node) for node in graph.nonlinear(graph.output)]
    if method != "ibp" and not any(((low < 0) & (high > 0)).any() for low, high in sides):
        assert (dual <= lower).all() and (lower <= dual + 2 * rounding).all()


def _with_pieces(node: Node, left: float) -> Node:
    """The node, with a piecewise linear operation in place of one that the program has no place for."""
    return node if _has_a_place(node.operation) else replace(node, operation=TwoPiece(node.shape, left, 1.0))


def _is_box(inputs: InputSet) -> bool:
    return not (isinstance(inputs, LpBall) and inputs.norm != "linf")


@given(st.data(), graphs())
def test_refuses_by_name(data: st.DataObject, graph: Graph) -> None:
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    engine = Engine(graph, inputs, CAP)
    foreign = [node for node in graph.ancestors(graph.output) if not _has_a_place(node.operation)]
    if not _is_box(inputs):
        with pytest.raises(InvalidValue, match=r"inputs = l[12] balls: the linear program takes l_inf balls and boxes"):
            linear_program(engine, torch.eye(graph.shape[0]))
    elif foreign:
        with pytest.raises(
            UnsupportedOperation, match=f"node {foreign[0].name}: {type(foreign[0].operation).__name__}"
        ):
            linear_program(engine, torch.eye(graph.shape[0]))


def _has_a_place(operation: object) -> bool:
    return isinstance(operation, Affine) or (isinstance(operation, TwoPiece) and operation.left <= operation.right)


def test_refuses_large_programs() -> None:
    engine = Engine(capture(CASES[0][1], torch.zeros(1, 4).double()), _ball(torch.zeros(1, 4).double(), 0.3), CAP)
    with pytest.raises(
        InvalidValue, match="or more undecided units: the linear program takes at most 4: use a smaller network or a"
    ):
        linear_program(engine, torch.eye(3), most=4)
    with pytest.raises(InvalidValue, match="rows = tensor of shape"):
        linear_program(engine, torch.zeros(2, 4))
    estimated = Engine(engine.graph, engine.inputs, Method("backward", "same", "median:5"))
    with pytest.raises(InvalidValue, match="estimator = median:5: does not bound for certain: use exact here"):
        linear_program(estimated, torch.eye(3))
