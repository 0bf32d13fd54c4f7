"""Batch norm in training by bounds: statistics of clean inputs, in steps and over all of the data.

A step normalises with the mean and the (biased) variance that its clean inputs have at each layer, as batch norm in
training mode does, and bounds use these numbers, too: they are constants of the network that is bounded, and functions
of the weights, through which gradients flow (Shi et al. 2021; CTBench). Where a batch is worked through in parts, or
by several processes, each part has statistics of its own inputs; a part of one input has none, and uses stored ones.

Stored statistics move once in each step, by the layer's momentum, towards the mean and the unbiased variance over all
parts together; of several processes their shares are then averaged. After every epoch they are set to those of the
population: layer by layer, in the order of the network, each layer's mean and unbiased variance over all training
inputs, those before it having theirs. Validation, certificates and attacks see these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from verifix.errors import InvalidValue
from verifix.graph import INPUT, Graph, Node
from verifix.operations import BatchNorm
from verifix.train.distributed import Group

BatchNormMode = Literal["stored", "clean"]
_TOGETHER = 256
_MOMENTUM = 0.1  # torch's, where an exported program has not kept that of its layers


@dataclass(frozen=True)
class _Layer:
    """A batch norm of the graph, and where the network stores its statistics."""

    node: Node
    operation: BatchNorm
    mean: Tensor
    variance: Tensor
    count: Tensor | None
    momentum: float | None

    @property
    def axes(self) -> tuple[int, ...]:
        """All but that of the channels, of a batch of inputs."""
        return (0, *range(2, len(self.operation.shape) + 1))

    @torch.no_grad()
    def update(self, pool: _Pool) -> None:
        """Move what is stored towards what a step has seen."""
        if self.count is not None:
            self.count.add_(1)
        share = self.momentum
        if share is None:  # the average of all steps
            share = 1.0 if self.count is None else 1.0 / float(self.count)
        self.mean.lerp_(pool.mean.to(self.mean), share)
        self.variance.lerp_(pool.variance.to(self.variance), share)


@dataclass(frozen=True)
class _Pool:
    """Mean and sum of squared distances from it, of ``count`` numbers for each channel, in float64."""

    count: int
    mean: Tensor
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """Unbiased."""
        return self.squares / max(self.count - 1, 1)

    def joined(self, other: _Pool) -> _Pool:
        """Of both together."""
        count = self.count + other.count
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart.square() * (self.count * other.count / count)
        return _Pool(count, self.mean + apart * (other.count / count), squares)


class CleanStatistics:
    """The batch norm of a network while it is trained by bounds, with statistics of clean inputs.

    Args:
        graph: the network; only batch norm whose parameters are not frozen is taken care of. None, where training uses
            stored statistics: then nothing here does anything.

    Raises:
        InvalidValue: a network without such batch norm, one whose statistics are no buffers of it, or one that is used
            twice.
    """

    def __init__(self, graph: Graph | None) -> None:
        self.graph = graph
        self._layers = {} if graph is None else _layers(graph)
        self._pools: dict[str, _Pool] | None = None

    @property
    def buffers(self) -> list[Tensor]:
        """What steps change beside the weights."""
        return [
            buffer
            for layer in self._layers.values()
            for buffer in (layer.mean, layer.variance, layer.count)
            if buffer is not None
        ]

    @contextmanager
    def of(self, x: Tensor) -> Iterator[Mapping[str, Tensor]]:
        """The values of all nodes for a batch; within, the graph normalises with the statistics of these.

        A single input has none: the stored ones stay then, and values are not computed, nor are they without a graph.
        Gradients flow through the statistics.
        """
        try:
            yield {} if self.graph is None or len(x) < 2 else self._values(self.graph, x)
        finally:
            for layer in self._layers.values():
                layer.operation.statistics.instead = None

    def _values(self, graph: Graph, x: Tensor) -> Mapping[str, Tensor]:
        values = {INPUT: x}
        for node in graph.nodes.values():
            inputs = [values[name] for name in node.inputs]
            layer = self._layers.get(node.name)
            if layer is not None:
                variance, mean = torch.var_mean(inputs[0], layer.axes, correction=0)
                layer.operation.statistics.instead = mean, variance
                self._record(node.name, inputs[0].numel() // len(mean), mean, variance)
            values[node.name] = node.operation.forward(*inputs)
        return values

    def _record(self, name: str, count: int, mean: Tensor, variance: Tensor) -> None:
        if self._pools is None:
            return
        pool = _Pool(count, mean.detach().double(), variance.detach().double() * count)
        before = self._pools.get(name)
        self._pools[name] = pool if before is None else before.joined(pool)

    @contextmanager
    def recording(self) -> Iterator[Callable[[], None]]:
        """Remember the statistics of every batch within; what it gives moves the stored ones towards them."""
        pools: dict[str, _Pool] = {}
        self._pools = pools

        def update() -> None:
            for name, pool in pools.items():
                self._layers[name].update(pool)

        try:
            yield update
        finally:
            self._pools = None

    @torch.no_grad()
    def reestimate(self, images: Tensor, group: Group, together: int) -> None:
        """Set the stored statistics to those of the population, see the module.

        With ``k`` layers of batch norm this takes ``k`` passes over the data, each up to one of them; sums are in
        float64. Each process of the group takes its share.

        Args:
            images: all training inputs, ``(n, *shape)``.
            together: how many of them fit into memory, with all activations; at most 256 are taken.
        """
        if self.graph is None:
            return
        share = images[group.share(len(images))]
        for layer in self._layers.values():
            count, first = 0, torch.zeros_like(layer.mean, dtype=torch.float64)
            second = first.clone()
            center = layer.mean.reshape(-1, *[1] * (len(layer.operation.shape) - 1))  # so that little cancels
            for x in share.split(min(together, _TOGETHER)) if len(share) else ():
                away = _activation(self.graph, layer.node.inputs[0], x.to(center.device)) - center
                count += away.numel() // len(first)
                first += away.sum(layer.axes, dtype=torch.float64)
                second += away.square().sum(layer.axes, dtype=torch.float64)
            totals = group.sum(torch.cat([first.new_tensor([count]), first, second]))
            count, (first, second) = int(totals[0]), totals[1:].chunk(2)
            layer.mean.add_(first / count)
            layer.variance.copy_((second - first.square() / count).clamp(min=0) / max(count - 1, 1))


def _activation(graph: Graph, name: str, x: Tensor) -> Tensor:
    values = {INPUT: x}
    for node in graph.ancestors(name):
        values[node.name] = node.operation.forward(*(values[source] for source in node.inputs))
    return values[name]


def _layers(graph: Graph) -> dict[str, _Layer]:
    """The batch norms to take care of, in an order in which each follows those that it depends on."""
    owners = {
        id(buffer): module
        for module in (graph.model.modules() if graph.model is not None else ())
        for buffer in module.buffers(recurse=False)
    }
    layers: dict[str, _Layer] = {}
    for node in graph.nodes.values():
        operation = node.operation
        if not isinstance(operation, BatchNorm) or _frozen(operation):
            continue
        mean, variance = operation.statistics()
        owner = owners.get(id(mean))
        if owner is None or id(variance) not in owners:
            raise _refused(f"the statistics of {node.name} are no buffers of the network: use stored ones")
        if any(layer.mean is mean for layer in layers.values()):
            raise _refused(f"{node.name} is used more than once in the network: use stored statistics")
        momentum = getattr(owner, "momentum", _MOMENTUM)
        layers[node.name] = _Layer(node, operation, mean, variance, _count(owner), momentum)
    if not layers:
        raise _refused("the network has no batch norm to train: leave it out")
    return layers


def _frozen(operation: BatchNorm) -> bool:
    values = [value() for value in (operation.weight, operation.bias) if value is not None]
    return bool(values) and not any(value.requires_grad for value in values)


def _count(owner: nn.Module) -> Tensor | None:
    return dict(owner.named_buffers(recurse=False)).get("num_batches_tracked")


def _refused(remedy: str) -> InvalidValue:
    return InvalidValue("batch_norm", "clean", remedy)
