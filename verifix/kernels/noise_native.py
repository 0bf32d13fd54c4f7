"""Noise in native code: hands pointers to ``verifix._C`` or ``verifix._C_cuda``; arguments have been checked.

On a CUDA device everything is enqueued on the current stream, and nothing waits.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from verifix.kernels import native, noise_reference


class Native:
    """The functions of :mod:`verifix.kernels.noise_reference` on one kind of device, by its compiled part."""

    def __init__(self, library: str) -> None:
        self.library = library

    def add_noise(
        self, x: Tensor, inputs: Tensor, scales: Tensor | None, scale: float, law: str, *names: int
    ) -> Tensor:
        module = native.module_or_none(self.library)
        if module is None:
            return noise_reference.add_noise(x, inputs, scales, scale, law, *names)
        x, inputs = x.contiguous(), inputs.contiguous()
        out = _out(x, inputs, x.dtype, *names)
        with _device(x) as where:
            module.add_noise(
                names=_names(module, inputs, x.shape[1], *names),
                law=law,
                x=x.data_ptr(),
                scales=0 if scales is None else scales.data_ptr(),
                scale=scale,
                out=out.data_ptr(),
                dtype=_dtype(x.dtype),
                **where,
            )
        return out

    def add_lattice_noise(
        self, positions: Tensor, dtype: torch.dtype, inputs: Tensor, thresholds: Tensor, guide: Tensor, shift: int,
        levels: int, *names: int,
    ) -> Tensor:  # fmt: skip
        module = native.module_or_none(self.library)
        if module is None:
            table = (thresholds, guide, shift, levels)
            return noise_reference.add_lattice_noise(positions, dtype, inputs, *table, *names)
        inputs, thresholds, guide = inputs.contiguous(), thresholds.contiguous(), guide.contiguous()
        positions = positions.contiguous()
        out = _out(positions, inputs, dtype, *names)
        with _device(positions) as where:
            module.add_lattice_noise(
                names=_names(module, inputs, positions.shape[1], *names),
                thresholds=thresholds.data_ptr(),
                steps=len(thresholds),
                guide=guide.data_ptr(),
                guide_rows=len(guide),
                shift=shift,
                positions=positions.data_ptr(),
                levels=levels,
                out=out.data_ptr(),
                dtype=_dtype(dtype),
                **where,
            )
        return out

    def keep_or_replace(
        self, positions: Tensor, dtype: torch.dtype, inputs: Tensor, threshold: int, levels: int, *names: int
    ) -> Tensor:
        module = native.module_or_none(self.library)
        if module is None:
            return noise_reference.keep_or_replace(positions, dtype, inputs, threshold, levels, *names)
        positions, inputs = positions.contiguous(), inputs.contiguous()
        out = _out(positions, inputs, dtype, *names)
        with _device(positions) as where:
            module.keep_or_replace(
                names=_names(module, inputs, positions.shape[1], *names),
                threshold=threshold,
                positions=positions.data_ptr(),
                levels=levels,
                out=out.data_ptr(),
                dtype=_dtype(dtype),
                **where,
            )
        return out

    def random_words(self, inputs: Tensor, words: int, *names: int) -> Tensor:
        module = native.module_or_none(self.library)
        if module is None:
            return noise_reference.random_words(inputs, words, *names)
        inputs = inputs.contiguous()
        out = inputs.new_empty(len(inputs), names[-1], words)
        with _device(inputs) as where:
            module.random_words(names=_names(module, inputs, words, *names), out=out.data_ptr(), **where)
        return out


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _out(like: Tensor, inputs: Tensor, dtype: torch.dtype, seed: int, purpose: int, start: int, count: int) -> Tensor:
    return like.new_empty(len(inputs), count, like.shape[1], dtype=dtype)


def _names(module: Any, inputs: Tensor, d: int, seed: int, purpose: int, start: int, count: int) -> Any:
    numbers = {"start": start, "count": count, "d": d, "seed": seed, "purpose": purpose}
    return module.NoiseNames(inputs=inputs.data_ptr(), n=len(inputs), **numbers)


@contextlib.contextmanager
def _device(x: Tensor) -> Any:
    """The arguments that say where to run."""
    if x.device.type == "cpu":
        yield {"threads": torch.get_num_threads(), "isa": native.isa()}
        return
    with torch.cuda.device(x.device):
        yield {"stream": torch.cuda.current_stream(x.device).cuda_stream}


cpu = Native("verifix._C")
cuda = Native("verifix._C_cuda")
