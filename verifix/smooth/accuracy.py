"""How accurate a smoothed classifier is on a data set, from certificates that may each be wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from verifix.errors import InvalidValue
from verifix.smooth.clopper_pearson import whole_numbers
from verifix.smooth.rules import checked_alpha


@dataclass(frozen=True)
class CertifiedAccuracy:
    """What N certificates say of N inputs, at several radii.

    Attributes:
        inputs: N.
        abstained: inputs without a certificate.
        wrong: inputs certified for a class that is not their label, at any radius.
        correct: inputs certified for their label.
        radii: the radii asked about, ``(m,)``.
        certified: inputs certified for their label at each radius or more, ``(m,)`` int64.
        doubtful: how many of the N certificates may be wrong, except with probability ``gamma``.
        gamma: how probable it may be that ``proven`` does not hold.
    """

    inputs: int
    abstained: int
    wrong: int
    correct: int
    radii: NDArray[np.float64]
    certified: NDArray[np.int64]
    doubtful: int
    gamma: float

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """``certified / inputs``: what is published, an approximation."""
        return np.asarray(self.certified / self.inputs)

    @property
    def proven(self) -> NDArray[np.float64]:
        """``(certified - doubtful) / inputs``: the share of these inputs that is robust at each radius, at all of them
        at once, with probability at least ``1 - gamma``."""
        return np.asarray(np.maximum(self.certified - self.doubtful, 0) / self.inputs)


def certified_accuracy(
    radius: ArrayLike,  # (N,)
    predicted: ArrayLike,  # (N,)
    labels: ArrayLike,  # (N,)
    radii: ArrayLike,  # (m,)
    alpha: float,
    gamma: float = 0.001,
) -> CertifiedAccuracy:
    """Certified accuracy at given radii, with the correction for N certificates of level ``1 - alpha`` each.

    The number of wrong certificates among N independent ones is at most the ``1 - gamma`` quantile of Bin(N, alpha),
    with probability at least ``1 - gamma``. This is about the N inputs, not about a population they may come from.

    Args:
        radius: certified radii; nan where a rule abstained.
        predicted: the certified classes; -1, or anything, where it abstained.
        labels: the right classes.
        radii: which radii to count at; a certificate counts at its own radius.
        alpha: how probable it may be that a certificate is wrong: ``1 - proven_level(rule, alpha)``. Certificates must
            rest on samples that are independent of one another.
        gamma: how probable it may be that more of them are wrong than is allowed for.

    Raises:
        InvalidValue: shapes differ, there is no input, a radius is negative, a level is not in (0, 1).

    >>> found = certified_accuracy([0.5, 0.9, np.nan, 1.2], [3, 1, -1, 0], [3, 1, 2, 7], [0.25, 0.75], alpha=0.001)
    >>> found.certified, found.abstained, found.wrong, found.correct, found.doubtful
    (array([2, 1]), 1, 1, 2, 1)
    """
    sizes, wanted = np.asarray(radius, dtype=np.float64), np.asarray(radii, dtype=np.float64)
    classes, truth = whole_numbers("predicted", predicted), whole_numbers("labels", labels)
    if sizes.ndim != 1 or not len(sizes):
        raise InvalidValue("radius.shape", sizes.shape, "must be (inputs,), with one input at least")
    for name, given in (("predicted", classes), ("labels", truth)):
        if given.shape != sizes.shape:
            raise InvalidValue(f"{name}.shape", given.shape, f"must be {sizes.shape}, as radius")
    if (sizes < 0).any():
        raise InvalidValue("radius", float(sizes[sizes < 0][0]), "must be >= 0, or nan where a rule abstained")
    if wanted.ndim != 1 or not (wanted >= 0).all():
        raise InvalidValue("radii", wanted.tolist(), "must be a list of numbers >= 0")
    abstained, right = np.isnan(sizes), classes == truth
    correct = ~abstained & right
    return CertifiedAccuracy(
        inputs=len(sizes),
        abstained=int(abstained.sum()),
        wrong=int((~abstained & ~right).sum()),
        correct=int(correct.sum()),
        radii=wanted,
        certified=np.array([(correct & (sizes >= at)).sum() for at in wanted], dtype=np.int64),
        doubtful=wrong_at_most(len(sizes), alpha, gamma),
        gamma=gamma,
    )


def wrong_at_most(certificates: int, alpha: float, gamma: float) -> int:
    """How many of so many independent certificates, each wrong with probability at most ``alpha``, are wrong at most,
    except with probability ``gamma``: the ``1 - gamma`` quantile of Bin(certificates, alpha).

    Raises:
        InvalidValue: a level is not in (0, 1).

    >>> wrong_at_most(10_000, 0.001, 0.001)
    21
    """
    from scipy.stats import binom

    alpha, gamma = checked_alpha(alpha), checked_alpha(gamma, "gamma")
    number = max(0, int(binom.ppf(1 - gamma, certificates, alpha)) - 1)
    while binom.sf(number, certificates, alpha) > gamma * (1 - 1e-9):  # on the safe side of its rounding
        number += 1
    return number
