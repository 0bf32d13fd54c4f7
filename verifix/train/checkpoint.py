"""The folder of a training run.

=======================  =============================================================================================
``settings.json``        ``settings``, which decide the result and must be the same on resume; ``sources``, the paths
                         that were read; ``environment``, of the process that began
``checkpoint.pt``        all that training needs to go on: weights, optimiser, position, and the log so far
``log.jsonl``            one line for each epoch, derived from the checkpoint; null where a loss is not finite
``landscape.jsonl``      one line for each measurement of the landscape, where those were asked for; see
                         :class:`LineLog`
``last.safetensors``     the weights after the last epoch, with ``last.json`` beside them, which says what they are
``best.safetensors``     those of the best epoch, with ``best.json``
=======================  =============================================================================================

Every file is written beside its place and then renamed, so that a full disk or a crash loses nothing that was there.
There is no random state to keep: all that is random is drawn from the seed and the position.
"""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from verifix.errors import InvalidValue
from verifix.files import (
    make_folder,
    refuse_other_run,
    remove_empty,
    require_same_settings,
    write_bytes,
    write_json,
)

Checkpoint = dict[str, Any]
FORMAT = 1
LANDSCAPE = "landscape.jsonl"


class TrainFolder:
    """A run folder, opened by one process at a time.

    Args:
        folder: made if it is not there.
        settings: everything that decides the result, as JSON values.
        sources, environment: recorded, never compared.
        resume: go on from the checkpoint that is there; a folder without one is started afresh either way.

    Raises:
        InvalidValue: the folder cannot be written, is a file or holds a run of another kind; it holds a checkpoint and
            ``resume`` is false, or settings that differ (each is named with both values); the checkpoint is damaged;
            another process works on it. Nothing on disk has been changed then.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        *,
        sources: Mapping[str, Any],
        environment: Mapping[str, Any],
        resume: bool,
    ) -> None:
        self.folder = Path(folder)
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings), allow_nan=False))
        refuse_other_run(self.folder, "checkpoint.pt")
        created = make_folder(self.folder)
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.checkpoint = self._read(resume)
            if self.checkpoint is None:
                about = {"settings": self.settings, "sources": dict(sources), "environment": dict(environment)}
                write_json(self.folder / "settings.json", about)
                write_bytes(self.folder / "log.jsonl", b"")
                (self.folder / LANDSCAPE).unlink(missing_ok=True)  # of a run that came to no checkpoint
        except BlockingIOError:
            self.close()
            remedy = "another process is working on this run: wait for it, or choose another folder"
            raise InvalidValue("out", self.folder, remedy) from None
        except OSError as error:
            self.close()
            remove_empty(created)
            raise InvalidValue("out", self.folder, f"cannot be written: {error.strerror}") from None
        except InvalidValue:
            self.close()
            raise

    def close(self) -> None:
        """Give the run back, so that another process may go on with it."""
        if self._lock >= 0:
            os.close(self._lock)  # the lock goes with the file
        self._lock = -1

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint.

        Raises:
            InvalidValue: the disk is full, or the folder cannot be written any more; the one before is still there.
        """
        content = io.BytesIO()  # in memory first: torch hides why a file could not be written
        torch.save({"format": FORMAT, "settings": self.settings, **checkpoint}, content)
        self._write("checkpoint.pt", content.getvalue())

    def write_log(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write ``log.jsonl``, whole."""
        text = "".join(json.dumps(_finite(line), allow_nan=False) + "\n" for line in lines)
        self._write("log.jsonl", text.encode())

    def write_weights(self, name: str, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write ``name.safetensors``, and ``name.json`` beside it."""
        alone = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        self._write(f"{name}.safetensors", safetensors.torch.save(alone))
        description = _finite({"weights": f"{name}.safetensors", **about, "settings": self.settings})
        self._write(f"{name}.json", (json.dumps(description, indent=2, allow_nan=False) + "\n").encode())

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        try:
            write_bytes(path, content)
        except OSError as error:
            remedy = (
                f"cannot be written: {error.strerror}; what was there is untouched: mend that and go on with --resume"
            )
            raise InvalidValue("out", path, remedy) from None

    def _read(self, resume: bool) -> Checkpoint | None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return None
        if not resume:
            remedy = "holds a run already: add --resume to go on with it, or choose another folder"
            raise InvalidValue("out", self.folder, remedy)
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
                raise ValueError("not a checkpoint of this version")
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InvalidValue("out", path, f"cannot be read ({reason}), so the run cannot be resumed") from None
        require_same_settings(self.folder, checkpoint["settings"], self.settings)
        return checkpoint


def _finite(value: Any) -> Any:
    """With null for numbers that JSON does not have: a loss at the full eps may overflow before eps is there."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class LineLog:
    """A file of JSON lines that are appended as they come, while a checkpoint says how many bytes of it count.

    A line is on the disk before a checkpoint counts it. Whatever is behind that was written by a process that got no
    further: it is cut off, and written again by the one that goes on. So no line is lost, and none is there twice.

    Args:
        path: the file; made if nothing of it counts.
        size: the bytes that count.

    Raises:
        InvalidValue: the file cannot be written, or is shorter than that.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        if size and (not path.exists() or path.stat().st_size < size):
            remedy = f"has lost lines that the checkpoint counts ({size} bytes): put the file back"
            raise InvalidValue("out", path, remedy)
        self._write(b"")

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line, null for numbers that are not finite.

        Raises:
            InvalidValue: the disk is full, or the file cannot be written any more; the lines before are still there.
        """
        content = (json.dumps(_finite(line), allow_nan=False) + "\n").encode()
        self._write(content)
        self.size += len(content)

    def _write(self, content: bytes) -> None:
        try:
            with self.path.open("r+b" if self.path.exists() else "wb") as stream:
                stream.truncate(self.size)
                stream.seek(self.size)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            remedy = f"cannot be written: {error.strerror}; mend that and go on with --resume"
            raise InvalidValue("out", self.path, remedy) from None


def prefix_of(model: nn.Module, part: nn.Module) -> str:
    """What keys of the model's state dict begin with where they belong to a part of it."""
    for name, module in model.named_modules():
        if module is part:
            return f"{name}." if name else ""
    raise InvalidValue("saved", type(part).__name__, "is no part of the model")
