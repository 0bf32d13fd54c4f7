"""The whole story on the digits inside the package: train, certify, attack and smooth, and compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from verifix.attack import PGD
from verifix.certify import certify
from verifix.data import Dataset, load
from verifix.graph import Graph, capture
from verifix.report import SmoothedCurve, accuracy_picture, smoothing_picture
from verifix.report.smoothing import markdown, smoothing_table, table_radii
from verifix.sets import Ball
from verifix.smooth import SmoothedClassifier
from verifix.smooth.log import LogRow
from verifix.smooth.noise import Gaussian
from verifix.train import Epoch, TrainSettings, train
from verifix.zoo import digits_small

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

METHOD = "cap+crown-ibp+ibp"
"""How both networks are certified: the best of three bounds, margin by margin."""
GREY_VALUES = 16
"""Steps between black and white in the digits: the lattice on which noise is exact."""


@dataclass(frozen=True)
class Settings:
    """Of the demo; the defaults take about a minute on two cores."""

    eps: tuple[float, ...] = (0.02, 0.05, 0.08, 0.1, 0.15)
    eps_train: float = 0.1
    epochs: int = 60
    batch: int = 64
    attack_steps: int = 40
    attack_restarts: int = 2
    sigma: float = 0.25
    samples: int = 2000
    alpha: float = 0.001
    seed: int = 0


@dataclass(frozen=True)
class Curve:
    """Accuracies of one network on the test digits, as fractions; attacked and certified ones for each eps."""

    name: str
    clean: float
    attacked: list[float] = field(default_factory=list)
    certified: list[float] = field(default_factory=list)
    broken: int = 0
    """Certificates that the attack broke: any number but zero is a bug in verifix."""


def run_demo(settings: Settings, progress: Progress) -> list[Curve]:
    """Train one network normally and one through the engine's bounds, then certify and attack both on test digits."""
    digits, test = load("digits:train"), load("digits:test")
    curves = []
    for name, robust in (("standard training", False), ("robust training", True)):
        torch.manual_seed(settings.seed)
        model, how = digits_small(), train_settings(settings, robust)
        train(model, digits, how, on_epoch=_reporter(progress, name, how.epochs))
        curves.append(_evaluate(name, model, capture(model, digits.images[:1]), test, settings, progress))
    return curves


