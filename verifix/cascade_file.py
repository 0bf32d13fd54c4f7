"""The file that holds a cascade together: which network each stage is, and where its weights are.

A small JSON file (``cascade.json``) beside the weights of its stages::

    {
      "stages": [
        {"model": "verifix.zoo:mnist_small", "weights": "stage-0/best.safetensors", "mean": null, "std": null},
        {"model": "verifix.zoo:mnist_small", "weights": "stage-1/best.safetensors", "mean": null, "std": null}
      ],
      "settings": {"norm": "linf", "eps": 0.1, "box": [0.0, 1.0]}
    }

``model`` is as on the command line, ``weights`` relative to the file, ``mean`` and ``std`` may be left out, and
``settings`` is for the reader. The models are imported as named: open only files that you trust.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from verifix.errors import InvalidValue


@dataclass(frozen=True)
class Stage:
    """One network of a cascade: MODEL, its weights file, and the normalisation in front of it."""

    model: str
    weights: str
    mean: list[float] | None = None
    std: list[float] | None = None


def is_cascade_file(spec: str) -> bool:
    """Whether a MODEL argument names a cascade file.

    >>> is_cascade_file("RUN/cascade.json"), is_cascade_file("verifix.zoo:mnist_small")
    (True, False)
    """
    return spec.endswith(".json")


def read_cascade(path: str | Path) -> list[Stage]:
    """The stages that a cascade file names, with the paths of their weights as seen from here.

    Raises:
        InvalidValue: the file is missing, or is no cascade file.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["stages"]
        if not isinstance(entries, list) or not entries:
            raise TypeError("no list of stages")
        stages = [_stage(entry) for entry in entries]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise InvalidValue("MODEL", path, f"cannot be read: {reason}") from None
    except (ValueError, TypeError, KeyError) as error:
        remedy = f"not a cascade file with a list of stages ({_one_line(error)})"
        raise InvalidValue("MODEL", path, remedy) from None
    return [replace(stage, weights=str(path.parent / stage.weights)) for stage in stages]


def cascade_content(stages: Sequence[Stage], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into a cascade file, as JSON values; ``weights`` of each stage relative to that file."""
    return {"stages": [asdict(stage) for stage in stages], "settings": dict(settings)}


def _stage(entry: Any) -> Stage:
    stage = Stage(**entry)
    for name, text in (("model", stage.model), ("weights", stage.weights)):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be text")
    for name, numbers in (("mean", stage.mean), ("std", stage.std)):
        if numbers is not None and not (isinstance(numbers, list) and all(_is_number(value) for value in numbers)):
            raise TypeError(f"{name} must be a list of numbers")
    return stage


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
