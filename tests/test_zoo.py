from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from verifix import zoo
from verifix.errors import InvalidValue
from verifix.models import load_model


def convolution(inputs: int, outputs: int, kernel: int) -> int:
    return outputs * (inputs * kernel * kernel + 1)


def dense(*widths: int) -> int:
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))


def wide(k: int) -> int:
    return convolution(1, 4 * k, 4) + convolution(4 * k, 8 * k, 4) + dense(8 * k * 49, 128 * k, 10)


def large(channels: int, side: int) -> int:
    widths = [(channels, 32, 3), (32, 32, 4), (32, 64, 3), (64, 64, 4)]
    return sum(convolution(*width) for width in widths) + dense(64 * side**2, 512, 512, 10)


def block(inputs: int, outputs: int, kernel: int, skip: int) -> int:
    return convolution(inputs, outputs, kernel) + convolution(outputs, outputs, 3) + convolution(inputs, outputs, skip)


def resnet(n: int, f: int) -> int:
    low, middle, high = 16 * f, 32 * f, 64 * f
    first = convolution(3, 16, 3) + block(16, low, 3, 1) + n * block(low, low, 3, 1)
    second = block(low, middle, 4, 2) + (n - 1) * block(middle, middle, 3, 1)
    third = block(middle, high, 4, 2) + (n - 1) * block(high, high, 3, 1)
    return first + second + third + dense(high * 64, 1000, 10)


def deep(k: int) -> int:
    same = (k - 1) * (convolution(8, 8, 3) + convolution(16, 16, 3))
    if k == 1:
        return convolution(1, 8, 4) + convolution(8, 16, 4) + dense(784, 100, 10)
    first = convolution(1, 8, 3) - convolution(8, 8, 3) + convolution(8, 8, 4)
    second = convolution(8, 16, 3) - convolution(16, 16, 3) + convolution(16, 16, 4)
    return same + first + second + dense(784, 100, 10)


def seven(channels: int, side: int, width: int = 64, classes: int = 10, norms: int = 2) -> int:
    """Norms: how many numbers batch norm has for each channel or unit."""
    widths = [(channels, width, 3), (width, width, 3), (width, 2 * width, 3), *[(2 * width, 2 * width, 3)] * 2]
    layers = sum(convolution(*sizes) for sizes in widths) + dense(2 * width * side**2, 512, classes)
    return layers + norms * (8 * width + 512)


def without_padding(channels: int, side: int) -> int:
    widths = [(channels, 32, 3), (32, 32, 4), (32, 64, 3), (64, 64, 4)]
    return sum(convolution(*width) for width in widths) + dense(64 * side**2, 512, 512, 10)


MNIST, CIFAR, HAR = (1, 28, 28), (3, 32, 32), (561,)

# name, parameters, hidden ReLU units (None: not published, checked only where it says something), input, classes
NETWORKS: list[tuple[str, Callable[[], nn.Module], int, int | None, tuple[int, ...], int]] = [
    ("digits_small", zoo.digits_small, 19_242, 832, (1, 8, 8), 10),
    ("mnist_small", zoo.mnist_small, 166_406, 4_804, MNIST, 10),
    ("mnist_wide_1", lambda: zoo.mnist_wide(1), 52_182, None, MNIST, 10),
    ("mnist_wide_4", lambda: zoo.mnist_wide(4), wide(4), None, MNIST, 10),
    ("mnist_deep_1", lambda: zoo.mnist_deep(1), deep(1), None, MNIST, 10),
    ("mnist_deep_3", lambda: zoo.mnist_deep(3), deep(3), None, MNIST, 10),
    ("mnist_large", zoo.mnist_large, 1_974_762, 48_064, MNIST, 10),
    ("mnist_500", zoo.mnist_500, dense(784, 500, 10), 500, MNIST, 10),
    ("cifar_small", zoo.cifar_small, 214_918, 6_244, CIFAR, 10),
    ("cifar_large", zoo.cifar_large, 2_466_858, 62_464, CIFAR, 10),
    ("cifar_resnet", zoo.cifar_resnet, 4_214_850, 107_496, CIFAR, 10),
    ("cifar_resnet_2_3", lambda: zoo.cifar_resnet(2, 3), resnet(2, 3), None, CIFAR, 10),
    ("cifar_medium", zoo.cifar_medium, 2_466_858, 62_464, CIFAR, 10),
    ("cnn7", zoo.cnn7, seven(3, 16), 229_888, CIFAR, 10),
    ("cnn7_mnist", lambda: zoo.cnn7(1, 28), seven(1, 14), 176_128, MNIST, 10),
    ("cnn7_narrow", lambda: zoo.cnn7(2, 9, 3, 4), seven(2, 5, 3, 4), 2 * 3 * 81 + 3 * 6 * 25 + 512, (2, 9, 9), 4),
    ("cnn7_plain", lambda: zoo.cnn7(batch_norm=False), seven(3, 16, norms=0), 229_888, CIFAR, 10),
    ("ibp_large", zoo.ibp_large, 17_190_602, 229_888, CIFAR, 10),
    ("ibp_large_mnist", lambda: zoo.ibp_large(1, 28), seven(1, 14, norms=0), 176_128, MNIST, 10),
    ("ibp_medium", zoo.ibp_medium, without_padding(3, 5), 46_912, CIFAR, 10),
    ("ibp_medium_mnist", lambda: zoo.ibp_medium(1, 28), 893_418, 34_688, MNIST, 10),
    ("ibp_medium_least", lambda: zoo.ibp_medium(1, 16), without_padding(1, 1), None, (1, 16, 16), 10),
    ("ibp_small", zoo.ibp_small, 470_918, 8_308, CIFAR, 10),
    ("ibp_small_mnist", lambda: zoo.ibp_small(1, 28), 329_606, 6_004, MNIST, 10),
    ("ibp_small_least", lambda: zoo.ibp_small(2, 10), 512 + 16 + 8_224 + dense(32, 100, 10), None, (2, 10, 10), 10),
    ("svhn_small", zoo.svhn_small, 214_918, 6_244, CIFAR, 10),
    ("har_500", zoo.har_500, 284_006, 500, HAR, 6),
    ("har_500_250", zoo.har_500_250, dense(561, 500, 250, 6), 750, HAR, 6),
    ("har_500_250_100", zoo.har_500_250_100, dense(561, 500, 250, 100, 6), 850, HAR, 6),
    ("har_resnet", zoo.har_resnet, dense(561, 561, 561, 6), 1122, HAR, 6),
]  # fmt: skip
each = pytest.mark.parametrize(
    ("build", "parameters", "units", "shape", "classes"),
    [row[1:] for row in NETWORKS],
    ids=[row[0] for row in NETWORKS],
)


