"""What the rest of smoothing knows of a family of noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from verifix.smooth.probabilities import Probabilities


class Purpose(IntEnum):
    """What samples are drawn for; samples of different purposes are independent of one another."""

    SELECTION = 0
    """Choosing the class that is to be certified, and how a level is split."""
    ESTIMATION = 1
    """Bounding probabilities."""
    PREDICTION = 2
    TRAINING = 3


@dataclass(frozen=True)
class Samples:
    """The names of samples: whoever draws the same names gets the same noise, in every bit, on every device.

    Attributes:
        seed: of everything; 0 <= seed < 2**63.
        purpose: see :class:`Purpose`.
        inputs: for each input of the batch its number in the data set, ``(n,)`` int64 on the device of the batch.
        start, count: samples ``start`` to ``start + count - 1`` of each input.
    """

    seed: int
    purpose: Purpose
    inputs: Tensor
    start: int
    count: int

    @property
    def names(self) -> dict[str, int]:
        """What the kernels of noise take beside the inputs, by keyword."""
        return {"seed": self.seed, "purpose": self.purpose, "start": self.start, "count": self.count}


class Noise(ABC):
    """A law of noise on inputs, with the radius that it certifies.

    Attributes:
        name: as on the command line.
        norm: what the radius is measured in: ``l2``, ``l1``, ``l0``, ``linf``, ``mahalanobis``, ``wasserstein``.
        lattice: the number of levels per unit where inputs and noise are whole numbers of ``1 / lattice``, so that no
            rounding in ``x + noise`` is outside of the theorem; None for noise in floating point.
        closed: whether perturbations whose norm equals the radius are certified too, and not only smaller ones.
    """

    name: ClassVar[str]
    norm: ClassVar[str]
    closed: ClassVar[bool] = False
    lattice: int | None = None

    @property
    def float_sound(self) -> bool:
        """Whether a certificate holds for what is computed, and not for real arithmetic alone."""
        return self.lattice is not None

    @abstractmethod
    def draw(self, x: Tensor, samples: Samples) -> Tensor:
        """Noisy copies of a batch ``x`` (n, ...), as (n, samples.count, ...) of its type."""

    @abstractmethod
    def radius(self, probabilities: Probabilities) -> NDArray[np.float64]:
        """The certified radius of each input, rounded down; nan where nothing is certified. It holds for every
        perturbation of norm strictly below it, and of that norm as well where the family is ``closed``."""

    def total_variation(self, coordinates: int) -> float:
        """How far the law that is sampled is from that of the theorem, in total variation over all coordinates, given
        an ideal source of random bits; 0 for noise in floating point, where nothing is claimed of it."""
        return 0.0

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The family and its parameters, as JSON values."""
