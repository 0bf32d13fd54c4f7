"""Networks with a bounded second derivative: values, gradients and what both of them can be off by (route R1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verifix.errors import InvalidType, InvalidValue, UnsupportedOperation
from verifix.sets.base import Norm
from verifix.smooth.biased.radii import Expansion
from verifix.smooth.biased.rounding import TINY, down, dual_norms, gamma, sum_above

ROUNDINGS = 64
"""How many roundings an activation is off by, at most, as in ``docs/rounding.md``."""
SLACK = 1 + 2.0**-40
"""For what is itself a short product of numbers of one sign, each computed to nearly all of its digits."""


@dataclass(frozen=True)
class _Activation:
    """A smooth activation: the largest first and second derivative in absolute value, and how to evaluate it."""

    kind: str
    first: float
    second: float
    beta: float = 1.0

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Value and first derivative."""
        if self.kind == "tanh":
            value = torch.tanh(z)
            return value, (1 - value) * (1 + value)
        if self.kind == "sigmoid":
            return torch.sigmoid(z), torch.sigmoid(z) * torch.sigmoid(-z)
        # not torch's softplus, which is another function above its threshold
        value = torch.logaddexp(self.beta * z, torch.zeros_like(z)) / self.beta
        return value, torch.sigmoid(self.beta * z)


