"""The CUDA code of the backward pass, on the GPU and on the host: exact where arithmetic is, else within rounding."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.kernels.cuda_on_host import HostMemory, borrowing, host_module, on_host_and_gpu, run_scheduled
from tests.kernels.extension import _C, SANITIZED
from tests.kernels.plans import Array, Case, Plane, Request, address, draw_case, draw_request, entries, push, run
from tests.kernels.test_plan_native import DIGITS, DTYPES, middle_and_spread

Bounds = tuple[Array, Array | None]


class RealCase(Case):
    """Numbers that round, some of them zero."""

    def integers(self, *shape: int, low: int = -1, high: int = 1) -> Array:
        return self.quarters(*shape) * max(abs(low), abs(high))

    def quarters(self, *shape: int) -> Array:
        x = self.numbers.normal(size=shape)
        return np.where(self.numbers.random(shape) < 0.1, 0, x).astype(self.dtype)


def same(a: Bounds, b: Bounds) -> bool:
    if a[1] is None or b[1] is None:
        return np.array_equal(a[0], b[0]) and a[1] is b[1]
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def runs(case: Case, request: Request, memory: HostMemory) -> Bounds:
    """The bounds, which may depend neither on how many pairs are in memory at once nor on the order of items."""
    found = [
        run_scheduled(case, request, memory, pairs, stream) for pairs in (2**40, 1, 2, 3) for stream in memory.streams
    ]
    assert all(same(each, found[0]) for each in found)
    return found[0]


@on_host_and_gpu
@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 7), st.sampled_from(DTYPES), st.sampled_from((0, 2)))
def test_exact_on_a_lattice(kind: type[HostMemory], seed: int, count: int, dtype: Any, hull: int) -> None:
    """Where no sum needs more digits than there are, every bit is that of the definition and of the CPU's pass."""
    memory = kind()
    case = draw_case(seed, count, dtype, module=memory.module(), kind=borrowing(Case, memory))
    request = draw_request(case, hull)
    exact = [push(case, request, i) for i in range(request.inputs)]
    quarters = 2 * sum(step.lines for step in case.steps) + 4
    assume(max(each.mass for each in exact) * 2**quarters < 2 ** DIGITS[dtype])
    low, high = runs(case, request, memory)
    for i, each in enumerate(exact):
        middle, spread = middle_and_spread(request, i, each)
        assert np.array_equal(request.of_input(low, i), each.low + middle - spread)
        if high is not None:
            assert np.array_equal(request.of_input(high, i), each.high + middle + spread)
    on_cpu = draw_case(seed, count, dtype)
    assert same(run(on_cpu, draw_request(on_cpu, hull), 1, "base"), (low, high))


def most_roundings(case: Case, request: Request) -> int:
    """What any term goes through: all products and sums of each step that it passes, as in docs/rounding.md."""
    sizes = [entries(plane) for plane in case.planes]
    return sum(sizes[1 : request.start + 1]) + 8 * len(case.steps) + 2 * max(sizes) + 32


@on_host_and_gpu
@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 7), st.sampled_from(DTYPES), st.sampled_from((0, 1, 2)))
def test_within_rounding_of_the_cpu(kind: type[HostMemory], seed: int, count: int, dtype: Any, hull: int) -> None:
    """Both passes are within gamma_K times the mass of the same real number."""
    memory = kind()
    case = draw_case(seed, count, dtype, module=memory.module(), kind=borrowing(RealCase, memory))
    on_cpu = draw_case(seed, count, dtype, kind=RealCase)
    request = draw_request(case, hull)
    (low, high), (below, above) = runs(case, request, memory), run(on_cpu, draw_request(on_cpu, hull), 1, "base")
    roundings, unit = most_roundings(case, request), 2.0 ** -DIGITS[dtype]
    gamma = roundings * unit / (1 - roundings * unit)
    for i in range(request.inputs):
        allowed = 2.01 * gamma * push(case, request, i).mass
        sides = [(low, below)] if high is None or above is None else [(low, below), (high, above)]
        for ours, cpus in sides:
            difference = request.of_input(ours, i).astype(np.float64) - request.of_input(cpus, i)
            assert (np.abs(difference) <= allowed).all()


def case_of(module: Any, dtype: Any, plane: Plane) -> Case:
    """A case whose plan the test builds itself."""
    plan = (module.PlanFloat32 if dtype == np.float32 else module.PlanFloat64)(plane)
    return Case(dtype, plan, [plane], random.Random(0), np.random.default_rng(0))