def hidden_units(model: nn.Module, x: Tensor) -> int:
    counts: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _module, _inputs, output: counts.append(output[0].numel()))
    model(x)
    return sum(counts)


@each
def test_size(
    build: Callable[[], nn.Module], parameters: int, units: int | None, shape: tuple[int, ...], classes: int
) -> None:
    model, x = build(), torch.rand(2, *shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(x).shape == (2, classes)
    assert units is None or hidden_units(model, x) == units


def test_the_formula_gives_the_published_counts() -> None:
    assert (resnet(1, 1), large(3, 8), large(1, 7)) == (4_214_850, 2_466_858, 1_974_762)


def test_the_formula_gives_the_counts_of_the_docstrings() -> None:
    assert (seven(3, 16), seven(1, 14), seven(1, 14, norms=0)) == (17_192_650, 13_259_338, 13_257_290)
    assert without_padding(3, 5) == 1_188_906


def test_batch_norm_follows_every_layer_but_the_last() -> None:
    kinds = [type(layer) for layer in zoo.cnn7(1, 4, 1)]
    one, other = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU], [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [*one * 5, nn.Flatten, *other, nn.Linear]
    assert [layer.stride[0] for layer in zoo.ibp_large(1, 4) if isinstance(layer, nn.Conv2d)] == [1, 1, 2, 1, 1]


def test_from_the_command_line() -> None:
    model = load_model("verifix.zoo:cnn7(channels=1, size=8, width=2)")
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(("build", "least"), [(zoo.ibp_medium, 16), (zoo.ibp_small, 10)])
def test_images_that_are_too_small(build: Callable[..., nn.Module], least: int) -> None:
    with pytest.raises(InvalidValue, match=f"at least {least}"):
        build(1, least - 1)


def test_every_public_network_is_covered() -> None:
    covered = {name for row in NETWORKS for name in zoo.__all__ if row[0].startswith(name)}
    assert covered == set(zoo.__all__)


@pytest.mark.parametrize(
    "build",
    [
        lambda: zoo.mnist_wide(0),
        lambda: zoo.mnist_wide(2.0),  # type: ignore[arg-type]
        lambda: zoo.mnist_deep(-1),
        lambda: zoo.cifar_resnet(blocks=0),
        lambda: zoo.cifar_resnet(factor=True),
        lambda: zoo.cnn7(width=0),
        lambda: zoo.cnn7(size=-3),
        lambda: zoo.ibp_large(0),
    ],
)
def test_sizes_below_one(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(InvalidValue, match="whole number of at least 1"):
        build()


@pytest.mark.parametrize("downsample", [False, True])
def test_residual_block_is_its_formula(downsample: bool) -> None:
    unit = zoo.ResidualBlock(3, 4, downsample=downsample)
    x = torch.randn(2, 3, 6, 6)
    first, second = unit.main[0], unit.main[2]
    assert torch.equal(unit(x), torch.relu(second(torch.relu(first(x))) + unit.skip(x)))
    assert unit(x).shape == ((2, 4, 3, 3) if downsample else (2, 4, 6, 6))


@pytest.mark.parametrize(
    ("path", "build"),
    [
        ("convex_adversarial/mnist.pth", zoo.mnist_small),
        ("fast_adversarial/mnist_fgsm.pth", zoo.mnist_small),
        ("projected_sinkhorn/mnist_vanilla.pth#0", zoo.mnist_small),
        ("convex_adversarial/mnist_small_0_3.pth#2", zoo.mnist_small),
        ("convex_adversarial/cifar_small_8px.pth#1", zoo.cifar_small),
    ],
)
def test_published_weights_fit(models_dir: Path, path: str, build: Callable[[], nn.Module]) -> None:
    name, _, stage = path.partition("#")
    state = torch.load(models_dir / name, map_location="cpu", weights_only=True)
    state = state["state_dict"][int(stage)] if stage else state
    assert list(build().load_state_dict(state)) == [[], []]
