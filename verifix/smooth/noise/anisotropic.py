"""Gaussian noise of any fixed covariance, which certifies a Mahalanobis distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels.noise import add_noise
from verifix.smooth.gaussian_radius import gaussian_radius
from verifix.smooth.noise.base import Noise, Samples
from verifix.smooth.noise.parameters import SCALES, refuse_callable
from verifix.smooth.noise.rounding import lowered
from verifix.smooth.probabilities import Probabilities

LARGEST_FACTOR = 4096
_FACTOR_BITS, _FINE, _COARSE = 27, 2.0**22, 2.0**9


@dataclass(frozen=True, eq=False)
class AnisotropicGaussian(Noise):
    """Normal noise ``N(0, L L^T)``, the same at every input.

    The radius is ``(z(p_A) - z(p_B)) / 2`` in the Mahalanobis distance ``||L^-1 d||_2``: the theorem of Cohen et al.
    2019 after the change of variables ``u = L^-1 x`` (Eiras et al. 2022; Erdemir et al. 2021 for diagonal L). Tight.
    The covariance must not depend on the input.

    Args:
        scales: standard deviations of independent coordinates, broadcastable to the shape of one input.
        factor: or, instead, L: lower triangular, ``(d, d)`` for inputs of d coordinates in row-major order, with
            positive diagonal; ``torch.linalg.cholesky(covariance)``. Its entries are rounded to ``2^-27`` of the
            largest and normal numbers to ``2^-22``: then every sum that makes up a sample is exact in float64, and a
            sample has the same bits whatever the batch, the library that multiplies and the number of threads.

    Raises:
        InvalidType, InvalidValue: unless exactly one of the two is given, finite and of positive definite covariance.

    >>> from verifix.smooth.probabilities import Probabilities
    >>> noise = AnisotropicGaussian(scales=torch.tensor([0.5, 2.0]))
    >>> bounds = Probabilities(top=np.array([0.99]), failure=np.array([0.01]), other=np.array([0.01]))
    >>> noise.radius(bounds).round(4), noise.l2_radius(bounds).round(4)
    (array([2.3263]), array([1.1632]))
    """

    scales: Tensor | None = None
    factor: Tensor | None = None

    name: ClassVar[str] = "anisotropic"
    norm: ClassVar[str] = "mahalanobis"

    def __post_init__(self) -> None:
        if (self.scales is None) == (self.factor is None):
            raise InvalidValue("scales, factor", "both or none", "give one of the two")
        if self.scales is not None:
            scales = _matrix("scales", self.scales)
            if not ((scales >= SCALES[0]) & (scales <= SCALES[1])).all():
                raise InvalidValue("scales", scales.min().item(), "all must be > 0 (2^-64 to 2^64)")
            object.__setattr__(self, "scales", scales)
        else:
            object.__setattr__(self, "factor", _rounded_factor(_matrix("factor", self.factor)))
        object.__setattr__(self, "_smallest", self._smallest_scale())

    def draw(self, x: Tensor, samples: Samples) -> Tensor:
        if self.scales is not None:
            return _normals(x, samples, self.scales.to(x.device))
        factor: Tensor = self.factor  # type: ignore[assignment]
        size = math.prod(x.shape[1:])
        if size != len(factor):
            raise InvalidValue("factor", f"of {len(factor)} coordinates", f"inputs have {size}")
        normals = _normals(x.new_zeros(len(x), size, dtype=torch.float32), samples, 1.0).double()
        # two products of at most 13 + 27 bits, summed 2^12 times at most: each is exact in the 53 bits of float64
        coarse = torch.round(normals * _COARSE) / _COARSE
        fine = torch.round(normals * _FINE) / _FINE - coarse
        transposed = factor.to(x.device).T
        noise = (coarse @ transposed + fine @ transposed).to(x.dtype)
        return x[:, None] + noise.reshape(*noise.shape[:2], *x.shape[1:])

    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        return gaussian_radius(probabilities, 1.0)

    def l2_radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        """The radius of the largest l2 ball inside: times the smallest standard deviation in any direction."""
        return lowered(self.radius(probabilities) * self._smallest, 2)  # type: ignore[attr-defined]

    def _smallest_scale(self) -> float:
        if self.scales is not None:
            return float(self.scales.min())
        values = torch.linalg.svdvals(self.factor)
        # singular values by LAPACK are off by a modest multiple of the rounding unit times the largest: 8 d of them
        smallest = float(values.min() - 8 * len(values) * 2.0**-52 * values.max())
        if smallest <= 0:
            raise InvalidValue("factor", f"of smallest singular value {values.min():.3g}", "is too close to singular")
        return smallest

    def to_json(self) -> dict[str, Any]:
        key, value = ("scales", self.scales) if self.scales is not None else ("factor", self.factor)
        return {"name": self.name, key: value.tolist()}  # type: ignore[union-attr]


def _normals(x: Tensor, samples: Samples, scale: float | Tensor) -> Tensor:
    return add_noise(
        x,
        samples.inputs,
        law="gaussian",
        scale=scale,
        **samples.names,
    )


def _matrix(argument: str, value: object) -> Tensor:
    refuse_callable(argument, value)
    try:
        matrix = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidType(argument, value, "a tensor of numbers") from error
    if not torch.isfinite(matrix).all() or matrix.numel() == 0:
        raise InvalidValue(argument, f"tensor of shape {tuple(matrix.shape)}", "must hold finite numbers")
    return matrix


def _rounded_factor(factor: Tensor) -> Tensor:
    shape = tuple(factor.shape)
    if factor.dim() != 2 or shape[0] != shape[1] or shape[0] > LARGEST_FACTOR:
        raise InvalidValue("factor", f"of shape {shape}", f"must be a square matrix, {LARGEST_FACTOR} rows at most")
    if not torch.equal(factor, factor.tril()) or not (factor.diagonal() > 0).all():
        raise InvalidValue("factor", f"of shape {shape}", "must be lower triangular, its diagonal positive (Cholesky)")
    _, exponent = math.frexp(float(factor.abs().max()))
    unit = math.ldexp(1.0, exponent - _FACTOR_BITS)
    return torch.round(factor / unit) * unit
