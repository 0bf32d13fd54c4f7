"""Noise that is added on a lattice of inputs: shared by the families that can do so."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from verifix.kernels.lattice import lattice_table
from verifix.kernels.noise import add_lattice_noise
from verifix.smooth.noise.base import Samples

Law = Literal["gaussian", "laplace", "uniform"]


def add_on_lattice(x: Tensor, samples: Samples, law: Law, scale: float, levels: int) -> Tensor:
    """Noise rounded to whole levels, added to inputs that are whole levels, as integers.

    For ``x = k / levels`` and noise ``e`` with a density, ``rint(levels (x + e)) = k + rint(levels e)`` but on ties,
    which have probability zero. So whatever classifier f is run on these copies, its votes are those of ``f o round``
    under the continuous noise, whose theorem therefore certifies f on lattice inputs, whatever the law.
    """
    return add_lattice_noise(
        x,
        samples.inputs,
        levels=levels,
        table=lattice_table(law, scale, levels),
        **samples.names,
    )


def lattice_variation(law: Law, scale: float, levels: int | None, coordinates: int) -> float:
    """Total variation between the table that is sampled and the rounded law, over all coordinates, rounded up."""
    if levels is None:
        return 0.0
    return math.nextafter(coordinates * lattice_table(law, scale, levels).total_variation, 1.0)
