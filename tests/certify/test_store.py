from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifix.certify.radius_run import RadiusRecord
from verifix.certify.store import Record, RunStore
from verifix.errors import InvalidValue

SETTINGS: dict[str, Any] = {"method": "cap", "eps": 0.1, "box": (0.0, 1.0), "mean": None}


def records(start: int, stop: int) -> list[Record]:
    return [
        Record(i, i % 3, i % 2, "verified" if i % 2 else "unknown", None if i == 4 else i / 7)
        for i in range(start, stop)
    ]


def files(folder: Path) -> dict[str, bytes]:
    """Everything below ``folder``, to show that something changed nothing."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"/" for path in folder.rglob("*")}


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(InvalidValue) as caught:
        RunStore(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of five decided inputs."""
    with RunStore(tmp_path / "run", SETTINGS, sources={"data": "here"}) as store:
        store.append(records(0, 3), 0.25)
        store.append(records(3, 5), 0.5)
    return tmp_path / "run"


class TestFresh:
    def test_files(self, run: Path) -> None:
        lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
        assert lines[1] == {"index": 1, "label": 1, "prediction": 1, "verdict": "verified", "margin": 1 / 7}
        assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
        assert lines[4]["margin"] is None
        settings = json.loads((run / "settings.json").read_text())
        assert settings == {"settings": {**SETTINGS, "box": [0.0, 1.0]}, "sources": {"data": "here"}}
        assert set(files(run)) == {"results.jsonl", "settings.json", "timings.jsonl", "sessions.jsonl"}

    def test_on_disk_as_soon_as_append_returns(self, tmp_path: Path) -> None:
        with RunStore(tmp_path, SETTINGS) as store:
            for stop in range(1, 5):
                store.append(records(stop - 1, stop), 0.1)
                assert len((tmp_path / "results.jsonl").read_text().splitlines()) == stop == store.decided

    def test_a_full_disk_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_file: int, _content: bytes) -> int:
            raise OSError(28, "No space left on device")

        with RunStore(tmp_path, SETTINGS) as store, monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match="No space left") as caught:
                store.append(records(0, 1), 0.1)
        assert caught.value.filename == str(tmp_path)

    def test_nothing_to_append(self, tmp_path: Path) -> None:
        with RunStore(tmp_path, SETTINGS) as store:
            store.append([], 1.0)
            assert (store.decided, store.seconds()) == (0, 0.0)

    def test_folder_with_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with RunStore(tmp_path, SETTINGS, resume=True):
            assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_results_on_a_device(self, tmp_path: Path) -> None:
        """``/dev/full`` can be read for ever."""
        (tmp_path / "results.jsonl").symlink_to("/dev/full")
        with pytest.raises(InvalidValue, match=r"holds results.jsonl, which is no file"):
            RunStore(tmp_path, SETTINGS, resume=True)

    def test_folder_of_training(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint.pt").write_bytes(b"")
        (tmp_path / "settings.json").write_text("its own")
        before = files(tmp_path)
        for resume in (False, True):
            assert "holds a training run: choose another folder" in refused(tmp_path, SETTINGS, resume=resume)
        assert files(tmp_path) == before

    def test_new_settings_while_nothing_is_decided(self, tmp_path: Path) -> None:
        RunStore(tmp_path, SETTINGS).close()
        RunStore(tmp_path, {**SETTINGS, "eps": 0.2}).close()
        assert json.loads((tmp_path / "settings.json").read_text())["settings"]["eps"] == 0.2
        assert len((tmp_path / "sessions.jsonl").read_text().splitlines()) == 1


class TestResume:
    def test_continues(self, run: Path) -> None:
        before = (run / "results.jsonl").read_bytes()
        with RunStore(run, SETTINGS, environment={"threads": 2}, resume=True) as store:
            assert store.records == records(0, 5)
            store.append(records(3, 8), 1.0)
        after = (run / "results.jsonl").read_bytes()
        assert after.startswith(before)
        assert [json.loads(line)["index"] for line in after.splitlines()] == list(range(8))
        sessions = [json.loads(line) for line in (run / "sessions.jsonl").read_text().splitlines()]
        assert sessions == [{"first": 0}, {"first": 5, "threads": 2}]

    def test_seconds_of_all_sessions(self, run: Path) -> None:
        with RunStore(run, SETTINGS, resume=True) as store:
            store.append(records(5, 6), 2.0)
            assert store.seconds() == 2.75

    def test_needs_the_word(self, run: Path) -> None:
        before = files(run)
        assert "holds 5 results already: add --resume" in refused(run, SETTINGS)
        assert files(run) == before

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"eps": 0.2}, "(eps was 0.1, now 0.2)"),
            ({"eps": 0.2, "method": "ibp"}, "(method was cap, now ibp; eps was 0.1, now 0.2)"),
            ({"box": None}, "(box was [0.0, 1.0], now None)"),
            ({"box": (0.0, 1.0000000000000002)}, "box was"),
            ({"new": 1}, "(new was absent, now 1)"),
            ({"mean": "f" * 64}, "(mean was None, now ffffffffffff...)"),
        ],
    )
    def test_other_settings(self, run: Path, change: dict[str, Any], message: str) -> None:
        before = files(run)
        assert message in refused(run, SETTINGS | change, resume=True)
        assert files(run) == before

    def test_a_setting_less(self, run: Path) -> None:
        assert "(mean was None, now absent)" in refused(
            run, {k: v for k, v in SETTINGS.items() if k != "mean"}, resume=True
        )

    @given(data=st.data())
    def test_killed_at_any_byte(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        whole = tmp_path_factory.mktemp("whole")
        with RunStore(whole, SETTINGS) as store:
            store.append(records(0, 4), 1.0)
            store.append(records(4, 8), 1.0)
        content = (whole / "results.jsonl").read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        (whole / "results.jsonl").write_bytes(content[:cut])
        timings = (whole / "timings.jsonl").read_bytes()
        (whole / "timings.jsonl").write_bytes(timings[: data.draw(st.integers(0, len(timings)))])
        with RunStore(whole, SETTINGS, resume=True) as store:
            assert store.decided == content[:cut].count(b"\n")
            while store.decided < 8:
                start = store.decided - store.decided % 4
                store.append(records(start, start + 4), 1.0)
            assert store.seconds() >= (0.0 if cut == len(content) else 1.0)
        assert (whole / "results.jsonl").read_bytes() == content

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{}", "line 6 is damaged"),
            ("not json", "line 6 is damaged"),
            (
                '{"index": 9, "label": 0, "prediction": 0, "verdict": "unknown", "margin": null}',
                "has index 9, expected 5",
            ),
        ],
    )
    def test_damaged_results(self, run: Path, line: str, message: str) -> None:
        with (run / "results.jsonl").open("a") as stream:
            stream.write(line + "\n")
        before = files(run)
        assert message in refused(run, SETTINGS, resume=True)
        assert files(run) == before

    def test_results_of_another_kind(self, run: Path) -> None:
        """Their lines cannot be read as these, and are not damaged."""
        before = files(run)
        assert "holds 5 results already: add --resume" in refused(run, {"max_eps": 1.0}, RadiusRecord)
        assert "max_eps was absent, now 1.0" in refused(run, SETTINGS | {"max_eps": 1.0}, RadiusRecord, resume=True)
        assert files(run) == before

    def test_missing_settings(self, run: Path) -> None:
        (run / "settings.json").unlink()
        assert "settings.json: cannot be read" in refused(run, SETTINGS, resume=True)


