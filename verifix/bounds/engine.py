"""The engine: bounds of any linear form of any node, over a batch of input sets, by one method."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from verifix.bounds.backward import backward, unit_rows
from verifix.bounds.confidence import Confidence
from verifix.bounds.dispatch import BackwardPass
from verifix.bounds.estimator import Estimator
from verifix.bounds.forward import Compiled
from verifix.bounds.interval import IntervalPass
from verifix.bounds.known import Known
from verifix.bounds.magnitudes import Magnitudes
from verifix.bounds.method import Method
from verifix.bounds.optimised import optimised_rows, place
from verifix.bounds.projection import Projection
from verifix.bounds.rounding import lower_bound, upper_bound
from verifix.bounds.slopes import OptimisedSlopes
from verifix.bounds.tiles import bytes_of_passes
from verifix.draws import Draws
from verifix.errors import InvalidValue
from verifix.graph import INPUT, Graph, Node
from verifix.operations import Levels, Nonlinear, Relaxation, Slopes
from verifix.sets import InputSet
from verifix.tensors import Interval


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

    Gradients flow to parameters and inputs through everything but the rounding terms; of Wasserstein sets, whose
    maximisers are constants to them, to parameters alone.
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
        self.rounding, self.native = rounding, native
        self.memory = bytes_of_passes(memory, inputs.center.device)
        flat = method.slopes == "constant"
        self._known = known = Known()
        compiled = Compiled(graph, inputs.center, wanted=native)
        self._magnitudes = magnitudes = Magnitudes(graph, inputs, compiled, known)
        self._backward = BackwardPass(graph, inputs, self.memory, compiled, wanted=native and not flat)
        self._intervals = IntervalPass(
            graph, inputs, compiled, self._backward, magnitudes if rounding else None, ends=not flat
        )
        self._draws: Draws | None = None
        self._projection: Projection | None = None
        if not method.estimator.exact:
            self._projection = Projection(
                graph,
                inputs,
                method.estimator,
                lambda name: known.slab(graph.node(name)),
                magnitudes.error_of_draws if rounding else lambda name: None,
            )

    @property
    def relaxations(self) -> dict[str, Relaxation]:
        """The lines that were found, by the names of the nonlinear nodes."""
        return self._known.relaxations

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
            lines = self._intervals.recorded(name).levels(name)
            low, high = backward(self.graph, name, rows, lines, self.inputs, upper=upper)
            return lower_bound(low), None if high is None else upper_bound(high)
        self.prepare(name)
        low, high = self._backward(name, rows, self.relaxations, upper=upper)
        error = self._magnitudes.error_of_rows(name, rows) if self.rounding else 0.0
        return lower_bound(low, error), None if high is None else upper_bound(high, error)

    def node(self, name: str) -> Interval:
        """Bounds of every entry of a named node (or of the input): lower and upper, both ``(n, *shape)``."""
        if name != INPUT:
            self.graph.node(name)
        if isinstance(self.method.slopes, OptimisedSlopes) and name != INPUT:
            shape = self.graph.shape_of(name)
            places = torch.arange(math.prod(shape), device=self.inputs.center.device)
            low, high = self.rows(name, unit_rows(places, shape, self.inputs.center))
            low, high = (x.reshape(len(x), *shape) for x in (low, low if high is None else high))
            return low, high
        return self._backward_node(name) if self.method.intermediate == "interval" else self._preactivation(name)

    def preactivation(self, node: Node) -> Interval:
        """The bounds that the lines of a nonlinear node are made of, ``(n, *shape)`` of its input."""
        self.prepare(node.name)
        return self._known.preactivations[node.inputs[0]]

    def clean(self) -> Tensor:
        """The network at the centers of the sets, ``(n, *shape)``; what the interval pass knows of it is used again."""
        x = self.inputs.center
        return self.graph.activations(x, self._intervals.midpoints.values_at(x))[self.graph.output]

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
        if name not in self._known.preactivations:
            self._known.preactivations[name] = self._compute_preactivation(name)
        return self._known.preactivations[name]

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
        low, high = self._backward(name, None, self.relaxations, upper=True, wanted=wanted)
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
        low, high = self._rounded(name, center - spread, center + spread, self._magnitudes.slack(name))
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
        self._known.relaxations, self._known.preactivations = like._known.relaxations, like._known.preactivations
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
            native=self.native,
        )
        known = self._known.select(index)
        engine._known.preactivations = known.preactivations
        engine._known.relaxations = known.relaxations | (relaxations or {})
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
            native=self.native,
        )
        if self.method.intermediate == method.intermediate == "interval":
            engine._known.preactivations = self._known.preactivations
            engine._intervals.share(self._intervals)
        return engine

    def _interval_node(self, name: str) -> Interval:
        """The interval pass up to a node, from the bounds that nonlinear operations have."""
        if self._recorded:
            return self._intervals.recorded(name).interval(name)
        return self._rounded(name, *self._intervals(name, image=self._image, prepare=self.prepare))

    @property
    def _recorded(self) -> bool:
        """Whether the interval pass is one that gradients are recorded of, with no bounds but its own."""
        return torch.is_grad_enabled() and not self.rounding and self.method.intermediate == "interval"

    def _image(self, node: Node) -> Interval:
        """The interval of a nonlinear node; flat lines, where the method has these, are that already."""
        if self.method.slopes == "constant":
            self.prepare(node.name)
        lines = self.relaxations.get(node.name)
        if isinstance(lines, Levels):
            return lines.lower, lines.upper
        lower, upper = self._preactivation(node.inputs[0])
        return node.operation.interval([lower], [upper])

    def _rounded(self, name: str, lower: Tensor, upper: Tensor, times: float = 1.0) -> Interval:
        """Bounds of a node, widened by the bound on their rounding, see :meth:`Magnitudes.error`."""
        if not self.rounding:
            return lower_bound(lower), upper_bound(upper)
        self.prepare(name)
        error = self._magnitudes.error(name, times)
        return lower_bound(lower, error), upper_bound(upper, error)
