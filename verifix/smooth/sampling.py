"""Votes of a base classifier under noise: which samples are drawn, by what network pass each is classified."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels.lattice import check_lattice
from verifix.kernels.votes import add_votes
from verifix.sets.base import check_points
from verifix.smooth.noise import Noise, Purpose, Samples, Splitting

TILE = 100
"""Images of one pass of the network on the CPU. A network may round differently in passes of other sizes, so that a
near tie may turn; with passes of one size it does not, whatever the batch, the samples that are asked for together, and
the number of threads. A hundred images of a small network stay in the cache."""
CUDA_TILE = 400
"""The same on a CUDA device, where no batch is given."""
_DRAWN, _DRAWN_BYTES = 1000, 4 << 20
"""Images that are drawn at once on the CPU where no batch is given: at most so many, and so many bytes of them."""


@dataclass(frozen=True)
class _Part:
    """Samples ``start`` to ``stop - 1`` of the ``row``-th input."""

    row: int
    start: int
    stop: int


class Sampler:
    """A base classifier and a noise, of which votes can be counted.

    Sample ``s`` of an input is the same noise whenever it is drawn (:class:`verifix.smooth.noise.Samples`), and is
    image ``s % TILE`` of a pass of ``TILE`` images, which is filled up with zeros where not all of them are asked for.
    On the CPU each pass is computed by one thread and threads share out passes, so that counts do not depend on
    ``batch`` or on the number of threads. On a CUDA device a pass has ``batch`` images, and counts may differ from
    those of the CPU where logits nearly tie.

    Args:
        model: gives logits ``(batch, classes)`` for inputs ``(batch, *shape)``; a class is its largest logit, the
            smallest of equals. It must be a function of each image alone. It is used as at test time, on copies of its
            modules that share its parameters: the model itself is not changed.
        noise: what is added, see :mod:`verifix.smooth.noise`.
        classes: how many logits there are, at least 2.
        seed: of all samples, ``0 <= seed < 2**63``.
        batch: noisy images of an input that are drawn at once, rounded up to whole passes: a matter of memory and
            speed. By default 4 MiB of them, or one pass.

    Raises:
        InvalidValue: fewer than two classes; a seed or batch out of range; a model whose modules cannot be copied.
        InvalidType: something else than a module and a noise.
    """

    def __init__(
        self, model: nn.Module, noise: Noise, *, classes: int, seed: int = 0, batch: int | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidType("model", model, "a torch.nn.Module")
        if not isinstance(noise, Noise):
            raise InvalidType("noise", noise, "a noise, such as verifix.smooth.noise.Gaussian(sigma=0.5)")
        numbers = (("classes", classes, 2), ("seed", seed, 0), ("batch", 1 if batch is None else batch, 1))
        for name, value, least in numbers:
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidType(name, value, "a whole number")
            if value < least or value >= 2**63:
                raise InvalidValue(name, value, f"must be at least {least} and below 2**63")
        self.model, self.noise, self.classes, self.seed, self.batch = model, noise, classes, seed, batch
        self._copies = [at_test_time(model)]

    def votes(self, x: Tensor, purpose: Purpose, *, count: int, start: int = 0, inputs: Tensor | None = None) -> Tensor:
        """How many samples of each input fall in each class, and in how many a logit is NaN.

        Args:
            x: inputs ``(n, *shape)``, float32 or float64, in raw units.
            purpose: what the samples are for; those of different purposes are independent.
            start, count: samples ``start`` to ``start + count - 1`` of each input.
            inputs: the numbers of the inputs in their data set, ``(n,)`` int64, which name their samples; 0 to n - 1
                by default. Inputs whose answers are counted together must not share a number: give numbers where a
                data set comes in several batches, or all batches have the same noise and fail together.

        Returns:
            ``(n, classes + 1)`` int64 on the device of ``x``, each row of sum ``count``; the last column counts samples
            with a NaN among their logits.

        Raises:
            InvalidValue: the model gives something else than ``(batch, classes)``; ``x`` does not suit the noise.
        """
        check_points("x", x)
        for name, value in (("count", count), ("start", start)):
            if value < 0:
                raise InvalidValue(name, value, "must be a whole number of at least 0")
        if self.noise.lattice is not None:  # kernels on a CUDA device would take the nearest lattice point
            check_lattice(x, self.noise.lattice)
        if inputs is None:
            inputs = torch.arange(len(x), device=x.device)
        if not isinstance(inputs, Tensor):
            raise InvalidType("inputs", inputs, "a tensor of whole numbers, (n,) int64")
        if inputs.shape != (len(x),):
            raise InvalidValue("inputs.shape", tuple(inputs.shape), f"one number for each of the {len(x)} inputs")

        def draw(part: _Part) -> Tensor:
            row = slice(part.row, part.row + 1)
            samples = Samples(self.seed, purpose, inputs[row], part.start, part.stop - part.start)
            return self.noise.draw(x[row].detach(), samples)[0]

        return self._votes_of(draw, x, start, count)

    def images_per_pass(self, device: torch.device) -> int:
        """How many images the network is given at once on a device."""
        return TILE if device.type == "cpu" else max(TILE, self.batch or CUDA_TILE)

    def votes_of_all(self, x: Tensor) -> Tensor:
        """The votes of every outcome of a noise that has only a few: ``(n, classes + 1)`` as :meth:`votes` gives.

        Raises:
            InvalidValue: the noise is none of these; ``x`` does not suit it.
        """
        check_points("x", x)
        noise = self.noise
        if not isinstance(noise, Splitting) or noise.evaluations is None:
            raise InvalidValue("noise", noise.name, "has too many outcomes to try them all: use splitting on a lattice")

        def draw(part: _Part) -> Tensor:
            row = x[part.row : part.row + 1].detach()
            return noise.draw_all(row, part.start, part.stop - part.start)[0]

        return self._votes_of(draw, x, 0, noise.evaluations)

    def _votes_of(self, draw: Callable[[_Part], Tensor], x: Tensor, start: int, count: int) -> Tensor:
        tile, threads = self.images_per_pass(x.device), torch.get_num_threads() if x.device.type == "cpu" else 1
        batch = self.batch or min(_DRAWN, _DRAWN_BYTES // max(1, x[:1].nbytes))
        drawn = _whole_tiles(min(batch, -(-len(x) * count // threads)), tile)  # so that no thread is without any
        parts = _Shared(_parts(len(x), start, count, drawn))

        def work(model: nn.Module) -> Tensor:
            counts = torch.zeros(len(x), self.classes + 1, dtype=torch.int64, device=x.device)
            with torch.inference_mode():
                for part in parts:
                    self._count(model, draw(part), part.start, tile, counts[part.row : part.row + 1])
            return counts

        threads = max(1, min(threads, len(x) * -(-count // drawn)))
        while len(self._copies) < threads:
            self._copies.append(at_test_time(self.model))
        return _together(work, self._copies[:threads], parts)

    def _count(self, model: nn.Module, noisy: Tensor, start: int, tile: int, counts: Tensor) -> None:
        """Add the votes of noisy images, of which the first is sample ``start``, to ``counts`` (1, classes + 1)."""
        done = 0
        while done < len(noisy):
            place = (start + done) % tile
            own = noisy[done : done + tile - place]
            done += len(own)
            if len(own) == tile:
                logits = self._logits(model, own)
            else:
                images = own.new_zeros(tile, *own.shape[1:])
                images[place : place + len(own)] = own
                logits = self._logits(model, images)
            if not isinstance(logits, Tensor) or logits.shape != (tile, self.classes):
                got = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
                remedy = f"must give (batch, classes) = {(tile, self.classes)}, got {got}"
                raise InvalidValue("model", type(self.model).__name__, remedy)
            if logits.dtype not in (torch.float32, torch.float64):
                logits = logits.float()
            add_votes(logits[place : place + len(own)][None], counts)

    def _logits(self, model: nn.Module, images: Tensor) -> object:
        try:
            return model(images)
        except Exception as error:
            line = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            remedy = f"fails on noisy inputs of shape {tuple(images.shape)} and type {images.dtype}: {line}"
            raise InvalidValue("model", type(self.model).__name__, remedy) from error


def _whole_tiles(images: int, tile: int) -> int:
    return max(1, -(-images // tile)) * tile


def _parts(n: int, start: int, count: int, drawn: int) -> Iterator[_Part]:
    """All samples in parts, cut where a multiple of ``drawn`` is.

    >>> [(part.row, part.start, part.stop) for part in _parts(1, 250, 300, 200)]
    [(0, 250, 400), (0, 400, 550)]
    """
    for row in range(n):
        first = start
        while first < start + count:
            stop = min(start + count, (first // drawn + 1) * drawn)
            yield _Part(row, first, stop)
            first = stop


class _Shared:
    """Parts that several threads share out among themselves, until there are none or one of them failed."""

    def __init__(self, parts: Iterator[_Part]) -> None:
        self._parts, self._lock, self._stopped = parts, threading.Lock(), False

    def __iter__(self) -> Iterator[_Part]:
        return self

    def __next__(self) -> _Part:
        with self._lock:
            if self._stopped:
                raise StopIteration
            return next(self._parts)

    def stop(self) -> None:
        self._stopped = True


def _together(work: Callable[[nn.Module], Tensor], models: list[nn.Module], parts: _Shared) -> Tensor:
    """The sum of what ``work`` gives for each model, each in a thread of its own that computes with itself alone."""
    if len(models) == 1:
        return _alone(work, models[0])
    before = torch.get_num_threads()

    def run(model: nn.Module) -> Tensor:
        try:
            return _alone(work, model)
        except BaseException:
            parts.stop()
            raise

    try:
        with ThreadPoolExecutor(len(models)) as pool:
            futures = [pool.submit(run, model) for model in models]
            try:
                counts = [future.result() for future in futures]
            except BaseException:  # an interrupt too: the threads end with what they are at
                parts.stop()
                raise
    finally:
        torch.set_num_threads(before)
    return torch.stack(counts).sum(0)


def _alone(work: Callable[[nn.Module], Tensor], model: nn.Module) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(model)
    finally:
        torch.set_num_threads(before)


def at_test_time(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode: modules of its own, which share parameters and buffers with the model.

    Raises:
        InvalidValue: its modules cannot be copied.
    """
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        twin: nn.Module = copy.deepcopy(model, shared)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        remedy = f"its modules cannot be copied for use in several threads ({type(error).__name__}: {lines[0]})"
        raise InvalidValue("model", type(model).__name__, remedy) from error
    return twin.eval()
