"""What holds for every attack of the package, one table of them: a new attack is a new line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from verifix.attack import (
    APGD,
    BIM,
    DDN,
    FGSM,
    MIM,
    PGD,
    Attack,
    AttackResult,
    CarliniWagner,
    DeepFool,
    FlowPGD,
    FrankWolfe,
    GaussianNoise,
    MultiSteepestDescent,
    PlanPGD,
    RandomFGSM,
    SaltAndPepper,
    SinkhornPGD,
    Square,
    Targeted,
    TargetedAPGD,
    UniformFGSM,
    WorstOf,
)
from verifix.certify import Rows
from verifix.errors import InvalidValue
from verifix.sets import Ball, Union, Wasserstein

Threat = Ball | Union | Wasserstein


@dataclasses.dataclass(frozen=True)
class Case:
    """An attack with few steps, and what it can do."""

    attack: Attack
    norms: tuple[str, ...] = ("linf", "l2", "l1")
    random: bool = False
    """Whether the seed has an effect."""
    gradients: bool = True
    labels_only: bool = False
    """Whether it refuses other criteria."""
    slow: bool = False
    """Whether it asks so often that some tests take fewer inputs."""


ATTACKS = {
    "FGSM": Case(FGSM()),
    "UniformFGSM": Case(UniformFGSM(), random=True),
    "RandomFGSM": Case(RandomFGSM(), ("linf",), random=True),
    "BIM": Case(BIM(steps=5)),
    "MIM": Case(MIM(steps=5)),
    "PGD": Case(PGD(steps=4, restarts=2), random=True),
    "APGD": Case(APGD(steps=12, restarts=2), random=True),
    "APGD dlr": Case(APGD(steps=12, loss="dlr"), random=True),
    "TargetedAPGD": Case(TargetedAPGD(steps=6), random=True, labels_only=True),
    "DeepFool": Case(DeepFool(steps=5), ("linf", "l2")),
    "DDN": Case(DDN(steps=10), ("l2",)),
    "DDN levels": Case(DDN(steps=10, levels=32), ("l2",)),
    "CarliniWagner": Case(
        CarliniWagner(searches=3, steps=20, learning_rate=0.1, initial_constant=0.1), ("l2",), slow=True
    ),
    "CarliniWagner confident": Case(
        CarliniWagner(searches=3, steps=20, learning_rate=0.1, initial_constant=0.1, confidence=0.1), ("l2",), slow=True
    ),
    "Square": Case(Square(queries=20), random=True, gradients=False),
    "MultiSteepestDescent": Case(MultiSteepestDescent(steps=4), ("union",), random=True),
    "WorstOf": Case(WorstOf(attacks=(PGD(steps=3),)), ("union",), random=True),
    "PlanPGD": Case(PlanPGD(steps=4), ("wasserstein",)),
    "FrankWolfe": Case(FrankWolfe(steps=4), ("wasserstein",)),
    "SinkhornPGD": Case(SinkhornPGD(steps=4), ("wasserstein",)),
    "FlowPGD": Case(FlowPGD(steps=4), ("flow",)),
    "GaussianNoise": Case(GaussianNoise(repeats=3, searches=4), random=True, gradients=False),
    "SaltAndPepper": Case(SaltAndPepper(repeats=3, searches=4), random=True, gradients=False),
}

EPS = {"linf": 0.2, "l2": 0.8, "l1": 5.0}
EVERY = [pytest.param(case, norm, id=f"{name} {norm}") for name, case in ATTACKS.items() for norm in case.norms]
ANY_CRITERION = [p for p in EVERY if not p.values[0].labels_only]
BALLS = [pytest.param(*p.values, id=p.id) for p in EVERY if p.values[1] in EPS]
ONE_EACH = [pytest.param(case, case.norms[0], id=name) for name, case in ATTACKS.items()]
ONE_BALL = [p for p in ONE_EACH if p.values[1] in EPS]
FORWARDS = 1
"""An attack asks about one input, uncounted, how many classes there are."""


class Network(nn.Module):
    """Convolution, batch norm and two dense layers, with 4 classes; by rows, if wanted, or counted."""

    def __init__(self, dtype: torch.dtype, rows: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 12), nn.ReLU(),
            nn.Linear(12, 4),
        )  # fmt: skip
        self.to(dtype)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
            self.layers[1].running_mean.fill_(0.1)
            self.layers[-1].bias -= self.layers.eval()(inputs(40, dtype)).mean(0)  # every class is the answer for some
        self.rows, self.forwards, self.backwards = rows, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = torch.cat([self.layers(row[None]) for row in x]) if self.rows and len(x) else self.layers(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def inputs(n: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Images with black and white pixels."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, 1, 7, 7, generator=generator) * 1.4 - 0.2).clamp(0, 1).to(dtype)


def labelled(model: Network, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inputs, and the model's own answers, but for the last input."""
    x = inputs(n, dtype)
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    y[-1] = (y[-1] + 1) % 4
    return x, y


