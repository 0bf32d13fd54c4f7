"""The compiled CPU part for tests that need numpy only: the installed one, or, with VERIFIX_EXTENSION, that file.

The second is how ``make sanitize`` runs them: torch is never imported, nor is the package.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

SANITIZED = bool(os.environ.get("VERIFIX_EXTENSION"))


def load() -> Any:
    if not SANITIZED:
        from verifix import _C

        return _C
    path = Path(os.environ["VERIFIX_EXTENSION"])
    specification = importlib.util.spec_from_file_location("verifix._C", path)
    if specification is None or specification.loader is None:
        raise ImportError(f"VERIFIX_EXTENSION = {path}: not an extension module")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


_C = load()
ISAS: list[str] = _C.config()["isas"]
