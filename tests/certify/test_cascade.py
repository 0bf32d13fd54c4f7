from __future__ import annotations

import copy
import itertools
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import verifix as vx
from tests.certify.examples import linear
from tests.networks import relu_network
from verifix.bounds import parse_method
from verifix.certify import Answers, Cascade
from verifix.errors import InvalidType, InvalidValue

LINE = linear([[0.0], [1.0]])
"""Class 1 where x > 0."""


def constant(label: int, classes: int = 2, inputs: int = 1) -> nn.Linear:
    """Always the same class."""
    return linear([[0.0] * inputs] * classes, [float(j == label) for j in range(classes)])


def column(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype)[:, None]


def contradictions(cascade: Cascade, x: Tensor, labels: Tensor) -> int:
    """How many pairs of inputs lie in each other's sets and have different labels, -1 for none."""
    count = 0
    for number in range(len(x)):
        sets = cascade.around(x[number : number + 1].expand_as(x).contiguous())
        near = sets.contains(x)
        count += int((near & (labels >= 0) & (labels[number] >= 0) & (labels != labels[number])).sum())
    return count


def stagewise(answers: Answers) -> Tensor:
    """Answers by the rule without its agreement test."""
    return torch.where(answers.stages >= 0, answers.predictions, -1)


class TestAlgorithm4:
    def test_answers(self) -> None:
        """By the first stage where it certifies; by the second where the first agrees; else none."""
        answers = Cascade([LINE, constant(1)], vx.Ball("linf", 0.5)).predict(column(-2, -0.6, -0.4, 0.4, 0.6))
        assert answers.labels.tolist() == [0, 0, -1, 1, 1]
        assert answers.stages.tolist() == [0, 0, 1, 1, 0]
        assert answers.predictions.tolist() == [0, 0, 1, 1, 1]
        below = torch.tensor([1.5, 0.1, 1.0, 1.0, 0.1]).double() - answers.margin.double()
        assert bool(((below >= 0) & (below < 1e-4)).all())

    def test_nothing_certifies(self) -> None:
        answers = Cascade([LINE, LINE], vx.Ball("linf", 1.0)).predict(column(0.5, -0.5))
        assert (answers.labels.tolist(), answers.stages.tolist()) == ([-1, -1], [-1, -1])
        assert answers.predictions.tolist() == [1, 0]
        assert bool((answers.margin < 0).all())

    def test_every_stage_before_must_agree(self) -> None:
        """Stage 1 disagrees and does not certify; stages 0 and 2 agree."""
        flipped = linear([[1.0], [0.0]])
        answers = Cascade([LINE, flipped, constant(1)], vx.Ball("linf", 0.5)).predict(column(0.4))
        assert (answers.labels.tolist(), answers.stages.tolist()) == ([-1], [2])

    def test_a_later_stage_need_not_agree(self) -> None:
        assert Cascade([constant(1), constant(0)], vx.Ball("linf", 9.0)).predict(column(0.4)).labels.tolist() == [1]

    def test_verdicts(self) -> None:
        x, y = column(0.6, 0.6, -0.4, 0.4, 0.4), torch.tensor([1, 0, 0, 1, 0])
        result = Cascade([LINE, constant(1)], vx.Ball("linf", 0.5)).certify(x, y)
        assert result.verdicts.tolist() == ["verified", "falsified", "unknown", "verified", "falsified"]
        assert result.verified.tolist() == [True, False, False, True, False]

    def test_one_stage_is_the_network_itself(self) -> None:
        torch.manual_seed(0)
        model, x = relu_network((2, 8, 3), 2, scale=2.0), torch.rand(40, 2, dtype=torch.float64)
        ball, own = vx.Ball("l2", 0.1, (0, 1)), model(x).argmax(1)
        answers = Cascade([model], ball, "crown").predict(x)
        result = vx.certify(model, x, own, ball, "crown")
        assert torch.equal(answers.labels >= 0, result.verified)
        assert 0 < int(result.verified.sum()) < 40
        assert torch.equal(answers.predictions, own)
        assert torch.equal(answers.margin, result.margin)

    def test_empty_batch(self) -> None:
        result = Cascade([LINE, LINE], vx.Ball("linf", 0.5)).certify(
            torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)
        )
        assert (len(result.labels), len(result.verdicts)) == (0, 0)

    def test_ties_are_no_answer(self) -> None:
        """At 0 both classes of the first stage are equal, and torch reports the first."""
        answers = Cascade([LINE, constant(0)], vx.Ball("linf", 0.5)).predict(column(0.0))
        assert (answers.labels.tolist(), answers.stages.tolist()) == ([-1], [1])

    def test_infinite_logits_are_no_answer(self) -> None:
        huge = linear([[1e38], [-1e38]])
        answers = Cascade([nn.Sequential(huge, linear([[9.0, 0.0], [0.0, 9.0]])), constant(0)], vx.Ball("linf", 0.1))
        assert answers.predict(column(3.0)).labels.tolist() == [-1]


