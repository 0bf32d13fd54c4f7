"""From a model to a checked graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from verifix.errors import InvalidType, InvalidValue, UnsupportedOperation
from verifix.graph.exported import export
from verifix.graph.graph import Graph
from verifix.graph.sequential import walk
from verifix.sets.base import check_points


def capture(model: nn.Module, example: Tensor) -> Graph:
    """The graph of a model, at test time, with its parameters live.

    An ``nn.Sequential`` (nested too) of known layers is walked; anything else goes through ``torch.export``. The graph
    is then run against the model on inputs like ``example`` and must agree.

    Args:
        model: a network of one input ``(n, *shape)`` and one output ``(n, ...)``. Its train/eval flags are left as they
            are; the graph is always that of ``model.eval()``.
        example: one or more inputs ``(n, *shape)``, on the device and in the dtype of the model.

    Raises:
        UnsupportedOperation: an operation without a rule, named with the line of code where torch knows it.
        InvalidValue: NaN or infinite weights; a model that the graph does not reproduce.
        InvalidType: ``model`` is not an ``nn.Module``.

    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    >>> capture(model, torch.zeros(1, 2)).shape
    (3,)
    """
    if not isinstance(model, nn.Module):
        raise InvalidType("model", model, "a torch.nn.Module or a verifix Graph")
    check_points("example", example)
    if len(example) == 0:
        raise InvalidValue("example", f"tensor of shape {tuple(example.shape)}", "needs at least one input")
    _check_weights(model)
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        _run(model, example[:2])  # what is wrong with the model itself is said before what is wrong with its graph
        graph = walk(model, tuple(example.shape[1:]))
        if graph is None:
            graph = export(model, example)
        graph.model = model
        _check_agreement(graph, model, example)
    finally:
        for module, flag in flags:
            module.training = flag
    return graph


def _check_weights(model: nn.Module) -> None:
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                count = int((~torch.isfinite(tensor)).sum())
                raise InvalidValue(
                    f"{kind} {name}",
                    f"{count} NaN or infinite entries",
                    "the weights are broken; load or train them again",
                )


def _run(model: nn.Module, x: Tensor) -> Any:
    """What the model itself returns, on a copy: its first layer may work in place."""
    try:
        with torch.no_grad():
            return model(x.detach().clone())
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidValue(
            "model", type(model).__name__, f"failed on inputs of shape {tuple(x.shape)}: {reason}"
        ) from error


def _check_agreement(graph: Graph, model: nn.Module, example: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    example = example.detach()
    scale = float(example.abs().max()) or 1.0
    for count in (1, 3):
        first = example[torch.arange(count) % len(example)]
        noise = torch.rand(first.shape, generator=generator, dtype=torch.float64).to(first) - 0.5
        x = first + scale * noise
        theirs = _run(model, x)
        with torch.no_grad():
            ours = graph(x)
        if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
            shape = tuple(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
            raise UnsupportedOperation(
                f"model {type(model).__name__}: returns {shape} where its graph returns {tuple(ours.shape)}"
            )
        # where both overflow they agree: such inputs get no verdict
        theirs, ours = (
            theirs[torch.isfinite(theirs) | torch.isfinite(ours)],
            ours[torch.isfinite(theirs) | torch.isfinite(ours)],
        )
        gap = float((theirs - ours).abs().max()) if ours.numel() else 0.0
        tolerance = 1e4 * torch.finfo(ours.dtype).eps * max(1.0, float(ours.abs().max()) if ours.numel() else 1.0)
        if not gap <= tolerance < torch.inf:
            raise UnsupportedOperation(
                f"model {type(model).__name__}: its graph differs from it by {gap:.3g} on random inputs; "
                "the model may be random, or treat inputs of a batch differently"
            )
