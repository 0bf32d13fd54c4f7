"""A network as a flat plan for native passes: weights packed, entries stored as (height, width, channel)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.kernels import native
from verifix.tensors import Entries, Interval

Shape = tuple[int, ...]

LIBRARIES = {"cpu": "verifix._C", "cuda": "verifix._C_cuda"}
"""Which compiled part runs plans on which type of device."""


def available(device: torch.device) -> bool:
    """Whether there is a compiled part for plans on this device."""
    return device.type in LIBRARIES and native.load(LIBRARIES[device.type]).module is not None


def plane(shape: Shape) -> tuple[int, int, int]:
    """``(channels, height, width)`` of an activation: the first axis, those between, the last; one axis is channels.

    >>> plane((10,)), plane((4, 7)), plane((3, 8, 9)), plane((2, 3, 4, 5))
    ((10, 1, 1), (4, 1, 7), (3, 8, 9), (2, 12, 5))
    """
    if len(shape) < 2:
        return math.prod(shape), 1, 1
    return shape[0], math.prod(shape[1:-1]), shape[-1]


@lru_cache(maxsize=256)
def standard_order(shape: Shape) -> Tensor:
    """For each stored position the flat index of the entry: ``(c, h, w)`` is stored as ``(h, w, c)``.

    The same tensor at each call, which nobody writes to.
    """
    c, h, w = plane(shape)
    return torch.arange(c * h * w).reshape(c, h * w).T.flatten()


@dataclass(frozen=True)
class Stored:
    """Where an activation is: the plan's node, the node's plane, and which entry each position holds.

    ``sources`` are those of its step, as the step reads them.
    """

    node: int
    plane: tuple[int, int, int]
    order: Tensor  # on the CPU
    sources: tuple[Stored, ...] = ()
    copies: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def standard(self) -> bool:
        """Whether the order is that of the plane."""
        return torch.equal(self.order, standard_order(self.plane))

    def order_on(self, device: torch.device) -> Tensor:
        """The order, copied to a device once: a copy waits for the device."""
        if device not in self.copies:
            self.copies[device] = self.order.to(device)
        return self.copies[device]

    def pack(self, x: Tensor, lead: int = 1) -> Tensor:
        """Entries after ``lead`` axes, flat or in their shape, to the stored order on one axis.

        An activation with the strides of ``torch.channels_last`` is in the standard order already and is not copied.
        """
        axes, (c, h, w) = x.shape[:lead], self.plane
        if not self.standard:
            return x.reshape(*axes, c * h * w).index_select(-1, self.order_on(x.device)).contiguous()
        return x.reshape(*axes, c, h * w).transpose(-1, -2).reshape(*axes, c * h * w).contiguous()

    def unpack(self, x: Tensor, shape: Shape) -> Tensor:
        """``(n, entries)`` in the stored order to ``(n, *shape)``, where possible without a copy."""
        c, h, w = self.plane
        if self.standard:
            return x.reshape(len(x), h * w, c).transpose(1, 2).reshape(len(x), *shape)
        unpacked = torch.empty_like(x)
        unpacked[:, self.order_on(x.device)] = x
        return unpacked.reshape(len(x), *shape)

    def positions(self) -> Tensor:
        """Where each entry is stored."""
        positions = torch.empty_like(self.order)
        positions[self.order] = torch.arange(len(self.order))
        return positions


class Plan:
    """Builds a native plan step by step; each method returns where its output is stored.

    Tensors are float32 or float64 on the CPU and are copied into the plan; those of other devices:
    :func:`verifix.kernels.plan_cuda.plan_on`.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        module: Any = native.module_or_none(LIBRARIES[self.device.type])
        self.dtype = dtype
        kind = module.PlanFloat32 if dtype == torch.float32 else module.PlanFloat64
        self.native = kind(plane(shape))
        self.input = Stored(0, plane(shape), standard_order(shape))
        self.line_sizes: dict[int, tuple[int, int]] = {}  # of each step: how many slopes and offsets

    def _numbers(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else x.detach().to(self.dtype).contiguous()

    def _place(self, x: Tensor | None) -> int:
        """The address of what a step is given."""
        return _address(x)

    def _execute(self, **request: Any) -> None:
        self.native.run(**request)

    def dense(self, source: Stored, weight: Tensor, bias: Tensor | None) -> Stored:
        """``W x + b``; weight ``(out, in)`` with the entries of ``x`` in their own order."""
        packed, shift = source.pack(weight.detach().to(self.dtype)), self._numbers(bias)
        outputs = packed.shape[0]
        node = self.native.dense(
            source=source.node, outputs=outputs, weight=self._place(packed), bias=self._place(shift)
        )
        return Stored(node, (outputs, 1, 1), standard_order((outputs,)), (source,))

    def convolution(
        self, source: Stored, shape: Shape, weight: Tensor, bias: Tensor | None, geometry: Sequence[int]
    ) -> Stored:
        """Convolution of a standard plane; weight ``(out, in / groups, kh, kw)``.

        geometry is (kernel, stride, padding, dilation) of height and width each, then groups.
        """
        packed, shift = weight.detach().to(self.dtype).permute(0, 2, 3, 1).contiguous(), self._numbers(bias)
        node = self.native.convolution(
            source=source.node,
            output=plane(shape),
            geometry=list(geometry),
            weight=self._place(packed),
            bias=self._place(shift),
        )
        return Stored(node, plane(shape), standard_order(shape), (source,))

    def scaling(
        self, source: Stored, scale: Tensor | None, shift: Tensor | None, shift_size: Tensor | None = None
    ) -> Stored:
        """``scale x + shift``, both flat over the entries, or None.

        shift_size bounds the terms that a computed shift is the sum of, for magnitudes; default its absolute value.
        """
        sides = (scale, shift, shift_size)
        packed = [None if side is None else source.pack(side.detach().to(self.dtype), lead=0) for side in sides]
        node = self.native.scaling(
            source=source.node,
            scale=self._place(packed[0]),
            shift=self._place(packed[1]),
            shift_size=self._place(packed[2]),
        )
        return Stored(node, source.plane, source.order, (source,))

    def sum(self, first: Stored, second: Stored, factor: float) -> Stored:
        """``first + factor second``, stored alike."""
        node = self.native.sum(first=first.node, second=second.node, factor=factor)
        return Stored(node, first.plane, first.order, (first, second))

    def concatenation(self, sources: Sequence[Stored], shape: Shape) -> Stored:
        """Standard planes side by side along the channels."""
        node = self.native.concatenation(sources=[source.node for source in sources])
        return Stored(node, plane(shape), standard_order(shape), tuple(sources))

    def sparse(self, source: Stored, shape: Shape, entries: Entries, constant: Tensor | None) -> Stored:
        """A matrix given by its nonzero entries, and a constant, flat over the output, or None."""
        return self._sparse(source, plane(shape), standard_order(shape), entries, constant)

    def rearranged(self, source: Stored, plane: tuple[int, int, int], order: Tensor) -> Stored:
        """The same activation stored on another plane, or in another order."""
        if source.plane == plane and torch.equal(source.order, order):
            return source
        every = torch.arange(len(order))
        return self._sparse(source, plane, order, Entries(every, every, torch.ones(len(order))), None)

    def _sparse(
        self, source: Stored, plane: tuple[int, int, int], order: Tensor, entries: Entries, constant: Tensor | None
    ) -> Stored:
        target = Stored(0, plane, order)
        by_output, offsets, index = _places(source, target, entries.outputs, entries.inputs)
        weight = entries.weights[by_output].to(self.dtype)
        shift = None if constant is None else target.pack(constant.detach().to(self.dtype), lead=0)
        node = self.native.sparse(
            source=source.node, output=plane, count=len(index), offsets=offsets.data_ptr(), index=index.data_ptr(),
            weight=self._place(weight), constant=self._place(shift),
        )  # fmt: skip
        return Stored(node, plane, order, (source,))

    def planes(self, source: Stored, shape: Shape, outputs: Tensor, inputs: Tensor) -> tuple[Stored, Tensor]:
        """Entries that each pass encloses between linear functions of some entries: ``outputs[k]`` reads ``inputs[k]``.

        Returns:
            Where the output is stored, and the order in which its slopes are: that of the ``k``.
        """
        target = Stored(0, plane(shape), standard_order(shape))
        order, offsets, index = _places(source, target, outputs, inputs)
        node = self.native.planes(
            source=source.node, output=target.plane, count=len(index), offsets=offsets.data_ptr(),
            index=index.data_ptr(),
        )  # fmt: skip
        self.line_sizes[node - 1] = (len(index), len(target.order))
        return replace(target, node=node, sources=(source,)), order

    def lines(self, source: Stored) -> Stored:
        """An elementwise operation that each pass encloses between lines."""
        node = self.native.lines(source=source.node)
        self.line_sizes[node - 1] = (len(source.order), len(source.order))
        return Stored(node, source.plane, source.order, (source,))

    def run(
        self,
        start: Stored,
        *,
        rows: Tensor | None,
        wanted: Tensor | None = None,
        sign: float,
        lines: Sequence[Tensor | None],
        both: bool,
        hull: int,
        center: Tensor,
        radius: Tensor,
        memory: int = 1 << 62,
        threads: int | None = None,
        isa: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Lower bounds (and upper bounds, with ``both``) of rows on a node: ``(n, r)`` each.

        Args:
            rows: ``(n or 1, r, entries)`` in the stored order; None for all unit rows, in that order, times ``sign``.
            wanted: ``(n, entries)`` in the stored order, true for the unit rows that are asked for; the bounds of the
                others are infinite. On CUDA, to read which these are is all that a pass waits for.
            lines: four tensors ``(n, entries)`` in the stored order for each step, None where there is none: lower
                slope, lower offset, upper slope, upper offset. Slopes of planes are ``(n, places)``.
            both: all lines are parallel; bound from above as well.
            hull: 0 for ``center +- radius``; 1 and 2 for the l2 and l1 ball with radii per entry.
            center, radius: ``(n, entries)`` of the input in the stored order.
            memory: bytes for coefficients; fewer threads and fewer rows at once keep to it, where one of each can.
            threads, isa: default torch's number of threads, and :func:`verifix.kernels.native.isa`; none changes a
                bit of the result.

        Raises:
            InvalidValue: a tensor of another dtype or size than the plan's, or that is not contiguous.
        """
        n, size = len(center), len(self.input.order)
        self._check("center", center, (n, size))
        self._check("radius", radius, (n, size))
        over = {"hull": hull, "center": center.data_ptr(), "radius": radius.data_ptr()}
        places = offsets = None
        if rows is None and wanted is None:
            places = torch.arange(len(start.order))
        elif rows is None and wanted is not None:
            shape = (n, len(start.order))
            if wanted.shape != shape or wanted.dtype != torch.bool:
                raise InvalidValue("wanted", f"{wanted.dtype} of shape {tuple(wanted.shape)}", f"must be bool, {shape}")
            chosen = wanted.cpu()
            places = chosen.nonzero()[:, 1].contiguous()
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), chosen.sum(1).cumsum(0)])
        low, high = self._run(start, n, rows, places, offsets, sign, lines, both, over, memory, threads, isa)
        if wanted is None or rows is not None:
            return low, high
        return _spread(low, wanted, -torch.inf), None if high is None else _spread(high, wanted, torch.inf)

    def forms(
        self,
        start: Stored,
        *,
        inputs: int,
        rows: Tensor | None,
        places: Tensor | None,
        sign: float,
        lines: Sequence[Tensor | None],
        both: bool,
        memory: int = 1 << 62,
        threads: int | None = None,
        isa: str | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The linear forms of the input that bound rows: for the sets that :meth:`run` has no hull for.

        Arguments are those of :meth:`run`; ``inputs`` says how many inputs there are, and without rows ``places`` which
        unit rows are asked for, by rising stored positions.

        Returns:
            Coefficients ``(n, r, entries)`` in the stored order, and the constants ``(n, r)`` of the forms below and
            (with ``both``) above, which share them.
        """
        if rows is None:
            places = torch.arange(len(start.order)) if places is None else places.cpu()
        count = rows.shape[1] if rows is not None else 0 if places is None else len(places)
        forms = torch.empty(inputs, count, len(self.input.order), dtype=self.dtype, device=self.device)
        over = {"hull": 3, "center": 0, "radius": 0, "forms": forms.data_ptr()}
        low, high = self._run(start, inputs, rows, places, None, sign, lines, both, over, memory, threads, isa)
        return forms, low, high

    def _run(
        self,
        start: Stored,
        n: int,
        rows: Tensor | None,
        places: Tensor | None,
        offsets: Tensor | None,
        sign: float,
        lines: Sequence[Tensor | None],
        both: bool,
        over: dict[str, int],
        memory: int,
        threads: int | None,
        isa: str | None,
    ) -> tuple[Tensor, Tensor | None]:
        self._check_rows(start, n, rows, lines)
        count = rows.shape[1] if rows is not None else 0 if places is None else len(places)
        low = torch.empty((n, count) if offsets is None else (count,), dtype=self.dtype, device=self.device)
        high = torch.empty_like(low) if both else None
        self._execute(
            start=start.node,
            inputs=n,
            rows=count,
            coefficients=_address(rows),
            coefficient_batch=1 if rows is None else rows.shape[0],
            positions=_address(None if rows is not None else places),
            row_offsets=_address(offsets),
            sign=sign,
            lines=[_address(line) for line in lines],
            both=both,
            **over,
            low=low.data_ptr(),
            high=_address(high),
            memory=memory,
            threads=torch.get_num_threads() if threads is None else threads,
            isa=native.isa() if isa is None else isa,
        )
        return low, high

    def forwards(self, node: Stored) -> bool:
        """Whether :meth:`forward` takes the step of a node: not the input, nor lines, nor a convolution whose padding
        is far larger than its plane."""
        return bool(self.native.forwards(node=node.node))

    def forward(
        self,
        node: Stored,
        *,
        intervals: Sequence[Interval] = (),
        magnitudes: Sequence[Tensor] = (),
        quantum: float = 0.0,
        threads: int | None = None,
        isa: str | None = None,
    ) -> tuple[Tensor, ...]:
        """One affine step forward: the lower and the upper bound of its output where intervals are given, and then the
        magnitude where magnitudes are; all ``(n, entries)`` in the stored order.

        The interval is that of :meth:`verifix.operations.base.Affine.interval`; the magnitude is
        ``(|W| M + size of b) + quantum``. Every entry is a sum of rounded products in one fixed order.

        Args:
            intervals: lower and upper bounds of each of ``node.sources``, ``(n, entries)`` in the stored order.
            magnitudes: likewise the magnitudes of each.
            threads, isa: as for :meth:`run`; neither changes a bit of the result.

        Raises:
            InvalidValue: a tensor of another dtype or size than the plan's, or that is not contiguous.
        """
        lowers, uppers = ([side[i] for side in intervals] for i in (0, 1))
        n = len((*lowers, *magnitudes)[0]) if intervals or magnitudes else 0
        for name, sides in (("intervals", lowers), ("intervals", uppers), ("magnitudes", magnitudes)):
            if len(sides) not in (0, len(node.sources)):
                raise InvalidValue(
                    name, f"{len(sides)} of them", f"one for each source of the step: {len(node.sources)}"
                )
            for x, source in zip(sides, node.sources, strict=False):
                self._check(name, x, (n, len(source.order)))
        count = (2 if intervals else 0) + (1 if magnitudes else 0)
        results = tuple(torch.empty(n, len(node.order), dtype=self.dtype) for _ in range(count))
        addresses = [x.data_ptr() for x in results]
        lower, upper = addresses[:2] if intervals else (0, 0)
        self.native.forward(
            node=node.node,
            inputs=n,
            lowers=[x.data_ptr() for x in lowers],
            uppers=[x.data_ptr() for x in uppers],
            magnitudes=[x.data_ptr() for x in magnitudes],
            lower=lower,
            upper=upper,
            magnitude=addresses[-1] if magnitudes else 0,
            quantum=quantum,
            threads=torch.get_num_threads() if threads is None else threads,
            isa=native.isa() if isa is None else isa,
        )
        return results

    def _check_rows(self, start: Stored, n: int, rows: Tensor | None, lines: Sequence[Tensor | None]) -> None:
        for step, (slopes, offsets) in self.line_sizes.items():
            for line, size in zip(lines[4 * step : 4 * step + 4], (slopes, offsets) * 2, strict=True):
                if line is not None:
                    self._check("lines", line, (n, size))
        if rows is not None:
            self._check("rows", rows, (n if len(rows) != 1 else 1, rows.shape[1], len(start.order)))

    def _check(self, name: str, x: Tensor, shape: Shape) -> None:
        if x.dtype != self.dtype or x.device != self.device or tuple(x.shape) != shape or not x.is_contiguous():
            found = f"{x.dtype} of shape {tuple(x.shape)} on {x.device}"
            raise InvalidValue(name, found, f"must be contiguous, {self.dtype}, {shape}, on {self.device}")


def _spread(bounds: Tensor, wanted: Tensor, rest: float) -> Tensor:
    """Bounds of the wanted entries, input by input, among all."""
    return bounds.new_full(wanted.shape, rest).masked_scatter_(wanted, bounds)


def _places(source: Stored, target: Stored, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of entries sorted by where the output is stored: their order, where each output starts, what it reads."""
    rows, order = target.positions()[outputs].sort(stable=True)
    return order, torch.searchsorted(rows, torch.arange(len(target.order) + 1)), source.positions()[inputs][order]


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
