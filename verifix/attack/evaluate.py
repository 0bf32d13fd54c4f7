"""Several attacks, one after the other, and for each input the worst that any of them did."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.attack.base import BATCH, Attack, whole
from verifix.attack.criteria import Criterion, criterion_of
from verifix.attack.masking import CHECKED, SIGNS, behaviour, check_gradients, warnings_of
from verifix.attack.problem import Classifier, Problem, evaluating
from verifix.attack.result import AttackResult
from verifix.bounds.rounding import plain_arithmetic
from verifix.certify import Specification
from verifix.certify.certify import input_sets
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, InputSet, Union, Wasserstein

MISCLASSIFIED, FOOLED, ROBUST, UNDECIDED = "misclassified", "fooled", "robust", "undecided"
STATUSES = (MISCLASSIFIED, FOOLED, ROBUST, UNDECIDED)


@dataclass(frozen=True)
class Evaluation:
    """The worst case of each of ``n`` inputs over several attacks.

    Every input is in one of four states: ``misclassified`` (wrong without any attack, and not attacked), ``fooled``,
    ``robust`` (it withstood every attack) or ``undecided``: none succeeded, but nobody knows why. That is so where an
    answer or a gradient was NaN or infinite; where every attack by gradients had only zero gradients, whatever attacks
    without gradients say; and where only those were asked for, and the gradient at the input itself is zero.

    Attributes:
        attacks: their names, in the order in which they ran.
        predictions: the classes of the inputs themselves, ``(n,)``; -1 where the answer holds a NaN, and is none.
        misclassified: whether those meet the criterion already, ``(n,)``.
        fooled_by: the number of the attack that succeeded, the first to do so, ``(n,)``; -1 where none did.
        undecided: ``(n,)``.
        examples: ``(n, *shape)``: of the attack that succeeded, else the point of the set with the smallest margin that
            any of them returned; the input itself where it is misclassified.
        margins: the criterion's margins there, ``(n,)``.
        forwards, backwards: how often the model was asked about each input in all, and for how many gradients,
            ``(n,)``; the optional checks are not counted.
        signs: which inputs show which sign of :data:`verifix.attack.masking.SIGNS`, ``(n,)`` each.
        sets: where the examples had to lie.
    """

    attacks: tuple[str, ...]
    predictions: Tensor
    misclassified: Tensor
    fooled_by: Tensor
    undecided: Tensor
    examples: Tensor
    margins: Tensor
    forwards: Tensor
    backwards: Tensor
    signs: dict[str, Tensor]
    sets: InputSet

    def __len__(self) -> int:
        return len(self.predictions)

    @property
    def fooled(self) -> Tensor:
        """Whether an attack succeeded, ``(n,)``."""
        return self.fooled_by >= 0

    @property
    def robust(self) -> Tensor:
        """Whether the model is right about the input and withstood every attack, ``(n,)``."""
        return ~(self.misclassified | self.fooled | self.undecided)

    @property
    def status(self) -> list[str]:
        """The state of each input."""
        states = torch.where(self.misclassified, 0, torch.where(self.fooled, 1, torch.where(self.undecided, 3, 2)))
        return [STATUSES[state] for state in states.tolist()]

    @property
    def clean_accuracy(self) -> float:
        """The fraction that is answered, and not misclassified."""
        return 1 - int((self.misclassified | (self.predictions < 0)).sum()) / len(self)

    @property
    def robust_accuracy(self) -> float:
        """The fraction that is robust: an upper bound on the true one, with all that is undecided counted against."""
        return int(self.robust.sum()) / len(self)

    @functools.cached_property
    def distance(self) -> Tensor:
        """How far each example is from its input in the units of the set's eps, ``(n,)`` float64."""
        return self.sets.distance(self.examples)

    @property
    def warnings(self) -> list[str]:
        """What the signs say of the evaluation."""
        return warnings_of({name: int(seen.sum()) for name, seen in self.signs.items()}, len(self))

    def rows(self) -> list[tuple[str, int, int]]:
        """For each attack its name, and how many inputs were left before and after it."""
        numbers = self.fooled_by[~self.misclassified].tolist()
        return table(self.attacks, numbers)

    def __str__(self) -> str:
        width = max(len("robust"), *map(len, self.attacks))
        lines = [f"{'attack':{width}}    before     after"]
        lines += [f"{name:{width}}  {before:8d}  {after:8d}" for name, before, after in self.rows()]
        shares = f"clean accuracy {self.clean_accuracy:.2%}, robust accuracy {self.robust_accuracy:.2%}"
        lines.append(f"{shares} of {len(self)} inputs, {int(self.undecided.sum())} undecided")
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])


