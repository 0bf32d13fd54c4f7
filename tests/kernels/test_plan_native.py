"""The compiled backward pass, called directly with numpy arrays: torch takes no part, so sanitizers can watch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.kernels.extension import _C, ISAS, SANITIZED
from tests.kernels.plans import Array, Exact, Request, address, draw_case, draw_request, entries, push, run

DTYPES = (np.float32, np.float64)
DIGITS = {np.float32: 24, np.float64: 53}


def middle_and_spread(request: Request, i: int, exact: Exact) -> tuple[Array, Array]:
    middle = exact.form @ request.center[i].astype(np.float64)
    sizes = np.abs(exact.form) * request.radius[i].astype(np.float64)
    return middle, sizes.sum(1) if request.hull == 0 else sizes.max(1)


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6), st.sampled_from(DTYPES), st.sampled_from((0, 2)))
def test_exact_on_a_lattice(seed: int, count: int, dtype: Any, hull: int) -> None:
    """Where no sum needs more digits than there are, every bit is that of the definition, whoever computes it."""
    case = draw_case(seed, count, dtype)
    request = draw_request(case, hull)
    exact = [push(case, request, i) for i in range(request.inputs)]
    quarters = 2 * sum(step.lines for step in case.steps) + 4
    assume(max(each.mass for each in exact) * 2**quarters < 2 ** DIGITS[dtype])
    for isa in ISAS:
        for threads, memory in ((1, 1 << 40), (2, 1 << 40), (3, 10000), (2, 0)):
            low, high = run(case, request, threads, isa, memory)
            for i, each in enumerate(exact):
                middle, spread = middle_and_spread(request, i, each)
                assert np.array_equal(request.of_input(low, i), each.low + middle - spread)
                if high is not None:
                    assert np.array_equal(request.of_input(high, i), each.high + middle + spread)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6), st.sampled_from(DTYPES))
def test_forms_on_a_lattice(seed: int, count: int, dtype: Any) -> None:
    """What arrives at the input: all coefficients, zero where rows do not get to, and the constants."""
    case = draw_case(seed, count, dtype)
    request = draw_request(case, 0)
    exact = [push(case, request, i) for i in range(request.inputs)]
    quarters = 2 * sum(step.lines for step in case.steps) + 4
    assume(max(each.mass for each in exact) * 2**quarters < 2 ** DIGITS[dtype])
    for isa in ISAS:
        for threads in (1, 2):
            lead = (request.inputs,) if request.row_offsets is None else ()
            forms = np.full((*lead, request.rows, entries(case.planes[0])), 7, dtype)
            low, high = run(case, request, threads, isa, forms=forms)
            for i, each in enumerate(exact):
                assert np.array_equal(request.of_input(forms, i), each.form)
                assert np.array_equal(request.of_input(low, i), each.low)
                assert high is None or np.array_equal(request.of_input(high, i), each.high)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 4), st.sampled_from(DTYPES))
def test_euclidean_norm(seed: int, count: int, dtype: Any) -> None:
    """The root is the only thing that rounds: compared with the exact sum of squares as a fraction."""
    case = draw_case(seed, count, dtype, most=60)
    request = draw_request(case, hull=1)
    exact = [push(case, request, i) for i in range(request.inputs)]
    quarters = 2 * sum(step.lines for step in case.steps) + 4
    assume(max(each.mass for each in exact) * 2**quarters < 2 ** DIGITS[dtype])
    found = [run(case, request, threads, isa) for isa in ISAS for threads in (1, 2)]
    for low, high in found[1:]:
        assert np.array_equal(low, found[0][0])
        assert high is None or np.array_equal(high, found[0][1])
    for i, each in enumerate(exact):
        unit = Fraction(1, 2 ** DIGITS[dtype])
        radius = [Fraction(float(r)) for r in request.radius[i]]
        middle = each.form @ request.center[i].astype(np.float64)
        for r, form in enumerate(each.form):
            low, high = (None if x is None else request.of_input(x, i)[r] for x in found[0])
            squares = sum((Fraction(float(a)) * w) ** 2 for a, w in zip(form, radius, strict=True))
            sides = [Fraction(float(each.low[r])) + Fraction(float(middle[r])) - Fraction(float(low))]
            if high is not None:
                sides.append(Fraction(float(high)) - Fraction(float(each.high[r])) - Fraction(float(middle[r])))
            for spread in sides:
                error = (len(form) + 16) * unit * Fraction(max(each.mass, 1.0))
                assert max(spread - error, 0) ** 2 <= squares <= (spread + error) ** 2


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from(DTYPES), st.sampled_from((0, 1, 2)))
def test_an_input_does_not_depend_on_the_others(seed: int, count: int, dtype: Any, hull: int) -> None:
    """Inputs share tiles where they have few rows; on numbers that round, the bits are those of each input alone."""
    case = draw_case(seed, count, dtype)
    request = draw_request(case, hull)
    numbers = np.random.default_rng(seed)

    def real(x: Array) -> Array:
        return (x * numbers.normal(size=x.shape)).astype(dtype)

    lines = [[None if side is None else real(side) for side in four] for four in request.lines]
    if request.both:
        lines = [[a, b, a, d] for a, b, _, d in lines]
    request = replace(
        request, lines=lines, center=real(request.center), radius=np.abs(real(request.radius)),
        coefficients=None if request.coefficients is None else real(request.coefficients),
    )  # fmt: skip
    low, high = run(case, request, 1, ISAS[-1])
    for i in range(request.inputs):
        part = slice(i, i + 1)
        own = request.coefficients if request.coefficients is None or len(request.coefficients) == 1 else (
            request.coefficients[part].copy()
        )  # fmt: skip
        alone = replace(
            request, inputs=1, coefficients=own, center=request.center[part].copy(), radius=request.radius[part].copy(),
            lines=[[None if side is None else side[part].copy() for side in four] for four in request.lines],
            positions=None if request.positions is None else request.positions_of(i).copy(), row_offsets=None,
        )  # fmt: skip
        found = run(case, alone, 1, ISAS[-1])
        assert request.of_input(low, i).tobytes() == found[0][0].tobytes()
        if high is not None:
            assert found[1] is not None
            assert request.of_input(high, i).tobytes() == found[1][0].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_not_a_number_and_infinity_are_never_lost(dtype: Any, value: float) -> None:
    """In a weight, in a bias, in a line, in the set or in the rows: what depends on it is not finite."""
    for place in ("weight", "bias", "slope", "offset", "center", "radius", "rows"):
        weight, bias = np.ones((20, 3), dtype), np.zeros(20, dtype)
        slope, offset = np.full((1, 20), 0.5, dtype), np.zeros((1, 20), dtype)
        center, radius, rows = np.ones((1, 3), dtype), np.ones((1, 3), dtype), np.ones((1, 1, 20), dtype)
        spoiled = {"weight": weight, "bias": bias, "slope": slope, "offset": offset, "center": center, "rows": rows}
        if place == "radius" and value < 0:
            continue  # not a radius
        (spoiled | {"radius": radius})[place].flat[2] = value
        plan = (_C.PlanFloat32 if dtype == np.float32 else _C.PlanFloat64)((3, 1, 1))
        plan.lines(source=plan.dense(source=0, outputs=20, weight=address(weight), bias=address(bias)))
        for hull in (0, 1, 2):
            for isa in ISAS:
                low, high = np.zeros((1, 1), dtype), np.zeros((1, 1), dtype)
                plan.run(
                    start=2, inputs=1, rows=1, coefficients=address(rows), coefficient_batch=1, positions=0,
                    row_offsets=0, sign=1.0,
                    lines=[0, 0, 0, 0, *map(address, (slope, offset, slope, offset))], both=True, hull=hull,
                    center=address(center), radius=address(radius), low=address(low), high=address(high),
                    memory=1 << 40, threads=1, isa=isa,
                )  # fmt: skip
                assert not np.isfinite(low).any(), place
                assert not np.isfinite(high).any(), place


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_not_a_number_and_infinity_pass_sparse_steps_and_planes(dtype: Any, value: float) -> None:
    for place in ("weight", "constant", "slope", "offset", "center", "rows"):
        weight, constant, center, rows = (np.ones(4, dtype) for _ in range(4))
        slope, offset, radius = np.full(4, 0.5, dtype), np.zeros(4, dtype), np.ones(4, dtype)
        spoiled = {"weight": weight, "constant": constant, "slope": slope, "offset": offset, "center": center}
        (spoiled | {"rows": rows})[place][2] = value
        offsets, index = np.array([0, 2, 2, 3, 4]), np.array([1, 0, 2, 3])  # entry 1 reads nothing
        planes, places = np.arange(5), np.array([0, 1, 2, 3])
        plan = (_C.PlanFloat32 if dtype == np.float32 else _C.PlanFloat64)((1, 2, 2))
        plan.sparse(
            source=0, output=(1, 2, 2), count=4, offsets=address(offsets), index=address(index),
            weight=address(weight), constant=address(constant),
        )  # fmt: skip
        plan.planes(source=1, output=(2, 1, 2), count=4, offsets=address(planes), index=address(places))
        for isa in ISAS:
            low, high = np.zeros((1, 1), dtype), np.zeros((1, 1), dtype)
            plan.run(**arguments(
                start=2, coefficients=address(rows), lines=[0] * 4 + [*map(address, (slope, offset, slope, offset))],
                both=True, center=address(center), radius=address(radius), low=address(low), high=address(high),
                isa=isa,
            ))  # fmt: skip
            assert not np.isfinite(low).any(), place
            assert not np.isfinite(high).any(), place


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_numbers_count(dtype: Any) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    plan = (_C.PlanFloat32 if dtype == np.float32 else _C.PlanFloat64)((1, 1, 1))
    center, radius, low = np.full((1, 1), 4 * tiny, dtype), np.full((1, 1), tiny, dtype), np.zeros((1, 1), dtype)
    for hull in (0, 1, 2):
        for isa in ISAS:
            ball = {"center": address(center), "radius": address(radius), "hull": hull}
            plan.run(**arguments(start=0, low=address(low), isa=isa, **ball))
            assert low[0, 0] == 3 * tiny


def test_more_line_entries_than_32_bits_count() -> None:
    """16 GB of zeros that need no memory but where touched: lines of the last inputs lie beyond 2^31 entries."""
    if SANITIZED:
        pytest.skip("sanitizers keep books of every byte")
    inputs, side = 2**12, 2**10
    plan = _C.PlanFloat32((1, side, side))
    plan.lines(source=0)
    try:
        slope, center = (np.zeros((inputs, side * side), np.float32) for _ in range(2))
    except MemoryError:
        pytest.skip("the system does not promise 32 GB")
    slope[-1, -1], center[-1, -1], center[-2, -1] = 3, 5, 7
    positions, low = np.array([0, side * side - 1]), np.ones((inputs, 2), np.float32)
    plan.run(**arguments(
        start=1, inputs=inputs, rows=2, positions=address(positions), center=address(center), radius=address(center),
        lines=[address(slope), 0, address(slope), 0], low=address(low), threads=2,
    ))  # fmt: skip
    assert low[-1].tolist() == [0, 0]  # center minus radius
    radius = np.zeros((inputs, side * side), np.float32)  # not zeros_like, which writes
    plan.run(**arguments(
        start=1, inputs=inputs, rows=2, positions=address(positions), center=address(center), radius=address(radius),
        lines=[address(slope), 0, address(slope), 0], low=address(low), threads=2,
    ))  # fmt: skip
    assert low[-1].tolist() == [0, 15]
    assert not low[:-1].any()


# What the caller may have got wrong.

ONES = np.ones(64)
FIRST = np.zeros(64, np.int64)
RESULT = np.zeros(64)
INDICES = np.array([-1, 3, 8, -2])
HUGE = np.array([2**32, 0, 0])  # zero, as 32 bits see it
OFFSETS = [np.array(offsets) for offsets in ([1, 1], [0, 2], [0, 2, 1], [0, 1])]


def arguments(**change: object) -> dict[str, object]:
    """A pass over one input from one unit row."""
    return {
        "start": 1, "inputs": 1, "rows": 1, "coefficients": 0, "coefficient_batch": 1, "positions": address(FIRST),
        "row_offsets": 0, "sign": 1.0, "lines": [], "both": False, "hull": 0,
        "center": address(ONES), "radius": address(ONES), "low": address(RESULT), "high": 0,
        "memory": 1 << 40, "threads": 1, "isa": "base", **change,
    }  # fmt: skip


def small_plan() -> Any:
    """An image of two channels, a convolution, a dense layer beside it and lines on that: nodes 0 to 3."""
    plan = _C.PlanFloat64((2, 2, 2))
    plan.convolution(source=0, output=(2, 2, 2), geometry=[1] * 4 + [0] * 2 + [1] * 3, weight=address(ONES), bias=0)
    plan.dense(source=0, outputs=3, weight=address(ONES), bias=0)
    plan.lines(source=2)
    return plan


LINES = [0] * 8 + [address(ONES), 0, address(ONES), 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 4}, "start = 4: no such node"),
        ({"start": -1}, "start = -1: no such node"),
        ({"inputs": -1}, "negative number of inputs or rows"),
        ({"rows": -5}, "negative number of inputs or rows"),
        ({"inputs": 2**40, "rows": 2**40}, r"more than 2\^63 - 1 bounds"),
        ({"positions": 0}, "neither coefficients nor positions"),
        ({"coefficients": address(ONES), "inputs": 3, "coefficient_batch": 2}, "coefficients for some inputs only"),
        ({"hull": 4}, "hull = 4: must be 0, 1, 2 or 3"),
        ({"hull": -1}, "hull = -1: must be 0, 1, 2 or 3"),
        ({"hull": 3}, "a null pointer"),
        ({"hull": 3, "forms": address(RESULT), "low": 0}, "a null pointer"),
        ({"hull": 3, "forms": address(RESULT), "inputs": 2**31, "rows": 2**31}, r"more than 2\^63 - 1 coefficients"),
        ({"center": 0}, "a null pointer"),
        ({"radius": 0}, "a null pointer"),
        ({"low": 0}, "a null pointer"),
        ({"both": True}, "a null pointer"),
        ({"threads": 0}, "threads = 0: must be >= 1"),
        ({"isa": "sse"}, "isa = sse: must be base, avx2 or avx512"),
        ({"lines": LINES[:4]}, "lines must be four pointers for each step"),
        ({"lines": []}, "lines must be four pointers for each step"),
        ({"start": 3, "lines": [0] * 12}, "step 3 has no slopes"),
        ({"start": 3, "lines": [0] * 8 + [address(ONES), 0, 0, 0]}, "step 3 has no slopes"),
        ({"start": 0, "positions": address(INDICES[:1])}, "position out of range"),
        ({"start": 2, "positions": address(INDICES[1:2])}, "position out of range"),
        ({"rows": 2}, "positions must rise"),
        ({"row_offsets": address(OFFSETS[0])}, "row offsets must go from 0 to the number of rows"),
        ({"row_offsets": address(OFFSETS[1])}, "row offsets must go from 0 to the number of rows"),
        ({"inputs": 2, "row_offsets": address(OFFSETS[2])}, "row offsets must rise"),
        ({"coefficients": address(ONES), "row_offsets": address(OFFSETS[3])}, "row offsets are for unit rows"),
    ],
)
def test_refused_requests(change: dict[str, object], message: str) -> None:
    plan, good = small_plan(), arguments(lines=LINES)
    plan.run(**good)
    with pytest.raises(ValueError, match=f"^(backward pass: )?{message}"):
        plan.run(**(good | change))


def test_nothing_to_do_touches_nothing() -> None:
    plan = small_plan()
    for inputs, rows in ((0, 1), (1, 0), (0, 0)):
        nothing = dict.fromkeys(("positions", "center", "radius", "low"), 0)
        plan.run(**arguments(lines=LINES, inputs=inputs, rows=rows, **nothing))


def test_lines_of_other_branches_are_not_asked_for() -> None:
    """Step 3 comes before node 4, which does not depend on it."""
    plan = small_plan()
    plan.scaling(source=1, scale=0, shift=0)
    plan.run(**arguments(start=4, lines=[0] * 16))
    assert RESULT[0] == 0.0  # two ones around one each


W = address(ONES)
SAME = [1] * 4 + [0] * 2 + [1] * 3
PLANE = (2, 2, 2)


def geometry(**change: int) -> dict[str, object]:
    names = ("kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw", "groups")
    return {"source": 0, "output": PLANE, "geometry": [change.get(n, v) for n, v in zip(names, SAME, strict=True)],
            "weight": W, "bias": 0}  # fmt: skip


def places(*offsets: int) -> dict[str, object]:
    """Two entries with three places between them; the arrays live as long as the tests."""
    array = np.array(offsets or (0, 1, 3))
    OFFSETS.append(array)
    return {"source": 0, "output": (2, 1, 1), "count": 3, "offsets": address(array), "index": address(FIRST),
            "weight": W, "constant": 0}  # fmt: skip


def planes(*offsets: int) -> dict[str, object]:
    return {name: what for name, what in places(*offsets).items() if name not in ("weight", "constant")}


@pytest.mark.parametrize(
    ("step", "given", "message"),
    [
        ("dense", {"source": 4, "outputs": 1, "weight": W, "bias": 0}, "node 4 of 4"),
        ("dense", {"source": -1, "outputs": 1, "weight": W, "bias": 0}, "node -1 of 4"),
        ("dense", {"source": 0, "outputs": 0, "weight": W, "bias": 0}, r"shape \(0, 1, 1\)"),
        ("dense", {"source": 0, "outputs": -3, "weight": W, "bias": 0}, r"shape \(-3, 1, 1\)"),
        ("dense", {"source": 0, "outputs": 2**31, "weight": W, "bias": 0}, r"fewer than 2\^31"),
        ("dense", {"source": 0, "outputs": 2**62, "weight": W, "bias": 0}, r"fewer than 2\^31"),
        ("dense", {"source": 0, "outputs": 1, "weight": 0, "bias": 0}, "dense layer without weights"),
        ("convolution", geometry() | {"weight": 0}, "does not give"),
        ("convolution", geometry() | {"source": 9}, "node 9 of 4"),
        ("convolution", geometry() | {"output": (2, 2, 3)}, r"from \(2, 2, 2\) does not give \(2, 2, 3\)"),
        ("convolution", geometry() | {"output": (2**16, 2**16, 1)}, r"fewer than 2\^31"),
        ("convolution", geometry() | {"output": (2**62, 2**62, 1)}, r"fewer than 2\^31"),
        ("convolution", geometry(kh=0), "geometry does not fit"),
        ("convolution", geometry(kw=-1), "geometry does not fit"),
        ("convolution", geometry(kh=3), "does not give"),
        ("convolution", geometry(sh=0), "geometry does not fit"),
        ("convolution", geometry(dw=0), "geometry does not fit"),
        ("convolution", geometry(ph=-1), "geometry does not fit"),
        ("convolution", geometry(groups=0), "geometry does not fit"),
        ("convolution", geometry(groups=3), "geometry does not fit"),
        ("convolution", geometry(ph=2**62), r"geometry 4611686018427387904: must be below 2\^31"),
        ("convolution", geometry(kh=2**40, ph=2**39), r"geometry 1099511627776: must be below 2\^31"),
        ("convolution", geometry(kh=2**31 - 1, ph=2**30 - 1, kw=2**31 - 1, pw=2**30 - 1), "more than 2.63 - 1 weights"),
        ("scaling", {"source": 7, "scale": W, "shift": W}, "node 7 of 4"),
        ("sum", {"first": 0, "second": 2, "factor": 1.0}, r"sum of \(2, 2, 2\) and \(3, 1, 1\)"),
        ("sum", {"first": 0, "second": 5, "factor": 1.0}, "node 5 of 4"),
        ("concatenation", {"sources": []}, "concatenation of nothing"),
        ("concatenation", {"sources": [0, 2]}, r"concatenation of \(2, 2, 2\) and \(3, 1, 1\)"),
        ("concatenation", {"sources": [0, 4]}, "node 4 of 4"),
        ("sparse", places() | {"source": 4}, "node 4 of 4"),
        ("sparse", places() | {"output": (1, 0, 1)}, r"shape \(1, 0, 1\)"),
        ("sparse", places() | {"output": (1, 2**40, 1)}, r"fewer than 2\^31"),
        ("sparse", places() | {"offsets": 0}, "places without offsets or entries"),
        ("sparse", places() | {"index": 0}, "places without offsets or entries"),
        ("sparse", places() | {"weight": 0}, "sparse step without weights"),
        ("sparse", places() | {"count": -1}, "places without offsets or entries"),
        ("sparse", places() | {"count": 2}, "do not go from 0 to 2"),
        ("sparse", places() | {"count": 2**62}, r"do not go from 0 to 4611686018427387904"),
        ("sparse", places(0, 2, 4), "do not go from 0 to 3"),
        ("sparse", places(1, 2, 3), "do not go from 0 to 3"),
        ("sparse", places(0, 4, 3), "decrease at 1"),
        ("sparse", places(0, -1, 3), "decrease at 0"),
        ("sparse", places() | {"index": address(INDICES[1:])}, "entry 8 of 8"),
        ("sparse", places() | {"index": address(INDICES)}, "entry -1 of 8"),
        ("sparse", places() | {"index": address(HUGE)}, "entry 4294967296 of 8"),
        ("planes", planes() | {"source": 4}, "node 4 of 4"),
        ("planes", planes() | {"output": (1, 0, 1)}, r"shape \(1, 0, 1\)"),
        ("planes", planes() | {"count": 0}, "planes over no entries"),
        ("planes", planes() | {"count": -1}, "places without offsets or entries"),
        ("planes", planes() | {"index": 0}, "places without offsets or entries"),
        ("planes", planes() | {"index": address(INDICES[1:])}, "entry 8 of 8"),
        ("planes", planes(0, 4, 3), "decrease at 1"),
        ("lines", {"source": 4}, "node 4 of 4"),
    ],
)
def test_refused_steps(step: str, given: dict[str, object], message: str) -> None:
    """Refused before a pointer is followed, and without a trace: the plan goes on to work."""
    plan = small_plan()
    with pytest.raises(ValueError, match=f"^plan: .*{message}"):
        getattr(plan, step)(**given)
    assert plan.lines(source=0) == 4


@pytest.mark.parametrize("plane", [(0, 1, 1), (1, -1, 1), (2**31, 1, 1), (2**11, 2**10, 2**10), (2**40, 2**40, 2**40)])
def test_refused_inputs(plane: tuple[int, int, int]) -> None:
    for kind in (_C.PlanFloat32, _C.PlanFloat64):
        with pytest.raises(ValueError, match=r"^plan: shape .*sizes must be >= 1, and entries fewer than 2\^31"):
            kind(plane)


@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_of_a_sparse_step_are_tight(dtype: Any) -> None:
    """The average over 2 x 2 windows of an image: rows of one entry touch its window only, or it would be NaN."""
    index = np.array(
        [[8 * (2 * h + y) + 2 * w + x for y in (0, 1) for x in (0, 1)] for h in range(4) for w in range(4)]
    )
    offsets, weight = np.arange(0, 65, 4), np.full(64, 0.25, dtype)
    plan = (_C.PlanFloat32 if dtype == np.float32 else _C.PlanFloat64)((1, 8, 8))
    plan.sparse(
        source=0, output=(1, 4, 4), count=64, offsets=address(offsets), index=address(index), weight=address(weight),
        constant=0,
    )  # fmt: skip
    radius, low = np.zeros((1, 64), dtype), np.zeros((1, 1), dtype)
    for position, window in enumerate(index):
        center = np.full((1, 64), np.nan, dtype)
        center[0, window] = (1, 2, 3, 6)
        at, ball = np.array([position]), {"center": address(center), "radius": address(radius)}
        for isa in ISAS:
            plan.run(**arguments(lines=[0] * 4, positions=address(at), low=address(low), isa=isa, **ball))
            assert low[0, 0] == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_that_read_nothing(dtype: Any) -> None:
    """They are their constants, and what comes before is not touched."""
    plan = (_C.PlanFloat32 if dtype == np.float32 else _C.PlanFloat64)((1, 2, 2))
    weight, constant = np.ones((1, 4), dtype), np.array([5, 7], dtype)
    plan.convolution(source=0, output=(1, 2, 2), geometry=SAME, weight=address(weight), bias=address(constant))
    nothing = np.zeros(3, np.int64)
    plan.sparse(
        source=1, output=(1, 1, 2), count=0, offsets=address(nothing), index=0, weight=0, constant=address(constant)
    )
    unknown, low = np.full((1, 4), np.nan, dtype), np.zeros((1, 2), dtype)
    both, ball = np.arange(2), {"center": address(unknown), "radius": address(unknown)}
    for isa in ISAS:
        plan.run(**arguments(
            start=2, rows=2, positions=address(both), lines=[0] * 8, low=address(low), isa=isa, **ball
        ))  # fmt: skip
        assert low.tolist() == [[5, 7]]


def test_torch_takes_no_part() -> None:
    code = "import sys, tests.kernels.plans; assert not {'torch', 'verifix'} & set(sys.modules)"
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={**os.environ, "VERIFIX_EXTENSION": _C.__file__}, check=True
    )


def test_a_plan_keeps_its_own_weights() -> None:
    weight = np.ones((3, 8))
    plan = _C.PlanFloat64(PLANE)
    plan.dense(source=0, outputs=3, weight=address(weight), bias=0)
    weight[:] = np.nan
    plan.run(**arguments(lines=[0] * 4, radius=address(np.zeros(8))))
    assert RESULT[0] == entries(PLANE)
