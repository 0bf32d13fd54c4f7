"""What every family keeps to: names of samples, JSON, one clear error for each wrong parameter."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from tests.smooth.noise.bounds import probabilities
from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.noise import (
    FAMILIES,
    Ablation,
    AnisotropicGaussian,
    Flow,
    Gaussian,
    KeepOrReplace,
    Laplace,
    Noise,
    Purpose,
    Samples,
    Splitting,
    Uniform,
    UniformBall,
    make_noise,
    noise_from_json,
)

NOISES = [
    Gaussian(0.5),
    Gaussian(0.5, lattice=255),
    AnisotropicGaussian(scales=torch.rand(3, 4) + 0.1),
    AnisotropicGaussian(factor=torch.linalg.cholesky(torch.eye(24) + 0.3)),
    UniformBall(3.0, 24),
    Laplace(0.5),
    Laplace(0.5, lattice=255),
    Uniform(0.5),
    Uniform(0.5, lattice=255),
    Splitting(0.5),
    Splitting(0.5, lattice=255, offsets=2),
    KeepOrReplace(0.2, 255),
    Ablation(5, 12),
    Ablation(5, 24, null=0.5),
    Ablation(5, 12, null="channel"),
    Flow(0.05),
    Flow(0.05, ground="l2", mass=12.0),
]
each = pytest.mark.parametrize("noise", NOISES, ids=lambda noise: str(noise.to_json())[9:60])


def batch() -> torch.Tensor:
    return torch.randint(0, 256, (4, 2, 3, 4)).float() / 255


@each
def test_samples_are_named_by_input_and_number_alone(noise: Noise) -> None:
    x = batch()
    whole = noise.draw(x, Samples(7, Purpose.ESTIMATION, torch.tensor([5, 6, 9, 2]), 0, 6))
    assert whole.dtype == x.dtype and whole.shape[:2] == (4, 6)
    part = noise.draw(x[1:3].contiguous(), Samples(7, Purpose.ESTIMATION, torch.tensor([6, 9]), 2, 3))
    assert torch.equal(part, whole[1:3, 2:5])
    for other in (Samples(8, Purpose.ESTIMATION, torch.tensor([5, 6, 9, 2]), 0, 6),
                  Samples(7, Purpose.SELECTION, torch.tensor([5, 6, 9, 2]), 0, 6)):  # fmt: skip
        assert not torch.equal(noise.draw(x, other), whole)
    assert noise.draw(x[:0], Samples(7, Purpose.ESTIMATION, torch.zeros(0, dtype=torch.int64), 0, 6)).shape[:2] == (
        0,
        6,
    )


@each
def test_json_holds_the_family(noise: Noise) -> None:
    values = json.loads(json.dumps(noise.to_json()))
    again = noise_from_json(values)
    assert type(again) is type(noise) and again.to_json() == noise.to_json()
    samples, x = Samples(7, Purpose.ESTIMATION, torch.arange(4), 0, 2), batch()
    assert torch.equal(again.draw(x, samples), noise.draw(x, samples))
    bounds = probabilities((0.9, 0.05), (0.3, 0.2))
    np.testing.assert_array_equal(again.radius(bounds), noise.radius(bounds))


@each
def test_radii_are_float64_and_nan_without_a_lead(noise: Noise) -> None:
    radius = noise.radius(probabilities((0.99, 0.005), (0.2, 0.3), (0.3, 0.2)))
    assert radius.dtype == np.float64 and radius.shape == (3,)
    assert np.isnan(radius).tolist() == [False, True, False]
    assert radius[0] > 0


@each
def test_larger_bounds_of_others_never_enlarge_a_radius(noise: Noise) -> None:
    grid = np.linspace(0.02, 0.5, 25)
    radius = np.nan_to_num(noise.radius(probabilities(*((0.5, other) for other in grid))), nan=-1)
    assert (np.diff(radius) <= 0).all()
    radius = np.nan_to_num(noise.radius(probabilities(*((top, 0.02) for top in 0.98 - grid))), nan=-1)
    assert (np.diff(radius) <= 0).all()


@each
def test_what_is_said_of_rounding(noise: Noise) -> None:
    """Soundness in floating point is claimed where nothing is rounded, and then the law that is drawn is near."""
    values = noise.to_json()
    exact = values["name"] in ("keep-or-replace", "ablation") or values.get("lattice") is not None
    assert noise.float_sound == exact
    assert 0 <= noise.total_variation(24) < 1e-14
    assert noise.closed == (noise.norm == "l0")
    if values.get("lattice") is not None:
        with pytest.raises(InvalidValue, match="not a multiple of 1/255"):
            noise.draw(batch() * 0.999, Samples(7, Purpose.ESTIMATION, torch.arange(4), 0, 1))


def test_lattice_noise_is_whole_levels() -> None:
    x = batch()
    for noise in (Gaussian(0.3, 255), Laplace(0.3, 255), Uniform(0.3, 255)):
        levels = noise.draw(x, Samples(7, Purpose.ESTIMATION, torch.arange(4), 0, 3)) * 255
        assert (levels - levels.round()).abs().max() < 1e-3
        assert noise.total_variation(3072) > 100 * noise.total_variation(3)


def test_every_family_is_made_by_its_name() -> None:
    assert {noise.name for noise in NOISES} == set(FAMILIES)
    assert make_noise("laplace", scale=0.25) == Laplace(0.25)
    assert make_noise("keep-or-replace", keep=0.8, levels=255) == KeepOrReplace(0.8, 255)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gauss", {}, "noise = gauss: choose one of gaussian, anisotropic"),
        ("gaussian", {"scale": 1.0}, "scale = 1.0: gaussian noise takes sigma, lattice"),
        ("gaussian", {}, "sigma = None: gaussian noise needs it"),
    ],
)
def test_wrong_names(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make_noise(name, **parameters)


def test_json_that_is_no_family() -> None:
    with pytest.raises(InvalidValue, match="choose one of"):
        noise_from_json({"sigma": 1.0})
    with pytest.raises(InvalidType, match="noise is a list"):
        noise_from_json(["gaussian"])


SCALED = [(Gaussian, "sigma"), (Laplace, "scale"), (Uniform, "scale"), (Splitting, "scale"), (Flow, "scale")]


@pytest.mark.parametrize(("family", "argument"), SCALED)
@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf"), 1e-30, 1e30])
def test_scales_that_are_not_positive_numbers(family: Any, argument: str, value: float) -> None:
    with pytest.raises(InvalidValue, match=f"{argument} = .*must be > 0"):
        family(value)


@pytest.mark.parametrize(("family", "argument"), SCALED)
@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], torch.ones(2)])
def test_scales_that_are_not_numbers(family: Any, argument: str, value: object) -> None:
    with pytest.raises(InvalidType, match=f"{argument} is a .*: pass a number"):
        family(value)


@pytest.mark.parametrize(("family", "argument"), SCALED)
@pytest.mark.parametrize("value", [lambda x: x.std(), torch.nn.Linear(2, 1)])
def test_variance_that_depends_on_the_input_is_refused_with_the_reason(family: Any, argument: str, value: Any) -> None:
    with pytest.raises(InvalidType, match=f"{argument} is a .*the classifier at x \\+ delta.*another variance"):
        family(value)


def test_numbers_of_other_types_are_numbers() -> None:
    assert Gaussian(torch.tensor(0.5)) == Gaussian(np.float32(0.5)) == Gaussian(0.5)  # type: ignore[arg-type]
    assert Gaussian(1, lattice=np.int64(255)).to_json() == {"name": "gaussian", "sigma": 1.0, "lattice": 255}


@pytest.mark.parametrize("family", [Gaussian, Laplace, Uniform, Splitting])
def test_lattices_that_are_none(family: Any) -> None:
    with pytest.raises(InvalidValue, match="lattice = 0"):
        family(0.5, lattice=0)
    with pytest.raises(InvalidType, match="lattice is a float"):
        family(0.5, lattice=255.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: KeepOrReplace(0.0, 1), InvalidValue, "keep = 0.0"),
        (lambda: KeepOrReplace(1.0, 1), InvalidValue, "keep = 1.0"),
        (lambda: KeepOrReplace(float("nan"), 1), InvalidValue, "keep = nan"),
        (lambda: KeepOrReplace("0.8", 1), InvalidType, "keep is a str"),  # type: ignore[arg-type]
        (lambda: KeepOrReplace(lambda x: 0.5, 1), InvalidType, "keep is a function"),  # type: ignore[arg-type]
        (lambda: KeepOrReplace(0.8, 0), InvalidValue, "levels = 0"),
        (lambda: KeepOrReplace(0.8, None), InvalidType, "levels is a NoneType"),  # type: ignore[arg-type]
        (lambda: KeepOrReplace(0.8, 70_000), InvalidValue, "levels = 70000"),
        (lambda: Ablation(0, 4), InvalidValue, "keep = 0"),
        (lambda: Ablation(5, 4), InvalidValue, "keep = 5: there are only 4"),
        (lambda: Ablation(1, 0), InvalidValue, "coordinates = 0"),
        (lambda: Ablation(1, 4, null="mean"), InvalidType, "null is a str"),  # type: ignore[arg-type]
        (lambda: Ablation(1, 4, null=float("inf")), InvalidValue, "null = inf"),
        (lambda: Splitting(0.5, offsets=-1), InvalidValue, "offsets = -1"),
        (lambda: Flow(0.5, mass=0), InvalidValue, "mass = 0"),
        (lambda: Gaussian(0.5).linf_radius(probabilities((0.9, 0.1)), 0), InvalidValue, "coordinates = 0"),
        (lambda: Uniform(0.5).linf_radius(probabilities((0.9, 0.1)), 0), InvalidValue, "coordinates = 0"),
    ],
)
def test_other_parameters(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_importing_families_loads_no_scipy_nor_mpmath() -> None:
    code = "import sys, verifix.smooth.noise; sys.exit(any(m in sys.modules for m in ('scipy', 'mpmath')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
