"""Finds the compiled parts of verifix, and says why one is missing.

Nothing is loaded on import: a machine without a GPU, a driver or the CUDA part imports verifix like any other.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch  # noqa: F401  (before the extension, so that both share torch's libgomp)

from verifix.errors import InvalidValue

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Library:
    """A compiled part: the module, or why there is none."""

    name: str
    module: ModuleType | None
    reason: str


@functools.cache
def load(name: str) -> Library:
    """Import ``verifix._C`` or ``verifix._C_cuda``; a failure is remembered and explained, never raised.

    >>> load("verifix._C").name
    'verifix._C'
    """
    try:
        return Library(name, importlib.import_module(name), "")
    except ModuleNotFoundError as error:
        if error.name != name:
            return Library(name, None, f"it does not load: {error}")
        return Library(name, None, "it is not in this installation")
    except ImportError as error:
        return Library(name, None, f"it does not load: {error}")


@functools.cache
def module_or_none(name: str) -> Any:
    """The module; where it is missing, None, and one line in the log says that the reference is used instead."""
    library = load(name)
    if library.module is None:
        logger.warning("%s is not used, %s: plain torch takes its place, same results, slower", name, library.reason)
    return library.module


@functools.cache
def isa() -> str:
    """The instruction set that CPU kernels use: the widest that the processor has, or what ``VERIFIX_ISA`` says.

    Raises:
        InvalidValue: ``VERIFIX_ISA`` is not an instruction set that this processor has.
    """
    module = load("verifix._C").module
    if module is None:
        return "none"
    facts = module.config()
    available: list[str] = facts["isas"]
    wanted = os.environ.get("VERIFIX_ISA", "")
    if wanted == "":
        return available[-1]
    if wanted not in available:
        problem = "this processor lacks it" if wanted in facts["isas_known"] else "there is no such instruction set"
        raise InvalidValue("VERIFIX_ISA", wanted, f"{problem}; use one of {', '.join(available)}, or unset it")
    return wanted


def config() -> dict[str, Any]:
    """What was built and what is used, for ``verifix info``: keys ``cpu`` and ``cuda``.

    >>> sorted(config())
    ['cpu', 'cuda']
    """
    cpu, cuda = load("verifix._C"), load("verifix._C_cuda")
    facts: dict[str, Any] = {
        "cpu": {"built": cpu.module is not None, "reason": cpu.reason},
        "cuda": {"built": cuda.module is not None, "reason": cuda.reason},
    }
    if cpu.module is not None:
        facts["cpu"] |= cpu.module.config()
        facts["cpu"] |= {"isa": isa(), "isa_override": os.environ.get("VERIFIX_ISA") or None}
        facts["cuda"]["build"] = facts["cpu"].pop("cuda_build")
    if cuda.module is not None:
        facts["cuda"] |= cuda.module.config()
    return facts
