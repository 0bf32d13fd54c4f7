"""The kernels of a convolution as small images (thesis, figures 3.9 and 3.10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from verifix.graph import Graph
from verifix.operations import Convolution
from verifix.report.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
MOST = 16
"""Kernels along either side of the picture."""
ZERO = 0.01
"""A weight counts as near zero below this fraction of the largest one."""


@dataclass(frozen=True)
class Filters:
    """Of one convolution of ``channels`` (outputs, inputs), the first ``kernels`` ``(outputs, inputs, height, width)``.

    ``small_weights`` and ``small_filters`` are fractions of all weights, and of all outputs without any other; small is
    at most a hundredth of the largest weight.
    """

    node: str
    channels: tuple[int, int]
    kernels: Array
    small_weights: float
    small_filters: float


def filters(graph: Graph, first: int = 2) -> list[Filters]:
    """The kernels of the first convolutions of a network; none where it has none."""
    nodes = [node for node in graph.nodes.values() if isinstance(node.operation, Convolution)]
    return [_filters(node.name, node.operation) for node in nodes[:first] if isinstance(node.operation, Convolution)]


def _filters(name: str, operation: Convolution) -> Filters:
    weight = operation.weight().detach().double().cpu().numpy()
    weight = weight.reshape(*weight.shape[:2], -1, weight.shape[-1])  # kernels of one axis are rows
    small = np.abs(weight) <= ZERO * np.abs(weight).max()
    return Filters(
        name,
        (weight.shape[0], weight.shape[1]),
        weight[:MOST, :MOST],
        float(small.mean()),
        float(small.all((1, 2, 3)).mean()),
    )


def filters_figure(found: Filters) -> Figure:
    """A table of kernels, one row per output channel; those of a single input channel fill a square.

    Zero is white; colours end where 99 % of the weights lie, so that a few large ones leave the others visible.
    """
    kernels = found.kernels
    outputs, inputs, height, width = kernels.shape
    columns = max(1, round(outputs**0.5)) if inputs == 1 else inputs
    rows = -(-outputs // columns) if inputs == 1 else outputs
    flat = kernels.reshape(-1, height, width)
    tall, wide = height + 1, width + 1  # a line between kernels
    canvas = np.full((rows * tall + 1, columns * wide + 1), np.nan)
    for number, kernel in enumerate(flat):
        row, column = divmod(number, columns)
        canvas[1 + row * tall : (row + 1) * tall, 1 + column * wide : (column + 1) * wide] = kernel

    size = min(0.9, 7 / columns)
    figure = new_figure(max(4.2, columns * size * wide / tall + 1.6), rows * size + 1.3)
    axes = figure.subplots()
    largest = float(np.quantile(np.abs(kernels), 0.99)) or float(np.abs(kernels).max()) or 1.0
    axes.set_facecolor("0.8")
    image = axes.imshow(canvas, cmap="RdBu", vmin=-largest, vmax=largest, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="weight", shrink=0.8, extend="both")
    if inputs > 1:
        axes.set_xlabel("input channel")
        axes.set_ylabel("output channel")
        axes.set_xticks(
            [i * wide + (width + 1) / 2 for i in range(0, inputs, 4)], [str(i) for i in range(0, inputs, 4)]
        )
        axes.set_yticks(
            [i * tall + (height + 1) / 2 for i in range(0, outputs, 4)], [str(i) for i in range(0, outputs, 4)]
        )
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    of = (
        ""
        if (outputs, inputs) == found.channels
        else f", the first {outputs} x {inputs} of " + " x ".join(map(str, found.channels))
    )
    axes.set_title(
        f"convolution {found.node}{of}\n{found.small_weights:.0%} of the weights and {found.small_filters:.0%} of the "
        f"filters are small (below {ZERO:.0%} of the largest)",
        fontsize="medium",
    )
    return figure
