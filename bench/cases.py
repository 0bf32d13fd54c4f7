"""Networks, weights and inputs that are measured, and the float64 oracle that every case is held against first."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from bench.operations import exact_multiply_adds
from verifix import zoo
from verifix.bounds import Engine, parse_method
from verifix.bounds.backward import backward
from verifix.bounds.rounding import plain_arithmetic
from verifix.certify import Margins
from verifix.data import load
from verifix.graph import Graph
from verifix.models import load_model
from verifix.operations import Lines, Relaxation
from verifix.sets import LpBall

_SHARED = Path(__file__).resolve().parents[2] / "shared"
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.225, 0.225, 0.225)


@dataclass(frozen=True)
class Case:
    """A network, labelled inputs, and the ball around each."""

    name: str
    model: nn.Module
    graph: Graph
    x: Tensor
    y: Tensor
    ball: vx.Ball

    @property
    def eps(self) -> float:
        """The radius of the l_inf ball."""
        sets = self.ball.around(self.x[:1])
        return float(sets.eps.max()) if isinstance(sets, LpBall) else math.nan

    @property
    def box(self) -> tuple[float, float] | None:
        """The range that every input stays in, where the case has one."""
        box = self.ball.box
        return None if box is None else (float(box[0]), float(box[1]))

    @property
    def flops(self) -> float:
        """Floating-point operations per input of the exact margins."""
        return 2.0 * exact_multiply_adds(self.graph, self.graph.shape[0] - 1)

    @property
    def hidden_units(self) -> int:
        return sum(math.prod(node.shape) for node in self.graph.nonlinear(self.graph.output))

    def batch(self, index: int, size: int) -> tuple[Tensor, Tensor]:
        """The ``index``-th batch of so many inputs; from the start again after the last."""
        first = index * size % max(1, len(self.x) - size + 1)
        return self.x[first : first + size], self.y[first : first + size]

    def engine(self, x: Tensor, method: str, *, native: bool = True, rounding: bool = True) -> Engine:
        return Engine(self.graph, self.ball.around(x), parse_method(method)[0], native=native, rounding=rounding)

    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        return Margins(y, self.graph.shape[0]).rows(slice(None), x)

    def margins(self, x: Tensor, y: Tensor, method: str, *, native: bool = True, rounding: bool = True) -> Tensor:
        """Lower bounds of all margins, ``(n, classes - 1)``."""
        with torch.no_grad(), plain_arithmetic():
            engine = self.engine(x, method, native=native, rounding=rounding)
            return engine.rows(self.graph.output, self.rows(x, y), upper=False)[0]

    def oracle(self, x: Tensor, y: Tensor, method: str) -> Tensor:
        """The margins in float64 by plain torch."""
        return self.margins(x.double(), y, method, native=False, rounding=False)

    def verify(self, method: str, *, native: bool = True, whole: bool = True, inputs: int = 4) -> dict[str, float]:
        """Errors of the margins of the first inputs: as computed, and by how much they are lowered to be rigorous.

        Adaptive slopes and networks that are not done ``whole`` are held against :meth:`oracle_on_same_lines`.
        """
        x, y = self.batch(0, inputs)
        found = {}
        for rounding in (False, True):
            if whole and method in ("ibp", "cap"):
                oracle = self.oracle(x, y, method)
            else:
                oracle = self.oracle_on_same_lines(x, y, method, native=native, rounding=rounding)
            bound = self.margins(x, y, method, native=native, rounding=rounding)
            if rounding:
                found["lowered by"] = lowered_by(bound, oracle)
            else:
                found["error"] = error_of(bound, oracle)
        return found

    def oracle_on_same_lines(
        self, x: Tensor, y: Tensor, method: str, *, native: bool = True, rounding: bool = True, sample: int = 8
    ) -> Tensor:
        """The margins in float64 by plain torch, on the lines that the engine found in the dtype of ``x``.

        For networks that plain torch cannot do whole, and for adaptive slopes, which jump between 0 and 1 where both
        sides are as far from 0. The hidden bounds that the lines are made of are held against the same oracle, at a
        random sample of each node.
        """
        with torch.no_grad(), plain_arithmetic():
            engine = self.engine(x, method, native=native, rounding=rounding)
            engine.rows(self.graph.output, self.rows(x, y), upper=False)
            sets = self.ball.around(x.double())
            lines = {name: _in_double(found) for name, found in engine.relaxations.items()}
            if engine.method.intermediate == "backward":
                for node in self.graph.nonlinear(self.graph.output):
                    name, shape = node.inputs[0], self.graph.shape_of(node.inputs[0])
                    size = math.prod(shape)
                    index = torch.randperm(size, generator=torch.Generator().manual_seed(size))[:sample]
                    rows = torch.zeros(1, len(index), size, dtype=torch.float64)
                    rows[0, torch.arange(len(index)), index] = 1.0
                    rows = rows.reshape(1, -1, *shape)
                    low, _ = backward(self.graph, name, rows, lines, sets, upper=False)
                    lower = engine.node(name)[0].flatten(1)[:, index]
                    if rounding:
                        lowered_by(lower, low)
                    else:
                        error_of(lower, low)
            rows = self.rows(x, y).double()
            return backward(self.graph, self.graph.output, rows, lines, sets, upper=False)[0]


def _in_double(relaxation: Relaxation) -> Relaxation:
    if not isinstance(relaxation, Lines):
        pytest.skip(f"no oracle for {type(relaxation).__name__}")
    lower, upper = relaxation.lower_offset, relaxation.upper_offset
    return Lines(
        relaxation.lower_slope.double(),
        None if lower is None else lower.double(),
        relaxation.upper_slope.double(),
        None if upper is None else upper.double(),
    )


def error_of(bound: Tensor, oracle: Tensor, *, allowed: float = 1e-5) -> float:
    """The largest error relative to the largest oracle value; a case that is further off than ``allowed`` fails."""
    error = float((bound.double() - oracle).abs().max() / oracle.abs().max())
    if not error <= allowed:
        pytest.fail(f"differs from the float64 oracle by {error:.2e} of its largest value")
    return error


def lowered_by(rigorous: Tensor, oracle: Tensor) -> float:
    """By how much bounds are lowered for their own rounding, relative to the largest oracle value; they must be below
    the oracle, up to the rounding of the oracle itself."""
    scale = oracle.abs().max()
    if not bool((rigorous.double() <= oracle + 1e-9 * scale).all()):
        pytest.fail("is above the float64 oracle, of which it should be a lower bound")
    return float((oracle - rigorous.double()).max() / scale)


def _folder(variable: str, name: str) -> Path:
    folder = Path(os.environ.get(variable, _SHARED / name))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set {variable} to the folder")
    return folder


def _case(name: str, model: nn.Module, x: Tensor, y: Tensor, ball: vx.Ball) -> Case:
    return Case(name, model, vx.capture(model, x[:2]), x, y, ball)


def published_mnist() -> Case:
    """mnist-small with the published weights, l_inf 0.1 without box, 1,000 test images."""
    weights = _folder("VERIFIX_MODELS", "models") / "convex_adversarial" / "mnist.pth"
    data = load(f"mnist:{_folder('VERIFIX_DATA', 'data') / 'mnist'}").first(1000)
    model = load_model("verifix.zoo:mnist_small", weights)
    return _case("mnist-small, published", model, data.images, data.labels, vx.Ball("linf", eps=0.1))


def published_cifar() -> Case:
    """cifar-small, stage 0 of the published cascade, l_inf 0.139 in normalised units without box, 1,000 test images."""
    weights = _folder("VERIFIX_MODELS", "models") / "convex_adversarial" / "cifar_small_8px.pth"
    data = load(f"cifar10:{_folder('VERIFIX_DATA', 'data') / 'cifar-10-batches-bin'}").first(1000)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (CIFAR_MEAN, CIFAR_STD))
    model = load_model("verifix.zoo:cifar_small", f"{weights}#0")
    return _case("cifar-small, published", model, (data.images - mean) / std, data.labels, vx.Ball("linf", eps=0.139))


def random_weights(
    name: str, build: Callable[[], nn.Module], shape: tuple[int, ...], eps: float, inputs: int = 128
) -> Case:
    """A network as torch initialises it, on uniform inputs labelled by itself; seed 0."""
    torch.manual_seed(0)
    model = build().eval()
    x = torch.rand(inputs, *shape)
    with torch.no_grad():
        y = model(x).argmax(1)
    return _case(name, model, x, y, vx.Ball("linf", eps=eps, box=(0, 1)))


def dense_9() -> nn.Sequential:
    """Nine dense layers on MNIST: eight of 200 units, and the classes."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (784, *[200] * 7):
        layers += [nn.Linear(inputs, 200), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(200, 10))


MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
CASES: dict[str, Callable[[], Case]] = {
    "mnist-small-published": published_mnist,
    "cifar-small-published": published_cifar,
    "mnist-small": lambda: random_weights("mnist-small", zoo.mnist_small, MNIST, 0.1),
    "dense-9": lambda: random_weights("dense-9", dense_9, MNIST, 0.01),
    "mnist-large": lambda: random_weights("mnist-large", zoo.mnist_large, MNIST, 0.1),
    "cifar-large": lambda: random_weights("cifar-large", zoo.cifar_large, CIFAR, 2 / 255),
    "cifar-resnet": lambda: random_weights("cifar-resnet", zoo.cifar_resnet, CIFAR, 2 / 255),
    "wide 1": lambda: wide(1),
    "wide 2": lambda: wide(2),
    "wide 4": lambda: wide(4),
    "wide 8": lambda: wide(8),
}


def wide(k: int) -> Case:
    return random_weights(f"wide {k}", lambda: zoo.mnist_wide(k), MNIST, 0.1)


def deep(k: int) -> Case:
    return random_weights(f"deep {k}", lambda: zoo.mnist_deep(k), MNIST, 0.1)
