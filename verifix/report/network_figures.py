"""Pictures of any network on examples: its filters, the states of its units, and how tight its bounds are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from verifix.bounds import Estimator, Method, RelativeErrors, relative_errors, unit_states
from verifix.bounds.method import exact_methods
from verifix.bounds.tiles import budget
from verifix.data import Dataset
from verifix.errors import InvalidValue, UserError
from verifix.graph import Graph, capture
from verifix.models import probe
from verifix.operations import TwoPiece
from verifix.report.estimates import estimates_figure
from verifix.report.filters import filters, filters_figure
from verifix.report.style import Progress, save_figure
from verifix.report.tightness import Tightness, join, tightness, tightness_figure
from verifix.report.units import units_figure
from verifix.sets import Ball, InputSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROJECTIONS = (10, 50, 100)
ESTIMATED = 10
"""Examples whose norms are estimated."""
UNDECIDED = 2000
"""Units of the largest linear program that is tried: it takes seconds, and there is one for each wrong class."""


@dataclass(frozen=True)
class NetworkPictures:
    """What was drawn, and why other pictures were not: the reason for each of these, by name."""

    written: list[Path]
    left_out: dict[str, str]


def draw_network(
    folder: Path,
    model: nn.Module,
    data: Dataset,
    ball: Ball,
    method: Method,
    *,
    programs: int = 10,
    memory: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> NetworkPictures:
    """Write what can be drawn of a network into a folder, each picture with its numbers beside it.

    ``filters_N.png`` for the first two convolutions (figures 3.9 and 3.10), ``units.png`` over all examples (3.11),
    ``estimates.png`` over the first ten, with 10, 50 and 100 projections (3.19), ``tightness.png`` over the first
    ``programs`` of them (3.8). ``memory`` is the byte budget of the bounds, ``seed`` that of the projections.

    Raises:
        UserError: an operation that is not supported, a network that is no classifier of the data, inputs outside the
            box, an estimator other than exact, a budget that is too small, a network without anything to draw; nothing
            has been written then.
    """
    exact_methods(method)
    device = next((parameter.device for parameter in model.parameters()), data.images.device)
    data = replace(data, images=data.images.to(device), labels=data.labels.to(device))
    probe(model, data.images[:1], data.classes)
    graph, sets = capture(model, data.images[:2]), ball.around(data.images)
    budget(graph, [data.images.dtype], device, memory)  # refuses one that is too small, before anything is written
    written: list[Path] = []
    left_out: dict[str, str] = {}

    def save(name: str, figure: Figure, numbers: object) -> None:
        save_figure(folder / f"{name}.png", figure, numbers)
        written.append(folder / f"{name}.png")

    convolutions = filters(graph)
    for number, found in enumerate(convolutions):
        save(f"filters_{number}", filters_figure(found), found)
    if not convolutions:
        left_out["filters"] = "the network has no convolution"
    if any(isinstance(node.operation, TwoPiece) for node in graph.nonlinear(graph.output)):
        states = unit_states(graph, sets, method, memory=memory)
        progress("bounds of units", len(data), len(data))
        save("units", units_figure(states, f"{len(data)} examples, {ball.norm} eps {ball.eps:g}"), {"layers": states})
    else:
        left_out["units"] = "the network has no ReLU, leaky ReLU or absolute value"
    errors = _estimates(graph, sets.select(slice(0, ESTIMATED)), ball, seed)
    if errors:
        save("estimates", estimates_figure(errors), [_summary(part) for part in errors])
    else:
        left_out["estimates"] = f"no layer behind a nonlinear one has more than {max(PROJECTIONS)} entries"
    if programs:
        try:
            panel = _tightness(graph, data.first(programs), ball, method, progress)
            save("tightness", tightness_figure([panel]), {"panels": [panel]})
        except UserError as reason:
            left_out["tightness"] = str(reason)
    if not written:
        raise InvalidValue("network", type(model).__name__, f"nothing to draw: {'; '.join(left_out.values())}")
    return NetworkPictures(written, left_out)


def _estimates(graph: Graph, sets: InputSet, ball: Ball, seed: int) -> list[RelativeErrors]:
    """Errors of estimated norms, for every hidden node that is worth it."""
    kind: Literal["gaussian", "median"] = "gaussian" if ball.norm == "l2" else "median"
    hidden = dict.fromkeys(node.inputs[0] for node in graph.nonlinear(graph.output))
    nodes = [n for n in hidden if graph.nonlinear(n) and math.prod(graph.shape_of(n)) > max(PROJECTIONS)]
    estimators = [Estimator(kind, k, seed=seed) for k in PROJECTIONS]
    return [relative_errors(graph, sets, estimator, node) for estimator in estimators for node in nodes]


def _summary(part: RelativeErrors) -> dict[str, object]:
    shares = part.errors[~part.errors.isnan()].quantile(torch.linspace(0, 1, 21).to(part.errors))
    facts = {"node": part.node, "estimator": part.estimator, "mean": part.mean, "deviation": part.deviation}
    return {**facts, "estimates": part.errors.numel(), "quantiles": shares}


def _tightness(graph: Graph, data: Dataset, ball: Ball, method: Method, progress: Progress) -> Tightness:
    parts = []
    for i in range(len(data)):
        x, y = data.images[i : i + 1], data.labels[i : i + 1]
        parts.append(tightness("", graph, x, y, ball, method, most=UNDECIDED))
        progress("linear programs", i + 1, len(data))
    return join(f"{len(data)} examples, eps {ball.eps:g}", parts)
