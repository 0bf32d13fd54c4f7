"""The decision boundary of networks of two inputs, with the box around each example (thesis, figures 3.3 and 3.17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.attack.problem import Classifier
from verifix.report.style import CLASSES, MARKERS, RED, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class BoundaryPanel:
    """One network.

    Attributes:
        title: what it is, and what is proved of it.
        side: the square that is shown, from ``side[0]`` to ``side[1]`` in both inputs.
        classes: its class on a regular grid over that, ``(m, m)``; rows go up.
        points, labels: the examples, ``(n, 2)`` and ``(n,)``.
        eps: half the side of the box around each.
        certified: which of the boxes are proved to be classified as their label, ``(n,)``.
    """

    title: str
    side: tuple[float, float]
    classes: NDArray[np.int64]
    points: Tensor
    labels: Tensor
    eps: float
    certified: Tensor


@torch.no_grad()
def class_grid(model: Classifier, side: tuple[float, float] = (0.0, 1.0), size: int = 301) -> NDArray[np.int64]:
    """The class of a network of two inputs, in float64, at ``size`` by ``size`` points of a square, ends included.

    >>> class_grid(lambda x: x, size=3).tolist()
    [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    """
    ticks = torch.linspace(*side, size, dtype=torch.float64)
    up, across = torch.meshgrid(ticks, ticks, indexing="ij")
    logits = model(torch.stack([across, up], 2).reshape(-1, 2))
    return np.asarray(logits.argmax(1).reshape(size, size).numpy())


def boundary_figure(panels: Sequence[BoundaryPanel]) -> Figure:
    """The panels side by side."""
    from matplotlib.lines import Line2D

    figure = new_figure(4.6 * len(panels), 5.6)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, panel in zip(axes, panels, strict=True):
        _draw(place, panel)
    axes[0].set_ylabel("second input")
    seen = sorted({int(label) for panel in panels for label in panel.labels})
    handles = [
        Line2D([], [], marker=_marker(c), color=_colour(c), markeredgecolor="black", linestyle="", label=f"class {c}")
        for c in seen
    ]
    handles.append(Line2D([], [], color="black", label="box: certified"))
    handles.append(Line2D([], [], color=RED, linestyle=(0, (3, 1.5)), label="box: not certified"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize="small", frameon=False)
    return figure


def _draw(axes: Axes, panel: BoundaryPanel) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    classes = max(int(panel.classes.max()), int(panel.labels.max())) + 1
    colours = ListedColormap([_colour(c) for c in range(classes)])
    low, high = panel.side
    edge = (high - low) / (len(panel.classes) - 1) / 2  # each grid point is the middle of its cell
    extent = (low - edge, high + edge, low - edge, high + edge)
    axes.imshow(panel.classes, cmap=colours, vmin=0, vmax=classes - 1, alpha=0.3, origin="lower", extent=extent)
    for c in range(1, classes):
        if len(np.unique(panel.classes >= c)) == 2:
            axes.contour(
                panel.classes >= c, levels=[0.5], colors="black", linewidths=0.8, origin="lower", extent=extent
            )
    for (x, y), label, certified in zip(
        panel.points.tolist(), panel.labels.tolist(), panel.certified.tolist(), strict=True
    ):
        style = {"color": "black"} if certified else {"color": RED, "linestyle": (0, (3, 1.5))}
        axes.add_patch(
            Rectangle((x - panel.eps, y - panel.eps), 2 * panel.eps, 2 * panel.eps, fill=False, linewidth=1.4, **style)
        )
        axes.plot(x, y, marker=_marker(label), color=_colour(label), markeredgecolor="black", markersize=6)
    axes.set_title(panel.title, fontsize="medium")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel("first input")


def _colour(label: int) -> str:
    return CLASSES[label % len(CLASSES)]


def _marker(label: int) -> str:
    return MARKERS[label % len(MARKERS)]
