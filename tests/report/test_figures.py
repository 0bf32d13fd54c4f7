"""What each picture shows, read back from its axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from tests.networks import relu_network
from verifix.bounds import NAMED, UnitStates, outer_polygons, unit_states
from verifix.graph import capture
from verifix.report import boundary_figure, filters_figure, polytope_figure, tightness_figure, units_figure
from verifix.report.boundary import BoundaryPanel, class_grid
from verifix.report.filters import MOST, filters
from verifix.report.polytope import PolytopePanel, reached_outputs
from verifix.report.style import RED
from verifix.report.tightness import join, tightness
from verifix.sets import Ball


def example(n: int = 3, size: int = 2) -> Tensor:
    return torch.rand(n, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class TestBoundary:
    def test_grid(self) -> None:
        """Class 1 above the line ``x + y = 1``, on a square that reaches past the unit square."""
        grid = class_grid(lambda x: torch.stack([torch.ones(len(x)), x.sum(1)], 1), (-0.5, 1.5), 5)
        ticks = np.linspace(-0.5, 1.5, 5)
        assert (grid == (ticks[:, None] + ticks[None] > 1)).all()

    def test_boxes(self) -> None:
        points, labels = torch.tensor([[0.2, 0.3], [0.7, 0.8]]), torch.tensor([0, 1])
        certified = torch.tensor([True, False])
        panel = BoundaryPanel("one", (0.0, 1.0), class_grid(lambda x: x, size=11), points, labels, 0.1, certified)
        figure = boundary_figure([panel, panel])
        assert len(figure.axes) == 2
        first, second = (patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle))
        for box, point in ((first, points[0]), (second, points[1])):
            np.testing.assert_allclose(box.get_bbox().extents, [*(point - 0.1), *(point + 0.1)], rtol=1e-6)
        assert (first.get_linestyle(), second.get_edgecolor()[:3]) == ("solid", pytest.approx(_rgb(RED)))
        assert second.get_linestyle() != "solid"


def _rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]


class TestPolytope:
    @pytest.mark.parametrize("eps", [0.0, 0.05, 0.5])
    def test_reached_outputs_lie_inside(self, eps: float) -> None:
        graph, sets = capture(relu_network((2, 20, 20, 2), 0), example()), Ball("linf", eps).around(example(1))
        (polygon,) = outer_polygons(graph, sets, "cap")
        reached, center = reached_outputs(graph, sets, 9)
        with torch.no_grad():
            np.testing.assert_array_equal(center, graph(sets.center)[0].numpy())
            corner = graph(sets.center + torch.tensor([eps, -eps], dtype=torch.float64))[0].numpy()
        np.testing.assert_allclose(reached[0, -1], corner, rtol=1e-12)
        values = reached.reshape(-1, 2) @ polygon.directions.T
        assert (values >= polygon.lower).all() and (values <= polygon.upper).all()

    @pytest.mark.parametrize("turned", [False, True])
    def test_axes(self, turned: bool) -> None:
        graph, sets = capture(relu_network((2, 20, 2), 0), example()), Ball("linf", 0.1).around(example(1))
        (polygon,) = outer_polygons(graph, sets, "cap")
        panel = PolytopePanel("one", *reached_outputs(graph, sets, 9), polygon)
        figure = polytope_figure([[panel, panel], [panel, panel]], turned=turned)
        assert len(figure.axes) == 4
        drawn = figure.axes[0].patches[0].get_xy()[:-1]
        x, y = polygon.corners.T
        np.testing.assert_allclose(drawn, np.stack([y - x, y + x] if turned else [x, y], 1))


class TestFilters:
    def model(self) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 20, (2, 3)), nn.ReLU(), nn.Conv2d(20, 2, 2), nn.Flatten(),
        )  # fmt: skip

    def test_kernels(self) -> None:
        model = self.model()
        first, second = filters(capture(model, torch.zeros(1, 1, 8, 8)))
        assert (first.node, first.channels, second.node, second.channels) == ("0", (5, 1), "2", (20, 5))
        np.testing.assert_array_equal(first.kernels, model[0].weight.detach().double().numpy())
        np.testing.assert_array_equal(second.kernels, model[2].weight.detach().double().numpy()[:MOST])
        assert figure_title(second) == "convolution 2, the first 16 x 5 of 20 x 5"
        assert figure_title(first) == "convolution 0"

    def test_small_weights(self) -> None:
        model = self.model()
        with torch.no_grad():
            model[0].weight.fill_(1.0)
            model[0].weight[1] = 0.01
            model[0].weight[2, 0, 0] = -0.001
        found, _ = filters(capture(model, torch.zeros(1, 1, 8, 8)))
        assert (found.small_weights, found.small_filters) == ((9 + 3) / 45, 1 / 5)

    def test_picture_holds_every_weight_once(self) -> None:
        for found in filters(capture(self.model(), torch.zeros(1, 1, 8, 8))):
            canvas = np.ma.getdata(filters_figure(found).axes[0].images[0].get_array())
            shown = canvas[np.isfinite(canvas)]
            np.testing.assert_array_equal(np.sort(shown), np.sort(found.kernels.ravel()))

    def test_one_axis_and_no_weights(self) -> None:
        model = nn.Sequential(nn.Conv1d(2, 3, 4), nn.Flatten())
        with torch.no_grad():
            model[0].weight.zero_()
        (found,) = filters(capture(model, torch.zeros(1, 2, 9)))
        assert (found.kernels.shape, found.small_weights) == ((3, 2, 1, 4), 1.0)
        filters_figure(found)

    def test_none(self) -> None:
        assert filters(capture(nn.Linear(2, 2), torch.zeros(1, 2))) == []


def figure_title(found: object) -> str:
    return filters_figure(found).axes[0].get_title().splitlines()[0]  # type: ignore[arg-type]


class TestUnits:
    def test_histograms(self) -> None:
        halves = torch.tensor([0.5, 0.5, 0.0, 1.0])
        state = UnitStates("layer", 2, halves, torch.zeros(4), 1 - halves)
        figure = units_figure([state, state], "title")
        assert len(figure.axes) == 6
        for axes, values in zip(figure.axes, [halves, torch.zeros(4), 1 - halves] * 2, strict=True):
            counts = {round(bar.get_x(), 3): bar.get_height() for bar in axes.patches if bar.get_height()}
            expected = np.histogram(values.numpy(), np.linspace(0, 1, 41))
            assert list(counts.values()) == [count for count in expected[0] if count]
            assert axes.get_lines()[0].get_xdata()[0] == float(values.mean())

    def test_of_a_network(self) -> None:
        states = unit_states(relu_network((2, 30, 30, 2), 0), Ball("linf", 0.1).around(example(5)), NAMED["cap"])
        assert len(units_figure(states).axes) == 6


class TestTightness:
    @pytest.mark.parametrize("method", ["cap", "crown", "crown-ibp", "ibp"])
    def test_between_dual_bound_and_attack(self, method: str) -> None:
        model, x, ball = relu_network((2, 30, 30, 3), 0), example(4), Ball("linf", 0.1)
        graph = capture(model, x)
        y = graph(x).argmax(1)
        found = tightness("one", graph, x.float(), y, ball, NAMED[method])
        assert found.program.shape == (8,) and (found.eps == 0.1).all()
        assert (found.dual <= found.program).all() and (found.program < found.center).all()
        assert (found.excess >= 0).all() and found.excess.max() > 0
        corners = x.float().double() + 0.1 * torch.tensor([[[1, 1]], [[1, -1]], [[-1, 1]], [[-1, -1]]]).double()
        with torch.no_grad():
            logits = graph(corners.reshape(-1, 2)).reshape(4, 4, 3)
        margins = logits.gather(2, y.expand(4, 4)[:, :, None]) - logits
        others = margins[torch.arange(3).expand(4, 4, 3) != y[None, :, None]].reshape(4, 8)
        assert (found.program <= others.amin(0).numpy()).all()

    def test_no_excess_without_undecided_units(self) -> None:
        x = example(2)
        found = tightness("one", capture(nn.Linear(2, 3).double(), x), x, torch.tensor([0, 1]), Ball("linf", 0.1), CAP)
        np.testing.assert_allclose(found.excess, 0, atol=1e-12)

    def test_picture(self) -> None:
        graph, x = capture(relu_network((2, 30, 3), 0), example()), example(4)
        parts = [tightness("", graph, x, graph(x).argmax(1), Ball("linf", eps), CAP) for eps in (0.1, 0.2)]
        both = join("both", parts)
        np.testing.assert_array_equal(both.eps, [0.1] * 8 + [0.2] * 8)
        figure = tightness_figure([both, both])
        drawn = [np.asarray(part.get_offsets()) for part in figure.axes[0].collections]
        for points, part in zip(drawn, parts, strict=True):
            np.testing.assert_array_equal(points, np.stack([part.program, part.dual], 1))
        assert len(figure.legends) == 1 and len(tightness_figure(parts[:1]).legends) == 0


CAP = NAMED["cap"]