def ball(norm: str, factor: float = 1.0) -> Threat:
    """The threat models by name; all but those of transport in the box [0, 1]."""
    if norm == "union":
        return Union(*[Ball(member, EPS[member] * factor, box=(0, 1)) for member in ("linf", "l2", "l1")])
    if norm == "wasserstein":
        return Wasserstein(0.5 * factor, window=3)
    if norm == "flow":
        return Wasserstein(0.5 * factor, ground="l1", window=None, transport="flow")
    return Ball(norm, EPS[norm] * factor, box=(0, 1))


def same(a: AttackResult, b: AttackResult, where: Tensor) -> None:
    """``b`` is the part of ``a``, bit by bit."""
    for name in ("success", "examples", "margins", "feasible", "forwards", "backwards", "no_gradient", "not_finite"):
        assert torch.equal(getattr(a, name)[where], getattr(b, name)), name
    assert torch.equal(a.distance[where], b.distance)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TestAlone:
    """The result for an input depends on nothing but the input."""

    @pytest.mark.parametrize(
        ("case", "norm", "dtype"),
        [pytest.param(*p.values, torch.float32, id=p.id) for p in EVERY]
        + [pytest.param(*p.values, torch.float64, id=f"{p.id} float64") for p in ONE_EACH],
    )
    def test_batches_have_no_effect(self, case: Case, norm: str, dtype: torch.dtype) -> None:
        """Bit by bit, where the model itself answers row by row."""
        model = Network(dtype, rows=True)
        x, y = labelled(model, 4 if case.slow else 6, dtype)
        whole = case.attack(model, x, y, ball(norm), seed=5)
        assert whole.success.any()
        for i in range(len(x)):
            same(whole, case.attack(model, x[i : i + 1], y[i : i + 1], ball(norm), seed=5), torch.tensor([i]))
        order = torch.tensor([2, 0, 3, 1])
        same(whole, case.attack(model, x[order], y[order], ball(norm), seed=5, batch=3), order)

    @pytest.mark.parametrize(("case", "norm"), ONE_EACH)
    def test_nor_have_they_with_an_ordinary_network(self, case: Case, norm: str) -> None:
        model = Network(torch.float64)
        x, y = labelled(model, 4 if case.slow else 6, torch.float64)
        whole = case.attack(model, x, y, ball(norm))
        alone = [case.attack(model, x[i : i + 1], y[i : i + 1], ball(norm)) for i in range(len(x))]
        assert torch.equal(whole.success, torch.cat([result.success for result in alone]))
        torch.testing.assert_close(whole.examples, torch.cat([r.examples for r in alone]), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(("case", "norm"), ONE_EACH)
    def test_seeds(self, case: Case, norm: str) -> None:
        model = Network(torch.float32)
        x, y = labelled(model, 6, torch.float32)
        first, again, other = (case.attack(model, x, y, ball(norm), seed=seed) for seed in (1, 1, 2))
        same(first, again, torch.arange(6))
        assert torch.equal(first.examples, other.examples) != case.random

    @pytest.mark.parametrize(("case", "norm"), ONE_EACH)
    def test_no_input_at_all(self, case: Case, norm: str) -> None:
        model = Network(torch.float32)
        result = case.attack(model, inputs(0, torch.float32), torch.zeros(0, dtype=torch.int64), ball(norm))
        assert result.examples.shape == (0, 1, 7, 7)
        assert result.success.shape == result.withstood.shape == result.distance.shape == (0,)


class TestWithin:
    """What counts as success lies in the set and is answered wrongly, whoever checks it."""

    def checked(self, model: Network, x: Tensor, result: AttackResult, y: Tensor, eps: Tensor, norm: str) -> None:
        step = (result.examples.double() - x.double()).flatten(1)
        eps = eps.expand(x.shape).flatten(1)
        fixed = eps == 0
        order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[norm]
        size = torch.linalg.vector_norm(torch.where(fixed, 0.0, step / eps), ord=order, dim=1)
        inside = (size <= 1) & ~((step != 0) & fixed).any(1)
        inside &= ((result.examples >= 0) & (result.examples <= 1)).flatten(1).all(1)
        assert torch.equal(result.feasible, inside)
        with torch.no_grad():
            logits = model.eval()(result.examples)
        assert torch.equal(result.success, inside & (logits.argmax(1) != y))
        torch.testing.assert_close(result.distance, size * eps.amax(1), rtol=1e-12, atol=0)
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        torch.testing.assert_close(result.margins, logits.gather(1, y[:, None])[:, 0] - others)
        assert bool(result.success[-1])  # it was wrong from the beginning

    @pytest.mark.parametrize(("case", "norm"), BALLS)
    @pytest.mark.parametrize(
        ("dtype", "radii"), [(torch.float32, "per coordinate"), (torch.float64, "per input")], ids=str
    )
    def test_success_is_success(self, case: Case, norm: str, dtype: torch.dtype, radii: str) -> None:
        model = Network(dtype)
        n = 4 if case.slow else 8
        x, y = labelled(model, n, dtype)
        scale = torch.linspace(0.0, 2.0, n, dtype=torch.float64).flip(0)
        eps = EPS[norm] * scale.reshape(-1, 1, 1, 1)
        given = EPS[norm] * scale
        if radii == "per coordinate":
            generator = torch.Generator().manual_seed(1)
            eps = given = 1.5 * EPS[norm] * torch.rand(1, 1, 7, 7, generator=generator, dtype=torch.float64)
            eps[0, 0, :2] = 0
        result = case.attack(model, x, y, Ball(norm, given, box=(0, 1)), stop=False)
        assert result.examples.dtype == dtype
        self.checked(model, x, result, y, eps, norm)
        assert result.success[:-1].any() or not case.gradients
        if not case.attack.nearest:
            assert result.feasible.all()

    @pytest.mark.parametrize(("case", "norm"), [p for p in EVERY if p.values[1] not in EPS])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_in_other_sets(self, case: Case, norm: str, dtype: torch.dtype) -> None:
        model = Network(dtype)
        x, y = labelled(model, 6, dtype)
        result = case.attack(model, x, y, ball(norm), stop=False)
        with torch.no_grad():
            wrong = model.eval()(result.examples).argmax(1) != y
        sets = ball(norm).around(x)
        assert result.examples.dtype == dtype
        assert sets.contains(result.examples, tolerance=1e-9 if dtype == torch.float64 else 1e-5).all()
        assert result.feasible.all()
        assert torch.equal(result.success, wrong)
        assert result.success[:-1].any()

    @pytest.mark.parametrize(("case", "norm"), ONE_BALL)
    def test_inputs_outside_the_box_are_refused(self, case: Case, norm: str) -> None:
        model = Network(torch.float32)
        x, y = labelled(model, 3, torch.float32)
        with pytest.raises(InvalidValue, match=r"1 of 3 inputs outside the box"):
            case.attack(model, torch.cat([x[:2], x[2:] - 0.5]), y, ball(norm))

    @pytest.mark.parametrize(("case", "norm"), ONE_BALL)
    def test_other_boxes(self, case: Case, norm: str) -> None:
        """A box whose sides no float32 number hits, and units that are not those of images."""
        model = Network(torch.float32)
        x, y = labelled(model, 4, torch.float32)
        lower, upper = x.double().amin() - 0.1, x.double().amax() + 0.3
        threat = Ball(norm, EPS[norm], box=(lower, upper))
        result = case.attack(model, x, y, threat)
        found = result.examples[result.success].double()
        assert bool(((found >= lower) & (found <= upper)).all())
        assert result.success.any()


class TestCriteria:
    def by_margin(self, attack: Attack) -> Attack:
        """The attack with the loss that any criterion has."""
        if isinstance(attack, WorstOf):
            return WorstOf(attacks=tuple(self.by_margin(one) for one in attack.attacks))
        names = {field.name for field in dataclasses.fields(attack)}
        return dataclasses.replace(attack, loss="margin") if "loss" in names else attack

    @pytest.mark.parametrize(("case", "norm"), ANY_CRITERION)
    def test_targets(self, case: Case, norm: str) -> None:
        model = Network(torch.float32)
        x, _ = labelled(model, 8, torch.float32)
        with torch.no_grad():
            logits = model(x)
        labels = logits.argmax(1)
        targets = logits.topk(2).indices[:, 1]
        result = case.attack(model, x, Targeted(targets, labels), ball(norm, 3.0), stop=False)
        with torch.no_grad():
            answers = model(result.examples).argmax(1)
        assert torch.equal(result.success, (answers == targets) & result.feasible)
        assert result.success.any() or not case.gradients

    @pytest.mark.parametrize(("case", "norm"), ANY_CRITERION)
    def test_rows(self, case: Case, norm: str) -> None:
        """Two forms of the logits, each 0.03 above zero at the inputs."""
        model = Network(torch.float64)
        x, _ = labelled(model, 6, torch.float64)
        matrix = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0]]).double()
        with torch.no_grad():
            thresholds = 0.03 - model(x) @ matrix.T
        rows = Rows(matrix, thresholds)
        result = self.by_margin(case.attack)(model, x, rows, ball(norm, 2.0))
        with torch.no_grad():
            logits = model(result.examples)
        margins = (logits @ matrix.T + thresholds).amin(1)
        torch.testing.assert_close(result.margins, margins)
        assert torch.equal(result.success, (margins < 0) & result.feasible)
        assert result.success.any()


