"""When and how training measures its landscape, and what a line of ``landscape.jsonl`` holds.

A line is about the step that comes next, before it is made: its batch, its eps, its learning rate, its random draws.

=================== ==================================================================================================
``epoch, step``     from 1; ``position`` is the same in epochs, from 0
``eps, lr``         of the step
``target_eps``      the eps that training goes to
``multiples``       of the learning rate, see :func:`verifix.train.landscape.multiples`
``scheduled``       the :class:`verifix.train.landscape.Curve` at ``eps``: ``loss, gradient, distance, rms, cosine``,
                    each a list over the multiples, and the ``lowest`` and ``highest`` loss
``target``          the same at ``target_eps``, along the same direction
``fresh``           ``scheduled`` and ``target`` with random draws of their own at every multiple; null where they were
                    not asked for; where the method draws nothing they are the curves above, and cost nothing
``units``           a :class:`verifix.train.units.LayerUnits` for each activation, at ``eps``; not without bounds
``cost``            ``seconds``
=================== ==================================================================================================

null stands for numbers that are not finite, and for cosine distances from a gradient that is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from verifix.errors import InvalidType, InvalidValue
from verifix.train.landscape import POINTS, Curve, Evaluate, landscape, multiples
from verifix.train.settings import TrainSettings


@dataclass(frozen=True)
class LandscapePlan:
    """Measure before every so many steps, at so many multiples of the learning rate.

    Raises:
        InvalidType, InvalidValue: numbers that cannot be.
    """

    every: int
    points: int = POINTS
    fresh: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int):
            raise InvalidType("landscape_every", self.every, "a whole number")
        if self.every < 1:
            raise InvalidValue("landscape_every", self.every, "must be at least 1")
        if not isinstance(self.fresh, bool):
            raise InvalidType("landscape_fresh", self.fresh, "True or False")
        multiples(self.points)

    def require(self, settings: TrainSettings, out: str | Path | None) -> None:
        """Refuse training whose landscape is not measured.

        Raises:
            InvalidValue: a method that trains at attacked or noisy points, or no folder for the log.
        """
        if settings.by_examples or settings.smoothing:
            remedy = f"method {settings.method} trains at points that differ with every draw: leave it out"
            raise InvalidValue("landscape_every", self.every, remedy)
        if out is None:
            raise InvalidValue("landscape_every", self.every, "needs a folder for its log: give out")

    def to_json(self) -> dict[str, Any]:
        """What is compared on resume: with other numbers the lines would not go together."""
        return {f"landscape_{name}": getattr(self, name) for name in ("every", "points", "fresh")}

    def measure(
        self,
        parameters: Sequence[nn.Parameter],
        buffers: Iterable[Tensor],
        evaluate: Evaluate,
        settings: TrainSettings,
        eps: float,
        lr: float,
    ) -> dict[str, Any]:
        """What a line says of the loss, see above."""
        radii = [eps] if eps == settings.eps else [eps, settings.eps]
        pairs = zip(settings.methods(0), settings.methods(1), strict=True)
        draws = any(not one.estimator.exact or one.slopes != other.slopes for one, other in pairs)
        fresh = self.fresh and draws
        found = landscape(parameters, evaluate, lr=lr, eps=radii, points=self.points, fresh=fresh, buffers=buffers)
        line = {"target_eps": settings.eps, "multiples": list(found.multiples), **_named(found.curves), "fresh": None}
        if self.fresh:
            line["fresh"] = _named(found.curves if found.fresh is None else found.fresh)
        return line


def _named(curves: Sequence[Curve]) -> dict[str, Any]:
    return {"scheduled": curves[0].to_json(), "target": curves[-1].to_json()}
