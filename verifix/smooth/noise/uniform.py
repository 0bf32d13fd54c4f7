"""Uniform noise, which certifies l1 (and a little l_inf)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from verifix.smooth.noise.additive import Additive
from verifix.smooth.noise.parameters import check_lattice, check_scale, check_whole
from verifix.smooth.noise.rounding import lowered
from verifix.smooth.probabilities import Probabilities


@dataclass(frozen=True)
class Uniform(Additive):
    """Independent noise on every coordinate, uniform on ``[-scale, scale]``.

    The radius is ``scale (p_A - p_B)`` in l1 (Lee et al. 2019; Yang et al. 2020, ``2 scale (p_A - 1/2)`` for
    ``p_B = 1 - p_A``): moving by d changes every probability by at most the total variation
    ``1 - prod(1 - |d_i| / 2 scale)+ <= ||d||_1 / 2 scale``. Tight: moves along one coordinate attain it.

    Args:
        scale: half the width of the noise, in units of the input.
        lattice: levels per unit, as for :class:`~verifix.smooth.noise.gaussian.Gaussian`.

    Raises:
        InvalidType, InvalidValue: if scale is not one finite number > 0, lattice not a whole number >= 1.

    >>> import numpy as np
    >>> from verifix.smooth.probabilities import Probabilities
    >>> bounds = Probabilities(top=np.array([0.75, 0.4]), failure=np.array([0.25, 0.6]), other=np.array([0.25, 0.1]))
    >>> Uniform(2.0).radius(bounds).round(4)
    array([1. , 0.6])
    >>> Uniform(2.0).linf_radius(bounds, coordinates=2).round(4)
    array([0.5359, 0.3122])
    """

    scale: float
    lattice: int | None = None

    name: ClassVar[str] = "uniform"
    norm: ClassVar[str] = "l1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale("scale", self.scale))
        object.__setattr__(self, "lattice", check_lattice(self.lattice))

    @property
    def spread(self) -> float:
        return self.scale

    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        return lipschitz_radius(probabilities, self.scale)

    def linf_radius(self, probabilities: Probabilities, coordinates: int) -> NDArray[np.float64]:
        """The l_inf radius on inputs of so many coordinates, ``2 scale (1 - (1 - (p_A - p_B) / 2)^(1/n))``, rounded
        down; nan where nothing is certified. Yang et al. 2020 for two classes; the total variation is the same."""
        check_whole("coordinates", coordinates)
        gap = probabilities.top - probabilities.other
        with np.errstate(invalid="ignore"):
            # log1p and expm1 are trusted to 4 units in the last place each; errors in their arguments at most double
            radius = -2 * self.scale * np.expm1(np.log1p(-gap / 2) / coordinates)
        return np.where(gap > 0, lowered(radius, 16), np.nan)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "scale": self.scale, "lattice": self.lattice}


def lipschitz_radius(probabilities: Probabilities, scale: float) -> NDArray[np.float64]:
    """``scale (p_A - p_B)``, rounded down; nan where it is not positive: what probabilities that are ``1 / (2 scale)``
    Lipschitz certify."""
    radius = scale * (probabilities.top - probabilities.other)
    return np.where(radius > 0, lowered(radius, 3), np.nan)  # difference and product: half a unit each
