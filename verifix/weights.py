"""Weights files: reading them, and putting them into a network that they fit."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from verifix.errors import InvalidValue

StateDict = dict[str, Tensor]
_NAMED = 4


def weights_path(weights: str | Path) -> tuple[Path, int | None]:
    """Split ``FILE#STAGE`` into the file and the number; None where no stage is named.

    >>> weights_path("cascade.pth#2")
    (PosixPath('cascade.pth'), 2)
    """
    path = Path(weights)
    name, mark, stage = str(weights).rpartition("#")
    if mark and stage.isdecimal() and not path.exists():
        return Path(name), int(stage)
    return path, None


def read_weights(weights: str | Path) -> StateDict:
    """The state dict in a ``.safetensors``, ``.pth`` or ``.pt`` file.

    A ``.pth`` file holds a state dict, or ``{"state_dict": ...}`` around one or around a list of them. From a list of
    several, ``FILE#STAGE`` takes one, counted from 0. Nothing but tensors is unpickled.

    Raises:
        InvalidValue: the file is missing, damaged, of another kind, or holds several state dicts and no stage
            was named.
    """
    states = read_stages(weights)
    if len(states) != 1:
        last = len(states) - 1
        remedy = f"holds {len(states)} state dicts: name one as --weights {weights}#STAGE, with STAGE from 0 to {last}"
        raise InvalidValue("weights", weights, remedy)
    return states[0]


def read_stages(weights: str | Path) -> list[StateDict]:
    """All state dicts in a file as :func:`read_weights` takes it: those of a cascade's stages, or a single one.

    Raises:
        InvalidValue: the file is missing, damaged or of another kind.
    """
    path, stage = weights_path(weights)
    if not path.is_file():
        raise InvalidValue("weights", path, "no such file")
    if path.suffix == ".safetensors":
        return _pick(weights, _read_safetensors(path), stage)
    if path.suffix in (".pth", ".pt"):
        return _pick(weights, _read_pickle(path), stage)
    raise InvalidValue("weights", path, "must be a .safetensors, .pth or .pt file")


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidValue("weights", path, f"not a whole safetensors file: {_one_line(error)}") from None


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        remedy = "holds more than tensors, or is damaged: save model.state_dict() alone"
        raise InvalidValue("weights", path, f"{remedy} ({_one_line(error)})") from None
    except Exception as error:  # torch gives RuntimeError, EOFError, KeyError ... for a damaged file
        raise InvalidValue("weights", path, f"cannot be read by torch.load: {_one_line(error)}") from None


def _pick(weights: str | Path, content: Any, stage: int | None) -> list[StateDict]:
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if isinstance(content, list | tuple):
        count = len(content)
        if stage is not None and stage >= count:
            raise InvalidValue("weights", weights, f"holds {count} state dicts: STAGE goes from 0 to {count - 1}")
        states = list(content) if stage is None else [content[stage]]
        if not states:
            raise InvalidValue("weights", weights, "holds no state dict: save model.state_dict()")
    elif stage is not None:
        raise InvalidValue("weights", weights, f"holds one state dict: leave out #{stage}")
    else:
        states = [content]
    for state in states:
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise InvalidValue("weights", weights, "holds no state dict: save model.state_dict()")
    return [{str(key): value for key, value in state.items()} for state in states]


def fit_weights(model: nn.Module, state: StateDict, source: str | Path) -> None:
    """Load ``state`` into ``model``, which it must fit exactly.

    Raises:
        InvalidValue: naming the keys that are missing, unexpected or of another shape or kind.
    """
    own = model.state_dict()
    problems = []
    if missing := [key for key in own if key not in state]:
        problems.append(f"missing keys {_list(missing)}")
    if unexpected := [key for key in state if key not in own]:
        problems.append(f"unexpected keys {_list(unexpected)}")
    shared = [key for key in own if key in state]
    if wrong := [key for key in shared if own[key].shape != state[key].shape]:
        described = (f"{key} {tuple(state[key].shape)} where the network has {tuple(own[key].shape)}" for key in wrong)
        problems.append(f"wrong shapes {_list(described)}")
    if other := [key for key in shared if own[key].is_floating_point() != state[key].is_floating_point()]:
        described = (f"{key} {state[key].dtype} where the network has {own[key].dtype}" for key in other)
        problems.append(f"wrong types {_list(described)}")
    if problems:
        raise InvalidValue("weights", source, f"do not fit the network: {'; '.join(problems)}")
    model.load_state_dict(state)


def require_finite(state: Mapping[str, Tensor], argument: str, source: str | Path) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        InvalidValue: naming the keys.
    """
    broken = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise InvalidValue(argument, source, f"NaN or infinite weights in {_list(broken)}")


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
