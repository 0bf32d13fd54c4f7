"""The architectures of the papers, with random weights.

The classifiers of Wong and Kolter (2018) and of Wong, Schmidt, Metzen and Kolter, "Scaling provable adversarial
defenses" (2018). All but the residual ones are plain ``nn.Sequential`` whose state-dict keys fit the published weights.
Every convolution has padding 1; "downsampling" means a 4x4 kernel with stride 2. Inputs are images of shape
``(n, 1, 28, 28)`` or ``(n, 3, 32, 32)``, or feature rows ``(n, 561)``; outputs are logits ``(n, classes)``.

And those of training by intervals: ``ibp_small`` and ``ibp_medium`` (Gowal et al. 2018; DM-small and DM-medium in Zhang
et al. 2020), ``ibp_large`` (DM-large there) and ``cnn7`` (Shi et al. 2021, CTBench), plain ``nn.Sequential`` too, for
images of ``channels`` and ``size``.

>>> import torch
>>> mnist_small()(torch.zeros(2, 1, 28, 28)).shape
torch.Size([2, 10])
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from verifix.errors import InvalidValue

__all__ = [
    "cifar_large",
    "cifar_medium",
    "cifar_resnet",
    "cifar_small",
    "cnn7",
    "digits_small",
    "har_500",
    "har_500_250",
    "har_500_250_100",
    "har_resnet",
    "ibp_large",
    "ibp_medium",
    "ibp_small",
    "mnist_500",
    "mnist_deep",
    "mnist_large",
    "mnist_small",
    "mnist_wide",
    "svhn_small",
]


def digits_small() -> nn.Sequential:
    """Two convolutions of 8 and 16 channels, then 64 units, for the 8 x 8 digits inside the package: 19,242 parameters,
    832 hidden units."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), *_down(8, 16), nn.Flatten(), *_dense(256, 64), nn.Linear(64, 10)
    )  # fmt: skip


def mnist_small() -> nn.Sequential:
    """Two downsampling convolutions of 16 and 32 channels, then 100 units: 166,406 parameters, 4,804 hidden units."""
    return _small(channels=1, size=28)


def mnist_wide(k: int) -> nn.Sequential:
    """As :func:`mnist_small`, with ``4k`` and ``8k`` channels and ``128k`` units: 52,182 parameters for ``k=1``.

    Raises:
        InvalidValue: ``k`` is below 1.
    """
    k = _at_least_one("k", k)
    return nn.Sequential(
        *_down(1, 4 * k),
        *_down(4 * k, 8 * k),
        nn.Flatten(),
        *_dense(8 * k * 49, 128 * k),
        nn.Linear(128 * k, 10),
    )


def mnist_deep(k: int) -> nn.Sequential:
    """Two groups, of 8 and 16 channels, of ``k - 1`` 3x3 convolutions and one that downsamples: 81,710 for ``k=1``.

    Raises:
        InvalidValue: ``k`` is below 1.
    """
    k = _at_least_one("k", k)
    return nn.Sequential(
        *_group(1, 8, k),
        *_group(8, 16, k),
        nn.Flatten(),
        *_dense(16 * 49, 100),
        nn.Linear(100, 10),
    )


def mnist_large() -> nn.Sequential:
    """Four convolutions of 32, 32, 64 and 64 channels, then 512 and 512 units: 1,974,762 parameters."""
    return _large(channels=1, size=28)


def mnist_500() -> nn.Sequential:
    """One hidden layer of 500 units on the flattened image: 397,510 parameters."""
    return nn.Sequential(nn.Flatten(), *_dense(784, 500), nn.Linear(500, 10))


def cifar_small() -> nn.Sequential:
    """As :func:`mnist_small`, for 3x32x32 images: 214,918 parameters, 6,244 hidden units."""
    return _small(channels=3, size=32)


def cifar_large() -> nn.Sequential:
    """As :func:`mnist_large`, for 3x32x32 images: 2,466,858 parameters, 62,464 hidden units."""
    return _large(channels=3, size=32)


def cifar_medium() -> nn.Sequential:
    """The same as :func:`cifar_large`, which Zhang et al. and Lee et al. call medium: 2,466,858 parameters."""
    return cifar_large()


def svhn_small() -> nn.Sequential:
    """The same as :func:`cifar_small`: 214,918 parameters."""
    return cifar_small()


def cifar_resnet(blocks: int = 1, factor: int = 1) -> nn.Sequential:
    """A residual network without batch norm: 4,214,850 parameters and 107,496 hidden units as in the paper (1, 1).

    A 3x3 convolution to 16 channels; one residual block to ``16 * factor`` channels and ``blocks`` more; for each of
    ``32 * factor`` and ``64 * factor`` channels a block that downsamples and ``blocks - 1`` more; then 1,000 units.

    Raises:
        InvalidValue: ``blocks`` or ``factor`` is below 1.
    """
    blocks, factor = _at_least_one("blocks", blocks), _at_least_one("factor", factor)
    low, middle, high = 16 * factor, 32 * factor, 64 * factor
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        ResidualBlock(16, low),
        *(ResidualBlock(low, low) for _ in range(blocks)),
        ResidualBlock(low, middle, downsample=True),
        *(ResidualBlock(middle, middle) for _ in range(blocks - 1)),
        ResidualBlock(middle, high, downsample=True),
        *(ResidualBlock(high, high) for _ in range(blocks - 1)),
        nn.Flatten(),
        *_dense(high * 64, 1000),
        nn.Linear(1000, 10),
    )


