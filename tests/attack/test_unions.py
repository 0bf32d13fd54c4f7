"""Attacks on unions of threat models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verifix.attack import (
    BIM,
    DDN,
    FGSM,
    PGD,
    Attack,
    AttackResult,
    GaussianNoise,
    MultiSteepestDescent,
    Targeted,
    WorstOf,
    augmentation,
)
from verifix.attack.criteria import Loss
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, Union, UnionSet

FREE = Union(Ball("linf", 0.1), Ball("l2", 0.3), Ball("l1", 0.6))
BOXED = Union(*(Ball(ball.norm, ball.eps, (0, 1)) for ball in FREE.members if isinstance(ball, Ball)))


def network(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def inputs(n: int = 12, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return x, network(dtype)(x).argmax(1)


class Watched(nn.Module):
    """Remembers at which points it was asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.points = model, [torch.zeros(0)]

    def forward(self, x: Tensor) -> Tensor:
        self.points.append(x.detach().clone())
        answers: Tensor = self.model(x)
        return answers


def steepest_by_hand(gradient: Tensor, norm: str, coordinates: int) -> Tensor:
    """Equations 5.34, 5.36 and 5.38 with k coordinates, for one input."""
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        return gradient / gradient.square().sum().sqrt()
    step = torch.zeros_like(gradient)
    for place in gradient.abs().argsort(descending=True)[:coordinates]:
        step[place] = gradient[place].sign() / coordinates
    return step


def project_by_hand(d: Tensor, norm: str, eps: float) -> Tensor:
    """Equations 5.35 and 5.37, and algorithm 10."""
    if norm == "linf":
        return d.clamp(-eps, eps)
    if norm == "l2":
        return eps * d / max(eps, float(d.square().sum().sqrt()))
    if float(d.abs().sum()) <= eps:
        return d
    gamma = d.abs().sort(descending=True).values
    rho = max(j for j in range(1, len(gamma) + 1) if gamma[j - 1] - (gamma[:j].sum() - eps) / j > 0)
    eta = (gamma[:rho].sum() - eps) / rho
    return d.sign() * (d.abs() - eta).clamp(min=0)


