"""Locally biased smoothing of a classifier of one digit against the rest: the paper's section 5.2, measured anew.

Anderson and Sojoudi (2022) report accuracies under an attack on the base network alone. Here the adaptive attack and
the certificates of the logit-bias form stand beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from verifix.attack import PGD, attack_biased
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.report.style import Progress
from verifix.sets import Ball
from verifix.sets.base import Norm
from verifix.smooth.biased import BiasedDifferentiable, BiasedLogits, NearestNeighbour
from verifix.smooth.biased.network import refuse_kinks
from verifix.smooth.biased.radii import Expansion
from verifix.smooth.biased.rounding import DUAL
from verifix.smooth.noise import Gaussian, Purpose, Samples
from verifix.train import TrainSettings, train

Floats = NDArray[np.float64]
BOX = (0.0, 1.0)


@dataclass(frozen=True)
class OneDigitSettings:
    """Of the experiment; what the paper gives is as there.

    Attributes:
        digit, reserved: the class labelled 1, and how many training inputs the oracle gets, half of each label.
        epochs, batch, lr: of training by cross-entropy with Adam.
        test: so many test inputs are looked at, half of each label.
        alphas, sigmas: of figure 3.
        noises: samples of normal noise per input.
        steps: of every attack.
        radii: of the attacks of figure 3, in l2.
        sigma, alpha, linf_alpha: fixed in figure 4; the last where the norm is l_inf.
        more_radii, linf_radii: of the attacks of figure 4.
        attacked, adaptive_alphas, neighbours: the adaptive attack tries so many inputs, at these alphas, with so many
            opposing points.
        certified, certified_alphas: the same for certificates of the logit-bias form, in l2, by CROWN.
        seed: of everything random.
    """

    digit: int = 8
    reserved: int = 10
    epochs: int = 6
    batch: int = 100
    lr: float = 1e-3
    test: int = 400
    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
    sigmas: tuple[float, ...] = (0.0, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
    noises: int = 50
    steps: int = 10
    radii: tuple[float, ...] = (0.5, 1.0)
    sigma: float = 0.05
    alpha: float = 10.0
    linf_alpha: float = 1.0
    more_radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    linf_radii: tuple[float, ...] = (0.0, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3)
    attacked: int = 50
    adaptive_alphas: tuple[float, ...] = (0.0, 1.0, 10.0, 1000.0)
    neighbours: int = 2
    certified: int = 20
    certified_alphas: tuple[float, ...] = (0.0, 1.0, 10.0)
    seed: int = 0


class LogitDifference:
    """``g``, the second logit of a network less the first, for what theorem 8 says nothing of: a ReLU network.

    There is a gradient almost everywhere, and so a smoothed classifier that can be run and attacked, not certified.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def value(self, x: Tensor) -> Tensor:
        """``(n,)`` float64, from logits in the network's own type."""
        logits = self.model(x.to(next(self.model.parameters()).dtype)).double()
        return logits[:, 1] - logits[:, 0]

    def expand(self, x: Tensor, norm: Norm) -> Expansion:
        """Nothing that a certificate could rest on.

        Raises:
            UnsupportedOperation: always, for a network with ReLUs.
        """
        refuse_kinks(self.model)
        raise InvalidValue("model", type(self.model).__name__, "use SmoothNetwork or SmoothFunction for certificates")


@dataclass(frozen=True)
class Data:
    """Labels are 0 and 1, one half each."""

    train: Dataset
    reserved: Dataset
    test: Dataset


