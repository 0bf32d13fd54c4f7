"""The compiled interval_image, called directly with numpy arrays: on the CPU, and the CUDA code on the host.

torch takes no part, so sanitizers can watch.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.cuda_on_host import build
from tests.kernels.extension import _C, ISAS
from tests.kernels.plans import Array, address

SIDES = ("image_midpoint", "image_radius", "lower", "upper")
ON_CPU = [{"threads": threads, "isa": isa} for isa in ISAS for threads in (1, 3)]
ON_HOST = [{"stream": threads} for threads in (0, 1, 33, 256)]
"""The CUDA code, by so many threads; 0: as many as on the GPU."""


@functools.cache
def host_module() -> Any:
    return build([Path(__file__).with_name("interval_image_on_host.cpp")])


def run(name: str, arrays: dict[str, Array | None], like: Array, place: dict[str, Any], **change: Any) -> None:
    arguments = {key: 0 if array is None else address(array) for key, array in arrays.items()}
    settings = {"left": 0.25, "right": 1.0, "count": like.size, "dtype": like.dtype.name}
    getattr(host_module() if "stream" in place else _C, name)(**(arguments | settings | place | change))


def image(
    midpoint: Array, radius: Array, bounds: bool, place: dict[str, Any], /, **change: Any
) -> dict[str, Array | None]:
    found: dict[str, Array | None] = {side: np.full_like(midpoint, 7) for side in SIDES[: 4 if bounds else 2]}
    found |= {side: None for side in SIDES if side not in found}
    found["pieces"] = np.full(midpoint.shape, 7, np.uint8)
    run("interval_image", {"midpoint": midpoint, "radius": radius, **found}, midpoint, place, **change)
    return found


@pytest.mark.parametrize("place", ON_CPU + ON_HOST, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 15, 33, 20_001])
def test_any_size(count: int, dtype: Any, place: dict[str, Any]) -> None:
    generator = np.random.default_rng(count)
    midpoint, radius, *arrived = (generator.standard_normal(count).astype(dtype) for _ in range(6))
    radius = abs(radius)
    for bounds in (False, True):
        found = image(midpoint, radius, bounds, place)
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
            run("interval_image_gradient", {"pieces": pieces, **sides, **gradients}, midpoint, place)
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
    midpoint, sides = np.zeros(3), {side: np.zeros(3) for side in (*SIDES, "midpoint", "radius")}
    places: list[dict[str, Any]] = [{"threads": 1, "isa": "base"}]
    if not change.keys() & places[0].keys():
        places.append({"stream": 0})
    for place in places:
        with pytest.raises(ValueError, match=message):
            image(midpoint, midpoint.copy(), True, place, **change)
        if "midpoint" not in change:
            pieces = np.zeros(3, np.uint8)
            with pytest.raises(ValueError, match=message):
                run("interval_image_gradient", {"pieces": pieces, **sides}, midpoint, place, **change)
