"""Support functions of Wasserstein balls: never below the maximum in real arithmetic, and differentiable in the rows.

``balanced``: exact, up to the tolerance of :mod:`verifix.kernels.transport_linear`. The other variants put a price
``mu_j >= 0`` on mass at a pixel: with ``h`` the maximum over the balanced ball and ``b`` the upper side of the box,

    balanced-box:  max <g, z> <= h(g - mu) + b sum mu               for every mu, with equality for the best one;
    clamp-after:   max <g, min(z, b)> <= h(g' - mu) + b sum mu      for 0 <= mu <= max(g, 0),

where ``g'`` is ``g`` but for negative entries of pixels that can hold ``t > b``: there, ``g min(z, b)`` is convex in z
and at most its chord ``g b / t z``. A few subgradient steps on mu start from zero; the best bound met is returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from verifix.kernels.transport_linear import linear_maximiser, linear_support
from verifix.sets.wasserstein.flow import flow_maximiser, flow_support
from verifix.sets.wasserstein.ground import window_cost

if TYPE_CHECKING:
    from verifix.sets.wasserstein.ball import WassersteinBall

PRICE_STEPS = 16
_IMAGES = 2**25
"""So many numbers are in the maximisers that are held at once, at most."""


def upper_bounds(ball: WassersteinBall, rows: Tensor) -> Tensor:
    """``(n, r)`` float64 for rows ``(n, r, C, H, W)`` or ``(1, r, C, H, W)``.

    Differentiable in the rows: the derivative is a maximiser, of the bound with its prices where there are any. The
    images and eps are constants.
    """
    n, r = len(ball), rows.shape[1]
    rows = rows.to(torch.promote_types(rows.dtype, ball.center.dtype))
    if ball.box is None or n == 0 or r == 0:
        bounds: Tensor = _Balanced.apply(rows, ball)
        return bounds
    at_once = max(1, _IMAGES // (n * ball.center[0].numel()))
    return torch.cat([_in_box(ball, part) for part in rows.split(at_once, 1)], 1)


def maximiser(ball: WassersteinBall, g: Tensor) -> Tensor:
    """A point of each ball with the largest ``<g, z>``, ``(n, C, H, W)`` like the images; ``balanced`` only exact.

    For ``clamp-after`` it is the balanced maximiser, clamped. For ``balanced-box`` mass is taken back where the box is
    left, which costs optimality.
    """
    z = _maximisers(ball, g.detach()[:, None].to(torch.promote_types(g.dtype, ball.center.dtype)), ball.budget)[:, 0]
    z = z.to(ball.center.dtype)
    if ball.box is None:
        return z
    upper = ball.box[1].to(z.dtype)
    if ball.threat.variant == "clamp-after":
        return torch.minimum(z, upper)
    # both the center and z are in the balanced ball, and so is what lies between them
    center = ball.center
    rise = (z - center).flatten(1)
    room = (upper - center).expand_as(z).flatten(1)
    share = torch.where(rise > room, room / rise.clamp(min=torch.finfo(z.dtype).tiny), 1.0).amin(1)
    share = share.clamp(0, 1).reshape(-1, 1, 1, 1)
    return torch.minimum(center + share * (z - center), upper)


class _Balanced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ball: WassersteinBall) -> Tensor:
        ctx.ball = ball
        ctx.save_for_backward(rows)
        return _support(ball, rows.detach(), ball.budget_above)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        at_once = max(1, _IMAGES // max(1, len(ctx.ball) * ctx.ball.center[:1].numel()))
        parts = []
        for some, slopes in zip(rows.split(at_once, 1), gradient.split(at_once, 1), strict=True):
            z = _maximisers(ctx.ball, some, ctx.ball.budget) * _wide(slopes)
            parts.append((z.sum(0, keepdim=True) if len(rows) == 1 else z).to(rows.dtype))
        return torch.cat(parts, 1), None


def _pairs(n: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(m, C, H, W)``, and the image and the row of every pair: all images of a row in turn where rows are
    shared."""
    r, device = rows.shape[1], rows.device
    images, every = torch.arange(n, device=device), torch.arange(r, device=device)
    if len(rows) == 1:
        return rows[0], images.repeat(r), every.repeat_interleave(n)
    return rows.flatten(0, 1), images.repeat_interleave(r), torch.arange(n * r, device=device)


def _ordered(found: Tensor, n: int, rows: Tensor) -> Tensor:
    """Results of pairs in the order ``(n, r)``."""
    r = rows.shape[1]
    if len(rows) == 1:
        return found.reshape(r, n, *found.shape[1:]).transpose(0, 1)
    return found.reshape(n, r, *found.shape[1:])


def _support(ball: WassersteinBall, rows: Tensor, budget: Tensor) -> Tensor:
    x = ball.center.detach().to(rows.dtype)
    forms, which, row = _pairs(len(ball), rows)
    if ball.threat.transport == "flow":
        found = flow_support(x, forms, which, budget, row)
    else:
        found, _ = linear_support(x, forms, which, _cost(ball), budget, row)
    return _ordered(found, len(ball), rows)


