"""Certificates and predictions of a smoothed classifier for a whole data set, into a folder that survives a crash."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verifix.certify.run import Progress, complete, environment, silent, versions
from verifix.certify.store import Decision, RunStore, read_records, read_settings
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.kernels.lattice import check_lattice
from verifix.models import fingerprint, probe
from verifix.smooth.accuracy import certified_accuracy
from verifix.smooth.certify import ABSTAIN, EXACT, Certificates, Question, SmoothedClassifier
from verifix.smooth.log import LogRow
from verifix.smooth.noise import Flow, Noise, Purpose, Samples, noise_from_json
from verifix.smooth.radii import round_radii
from verifix.smooth.rules import predict_counts, proven_level
from verifix.smooth.sampling import TILE, at_test_time
from verifix.smooth.sequential import Answer

GAMMA = 0.001
"""How likely the corrected accuracy of a whole data set may be too high."""


@dataclass(frozen=True)
class PredictRecord(Decision):
    """What PREDICT answers for one input.

    ``input`` is its number in the data set, which names its samples. ``prediction`` is -1 where it abstains. The last
    of ``counts`` is of samples with a NaN among the logits.
    """

    input: int
    label: int
    prediction: int
    counts: list[int]


@dataclass(frozen=True)
class SmoothRecord(PredictRecord):
    """What CERTIFY or T-CERTIFY says of one input; ``counts`` are those of the estimation.

    ``radius`` is None where it abstains. ``answer`` is yes, no or open where the question was one of a radius or of a
    relative width, else None. ``top``, ``failure`` and ``other`` bound the probabilities that it was
    computed from; ``candidate`` is the class that was selected, -1 where none was, by the votes ``selection``.
    """

    candidate: int
    radius: float | None
    top: float
    failure: float
    other: float
    selection: list[int]
    answer: str | None


def smooth_run(
    model: nn.Module,
    data: Dataset,
    noise: Noise,
    question: Question | None,
    *,
    out: str | Path,
    seed: int = 0,
    skip: int = 1,
    batch: int | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Certify inputs of ``data`` by votes under noise; a run that was killed continues with ``resume=True``.

    One input is decided after the other. Its samples are named by its number in the data set, so that neither an
    interruption nor ``skip``, ``batch`` or the number of threads changes a certificate.

    Args:
        model: the base classifier; its parameters are part of what must be the same on resume.
        data: inputs and labels.
        noise, seed, batch: as in :class:`SmoothedClassifier`.
        question: how many samples, which rule and level; None tries every outcome of splitting noise on a lattice.
        out: the run folder, see :mod:`verifix.certify.store`; its lines are :class:`SmoothRecord`.
        skip: only the inputs 0, skip, 2 skip, ...
        settings, sources: what else to record in ``settings.json``: compared on resume, and not compared.
        progress: called after the folder is opened and after every input.

    Returns:
        The summary, see :func:`summarise_smoothing`.

    Raises:
        UserError: a network that is no classifier of the data or gives only NaN on noisy copies of the first input,
            inputs off the lattice of the noise, an ``out`` that cannot be used; nothing on disk has been changed then.
        RunInterrupted: on ``KeyboardInterrupt``.
    """
    job = _Job.make(model, data, noise, seed, skip, batch, dict(settings or {}))
    resolved = job.settings | {"question": "certify", **_json_of(question)}
    job.require_valid(None if question is None else question.n0)

    def decide(part: slice) -> list[SmoothRecord]:
        x, numbers, labels = job.select(part)
        found = job.classifier.answer(x, question, numbers)
        return [_record(found, row, part.start + row, int(numbers[row]), label) for row, label in enumerate(labels)]

    def show(records: list[SmoothRecord], total: int) -> None:
        done = sum(record.prediction == record.label for record in records)
        (progress or silent)(Progress(len(records), total, done))

    where = job.environment()
    with RunStore(out, resolved, SmoothRecord, sources=sources, environment=where, resume=resume) as store:
        return complete(store, job.total, 1, decide, show, summarise_smoothing)


