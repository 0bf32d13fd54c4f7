"""Outputs that are reached against the polygon that bounds leave (thesis, figures 3.4 and 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from verifix.attack.problem import Classifier
from verifix.bounds import Polygon
from verifix.report.style import GRAY, GREEN, new_figure
from verifix.sets import InputSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PolytopePanel:
    """One network and one input set.

    Attributes:
        title: which.
        reached: two outputs on a regular grid over the input set, ``(m, m, 2)``.
        center: the outputs at the center of the set, ``(2,)``.
        polygon: what bounds say of the same two outputs.
    """

    title: str
    reached: Array
    center: Array
    polygon: Polygon


@torch.no_grad()
def reached_outputs(
    model: Classifier, inputs: InputSet, size: int = 61, outputs: tuple[int, int] = (0, 1)
) -> tuple[Array, Array]:
    """Two outputs of a network of two inputs on a grid over one set, a box ``(1, 2)``, and at its center."""
    lower, upper = (side[0] for side in inputs.hull())
    ticks = torch.linspace(0, 1, size, dtype=lower.dtype)
    up, across = torch.meshgrid(ticks, ticks, indexing="ij")
    corner = lower + torch.stack([across, up], 2).reshape(-1, 2) * (upper - lower)
    points = torch.minimum(torch.maximum(corner, lower), upper)  # the product may round past a side
    found = model(points)[:, list(outputs)].double().reshape(size, size, 2)
    return found.numpy(), model(inputs.center)[0, list(outputs)].double().numpy()


def polytope_figure(panels: Sequence[Sequence[PolytopePanel]], *, turned: bool = False) -> Figure:
    """Rows of panels; every panel has axes of its own.

    ``turned`` draws the difference and the sum of the two outputs in place of the outputs: those of a classifier of
    two classes lie close to a line, and the class changes where the difference is zero.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows, columns = len(panels), len(panels[0])
    figure = new_figure(max(3.0 * columns, 4.6), 2.9 * rows + 0.4)
    places = figure.subplots(rows, columns, squeeze=False)
    for row, line in zip(places, panels, strict=True):
        for axes, panel in zip(row, line, strict=True):
            _draw(axes, panel, turned)
        row[0].set_ylabel("output 1 + output 0" if turned else "output 1")
    for axes in places[-1]:
        axes.set_xlabel("output 1 - output 0" if turned else "output 0")
    handles = [
        Patch(color=GRAY, label="outputs that are reached"),
        Patch(facecolor=GREEN, edgecolor=GREEN, alpha=0.35, label="outer polytope"),
        Line2D([], [], marker="+", color="black", linestyle="", label="at the center"),
    ]
    if turned:
        handles.append(Line2D([], [], color="black", linewidth=1, linestyle="--", label="the class changes"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles) if columns > 1 else 2,
        fontsize="small",
        frameon=False,
    )
    return figure


def _draw(axes: Axes, panel: PolytopePanel, turned: bool) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.ticker import MaxNLocator

    frame = np.array([[-1.0, 1.0], [1.0, 1.0]]) if turned else np.eye(2)
    corners, grid, center = (points @ frame.T for points in (panel.polygon.corners, panel.reached, panel.center))
    axes.fill(*corners.T, facecolor=GREEN, alpha=0.35, zorder=1)
    axes.fill(*corners.T, facecolor="none", edgecolor=GREEN, linewidth=1.2, zorder=4)
    cells = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], 2).reshape(-1, 4, 2)
    # an edge of the same colour closes the seams between cells
    axes.add_collection(PolyCollection(list(cells), facecolor=GRAY, edgecolor=GRAY, linewidth=0.4, zorder=2))
    axes.plot(*center, marker="+", color="black", markersize=8, zorder=5)
    axes.set_title(panel.title, fontsize="medium")
    axes.margins(0.08)
    axes.autoscale_view()
    if turned and axes.get_xlim()[0] < 0 < axes.get_xlim()[1]:
        axes.axvline(0, color="black", linewidth=1, linestyle="--", zorder=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize="small")