def _maximisers(ball: WassersteinBall, rows: Tensor, budget: Tensor) -> Tensor:
    x = ball.center.detach().to(rows.dtype)
    forms, which, row = _pairs(len(ball), rows)
    if ball.threat.transport == "flow":
        found = flow_maximiser(x, forms, which, budget, row)
    else:
        found, _, _ = linear_maximiser(x, forms, which, _cost(ball), budget, row)
    return _ordered(found, len(ball), rows)


def _cost(ball: WassersteinBall) -> Tensor:
    """On the CPU, where kernels look at it: no device has to be waited for."""
    return window_cost(ball.threat.ground, ball.threat.window or 1)


def _in_box(ball: WassersteinBall, rows: Tensor) -> Tensor:
    """The variants with a box, by prices that are found without gradients."""
    if ball.box is None:
        return upper_bounds(ball, rows)
    side = ball.box[1][:, :, None]
    forms = rows.expand(len(ball), *rows.shape[1:])
    if ball.threat.variant == "clamp-after":
        forms = _chords(ball, forms)
    # prices can help where a pixel can hold more than the box allows
    reach = ball.balanced_hull()[1][:, None]
    crowded = (reach > side).expand_as(forms)
    clamped = ball.threat.variant == "clamp-after"
    most = forms.detach().double().clamp(min=0) if clamped else torch.full_like(side, torch.inf)
    prices = torch.zeros_like(forms, dtype=torch.float64)
    if bool(crowded.any()):
        prices = _good_prices(ball, forms.detach(), side, crowded, most)
    priced = _priced(forms, prices)
    bounds: Tensor = _Balanced.apply(priced, ball)
    total = bounds + _paid(forms, priced, side)
    return total + 2.0**-52 * total.detach().abs()


@torch.no_grad()
def _good_prices(ball: WassersteinBall, forms: Tensor, side: Tensor, crowded: Tensor, most: Tensor) -> Tensor:
    """Prices from 0 to ``most`` that make the bound small, after a few steps; zero where none is met that does.

    Each step starts at the best prices met, along what their maximiser holds too much, as far as would lower the bound
    by ``hope`` if it were linear. That is halved whenever it does not come true in good part.
    """
    best_prices = prices = torch.zeros_like(forms, dtype=torch.float64)
    best = torch.full(forms.shape[:2], torch.inf, dtype=torch.float64, device=forms.device)
    best_excess, hope = prices, best
    # no bound is below what the center is worth
    worth = (forms.double() * ball.center.detach().double()[:, None]).flatten(2).sum(2)
    for step in range(PRICE_STEPS):
        priced = _priced(forms, prices)
        bound = _support(ball, priced, ball.budget_above) + _paid(forms, priced, side)
        excess = torch.where(crowded, _maximisers(ball, priced, ball.budget).double() - side, 0.0)
        hope = 0.3 * (bound - worth) if step == 0 else torch.where(bound < best - hope / 4, hope, hope / 2)
        better = bound < best
        best = torch.where(better, bound, best)
        best_prices = torch.where(_wide(better), prices, best_prices)
        best_excess = torch.where(_wide(better), excess, best_excess)
        along = torch.where((best_excess > 0) | (best_prices > 0), best_excess, 0.0)
        size = along.square().flatten(2).sum(2)
        length = torch.where(size > 0, hope / torch.where(size > 0, size, 1.0), 0.0)
        prices = torch.minimum((best_prices + _wide(length) * along).clamp(min=0), most)
    return best_prices


def _wide(x: Tensor) -> Tensor:
    return x[:, :, None, None, None]


def _priced(forms: Tensor, prices: Tensor) -> Tensor:
    """Forms less prices, in the type of the forms: what a price really is, :func:`_paid` finds out."""
    return torch.minimum(forms, (forms.double() - prices).to(forms.dtype))


def _paid(forms: Tensor, priced: Tensor, side: Tensor) -> Tensor:
    """At least ``b`` times the sum of the prices, ``(n, r)``."""
    total = ((forms.double() - priced.double()) * side).flatten(2).sum(2)
    return total * (1 + (forms[0, 0].numel() + 4) * 2.0**-52)


def _chords(ball: WassersteinBall, forms: Tensor) -> Tensor:
    """Negative entries of pixels that can hold more than the box allows, less negative: rounded towards zero."""
    if ball.box is None:
        return forms
    reach = ball.balanced_hull()[1]
    slope = (ball.box[1] / reach.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1)[:, None]
    eased = (forms.double() * (slope * (1 - 2.0**-50))).to(forms.dtype)
    eased = torch.nextafter(eased, torch.zeros_like(eased))
    return torch.where((forms < 0) & (slope < 1) & torch.isfinite(forms), eased, forms)  # never finite what is not