class TestCertificate:
    """Inputs in each other's sets never get different certified answers."""

    @given(
        seed=st.integers(0, 10**6),
        norm=st.sampled_from(["linf", "l2", "l1"]),
        box=st.sampled_from([None, (0.0, 1.0), (0.3, 0.7)]),
        eps=st.sampled_from([0.02, 0.1, 0.2]),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        method=st.sampled_from(["cap", "crown+ibp", "ibp"]),
    )
    def test_random_networks(self, seed: int, norm: Any, box: Any, eps: float, dtype: torch.dtype, method: str) -> None:
        torch.manual_seed(seed)
        stages = [relu_network((2, 6, 3), 3 * seed + stage, scale=2.0).to(dtype) for stage in range(3)]
        cascade = Cascade(stages, vx.Ball(norm, eps, box), method)
        low, high = box or (0.0, 1.0)
        x = (low + (high - low) * torch.rand(60, 2)).to(dtype).clamp(low, high)
        answers = cascade.predict(x)
        assert contradictions(cascade, x, answers.labels) == 0
        assert torch.equal(answers.labels[answers.labels >= 0], answers.predictions[answers.labels >= 0])

    def test_the_agreement_test_is_needed(self) -> None:
        """What the tests above look for is there to be found in the rule without agreement."""
        found, across = 0, 0
        for seed in range(20):
            torch.manual_seed(seed)
            stages = [relu_network((2, 6, 3), 3 * seed + stage, scale=2.0) for stage in range(3)]
            cascade, x = Cascade(stages, vx.Ball("linf", 0.1)), torch.rand(60, 2, dtype=torch.float64)
            answers = cascade.predict(x)
            assert contradictions(cascade, x, answers.labels) == 0
            found += contradictions(cascade, x, stagewise(answers))
            across += int(((answers.labels >= 0) & (answers.stages > 0)).sum())
        assert found > 0
        assert across > 0

    def test_agreement_by_hand(self) -> None:
        """Stage 1 certifies class 1 for x = -0.4; a perturbation of -0.3 makes stage 0 certify class 0 instead."""
        cascade, x = Cascade([LINE, constant(1)], vx.Ball("linf", 0.5)), column(-0.4, -0.7)
        assert bool(cascade.around(x[:1]).contains(x[1:]).all())
        answers = cascade.predict(x)
        assert stagewise(answers).tolist() == [1, 0]
        assert answers.labels.tolist() == [-1, 0]

    def test_symmetry_is_needed(self) -> None:
        """With sets [x, x + 1] the input -0.5 is certified as 1 by stage 1 though 0.5 in its set is certified as 0."""
        first, second = linear([[1.0], [0.0]]), constant(1)  # stage 0: class 0 where x > 0
        x = column(-0.5, 0.5)
        one_sided = vx.Box(x, x + 1)
        by_first = vx.certify(first, x, torch.tensor([1, 0]), one_sided, "cap")
        by_second = vx.certify(second, x, torch.tensor([1, 1]), one_sided, "cap")
        assert by_first.predictions.tolist() == [1, 0]  # stages agree at -0.5
        assert (by_first.verified.tolist(), by_second.verified.tolist()) == ([False, True], [True, True])
        assert one_sided.contains(x[[1, 0]]).tolist() == [True, False]

    def test_box_that_inputs_are_rounded_out_of(self) -> None:
        """0.3 is larger as float32; the input there must stay in the sets of its neighbours."""
        edge = torch.tensor([[0.3]])
        assert float(edge.double()) > 0.3
        near = torch.tensor([[0.25]])
        ball = vx.Ball("linf", 0.1, (0.0, 0.3))
        assert ball.around(edge).contains(near).tolist() == [True]
        assert ball.around(near).contains(edge).tolist() == [False]
        cascade = Cascade([LINE], ball)
        assert cascade.around(edge).contains(near).tolist() == [True]
        assert cascade.around(near).contains(edge).tolist() == [True]

    @given(
        data=st.data(),
        norm=st.sampled_from(["linf", "l2", "l1"]),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    )
    def test_sets_are_symmetric(self, data: st.DataObject, norm: Any, dtype: torch.dtype) -> None:
        numbers = st.floats(0.0, 0.6875, width=32 if dtype == torch.float32 else 64)
        x = torch.tensor(data.draw(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=5)), dtype=dtype)
        eps = torch.tensor([data.draw(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)))], dtype=torch.float64)
        cascade = Cascade([LINE], vx.Ball(norm, eps, (0.0, data.draw(st.sampled_from([0.7, 0.9])))))
        for i, j in itertools.permutations(range(len(x)), 2):
            assert torch.equal(
                cascade.around(x[i : i + 1]).contains(x[j : j + 1]), cascade.around(x[j : j + 1]).contains(x[i : i + 1])
            )

    def test_agreement_in_real_arithmetic(self) -> None:
        """Float32 loses 60 when the first stage adds it to 2 ** 30 and so predicts 0 there, where 1 is right.

        Beside it, at 100, the first stage predicts 1 and is certified; so the second may not answer 0 at 60, though
        the predictions of the two agree as computed.
        """
        large = float(2**30)
        first = nn.Sequential(linear([[1.0]], [large]), linear([[0.0], [1.0]], [4.0, -large]))
        cascade, x = Cascade([first, constant(0)], vx.Ball("linf", 50.0)), column(60.0, 100.0)
        with torch.no_grad():
            assert first(x).argmax(1).tolist() == [0, 1]
            assert copy.deepcopy(first).double()(x.double()).argmax(1).tolist() == [1, 1]
        answers = cascade.predict(x)
        assert answers.stages.tolist() == [1, 0]
        assert answers.predictions.tolist() == [0, 1]
        assert answers.labels.tolist() == [-1, 1]
        # also where it is a stage in the middle that rounds
        undecided = linear([[1.0], [0.0]], [-20.0, 0.0])  # class 0 where x > 20
        answers = Cascade([undecided, first, constant(0)], vx.Ball("linf", 50.0)).predict(x)
        assert answers.predictions.tolist() == [0, 0]
        assert (answers.stages.tolist(), answers.labels.tolist()) == ([2, 0], [-1, 0])


