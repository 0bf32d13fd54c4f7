"""How far a transport plan is from being feasible, as numbers in float64: what proves an example without a program."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.kernels.transport_project_reference import inside_image, plan_image, window_of


@dataclass(frozen=True)
class PlanReport:
    """What a plan violates, ``(n,)`` float64 each; 0 where it violates nothing, NaN where it holds NaN.

    Attributes:
        cost: what the plan costs, in the units of the budget.
        excess: by how much that is above the budget, in these units.
        negative: the size of the most negative entry, in pixel values.
        rows: the largest ``|sum of a row - x| / x``; for a black pixel the sum itself.
        leaving: mass in entries that leave the image, in pixel values.
        mass: how far the mass of the plan's image is from that of x, as a fraction of it.
        outside: how far the plan's image is outside the box, in pixel values.
    """

    cost: Tensor
    excess: Tensor
    negative: Tensor
    rows: Tensor
    leaving: Tensor
    mass: Tensor
    outside: Tensor

    def feasible(self, tolerance: float) -> Tensor:
        """Whether rows and mass hold to this relative tolerance and all else exactly, ``(n,)`` bool."""
        exact = (self.excess <= 0) & (self.negative <= 0) & (self.leaving <= 0) & (self.outside <= 0)
        return exact & (self.rows <= tolerance) & (self.mass <= tolerance)


def check_plan(
    plan: Tensor,  # (n, C, K, H, W)
    x: Tensor,  # (n, C, H, W)
    cost: Tensor,  # (K,)
    budget: Tensor,  # (n,)
    box: tuple[float | Tensor, float | Tensor] | None = None,
) -> PlanReport:
    """How far plans are from moving the mass of x within the budget, and their images from the box.

    Everything is computed in float64 from the numbers as they are, whatever their type; see
    :mod:`verifix.kernels.transport_project` for the layout of plans.

    Raises:
        InvalidValue: the shapes do not fit each other.

    >>> x = torch.tensor([[[[1.0, 0.0]]]])
    >>> plan = torch.zeros(1, 1, 9, 1, 2)
    >>> plan[0, 0, 4, 0, 0], plan[0, 0, 5, 0, 0] = 0.5, 0.5  # half stays, half goes right
    >>> cost = torch.tensor([2.0, 1, 2, 1, 0, 1, 2, 1, 2])
    >>> report = check_plan(plan, x, cost, torch.tensor([0.5]))
    >>> report.feasible(1e-9), report.cost
    (tensor([True]), tensor([0.5000], dtype=torch.float64))
    """
    side = window_of(plan.shape[2]) if plan.dim() == 5 else 0
    if side == 0 or (*plan.shape[:2], *plan.shape[3:]) != x.shape:
        wanted = f"must be (n, C, K, H, W), K an odd number squared, for images {tuple(x.shape)}"
        raise InvalidValue("plan.shape", tuple(plan.shape), wanted)
    if cost.shape != plan.shape[2:3] or budget.shape != plan.shape[:1]:
        shapes = f"{tuple(cost.shape)} and {tuple(budget.shape)}"
        raise InvalidValue("cost.shape, budget.shape", shapes, f"must be {(plan.shape[2],)} and {(plan.shape[0],)}")
    plan, x, budget = plan.detach().double(), x.detach().double(), budget.detach().double()
    inside = inside_image(side, plan.shape[3], plan.shape[4], plan.device)
    spent = (plan * cost.double()[:, None, None]).flatten(1).sum(1)
    rows = torch.where(inside, plan, 0.0).sum(2)
    image = plan_image(plan)
    outside = torch.zeros_like(spent)
    if box is not None:
        below, above = box[0] - image, image - box[1]
        outside = _largest(torch.maximum(below, above))
    own = x.flatten(1).sum(1)
    return PlanReport(
        cost=spent,
        excess=(spent - budget).clamp(min=0),
        negative=_largest(-plan),
        rows=_largest((rows - x).abs() / torch.where(x > 0, x, 1.0)),
        leaving=torch.where(inside, 0.0, plan.abs()).flatten(1).sum(1),
        mass=(image.flatten(1).sum(1) - own).abs() / torch.where(own > 0, own, 1.0),
        outside=outside,
    )


def _largest(violation: Tensor) -> Tensor:
    flat = violation.flatten(1)
    return flat.amax(1).clamp(min=0) if flat.shape[1] else flat.sum(1)
