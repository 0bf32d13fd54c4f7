from __future__ import annotations

import pytest
import torch
from torch import nn

from verifix import Ball, capture
from verifix.bounds import Engine, parse_method
from verifix.bounds.backward import backward
from verifix.bounds.optimised import lines_of_rows
from verifix.certify import Margins
from verifix.train.units import LayerUnits, count_units, layer_units

pytestmark = pytest.mark.usefixtures("one_thread")


def found(method: str, *, leaky: float | None = None) -> list[LayerUnits]:
    """Eight units of one input around 0 with radius 1, whose bounds are (b - 1, b + 1)."""
    torch.manual_seed(0)
    activation = nn.ReLU() if leaky is None else nn.LeakyReLU(leaky)
    model = nn.Sequential(nn.Linear(1, 8), activation, nn.Linear(8, 3))
    biases = [-2.0, -0.75, -0.5, -0.25, 0.25, 0.5, 2.0, 3.0]  # below, 3 mostly below, 2 mostly above, 2 above
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.copy_(torch.tensor(biases))
    x, y = torch.zeros(1, 1), torch.tensor([0])
    graph, methods = capture(model, x), parse_method(method)
    return layer_units(graph, count_units(graph, y, Ball("linf", eps=1.0).around(x), methods, None))


class TestUnits:
    @pytest.mark.parametrize(
        ("method", "below", "above"),
        [
            ("crown-ibp", (0.6, 0.0, 0.0), (0.0, 0.0, 0.4)),
            ("interval:zero", (0.6, 0.0, 0.0), (0.4, 0.0, 0.0)),
            ("interval:one", (0.0, 0.0, 0.6), (0.0, 0.0, 0.4)),
            ("cap-ibp", (0.0, 0.6, 0.0), (0.0, 0.4, 0.0)),
            ("cap", (0.0, 0.6, 0.0), (0.0, 0.4, 0.0)),
            ("interval:random", (0.0, 0.6, 0.0), (0.0, 0.4, 0.0)),
            ("interval:random:p=1:q=0", (0.0, 0.0, 0.6), (0.4, 0.0, 0.0)),
        ],
    )
    def test_slopes_by_class(self, method: str, below: tuple[float, ...], above: tuple[float, ...]) -> None:
        (layer,) = found(method)
        assert (layer.units, layer.unstable, layer.method) == (8, 5 / 8, 0)
        assert layer.slopes is not None
        assert layer.slopes[0] == pytest.approx(below)
        assert layer.slopes[1] == pytest.approx(above)

    def test_flat_lines_have_no_slopes(self) -> None:
        (layer,) = found("ibp")
        assert (layer.unstable, layer.slopes) == (5 / 8, None)

    def test_pieces_of_leaky_relu_count_as_0_and_1(self) -> None:
        (layer,) = found("crown-ibp", leaky=0.1)
        assert layer.slopes is not None
        assert layer.slopes[0][0] == pytest.approx(0.6)
        assert layer.slopes[1][2] == pytest.approx(0.4)

    def test_one_step_leaves_few_between(self) -> None:
        """From a uniform start a step of size 2 goes to 0 or 1, except where the slope does not matter."""
        (start,), (layer,) = found("tight-smooth:steps=0"), found("tight-smooth")
        (own,) = found("tight-smooth:slopes=own")
        assert start.slopes is not None
        assert layer.slopes is not None
        assert own.slopes is not None
        assert start.slopes[0][1] + start.slopes[1][1] == pytest.approx(1.0)
        assert layer.slopes[0][1] + layer.slopes[1][1] < 0.5
        assert sum(map(sum, own.slopes)) == pytest.approx(1.0)
        assert (layer.units, own.units, own.unstable) == (8, 8, 5 / 8)

    def test_each_of_several_methods(self) -> None:
        first, second = found("crown-ibp+ibp")
        assert (first.method, second.method) == (0, 1)
        assert first.slopes is not None
        assert second.slopes is None

    @pytest.mark.parametrize(
        "method", ["crown-ibp", "cap", "interval:random", "tight-smooth", "tight-smooth:steps=3:step=0.3:slopes=own"]
    )
    def test_lines_are_those_of_the_bounds(self, method: str) -> None:
        """Bounds worked out from the lines that are counted are the ones that training has."""
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 4)).double()
        x, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
        graph, sets, (choice,) = capture(model, x), Ball("linf", eps=0.3).around(x), parse_method(method)
        rows = Margins(y, graph.shape[0]).rows(slice(None), x)
        engine = Engine(graph, sets, choice, rounding=False)
        expected, _ = engine.rows(graph.output, rows, upper=False)
        part, lines = lines_of_rows(Engine(graph, sets, choice, rounding=False), graph.output, rows)
        own = len(part.inputs) > len(x)
        assert own == ("slopes=own" in method)
        found, _ = backward(graph, graph.output, rows.flatten(0, 1)[:, None] if own else rows, lines, part.inputs)
        torch.testing.assert_close(found.reshape(expected.shape), expected.detach(), rtol=1e-10, atol=1e-12)
