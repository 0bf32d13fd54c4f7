"""PREDICT, CERTIFY and T-CERTIFY: what a smoothed classifier answers, and how far around an input it surely does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.noise import Noise, Purpose, Splitting
from verifix.smooth.probabilities import Probabilities
from verifix.smooth.rules import (
    bound_counts,
    predict_counts,
    proven_level,
    require_samples,
    smallest_n,
    split_from_selection,
)
from verifix.smooth.sampling import Sampler
from verifix.smooth.sequential import Answer, Enclosure, Radius, SequentialRule

ABSTAIN = -1
"""In place of a class, where there is none."""
EXACT = "exact"
"""The rule of certificates that rest on every outcome of the noise."""


@dataclass(frozen=True)
class Predictions:
    """What :meth:`SmoothedClassifier.predict` answers, input by input.

    Attributes:
        predictions: ``(n,)`` int64, -1 where it abstains. Where it does not, the class is the one most probable under
            the noise, but with probability at most ``alpha`` over the samples.
        counts: ``(n, classes + 1)`` int64; the last column counts samples with a NaN among the logits.
        alpha, seed: as they were given.
    """

    predictions: NDArray[np.int64]
    counts: NDArray[np.int64]
    alpha: float
    seed: int


@dataclass(frozen=True)
class Certificates:
    """What :meth:`SmoothedClassifier.certify` found, input by input.

    Where ``radius`` is a number, the smoothed classifier answers ``predictions`` for every input that is nearer than it
    (or as near, where ``closed``) in ``noise.norm``. Each such statement holds with probability at least ``confidence``
    over the samples: about each input on its own, so that of N certificates all hold with probability at least
    ``1 - N (1 - confidence)``.

    Attributes:
        predictions: ``(n,)`` int64, the certified class; -1 where it abstains.
        candidates: ``(n,)`` int64, the class that was selected and was to be certified; -1 where more of the samples
            for selection gave NaN than any class.
        radius: ``(n,)`` float64, rounded down; nan where it abstains.
        probabilities: the bounds that the radius was computed from.
        counts: ``(n, classes + 1)`` int64, votes of the samples that the bounds rest on; the last column counts samples
            with a NaN among the logits, which count against every class. All zero where nothing was selected.
        selection: ``(n, classes + 1)`` int64, votes of the samples, independent of the others, that chose the class and
            the split of ``alpha``.
        alpha, rule: as they were given; 0 and "exact" where every outcome of the noise was tried.
        confidence: what ``rule`` is proven at: ``1 - alpha``, or less for "t-certify-paper".
        seed: names all samples, together with the numbers of the inputs.
        noise: the family and its parameters.
        answers: ``(n,)`` of :class:`verifix.smooth.sequential.Answer`, where the question was one of a radius or of a
            relative width; else None.
        total_variation: by how much every probability was moved, against the certificate: twice the distance of the
            noise that is drawn from that of the theorem, once for the samples here and once for those that the
            classifier would answer by elsewhere (docs/smoothing-runs.md).
    """

    predictions: NDArray[np.int64]
    candidates: NDArray[np.int64]
    radius: NDArray[np.float64]
    probabilities: Probabilities
    counts: NDArray[np.int64]
    selection: NDArray[np.int64]
    alpha: float
    rule: str
    confidence: float
    seed: int
    noise: Noise
    answers: NDArray[np.int8] | None
    total_variation: float

    @property
    def float_sound(self) -> bool:
        """Whether the certificates hold for what is computed, and not for real arithmetic alone."""
        return self.noise.float_sound

    @property
    def closed(self) -> bool:
        """Whether inputs at a distance of exactly the radius are certified too."""
        return self.noise.closed or self.rule == EXACT

    @property
    def samples(self) -> NDArray[np.int64]:
        """How many samples each radius rests on, ``(n,)``."""
        return np.asarray(self.counts.sum(1))

    @property
    def invalid(self) -> NDArray[np.int64]:
        """How many samples of each input gave NaN, ``(n,)``, those for selection included."""
        return np.asarray(self.counts[:, -1] + self.selection[:, -1])


@dataclass(frozen=True)
class Question:
    """What is asked about every input: by how many samples, at which level and by which rule.

    Args:
        n0: samples that select the class.
        n: samples that bound the probabilities: all of them, or where a radius or a relative width is asked for, at
            most so many.
        alpha: how likely a certificate may be wrong.
        rule: "t-certify", "certify", or "t-certify-paper", which is proven at less than ``1 - alpha``.
        radius: draw samples until this radius is certified, or known to be out of reach.
        relative_width: draw samples until the certified radius is at least ``1 - relative_width`` of the largest that
            any number of samples could certify.

    Raises:
        InvalidType, InvalidValue: alpha is not between 0 and 1, n is too small to certify anything, an unknown rule,
            both a radius and a relative width, or one out of range.
    """

    n0: int
    n: int
    alpha: float
    rule: str = "t-certify"
    radius: float | None = None
    relative_width: float | None = None

    def __post_init__(self) -> None:
        for name in ("n0", "n"):
            value = getattr(self, name)
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise InvalidType(name, value, "a whole number")
            if value < 1:
                raise InvalidValue(name, value, "must be at least 1")
            object.__setattr__(self, name, int(value))  # numpy's are none of JSON's
        for name in ("radius", "relative_width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating | None):
                raise InvalidType(name, value, "a number")
            object.__setattr__(self, name, None if value is None else float(value))
        proven_level(self.rule, self.alpha)  # refuses what is wrong with them
        if self.radius is not None and self.relative_width is not None:
            raise InvalidValue("relative_width", self.relative_width, "leave it out where a radius is asked for")
        if self.radius is not None and not 0 < self.radius < math.inf:
            raise InvalidValue("radius", self.radius, "must be finite and above 0")
        if self.relative_width is not None and not 0 < self.relative_width < 1:
            raise InvalidValue("relative_width", self.relative_width, "must be above 0 and below 1")
        if self.sequential is None:
            require_samples(self.n, self.alpha, self.rule, self.alpha if self.rule == "t-certify" else None)
            return
        least = self.n
        while (needed := self._needed_up_to(least)) > least:  # more samples have more checkpoints, and lower levels
            least = needed
        if least > self.n:
            remedy = f"is too small to certify anything with {self.rule} at alpha = {self.alpha}"
            raise InvalidValue("n", self.n, f"{remedy}, shared out among checkpoints: take at least {least} samples")

    def _needed_up_to(self, limit: int) -> int:
        """The least number of samples that can certify anything at the level of the last of so many."""
        level = SequentialRule(self.alpha, self.rule, limit=limit).level(limit)
        return smallest_n(level, self.rule, level if self.rule == "t-certify" else None)

    @property
    def sequential(self) -> SequentialRule | None:
        """The bounds that hold whenever one stops; None where all samples are drawn."""
        if self.radius is None and self.relative_width is None:
            return None
        return SequentialRule(self.alpha, self.rule, limit=self.n)

    def answer(self, found: Enclosure, radius: Radius) -> NDArray[np.int8]:
        """What bounds say about the radius or the relative width that is asked for: an ``Answer`` for each input."""
        if self.radius is not None:
            return found.reaches(radius, self.radius)
        return found.within(radius, self.relative_width or 0.0)


class SmoothedClassifier(Sampler):
    """A classifier that answers with the class its base classifier gives most often under noise.

    Samples are drawn anew for every purpose: those that a class and a split are selected by are never those that
    probabilities are estimated from, and no method takes counts from outside. The same seed and the same numbers of
    inputs name the same samples: asking twice adds no evidence.

    Args: those of :class:`verifix.smooth.sampling.Sampler`.

    >>> from torch import nn
    >>> from verifix.smooth.noise import Gaussian
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.eye(2)), model.bias.zero_()
    >>> smoothed = SmoothedClassifier(model, Gaussian(sigma=0.5), classes=2)
    >>> found = smoothed.certify(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), n0=100, n=10_000, alpha=0.001)
    >>> found.predictions.tolist()  # the boundary is at distance 0.7071 from the first input, and at 0 from the second
    [0, -1]
    >>> bool(0.65 < found.radius[0] < 0.7071)
    True
    """

    def predict(self, x: Tensor, *, n: int, alpha: float, inputs: Tensor | None = None) -> Predictions:
        """The class of each input, or abstention (Cohen et al. 2019, PREDICT).

        Args:
            x, inputs: as in :meth:`votes`.
            n: samples for each input.
            alpha: how likely the answer, where there is one, may be another than the most probable class.

        Raises:
            InvalidValue: alpha is not between 0 and 1, n is too small for any answer, the model gives only NaN.
        """
        predict_counts([[n, 0]], alpha)  # refuses what is wrong before samples are drawn
        counts = self._counts(x, Purpose.PREDICTION, n, inputs)
        self.require_valid(counts)
        return Predictions(self.answers(counts, alpha), counts, alpha, self.seed)

    def answers(self, counts: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
        """What PREDICT makes of votes that were counted with ``Purpose.PREDICTION``: a class, or -1."""
        return predict_counts(counts, alpha, self.classes)

    def certify(
        self,
        x: Tensor,
        *,
        n0: int,
        n: int,
        alpha: float,
        rule: str = "t-certify",
        radius: float | None = None,
        relative_width: float | None = None,
        inputs: Tensor | None = None,
    ) -> Certificates:
        """A class and a certified radius for each input, or abstention.

        ``n0`` samples select the class, and with rule "t-certify" how alpha is divided; ``n`` others, independent of
        them, bound the probabilities under the noise (Cohen et al. 2019, CERTIFY, for rule "certify"; T-CERTIFY for the
        others, see :mod:`verifix.smooth.rules`), and the noise turns them into a radius.

        Args:
            x, inputs: as in :meth:`votes`.
            n0, n, alpha, rule, radius, relative_width: see :class:`Question`. With a radius or a relative width samples
                are drawn only until that is decided, by bounds that hold at all times together with the same
                probability (:mod:`verifix.smooth.sequential`).

        Raises:
            InvalidValue: alpha is not between 0 and 1, n is too small to certify anything, an unknown rule, inputs off
                the lattice of the noise, the model gives only NaN.
        """
        found = self.answer(x, Question(n0, n, alpha, rule, radius, relative_width), inputs)
        self.require_valid(found.counts + found.selection)
        return found

    def certify_exactly(self, x: Tensor) -> Certificates:
        """A class and a radius for each input from every outcome of a noise that has only a few: nothing is left to
        chance (splitting noise on a lattice; Levine & Feizi 2021).

        Raises:
            InvalidValue: the noise is none of these, inputs are off its lattice, the model gives only NaN.
        """
        found = self.answer(x, None)
        self.require_valid(found.counts)
        return found

    def answer(self, x: Tensor, question: Question | None, inputs: Tensor | None = None) -> Certificates:
        """:meth:`certify`, or :meth:`certify_exactly` where there is no question of samples.

        Inputs of which all samples give NaN are no error here: it abstains from them.
        """
        if question is None:
            return self._exact(x)
        selection = self._counts(x, Purpose.SELECTION, question.n0, inputs)
        candidates = _candidates(selection)
        rows = np.flatnonzero(candidates != ABSTAIN)
        counts = np.zeros_like(selection)
        top, failure, other = np.zeros(len(x)), np.ones(len(x)), np.ones(len(x))
        radius = np.full(len(x), np.nan)
        rule = question.sequential
        answers = None if rule is None else np.full(len(x), Answer.NO, dtype=np.int8)
        total_variation = 2 * self.noise.total_variation(x[:1].numel())
        names = torch.arange(len(x), device=x.device) if inputs is None else inputs

        def radius_of(bounds: Probabilities) -> NDArray[np.float64]:
            return self.noise.radius(bounds.shifted(total_variation))

        def estimate(index: NDArray[np.int64]) -> Probabilities:
            at, own = torch.from_numpy(index).to(x.device), candidates[index]
            split = None
            if question.rule == "t-certify":
                split = split_from_selection(selection[index], own, question.alpha)
            if rule is None or answers is None:
                counts[index] = self._counts(x[at], Purpose.ESTIMATION, question.n, names[at])
                return bound_counts(counts[index], own, question.alpha, question.rule, split)
            found, counts[index], answers[index] = self._until_decided(
                x[at], names[at], own, split, question, rule, radius_of
            )
            return found

        for index in [rows] if answers is None else rows[:, None]:
            if len(index):
                found = estimate(index).shifted(total_variation)
                top[index], failure[index], other[index] = found.top, found.failure, found.other
                radius[index] = self.noise.radius(found)
        return Certificates(
            predictions=np.where(np.isnan(radius), ABSTAIN, candidates),
            candidates=candidates,
            radius=radius,
            probabilities=Probabilities(top, failure, other),
            counts=counts,
            selection=selection,
            alpha=question.alpha,
            rule=question.rule,
            confidence=proven_level(question.rule, question.alpha),
            seed=self.seed,
            noise=self.noise,
            answers=answers,
            total_variation=total_variation,
        )

    def _until_decided(
        self,
        x: Tensor,
        names: Tensor,
        candidates: NDArray[np.int64],
        split: NDArray[np.float64] | None,
        question: Question,
        rule: SequentialRule,
        radius: Radius,
    ) -> tuple[Probabilities, NDArray[np.int64], int]:
        """Bounds, counts and answer for one input, from as few samples as its question needs."""
        counts = np.zeros((1, self.classes + 1), dtype=np.int64)
        before: Enclosure | None = None
        while True:
            drawn = int(counts.sum())
            counts += self._counts(x, Purpose.ESTIMATION, rule.next_block(drawn), names, start=drawn)
            found = rule.enclose(counts, candidates, split, before)
            answer = int(question.answer(found, radius)[0])
            if answer != Answer.OPEN or rule.next_block(int(counts.sum())) == 0:
                return found.guaranteed, counts, answer
            before = found

    def require_valid(self, counts: NDArray[np.int64]) -> None:
        """Refuse a model whose every sample was invalid.

        Raises:
            InvalidValue: it gave only NaN.
        """
        if counts.sum() > 0 and counts[:, -1].sum() == counts.sum():
            raise InvalidValue("model", type(self.model).__name__, f"gives NaN on all {counts.sum()} noisy inputs")

    def _counts(
        self, x: Tensor, purpose: Purpose, count: int, inputs: Tensor | None, start: int = 0
    ) -> NDArray[np.int64]:
        return np.asarray(self.votes(x, purpose, count=count, start=start, inputs=inputs).cpu().numpy())

    def _exact(self, x: Tensor) -> Certificates:
        counts = np.asarray(self.votes_of_all(x).cpu().numpy())
        candidates = _candidates(counts)
        rows = np.flatnonzero(candidates != ABSTAIN)
        radius = np.full(len(counts), np.nan)
        if isinstance(self.noise, Splitting):
            radius[rows] = self.noise.exact_radius(counts[rows], candidates[rows])
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        top = np.where(candidates == ABSTAIN, 0.0, share[np.arange(len(share)), candidates])
        others = share.copy()
        others[np.arange(len(share)), candidates] = 0.0
        return Certificates(
            predictions=np.where(np.isnan(radius), ABSTAIN, candidates),
            candidates=candidates,
            radius=radius,
            probabilities=Probabilities(top, 1 - top, others.max(1)),
            counts=counts,
            selection=np.zeros_like(counts),
            alpha=0.0,
            rule=EXACT,
            confidence=1.0,
            seed=self.seed,
            noise=self.noise,
            answers=None,
            total_variation=0.0,
        )


def _candidates(selection: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class with most votes, the smallest of equals; none where more samples are invalid.

    >>> _candidates(np.asarray([[3, 5, 5, 0], [1, 2, 0, 9]])).tolist()
    [1, -1]
    """
    top = selection[:, :-1].argmax(1)
    return np.where(selection[:, -1] > selection[:, :-1].max(1), ABSTAIN, top)