def table(attacks: Sequence[str], fooled_by: Sequence[int]) -> list[tuple[str, int, int]]:
    """How many inputs each attack was tried on and how many it left, from the attack that fooled each (-1: none).

    >>> table(["pgd", "square"], [-1, 1, 0, 0])
    [('pgd', 4, 2), ('square', 2, 1)]
    """
    rows, left = [], len(fooled_by)
    for number, name in enumerate(attacks):
        before, left = left, left - sum(fooled == number for fooled in fooled_by)
        rows.append((name, before, left))
    return rows


def evaluate(
    model: Classifier,
    x: Tensor,
    y: Tensor | Criterion | Specification,
    inputs: Ball | Wasserstein | Union | InputSet,
    attacks: Sequence[Attack] | Mapping[str, Attack],
    *,
    seed: int = 0,
    batch: int = BATCH,
    sanity: bool = False,
) -> Evaluation:
    """Run attacks one after the other, each on the inputs that none before it has fooled.

    What it reports is the worst case of each input, not an average over attacks; and what an attack does to the
    inputs that are left to it is not what it would do to all.

    Args:
        model, x, y, inputs, seed, batch: as for an :class:`Attack`; memory is that of one batch and the examples.
        attacks: by name, or in a row; then they go by the names of their classes.
        sanity: also attack the first 100 inputs without bounds, and by one step against many, for signs of gradient
            masking.

    Returns:
        An :class:`Evaluation`. Its warnings are issued by ``warnings.warn`` as well.

    Raises:
        InvalidValue, InvalidType: what is wrong with an argument, by name.

    >>> from verifix.attack import FGSM, PGD
    >>> x, y = torch.tensor([[0.5, 0.4], [0.9, 0.1]]), torch.tensor([0, 0])
    >>> found = evaluate(lambda x: 5 * x, x, y, Ball("linf", eps=0.1), [FGSM(), PGD(steps=5)])
    >>> found.status, found.robust_accuracy
    (['fooled', 'robust'], 0.5)
    >>> print(found)
    attack    before     after
    FGSM           2         1
    PGD            1         1
    clean accuracy 100.00%, robust accuracy 50.00% of 2 inputs, 0 undecided
    """
    found = examine(model, x, y, inputs, attacks, seed=seed, batch=batch, checked=CHECKED if sanity else 0)
    for text in found.warnings:
        warnings.warn(text, stacklevel=2)
    return found


def examine(
    model: Classifier,
    x: Tensor,
    y: Tensor | Criterion | Specification,
    inputs: Ball | Wasserstein | Union | InputSet,
    attacks: Sequence[Attack] | Mapping[str, Attack],
    *,
    seed: int = 0,
    batch: int = BATCH,
    checked: int = 0,
) -> Evaluation:
    """The same without issuing warnings; the optional checks are made with the first ``checked`` inputs."""
    named = by_name(attacks)
    whole("batch", batch, 1)
    sets, criterion = input_sets(x, inputs), criterion_of(y)
    if not len(x):
        raise InvalidValue("x", f"tensor of shape {tuple(x.shape)}", "holds no inputs")
    for attack in named.values():
        attack.check(sets)
    with evaluating(model), plain_arithmetic(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="model: its outputs are probabilities")  # it is told in its own way
        state = _State(_Look()(model, x, criterion, sets, seed=seed, batch=batch))
        logits, signs = behaviour(model, x, batch)
        for number, attack in enumerate(named.values()):
            left = state.left()
            if len(left):
                part = attack(model, x[left], criterion.select(left), sets.select(left), seed=seed, batch=batch)
                state.add(number, part, left)
        state.signs |= signs
        first = (~state.clean.success).nonzero()[:, 0]
        first = first[first < checked]
        if len(first):
            part_of = (x[first], criterion.select(first), sets.select(first))
            for name, seen in check_gradients(model, *part_of, seed=seed, batch=batch).items():
                state.mark(name, first[seen])
    predictions = torch.where(logits.isnan().any(1), -1, logits.argmax(1))
    return state.result(tuple(named), predictions, behaviour_passes=3)


