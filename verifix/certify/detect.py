"""Adversarial examples detected at test time, without labels and without a miss (thesis, corollary 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verifix.bounds import MethodLike
from verifix.bounds.method import exact_methods
from verifix.bounds.tiles import check_memory
from verifix.certify.certify import certify, classifier, predict
from verifix.certify.run import DEFAULT_BATCH, Progress, certify_run, graph_within, versions
from verifix.certify.store import Record
from verifix.certify.verdict import Result, Verdict
from verifix.data import Dataset
from verifix.errors import InvalidType
from verifix.graph import Graph
from verifix.models import probe
from verifix.sets import Ball, InputSet


@dataclass(frozen=True)
class Detection:
    """What :func:`detect` found, input by input.

    Attributes:
        flagged: which inputs may be adversarial examples, ``(n,)`` boolean.
        predictions: the model's class for each input, ``(n,)``.
        result: the certification of these predictions, with margins.
    """

    flagged: Tensor
    predictions: Tensor
    result: Result


def detect(
    model: nn.Module | Graph, x: Tensor, ball: Ball, method: MethodLike = "crown", *, memory: int | None = None
) -> Detection:
    """Flag every input that could be a perturbation of one with another class (thesis, section 3.1.5, corollary 2).

    An input is flagged unless the model's own prediction for it is certified on the ball around it. The guarantee, for
    every ``x'`` that is not flagged, with its radius in ``ball``:

        every point within that radius of ``x'`` (and in the box) has the class predicted for ``x'``, in real
        arithmetic.

    Being within a radius of each other is symmetric. So if ``x'`` was made from a true input ``x``, changed by no more
    than that radius, and the model classifies ``x`` correctly and ``x'`` differently, then ``x'`` is flagged: there are
    no false negatives. Clean inputs may be flagged; :func:`detect_run` counts how many.

    What the guarantee rests on: the radius (one for all, one per input or per coordinate) bounds the change as it is
    found in ``x'``, the numbers given here. A point that was moved by eps and then rounded may be further away than
    eps: give a radius that allows for it. With a box, ``x`` and ``x'`` lie in it, as far as their dtype can tell. A
    class is that of the network in real arithmetic; what a program computes for ``x`` may differ where logits tie up to
    rounding.

    Args:
        model: a classifier that returns logits ``(n, classes)``, or its graph (:func:`verifix.capture`).
        x: inputs as they arrive ``(n, *shape)``, in raw units, float32 or float64.
        ball: how far an attacker may have moved an input. Other sets are refused: that ``x`` is in the set of ``x'``
            says that ``x'`` is in that of ``x`` for balls only.
        method, memory: as in :func:`verifix.certify`.

    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.eye(2)), model.bias.zero_()
    >>> detect(model, torch.tensor([[1.0, 0.0], [0.6, 0.5]]), Ball("linf", eps=0.2)).flagged.tolist()
    [False, True]
    """
    if not isinstance(ball, Ball):
        raise InvalidType("ball", ball, "a Ball, such as Ball('linf', eps=0.1)")
    exact_methods(method)
    sets = _widened(ball, x).around(x)
    graph = classifier(model, x)
    result = certify(graph, x, predict(graph, x, memory), sets, method, memory=memory)
    return Detection(~result.verified, result.predictions, result)


def _widened(ball: Ball, x: Tensor) -> Ball:
    """The ball with its box widened to what inputs of this dtype may be: float32 inputs within 0.3 reach 0.3 there.

    Sets widen their box where their own input needs it; here the input that counts is another one.
    """
    if ball.box is None or not isinstance(x, Tensor) or not x.is_floating_point():
        return ball
    lower, upper = (torch.as_tensor(side, dtype=torch.float64, device=x.device) for side in ball.box)
    rounded_lower, rounded_upper = lower.to(x.dtype).double(), upper.to(x.dtype).double()
    return replace(ball, box=(torch.minimum(lower, rounded_lower), torch.maximum(upper, rounded_upper)))


def detect_run(
    model: nn.Module,
    data: Dataset,
    ball: Ball,
    *,
    out: str | Path,
    method: str = "cap",
    batch: int = DEFAULT_BATCH,
    memory: int | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Run the detector over ``data``, whose labels serve for the summary only; see :func:`certify_run` for the rest.

    A line whose verdict is ``verified`` is one of an input that is not flagged.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    methods = exact_methods(method)
    memory = check_memory(memory, device)
    ball = _widened(ball, data.images)
    ball.around(data.images)  # refuses inputs outside the box before anything is written
    example = data.images[:2].to(device)
    probe(model, example, data.classes, dict(settings or {}).get("model"))
    graph = graph_within(model, example, memory, methods)

    def decide(x: Tensor, y: Tensor, inputs: InputSet) -> Result:
        return certify(graph, x, predict(graph, x, memory), inputs, method, memory=memory)

    return certify_run(
        model,
        data,
        ball,
        out=out,
        method=method,
        batch=batch,
        memory=memory,
        resume=resume,
        settings=dict(settings or {}) | {"question": "detect"},
        sources=sources,
        progress=progress,
        certifier=decide,
        summariser=summarise_detection,
    )


def summarise_detection(records: list[Record], seconds: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``summary.json``; ``accuracy_of_unflagged`` is None where every input is flagged.

    >>> records = [
    ...     Record(0, 7, 7, "verified", 1.5),
    ...     Record(1, 2, 3, "verified", 0.5),
    ...     Record(2, 4, 4, "unknown", -0.5),
    ...     Record(3, 4, 5, "unknown", -0.5),
    ... ]
    >>> summary = summarise_detection(records, 2.0, {"method": "cap", "norm": "linf", "eps": 0.1})
    >>> summary["flagged"], summary["flagged_fraction"], summary["accuracy"], summary["accuracy_of_unflagged"]
    (2, 0.5, 0.5, 0.5)
    >>> summary["flagged_of_right"], summary["flagged_of_wrong"]
    (0.5, 0.5)
    """
    n = len(records)
    right = [record for record in records if record.prediction == record.label]
    wrong = [record for record in records if record.prediction != record.label]
    unflagged = [record for record in records if not _flagged(record)]
    return {
        "n": n,
        "flagged": n - len(unflagged),
        "flagged_fraction": (n - len(unflagged)) / n,
        "flagged_of_right": _fraction_flagged(right),
        "flagged_of_wrong": _fraction_flagged(wrong),
        "accuracy": len(right) / n,
        "accuracy_of_unflagged": (
            sum(record.prediction == record.label for record in unflagged) / len(unflagged) if unflagged else None
        ),
        "method": settings["method"],
        "norm": settings["norm"],
        "eps": settings["eps"],
        "seconds": seconds,
        **versions(),
        "settings": dict(settings),
    }


def _flagged(record: Record) -> bool:
    return record.verdict != Verdict.VERIFIED.value


def _fraction_flagged(records: list[Record]) -> float | None:
    return sum(map(_flagged, records)) / len(records) if records else None
