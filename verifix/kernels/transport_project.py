"""Transport plans of images: the nearest feasible one, the image that one makes, and the gradient with respect to it.

A plan is ``(n, C, K, H, W)``: entry ``[b, c, d, i, j]`` is the mass that leaves pixel ``(i, j)`` of channel ``c`` for
``(i + di, j + dj)``, where ``d = (di + r) * k + (dj + r)`` counts the ``K = k * k`` offsets of a ``k x k`` window, k
odd, and ``r = k // 2``. Entries that leave the image do not count; what is returned has zeros there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import transport_project_native
from verifix.kernels import transport_project_reference as reference


def project_plan(
    plan: Tensor,  # (n, C, K, H, W)
    x: Tensor,  # (n, C, H, W)
    cost: Tensor,  # (K,) float64
    budget: Tensor,  # (n,) float64
    start: Tensor | None = None,  # (n,) float64
) -> tuple[Tensor, Tensor]:
    """The nearest plan (Euclidean) to ``plan`` that moves the mass of x within the budget, and its multiplier.

    Feasible are plans that are not negative, whose rows ``sum_d plan[:, :, d]`` are x, and which cost
    ``sum plan * cost <= budget``, all channels together. The nearest one is, in every pixel, the projection of
    ``plan - multiplier * cost`` onto the simplex of size x; the multiplier >= 0 is that at which the budget is spent,
    0 where it need not be, found by a safeguarded Newton iteration (Wu, Wang and Yu, 2020, bisect instead).

    The arithmetic is float64 for either type of plan. What is returned is feasible as it stands, rounded: nothing is
    negative, rows are x to a relative 1e-14 (float64) or 1e-6 (float32), and the cost, added up in float64 in any
    order, does not exceed the budget: where rounding made it, all moves are made a little smaller. A plan that is
    feasible to these tolerances is returned as it is.

    An image without such a projection gets NaN, in the plan and the multiplier: where x is negative, budget is negative
    or NaN, or any of x and the entries that count (in the image, from a pixel with mass) is NaN or above 1e150.

    Args:
        plan: ``(n, C, K, H, W)`` float32 or float64, K the square of an odd number.
        x: ``(n, C, H, W)`` of the same type: the image that the mass comes from, >= 0.
        cost: ``(K,)`` float64, the cost of a unit of mass by offset, >= 0, and 0 for the center ``K // 2``.
        budget: ``(n,)`` float64, >= 0; infinity: no limit.
        start: ``(n,)`` float64, where the search for the multiplier starts, such as the multiplier of the last step of
            an attack; has no influence on the result but for rounding.

    Returns:
        The plan, and the multiplier ``(n,)`` float64.

    Raises:
        InvalidType: an argument is not a tensor.
        InvalidValue: an argument is not of the shape, type or device above.

    >>> x = torch.tensor([[[[1.0, 0.0]]]])
    >>> plan = torch.zeros(1, 1, 9, 1, 2)
    >>> plan[0, 0, 5, 0, 0] = 1.0  # all of the first pixel to its right
    >>> cost = torch.tensor([2, 1, 2, 1, 0, 1, 2, 1, 2], dtype=torch.float64)
    >>> moved, multiplier = project_plan(plan, x, cost, torch.tensor([0.25], dtype=torch.float64))
    >>> plan_image(moved)
    tensor([[[[0.7500, 0.2500]]]])
    >>> round(float(multiplier), 9)
    1.5
    """
    for name, tensor in (("plan", plan), ("x", x), ("cost", cost), ("budget", budget)):
        _check_tensor(name, tensor)
    if start is not None:
        _check_tensor("start", start)
    result: tuple[Tensor, Tensor] = torch.ops.verifix.project_plan(plan, x, cost, budget, start)
    return result


def plan_image(
    plan: Tensor,  # (n, C, K, H, W)
) -> Tensor:
    """The image ``(n, C, H, W)`` that a plan makes: ``z[i + di, j + dj] = sum_d plan[d, i, j]``.

    Entries that leave the image do not count. Sums are in float64, offsets one after another, and are rounded once.
    The gradient is :func:`plan_gradient`.

    Raises:
        InvalidType: plan is not a tensor.
        InvalidValue: plan is not float32 or float64 of shape (n, C, K, H, W), K the square of an odd number.

    >>> plan_image(torch.ones(1, 1, 9, 2, 2))
    tensor([[[[4., 4.],
              [4., 4.]]]])
    """
    _check_tensor("plan", plan)
    result: Tensor = torch.ops.verifix.plan_image(plan)
    return result


def plan_gradient(
    g: Tensor,  # (n, C, H, W)
    window: int,
) -> Tensor:
    """The adjoint of :func:`plan_image`, ``(n, C, window ** 2, H, W)``: ``out[d, i, j] = g[i + di, j + dj]``.

    Zero where the offset leaves the image. With g the gradient of a loss with respect to the image, this is the one
    with respect to the plan. Its own gradient is :func:`plan_image`.

    Raises:
        InvalidType: g is not a tensor.
        InvalidValue: g is not float32 or float64 of shape (n, C, H, W), or window is not odd.

    >>> plan_gradient(torch.tensor([[[[1.0, 2.0]]]]), 3)[0, 0, 3:6]
    tensor([[[0., 1.]],
    <BLANKLINE>
            [[1., 2.]],
    <BLANKLINE>
            [[2., 0.]]])
    """
    _check_tensor("g", g)
    result: Tensor = torch.ops.verifix.plan_gradient(g, window)
    return result


def _check_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise InvalidType(name, tensor, "a torch.Tensor")


def _check_float(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InvalidValue(f"{name}.dtype", tensor.dtype, "must be torch.float32 or torch.float64")


def _check_plan(plan: Tensor) -> None:
    if plan.dim() != 5 or not reference.window_of(plan.shape[2]):
        wanted = "must be (n, C, K, H, W), K = 9, 25, 49 or another square of an odd number"
        raise InvalidValue("plan.shape", tuple(plan.shape), wanted)
    _check_float("plan", plan)


def _check_projection(plan: Tensor, x: Tensor, cost: Tensor, budget: Tensor, start: Tensor | None) -> None:
    _check_plan(plan)
    n, channels, offsets, height, width = plan.shape
    if tuple(x.shape) != (n, channels, height, width):
        raise InvalidValue("x.shape", tuple(x.shape), f"must be {(n, channels, height, width)}, as the plan says")
    if x.dtype != plan.dtype:
        raise InvalidValue("x.dtype", x.dtype, f"must be that of the plan, {plan.dtype}")
    for name, tensor, shape in (("cost", cost, (offsets,)), ("budget", budget, (n,)), ("start", start, (n,))):
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float64:
            wanted = f"must be {shape} torch.float64"
            raise InvalidValue(name, f"{tuple(tensor.shape)} {tensor.dtype}", wanted)
    for name, tensor in (("x", x), ("cost", cost), ("budget", budget), ("start", start)):
        if tensor is not None and tensor.device != plan.device:
            raise InvalidValue(f"{name}.device", tensor.device, f"must be that of the plan, {plan.device}")


def _check_cost(cost: Tensor) -> None:
    """That costs are costs, where that can be seen without waiting; elsewhere wrong ones give NaN."""
    if cost.device.type != "cpu":
        return
    positive = (cost >= 1 / reference.LARGEST) & (cost <= reference.LARGEST)
    bad = ~((cost == 0) | positive)
    if bool(bad.any()):
        raise InvalidValue("cost", float(cost[bad][0]), "must be 0, or positive, from 1e-150 to 1e150")
    if bool(cost[len(cost) // 2] != 0):
        raise InvalidValue("cost", float(cost[len(cost) // 2]), "must be 0 for the center: mass may stay where it is")


def _check_gradient(g: Tensor, window: int) -> None:
    if g.dim() != 4:
        raise InvalidValue("g.shape", tuple(g.shape), "must be (n, C, H, W)")
    _check_float("g", g)
    if window < 1 or window % 2 == 0:
        raise InvalidValue("window", window, "must be odd: 1, 3, 5, 7 or more")


def _project_plan(
    plan: Tensor, x: Tensor, cost: Tensor, budget: Tensor, start: Tensor | None, *, run: Any
) -> tuple[Tensor, Tensor]:
    _check_projection(plan, x, cost, budget, start)
    if run is None:
        return plan.new_empty(plan.shape), budget.new_empty(budget.shape)
    _check_cost(cost)
    out: tuple[Tensor, Tensor] = run.project_plan(plan, x, cost, budget, start)
    return out


def _plan_image(plan: Tensor, *, run: Any) -> Tensor:
    _check_plan(plan)
    if run is None:
        return plan.new_empty((*plan.shape[:2], *plan.shape[3:]))
    out: Tensor = run.plan_image(plan)
    return out


def _plan_gradient(g: Tensor, window: int, *, run: Any) -> Tensor:
    _check_gradient(g, window)
    if run is None:
        return g.new_empty((*g.shape[:2], window * window, *g.shape[2:]))
    out: Tensor = run.plan_gradient(g, window)
    return out


def _save_window(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.window = reference.window_of(inputs[0].shape[2])


def _image_gradient(ctx: Any, gradient: Tensor) -> Tensor:
    return plan_gradient(gradient, ctx.window)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """The image of a plan needs nothing else."""


def _gradient_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return plan_image(gradient), None


def _define(name: str, schema: str, checked: Any) -> None:
    """One operator: the same checks before the fake, the reference and the native code."""

    def with_(run: Any) -> Any:
        return lambda *arguments: checked(*arguments, run=run)

    torch.library.define(f"verifix::{name}", schema)
    torch.library.register_fake(f"verifix::{name}", with_(None))
    torch.library.register_kernel(f"verifix::{name}", "default", with_(reference))
    torch.library.register_kernel(f"verifix::{name}", "cpu", with_(transport_project_native.cpu))
    torch.library.register_kernel(f"verifix::{name}", "cuda", with_(transport_project_native.cuda))


_define(
    "project_plan",
    "(Tensor plan, Tensor x, Tensor cost, Tensor budget, Tensor? start) -> (Tensor, Tensor)",
    _project_plan,
)
_define("plan_image", "(Tensor plan) -> Tensor", _plan_image)
_define("plan_gradient", "(Tensor g, int window) -> Tensor", _plan_gradient)
torch.library.register_autograd("verifix::plan_image", _image_gradient, setup_context=_save_window)
torch.library.register_autograd("verifix::plan_gradient", _gradient_gradient, setup_context=_save_nothing)