@on_host_and_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_unit_rows_of_a_convolution(kind: type[HostMemory], dtype: Any) -> None:
    """After another one: rows go together by 32, and reach a window of each plane; whole numbers, so nothing rounds."""
    numbers = np.random.default_rng(0)
    first = numbers.integers(-2, 3, (16, 3, 3, 3)).astype(dtype)
    second = numbers.integers(-2, 3, (40, 3, 3, 16)).astype(dtype)
    slopes = numbers.integers(0, 2, (2, 16 * 8 * 8)).astype(dtype)
    center, radius = (numbers.integers(0, 3, (2, 3 * 8 * 8)).astype(dtype) for _ in range(2))
    lines: list[list[Array | None]] = [[None] * 4, [slopes, None, slopes, slopes], [None] * 4]
    request = Request(3, 2, None, np.arange(40 * 4 * 4), None, -1.0, lines, True, 0, center, radius)
    memory = kind()
    case, on_cpu = (case_of(module, dtype, (3, 8, 8)) for module in (memory.module(), _C))
    for plan, place in ((case.plan, memory.put), (on_cpu.plan, address)):
        plan.convolution(source=0, output=(16, 8, 8), geometry=[3, 3, 1, 1, 1, 1, 1, 1, 1], weight=place(first), bias=0)
        plan.lines(source=1)
        plan.convolution(
            source=2, output=(40, 4, 4), geometry=[3, 3, 2, 2, 1, 1, 1, 1, 1], weight=place(second), bias=0
        )
    assert same(runs(case, request, memory), run(on_cpu, request, 1, "base"))


@on_host_and_gpu
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 7), st.sampled_from(DTYPES))
def test_forms_that_arrive_at_the_input(kind: type[HostMemory], seed: int, count: int, dtype: Any) -> None:
    """Instead of bounds: the coefficients of the input, zero where rows do not get to, and the constants."""
    memory = kind()
    case = draw_case(seed, count, dtype, module=memory.module(), kind=borrowing(Case, memory))
    request = draw_request(case, 0)
    exact = [push(case, request, i) for i in range(request.inputs)]
    quarters = 2 * sum(step.lines for step in case.steps) + 4
    assume(max(each.mass for each in exact) * 2**quarters < 2 ** DIGITS[dtype])
    shape = (request.inputs, request.rows) if request.row_offsets is None else (request.rows,)
    for pairs in (2**40, 1):
        forms = np.full((*shape, entries(case.planes[0])), np.nan, dtype)
        low, high = run_scheduled(case, request, memory, pairs, forms=forms)
        for i, each in enumerate(exact):
            assert np.array_equal(request.of_input(forms, i), each.form)
            assert np.array_equal(request.of_input(low, i), each.low)
            assert high is None or np.array_equal(request.of_input(high, i), each.high)


@on_host_and_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_fall_into_padding(kind: type[HostMemory], dtype: Any) -> None:
    """All but one position of the convolution see nothing of the dense layer before it, nor of what that stands on."""
    weight, ones = np.arange(16 * 18).reshape(16, 18).astype(dtype) % 5 - 2, np.ones((3, 16), dtype)
    center, radius = (np.arange(18).reshape(1, 18).astype(dtype) % k for k in (3, 2))
    corner, all_of_it = (
        Request(2, 1, None, np.arange(rows), None, 1.0, [[None] * 4] * 2, True, 0, center, radius) for rows in (3, 27)
    )
    memory = kind()
    case, on_cpu = (case_of(module, dtype, (2, 3, 3)) for module in (memory.module(), _C))
    for plan, place in ((case.plan, memory.put), (on_cpu.plan, address)):
        plan.dense(source=0, outputs=16, weight=place(weight), bias=0)
        plan.convolution(source=1, output=(3, 3, 3), geometry=[1, 1, 1, 1, 1, 1, 1, 1, 1], weight=place(ones), bias=0)
    assert not runs(case, corner, memory)[0].any()
    bounds = runs(case, all_of_it, memory)
    assert same(bounds, run(on_cpu, all_of_it, 1, "base"))
    assert np.flatnonzero(bounds[0]).tolist() == [12, 13, 14]


