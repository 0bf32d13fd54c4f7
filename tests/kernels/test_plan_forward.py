"""Forward passes of plans built from torch tensors: every step is the operation that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.kernels.test_plan import whole
from verifix.kernels.plan import Plan, Stored
from verifix.operations import (
    Affine,
    Concatenation,
    Convolution,
    Dense,
    Movement,
    Pooling,
    Reduction,
    Scaling,
    Sum,
    fixed,
    window_matrix,
)

SHAPE = (3, 4, 5)


def assert_the_same(plan: Plan, node: Stored, operation: Affine) -> None:
    """Interval and magnitude of whole numbers, where every sum is exact, brought into and out of the stored order."""
    assert plan.forwards(node)
    sides = [whole(3, *shape) for shape in operation.inputs]
    bounds = [(lower, lower + whole(*lower.shape).abs()) for lower in sides]
    magnitudes = [lower.abs() for lower in sides]
    wanted = operation.interval(*zip(*bounds, strict=True))
    size = operation.absolute(*magnitudes)
    offset = operation.offset_size(size)
    size = 0.5 + size + (0 if offset is None else offset)

    def pack(x: Tensor, source: Stored) -> Tensor:
        return source.pack(x.flatten(1))

    packed = [(pack(lower, at), pack(upper, at)) for (lower, upper), at in zip(bounds, node.sources, strict=True)]
    sizes = [pack(x, at) for x, at in zip(magnitudes, node.sources, strict=True)]
    expected = [pack(x.expand(3, *operation.shape), node) for x in (*wanted, size)]
    found = plan.forward(node, intervals=packed, magnitudes=sizes, quantum=0.5)
    apart = (*plan.forward(node, intervals=packed), *plan.forward(node, magnitudes=sizes, quantum=0.5))
    for ours in (found, apart):
        assert all(torch.equal(x, y) for x, y in zip(ours, expected, strict=True))


def test_every_step_is_its_operation() -> None:
    """On an image that is stored channel last."""
    plan = Plan(SHAPE, torch.float64)
    image = plan.input
    module = nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    weight, bias = whole(*module.weight.shape), whole(5)
    convolution = Convolution(SHAPE, fixed(weight), fixed(bias), (2, 1), (1, 2), (1, 2), 1)
    geometry = [3, 2, 2, 1, 1, 2, 1, 2, 1]
    assert_the_same(plan, plan.convolution(image, convolution.shape, weight, bias, geometry), convolution)

    weight, bias = whole(7, 60), whole(7)
    dense = Dense((60,), fixed(weight), fixed(bias))
    flat = Stored(image.node, image.plane, image.order)
    assert_the_same(plan, plan.dense(flat, weight, bias), dense)

    scale, shift, size = whole(60), whole(60), whole(60).abs()
    for sides in ((scale, shift, None), (scale, None, None), (None, shift, None), (scale, shift, size)):
        values = [None if side is None else fixed(side.reshape(SHAPE)) for side in sides]
        assert_the_same(plan, plan.scaling(image, *sides), Scaling(SHAPE, *values))

    assert_the_same(plan, plan.sum(image, image, -2.0), Sum([SHAPE, SHAPE], -2.0))
    assert_the_same(plan, plan.concatenation([image, image], (6, 4, 5)), Concatenation([SHAPE, SHAPE], 0))
    index = torch.randint(-1, 60, (2, 9))
    fixed_matrices: list[Affine] = [
        Movement(SHAPE, index, -7.0), Movement(SHAPE, index.T), Reduction(SHAPE, (0, 2), False, -0.25),
        Pooling(SHAPE, [window_matrix(4, 2, 2, 1, False, True, True), window_matrix(5, 2, 1, 1, False, True, False)]),
    ]  # fmt: skip
    for operation in fixed_matrices:
        matrix, constant = operation.entries(), operation.offset(torch.zeros(1, dtype=torch.float64))
        assert matrix is not None
        flat = None if constant is None else constant.expand(operation.shape).flatten()
        assert_the_same(plan, plan.sparse(image, operation.shape, matrix, flat), operation)


def test_nothing_to_forward() -> None:
    plan = Plan((4,), torch.float32)
    bent = plan.lines(plan.input)
    assert not plan.forwards(plan.input)
    assert not plan.forwards(bent)
    assert not plan.forwards(plan.planes(plan.input, (1,), torch.zeros(2, dtype=torch.int64), torch.arange(2))[0])
    with pytest.raises(ValueError, match="node 1 has no forward step"):
        plan.forward(bent, magnitudes=[torch.zeros(1, 4)])


def test_no_inputs() -> None:
    plan = Plan((4,), torch.float32)
    node = plan.dense(plan.input, torch.ones(3, 4), None)
    nothing = torch.zeros(0, 4)
    lower, upper, magnitude = plan.forward(node, intervals=[(nothing, nothing)], magnitudes=[nothing])
    assert lower.shape == upper.shape == magnitude.shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("intervals", [(torch.zeros(2, 4), torch.zeros(2, 4).double())], "intervals = torch.float32 of shape"),
        ("intervals", [(torch.zeros(2, 4).double(), torch.zeros(1, 4).double())], r"\(1, 4\) .*\(2, 4\)"),
        ("intervals", [(torch.zeros(2, 4).double(), torch.zeros(4, 2).double().T)], "intervals = .*contiguous"),
        ("magnitudes", [torch.zeros(2, 5).double()], r"magnitudes = .* \(2, 5\) .*\(2, 4\)"),
        ("magnitudes", [torch.zeros(3, 4).double()], r"magnitudes = .* \(3, 4\) .*\(2, 4\)"),
        ("magnitudes", [torch.zeros(2, 4).double()] * 2, "magnitudes = 2 of them: one for each source of the step: 1"),
        ("threads", 0, "threads = 0: must be >= 1"),
        ("isa", "", "isa = : must be base, avx2 or avx512"),
    ],
)
def test_refused_arguments(name: str, wrong: object, said: str) -> None:
    plan = Plan((4,), torch.float64)
    node = plan.dense(plan.input, torch.ones(3, 4), None)
    zeros = torch.zeros(2, 4).double()
    good = {"intervals": [(zeros, zeros)], "magnitudes": [zeros]}
    plan.forward(node, **good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        plan.forward(node, **(good | {name: wrong}))  # type: ignore[arg-type]