def cnn7(
    channels: int = 3, size: int = 32, width: int = 64, classes: int = 10, batch_norm: bool = True
) -> nn.Sequential:
    """Five 3x3 convolutions of ``width`` (two) and ``2 * width`` channels, the third with stride 2; then 512 units.

    Batch norm follows every layer but the last. 17,192,650 parameters for 3x32x32 images and 13,259,338 for
    ``channels=1, size=28``; 2,048 fewer without batch norm, which is :func:`ibp_large`.

    Raises:
        InvalidValue: a number below 1.
    """
    width, classes = _at_least_one("width", width), _at_least_one("classes", classes)
    channels, size = _at_least_one("channels", channels), _at_least_one("size", size)
    layers: list[nn.Module] = []
    for outputs, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1), (2 * width, 1)):
        layers.append(nn.Conv2d(channels, outputs, 3, stride=stride, padding=1))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()] if batch_norm else [nn.ReLU()]
        channels = outputs
    layers += [nn.Flatten(), nn.Linear(2 * width * ((size + 1) // 2) ** 2, 512)]
    layers += [nn.BatchNorm1d(512), nn.ReLU()] if batch_norm else [nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, classes))


def ibp_large(channels: int = 3, size: int = 32) -> nn.Sequential:
    """:func:`cnn7` without batch norm: 17,190,602 parameters and 229,888 hidden units for 3x32x32 images, 13,257,290
    and 176,128 for ``channels=1, size=28``.

    Raises:
        InvalidValue: a number below 1.
    """
    return cnn7(channels, size, batch_norm=False)


def ibp_medium(channels: int = 3, size: int = 32) -> nn.Sequential:
    """Four convolutions without padding, of 32 (3x3), 32 (4x4, stride 2), 64 (3x3) and 64 channels (4x4, stride 2),
    then 512 and 512 units: 1,188,906 parameters for 3x32x32 images, 893,418 for ``channels=1, size=28``.

    Raises:
        InvalidValue: ``channels`` is below 1, ``size`` below 16.
    """
    channels, side = _at_least_one("channels", channels), (_at_least("size", size, 16) - 4) // 2
    side = (side - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 32, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 64, 4, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        *_dense(64 * side**2, 512),
        *_dense(512, 512),
        nn.Linear(512, 10),
    )


def ibp_small(channels: int = 3, size: int = 32) -> nn.Sequential:
    """Two 4x4 convolutions without padding, of 16 (stride 2) and 32 channels, then 100 units: 470,918 parameters for
    3x32x32 images, 329,606 for ``channels=1, size=28``.

    Raises:
        InvalidValue: ``channels`` is below 1, ``size`` below 10.
    """
    channels, side = _at_least_one("channels", channels), (_at_least("size", size, 10) - 2) // 2 - 3
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4),
        nn.ReLU(),
        nn.Flatten(),
        *_dense(32 * side**2, 100),
        nn.Linear(100, 10),
    )


def har_500() -> nn.Sequential:
    """561 features, 500 units, 6 activities: 284,006 parameters."""
    return nn.Sequential(*_dense(561, 500), nn.Linear(500, 6))


def har_500_250() -> nn.Sequential:
    """561 features, 500 and 250 units, 6 activities: 407,756 parameters."""
    return nn.Sequential(*_dense(561, 500), *_dense(500, 250), nn.Linear(250, 6))


def har_500_250_100() -> nn.Sequential:
    """561 features, 500, 250 and 100 units, 6 activities: 431,956 parameters."""
    return nn.Sequential(*_dense(561, 500), *_dense(500, 250), *_dense(250, 100), nn.Linear(100, 6))


def har_resnet() -> nn.Sequential:
    """561 features, 561 units, 561 more with the input added to them, 6 activities: 633,936 parameters."""
    return nn.Sequential(ResidualDense(561), nn.Linear(561, 6))


class ResidualBlock(nn.Module):
    """``relu(main(x) + skip(x))`` on images: two convolutions beside one; the output has ``outputs`` channels.

    Without downsampling the kernels are 3x3 and 3x3, beside 1x1; with it 4x4 stride 2 and 3x3, beside 2x2 stride 2.
    """

    def __init__(self, inputs: int, outputs: int, *, downsample: bool = False) -> None:
        super().__init__()
        kernel, stride = (4, 2) if downsample else (3, 1)
        self.main = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=1),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Conv2d(inputs, outputs, stride, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self.main(x) + self.skip(x))
        return result


class ResidualDense(nn.Module):
    """``relu(main(x) + x)`` on rows of ``features``: two linear maps beside the identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self.main(x) + x)
        return result


def _small(channels: int, size: int) -> nn.Sequential:
    flat = 32 * (size // 4) ** 2
    return nn.Sequential(*_down(channels, 16), *_down(16, 32), nn.Flatten(), *_dense(flat, 100), nn.Linear(100, 10))


def _large(channels: int, size: int) -> nn.Sequential:
    flat = 64 * (size // 4) ** 2
    return nn.Sequential(
        *_same(channels, 32),
        *_down(32, 32),
        *_same(32, 64),
        *_down(64, 64),
        nn.Flatten(),
        *_dense(flat, 512),
        *_dense(512, 512),
        nn.Linear(512, 10),
    )


def _down(inputs: int, outputs: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
    yield nn.ReLU()


def _same(inputs: int, outputs: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, 3, padding=1)
    yield nn.ReLU()


def _group(inputs: int, outputs: int, convolutions: int) -> Iterator[nn.Module]:
    for _ in range(convolutions - 1):
        yield from _same(inputs, outputs)
        inputs = outputs
    yield from _down(inputs, outputs)


def _dense(inputs: int, outputs: int) -> Iterator[nn.Module]:
    yield nn.Linear(inputs, outputs)
    yield nn.ReLU()


def _at_least_one(argument: str, value: object) -> int:
    return _at_least(argument, value, 1)


def _at_least(argument: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidValue(argument, value, f"must be a whole number of at least {least}")
    return value
