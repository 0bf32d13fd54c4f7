"""Boxes as midpoint and radius, through an increasing function of two linear pieces: the step between two affine ones
of an interval pass, in one sweep."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import interval_image_native, interval_image_reference
from verifix.kernels.interval_image_native import Native


class IntervalImage(NamedTuple):
    """What :func:`interval_image` gives: the image, and the box itself by its ends where these were asked for."""

    midpoint: Tensor
    radius: Tensor
    lower: Tensor | None
    upper: Tensor | None


def interval_image(
    midpoint: Tensor, radius: Tensor, left: float = 0.0, right: float = 1.0, *, bounds: bool = False
) -> IntervalImage:
    """The image of boxes ``[midpoint - radius, midpoint + radius]`` under ``h(z) = left z`` for ``z < 0``, else ``right
    z``: ReLU, leaky ReLU.

    A lower end of ``+inf`` and an upper end of ``-inf``, which no network reaches, are NaN: something overflowed.
    Nothing is widened by its rounding. Differentiable any number of times; at a kink the gradient is that of the right
    piece. Beside what it gives, one byte for each entry is kept for the gradient.

    Args:
        midpoint, radius: of one shape and floating-point type, on one device; any strides. Kernels are of
            float32 and float64.
        left, right: finite and at least 0.
        bounds: whether the ends of the boxes are wanted too.

    Raises:
        InvalidType: an argument is not a tensor.
        InvalidValue: an argument is not of the shape, type, device or range above.

    >>> image = interval_image(torch.tensor([0.0, 3.0]), torch.tensor([2.0, 1.0]), bounds=True)
    >>> image.midpoint, image.radius
    (tensor([1., 3.]), tensor([1., 1.]))
    >>> image.lower, image.upper
    (tensor([-2.,  2.]), tensor([2., 4.]))
    """
    for name, tensor in (("midpoint", midpoint), ("radius", radius)):
        if not isinstance(tensor, Tensor):
            raise InvalidType(name, tensor, "a torch.Tensor")
    image, half, _, lower, upper = torch.ops.verifix.interval_image(midpoint, radius, left, right, bounds)
    return IntervalImage(image, half, *((lower, upper) if bounds else (None, None)))


def _image(midpoint: Tensor, radius: Tensor, left: float, right: float, bounds: bool, *, run: Any) -> Any:
    if not midpoint.is_floating_point():
        raise InvalidValue("midpoint.dtype", midpoint.dtype, "must be a floating-point type")
    wanted = (tuple(midpoint.shape), midpoint.dtype, midpoint.device)
    given = (tuple(radius.shape), radius.dtype, radius.device)
    if given != wanted:
        raise InvalidValue("radius", f"{given[1]} {given[0]} on {given[2]}", f"must be as midpoint, {wanted}")
    _check_slopes(left, right)
    if run is None:
        like = torch.empty_like(midpoint, memory_format=torch.contiguous_format)
        ends = [torch.empty_like(like) if bounds else like.new_empty(0) for _ in range(2)]
        return like, torch.empty_like(like), torch.empty_like(like, dtype=torch.uint8), *ends
    return _kernel(run, midpoint).interval_image(midpoint, radius, left, right, bounds)


def _image_gradient(
    pieces: Tensor, image: list[Tensor], ends: list[Tensor], left: float, right: float, *, run: Any
) -> Any:
    if (len(image), len(ends)) not in ((2, 0), (0, 2), (2, 2)):
        found = f"{len(image)} of the image, {len(ends)} of its ends"
        raise InvalidValue("gradients", found, "must be both of the image, both of its ends, or all four")
    given = [*image, *ends]
    for side in given:
        if (side.shape, side.dtype, side.device) != (pieces.shape, given[0].dtype, pieces.device):
            raise InvalidValue("gradients", f"{side.dtype} {tuple(side.shape)} on {side.device}", "must be alike")
    if pieces.dtype != torch.uint8 or not given[0].is_floating_point():
        raise InvalidValue("dtype", f"{pieces.dtype}, {given[0].dtype}", "must be torch.uint8 and floating point")
    _check_slopes(left, right)
    if run is None:
        like = torch.empty_like(given[0], memory_format=torch.contiguous_format)
        return like, torch.empty_like(like)
    return _kernel(run, given[0]).interval_image_gradient(pieces, image, ends, left, right)


def _kernel(run: Any, like: Tensor) -> Any:
    """What runs it: plain torch where there is no kernel."""
    return interval_image_reference if isinstance(run, Native) and not run.has(like.dtype) else run


def _check_slopes(left: float, right: float) -> None:
    for name, slope in (("left", left), ("right", right)):
        if not 0 <= slope < math.inf:
            raise InvalidValue(name, slope, "must be finite and at least 0")


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2])
    ctx.slopes, ctx.bounds = inputs[2:4], inputs[4]


def _gradient(ctx: Any, *arrived: Tensor | None) -> tuple[Tensor | None, ...]:
    (pieces,) = ctx.saved_tensors
    image = _both(arrived[0], arrived[1])
    ends = _both(arrived[3], arrived[4]) if ctx.bounds else []
    if not image and not ends:
        return None, None, None, None, None
    again = torch.is_grad_enabled()  # gradients of gradients are recorded: in plain torch
    function = interval_image_reference.interval_image_gradient if again else torch.ops.verifix.interval_image_gradient
    midpoint, radius = function(pieces, image, ends, *ctx.slopes)
    return midpoint, radius, None, None, None


def _both(*pair: Tensor | None) -> list[Tensor]:
    """With zeros for one that has not arrived; nothing where neither has."""
    given = [side for side in pair if side is not None]
    return [torch.zeros_like(given[0]) if side is None else side for side in pair] if given else []


_SCHEMAS = {
    "interval_image": "(Tensor midpoint, Tensor radius, float left, float right, bool bounds)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "interval_image_gradient": "(Tensor pieces, Tensor[] image, Tensor[] ends, float left, float right)"
    " -> (Tensor, Tensor)",
}


def _define(name: str, checked: Any) -> None:
    """One operator: the same checks before the fake, the reference and the native code."""

    def with_(run: Any) -> Any:
        return lambda *arguments: checked(*arguments, run=run)

    torch.library.define(f"verifix::{name}", _SCHEMAS[name])
    torch.library.register_fake(f"verifix::{name}", with_(None))
    torch.library.register_kernel(f"verifix::{name}", "default", with_(interval_image_reference))
    torch.library.register_kernel(f"verifix::{name}", "cpu", with_(interval_image_native.cpu))
    torch.library.register_kernel(f"verifix::{name}", "cuda", with_(interval_image_native.cuda))


_define("interval_image", _image)
_define("interval_image_gradient", _image_gradient)
torch.library.register_autograd("verifix::interval_image", _gradient, setup_context=_save)
