"""The most memory that one part of a process used."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

import torch


def forget_peak(device: torch.device) -> bool:
    """Let the peak of memory begin anew with what is in use now; whether the system can do that.

    What was freed is handed back first, where the C library is glibc. On Linux the mark of the process is set back by
    ``/proc/self/clear_refs`` (5, see ``man 5 proc``); on a GPU that of torch's own tensors is.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
