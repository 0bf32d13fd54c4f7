"""The compiled forward pass, called directly with numpy arrays: torch takes no part, so sanitizers can watch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, Case, Plane, Step, address, draw_case, entries

DTYPES = (np.float32, np.float64)
DIGITS = {np.float32: 24, np.float64: 53}


class RealCase(Case):
    """Weights that are no whole numbers, so that every product and every sum rounds."""

    def integers(self, *shape: int, low: int = -1, high: int = 1) -> Array:
        return self.numbers.standard_normal(shape).astype(self.dtype)


@dataclass
class Bounds:
    """Of each source ``(inputs, entries)``, or of one node."""

    lowers: list[Array]
    uppers: list[Array]
    magnitudes: list[Array]


def draw_bounds(case: Case, step: Step, inputs: int, *, lattice: bool) -> Bounds:
    numbers, sizes = case.numbers, [entries(case.planes[source]) for source in step.sources]
    if lattice:
        centers = [case.quarters(inputs, size) for size in sizes]
        radii = [np.abs(case.quarters(inputs, size)) for size in sizes]
    else:
        centers = [numbers.standard_normal((inputs, size)).astype(case.dtype) for size in sizes]
        radii = [np.abs(numbers.standard_normal((inputs, size))).astype(case.dtype) for size in sizes]
    pairs = list(zip(centers, radii, strict=True))
    return Bounds([c - r for c, r in pairs], [c + r for c, r in pairs], [np.abs(c) + r for c, r in pairs])


def forward(
    plan: Any, node: int, size: int, bounds: Bounds, *, quantum: float = 0.0, wanted: str = "both", threads: int = 1,
    isa: str = "base",
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Lower, upper and magnitude; what is not wanted stays seven."""
    some = bounds.lowers[0]
    out = [np.full((len(some), size), 7, some.dtype) for _ in range(3)]
    interval, magnitude = wanted != "magnitude", wanted != "interval"
    plan.forward(
        node=node, inputs=len(some), lowers=[address(x) for x in bounds.lowers] if interval else [],
        uppers=[address(x) for x in bounds.uppers] if interval else [],
        magnitudes=[address(x) for x in bounds.magnitudes] if magnitude else [], lower=address(out[0]),
        upper=address(out[1]), magnitude=address(out[2]), quantum=quantum, threads=threads, isa=isa,
    )  # fmt: skip
    return out[0], out[1], out[2]


def same_bits(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


def every_way(plan: Any, node: int, size: int, bounds: Bounds, quantum: float) -> tuple[Array, Array, Array]:
    """The same bits for every instruction set and number of threads, and whether asked for together or apart."""
    first = forward(plan, node, size, bounds, quantum=quantum)
    for isa in ISAS:
        for threads in (1, 2, 3):
            arguments = {"quantum": quantum, "threads": threads, "isa": isa}
            found = forward(plan, node, size, bounds, **arguments)
            lower, upper, seven = forward(plan, node, size, bounds, wanted="interval", **arguments)
            *sevens, magnitude = forward(plan, node, size, bounds, wanted="magnitude", **arguments)
            for wanted, ours, alone in zip(first, found, (lower, upper, magnitude), strict=True):
                assert same_bits(wanted, ours)
                assert same_bits(wanted, alone)
            assert all((untouched == 7).all() for untouched in (seven, *sevens))
    return first


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from(DTYPES), st.integers(1, 9))
def test_exact_on_a_lattice(seed: int, count: int, dtype: Any, inputs: int) -> None:
    """Where no sum needs more digits than there are, every bit is that of the definition."""
    case = draw_case(seed, count, dtype)
    for node, step in enumerate(case.steps, start=1):
        assert case.plan.forwards(node=node) == (not step.lines)
        if step.lines:
            continue
        bounds = draw_bounds(case, step, inputs, lattice=True)
        lower, upper, magnitude = every_way(case.plan, node, entries(case.planes[node]), bounds, 0.5)
        center, spread, size = 0.0, 0.0, 0.0
        for s, matrix in enumerate(step.matrices):
            low, high = bounds.lowers[s].astype(np.float64), bounds.uppers[s].astype(np.float64)
            center = center + (low + high) / 2 @ matrix.T
            spread = spread + (high - low) / 2 @ np.abs(matrix).T
            size = size + bounds.magnitudes[s] @ np.abs(matrix).T
        assert np.array_equal(lower, center + step.bias - spread)
        assert np.array_equal(upper, center + step.bias + spread)
        assert np.array_equal(magnitude, size + np.abs(step.bias) + 0.5)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.sampled_from(DTYPES))
