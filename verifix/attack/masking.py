"""Signs that an evaluation says too much for a model: gradients that mislead, and models that are no functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.attack.criteria import Criterion, looks_like_probabilities
from verifix.attack.fast_gradient import FGSM
from verifix.attack.problem import Classifier
from verifix.attack.projected_gradient import PGD
from verifix.sets import Ball, InputSet, LpBall, UnionSet

CHECKED = 100
"""How many inputs the optional checks are made with."""


@dataclass(frozen=True)
class Sign:
    """What is told of a sign, and when.

    Attributes:
        text: what was seen, and what to make of it; ``{count}`` inputs of ``{of}``.
        share: it is told where more than this share of the inputs shows it,
        least: and at least so many inputs do.
        checked: whether it is looked for at the first inputs only.
    """

    text: str
    share: float = 0.0
    least: int = 1
    checked: bool = False

    def told(self, count: int, n: int) -> str | None:
        """The warning that so many of ``n`` inputs call for, if any."""
        of = min(n, CHECKED) if self.checked else n
        return self.text.format(count=count, of=of) if count >= self.least and count > self.share * of else None


SIGNS: dict[str, Sign] = {
    "probabilities": Sign(
        "{count} of {of} answers are probabilities, not logits: they are flat where the model is sure, and attacks "
        "look weaker than they are; leave out the softmax at the end",
        share=0.99,
    ),
    "no gradient": Sign(
        "every gradient of an attack was zero for {count} of {of} inputs: it had nothing to go by, and that it failed "
        "says nothing"
    ),
    "not finite": Sign(
        "answers or gradients were NaN or infinite for {count} of {of} inputs: they are never counted as robust"
    ),
    "gradient-free": Sign(
        "{count} of {of} inputs withstood gradients and fell to an attack without: gradients point elsewhere, and "
        "attacks by gradients look weaker than they are",
        share=0.002,
        least=2,
    ),
    "one step": Sign(
        "{count} of {of} inputs withstood many steps and fell to one: gradients mislead after a step or two, or the "
        "steps are too short",
        share=0.002,
        least=2,
    ),
    "no progress": Sign(
        "for {count} of {of} inputs many steps along gradients found no point better than the input itself: gradients "
        "mislead, or steps are far too long",
        share=0.05,
    ),
    "random": Sign(
        "two passes over the same inputs gave other answers for {count} of {of}: the model draws random numbers, and "
        "what an attack finds need not last; average over draws, or certify by smoothing"
    ),
    "batch": Sign(
        "answers for {count} of {of} inputs depend on what else is in the batch: the model uses statistics of the "
        "batch at test time, and is no function of an input"
    ),
    "unbounded": Sign(
        "{count} of the first {of} inputs withstand an attack without bounds, as hardly any model can: gradients are "
        "masked, and attacks look weaker than they are",
        share=0.05,
        checked=True,
    ),
}
"""Known signs of gradient masking (Athalye et al. 2018; Carlini et al. 2019), and of models that draw or mix, by
name."""


def warnings_of(counts: Mapping[str, int], n: int) -> list[str]:
    """The warnings that signs call for, seen at ``counts`` of ``n`` inputs.

    >>> warnings_of({"random": 1}, 50)[0][:49]
    'two passes over the same inputs gave other answer'
    >>> warnings_of({"no progress": 1}, 50)
    []
    """
    told = (sign.told(counts.get(name, 0), n) for name, sign in SIGNS.items())
    return [text for text in told if text is not None]


def behaviour(model: Classifier, x: Tensor, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    """What a model that is in eval mode answers, ``(n, classes)``, and the signs that need no attack, each ``(n,)``.

    Takes two passes over all inputs beside the one for the answers: of the same batches, and of their halves.
    """
    answers, probable, random, mixing = [], [], [], []
    with torch.no_grad():
        for part in x.detach().split(batch):
            first, again = _ask(model, part), _ask(model, part)
            answers.append(first)
            probable.append(torch.stack([first.new_tensor(looks_like_probabilities(row[None])) for row in first]) > 0)
            random.append(_differ(first, again))
            mixing.append(_differ(first, torch.cat([_apart(model, half) for half in _halves(part)])) & ~random[-1])
    signs = {"probabilities": torch.cat(probable), "random": torch.cat(random), "batch": torch.cat(mixing)}
    return torch.cat(answers), signs


def check_gradients(
    model: Classifier, x: Tensor, criterion: Criterion, sets: InputSet, *, seed: int, batch: int
) -> dict[str, Tensor]:
    """Signs that take attacks of their own, each ``(n,)``.

    Whether an input withstands PGD within the box only, or within ten times its range where there is none; and, in lp
    balls, whether one step fools it where 20 do not.
    """
    first = sets.members[0] if isinstance(sets, UnionSet) else sets
    box = first.box if isinstance(first, LpBall) else None
    reach = 10 * max(1.0, float(x.abs().max())) if box is None else float((box[1] - box[0]).max())
    far = PGD(steps=40, final_step=0.1, start_from="both", restarts=2, loss="margin")
    found = far(model, x, criterion, Ball("linf", reach, box), seed=seed, batch=batch)
    signs = {"unbounded": ~found.success}
    if isinstance(sets, LpBall):
        one = FGSM(loss="margin")(model, x, criterion, sets, seed=seed, batch=batch)
        many = PGD(steps=20, start_from="both", loss="margin")(model, x, criterion, sets, seed=seed, batch=batch)
        signs["one step"] = one.success & ~many.success
    return signs


def _ask(model: Classifier, points: Tensor) -> Tensor:
    answers = model(points.clone())
    return answers if answers.is_floating_point() else answers.float()


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Whether answers ``(n, classes)`` differ by more than sums in another order may, ``(n,)``; NaN equals NaN."""
    tolerance = torch.finfo(one.dtype).eps ** 0.5 * one.abs().amax(1, keepdim=True).clamp(min=1e-30)
    same = ((one - other).abs() <= tolerance) | (one == other) | (one.isnan() & other.isnan())
    return ~same.all(1)


def _halves(part: Tensor) -> list[Tensor]:
    return list(part.split((len(part) + 1) // 2))


def _apart(model: Classifier, half: Tensor) -> Tensor:
    """What the model says of some inputs in a batch of another make: each half of the batch is with itself, and a
    single input with one of zeros."""
    if len(half) > 1:
        return _ask(model, half)
    return _ask(model, torch.cat([half, torch.zeros_like(half)]))[:1]
