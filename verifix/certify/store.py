"""The folder of a run: results that survive a crash, and settings that keep a resumed run honest.

=====================  ===============================================================================================
``settings.json``      ``settings``, which decide the results and must be the same on resume, and ``sources``, the paths
                       that were read; written once, before the first result
``results.jsonl``      one line per input, in order; only ever appended to
``timings.jsonl``      one line per chunk that was computed, with its seconds
``sessions.jsonl``     one line per process that worked on the run, with its environment
``summary.json``       derived from the others once every input is decided
=====================  ===============================================================================================
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from verifix.errors import InvalidValue
from verifix.files import make_folder, refuse_other_run, remove_empty, require_same_settings, write_json


@dataclass(frozen=True)
class Decision:
    """What was decided for one input: one line of ``results.jsonl``; each kind of run has its own."""

    index: int


@dataclass(frozen=True)
class Record(Decision):
    """What a certification says; ``margin`` bounds every ``f_label - f_j`` from below, None if not finite."""

    label: int
    prediction: int
    verdict: str
    margin: float | None


@dataclass(frozen=True)
class ChanceRecord(Record):
    """The same by bounds that may fail: with probability at most ``delta``, over ``estimates`` norms that were
    estimated from ``k`` random rows each, in ``m`` groups."""

    delta: float
    k: int
    m: int
    estimates: int


@dataclass(frozen=True)
class CascadeRecord(Record):
    """What a cascade decided: ``stage`` is the first that certifies its own prediction, None where none does.

    ``prediction`` is that stage's, the last one's where none decides, and ``margin`` bounds its logit minus any other
    of that stage from below.
    """

    stage: int | None


R = TypeVar("R", bound=Decision)


class RunStore(Generic[R]):
    """A run folder, opened by one process at a time; use it as a context manager.

    Args:
        folder: made if it is not there.
        settings: everything that decides the results, as JSON values.
        record: the dataclass of a line of results; lines of the kinds of :class:`Record` tell theirs themselves.
        sources: paths and names for the reader, recorded and never compared.
        environment: of this process, recorded and never compared.
        resume: continue the results that are there; a folder without any is started afresh either way.

    Raises:
        InvalidValue: the folder cannot be written, is a file or holds training; it holds results and ``resume`` is
            false, or settings that differ (each is named with both values); results are damaged; another process works
            on it. Nothing on disk has been changed then.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        record: type[R] = Record,  # type: ignore[assignment]  # what R is where nothing is said
        *,
        sources: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.settings: dict[str, Any] = json.loads(_dump(settings))
        self._record = record
        refuse_other_run(self.folder, "results.jsonl")
        created = make_folder(self.folder)
        with ExitStack() as files:
            try:
                self._open(files, resume, sources or {}, environment or {})
            except BlockingIOError:
                remedy = "another process is working on this run: wait for it, or choose another folder"
                raise InvalidValue("out", self.folder, remedy) from None
            except OSError as error:
                remove_empty(created)
                raise InvalidValue("out", self.folder, f"cannot be written: {error.strerror}") from None
            self._files = files.pop_all()

    def _open(self, files: ExitStack, resume: bool, sources: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        self._results = self._open_file(files, "results.jsonl")
        fcntl.flock(self._results, fcntl.LOCK_EX | fcntl.LOCK_NB)
        whole = _whole_lines(self._read("results.jsonl"))
        if whole:  # settings first: they tell a run of another kind, whose lines cannot be read here
            self._require_same(resume, whole.count(b"\n"))
        self.records = _parse(whole, self.folder / "results.jsonl", self._record)
        if not self.records:
            write_json(self.folder / "settings.json", {"settings": self.settings, "sources": dict(sources)})
        os.truncate(self._results, len(whole))
        self._timings = self._open_file(files, "timings.jsonl")
        sessions = self._open_file(files, "sessions.jsonl")
        for file, name in ((self._timings, "timings.jsonl"), (sessions, "sessions.jsonl")):
            os.truncate(file, len(_whole_lines(self._read(name))) if self.records else 0)
        _append(sessions, _dump({"first": self.decided, **environment}) + "\n")

    def __enter__(self) -> RunStore[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the run back, so that another process may continue it."""
        self._files.close()  # the lock goes with the file

    @property
    def decided(self) -> int:
        """How many inputs are decided: those with index 0 up to this number."""
        return len(self.records)

    def written(self) -> int:
        """How many inputs are decided on disk; more than :attr:`decided`, where :meth:`append` was interrupted."""
        return _whole_lines(self._read("results.jsonl")).count(b"\n")

    def append(self, records: Iterable[R], seconds: float) -> None:
        """Add those of a chunk's records that are not there yet, and what the chunk took; both are on disk on return.

        The seconds go first: a process killed in between has then spent them, and computes the chunk again.
        """
        records = list(records)
        if not records:
            return
        timing = {"start": records[0].index, "stop": records[-1].index + 1, "seconds": seconds}
        new = [record for record in records if record.index >= self.decided]
        try:
            _append(self._timings, _dump(timing) + "\n")
            _append(self._results, "".join(_dump(asdict(record)) + "\n" for record in new))
        except OSError as error:
            error.filename = str(self.folder)  # a descriptor has no name
            raise
        self.records += new

    def seconds(self) -> float:
        """What all chunks took, over every session."""
        lines = self._read("timings.jsonl").splitlines()
        return float(sum(json.loads(line)["seconds"] for line in lines))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, whole or not at all."""
        write_json(self.folder / "summary.json", summary)

    def _require_same(self, resume: bool, decided: int) -> None:
        if not resume:
            remedy = f"holds {decided} results already: add --resume to continue them, or choose another folder"
            raise InvalidValue("out", self.folder, remedy)
        require_same_settings(self.folder, _read_settings(self.folder / "settings.json"), self.settings)

    def _open_file(self, files: ExitStack, name: str) -> int:
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        files.callback(os.close, file)
        return file

    def _read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The settings of a run that may be finished, interrupted or at work.

    Raises:
        InvalidValue: there is no run, or its settings cannot be read.
    """
    path = Path(folder) / "settings.json"
    if not path.is_file():
        raise InvalidValue("run", folder, "holds no run: there is no settings.json")
    return _read_settings(path)


def read_records(folder: str | Path, record: type[R]) -> tuple[list[R], list[float]]:
    """What such a run has decided so far, and the seconds that each input took, over every session.

    Raises:
        InvalidValue: results are damaged.
    """
    folder = Path(folder)
    files = {name: folder / name for name in ("results.jsonl", "timings.jsonl")}
    for path in files.values():
        if not path.is_file():
            raise InvalidValue("run", folder, f"holds no run: there is no {path.name}")
    records = _parse(_whole_lines(files["results.jsonl"].read_bytes()), files["results.jsonl"], record)
    seconds = [0.0] * len(records)
    for line in _whole_lines(files["timings.jsonl"].read_bytes()).splitlines():
        chunk = json.loads(line)
        for index in range(chunk["start"], min(chunk["stop"], len(records))):
            seconds[index] += chunk["seconds"] / (chunk["stop"] - chunk["start"])
    return records, seconds


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), allow_nan=False)


def _append(file: int, text: str) -> None:
    rest = memoryview(text.encode())
    while rest:  # once, unless the disk is full or a signal comes in between
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def _whole_lines(content: bytes) -> bytes:
    """Without a last line that has no newline: what a process killed while writing leaves behind."""
    return content[: content.rfind(b"\n") + 1]


def _parse(content: bytes, path: Path, wanted: type[R]) -> list[R]:
    records: list[R] = []
    for number, line in enumerate(content.splitlines()):
        try:
            fields = json.loads(line)
            kind = CascadeRecord if "stage" in fields else ChanceRecord if "delta" in fields else Record
            record = cast(type[R], kind)(**fields) if issubclass(Record, wanted) else wanted(**fields)
            if record.index != number:
                raise ValueError(f"has index {record.index}, expected {number}")
        except (ValueError, TypeError) as error:
            raise InvalidValue("out", path, f"line {number + 1} is damaged: {error}") from None
        records.append(record)
    return records


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        if not isinstance(settings, dict):
            raise TypeError("no settings in it")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidValue("out", path, f"cannot be read ({error}), so its results cannot be resumed") from None
    return settings
