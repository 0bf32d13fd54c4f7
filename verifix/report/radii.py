"""The curve of certified radii (thesis, figure 3.7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from verifix.report.style import new_figure, write_figure

NEIGHBOURS = 0.02
"""The colour of an input is the fraction of correct ones among this fraction of the inputs, the nearest in order."""


def radius_picture(path: Path, radii: Sequence[float], correct: Sequence[bool], title: str) -> None:
    """Draw the largest certified radius of every input, in increasing order; written whole or not at all.

    The colour tells how many of the inputs around there the network classifies correctly.

    Args:
        path: where to write the picture, a PNG.
        radii: the largest certified radius of each input.
        correct: whether the network's class is its label.
        title: of the picture.
    """
    order = np.argsort(np.asarray(radii), kind="stable")
    fraction = moving_fraction(np.asarray(correct, dtype=bool)[order])
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    dots = axes.scatter(
        np.arange(1, len(order) + 1), np.asarray(radii)[order], c=fraction, s=9, cmap="viridis", vmin=0, vmax=1
    )
    figure.colorbar(dots, label="fraction of inputs classified correctly")
    axes.set_xlabel("inputs, in the order of their radii")
    axes.set_ylabel("largest certified eps")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set_title(title)
    write_figure(path, figure)


def moving_fraction(correct: np.ndarray) -> np.ndarray:
    """The fraction of true entries among the neighbours of each, ``(n,)``.

    >>> moving_fraction(np.array([False] * 50 + [True] * 50))[[0, 48, 49, 50, 99]].round(2)
    array([0.  , 0.  , 0.33, 0.67, 1.  ])
    """
    reach = max(1, round(len(correct) * NEIGHBOURS / 2))
    sums = np.concatenate([[0], np.cumsum(correct)])
    places = np.arange(len(correct))
    below, above = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(correct))
    return np.asarray((sums[above] - sums[below]) / (above - below))