def smooth_demo(settings: Settings, progress: Progress) -> SmoothedCurve:
    """Train a network on noisy digits, and certify the vote it gives under noise, on the lattice of grey values."""
    torch.manual_seed(settings.seed)
    digits, test, model = load("digits:train"), load("digits:test"), digits_small()
    how = TrainSettings(
        method="gaussian", sigma=settings.sigma, epochs=max(1, settings.epochs // 3), batch=settings.batch, lr=2e-3,
        lr_schedule="cosine", validation=0, seed=settings.seed,
    )  # fmt: skip
    name = "training under noise"
    train(model, digits, how, on_epoch=_reporter(progress, name, how.epochs))
    noise = Gaussian(settings.sigma, lattice=GREY_VALUES)
    smoothed = SmoothedClassifier(model, noise, classes=digits.classes, seed=settings.seed)
    rows: list[LogRow] = []
    for index in torch.arange(len(test)).split(50):
        found = smoothed.certify(
            test.images[index], n0=100, n=settings.samples, alpha=settings.alpha, inputs=index
        )  # fmt: skip
        answers = zip(index.tolist(), found.predictions.tolist(), found.radius.tolist(), strict=True)
        rows += [LogRow(i, int(test.labels[i]), c, r if c >= 0 else 0.0, 0.0) for i, c, r in answers]
        progress(f"{name}: certify by votes", len(rows), len(test))
    return SmoothedCurve.of(f"smoothed, sigma {settings.sigma:g}", rows)


def _reporter(progress: Progress, name: str, epochs: int) -> Callable[[Sequence[Epoch]], None]:
    return lambda history: progress(name, len(history), epochs)


def train_settings(settings: Settings, robust: bool) -> TrainSettings:
    """Standard training for a third of the time, or CROWN-IBP with eps rising over the first half."""
    epochs = settings.epochs if robust else max(1, settings.epochs // 3)
    method: dict[str, Any] = {"method": "none"}
    if robust:
        method = {"method": "crown-ibp", "eps": settings.eps_train, "eps_start": 0, "eps_ramp": epochs / 2}
    return TrainSettings(
        box=(0, 1), epochs=epochs, batch=settings.batch, lr=2e-3, lr_schedule="cosine", validation=0,
        seed=settings.seed, **method,
    )  # fmt: skip


def _evaluate(
    name: str, model: nn.Module, graph: Graph, test: Dataset, settings: Settings, progress: Progress
) -> Curve:
    x, y = test.images, test.labels
    with torch.no_grad():
        clean = float((model(x).argmax(1) == y).float().mean())
    pgd = PGD(
        steps=settings.attack_steps, restarts=settings.attack_restarts, relative_step_size=0.1, final_step=0.1,
        start_from="both", loss="margin",
    )  # fmt: skip
    attacked, certified, broken = [], [], 0
    for done, eps in enumerate(settings.eps):
        sets = Ball("linf", eps, box=(0, 1)).around(x)
        verified = certify(graph, x, y, sets, METHOD).verified
        attack = pgd(model, x, y, sets, seed=settings.seed)
        broken += int((verified & attack.success).sum())
        attacked.append(1 - float(attack.success.float().mean()))
        certified.append(float(verified.float().mean()))
        progress(f"{name}: certify and attack", done + 1, len(settings.eps))
    return Curve(name, clean, attacked, certified, broken)


def write_report(folder: Path, settings: Settings, curves: Sequence[Curve], smoothed: SmoothedCurve) -> None:
    """Write ``report.md``, its two pictures and ``results.json`` into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = {curve.name: (curve.attacked, curve.certified) for curve in curves}
    accuracy_picture(
        folder / "accuracy.png", settings.eps, picture, "Handwritten digits, l_inf perturbations in [0, 1]"
    )
    smoothing_picture(folder / "smoothed.png", [smoothed], "Handwritten digits, l2 perturbations")
    networks = [asdict(curve) for curve in curves]
    results = {"settings": asdict(settings), "method": METHOD, "networks": networks, "smoothed": asdict(smoothed)}
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "report.md").write_text(_markdown(settings, curves, smoothed))


def table_rows(settings: Settings, curves: Sequence[Curve]) -> list[list[str]]:
    """The one table: network, clean, then attacked / certified at each eps; the first row is the header."""
    header = ["network", "clean", *(f"eps {eps:g}" for eps in settings.eps)]
    body = [
        [c.name, f"{c.clean:.1%}", *(f"{a:.1%} / {v:.1%}" for a, v in zip(c.attacked, c.certified, strict=True))]
        for c in curves
    ]
    return [header, *body]


def smoothed_rows(smoothed: SmoothedCurve) -> list[list[str]]:
    """The table of the smoothed network: certified accuracy in percent at l2 radii; the first row is the header."""
    return smoothing_table([smoothed], table_radii([smoothed])[::2])


def _markdown(settings: Settings, curves: Sequence[Curve], smoothed: SmoothedCurve) -> str:
    rows = table_rows(settings, curves)
    lines = [" | ".join(["", *row, ""]).strip() for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    broken = sum(curve.broken for curve in curves)
    return (
        "# Certified and attacked accuracy\n\n"
        "500 test digits of 8 x 8 pixels, l_inf balls intersected with [0, 1]; the robust network was trained at "
        f"eps {settings.eps_train:g} through CROWN-IBP bounds. Each entry: accuracy under PGD ({settings.attack_steps} "
        f"steps, {settings.attack_restarts} starts) / accuracy certified by {METHOD}. The truth lies between the two."
        "\n\n" + "\n".join(lines) + "\n\n"
        f"Certificates broken by the attack: {broken}.\n\n![accuracy against eps](accuracy.png)\n\n"
        "# Certified accuracy under noise\n\n"
        f"The vote of a network that was trained on noisy digits, over {settings.samples:,} copies with Gaussian noise "
        f"of standard deviation {settings.sigma:g}: accuracy in percent that is certified at l2 radii r by T-CERTIFY. "
        f"Each certificate is wrong with probability at most {settings.alpha:g}.\n\n"
        f"{markdown(smoothed_rows(smoothed))}\n\n![certified accuracy against radius](smoothed.png)\n"
    )
