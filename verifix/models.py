"""Turning a MODEL argument and a weights file into a network that is ready to be certified."""

from __future__ import annotations

import ast
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verifix.cascade_file import is_cascade_file, read_cascade
from verifix.errors import InvalidType, InvalidValue
from verifix.weights import StateDict, fit_weights, read_stages, read_weights, require_finite, weights_path

__all__ = ["Normalize", "fingerprint", "inner", "load_model", "load_stages", "probe"]


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel, so that ``eps`` and box stay in the units of the raw input.

    Args:
        mean, std: one number per channel, or a single one for all.
        input_shape: the shape of one input, channels first.

    Raises:
        InvalidValue: another number of values than channels, a ``std`` that is not above zero, a value that is
            not finite.

    >>> Normalize([0.5], [0.25], (1, 2, 2))(torch.ones(1, 1, 2, 2)).flatten()
    tensor([2., 2., 2., 2.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], input_shape: Sequence[int]) -> None:
        super().__init__()
        channels = input_shape[0]
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise InvalidValue(
                    name, list(values), f"give one number for each of the {channels} channels, or one for all"
                )
            tensor = torch.tensor(values, dtype=torch.float64)
            if not torch.isfinite(tensor).all() or (name == "std" and not (tensor > 0).all()):
                remedy = "every number must be finite and above 0" if name == "std" else "every number must be finite"
                raise InvalidValue(name, list(values), remedy)
            shape = (-1,) + (1,) * (len(input_shape) - 1)
            self.register_buffer(name, tensor.expand(channels).reshape(shape).to(torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def load_model(
    spec: str,
    weights: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The network that ``spec`` names, with its weights, normalisation in front, in eval mode and of type ``dtype``.

    Args:
        spec: ``package.module:callable``, optionally with literal arguments (``verifix.zoo:mnist_wide(k=4)``), that
            returns an ``nn.Module``; or a ``.pt2`` file written by ``torch.export.save``. Importing a module runs its
            code, and a ``.pt2`` file may hold pickled objects: use only those you trust.
        weights: a ``.safetensors`` file or a ``.pth``/``.pt`` file with a state dict (loaded with
            ``weights_only=True``); ``FILE#STAGE`` takes one of several state dicts in a file.
        mean, std: per-channel normalisation put in front of the network; keys of ``weights`` are those without it.
        input_shape: the shape of one input, needed with ``mean`` or ``std``; an image with ``len(mean)`` channels
            if absent.

    Raises:
        InvalidValue: a module, callable or file that is not there or does not work, weights that do not fit (the keys
            are named), a weight that is NaN or infinite, a wrong ``mean`` or ``std``.
        InvalidType: the callable returns something else than an ``nn.Module``.

    >>> model = load_model("verifix.zoo:mnist_wide(k=1)", mean=[0.1307], std=[0.3081])
    >>> model.training, model(torch.zeros(1, 1, 28, 28)).shape
    (False, torch.Size([1, 10]))
    """
    state = None if weights is None else read_weights(weights)
    return _network(spec, state, weights, mean, std, input_shape, dtype)


def load_stages(
    spec: str,
    weights: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[nn.Module] | None:
    """The stages of a cascade, each as :func:`load_model` gives it; None where the arguments name a single network.

    Args:
        spec: a cascade file, see :mod:`verifix.cascade_file`, which names the rest itself; or what every stage is.
        weights: a ``.pth`` file with several state dicts, one for each stage.
        mean, std, input_shape, dtype: as in :func:`load_model`.

    Raises:
        InvalidValue, InvalidType: as in :func:`load_model`; weights or normalisation beside a cascade file.
    """
    if is_cascade_file(spec):
        for name, value in (("weights", weights), ("mean", mean), ("std", std)):
            if value is not None:
                raise InvalidValue(name, value, f"leave it out: {spec} names those of its stages")
        return [
            load_model(stage.model, stage.weights, stage.mean, stage.std, input_shape=input_shape, dtype=dtype)
            for stage in read_cascade(spec)
        ]
    if weights is None or weights_path(weights)[1] is not None:
        return None
    states = read_stages(weights)
    if len(states) == 1:
        return None
    named = [(state, f"{weights}#{number}") for number, state in enumerate(states)]
    return [_network(spec, state, name, mean, std, input_shape, dtype) for state, name in named]


def _network(
    spec: str,
    state: StateDict | None,
    weights: str | Path | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    input_shape: Sequence[int] | None,
    dtype: torch.dtype,
) -> nn.Module:
    """What ``spec`` names with a state dict, which errors call ``weights``, in it."""
    if spec.endswith(".onnx"):
        remedy = "ONNX files cannot be read yet: export the network with torch.export and save it as a .pt2 file"
        raise InvalidValue("MODEL", spec, remedy)
    if is_cascade_file(spec):
        raise InvalidValue("MODEL", spec, "is a cascade, and this takes a single network: name that of one stage")
    model = (_read_exported(Path(spec)) if spec.endswith(".pt2") else _build(spec)).to(dtype)
    if state is not None and weights is not None:
        fit_weights(model, state, weights)
    require_finite(model.state_dict(), "MODEL" if weights is None else "weights", spec if weights is None else weights)
    if spec.endswith(".pt2"):
        model = _Exported(model)
    if mean is not None or std is not None:
        shape = input_shape or (len(mean or std or ()), 1, 1)
        model = nn.Sequential(Normalize(mean or [0.0], std or [1.0], shape).to(dtype), model)
    return model.eval()


class _Exported(nn.Module):
    """An exported program as a module like any other: it stays what it was exported as, whatever mode is asked for."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> _Exported:
        self.training = mode  # not handed on: the program's own train() and eval() only raise
        return self

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.program(x)
        return result


def inner(model: nn.Module) -> nn.Module:
    """The part of what :func:`load_model` gave that weights files are about: without normalisation in front.

    >>> [type(layer).__name__ for layer in inner(load_model("verifix.zoo:mnist_500", mean=[0.1], std=[0.3]))][:2]
    ['Flatten', 'Linear']
    """
    if isinstance(model, nn.Sequential) and len(model) == 2 and isinstance(model[0], Normalize):
        model = model[1]
    return model.program if isinstance(model, _Exported) else model


def probe(model: nn.Module, images: Tensor, classes: int, spec: str | None = None, *, finite: bool = True) -> Tensor:
    """Run the network on ``images`` (one or more, with the batch axis) and refuse what is no classifier of them.

    ``spec`` is what errors call the network; its type where absent. Returns what the network gives.

    Raises:
        InvalidValue: the network fails on them, or gives something else than ``(batch, at least classes)``, or
            something that is not finite, where it must be ``finite``.
    """
    spec, shape = spec or type(model).__name__, tuple(images.shape)
    try:
        with torch.no_grad():
            output = model(images)
    except Exception as error:
        fixed = any(isinstance(module, _Exported) for module in model.modules())
        hint = " (export the program with dynamic_shapes for the batch axis)" if fixed else ""
        raise InvalidValue("MODEL", spec, f"fails on inputs of shape {shape}{hint}: {_first_line(error)}") from error
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[0] != shape[0]:
        got = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InvalidValue("MODEL", spec, f"must give (batch, classes), but for inputs of shape {shape} it gives {got}")
    if output.shape[1] < max(classes, 2):
        raise InvalidValue("MODEL", spec, f"gives {output.shape[1]} outputs, but the data has {classes} classes")
    if finite and not torch.isfinite(output).all():
        raise InvalidValue("MODEL", spec, "gives NaN or infinity on an input of the data set")
    return output


def fingerprint(model: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers, of a model or of its state dict.

    >>> fingerprint(nn.ReLU())
    'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    """
    state = hashlib.sha256()
    content = model.state_dict() if isinstance(model, nn.Module) else model
    for key, value in sorted(content.items()):
        state.update(f"{key} {value.dtype} {tuple(value.shape)};".encode())
        state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _build(spec: str) -> nn.Module:
    module_name, colon, expression = spec.partition(":")
    if not colon or not module_name or not expression:
        raise InvalidValue("MODEL", spec, "use package.module:callable, as in verifix.zoo:mnist_small, or a .pt2 file")
    path, positional, named = _parse_call(spec, expression)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise InvalidValue("MODEL", spec, f"cannot import {module_name}: {_first_line(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            offers = ", ".join(getattr(found, "__all__", ()))
            raise InvalidValue(
                "MODEL", spec, f"{module_name} has no {path!r}" + (f"; it has {offers}" if offers else "")
            )
        found = getattr(found, name)
    if not callable(found):
        raise InvalidValue("MODEL", spec, f"{path} is a {type(found).__name__}: name something that can be called")
    return _call(spec, found, positional, named)


def _call(spec: str, function: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> nn.Module:
    try:
        model = function(*positional, **named)
    except Exception as error:
        raise InvalidValue("MODEL", spec, f"calling it fails: {_first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise InvalidType("MODEL", model, "something that returns a torch.nn.Module")
    return model


def _parse_call(spec: str, expression: str) -> tuple[str, list[Any], dict[str, Any]]:
    """``"f.g(1, k=2)"`` as ``("f.g", [1], {"k": 2})``: names and literals, nothing is evaluated."""
    try:
        node = ast.parse(expression, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("** is not a literal")
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        return _dotted(call.func), [ast.literal_eval(argument) for argument in call.args], named
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        remedy = "after the colon goes a name, optionally with literal arguments, as in verifix.zoo:mnist_wide(k=4)"
        raise InvalidValue("MODEL", spec, remedy) from None


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError("not a name")


def _read_exported(path: Path) -> nn.Module:
    if not path.is_file():
        raise InvalidValue("MODEL", path, "no such file")
    try:
        return torch.export.load(path).module()
    except Exception as error:
        remedy = f"not a program that torch.export.save wrote: {_first_line(error)}"
        raise InvalidValue("MODEL", path, remedy) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
