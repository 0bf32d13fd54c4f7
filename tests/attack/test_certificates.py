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
from verifix.sets.base import Norm

EPS = 0.1
"""In every norm; without a box, as the literature certifies this network."""

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
    return [pytest.param(case, norm, id=f"{name} {norm}") for name, case in table.items() for norm in case.norms]


class Certified:
    """The images that have a certificate, by norm."""

    def __init__(self, models_dir: Path, data_dir: Path, n: int) -> None:
        self.model: nn.Module = load_model("verifix.zoo:mnist_small", models_dir / "convex_adversarial/mnist.pth")
        data = load(f"mnist:{data_dir / 'mnist'}").first(n)
        self.x, self.y = data.images, data.labels

    @functools.cache  # noqa: B019  (as long as the tests of the module)
    def verified(self, norm: Norm) -> Tensor:
        result = vx.certify(self.model, self.x, self.y, vx.Ball(norm, EPS), "cap")
        return result.verified.nonzero()[:, 0]

    def broken(self, case: Case, norm: Norm) -> tuple[Tensor, int]:
        """Whether the attack succeeded on each certified image, and how many there are."""
        kept = self.verified(norm)
        attack = case.attack
        box = (0, 1) if isinstance(attack, CarliniWagner) or (isinstance(attack, DDN) and attack.levels) else None
        found = attack(self.model, self.x[kept], self.y[kept], vx.Ball(norm, EPS, box))  # with a box: a smaller set
        return found.success, len(kept)


@pytest.fixture(scope="module")
def few(models_dir: Path, data_dir: Path) -> Certified:
    return Certified(models_dir, data_dir, 30)


@pytest.fixture(scope="module")
def everything(models_dir: Path, data_dir: Path) -> Certified:
    return Certified(models_dir, data_dir, 10_000)


@pytest.mark.parametrize(("case", "norm"), cases(QUICK))
def test_certificates_of_the_first_images(few: Certified, case: Case, norm: Norm) -> None:
    success, count = few.broken(case, norm)
    assert count >= 25
    assert success.any().item() is False


@pytest.mark.slow
@pytest.mark.parametrize(("case", "norm"), cases(STRONG))
def test_certificates_of_all_images(everything: Certified, case: Case, norm: Norm) -> None:
    success, count = everything.broken(case, norm)
    assert count >= 9000
    assert success.any().item() is False


def test_wider_balls_are_broken(few: Certified) -> None:
    """The same attacks are not blind here."""
    for case in (QUICK["PGD"], QUICK["APGD"], QUICK["Square"], QUICK["DeepFool"]):
        assert case.attack(few.model, few.x, few.y, vx.Ball("linf", 0.3, (0, 1))).success.any()