def predict_run(
    model: nn.Module,
    data: Dataset,
    noise: Noise,
    *,
    n: int,
    alpha: float,
    out: str | Path,
    seed: int = 0,
    skip: int = 1,
    batch: int | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Answer inputs of ``data`` by PREDICT, ``n`` samples each, at level ``alpha``; the rest is that of
    :func:`smooth_run`, and lines are :class:`PredictRecord`."""
    predict_counts([[n, 0]], alpha)  # refuses what is wrong with them
    job = _Job.make(model, data, noise, seed, skip, batch, dict(settings or {}))
    job.require_valid(min(n, TILE))
    resolved = job.settings | {"question": "predict", "n": n, "alpha": alpha}

    def decide(part: slice) -> list[PredictRecord]:
        x, numbers, labels = job.select(part)
        counts = job.classifier.votes(x, Purpose.PREDICTION, count=n, inputs=numbers).cpu().numpy()
        answers = job.classifier.answers(counts, alpha)
        return [
            PredictRecord(part.start + row, int(numbers[row]), label, int(answers[row]), counts[row].tolist())
            for row, label in enumerate(labels)
        ]

    def show(records: list[PredictRecord], total: int) -> None:
        (progress or silent)(Progress(len(records), total, _outcomes(records)["correct"]))

    where = job.environment()
    with RunStore(out, resolved, PredictRecord, sources=sources, environment=where, resume=resume) as store:
        return complete(store, job.total, 1, decide, show, summarise_predictions)


@dataclass(frozen=True)
class _Job:
    """A smoothed classifier and the inputs that it is asked about."""

    classifier: SmoothedClassifier
    data: Dataset
    skip: int
    device: torch.device
    settings: dict[str, Any]

    @classmethod
    def make(
        cls,
        model: nn.Module,
        data: Dataset,
        noise: Noise,
        seed: int,
        skip: int,
        batch: int | None,
        settings: dict[str, Any],
    ) -> _Job:
        if isinstance(skip, bool) or not isinstance(skip, int) or skip < 1:
            raise InvalidValue("skip", skip, "must be a whole number of at least 1")
        data = data.select(torch.arange(0, len(data), skip))
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        if noise.lattice is not None:
            check_lattice(data.images, noise.lattice)  # all of them, before anything is written
        names = Samples(seed, Purpose.SELECTION, torch.zeros(1, dtype=torch.int64, device=device), 0, 2)
        noisy = noise.draw(data.images[:1].to(device), names)[0]
        logits = probe(at_test_time(model), noisy, data.classes, settings.get("model"), finite=False)
        classifier = SmoothedClassifier(model, noise, classes=logits.shape[1], seed=seed, batch=batch)
        settings |= {
            "parameters_sha256": fingerprint(model),
            "data": f"{data.name}:{data.split}",
            "data_sha256": data.digest(),
            "limit": len(data),
            "skip": skip,
            "dtype": str(data.images.dtype).removeprefix("torch."),
            "noise": noise.to_json(),
            "seed": seed,
            "images_per_pass": classifier.images_per_pass(device),
            "device": device.type,
        }
        return cls(classifier, data, skip, device, settings)

    @property
    def total(self) -> int:
        return len(self.data)

    def select(self, part: slice) -> tuple[Tensor, Tensor, list[int]]:
        """Inputs, their numbers in the data set, and labels."""
        numbers = torch.arange(part.start * self.skip, part.stop * self.skip, self.skip, device=self.device)
        return self.data.images[part].to(self.device), numbers, self.data.labels[part].tolist()

    def require_valid(self, count: int | None) -> None:
        """Refuse a network that gives only NaN on so many noisy copies of the first input, or on all that there are."""
        x, numbers, _ = self.select(slice(0, 1))
        if count is None:
            votes = self.classifier.votes_of_all(x)
        else:
            votes = self.classifier.votes(x, Purpose.SELECTION, count=count, inputs=numbers)
        self.classifier.require_valid(votes.cpu().numpy())

    def environment(self) -> dict[str, Any]:
        return {name: value for name, value in environment(self.device, 0).items() if name != "memory"}


def _json_of(question: Question | None) -> dict[str, Any]:
    return {"rule": EXACT} if question is None else asdict(question)


def _record(found: Certificates, row: int, index: int, number: int, label: int) -> SmoothRecord:
    radius, bounds = float(found.radius[row]), found.probabilities
    return SmoothRecord(
        index=index,
        input=number,
        label=label,
        prediction=int(found.predictions[row]),
        counts=found.counts[row].tolist(),
        candidate=int(found.candidates[row]),
        radius=None if math.isnan(radius) else radius,
        top=float(bounds.top[row]),
        failure=float(bounds.failure[row]),
        other=float(bounds.other[row]),
        selection=found.selection[row].tolist(),
        answer=None if found.answers is None else Answer(found.answers[row]).name.lower(),
    )


def _outcomes(records: Sequence[PredictRecord]) -> dict[str, int]:
    """How many inputs are answered correctly, wrongly and not at all.

    >>> _outcomes([PredictRecord(0, 0, 7, 7, [1]), PredictRecord(1, 1, 2, -1, [1]), PredictRecord(2, 2, 3, 4, [1])])
    {'correct': 1, 'wrong': 1, 'abstained': 1}
    """
    abstained = sum(record.prediction == ABSTAIN for record in records)
    correct = sum(record.prediction == record.label for record in records)
    return {"correct": correct, "wrong": len(records) - correct - abstained, "abstained": abstained}


def summarise_smoothing(records: list[SmoothRecord], seconds: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``summary.json`` of :func:`smooth_run`.

    ``certified_accuracy`` is, at each radius, the fraction of inputs whose certified class is the label, with at least
    that radius; ``corrected`` is a lower bound on the same with certificates that fail taken away, which holds with
    probability ``1 - GAMMA`` over the samples of all inputs (:mod:`verifix.smooth.accuracy`). ``confidence`` is that of
    each certificate, ``confidence_of_all`` that of all together. ``answers`` counts those of a question about a radius
    or a relative width; radii beyond the one that was asked for are there by chance, and are not counted at.
    """
    noise = noise_from_json(settings["noise"])
    exact = settings["rule"] == EXACT
    confidence = 1.0 if exact else proven_level(settings["rule"], settings["alpha"])
    right = [record.radius for record in records if record.prediction == record.label and record.radius is not None]
    return {
        **_summary(records, seconds, settings),
        "certified_accuracy": _accuracies(
            records, 0.0 if exact else 1 - confidence, settings.get("radius"), noise.norm == "l0"
        ),
        "average_certified_radius": math.fsum(right) / len(records),
        **({"answers": _answers(records)} if records[0].answer is not None else {}),
        "rule": settings["rule"],
        "alpha": 0.0 if exact else settings["alpha"],
        "confidence": confidence,
        "confidence_of_all": max(0.0, 1 - len(records) * (1 - confidence)),
        "norm": noise.norm,
        "closed": exact or noise.closed,
        "float_sound": noise.float_sound,
    }


def _answers(records: Sequence[SmoothRecord]) -> dict[str, int]:
    counts = Counter(record.answer for record in records)
    return {answer: counts[answer] for answer in ("yes", "no", "open")}


def _accuracies(
    records: Sequence[SmoothRecord], alpha: float, asked: float | None, whole: bool
) -> list[dict[str, float]]:
    radii = [math.nan if record.radius is None else record.radius for record in records]
    right = [radius for radius, record in zip(radii, records, strict=True) if record.prediction == record.label]
    found = certified_accuracy(
        radii,
        [record.prediction for record in records],
        [record.label for record in records],
        round_radii(max(right, default=0.0), whole=whole) if asked is None else [0.0, asked],
        alpha or GAMMA,
        GAMMA,
    )
    corrected = found.proven if alpha else found.accuracy  # without chance, no certificate is in doubt
    return [
        {"radius": float(radius), "accuracy": float(accuracy), "corrected": float(least)}
        for radius, accuracy, least in zip(found.radii, found.accuracy, corrected, strict=True)
    ]


def summarise_predictions(records: list[PredictRecord], seconds: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``summary.json`` of :func:`predict_run`."""
    alpha = settings["alpha"]
    return {**_summary(records, seconds, settings), "alpha": alpha, "confidence": proven_level("certify", alpha)}


def _summary(records: Sequence[PredictRecord], seconds: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What both have: inputs by outcome, samples drawn and how many of them were invalid."""
    outcomes = _outcomes(records)
    votes = [record.counts for record in records]
    votes += [record.selection for record in records if isinstance(record, SmoothRecord)]
    return {
        "n": len(records),
        "clean_accuracy": outcomes["correct"] / len(records),
        "outcomes": outcomes,
        "samples": sum(map(sum, votes)),
        "invalid": sum(counts[-1] for counts in votes),
        "seconds": seconds,
        **versions(),
        "settings": dict(settings),
    }


def read_run(folder: str | Path) -> tuple[list[LogRow], str]:
    """What a run of :func:`smooth_run` has decided so far, as rows of a log, and the norm of its radii; for flow noise
    with another ground metric than l1 with its name, as these distances are others.

    Raises:
        InvalidValue: no such run, or its files are damaged, or it has decided nothing yet.
    """
    settings = read_settings(folder)
    if settings.get("question") != "certify" or "noise" not in settings:
        raise InvalidValue("run", folder, "is no run of verifix smooth certify")
    records, seconds = read_records(folder, SmoothRecord)
    if not records:
        raise InvalidValue("run", folder, "has decided no input yet: continue it with --resume")
    rows = [
        LogRow(record.input, record.label, record.prediction, record.radius or 0.0, took)
        for record, took in zip(records, seconds, strict=True)
    ]
    noise = noise_from_json(settings["noise"])
    of_ground = isinstance(noise, Flow) and noise.ground != "l1"
    return rows, f"{noise.norm} ({settings['noise']['ground']} ground)" if of_ground else noise.norm
