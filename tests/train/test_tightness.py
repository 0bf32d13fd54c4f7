from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.train.examples import digits, network, settings
from verifix import Ball, bounds, capture
from verifix.errors import InvalidValue
from verifix.train import train
from verifix.train.tightness import METHODS, margin_bounds

pytestmark = pytest.mark.usefixtures("one_thread")
BALL = Ball("linf", 0.05, (0, 1))


class TestMarginBounds:
    @pytest.mark.parametrize("method", ["ibp", "crown-ibp", "cap", "cap+ibp"])
    def test_are_those_of_the_engine(self, method: str) -> None:
        """Per input, from bounds of the margins themselves."""
        data, model = digits(7).to(torch.float64), network().double()
        graph = capture(model, data.images[:1])
        (found,) = margin_bounds(graph, data, BALL, [method])
        identity = torch.eye(10, dtype=torch.float64)
        rows = torch.stack([identity - identity[y] for y in data.labels])  # f_m - f_y for every m
        with torch.no_grad():
            _, upper = bounds(graph, BALL.around(data.images), method, rows=rows, rounding=False)
        assert found.method == method
        assert found.total.tolist() == pytest.approx(upper.sum(1).tolist(), rel=1e-9)
        assert found.loss.tolist() == pytest.approx(
            F.cross_entropy(upper, data.labels, reduction="none").tolist(), rel=1e-9
        )

    def test_tiles_and_other_inputs_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = digits(9).to(torch.float64)
        graph = capture(network().double(), data.images[:1])
        whole = margin_bounds(graph, data, BALL)
        seen: list[tuple[int, int]] = []
        monkeypatch.setattr("verifix.train.tightness._TOGETHER", 4)
        parts = margin_bounds(graph, data, BALL, progress=lambda *counts: seen.append(counts))
        assert [one.method for one in whole] == list(METHODS)
        for one, other in zip(whole, parts, strict=True):
            assert one.total.tolist() == pytest.approx(other.total.tolist(), rel=1e-12)
            assert one.loss.tolist() == pytest.approx(other.loss.tolist(), rel=1e-12)
        assert seen[:3] == [(4, 45), (8, 45), (9, 45)]
        assert seen[-1] == (45, 45)

    def test_order_of_figure_3_on_a_trained_network(self) -> None:
        """One step from a random start is tighter on average than adaptive, parallel and random slopes."""
        torch.manual_seed(0)
        layers = (nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))
        model, how = nn.Sequential(nn.Flatten(), *layers), settings(method="tight-smooth", epochs=8, eps=0.05, lr=3e-3)
        train(model, digits(400), how)
        data = digits(600).select(torch.arange(400, 600))
        found = margin_bounds(capture(model, data.images[:1]), data, Ball("linf", 0.1, (0, 1)))
        means = [float(one.total.mean()) for one in found]
        assert [one.method for one in found] == ["tight-smooth", "crown-ibp", "cap-ibp", "interval:random", "ibp"]
        assert means == sorted(means)

    def test_refusals(self) -> None:
        data = digits(3)
        graph = capture(network(), data.images[:1])
        with pytest.raises(InvalidValue, match="method = 'fast'"):
            margin_bounds(graph, data, BALL, ["fast"])
        with pytest.raises(InvalidValue, match="memory = 1000"):
            margin_bounds(graph, data, BALL, ["ibp"], memory=1000)
