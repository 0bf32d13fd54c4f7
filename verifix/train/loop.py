"""Training: the loop, from the data to the best weights."""

from __future__ import annotations

import copy
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verifix._version import __version__
from verifix.bounds.tiles import budget, inputs_per_step, rows_of
from verifix.certify.run import RunInterrupted
from verifix.data import Dataset
from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph, capture
from verifix.models import fingerprint, probe
from verifix.train.adversarial import AdversarialObjective, evaluate_attacked
from verifix.train.checkpoint import Checkpoint, TrainFolder, prefix_of
from verifix.train.distributed import Group
from verifix.train.log import (
    MEASURED,
    Epoch,
    Measures,
    Sums,
    best_epoch,
    is_best,
    out_of_patience,
    peak_memory,
    sums_of,
)
from verifix.train.loss import robust_logits
from verifix.train.objective import Objective, TrainingDiverged
from verifix.train.settings import TrainSettings
from verifix.train.smoothing import NoisyObjective, inputs_at_once, statistics
from verifix.train.validation import evaluate, evaluate_under_noise, hold_out

StateDict = dict[str, Tensor]
CHECKPOINT_SECONDS = 300.0


@dataclass(frozen=True)
class Progress:
    """A step was made: the ``step``-th of ``steps`` in ``epoch`` (from 1) of ``epochs``; ``loss`` is of its batch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    eps: float


@dataclass(frozen=True)
class Training:
    """What :func:`train` gives.

    Attributes:
        history: one entry for each epoch.
        best: the epoch of the best weights, which the model holds now.
        last: the weights after the last epoch, as a state dict of the model.
        stopped_early: whether patience ran out.
    """

    history: tuple[Epoch, ...]
    best: Epoch
    last: StateDict
    stopped_early: bool


def train(
    model: nn.Module,
    data: Dataset,
    settings: TrainSettings,
    *,
    validation: Dataset | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    saved: nn.Module | None = None,
    about: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Sequence[Epoch]], None] | None = None,
) -> Training:
    """Train a network against the worst that its bounds allow; with ``method="none"`` by plain cross-entropy; with a
    method for randomized smoothing under noise, see :mod:`verifix.train.smoothing`; or at the points that attacks find,
    see :mod:`verifix.train.adversarial`.

    The order of examples, what is held out, projections and noise follow from ``settings.seed`` and the position alone,
    so that training which was killed and resumed gives the same weights bit for bit (on CPU, with as many threads).
    Where ``torch.distributed`` is initialised, all processes train one network: each takes its share of every batch,
    with gradients of the mean over the whole batch, and the first one writes.

    The network is trained as it is at test time, since bounds are about that: batch norm keeps its stored statistics,
    and dropout does nothing. Under noise and at attacked points it is in training mode instead, and may hold operations
    that no bound knows.

    Args:
        model: a classifier on its device, in the data's floating-point type; its parameters that require gradients are
            trained from what they are. Left in eval mode, with the best weights.
        data: what to train on, less what ``settings.validation`` holds out.
        settings: how.
        validation: examples to validate on in place of those that would be held out.
        out: the run folder, see :mod:`verifix.train.checkpoint`; nothing is written where it is None.
        resume: go on with the run in ``out``; one that is finished is returned as it is.
        checkpoint_seconds: the time between two checkpoints within an epoch; there is one after every epoch anyway.
        saved: the part of the model whose weights are written; default all of it.
        about: what else to record and to compare on resume, such as the name of the network.
        sources: what else to record and not to compare, such as paths.
        progress: called after every step, in the first process.
        on_epoch: called after every epoch with all of them, in the first process, when its files are written.

    Raises:
        UserError: an operation that is not supported, a network that is no classifier of the data, inputs outside the
            box, an ``out`` that cannot be used; nothing on disk has been changed then.
        TrainingDiverged: the loss, a gradient or a weight is not finite any more; checkpoints stay.
        RunInterrupted: on ``KeyboardInterrupt``, where there is a folder to resume from.

    >>> from verifix.data import load
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> settings = TrainSettings(eps=0.02, box=(0, 1), method="crown-ibp", epochs=3)
    >>> result = train(model, load("digits:train").first(200), settings)
    >>> [epoch.epoch for epoch in result.history], round(result.history[-1].eps, 3)
    ([1, 2, 3], 0.02)
    """
    if not isinstance(settings, TrainSettings):
        raise InvalidType("settings", settings, "verifix.train.TrainSettings")
    if not isinstance(data, Dataset):
        raise InvalidType("data", data, "a verifix.data.Dataset")
    if not checkpoint_seconds >= 0:
        raise InvalidValue("checkpoint_seconds", checkpoint_seconds, "must be at least 0")
    rest, held_out = (data, validation) if validation is not None else hold_out(data, settings)
    for part in (rest, held_out):
        for x in () if part is None else part.images.split(1000):
            settings.ball().around(x)  # refuses inputs outside the box, before anything is written
    model.eval()
    trainer = _Trainer(model, rest, held_out, settings, saved or model)
    group = trainer.group
    known = {
        **settings.to_json(),
        **(about or {}),
        "data": f"{data.name}:{data.split}",
        "data_sha256": data.digest(),
        "examples": len(rest),
        "validation_sha256": None if validation is None else validation.digest(),
        "parameters": sum(parameter.numel() for parameter in trainer.parameters),
        "dtype": str(data.images.dtype).removeprefix("torch."),
    }
    folder: TrainFolder | None = None

    def enter() -> Checkpoint | None:
        nonlocal folder
        if out is None:
            return None
        environment = _environment(group)
        folder = TrainFolder(out, known, sources=sources or {}, environment=environment, resume=resume)
        return folder.checkpoint

    try:
        checkpoint = group.agree(enter)
        trainer.connect(folder, checkpoint, checkpoint_seconds)
        trainer.run(progress or _silent, on_epoch or _silent)
    except KeyboardInterrupt:
        if folder is None:
            raise
        remedy = f"{len(trainer.history)} of {settings.epochs} epochs are done; run the same with --resume to go on"
        raise RunInterrupted(f"{folder.folder}: {remedy}") from None
    finally:
        if folder is not None:
            folder.close()
    return trainer.result()


class _Trainer:
    """Where training stands, and how it moves on."""

    def __init__(
        self, model: nn.Module, data: Dataset, held_out: Dataset | None, settings: TrainSettings, saved: nn.Module
    ) -> None:
        self.model, self.data, self.held_out, self.settings = model, data, held_out, settings
        self.prefix = prefix_of(model, saved)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise InvalidValue("model", type(model).__name__, "has no parameter that requires a gradient")
        self.device = self.parameters[0].device
        self.group = Group.current(self.device)
        example = data.images[:2].to(self.device)
        probe(model, example, data.classes)
        self.graph: Graph | None = None
        if settings.smoothing or settings.by_examples:
            self.together = inputs_at_once(model, example, settings)
        else:
            self.graph = self._captured(example)
        self.steps = math.ceil(len(data) / settings.batch)
        self.step = 0
        self.sums = Sums()
        self.history: list[Epoch] = []
        self.best: StateDict = {}
        self.folder: TrainFolder | None = None

    def _captured(self, example: Tensor) -> Graph:
        """The network as bounds see it, and how many inputs fit; refuses what does not, before anything is written."""
        settings = self.settings
        graph = capture(self.model, example)
        rows = rows_of(graph, settings.methods())
        self.together = inputs_per_step(graph, rows, example.dtype, self.device, settings.memory)
        if self.held_out is not None:
            budget(graph, [example.dtype], self.device, settings.memory)
        if settings.bounded:
            labels = self.data.labels[: len(example)].to(self.device)
            with torch.no_grad():
                robust_logits(graph, labels, settings.ball().around(example), settings.methods())
        return graph

    def connect(self, folder: TrainFolder | None, checkpoint: Checkpoint | None, seconds: float) -> None:
        """Go on from a checkpoint, where there is one; from here on parameters belong to the optimiser."""
        settings = self.settings
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint["model"])
        self.objective = self.group.wrap(self._objective(every_parameter=self.group.size > 1))
        self.statistics = statistics(self.model) if self.graph is None else []
        if settings.optimiser == "adam":
            self.optimiser: torch.optim.Optimizer = torch.optim.Adam(
                self.parameters, settings.lr, weight_decay=settings.weight_decay
            )
        else:
            self.optimiser = torch.optim.SGD(
                self.parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay
            )
        if checkpoint is not None:
            self.optimiser.load_state_dict(checkpoint["optimiser"])
            self.step, self.sums = checkpoint["step"], Sums(**checkpoint["sums"])
            self.history = [Epoch.from_json(values) for values in checkpoint["history"]]
            self.best = checkpoint["best"]
        self.folder, self.every = folder, seconds
        self.saved_at = time.monotonic()
        if folder is not None and checkpoint is None:
            self._save()  # so that a folder that cannot hold one is found out now
        elif folder is not None and self.history:
            self._write_outputs()  # whatever a crash kept from being written

    def _objective(self, *, every_parameter: bool) -> nn.Module:
        if self.graph is None:
            kind = AdversarialObjective if self.settings.by_examples else NoisyObjective
            return kind(self.model, self.settings, every_parameter=every_parameter)
        return Objective(self.model, self.graph, self.settings, every_parameter=every_parameter)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        if not self.history:
            return False
        return len(self.history) == self.settings.epochs or out_of_patience(self.settings, self.history)

    def run(self, progress: Callable[[Progress], None], on_epoch: Callable[[Sequence[Epoch]], None]) -> None:
        """Train until the end."""
        if self.group.first and self.history:
            on_epoch(self.history)
        while not self.finished:
            self._run_epoch(progress)
            if self.group.first:
                on_epoch(self.history)

    def result(self) -> Training:
        """What was found; the model gets its best weights."""
        best = best_epoch(self.history)
        if best is None:  # the last epoch is looked at, at the full eps
            raise InvalidValue("epochs", self.settings.epochs, "training has not come to an end")
        last = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.best)
        return Training(tuple(self.history), best, last, len(self.history) < self.settings.epochs)

    def _run_epoch(self, progress: Callable[[Progress], None]) -> None:
        epoch, settings = len(self.history), self.settings
        generator = torch.Generator().manual_seed(settings.stream("order", epoch))
        batches = torch.randperm(len(self.data), generator=generator).split(settings.batch)
        while self.step < self.steps:
            began = time.perf_counter()
            loss, eps = self._step(batches[self.step], epoch)
            self.step += 1
            self.sums.seconds += time.perf_counter() - began
            if self.group.first:
                progress(Progress(epoch + 1, settings.epochs, self.step, self.steps, loss, eps))
            if self.folder is not None and time.monotonic() - self.saved_at >= self.every:
                self._save()
        self._finish_epoch(epoch)

    def _step(self, index: Tensor, epoch: int) -> tuple[float, float]:
        """One step of the optimiser; the mean loss of the batch, and its eps."""
        settings, group = self.settings, self.group
        position = epoch + self.step / self.steps
        eps, lr = settings.eps_at(position), settings.lr_at(position)
        own = index[group.share(len(index))]
        self.optimiser.zero_grad()
        totals = group.sum(self._gradient(own, eps, epoch, len(index))).tolist()
        minimised = "robust_loss" if settings.robust else "objective" if settings.smoothing else "loss"
        mean = totals[MEASURED.index(minimised)] / len(index)
        if not math.isfinite(mean):
            raise self._diverged("loss", mean, epoch, eps, lr)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        size = float(norm)
        if not math.isfinite(size):
            raise self._diverged("gradient norm", size, epoch, eps, lr)
        if settings.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, settings.clip, norm)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = lr
        self.optimiser.step()
        for buffer in self.statistics if group.size > 1 else ():
            found = group.sum(buffer.double() * (len(own) / len(index)))
            buffer.copy_(found if buffer.is_floating_point() else found.round())
        self.sums.add(totals)
        self.sums.gradient += size
        return mean, eps

    def _gradient(self, own: Tensor, eps: float, epoch: int, batch: int) -> Tensor:
        """Add up gradients over this process' share of a batch, part by part; what was measured on the way."""
        measured = sums_of(torch.empty(0, device=self.device))
        seed = self.settings.stream("projections", epoch, self.step)
        parts = own.split(self.together)
        for number, part in enumerate(parts, 1):
            x, y = self.data.images[part].to(self.device), self.data.labels[part].to(self.device)
            last = number == len(parts)
            with nullcontext() if last else self.group.apart(self.objective):
                if self.graph is None:
                    loss, found = self.objective(x, y, part.to(self.device), eps, epoch, self.step)
                else:
                    loss, found = self.objective(x, y, eps, seed)
                (loss * (self.group.size / batch)).backward()  # the mean over processes is then that over the batch
            measured += found
        return measured

    def _diverged(self, what: str, value: float, epoch: int, eps: float, lr: float) -> TrainingDiverged:
        settings = self.settings
        if self._broken():
            cause = f"the step before has made weights infinite: lr = {lr:g} is too large"
        elif settings.eps and not settings.reached(epoch + self.step / self.steps):
            cause = f"eps rises too fast, or lr = {lr:g} is too large"
        else:
            cause = f"lr = {lr:g} is too large" + (" for bounds at this eps" if settings.eps else "")
        remedy = "a smaller lr" + (", a larger eps_ramp" if settings.eps else "") + ", or clip the gradient (clip 1)"
        kept = "" if self.folder is None else f"; {self.folder.folder} keeps its last checkpoint"
        where = f"epoch {epoch + 1}, step {self.step + 1} of {self.steps}, eps {eps:g}"
        return TrainingDiverged(f"{what} = {value} in {where}: the likely cause is that {cause}; try {remedy}{kept}")

    def _broken(self) -> bool:
        return not all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters)

    def _finish_epoch(self, epoch: int) -> None:
        settings, position = self.settings, epoch + (self.steps - 1) / self.steps
        if self._broken():
            raise self._diverged("a weight", math.inf, epoch, settings.eps_at(position), settings.lr_at(position))
        began = time.perf_counter()
        looks = (epoch + 1) % settings.validation_every == 0 or epoch + 1 == settings.epochs
        measured = None
        if self.held_out is not None and looks:
            measured = self._evaluate(self.held_out)
        best = settings.reached(epoch + 1) and (self.held_out is None or is_best(measured, self.history))
        cost = {
            "seconds": self.sums.seconds,
            "validation_seconds": time.perf_counter() - began,
            "examples_per_second": len(self.data) / max(self.sums.seconds, 1e-9),
            "peak_memory": peak_memory(self.device),
        }
        self.history.append(
            Epoch(
                epoch=epoch + 1,
                steps=(epoch + 1) * self.steps,
                eps=settings.eps_at(position),
                lr=settings.lr_at(position),
                gradient=self.sums.gradient / self.steps,
                train=self.sums.measures(robust=settings.robust, objective=settings.smoothing),
                validation=measured,
                best=best,
                cost=cost,
            )
        )
        if best:
            self.best = copy.deepcopy(self.model.state_dict())
        self.step, self.sums = 0, Sums()
        if self.folder is not None:
            self._save()
            self._write_outputs()

    def _evaluate(self, data: Dataset) -> Measures:
        if self.graph is not None:
            return evaluate(self.graph, data, self.settings, self.group)
        together = max(1, self.together * self.settings.copies // (self.settings.validation_noises or 1))
        look = evaluate_attacked if self.settings.by_examples else evaluate_under_noise
        return look(self.model, data, self.settings, self.group, together=together)

    def _save(self) -> None:
        if self.folder is None:
            return
        self.folder.save(
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "sums": asdict(self.sums),
                "history": [epoch.to_json() for epoch in self.history],
                "best": self.best,
            }
        )
        self.saved_at = time.monotonic()

    def _write_outputs(self) -> None:
        """What is derived from the checkpoint."""
        if self.folder is None:
            return
        self.folder.write_log([epoch.to_json() for epoch in self.history])
        best = best_epoch(self.history)
        self._write_weights("last", self.model.state_dict(), self.history[-1])
        if best is not None:
            self._write_weights("best", self.best, best)

    def _write_weights(self, name: str, state: StateDict, epoch: Epoch) -> None:
        if self.folder is None:
            return
        state = {key.removeprefix(self.prefix): state[key] for key in state if key.startswith(self.prefix)}
        about = {"parameters_sha256": fingerprint(state), "epoch": epoch.to_json(), **_versions()}
        self.folder.write_weights(name, state, about)


def _environment(group: Group) -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    where = {"device": str(group.device), "processes": group.size, "threads": torch.get_num_threads()}
    return {"started": started, **_versions(), "python": platform.python_version(), **where}


def _versions() -> dict[str, str]:
    return {"verifix": __version__, "torch": torch.__version__}


def _silent(_: object) -> None:
    """Show nothing."""
