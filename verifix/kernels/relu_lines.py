"""The lines of ReLU on intervals, with their gradient: one sweep each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import native
from verifix.kernels import relu_lines_reference as reference


def relu_lines(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The chord of ReLU on ``[lower, upper]`` by slope and offset, and the slope of a line below it: 1 where that has
    the smaller area between itself and the chord, else 0. All of the shape of the bounds.

    NaN where a bound is not known or the width overflows. Differentiable twice but for the line below, whose slope is
    piecewise constant; at a bound of zero the gradient is that of undecided units. The CPU kernel gives the same bits
    as plain torch, which takes its place on other devices and where it is missing, for every number of threads and
    every instruction set.

    Args:
        lower, upper: of one shape and floating-point type, on one device; kernels are of float32 and float64.

    Raises:
        InvalidType: an argument is not a tensor.
        InvalidValue: an argument is not of the shape, type or device above.

    >>> relu_lines(torch.tensor([-1.0, -3.0, 1.0]), torch.tensor([3.0, 1.0, 2.0]))
    (tensor([0.7500, 0.2500, 1.0000]), tensor([0.7500, 0.7500, -0.0000]), tensor([1., 0., 1.]))
    """
    for name, tensor in (("lower", lower), ("upper", upper)):
        if not isinstance(tensor, Tensor):
            raise InvalidType(name, tensor, "a torch.Tensor")
    slope, offset, steep = torch.ops.verifix.relu_lines(lower, upper)
    return slope, offset, steep


def _check(lower: Tensor, **others: Tensor) -> None:
    if not lower.is_floating_point():
        raise InvalidValue("lower.dtype", lower.dtype, "must be a floating-point type")
    for name, other in others.items():
        if other.shape != lower.shape or other.dtype != lower.dtype or other.device != lower.device:
            found = f"{other.dtype} of shape {tuple(other.shape)} on {other.device}"
            raise InvalidValue(name, found, f"must be {lower.dtype}, {tuple(lower.shape)}, on {lower.device}")


def _library(lower: Tensor) -> Any:
    """The compiled part, where it has the type."""
    return native.module_or_none("verifix._C") if lower.dtype in (torch.float32, torch.float64) else None


def _run(function: Any, given: tuple[Tensor, ...], results: tuple[Tensor, ...]) -> None:
    given = tuple(x.contiguous() for x in given)
    function(
        count=given[0].numel(),
        arrays=[x.data_ptr() for x in (*given, *results)],
        dtype="float32" if given[0].dtype == torch.float32 else "float64",
        threads=torch.get_num_threads(),
        isa=native.isa(),
    )


def _fake(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _check(lower, upper=upper)
    a, b, c = (torch.empty_like(lower, memory_format=torch.contiguous_format) for _ in range(3))
    return a, b, c


def _reference(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _check(lower, upper=upper)
    return reference.relu_lines(lower.contiguous(), upper.contiguous())


def _cpu(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    library = _library(lower)
    if library is None:
        return _reference(lower, upper)
    results = _fake(lower, upper)
    _run(library.relu_lines, (lower, upper), results)
    return results


def _gradient_fake(lower: Tensor, upper: Tensor, of_slope: Tensor, of_offset: Tensor) -> tuple[Tensor, Tensor]:
    _check(lower, upper=upper, of_slope=of_slope, of_offset=of_offset)
    a, b = (torch.empty_like(lower, memory_format=torch.contiguous_format) for _ in range(2))
    return a, b


def _gradient_reference(lower: Tensor, upper: Tensor, of_slope: Tensor, of_offset: Tensor) -> tuple[Tensor, Tensor]:
    _check(lower, upper=upper, of_slope=of_slope, of_offset=of_offset)
    a, b, c, d = (x.contiguous() for x in (lower, upper, of_slope, of_offset))
    return reference.gradient(a, b, c, d)


def _gradient_cpu(lower: Tensor, upper: Tensor, of_slope: Tensor, of_offset: Tensor) -> tuple[Tensor, Tensor]:
    library = _library(lower)
    if library is None:
        return _gradient_reference(lower, upper, of_slope, of_offset)
    results = _gradient_fake(lower, upper, of_slope, of_offset)
    _run(library.relu_lines_gradient, (lower, upper, of_slope, of_offset), results)
    return results


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, of_slope: Tensor, of_offset: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    again = torch.is_grad_enabled()  # gradients of gradients are recorded: in plain torch
    function: Any = reference.gradient if again else torch.ops.verifix.relu_lines_gradient
    of_lower, of_upper = function(*ctx.saved_tensors, of_slope, of_offset)
    return of_lower, of_upper


torch.library.define("verifix::relu_lines", "(Tensor lower, Tensor upper) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    "verifix::relu_lines_gradient",
    "(Tensor lower, Tensor upper, Tensor of_slope, Tensor of_offset) -> (Tensor, Tensor)",
)
for _name, _functions in (
    ("verifix::relu_lines", (_fake, _reference, _cpu)),
    ("verifix::relu_lines_gradient", (_gradient_fake, _gradient_reference, _gradient_cpu)),
):
    torch.library.register_fake(_name, _functions[0])
    torch.library.register_kernel(_name, "default", _functions[1])
    torch.library.register_kernel(_name, "cpu", _functions[2])
torch.library.register_autograd("verifix::relu_lines", _backward, setup_context=_save)
