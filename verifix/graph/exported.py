"""Capture of any ``nn.Module`` by ``torch.export``."""

from __future__ import annotations

import io
import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind

from verifix.errors import InvalidValue, UnsupportedOperation
from verifix.graph.aten import RULES, SHAPED, SUPPORTED, Lowering
from verifix.graph.graph import INPUT, Graph
from verifix.operations import Value, fixed, live


def export(model: nn.Module, example: Tensor) -> Graph:
    """The graph of a model by ``torch.export``, for any batch size.

    Raises:
        UnsupportedOperation: for an operation without a rule (named, with the user's source line), or when the model
            cannot be exported at all, for example because its control flow depends on the input.
    """
    # two inputs or more: torch.export would take a batch of one for a constant
    sample = example.repeat(2, *[1] * (example.dim() - 1))[:2]
    try:
        with warnings.catch_warnings(), _without_logs():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (sample,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            program = program.run_decompositions({})
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnsupportedOperation(
            f"model {type(model).__name__}: torch.export could not capture it for any batch size ({reason}); "
            "remove control flow that depends on values, keep axis 0 as the batch "
            "(of size x.shape[0], not len(x)), or pass an nn.Sequential"
        ) from error
    return _Reader(program, model, tuple(example.shape[1:])).read()


@contextmanager
def _without_logs() -> Iterator[None]:
    """No pages of torch's own, logged and printed, beside the one line of an error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class _Reader:
    """Turns the nodes of an exported program into ours: constants stay expressions over live parameters."""

    def __init__(self, program: torch.export.ExportedProgram, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.program, self.model = program, model
        self.lowering = Lowering(input_shape)
        self.values: dict[fx.Node, Any] = {}

    def read(self) -> Graph:
        signature = self.program.graph_signature
        live_names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        output: str | None = None
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name in live_names:
                    self.values[node] = self._live(live_names[node.name])
                elif node.name in lifted:
                    self.values[node] = fixed(self.program.constants[lifted[node.name]])
                elif INPUT in self.values.values():
                    raise UnsupportedOperation(
                        f"model {type(self.model).__name__}: takes several inputs; verifix captures models of one"
                    )
                else:
                    self.values[node] = INPUT
            elif node.op == "output":
                output = self._output(node)
            else:
                self.values[node] = self._call(node)
        if output is None:
            raise InvalidValue("model", type(self.model).__name__, "its output does not depend on its input")
        if output == INPUT or output != next(reversed(self.lowering.nodes)):
            output = self.lowering.identity(output)
        return Graph(self.lowering.input_shape, self.lowering.nodes.values())

    def _live(self, path: str) -> Value:
        owner, _, name = path.rpartition(".")
        return live(self.model.get_submodule(owner), name)

    def _output(self, node: fx.Node) -> str:
        signature = self.program.graph_signature
        returned: Any = node.args[0]
        if signature.buffers_to_mutate:
            names = ", ".join(sorted(signature.buffers_to_mutate.values()))
            raise UnsupportedOperation(
                f"model {type(self.model).__name__}: changes its buffer {names} at each call; "
                "verifix captures functions of the input alone"
            )
        kinds = [spec.kind for spec in signature.output_specs]
        outputs = [value for value, kind in zip(returned, kinds, strict=True) if kind == OutputKind.USER_OUTPUT]
        if len(outputs) != 1:
            raise UnsupportedOperation(
                f"model {type(self.model).__name__}: returns {len(outputs)} values; "
                "wrap it to return one tensor of logits"
            )
        value = self.values.get(outputs[0])
        if not isinstance(value, str):
            raise InvalidValue("model", type(self.model).__name__, "its output does not depend on its input")
        return value

    def _depends_on_input(self, node: fx.Node) -> bool:
        return any(isinstance(self.values[argument], (str, list)) for argument in node.all_input_nodes)

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem and isinstance(self.values[node.args[0]], list):  # type: ignore[index]
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        if not isinstance(node.meta.get("val"), (Tensor, tuple, list)):
            return _Size()  # sizes and guards: batch sizes are read off the shapes
        if not self._depends_on_input(node):
            return self._constant(node)
        name = _rule_name(node.target)
        rule = RULES.get(name)
        source = _source_line(node)
        if rule is None:
            where = f" at {source}" if source else ""
            raise UnsupportedOperation(
                f"operation {name}{where} is not supported; supported are: {', '.join(SUPPORTED)}"
            )
        self._check_batch(node, source)
        self._check_arithmetic(node, source)
        self.lowering.begin(_module_name(node), source)
        arguments = torch.fx.node.map_arg(node.args, lambda argument: self.values[argument])
        options = torch.fx.node.map_arg(node.kwargs, lambda argument: self.values[argument])
        outputs = node.meta["val"]
        shape = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else None
        try:
            return rule(self.lowering, node.target, shape, *arguments, **options)
        except InvalidValue as error:
            where = f" at {source}" if source else ""
            raise UnsupportedOperation(f"operation {name}{where}: {error}") from error

    def _check_batch(self, node: fx.Node, source: str) -> None:
        batch = next(n for n in self.program.graph.nodes if self.values.get(n) == INPUT).meta["val"].shape[0]
        outputs = node.meta["val"]
        for output in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            if isinstance(output, Tensor) and output.numel() != 0 and (output.dim() == 0 or output.shape[0] != batch):
                where = f" at {source}" if source else ""
                raise UnsupportedOperation(
                    f"operation {_rule_name(node.target)}{where} moves or mixes the batch axis "
                    f"(output {tuple(output.shape)}); keep axis 0 as the batch"
                )

    def _check_arithmetic(self, node: fx.Node, source: str) -> None:
        """Refuse what a map of one input's real numbers cannot do: computing with the batch size, rounding."""
        where = f" at {source}" if source else ""
        name = _rule_name(node.target)
        if name not in SHAPED and any(isinstance(self.values[a], _Size) for a in node.all_input_nodes):
            raise UnsupportedOperation(
                f"operation {name}{where} computes with the batch size; each output must depend on one input alone"
            )
        own = next(n for n in self.program.graph.nodes if self.values.get(n) == INPUT).meta["val"].dtype
        output = node.meta["val"]
        if isinstance(output, Tensor) and output.dtype != own:
            dtype = output.dtype
            if not dtype.is_floating_point or torch.finfo(dtype).eps > torch.finfo(own).eps:
                raise UnsupportedOperation(
                    f"operation {name}{where} rounds to {dtype}; keep to the dtype of the input ({own})"
                )

    def _constant(self, node: fx.Node) -> Value:
        """An expression over parameters, buffers and constants, evaluated anew at each use."""
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        values = self.values

        def evaluate() -> Any:
            def resolve(argument: fx.Node) -> Any:
                value = values[argument]
                if isinstance(value, _Size):
                    raise UnsupportedOperation(
                        f"operation {_rule_name(node.target)}: a constant of the batch's size; use one that broadcasts"
                    )
                return value() if callable(value) else value

            return target(*torch.fx.node.map_arg(node.args, resolve), **torch.fx.node.map_arg(node.kwargs, resolve))

        return evaluate


_TORCH = str(Path(torch.__file__).parent)


class _Size:
    """Stands for a number that torch.export computes from the batch size."""


def _rule_name(target: Any) -> str:
    name = str(target)
    return name.removeprefix("aten.").split(".")[0] if name.startswith("aten.") else name


def _source_line(node: fx.Node) -> str:
    """The innermost line of the user's own code that led to an operation, or torch's where there is no other."""
    frames: list[list[str]] = []
    for line in (node.meta.get("stack_trace") or "").splitlines():
        if line.strip().startswith("File "):
            frames.append([line.strip().removeprefix("File ")])
        elif line.strip() and frames:
            frames[-1].append(f"`{line.strip()}`")
    own = [frame for frame in frames if not frame[0].startswith(f'"{_TORCH}')]
    return " ".join((own or frames or [[""]])[-1])


def _module_name(node: fx.Node) -> str:
    """The path of the layer whose output this is, or torch's own name for the node."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(stack.values())) if stack else ("", "")
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    following = node.next
    while following.target is operator.getitem:
        following = following.next
    last = following.op == "output" or following.meta.get("nn_module_stack") != node.meta.get("nn_module_stack")
    leaf = path and last and kind.startswith("torch.nn.modules") and "container" not in kind
    return path if leaf else node.name
