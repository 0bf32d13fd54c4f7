from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from verifix.attack import (
    BIM,
    DDN,
    FGSM,
    PGD,
    Attack,
    DeepFool,
    MultiSteepestDescent,
    Targeted,
    WorstOf,
    evaluate,
)
from verifix.attack.problem import Problem
from verifix.certify import Rows
from verifix.errors import InvalidType, InvalidValue, UserError
from verifix.sets import Ball, Union, Wasserstein


@dataclass(frozen=True, kw_only=True)
class RandomSearch(Attack):
    """The simplest attack without gradients: random points of the hull."""

    queries: int = 50

    def run(self, problem: Problem) -> None:
        for query in range(self.queries):
            who = problem.open()
            sets = problem.sets.select(who)
            lower, upper = sets.hull()
            unit = problem.draws.uniform(who, lower, sample=query)
            problem.ask(sets.project(lower + (unit + 1) / 2 * (upper - lower)), who)


Model = Callable[[Tensor], Tensor]


def two(margin: Callable[[Tensor], Tensor]) -> Model:
    """A model of two classes with a margin ``(n,)`` of the first."""
    return lambda x: torch.stack([margin(x), torch.zeros_like(x[:, 0])], 1)


def inputs(n: int = 40, d: int = 3, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, d, generator=generator, dtype=torch.float64)
    return x, x[:, :classes].argmax(1)


def bumpy(x: Tensor) -> Tensor:
    """Every coordinate by itself, so that a batch has no effect on any bit."""
    return x[:, :3] + 0.2 * torch.sin(40 * x[:, :3])


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)


