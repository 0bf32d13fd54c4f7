"""The loss landscape while networks are trained, as figure 1 of Lee et al., and what its curves say on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from verifix.report.style import CLASSES, new_figure
from verifix.train.runs import TrainRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Where = Literal["scheduled", "target"]
DRAWN = 120
"""Points of one line in a picture, at most: of more, neighbours are averaged."""
SHOWN = 1e-7
"""Of a measure's largest value, what a logarithmic axis begins with: what is below is mostly rounding."""


@dataclass(frozen=True)
class LandscapeCurves:
    """The measurements of one run, over ``position`` in epochs; all arrays ``(k,)``, NaN where nothing is known.

    Attributes:
        name: of the run.
        ramp_end: the epoch at which eps is reached.
        eps: the scheduled one.
        rising: whether eps is on its way: above 0, and not yet what it will be.
        loss, lowest, highest: at the point itself, and along the gradient.
        variation: the highest loss less the lowest.
        distance, cosine: between the gradient at the point and that one step of gradient descent further (c = 1).
        distance_least, distance_most, cosine_least, cosine_most: over all steps, from half a learning rate to five.
    """

    name: str
    ramp_end: float
    position: Array
    eps: Array
    rising: NDArray[np.bool_]
    loss: Array
    lowest: Array
    highest: Array
    variation: Array
    distance: Array
    distance_least: Array
    distance_most: Array
    cosine: Array
    cosine_least: Array
    cosine_most: Array


MEASURES = {
    "variation": "loss variation",
    "distance": "gradient distance",
    "cosine": "cosine distance",
}


def landscape_curves(name: str, run: TrainRun, where: Where) -> LandscapeCurves:
    """The curves of a run's log, at the scheduled eps or at the target."""
    lines = run.landscape
    eps, target = (_array(line[key] for line in lines) for key in ("eps", "target_eps"))
    rising = (eps > 0) & (eps < target)
    distance, cosine = (_along(lines, where, key) for key in ("distance", "cosine"))
    lowest, highest = (_array(line[where][key] for line in lines) for key in ("lowest", "highest"))
    return LandscapeCurves(
        name,
        ramp_end(run),
        _array(line["position"] for line in lines),
        eps,
        rising if rising.any() else np.ones_like(rising),
        _array(line[where]["loss"][0] for line in lines),
        lowest,
        highest,
        highest - lowest,
        *distance,
        *cosine,
    )


def ramp_end(run: TrainRun) -> float:
    """The epoch at which the target eps is reached; 0 where it is there from the beginning."""
    settings = run.settings
    rises = not settings.standard and settings.eps_schedule != "constant"
    return settings.eps_warmup + (settings.eps_ramp or 0.0) * rises


def averages(curves: Sequence[LandscapeCurves]) -> dict[str, dict[str, float | None]]:
    """Of each measure the mean of every run while its eps rises, smoothest run first; None where none is finite."""
    found: dict[str, dict[str, float | None]] = {}
    for measure in MEASURES:
        means = {curve.name: _mean(getattr(curve, measure)[curve.rising]) for curve in curves}
        found[measure] = dict(sorted(means.items(), key=lambda item: (item[1] is None, item[1] or 0.0)))
    return found


def landscape_figure(curves: Sequence[LandscapeCurves], title: str = "") -> Figure:
    """Left: the loss, and shaded how far it goes along the gradient; right: three measures of non-smoothness.

    The line of a measure of gradients is that of one step, and what is shaded that of steps from half a learning rate
    to five. Vertical lines are where eps is reached.
    """
    figure = new_figure(11, 6)
    grid = figure.add_gridspec(3, 2, width_ratios=(1.15, 1))
    loss = figure.add_subplot(grid[:, 0])
    places = {name: figure.add_subplot(grid[row, 1], sharex=loss) for row, name in enumerate(MEASURES)}
    for number, curve in enumerate(curves):
        colour = CLASSES[number % len(CLASSES)]
        _draw(loss, curve, curve.loss, (curve.lowest, curve.highest), colour)
        _draw(places["variation"], curve, curve.variation, None, colour)
        _draw(places["distance"], curve, curve.distance, (curve.distance_least, curve.distance_most), colour)
        _draw(places["cosine"], curve, curve.cosine, (curve.cosine_least, curve.cosine_most), colour)
    ends = sorted({curve.ramp_end for curve in curves} - {0.0})
    for name, axes in {"loss along the gradient": loss, **places}.items():
        for end in ends:
            axes.axvline(end, color="0.5", linestyle=":", linewidth=1)
        axes.set_ylabel(MEASURES.get(name, name))
        axes.grid(alpha=0.3)
    for name, axes in places.items():
        most = max(
            np.max(getattr(curve, name), initial=0.0, where=np.isfinite(getattr(curve, name))) for curve in curves
        )
        if most > 0:
            axes.set_yscale("log")
            axes.set_ylim(bottom=max(axes.get_ylim()[0], most * SHOWN))
    for axes in (places["variation"], places["distance"]):
        axes.tick_params(labelbottom=False)
    loss.set_xlabel("epoch")
    places["cosine"].set_xlabel("epoch")
    loss.legend(fontsize="small")
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def _draw(axes: Axes, curve: LandscapeCurves, line: Array, band: tuple[Array, Array] | None, colour: str) -> None:
    position = averaged(curve.position)
    axes.plot(position, averaged(line), color=colour, linewidth=1.2, label=curve.name)
    if band is not None:
        axes.fill_between(position, averaged(band[0]), averaged(band[1]), color=colour, alpha=0.2, linewidth=0)


def averaged(values: Array, most: int = DRAWN) -> Array:
    """Means of neighbours, as many together as leave no more than ``most``; NaN where none of them is known.

    >>> averaged(np.array([1.0, 3.0, np.nan, 4.0, 5.0]), most=3).tolist()
    [2.0, 4.0, 5.0]
    """
    together = -(-len(values) // most)
    if together <= 1:
        return values
    parts = [values[start : start + together] for start in range(0, len(values), together)]
    return np.array([part[~np.isnan(part)].mean() if (~np.isnan(part)).any() else np.nan for part in parts])


def _along(lines: Sequence[Mapping[str, Any]], where: Where, key: str) -> tuple[Array, Array, Array]:
    """Of a measure at every multiple: that at 1, and the least and the most over those above 0."""
    rows = [_array(line[where][key]) for line in lines]
    one = [row[line["multiples"].index(1.0)] for row, line in zip(rows, lines, strict=True)]
    away = [row[np.array(line["multiples"]) > 0] for row, line in zip(rows, lines, strict=True)]
    return np.array(one), np.array([row.min() for row in away]), np.array([row.max() for row in away])


def _array(values: Any) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _mean(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
