from __future__ import annotations

import inspect
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

import verifix.attack
from verifix.attack import APGD, FGSM, PGD, Attack, Square, TargetedAPGD, evaluate, standard
from verifix.attack.registry import ATTACKS, attack_class, make_attack, parse_attacks
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball

UNIONS = {"MultiSteepestDescent", "WorstOf"}
"""For threat models that the command line has no words for."""


def test_every_attack_of_the_package_has_a_name() -> None:
    public = {
        name
        for name in verifix.attack.__all__
        if inspect.isclass(kind := getattr(verifix.attack, name)) and issubclass(kind, Attack) and kind is not Attack
    }
    named = {attack_class(name).__name__ for name in ATTACKS}
    assert public - UNIONS <= named
    assert len(named) == len(ATTACKS)


@pytest.mark.parametrize("name", ATTACKS)
def test_defaults_suffice(name: str) -> None:
    kind = attack_class(name)
    attack = make_attack(name, {})
    assert type(attack) is kind
    assert attack.settings()["attack"] == kind.__name__
    assert set(attack.settings()) == {"attack", *(field.name for field in fields(kind))}


class TestParse:
    def test_settings_of_its_own_and_of_all(self) -> None:
        text = 'pgd(loss="margin", sparsity=(1, 2)) + mim + fgsm'
        first, second, third = parse_attacks(text, {"steps": 7, "step_size": None}).values()
        assert first == PGD(loss="margin", sparsity=(1, 2), steps=7)
        assert second == make_attack("mim", {"steps": 7})
        assert third == FGSM()
        assert parse_attacks("pgd(steps=3)", {"steps": 7}) == {"pgd(steps=3)": PGD(steps=3)}

    def test_a_plus_inside_a_setting(self) -> None:
        with pytest.raises(InvalidValue, match="choose one of cross-entropy, margin, dlr"):
            parse_attacks('pgd(loss="a+b)")')

    @pytest.mark.parametrize(
        ("text", "options", "message"),
        [
            ("", {}, "choose one of"),
            ("pgd++fgsm", {}, "choose one of"),
            ("PGD", {}, "choose one of"),
            ("pgd(7)", {}, "settings go by name"),
            ("pgd(**{})", {}, "settings go by name"),
            ("pgd(steps=open('x'))", {}, "settings go by name"),
            ("pgd(steps=1)(steps=2)", {}, "settings go by name"),
            ("pgd(steps=1", {}, "settings go by name"),
            ("pgd)", {}, "choose one of"),
            ("fgsm(steps=1)", {}, "steps = 1: fgsm takes none: it has loss"),
            ("fgsm", {"restarts": 2}, "restarts = 2: fgsm takes none: it has loss"),
            ("standard", {"steps": 2}, "steps = 2: standard takes none"),
            ("standard()+standard(a=1)", {}, "takes no settings"),
            ("fgsm+fgsm", {}, "names fgsm twice"),
            ("square+standard", {}, "names square twice"),
        ],
    )
    def test_refused(self, text: str, options: dict[str, int], message: str) -> None:
        with pytest.raises((InvalidValue, InvalidType)) as error:
            parse_attacks(text, options)
        assert message in str(error.value)


class TestStandard:
    def test_settings_are_those_of_autoattack(self) -> None:
        one = {
            "apgd": APGD(steps=100),
            "apgd-targeted": TargetedAPGD(steps=100, targets=9),
            "square": Square(queries=5000),
        }
        assert standard("linf") == standard("l2") == parse_attacks("standard") == one
        assert (standard("l1")["apgd"], standard("l1")["apgd-targeted"]) == (APGD(restarts=5), TargetedAPGD(targets=5))
        with pytest.raises(InvalidValue, match="standard is for linf, l2, l1"):
            standard("wasserstein")

    @pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
    def test_stronger_than_one_step(self, norm: str) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 5)).double()
        x = torch.rand(12, 1, 4, 4, dtype=torch.float64)
        y = model(x).argmax(1)
        ball = Ball(norm, {"linf": 0.05, "l2": 0.2, "l1": 0.6}[norm], (0, 1))  # type: ignore[arg-type]
        brief = {"steps": 20, "queries": 100}
        attacks = {
            name: replace(attack, **{key: value for key, value in brief.items() if hasattr(attack, key)})
            for name, attack in standard(norm).items()
        }
        found = evaluate(model, x, y, ball, attacks)
        assert set(found.attacks) == {"apgd", "apgd-targeted", "square"}
        assert found.robust_accuracy <= 1 - float(FGSM()(model, x, y, ball).success.double().mean())
        assert 0 < found.robust_accuracy < 1
        assert found.warnings == []
