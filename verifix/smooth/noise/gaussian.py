"""Gaussian noise, which certifies l2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from verifix.smooth.gaussian_radius import gaussian_radius
from verifix.smooth.noise.additive import Additive
from verifix.smooth.noise.parameters import check_lattice, check_scale, check_whole
from verifix.smooth.noise.rounding import lowered
from verifix.smooth.probabilities import Probabilities


@dataclass(frozen=True)
class Gaussian(Additive):
    """Independent normal noise ``N(0, sigma^2)`` on every coordinate.

    The radius is ``sigma / 2 (z(p_A) - z(p_B))`` in l2, z the standard normal quantile: Cohen et al. 2019, theorem 1.
    It is tight: a half-space attains it. It asks that all probabilities are those of one and the same base classifier
    and of one sigma for all inputs; nothing is asked of the classifier.

    Args:
        sigma: standard deviation, in units of the input as it is passed to :meth:`draw`.
        lattice: levels per unit. Inputs must then be ``k / lattice``, and the noise is rounded to whole levels: the
            theorem applied to the classifier that rounds its input first. Certificates speak of lattice inputs.

    Raises:
        InvalidType, InvalidValue: if sigma is not one finite number > 0, lattice not a whole number >= 1.

    >>> import numpy as np
    >>> from verifix.smooth.probabilities import Probabilities
    >>> bounds = Probabilities(top=np.array([0.99, 0.4]), failure=np.array([0.01, 0.6]), other=np.array([0.01, 0.4]))
    >>> Gaussian(0.5).radius(bounds).round(4)
    array([1.1632,    nan])
    >>> Gaussian(0.5).linf_radius(bounds, coordinates=784).round(4)
    array([0.0415,    nan])
    """

    sigma: float
    lattice: int | None = None

    name: ClassVar[str] = "gaussian"
    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", check_scale("sigma", self.sigma))
        object.__setattr__(self, "lattice", check_lattice(self.lattice))

    @property
    def spread(self) -> float:
        return self.sigma

    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        return gaussian_radius(probabilities, self.sigma)

    def linf_radius(self, probabilities: Probabilities, coordinates: int) -> NDArray[np.float64]:
        """The l_inf radius that the l2 radius implies on inputs of d coordinates, the l2 radius over sqrt d."""
        root = np.sqrt(float(check_whole("coordinates", coordinates)))
        return lowered(self.radius(probabilities) / root, 3)  # root and quotient: half a unit each

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "sigma": self.sigma, "lattice": self.lattice}