@on_host_and_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_not_a_number_and_infinity_are_never_lost(kind: type[HostMemory], dtype: Any, value: float) -> None:
    """In a weight, in a bias, in a line, in the set or in the rows: what depends on it is not finite."""
    for place in ("weight", "bias", "slope", "offset", "center", "radius", "rows"):
        weight, bias = np.ones((20, 3), dtype), np.zeros(20, dtype)
        slope, offset = np.full((1, 20), 0.5, dtype), np.zeros((1, 20), dtype)
        center, radius, rows = np.ones((1, 3), dtype), np.ones((1, 3), dtype), np.ones((1, 1, 20), dtype)
        spoiled = {"weight": weight, "bias": bias, "slope": slope, "offset": offset, "center": center, "rows": rows}
        if place == "radius" and value < 0:
            continue  # not a radius
        (spoiled | {"radius": radius})[place].flat[2] = value
        memory = kind()
        case = case_of(memory.module(), dtype, (3, 1, 1))
        case.plan.lines(source=case.plan.dense(source=0, outputs=20, weight=memory.put(weight), bias=memory.put(bias)))
        for hull in (0, 1, 2):
            lines = [[None] * 4, [slope, offset, slope, offset]]
            low, high = run_scheduled(
                case, Request(2, 1, rows, None, None, 1.0, lines, True, hull, center, radius), memory
            )
            assert high is not None
            assert not np.isfinite(low).any(), place
            assert not np.isfinite(high).any(), place


@on_host_and_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_numbers_count(kind: type[HostMemory], dtype: Any) -> None:
    memory = kind()
    tiny = np.finfo(dtype).smallest_subnormal
    case = case_of(memory.module(), dtype, (1, 1, 1))
    center, radius = np.full((1, 1), 4 * tiny, dtype), np.full((1, 1), tiny, dtype)
    for hull in (0, 1, 2):
        request = Request(0, 1, None, np.zeros(1, np.int64), None, 1.0, [], False, hull, center, radius)
        low, _ = run_scheduled(case, request, memory)
        assert low[0, 0] == 3 * tiny


@on_host_and_gpu
def test_more_pairs_than_one_launch_takes(kind: type[HostMemory]) -> None:
    memory = kind()
    case = case_of(memory.module(), np.float32, (1, 1, 1))
    center = np.arange(70000, dtype=np.float32)[:, None]
    request = Request(
        0, len(center), None, np.zeros(1, np.int64), None, -1.0, [], False, 0, center, np.ones_like(center)
    )
    low, _ = run_scheduled(case, request, memory)
    assert np.array_equal(low, -center - 1)


def test_memory_is_used_again() -> None:
    """A chain needs two neighbouring nodes at a time; a branch keeps what waits for it."""
    plan = host_module().PlanFloat32((1, 10, 10))
    for source in range(9):
        plan.lines(source=source)
    vector, constants = 32 * 4, 4
    shared = {"rows": 1, "positions": 0, "inputs": 1, "row_offsets": 0}
    chain = plan.schedule(start=9, **shared)
    assert chain.bytes_per_pair() == (2 * 100 + constants) * vector
    plan.sum(first=9, second=1, factor=1.0)
    assert plan.schedule(start=10, **shared).bytes_per_pair() == (3 * 100 + constants) * vector
    assert plan.schedule(start=9, **(shared | {"rows": 0})).bytes_per_pair() == constants * vector
    first = plan.schedule(start=9, **(shared | {"positions": address(ZERO)}))
    assert first.bytes_per_pair() == (2 + constants) * vector


# What the caller may have got wrong.

ONES = np.ones(64)
RESULT = np.zeros(64)
ZERO, THREE, BELOW = (np.array([position]) for position in (0, 3, -1))
OFFSETS = [np.array(offsets) for offsets in ([1, 1], [0, 2], [0, 2, 1], [0, 1], [0, 0])]


def small_schedule(**change: int) -> Any:
    """One unit row of lines on a dense layer."""
    plan = host_module().PlanFloat64((2, 2, 2))
    plan.dense(source=0, outputs=3, weight=address(ONES), bias=0)
    plan.lines(source=1)
    return plan.schedule(
        **({"start": 2, "rows": 1, "positions": address(ZERO), "inputs": 1, "row_offsets": 0} | change)
    )


