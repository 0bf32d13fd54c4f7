"""Dual bounds against the linear program that they bound (thesis, figure 3.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.bounds import Engine, Method
from verifix.bounds.linear_program import MOST, linear_program
from verifix.certify import Margins
from verifix.graph import Graph
from verifix.report.style import CLASSES, MARKERS, new_figure
from verifix.sets import Ball
from verifix.tensors import contract

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tightness:
    """Margins ``f_y - f_j`` of one network, over examples and classes ``j != y``: all ``(k,)``.

    Attributes:
        name: of the network.
        eps: the radius.
        center: the margin of the example itself.
        program: the optimum of the linear program, from above, within the solver's tolerance.
        dual: what the backward pass finds with the same pre-activation bounds; never more.
    """

    name: str
    eps: Array
    center: Array
    program: Array
    dual: Array

    @property
    def excess(self) -> Array:
        """How much further than the program the dual bound falls below the margin at the center, as a fraction."""
        fall = self.center - self.program
        return (self.program - self.dual) / np.where(fall > 0, fall, 1.0)


@torch.no_grad()
def tightness(
    name: str, graph: Graph, x: Tensor, y: Tensor, ball: Ball, method: Method, *, most: int = MOST
) -> Tightness:
    """Solve the program of every margin of every example, in float64; rounding is accounted in the dual bound alone.

    Raises:
        UnsupportedOperation, InvalidValue: as :func:`verifix.bounds.linear_program.linear_program`; ``ball`` is one of
            l_inf, with one radius for all.
    """
    x = x.to(torch.float64)
    engine = Engine(graph, ball.around(x), method)
    rows = Margins(y, graph.shape[0]).rows(slice(None), x)
    _, optimum = linear_program(engine, rows, most=most)
    dual, _ = engine.rows(graph.output, rows, upper=False)
    center = contract(rows, graph(x))
    eps = np.full(optimum.numel(), float(ball.eps))
    return Tightness(name, eps, *(side.flatten().cpu().numpy() for side in (center, optimum, dual)))


def join(name: str, parts: Sequence[Tightness]) -> Tightness:
    """Several of them as one."""
    columns = ([getattr(part, field) for part in parts] for field in ("eps", "center", "program", "dual"))
    return Tightness(name, *(np.concatenate(column) for column in columns))


def tightness_figure(panels: Sequence[Tightness]) -> Figure:
    """One scatter for each network; a bound on the diagonal cannot be better with these relaxations."""
    figure = new_figure(max(3.5 * len(panels), 4.4), 4.2)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    radii = sorted({float(eps) for panel in panels for eps in panel.eps})
    for axes, panel in zip(places, panels, strict=True):
        _draw(axes, panel, radii)
    places[0].set_ylabel("dual bound of the margin")
    if len(radii) > 1:
        handles, labels = places[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(radii), fontsize="small", frameon=False)
    return figure


def _draw(axes: Axes, panel: Tightness, radii: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = float(min(panel.dual.min(), panel.program.min())), float(panel.program.max())
    room = 0.05 * (high - low) or 1.0
    low, high = low - room, high + room
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.plot((low, high), (low, high), color="black", linewidth=0.8, zorder=1)
    for number, eps in enumerate(radii):
        here = panel.eps == eps
        colour, marker = CLASSES[number % len(CLASSES)], MARKERS[number % len(MARKERS)]
        axes.scatter(
            panel.program[here], panel.dual[here], s=18, color=colour, marker=marker, alpha=0.7, linewidth=0,
            zorder=2, label=f"eps {eps:g}",
        )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("optimum of the linear program")
    axes.set_title(f"{panel.name}\ndual bound falls {np.median(panel.excess):.1%} further (median)", fontsize="medium")
