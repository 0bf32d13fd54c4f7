"""Certification: can any input of the set change the answer?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from verifix.bounds import Engine, Method, MethodLike, parse_method
from verifix.bounds.rounding import plain_arithmetic
from verifix.bounds.tiles import Budget, budget
from verifix.certify.chance import Tally, may_fail, share_delta
from verifix.certify.specification import Margins, Specification
from verifix.certify.verdict import Result, Verdict
from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph, capture
from verifix.sets import Ball, InputSet, Union, UnionSet, Wasserstein


def certify(
    model: nn.Module | Graph,
    x: Tensor,
    y: Tensor | Specification,
    inputs: Ball | Wasserstein | Union | InputSet,
    method: MethodLike = "crown",
    *,
    memory: int | None = None,
) -> Result:
    """Prove, for each input, that no point of its set changes the answer.

    Args:
        model: a classifier that returns logits ``(n, classes)``, or its graph (:func:`verifix.capture`).
        x: inputs ``(n, *shape)``, in raw units, float32 or float64.
        y: labels ``(n,)``; or a :class:`Specification` such as :class:`verifix.Rows`.
        inputs: a :class:`verifix.Ball` or :class:`verifix.Wasserstein` to put around each input, or an input set made
            from them. Of a :class:`verifix.sets.Union` every member is bounded by itself; an input is ``verified`` when
            all are.
        method: ``ibp``, ``crown-ibp``, ``cap``, ``crown``; several joined by ``+`` for the best of each margin.
        memory: byte budget of all that is computed here; default a quarter of what is free.

    Returns:
        A :class:`Result`. ``verified`` means that in real arithmetic, for the network with these very weights, every
        margin is positive on the whole set: margins are lowered by a bound on their own rounding error
        (``bounds.rounding``), and where float32 leaves an input undecided, float64 is asked. With
        ``Estimator("geometric")`` it holds with probability at least ``1 - delta`` over the draws, see
        ``result.confidence``. An input that the model itself gets wrong is ``falsified``: it is its own counterexample.

    Raises:
        UnsupportedOperation: the model holds an operation without a rule.
        InvalidValue, InvalidType: what is wrong with an argument, by name; a budget that a single input would exceed.

    >>> from verifix import Ball
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.eye(2)), model.bias.zero_()
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.5]]), torch.tensor([0, 0])
    >>> certify(model, x, y, Ball("linf", eps=0.2), "ibp").verdicts.tolist()
    ['verified', 'unknown']
    """
    methods = share_delta(parse_method(method))
    sets = input_sets(x, inputs)
    graph = classifier(model, x)
    specification = y if isinstance(y, Specification) else Margins(y, graph.shape[0])
    specification.check(len(x), graph.shape[0])

    with torch.no_grad(), plain_arithmetic():
        dtypes = [x.dtype] if x.dtype == torch.float64 else [x.dtype, torch.float64]
        rows = max(choice.estimator.rows_at_once for choice in methods)
        within, tally = budget(graph, dtypes, x.device, memory, rows), Tally(len(x))
        margins, recomputed = _decide(graph, sets, specification, methods, within, tally)
        logits = logits_at_test_time(graph, x, within)
    predictions = logits.argmax(1) if logits.shape[1] else logits.new_zeros(len(x), dtype=torch.int64)
    verdicts = np.full(len(x), Verdict.UNKNOWN.value, dtype="<U9")
    proved = (margins > 0).all(1)
    wrong = _violations(logits, predictions, specification)
    verdicts[proved.cpu().numpy()] = Verdict.VERIFIED.value
    verdicts[wrong.cpu().numpy()] = Verdict.FALSIFIED.value
    verdicts[(~torch.isfinite(logits).all(1)).cpu().numpy()] = Verdict.UNKNOWN.value
    counterexamples = {int(i): x[i].detach().clone() for i in np.flatnonzero(verdicts == Verdict.FALSIFIED.value)}
    return Result(
        verdicts,
        specification.spread(margins, slice(None)),
        predictions,
        recomputed,
        counterexamples,
        graph,
        sets,
        methods,
        memory,
        tally.confidence(),
    )


def predict(graph: Graph, x: Tensor, memory: int | None = None) -> Tensor:
    """The class that the original model gives each input, ``(n,)``, computed within a byte budget."""
    with torch.no_grad(), plain_arithmetic():
        logits = logits_at_test_time(graph, x, budget(graph, [x.dtype], x.device, memory))
    return logits.argmax(1)


def input_sets(x: Tensor, inputs: Ball | Wasserstein | Union | InputSet) -> InputSet:
    """The sets that ``inputs`` stands for, one for each of the inputs, each of which lies in its own."""
    if not isinstance(x, Tensor):
        raise InvalidType("x", x, "a torch.Tensor (n, ...)")
    if isinstance(inputs, (Ball, Wasserstein, Union)):
        return inputs.around(x)
    if not isinstance(inputs, InputSet):
        raise InvalidType("inputs", inputs, "a Ball, or an input set such as Ball('linf', eps=0.1).around(x)")
    if inputs.center.shape != x.shape:
        raise InvalidValue(
            "inputs", f"sets of shape {tuple(inputs.center.shape)}", f"must match x of shape {tuple(x.shape)}"
        )
    if not bool(inputs.contains(x).all()):
        raise InvalidValue(
            "x",
            f"{int((~inputs.contains(x)).sum())} inputs outside their own set",
            "pass the inputs that the sets were made for",
        )
    return inputs


def classifier(model: nn.Module | Graph, x: Tensor) -> Graph:
    """The graph of a model that returns logits for inputs such as these."""
    example = x[:2] if len(x) else x.new_zeros(1, *x.shape[1:])
    graph = model if isinstance(model, Graph) else capture(model, example)
    if len(graph.shape) != 1 or graph.shape[0] < 1:
        raise InvalidValue(
            "model", f"output of shape (n, {', '.join(map(str, graph.shape))})", "must return logits (n, classes)"
        )
    return graph


def _decide(
    graph: Graph,
    sets: InputSet,
    specification: Specification,
    methods: tuple[Method, ...],
    within: Budget,
    tally: Tally,
) -> tuple[Tensor, Tensor]:
    """Margins of every row, and which inputs were decided in float64: at once, where methods may fail."""
    if sets.center.dtype != torch.float64 and any(map(may_fail, methods)):
        margins, _ = _decide(graph, sets.to(torch.float64), specification, methods, within, tally)
        return _round_down(margins, sets.center.dtype), torch.ones(len(sets), dtype=torch.bool, device=margins.device)
    parts, recomputed = [], torch.zeros(len(sets), dtype=torch.bool, device=sets.center.device)
    for tile in within.tiles(len(sets), sets.center.dtype):
        margins = lower_margins(graph, sets.select(tile), specification, methods, within.passes, tile, tally)
        if sets.center.dtype != torch.float64:
            index = (~(margins > 0).all(1)).nonzero()[:, 0] + tile.start
            for piece in index.split(within.inputs[torch.float64]):
                doubled = sets.select(piece).to(torch.float64)
                exact = lower_margins(graph, doubled, specification, methods, within.passes, piece)
                margins[piece - tile.start] = _round_down(exact, margins.dtype)
            recomputed[index] = True
        parts.append(margins)
    return torch.cat(parts) if parts else sets.center.new_zeros(
        0, specification.rows(slice(None), sets.center).shape[1]
    ), recomputed


def _round_down(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to a shorter dtype without ever raising a lower bound."""
    short = exact.to(dtype)
    return torch.where(short.double() > exact, torch.nextafter(short, torch.full_like(short, -torch.inf)), short)