def arguments(**change: object) -> dict[str, object]:
    one = address(ONES)
    return {
        "inputs": 1, "coefficients": 0, "coefficient_batch": 1, "sign": 1.0, "lines": [0] * 4 + [one, 0, one, 0],
        "both": False, "hull": 0, "center": one, "radius": one, "low": address(RESULT), "high": 0, "stream": 0,
        **change,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": -1}, "negative number of inputs"),
        ({"coefficients": address(ONES)}, "coefficients are given or not"),
        ({"inputs": 3, "coefficient_batch": 2}, "coefficients for some inputs only"),
        ({"hull": 4}, "hull = 4: must be 0, 1, 2 or 3"),
        ({"hull": -1}, "hull = -1: must be 0, 1, 2 or 3"),
        ({"center": 0}, "a null pointer"),
        ({"radius": 0}, "a null pointer"),
        ({"hull": 3}, "a null pointer"),
        ({"low": 0}, "a null pointer"),
        ({"both": True}, "a null pointer"),
        ({"lines": [0] * 4}, "lines must be four pointers for each step"),
        ({"lines": [0] * 8}, "step 2 has no slopes"),
        ({"bytes": 100}, "workspace of 100 bytes: needs"),
        ({"tables": 0}, "workspace of"),
        ({"workspace": 0}, "workspace of"),
    ],
)
def test_refused_requests(change: dict[str, Any], message: str) -> None:
    schedule, memory = small_schedule(), HostMemory()
    size, tables = schedule.bytes_per_pair(), np.frombuffer(schedule.tables(), np.uint8)
    good = arguments(tables=memory.put(tables), workspace=memory.put(np.zeros(size, np.uint8)), bytes=size)
    schedule.run(**good)
    with pytest.raises(ValueError, match=f"^backward pass: .*({message})"):
        schedule.run(**(good | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 3}, "plan: node 3 of 3"),
        ({"start": -1}, "plan: node -1 of 3"),
        ({"rows": -5}, "backward pass: negative number of inputs or rows"),
        ({"inputs": -1}, "backward pass: negative number of inputs or rows"),
        ({"row_offsets": address(OFFSETS[0])}, "backward pass: row offsets must go from 0 to the number of rows"),
        ({"row_offsets": address(OFFSETS[1])}, "backward pass: row offsets must go from 0 to the number of rows"),
        ({"row_offsets": address(OFFSETS[2]), "inputs": 2}, "backward pass: row offsets must rise"),
        ({"row_offsets": address(OFFSETS[3]), "positions": 0}, "backward pass: row offsets are for unit rows"),
        ({"positions": address(THREE)}, "backward pass: position out of range"),
        ({"positions": address(BELOW)}, "backward pass: position out of range"),
    ],
)
def test_refused_schedules(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        small_schedule(**change)


def test_a_schedule_with_rows_of_each_input_is_for_these_inputs() -> None:
    schedule = small_schedule(row_offsets=address(OFFSETS[3]))
    nothing = dict.fromkeys(("tables", "workspace", "bytes"), 0)
    with pytest.raises(ValueError, match=r"^backward pass: the schedule is that of other inputs"):
        schedule.run(**arguments(inputs=2, **nothing))


def test_more_work_than_numbers_count() -> None:
    schedule = small_schedule(rows=33, positions=0)
    nothing = dict.fromkeys(("tables", "workspace", "bytes"), 0)
    with pytest.raises(ValueError, match=r"^backward pass: more than 2\^63 - 1 pairs"):
        schedule.run(**arguments(inputs=2**62, coefficients=address(ONES), **nothing))
    with pytest.raises(ValueError, match=r"^backward pass: more than 2\^63 - 1 bounds"):
        schedule.run(**arguments(inputs=2**61, coefficients=address(ONES), **nothing))


def test_nothing_to_do_touches_nothing() -> None:
    """No inputs, no rows, and inputs of which none has rows."""
    nothing = dict.fromkeys(("center", "radius", "low", "tables", "workspace", "bytes"), 0)
    small_schedule().run(**arguments(inputs=0, **nothing))
    small_schedule(rows=0).run(**arguments(**nothing))
    small_schedule(rows=0, positions=0, row_offsets=address(OFFSETS[4])).run(**arguments(**nothing))


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is that run")
def test_under_sanitizers() -> None:
    """All of this file again, the CUDA code compiled to watch addresses and undefined behaviour."""
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        libraries.append(found.stdout.strip())
    if not all(Path(path).is_absolute() for path in libraries):
        pytest.skip("the compiler has no sanitizers")
    environment = {
        **os.environ, "LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0",
        "VERIFIX_EXTENSION": _C.__file__,
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-sq", "--noconftest", "-p", "no:cacheprovider", str(Path(__file__))]
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
