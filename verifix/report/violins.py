"""How tight several bounds are on one network, as figure 3 of Lee et al."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from verifix.report.style import CLASSES, new_figure
from verifix.train.tightness import MarginBounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FAR = 1.5
"""How far above the tightest violin, in its heights, a median may lie that is still drawn."""


@dataclass(frozen=True)
class NetworkTightness:
    """Several bounds of one network: its name, the radius, and what each method makes of the same inputs."""

    name: str
    eps: float
    methods: Sequence[MarginBounds]

    def means(self) -> dict[str, dict[str, float]]:
        """Of each method the mean and the median over inputs, of both measures."""
        return {
            method.method: {
                "total_mean": float(method.total.mean()),
                "total_median": float(method.total.median()),
                "loss_mean": float(method.loss.mean()),
                "loss_median": float(method.loss.median()),
            }
            for method in self.methods
        }


def violins_figure(networks: Sequence[NetworkTightness], title: str = "") -> Figure:
    """One row for each network; left its robust loss, right the sum of its margin bounds; the lower the tighter.

    A violin is over inputs; its line is the median, its dot the mean. A method that is far looser than the tightest one
    would leave nothing to see of the others: an arrow says where its median is.
    """
    figure = new_figure(1.5 * max(len(network.methods) for network in networks) + 3.5, 2.9 * len(networks) + 0.5)
    places = figure.subplots(len(networks), 2, squeeze=False)
    for network, (left, right) in zip(networks, places, strict=True):
        _draw(left, network, [method.loss.numpy() for method in network.methods], "robust loss")
        _draw(right, network, [method.total.numpy() for method in network.methods], "sum of margin bounds")
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def _draw(axes: Axes, network: NetworkTightness, values: Sequence[NDArray[np.float64]], label: str) -> None:
    places = np.arange(1, len(values) + 1)
    known = [part[np.isfinite(part)] for part in values]
    tightest = min((part for part in known if len(part)), key=np.median, default=np.zeros(1))
    far = tightest.max() + FAR * (tightest.max() - tightest.min())
    drawn = [(place, part) for place, part in zip(places, known, strict=True) if len(part) and np.median(part) <= far]
    for place, part in zip(places, known, strict=True):
        if len(part) and np.median(part) > far:
            said = f"\N{UPWARDS ARROW}\n{np.median(part):.3g}"
            above = axes.get_xaxis_transform()
            axes.text(float(place), 0.97, said, transform=above, ha="center", va="top", fontsize="small")
    if drawn:
        at, parts = [place for place, _ in drawn], [part for _, part in drawn]
        violins: dict[str, Any] = axes.violinplot(parts, at, showextrema=False, showmedians=True, widths=0.8)
        for place, body in zip(at, violins["bodies"], strict=True):
            body.set_facecolor(CLASSES[(place - 1) % len(CLASSES)])
            body.set_alpha(0.5)
        violins["cmedians"].set_color("black")
        axes.plot(at, [part.mean() for part in parts], "o", color="black", markersize=3)
    axes.set_xlim(0.4, len(values) + 0.6)
    axes.set_xticks(places, [method.method for method in network.methods], rotation=20, fontsize="small")
    axes.set_ylabel(label)
    axes.set_title(f"{network.name}, eps {network.eps:g}", fontsize="medium")
    axes.grid(alpha=0.3, axis="y")