def lower_margins(
    graph: Graph,
    part: InputSet,
    specification: Specification,
    methods: tuple[Method, ...],
    memory: int,
    index: slice | Tensor,
    tally: Tally | None = None,
) -> Tensor:
    """Lower bounds of every row over the sets of some inputs, whose numbers are ``index``: ``(n, r)``.

    Of unions the least over the members; but with methods that may fail, which are not made for several sets in a row,
    of the union as it is (and those refuse it).
    """
    if isinstance(part, UnionSet) and not any(map(may_fail, methods)):
        each = [lower_margins(graph, member, specification, methods, memory, index) for member in part.members]
        return torch.stack(each).amin(0)  # NaN where one is: nothing is known
    rows = specification.rows(index, part.center)
    threshold = specification.threshold(index, part.center)
    best: Tensor | None = None
    for number, method in enumerate(methods):
        engine = Engine(graph, part, method, memory=memory)
        lower, _ = engine.rows(graph.output, rows, upper=False)
        if tally is not None:
            tally.add(number, engine.confidence(), index)
        best = lower if best is None else torch.fmax(best, lower)
    if best is None:
        raise InvalidValue("method", methods, "name at least one")
    total = best + threshold
    # casting the threshold, adding it and taking this away round once each
    return torch.where(threshold == 0, total, total - 2 * torch.finfo(total.dtype).eps * (best.abs() + threshold.abs()))


def logits_at_test_time(graph: Graph, x: Tensor, within: Budget) -> Tensor:
    """What the original model says of the inputs themselves, at test time."""
    model = graph.model
    flags = [] if model is None else [(module, module.training) for module in model.modules()]
    if model is not None:
        model.eval()
    try:
        run = graph if model is None else model
        # on copies: a first layer may work in place
        parts = [run(x[tile].detach().clone()) for tile in within.tiles(len(x), x.dtype)]
    finally:
        for module, flag in flags:
            module.training = flag
    return torch.cat(parts) if parts else x.new_zeros(0, *graph.shape)


def _violations(logits: Tensor, predictions: Tensor, specification: Specification) -> Tensor:
    """Which inputs violate the specification themselves."""
    if isinstance(specification, Margins):
        return predictions != specification.labels.to(predictions.device)
    everything = slice(None)
    values = (specification.rows(everything, logits) * logits[:, None]).sum(2) + specification.threshold(
        everything, logits
    )
    return (values < 0).any(1)