def test_within_its_error_of_rational_arithmetic(seed: int, count: int, dtype: Any) -> None:
    """The theorem of docs/rounding.md for one step: as many roundings as a row has weights, and those of center,
    radius, bias and ends."""
    case = draw_case(seed, count, dtype, most=200, kind=RealCase)
    unit = Fraction(1, 2 ** DIGITS[dtype])
    quantum = float(np.float32(1e-3))
    for node, step in enumerate(case.steps, start=1):
        if step.lines:
            continue
        bounds = draw_bounds(case, step, 2, lattice=False)
        size = entries(case.planes[node])
        lower, upper, magnitude = every_way(case.plan, node, size, bounds, quantum)
        for output in case.numbers.integers(0, size, 4):
            center = spread = mass = total = Fraction(0)
            bias, terms = Fraction(float(step.bias[output])), 0
            for s, matrix in enumerate(step.matrices):
                for source in np.flatnonzero(matrix[output]):
                    weight = Fraction(float(matrix[output, source]))
                    low, high, m = (
                        Fraction(float(sides[s][1, source]))
                        for sides in (bounds.lowers, bounds.uppers, bounds.magnitudes)
                    )
                    center += weight * (low + high) / 2
                    spread += abs(weight) * (high - low) / 2
                    mass += abs(weight) * (max(abs(low), abs(high)) + (high - low))
                    total += abs(weight) * m
                    terms += 1
            if step.places is not None:  # an entry that is read twice counts twice
                terms = int((step.places[0] == output).sum())
            gamma = (terms + 5) * unit / (1 - (terms + 5) * unit)
            error = gamma * (mass + abs(bias))
            assert abs(Fraction(float(lower[1, output])) - (center + bias - spread)) <= error
            assert abs(Fraction(float(upper[1, output])) - (center + bias + spread)) <= error
            total += abs(bias) + Fraction(quantum)
            assert abs(Fraction(float(magnitude[1, output])) - total) <= gamma * total


def make(plane: Plane, dtype: Any) -> Any:
    return (_C.PlanFloat32 if dtype == np.float32 else _C.PlanFloat64)(plane)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", (1, 5, 7, 300))
