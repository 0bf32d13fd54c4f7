"""The compiled noise called directly with numpy arrays: on the CPU, for each instruction set, and the CUDA code on the
host. torch takes no part."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.kernels.cuda_on_host import build
from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, address


@functools.cache
def host_module() -> Any:
    """The CUDA code of noise, compiled for the host."""
    return build([Path(__file__).with_name("noise_on_host.cpp")])


@dataclass(frozen=True)
class Implementation:
    """A compiled module and where it is to run."""

    module: Any
    where: dict[str, Any]


def implementations(threads: tuple[int, ...] = (1, 2)) -> Iterator[Implementation]:
    """Every instruction set with these numbers of threads, and the CUDA code in both orders."""
    for isa in ISAS:
        for number in threads:
            yield Implementation(_C, {"threads": number, "isa": isa})
    for order in (0, 1):
        yield Implementation(host_module(), {"stream": order})


@dataclass(frozen=True)
class Names:
    """Which samples."""

    inputs: Array  # (n,) int64
    seed: int
    purpose: int
    start: int
    count: int

    def of(self, module: Any, d: int) -> Any:
        return module.NoiseNames(
            inputs=address(self.inputs), n=len(self.inputs), start=self.start, count=self.count, d=d, seed=self.seed,
            purpose=self.purpose,
        )  # fmt: skip

    def empty(self, d: int, dtype: Any) -> Array:
        """Room for results, with something after them that must stay as it is."""
        return np.full(len(self.inputs) * self.count * d + 16, 77, dtype)

    def trimmed(self, out: Array, d: int) -> Array:
        assert (out[-16:] == 77).all()
        return out[:-16].reshape(len(self.inputs), self.count, d)


def random_words(names: Names, d: int, with_: Implementation) -> Array:
    out = names.empty(d, np.int64)
    with_.module.random_words(names=names.of(with_.module, d), out=address(out), **with_.where)
    return names.trimmed(out, d)


def add_noise(
    names: Names, x: Array, law: str, scale: float, with_: Implementation, scales: Array | None = None
) -> Array:
    out = names.empty(x.shape[1], x.dtype)
    with_.module.add_noise(
        names=names.of(with_.module, x.shape[1]), law=law, x=address(x), scales=address(scales), scale=scale,
        out=address(out), dtype=x.dtype.name, **with_.where,
    )  # fmt: skip
    return names.trimmed(out, x.shape[1])


@dataclass(frozen=True)
class Table:
    """As :class:`verifix.kernels.lattice.LatticeTable`, in numpy."""

    thresholds: Array
    guide: Array
    shift: int


def add_lattice_noise(
    names: Names, positions: Array, levels: int, table: Table, dtype: Any, with_: Implementation
) -> Array:
    d = positions.shape[1]
    out = names.empty(d, dtype)
    with_.module.add_lattice_noise(
        names=names.of(with_.module, d), thresholds=address(table.thresholds), steps=len(table.thresholds),
        guide=address(table.guide), guide_rows=len(table.guide), shift=table.shift, positions=address(positions),
        levels=levels, out=address(out), dtype=np.dtype(dtype).name, **with_.where,
    )  # fmt: skip
    return names.trimmed(out, d)


def keep_or_replace(
    names: Names, positions: Array, threshold: int, levels: int, dtype: Any, with_: Implementation
) -> Array:
    d = positions.shape[1]
    out = names.empty(d, dtype)
    with_.module.keep_or_replace(
        names=names.of(with_.module, d), threshold=threshold, positions=address(positions), levels=levels,
        out=address(out), dtype=np.dtype(dtype).name, **with_.where,
    )  # fmt: skip
    return names.trimmed(out, d)