class TestWorstCase:
    attacks: ClassVar[dict[str, Attack]] = {
        "fgsm": FGSM(),
        "bim": BIM(steps=3),
        "random": RandomSearch(queries=20),
        "pgd": PGD(steps=10),
    }

    def test_union_of_all_attacks_and_the_first_that_succeeds(self) -> None:
        x, y = inputs()
        ball = Ball("linf", 0.08, (0, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = evaluate(bumpy, x, y, ball, self.attacks, seed=3)
        alone = torch.stack([attack(bumpy, x, y, ball, seed=3).success for attack in self.attacks.values()], 1)
        wrong = bumpy(x).argmax(1) != y
        expected = torch.where(alone.any(1) & ~wrong, alone.int().argmax(1), -1)
        assert torch.equal(found.fooled_by, expected)
        assert len(expected.unique()) > 3  # or this says little
        assert torch.equal(found.misclassified, wrong)
        assert torch.equal(found.robust, ~wrong & ~alone.any(1))
        assert found.clean_accuracy == float((~wrong).float().mean())
        assert found.robust_accuracy == pytest.approx(float(found.robust.float().mean()))
        assert found.undecided.sum() == 0

    def test_table(self) -> None:
        x, y = inputs()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = evaluate(bumpy, x, y, Ball("linf", 0.08), self.attacks)
        rows = found.rows()
        assert [name for name, _, _ in rows] == list(self.attacks)
        assert rows[0][1] == len(x) - int(found.misclassified.sum())
        assert all(row[2] == after[1] for row, after in pairwise(rows))
        assert rows[-1][2] == int(found.robust.sum())
        assert [row[1] - row[2] for row in rows] == [int((found.fooled_by == i).sum()) for i in range(4)]
        assert f"robust accuracy {found.robust_accuracy:.2%} of 40 inputs" in str(found)
        assert all(f"warning: {text}" in str(found) for text in found.warnings)

    def test_examples(self) -> None:
        x, y = inputs()
        found = evaluate(bumpy, x, y, Ball("l2", 0.15, (0, 1)), [PGD(steps=10)])
        fooled = found.fooled
        assert fooled.any()
        assert found.robust.any()
        assert torch.equal(bumpy(found.examples).argmax(1) != y, fooled | found.misclassified)
        assert Ball("l2", 0.15, (0, 1)).around(x).contains(found.examples).all()
        assert (found.distance <= 0.15 * (1 + 1e-12)).all()
        assert torch.equal(found.examples[found.misclassified], x[found.misclassified])
        top = bumpy(found.examples).scatter(1, y[:, None], -torch.inf).amax(1)
        assert torch.allclose(found.margins, bumpy(found.examples).gather(1, y[:, None])[:, 0] - top)

    def test_examples_of_attacks_of_minimum_norm_stay_inside(self) -> None:
        """These return the nearest wrong point, wherever it is."""
        x, y = inputs()
        ball = Ball("l2", 0.1)
        assert not DDN(steps=20)(bumpy, x, y, ball).feasible.all()
        found = evaluate(bumpy, x, y, ball, [DDN(steps=20), DeepFool(), PGD(steps=2)])
        assert ball.around(x).contains(found.examples).all()
        assert torch.equal(found.robust, found.robust & (bumpy(found.examples).argmax(1) == y))

    @pytest.mark.parametrize("batch", [1, 7, 40])
    def test_batches_have_no_effect(self, batch: int) -> None:
        x, y = inputs()
        ball = Ball("linf", torch.linspace(0.01, 0.1, len(x)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one, other = (evaluate(bumpy, x, y, ball, self.attacks, batch=size) for size in (500, batch))
        for name in ("fooled_by", "examples", "margins", "forwards", "backwards", "undecided", "predictions"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert one.warnings == other.warnings

    def test_queries_are_those_that_the_model_sees(self) -> None:
        x, y = inputs()
        asked = 0

        def counting(points: Tensor) -> Tensor:
            nonlocal asked
            asked += len(points)
            return bumpy(points)

        found = evaluate(counting, x, y, Ball("linf", 0.05), [FGSM(), PGD(steps=5)])
        checks = 3  # each attack asks about one input first, to see how many classes there are
        assert int(found.forwards.sum()) == asked - checks
        assert (found.forwards[found.misclassified] == found.forwards.min()).all()
        assert (found.backwards[found.robust] == 1 + 1 + 5).all()

    def test_other_criteria(self) -> None:
        x, y = inputs()
        ball = Ball("linf", 0.2)
        targets = (y + 1) % 3
        found = evaluate(lambda x: x, x, Targeted(targets, y), ball, [FGSM(), PGD(steps=20)])
        assert found.fooled.any()
        assert (found.examples[found.fooled].argmax(1) == targets[found.fooled]).all()
        rows = Rows(torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64))
        found = evaluate(lambda x: x, x, rows, ball, [PGD(steps=20, loss="margin"), BIM(loss="margin")])
        assert torch.equal(found.misclassified, x[:, 0] < x[:, 1])
        assert torch.equal(found.robust, x[:, 0] - x[:, 1] >= 0.4)
        each = Rows(torch.eye(3, dtype=torch.float64)[y][:, None], threshold=-0.5)  # of each input its own row
        found = evaluate(lambda x: x, x, each, ball, [FGSM(loss="margin"), PGD(loss="margin")])
        assert torch.equal(found.robust, x.amax(1) - 0.2 - 0.5 >= 0)

    def test_whole_numbers_as_answers(self) -> None:
        """Votes, say: no gradient, and nothing that says so otherwise."""
        x, y = inputs()
        with pytest.warns(UserWarning, match="gradient of an attack was zero"):
            found = evaluate(
                lambda x: torch.nn.functional.one_hot(x.argmax(1)), x, y, Ball("linf", 0.01), [PGD(steps=3)]
            )
        assert not found.robust.any() and found.undecided.any()

    def test_unions(self) -> None:
        x, y = inputs()
        both = Union(Ball("linf", 0.05, (0, 1)), Ball("l2", 0.12, (0, 1)))
        found = evaluate(
            bumpy, x, y, both, [MultiSteepestDescent(steps=10), WorstOf(attacks=(BIM(steps=5),))], sanity=True
        )
        assert found.fooled.any()
        assert both.around(x).contains(found.examples).all()
        each = [BIM(steps=5)(bumpy, x, y, ball).success for ball in both.members]
        assert not (found.robust & (each[0] | each[1])).any()

    def test_model_is_left_as_it_was(self) -> None:
        model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).double()
        model[1].eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        x, y = inputs()
        found = evaluate(model, x, y, Ball("linf", 0.1), [PGD(steps=3)], sanity=True)
        assert [module.training for module in model] == [True, False, True, True]
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert not found.signs["random"].any()  # dropout is off in eval mode

    def test_names(self) -> None:
        x, y = inputs(4)
        found = evaluate(bumpy, x, y, Ball("linf", 0.01), [PGD(steps=1), BIM(steps=1), PGD(steps=2)])
        assert found.attacks == ("PGD", "BIM", "PGD 2")


@pytest.mark.filterwarnings("ignore::UserWarning")  # others than those that are looked for
class TestUndecided:
    """What withstands for no good reason is never robust."""

    x, y = torch.full((30, 2), 0.7, dtype=torch.float64), zeros(30)
    ball = Ball("linf", 0.1)

    def evaluated(self, model: Model, *attacks: Attack, found: str) -> None:
        with pytest.warns(UserWarning, match=found):
            result = evaluate(model, self.x, self.y, self.ball, attacks)
        assert result.undecided.all()
        assert result.robust_accuracy == 0.0
        assert result.clean_accuracy in (0.0, 1.0)
        assert set(result.status) == {"undecided"}

    @pytest.mark.parametrize(
        "margin",
        [
            lambda x: torch.floor(10 * x).mean(1),  # a staircase
            lambda x: x.detach().mean(1),  # a graph that is cut
            lambda x: torch.ones_like(x[:, 0]),  # a constant
            lambda x: torch.from_numpy(x.detach().numpy().mean(1)),  # torch has no part in it
        ],
    )
    @pytest.mark.parametrize(
        "attacks",
        [(PGD(steps=5),), (FGSM(), PGD(steps=5)), (PGD(steps=5), RandomSearch()), (RandomSearch(),)],
        ids=lambda attacks: "+".join(type(attack).__name__ for attack in attacks),
    )
    def test_zero_gradient(self, margin: Callable[[Tensor], Tensor], attacks: tuple[Attack, ...]) -> None:
        self.evaluated(two(margin), *attacks, found="every gradient of an attack was zero for 30 of 30 inputs")

    def test_an_answer_of_nan_is_not_a_right_one(self) -> None:
        x = torch.rand(3, 2)
        found = evaluate(
            lambda z: torch.where(z[:, :1] < 2, torch.nan, z),
            x,
            torch.tensor([0, 0, 0]),
            Ball("linf", 0.1),
            [PGD(steps=2)],
        )
        assert found.clean_accuracy == found.robust_accuracy == 0 and found.predictions.tolist() == [-1, -1, -1]
        assert found.undecided.all()

    def test_nan_gradient(self) -> None:
        self.evaluated(two(lambda x: 1 + (x - x).sqrt().sum(1)), PGD(steps=5), RandomSearch(), found="NaN or infinite")

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_answers_that_are_not_finite(self, value: float) -> None:
        """Far from the input only, and at it too."""
        self.evaluated(two(lambda x: torch.where(x[:, 0] > 0.75, value, 1 + x.sum(1)).abs()), PGD(steps=5, restarts=9),
                       found="NaN or infinite")  # fmt: skip
        if value != -torch.inf:
            self.evaluated(two(lambda x: x[:, 0] + value), PGD(steps=5), found="NaN or infinite")

    def test_wrong_answers_are_wrong_all_the_same(self) -> None:
        wrong = evaluate(two(lambda x: torch.floor(x.sum(1)) - 9), self.x, self.y, self.ball, [PGD(steps=2)])
        assert set(wrong.status) == {"misclassified"}
        with pytest.warns(UserWarning):
            fooled = evaluate(
                two(lambda x: torch.floor(20 * x[:, 0] - 13.5)),
                self.x,
                self.y,
                self.ball,
                [PGD(steps=2), RandomSearch()],
            )
        assert "fooled" in fooled.status
        assert fooled.robust_accuracy == 0.0
        assert not (fooled.undecided & fooled.fooled).any()

    def test_an_attack_that_sees_decides(self) -> None:
        """Float32 leaves FGSM's cross-entropy without a gradient where the network is sure; PGD has one."""
        x, y = self.x.float(), self.y
        with pytest.warns(UserWarning, match="every gradient of an attack was zero"):
            found = evaluate(two(lambda x: 300 * x.mean(1)), x, y, self.ball, [FGSM(), PGD(steps=3)])
        assert set(found.status) == {"robust"}
        with pytest.warns(UserWarning):
            blind = evaluate(two(lambda x: 300 * x.mean(1)), x, y, self.ball, [FGSM()])
        assert set(blind.status) == {"undecided"}


X, Y = torch.full((4, 2), 0.5), torch.tensor([0, 1, 0, 1])
SQUARE = Ball("linf", 0.1, (0, 1))
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "eps negative": (lambda: Ball("linf", -0.1), "eps = -0.1: must be finite and >= 0"),
    "eps NaN": (lambda: Ball("linf", torch.tensor([0.1, torch.nan])), "eps = nan: must be finite and >= 0"),
    "eps of another count": (lambda: run(ball=Ball("linf", torch.ones(3))), "eps"),
    "step negative": (lambda: PGD(step_size=-0.1), "step_size = -0.1: must be a number above 0"),
    "step NaN": (lambda: PGD(step_size=float("nan")), "step_size = nan: must be a number above 0"),
    "relative step NaN": (lambda: BIM(relative_step_size=float("nan")), "relative_step_size = nan"),
    "steps 0": (lambda: PGD(steps=0), "steps = 0: must be at least 1"),
    "steps no whole number": (lambda: PGD(steps=2.5), "steps is a float: pass a whole number"),  # type: ignore[arg-type]
    "restarts 0": (lambda: PGD(restarts=0), "restarts = 0: must be at least 1"),
    "loss": (lambda: FGSM(loss="hinge"), "loss = 'hinge': choose one of"),  # type: ignore[arg-type]
    "loss for more classes": (lambda: run(attacks=[PGD(loss="dlr")]), "loss = dlr: needs at least 3 classes"),
    "batch 0": (lambda: run(batch=0), "batch = 0: must be at least 1"),
    "seed": (lambda: run(seed=-1), "seed = -1"),
    "labels of reals": (lambda: run(y=Y.float()), "y is a Tensor: pass integer class numbers, not torch.float32"),
    "labels out of range": (lambda: run(y=Y + 1), "y = label 2 at 1: labels must be in [0, 1]"),
    "label negative": (lambda: run(y=Y - 1), "y = label -1 at 0"),
    "labels of another count": (lambda: run(y=Y[:3]), "y = 3 classes: must be as many as the 4 inputs"),
    "labels of a list": (lambda: run(y=[0, 1, 0, 1]), "y is a list: pass labels (n,)"),
    "targets equal to the label": (
        lambda: run(y=Targeted(torch.tensor([1, 0, 0, 0]), Y)),
        "targets = 0 for input 2, its label: must be another class",
    ),
    "outside the box": (lambda: run(x=X * 5), "4 of 4 inputs outside the box [0, 1] (values from 2.5 to 2.5)"),
    "inputs NaN": (lambda: run(x=X / 0 * 0), "4 of 4 inputs with NaN or infinity"),
    "inputs of bytes": (lambda: run(x=X.byte()), "x is a Tensor: pass a floating-point tensor"),
    "no inputs": (lambda: run(x=X[:0], y=Y[:0]), "x = tensor of shape (0, 2): holds no inputs"),
    "no tensor": (lambda: run(x=[[0.5]]), "x is a list: pass a torch.Tensor"),
    "no set": (lambda: run(ball=0.1), "inputs is a float: pass a Ball"),
    "no attack": (lambda: run(attacks=[]), "attacks = []: name at least one"),
    "one attack": (lambda: run(attacks=FGSM()), "attacks is a FGSM: pass several attacks"),
    "a class": (lambda: run(attacks=[FGSM]), "attacks is a ABCMeta: pass attacks, as in [PGD(), FGSM()]"),
    "no model": (lambda: run(model=7), "model is a int: pass a module or function"),
    "one number": (lambda: run(model=lambda x: x.sum(1)), "must return logits (n, classes)"),
    "images": (lambda: run(model=lambda x: x[:, :, None]), "must return logits (n, classes)"),
    "a sum over the batch": (lambda: run(model=lambda x: x.sum(0, keepdim=True)), "must return logits (n, classes)"),
    "no tensor comes out": (lambda: run(model=lambda x: [x]), "must return logits (n, classes)"),
    "window even": (lambda: Wasserstein(0.1, window=4), "window = 4: must be an odd number"),
    "image without mass": (
        lambda: run(x=torch.zeros(4, 1, 2, 2), ball=Wasserstein(0.1), model=lambda x: x.flatten(1)),
        "image 0 has no mass",
    ),
}


def run(
    model: object = lambda x: x,
    x: object = X,
    y: object = Y,
    ball: object = SQUARE,
    attacks: object = (FGSM(), PGD(steps=2)),
    **others: int,
) -> object:
    return evaluate(model, x, y, ball, attacks, **others)  # type: ignore[arg-type]


class TestBadInput:
    @pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
    def test_one_line_that_names_it(self, call: Callable[[], object], message: str) -> None:
        with pytest.raises(UserError) as error:
            call()
        assert isinstance(error.value, (InvalidValue, InvalidType))
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    def test_probabilities(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Softmax(1))
        with pytest.warns(UserWarning, match="4 of 4 answers are probabilities, not logits"):
            evaluate(model, X, Y, SQUARE, [FGSM()])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate(lambda x: 10 * x, X, Y, SQUARE, [FGSM(loss="margin")])


def test_documented_attack() -> None:
    """The one in docs/attacks.md, which is that of these tests."""
    text = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class RandomSearch" in block)
    names: dict[str, Any] = {"__name__": __name__}
    exec(code, names)
    x, y = inputs()
    found, expected = (kind()(bumpy, x, y, Ball("l2", 0.1)) for kind in (names["RandomSearch"], RandomSearch))
    assert expected.success.any()
    assert torch.equal(found.examples, expected.examples)
