"""Noise on the flow of mass between pixels, which certifies the 1-Wasserstein distance of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.kernels.noise import add_noise
from verifix.smooth.noise.base import Noise, Samples
from verifix.smooth.noise.laplace import laplace_radius
from verifix.smooth.noise.parameters import check_scale
from verifix.smooth.noise.rounding import lowered
from verifix.smooth.probabilities import Probabilities


@dataclass(frozen=True)
class Flow(Noise):
    """Laplace noise on the mass that flows between neighbouring pixels, of images scaled to mass one.

    Images of equal mass in every channel differ by a flow along the edges of the pixel grid; the least l1 norm of such
    a flow is their 1-Wasserstein distance for the l1 ground metric, in pixels (Levine & Feizi 2020, theorem 1). Noise
    on flows therefore certifies what :class:`~verifix.smooth.noise.laplace.Laplace` does in l1: the radius is
    ``scale / 2 (v(p_A) - v(p_B))``, and so never below the form in that paper's code, ``scale / 2 log(p_A / p_B)``. The
    l2 ground metric is at least the l1 one over sqrt 2, and so is the radius. Mass moves within its channel only. A
    lower bound: tight on images of one row.

    The units are pixels times mass, the whole image having mass one. The noisy image sums to ``mass``, a constant: to
    scale it back by the sum of its own input, as that code does, lets the sum leak, and only inputs of one and the same
    sum are then certified.

    Args:
        scale: of the Laplace law on every edge, in units of mass one; its standard deviation is ``sqrt(2) scale``.
        ground: the metric between pixels, ``"l1"`` or ``"l2"``.
        mass: what noisy images sum to.

    Raises:
        InvalidType, InvalidValue: for a scale or mass that is not one number > 0, another ground metric, inputs that
            are not images ``(n, ..., height, width)`` or have a pixel < 0 or no mass.

    >>> bounds = Probabilities(top=np.array([0.99]), failure=np.array([0.01]), other=np.array([0.01]))
    >>> Flow(0.01).radius(bounds).round(5), Flow(0.01, ground="l2").radius(bounds).round(5)
    (array([0.03912]), array([0.02766]))
    """

    scale: float
    ground: Literal["l1", "l2"] = "l1"
    mass: float = 1.0

    name: ClassVar[str] = "flow"
    norm: ClassVar[str] = "wasserstein"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale("scale", self.scale))
        object.__setattr__(self, "mass", check_scale("mass", self.mass))
        if self.ground not in ("l1", "l2"):
            raise InvalidValue("ground", self.ground, 'must be "l1" or "l2"')

    def draw(self, x: Tensor, samples: Samples) -> Tensor:
        height, width = self._check(x)
        channels = math.prod(x.shape[1:-2])
        down, right = (height - 1) * width, height * (width - 1)
        flows = add_noise(
            x.new_zeros(len(x), channels, down + right),
            samples.inputs,
            law="laplace",
            scale=self.scale,
            **samples.names,
        )
        moved = moved_mass(
            flows[..., :down].unflatten(-1, (height - 1, width)), flows[..., down:].unflatten(-1, (height, width - 1))
        )
        noisy = normalised(x)[:, None] + moved.reshape(len(x), samples.count, *x.shape[1:])
        return noisy * self.mass

    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        radius = laplace_radius(probabilities, self.scale)
        return radius if self.ground == "l1" else lowered(radius / math.sqrt(2), 3)  # root and quotient: half each

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "scale": self.scale, "ground": self.ground, "mass": self.mass}

    @staticmethod
    def _check(x: Tensor) -> tuple[int, int]:
        if x.dim() < 3:
            raise InvalidValue("x", f"of shape {tuple(x.shape)}", "must be images: (n, ..., height, width)")
        negative = (x < 0).flatten(1).any(dim=1) | (x.flatten(1).sum(dim=1) <= 0)
        if negative.any():
            first = int(negative.nonzero()[0])
            raise InvalidValue("x", f"input {first} of the batch", "images need pixels >= 0, and one > 0, to have mass")
        return x.shape[-2], x.shape[-1]


def normalised(x: Tensor) -> Tensor:
    """Images scaled to mass one, each by its own sum."""
    return x / x.flatten(1).sum(dim=1, dtype=torch.float64).to(x.dtype).reshape(-1, *(1,) * (x.dim() - 1))


def moved_mass(down: Tensor, right: Tensor) -> Tensor:
    """What flows along all edges add to every pixel.

    Args:
        down: ``(..., height - 1, width)``, from a pixel to the one below.
        right: ``(..., height, width - 1)``, from a pixel to the one on its right.

    >>> moved_mass(torch.tensor([[2.0]]), torch.zeros(2, 0))
    tensor([[-2.],
            [ 2.]])
    """
    pad = torch.nn.functional.pad
    return pad(down, (0, 0, 1, 0)) - pad(down, (0, 0, 0, 1)) + (pad(right, (1, 0)) - pad(right, (0, 1)))
