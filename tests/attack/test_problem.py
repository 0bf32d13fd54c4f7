from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from verifix.attack import PGD, Attack, DeepFool, Square, Untargeted
from verifix.attack.problem import Problem, evaluating
from verifix.draws import Draws
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball

X = torch.tensor([[0.5, 0.2], [0.9, 0.3], [0.1, 0.6]], dtype=torch.float64)
Y = torch.tensor([0, 0, 1])
WHO = torch.arange(3)


def identity(points: Tensor) -> Tensor:
    """Class 0 where the first coordinate is at least the second."""
    return points * 1.0


def made(eps: float = 1.0, model: object = identity, **settings: object) -> Problem:
    sets = Ball("linf", eps, box=(0, 1)).around(X)
    return Problem(model, Untargeted(Y), sets, numbers=WHO, draws=Draws(0, X), **settings)  # type: ignore[arg-type]


class TestWhatIsKept:
    def ask(self, problem: Problem, *points: list[float]) -> None:
        """About the first input."""
        for point in points:
            problem.ask(torch.tensor([point], dtype=torch.float64), WHO[:1])

    def test_the_smallest_margin(self) -> None:
        problem = made()
        self.ask(problem, [0.5, 0.4], [0.5, 0.3])
        assert problem.best(WHO[:1]).tolist() == [[0.5, 0.4]]
        self.ask(problem, [0.4, 0.5], [0.1, 0.9], [0.2, 0.8], [1.0, 0.0])
        result = problem.result()
        assert result.examples[0].tolist() == [0.1, 0.9]
        assert float(result.margins[0]) == pytest.approx(-0.8)
        assert result.success.tolist() == [True, False, False]

    def test_the_nearest(self) -> None:
        """Before success the smallest margin, then the smallest distance; success is never given up."""
        problem = made(nearest=True)
        self.ask(problem, [0.5, 0.3], [0.9, 0.8])
        assert problem.best(WHO[:1]).tolist() == [[0.9, 0.8]]
        self.ask(problem, [0.1, 0.9], [0.3, 0.4], [0.2, 0.8], [0.51, 0.2])
        result = problem.result()
        assert result.examples[0].tolist() == [0.3, 0.4]
        assert float(result.distance[0]) == pytest.approx(0.2)

    def test_with_confidence(self) -> None:
        problem = made(nearest=True, confidence=0.3)
        self.ask(problem, [0.3, 0.4])
        assert problem.best(WHO[:1]).tolist() == [[0.3, 0.4]]
        assert not problem.success[0]
        assert problem.result().success[0]
        self.ask(problem, [0.1, 0.6], [0.2, 0.6])
        assert problem.result().examples[0].tolist() == [0.2, 0.6]

    def test_success_outside_the_set_is_none(self) -> None:
        problem = made(0.1)
        self.ask(problem, [0.3, 0.4])
        result = problem.result()
        assert (result.success[0], result.feasible[0]) == (False, False)

    def test_proofs_stand_for_the_set(self) -> None:
        problem = made(0.1)
        for point, proof in (([0.0, 1.0], False), ([0.3, 0.4], True)):
            points = torch.tensor([point], dtype=torch.float64)
            problem.ask(points, WHO[:1], feasible=torch.tensor([proof]))
        result = problem.result()
        assert result.examples[0].tolist() == [0.3, 0.4]
        assert (bool(result.success[0]), bool(result.feasible[0])) == (True, True)

    def test_what_is_settled(self) -> None:
        problem = made()
        self.ask(problem, [0.0, 1.0])
        problem.settle(X, WHO)
        assert torch.equal(problem.result().examples, X)

    def test_who_is_open(self) -> None:
        for stop, left in ((True, [1, 2]), (False, [0, 1, 2])):
            problem = made(stop_on_success=stop)
            self.ask(problem, [0.0, 1.0])
            assert problem.open().tolist() == left
            assert problem.open(torch.tensor([2, 0])).tolist() == ([2] if stop else [2, 0])


