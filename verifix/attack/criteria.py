"""When an answer counts as wrong, and what an attack maximises to get there."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from verifix.certify import Specification
from verifix.certify.specification import check_labels
from verifix.errors import InvalidType, InvalidValue

Loss = Literal["cross-entropy", "margin", "dlr"]
LOSSES: tuple[Loss, ...] = ("cross-entropy", "margin", "dlr")


class Criterion(ABC):
    """What an attack is after, for each of ``n`` inputs.

    Answers are logits ``(k, classes)`` of some of the inputs, whose numbers are ``index`` ``(k,)``.
    """

    @abstractmethod
    def check(self, n: int, classes: int) -> None:
        """Refuse a batch or a network that it was not made for."""

    @abstractmethod
    def margins(self, logits: Tensor, index: Tensor) -> Tensor:
        """How far each answer is from being wrong, ``(k,)``: negative where it is wrong."""

    @abstractmethod
    def met(self, logits: Tensor, index: Tensor) -> Tensor:
        """Whether each answer is wrong, ``(k,)``. Never so where it is NaN: that is no answer."""

    def forms(self, logits: Tensor, index: Tensor) -> Tensor:
        """Numbers, ``(k, r)``, any of which below zero makes the answer wrong; the margin is the smallest of them."""
        return self.margins(logits, index)[:, None]

    def select(self, numbers: Tensor) -> Criterion:
        """The same for some of the inputs, those of ``numbers`` ``(m,)``, which are counted anew; checked before."""
        return _Part(self, numbers)

    def cross_entropy(self, logits: Tensor, index: Tensor) -> Tensor:
        """The cross-entropy loss, ``(k,)``, signed so that an attack maximises it."""
        raise InvalidValue("loss", "cross-entropy", f"{type(self).__name__} has no class to measure it by: use margin")

    def dlr(self, logits: Tensor, index: Tensor) -> Tensor:
        """The difference of logits ratio (Croce and Hein 2020, equations 6 and 7), ``(k,)``, to be maximised."""
        raise InvalidValue("loss", "dlr", f"{type(self).__name__} has no class to measure it by: use margin")

    def loss(self, name: Loss, logits: Tensor, index: Tensor, *, plain: bool = False) -> Tensor:
        """What an attack maximises, ``(k,)``, by name; the margin is negated. ``plain``: as everybody computes it."""
        if name == "margin":
            return -self.margins(logits, index)
        return self.cross_entropy(logits, index) if name == "cross-entropy" else self.dlr(logits, index)


class Untargeted(Criterion):
    """Any class but the label. Of equal logits the first class is the answer, as for ``argmax``.

    Args:
        labels: ``(n,)`` integers.

    >>> criterion = Untargeted(torch.tensor([0]))
    >>> criterion.margins(torch.tensor([[2.0, 0.5]]), torch.tensor([0]))
    tensor([1.5000])
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def check(self, n: int, classes: int) -> None:
        if classes < 2:
            raise InvalidValue(
                "model", f"{classes} logit for each input", "must return one for each of at least 2 classes"
            )
        self.labels = _check(self.labels, n, classes)

    def select(self, numbers: Tensor) -> Untargeted:
        return Untargeted(self.labels[numbers])

    def margins(self, logits: Tensor, index: Tensor) -> Tensor:
        own, others = _split(logits, self.labels[index])
        return own - others.amax(1)

    def met(self, logits: Tensor, index: Tensor) -> Tensor:
        return (logits.argmax(1) != self.labels[index]) & ~logits.isnan().any(1)

    def forms(self, logits: Tensor, index: Tensor) -> Tensor:
        labels = self.labels[index][:, None]
        places = torch.arange(logits.shape[1] - 1, device=logits.device)
        others = places + (places >= labels)
        return logits.gather(1, labels) - logits.gather(1, others)

    def loss(self, name: Loss, logits: Tensor, index: Tensor, *, plain: bool = False) -> Tensor:
        if plain and name == "cross-entropy":
            return F.cross_entropy(logits, self.labels[index], reduction="none")
        return super().loss(name, logits, index)

    def cross_entropy(self, logits: Tensor, index: Tensor) -> Tensor:
        own, others = _split(logits, self.labels[index])
        odds = others.logsumexp(1) - own  # of log p - 1 the label's part is lost where p rounds to 1
        least = math.log(torch.finfo(logits.dtype).tiny) + 8
        seen = odds.clamp(min=least)
        return F.softplus(seen) + math.exp(least) * (odds - seen)  # below, its tangent: exp would underflow

    def dlr(self, logits: Tensor, index: Tensor) -> Tensor:
        if logits.shape[1] < 3:
            raise InvalidValue(
                "loss", "dlr", f"needs at least 3 classes, the network has {logits.shape[1]}: use margin"
            )
        own, others = _split(logits, self.labels[index])
        top = logits.topk(3, dim=1).values
        return (others.amax(1) - own) / (top[:, 0] - top[:, 2]).clamp(min=torch.finfo(logits.dtype).tiny)


