"""Noise by name: every number is a function of (seed, purpose, input, sample, coordinate) and of nothing else.

A certificate names the samples that it rests on, and whoever draws them again gets the same bits, whatever the batch
size, the number of threads, the instruction set or the device. docs/smoothing-noise.md says how the numbers are made
and how far they are from their laws.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import noise_native, noise_reference
from verifix.kernels.lattice import LAWS, LatticeTable, check_lattice, check_levels, nearest_positions

_WORDS = 2**32
_PURPOSES = 2**30
# Every product of a scale in this range and of a draw is a normal float32, in whatever mode the processor is.
_SCALES = (2.0**-64, 2.0**64)


def add_noise(
    x: Tensor,  # (n, *shape)
    inputs: Tensor,  # (n,)
    *,
    law: str,
    scale: float | Tensor,
    seed: int,
    purpose: int,
    start: int,
    count: int,
) -> Tensor:
    """Noisy copies of a batch, ``(n, count, *shape)`` of its type: ``x[i] + scale * Z`` for each sample.

    The noise is a float32 number, the product of a standard draw and of the scale; it is added in the type of x.
    Differentiable in x.

    Args:
        x: ``(n, *shape)`` float32 or float64, any strides.
        inputs: ``(n,)`` int64 on the device of x: the number of each input in its data set, 0 <= number < 2**32. Values
            are checked on the CPU only, as a look at those of another device would wait for it.
        law: ``gaussian``: N(0, scale^2); ``laplace``: of density exp(-|t| / scale) / (2 scale); ``uniform`` on
            [-scale, scale]. |Z| is at most 6.77, 22.2 and 1.
        scale: in units of x; a number, or a tensor that broadcasts to ``shape``. Rounded up to float32, so that a
            radius that is proportional to the number given holds for the number used. Tensors of another device than
            the CPU are not checked, as above.
        seed: 0 <= seed < 2**63.
        purpose: 0 <= purpose < 2**30; draws of different purposes are independent.
        start, count: samples start to start + count - 1; start + count <= 2**32.

    Raises:
        InvalidType: an argument is not of its type; scale is a function.
        InvalidValue: an argument is out of its range.

    >>> x, inputs = torch.zeros(1, 3), torch.tensor([7])
    >>> draws = add_noise(x, inputs, law="gaussian", scale=1.0, seed=1, purpose=0, start=0, count=2)
    >>> draws.shape
    torch.Size([1, 2, 3])
    >>> again = add_noise(x, inputs, law="gaussian", scale=1.0, seed=1, purpose=0, start=1, count=1)
    >>> torch.equal(draws[:, 1:], again)
    True
    """
    _check_tensor(x, "x")
    scales = _scales(x, scale) if isinstance(scale, Tensor) else None
    number = 1.0 if isinstance(scale, Tensor) else rounded_up(scale)
    out: Tensor = torch.ops.verifix.add_noise(x, inputs, scales, number, law, seed, purpose, start, count)
    return out


def add_lattice_noise(
    x: Tensor,  # (n, *shape)
    inputs: Tensor,  # (n,)
    *,
    levels: int,
    table: LatticeTable,
    seed: int,
    purpose: int,
    start: int,
    count: int,
) -> Tensor:
    """Noisy copies of inputs on a lattice, ``(n, count, *shape)``: ``(k + K) / levels`` for ``x = k / levels``.

    k + K is a whole number, so nothing is rounded but the quotient, which is a function of it: a smoothed classifier of
    this noise is one of whole numbers, and theorems hold for it as computed. Nothing is clipped.

    Args:
        x: ``(n, *shape)`` float32 or float64 that hold k / levels (see :func:`verifix.kernels.lattice.check_lattice`).
            Checked on the CPU only; on another device the caller has done so, and x is taken to the nearest point.
        levels: steps of the lattice per unit, those of the table.
        table: the law of K, by :func:`verifix.kernels.lattice.lattice_table`.
        inputs, seed, purpose, start, count: as for :func:`add_noise`.

    Raises:
        InvalidType, InvalidValue: as for :func:`add_noise`; x is not on the lattice, or the table is for another one.

    >>> from verifix.kernels.lattice import lattice_table
    >>> x, inputs, table = torch.zeros(1, 1000), torch.tensor([0]), lattice_table("gaussian", 0.5, 255)
    >>> y = add_lattice_noise(x, inputs, levels=255, table=table, seed=1, purpose=0, start=0, count=1)
    >>> bool((y * 255).round().div(255).eq(y).all())
    True
    """
    if not isinstance(table, LatticeTable):
        raise InvalidType("table", table, "what lattice_table returns")
    if table.levels != levels:
        raise InvalidValue("levels", levels, f"the table is for {table.levels}")
    _check_tensor(x, "x")
    thresholds, guide = table.on(x.device)
    out: Tensor = torch.ops.verifix.add_lattice_noise(
        x, inputs, thresholds, guide, table.guide_shift, levels, seed, purpose, start, count
    )
    return out


def keep_probability(keep: float) -> float:
    """The probability that :func:`keep_or_replace` keeps a coordinate with: the nearest multiple of ``2**-32``.

    >>> keep_probability(0.8) - 0.8 < 2**-33
    True
    """
    return _keep_threshold(keep) / _WORDS


def replacement_total_variation(keep: float, levels: int) -> float:
    """Bound on the total variation, for one coordinate, between what :func:`keep_or_replace` draws, from ideal random
    bits, and the law that keeps with :func:`keep_probability` and replaces uniformly; rounded up.

    A replacement is the high part of a product with 64 random bits: each has its probability to less than ``2**-64``.

    >>> replacement_total_variation(0.8, 255) < 1e-17
    True
    """
    check_levels(levels)
    if levels & (levels - 1) == 0:  # each replacement has as many of the 2**64 words
        return 0.0
    return float(np.nextafter((1 - keep_probability(keep)) * levels * 2.0**-65, 1.0))


def keep_or_replace(
    x: Tensor,  # (n, *shape)
    inputs: Tensor,  # (n,)
    *,
    keep: float,
    levels: int,
    seed: int,
    purpose: int,
    start: int,
    count: int,
) -> Tensor:
    """Copies in which each coordinate is kept with probability ``keep``, else one of the other values, uniformly.

    Args:
        x: ``(n, *shape)`` float32 or float64 that hold k / levels with k from 0 to levels; checked on the CPU only, as
            for :func:`add_lattice_noise`.
        keep: 0 <= keep <= 1, used as :func:`keep_probability` says.
        levels: one less than the number of values of a coordinate: 255 for images, 1 for binary ones.
        inputs, seed, purpose, start, count: as for :func:`add_noise`.

    Raises:
        InvalidType, InvalidValue: as for :func:`add_lattice_noise`.

    >>> x, inputs = torch.zeros(1, 4), torch.tensor([0])
    >>> keep_or_replace(x, inputs, keep=0.0, levels=1, seed=1, purpose=0, start=0, count=1)
    tensor([[[1., 1., 1., 1.]]])
    """
    _check_tensor(x, "x")
    out: Tensor = torch.ops.verifix.keep_or_replace(
        x, inputs, _keep_threshold(keep), levels, seed, purpose, start, count
    )
    return out


def random_words(inputs: Tensor, *, words: int, seed: int, purpose: int, start: int, count: int) -> Tensor:
    """Random words, ``(n, count, words)`` int64 in [0, 2**32): those that the other laws are made of.

    Args:
        words: how many for each input and sample, >= 0.
        inputs, seed, purpose, start, count: as for :func:`add_noise`.

    Raises:
        InvalidType, InvalidValue: as for :func:`add_noise`.

    >>> random_words(torch.tensor([0]), words=4, seed=0, purpose=0, start=0, count=1)  # the published test vector
    tensor([[[1713891541, 3781805453, 3159862348, 2600524760]]])
    """
    out: Tensor = torch.ops.verifix.random_words(inputs, words, seed, purpose, start, count)
    return out


def rounded_up(scale: object) -> float:
    """The float32 number that a scale is used as: the nearest one that is not below.

    >>> rounded_up(0.1) > 0.1, rounded_up(0.5)
    (True, 0.5)
    """
    if not isinstance(scale, (int, float, np.floating)):
        reason = "; noise whose scale depends on the input is not covered by the theorem" if callable(scale) else ""
        raise InvalidType("scale", scale, f"a number or a tensor{reason}")
    if not _SCALES[0] <= scale <= _SCALES[1]:
        raise InvalidValue("scale", scale, "must be a number from 2**-64 to 2**64")
    rounded = np.float32(scale)
    return float(rounded if float(rounded) >= scale else np.nextafter(rounded, np.float32(math.inf)))


def _scales(x: Tensor, scale: Tensor) -> Tensor:
    """A scale for each coordinate, (d,) float32, rounded up."""
    if not scale.is_floating_point():
        raise InvalidValue("scale.dtype", scale.dtype, "must be torch.float32 or torch.float64")
    if scale.device != x.device:
        raise InvalidValue("scale.device", scale.device, f"x is on {x.device}, move the scale there")
    try:
        rounded = scale.detach().to(torch.float32)
        rounded = torch.where(rounded < scale, torch.nextafter(rounded, rounded.new_full((), math.inf)), rounded)
        rounded = rounded.expand(x.shape[1:]).reshape(-1).contiguous()
    except RuntimeError:
        raise InvalidValue("scale.shape", tuple(scale.shape), f"must broadcast to {tuple(x.shape[1:])}") from None
    if scale.device.type == "cpu" and not bool(((rounded >= _SCALES[0]) & (rounded <= _SCALES[1])).all()):
        raise InvalidValue("scale", "a tensor", "all of its entries must be numbers from 2**-64 to 2**64")
    return rounded


def _keep_threshold(keep: object) -> int:
    if not isinstance(keep, (int, float, np.floating)):
        raise InvalidType("keep", keep, "a number")
    if not 0 <= keep <= 1:
        raise InvalidValue("keep", keep, "must be a probability, from 0 to 1")
    return round(float(keep) * _WORDS)  # exact: a product with a power of two, then the nearest integer


def _check_tensor(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor):
        raise InvalidType(name, x, "a torch.Tensor")


def _check_x(x: Tensor) -> None:
    if x.dim() < 1:
        raise InvalidValue("x.shape", tuple(x.shape), "must be (n, ...)")
    if x.dtype not in (torch.float32, torch.float64):
        raise InvalidValue("x.dtype", x.dtype, "must be torch.float32 or torch.float64, convert it with x.float()")
    if math.prod(x.shape[1:]) > 4 * _WORDS:
        raise InvalidValue("x.shape", tuple(x.shape), "more than 2**34 coordinates have no names")


def _check_names(inputs: Tensor, seed: int, purpose: int, start: int, count: int, x: Tensor | None = None) -> None:
    if inputs.dtype != torch.int64 or inputs.dim() != 1:
        raise InvalidValue("inputs", f"{inputs.dtype} {tuple(inputs.shape)}", "must be (n,) int64, a number per input")
    if x is not None and (len(inputs) != len(x) or inputs.device != x.device):
        wanted = f"must be as many as x has inputs, {len(x)}, on {x.device}"
        raise InvalidValue("inputs", f"{tuple(inputs.shape)} on {inputs.device}", wanted)
    if not 0 <= seed < 2**63:
        raise InvalidValue("seed", seed, "must be from 0 to 2**63 - 1")
    if not 0 <= purpose < _PURPOSES:
        raise InvalidValue("purpose", purpose, "must be from 0 to 2**30 - 1")
    if count < 0:
        raise InvalidValue("count", count, "must be at least 0")
    if start < 0 or start + count > _WORDS:
        raise InvalidValue("start", start, f"samples are numbered from 0 to 2**32 - 1, and {count} are asked for")


def _check_numbers(inputs: Tensor) -> None:
    """That input numbers are words, where that can be seen without waiting."""
    if inputs.device.type == "cpu" and bool(((inputs < 0) | (inputs >= _WORDS)).any()):
        bad = int(inputs[(inputs < 0) | (inputs >= _WORDS)][0])
        raise InvalidValue("inputs", bad, "numbers of inputs must be from 0 to 2**32 - 1")


def _positions(x: Tensor, levels: int, most: int | None) -> Tensor:
    """Lattice points (n, d) int32, checked where that needs no waiting."""
    if x.device.type != "cpu":
        positions = nearest_positions(x, levels)
        return _flat(positions if most is None else positions.clamp(0, most))
    positions = check_lattice(x, levels)
    if most is not None and bool(((positions < 0) | (positions > most)).any()):
        outside = positions[(positions < 0) | (positions > most)][0]
        raise InvalidValue("x", int(outside) / levels, "must be from 0 to 1 where coordinates are replaced")
    return _flat(positions)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _shape(x: Tensor, count: int) -> tuple[int, ...]:
    return (x.shape[0], count, *x.shape[1:])


def _add_noise(
    x: Tensor, inputs: Tensor, scales: Tensor | None, scale: float, law: str, seed: int, purpose: int, start: int,
    count: int, *, run: Any,
) -> Tensor:  # fmt: skip
    _check_x(x)
    _check_names(inputs, seed, purpose, start, count, x)
    if law not in LAWS:
        raise InvalidValue("law", law, f"must be one of {', '.join(LAWS)}")
    if run is None:
        return x.new_empty(_shape(x, count))
    _check_numbers(inputs)
    out: Tensor = run.add_noise(_flat(x), inputs, scales, scale, law, seed, purpose, start, count)
    return out.reshape(_shape(x, count))


def _add_lattice_noise(
    x: Tensor, inputs: Tensor, thresholds: Tensor, guide: Tensor, shift: int, levels: int, seed: int, purpose: int,
    start: int, count: int, *, run: Any,
) -> Tensor:  # fmt: skip
    _check_x(x)
    _check_names(inputs, seed, purpose, start, count, x)
    if run is None:
        return x.new_empty(_shape(x, count))
    _check_numbers(inputs)
    positions = _positions(x, levels, None)
    table = (thresholds, guide, shift, levels)
    out: Tensor = run.add_lattice_noise(positions, x.dtype, inputs, *table, seed, purpose, start, count)
    return out.reshape(_shape(x, count))


def _keep_or_replace(
    x: Tensor, inputs: Tensor, threshold: int, levels: int, seed: int, purpose: int, start: int, count: int, *, run: Any
) -> Tensor:
    _check_x(x)
    _check_names(inputs, seed, purpose, start, count, x)
    check_levels(levels)
    if run is None:
        return x.new_empty(_shape(x, count))
    _check_numbers(inputs)
    positions = _positions(x, levels, levels)
    out: Tensor = run.keep_or_replace(positions, x.dtype, inputs, threshold, levels, seed, purpose, start, count)
    return out.reshape(_shape(x, count))


def _random_words(inputs: Tensor, words: int, seed: int, purpose: int, start: int, count: int, *, run: Any) -> Tensor:
    _check_names(inputs, seed, purpose, start, count)
    if not 0 <= words <= 4 * _WORDS:
        raise InvalidValue("words", words, "must be from 0 to 2**34")
    if run is None:
        return inputs.new_empty(len(inputs), count, words)
    _check_numbers(inputs)
    out: Tensor = run.random_words(inputs, words, seed, purpose, start, count)
    return out


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """The gradient needs nothing of what was drawn."""


def _gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return gradient.sum(dim=1), *(None,) * 8


_NAMES = "int seed, int purpose, int start, int count"
_SCHEMAS = {
    "add_noise": f"(Tensor x, Tensor inputs, Tensor? scales, float scale, str law, {_NAMES}) -> Tensor",
    "add_lattice_noise": (
        f"(Tensor x, Tensor inputs, Tensor thresholds, Tensor guide, int shift, int levels, {_NAMES}) -> Tensor"
    ),
    "keep_or_replace": f"(Tensor x, Tensor inputs, int threshold, int levels, {_NAMES}) -> Tensor",
    "random_words": f"(Tensor inputs, int words, {_NAMES}) -> Tensor",
}


def _define(name: str, checked: Any) -> None:
    """One operator: the same checks before the fake, the reference and the native code."""

    def with_(run: Any) -> Any:
        return lambda *arguments: checked(*arguments, run=run)

    torch.library.define(f"verifix::{name}", _SCHEMAS[name])
    torch.library.register_fake(f"verifix::{name}", with_(None))
    torch.library.register_kernel(f"verifix::{name}", "default", with_(noise_reference))
    torch.library.register_kernel(f"verifix::{name}", "cpu", with_(noise_native.cpu))
    torch.library.register_kernel(f"verifix::{name}", "cuda", with_(noise_native.cuda))


_define("add_noise", _add_noise)
_define("add_lattice_noise", _add_lattice_noise)
_define("keep_or_replace", _keep_or_replace)
_define("random_words", _random_words)
torch.library.register_autograd("verifix::add_noise", _gradient, setup_context=_save)