class SmoothNetwork:
    """``g`` given by a multi-layer perceptron of tanh, sigmoid or softplus units, for theorem 8.

    Args:
        model: an ``nn.Sequential`` of ``Flatten``, ``Linear``, ``Tanh``, ``Sigmoid`` and ``Softplus`` layers whose last
            one is ``Linear`` with one output, ``g``, or two, and ``g`` is the second minus the first. Its weights are
            copied and read as real numbers; softplus is ``log(1 + exp(beta z)) / beta`` everywhere.

    Raises:
        UnsupportedOperation: any other layer; a ReLU with the reason.
        InvalidType, InvalidValue: no such network.

    The Lipschitz constant of the gradient (:meth:`curvature`) holds everywhere. With ``z_l = W_l phi(z_(l-1)) + b_l``
    and two directions u, v,

        u' H v = sum over l, i of (dg / da_li) phi''(z_li) (grad z_li . u) (grad z_li . v),

    with ``a_l = phi(z_l)`` (differentiate the chain rule once more: each unit contributes its own second derivative).
    So ``L <= sum over l of phi''_max min(sum_i s_li p_li^2, max_i s_li P_l^2)``, where ``s_l`` bounds ``|dg / da_l|``
    (absolute weights backwards, times ``phi'_max`` at each layer), ``p_li`` the dual norm of ``grad z_li`` (absolute
    weights forwards from the dual norms of the rows of ``W_1``), and ``P_l`` the norm of the Jacobian of ``z_l`` from
    the perturbation's norm to the Euclidean (a product of spectral norms).

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.copy_(torch.eye(2)), model[2].weight.fill_(1.0)
    >>> round(SmoothNetwork(model).curvature("l2"), 4)  # 4 / (3 sqrt 3)
    0.7698
    """

    def __init__(self, model: nn.Module) -> None:
        self._curvatures: dict[Norm, float] = {}
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.activations: list[_Activation] = []
        layers = _layers(model)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                if len(self.activations) < len(self.weights):
                    raise InvalidValue("model", "two linear layers in a row", "put an activation between them")
                weight = layer.weight.detach().double()
                bias = layer.bias.detach().double() if layer.bias is not None else weight.new_zeros(len(weight))
                self.weights.append(weight)
                self.biases.append(bias)
            else:
                self.activations.append(_activation(layer))
                if len(self.activations) != len(self.weights):
                    raise InvalidValue("model", f"{layer} without a linear layer before it", "put one there")
        if not self.weights or len(self.activations) != len(self.weights) - 1:
            raise InvalidValue("model", type(model).__name__, "must end with a Linear layer")
        if not all(bool(torch.isfinite(t).all()) for t in [*self.weights, *self.biases]):
            raise InvalidValue("model", "NaN or infinite weights", "load or train them again")
        if len(self.weights[-1]) == 2:
            self._take_difference()
        if len(self.weights[-1]) != 1:
            outputs = f"{len(self.weights[-1])} outputs"
            raise InvalidValue("model", outputs, "must have one, or two whose difference is taken; or use BiasedLogits")

    def _take_difference(self) -> None:
        """Second output minus first. The differences are rounded: the network is the one with these very numbers."""
        weight, bias = self.weights[-1], self.biases[-1]
        self.weights[-1], self.biases[-1] = weight[1:] - weight[:1], bias[1:] - bias[:1]

    def value(self, x: Tensor) -> Tensor:
        """``g`` of inputs ``(n, *shape)``, ``(n,)``, differentiable; in the dtype of ``x``."""
        rows = x.flatten(1)
        for weight, bias, activation in zip(self.weights, self.biases, [*self.activations, None], strict=True):
            rows = rows @ weight.to(rows).T + bias.to(rows)
            rows = rows if activation is None else activation(rows)[0]
        return rows[:, 0]

    @torch.no_grad()
    def expand(self, x: Tensor, norm: Norm) -> Expansion:
        """Value, gradient and curvature at inputs ``(n, *shape)`` in float64, with bounds on all that is rounded.

        Raises:
            InvalidValue: inputs of another size than the first layer takes.
        """
        x = x.flatten(1)
        if x.shape[1] != self.weights[0].shape[1]:
            raise InvalidValue("x", f"inputs of {x.shape[1]} numbers", f"the network takes {self.weights[0].shape[1]}")
        value, error = x, torch.zeros_like(x)
        slopes: list[tuple[Tensor, Tensor]] = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            value, error = _multiplied(value, error, weight.T, bias)
            if layer < len(self.activations):
                phi = self.activations[layer]
                error = (error + 4 * gamma(1) * value.abs()) * SLACK  # and of beta times z
                value, slope = phi(value)
                bent = phi.second * error + 3 * gamma(ROUNDINGS)  # a slope is at most 1
                slopes.append((slope, bent * SLACK))
                error = (phi.first * error + gamma(ROUNDINGS) * value.abs()) * SLACK + TINY
        row = self.weights[-1].expand(len(x), -1)
        doubt = torch.zeros_like(row)
        for (slope, bent), weight in zip(reversed(slopes), reversed(self.weights[:-1]), strict=True):
            doubt = (doubt * slope + (row.abs() + doubt) * bent + gamma(4) * (row * slope).abs()) * SLACK + TINY
            row, doubt = _multiplied(row * slope, doubt, weight, None)
        lower, upper = dual_norms(row, norm)
        _, off = dual_norms(doubt, norm)
        return Expansion(
            value[:, 0], error[:, 0], down(lower - off).clamp(min=0), sum_above(upper, off), self.curvature(norm),
            math.inf, True,
        )  # fmt: skip

    def curvature(self, norm: Norm) -> float:
        """A Lipschitz constant of the gradient everywhere, from the norm to its dual; rounded up."""
        if norm not in self._curvatures:
            self._curvatures[norm] = self._curvature(norm)
        return self._curvatures[norm]

    def _curvature(self, norm: Norm) -> float:
        backward = [self.weights[-1].abs()[0]]
        for weight, phi in zip(reversed(self.weights[1:-1]), reversed(self.activations[1:]), strict=True):
            backward.append((phi.first * backward[-1]) @ weight.abs())
        rows = dual_norms(self.weights[0], norm)[1]
        operator = _operator_norm(self.weights[0], norm)
        total = 0.0
        for layer, phi in enumerate(self.activations):
            s = backward[len(self.activations) - 1 - layer]
            each = float((s * rows.square()).sum())
            together = float(s.max()) * operator**2
            total += phi.second * min(each, together)
            following = self.weights[layer + 1]
            rows = following.abs() @ (phi.first * rows)
            operator = phi.first * operator * spectral_norm(following)
        terms = 8 + 4 * len(self.weights) + sum(sum(weight.shape) for weight in self.weights)
        # all terms are of one sign: the error is relative
        return total * (1 + 8 * gamma(terms)) if total else 0.0