class TestFolder:
    def test_one_process_at_a_time(self, run: Path) -> None:
        with RunStore(run, SETTINGS, resume=True):
            before = files(run)
            assert "another process is working on this run" in refused(run, SETTINGS, resume=True)
            assert files(run) == before
        RunStore(run, SETTINGS, resume=True).close()

    def test_refused_run_gives_the_lock_back(self, run: Path) -> None:
        refused(run, SETTINGS)
        RunStore(run, SETTINGS, resume=True).close()

    def test_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        assert "is a file, or lies under one" in refused(tmp_path / "file", SETTINGS)
        assert "is a file, or lies under one" in refused(tmp_path / "file" / "below", SETTINGS)
        assert files(tmp_path) == {"file": b"mine"}

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_unwritable(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        assert "cannot be made: Permission denied" in refused(tmp_path / "run", SETTINGS)
        assert "cannot be written: Permission denied" in refused(tmp_path, SETTINGS)
        tmp_path.chmod(0o700)

    @pytest.mark.parametrize("parts", ["run", "a/b/run"])
    def test_nothing_is_left_where_the_disk_refuses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: str
    ) -> None:
        def full(*_args: Any) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", full)
            assert "cannot be written: No space left on device" in refused(tmp_path / parts, SETTINGS)
        assert files(tmp_path) == {}
