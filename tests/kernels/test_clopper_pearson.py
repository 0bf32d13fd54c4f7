"""Clopper-Pearson bounds: the same bits everywhere, against exact rational numbers, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from verifix import _C
from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import clopper_pearson, native, reference

ROOT = Path(__file__).resolve().parents[2]


def cases(count: int, seed: int, most: float = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Counts in the middle and near both ends, levels from 1e-300 to almost 1."""
    numbers = np.random.default_rng(seed)
    n = np.floor(10 ** numbers.uniform(0, most, count)).astype(np.int64)
    near = np.minimum(n, np.floor(10 ** numbers.uniform(-0.5, 3, count)).astype(np.int64))
    kind = numbers.integers(0, 3, count)
    k = np.choose(kind, [np.floor(numbers.random(count) * (n + 1)).astype(np.int64), near, n - near])
    u = numbers.uniform(0, 1, count)
    level = np.choose(numbers.integers(0, 3, count), [10 ** (-300 * u), 10 ** (-6 * u), 1 - 10 ** (-15 * u)])
    level = np.clip(level, 1e-300, 1 - 2.0**-53)
    return torch.from_numpy(k), torch.from_numpy(n), torch.from_numpy(level)


def same(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a.view(torch.int64), b.view(torch.int64)) for a, b in zip(first, second, strict=True))


def native_bounds(k: Tensor, n: Tensor, level: Tensor, threads: int) -> tuple[Tensor, Tensor]:
    lower, failure = torch.full_like(level, 7), torch.full_like(level, 7)
    _C.clopper_pearson(
        successes=k.data_ptr(), trials=n.data_ptr(), level=level.data_ptr(), lower=lower.data_ptr(),
        failure=failure.data_ptr(), count=len(level), threads=threads,
    )  # fmt: skip
    return lower, failure


@pytest.mark.parametrize("count", [1, 63, 64, 1000, 5000])
def test_same_bits_for_every_number_of_threads_and_as_the_reference(count: int) -> None:
    arguments = cases(count, seed=count)
    wanted = reference.clopper_pearson(*arguments)
    assert all(same(native_bounds(*arguments, threads=threads), wanted) for threads in (1, 2, 3, 64))
    assert same(clopper_pearson(*arguments), wanted)


def test_same_bits_for_a_large_number_of_trials() -> None:
    arguments = cases(60, seed=4, most=9)
    assert same(clopper_pearson(*arguments), reference.clopper_pearson(*arguments))


def test_bounds_enclose_the_exact_tail() -> None:
    """In rational numbers: P(Bin(n, p) >= k) is at most the level at the bounds, and above it 1e-12 further in."""

    def tail(n: int, k: int, p: Fraction) -> Fraction:
        return sum((comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1)), Fraction(0))

    inside = Fraction(1, 10**12)
    for n in (1, 2, 3, 7, 25):
        for k in range(1, n + 1):
            for level in (1e-300, 1e-9, 0.001, 0.05, 0.5, 0.75, 1 - 2.0**-53):
                lower, failure = (x.item() for x in clopper_pearson(*arguments_of(k, n, level)))
                assert tail(n, k, Fraction(lower)) <= Fraction(level) < tail(n, k, Fraction(lower) * (1 + inside))
                assert tail(n, k, 1 - Fraction(failure)) <= Fraction(level)
                assert Fraction(level) < tail(n, k, 1 - Fraction(failure) * (1 - inside))