def by_name(attacks: Sequence[Attack] | Mapping[str, Attack]) -> dict[str, Attack]:
    """Attacks with a name for each: those given, or those of their classes, numbered where one comes again."""
    if isinstance(attacks, Attack) or not isinstance(attacks, (Sequence, Mapping)):
        raise InvalidType("attacks", attacks, "several attacks, as in [PGD(), FGSM()]")
    if not attacks:
        raise InvalidValue("attacks", attacks, "name at least one")
    named: dict[str, Attack] = dict(attacks) if isinstance(attacks, Mapping) else {}
    for attack in () if isinstance(attacks, Mapping) else attacks:
        kind = type(attack).__name__
        count = sum(type(other) is type(attack) for other in named.values())
        named[f"{kind} {count + 1}" if count else kind] = attack
    for attack in named.values():
        if not isinstance(attack, Attack):
            raise InvalidType("attacks", attack, "attacks, as in [PGD(), FGSM()]")
    return named


class _Look(Attack):
    """No attack: what the model says of the inputs themselves, and whether there is a gradient."""

    def run(self, problem: Problem) -> None:
        problem.gradient(problem.x, torch.arange(len(problem), device=problem.x.device), "margin")


class _State:
    """What is known of each input so far."""

    def __init__(self, clean: AttackResult) -> None:
        self.clean = clean
        n, device = len(clean.success), clean.success.device
        self.fooled_by = torch.full((n,), -1, dtype=torch.int64, device=device)
        self.examples, self.margins = clean.examples.clone(), clean.margins.clone()
        self.forwards, self.backwards = clean.forwards.clone(), clean.backwards.clone()
        self.not_finite = clean.not_finite.clone()
        self._by_gradient, self._saw, self._many = (torch.zeros_like(clean.success) for _ in range(3))
        self.signs = {name: torch.zeros_like(clean.success) for name in SIGNS}

    def left(self) -> Tensor:
        """The inputs that are still to be fooled."""
        return ((self.fooled_by < 0) & ~self.clean.success).nonzero()[:, 0]

    def mark(self, name: str, who: Tensor) -> None:
        self.signs[name][who] = True

    def add(self, number: int, found: AttackResult, who: Tensor) -> None:
        """What one attack did to some inputs."""
        success, used = found.success, found.backwards > 0
        self.mark("gradient-free", who[success & ~used & self._by_gradient[who]])
        self.mark("one step", who[success & (found.backwards == 1) & self._many[who]])
        self.mark("no gradient", who[found.no_gradient])
        many, clean = found.backwards > 1, self.clean.margins[who]
        stuck = who[many & ~success & ~found.no_gradient & (found.margins >= clean)]
        if len(stuck):  # where the set is a single point, there is nothing better
            lower, upper = self.clean.sets.select(stuck).hull()
            self.mark("no progress", stuck[(lower < upper).flatten(1).any(1)])
        better = success | (found.feasible & (found.margins < self.margins[who]))
        self.examples[who[better]], self.margins[who[better]] = found.examples[better], found.margins[better]
        self.fooled_by[who[success]] = number
        self.not_finite[who] |= found.not_finite
        self._by_gradient[who] |= used
        self._many[who] |= many
        self._saw[who] |= used & ~found.no_gradient
        self.forwards[who] += found.forwards
        self.backwards[who] += found.backwards

    def result(self, attacks: tuple[str, ...], predictions: Tensor, behaviour_passes: int) -> Evaluation:
        blind = torch.where(self._by_gradient, ~self._saw, self.clean.no_gradient)
        wrong = self.clean.success
        self.signs["not finite"] |= self.not_finite
        self.signs["no gradient"] |= blind & ~wrong
        undecided = (blind | self.not_finite) & ~wrong & (self.fooled_by < 0)
        return Evaluation(
            attacks, predictions, wrong, self.fooled_by, undecided, self.examples, self.margins,
            self.forwards + behaviour_passes, self.backwards, self.signs, self.clean.sets,
        )  # fmt: skip
