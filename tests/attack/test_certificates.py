"""No attack ever breaks a certificate: what one of them proves, every other tries to refute."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from torch import Tensor, nn

import verifix as vx
from tests.attack.test_every_attack import ATTACKS as QUICK
from tests.attack.test_every_attack import Case
from verifix.attack import (
    APGD,
    BIM,
    DDN,
    MIM,
    PGD,
    CarliniWagner,
    DeepFool,
    GaussianNoise,
    SaltAndPepper,
    Square,
    TargetedAPGD,
)
from verifix.data import load
from verifix.models import load_model
from verifix.sets import Union, Wasserstein

EPS = 0.1
"""In every norm; without a box, as the literature certifies this network."""
SETS = {
    "linf": vx.Ball("linf", EPS),
    "l2": vx.Ball("l2", EPS),
    "l1": vx.Ball("l1", EPS),
    "union": Union(vx.Ball("linf", EPS / 2), vx.Ball("l2", EPS), vx.Ball("l1", EPS)),
    "wasserstein": Wasserstein(0.001),
}
"""Certificates on flows of this network take too long; attacks on them meet those of smaller ones elsewhere."""
MOST = {"wasserstein": 200}
"""Of so many images at most, where certificates take long."""

STRONG = {
    **QUICK,
    "BIM": Case(BIM(steps=20)),
    "MIM": Case(MIM(steps=20)),
    "PGD": Case(PGD(steps=40, start_from="both", restarts=2)),
    "PGD margin": Case(PGD(steps=40, loss="margin")),
    "APGD": Case(APGD(steps=50)),
    "APGD dlr": Case(APGD(steps=50, loss="dlr")),
    "TargetedAPGD": Case(TargetedAPGD(steps=20)),
    "Square": Case(Square(queries=300)),
    "DeepFool": Case(DeepFool(steps=30), ("linf", "l2")),
    "DDN": Case(DDN(steps=50), ("l2",)),
    "CarliniWagner": Case(CarliniWagner(searches=3, steps=40, learning_rate=0.05, initial_constant=1.0), ("l2",)),
    "GaussianNoise": Case(GaussianNoise(repeats=20, searches=0)),
    "SaltAndPepper": Case(SaltAndPepper(repeats=20, searches=0)),
}
"""What the slow test tries: a new attack is a new line in ``test_every_attack.ATTACKS``, and here with more steps."""


def cases(table: dict[str, Case]) -> list[object]:
    return [
        pytest.param(case, norm, id=f"{name} {norm}")
        for name, case in table.items()
        for norm in case.norms
        if norm in SETS
    ]


class Certified:
    """The images that have a certificate, by norm."""

    def __init__(self, models_dir: Path, data_dir: Path, n: int) -> None:
        self.model: nn.Module = load_model("verifix.zoo:mnist_small", models_dir / "convex_adversarial/mnist.pth")
        data = load(f"mnist:{data_dir / 'mnist'}").first(n)
        self.x, self.y = data.images, data.labels

    @functools.cache  # noqa: B019  (as long as the tests of the module)
    def verified(self, norm: str) -> Tensor:
        n = MOST.get(norm, len(self.x))
        return vx.certify(self.model, self.x[:n], self.y[:n], SETS[norm], "cap").verified.nonzero()[:, 0]

    def share_broken(self, case: Case, norm: str) -> tuple[bool, float]:
        """Whether the attack succeeded on any certified image, and which share of the images has a certificate."""
        kept, inputs = self.verified(norm), SETS[norm]
        attack = case.attack
        if isinstance(attack, CarliniWagner) or (isinstance(attack, DDN) and attack.levels):
            inputs = vx.Ball("l2", EPS, (0, 1))  # these need a box; the set is a smaller one
        found = attack(self.model, self.x[kept], self.y[kept], inputs)
        return bool(found.success.any()), len(kept) / min(len(self.x), MOST.get(norm, len(self.x)))


@pytest.fixture(scope="module")
def few(models_dir: Path, data_dir: Path) -> Certified:
    return Certified(models_dir, data_dir, 30)


@pytest.fixture(scope="module")
def everything(models_dir: Path, data_dir: Path) -> Certified:
    return Certified(models_dir, data_dir, 10_000)


@pytest.mark.parametrize(("case", "norm"), cases(QUICK))
def test_certificates_of_the_first_images(few: Certified, case: Case, norm: str) -> None:
    broken, share = few.share_broken(case, norm)
    assert share > 0.8
    assert broken is False


@pytest.mark.slow
@pytest.mark.parametrize(("case", "norm"), cases(STRONG))
def test_certificates_of_all_images(everything: Certified, case: Case, norm: str) -> None:
    broken, share = everything.share_broken(case, norm)
    assert share > 0.9
    assert broken is False


def test_wider_balls_are_broken(few: Certified) -> None:
    """The same attacks are not blind here."""
    for case in (QUICK["PGD"], QUICK["APGD"], QUICK["Square"], QUICK["DeepFool"]):
        assert case.attack(few.model, few.x, few.y, vx.Ball("linf", 0.3, (0, 1))).success.any()