class TestMultiSteepestDescent:
    @pytest.mark.parametrize("steps", [1, 2, 7])
    def test_is_algorithm_9(self, steps: int) -> None:
        """Every candidate of every step, one input at a time, as the thesis writes them."""
        model, (x, y) = network(), inputs()
        sizes = (0.03, 0.1, 0.2)
        attack = MultiSteepestDescent(steps=steps, step_sizes=sizes, sparsity=(2, 2), returns="last")
        found = attack(model, x, y, FREE, stop=False)
        winners = set()
        for i in range(len(x)):
            delta = torch.zeros(12, dtype=torch.float64)
            for _ in range(steps):
                at = (x[i].flatten() + delta).requires_grad_(True)
                (gradient,) = torch.autograd.grad(F.cross_entropy(model(at[None]), y[i : i + 1]), at)
                candidates, losses = [], []
                for ball, size in zip(FREE.members, sizes, strict=True):
                    moved = delta + size * steepest_by_hand(gradient, ball.norm, 2)
                    candidates.append(project_by_hand(moved, ball.norm, float(ball.eps)))
                    with torch.no_grad():
                        logits = model((x[i].flatten() + candidates[-1])[None])
                    losses.append(float(F.cross_entropy(logits, y[i : i + 1])))
                best = max(range(3), key=lambda number: losses[number])
                winners.add(best)
                delta = candidates[best]
            torch.testing.assert_close(found.examples[i].flatten(), x[i].flatten() + delta, rtol=0, atol=1e-9)
        assert len(winners) > 1

    def test_the_best_is_the_best_of_all_that_was_seen(self) -> None:
        model, (x, y) = Watched(network()), inputs(1)
        found = MultiSteepestDescent(steps=6)(model, x, y, BOXED, stop=False)
        seen = torch.cat([points for points in model.points if len(points)])
        logits = model.model(seen)
        own = logits[:, y[0]]
        margins = own - logits.scatter(1, y.expand(len(seen))[:, None], -torch.inf).amax(1)
        assert float(found.margins[0]) == pytest.approx(float(margins.detach().min()), abs=1e-12)

    def test_counts(self) -> None:
        """Each input itself, then for every step a gradient and one query for each member, then the result."""
        model, (x, y) = network(), inputs()
        found = MultiSteepestDescent(steps=5)(model, x, y, BOXED, stop=False)
        assert found.forwards.tolist() == [1 + 5 * (1 + 3) + 1] * len(x)
        assert found.backwards.tolist() == [5] * len(x)
        early = MultiSteepestDescent(steps=5)(model, x, y, BOXED.scaled(3))
        assert early.success.any() and (early.forwards[early.success] < found.forwards[0]).any()

    @pytest.mark.parametrize("steps", [20, 40])
    @pytest.mark.parametrize("boxed", [False, True])
    def test_reaches_the_worst_case_of_a_linear_model(self, steps: int, boxed: bool) -> None:
        """Two classes: the smallest margin over a set is ``-support(-w)``, and over a union the least of them."""
        generator = torch.Generator().manual_seed(3)
        weights = torch.randn(2, 12, generator=generator, dtype=torch.float64)
        x = torch.rand(30, 12, generator=generator, dtype=torch.float64)
        scales = torch.rand(3, 30, generator=generator, dtype=torch.float64) + 0.5  # now one, now another is the worst
        y = (x @ weights.T).argmax(1)
        box = (0, 1) if boxed else None
        union = Union(
            *(Ball(n, e * s, box) for n, e, s in zip(("linf", "l2", "l1"), (0.1, 0.3, 0.6), scales, strict=True))
        )
        w = (weights[0] - weights[1]) * torch.where(y == 0, 1.0, -1.0)[:, None]
        each = torch.stack([-member.support(-w[:, None])[:, 0] for member in union.around(x).members])
        sizes = (4 / steps,) * 3
        attack = MultiSteepestDescent(steps=steps, relative_step_sizes=sizes, sparsity=(1, 1), loss="margin")
        found = attack(lambda x: x @ weights.T, x, y, union, stop=False)
        # in a box greedy steps may end between two members; without one, each member's own candidate is its maximiser
        gap = found.margins - each.amin(0)
        assert (gap >= -1e-9).all()
        assert len(set(each.argmin(0).tolist())) >= 2
        assert float(gap.median()) < 1e-6
        assert boxed or (gap < 1e-6).all()

    def test_examples_lie_in_a_member(self) -> None:
        for dtype in (torch.float32, torch.float64):
            model, (x, y) = network(dtype), inputs(20, dtype)
            found = MultiSteepestDescent(steps=10)(model, x, y, BOXED, stop=False)
            assert found.examples.dtype == dtype and found.feasible.all()
            members = torch.stack([ball.around(x).contains(found.examples) for ball in BOXED.members])
            assert members.any(0).all()
            assert (found.distance <= 1 + 1e-9).all() and (found.distance > 0).all()
            assert found.examples.min() >= 0 and found.examples.max() <= 1

    def test_restarts_begin_at_the_input_and_then_in_members(self) -> None:
        model, (x, y) = Watched(network()), inputs(4)
        MultiSteepestDescent(steps=1, restarts=4)(model, x, y, FREE, stop=False)
        starts = [model.points[-1 - 4 * k] for k in (4, 3, 2, 1)]  # the result, and 1 + 3 points for each restart
        assert torch.equal(starts[0], x)
        for start, ball in zip(starts[1:], FREE.members, strict=True):
            assert ball.around(x).contains(start).all() and not torch.equal(start, x)

    def test_more_restarts_are_no_worse(self) -> None:
        model, (x, y) = network(), inputs(20)
        few, many = (
            MultiSteepestDescent(steps=5, restarts=restarts)(model, x, y, BOXED, stop=False) for restarts in (1, 3)
        )
        assert (many.margins <= few.margins + 1e-12).all() and (many.margins < few.margins - 1e-9).any()

    def test_is_at_least_as_strong_as_its_members_mostly(self) -> None:
        """On a network of its own training it finds more than any one attack; here that no fewer are fooled."""
        model, (x, y) = network(), inputs(200)
        together = MultiSteepestDescent(steps=30)(model, x, y, BOXED)
        each = [int(PGD(steps=30)(model, x, y, ball).success.sum()) for ball in BOXED.members]
        assert int(together.success.sum()) >= max(each) > 0

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"steps": 0}, "steps = 0: must be at least 1"),
            ({"restarts": 0}, "restarts = 0"),
            ({"step_sizes": (0.1, 0.0)}, r"step_sizes = 0\.0: must be a number above 0"),
            ({"step_sizes": (0.1,), "relative_step_sizes": (0.1,)}, "relative_step_sizes = .*not both"),
            ({"relative_step_sizes": (float("nan"),)}, "relative_step_sizes = nan"),
            ({"sparsity": (5, 2)}, "sparsity = 2: must be at least 5"),
            ({"loss": "square"}, "loss = 'square': choose one of"),
            ({"returns": "first"}, "returns = 'first': choose one of best, last"),
        ],
    )
    def test_settings_that_cannot_be(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValue, match=message):
            MultiSteepestDescent(**settings)

    def test_sets_that_do_not_fit(self) -> None:
        model, (x, y) = network(), inputs(2)
        with pytest.raises(InvalidValue, match="is no union: use Union"):
            MultiSteepestDescent()(model, x, y, Ball("linf", 0.1))
        with pytest.raises(InvalidValue, match=r"step_sizes = .*must be 3 numbers, one for each member"):
            MultiSteepestDescent(step_sizes=(0.1, 0.2))(model, x, y, FREE)
        with pytest.raises(InvalidType, match="step_sizes"):
            MultiSteepestDescent(step_sizes=0.1)  # type: ignore[arg-type]


