"""Relative errors of estimated norms (thesis, figure 3.19)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from verifix.bounds.estimates import RelativeErrors
from verifix.report.style import BLUE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def estimates_figure(found: Sequence[RelativeErrors], title: str = "") -> Figure:
    """A histogram for each estimator (rows) and node (columns)."""
    from matplotlib.ticker import PercentFormatter

    nodes = list(dict.fromkeys(part.node for part in found))
    estimators = list(dict.fromkeys(part.estimator for part in found))
    figure = new_figure(3.2 * len(nodes) + 1.2, 1.7 * len(estimators) + 1.1)
    places = figure.subplots(len(estimators), len(nodes), squeeze=False, sharex=True, sharey="row")
    bins = np.linspace(-1, 2, 91).tolist()
    for part in found:
        axes = places[estimators.index(part.estimator)][nodes.index(part.node)]
        errors = part.errors[~part.errors.isnan()].cpu().numpy()
        axes.hist(errors, bins=bins, color=BLUE, density=True)
        axes.axvline(part.mean, color="black", linewidth=1, linestyle="--")
        axes.set_title(f"mean {part.mean:+.1%}, deviation {part.deviation:.0%}", fontsize="small")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_yticks([])
    for row, estimator in zip(places, estimators, strict=True):
        row[0].set_ylabel(estimator)
    for axes, node in zip(places[-1], nodes, strict=True):
        axes.set_xlabel(f"layer {node}")
    figure.supxlabel("relative error of the estimated spread (dashed: mean)", fontsize="small")
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure
