from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from verifix.errors import InvalidValue
from verifix.files import make_folder, remove_empty, write_bytes, write_json


class TestWriteJson:
    def test_old_content_stays_until_the_new_is_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "summary.json"
        write_json(path, {"n": 1})

        def fail(_file: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="Input/output"):
                write_json(path, {"n": 2})
        assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
        assert json.loads(path.read_text()) == {"n": 1}
        write_json(path, {"n": 3})
        assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
        assert path.read_bytes() == b'{\n  "n": 3\n}\n'

    def test_no_nan(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "summary.json", {"margin": float("nan")})


class TestWriteBytes:
    def test_a_full_disk_leaves_the_old_content(self, tmp_path: Path) -> None:
        path = tmp_path / "content"
        write_bytes(path, b"old")
        (tmp_path / ".content.tmp").symlink_to("/dev/full")  # writing there fails as on a full disk
        with pytest.raises(OSError, match="No space left"):
            write_bytes(path, b"new")
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == ["content"]

    def test_what_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        link = tmp_path / "full"
        link.symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left") as caught:
            write_bytes(link, b"new")
        assert caught.value.filename == str(link)

    def test_devices_pipes_and_links_are_not_replaced(self, tmp_path: Path) -> None:
        pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            write_bytes(pipe, b"new")
            assert os.read(reader, 9) == b"new"
        finally:
            os.close(reader)
        assert pipe.is_fifo()
        link.symlink_to(file)
        for content in (b"old", b"new"):
            write_bytes(link, content)
            assert file.read_bytes() == content
        assert link.is_symlink()

    def test_errors_name_the_file_that_was_asked_for(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            write_bytes(tmp_path / "nowhere" / "file", b"new")
        assert caught.value.filename == str(tmp_path / "nowhere" / "file")
        with pytest.raises(IsADirectoryError):
            write_bytes(tmp_path, b"new")


class TestFolders:
    def test_made_with_those_above_it_and_removed_again(self, tmp_path: Path) -> None:
        made = make_folder(tmp_path / "a" / "b")
        assert made == [tmp_path / "a" / "b", tmp_path / "a"]
        assert make_folder(tmp_path / "a" / "b") == []
        (tmp_path / "a" / "kept").touch()
        remove_empty(made)
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "kept"]

    def test_not_over_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for name in ("file", "file/below"):
            with pytest.raises(InvalidValue, match="is a file, or lies under one"):
                make_folder(tmp_path / name)
