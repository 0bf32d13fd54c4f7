"""The operator interval_image: its contract, its gradient, its errors, and its place in torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.extension import _C, SANITIZED
from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import interval_image_reference, native
from verifix.kernels.interval_image import interval_image

SLOPES = ((0.0, 1.0), (0.1, 1.0), (1.0, 0.0), (0.5, 3.0))
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def boxes(n: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    midpoint = torch.randn(n, generator=generator, dtype=dtype)
    radius = torch.rand(n, generator=generator, dtype=dtype)
    radius[::7] = 0
    radius[1::7] = midpoint[1::7].abs()  # ends at the kink
    return midpoint, radius


@settings(max_examples=200)
@given(
    st.floats(width=32, allow_nan=False, allow_subnormal=False),
    st.floats(0, width=32, allow_nan=False, allow_subnormal=False),
    st.sampled_from(SLOPES),
    st.sampled_from(DTYPES),
)
def test_contract(midpoint: float, radius: float, slopes: tuple[float, float], dtype: torch.dtype) -> None:
    left, right = slopes
    m, r = torch.tensor([midpoint], dtype=dtype), torch.tensor([radius], dtype=dtype)
    low, high = m - r, m + r
    low, high = low.masked_fill(low == math.inf, math.nan), high.masked_fill(high == -math.inf, math.nan)

    def h(z: Tensor) -> Tensor:
        if left == 0.0:
            return z.clamp(min=0) * right if right != 1.0 else z.clamp(min=0)
        return torch.where(z < 0, left * z, right * z)

    image = interval_image(m, r, left, right, bounds=True)
    assert image.lower is not None
    assert image.upper is not None
    half = (h(high) - h(low)) / 2
    for computed, wanted in ((image.lower, low), (image.upper, high), (image.radius, half)):
        assert torch.equal(computed.nan_to_num(7.0), wanted.nan_to_num(7.0))
    assert torch.equal((h(low) + half).nan_to_num(7.0), image.midpoint.nan_to_num(7.0))


@pytest.mark.parametrize("isa", _C.config()["isas"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 37, 40_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_native_is_the_reference(
    threads: int, n: int, dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "isa", lambda: isa)
    torch.set_num_threads(threads)
    midpoint, radius = boxes(n, dtype)
    for left, right in SLOPES:
        for bounds in (False, True):
            found = torch.ops.verifix.interval_image(midpoint, radius, left, right, bounds)
            wanted = interval_image_reference.interval_image(midpoint, radius, left, right, bounds)
            assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))
        pieces, gradients = found[2], [torch.randn(n, dtype=dtype) for _ in range(4)]
        for given_ in ((gradients[:2], []), ([], gradients[2:]), (gradients[:2], gradients[2:])):
            computed = torch.ops.verifix.interval_image_gradient(pieces, *given_, left, right)
            expected = interval_image_reference.interval_image_gradient(pieces, *given_, left, right)
            assert all(torch.equal(x, y) for x, y in zip(computed, expected, strict=True))


@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("slopes", SLOPES)
def test_first_and_second_gradient(slopes: tuple[float, float], bounds: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    midpoint = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    radius = torch.rand(3, 5, generator=generator, dtype=torch.float64).requires_grad_()

    def function(m: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        image = interval_image(m, r, *slopes, bounds=bounds)
        return tuple(side for side in image if side is not None)

    assert torch.autograd.gradcheck(function, (midpoint, radius))
    squares = lambda m, r: tuple(side.square() for side in function(m, r))  # noqa: E731
    assert torch.autograd.gradgradcheck(squares, (midpoint, radius))


@pytest.mark.parametrize("used", ["midpoint", "radius", "lower", "upper"])
def test_gradient_of_one_side(used: str) -> None:
    midpoint, radius = (side.requires_grad_() for side in boxes(20, torch.float64, seed=1))
    side = getattr(interval_image(midpoint, radius, bounds=True), used)
    (found, of_radius) = torch.autograd.grad(side.sum(), (midpoint, radius))
    lower, upper = midpoint - radius, midpoint + radius
    low, high = lower.clamp(min=0), upper.clamp(min=0)
    wanted = {"midpoint": (low + high) / 2, "radius": (high - low) / 2, "lower": lower, "upper": upper}[used]
    for computed, expected in zip(
        (found, of_radius), torch.autograd.grad(wanted.sum(), (midpoint, radius)), strict=True
    ):
        torch.testing.assert_close(computed, expected)


def test_strides_make_no_difference() -> None:
    midpoint, radius = (side.reshape(4, 5, 2) for side in boxes(40, torch.float64))
    wanted = interval_image(midpoint, radius, bounds=True)
    moved = interval_image(midpoint.permute(2, 0, 1), radius.permute(2, 0, 1), bounds=True)
    for side, other in zip(wanted, moved, strict=True):
        assert side is not None
        assert other is not None
        assert torch.equal(side, other.permute(1, 2, 0))
    expanded = interval_image(midpoint, radius[:1].expand(4, -1, -1))
    assert torch.equal(expanded.midpoint, interval_image(midpoint, radius[:1].repeat(4, 1, 1)).midpoint)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bounds", [False, True])
def test_opcheck(bounds: bool, dtype: torch.dtype) -> None:
    midpoint, radius = (side.reshape(4, 5) for side in boxes(20, dtype))
    both = (midpoint.T.requires_grad_(), radius.T.requires_grad_())
    for pair in ((midpoint, radius), both, (midpoint[:0], radius[:0])):
        torch.library.opcheck(torch.ops.verifix.interval_image.default, (*pair, 0.0, 1.0, bounds))
    pieces = torch.ops.verifix.interval_image(midpoint, radius, 0.0, 1.0, False)[2]
    arrived: tuple[list[Tensor], ...] = ([], [midpoint, radius]) if bounds else ([midpoint, radius], [])
    torch.library.opcheck(torch.ops.verifix.interval_image_gradient.default, (pieces, *arrived, 0.0, 1.0))


def test_compiles_into_one_graph() -> None:
    def loss(m: Tensor, r: Tensor) -> Tensor:
        image = interval_image(2 * m, r)
        return (image.midpoint * image.radius).sum()

    pair = [side.requires_grad_() for side in boxes(30, torch.float64)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*pair), loss(*pair))
    for got, wanted in zip(
        torch.autograd.grad(compiled(*pair), pair), torch.autograd.grad(loss(*pair), pair), strict=True
    ):
        assert torch.equal(got, wanted)


POINT = torch.zeros(2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], POINT), InvalidType, "midpoint is a list: pass a torch.Tensor"),
        ((POINT, 1.0), InvalidType, "radius is a float: pass a torch.Tensor"),
        ((POINT.long(), POINT.long()), InvalidValue, r"midpoint.dtype = torch.int64: must be a floating"),
        ((POINT, POINT[:1]), InvalidValue, r"radius = torch.float32 \(1,\) on cpu: must be as midpoint"),
        ((POINT, POINT.double()), InvalidValue, r"radius = torch.float64 \(2,\) on cpu: must be as midpoint"),
        ((POINT, POINT, -0.1), InvalidValue, r"left = -0.1: must be finite and at least 0"),
        ((POINT, POINT, 0.0, math.inf), InvalidValue, r"right = inf: must be finite"),
        ((POINT, POINT, math.nan), InvalidValue, r"left = nan: must be finite"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        interval_image(*arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": []}, "gradients = 0 of the image, 0 of its ends: must be both of the image"),
        ({"image": [POINT]}, "gradients = 1 of the image, 0 of its ends: must be both of the image"),
        ({"ends": [POINT]}, "gradients = 2 of the image, 1 of its ends: must be both of the image"),
        ({"ends": [POINT, POINT.double()]}, r"gradients = torch.float64 \(2,\) on cpu: must be alike"),
        ({"image": [POINT[:1], POINT]}, r"gradients = torch.float32 \(1,\) on cpu: must be alike"),
        ({"pieces": POINT}, "dtype = torch.float32, torch.float32: must be torch.uint8 and floating point"),
        ({"image": [POINT.long()] * 2}, "dtype = torch.uint8, torch.int64: must be torch.uint8 and floating point"),
        ({"right": math.inf}, "right = inf: must be finite"),
    ],
)
def test_wrong_gradients(change: dict[str, Any], message: str) -> None:
    pieces = POINT.to(torch.uint8)
    good = {"pieces": pieces, "image": [POINT, POINT], "ends": [], "left": 0.0, "right": 1.0}
    with pytest.raises(InvalidValue, match=message):
        torch.ops.verifix.interval_image_gradient(**(good | change))


def test_types_without_a_kernel_take_plain_torch() -> None:
    midpoint, radius = torch.tensor([0.0, 3.0]).half().requires_grad_(), torch.tensor([2.0, 1.0]).half()
    image = interval_image(midpoint, radius, bounds=True)
    assert [side.tolist() for side in image if side is not None] == [[1.0, 3.0], [1.0, 1.0], [-2.0, 2.0], [2.0, 4.0]]
    assert torch.autograd.grad(image.midpoint.sum(), midpoint)[0].tolist() == [0.5, 1.0]


@pytest.mark.skipif(SANITIZED, reason="takes the library away")
def test_without_the_compiled_part_the_reference_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [side.requires_grad_() for side in boxes(100, torch.float32)]
    wanted = interval_image(*pair)
    gradients = torch.autograd.grad((wanted.midpoint * wanted.radius).sum(), pair)
    monkeypatch.setattr(native, "module_or_none", lambda _: None)
    found = interval_image(*pair)
    assert torch.equal(found.midpoint, wanted.midpoint)
    for x, y in zip(torch.autograd.grad((found.midpoint * found.radius).sum(), pair), gradients, strict=True):
        assert torch.equal(x, y)
