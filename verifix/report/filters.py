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
SMALL = 0.01
"""A weight counts as small up to this fraction of the largest one."""


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
    small = np.abs(weight) <= SMALL * np.abs(weight).max()
    return Filters(
        name,
        (weight.shape[0], weight.shape[1]),
        weight[:MOST, :MOST],
        float(small.mean()),
        float(small.all((1, 2, 3)).mean()),
    )


def filters_figure(found: Filters) -> Figure:
    """A table of kernels: columns are output channels, rows are input channels; those of one input fill a square.

    Zero is white. Colours end where 99 % of the weights lie, or at a fifth of the largest, so that a few large ones
    leave the others visible and the others do not look large.
    """
    outputs, inputs, height, width = found.kernels.shape
    columns = max(1, round(outputs**0.5)) if inputs == 1 else outputs
    rows = -(-outputs // columns) if inputs == 1 else inputs
    tall, wide = height + 1, width + 1  # a line between kernels
    canvas = np.full((rows * tall + 1, columns * wide + 1), np.nan)
    for number, kernel in enumerate(found.kernels.swapaxes(0, 1).reshape(-1, height, width)):
        row, column = divmod(number, columns)
        canvas[1 + row * tall : (row + 1) * tall, 1 + column * wide : (column + 1) * wide] = kernel

    size = min(0.9, 8 / max(rows, columns)) / max(tall, wide)  # inches of one weight
    figure = new_figure(max(6.5, canvas.shape[1] * size + 1.8), canvas.shape[0] * size + 1.5)
    axes = figure.subplots()
    sizes = np.abs(found.kernels)
    end = float(max(np.quantile(sizes, 0.99), sizes.max() / 5)) or 1.0
    axes.set_facecolor("0.8")
    image = axes.imshow(canvas, cmap="RdBu", vmin=-end, vmax=end, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="weight", extend="both" if sizes.max() > end else "neither")
    axes.set_xticks([])
    axes.set_yticks([])
    if inputs > 1:
        axes.set_xlabel("output channel")
        axes.set_ylabel("input channel")
        axes.set_xticks(*_ticks(outputs, wide))
        axes.set_yticks(*_ticks(inputs, tall))
    shown = f", the first {outputs} x {inputs} of {found.channels[0]} x {found.channels[1]}"
    axes.set_title(
        f"convolution {found.node}{shown if (outputs, inputs) != found.channels else ''}\n{found.small_weights:.1%} of "
        f"the weights and {found.small_filters:.1%} of the filters are below {SMALL:.0%} of the largest weight",
        fontsize="medium",
    )
    return figure


def _ticks(channels: int, pitch: int) -> tuple[list[float], list[str]]:
    """The middle of every kernel, or of every fourth where there are many."""
    step = 1 if channels <= 4 else 4
    return [i * pitch + pitch / 2 for i in range(0, channels, step)], [str(i) for i in range(0, channels, step)]