def spectral_norm(weight: Tensor) -> float:
    """An upper bound of the spectral norm, in float64, whatever the singular value decomposition returned.

    With ``W = U S V' + R`` it is at most ``||U|| ||S|| ||V|| + ||R||_F``, and ``||U||^2 <= 1 + ||U'U - I||_F``.

    >>> bool(0 <= spectral_norm(torch.diag(torch.tensor([3.0, 4.0])).double()) - 4 < 1e-10)
    True
    """
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    terms = max(weight.shape) + 4
    product = (u * s) @ v
    doubt = gamma(terms) * float(u.norm() * s.max() * v.norm()) + 2.0**-52 * float(weight.norm())
    rest = float((weight - product).norm()) * (1 + gamma(weight.numel() + 4)) + 2 * doubt
    stretched = 1.0
    for factor in (u.T @ u, v @ v.T):
        off = float((factor - torch.eye(len(factor)).to(factor)).norm()) + 4 * gamma(terms) * len(factor)
        stretched *= 1 + off
    return (float(s.max()) * stretched + rest) * SLACK


def _operator_norm(weight: Tensor, norm: Norm) -> float:
    """An upper bound of the norm of a matrix, from this norm to the Euclidean one."""
    slack = 1 + gamma(weight.numel() + 8)
    if norm == "l2":
        return spectral_norm(weight)
    if norm == "l1":  # the corners of the ball are unit vectors
        return float(weight.norm(dim=0).max()) * slack
    whole = spectral_norm(weight) * math.sqrt(weight.shape[1])
    return min(float(weight.abs().sum(1).norm()), whole) * slack


def _multiplied(value: Tensor, error: Tensor, matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows times a matrix plus a bias, and how far that is from the truth where the rows are by up to ``error``."""
    size = matrix.abs()
    product = value @ matrix
    magnitude = (value.abs() + error) @ size
    carried = error @ size
    if bias is not None:
        product, magnitude = product + bias, magnitude + bias.abs()
    terms = len(matrix) + 4
    return product, (carried + gamma(terms) * magnitude) * (1 + gamma(terms)) + 4 * terms * TINY


def _layers(model: object) -> list[nn.Module]:
    if not isinstance(model, nn.Module):
        raise InvalidType("model", model, "an nn.Sequential")
    if isinstance(model, nn.Sequential):
        return [layer for child in model for layer in _layers(child)]
    return [] if isinstance(model, (nn.Flatten, nn.Identity)) else [model]


def _activation(layer: nn.Module) -> _Activation:
    if isinstance(layer, nn.Tanh):
        return _Activation("tanh", 1.0, 4 / (3 * math.sqrt(3)) * SLACK)
    if isinstance(layer, nn.Sigmoid):
        return _Activation("sigmoid", 0.25, 1 / (6 * math.sqrt(3)) * SLACK)
    if isinstance(layer, nn.Softplus):
        if not 0 < layer.beta < math.inf:
            raise InvalidValue("beta", layer.beta, "a softplus needs a finite one above 0")
        return _Activation("softplus", 1.0, float(layer.beta) / 4 * SLACK, float(layer.beta))
    refuse_kinks(layer)
    raise UnsupportedOperation(
        f"model: {layer}: its second derivative is not known here; use Linear, Tanh, Sigmoid and Softplus layers, or "
        "give the function and a Lipschitz constant of its gradient to SmoothFunction"
    )


_KINKED = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink,
    nn.Softshrink, nn.Threshold, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)  # fmt: skip


def refuse_kinks(model: nn.Module) -> None:
    """Refuse a network with layers whose gradient jumps: no Lipschitz constant of it exists, and assumption 7 of the
    paper fails.

    Raises:
        UnsupportedOperation: there is one; it is named.
    """
    for layer in model.modules():
        if isinstance(layer, _KINKED):
            raise UnsupportedOperation(
                f"model: {layer}: its gradient jumps, so that assumption 7 of theorem 8 fails; use BiasedLogits, which "
                "is certified through bounds, or a smooth activation"
            )
