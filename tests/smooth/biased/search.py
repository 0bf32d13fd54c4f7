"""Random problems, and a search for violations of their certificates by brute force."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from verifix.smooth.biased import NearestNeighbour

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
FAR = 50.0
"""Infinite radii are searched up to here."""


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def whole(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def random_oracle(generator: torch.Generator, d: int) -> NearestNeighbour:
    """A few points with random labels, at times all the same; at times on a lattice, where ties are common."""
    n = whole(generator, 1, 9)
    points = torch.randn(n, d, generator=generator, dtype=torch.float64) * uniform(generator, 0.5, 3)
    if whole(generator, 0, 3) == 0:
        points = points.round()
    labels = 2 * torch.randint(0, 2, (n,), generator=generator) - 1
    return NearestNeighbour(points, labels)


def steps(generator: torch.Generator, classifier: Any, x: Tensor, count: int) -> Tensor:
    """Steps of norm at most 1 from inputs ``(n, d)``, ``(n, count + more, d)``: random ones, most of them on the
    boundary, corners, and those that reach the cells of reserved points soonest."""
    n, d = x.shape
    norm = classifier.norm
    random = torch.randn(n, count, d, generator=generator, dtype=torch.float64)
    corners = random[:, : count // 4].sign() * (torch.rand(d, generator=generator) < 0.5)
    gaps = classifier.oracle.points - x[:, None]
    aimed = gaps - gaps[torch.arange(n), classifier.oracle.distances(x).argmin(1)][:, None]
    largest = aimed.abs().amax(2, keepdim=True)
    aimed = {"linf": aimed.sign(), "l2": aimed, "l1": torch.where(aimed.abs() == largest, aimed, 0.0)}[norm]
    every = torch.cat([random, corners, aimed, gaps], 1)
    size = torch.linalg.vector_norm(every, ord=ORDER[norm], dim=2, keepdim=True)
    every = every / torch.where(size > 0, size, 1.0)
    length = torch.rand(n, every.shape[1], 1, generator=generator, dtype=torch.float64) ** 0.2
    length[:, ::2] = 1.0
    length[:, count:] = 1.0
    return every * length


def violations(
    generator: torch.Generator, classifier: Any, x: Tensor, radii: Tensor, count: int = 60, scale: float = 0.999
) -> int:
    """How many points within ``scale`` times the radii are classified otherwise than their input."""
    reach = scale * radii.clamp(max=FAR)
    points = x[:, None] + reach[:, None, None] * steps(generator, classifier, x, count)
    answers = classifier.predict(points.reshape(-1, x.shape[1])).reshape(points.shape[:2])
    # below that, the rounding of the search itself decides
    return int((answers != classifier.predict(x)[:, None])[radii > 1e-9].sum())


def search(
    build: Callable[[torch.Generator, int, Norm], Any], cases: int, inputs: int, count: int = 60, seed: int = 0
) -> Iterator[tuple[Any, Tensor, Any, Any, int]]:
    """Random problems: classifier, inputs, tight and printed radii, and the violations of the tight ones."""
    generator = torch.Generator().manual_seed(seed)
    for case in range(cases):
        d, norm = whole(generator, 1, 4), NORMS[case % 3]
        classifier = build(generator, d, norm)
        x = torch.randn(inputs, d, generator=generator, dtype=torch.float64) * uniform(generator, 0.3, 3)
        if whole(generator, 0, 3) == 0:
            x = x.round()
        tight, printed = classifier.certify(x), classifier.certify(x, tight=False)
        yield classifier, x, tight, printed, violations(generator, classifier, x, tight.radii, count)