def arguments_of(k: int, n: int, level: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor([k]), torch.tensor([n]), torch.tensor([level], dtype=torch.float64)


@pytest.mark.parametrize(
    ("k", "n", "level"),
    [(0, 9, 0.1), (-1, 9, 0.1), (10, 9, 0.1), (3, 1 << 41, 0.1), (3, 9, 0.0), (3, 9, 1.0), (3, 9, float("nan"))],
)
def test_what_makes_no_sense_is_bounded_by_0_and_1(k: int, n: int, level: float) -> None:
    for bounds in (clopper_pearson(*arguments_of(k, n, level)), reference.clopper_pearson(*arguments_of(k, n, level))):
        assert [x.item() for x in bounds] == [0, 1]


def test_tiny_levels_stay_sound_below_normal_numbers() -> None:
    lower, failure = clopper_pearson(*arguments_of(1, 10**9, 5e-324))
    assert lower.item() == 0
    assert failure.item() == 1
    _, failure = clopper_pearson(*arguments_of(10**9, 10**9, 1 - 2.0**-53))  # 1.1e-25
    assert 2.0**-53 / 1e9 <= failure.item() <= 2.0**-53 / 1e9 * (1 + 1e-12)


def test_shapes_strides_and_emptiness() -> None:
    k, n, level = (x.reshape(4, 5, 6) for x in cases(120, seed=1))
    wanted = [x.transpose(0, 2) for x in clopper_pearson(k, n, level)]
    found = clopper_pearson(*(x.transpose(0, 2) for x in (k, n, level)))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    empty = clopper_pearson(*(x[:0] for x in (k, n, level)))
    assert [tuple(x.shape) for x in empty] == [(0, 5, 6)] * 2


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.verifix.clopper_pearson.default, cases(5, seed=2))


def test_wrong_arguments() -> None:
    k, n, level = cases(3, seed=3)
    with pytest.raises(InvalidType, match=r"trials is a int: pass a torch\.Tensor"):
        clopper_pearson(k, 3, level)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"level\.dtype = torch\.float32: must be torch\.float64"):
        clopper_pearson(k, n, level.float())
    with pytest.raises(InvalidValue, match=r"trials = of shape \(2,\) on cpu: must be as successes, \(3,\)"):
        clopper_pearson(k, n[:2], level)
    zero = {"successes": 0, "trials": 0, "level": 0, "lower": 0, "failure": 0}
    with pytest.raises(ValueError, match="null pointer with count = 2"):
        _C.clopper_pearson(**zero, count=2, threads=1)
    with pytest.raises(ValueError, match="threads = 0: must be >= 1"):
        _C.clopper_pearson(**zero, count=0, threads=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.skipif(native.load("verifix._C_cuda").module is None, reason="the CUDA part is not built")
def test_same_bits_on_cuda() -> None:
    arguments = cases(20000, seed=5)
    found = clopper_pearson(*(x.cuda() for x in arguments))
    assert all(x.is_cuda for x in found)
    assert same(tuple(x.cpu() for x in found), clopper_pearson(*arguments))  # type: ignore[arg-type]


def test_the_code_of_the_kernel_compiles_with_strict_warnings_and_gives_the_same_bits(tmp_path: Path) -> None:
    """What a CUDA thread runs is this header: here compiled for the host, without any of the extension around it."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    k, n, level = cases(2000, seed=6)
    source, program = tmp_path / "main.cpp", tmp_path / "main"
    source.write_text(
        '#include <cstdio>\n#include "verifix/binomial.h"\nint main() {\n  long long k, n; double level;\n'
        '  while (std::scanf("%lld %lld %la", &k, &n, &level) == 3) {\n'
        "    const verifix::binomial::Bounds b = verifix::binomial::clopper_pearson(k, n, level);\n"
        '    std::printf("%a %a\\n", b.lower, b.failure);\n  }\n}\n'
    )
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-ffp-contract=off"]
    subprocess.run([compiler, *flags, f"-I{ROOT / 'csrc/include'}", str(source), "-o", str(program)], check=True)
    lines = "".join(f"{a} {b} {c.hex()}\n" for a, b, c in zip(k.tolist(), n.tolist(), level.tolist(), strict=True))
    output = subprocess.run([str(program)], input=lines, check=True, capture_output=True, text=True).stdout
    rows = [[float.fromhex(word) for word in line.split()] for line in output.splitlines()]
    found = torch.tensor(rows, dtype=torch.float64)
    assert same((found[:, 0], found[:, 1]), clopper_pearson(k, n, level))
