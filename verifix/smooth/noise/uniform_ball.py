"""Noise that is uniform on a ball, which certifies l2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.kernels.noise import add_noise
from verifix.smooth.noise.base import Noise, Samples
from verifix.smooth.noise.parameters import check_scale, check_whole
from verifix.smooth.noise.rounding import lowered
from verifix.smooth.probabilities import Probabilities

LARGEST = 2**17 - 2
_FINE = 2.0**20


@dataclass(frozen=True)
class UniformBall(Noise):
    """Noise that is uniform on the l2 ball of radius ``scale``.

    Balls at distance r have all but a share ``1 - 2 P(u > r / 2 scale)`` in common, u one coordinate of a point of the
    unit ball, for which (1 + u) / 2 has the Beta law with both parameters (d + 1) / 2. All probabilities change by at
    most this share, so the radius in l2 is ``2 scale (1 - 2 I^-1(1/2 - (p_A - p_B) / 4))``, I the distribution function
    of that law: Yang et al. 2020, with ``p_B = 1 - p_A``. Tight. It stays below ``2 scale``, and for large d below
    what Gaussian noise of as much energy certifies near p_A = 1.

    Args:
        scale: radius of the ball, in units of the input.
        coordinates: how many an input has, d.

    Raises:
        InvalidType, InvalidValue: if scale is not one number > 0, coordinates not one of 1 to 2^17 - 2.

    >>> bounds = Probabilities(*(np.array(p) for p in ([0.9, 0.4], [0.1, 0.6], [0.1, 0.4])))
    >>> UniformBall(2.0, coordinates=784).radius(bounds).round(4)
    array([0.0749,    nan])
    """

    scale: float
    coordinates: int

    name: ClassVar[str] = "uniform-ball"
    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale("scale", self.scale))
        object.__setattr__(self, "coordinates", check_whole("coordinates", self.coordinates))
        if self.coordinates > LARGEST:
            raise InvalidValue("coordinates", self.coordinates, f"must be {LARGEST} at most")

    def draw(self, x: Tensor, samples: Samples) -> Tensor:
        size = math.prod(x.shape[1:])
        if size != self.coordinates:
            raise InvalidValue("coordinates", self.coordinates, f"inputs have {size}")
        # the first d of d + 2 coordinates of a point of a sphere are a point of a ball
        normals = add_noise(
            x.new_zeros(len(x), size + 2, dtype=torch.float32),
            samples.inputs,
            law="gaussian",
            scale=1.0,
            **samples.names,
        )
        # in whole numbers below 2^23 squares add up exactly, in whatever order
        whole = torch.round(normals * _FINE).long()
        length = (whole * whole).sum(dim=2, keepdim=True).double().sqrt()
        noise = whole[..., :size].double() / length * self.scale
        return x[:, None] + noise.to(x.dtype).reshape(*noise.shape[:2], *x.shape[1:])

    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        from scipy.special import betaincinv

        half = (self.coordinates + 1) / 2
        gap = probabilities.top - probabilities.other
        with np.errstate(invalid="ignore"):
            # scipy's inverse is trusted to 2^-48, and to a relative error of 2^-30 in its distance from 1/2
            apart = 1 - 2 * betaincinv(half, half, 0.5 - gap / 4) - 2.0**-46
        return np.where((gap > 0) & (apart > 0), lowered(2 * self.scale * apart, 2**22), np.nan)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "scale": self.scale, "coordinates": self.coordinates}
