"""The engine: bounds of any linear form of any node, over a batch of input sets, by one method."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math

import torch
from torch import Tensor

from verifix.bounds.backward import backward
from verifix.bounds.confidence import Confidence
from verifix.bounds.estimator import Estimator
from verifix.bounds.first_use import trusted
from verifix.bounds.forward import ForwardPass
from verifix.bounds.lowered import Inexpressible, lower
from verifix.bounds.method import Method
from verifix.bounds.midpoint import MidpointPass
from verifix.bounds.native import NativePass
from verifix.bounds.optimised import optimised_rows, place
from verifix.bounds.projection import Projection
from verifix.bounds.rounding import SAFETY, lower_bound, quantum, relative_error, underflow, upper_bound
from verifix.bounds.slopes import OptimisedSlopes
from verifix.bounds.tiles import bytes_of_passes, inputs_in_caches, row_tiles
from verifix.draws import Draws
from verifix.errors import InvalidValue
from verifix.graph import INPUT, Graph, Node
from verifix.operations import Affine, Levels, MaxPool, Nonlinear, Relaxation, Shape, Slab, Slopes
from verifix.sets import InputSet
from verifix.tensors import contract, flatten

logger = logging.getLogger(__name__)
Interval = tuple[Tensor, Tensor]
SLAB = 6.0
"""The terms of a center add up to at most its node's magnitude and one more for every max pooling before it, and so do
those of a row per unit of its largest draw (``docs/projections.md``). This leaves room for rows of single coordinates,
for the rounding of the planes, and for what rounds once more when it is put together."""


class Engine:
    """Bounds over one batch of input sets; what was computed for a node is kept for the next question.

    Args:
        graph: the network.
        inputs: where its inputs may be; bounds are computed in the dtype of these sets.
        method: which bounds.
        memory: byte budget of the rows of a backward pass; default 256 MiB on CPU, 4 GiB on CUDA.
        rounding: widen every bound by a rigorous bound on its own rounding error. Training switches this off: it needs
            gradients, not certificates.
        native: where no gradients are recorded, use the compiled backward pass where it can express the network and the
            lines, and the compiled forward steps node by node; their bounds and those of plain torch differ by rounding
            only.

    Gradients flow to parameters and inputs through everything but the rounding terms.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: InputSet,
        method: Method,
        *,
        memory: int | None = None,
        rounding: bool = True,
        native: bool = True,
    ) -> None:
        if inputs.shape != graph.input_shape:
            raise InvalidValue("x", f"inputs of shape {inputs.shape}", f"the network takes {graph.input_shape}")
        self.graph, self.inputs, self.method = graph, inputs, method
        self.rounding = rounding
        self.dtype = inputs.center.dtype
        self.memory = bytes_of_passes(memory, inputs.center.device)
        self.relaxations: dict[str, Relaxation] = {}
        self._preactivations: dict[str, Interval] = {}
        self._intervals: dict[str, Interval] = {}
        self._midpoints = MidpointPass(graph, inputs, ends=method.slopes != "constant")
        self._magnitudes: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self._native: NativePass | None = None
        self._wants_native = native and method.slopes != "constant"
        self._forward: ForwardPass | None = None
        self._wants_forward = native
        self._native_wanted = native
        self._draws: Draws | None = None
        self._projection: Projection | None = None
        if not method.estimator.exact:
            self._projection = Projection(graph, inputs, method.estimator, self._slab, self._error_of_draws)

    def confidence(self) -> Confidence | None:
        """With which probability the bounds that were found hold; None where they are exact, or estimates."""
        account = None if self._projection is None else self._projection.account
        return None if account is None else account.confidence()

    def require_rows(self) -> None:
        """Refuse an estimator with too few rows for its failure probability, before anything is computed."""
        if self._projection is not None and self._projection.account is not None:
            self._projection.account.require_rows()

    def rows(self, name: str, rows: Tensor, *, upper: bool = True) -> tuple[Tensor, Tensor | None]:
        """Bounds of ``rows . z`` for a named node: lower and upper, both ``(n, r)``.

        Args:
            rows: ``(n, r, *shape)`` or ``(1, r, *shape)``, in the engine's dtype.
            upper: whether the upper bound is wanted; None is returned otherwise.
        """
        if isinstance(self.method.slopes, OptimisedSlopes):
            return optimised_rows(self, name, rows, upper=upper)
        if self.method.slopes == "constant" and self._recorded:
            lines = self._recorded_pass(name).levels(name)
            low, high = backward(self.graph, name, rows, lines, self.inputs, upper=upper)
            return lower_bound(low), None if high is None else upper_bound(high)
        self.prepare(name)
        low, high = self._pass(name, rows, upper=upper)
        error = self._error_of_rows(name, rows) if self.rounding else 0.0
        return lower_bound(low, error), None if high is None else upper_bound(high, error)

    def node(self, name: str) -> Interval:
        """Bounds of every entry of a named node (or of the input): lower and upper, both ``(n, *shape)``."""
        if name != INPUT:
            self.graph.node(name)
        if isinstance(self.method.slopes, OptimisedSlopes) and name != INPUT:
            shape = self.graph.shape_of(name)
            places = torch.arange(math.prod(shape), device=self.inputs.center.device)
            low, high = self.rows(name, _unit_rows(places, shape, self.inputs.center))
            low, high = (x.reshape(len(x), *shape) for x in (low, low if high is None else high))
            return low, high
        return self._backward_node(name) if self.method.intermediate == "interval" else self._preactivation(name)

    def preactivation(self, node: Node) -> Interval:
        """The bounds that the lines of a nonlinear node are made of, ``(n, *shape)`` of its input."""
        self.prepare(node.name)
        return self._preactivations[node.inputs[0]]

    def clean(self) -> Tensor:
        """The network at the centers of the sets, ``(n, *shape)``; what the interval pass knows of it is used again."""
        x = self.inputs.center
        return self.graph.activations(x, self._midpoints.values_at(x))[self.graph.output]

    def prepare(self, name: str) -> None:
        """Find lines for every nonlinear node that a node depends on."""
        for node in self.graph.nonlinear(name) if name != INPUT else []:
            if node.name not in self.relaxations:
                lower, upper = self._preactivation(node.inputs[0])
                operation = node.operation
                if not isinstance(operation, Nonlinear):
                    raise InvalidValue("node", node.name, "is not a nonlinear operation")
                self.relaxations[node.name] = operation.lines(lower, upper, self._slopes(node, operation, lower, upper))

    def _slopes(self, node: Node, operation: Nonlinear, lower: Tensor, upper: Tensor) -> Slopes | Tensor:
        """The rule for a node's slopes by its name, or their shares."""
        rule = self.method.slopes
        if isinstance(rule, str):
            return rule
        if isinstance(rule, OptimisedSlopes) or not operation.free:
            return "adaptive"  # of optimised slopes, for hidden bounds
        if self._draws is None:
            self._draws = Draws(rule.seed, self.inputs.center)
        return rule.shares(self._draws, place(self.graph, node), operation, lower, upper)

    def _preactivation(self, name: str) -> Interval:
        if name not in self._preactivations:
            self._preactivations[name] = self._compute_preactivation(name)
        return self._preactivations[name]

    def _compute_preactivation(self, name: str) -> Interval:
        if self.method.intermediate == "interval":
            return self._interval_node(name)
        estimated = self._projection is not None and self._projection.estimates(name)
        better = self._projected_node if estimated else self._backward_node
        if self.method.intermediate == "backward":
            return better(name, None)
        low_i, high_i = self._interval_node(name)
        wanted = self._undecided(name, low_i, high_i) if self.method.intermediate == "filtered" else None
        low_b, high_b = better(name, wanted)
        return torch.maximum(low_i, low_b), torch.minimum(high_i, high_b)

    def _undecided(self, name: str, lower: Tensor, upper: Tensor) -> Tensor | None:
        """The entries for which a nonlinear operation wants better bounds, or None for all."""
        readers = [node.operation for node in self.graph.nodes.values() if name in node.inputs]
        settled = [reader.settled(lower, upper) for reader in readers if isinstance(reader, Nonlinear)]
        return ~torch.stack(settled).all(0) if settled else None

    def _backward_node(self, name: str, wanted: Tensor | None = None) -> Interval:
        """The backward pass from every entry of a node, or from those that are wanted: others are unbounded."""
        if name == INPUT:
            return self._rounded(name, *self.inputs.hull())
        self.prepare(name)
        low, high = self._pass(name, None, upper=True, wanted=wanted)
        return self._rounded(name, low, low if high is None else high)

    def _projected_node(self, name: str, wanted: Tensor | None = None) -> Interval:
        """The same with estimated norms, for the inputs and nodes where these take fewer rows."""
        projection = self._projection
        if projection is None:
            return self._backward_node(name, wanted)
        self.prepare(name)
        if projection.interval_is_exact(name):
            projection.settle(name)
            return self._interval_node(name)
        n, shape, device = len(self.inputs), self.graph.shape_of(name), self.inputs.center.device
        chosen = torch.ones(n, *shape, dtype=torch.bool, device=device) if wanted is None else wanted
        exact = projection.exact(name, chosen)
        if bool(exact.all()):
            projection.settle(name)
            return self._backward_node(name, wanted)
        center, spread = projection(name, chosen & ~exact.reshape(-1, *[1] * len(shape)))
        low, high = self._rounded(name, center - spread, center + spread, self._slack(name))
        if wanted is not None:
            low, high = torch.where(wanted, low, -math.inf), torch.where(wanted, high, math.inf)
        if bool(exact.any()):
            index = exact.nonzero()[:, 0]
            low_e, high_e = self.derived(index)._backward_node(name, None if wanted is None else wanted[index])
            low, high = low.index_copy(0, index, low_e), high.index_copy(0, index, high_e)
        return low, high

    def spread(self, name: str, like: Engine) -> Tensor:
        """What the estimator makes of half the distance of a node's bounds, ``(n, *shape)``, on the lines of another
        engine over the same sets."""
        if self._projection is None:
            raise InvalidValue("estimator", str(self.method.estimator), "estimates nothing")
        like.prepare(name)
        self.relaxations, self._preactivations = like.relaxations, like._preactivations
        wanted = torch.ones(len(self.inputs), *self.graph.shape_of(name), dtype=torch.bool)
        return self._projection(name, wanted)[1]

    def derived(self, index: Tensor | None = None, *, relaxations: dict[str, Relaxation] | None = None) -> Engine:
        """An engine for some of the inputs, or all, that neither estimates nor optimises, with what was found so far.

        Args:
            relaxations: other lines, for these inputs.
        """
        slopes = "adaptive" if isinstance(self.method.slopes, OptimisedSlopes) else self.method.slopes
        engine = Engine(
            self.graph,
            self.inputs if index is None else self.inputs.select(index),
            dataclasses.replace(self.method, slopes=slopes, estimator=Estimator()),
            memory=self.memory,
            rounding=self.rounding,
            native=self._native_wanted,
        )
        if index is None:
            engine.relaxations, engine._preactivations = dict(self.relaxations), dict(self._preactivations)
        else:
            engine.relaxations = {name: relaxation.select(index) for name, relaxation in self.relaxations.items()}
            engine._preactivations = {
                name: (lower[index], upper[index]) for name, (lower, upper) in self._preactivations.items()
            }
        engine.relaxations |= relaxations or {}
        return engine

    def beside(self, method: Method) -> Engine:
        """An engine over the same sets for another method; where both take hidden bounds from an interval pass, what
        either finds in that is found for both."""
        engine = Engine(
            self.graph,
            self.inputs,
            method,
            memory=self.memory,
            rounding=self.rounding,
            native=self._native_wanted,
        )
        if self.method.intermediate == method.intermediate == "interval":
            engine._intervals, engine._preactivations = self._intervals, self._preactivations
            engine._midpoints = self._midpoints
        return engine

    def _slack(self, name: str) -> float:
        """What the terms of a center or a row at a node add up to, at most, in units of its magnitude."""
        return SLAB + sum(isinstance(node.operation, MaxPool) for node in self.graph.ancestors(name))

    def _slab(self, name: str) -> Slab:
        return self.relaxations[name].slab(*self._preactivations[self.graph.node(name).inputs[0]])

    @torch.no_grad()
    def _error_of_draws(self, name: str) -> Tensor | None:
        """A bound on the rounding of a row pushed forward to a node, per unit of its largest draw, ``(n, *shape)``."""
        if not self.rounding:
            return None
        factor, floor = relative_error(self.graph, name, self.dtype), underflow(self.graph, name, self.dtype)
        size = self._magnitude(name)
        return self._slack(name) * (
            factor * size + floor * self._largest_magnitude(name).reshape(-1, *[1] * (size.dim() - 1))
        )

    def _pass(
        self, name: str, rows: Tensor | None, *, upper: bool, wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """One backward pass: lower and upper bounds of rows ``(n, r)``, or of the entries of a node ``(n, *shape)``.

        Of entries, ``wanted`` ``(n, *shape)`` may choose some; the others have infinite bounds.
        """
        if self._wants_native and not torch.is_grad_enabled():
            try:
                if self._native is None:
                    if not trusted(self.inputs.center.device, self.dtype):
                        raise Inexpressible("this GPU, where it disagrees with plain torch")
                    lowered = None if self._forward is None else self._forward.lowered
                    self._native = NativePass(self.graph, self.inputs, self.memory, lowered)
                return self._native(name, rows, self.relaxations, upper=upper, wanted=wanted)
            except Inexpressible as reason:
                _say_once(str(reason))
                self._wants_native = False
        if rows is not None:
            return self._pass_by_tiles(name, rows, upper=upper)
        shape, size = self.graph.shape_of(name), math.prod(self.graph.shape_of(name))
        places = torch.arange(size, device=self.inputs.center.device)
        if wanted is not None:
            places = flatten(wanted, 1).any(0).nonzero()[:, 0]
        low, high = self._pass_by_tiles(name, places, upper=upper)
        return self._spread(low, places, wanted, shape, -math.inf), (
            None if high is None else self._spread(high, places, wanted, shape, math.inf)
        )

    def _spread(self, bound: Tensor, places: Tensor, wanted: Tensor | None, shape: Shape, rest: float) -> Tensor:
        """Bounds of some entries among all of a node's."""
        if wanted is None:
            return bound.reshape(len(bound), *shape)
        full = bound.new_full((len(bound), math.prod(shape)), rest).index_copy(1, places, bound)
        return torch.where(wanted, full.reshape(len(bound), *shape), rest)

    def _pass_by_tiles(self, name: str, rows: Tensor, *, upper: bool) -> tuple[Tensor, Tensor | None]:
        """The same in plain torch, tile by tile, for rows or for the unit rows of some entries ``(r,)``: ``(n, r)``."""
        shape = self.graph.shape_of(name)
        lows, highs = [], []
        count = len(rows) if rows.dim() == 1 else rows.shape[1]
        device = self.inputs.center.device
        together = len(self.inputs)
        if torch.is_grad_enabled():  # passes cut the inputs first
            some = self.inputs.center.new_zeros(1, count)
            together = min(together, inputs_in_caches(self.graph, some))
        for tile in row_tiles(count, together, self.graph, self.dtype, self.memory, device):
            part = _unit_rows(rows[tile], shape, self.inputs.center) if rows.dim() == 1 else rows[:, tile]
            low, high = backward(self.graph, name, part, self.relaxations, self.inputs, upper=upper)
            lows.append(low)
            highs.append(high)
        if not lows:
            empty = self.inputs.center.new_zeros(len(self.inputs), 0)
            return empty, empty if upper else None
        return torch.cat(lows, 1), torch.cat([high for high in highs if high is not None], 1) if upper else None

    def _interval_node(self, name: str) -> Interval:
        """The interval pass up to a node, from the bounds that nonlinear operations have."""
        if self._recorded:
            return self._recorded_pass(name).interval(name)
        for node in self.graph.ancestors(name) if name != INPUT else []:
            if node.name in self._intervals or self._starts(node.name):
                continue
            if isinstance(node.operation, Nonlinear):
                self._intervals[node.name] = self._image(node.name, node.operation, node.inputs[0])
                continue
            sides = [self._side(source) for source in node.inputs]
            compiled = None if torch.is_grad_enabled() else self._compiled(node)
            if compiled is not None:
                self._intervals[node.name] = self._compiled_interval(compiled, node, sides)
                continue
            lowers, uppers = (
                [self._shaped(source, side[i]) for source, side in zip(node.inputs, sides, strict=True)] for i in (0, 1)
            )
            self._intervals[node.name] = node.operation.interval(lowers, uppers)
        lower, upper = self._side(name)
        return self._rounded(name, self._shaped(name, lower), self._shaped(name, upper))

    @property
    def _recorded(self) -> bool:
        """Whether the interval pass is one that gradients are recorded of, with no bounds but its own."""
        return torch.is_grad_enabled() and not self.rounding and self.method.intermediate == "interval"

    def _recorded_pass(self, name: str) -> MidpointPass:
        """That pass, with the bounds that it starts from on its way to a node."""
        if self.inputs.starts_from_support and name != INPUT:
            behind = [node for node in self.graph.ancestors(name) if not self._starts(node.name)]
            for source in [name, *(source for node in behind for source in node.inputs)]:
                if self._starts(source) and source not in self._midpoints:
                    self._midpoints.start(source, *self._side(source))
        return self._midpoints

    def _starts(self, name: str) -> bool:
        """Whether the interval pass starts at a node: nothing but affine operations is before it, and its input sets
        have more to say of these than of their inputs."""
        return self.inputs.starts_from_support and name != INPUT and not self.graph.nonlinear(name)

    def _side(self, name: str) -> Interval:
        """The interval of the input or of a node that the pass has met, without the bound on its rounding."""
        if name == INPUT:
            return self.inputs.hull()
        if name not in self._intervals and self._starts(name):
            lower, upper = self._pass(name, None, upper=True)
            self._intervals[name] = lower, lower if upper is None else upper
        return self._intervals[name]

    def _image(self, name: str, operation: Nonlinear, source: str) -> Interval:
        """The interval of a nonlinear node; flat lines, where the method has these, are that already."""
        if self.method.slopes == "constant":
            self.prepare(name)
        lines = self.relaxations.get(name)
        if isinstance(lines, Levels):
            return lines.lower, lines.upper
        lower, upper = self._preactivation(source)
        return operation.interval([lower], [upper])

    def _shaped(self, name: str, x: Tensor) -> Tensor:
        """What compiled steps leave in the shape of its source, in that of its node."""
        return x.reshape(len(x), *self.graph.shape_of(name))

    def _compiled(self, node: Node) -> ForwardPass | None:
        """The compiled forward pass, where it has a step for a node."""
        if self._wants_forward and self._forward is None:
            try:
                self._forward = ForwardPass(lower(self.graph, self.inputs.center), quantum(self.dtype))
            except Inexpressible:
                self._wants_forward = False
        return self._forward if self._forward is not None and node in self._forward else None

    def _compiled_interval(self, compiled: ForwardPass, node: Node, sides: list[Interval]) -> Interval:
        """The interval of an affine node; its magnitude comes along where rounding will ask for it."""
        sizes: list[Tensor] = []
        if self.rounding and node.name not in self._magnitudes:
            self.prepare(node.name)
            sizes = [self._magnitude(source) for source in node.inputs]
        lower, upper, *magnitude = compiled(node, sides, sizes)
        if magnitude:
            (self._magnitudes[node.name],) = magnitude
        return lower, upper

    def _rounded(self, name: str, lower: Tensor, upper: Tensor, times: float = 1.0) -> Interval:
        if not self.rounding:
            return lower_bound(lower), upper_bound(upper)
        self.prepare(name)
        with torch.no_grad():
            factor, floor = relative_error(self.graph, name, self.dtype), underflow(self.graph, name, self.dtype)
            factor, floor = times * factor, times * floor
            error = factor * self._magnitude(name)
            error = error + floor * self._largest_magnitude(name).reshape(-1, *[1] * (lower.dim() - 1))
        return lower_bound(lower, error), upper_bound(upper, error)

    @torch.no_grad()
    def _error_of_rows(self, name: str, rows: Tensor) -> Tensor:
        factor, floor = relative_error(self.graph, name, self.dtype), underflow(self.graph, name, self.dtype)
        size = contract(rows.abs(), self._magnitude(name))
        return factor * size + floor * self._largest_magnitude(name)[:, None] * (1 + flatten(rows.abs(), 2).sum(2))

    @torch.no_grad()
    def _magnitude(self, name: str) -> Tensor:
        """``M`` of ``bounds.rounding`` for a node whose nonlinear ancestors have lines."""
        if INPUT not in self._magnitudes:
            self._magnitudes[INPUT] = self.inputs.magnitude() + quantum(self.dtype)
        for node in self.graph.ancestors(name) if name != INPUT else []:
            if node.name in self._magnitudes:
                continue
            parts = [self._magnitudes[source] for source in node.inputs]
            operation = node.operation
            compiled = self._compiled(node)
            if compiled is not None:
                (self._magnitudes[node.name],) = compiled(node, [], parts)
                continue
            parts = [self._shaped(source, part) for source, part in zip(node.inputs, parts, strict=True)]
            if isinstance(operation, Affine):
                size = operation.absolute(*parts)
                offset = operation.offset_size(size)
                size = size if offset is None else size + offset
            else:
                lower, upper = self._preactivations[node.inputs[0]]
                size = self.relaxations[node.name].magnitude(parts[0], lower, upper)
            self._magnitudes[node.name] = (size + quantum(self.dtype)).expand(len(self.inputs), *node.shape)
        return self._shaped(name, self._magnitudes[name])

    def _largest_magnitude(self, name: str) -> Tensor:
        """``1 + max M`` over a node and its ancestors, ``(n,)``."""
        names = [INPUT, *(node.name for node in self.graph.ancestors(name))] if name != INPUT else [INPUT]
        for n in names:
            if n in self._magnitudes and n not in self._largest and self._magnitudes[n].numel():
                size = self._magnitudes[n]
                self._largest[n] = size.amax(tuple(range(1, size.dim()))) if size.dim() > 1 else size
        sizes = [self._largest[n] for n in names if n in self._largest]
        largest = torch.stack(sizes).amax(0) if sizes else self.inputs.center.new_zeros(len(self.inputs))
        return SAFETY * (1 + largest)


def _unit_rows(places: Tensor, shape: Shape, like: Tensor) -> Tensor:
    rows = like.new_zeros(len(places), math.prod(shape))
    rows[torch.arange(len(rows), device=rows.device), places] = 1.0
    return rows.reshape(1, -1, *shape)


@functools.cache
def _say_once(reason: str) -> None:
    logger.info("backward passes in plain torch: the compiled pass has no step for %s", reason)
