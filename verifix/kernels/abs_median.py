"""The median of absolute values: the estimator behind Cauchy random projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import cpu, cuda, reference


def abs_median(
    x: Tensor,  # (batch, k, n)
) -> tuple[Tensor, Tensor]:
    """Median of ``|x|`` over the middle axis, and where it is attained.

    If the entries of ``R`` (m, k) are independent standard Cauchy variables, each of the k entries of ``v @ R`` is
    Cauchy with scale ``||v||_1``, and the median of their absolute values estimates that scale: k numbers stand in for
    m. This is how the l1 norms in the bounds of large networks are estimated (Wong, Provable, structured, and efficient
    methods for robustness of deep networks to adversarial examples, theorem 4, equation 3.85:
    ``||nu_1||_1 ~ median(|nu_1^T R|)``).

    The median is that of :func:`torch.median`: entry ``(k - 1) // 2`` of the sorted values, the lower of the two middle
    ones for even k; a NaN anywhere in a column makes its median NaN. Results are the same in every bit on every device,
    for every instruction set and for every number of threads.

    Args:
        x: shape (batch, k, n), k >= 1, float32 or float64; any strides.

    Returns:
        values: shape (batch, n), the type of x. Differentiable any number of times: the gradient flows to the attaining
            entry, with its sign.
        index: shape (batch, n), int64: the smallest index along k whose absolute value is the median; in a column with
            NaN, the smallest index of a NaN.

    Raises:
        InvalidType: x is not a tensor.
        InvalidValue: x is not of the shape or type above.

    >>> x = torch.tensor([[[3.0], [-1.0], [2.0], [-5.0]]])  # one column, k = 4
    >>> abs_median(x)
    (tensor([[2.]]), tensor([[2]]))

    Ten thousand entries, their l1 norm estimated from 500 projections:

    >>> generator = torch.Generator().manual_seed(0)
    >>> v = torch.randn(10_000, generator=generator)
    >>> cauchy = torch.empty(10_000, 500).cauchy_(generator=generator)
    >>> values, index = abs_median((v @ cauchy).reshape(1, 500, 1))
    >>> bool(abs(values.item() / v.norm(1) - 1) < 0.2)
    True
    """
    if not isinstance(x, Tensor):
        raise InvalidType("x", x, "a torch.Tensor of shape (batch, k, n)")
    values, index = torch.ops.verifix.abs_median(x)
    return values, index


def _check(x: Tensor) -> None:
    if x.dim() != 3:
        raise InvalidValue("x.shape", tuple(x.shape), "must be (batch, k, n)")
    if x.shape[1] == 0:
        raise InvalidValue("x.shape", tuple(x.shape), "k must be at least 1, as nothing has no median")
    if x.dtype not in (torch.float32, torch.float64):
        raise InvalidValue("x.dtype", x.dtype, "must be torch.float32 or torch.float64, convert it with x.float()")


def _fake(x: Tensor) -> tuple[Tensor, Tensor]:
    _check(x)
    batch, _, n = x.shape
    return x.new_empty(batch, n), x.new_empty(batch, n, dtype=torch.int64)


def _reference(x: Tensor) -> tuple[Tensor, Tensor]:
    _check(x)
    return reference.abs_median(x)


def _cpu(x: Tensor) -> tuple[Tensor, Tensor]:
    _check(x)
    return cpu.abs_median(x)


def _cuda(x: Tensor) -> tuple[Tensor, Tensor]:
    _check(x)
    return cuda.abs_median(x)


def _save(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    (x,), (_, index) = inputs, output
    sign = x.detach().gather(1, index.unsqueeze(1)).sign()  # (batch, 1, n): x itself need not stay alive
    ctx.k = x.shape[1]
    ctx.save_for_backward(index, sign)


def _gradient(ctx: Any, values_gradient: Tensor, index_gradient: None) -> Tensor:
    index, sign = ctx.saved_tensors
    batch, n = index.shape
    entry = values_gradient.unsqueeze(1) * sign
    return entry.new_zeros(batch, ctx.k, n).scatter(1, index.unsqueeze(1), entry)


torch.library.define("verifix::abs_median", "(Tensor x) -> (Tensor, Tensor)")
torch.library.register_fake("verifix::abs_median", _fake)
torch.library.register_kernel("verifix::abs_median", "default", _reference)
torch.library.register_kernel("verifix::abs_median", "cpu", _cpu)
torch.library.register_kernel("verifix::abs_median", "cuda", _cuda)
torch.library.register_autograd("verifix::abs_median", _gradient, setup_context=_save)