class TestQueries:
    def network(self) -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()

    def test_gradients(self) -> None:
        model = self.network()
        problem, points = made(model=model), X.flip(0).contiguous()
        leaf = points.clone().requires_grad_(True)
        loss = nn.functional.cross_entropy(model(leaf), Y, reduction="none")
        (expected,) = torch.autograd.grad(loss.sum(), leaf)
        plain = problem.gradient(points, WHO, plain=True)
        torch.testing.assert_close(plain.slope, expected)
        torch.testing.assert_close(plain.loss, loss.detach())
        scaled = problem.gradient(points, WHO).slope
        factor = (scaled / expected)[:, :1]
        assert bool((factor > 0).all())
        torch.testing.assert_close(scaled, factor * expected)

        def own(logits: Tensor, at: Tensor) -> Tensor:
            return (logits.square() * at).sum(1)

        query = problem.differentiate(points, WHO, own)
        (expected,) = torch.autograd.grad(own(model(leaf), leaf).sum(), leaf)
        torch.testing.assert_close(query.slope, expected)

    def test_jacobian(self) -> None:
        model = self.network()
        problem = made(model=model)
        query, values, slopes = problem.jacobian(
            X[1:], WHO[1:], lambda logits: torch.stack([logits[:, 0], -logits.sum(1)], 1)
        )
        expected = torch.stack([torch.autograd.functional.jacobian(model, row[None])[0, :, 0] for row in X[1:]])
        torch.testing.assert_close(slopes, torch.stack([expected[:, 0], -expected.sum(1)], 1))
        torch.testing.assert_close(values, torch.stack([query.logits[:, 0], -query.logits.sum(1)], 1))
        assert problem.forwards.tolist() == [1, 2, 2]
        assert problem.backwards.tolist() == [0, 2, 2]

    def test_confident_networks_have_gradients(self) -> None:
        """In float32 the probability of the label is 1, and its part of the gradient is rounded away."""

        def model(points: Tensor) -> Tensor:
            return torch.stack([300 + points[:, 0], 100 + points[:, 1], 97 - points[:, 1]], 1)

        x, labels = X.float(), torch.zeros(3, dtype=torch.int64)
        sets = Ball("linf", 0.1).around(x)
        problem = Problem(model, Untargeted(labels), sets, numbers=WHO, draws=Draws(0, x))
        slope = problem.gradient(x, WHO).slope
        assert problem.gradient(x, WHO, plain=True).slope.abs().max() == 0
        assert bool((slope[:, 0] < 0).all())
        assert bool((slope[:, 1] > 0).all())

    def test_half_precision_answers(self) -> None:
        problem = made(model=lambda points: points.half() * 1000)
        assert problem.gradient(X, WHO).logits.dtype == torch.float32
        assert not problem.result().not_finite.any()

    @pytest.mark.parametrize("model", [lambda p: p[0], lambda p: p[:1], lambda p: p.sum(1)])
    def test_answers_of_another_shape(self, model: object) -> None:
        with pytest.raises(InvalidValue, match=r"model = answers of shape .* must return logits"):
            made(model=model)

    def test_a_gradient_that_was_not_asked_for(self) -> None:
        with pytest.raises(InvalidValue, match=r"gradient = None"):
            _ = made().ask(X, WHO).slope


class TestWarnings:
    def test_probabilities(self) -> None:
        with pytest.warns(UserWarning, match="outputs are probabilities, not logits"):
            made(model=lambda points: torch.softmax(points, 1))

    def test_logits(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made()


class TestCall:
    """What an attack refuses, whichever it is."""

    BALL = Ball("linf", 0.1)

    @pytest.mark.parametrize("model", [None, "resnet", 3], ids=str)
    def test_models(self, model: object) -> None:
        with pytest.raises(InvalidType, match=r"^model is"):
            PGD()(model, X, Y, self.BALL)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("batch", "error"), [(0, InvalidValue), (2.0, InvalidType), (True, InvalidType)], ids=str)
    def test_batches(self, batch: object, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"^batch "):
            PGD()(identity, X, Y, self.BALL, batch=batch)  # type: ignore[arg-type]

    def test_starts_of_another_shape(self) -> None:
        with pytest.raises(InvalidValue, match=r"(?s)^start = .*must be a tensor of the inputs' shape \(3, 2\)"):
            PGD()(identity, X, Y, self.BALL, start=X[:2])

    def test_labels_that_do_not_fit(self) -> None:
        with pytest.raises(InvalidValue, match=r"^y = 2 classes: must be as many as the 3 inputs"):
            PGD()(identity, X, Y[:2], self.BALL)
        with pytest.raises(InvalidValue, match=r"^y = label 2 at 1"):
            PGD()(identity, X, torch.tensor([0, 2, 0]), self.BALL)

    @pytest.mark.parametrize("x", [X.long(), X[0], torch.full((3, 2), torch.nan)], ids=["int", "one", "NaN"])
    def test_inputs(self, x: Tensor) -> None:
        with pytest.raises((InvalidValue, InvalidType), match=r"^x "):
            PGD()(identity, x, Y, self.BALL)

    def test_sets_of_other_inputs(self) -> None:
        with pytest.raises(InvalidValue, match="3 inputs outside their own set"):
            PGD()(identity, X, Y, self.BALL.around(X + 1))

    def test_settings(self) -> None:
        assert PGD(steps=7).settings() == {
            "attack": "PGD", "steps": 7, "step_size": None, "relative_step_size": None, "final_step": 1.0,
            "restarts": 1, "start_from": "random", "loss": "cross-entropy", "sparsity": (5, 20),
        }  # fmt: skip


class WritesIntoItsInput(nn.Module):
    """As networks that begin by normalising in place do."""

    def forward(self, points: Tensor) -> Tensor:
        return points.mul_(2).sub_(1)


@pytest.mark.parametrize(
    "attack", [PGD(steps=5), Square(queries=20), DeepFool(steps=3)], ids=lambda a: type(a).__name__
)
def test_a_model_that_writes_into_its_input(attack: Attack) -> None:
    x = X.clone()
    result = attack(WritesIntoItsInput(), x, Y, Ball("linf", 0.2, box=(0, 1)))
    assert torch.equal(x, X)
    expected = attack(lambda points: 2 * points - 1, x, Y, Ball("linf", 0.2, box=(0, 1)))
    assert torch.equal(result.examples, expected.examples)
    assert result.success.tolist() == [True, False, False]


@pytest.mark.parametrize("attack", [PGD(steps=5, start_from="input"), DeepFool()], ids=lambda a: type(a).__name__)
def test_inference_mode(attack: Attack) -> None:
    with torch.inference_mode():
        inside = attack(identity, X.clone(), Y.clone(), Ball("linf", 0.2, box=(0, 1)))
    outside = attack(identity, X, Y, Ball("linf", 0.2, box=(0, 1)))
    assert torch.equal(inside.examples, outside.examples) and not inside.no_gradient.any()
    assert not inside.examples.is_inference()


def test_modes_come_back_module_by_module() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model.train()
    model[1].eval()
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, False, True]
