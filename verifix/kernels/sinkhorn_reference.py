"""Projected and conjugate Sinkhorn in plain torch, image by image in float64: the oracle and the fallback.

Native code does the same steps, in the type of the images but for the last one, and adds in another order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CERTAIN = 1 - 2.0**-40
"""What the cost of a plan is kept below, as a part of the budget: more than its rounding takes."""
_LARGEST = 490 * math.log(2)  # of |beta|: exponentials and their products stay in the range of float64
_STEP = 40.0  # what the multiplier may grow by at once
_TINY = 1e-300
_UNDERFLOW = 2.0**-1000  # more than a product that underflows loses, in every mode of the processor


@dataclass(frozen=True)
class Rule:
    """How to iterate, and when to stop."""

    regularisation: float
    tolerance: float
    max_sweeps: int
    relaxation: float
    momentum: float


def around(v: Tensor, radius: int) -> Tensor:
    """What lies at each offset of the window, ``(K, C, H, W)`` of ``(C, H, W)``; zero outside of the image.

    >>> around(torch.tensor([[[1.0, 2.0]]]), 1)[:, 0, 0, 0]
    tensor([0., 0., 0., 0., 1., 2., 0., 0., 0.])
    """
    height, width = v.shape[1:]
    padded = F.pad(v, (radius,) * 4)
    window = range(2 * radius + 1)
    return torch.stack([padded[:, i : i + height, j : j + width] for i in window for j in window])


def gathered(plan: Tensor, radius: int) -> Tensor:
    """Column sums ``(C, H, W)`` of a plan ``(K, C, H, W)``: what arrives at each pixel."""
    height, width = plan.shape[2:]
    out = plan.new_zeros(plan.shape[1], height + 2 * radius, width + 2 * radius)
    for offset, moved in enumerate(plan):
        i, j = divmod(offset, 2 * radius + 1)
        out[:, i : i + height, j : j + width] += moved
    return out[:, radius : radius + height, radius : radius + width]


class _Projection:
    """The iterates for one image of mass 1: algorithm 8 with u = exp(alpha) and v = exp(beta)."""

    def __init__(self, x: Tensor, w: Tensor, cost: Tensor, eps: float, rule: Rule) -> None:
        self.x, self.eps, self.rule = x, eps, rule
        self.cost = cost.reshape(-1, 1, 1, 1)
        self.radius = math.isqrt(len(cost)) // 2
        # Nothing arrives where no mass is near: there z = 0 = w - beta / lambda, whatever w is.
        reached = around(x, self.radius).sum(0) > 0
        self.target = torch.where(reached, (rule.regularisation * w).clamp(min=-_LARGEST), 0.0)
        self.beta, self.velocity = torch.zeros_like(x), torch.zeros_like(x)
        self.multiplier = 1.0
        self.residual, self.before = math.inf, math.inf
        self.sweeps, self.age = 0, 0

    def plan(self) -> Tensor:
        """The plan of the rows x at this beta and multiplier."""
        weighted = torch.exp(-self.multiplier * self.cost - 1) * around(self.beta.exp(), self.radius)
        return weighted * (self.x / weighted.sum(0).clamp(min=_TINY))

    def satisfied(self, residual: float, cost: float) -> bool:
        """Whether columns and cost are as they must be, to the tolerance."""
        gap = cost - self.eps if self.multiplier == 0 else abs(cost - self.eps)
        return residual <= self.rule.tolerance and gap <= self.rule.tolerance * self.eps

    def sweep(self) -> bool:
        """One step for beta and for the multiplier; says whether the point before it was satisfactory."""
        plan = self.plan()
        columns = self.rule.regularisation * gathered(plan, self.radius)
        error = (self.target - self.beta) - columns
        residual = float(error.abs().sum()) / self.rule.regularisation
        cost, second = float((self.cost * plan).sum()), float((self.cost**2 * plan).sum())
        done = self.satisfied(residual, cost)
        self.age = 0 if self.residual > self.before else self.age + 1
        self.before, self.residual = self.residual, residual
        relaxation, momentum = 1.0, 0.0  # where the residual grew
        if self.age > 0:
            relaxation, momentum = self.rule.relaxation, max(self.rule.momentum, self.age / (self.age + 20))
        # Below the root of its own equation, or at it to second order: see docs/wasserstein-sinkhorn.md.
        step = error / (1 + columns + (0.5 * error).clamp(min=0))
        self.velocity = relaxation * step + momentum * self.velocity
        self.beta = (self.beta + self.velocity).clamp(-_LARGEST, _LARGEST)
        self.multiplier = next_multiplier(self.multiplier, cost, second, self.eps)
        self.sweeps += 1
        return done

    def finish(self) -> tuple[Tensor, float, float, bool]:
        """A point of the ball: its column residual, the cost of its plan, and whether all is to the tolerance."""
        plan = self.plan()
        cost = float((self.cost * plan).sum())
        kept = 1.0 if cost <= CERTAIN * self.eps else CERTAIN * self.eps / cost
        z = kept * gathered(plan, self.radius) + (1 - kept) * self.x
        residual = float((z - (self.target - self.beta) / self.rule.regularisation).abs().sum())
        return z, residual, kept * cost, self.satisfied(residual, cost)


def next_multiplier(multiplier: float, cost: float, second: float, eps: float) -> float:
    """A Newton step on the logarithm of the cost, of which it is nearly a linear function, with 2 (q - 1) / (q + 1) for
    log q; at least 0."""
    if not second > 0:
        return multiplier / 2 if multiplier > 2.0**-10 else 0.0
    return max(0.0, multiplier + cost / second * (2 * (cost - eps) / (cost + eps)))


def projected_sinkhorn(
    x: Tensor,  # (n, C, H, W)
    w: Tensor,  # (n, C, H, W)
    cost: Tensor,  # (K,)
    budget: Tensor,  # (n,)
    rule: Rule,
) -> tuple[Tensor, ...]:
    """:func:`verifix.kernels.sinkhorn.projected_sinkhorn`; the arguments have been checked."""
    z = x.clone()
    facts = torch.zeros(4, len(x), dtype=torch.float64)
    sweeps = torch.zeros(len(x), dtype=torch.int64)
    for i in range(len(x)):
        source, target, radius = x[i].double().cpu(), w[i].double().cpu(), float(budget[i])
        mass = float(source.sum())
        if not _usable(source, target, radius, mass):
            z[i] = math.nan
            facts[:3, i] = math.nan
        elif mass == 0 or radius == 0:
            facts[3, i] = 1.0
        else:
            one = _Projection(source / mass, target / mass, cost.cpu(), radius / mass, rule)
            point = one.finish()
            while not point[3] and one.sweeps < rule.max_sweeps:
                while one.sweeps < rule.max_sweeps and not one.sweep():
                    pass
                point = one.finish()
            z[i] = (mass * point[0]).to(x.dtype)
            facts[:, i] = torch.tensor([point[1], mass * point[2], one.multiplier, point[3]], dtype=torch.float64)
            sweeps[i] = one.sweeps
    residual, plan_cost, multiplier, converged = (fact.clone() for fact in facts.to(x.device))
    return z, residual, plan_cost, multiplier, sweeps.to(x.device), converged > 0


def _usable(source: Tensor, target: Tensor, budget: float, mass: float) -> bool:
    finite = math.isfinite(mass) and bool(torch.isfinite(target).all())
    return finite and bool((source >= 0).all()) and 0 <= budget < math.inf


def conjugate_sinkhorn(
    x: Tensor,  # (n, C, H, W)
    g: Tensor,  # (n, C, H, W)
    cost: Tensor,  # (K,)
    budget: Tensor,  # (n,)
    regularisation: float,
    tolerance: float,
    max_sweeps: int,
) -> tuple[Tensor, ...]:
    """:func:`verifix.kernels.sinkhorn.conjugate_sinkhorn`; the arguments have been checked."""
    z = x.clone()
    facts = torch.zeros(5, len(x), dtype=torch.float64)
    sweeps = torch.zeros(len(x), dtype=torch.int64)
    for i in range(len(x)):
        source, form, radius = x[i].double().cpu(), g[i].double().cpu(), float(budget[i])
        mass = float(source.sum())
        if not _usable(source, form, radius, mass):
            z[i] = math.nan
            facts[:4, i] = math.nan
        elif mass == 0 or radius == 0:
            value = float((form * source).sum())
            size = 4 * 2.0**-52 * float((form * source).abs().sum()) + (_UNDERFLOW if mass > 0 else 0)
            slack = source.numel() * size
            facts[:, i] = torch.tensor([value, value + slack, 0.0, 0.0, 1.0], dtype=torch.float64)
        else:
            one = _Conjugate(source, form, cost.cpu(), radius, mass, regularisation)
            point = one.solve(tolerance, max_sweeps)
            z[i] = point[0].to(x.dtype)
            facts[:, i] = torch.tensor(point[1:], dtype=torch.float64)
            sweeps[i] = one.sweeps
    value, upper, plan_cost, multiplier, converged = (fact.clone() for fact in facts.to(x.device))
    return z, value, upper, plan_cost, multiplier, sweeps.to(x.device), converged > 0


class _Conjugate:
    """One image: beta is fixed, alpha has a closed form, so that one equation for the multiplier is left."""

    def __init__(self, x: Tensor, g: Tensor, cost: Tensor, budget: float, mass: float, regularisation: float) -> None:
        self.x, self.budget, self.mass, self.regularisation = x, budget, mass, regularisation
        self.radius = math.isqrt(len(cost)) // 2
        self.cost = cost.reshape(-1, 1, 1, 1)
        inside = around(torch.ones_like(x), self.radius) > 0
        self.g = g
        self.around = torch.where(inside, around(g, self.radius), -math.inf)
        self.sweeps = 0

    def plan(self, multiplier: float) -> Tensor:
        """Rows x, shared out over the window by a softmax."""
        exponent = self.regularisation * self.around - multiplier * self.cost
        return self.x * torch.softmax(exponent, dim=0)

    def solve(self, tolerance: float, max_sweeps: int) -> tuple[Tensor, float, float, float, float, float]:
        """The point; its value, the bound on all values, the cost of its plan, the multiplier, and whether it is good.

        The cost falls as the multiplier grows: Newton steps on its logarithm, and the middle of the bracket where they
        leave it.
        """
        low, high, multiplier = 0.0, math.inf, 0.0
        plan = self.plan(multiplier)
        while True:
            by_row = (self.cost * plan).sum(0)
            cost = float(by_row.sum())
            gap = cost - self.budget
            good = (gap if multiplier == 0 else abs(gap)) <= tolerance * self.budget
            if good or self.sweeps >= max_sweeps:
                break
            if gap > 0:
                low = multiplier
            else:
                high = multiplier
            mean = by_row / torch.where(self.x > 0, self.x, 1.0)
            slope = float(((self.cost - mean) ** 2 * plan).sum())
            ratio = cost / self.budget  # 0 where the cost all but underflows
            step = cost / slope * math.log(ratio) if slope > 0 and ratio > 0 else math.inf
            multiplier = multiplier + step
            if not low < multiplier < min(high, 4 * low + _STEP):
                multiplier = (low + high) / 2 if high < math.inf else 2 * low + 1
            plan = self.plan(multiplier)
            self.sweeps += 1
        kept = 1.0 if cost <= CERTAIN * self.budget else CERTAIN * self.budget / cost
        z = kept * gathered(plan, self.radius) + (1 - kept) * self.x
        return z, float((self.g * z).sum()), self.bound(multiplier), kept * cost, multiplier, float(good)

    def bound(self, multiplier: float) -> float:
        """No less than ``<g, z>`` anywhere in the ball: the dual of the problem without entropy, at this multiplier."""
        price = multiplier / self.regularisation
        best = (self.around - price * self.cost).amax(0)
        terms = self.x * best
        # Each term is off by 3 roundings, and a sum of so many by less than as many of the sum of sizes; 2^-52 is two.
        count = self.x.numel() + 8
        size = float((self.x * (self.g.abs().max() + price * self.cost.max())).sum()) + price * self.budget
        return price * self.budget + float(terms.sum()) + count * (2.0**-52 * size + _UNDERFLOW)
