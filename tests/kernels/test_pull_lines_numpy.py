"""The compiled pull_lines, called directly with numpy arrays: on the CPU, and the CUDA code on the host.

torch takes no part, so sanitizers can watch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.cuda_on_host import build
from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, address

ON_HOST = [{"stream": blocks} for blocks in (0, 1, 3)]
"""The CUDA code, by so many blocks; 0: as many as on the GPU."""
GRADIENTS = ("rows", "slope_p", "offset_p", "slope_n", "offset_n", "shift")
SHAPES = st.tuples(st.integers(0, 4), st.integers(0, 12), st.one_of(st.integers(0, 600), st.integers(1020, 1300)))
THERE = st.lists(st.booleans(), min_size=5, max_size=5)
DTYPES = st.sampled_from((np.float32, np.float64))


@functools.cache
def host_module() -> Any:
    return build([Path(__file__).with_name("pull_lines_on_host.cpp")])


def _address(x: Array | None) -> int:
    return 0 if x is None else address(x)


@dataclass
class Case:
    rows: Array  # (n, r, m)
    lines: list[Array | None]  # (n, m) each, and (1, m)
    of_pulled: Array | None  # (n, r, m)
    of_offset: Array  # (n, r)

    @classmethod
    def drawn(cls, shape: tuple[int, int, int], dtype: Any, there: list[bool], seed: int) -> Case:
        numbers = np.random.default_rng(seed)
        n, r, m = shape
        rows = numbers.standard_normal(shape).astype(dtype)
        rows[numbers.random(shape) < 0.2] = 0
        shapes = [(n, m)] * 4 + [(1, m)]
        lines = [
            numbers.standard_normal(x).astype(dtype) if has else None for x, has in zip(shapes, there, strict=True)
        ]
        of_pulled, of_offset = (numbers.standard_normal(x).astype(dtype) for x in (shape, (n, r)))
        return cls(rows, lines, of_pulled, of_offset)

    def _common(self, place: dict[str, Any]) -> dict[str, Any]:
        n, r, m = self.rows.shape
        lines = [_address(line) for line in self.lines]
        return {
            "n": n,
            "r": r,
            "m": m,
            "rows": address(self.rows),
            "lines": lines,
            "dtype": self.rows.dtype.name,
            **place,
        }

    def pull(self, place: dict[str, Any], wants_rows: bool = True) -> list[Array]:
        pulled, offset = np.full_like(self.rows, 7), np.full_like(self.of_offset, 7)
        module = host_module() if "stream" in place else _C
        module.pull_lines(pulled=address(pulled) if wants_rows else 0, offset=address(offset), **self._common(place))
        return [pulled, offset]

    def gradient(self, place: dict[str, Any], wanted: tuple[bool, ...] = (True,) * 6) -> list[Array]:
        n, _, m = self.rows.shape
        found = [np.full_like(self.rows, 7), *(np.full((n, m), 7, self.rows.dtype) for _ in range(5))]
        addresses = [address(x) if want else 0 for x, want in zip(found, wanted, strict=True)]
        module = host_module() if "stream" in place else _C
        module.pull_lines_gradient(
            of_pulled=_address(self.of_pulled), of_offset=address(self.of_offset), of_rows=addresses[0],
            of_lines=addresses[1:], **self._common(place),
        )  # fmt: skip
        return found

    def wanted(self) -> tuple[list[Array], list[Array]]:
        """What to find, and its gradients, in float64."""
        n, _, m = self.rows.shape
        slope_p, offset_p, slope_n, offset_n, shift = (
            np.zeros((n, 1, m)) if line is None else line[:, None].astype(np.float64) for line in self.lines
        )
        rows, toward = self.rows.astype(np.float64), self.of_offset[:, :, None].astype(np.float64)
        up, down = np.maximum(rows, 0), np.minimum(rows, 0)
        through = slope_p * up + slope_n * down
        of_both = (0 if self.of_pulled is None else self.of_pulled) + shift * toward
        return [through, (offset_p * up + offset_n * down + shift * through).sum(2)], [
            np.where(rows >= 0, slope_p * of_both + offset_p * toward, slope_n * of_both + offset_n * toward),
            (up * of_both).sum(1), (up * toward).sum(1), (down * of_both).sum(1), (down * toward).sum(1),
            (through * toward).sum(1),
        ]  # fmt: skip


def check_close(found: list[Array], wanted: list[Array]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        close = {"rtol": 1e-4, "atol": 1e-3} if ours.dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-10}
        np.testing.assert_allclose(ours, theirs, **close)


@settings(max_examples=60, deadline=None)
@given(SHAPES, DTYPES, THERE, st.integers(0, 2**32), st.sampled_from((1, 2, 3)))
def test_any_shape(shape: tuple[int, int, int], dtype: Any, there: list[bool], seed: int, threads: int) -> None:
    case = Case.drawn(shape, dtype, there, seed)
    results, gradients = case.wanted()
    for isa in ISAS:
        place = {"threads": threads, "isa": isa}
        check_close(case.pull(place), results)
        check_close(case.gradient(place), gradients)


@settings(max_examples=60, deadline=None)
@given(SHAPES, DTYPES, THERE, st.integers(0, 2**32), st.booleans(), st.tuples(*[st.booleans()] * 6), st.booleans())
def test_cuda_code_is_the_cpu_kernel(
    shape: tuple[int, int, int],
    dtype: Any,
    there: list[bool],
    seed: int,
    wants_rows: bool,
    wanted: tuple[bool, ...],
    through_rows: bool,
) -> None:
    """Every bit but those of sums over m, which no launch changes; what is not wanted is not written."""
    case = Case.drawn(shape, dtype, there, seed)
    if not through_rows:
        case.of_pulled = None
    on_cpu = {"threads": 1, "isa": ISAS[0]}
    pulled, offset = case.pull(on_cpu, wants_rows)
    gradients, first = case.gradient(on_cpu, wanted), None
    if not wants_rows:  # nothing is pulled then, and the shift adds nothing
        case_without = Case(case.rows, [None, case.lines[1], None, case.lines[3], None], None, case.of_offset)
        results, _ = case_without.wanted()
        check_close([offset], results[1:])
    for place in ON_HOST:
        found = case.pull(place, wants_rows)
        np.testing.assert_array_equal(found[0], pulled)
        check_close(found[1:], [offset.astype(np.float64)])
        first = found[1] if first is None else first
        np.testing.assert_array_equal(found[1], first)
        for ours, theirs in zip(case.gradient(place, wanted), gradients, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    if wants_rows:
        check_close([pulled, first], case.wanted()[0])
    for ours, theirs, want in zip(gradients, case.wanted()[1], wanted, strict=True):
        check_close([ours], [theirs if want else np.full_like(theirs, 7)])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", range(7))
@pytest.mark.parametrize("m", [40, 1500])
def test_what_is_not_finite_is_where_the_cpu_kernel_has_it(m: int, where: int, bad: float) -> None:
    """In a row, in a line that meets zeros, in a gradient that arrives."""
    case = Case.drawn((2, 3, m), np.float64, [True] * 5, where)
    if where == 5:
        case.rows[0, 1, m // 2] = bad
    elif where == 6:
        assert case.of_pulled is not None
        case.of_pulled[1, 2, m - 1] = bad
    else:
        line = case.lines[where]
        assert line is not None
        line[0, 7] = bad
        case.rows[:, 0, 7] = 0
    on_cpu = {"threads": 1, "isa": ISAS[0]}
    with np.errstate(invalid="ignore"):
        results, gradients = case.wanted()
    wanted = case.pull(on_cpu), case.gradient(on_cpu)
    assert any(not np.isfinite(x).all() for x in (*wanted[0], *wanted[1]))
    for place in ON_HOST:
        found = case.pull(place), case.gradient(place)
        np.testing.assert_array_equal(found[0][0], wanted[0][0])
        np.testing.assert_allclose(found[0][1], wanted[0][1], rtol=1e-10, atol=1e-10)
        for ours, theirs in zip(found[1], wanted[1], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip((*found[0], *found[1]), (*results, *gradients), strict=True):
            assert (np.isfinite(ours) == np.isfinite(theirs)).all()


def test_zeros_are_on_the_positive_side() -> None:
    ones = np.ones((1, 1))
    zeros = np.array([0.0, -0.0]).reshape(1, 2, 1)
    case = Case(zeros, [3 * ones, 5 * ones, 7 * ones, 11 * ones, None], np.ones((1, 2, 1)), np.ones((1, 2)))
    for place in ({"threads": 1, "isa": ISAS[0]}, *ON_HOST):
        assert case.gradient(place)[0].tolist() == [[[8.0], [8.0]]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": -1}, "sizes must be"), ({"n": 2**40, "r": 2**40}, "below 2\\^63"),
        ({"n": 2**40, "m": 2**40, "r": 0}, "below 2\\^63"), ({"rows": 0}, "null pointer"),
        ({"offset": 0}, "null pointer"), ({"threads": 0}, "threads"), ({"isa": "none"}, "none"),
        ({"dtype": "int8"}, "int8"),
    ],
)  # fmt: skip
def test_bad_arguments(changed: dict[str, Any], message: str) -> None:
    x = np.ones(8, np.float32)
    good = {"n": 1, "r": 1, "m": 8, "rows": address(x), "lines": [0, 0, 0, 0, 0], "dtype": "float32"}
    gradients = {"of_pulled": 0, "of_rows": 0, "of_lines": [0, 0, 0, 0, 0]}
    places: list[tuple[Any, dict[str, Any]]] = [(_C, {"threads": 1, "isa": "base"})]
    if not changed.keys() & {"threads", "isa"}:
        places.append((host_module(), {"stream": 0}))
    for module, place in places:
        with pytest.raises(ValueError, match=message):
            module.pull_lines(**(good | {"pulled": 0, "offset": address(x)} | place | changed))
        change = {"of_offset" if key == "offset" else key: value for key, value in changed.items()}
        with pytest.raises(ValueError, match=message):
            module.pull_lines_gradient(**(good | gradients | {"of_offset": address(x)} | place | change))
