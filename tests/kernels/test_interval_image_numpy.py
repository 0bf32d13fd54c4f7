"""The compiled interval_image, called directly with numpy arrays: torch takes no part, so sanitizers can watch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, address

SIDES = ("image_midpoint", "image_radius", "lower", "upper")


def run(name: str, arrays: dict[str, Array | None], like: Array, **change: Any) -> None:
    arguments = {key: 0 if array is None else address(array) for key, array in arrays.items()}
    settings = {"left": 0.25, "right": 1.0, "count": like.size, "dtype": like.dtype.name, "threads": 1, "isa": "base"}
    getattr(_C, name)(**(arguments | settings | change))


def image(midpoint: Array, radius: Array, bounds: bool, /, **change: Any) -> dict[str, Array | None]:
    found: dict[str, Array | None] = {side: np.full_like(midpoint, 7) for side in SIDES[: 4 if bounds else 2]}
    found |= {side: None for side in SIDES if side not in found}
    found["pieces"] = np.full(midpoint.shape, 7, np.uint8)
    run("interval_image", {"midpoint": midpoint, "radius": radius, **found}, midpoint, **change)
    return found


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 15, 33, 20_001])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_size(threads: int, count: int, dtype: Any, isa: str) -> None:
    generator = np.random.default_rng(count)
    midpoint, radius, *arrived = (generator.standard_normal(count).astype(dtype) for _ in range(6))
    radius = abs(radius)
    place = {"threads": threads, "isa": isa}
    for bounds in (False, True):
        found = image(midpoint, radius, bounds, **place)
        lower, upper = midpoint - radius, midpoint + radius
        low, high = (np.where(z < 0, dtype(0.25) * z, z) for z in (lower, upper))
        half = (high - low) * dtype(0.5)
        wanted = {"image_midpoint": low + half, "image_radius": half, "pieces": (lower >= 0) + 2 * (upper >= 0)}
        wanted |= {"lower": lower, "upper": upper} if bounds else {}
        for side, expected in wanted.items():
            np.testing.assert_array_equal(found[side], expected)
        pieces = found["pieces"]
        assert pieces is not None
        for given in ([*arrived[:2], None, None], [None, None, *arrived[2:]], arrived):
            gradients: dict[str, Array] = {side: np.full_like(midpoint, 7) for side in ("midpoint", "radius")}
            sides = dict(zip(SIDES, given, strict=True))
            run("interval_image_gradient", {"pieces": pieces, **sides, **gradients}, midpoint, **place)
            zero = np.zeros_like(midpoint)
            m, r, of_lower, of_upper = (zero if side is None else side for side in given)
            below, above = (np.where(pieces & bit, dtype(1), dtype(0.25)) for bit in (1, 2))
            of_lower, of_upper = below * ((m - r) * dtype(0.5)) + of_lower, above * ((m + r) * dtype(0.5)) + of_upper
            np.testing.assert_array_equal(gradients["midpoint"], of_lower + of_upper)
            np.testing.assert_array_equal(gradients["radius"], of_upper - of_lower)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": -1}, "count = -1: must be >= 0"),
        ({"left": -1.0}, "slope = -1.0.*: must be finite and >= 0"),
        ({"right": float("nan")}, "must be finite and >= 0"),
        ({"midpoint": 0}, "a null pointer for 3 entries"),
        ({"lower": 0}, "one of a pair of pointers is null"),
        ({"threads": 0}, "threads = 0: must be >= 1"),
        ({"dtype": "float16"}, "dtype = float16: must be float32 or float64"),
        ({"isa": "mmx"}, "mmx"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    midpoint = np.zeros(3)
    with pytest.raises(ValueError, match=message):
        image(midpoint, midpoint.copy(), True, **change)
    if "midpoint" not in change:
        sides = {side: np.zeros(3) for side in (*SIDES, "midpoint", "radius")}
        with pytest.raises(ValueError, match=message):
            run("interval_image_gradient", {"pieces": np.zeros(3, np.uint8), **sides}, midpoint, **change)
