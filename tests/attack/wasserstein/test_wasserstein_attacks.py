"""Attacks on Wasserstein balls: feasible whoever checks, optimal where the optimum is known, alone in any batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import verifix
from verifix.attack import Attack, AttackResult, FlowPGD, FrankWolfe, PlanPGD, SinkhornPGD
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, Wasserstein

FLOW = {"ground": "l1", "window": None, "transport": "flow"}
ATTACKS: dict[str, Attack] = {
    "PlanPGD": PlanPGD(steps=6, restarts=2),
    "FrankWolfe": FrankWolfe(steps=6),
    "FrankWolfe line-search": FrankWolfe(steps=3, rule="line-search"),
    "SinkhornPGD": SinkhornPGD(steps=5, regularisation=200.0),
    "FlowPGD": FlowPGD(steps=6, restarts=2),
}
EVERY = [pytest.param(attack, id=name) for name, attack in ATTACKS.items()]
VARIANTS = ["balanced", "balanced-box", "clamp-after"]


class Network(nn.Module):
    """A convolution and a dense layer, 3 classes; row by row, so that batches cannot change its sums."""

    def __init__(self, dtype: torch.dtype, channels: int = 1, size: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        width = 4 * (size - 2) ** 2
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width, 3)).to(dtype)
        self.seen: list[Tensor] = []
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            self.layers[-1].bias -= self.layers(images(40, dtype, channels, size)).mean(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return torch.cat([self.layers(row[None]) for row in x]) if len(x) else self.layers(x)


def images(n: int, dtype: torch.dtype, channels: int = 1, size: int = 6, seed: int = 0) -> Tensor:
    """Images with black and white pixels."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, channels, size, size, generator=generator) * 2.0 - 0.5).clamp(0, 1).to(dtype)


def threat(attack: Attack, eps: float | Tensor, variant: str = "balanced", **more: Any) -> Wasserstein:
    place = FLOW if isinstance(attack, FlowPGD) else {"window": 3}
    return Wasserstein(eps=eps, variant=variant, **{**place, **more})  # type: ignore[arg-type]


