"""The operators of noise: their contract, their errors, and that the reference gives the bits of native code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import native, noise_native, noise_reference
from verifix.kernels.lattice import lattice_table
from verifix.kernels.noise import (
    add_lattice_noise,
    add_noise,
    keep_or_replace,
    keep_probability,
    random_words,
    replacement_total_variation,
)

LAWS = ("gaussian", "laplace", "uniform")
TABLE = lattice_table("gaussian", 0.25, 255)


def images(n: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Images of 256 values."""
    return torch.randint(0, 256, (n, *shape)).to(dtype) / 255


def every_draw(x: Tensor, inputs: Tensor, start: int, count: int, seed: int = 2**62 + 5) -> dict[str, Tensor]:
    """What each operator draws for these images."""
    names: dict[str, Any] = {"seed": seed, "purpose": 1, "start": start, "count": count}
    drawn = {law: add_noise(x, inputs, law=law, scale=0.3, **names) for law in LAWS}
    drawn["lattice"] = add_lattice_noise(x, inputs, levels=255, table=TABLE, **names)
    drawn["keep"] = keep_or_replace(x, inputs, keep=0.7, levels=255, **names)
    drawn["words"] = random_words(inputs, words=math.prod(x.shape[1:]), **names)
    return drawn


def assert_equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name in got:
        assert torch.equal(got[name], wanted[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (3,), (785,), (3, 5, 7), (), (0,), (4, 0)])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_shapes_and_types(n: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, inputs = images(n, shape, dtype), torch.arange(n)
    for name, drawn in every_draw(x, inputs, start=3, count=2).items():
        if name == "words":
            assert drawn.shape == (n, 2, math.prod(shape)) and drawn.dtype == torch.int64
        else:
            assert drawn.shape == (n, 2, *shape) and drawn.dtype == dtype


@pytest.mark.parametrize("threads", [1, 2])
def test_instruction_sets_threads_and_reference_give_the_same_bits(
    threads: int, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough numbers that two threads are used, and rows that end within a group of counters."""
    x, inputs = images(3, (785,)), torch.tensor([0, 2**32 - 1, 77])
    monkeypatch.setattr(native, "isa", lambda: isa)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    got = every_draw(x, inputs, start=2**32 - 13, count=13)
    with monkeypatch.context() as without:
        without.setattr(native, "module_or_none", lambda name: None)
        assert_equal(got, every_draw(x, inputs, start=2**32 - 13, count=13))


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 1000, 4096])
def test_batches_do_not_matter(batch: int) -> None:
    x, inputs = images(1, (11,)), torch.tensor([5])
    count = max(100, batch + 4)
    wanted = every_draw(x, inputs, start=0, count=count)
    parts = [every_draw(x, inputs, first, min(batch, count - first)) for first in range(0, count, batch)]
    assert_equal({name: torch.cat([part[name] for part in parts], dim=1) for name in wanted}, wanted)


def test_inputs_are_named_by_their_numbers_not_by_their_place() -> None:
    x, inputs = images(5, (2, 9)), torch.tensor([4, 8, 15, 16, 23])
    wanted = every_draw(x, inputs, start=0, count=3)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_equal(every_draw(x[order], inputs[order], 0, 3), {name: drawn[order] for name, drawn in wanted.items()})


def test_strides_do_not_matter() -> None:
    x, inputs = images(6, (5, 4)), torch.arange(12)
    strided = x[::2].transpose(1, 2)
    assert not strided.is_contiguous() and not inputs[::4].is_contiguous()
    assert_equal(every_draw(strided, inputs[::4], 0, 2), every_draw(strided.contiguous(), inputs[::4].clone(), 0, 2))
    expanded = x[:1].expand(3, 5, 4)
    assert_equal(every_draw(expanded, inputs[:3], 0, 2), every_draw(expanded.contiguous(), inputs[:3], 0, 2))


@pytest.mark.parametrize("law", LAWS)
def test_a_scale_for_each_coordinate(law: str) -> None:
    x, inputs = images(2, (3, 4)), torch.arange(2)
    names: dict[str, Any] = {"law": law, "seed": 1, "purpose": 0, "start": 0, "count": 5}
    scale = torch.rand(4) + 0.5
    standard = add_noise(torch.zeros_like(x), inputs, scale=1.0, **names)
    assert torch.equal(add_noise(x, inputs, scale=scale, **names), x[:, None] + standard * scale)
    assert torch.equal(
        add_noise(x, inputs, scale=torch.tensor(0.3), **names),
        add_noise(x, inputs, scale=float(torch.tensor(0.3)), **names),
    )


def test_scales_are_rounded_up() -> None:
    """A radius that is a multiple of the scale holds for the one that was used."""
    x, inputs = torch.zeros(1, 9, dtype=torch.float64), torch.tensor([0])
    names: dict[str, Any] = {"law": "uniform", "seed": 1, "purpose": 0, "start": 0, "count": 1}
    for scale in (0.1, 0.25, 1 / 3, 0.7):
        up = torch.tensor(scale, dtype=torch.float64).to(torch.float32)
        up = torch.nextafter(up, torch.tensor(9.0)) if float(up) < scale else up
        assert float(up) >= scale > float(torch.nextafter(up, torch.tensor(0.0)))
        wanted = add_noise(x, inputs, scale=float(up), **names)
        assert torch.equal(add_noise(x, inputs, scale=scale, **names), wanted)
        assert torch.equal(add_noise(x, inputs, scale=torch.tensor(scale, dtype=torch.float64), **names), wanted)
        assert torch.equal(add_noise(x, inputs, scale=np.float64(scale), **names), wanted)


def test_gradients_go_through_added_noise() -> None:
    x, inputs = torch.rand(2, 3, dtype=torch.float64, requires_grad=True), torch.arange(2)

    def noisy(x: Tensor) -> Tensor:
        return add_noise(x, inputs, law="gaussian", scale=0.5, seed=1, purpose=3, start=0, count=4)

    assert torch.autograd.gradcheck(noisy, x)
    assert torch.autograd.gradgradcheck(lambda x: noisy(x).square(), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    x, inputs, names = images(2, (3, 5), dtype), torch.tensor([3, 9]), (7, 1, 2, 3)
    operators = torch.ops.verifix
    plain = (inputs, None, 0.5, "gaussian", *names)
    torch.library.opcheck(operators.add_noise.default, (x, *plain))
    torch.library.opcheck(operators.add_noise.default, (x.clone().requires_grad_(), *plain))
    torch.library.opcheck(operators.add_noise.default, (x, inputs, torch.rand(15), 1.0, "laplace", *names))
    table = (TABLE.thresholds, TABLE.guide, TABLE.guide_shift, 255)
    torch.library.opcheck(operators.add_lattice_noise.default, (x, inputs, *table, *names))
    torch.library.opcheck(operators.keep_or_replace.default, (x, inputs, 2**31, 255, *names))
    torch.library.opcheck(operators.random_words.default, (inputs, 6, *names))


def test_compiles_into_one_graph() -> None:
    inputs = torch.arange(2)

    def mean(x: Tensor) -> Tensor:
        return add_noise(x, inputs, law="laplace", scale=0.5, seed=1, purpose=3, start=0, count=4).square().mean(1)

    x = torch.rand(2, 6)
    assert torch.equal(torch.compile(mean, fullgraph=True, backend="aot_eager")(x), mean(x))


def test_what_is_kept_and_what_that_costs() -> None:
    assert keep_probability(0.5) == 0.5 and keep_probability(1) == 1 and keep_probability(0) == 0
    assert keep_probability(0.2) == round(0.2 * 2**32) / 2**32
    assert replacement_total_variation(0.2, 256) == 0
    exact = max(abs(-(-(2**64) * k // 255) - 2**64 * k / 255) for k in range(256))
    assert exact <= 1
    assert 0 < replacement_total_variation(0.2, 255) <= 255 * 2.0**-65
    x, inputs = images(2, (50,)), torch.arange(2)
    names: dict[str, Any] = {"levels": 255, "seed": 1, "purpose": 0, "start": 0, "count": 20}
    assert torch.equal(keep_or_replace(x, inputs, keep=1.0, **names), x[:, None].expand(2, 20, 50))
    assert (keep_or_replace(x, inputs, keep=0.0, **names) != x[:, None]).all()


X, INPUTS = torch.zeros(2, 3), torch.arange(2)
GOOD: dict[str, Any] = {"law": "gaussian", "scale": 0.5, "seed": 1, "purpose": 0, "start": 0, "count": 2}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, InvalidType, "x is a list: pass a torch.Tensor"),
        ({"x": torch.zeros(())}, InvalidValue, r"x.shape = \(\): must be \(n, ...\)"),
        ({"x": torch.zeros(2, 3, dtype=torch.uint8)}, InvalidValue, "x.dtype = torch.uint8: must be torch.float32"),
        ({"x": torch.zeros(2, 3).half()}, InvalidValue, "x.dtype = torch.float16: must be torch.float32"),
        ({"inputs": torch.arange(3)}, InvalidValue, r"inputs = \(3,\) on cpu: must be as many as x has inputs, 2"),
        ({"inputs": torch.zeros(2)}, InvalidValue, r"inputs = torch.float32 \(2,\): must be \(n,\) int64"),
        ({"inputs": torch.arange(2).int()}, InvalidValue, "inputs = torch.int32"),
        ({"inputs": torch.tensor([0, -1])}, InvalidValue, r"inputs = -1: numbers of inputs must be from 0 to 2\*\*32"),
        ({"inputs": torch.tensor([2**32, 0])}, InvalidValue, "inputs = 4294967296"),
        ({"law": "cauchy"}, InvalidValue, "law = cauchy: must be one of gaussian, laplace, uniform"),
        ({"scale": 0}, InvalidValue, "scale = 0: must be a number from"),
        ({"scale": -1.0}, InvalidValue, "scale = -1.0: must be a number from"),
        ({"scale": math.nan}, InvalidValue, "scale = nan: must be a number from"),
        ({"scale": math.inf}, InvalidValue, "scale = inf: must be a number from"),
        ({"scale": 1e-30}, InvalidValue, "scale = 1e-30: must be a number from"),
        ({"scale": "1"}, InvalidType, "scale is a str: pass a number or a tensor$"),
        ({"scale": lambda x: x}, InvalidType, "scale is a function: .* is not covered by the theorem"),
        ({"scale": torch.zeros(3)}, InvalidValue, "scale = a tensor: all of its entries must be"),
        ({"scale": torch.tensor([1.0, math.nan, 1.0])}, InvalidValue, "scale = a tensor"),
        ({"scale": torch.ones(4)}, InvalidValue, r"scale.shape = \(4,\): must broadcast to \(3,\)"),
        ({"scale": torch.ones(2, 3)}, InvalidValue, r"scale.shape = \(2, 3\): must broadcast to \(3,\)"),
        ({"scale": torch.ones(3, dtype=torch.int64)}, InvalidValue, "scale.dtype = torch.int64"),
        ({"seed": -1}, InvalidValue, "seed = -1: must be from 0"),
        ({"purpose": -1}, InvalidValue, "purpose = -1: must be from 0"),
        ({"purpose": 2**30}, InvalidValue, "purpose = 1073741824: must be from 0"),
        ({"count": -1}, InvalidValue, "count = -1: must be at least 0"),
        ({"start": -1}, InvalidValue, "start = -1: samples are numbered"),
        ({"start": 2**32 - 1}, InvalidValue, "start = 4294967295: samples are numbered from 0 .* and 2 are asked for"),
    ],
)  # fmt: skip
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = GOOD | {"x": X, "inputs": INPUTS} | change
    with pytest.raises(error, match=message):
        add_noise(arguments.pop("x"), arguments.pop("inputs"), **arguments)


NAMES: dict[str, Any] = {"seed": 1, "purpose": 0, "start": 0, "count": 2}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: keep_or_replace(X, INPUTS, keep=1.5, levels=1, **NAMES), InvalidValue, "keep = 1.5: must be a prob"),
        (lambda: keep_or_replace(X, INPUTS, keep=math.nan, levels=1, **NAMES), InvalidValue, "keep = nan"),
        (lambda: keep_or_replace(X, INPUTS, keep="1", levels=1, **NAMES), InvalidType, "keep is a str"),
        (lambda: keep_or_replace(X, INPUTS, keep=0.5, levels=0, **NAMES), InvalidValue, "levels = 0: must be from 1"),
        (lambda: keep_or_replace(X + 2, INPUTS, keep=0.5, levels=1, **NAMES), InvalidValue, r"x = 2.0: must be from 0"),
        (lambda: keep_or_replace(X - 1, INPUTS, keep=0.5, levels=1, **NAMES), InvalidValue, r"x = -1.0: must be from"),
        (lambda: keep_or_replace(X + 0.3, INPUTS, keep=0.5, levels=1, **NAMES), InvalidValue, r"x\[0\] = 0.3"),
        (lambda: random_words(INPUTS, words=-1, **NAMES), InvalidValue, "words = -1: must be from 0"),
        (lambda: random_words(INPUTS.float(), words=1, **NAMES), InvalidValue, "inputs = torch.float32"),
        (lambda: random_words(INPUTS, words=1, **(NAMES | {"seed": -3})), InvalidValue, "seed = -3"),
        (lambda: add_lattice_noise(X, INPUTS, levels=254, table=TABLE, **NAMES), InvalidValue, "the table is for 255"),
        (lambda: add_lattice_noise(X, INPUTS, levels=255, table=None, **NAMES), InvalidType, "table is a NoneType"),
        (lambda: add_lattice_noise(X + 0.1, INPUTS, levels=255, table=TABLE, **NAMES), InvalidValue, r"x\[0\] = 0.1"),
        (lambda: add_lattice_noise(X * math.nan, INPUTS, levels=255, table=TABLE, **NAMES), InvalidValue, "= nan: an"),
    ],
)  # fmt: skip
def test_other_wrong_arguments(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_reference_is_what_a_missing_library_falls_back_to() -> None:
    """Where the compiled part is missing, the operators still work, and say so once."""
    functions = [name for name in vars(noise_native.Native) if not name.startswith("_")]
    assert sorted(functions) == ["add_lattice_noise", "add_noise", "keep_or_replace", "random_words"]
    assert all(callable(getattr(noise_reference, name)) for name in functions)
