"""Projection onto a Wasserstein ball with an entropy, as the papers do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.kernels.sinkhorn import SinkhornResult, projected_sinkhorn

if TYPE_CHECKING:
    from verifix.sets.wasserstein.ball import WassersteinBall


def project_sinkhorn(ball: WassersteinBall, x: Tensor, **options: float) -> Tensor:
    """Points of the balls near x, ``(n, C, H, W)`` in the type of the images: what ``project(x, method="sinkhorn")``
    gives.

    The projection is that of Wong's thesis, equation (5.4): images are divided by their mass (also where the budget is
    not a fraction of it), so that ``regularisation``, lambda there, does not depend on how bright they are, and the
    result is scaled back. The smaller it is, the further inside the ball the points are: entropy has its price. The
    points are in the ball whether the iteration converged or not. ``variant="clamp-after"`` clamps them into the box in
    the end, as the papers do.

    Args:
        options: regularisation, tolerance, max_sweeps, relaxation, momentum of
            :func:`verifix.kernels.sinkhorn.projected_sinkhorn`.

    Raises:
        InvalidValue: the ball has no local plans (``transport="flow"``), or its points must stay in a box
            (``variant="balanced-box"``); an option is out of its range.
    """
    z = sinkhorn_result(ball, x, **options).z
    if ball.box is None:
        return z
    low, high = (side.to(z.dtype) for side in ball.box)
    return torch.minimum(torch.maximum(z, low), high)


def sinkhorn_result(ball: WassersteinBall, x: Tensor, **options: float) -> SinkhornResult:
    """The same before the box, with what is known of it: costs, residuals, sweeps."""
    if ball.threat.transport != "local":
        raise InvalidValue("method", "'sinkhorn'", "needs plans of a window: transport='local'")
    if ball.threat.variant == "balanced-box":
        raise InvalidValue("method", "'sinkhorn'", "has no box: use method='exact', or another variant")
    center = ball.center.detach()
    x = x.detach().to(center.dtype)
    return projected_sinkhorn(center, x, ball.cost, ball.budget.contiguous(), **options)  # type: ignore[arg-type]
