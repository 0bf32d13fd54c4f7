"""One digit against the rest, on the digits inside the package: what the curves are made of, and their ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from verifix.data import load
from verifix.errors import InvalidValue, UnsupportedOperation
from verifix.report.biased_mnist import LogitDifference, OneDigitSettings, one_digit, small_network
from verifix.report.biased_mnist_figures import draw_biased_mnist
from verifix.smooth.biased import BiasedDifferentiable, NearestNeighbour

SMALL = OneDigitSettings(
    epochs=8, batch=20, test=60, alphas=(0.0, 1.0, 1e5), sigmas=(0.0, 0.2, 30.0), noises=6, steps=4, radii=(0.5,),
    sigma=0.1, alpha=1.0, more_radii=(0.0, 0.5), linf_radii=(0.0, 0.1), attacked=10, adaptive_alphas=(0.0, 1e5),
    neighbours=1, certified=8, certified_alphas=(0.0, 1e5),
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digit")
    result, written = draw_biased_mnist(folder, load("digits:train"), load("digits"), SMALL, lambda *stage: None)
    assert [path.name for path in written] == ["smoothing.png", "attack_radius.png", "certified.png"]
    assert all(path.stat().st_size > 10_000 for path in written)
    assert result.broken == 0
    return folder


def numbers(folder: Path, name: str = "smoothing") -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_between_the_base_and_the_nearest_neighbour(drawn: Path) -> None:
    """At alpha = 0 and sigma = 0 both are the base network; for large alpha the nearest neighbour."""
    found = numbers(drawn)
    biased, normal = np.array(found["biased"]), np.array(found["normal"])
    assert biased.shape == normal.shape == (2, 3)
    assert biased[0, 0] > 0.85
    assert np.array_equal(biased[:, 0], normal[:, 0])
    assert np.array_equal(biased[:, 2], found["neighbour"])
    assert (biased[1, 0] < biased[0, 0]) and abs(normal[0, 2] - 0.5) < 0.25  # attacked; drowned in noise


def test_attacks(drawn: Path) -> None:
    """At radius 0 nothing is attacked; the network's own PGD and the adaptive attack at alpha = 0 agree about it."""
    for curves in numbers(drawn)["against_radius"].values():
        assert set(curves) == {"radii", "base", "normal", "biased", "neighbour", "adaptive"}
        assert curves["base"][0] >= curves["base"][1]
        assert curves["adaptive"][0] >= curves["adaptive"][1]
    assert numbers(drawn, "attack_radius") == numbers(drawn)["against_radius"]


def test_certificates_are_below_attacks(drawn: Path) -> None:
    found = numbers(drawn, "certified")
    radii = np.array(found["radii"])
    assert radii.shape == (2, 8) and (radii >= 0).all() and radii.max() > 0.01
    data = one_digit(load("digits:train"), load("digits"), SMALL)
    oracle = NearestNeighbour(data.reserved.images, data.reserved.labels)
    x = data.test.images[:8]
    # with a bias that settles everything, what is certified is the oracle's radius
    right = (oracle(x) == data.test.labels[:8]).numpy()
    neighbour = oracle.neighbours(x, "l2").radii.numpy()
    assert (radii[1] <= neighbour).all() and (radii[1][~right] == 0).all()
    assert radii[1][right] == pytest.approx(np.minimum(neighbour, np.inf)[right], rel=2e-2)


def test_reproducible(tmp_path: Path) -> None:
    tiny = replace(SMALL, epochs=1, attacked=3, certified=2, adaptive_alphas=(1.0,), certified_alphas=(1.0,), steps=2)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        torch.rand(3)  # another global random state
        draw_biased_mnist(tmp_path / name, load("digits:train"), load("digits"), tiny, lambda *stage: None)
    for name in ("smoothing", "certified"):
        first, second = ((tmp_path / run / f"{name}.json").read_bytes() for run in ("first", "second"))
        assert first == second


def test_data() -> None:
    """Half of each label, nothing reserved is trained on, and the digit is where it should be."""
    train, test = load("digits:train"), load("digits")
    data = one_digit(train, test, SMALL)
    assert data.reserved.labels.tolist() == [0] * 5 + [1] * 5
    assert len(data.test) == 60 and int(data.test.labels.sum()) == 30
    eights = int((train.labels == 8).sum())
    assert len(data.train) == 2 * eights - 10 and int(data.train.labels.sum()) == eights - 5
    everything = torch.cat([data.train.images, data.reserved.images]).flatten(1)
    assert len(everything.unique(dim=0)) == len(train.images[train.labels == 8].flatten(1).unique(dim=0)) + eights
    other = one_digit(train, test, replace(SMALL, seed=1))
    assert not torch.equal(other.test.images, data.test.images)
    with pytest.raises(InvalidValue, match="data = digits: has 0 inputs of class 11"):
        one_digit(train, test, replace(SMALL, digit=11))


def test_no_certificate_of_a_relu_network() -> None:
    base = LogitDifference(small_network((1, 8, 8), 0))
    classifier = BiasedDifferentiable(base, NearestNeighbour(torch.zeros(1, 1, 8, 8), torch.tensor([1])), alpha=1.0)
    assert classifier.predict(torch.rand(2, 1, 8, 8)).shape == (2,)
    with pytest.raises(UnsupportedOperation, match="its gradient jumps"):
        classifier.certify(torch.rand(2, 1, 8, 8))
