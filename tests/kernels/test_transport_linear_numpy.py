"""The compiled transport_linear, called directly with numpy arrays: torch takes no part, so sanitizers can watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, address

DTYPES = (np.float32, np.float64)


@dataclass
class Problem:
    """Pairs of images ``(n, C, H, W)`` and rows ``(r, C, H, W)`` over balls of a window."""

    x: Array
    g: Array
    image: Array
    row: Array
    cost: Array
    budget: Array

    @property
    def window(self) -> int:
        return round(len(self.cost) ** 0.5)

    def run(self, isa: str, threads: int, primal: bool) -> dict[str, Array]:
        """The results by name, as native code finds them."""
        pairs = len(self.image)
        names = ("upper", "multiplier", *(("value", "plan_cost") if primal else ()))
        found: dict[str, Array] = {name: np.full(pairs, 7.0) for name in names}
        if primal:
            found["z"] = np.full((pairs, *self.x.shape[1:]), 7, self.x.dtype)
        results = {name: address(found.get(name)) for name in ("upper", "multiplier", "z", "value", "plan_cost")}
        _C.transport_linear(
            x=address(self.x), g=address(self.g), image=address(self.image), row=address(self.row),
            cost=address(self.cost), budget=address(self.budget), **results, images=len(self.x), rows=len(self.g),
            pairs=pairs, channels=self.x.shape[1], height=self.x.shape[2], width=self.x.shape[3], window=self.window,
            dtype=self.x.dtype.name, threads=threads, isa=isa,
        )  # fmt: skip
        return found

    def gains(self, pair: int) -> tuple[Array, Array, Array]:
        """For each pixel with mass: its mass, and the entries and costs of all places that it can go to."""
        x, g = self.x[self.image[pair]].astype(float), self.g[self.row[pair]].astype(float)
        channels, height, width = x.shape
        r, k = self.window // 2, self.window
        padded = np.full((channels, height + 2 * r, width + 2 * r), -np.inf)
        padded[:, r : r + height, r : r + width] = g
        entries = np.stack([padded[:, i : i + height, j : j + width] for i in range(k) for j in range(k)])
        there = x > 0
        return x[there], entries[:, there], self.cost

    def maximum(self, pair: int) -> float:
        """The dual at all multipliers where some pixel changes its mind: the smallest is the maximum."""
        mass, entries, cost = self.gains(pair)
        with np.errstate(invalid="ignore", divide="ignore"):
            meet = (entries[:, None] - entries[None]) / (cost[:, None, None] - cost[None, :, None])
        lams = np.unique(np.append(meet[np.isfinite(meet) & (meet > 0)], 0.0))
        budget = self.budget[self.image[pair]]
        values = [lam * budget + mass @ (entries - lam * cost[:, None]).max(0) for lam in lams]
        return min([*values, mass @ entries[cost == 0].max(0)] if budget == 0 else values)


def problem(
    shape: tuple[int, int, int], window: int, dtype: Any, seed: int, pairs: int, kind: str = "any", n: int = 2
) -> Problem:
    """Images with black parts and with ties, rows with ties and with zeros outside of a part."""
    numbers = np.random.default_rng(seed)
    height = shape[1]
    x = numbers.random((n, *shape)) * (numbers.random((n, *shape)) < 0.6)
    g = numbers.standard_normal((3, *shape))
    if kind == "ties":
        x, g = np.round(2 * x) / 2, np.round(g)
    if kind == "sparse":
        g[:, :, : height // 2] = 0
        g[:, 0] = 0
    side = np.arange(window) - window // 2
    metric = numbers.integers(3)
    square = side[:, None] ** 2 + side**2
    cost = [np.sqrt(square), square, np.abs(side)[:, None] + np.abs(side)][metric].astype(float).reshape(-1)
    budget = numbers.random(n) * numbers.choice([0.0, 0.1, 1.0, 100.0])
    image, row = numbers.integers(n, size=pairs), numbers.integers(3, size=pairs)
    return Problem(x.astype(dtype), g.astype(dtype), image, row, cost, budget)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 9)),
    st.sampled_from((1, 3, 5, 7)),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
    st.integers(0, 5),
    st.sampled_from(("any", "ties", "sparse")),
    st.sampled_from((1, 2, 3)),
)
def test_any_problem(
    shape: tuple[int, int, int], window: int, dtype: Any, seed: int, pairs: int, kind: str, threads: int
) -> None:
    case = problem(shape, window, dtype, seed, pairs, kind)
    found = case.run(ISAS[0], threads, primal=True)
    for pair in range(pairs):
        x, g = case.x[case.image[pair]].astype(float), case.g[case.row[pair]].astype(float)
        scale = (np.abs(g).max() + 1e-30) * (x.sum() + 1)
        maximum = case.maximum(pair) if (x > 0).any() else 0.0
        assert -1e-12 * scale <= found["upper"][pair] - maximum <= 1e-11 * scale
        assert abs(found["value"][pair] - maximum) <= 1e-11 * scale
        z, spent = found["z"][pair].astype(float), found["plan_cost"][pair]
        assert spent <= case.budget[case.image[pair]]
        assert (z >= 0).all()
        rounding = np.finfo(dtype).eps * scale * x.size
        assert np.abs(z.sum((1, 2)) - x.sum((1, 2))).max() <= rounding
        # what a plan gains is as large as its own image says
        assert abs((g * z).sum() - found["value"][pair]) <= rounding * (1 + np.abs(g).max())
    for isa in ISAS[1:]:
        for name, values in case.run(isa, threads, primal=True).items():
            assert np.array_equal(values, found[name]), name
    bounds = case.run(ISAS[-1], threads + 1, primal=False)
    assert np.array_equal(bounds["upper"], found["upper"])
    assert np.array_equal(bounds["multiplier"], found["multiplier"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_of_many_pixels(dtype: Any) -> None:
    """Enough for several threads and all partial sums."""
    case = problem((3, 33, 41), 5, dtype, seed=1, pairs=6)
    results = [case.run(isa, threads, primal=True) for isa in ISAS for threads in (1, 3)]
    for found in results[1:]:
        assert all(np.array_equal(values, results[0][name]) for name, values in found.items())
    for pair in range(2):
        mass, entries, cost = case.gains(pair)
        lam, budget = results[0]["multiplier"][pair], case.budget[case.image[pair]]
        gains = (entries - lam * cost[:, None]).max(0)
        size = lam * budget + mass @ np.abs(gains)
        assert budget > 0
        assert 0 <= results[0]["upper"][pair] - (lam * budget + mass @ gains) <= 1e-12 * size


def test_what_is_refused() -> None:
    case = problem((1, 4, 4), 3, np.float64, 0, 2)
    for change, message in (
        ({"image": np.array([0, 2])}, r"image\[1\] = 2: must be from 0 to 1"),
        ({"row": np.array([-1, 0])}, r"row\[0\] = -1: must be from 0 to 2"),
        ({"cost": -case.cost}, "must be finite and >= 0"),
        ({"cost": case.cost + 1}, "zero at the center"),
        ({"cost": np.zeros(4)}, "window must be odd"),
    ):
        wrong = Problem(**{**case.__dict__, **change})
        with pytest.raises(ValueError, match=message):
            wrong.run(ISAS[0], 1, primal=False)
    with pytest.raises(ValueError, match="threads = 0"):
        case.run(ISAS[0], 0, primal=False)
