"""Ablation of all but a few coordinates, which certifies l0."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels.noise import random_words
from verifix.smooth.noise.base import Noise, Samples
from verifix.smooth.noise.parameters import check_whole
from verifix.smooth.probabilities import Probabilities


@dataclass(frozen=True)
class Ablation(Noise):
    """All but ``keep`` of the coordinates, drawn uniformly, are ablated: replaced by a null value.

    Two inputs that differ in r coordinates give different outcomes only if one of these is kept, which has probability
    ``1 - C(d - r, k) / C(d, k)``. The radius is the largest r for which p_A less this exceeds p_B plus this: Levine &
    Feizi 2020, theorem 1. Exactly, and in whole numbers of the C(d, k) outcomes, to which p_A is rounded up and p_B
    down, since true probabilities are such numbers (Jia et al. 2022); then it is tight for a null value that no kept
    coordinate can be taken for. (Not rounded where there are so many outcomes that one is worth less than what the law
    that is drawn may be off by: some 10^13 for 784 coordinates.) It holds for perturbations of any size, of real
    numbers, and nothing is rounded in drawing.

    Args:
        keep: how many coordinates are kept.
        coordinates: how many there are. For images ``(channels, height, width)`` the number of pixels makes a pixel,
            with all its channels, one coordinate; the number of all values makes each value one.
        null: what ablated coordinates become: a number; or ``"channel"``, for images: x becomes twice as many
            channels, ``(x, 1 - x)`` where kept and ``(0, 0)`` where not, so that inputs in [0, 1] are never null.

    Raises:
        InvalidType, InvalidValue: if keep is not one of 1 to coordinates, or null neither a number nor "channel".

    >>> noise = Ablation(keep=45, coordinates=784)
    >>> bounds = Probabilities(*(np.array(p) for p in ([0.9, 0.6, 0.4], [0.1, 0.4, 0.6], [0.1, 0.4, 0.5])))
    >>> noise.radius(bounds)
    array([ 8.,  1., nan])
    """

    keep: int
    coordinates: int
    null: float | Literal["channel"] = 0.0

    name: ClassVar[str] = "ablation"
    norm: ClassVar[str] = "l0"
    closed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "coordinates", check_whole("coordinates", self.coordinates))
        object.__setattr__(self, "keep", check_whole("keep", self.keep))
        if self.keep > self.coordinates:
            raise InvalidValue("keep", self.keep, f"there are only {self.coordinates} coordinates")
        if self.null == "channel":
            return
        if isinstance(self.null, bool) or not isinstance(self.null, (int, float)):
            raise InvalidType("null", self.null, 'a number or "channel"')
        if not math.isfinite(self.null):
            raise InvalidValue("null", self.null, 'must be finite, or "channel"')

    @property
    def float_sound(self) -> bool:
        return True

    def draw(self, x: Tensor, samples: Samples) -> Tensor:
        words = random_words(
            samples.inputs,
            words=2 * self.coordinates,
            **samples.names,
        ).unflatten(2, (self.coordinates, 2))
        keys = words[..., 0] << 32 | words[..., 1]  # bits of a signed number: the order is another, as random
        kept = torch.zeros(keys.shape, dtype=torch.bool, device=x.device)
        kept.scatter_(2, keys.topk(self.keep, dim=2, sorted=False).indices, True)
        return self.ablated(x, kept)

    def ablated(self, x: Tensor, kept: Tensor) -> Tensor:
        """A batch with given coordinates kept: ``kept`` is (n, count, coordinates), the result (n, count, ...)."""
        shape = x.shape[1:]
        pixels = len(shape) > 1 and math.prod(shape[1:]) == self.coordinates
        if not pixels and math.prod(shape) != self.coordinates:
            raise InvalidValue("coordinates", self.coordinates, f"inputs of shape {tuple(shape)} have other numbers")
        mask = kept.unflatten(2, (1, *shape[1:]) if pixels else tuple(shape))
        if self.null != "channel":
            return torch.where(mask, x[:, None], torch.tensor(self.null, dtype=x.dtype, device=x.device))
        if len(shape) < 2:
            raise InvalidValue("null", "channel", f"inputs of shape {tuple(shape)} have no channels: give a number")
        mask = mask.expand(-1, -1, *shape)
        return torch.where(torch.cat([mask, mask], 2), torch.cat([x, 1 - x], 1)[:, None], x.new_zeros(()))

    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        top = np.maximum(probabilities.top, np.nextafter(1 - probabilities.failure, 0.0))
        pairs, place = np.unique(np.stack([top, probabilities.other], axis=1), axis=0, return_inverse=True)
        return np.array([self._radius(*pair) for pair in pairs.tolist()])[place.reshape(-1)]

    def _radius(self, top: float, other: float) -> float:
        if not top > other:
            return math.nan
        outcomes = math.comb(self.coordinates, self.keep)
        most, least = Fraction(top) * outcomes, Fraction(other) * outcomes
        if 2 * self.total_variation(self.coordinates) * outcomes < 1:
            # a lead of one outcome is worth more than the law that is drawn can differ in, twice
            most, least = Fraction(math.ceil(most)), Fraction(math.floor(least))
        # largest r with 2 hit[r] < lead
        return float(bisect_left(_hit(self.keep, self.coordinates), (most - least) / 2) - 1)

    def total_variation(self, coordinates: int) -> float:
        """The subset is exactly uniform unless two of the 64-bit keys that order the coordinates are equal."""
        return math.nextafter(self.coordinates**2 * 2.0**-65, 1.0)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "keep": self.keep, "coordinates": self.coordinates, "null": self.null}


@lru_cache(maxsize=16)
def _hit(keep: int, coordinates: int) -> list[int]:
    """How many of the subsets hold one of r coordinates at least, r = 0, 1, ..., as long as half of them do not."""
    outcomes = math.comb(coordinates, keep)
    spared, hit = outcomes, [0]
    for r in range(coordinates):
        if 2 * hit[-1] >= outcomes:
            break
        spared = spared * (coordinates - r - keep) // (coordinates - r)
        hit.append(outcomes - spared)
    return hit
