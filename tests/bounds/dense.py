"""ReLU networks as matrices, and bounds of them written out from the papers' equations with dense linear algebra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from verifix.operations import Shape

Array = NDArray[np.float64]
Interval = tuple[Array, Array]


@dataclass(frozen=True)
class Piece:
    """``z -> weight @ z + bias``: everything between two ReLUs, and the name of its last layer."""

    weight: Array
    bias: Array
    name: str


def pieces(model: nn.Sequential, shape: Shape) -> list[Piece]:
    """The affine maps of a float64 network of affine layers and ReLUs, found by sending unit vectors through torch."""
    found = []
    chain: list[nn.Module] = []
    name = ""
    for position, layer in enumerate([*model, nn.ReLU()]):
        if not isinstance(layer, nn.ReLU):
            chain.append(layer)
            name = str(position)
            continue
        size = int(np.prod(shape))
        affine = nn.Sequential(*chain).eval()
        with torch.no_grad():
            at_zero = affine(torch.zeros(1, *shape, dtype=torch.float64))
            constant = at_zero.flatten(1)
            columns = affine(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1) - constant
        found.append(Piece(columns.T.numpy(), constant[0].numpy(), name))
        shape, chain = tuple(at_zero.shape[1:]), []
    return found


def dual_norm(rows: Array, norm: str) -> Array:
    """``||row||_*`` of each row, for a ball of the norm."""
    return np.linalg.norm(rows, {"linf": 1, "l2": 2, "l1": np.inf}[norm], axis=1)


def dual_objective(network: list[Piece], hidden: list[Interval], x: Array, eps: float, norm: str, c: Array) -> Array:
    """Equation 3.8 of the thesis at the ``nu`` of equation 3.9 with ``alpha`` of equation 3.18, per row of ``c``."""
    k = len(network) + 1
    weight = {i: piece.weight for i, piece in enumerate(network, 1)}  # W_1 ... W_{k-1}
    bias = {i: piece.bias for i, piece in enumerate(network, 1)}
    bounds = dict(enumerate(hidden, 2))  # l_2, u_2 ... l_{k-1}, u_{k-1}
    nu, nu_hat = {k: -c.T}, {}
    for i in range(k - 1, 0, -1):
        nu_hat[i] = weight[i].T @ nu[i + 1]
        if i == 1:
            break
        lower, upper = (side[:, None] for side in bounds[i])
        share = upper / np.where(upper > lower, upper - lower, 1.0)
        alpha = share
        spanning = share * np.maximum(nu_hat[i], 0) - alpha * np.maximum(-nu_hat[i], 0)
        nu[i] = np.where(upper <= 0, 0.0, np.where(lower >= 0, nu_hat[i], spanning))
    objective = -sum(nu[i + 1].T @ bias[i] for i in range(1, k)) - nu_hat[1].T @ x - eps * dual_norm(nu_hat[1].T, norm)
    for i in range(2, k):
        lower, upper = bounds[i]
        crossing = (lower < 0) & (upper > 0)
        objective = objective + np.maximum(nu[i][crossing], 0).T @ lower[crossing]
    return np.asarray(objective)


def activation_bounds(network: list[Piece], x: Array, eps: float, norm: str) -> list[Interval]:
    """Algorithm 1 of the thesis, with its names, for any norm: ``l_i, u_i`` of every layer, the output last."""
    first = network[0]
    nu_1, gamma = first.weight.T, [first.bias[None]]
    nu: list[Array] = []  # nu_{j, I_j}, one row per crossing unit
    low: list[Array] = []  # l_{j, I_j}
    middle = x @ first.weight.T + first.bias
    found = [(middle - eps * dual_norm(nu_1.T, norm), middle + eps * dual_norm(nu_1.T, norm))]
    for piece in network[1:]:
        lower, upper = found[-1]
        crossing = (lower < 0) & (upper > 0)
        d = np.where(lower >= 0, 1.0, 0.0)
        d[crossing] = (upper / np.where(crossing, upper - lower, 1.0))[crossing]
        step = np.diag(d) @ piece.weight.T  # D_i W_i^T
        nu = [*(rows @ step for rows in nu), step[crossing]]
        low = [*low, lower[crossing]]
        gamma = [*(row @ step for row in gamma), piece.bias[None]]
        nu_1 = nu_1 @ step
        psi = x @ nu_1 + sum(row[0] for row in gamma)
        spread = eps * dual_norm(nu_1.T, norm)
        down = sum(side @ np.maximum(-rows, 0) for rows, side in zip(nu, low, strict=True))
        up = sum(side @ np.maximum(rows, 0) for rows, side in zip(nu, low, strict=True))
        found.append((psi - spread + down, psi + spread - up))
    return found


def interval_bounds(network: list[Piece], lower: Array, upper: Array) -> list[Interval]:
    """Interval bound propagation: ``mu = (u + l) / 2``, ``r = (u - l) / 2``, then ``W mu + b`` and ``|W| r``."""
    found = []
    for piece in network:
        mu, r = (upper + lower) / 2, (upper - lower) / 2
        mu, r = piece.weight @ mu + piece.bias, np.abs(piece.weight) @ r
        found.append((mu - r, mu + r))
        lower, upper = np.maximum(mu - r, 0), np.maximum(mu + r, 0)
    return found