class TestModel:
    """What an attack leaves behind: nothing."""

    @pytest.mark.parametrize(("case", "norm"), ONE_EACH)
    def test_nothing_is_changed(self, case: Case, norm: str) -> None:
        model = Network(torch.float32)
        x, y = labelled(model, 4, torch.float32)
        model.train()
        model.layers[1].eval()  # a frozen batch norm inside a model in training
        model.layers[0].weight.requires_grad_(False)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        kept, state = x.clone(), torch.get_rng_state()
        case.attack(model, x, y, ball(norm))
        assert torch.equal(x, kept)
        assert not x.requires_grad
        assert torch.equal(state, torch.get_rng_state())
        assert [module.training for module in model.modules()] == [True, True, True, False] + [True] * 5
        assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 7
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize(("case", "norm"), ONE_EACH)
    def test_modes_are_restored_when_it_fails(self, case: Case, norm: str) -> None:
        class Failing(Network):
            def forward(self, x: Tensor) -> Tensor:
                if self.forwards > 12:
                    raise RuntimeError("out of memory")
                return super().forward(x)

        model = Failing(torch.float32)
        x, y = labelled(model, 5, torch.float32)
        model.train()
        model.layers[1].eval()
        with pytest.raises(RuntimeError, match="out of memory"):
            case.attack(model, x, y, ball(norm, 0.01))
        assert [module.training for module in model.modules()] == [True, True, True, False] + [True] * 5

    @pytest.mark.parametrize(("case", "norm"), EVERY)
    def test_queries_are_counted(self, case: Case, norm: str) -> None:
        model = Network(torch.float32)
        x, y = labelled(model, 3, torch.float32)
        for i in range(3):
            model.forwards = model.backwards = 0
            result = case.attack(model, x[i : i + 1], y[i : i + 1], ball(norm))
            assert int(result.forwards) == model.forwards - FORWARDS
            assert int(result.backwards) == model.backwards
            assert model.backwards == 0 or case.gradients

    @pytest.mark.parametrize(("case", "norm"), ONE_EACH)
    def test_a_graph_of_the_caller_is_left_alone(self, case: Case, norm: str) -> None:
        model = Network(torch.float32)
        x, y = labelled(model, 3, torch.float32)
        with torch.no_grad():
            plain = case.attack(model, x, y, ball(norm))
        traced = case.attack(model, x.clone().requires_grad_(True), y, ball(norm))
        same(plain, traced, torch.arange(3))
        assert not traced.examples.requires_grad


