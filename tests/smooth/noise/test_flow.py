"""Flow noise: the distance by linear programs, and attacks on classifiers known in closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.stats import binom

from verifix.errors import InvalidValue
from verifix.smooth.noise import Flow, Laplace, Purpose, Samples
from verifix.smooth.noise.flow import moved_mass, normalised
from verifix.smooth.probabilities import Probabilities

Array = NDArray[np.float64]


def transport(a: Array, b: Array, order: int) -> float:
    """The 1-Wasserstein distance of two images (height, width), by the linear program of optimal transport."""
    places = np.array(list(np.ndindex(a.shape)), dtype=np.float64)
    cost = np.linalg.norm(places[:, None] - places, order, axis=2)
    size = a.size
    leaving, arriving = np.kron(np.eye(size), np.ones(size)), np.kron(np.ones(size), np.eye(size))
    solved = linprog(cost.reshape(-1), A_eq=np.vstack([leaving, arriving]), b_eq=np.concatenate([a.ravel(), b.ravel()]))
    return float(solved.fun)


def least_flow(a: Array, b: Array) -> float:
    """The least l1 norm of a flow along the edges of the grid that takes one image to the other."""
    height, width = a.shape
    down, right = (height - 1) * width, height * (width - 1)
    columns = []
    for edge in np.eye(down + right):
        flows = (
            torch.from_numpy(edge[:down].reshape(height - 1, width)),
            torch.from_numpy(edge[down:].reshape(height, width - 1)),
        )
        columns.append(moved_mass(*flows).numpy().ravel())
    effect = np.array(columns).T
    solved = linprog(np.ones(2 * len(columns)), A_eq=np.hstack([effect, -effect]), b_eq=(b - a).ravel())
    return float(solved.fun)


def images(shape: tuple[int, int], parts: int) -> list[Array]:
    """All images whose pixels are whole parts of their mass."""
    size = shape[0] * shape[1]
    cuts = itertools.combinations(range(parts + size - 1), size - 1)
    return [np.diff([-1, *c, parts + size - 1]).reshape(shape) / parts - 1 / parts for c in cuts]


@pytest.mark.parametrize("shape", [(1, 4), (2, 2), (2, 3), (3, 3)])
def test_the_distance_is_that_of_the_least_flow(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.dirichlet(np.full(shape[0] * shape[1], 0.5), 2).reshape(2, *shape)
        ground1, ground2 = transport(a, b, 1), transport(a, b, 2)
        assert least_flow(a, b) == pytest.approx(ground1, abs=1e-9)
        assert ground1 / np.sqrt(2) - 1e-9 <= ground2 <= ground1 + 1e-9


def below(t: Array) -> Array:
    """Laplace law of scale 1."""
    return np.where(t < 0, np.exp(np.minimum(t, 0)) / 2, 1 - np.exp(-np.maximum(t, 0)) / 2)


def below_two(t: Array) -> Array:
    """The sum of two."""
    half = np.exp(-np.abs(t)) * (2 + np.abs(t)) / 4
    return np.where(t < 0, half, 1 - half)


def bounds(p: Array) -> tuple[int, Probabilities]:
    top = int(p.argmax())
    other = float(np.delete(p, top).max())
    return top, Probabilities(np.array([p[top] - 1e-13]), np.array([1 - p[top] + 1e-13]), np.array([other + 1e-13]))


def test_no_image_of_one_row_within_the_radius_changes_boxes_of_cumulative_mass() -> None:
    """On one row the flow over an edge is what the mass before it gained: smoothed boxes are products."""
    scale, tried, rng = 0.15, 0, np.random.default_rng(1)
    every = np.array(images((1, 3), 24))[:, 0]
    mass = every.cumsum(axis=1)[:, :2]
    for _ in range(20):
        corner, cut = rng.uniform(-0.5, 0.5, 2), rng.uniform(0, 1)
        lower = np.array([[corner[0], corner[1]], [cut, corner[1]]])
        upper = np.array([[cut, np.inf], [np.inf, corner[1] + rng.uniform(0.2, 2)]])
        inside = below((upper - mass[:, None]) / scale) - below((lower - mass[:, None]) / scale)
        two = np.maximum(inside, 0).prod(axis=2)
        p = np.concatenate([two, 1 - two.sum(axis=1, keepdims=True)], axis=1)
        for i in rng.integers(len(every), size=20):
            top, known = bounds(p[i])
            distance = np.abs(mass - mass[i]).sum(axis=1)
            near = p[distance < Flow(scale).radius(known)[0] * (1 - 1e-9)]
            tried += len(near)
            assert (near[:, [top]] > np.delete(near, top, axis=1)).all()
    assert tried > 10_000
    row = every[[3, 100]]
    assert transport(row[:1], row[1:], 1) == pytest.approx(np.abs(mass[3] - mass[100]).sum())


@pytest.mark.parametrize("ground", ["l1", "l2"])
def test_no_image_of_two_by_two_pixels_within_the_radius_changes_half_spaces(ground: str) -> None:
    """Each of a corner, a row and a column is left by two edges, so its mass has two Laplace laws added."""
    scale, tried, rng = 0.1, 0, np.random.default_rng(2)
    noise = Flow(scale, ground=ground)  # type: ignore[arg-type]
    every = np.array(images((2, 2), 8))
    parts = [every[:, 0, 0], every[:, 0].sum(axis=1), every[:, :, 1].sum(axis=1)]
    for i in rng.integers(len(every), size=5):
        distance = np.array([transport(every[i], image, int(ground[1])) for image in every])
        for mass, cut in itertools.product(parts, (0.3, 0.45, 0.6)):
            p = below_two((cut - mass) / scale)
            p = np.stack([p, 1 - p], axis=1)
            top, known = bounds(p[i])
            near = p[distance < noise.radius(known)[0] * (1 - 1e-9)]
            tried += len(near)
            assert (near[:, top] > 0.5).all()
    assert tried > 250


def test_the_radius_is_attained_on_two_pixels() -> None:
    scale, cut, mass = 0.2, 0.6, 0.3
    p = float(below(np.array((cut - mass) / scale)))
    radius = Flow(scale).radius(Probabilities(*(np.array([v]) for v in (p, 1 - p, 1 - p))))[0]
    assert radius == pytest.approx(cut - mass, rel=1e-12) and radius < cut - mass + 1e-15


def test_radii_are_those_of_laplace_noise_and_of_the_ground_metric() -> None:
    known = Probabilities(*(np.array([v]) for v in (0.95, 0.05, 0.03)))
    laplace = Laplace(0.01).radius(known)
    np.testing.assert_array_equal(Flow(0.01).radius(known), laplace)
    l2 = Flow(0.01, ground="l2").radius(known)
    np.testing.assert_allclose(l2, laplace / np.sqrt(2), rtol=1e-15 * 8)
    assert l2 < laplace / np.sqrt(2)


def test_draws_move_mass_and_keep_its_sum() -> None:
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    samples = Samples(1, Purpose.ESTIMATION, torch.arange(2), 0, 10)
    noisy = Flow(0.01, mass=50.0).draw(x, samples)
    assert noisy.shape == (2, 10, 3, 4, 5)
    sums = normalised(x).sum(dim=(2, 3)) * 50
    torch.testing.assert_close(noisy.sum(dim=(3, 4)), sums[:, None].expand(2, 10, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(Flow(0.01).draw(7 * x, samples) * 50, noisy, rtol=0, atol=1e-12)


def test_draws_have_the_law() -> None:
    x = torch.tensor([[[[4.0, 1.0], [2.0, 3.0]]]], dtype=torch.float64)
    count = 20_000
    noisy = Flow(0.1).draw(x, Samples(1, Purpose.ESTIMATION, torch.tensor([0]), 0, count))[0, :, 0]
    for mass, start in ((noisy[:, 0, 0], 0.4), (noisy[:, 1].sum(dim=1), 0.5), (noisy[:, :, 0].sum(dim=1), 0.6)):
        for cut in (0.3, 0.5, 0.7):
            chance = float(below_two(np.array((cut - start) / 0.1)))
            seen = int((mass <= cut).sum())
            assert binom.ppf(5e-10, count, chance) <= seen <= binom.isf(5e-10, count, chance)


def test_errors() -> None:
    samples = Samples(1, Purpose.ESTIMATION, torch.tensor([0]), 0, 1)
    with pytest.raises(InvalidValue, match="ground = l3"):
        Flow(0.1, ground="l3")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="height, width"):
        Flow(0.1).draw(torch.ones(1, 4), samples)
    with pytest.raises(InvalidValue, match="input 1 of the batch"):
        Flow(0.1).draw(torch.tensor([[[1.0]], [[0.0]]]), Samples(1, Purpose.ESTIMATION, torch.arange(2), 0, 1))
    with pytest.raises(InvalidValue, match="pixels >= 0"):
        Flow(0.1).draw(torch.tensor([[[2.0, -1.0]]]), samples)