class Targeted(Criterion):
    """One class and no other.

    Args:
        targets: ``(n,)`` integers, the classes wanted.
        labels: ``(n,)`` integers, those that are right.

    Raises:
        InvalidValue: a target that is the label: there would be nothing to attack.

    >>> criterion = Targeted(torch.tensor([1]), torch.tensor([0]))
    >>> criterion.met(torch.tensor([[2.0, 0.5, 0.0], [0.0, 0.5, 0.0]]), torch.tensor([0, 0])).tolist()
    [False, True]
    """

    def __init__(self, targets: Tensor, labels: Tensor) -> None:
        self.targets, self.labels = targets, labels

    def check(self, n: int, classes: int) -> None:
        self.targets, self.labels = _check(self.targets, n, classes, "targets"), _check(self.labels, n, classes)
        self.labels = self.labels.to(self.targets.device)
        same = self.targets == self.labels
        if same.any():
            where = f"{int(self.targets[same][0])} for input {int(same.nonzero()[0])}, its label"
            raise InvalidValue("targets", where, "must be another class")

    def select(self, numbers: Tensor) -> Targeted:
        return Targeted(self.targets[numbers], self.labels[numbers])

    def margins(self, logits: Tensor, index: Tensor) -> Tensor:
        wanted, others = _split(logits, self.targets[index])
        return others.amax(1) - wanted

    def met(self, logits: Tensor, index: Tensor) -> Tensor:
        return (logits.argmax(1) == self.targets[index]) & ~logits.isnan().any(1)

    def cross_entropy(self, logits: Tensor, index: Tensor) -> Tensor:
        return -F.cross_entropy(logits, self.targets[index], reduction="none")

    def dlr(self, logits: Tensor, index: Tensor) -> Tensor:
        if logits.shape[1] < 4:
            remedy = f"its targeted form needs at least 4 classes, the network has {logits.shape[1]}: use margin"
            raise InvalidValue("loss", "dlr", remedy)
        own = logits.gather(1, self.labels[index][:, None])[:, 0]
        wanted = logits.gather(1, self.targets[index][:, None])[:, 0]
        top = logits.topk(4, dim=1).values
        size = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
        return (wanted - own) / size.clamp(min=torch.finfo(logits.dtype).tiny)


class Violates(Criterion):
    """Any linear form of a specification below zero: ``rows . logits + threshold < 0``, as for :func:`verifix.certify`.

    >>> from verifix.certify import Rows
    >>> criterion = Violates(Rows(torch.tensor([[1.0, -1.0], [0.0, 1.0]])))
    >>> criterion.margins(torch.tensor([[2.0, 0.5]]), torch.tensor([0]))
    tensor([0.5000])
    """

    def __init__(self, specification: Specification) -> None:
        self.specification = specification

    def check(self, n: int, classes: int) -> None:
        self.specification.check(n, classes)

    def margins(self, logits: Tensor, index: Tensor) -> Tensor:
        return self.forms(logits, index).amin(1)

    def forms(self, logits: Tensor, index: Tensor) -> Tensor:
        rows = self.specification.rows(index, logits)
        return (rows * logits[:, None]).sum(2) + self.specification.threshold(index, logits)

    def met(self, logits: Tensor, index: Tensor) -> Tensor:
        return self.margins(logits, index) < 0


class _Part(Criterion):
    """A criterion of some of the inputs of another."""

    def __init__(self, whole: Criterion, numbers: Tensor) -> None:
        self.whole, self.numbers = whole, numbers

    def check(self, n: int, classes: int) -> None:
        if len(self.numbers) != n:
            raise InvalidValue("y", f"a criterion of {len(self.numbers)} inputs", f"must be as many as the {n} inputs")

    def margins(self, logits: Tensor, index: Tensor) -> Tensor:
        return self.whole.margins(logits, self.numbers[index])

    def met(self, logits: Tensor, index: Tensor) -> Tensor:
        return self.whole.met(logits, self.numbers[index])

    def forms(self, logits: Tensor, index: Tensor) -> Tensor:
        return self.whole.forms(logits, self.numbers[index])

    def loss(self, name: Loss, logits: Tensor, index: Tensor, *, plain: bool = False) -> Tensor:
        return self.whole.loss(name, logits, self.numbers[index], plain=plain)


def criterion_of(y: Tensor | Criterion | Specification) -> Criterion:
    """What is given for ``y``: labels stand for any other class, a specification for its violation."""
    if isinstance(y, Criterion):
        return y
    if isinstance(y, Specification):
        return Violates(y)
    if not isinstance(y, Tensor):
        raise InvalidType("y", y, "labels (n,), a Criterion such as Targeted, or a Specification such as Rows")
    return Untargeted(y)


def looks_like_probabilities(logits: Tensor) -> bool:
    """Whether every answer is a distribution over at least two classes: a softmax that should not be there.

    >>> looks_like_probabilities(torch.tensor([[0.2, 0.8]])), looks_like_probabilities(torch.tensor([[0.2, 0.9]]))
    (True, False)
    """
    if logits.shape[0] == 0 or logits.shape[1] < 2:
        return False
    tolerance = 16 * logits.shape[1] * torch.finfo(logits.dtype).eps
    return bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() <= tolerance).all())


def _split(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of one class, and all with that one at minus infinity."""
    place = classes[:, None]
    return logits.gather(1, place)[:, 0], logits.scatter(1, place, -torch.inf)


def _check(labels: object, n: int, classes: int, name: str = "y") -> Tensor:
    checked = check_labels(labels, classes, name)
    if len(checked) != n:
        raise InvalidValue(name, f"{len(checked)} classes", f"must be as many as the {n} inputs")
    return checked