def one_digit(train: Dataset, test: Dataset, settings: OneDigitSettings) -> Data:
    """The digit against the rest, as many of each label, chosen at random; reserved points are not trained on.

    Raises:
        InvalidValue: too few inputs of the digit, or of the others.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    rest = _balanced(train, settings.digit, None, generator)
    reserved = torch.cat([(rest.labels == label).nonzero()[: settings.reserved // 2, 0] for label in (0, 1)])
    kept = torch.ones(len(rest), dtype=torch.bool)
    kept[reserved] = False
    looked_at = _balanced(test, settings.digit, settings.test // 2, generator)
    return Data(rest.select(kept.nonzero()[:, 0]), rest.select(reserved), looked_at)


def _balanced(data: Dataset, digit: int, most: int | None, generator: torch.Generator) -> Dataset:
    ours, others = (data.labels == digit).nonzero()[:, 0], (data.labels != digit).nonzero()[:, 0]
    count = min(len(ours), len(others))
    if most is not None:
        count = min(count, most)
    if count < 6:
        raise InvalidValue("data", data.name, f"has {len(ours)} inputs of class {digit} and {len(others)} others")
    chosen = [side[torch.randperm(len(side), generator=generator)[:count]] for side in (ours, others)]
    index = torch.cat(chosen)[torch.randperm(2 * count, generator=generator)]
    return replace(data.select(index), labels=(data.labels[index] == digit).long(), classes=2)


def small_network(shape: tuple[int, ...], seed: int) -> nn.Sequential:
    """Three convolutions with ReLUs and one fully connected layer."""
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, 8, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(8, 16, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * (height // 4) * (width // 4), 2),
        )  # fmt: skip


@dataclass(frozen=True)
class OneDigitResult:
    """Accuracies on the test inputs, and on the first ``attacked`` or ``certified`` of them where it says so.

    Attributes:
        settings: of the experiment.
        biased: ``(1 + radii, alphas)`` on clean inputs and under PGD on the base network, at each radius.
        normal: ``(1 + radii, sigmas)`` the same for normal smoothing, by the sign of the mean of ``g`` over samples.
        neighbour: ``(1 + radii,)`` the same for the 1-nearest neighbour.
        adaptive: ``(radii, adaptive_alphas)`` under the attack that knows the oracle and alpha, on ``attacked`` inputs.
        against_radius: for l2 and l_inf: the accuracy at each radius of figure 4 of the base network, of both ways of
            smoothing, and of the 1-nearest neighbour, under PGD on the base network; and of the biased classifier under
            the adaptive attack, on ``attacked`` inputs.
        constant: c of the logit-bias form: the median of the gradient's norm over training inputs.
        certified: certified radii where the prediction is right, else zero, in l2: ``(certified_alphas, certified)``.
        broken: how many of these the adaptive attack broke; any number but zero is a bug in verifix.
    """

    settings: OneDigitSettings
    biased: Floats
    normal: Floats
    neighbour: Floats
    adaptive: Floats
    against_radius: dict[str, dict[str, Floats]]
    constant: float
    certified: Floats
    broken: int


def measure_one_digit(train_data: Dataset, test_data: Dataset, settings: OneDigitSettings, progress: Progress) -> (
    OneDigitResult
):  # fmt: skip
    """Train the network and measure all curves.

    Raises:
        InvalidValue: data without enough inputs of the digit.
    """
    data = one_digit(train_data, test_data, settings)
    model = small_network(data.train.input_shape, settings.seed)
    how = TrainSettings(
        method="none", epochs=settings.epochs, batch=settings.batch, lr=settings.lr, validation=0, seed=settings.seed
    )
    train(model, data.train, how, on_epoch=lambda history: progress("training", len(history), settings.epochs))
    model.eval().requires_grad_(False)
    experiment = _Experiment(model, data, settings)
    x, y = data.test.images, data.test.labels

    points = [x, *(experiment.attacked("l2", eps) for eps in settings.radii)]
    biased = np.array([experiment.biased(each, settings.alphas, "l2") for each in points])
    normal = np.empty((len(points), len(settings.sigmas)))
    for column, sigma in enumerate(settings.sigmas):
        normal[:, column] = [experiment.normal(each, sigma) for each in points]
        progress("normal smoothing", column + 1, len(settings.sigmas))
    neighbour = np.array([float((experiment.oracle(each) == 2 * y - 1).double().mean()) for each in points])

    adaptive = np.empty((len(settings.radii), len(settings.adaptive_alphas)))
    for column, alpha in enumerate(settings.adaptive_alphas):
        adaptive[:, column] = [experiment.adaptive(alpha, "l2", eps) for eps in settings.radii]
        progress("adaptive attack", column + 1, len(settings.adaptive_alphas))

    chosen: tuple[tuple[Norm, float, tuple[float, ...]], ...] = (
        ("l2", settings.alpha, settings.more_radii), ("linf", settings.linf_alpha, settings.linf_radii),
    )  # fmt: skip
    against: dict[str, dict[str, Floats]] = {
        norm: experiment.against_radius(norm, alpha, radii, progress) for norm, alpha, radii in chosen
    }
    constant, certified, broken = experiment.certified(progress)
    return OneDigitResult(settings, biased, normal, neighbour, adaptive, against, constant, certified, broken)


class _Experiment:
    """The trained network, with its oracle and its test inputs."""

    def __init__(self, model: nn.Module, data: Data, settings: OneDigitSettings) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.base = LogitDifference(model)
        self.oracle = NearestNeighbour(data.reserved.images, 2 * data.reserved.labels - 1)
        self.x, self.y = data.test.images, data.test.labels

    def attacked(self, norm: Norm, eps: float) -> Tensor:
        """Test inputs under PGD on the base network."""
        pgd = PGD(steps=self.settings.steps, final_step=0.1, start_from="both", loss="margin")
        return pgd(self.model, self.x, self.y, Ball(norm, eps, BOX), stop=False).examples

    def biased(self, x: Tensor, alphas: tuple[float, ...], norm: Norm) -> list[float]:
        """Accuracy of the biased classifier (equation 5) at each alpha: g, gradient and oracle are the same."""
        values, slopes = self._slopes(x, norm)
        labels, wanted = self.oracle(x), 2 * self.y - 1
        signs = [torch.where(values + alpha * labels * slopes < 0, -1, 1) for alpha in alphas]
        return [float((sign == wanted).double().mean()) for sign in signs]

    def _slopes(self, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """``g`` and the dual norm of its gradient, ``(n,)`` float64 each."""
        parts = []
        for part in x.double().split(200):
            points = part.requires_grad_(True)
            values = self.base.value(points)
            (gradient,) = torch.autograd.grad(values.sum(), points)
            parts.append(torch.stack([values.detach(), gradient.flatten(1).norm(p=DUAL[norm], dim=1)]))
        values, slopes = torch.cat(parts, 1)
        return values, slopes

    @torch.no_grad()
    def normal(self, x: Tensor, sigma: float) -> float:
        """Accuracy of the sign of the mean of ``g`` under normal noise (equation 1)."""
        if sigma == 0:
            means = self.base.value(x)
        else:
            noise, parts = Gaussian(sigma), []
            for numbers in torch.arange(len(x)).split(50):
                samples = Samples(self.settings.seed, Purpose.PREDICTION, numbers, 0, self.settings.noises)
                noisy = noise.draw(x[numbers], samples)
                parts.append(self.base.value(noisy.flatten(0, 1)).reshape(noisy.shape[:2]).mean(1))
            means = torch.cat(parts)
        return float(((means >= 0) == (self.y == 1)).double().mean())

    def adaptive(self, alpha: float, norm: Norm, eps: float) -> float:
        """Accuracy of the biased classifier under the attack on itself."""
        count = self.settings.attacked
        classifier = BiasedDifferentiable(self.base, self.oracle, alpha=alpha, norm=norm)
        found = attack_biased(
            classifier, self.x[:count], 2 * self.y[:count] - 1, inputs=Ball(norm, eps, BOX), steps=self.settings.steps,
            step_size=2.5 / self.settings.steps, neighbours=self.settings.neighbours, seed=self.settings.seed,
        )  # fmt: skip
        return float((~found.success).double().mean())

    def against_radius(
        self, norm: Norm, alpha: float, radii: tuple[float, ...], progress: Progress
    ) -> dict[str, Floats]:
        """The curves of figure 4."""
        rows = []
        for number, eps in enumerate(radii):
            points = self.attacked(norm, eps)
            base, biased = self.biased(points, (0.0, alpha), norm)
            neighbour = float((self.oracle(points) == 2 * self.y - 1).double().mean())
            normal = self.normal(points, self.settings.sigma)
            rows.append([eps, base, normal, biased, neighbour, self.adaptive(alpha, norm, eps)])
            progress(f"larger radii, {norm}", number + 1, len(radii))
        names = ("radii", "base", "normal", "biased", "neighbour", "adaptive")
        return dict(zip(names, np.array(rows).T, strict=True))

    def certified(self, progress: Progress) -> tuple[float, Floats, int]:
        """The constant of the logit-bias form, its certified radii where it is right, and how many were broken."""
        settings = self.settings
        constant = float(self._slopes(self.data.train.images[:1000], "l2")[1].median())
        x, y = self.x[: settings.certified], self.y[: settings.certified]
        oracle = NearestNeighbour(self.data.reserved.images, self.data.reserved.labels)
        rows, broken = [], 0
        for number, alpha in enumerate(settings.certified_alphas):
            biased = BiasedLogits(self.model, oracle, alpha=alpha, c=constant)
            radii = biased.radius(x, y, norm="l2", box=BOX, method="crown", tolerance=1e-2).radii
            success = attack_biased(
                biased, x, y, inputs=Ball("l2", radii, BOX), steps=5, neighbours=1, seed=settings.seed
            ).success
            broken += int((success & (radii > 0)).sum())
            rows.append(radii.numpy())
            progress("certificates", number + 1, len(settings.certified_alphas))
        return constant, np.array(rows), broken
