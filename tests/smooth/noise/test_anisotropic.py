"""Gaussian noise of a fixed covariance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from tests.smooth.noise.bounds import probabilities
from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.gaussian_radius import gaussian_radius
from verifix.smooth.noise import AnisotropicGaussian, Gaussian, Purpose, Samples
from verifix.smooth.probabilities import Probabilities


def random_factor(rng: np.random.Generator, size: int) -> np.ndarray:
    factor = np.tril(rng.normal(size=(size, size)))
    np.fill_diagonal(factor, rng.uniform(0.1, 2, size))
    return factor


@given(size=st.integers(1, 4), diagonal=st.booleans(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_half_spaces_hold_up_to_the_radius_and_no_further(size: int, diagonal: bool, seed: int) -> None:
    """Class A where <w, x> <= cut: its smoothed probability is Phi((cut - <w, x>) / ||L^T w||)."""
    rng = np.random.default_rng(seed)
    if diagonal:
        scales = rng.uniform(0.1, 2, size)
        noise, factor = AnisotropicGaussian(scales=torch.from_numpy(scales)), np.diag(scales)
    else:
        noise = AnisotropicGaussian(factor=torch.from_numpy(random_factor(rng, size)))
        factor = noise.factor.numpy()  # type: ignore[union-attr]
    w, cut = rng.normal(size=size), 0.0
    spread = np.linalg.norm(factor.T @ w)
    x = -w * rng.uniform(0.05, 3) * spread / (w @ w)
    inside = (cut - w @ x) / spread
    bounds = Probabilities(
        *(np.array([v]) for v in (ndtr(inside) - 1e-14, ndtr(-inside) + 1e-14, ndtr(-inside) + 1e-14))
    )
    radius = noise.radius(bounds)[0]
    steepest = factor @ (factor.T @ w) / spread  # of Mahalanobis length one
    assert w @ (x + radius * (1 - 1e-9) * steepest) < cut
    assert w @ (x + (radius * (1 + 1e-9) + 1e-8) * steepest) > cut
    moves = rng.normal(size=(200, size))
    l2 = noise.l2_radius(bounds)[0]
    moves *= l2 / np.linalg.norm(moves, axis=1, keepdims=True)
    lengths = np.linalg.norm(np.linalg.solve(factor, moves.T), axis=0)
    assert (lengths <= radius * (1 + 1e-12)).all()
    _, values, right = np.linalg.svd(np.linalg.inv(factor))
    assert l2 * values[0] <= radius * (1 + 1e-12)
    assert l2 * values[0] == pytest.approx(radius, rel=1e-6)
    assert np.linalg.norm(np.linalg.inv(factor) @ (right[0] * l2)) == pytest.approx(radius, rel=1e-6)


def test_equal_scales_are_gaussian_noise() -> None:
    bounds, samples = probabilities((0.9, 0.05), (0.4, 0.5)), Samples(3, Purpose.ESTIMATION, torch.arange(2), 5, 4)
    x = torch.rand(2, 3, 4)
    noise = AnisotropicGaussian(scales=torch.full((4,), 0.25))
    assert torch.equal(noise.draw(x, samples), Gaussian(0.25).draw(x, samples))
    np.testing.assert_allclose(noise.l2_radius(bounds), Gaussian(0.25).radius(bounds), rtol=1e-14)
    np.testing.assert_array_equal(noise.radius(bounds), gaussian_radius(bounds, 1.0))


def test_correlated_samples_are_the_factor_times_normals_in_every_bit() -> None:
    """Sums are exact: rounded once to float64, whatever their order, so that a sample names its bits."""
    size = 5
    noise = AnisotropicGaussian(factor=torch.from_numpy(random_factor(np.random.default_rng(0), size)))
    samples = Samples(3, Purpose.ESTIMATION, torch.tensor([0]), 0, 200)
    x = torch.zeros(1, size, dtype=torch.float64)
    drawn = noise.draw(x, samples)[0].numpy()
    normals = Gaussian(1.0).draw(torch.zeros(1, size), samples)[0].double().numpy()
    normals = np.round(normals * 2**22) / 2**22
    factor = noise.factor.numpy()  # type: ignore[union-attr]
    for sample, z in zip(drawn, normals, strict=True):
        coarse = np.round(z * 2**9) / 2**9
        for row, value in zip(factor, sample, strict=True):
            assert value == math.fsum(row * coarse) + math.fsum(row * (z - coarse))


def test_large_factors_give_the_same_bits_alone_and_in_a_batch() -> None:
    mixed = torch.randn(300, 300, dtype=torch.float64)
    noise = AnisotropicGaussian(factor=torch.linalg.cholesky(mixed @ mixed.T / 300 + 0.01 * torch.eye(300)))
    x = torch.rand(3, 3, 100)
    together = noise.draw(x, Samples(3, Purpose.ESTIMATION, torch.arange(3), 0, 40))
    alone = noise.draw(x[1:2], Samples(3, Purpose.ESTIMATION, torch.tensor([1]), 17, 1))
    assert torch.equal(alone[0, 0], together[1, 17])


def test_samples_have_the_covariance() -> None:
    covariance = torch.tensor([[1.0, 0.9], [0.9, 4.0]], dtype=torch.float64)
    noise, count = AnisotropicGaussian(factor=torch.linalg.cholesky(covariance)), 50_000
    drawn = noise.draw(torch.zeros(1, 2), Samples(3, Purpose.ESTIMATION, torch.tensor([0]), 0, count))[0].double()
    for direction in torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0], [2.0, 1.0]], dtype=torch.float64):
        wanted = direction @ covariance @ direction
        # the mean of count squares of normals: off by six standard deviations of it once in 10^8 draws or so
        assert abs(((drawn @ direction) ** 2).mean() / wanted - 1) < 6 * (2 / count) ** 0.5


def test_errors() -> None:
    with pytest.raises(InvalidValue, match="one of the two"):
        AnisotropicGaussian()
    with pytest.raises(InvalidValue, match="one of the two"):
        AnisotropicGaussian(torch.ones(2), torch.eye(2))
    with pytest.raises(InvalidValue, match=r"scales = 0\.0"):
        AnisotropicGaussian(scales=torch.tensor([1.0, 0.0]))
    with pytest.raises(InvalidType, match="scales is a function"):
        AnisotropicGaussian(scales=lambda x: x.std())  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="finite"):
        AnisotropicGaussian(scales=torch.tensor([1.0, float("nan")]))
    with pytest.raises(InvalidValue, match="square"):
        AnisotropicGaussian(factor=torch.ones(2, 3))
    with pytest.raises(InvalidValue, match="lower triangular"):
        AnisotropicGaussian(factor=torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    with pytest.raises(InvalidValue, match="singular"):
        AnisotropicGaussian(factor=torch.tensor([[1.0, 0.0], [1.0, 1e-16]], dtype=torch.float64))
    samples = Samples(0, Purpose.SELECTION, torch.tensor([0]), 0, 1)
    with pytest.raises(InvalidValue, match="inputs have 3"):
        AnisotropicGaussian(factor=torch.eye(2)).draw(torch.zeros(1, 3), samples)
    with pytest.raises(InvalidValue, match="broadcast"):
        AnisotropicGaussian(scales=torch.ones(2)).draw(torch.zeros(1, 3), samples)
