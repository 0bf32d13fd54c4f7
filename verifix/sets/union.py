"""Unions of threat models: an adversary who may choose among several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.sets.ball import Ball, LpBall
from verifix.sets.base import InputSet, Norm
from verifix.sets.wasserstein import Wasserstein, WassersteinBall


@dataclass(frozen=True, init=False)
class Union:
    """A perturbation budget that is any one of several: all of one, or all of another, and no mixture (thesis,
    section 5.3).

    Args:
        members: a :class:`Ball` or :class:`Wasserstein` each, with their own eps, norm and box.

    Raises:
        InvalidType, InvalidValue: a member that is none of these; no members.

    >>> threat = Union(Ball("linf", 0.5), Ball("l1", 1.0))
    >>> threat.around(torch.zeros(2, 2)).contains(torch.tensor([[0.5, 0.5], [0.9, 0.2]])).tolist()
    [True, False]
    """

    members: tuple[Ball | Wasserstein, ...]

    norm = "union"

    def __init__(self, *members: Ball | Wasserstein) -> None:
        if not members:
            raise InvalidValue("members", (), "name at least one, such as Ball('linf', 0.3)")
        for member in members:
            if not isinstance(member, (Ball, Wasserstein)):
                raise InvalidType("members", member, "Balls and Wassersteins, such as Union(Ball('linf', 0.3), ...)")
        object.__setattr__(self, "members", members)

    @classmethod
    def parse(cls, text: str, box: tuple[float, float] | None = None) -> Union:
        """lp balls from a norm and a radius each.

        >>> [(ball.norm, ball.eps) for ball in Union.parse("linf:8/255,l2:1.5").members]
        [('linf', 0.03137254901960784), ('l2', 1.5)]
        """
        balls = []
        for part in text.split(","):
            norm, colon, eps = part.strip().partition(":")
            try:
                radius = float(Fraction(eps)) if colon else -1.0
            except (ValueError, ZeroDivisionError):
                radius = -1.0
            if radius < 0:
                raise InvalidValue("union", repr(text), "needs norms and radii, such as linf:0.3,l2:1.5,l1:12")
            balls.append(Ball(cast(Norm, norm), radius, box))
        return cls(*balls)

    def scaled(self, factor: float) -> Union:
        """The same with every radius multiplied by a factor."""
        return Union(*(replace(member, eps=member.eps * factor) for member in self.members))

    def around(self, x: Tensor) -> UnionSet:
        """The unions around a batch of inputs ``(n, *shape)``.

        Raises:
            InvalidValue: as for the members.
        """
        return UnionSet([member.around(x) for member in self.members])

    def settings(self) -> dict[str, Any]:
        """What a run records of the threat model; ``eps`` is in the units of distances, multiples of all radii."""
        members = [member.settings() for member in self.members]
        box = members[0]["box"] if all(member["box"] == members[0]["box"] for member in members) else None
        return {"norm": self.norm, "eps": 1.0, "box": box, "members": members}


class UnionSet(InputSet):
    """Unions of sets around the same inputs; made by :meth:`Union.around`.

    Not convex. ``support`` is the largest of the members', which is that of the union itself and of its convex hull, so
    bounds over a union hold; :func:`verifix.certify` goes through the members one by one, which is tighter.
    """

    def __init__(self, members: Sequence[LpBall | WassersteinBall]) -> None:
        if not members:
            raise InvalidValue("members", (), "name at least one")
        first = members[0].center
        for member in members[1:]:
            if member.center.shape != first.shape or not torch.equal(member.center, first):
                raise InvalidValue("members", member, "must be sets around the same inputs")
        self.members = tuple(members)

    @property
    def center(self) -> Tensor:
        return self.members[0].center

    def hull(self) -> tuple[Tensor, Tensor]:
        lowers, uppers = zip(*(member.hull() for member in self.members), strict=True)
        return torch.stack(lowers).amin(0), torch.stack(uppers).amax(0)

    def support(self, rows: Tensor) -> Tensor:
        return torch.stack([member.support(rows) for member in self.members]).amax(0)

    def finite(self) -> bool:
        return all(member.finite() for member in self.members)

    def magnitude(self) -> Tensor:
        return torch.stack([member.magnitude() for member in self.members]).amax(0)

    def project(self, x: Tensor) -> Tensor:
        """The nearest of the members' projections; of several as near, the first."""
        points = torch.stack([member.project(x) for member in self.members])
        lengths = (points.double() - x.double()).flatten(2).norm(dim=2)
        return points[lengths.argmin(0), torch.arange(len(x), device=x.device)]

    def contains(self, x: Tensor, tolerance: float = 0.0) -> Tensor:
        return torch.stack([member.contains(x, tolerance) for member in self.members]).any(0)

    def distance(self, x: Tensor) -> Tensor:
        """The smallest factor that the radii of all members must be multiplied by for one of them to reach ``x``, boxes
        aside; ``(n,)`` float64."""
        factors = []
        for member in self.members:
            length, eps = member.distance(x), _radii(member)
            factors.append(torch.where(length > 0, length / eps, 0.0))
        return torch.stack(factors).amin(0)

    def select(self, index: Tensor | slice) -> UnionSet:
        return self._copy(*(member.select(index) for member in self.members))

    def to(self, target: torch.dtype | torch.device) -> UnionSet:
        return self._copy(*(member.to(target) for member in self.members))

    def _copy(self, *members: LpBall | WassersteinBall) -> UnionSet:
        copy = object.__new__(UnionSet)
        copy.members = members
        return copy

    def __repr__(self) -> str:
        return f"UnionSet({', '.join(map(repr, self.members))})"


def _radii(member: LpBall | WassersteinBall) -> Tensor:
    """The radius that distances are measured in, ``(n,)`` float64: the largest where coordinates have their own."""
    return member.eps.reshape(member.eps.shape[0], -1).amax(1).expand(len(member))