def labelled(model: Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TestWithin:
    @pytest.mark.parametrize("attack", EVERY)
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_examples_lie_in_their_sets(self, attack: Attack, variant: str, dtype: torch.dtype) -> None:
        """By the linear program, which knows nothing of the attack's proof; budgets of the inputs differ."""
        model, x = Network(dtype), images(5, dtype)
        eps = torch.linspace(0.0, 0.3, 5, dtype=torch.float64)
        sets = threat(attack, eps, variant).around(x)
        result = attack(model, x, labelled(model, x), sets, stop=False)
        assert result.feasible.all()
        assert sets.contains(result.examples, tolerance=1e-9).all()
        assert torch.equal(result.examples[0], x[0])
        assert (result.examples != x).flatten(1).any(1)[1:].all()
        assert result.examples.dtype == dtype
        if variant != "clamp-after":
            mass = result.examples.double().sum((2, 3))
            torch.testing.assert_close(
                mass, x.double().sum((2, 3)), rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0
            )
        if variant != "balanced":
            assert result.examples.max() <= 1
            assert max(float(seen.max()) for seen in model.seen) <= 1
        assert min(float(seen.min()) for seen in model.seen) >= 0
        answers = labelled(model, result.examples)
        assert torch.equal(result.success, answers != labelled(model, x))
        assert result.success.any()

    @pytest.mark.parametrize("attack", EVERY)
    def test_without_a_box_pixels_may_grow(self, attack: Attack) -> None:
        model = Network(torch.float64)
        x = images(6, torch.float64)
        result = attack(model, x, labelled(model, x), threat(attack, 0.3), stop=False)
        assert result.examples.max() > 1

    @pytest.mark.parametrize("attack", EVERY)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_colours_share_the_budget_and_keep_their_mass(self, attack: Attack, variant: str) -> None:
        model, x = Network(torch.float64, channels=3, size=5), images(3, torch.float64, channels=3, size=5)
        sets = threat(attack, 0.2, variant).around(x)
        result = attack(model, x, labelled(model, x), sets, stop=False)
        assert sets.contains(result.examples, tolerance=1e-9).all()
        assert (result.distance > 0).all()
        if variant != "clamp-after":
            torch.testing.assert_close(result.examples.sum((2, 3)), x.sum((2, 3)), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("attack", EVERY)
    def test_raw_mass_and_another_ground_metric(self, attack: Attack) -> None:
        model, x = Network(torch.float64), images(3, torch.float64)
        x[2] = 0  # no mass, nothing moves
        more = {} if isinstance(attack, FlowPGD) else {"ground": "squared-euclidean", "window": 5}
        sets = threat(attack, 1.5, mass="raw", **more).around(x)
        result = attack(model, x, labelled(model, x), sets, stop=False)
        assert sets.contains(result.examples, tolerance=1e-9).all()
        assert torch.equal(result.examples[2], x[2])
        assert (result.distance[:2] > 0.1).all()

    @pytest.mark.parametrize("attack", EVERY)
    def test_one_bright_pixel(self, attack: Attack) -> None:
        """The model wants its mass to the right: so much of it as the budget pays for."""
        x = torch.zeros(1, 1, 5, 5)
        x[0, 0, 2, 2] = 0.5

        def model(z: Tensor) -> Tensor:
            return torch.stack([5 - z[:, 0, 2, 2], 9 * z[:, 0, 2, 3]], 1)

        attack = dataclasses.replace(attack, steps=40)  # type: ignore[call-arg]
        if isinstance(attack, SinkhornPGD):
            attack = dataclasses.replace(attack, regularisation=1e4)
        result = attack(model, x, torch.tensor([0]), threat(attack, 0.25), stop=False)
        moved = torch.zeros(5, 5)
        moved[2, 2], moved[2, 3] = 0.375, 0.125
        torch.testing.assert_close(result.examples[0, 0], moved, rtol=0, atol=2e-3)

    @pytest.mark.parametrize("attack", EVERY)
    def test_images_without_mass_are_refused_by_the_set(self, attack: Attack) -> None:
        with pytest.raises(InvalidValue, match="image 1 has no mass"):
            attack(Network(torch.float32), torch.eye(6).repeat(2, 1, 1, 1) * torch.tensor([1.0, 0]).reshape(2, 1, 1, 1),
                   torch.zeros(2).long(), threat(attack, 0.1))  # fmt: skip


class TestStrength:
    """A linear network is fooled best at the point of the set with the largest ``<g, z>``, which is known."""

    def best(self, attack: Attack, variant: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        x = images(4, dtype, size=7)
        g = torch.randn(7, 7, generator=torch.Generator().manual_seed(1)).to(dtype)

        def model(z: Tensor) -> Tensor:
            value = (z[:, 0] * g).flatten(1).sum(1)
            return torch.stack([torch.full_like(value, 1000.0), value], 1)

        sets = threat(attack, torch.tensor([0.05, 0.1, 0.2, 0.4]).double(), variant).around(x)
        result = attack(model, x, torch.zeros(4).long(), sets, stop=False)
        assert sets.contains(result.examples, tolerance=1e-9).all()
        clean = 1000 - (x[:, 0] * g).flatten(1).sum(1).double()
        most = sets.upper(g.expand(4, 1, 1, 7, 7))[:, 0] - (1000 - clean)
        return clean - result.margins.double(), most

    def test_frank_wolfe_is_exact(self) -> None:
        found, most = self.best(FrankWolfe(steps=2), "balanced")
        torch.testing.assert_close(found, most, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("attack", [PlanPGD(), PlanPGD(steps=60, step_size=0.5), FlowPGD(steps=200)], ids=str)
    def test_projected_gradients_get_there(self, attack: Attack) -> None:
        found, most = self.best(attack, "balanced")
        assert (found <= most * (1 + 1e-9)).all()
        assert (found >= 0.98 * most).all()

    @pytest.mark.parametrize("attack", [PlanPGD(steps=60, rounds=10), FrankWolfe(rounds=20)], ids=str)
    def test_full_pixels(self, attack: Attack) -> None:
        """Against a linear program over plans with columns of at most 1."""
        found, _ = self.best(attack, "balanced-box")
        most = self.program(images(4, torch.float64, size=7), [0.05, 0.1, 0.2, 0.4])
        assert (found <= most + 1e-7).all()
        assert (found >= 0.9 * most).all()

    def program(self, x: Tensor, eps: list[float]) -> Tensor:
        import numpy as np
        from scipy.optimize import linprog

        g = torch.randn(7, 7, generator=torch.Generator().manual_seed(1)).double().flatten()
        pairs = [
            (i, j, float(np.hypot(i // 7 - j // 7, i % 7 - j % 7)))
            for i in range(49)
            for j in range(49)
            if abs(i // 7 - j // 7) <= 1 and abs(i % 7 - j % 7) <= 1
        ]
        rows, columns = np.zeros((49, len(pairs))), np.zeros((49, len(pairs)))
        for number, (i, j, _) in enumerate(pairs):
            rows[i, number] = columns[j, number] = 1
        cost, value = np.array([c for _, _, c in pairs]), np.array([float(g[j] - g[i]) for i, j, _ in pairs])
        most = []
        for image, radius in zip(x[:, 0].flatten(1).numpy(), eps, strict=True):
            found = linprog(
                -value,
                A_ub=np.concatenate([columns, cost[None]]),
                b_ub=np.concatenate([np.ones(49), [radius * image.sum()]]),
                A_eq=rows,
                b_eq=image,
            )
            most.append(-found.fun)
        return torch.tensor(most, dtype=torch.float64)

    @pytest.mark.parametrize("attack", [PlanPGD(), FrankWolfe()], ids=str)
    def test_clamping_throws_mass_away(self, attack: Attack) -> None:
        """Mass on top of a white pixel is gone: 1 + 2 falls to 1 + 1, not to 1.5 + 1, with half of a pixel moved."""
        x = torch.ones(1, 1, 1, 2, dtype=torch.float64)

        def model(z: Tensor) -> Tensor:
            return torch.stack([z[:, 0, 0, 0] + 2 * z[:, 0, 0, 1], torch.full_like(z[:, 0, 0, 0], 2.2)], 1)

        result = attack(model, x, torch.tensor([0]), Wasserstein(eps=0.25, window=3, variant="clamp-after"))
        assert result.success.all()
        result = attack(model, x, torch.tensor([0]), Wasserstein(eps=0.25, window=3))
        assert not result.success.any()


class TestAlone:
    @pytest.mark.parametrize("attack", EVERY)
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_batches_have_no_effect(self, attack: Attack, variant: str, dtype: torch.dtype) -> None:
        model, x = Network(dtype), images(4, dtype)
        y, eps = labelled(model, x), torch.linspace(0.02, 0.2, 4, dtype=torch.float64)

        def run(index: Tensor, **more: Any) -> AttackResult:
            return attack(model, x[index], y[index], threat(attack, eps[index], variant), seed=5, **more)

        whole = run(torch.arange(4))
        for index, more in [(torch.tensor([i]), {}) for i in range(4)] + [(torch.tensor([2, 0, 3, 1]), {"batch": 3})]:
            part = run(index, **more)
            for name in ("success", "examples", "margins", "feasible", "forwards", "backwards"):
                assert torch.equal(getattr(whole, name)[index], getattr(part, name)), name

    @pytest.mark.parametrize("attack", EVERY)
    def test_fooled_inputs_leave(self, attack: Attack) -> None:
        model, x = Network(torch.float32), images(6, torch.float32)
        result = attack(model, x, labelled(model, x), threat(attack, torch.linspace(0, 0.3, 6).double()))
        assert result.success.any()
        assert result.forwards[result.success].max() < result.forwards[~result.success].min()

    @pytest.mark.parametrize("attack", EVERY)
    def test_no_input_at_all(self, attack: Attack) -> None:
        x = images(0, torch.float32)
        result = attack(Network(torch.float32), x, torch.zeros(0).long(), threat(attack, 0.1))
        assert result.examples.shape == x.shape

    @pytest.mark.parametrize("attack", EVERY)
    def test_no_gradient_is_said(self, attack: Attack) -> None:
        logits = torch.tensor([3.0, 0.0])
        result = attack(
            lambda x: 0 * x.flatten(1)[:, :2] + logits, images(2, torch.float32), torch.zeros(2).long(),
            threat(attack, 0.1),
        )  # fmt: skip
        assert result.no_gradient.all()
        assert not result.success.any()


class TestSchedule:
    """Section 5.2 of the thesis."""

    @pytest.mark.parametrize(
        ("first", "factor", "every", "steps", "last"),
        [(0.3, 1.1, 10, 200, 1.83), (0.1, 1.4, 5, 50, 2.07), (0.01, 1.5, 5, 50, 0.384)],
    )
    def test_radii(self, first: float, factor: float, every: int, steps: int, last: float) -> None:
        attack = SinkhornPGD(first_eps=first, factor=factor, every=every, steps=steps)
        radii = [float(attack.eps_at(step, torch.tensor(9.0).double())) for step in range(steps)]
        assert radii[:every] == [first] * every
        assert radii[every] == pytest.approx(first * factor)
        assert radii[-1] == pytest.approx(last, rel=5e-3)
        assert len(set(radii)) == steps // every

    def test_the_points_follow_it(self) -> None:
        """No step goes beyond its own radius, nor the last ones beyond the set's."""
        model = Network(torch.float64)
        x = images(2, torch.float64)
        attack = SinkhornPGD(first_eps=0.01, factor=2.0, every=2, steps=8, regularisation=2e4)
        threat = Wasserstein(eps=0.05, window=3)
        attack(model, x, labelled(model, x), threat, stop=False)
        seen = [points for points in model.seen if len(points) == 2][2:]  # after the label and the clean answer
        ball = dataclasses.replace(threat, eps=9.0).around(x)
        distances = [ball.distance(points).amax() for points in seen[1:9]]
        limits = [0.01, 0.01, 0.02, 0.02, 0.04, 0.04, 0.05, 0.05]
        assert all(float(d) <= limit + 1e-9 for d, limit in zip(distances, limits, strict=True))
        assert distances[5] > 0.02 and distances[7] > 0.04

    def test_entropy_keeps_points_inside(self) -> None:
        """What the reference says of the paper's attack: much of the budget is never used."""
        model, x = Network(torch.float64), images(4, torch.float64)
        y = labelled(model, x)
        entropic = SinkhornPGD(steps=20, regularisation=50.0)(model, x, y, Wasserstein(eps=0.3), stop=False)
        exact = PlanPGD(steps=20)(model, x, y, Wasserstein(eps=0.3), stop=False)
        assert (entropic.distance < 0.75 * exact.distance).all()
        assert (exact.distance > 0.299).all()
        assert (entropic.margins > exact.margins).all()


class TestCertificates:
    def test_no_certificate_is_broken(self) -> None:
        """The engine's certificates start from support functions; attacks go to where these are attained."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)).double()
        x = images(30, torch.float64)
        with torch.no_grad():
            y = model(x).argmax(1)
        verified = 0
        for eps in (0.005, 0.02, 0.05):
            for variant in VARIANTS:
                sets = Wasserstein(eps=eps, window=3, variant=variant)
                certificate = verifix.certify(model, x, y, sets)
                safe = certificate.verified
                verified += int(safe.sum())
                for attack in (PlanPGD(steps=10), FrankWolfe(steps=10)):
                    result = attack(model, x, y, sets, stop=False)
                    assert not (result.success & safe).any()
        assert verified > 30


class TestRefused:
    @pytest.mark.parametrize("attack", EVERY)
    def test_other_sets(self, attack: Attack) -> None:
        x = images(1, torch.float32)
        with pytest.raises(InvalidType, match="a Wasserstein threat model"):
            attack(Network(torch.float32), x, torch.tensor([0]), Ball("linf", 0.1))
        other = Wasserstein(eps=0.1) if isinstance(attack, FlowPGD) else Wasserstein(eps=0.1, **FLOW)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="transport = "):
            attack(Network(torch.float32), x, torch.tensor([0]), other)

    @pytest.mark.parametrize("attack", EVERY)
    def test_starts(self, attack: Attack) -> None:
        model, x = Network(torch.float32), images(1, torch.float32)
        with pytest.raises(InvalidValue, match="start"):
            attack(model, x, labelled(model, x), threat(attack, 0.1), start=x)

    @pytest.mark.parametrize(
        ("kind", "setting"),
        [
            (PlanPGD, {"steps": 0}), (PlanPGD, {"step_size": 0.0}), (PlanPGD, {"loss": "l2"}), (PlanPGD, {"rounds": 0}),
            (FrankWolfe, {"rule": "fast"}), (FrankWolfe, {"distance": float("nan")}), (FlowPGD, {"restarts": 0}),
            (FlowPGD, {"final_step": -0.1}), (SinkhornPGD, {"factor": 0.9}), (SinkhornPGD, {"every": 0}),
            (SinkhornPGD, {"first_eps": -1.0}), (SinkhornPGD, {"regularisation": 0.0}),
        ],
    )  # fmt: skip
    def test_settings(self, kind: type[Attack], setting: dict[str, Any]) -> None:
        with pytest.raises(InvalidValue, match=next(iter(setting))):
            kind(**setting)