class TestRefused:
    def refused(self, *args: Any, error: type[Exception] = InvalidValue, x: Tensor | None = None) -> str:
        with pytest.raises(error) as caught:
            Cascade(*args).predict(torch.zeros(3, 2, 1) if x is None else x)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_stages(self) -> None:
        ball = vx.Ball("linf", 0.1)
        assert "at least one stage" in self.refused([], ball)
        assert "pass a list of networks" in self.refused(LINE, ball, error=InvalidType)
        assert "all must return logits" in self.refused([LINE, constant(0, classes=3)], ball, x=column(0.0))

    def test_sets_that_may_be_asymmetric(self) -> None:
        box = vx.Box(column(0.0), column(1.0))
        assert "need not be symmetric" in self.refused([LINE], box, error=InvalidType)

    @pytest.mark.parametrize("estimator", ["median:50", "geometric"])
    def test_estimates(self, estimator: str) -> None:
        methods = parse_method("cap", estimator)
        assert f"estimator = {estimator}: does not bound for certain" in self.refused(
            [LINE], vx.Ball("linf", 0.1), methods
        )

    @pytest.mark.parametrize("eps", [torch.full((3,), 0.1), torch.full((3, 1, 1), 0.1), torch.tensor([0.1])])
    def test_a_radius_for_each_input(self, eps: Tensor) -> None:
        assert re.match(r"eps = .*same for every input", self.refused([LINE], vx.Ball("linf", eps)))

    def test_a_box_for_each_input(self) -> None:
        ball = vx.Ball("linf", 0.1, (torch.zeros(3, 1, 1), 1.0))
        assert re.match(r"box = .*same for every input", self.refused([LINE], ball))

    def test_radii_and_box_for_coordinates(self) -> None:
        ball = vx.Ball("linf", torch.tensor([[0.1, 0.2]]), (torch.tensor([0.0, 0.1]), torch.tensor([[1.0, 0.9]])))
        assert len(Cascade([linear([[1.0, 0.0], [0.0, 1.0]])], ball).predict(torch.full((3, 2), 0.5)).labels) == 3

    def test_outside_the_box(self) -> None:
        assert "outside the box" in self.refused([LINE], vx.Ball("linf", 0.1, (0, 1)), x=column(2.0))

    def test_labels(self) -> None:
        cascade = Cascade([LINE], vx.Ball("linf", 0.1))
        with pytest.raises(InvalidValue, match="as many as the 1 inputs"):
            cascade.certify(column(1.0), torch.tensor([0, 1]))
        with pytest.raises(InvalidValue, match="labels must be in"):
            cascade.certify(column(1.0), torch.tensor([2]))
