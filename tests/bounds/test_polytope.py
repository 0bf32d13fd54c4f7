from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.bounds.cases import METHODS, input_sets, points
from tests.networks import graphs
from verifix.bounds import Method, outer_polygons
from verifix.errors import InvalidValue
from verifix.graph import Graph
from verifix.sets import Ball


@settings(max_examples=100)
@given(st.data(), graphs(), st.sampled_from(METHODS), st.integers(2, 12))
def test_holds_every_output(data: st.DataObject, graph: Graph, method: str, directions: int) -> None:
    if graph.shape[0] < 2:
        with pytest.raises(InvalidValue, match="name two of the network's outputs"):
            outer_polygons(graph, Ball("linf", 0.1).around(torch.zeros(1, *graph.input_shape)))
        return
    inputs = data.draw(input_sets(graph.input_shape, torch.float64))
    outputs = data.draw(st.sampled_from([(0, 1), (1, 0), (graph.shape[0] - 1, 0)]))
    polygons = outer_polygons(graph, inputs, method, outputs=outputs, directions=directions)
    x = points(inputs, graph).detach()
    with torch.no_grad():
        reached = graph(x.flatten(0, 1)).unflatten(0, x.shape[:2])[:, :, list(outputs)].numpy()
    for i, polygon in enumerate(polygons):
        assert polygon.directions.shape == (directions, 2)
        for point in reached[:, i]:
            # products rounded once each, and their sum
            slack = 4 * np.finfo(float).eps * (np.abs(polygon.directions) @ np.abs(point))
            assert (polygon.lower <= polygon.directions @ point + slack).all()
            assert (polygon.directions @ point <= polygon.upper + slack).all()
        _check_corners(polygon.corners, reached[:, i])


def _check_corners(corners: np.ndarray[Any, Any], reached: np.ndarray[Any, Any]) -> None:
    """Counterclockwise around every point; corners are computed in float64 from bounds that are wider by more."""
    sides = np.roll(corners, -1, 0) - corners
    size = max(np.abs(corners).max(), 1e-300)
    for point in reached:
        away = point - corners
        turn = sides[:, 0] * away[:, 1] - sides[:, 1] * away[:, 0]
        assert (turn >= -1e-12 * size**2).all()


def test_is_as_tight_as_its_directions() -> None:
    """An affine map of a square: in every direction the polygon ends where the image does, and the image fills it."""
    model = nn.Sequential(nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 1.0], [0.0, 1.0]]))
        model[0].bias.copy_(torch.tensor([5.0, -5.0]))
    (polygon,) = outer_polygons(model, Ball("linf", 1.0).around(torch.zeros(1, 2).double()), directions=360)
    corners = np.array([[8.0, -4.0], [4.0, -4.0], [2.0, -6.0], [6.0, -6.0]])
    values = corners @ polygon.directions.T
    np.testing.assert_allclose(polygon.lower, values.min(0), atol=1e-12)
    np.testing.assert_allclose(polygon.upper, values.max(0), atol=1e-12)
    farthest = np.linalg.norm(polygon.corners[:, None] - corners, axis=2).min(1)
    assert farthest.max() < 0.05  # a corner between two directions, half a degree apart
    ordered = np.roll(polygon.corners, -1, 0)
    area = (polygon.corners[:, 0] * ordered[:, 1] - polygon.corners[:, 1] * ordered[:, 0]).sum() / 2
    assert 8.0 <= area < 8.01


def test_one_point() -> None:
    x = torch.tensor([[0.3, 0.6]]).double()
    (polygon,) = outer_polygons(nn.Flatten(), Ball("linf", 0.0).around(x), directions=7)
    np.testing.assert_allclose(polygon.corners, np.tile(x.numpy(), (len(polygon.corners), 1)), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": (0, 0)}, r"outputs = \(0, 0\): name two of the network's outputs, which have shape \(3,\)"),
        ({"outputs": (0, 3)}, r"outputs = \(0, 3\)"),
        ({"directions": 1}, "directions = 1: must be at least 2"),
        ({"method": Method("backward", "same", "median:5")}, "estimator = median:5: does not bound for certain"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        outer_polygons(nn.Linear(2, 3), Ball("linf", 0.1).around(torch.zeros(1, 2)), **arguments)


def test_unknown_bounds() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(3e38)
    with pytest.raises(InvalidValue, match="bounds that are not finite: use a smaller eps"):
        outer_polygons(model, Ball("linf", 100.0).around(torch.zeros(1, 2)))
