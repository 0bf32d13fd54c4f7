from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from verifix.attack import PGD, Criterion, DeepFool, Targeted, Untargeted, Violates
from verifix.attack.criteria import criterion_of, looks_like_probabilities
from verifix.certify import Rows
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball

NUMBERS = torch.arange(8)


@st.composite
def answers(draw: st.DrawFn, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Logits with ties now and then, and labels."""
    values = st.integers(-3, 3)
    logits = torch.tensor(draw(st.lists(st.lists(values, min_size=classes, max_size=classes), min_size=8, max_size=8)))
    labels = torch.tensor(draw(st.lists(st.integers(0, classes - 1), min_size=8, max_size=8)))
    return logits.double() / 2, labels


class TestUntargeted:
    @given(answers())
    def test_by_hand(self, given: tuple[Tensor, Tensor]) -> None:
        logits, labels = given
        criterion = Untargeted(labels)
        criterion.check(8, 5)
        margins, met, forms = (f(logits, NUMBERS) for f in (criterion.margins, criterion.met, criterion.forms))
        assert forms.shape == (8, 4)
        for i, (row, y) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
            others = [row[y] - value for j, value in enumerate(row) if j != y]
            assert forms[i].tolist() == others
            assert float(margins[i]) == min(others)
            assert bool(met[i]) == (row.index(max(row)) != y)

    @given(answers())
    def test_dlr(self, given: tuple[Tensor, Tensor]) -> None:
        """Equation 6, and what it is for: neither scale nor shift of the logits has an effect."""
        logits, labels = given
        logits = logits + torch.linspace(0, 0.1, 5)  # no three equal
        criterion = Untargeted(labels)
        loss = criterion.loss("dlr", logits, NUMBERS)
        for i, (row, y) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
            first, _, third = sorted(row, reverse=True)[:3]
            best = max(value for j, value in enumerate(row) if j != y)
            assert float(loss[i]) == pytest.approx((best - row[y]) / (first - third))
        torch.testing.assert_close(criterion.loss("dlr", 7 * logits - 2, NUMBERS), loss)

    def test_cross_entropy_and_margin(self) -> None:
        logits, labels = torch.randn(8, 5), torch.randint(5, (8,))
        criterion = Untargeted(labels)
        expected = logits.logsumexp(1) - logits[NUMBERS, labels]
        torch.testing.assert_close(criterion.loss("cross-entropy", logits, NUMBERS), expected)
        assert torch.equal(criterion.loss("margin", logits, NUMBERS), -criterion.margins(logits, NUMBERS))

    def test_some_of_the_inputs(self) -> None:
        logits, labels = torch.randn(8, 5), torch.randint(5, (8,))
        some = torch.tensor([5, 2])
        for criterion in (Untargeted(labels), Targeted((labels + 1) % 5, labels)):
            assert torch.equal(criterion.margins(logits[some], some), criterion.margins(logits, NUMBERS)[some])
            part = criterion.select(some)
            part.check(2, 5)
            assert torch.equal(part.margins(logits[some], NUMBERS[:2]), criterion.margins(logits, NUMBERS)[some])

    @pytest.mark.parametrize(
        "labels", [torch.tensor([0, 5]), torch.tensor([0, -1]), torch.tensor([0]), torch.tensor([[0], [1]])], ids=str
    )
    def test_labels_that_do_not_fit(self, labels: Tensor) -> None:
        with pytest.raises(InvalidValue, match=r"^y = "):
            Untargeted(labels).check(2, 5)

    def test_three_classes_at_least(self) -> None:
        with pytest.raises(InvalidValue, match=r"dlr: needs at least 3 classes, the network has 2"):
            Untargeted(torch.tensor([0])).dlr(torch.zeros(1, 2), NUMBERS[:1])


class TestTargeted:
    @given(answers(), st.integers(1, 4))
    def test_by_hand(self, given: tuple[Tensor, Tensor], shift: int) -> None:
        logits, labels = given
        targets = (labels + shift) % 5
        criterion = Targeted(targets, labels)
        criterion.check(8, 5)
        margins, met = criterion.margins(logits, NUMBERS), criterion.met(logits, NUMBERS)
        assert torch.equal(criterion.forms(logits, NUMBERS)[:, 0], margins)
        for i, (row, t) in enumerate(zip(logits.tolist(), targets.tolist(), strict=True)):
            assert float(margins[i]) == max(value for j, value in enumerate(row) if j != t) - row[t]
            assert bool(met[i]) == (row.index(max(row)) == t)

    def test_losses(self) -> None:
        logits, labels = torch.randn(8, 5, dtype=torch.float64), torch.randint(5, (8,))
        targets = (labels + 2) % 5
        criterion = Targeted(targets, labels)
        expected = logits[NUMBERS, targets] - logits.logsumexp(1)
        torch.testing.assert_close(criterion.loss("cross-entropy", logits, NUMBERS), expected)
        loss = criterion.loss("dlr", logits, NUMBERS)
        for i, (row, y, t) in enumerate(zip(logits.tolist(), labels.tolist(), targets.tolist(), strict=True)):
            first, _, third, fourth = sorted(row, reverse=True)[:4]
            assert float(loss[i]) == pytest.approx((row[t] - row[y]) / (first - (third + fourth) / 2))

    def test_a_target_that_is_the_label(self) -> None:
        with pytest.raises(InvalidValue, match=r"targets = 3 for input 1, its label: must be another class"):
            Targeted(torch.tensor([1, 3]), torch.tensor([0, 3])).check(2, 5)

    def test_four_classes_at_least(self) -> None:
        criterion = Targeted(torch.tensor([1]), torch.tensor([0]))
        with pytest.raises(InvalidValue, match="at least 4 classes, the network has 3"):
            criterion.dlr(torch.zeros(1, 3), NUMBERS[:1])


class TestViolates:
    @pytest.mark.parametrize("own", [False, True])
    def test_rows(self, own: bool) -> None:
        matrix, threshold = torch.randn(*(8, 3, 5) if own else (3, 5)), torch.randn(8, 3) if own else torch.randn(3)
        logits = torch.randn(8, 5)
        criterion = Violates(Rows(matrix, threshold))
        criterion.check(8, 5)
        for i, j in itertools.product(range(8), range(3)):
            row, offset = (matrix[i, j], threshold[i, j]) if own else (matrix[j], threshold[j])
            assert float(criterion.forms(logits, NUMBERS)[i, j]) == pytest.approx(
                float(row @ logits[i] + offset), abs=1e-5
            )
        assert torch.equal(criterion.margins(logits, NUMBERS), criterion.forms(logits, NUMBERS).amin(1))
        assert torch.equal(criterion.met(logits, NUMBERS), criterion.margins(logits, NUMBERS) < 0)
        some = torch.tensor([6, 1])
        torch.testing.assert_close(criterion.margins(logits[some], some), criterion.margins(logits, NUMBERS)[some])
        part = criterion.select(some)
        part.check(2, 5)
        torch.testing.assert_close(part.margins(logits[some], NUMBERS[:2]), criterion.margins(logits, NUMBERS)[some])

    @pytest.mark.parametrize("loss", ["cross-entropy", "dlr"])
    def test_losses_that_need_a_label(self, loss: str) -> None:
        with pytest.raises(InvalidValue, match="has no class to measure it by: use margin"):
            Violates(Rows(torch.ones(1, 5))).loss(loss, torch.zeros(8, 5), NUMBERS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "criterion",
    [
        Untargeted(torch.zeros(8, dtype=torch.int64)),
        Targeted(torch.ones(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)),
        Violates(Rows(torch.eye(5) - 2)),
    ],
    ids=lambda criterion: type(criterion).__name__,
)
def test_what_is_no_number_is_no_answer(criterion: Criterion) -> None:
    logits = torch.arange(40.0).reshape(8, 5)
    logits[NUMBERS[:5], NUMBERS[:5]] = torch.nan
    assert not criterion.met(logits, NUMBERS)[:5].any()


def test_what_y_may_be() -> None:
    labels, rows = torch.tensor([1]), Rows(torch.ones(1, 5))
    assert isinstance(criterion_of(labels), Untargeted)
    assert isinstance(criterion_of(rows), Violates)
    own = Untargeted(labels)
    assert criterion_of(own) is own
    with pytest.raises(InvalidType, match=r"^y is a list"):
        criterion_of([1])  # type: ignore[arg-type]


class TestProbabilities:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_a_softmax_is_seen(self, dtype: torch.dtype) -> None:
        logits = 30 * torch.randn(100, 1000).to(dtype)
        assert looks_like_probabilities(torch.softmax(logits, 1))
        assert not looks_like_probabilities(logits)

    def test_what_is_none(self) -> None:
        assert not looks_like_probabilities(torch.tensor([[0.5, 0.5], [0.5, 0.6]]))
        assert not looks_like_probabilities(torch.tensor([[1.5, -0.5]]))
        assert not looks_like_probabilities(torch.ones(3, 1))
        assert not looks_like_probabilities(torch.ones(0, 3))
        assert not looks_like_probabilities(torch.full((1, 2), torch.nan))


def test_a_model_with_one_logit_is_refused_since_nothing_could_fool_it() -> None:
    x = torch.rand(2, 3)
    for attack in (PGD(steps=1), DeepFool()):
        with pytest.raises(InvalidValue, match="model = 1 logit for each input: must return one for each of at least"):
            attack(lambda x: x[:, :1], x, torch.zeros(2, dtype=torch.int64), Ball("linf", 0.1))
