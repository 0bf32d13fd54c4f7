"""Random numbers for attacks and slopes: a function of the seed, the input and the draw's name, and of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels.noise import add_noise, random_words

_MIX = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # odd multipliers of splitmix64


class Draws:
    """The random numbers of ``n`` inputs.

    Each input has a stream of its own, keyed by its values: what is drawn for it does not depend on which other inputs
    it is worked on with, or in which order. Draws of one input differ by ``sample``, up to 2**32, and by ``tag``.

    Args:
        seed: a whole number of at least 0 and below 2**63.
        points: the inputs, ``(n, *shape)``.

    >>> x = torch.rand(3, 4)
    >>> both, one = Draws(0, x), Draws(0, x[2:])
    >>> last, first = torch.tensor([2]), torch.tensor([0])
    >>> torch.equal(both.uniform(last, x[2:], sample=5), one.uniform(first, x[2:], sample=5))
    True
    """

    def __init__(self, seed: int, points: Tensor) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise InvalidType("seed", seed, "a whole number")
        if not 0 <= seed < 2**63:
            raise InvalidValue("seed", seed, "must be at least 0 and below 2**63")
        self.seed = seed
        self.streams = _keys(points)

    def select(self, index: Tensor) -> Draws:
        """The random numbers of some of the inputs."""
        part = object.__new__(Draws)
        part.seed, part.streams = self.seed, self.streams[index]
        return part

    def uniform(self, who: Tensor, like: Tensor, *, sample: int, tag: int = 0) -> Tensor:
        """Uniform on ``[-1, 1]`` (float32 numbers), of the shape, type and device of ``like`` ``(k, *shape)``."""
        return self._noise("uniform", 2 * tag, who, like, sample)

    def normal(self, who: Tensor, like: Tensor, *, sample: int, tag: int = 0) -> Tensor:
        """Standard normal numbers, likewise."""
        return self._noise("gaussian", 2 * tag + 1, who, like, sample)

    def words(self, who: Tensor, count: int, *, sample: int, tag: int = 0) -> Tensor:
        """``(k, count)`` int64 in ``[0, 2**32)``; they are what the others of the same name are made of."""
        streams = self.streams[who]
        return random_words(streams, words=count, seed=self.seed, purpose=2 * tag, start=sample, count=1)[:, 0]

    def _noise(self, law: str, purpose: int, who: Tensor, like: Tensor, sample: int) -> Tensor:
        zeros, streams = torch.zeros_like(like), self.streams[who]
        names = {"seed": self.seed, "purpose": purpose, "start": sample, "count": 1}
        return add_noise(zeros, streams, law=law, scale=1.0, **names)[:, 0]


def _keys(points: Tensor) -> Tensor:
    """A number in ``[0, 2**32)`` for each input, ``(n,)`` int64: a hash of its values, the same in any float type that
    holds them. Inputs with the same key share their draws, which does them no harm."""
    bits = points.detach().double().flatten(1).contiguous().view(torch.int64)
    bits = bits ^ (bits >> 32)  # numbers of short types leave the low bits zero
    places = torch.arange(1, bits.shape[1] + 1, device=bits.device)
    mixed = _mix((bits * (_mix(places) | 1)).sum(1))
    return mixed & 0xFFFFFFFF


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64, modulo 2**64."""
    z = z * _MIX[0]
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * _MIX[1]
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * _MIX[2]
    return z ^ ((z >> 31) & 0x1FFFFFFFF)
