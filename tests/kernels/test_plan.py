"""Plans built from torch tensors: activations stored channel last, in whatever order they came."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from verifix.kernels.plan import Plan, Stored, plane, standard_order
from verifix.tensors import Entries

SHAPES: list[tuple[int, ...]] = [(), (1,), (5,), (3, 4), (2, 3, 4), (17, 2, 1), (1, 1, 1), (2, 3, 1, 2)]


def value(
    plan: Plan, at: Stored, x: Tensor, rows: Tensor | None = None, sign: float = 1.0, steps: int | None = None
) -> Tensor:
    """What a plan without lines computes: bounds over a single point. ``at`` is the last of the steps, unless said."""
    center = plan.input.pack(x.flatten(1))
    low, high = plan.run(
        at, rows=rows, sign=sign, lines=[None] * 4 * (at.node if steps is None else steps), both=True, hull=0,
        center=center, radius=torch.zeros_like(center),
    )  # fmt: skip
    assert high is not None
    assert torch.equal(low, high)
    if rows is not None:
        return low
    entries = torch.empty_like(low)
    entries[:, at.order] = low
    return entries


def whole(*shape: int) -> Tensor:
    """Small whole numbers: every sum is exact in any order."""
    return torch.randint(-3, 4, shape).double()


@pytest.mark.parametrize("shape", SHAPES)
def test_order_is_channel_last(shape: tuple[int, ...]) -> None:
    c, h, w = plane(shape)
    entries = torch.arange(math.prod(shape)).reshape(c, h, w)
    assert torch.equal(entries.flatten()[standard_order(shape)].reshape(h, w, c), entries.permute(1, 2, 0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sign", (1.0, -1.0))
def test_input(shape: tuple[int, ...], sign: float) -> None:
    plan = Plan(shape, torch.float64)
    x = whole(3, math.prod(shape))
    assert torch.equal(value(plan, plan.input, x, sign=sign), sign * x)


@settings(max_examples=60)
@given(
    st.sampled_from([1, 2]), st.tuples(st.integers(1, 6), st.integers(1, 6)), st.integers(1, 3), st.integers(1, 3),
    st.integers(1, 2), st.integers(1, 20), st.booleans(),
)  # fmt: skip
def test_convolution(
    groups: int, size: tuple[int, int], kernel: int, stride: int, dilation: int, channels: int, bias: bool
) -> None:
    padding = (dilation * (kernel - 1), dilation * kernel)
    module = nn.Conv2d(4, groups * channels, kernel, stride, padding, dilation, groups, bias).double()
    shape = (4, *size)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(whole(*parameter.shape))
        x = whole(2, *shape)
        wanted = module(x)
        plan = Plan(shape, torch.float64)
        geometry = [kernel, kernel, stride, stride, *padding, dilation, dilation, groups]
        found = plan.convolution(plan.input, tuple(wanted.shape[1:]), module.weight, module.bias, geometry)
        assert torch.equal(value(plan, found, x), wanted.flatten(1))


def test_steps_on_an_activation_that_is_not_standard() -> None:
    """A flattened image is still stored channel last; dense layers, scalings and movements know."""
    shape = (3, 2, 4)
    x, weight, bias, scale, shift = whole(2, *shape), whole(5, 24), whole(5), whole(24), whole(24)
    plan = Plan(shape, torch.float64)
    flat = x.flatten(1)
    assert torch.equal(value(plan, plan.dense(plan.input, weight, bias), x), flat @ weight.T + bias)
    assert torch.equal(value(plan, plan.dense(plan.input, weight, None), x), flat @ weight.T)
    assert torch.equal(value(plan, plan.scaling(plan.input, scale, shift), x), flat * scale + shift)
    assert torch.equal(value(plan, plan.scaling(plan.input, None, shift), x), flat + shift)
    assert torch.equal(value(plan, plan.scaling(plan.input, scale, None), x), flat * scale)
    doubled = plan.sum(plan.input, plan.input, 0.5)
    assert torch.equal(value(plan, doubled, x), 1.5 * flat)
    index = torch.randint(-1, 24, (2, 5))
    wanted = torch.where(index >= 0, flat[:, index.clamp(min=0)], 7.0)
    used = (index >= 0).flatten()
    places = Entries(used.nonzero().flatten(), index.flatten()[used], torch.ones(10)[used])
    moved = plan.sparse(plan.input, (2, 5), places, torch.where(used, 0.0, 7.0))
    assert torch.equal(value(plan, moved, x), wanted.flatten(1))
    transposed = Entries(torch.arange(10), torch.arange(10).reshape(2, 5).T.flatten(), torch.ones(10))
    again = plan.sparse(moved, (5, 2), transposed, None)
    assert torch.equal(value(plan, again, x), wanted.transpose(1, 2).flatten(1))
    stacked = plan.concatenation([again, again], (10, 2))
    assert torch.equal(value(plan, stacked, x), torch.cat([wanted.transpose(1, 2)] * 2, 1).flatten(1))


@settings(max_examples=60)
@given(st.sampled_from(SHAPES), st.sampled_from(SHAPES), st.integers(0, 40), st.booleans())
def test_sparse(shape: tuple[int, ...], output: tuple[int, ...], count: int, constant: bool) -> None:
    """Entries in any order, some of them in one place."""
    inputs, outputs = math.prod(shape), math.prod(output)
    x, shift = whole(2, inputs), whole(outputs) if constant else None
    entries = Entries(torch.randint(outputs, (count,)), torch.randint(inputs, (count,)), whole(count))
    matrix = torch.zeros(outputs, inputs).double().index_put(entries[:2], entries.weights, accumulate=True)
    plan = Plan(shape, torch.float64)
    found = plan.sparse(plan.input, output, entries, shift)
    assert found.plane == plane(output)
    assert torch.equal(value(plan, found, x), x @ matrix.T + (0 if shift is None else shift))


def test_rearranged() -> None:
    x, plan = whole(2, 24), Plan((3, 2, 4), torch.float64)
    assert plan.rearranged(plan.input, (3, 2, 4), standard_order((3, 2, 4))) is plan.input
    flat = plan.rearranged(plan.input, (24, 1, 1), torch.arange(24))
    last = plan.rearranged(flat, (4, 3, 2), torch.arange(24))
    for place in (flat, last):
        assert torch.equal(value(plan, place, x, steps=2), x)
    swapped = plan.convolution(
        last, (4, 3, 2), torch.eye(4).flip(0)[:, :, None, None], None, [1] * 4 + [0] * 2 + [1] * 3
    )
    wanted = x.reshape(2, 3, 2, 4).flip(3).permute(0, 3, 1, 2)
    assert torch.equal(value(plan, swapped, x), wanted.flatten(1))


def test_tensors_that_are_not_contiguous_or_of_another_dtype() -> None:
    """Transposed, expanded and float32 weights are copied as they read; the plan does not follow them later."""
    x = whole(2, 3)
    weight = whole(3, 5).T
    plan = Plan((3,), torch.float64)
    dense = plan.dense(plan.input, weight, torch.ones(1).expand(5))
    single = plan.dense(plan.input, weight.float(), None)
    shifted = plan.scaling(plan.input, torch.tensor(2.0, dtype=torch.float64).expand(3), None)
    wanted = x @ weight.T
    weight.zero_()
    assert torch.equal(value(plan, dense, x, steps=3), wanted + 1)
    assert torch.equal(value(plan, single, x, steps=3), wanted)
    assert torch.equal(value(plan, shifted, x, steps=3), 2 * x)


@pytest.mark.parametrize("lead", (1, 3))
def test_rows_are_shared_or_each_inputs_own(lead: int) -> None:
    shape = (2, 1, 3)
    plan = Plan(shape, torch.float64)
    x, rows = whole(3, *shape), whole(lead, 11, 6)
    wanted = (rows * x.flatten(1)[:, None]).sum(2)
    assert torch.equal(value(plan, plan.input, x, plan.input.pack(rows, lead=2)), wanted)


def test_lines_in_the_stored_order() -> None:
    shape = (2, 2, 3)
    plan = Plan(shape, torch.float64)
    bent = plan.lines(plan.input)
    x, slope, offset, radius = whole(2, 12), whole(2, 12), whole(2, 12), whole(2, 12).abs()
    low, high = plan.run(
        bent, rows=None, sign=1.0, lines=[bent.pack(slope), None, bent.pack(slope), bent.pack(offset.abs())], both=True,
        hull=0, center=plan.input.pack(x), radius=plan.input.pack(radius),
    )  # fmt: skip
    assert torch.equal(low, bent.pack(slope * x - slope.abs() * radius))
    assert high is not None
    assert torch.equal(high, bent.pack(slope * x + slope.abs() * radius + offset.abs()))


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("center", torch.zeros(2, 4), r"center = torch.float32 of shape \(2, 4\)"),
        ("center", torch.zeros(2, 3).double(), r"center = torch.float64 of shape \(2, 3\) .*\(2, 4\)"),
        ("center", torch.zeros(4, 2).double().T, "center = .*contiguous"),
        ("radius", torch.zeros(1, 4).double(), r"radius = torch.float64 of shape \(1, 4\) .*\(2, 4\)"),
        ("radius", torch.zeros(1, 4).double().expand(2, 4), "radius = .*contiguous"),
        ("rows", torch.zeros(1, 5, 4), "rows = torch.float32"),
        ("rows", torch.zeros(1, 5, 3).double(), r"rows = .* \(1, 5, 4\)"),
        ("rows", torch.zeros(3, 5, 4).double(), r"rows = .* \(2, 5, 4\)"),
        ("lines", [torch.zeros(2, 4)] * 4, "lines = torch.float32"),
        ("lines", [torch.zeros(1, 4).double()] * 4, r"lines = .* \(2, 4\)"),
        ("lines", [torch.zeros(2, 5).double()] * 4, r"lines = .* \(2, 4\)"),
        ("threads", 0, "threads = 0: must be >= 1"),
        ("isa", "", "isa = : must be base, avx2 or avx512"),
    ],
)
def test_refused_arguments(name: str, wrong: object, said: str) -> None:
    plan = Plan((4,), torch.float64)
    bent = plan.lines(plan.input)
    zeros = torch.zeros(2, 4).double()
    good = {
        "rows": None, "sign": 1.0, "lines": [zeros] * 4, "both": True, "hull": 0, "center": zeros, "radius": zeros,
    }  # fmt: skip
    plan.run(bent, **good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        plan.run(bent, **(good | {name: wrong}))  # type: ignore[arg-type]
