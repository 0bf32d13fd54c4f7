"""Independent noise on every coordinate, in floating point or on a lattice of inputs: shared by three families."""

from __future__ import annotations

import math
from abc import abstractmethod

from torch import Tensor

from verifix.kernels.lattice import lattice_table
from verifix.kernels.noise import add_lattice_noise, add_noise
from verifix.smooth.noise.base import Noise, Samples


class Additive(Noise):
    """Noise of one law, named as the family is, and of one spread on all coordinates.

    On a lattice noise is rounded to whole levels, and added to inputs that are whole levels, as integers. For ``x = k /
    levels`` and noise ``e`` with a density, ``rint(levels (x + e)) = k + rint(levels e)`` but on ties, which have
    probability zero. So whatever classifier f is run on these copies, its votes are those of ``f o round`` under the
    continuous noise, whose theorem therefore certifies f on lattice inputs, whatever the law.
    """

    @property
    @abstractmethod
    def spread(self) -> float:
        """What the standard law is multiplied with, in units of the input."""

    def draw(self, x: Tensor, samples: Samples) -> Tensor:
        if self.lattice is None:
            return add_noise(x, samples.inputs, law=self.name, scale=self.spread, **samples.names)
        table = lattice_table(self.name, self.spread, self.lattice)
        return add_lattice_noise(x, samples.inputs, levels=self.lattice, table=table, **samples.names)

    def total_variation(self, coordinates: int) -> float:
        """That between the table that is sampled and the rounded law, over all coordinates, rounded up."""
        if self.lattice is None:
            return 0.0
        each = lattice_table(self.name, self.spread, self.lattice).total_variation
        return math.nextafter(coordinates * each, 1.0)