class TestWorstOf:
    ATTACKS = (PGD(steps=8, start_from="both", restarts=2), BIM(steps=8), PGD(steps=12, sparsity=(1, 3)))

    def parts(self, model: nn.Module, x: Tensor, y: Tensor) -> list[AttackResult]:
        pairs = zip(self.ATTACKS, BOXED.members, strict=True)
        return [attack(model, x, y, ball, seed=5, stop=False) for attack, ball in pairs]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_the_worst_of_its_parts(self, dtype: torch.dtype) -> None:
        model, (x, y) = network(dtype), inputs(40, dtype)
        found = WorstOf(attacks=self.ATTACKS)(model, x, y, BOXED, seed=5, stop=False)
        parts = self.parts(model, x, y)
        margins = torch.stack([part.margins for part in parts])
        assert torch.equal(found.margins, margins.amin(0))
        assert torch.equal(found.success, torch.stack([part.success for part in parts]).any(0))
        assert len(set(margins.argmin(0).tolist())) == 3
        examples = torch.stack([part.examples for part in parts])[margins.argmin(0), torch.arange(len(x))]
        assert torch.equal(found.examples, examples)
        # what the parts have cost, less the result of each, plus asking about each once more, and what frames them
        assert torch.equal(found.forwards, sum(part.forwards for part in parts) + 2)
        assert torch.equal(found.backwards, torch.stack([part.backwards for part in parts]).sum(0))

    def test_by_cross_entropy(self) -> None:
        """Equation 5.31."""
        model, (x, y) = network(), inputs(40)
        found = WorstOf(attacks=self.ATTACKS, loss="cross-entropy")(model, x, y, BOXED, seed=5, stop=False)
        parts = torch.stack([part.examples for part in self.parts(model, x, y)])
        losses = torch.stack([F.cross_entropy(model(points), y, reduction="none") for points in parts])
        assert torch.equal(found.examples, parts[losses.argmax(0), torch.arange(len(x))])

    def test_those_that_are_fooled_leave(self) -> None:
        model, (x, y) = network(), inputs(60)
        attack = WorstOf(attacks=(PGD(steps=10),))
        found, all_of_it = attack(model, x, y, BOXED), attack(model, x, y, BOXED, stop=False)
        assert torch.equal(found.success, all_of_it.success) and found.success.any() and not found.success.all()
        assert (found.forwards[found.success] < all_of_it.forwards[found.success]).all()
        assert torch.equal(found.forwards[~found.success], all_of_it.forwards[~found.success])

    def test_no_gradient_is_reported(self) -> None:
        x, y = inputs(3)
        found = WorstOf(attacks=(FGSM(),))(lambda x: (x.flatten(1)[:, :2] > 0.5).double() * 0 + 1.5, x, y * 0, FREE)
        assert found.no_gradient.all() and not found.withstood.any()

    def test_attacks_without_gradients(self) -> None:
        model, (x, y) = network(), inputs(10)
        found = WorstOf(attacks=(GaussianNoise(repeats=5),))(model, x, y, BOXED)
        assert not found.backwards.any() and found.feasible.all()

    @pytest.mark.parametrize("loss", ["margin", "cross-entropy"])
    def test_minimum_norm_beyond_the_set_does_not_end_the_search(self, loss: Loss) -> None:
        """DDN ends at wrong points wherever they are; the attacks behind it find theirs all the same."""
        model, (x, y) = network(), inputs(40)
        attacks = (PGD(steps=5), DDN(steps=20), PGD(steps=20))
        union = Union(Ball("linf", 0.02, (0, 1)), Ball("l2", 0.1, (0, 1)), Ball("l1", 2.0, (0, 1)))
        found = WorstOf(attacks=attacks, loss=loss)(model, x, y, union)
        parts = [attack(model, x, y, ball) for attack, ball in zip(attacks, union.members, strict=True)]
        outside = ~parts[1].feasible & ~parts[0].success
        assert (outside & parts[2].success).any() and (outside & ~parts[2].success).any()
        assert torch.equal(found.success, torch.stack([part.success for part in parts]).any(0))
        assert found.feasible.all()

    def test_settings_are_plain(self) -> None:
        import json

        settings = WorstOf(attacks=self.ATTACKS).settings()
        assert [part["attack"] for part in settings["attacks"]] == ["PGD", "BIM", "PGD"]
        assert settings["attacks"][2]["steps"] == 12
        assert json.loads(json.dumps(settings))["loss"] == "margin"

    def test_what_cannot_be(self) -> None:
        model, (x, y) = network(), inputs(2)
        with pytest.raises(InvalidValue, match="attacks = 2 attacks: must be 3, one for each member"):
            WorstOf(attacks=(PGD(), PGD()))(model, x, y, FREE)
        with pytest.raises(InvalidValue, match="is no union"):
            WorstOf(attacks=(PGD(),))(model, x, y, Ball("l2", 0.1))
        for attacks in (PGD(), ("pgd",)):
            with pytest.raises(InvalidType, match="attacks"):
                WorstOf(attacks=attacks)  # type: ignore[arg-type]


