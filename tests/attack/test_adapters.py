"""Adapters; where the libraries are installed, they are oracles for the attacks of this package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from verifix.attack import DDN, Attack, CarliniWagner, DeepFool, Targeted
from verifix.attack.adapters import AdvLib, AutoAttack, Foolbox
from verifix.certify import Rows
from verifix.data import load
from verifix.errors import InvalidType, InvalidValue
from verifix.models import load_model
from verifix.sets import Ball
from verifix.sets.base import Norm

HAVE = {name: importlib.util.find_spec(name) is not None for name in ("adv_lib", "foolbox", "autoattack")}
ADV_LIB = pytest.mark.skipif(not HAVE["adv_lib"], reason="adv-lib is not installed: pip install adv-lib")
FOOLBOX = pytest.mark.skipif(not HAVE["foolbox"], reason="foolbox is not installed: pip install foolbox")
ATTACKS = [
    pytest.param(AdvLib(function="ddn", options={"levels": None}), marks=ADV_LIB, id="adv-lib ddn"),
    pytest.param(Foolbox(name="L2DeepFoolAttack"), marks=FOOLBOX, id="foolbox L2DeepFoolAttack"),
    pytest.param(Foolbox(name="L2PGD", options={"steps": 10}), marks=FOOLBOX, id="foolbox L2PGD"),
]


def problem(box: tuple[float, float] = (0.0, 1.0)) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(2)
    low, high = box
    x = low + (high - low) * torch.rand(6, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    y = model(x).argmax(1)
    y[-1] = (y[-1] + 1) % 4
    return model, x, y


class TestContract:
    @pytest.mark.parametrize("attack", ATTACKS)
    @pytest.mark.parametrize("box", [(0.0, 1.0), (-2.0, 3.0)], ids=str)
    def test_success_is_success(self, attack: Attack, box: tuple[float, float]) -> None:
        model, x, y = problem(box)
        model.train()
        state, eps = torch.get_rng_state(), 0.4 * (box[1] - box[0]) * 4
        result = attack(model, x, y, Ball("l2", eps, box=box))
        assert torch.equal(result.success, (model(result.examples).argmax(1) != y) & result.feasible)
        assert int(result.success.sum()) >= 3
        size = (result.examples.double() - x.double()).flatten(1).norm(dim=1)
        assert bool((size[result.success] <= eps).all())
        assert bool(((result.examples >= box[0]) & (result.examples <= box[1])).all())
        assert torch.equal(result.examples[-1], x[-1])
        assert torch.equal(state, torch.get_rng_state())
        assert all(module.training for module in model.modules())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_targets(self, attack: Attack) -> None:
        model, x, _ = problem()
        logits = model(x).detach()
        targets, labels = logits.topk(2).indices[:, 1], logits.argmax(1)
        if isinstance(attack, Foolbox) and "DeepFool" in attack.name:
            pytest.skip("foolbox's DeepFool takes no targets")
        result = attack(model, x, Targeted(targets, labels), Ball("l2", 2.0, box=(0, 1)))
        assert result.success.any()
        assert torch.equal(model(result.examples).argmax(1) == targets, result.success)


class TestRefused:
    @pytest.mark.parametrize("attack", [AdvLib(function="ddn"), Foolbox(name="L2PGD"), AutoAttack()])
    def test_threats(self, attack: Attack) -> None:
        model, x, y = problem()
        with pytest.raises(InvalidValue, match="works in a box"):
            attack(model, x, y, Ball("l2", 1.0))
        with pytest.raises(InvalidValue, match="needs the same box"):
            attack(model, x, y, Ball("l2", 1.0, box=(x - 0.1, x + 0.1)))
        with pytest.raises(InvalidValue, match="no radii per coordinate"):
            attack(model, x, y, Ball("l2", torch.ones(1, 1, 4, 4), box=(0, 1)))
        with pytest.raises(InvalidValue, match="takes labels, or Targeted"):
            attack(model, x, Rows(torch.ones(1, 4)), Ball("l2", 1.0, box=(0, 1)))

    @pytest.mark.parametrize(
        ("attack", "library", "pip"),
        [
            (AdvLib(function="ddn"), "adv_lib", "pip install adv-lib"),
            (Foolbox(name="L2PGD"), "foolbox", "pip install foolbox"),
            (AutoAttack(), "autoattack", r"pip install git\+https://github.com/fra31/auto-attack"),
        ],
    )
    def test_what_is_not_installed(
        self, attack: Attack, library: str, pip: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == library] + [library]:
            monkeypatch.setitem(sys.modules, name, None)
        model, x, y = problem()
        with pytest.raises(InvalidValue, match=f"is not installed .*: {pip}$"):
            attack(model, x, y, Ball("l2", 1.0, box=(0, 1)))

    def test_settings(self) -> None:
        with pytest.raises(InvalidType, match=r"^function is a int"):
            AdvLib(function=3)  # type: ignore[arg-type]
        with pytest.raises(InvalidType, match=r"^options is a list"):
            Foolbox(name="L2PGD", options=[])  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match=r"^version = 'fast'"):
            AutoAttack(version="fast")

    @pytest.mark.parametrize(
        "attack",
        [
            pytest.param(AdvLib(function="nonsense"), marks=ADV_LIB),
            pytest.param(Foolbox(name="Nonsense"), marks=FOOLBOX),
        ],
    )
    def test_names_that_are_not_there(self, attack: Attack) -> None:
        model, x, y = problem()
        with pytest.raises(InvalidValue, match="there is nothing of this name in"):
            attack(model, x, y, Ball("l2", 1.0, box=(0, 1)))

    @FOOLBOX
    def test_one_eps_for_all(self) -> None:
        model, x, y = problem()
        with pytest.raises(InvalidValue, match=r"^eps = one for each input: L2PGD works at a single eps"):
            Foolbox(name="L2PGD")(model, x, y, Ball("l2", torch.linspace(0.1, 1, 6), box=(0, 1)))


class StandIn:
    """What the adapter needs of AutoAttack's class, and a step that goes too far, beyond ball and box."""

    given: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, model: nn.Module, norm: str, eps: float, seed: int, **settings: Any) -> None:
        self.model = model
        StandIn.given = {"norm": norm, "eps": eps, "seed": seed, **settings}

    def run_standard_evaluation(self, x: Tensor, y: Tensor, bs: int) -> Tensor:
        leaf = x.clone().requires_grad_(True)
        nn.functional.cross_entropy(self.model(leaf), y, reduction="sum").backward()
        return x + 2 * StandIn.given["eps"] * leaf.grad.sign()  # type: ignore[union-attr]


