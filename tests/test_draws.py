from __future__ import annotations

import pytest
import torch
from scipy import stats

from verifix.draws import Draws
from verifix.errors import InvalidType, InvalidValue

X = torch.rand(6, 3, 5, generator=torch.Generator().manual_seed(0))
WHO = torch.arange(6)


class TestByName:
    def test_by_the_values_of_the_input(self) -> None:
        """Neither its place, nor its company, nor its type."""
        draws, order = Draws(3, X), torch.tensor([4, 0, 5])
        for other in (Draws(3, X[order]), Draws(3, X.double()[order]), Draws(3, X).select(order)):
            for draw, theirs in ((draws.uniform, other.uniform), (draws.normal, other.normal)):
                assert torch.equal(draw(order, X[order], sample=7), theirs(WHO[:3], X[order], sample=7))
            assert torch.equal(draws.words(order, 4, sample=7), other.words(WHO[:3], 4, sample=7))

    def test_every_name_has_an_effect(self) -> None:
        seen = [
            Draws(seed, x).normal(WHO, X, sample=sample, tag=tag)
            for seed, x, sample, tag in ((0, X, 0, 0), (1, X, 0, 0), (0, X + 1, 0, 0), (0, X, 1, 0), (0, X, 0, 1))
        ]
        for number, one in enumerate(seen):
            assert one.unique().numel() == one.numel()
            for other in seen[:number]:
                assert not (one == other).any()

    def test_inputs_that_are_nearly_the_same(self) -> None:
        """One coordinate that differs, in its last bit; two that are exchanged; a sign."""
        base = torch.rand(784, generator=torch.Generator().manual_seed(1))
        near = base.repeat(4 * 784, 1)
        places = torch.arange(784)
        near[places, places] = torch.nextafter(base, torch.ones(()))
        near[784 + places, places] = 0.0
        near[2 * 784 + places, places] *= -1
        near[3 * 784 + places, places], near[3 * 784 + places, places - 1] = base[places - 1], base[places]
        assert len(set(Draws(0, near).streams.tolist())) == len(near)

    def test_black_images_with_one_grey_pixel(self) -> None:
        images = torch.zeros(784 * 4, 784)
        for level in range(4):
            images[level * 784 + torch.arange(784), torch.arange(784)] = (level + 1) / 255
        assert len(set(Draws(0, images).streams.tolist())) == len(images)


class TestLaws:
    """Kolmogorov-Smirnov tests at fixed seeds."""

    def numbers(self, law: str) -> torch.Tensor:
        images = torch.rand(40, 500, generator=torch.Generator().manual_seed(2))
        draws = Draws(11, images)
        who = torch.arange(40)
        draw = draws.uniform if law == "uniform" else draws.normal
        return torch.stack([draw(who, images.double(), sample=sample) for sample in range(3)])

    @pytest.mark.parametrize(("law", "theirs"), [("uniform", stats.uniform(-1, 2)), ("normal", stats.norm())])
    def test_the_law(self, law: str, theirs: stats.rv_continuous) -> None:
        numbers = self.numbers(law)
        assert stats.kstest(numbers.flatten().numpy(), theirs.cdf).pvalue > 0.01
        assert stats.kstest(numbers[:, :, 0].flatten().numpy(), theirs.cdf).pvalue > 0.01

    @pytest.mark.parametrize("law", ["uniform", "normal"])
    def test_independence(self, law: str) -> None:
        """Between samples, between inputs and between coordinates: correlations as small as chance has them."""
        numbers = self.numbers(law)
        for axis in range(3):
            first, second = numbers.roll(1, axis).flatten(), numbers.flatten()
            correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
            assert abs(float(correlation)) < 4 / len(first) ** 0.5

    def test_words(self) -> None:
        words = Draws(0, X).words(WHO, 2000, sample=0)
        assert words.shape == (6, 2000)
        assert stats.kstest(words.flatten().double().numpy() / 2**32, stats.uniform().cdf).pvalue > 0.01
        for bit in range(32):
            assert abs(float((words >> bit & 1).double().mean()) - 0.5) < 4 * 0.5 / 12000**0.5


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(InvalidValue, match=r"seed = .* must be at least 0 and below 2\*\*63"):
        Draws(seed, X)


@pytest.mark.parametrize("seed", [0.5, True, None], ids=str)
def test_seeds_that_are_no_numbers(seed: object) -> None:
    with pytest.raises(InvalidType, match=r"^seed is"):
        Draws(seed, X)  # type: ignore[arg-type]