class TestAugmentation:
    def test_each_attack_on_its_member(self) -> None:
        model, (x, y) = network(), inputs(20)
        attacks = TestWorstOf.ATTACKS
        found = augmentation(model, x, y, BOXED.around(x), attacks, seed=2, stop=False)
        for result, attack, ball in zip(found, attacks, BOXED.members, strict=True):
            alone = attack(model, x, y, ball, seed=2, stop=False)
            assert torch.equal(result.examples, alone.examples) and torch.equal(result.margins, alone.margins)
            assert ball.around(x).contains(result.examples).all()

    def test_what_cannot_be(self) -> None:
        model, (x, y) = network(), inputs(2)
        with pytest.raises(InvalidValue, match="attacks = 2 attacks"):
            augmentation(model, x, y, FREE, (PGD(), PGD()))
        with pytest.raises(InvalidType, match="attacks"):
            augmentation(model, x, y, FREE, PGD())  # type: ignore[arg-type]


ALL: list[Attack] = [
    MultiSteepestDescent(steps=4, restarts=2),
    MultiSteepestDescent(steps=5, returns="last"),
    WorstOf(attacks=(PGD(steps=3, restarts=2),)),
    WorstOf(attacks=(PGD(steps=4), FGSM(), GaussianNoise(repeats=3)), loss="cross-entropy"),
]


