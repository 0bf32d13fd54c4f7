"""Where training stands, and how it moves on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from verifix._version import __version__
from verifix.bounds import Method
from verifix.bounds.tiles import budget, inputs_per_step, rows_of
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.graph import Graph, capture
from verifix.models import fingerprint, probe
from verifix.train.adversarial import AdversarialObjective, evaluate_attacked
from verifix.train.batch_norm import CleanStatistics
from verifix.train.checkpoint import LANDSCAPE, Checkpoint, LineLog, TrainFolder, prefix_of
from verifix.train.distributed import Group
from verifix.train.divergence import TrainingDiverged, diverged
from verifix.train.initialisation import drawn_weights, initialise
from verifix.train.landscape_plan import LandscapePlan
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
from verifix.train.objective import Objective, require_linear_end
from verifix.train.regularisers import regularised
from verifix.train.settings import TrainSettings
from verifix.train.smoothing import NoisyObjective, inputs_at_once, statistics
from verifix.train.units import count_units, layer_units
from verifix.train.validation import evaluate, evaluate_under_noise

StateDict = dict[str, Tensor]


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


class Trainer:
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
        self.clean = CleanStatistics(None)
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
            require_linear_end(graph)
            labels = self.data.labels[: len(example)].to(self.device)
            with torch.no_grad():
                robust_logits(graph, labels, settings.ball().around(example), settings.methods())
        if settings.initialisation == "ibp":
            drawn_weights(graph)
        if settings.regulariser:
            regularised(graph)
        if settings.batch_norm == "clean":
            self.clean = CleanStatistics(graph)
            if self.together < 2:
                raise InvalidValue("memory", settings.memory, "batch_norm clean needs two inputs at once: allow more")
        return graph

    def connect(
        self,
        folder: TrainFolder | None,
        checkpoint: Checkpoint | None,
        seconds: float,
        landscape: LandscapePlan | None = None,
    ) -> None:
        """Go on from a checkpoint, where there is one; from here on parameters belong to the optimiser."""
        settings = self.settings
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint["model"])
        elif settings.initialisation == "ibp" and self.graph is not None:
            initialise(self.graph, settings.stream("initialisation"))
        self.objective = self.group.wrap(self._objective(every_parameter=self.group.size > 1))
        self.statistics = statistics(self.model) if self.graph is None else self.clean.buffers
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
        self.folder, self.every, self.landscape = folder, seconds, landscape
        self.lines: LineLog | None = None
        if folder is not None and landscape is not None:
            self.lines = LineLog(folder.folder / LANDSCAPE, 0 if checkpoint is None else checkpoint["landscape"])
        self.saved_at = time.monotonic()
        if folder is not None and checkpoint is None:
            self._save()  # so that a folder that cannot hold one is found out now
        elif folder is not None and self.history:
            self._write_outputs()  # whatever a crash kept from being written

    def _objective(self, *, every_parameter: bool) -> nn.Module:
        if self.graph is None:
            kind = AdversarialObjective if self.settings.by_examples else NoisyObjective
            return kind(self.model, self.settings, every_parameter=every_parameter)
        return Objective(self.model, self.graph, self.settings, self.clean, every_parameter=every_parameter)

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
            if self.landscape is not None and (epoch * self.steps + self.step) % self.landscape.every == 0:
                self._measure_landscape(self.landscape, batches[self.step], epoch)
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
        with self.clean.recording() as update_statistics:
            totals = group.sum(self._gradient(own, eps, epoch, len(index))).tolist()
        mean = self._minimised(totals, len(index))
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
        update_statistics()
        for buffer in self.statistics if group.size > 1 else ():
            found = group.sum(buffer.double() * (len(own) / len(index)))
            buffer.copy_(found if buffer.is_floating_point() else found.round())
        self.sums.add(totals)
        self.sums.gradient += size
        return mean, eps

    def _minimised(self, totals: Sequence[float], batch: int) -> float:
        """The mean of what gradients are of, from the sums over a batch."""
        return totals[MEASURED.index(self.settings.minimised)] / batch

    def _gradient(self, own: Tensor, eps: float, epoch: int, batch: int, draw: int = 0) -> Tensor:
        """Add up gradients over this process' share of a batch, part by part; what was measured on the way.

        ``draw`` is 0 in training; others draw anew, at the same position.
        """
        measured = sums_of(torch.empty(0, device=self.device))
        seed = self.settings.stream("projections", epoch, self.step, *([draw] if draw else []))
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

    def _measure_landscape(self, plan: LandscapePlan, index: Tensor, epoch: int) -> None:
        """Measure the landscape of the step that comes next, and leave everything as it was."""
        began = time.perf_counter()
        settings, position = self.settings, epoch + self.step / self.steps
        eps, lr, own = settings.eps_at(position), settings.lr_at(position), index[self.group.share(len(index))]

        def evaluate(radius: float, draw: int) -> float:
            measured = self.group.sum(self._gradient(own, radius, epoch, len(index), draw))
            return self._minimised(measured.tolist(), len(index))

        line: dict[str, Any] = {"epoch": epoch + 1, "step": self.step + 1, "position": position, "eps": eps, "lr": lr}
        line |= plan.measure(self.parameters, self.model.buffers(), evaluate, settings, eps, lr)
        if self.graph is not None and settings.bounded:
            methods = settings.methods(settings.stream("projections", epoch, self.step))
            counts = self.group.sum(self._count_units(self.graph, own, eps, methods))
            line["units"] = [layer.to_json() for layer in layer_units(self.graph, counts)]
        seconds = time.perf_counter() - began
        self.sums.landscape_seconds += seconds
        if self.lines is not None:
            self.lines.append({**line, "cost": {"seconds": seconds}})

    def _count_units(self, graph: Graph, own: Tensor, eps: float, methods: Sequence[Method]) -> Tensor:
        counts = []
        for part in own.split(self.together):  # of an empty share, one that is empty too
            x, y = self.data.images[part].to(self.device), self.data.labels[part].to(self.device)
            sets = self.settings.ball(eps).around(x)
            with self.clean.of(x):
                counts.append(count_units(graph, y, sets, methods, self.settings.memory))
        return torch.stack(counts).sum(0)

    def _diverged(self, what: str, value: float, epoch: int, eps: float, lr: float) -> TrainingDiverged:
        where = f"epoch {epoch + 1}, step {self.step + 1} of {self.steps}, eps {eps:g}"
        rising = bool(self.settings.eps) and not self.settings.reached(epoch + self.step / self.steps)
        kept = None if self.folder is None else self.folder.folder
        return diverged(
            f"{what} = {value} in {where}", self.settings, lr, rising=rising, broken=self._broken(), kept=kept
        )

    def _broken(self) -> bool:
        return not all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters)

    def _finish_epoch(self, epoch: int) -> None:
        settings, position = self.settings, epoch + (self.steps - 1) / self.steps
        if self._broken():
            raise self._diverged("a weight", math.inf, epoch, settings.eps_at(position), settings.lr_at(position))
        began = time.perf_counter()
        self.clean.reestimate(self.data.images, self.group, self.together)
        self.sums.seconds += time.perf_counter() - began
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
        if self.landscape is not None:
            cost["landscape_seconds"] = self.sums.landscape_seconds
        self.history.append(
            Epoch(
                epoch=epoch + 1,
                steps=(epoch + 1) * self.steps,
                eps=settings.eps_at(position),
                lr=settings.lr_at(position),
                gradient=self.sums.gradient / self.steps,
                train=self.sums.measures(robust=settings.robust, objective=settings.minimised == "objective"),
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
                "landscape": 0 if self.lines is None else self.lines.size,
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
        about = {"parameters_sha256": fingerprint(state), "epoch": epoch.to_json(), **versions()}
        self.folder.write_weights(name, state, about)


def versions() -> dict[str, str]:
    """Of what made the weights."""
    return {"verifix": __version__, "torch": torch.__version__}