def test_dense_layers_of_many_inputs_and_outputs(dtype: Any, inputs: int) -> None:
    """More inputs than a block, more outputs than an item: what is cut is put together again."""
    numbers = np.random.default_rng(inputs)
    for outputs in (1, 8, 15, 16, 17, 32, 33, 70, 130):
        weight, bias = numbers.integers(-3, 4, (outputs, 50)).astype(dtype), np.arange(outputs).astype(dtype)
        plan = make((50, 1, 1), dtype)
        plan.dense(source=0, outputs=outputs, weight=address(weight), bias=address(bias))
        low = numbers.integers(-3, 4, (inputs, 50)).astype(dtype)
        bounds = Bounds([low], [low + 2], [np.abs(low)])
        lower, upper, magnitude = every_way(plan, 1, outputs, bounds, 0.0)
        middle, spread = (low + 1) @ weight.T + bias, np.abs(weight).sum(1)
        assert np.array_equal(lower, middle - spread)
        assert np.array_equal(upper, middle + spread)
        assert np.array_equal(magnitude, np.abs(low) @ np.abs(weight).T + bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("inputs", "side", "channels", "groups", "padding"), [(9, 20, 40, 1, 1), (40, 6, 18, 2, 0), (3, 33, 70, 1, 2)]
)
def test_convolutions_of_many_windows(
    dtype: Any, inputs: int, side: int, channels: int, groups: int, padding: int
) -> None:
    """Several blocks of inputs, items of windows and panels, in several threads; against sums over shifted planes."""
    numbers = np.random.default_rng(side)
    weight = numbers.integers(-3, 4, (channels, 3, 3, 4 // groups)).astype(dtype)
    bias = numbers.integers(-3, 4, channels).astype(dtype)
    out = side + 2 * padding - 2
    plan = make((4, side, side), dtype)
    plan.convolution(
        source=0, output=(channels, out, out), geometry=[3, 3, 1, 1, padding, padding, 1, 1, groups],
        weight=address(weight), bias=address(bias),
    )  # fmt: skip
    low = numbers.integers(-3, 4, (inputs, side, side, 4)).astype(dtype)
    flat = low.reshape(inputs, -1)
    lower, upper, magnitude = every_way(plan, 1, channels * out**2, Bounds([flat], [flat + 2], [np.abs(flat)]), 1.0)

    def convolve(x: Array, weight: Array) -> Array:
        padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        result = np.zeros((inputs, out, out, channels))
        for group in range(groups):
            own = slice(group * channels // groups, (group + 1) * channels // groups)
            read = slice(group * 4 // groups, (group + 1) * 4 // groups)
            for y in range(3):
                for z in range(3):
                    result[..., own] += padded[:, y : y + out, z : z + out, read] @ weight[own, y, z].T
        return result

    middle, spread = convolve(low + 1, weight) + bias, convolve(np.ones_like(low), np.abs(weight))
    assert np.array_equal(lower.reshape(middle.shape), middle - spread)
    assert np.array_equal(upper.reshape(middle.shape), middle + spread)
    assert np.array_equal(magnitude.reshape(middle.shape), convolve(np.abs(low), np.abs(weight)) + np.abs(bias) + 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_of_many_inputs(dtype: Any) -> None:
    """The other steps on enough entries for several threads."""
    plane, inputs = (17, 24, 24), 20
    size, numbers = entries(plane), np.random.default_rng(0)
    scale, shift = (numbers.integers(-3, 4, size).astype(dtype) for _ in range(2))
    index = numbers.integers(-1, size, size)
    fill = np.where(index < 0, -2, 0).astype(dtype)
    plan = make(plane, dtype)
    plan.scaling(source=0, scale=address(scale), shift=address(shift))
    plan.sum(first=0, second=1, factor=-0.5)
    plan.concatenation(sources=[0, 2])
    taken, offsets = index[index >= 0], np.cumsum([0, *(index >= 0)])
    ones = np.ones(len(taken), dtype)
    plan.sparse(
        source=0, output=plane, count=len(taken), offsets=address(offsets), index=address(taken), weight=address(ones),
        constant=address(fill),
    )  # fmt: skip
    first, second = (numbers.integers(-3, 4, (inputs, size)).astype(dtype) for _ in range(2))
    one = Bounds([first], [first + 2], [np.abs(first)])
    two = Bounds([first, second], [first + 2, second + 4], [np.abs(first), np.abs(second)])

    lower, upper, magnitude = every_way(plan, 1, size, one, 1.0)
    assert np.array_equal(lower, scale * (first + 1) + shift - np.abs(scale))
    assert np.array_equal(upper, scale * (first + 1) + shift + np.abs(scale))
    assert np.array_equal(magnitude, np.abs(scale * first) + np.abs(shift) + 1)

    lower, upper, magnitude = every_way(plan, 2, size, two, 1.0)
    assert np.array_equal(lower, (first + 1) - 0.5 * (second + 2) - 2)
    assert np.array_equal(upper, (first + 1) - 0.5 * (second + 2) + 2)
    assert np.array_equal(magnitude, np.abs(first) + 0.5 * np.abs(second) + 1)

    joined = every_way(plan, 3, 2 * size, two, 1.0)
    moved = every_way(plan, 4, size, one, 1.0)
    sides = ((first, second, 0), (first + 2, second + 4, 0), (np.abs(first), np.abs(second), 1))
    for side, stacked, taken in zip(sides, joined, moved, strict=True):
        halves = stacked.reshape(inputs, 24, 24, 34)
        assert np.array_equal(halves[..., :17].reshape(inputs, size), side[0] + side[2])
        assert np.array_equal(halves[..., 17:].reshape(inputs, size), side[1] + side[2])
        unused = 3 if side[2] else -2
        assert np.array_equal(taken, np.where(index >= 0, (side[0] + side[2])[:, np.maximum(index, 0)], unused))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_size_of_a_computed_shift(dtype: Any) -> None:
    """Terms that cancel in the shift stay in the magnitude, and nowhere else."""
    shift, size = np.zeros(3, dtype), np.arange(3).astype(dtype)
    plan = make((3, 1, 1), dtype)
    plan.scaling(source=0, scale=0, shift=address(shift), shift_size=address(size))
    x = np.ones((1, 3), dtype)
    lower, upper, magnitude = every_way(plan, 1, 3, Bounds([x], [x], [x]), 0.0)
    assert lower.tolist() == upper.tolist() == x.tolist()
    assert magnitude.tolist() == [[1, 2, 3]]


# What is not finite, and what nearly is not.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_not_a_number_and_infinity_are_never_lost(dtype: Any, value: float) -> None:
    """In a weight, a bias or a source, also where it meets a zero; and no output that reads it not is touched."""
    for outputs in (1, 20, 40):
        for place in ("weight", "bias", "lower", "upper", "magnitude"):
            weight, bias = np.zeros((outputs, 3), dtype), np.zeros(outputs, dtype)
            lower, upper, magnitude = np.zeros((2, 3), dtype), np.zeros((2, 3), dtype), np.zeros((2, 3), dtype)
            spoiled = {"weight": weight, "bias": bias, "lower": lower, "upper": upper, "magnitude": magnitude}[place]
            spoiled.flat[0] = value
            plan = make((3, 1, 1), dtype)
            plan.dense(source=0, outputs=outputs, weight=address(weight), bias=address(bias))
            low, high, size = every_way(plan, 1, outputs, Bounds([lower], [upper], [magnitude]), 0.0)
            rows, columns = (slice(None), 0) if place in ("weight", "bias") else (0, slice(None))
            ends, sizes = place != "magnitude", place not in ("lower", "upper")
            for found, hit in ((low, ends), (high, ends), (size, sizes)):
                bad = np.zeros_like(found, bool)
                bad[rows, columns] = hit
                assert np.array_equal(~np.isfinite(found), bad), place


@pytest.mark.parametrize("dtype", DTYPES)
def test_not_a_number_passes_every_step(dtype: Any) -> None:
    ones, index = np.ones(8, dtype), np.arange(8)
    plan = make((2, 2, 2), dtype)
    same = [1, 1, 1, 1, 0, 0, 1, 1, 2]
    plan.convolution(source=0, output=(2, 2, 2), geometry=same, weight=address(ones), bias=0)
    plan.scaling(source=0, scale=address(ones), shift=0)
    plan.sum(first=0, second=0, factor=1.0)
    plan.concatenation(sources=[0])
    offsets = np.arange(9)
    plan.sparse(
        source=0, output=(2, 2, 2), count=8, offsets=address(offsets), index=address(index), weight=address(ones),
        constant=0,
    )  # fmt: skip
    for node in range(1, 6):
        x = np.zeros((1, 8), dtype)
        x[0, 5] = np.nan
        sides = [x, x] if node == 3 else [x]
        for found in every_way(plan, node, 8, Bounds(sides, sides, sides), 0.0):
            assert np.flatnonzero(np.isnan(found)).tolist() == [5], node


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_is_not_finite(dtype: Any) -> None:
    large = np.full((20, 3), 1e30 if dtype == np.float32 else 1e300, dtype)
    plan = make((3, 1, 1), dtype)
    plan.dense(source=0, outputs=20, weight=address(large), bias=0)
    x = large[:1]
    for found in every_way(plan, 1, 20, Bounds([-x], [x], [x]), 0.0):
        assert not np.isfinite(found).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_numbers_count(dtype: Any) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    weight = np.array([[1, -3], [2, 2]], dtype)
    plan = make((2, 1, 1), dtype)
    plan.dense(source=0, outputs=2, weight=address(weight), bias=0)
    low, high = np.full((1, 2), 2 * tiny, dtype), np.full((1, 2), 4 * tiny, dtype)
    lower, upper, magnitude = every_way(plan, 1, 2, Bounds([low], [high], [high]), float(tiny))
    assert (lower / tiny).tolist() == [[-10, 8]]
    assert (upper / tiny).tolist() == [[-2, 16]]
    assert (magnitude / tiny).tolist() == [[17, 17]]


def test_no_inputs_touch_nothing() -> None:
    plan = make((2, 2, 2), np.float64)
    weight = np.ones((3, 8))
    plan.dense(source=0, outputs=3, weight=address(weight), bias=0)
    plan.scaling(source=0, scale=0, shift=0)
    for node in (1, 2):
        plan.forward(
            **arguments(node=node, inputs=0, lowers=[0], uppers=[0], magnitudes=[0], lower=0, upper=0, magnitude=0)
        )


# What the caller may have got wrong.

ONES = np.ones(64)
RESULT = np.zeros(64)


def arguments(**change: object) -> dict[str, object]:
    one = [address(ONES)]
    return {
        "node": 1, "inputs": 1, "lowers": one, "uppers": one, "magnitudes": one, "lower": address(RESULT),
        "upper": address(RESULT), "magnitude": address(RESULT), "quantum": 0.0, "threads": 1, "isa": "base", **change,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"node": 3}, "plan: node 3 of 3"),
        ({"node": -1}, "plan: node -1 of 3"),
        ({"node": 0}, "forward pass: node 0 has no forward step"),
        ({"node": 2}, "forward pass: node 2 has no forward step"),
        ({"inputs": -1}, "forward pass: negative number of inputs"),
        ({"inputs": 2**62}, r"forward pass: more than 2\^63 - 1 bounds"),
        ({"threads": 0}, "forward pass: threads = 0: must be >= 1"),
        ({"isa": "sse"}, "isa = sse: must be base, avx2 or avx512"),
        ({"lowers": [], "uppers": [], "magnitudes": []}, "forward pass: neither intervals nor magnitudes"),
        ({"lowers": []}, "forward pass: a lower and an upper bound of every source"),
        ({"magnitudes": [address(ONES)] * 2}, "forward pass: 2 sources for a step of 1"),
        ({"lowers": [address(ONES)] * 2, "uppers": [address(ONES)] * 2}, "forward pass: 2 sources for a step of 1"),
        *[({name: [0]}, "forward pass: a null pointer") for name in ("lowers", "uppers", "magnitudes")],
        *[({name: 0}, "forward pass: a null pointer") for name in ("lower", "upper", "magnitude")],
    ],
)
def test_refused_requests(change: dict[str, object], message: str) -> None:
    plan = make((2, 2, 2), np.float64)
    plan.lines(source=plan.dense(source=0, outputs=3, weight=address(ONES), bias=0))
    plan.forward(**arguments())
    with pytest.raises(ValueError, match=f"^{message}"):
        plan.forward(**(arguments() | change))


def test_padding_far_beyond_the_plane_is_left_to_others() -> None:
    """A plane with that padding around it would need gigabytes; the backward pass takes such a layer."""
    plan = make((1, 1, 1), np.float32)
    far = 2**20
    weight = np.ones(1, np.float32)
    for padding, forwards in ((2, True), (far, False)):
        geometry = [1, 1, padding, padding, padding, padding, 1, 1, 1]
        node = plan.convolution(source=0, output=(1, 3, 3), geometry=geometry, weight=address(weight), bias=0)
        assert plan.forwards(node=node) == forwards
    with pytest.raises(ValueError, match="node 2 has no forward step"):
        plan.forward(**arguments(node=2))