class TestContract:
    @pytest.mark.parametrize("attack", ALL)
    @pytest.mark.parametrize("stop", [True, False])
    def test_an_input_does_not_depend_on_its_batch(self, attack: Attack, stop: bool) -> None:
        model, (x, y) = network(), inputs(5)
        together = attack(model, x, y, BOXED, stop=stop)
        order = torch.tensor([3, 0, 1, 4, 2])
        mixed = attack(model, x[order], y[order], BOXED, stop=stop, batch=3)
        torch.testing.assert_close(mixed.examples, together.examples[order], rtol=0, atol=1e-12)
        for i in range(len(x)):
            alone = attack(model, x[i : i + 1], y[i : i + 1], BOXED, stop=stop)
            torch.testing.assert_close(alone.examples[0], together.examples[i], rtol=0, atol=1e-12)
            assert int(alone.forwards) == int(together.forwards[i])
            assert bool(alone.success) == bool(together.success[i])

    @pytest.mark.parametrize("attack", ALL)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_bit_by_bit_where_the_model_answers_row_by_row(self, attack: Attack, dtype: torch.dtype) -> None:
        whole = network(dtype)

        def model(x: Tensor) -> Tensor:
            return torch.cat([whole(row[None]) for row in x])

        x, y = inputs(4, dtype)
        together = attack(model, x, y, BOXED, seed=3)
        for i in range(len(x)):
            alone = attack(model, x[i : i + 1], y[i : i + 1], BOXED, seed=3)
            for name in ("success", "examples", "margins", "forwards", "backwards"):
                assert torch.equal(getattr(alone, name)[0], getattr(together, name)[i]), name

    @pytest.mark.parametrize("attack", ALL)
    def test_answers_that_are_not_numbers(self, attack: Attack) -> None:
        """One input from the beginning; others as soon as anything has moved."""
        x, y = inputs(3)
        y = y * 0

        def model(points: Tensor) -> Tensor:
            logits = points.flatten(1)[:, :4] + torch.tensor([5.0, 0.0, 0.0, 0.0])
            known = (points.flatten(1)[:, None] == x[1:].flatten(1)).all(2).any(1)
            return torch.where(known[:, None], logits, torch.nan)

        found = attack(model, x, y, BOXED)
        assert not found.success.any() and not found.withstood.any() and found.not_finite.all()
        assert not found.examples.isnan().any()

    @pytest.mark.parametrize("attack", ALL)
    def test_targets(self, attack: Attack) -> None:
        model, (x, y) = network(), inputs(20)
        targets = model(x).topk(2).indices[:, 1]
        found = attack(model, x, Targeted(targets, y), BOXED.scaled(2))
        assert torch.equal(found.success, model(found.examples).argmax(1) == targets) and found.success.any()

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    @pytest.mark.parametrize("attack", ALL)
    def test_on_the_gpu(self, attack: Attack) -> None:
        model, (x, y) = network(), inputs(6)
        here = attack(model, x, y, BOXED)
        there = attack(model.cuda(), x.cuda(), y.cuda(), BOXED)
        assert torch.equal(there.success.cpu(), here.success)
        torch.testing.assert_close(there.examples.cpu(), here.examples, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("attack", ALL)
    def test_leaves_nothing_behind(self, attack: Attack) -> None:
        model, (x, y) = nn.Sequential(network(), nn.Dropout(0.5)), inputs(5)
        model.train()
        model[0].eval()
        attack(model, x, y, BOXED)
        assert model.training and model[1].training and not model[0].training
        assert all(parameter.grad is None for parameter in model.parameters())

    @pytest.mark.parametrize("attack", ALL)
    def test_begins_where_it_is_told(self, attack: Attack) -> None:
        model, (x, y) = Watched(network()), inputs(3)
        start = BOXED.members[2].around(x).project(x + 0.3)
        attack(model, x, y, BOXED, stop=False, start=start)
        points = model.points[3] if isinstance(attack, MultiSteepestDescent) else model.points[4]
        assert torch.equal(points, start)

    def test_a_radius_for_each_input(self) -> None:
        model, (x, y) = network(), inputs(6)
        radii = torch.linspace(0.02, 0.3, 6).double()
        union = Union(Ball("linf", radii), Ball("l1", 4 * radii))
        found = MultiSteepestDescent(steps=10)(model, x, y, union, stop=False)
        assert isinstance(found.sets, UnionSet) and found.feasible.all()
        for i in range(6):
            one = Union(Ball("linf", float(radii[i])), Ball("l1", 4 * float(radii[i])))
            alone = MultiSteepestDescent(steps=10)(model, x[i : i + 1], y[i : i + 1], one, stop=False)
            torch.testing.assert_close(alone.examples[0], found.examples[i], rtol=0, atol=1e-12)