class TestBlind:
    """A failure that says nothing is not counted as robustness."""

    @pytest.mark.parametrize(("case", "norm"), EVERY)
    def test_no_gradient(self, case: Case, norm: str) -> None:
        logits = torch.tensor([3.0, 0.0, 0.0, 0.0])
        x = inputs(3, torch.float32)
        result = case.attack(lambda x: 0 * x.flatten(1)[:, :4] + logits, x, torch.zeros(3).long(), ball(norm))
        assert not result.success.any()
        assert result.no_gradient.tolist() == [case.gradients] * 3
        assert result.withstood.tolist() == [not case.gradients] * 3

    @pytest.mark.parametrize(("case", "norm"), EVERY)
    def test_no_graph(self, case: Case, norm: str) -> None:
        def model(x: Tensor) -> Tensor:
            return x.detach().flatten(1)[:, :4] + torch.tensor([9.0, 0.0, 0.0, 0.0])

        result = case.attack(model, inputs(3, torch.float32), torch.zeros(3).long(), ball(norm))
        assert result.no_gradient.tolist() == [case.gradients] * 3

    @pytest.mark.parametrize(("case", "norm"), EVERY)
    def test_answers_that_are_not_numbers(self, case: Case, norm: str) -> None:
        """One input from the beginning; others as soon as anything has moved."""
        x, y = inputs(3, torch.float32), torch.zeros(3).long()

        def model(points: Tensor) -> Tensor:
            logits = points.flatten(1)[:, :4] + torch.tensor([5.0, 0.0, 0.0, 0.0])
            known = (points.flatten(1)[:, None] == x[1:].flatten(1)).all(2).any(1)
            return torch.where(known[:, None], logits, torch.nan)

        result = case.attack(model, x, y, ball(norm))
        assert not result.success.any()
        assert not result.withstood.any()
        assert result.not_finite.all()
        assert not result.examples.isnan().any()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("case", "norm"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_on_the_gpu(case: Case, norm: str, dtype: torch.dtype) -> None:
    model = Network(dtype)
    x, y = labelled(model, 6, dtype)
    there = case.attack(model.cuda(), x.cuda(), y.cuda(), ball(norm))
    here = case.attack(model.cpu(), x, y, ball(norm))
    assert there.examples.device.type == "cuda"
    assert torch.equal(there.success.cpu(), here.success)
    assert bool(there.sets.contains(there.examples)[there.success].all())
    if dtype == torch.float64:
        torch.testing.assert_close(there.examples.cpu(), here.examples, rtol=1e-5, atol=1e-5)
