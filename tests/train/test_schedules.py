from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verifix.train.schedules import EpsSchedule, eps_at, lr_at, weight_at

KINDS: tuple[EpsSchedule, ...] = ("constant", "linear", "smoothed")
positions = st.floats(0, 100)


def rate(position: float, schedule: str, **options: object) -> float:
    usual = {"epochs": 60, "factor": 0.5, "every": 10, "start": 0.0, "milestones": (5, 9)}
    return lr_at(position, schedule, 0.1, **{**usual, **options})  # type: ignore[arg-type]


class TestEps:
    @pytest.mark.parametrize("kind", KINDS)
    @given(a=positions, b=positions, start=st.floats(0, 1), more=st.floats(0, 1), ramp=st.floats(0.1, 90))
    def test_never_falls_and_ends_at_the_target(
        self, kind: EpsSchedule, a: float, b: float, start: float, more: float, ramp: float
    ) -> None:
        target = start + more
        low, high = (eps_at(position, kind, start, target, ramp) for position in sorted((a, b)))
        assert start * (1 - 1e-12) <= low <= high * (1 + 1e-12) <= target * (1 + 1e-12) ** 2
        assert eps_at(ramp, kind, start, target, ramp) == target

    @pytest.mark.parametrize("kind", ["linear", "smoothed"])
    def test_begins_at_the_start(self, kind: EpsSchedule) -> None:
        assert eps_at(0.0, kind, 0.25, 1.0, 7) == 0.25

    @pytest.mark.parametrize("kind", KINDS)
    @given(position=positions, warmup=st.floats(0.01, 9), ramp=st.floats(0.1, 90))
    def test_comes_later_by_a_warm_up(self, kind: EpsSchedule, position: float, warmup: float, ramp: float) -> None:
        assert eps_at(math.nextafter(warmup, 0), kind, 0.25, 1.0, ramp, warmup=warmup) == 0.0
        assert eps_at(warmup, kind, 0.25, 1.0, ramp, warmup=warmup) == (1.0 if kind == "constant" else 0.25)
        later = eps_at(warmup + position, kind, 0.25, 1.0, ramp, warmup=warmup)
        assert later == pytest.approx(eps_at(position, kind, 0.25, 1.0, ramp), rel=1e-9, abs=1e-9)
        assert eps_at(warmup + ramp, kind, 0.25, 1.0, ramp, warmup=warmup) == 1.0

    def test_smoothed_has_no_corner_where_the_line_begins(self) -> None:
        """The slope of the power on the left of the middle is that of the line on its right."""
        step = 1e-6
        before, here, after = (eps_at(1 + d, "smoothed", 0.0, 1.0, 4) for d in (-step, 0, step))
        assert (here - before) / step == pytest.approx((after - here) / step, rel=1e-4)
        slope = (1 - here) / 3
        assert (after - here) / step == pytest.approx(slope, rel=1e-6)

    def test_smoothed_is_steeper_later(self) -> None:
        values = [eps_at(position, "smoothed", 0.0, 1.0, 8) for position in (0, 1, 2, 3)]
        steps = [b - a for a, b in itertools.pairwise(values)]
        assert steps == sorted(steps)
        assert values[1] < 1 / 8 / 5  # far below the straight line at first


class TestWeight:
    @given(eps=st.floats(0, 1), target=st.floats(0.01, 1), start=st.floats(0, 1), end=st.floats(0, 1))
    def test_stays_between_its_ends_and_meets_them(self, eps: float, target: float, start: float, end: float) -> None:
        weight = weight_at(min(eps, target), target, start, end)
        assert min(start, end) - 1e-15 <= weight <= max(start, end) + 1e-15
        assert (weight_at(0.0, target, start, end), weight_at(target, target, start, end)) == (start, end)

    @pytest.mark.parametrize("eps", [0.0, 0.3])
    def test_without_a_radius_to_go_to_it_is_the_end(self, eps: float) -> None:
        assert weight_at(eps, 0.0, 1.0, 0.25) == 0.25

    def test_goes_with_the_radius_and_not_with_time(self) -> None:
        halfway = eps_at(2.0, "smoothed", 0.0, 0.4, 4)
        assert weight_at(halfway, 0.4, 1.0, 0.5) == pytest.approx(1 - 0.5 * halfway / 0.4)
        assert weight_at(halfway, 0.4, 1.0, 0.5) > 0.8


class TestLearningRate:
    def test_constant(self) -> None:
        assert rate(33.3, "constant") == 0.1

    @pytest.mark.parametrize("start", [0, 20])
    def test_step_is_that_of_torch(self, start: int) -> None:
        """``StepLR`` stepped by ``max(epoch - start, 0)``, as the published networks were trained."""
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, 10, gamma=0.5)
        for epoch in range(60):
            assert rate(epoch, "step", start=start) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
            optimiser.step()
            if epoch >= start:
                schedule.step()

    def test_multistep(self) -> None:
        assert [rate(position, "multistep") for position in (0, 4.99, 5, 8, 9)] == [0.1, 0.1, 0.05, 0.05, 0.025]

    def test_cosine(self) -> None:
        assert rate(0, "cosine") == 0.1
        assert rate(30, "cosine") == pytest.approx(0.05)
        assert rate(15, "cosine") == pytest.approx(0.05 * (1 + math.sqrt(0.5)))
        assert rate(60, "cosine") == 0.0