def test_autoattack_is_called_as_it_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("autoattack")
    library.AutoAttack = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autoattack", library)
    model, x, y = problem((-1.0, 1.0))
    result = AutoAttack(version="plus")(model, x, y, Ball("linf", 0.5, box=(-1, 1)), seed=4)
    assert result.feasible.all()
    assert torch.equal(result.success, model(result.examples).argmax(1) != y)
    assert int(result.success.sum()) > 1
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert StandIn.given == {
        "norm": "Linf", "eps": 0.25, "seed": 4, "verbose": False, "version": "plus", "device": x.device,
    }  # fmt: skip


@pytest.mark.slow
class TestOracles:
    """The first 100 images of ``mnist_vanilla.pth``: no farther than others go, and not much nearer either."""

    @pytest.mark.parametrize(
        ("ours", "theirs", "norm"),
        [
            pytest.param(DDN(), AdvLib(function="ddn", options={"levels": None}), "l2", marks=ADV_LIB, id="DDN"),
            pytest.param(DeepFool(), AdvLib(function="df", options={"norm": 2}), "l2", marks=ADV_LIB, id="DeepFool l2"),
            pytest.param(DeepFool(), Foolbox(name="LinfDeepFoolAttack"), "linf", marks=FOOLBOX, id="DeepFool linf"),
            pytest.param(
                CarliniWagner(searches=4, steps=300, learning_rate=0.05, initial_constant=0.1),
                Foolbox(
                    name="L2CarliniWagnerAttack",
                    options={"binary_search_steps": 4, "steps": 300, "stepsize": 0.05, "initial_const": 0.1},
                ),
                "l2",
                marks=FOOLBOX,
                id="CarliniWagner",
            ),
        ],
    )
    def test_distances(self, data_dir: Path, models_dir: Path, ours: Attack, theirs: Attack, norm: Norm) -> None:
        data = load(f"mnist:{data_dir / 'mnist'}")
        weights = f"{models_dir / 'projected_sinkhorn' / 'mnist_vanilla.pth'}#0"
        model = load_model("verifix.zoo:mnist_small", weights)
        x, y = data.images[:100].float(), data.labels[:100]
        mine, other = (attack(model, x, y, Ball(norm, 1e6, box=(0, 1))) for attack in (ours, theirs))
        both = mine.success & other.success
        assert mine.success.sum() >= other.success.sum()
        assert int(both.sum()) >= 90
        ratio = float(mine.distance[both].mean() / other.distance[both].mean())
        assert 0.9 < ratio < 1.01
