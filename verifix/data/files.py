"""Reading bytes from plain, gzip'd and xz'd files, with errors that say what is missing."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from pathlib import Path

from verifix.errors import InvalidValue

_BLOCK = 1 << 20
_SUFFIXES = ("", ".gz", ".xz")


def find(folder: Path, name: str) -> Path:
    """The file ``name`` in ``folder``: plain, ``.gz`` or ``.xz``, the first of them that is there.

    Raises:
        InvalidValue: none is there, or ``folder`` is no folder.
    """
    if not folder.is_dir():
        raise InvalidValue("data", folder, "no such folder")
    found = find_optional(folder, name)
    if found is None:
        raise InvalidValue("data", folder / name, "no such file, nor with .gz or .xz added")
    return found


def find_optional(folder: Path, name: str) -> Path | None:
    """As :func:`find`, but None where the file is not there."""
    candidates = (folder / (name + suffix) for suffix in _SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def read(path: Path) -> tuple[bytes, str]:
    """The (decompressed) content of a file, as far as it can be read, and what stopped it: ``""`` when nothing did.

    Whether a stream that ends early is an error is left to the caller, who knows how many bytes there should be and
    reports both numbers.

    Raises:
        InvalidValue: the file is missing or cannot be opened.
    """
    content = bytearray()
    try:
        with _open(path) as stream:
            while block := stream.read1(_BLOCK):
                content += block
    except FileNotFoundError:
        raise InvalidValue("data", path, "no such file") from None
    except gzip.BadGzipFile as error:  # an OSError, but about the content
        return bytes(content), str(error)
    except OSError as error:
        raise InvalidValue("data", path, f"cannot be read: {error.strerror or error}") from None
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        return bytes(content), str(error)
    return bytes(content), ""


def _open(path: Path) -> gzip.GzipFile | lzma.LZMAFile | io.BufferedReader:
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".xz":
        return lzma.open(path)
    return path.open("rb")


def require_size(path: Path, content: bytes, problem: str, expected: int) -> None:
    """Refuse a content that is not exactly ``expected`` bytes long, or whose compressed stream is damaged.

    Raises:
        InvalidValue: with the file's name and both numbers.
    """
    actual = len(content)
    cause = f" ({problem.rstrip('.')})" if problem else ""
    if actual < expected:
        raise InvalidValue("data", path, f"truncated: expected {expected} bytes of content, got {actual}{cause}")
    if actual > expected:
        raise InvalidValue("data", path, f"too long: expected {expected} bytes of content, got {actual}{cause}")
    if problem:
        raise InvalidValue("data", path, f"damaged: {problem.rstrip('.')}")
