"""What is known of the probabilities of classes under noise, before any geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Probabilities:
    """Bounds on the probabilities that a base classifier answers with this class or that under noise, input by input.

    All arrays are ``(n,)`` float64. They hold together, with the confidence of whatever rule made them.

    Attributes:
        top: lower bound on the probability of the class that is to be certified.
        failure: upper bound on one minus that probability. ``1 - top`` up to rounding, but computed on its own: near
            ``top = 1`` the radius depends on its relative error, of which ``1 - top`` keeps nothing.
        other: upper bound on the probability of every other class; at most ``failure``.
    """

    top: NDArray[np.float64]
    failure: NDArray[np.float64]
    other: NDArray[np.float64]

    def shifted(self, total_variation: float) -> Probabilities:
        """Bounds under a law of noise that is within ``total_variation`` of the one that was sampled."""
        up, limit = np.nextafter(total_variation, 1.0), np.ones_like(self.top)
        if total_variation == 0:
            return self
        return Probabilities(
            top=np.maximum(np.nextafter(self.top - up, -1.0), 0.0),
            failure=np.minimum(np.nextafter(self.failure + up, 2.0), limit),
            other=np.minimum(np.nextafter(self.other + up, 2.0), limit),
        )
