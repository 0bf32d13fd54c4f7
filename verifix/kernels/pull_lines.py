"""Coefficient rows pulled back through lines, elementwise: what every nonlinear step of a backward pass does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import pull_lines_native
from verifix.kernels import pull_lines_reference as reference
from verifix.kernels.pull_lines_native import Native
from verifix.kernels.pull_lines_reference import Sides


def pull_lines(
    rows: Tensor,  # (n, r, m)
    slope_p: Tensor | None,  # (n, m)
    offset_p: Tensor | None,  # (n, m)
    slope_n: Tensor | None,  # (n, m)
    offset_n: Tensor | None,  # (n, m)
    shift: Tensor | None = None,  # (m,)
) -> tuple[Tensor | None, Tensor]:
    """``slope_p max(rows, 0) + slope_n min(rows, 0)``, ``(n, r, m)``, and the sums over m of ``offset_p max(rows, 0) +
    offset_n min(rows, 0)`` and of ``shift`` times the former, ``(n, r)``.

    With lines ``slope_p z + offset_p <= h(z) <= slope_n z + offset_n`` these are rows and constants of a linear
    function of ``z - shift`` below ``rows . h(z)`` (CROWN; Wong and Kolter's dual network where the slopes are equal).
    Differentiable in all arguments, twice; an entry of zero counts as positive then. The CPU kernel gives the same bits
    for every number of threads and every instruction set, the CUDA kernel for every launch, the same ones but for the
    order of sums over m, and of gradients of the shift over images. Plain torch takes their place on other devices and
    where they are missing, and gives the same numbers to rounding.

    Args:
        rows: ``(n, r, m)``, of a floating-point type; kernels are of float32 and float64.
        slope_p, offset_p, slope_n, offset_n: ``(n, m)``, of the type of rows; None for zero.
        shift: ``(m,)``, likewise; the bias of the layer before. Counts where there are slopes.

    Returns:
        pulled: None where both slopes are.
        offset: zeros where nothing adds to it.

    Raises:
        InvalidType: an argument is not a tensor.
        InvalidValue: an argument is not of the shape, type or device above.

    >>> rows, lower, half = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[0.0, 1.0]]), torch.full((1, 2), 0.5)
    >>> pull_lines(rows, lower, None, half, torch.ones(1, 2))
    (tensor([[[ 0.0000, -0.5000]]]), tensor([[-1.]]))
    """
    for name, tensor in zip(("rows", *_NAMES), (rows, slope_p, offset_p, slope_n, offset_n, shift), strict=True):
        if not isinstance(tensor, Tensor) and (tensor is not None or name == "rows"):
            raise InvalidType(name, tensor, "a torch.Tensor")
    wants_rows = slope_p is not None or slope_n is not None
    pulled, offset = torch.ops.verifix.pull_lines(rows, slope_p, offset_p, slope_n, offset_n, shift, wants_rows)
    return pulled if wants_rows else None, offset


_NAMES = ("slope_p", "offset_p", "slope_n", "offset_n", "shift")


def _check(rows: Tensor, lines: Sides) -> None:
    if rows.dim() != 3:
        raise InvalidValue("rows.shape", tuple(rows.shape), "must be (n, r, m)")
    if not rows.is_floating_point():
        raise InvalidValue("rows.dtype", rows.dtype, "must be a floating-point type")
    for name, line in zip(_NAMES, lines, strict=True):
        wanted = rows.shape[2:] if name == "shift" else (rows.shape[0], rows.shape[2])
        if line is not None and (tuple(line.shape) != wanted or line.dtype != rows.dtype or line.device != rows.device):
            found = f"{line.dtype} of shape {tuple(line.shape)} on {line.device}"
            raise InvalidValue(name, found, f"must be {rows.dtype}, {tuple(wanted)}, on {rows.device}")


def _fake(rows: Tensor, *lines: Any) -> tuple[Tensor, Tensor]:
    _check(rows, lines[:5])
    pulled = torch.empty_like(rows, memory_format=torch.contiguous_format) if lines[5] else rows.new_empty(0)
    return pulled, rows.new_empty(rows.shape[:2])


def _reference(rows: Tensor, *lines: Any) -> tuple[Tensor, Tensor]:
    _check(rows, lines[:5])
    return reference.pull_lines(rows, lines[:5], lines[5])


def _native(on: Native) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(rows: Tensor, *lines: Any) -> tuple[Tensor, Tensor]:
        if not on.has(rows.dtype):
            return _reference(rows, *lines)
        pulled, offset = _fake(rows, *lines)
        on.pull_lines(rows, lines[:5], pulled if lines[5] else None, offset)
        return pulled, offset

    return run


def _gradient_fake(rows: Tensor, *arguments: Any) -> list[Tensor]:
    lines, wanted = arguments[:5], arguments[7]
    _check(rows, lines)
    of_rows = torch.empty_like(rows, memory_format=torch.contiguous_format) if wanted[0] else rows.new_empty(0)
    flat = rows.shape[::2]
    of_lines = [rows.new_empty(flat if want else 0) for want in wanted[1:5]]
    return [of_rows, *of_lines, rows.new_empty(flat[1] if wanted[5] else 0)]


def _gradient_reference(rows: Tensor, *arguments: Any) -> list[Tensor]:
    lines, wanted = arguments[:5], arguments[7]
    _check(rows, lines)
    found = reference.gradient(rows, lines, arguments[5], arguments[6])
    return [x.contiguous() if want else rows.new_empty(0) for x, want in zip(found, wanted, strict=True)]


def _gradient_native(on: Native) -> Callable[..., list[Tensor]]:
    def run(rows: Tensor, *arguments: Any) -> list[Tensor]:
        if not on.has(rows.dtype):
            return _gradient_reference(rows, *arguments)
        results = _gradient_fake(rows, *arguments)
        lines, of_pulled, of_offset, wanted = arguments[:5], *arguments[5:]
        if wanted[5]:  # by images, so that no two threads add to one number
            results[5] = rows.new_empty(rows.shape[::2])
        filled = [x if want else None for x, want in zip(results, wanted, strict=True)]
        on.gradient(rows, lines, of_pulled, of_offset, filled)
        if wanted[5]:
            results[5] = results[5].sum(0)
        return results

    return run


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.wants_rows = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, of_pulled: Tensor | None, of_offset: Tensor) -> tuple[Tensor | None, ...]:
    rows, *lines = ctx.saved_tensors
    if not ctx.wants_rows:
        of_pulled = None
    wanted = [need and x is not None for need, x in zip(ctx.needs_input_grad, (rows, *lines), strict=False)]
    if torch.is_grad_enabled():  # to be differentiated again
        found: Any = reference.gradient(rows, tuple(lines), of_pulled, of_offset)
    else:
        found = torch.ops.verifix.pull_lines_gradient(rows, *lines, of_pulled, of_offset, wanted)
    return (*(x if want else None for x, want in zip(found, wanted, strict=True)), None)


_LINES = "Tensor rows, Tensor? slope_p, Tensor? offset_p, Tensor? slope_n, Tensor? offset_n, Tensor? shift"
torch.library.define("verifix::pull_lines", f"({_LINES}, bool wants_rows) -> (Tensor, Tensor)")
torch.library.define(
    "verifix::pull_lines_gradient", f"({_LINES}, Tensor? of_pulled, Tensor of_offset, bool[] wanted) -> Tensor[]"
)
for _name, _functions in (
    ("verifix::pull_lines", (_fake, _reference, _native)),
    ("verifix::pull_lines_gradient", (_gradient_fake, _gradient_reference, _gradient_native)),
):
    torch.library.register_fake(_name, _functions[0])
    torch.library.register_kernel(_name, "default", _functions[1])
    torch.library.register_kernel(_name, "cpu", _functions[2](pull_lines_native.cpu))
    torch.library.register_kernel(_name, "cuda", _functions[2](pull_lines_native.cuda))
torch.library.register_autograd("verifix::pull_lines", _backward, setup_context=_save)
