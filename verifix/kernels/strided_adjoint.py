"""The adjoint of a convolution with strides: what takes rows back through such a layer.

Compiled where the convolution has few input channels: such are the first layers that rows end in. Matrix products of a
few columns are slow in general libraries; there all taps of a place are one vector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import native
from verifix.kernels import strided_adjoint_reference as reference
from verifix.kernels.strided_adjoint_reference import Pair

BLOCK = 64
"""Bytes of a block of channels, and the largest number of taps of all inputs."""


def strided_adjoint(rows: Tensor, weight: Tensor, stride: Pair, padding: Pair, rest: Pair) -> Tensor:
    """``F.conv_transpose2d(rows, weight, None, stride, padding, rest)``, to rounding; channels lie last in memory.

    Differentiable twice. The CPU kernel is for weights of at most 64 taps in all and blocks of 16 channels in float32,
    of 8 in float64, and gives the same bits for every number of threads and every instruction set; plain torch takes
    its place for others, on other devices and where it is missing, and gives the same numbers to rounding.

    Args:
        rows: ``(n, channels, height, width)``, of a floating-point type.
        weight: ``(channels, inputs, taps, taps)``, of the type and device of rows.
        stride, padding, rest: by axes; strides at least 1, padding at least 0, and a rest below the stride, what the
            last window leaves uncovered.

    Raises:
        InvalidType: an argument is not a tensor.
        InvalidValue: an argument is not of the shape, type, device or range above, or nothing is left of the result.

    >>> strided_adjoint(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), (2, 1), (0, 0), (1, 0))
    tensor([[[[1., 2., 1.],
              [1., 2., 1.],
              [1., 2., 1.],
              [1., 2., 1.],
              [0., 0., 0.]]]])
    """
    for name, tensor in (("rows", rows), ("weight", weight)):
        if not isinstance(tensor, Tensor):
            raise InvalidType(name, tensor, "a torch.Tensor")
    result: Tensor = torch.ops.verifix.strided_adjoint(rows, weight, stride, padding, rest)
    return result


def _check(rows: Tensor, weight: Tensor, stride: Pair, padding: Pair, rest: Pair) -> tuple[int, ...]:
    """The shape of the result."""
    if rows.dim() != 4 or not rows.is_floating_point():
        found = f"{rows.dtype} of shape {tuple(rows.shape)}"
        raise InvalidValue("rows", found, "must be (n, channels, height, width), of a floating-point type")
    if weight.dim() != 4 or weight.shape[0] != rows.shape[1]:
        wanted = f"must be ({rows.shape[1]}, inputs, taps, taps), with the channels of rows first"
        raise InvalidValue("weight.shape", tuple(weight.shape), wanted)
    if weight.dtype != rows.dtype or weight.device != rows.device:
        raise InvalidValue("weight", f"{weight.dtype} on {weight.device}", f"must be {rows.dtype} on {rows.device}")
    for name, pair, low in (("stride", stride, 1), ("padding", padding, 0), ("rest", rest, 0)):
        if len(pair) != 2 or min(pair) < low:
            raise InvalidValue(name, tuple(pair), f"must be two numbers of at least {low}")
    if rest[0] >= stride[0] or rest[1] >= stride[1]:
        raise InvalidValue("rest", tuple(rest), f"must be below the stride, {tuple(stride)}")
    size = reference.result_size(rows, weight, stride, padding, rest)
    if min(size) < 1:
        raise InvalidValue("padding", tuple(padding), f"leaves a result of height and width {size}")
    return rows.shape[0], weight.shape[1], *size


def _check_gradient(rows: Tensor, weight: Tensor, of_result: Tensor, *geometry: Pair) -> None:
    shape = _check(rows, weight, *geometry)
    if of_result.shape != shape or of_result.dtype != rows.dtype or of_result.device != rows.device:
        found = f"{of_result.dtype} of shape {tuple(of_result.shape)} on {of_result.device}"
        raise InvalidValue("of_result", found, f"must be {rows.dtype}, {shape}, on {rows.device}")


def _library(rows: Tensor, weight: Tensor) -> Any:
    """The compiled part, where it has code for these."""
    if rows.numel() == 0 or rows.dtype not in (torch.float32, torch.float64):
        return None
    if not 0 < weight[0].numel() <= BLOCK or len(weight) * rows.element_size() % BLOCK:
        return None
    return native.module_or_none("verifix._C")


def _common(rows: Tensor, weight: Tensor, result: Tensor, stride: Pair, padding: Pair) -> dict[str, Any]:
    return {
        "shape": (*rows.shape, *result.shape[1:], *weight.shape[2:], *stride, *padding),
        "dtype": "float32" if rows.dtype == torch.float32 else "float64",
        "threads": torch.get_num_threads(),
        "isa": native.isa(),
    }


def _gradients(of_rows: Tensor | None, of_weight: Tensor | None, like: Tensor) -> list[Tensor]:
    """Of the rows with channels last in memory, of the weight with taps last; empty where not wanted."""
    return [
        like.new_empty(0) if of_rows is None else of_rows.contiguous(memory_format=torch.channels_last),
        like.new_empty(0) if of_weight is None else of_weight.contiguous(),
    ]


def _fake(rows: Tensor, weight: Tensor, stride: Pair, padding: Pair, rest: Pair) -> Tensor:
    n, inputs, *size = _check(rows, weight, stride, padding, rest)
    return rows.new_empty(n, *size, inputs).permute(0, 3, 1, 2)


def _reference(rows: Tensor, weight: Tensor, stride: Pair, padding: Pair, rest: Pair) -> Tensor:
    _check(rows, weight, stride, padding, rest)
    return reference.strided_adjoint(rows, weight, stride, padding, rest)


def _cpu(rows: Tensor, weight: Tensor, stride: Pair, padding: Pair, rest: Pair) -> Tensor:
    n, inputs, *size = _check(rows, weight, stride, padding, rest)
    library = _library(rows, weight)
    if library is None:
        return reference.strided_adjoint(rows, weight, stride, padding, rest)
    last, taps = rows.permute(0, 2, 3, 1).contiguous(), weight[0].numel()
    by_channels = F.pad(
        weight.permute(0, 2, 3, 1).reshape(len(weight), taps), (0, -taps % (BLOCK // rows.element_size()))
    ).contiguous()
    result = rows.new_empty(n, *size, inputs)
    library.narrow_adjoint(
        rows=last.data_ptr(),
        weight=by_channels.data_ptr(),
        result=result.data_ptr(),
        **_common(last, weight, result, stride, padding),
    )
    return result.permute(0, 3, 1, 2)


def _gradient_fake(rows: Tensor, weight: Tensor, of_result: Tensor, *arguments: Any) -> list[Tensor]:
    *geometry, wanted = arguments
    _check_gradient(rows, weight, of_result, *geometry)
    return _gradients(
        torch.empty_like(rows) if wanted[0] else None, torch.empty_like(weight) if wanted[1] else None, rows
    )


def _gradient_reference(rows: Tensor, weight: Tensor, of_result: Tensor, *arguments: Any) -> list[Tensor]:
    stride, padding, rest, wanted = arguments
    _check_gradient(rows, weight, of_result, stride, padding, rest)
    return _gradients(*reference.gradient(rows, weight, of_result, stride, padding, wanted), rows)


def _gradient_cpu(rows: Tensor, weight: Tensor, of_result: Tensor, *arguments: Any) -> list[Tensor]:
    stride, padding, rest, wanted = arguments
    _check_gradient(rows, weight, of_result, stride, padding, rest)
    library = _library(rows, weight)
    if library is None:
        return _gradients(*reference.gradient(rows, weight, of_result, stride, padding, wanted), rows)
    last, result = rows.permute(0, 2, 3, 1).contiguous(), of_result.permute(0, 2, 3, 1).contiguous()
    by_taps = weight.permute(2, 3, 1, 0).contiguous()
    of_rows = torch.empty_like(last) if wanted[0] else None
    # by images, so that no two threads add to one number
    of_weight = rows.new_empty(len(rows), *by_taps.shape) if wanted[1] else None
    library.narrow_adjoint_gradient(
        rows=last.data_ptr(),
        weight=by_taps.data_ptr(),
        of_result=result.data_ptr(),
        of_rows=0 if of_rows is None else of_rows.data_ptr(),
        of_weight=0 if of_weight is None else of_weight.data_ptr(),
        **_common(last, weight, result, stride, padding),
    )
    return _gradients(
        None if of_rows is None else of_rows.permute(0, 3, 1, 2),
        None if of_weight is None else of_weight.sum(0).permute(3, 2, 0, 1),
        rows,
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, weight, *ctx.geometry = inputs
    ctx.save_for_backward(rows, weight)


def _backward(ctx: Any, of_result: Tensor) -> tuple[Tensor | None, ...]:
    rows, weight = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:2])
    if torch.is_grad_enabled():  # to be differentiated again
        stride, padding, _ = ctx.geometry
        found: Any = reference.gradient(rows, weight, of_result, stride, padding, wanted)
    else:
        found = torch.ops.verifix.strided_adjoint_gradient(rows, weight, of_result, *ctx.geometry, wanted)
    return *(x if want else None for x, want in zip(found, wanted, strict=True)), None, None, None


_GEOMETRY = "int[] stride, int[] padding, int[] rest"
torch.library.define("verifix::strided_adjoint", f"(Tensor rows, Tensor weight, {_GEOMETRY}) -> Tensor")
torch.library.define(
    "verifix::strided_adjoint_gradient",
    f"(Tensor rows, Tensor weight, Tensor of_result, {_GEOMETRY}, bool[] wanted) -> Tensor[]",
)
for _name, _functions in (
    ("verifix::strided_adjoint", (_fake, _reference, _cpu)),
    ("verifix::strided_adjoint_gradient", (_gradient_fake, _gradient_reference, _gradient_cpu)),
):
    torch.library.register_fake(_name, _functions[0])
    torch.library.register_kernel(_name, "default", _functions[1])
    torch.library.register_kernel(_name, "cpu", _functions[2])
torch.library.register_autograd("verifix::strided_adjoint", _backward, setup_context=_save)
