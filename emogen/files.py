"""Reading what a user names, and writing files that are there whole or not at all.

What is read is a regular file of a bounded size, its numbers and nesting within bounds. Whatever is wrong
is an OSError or a ValueError whose words make sense behind a file's name, and comes at once: opening a
named pipe does not wait for somebody to write into it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import select
import stat
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import DEFAULT_BUFFER_SIZE, BufferedReader, FileIO
from pathlib import Path
from typing import Any, TypeVar

from emogen.errors import EmogenError

T = TypeVar("T")

MOST_TEXT_BYTES = 1 << 28
_BLOCK = 1 << 20
_PIPE_SECONDS = 10
# Windows has some of these, and other systems others.
_AT_ONCE = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_KINDS: dict[str, Callable[[int], bool]] = {
    "folder": stat.S_ISDIR,
    "named pipe": stat.S_ISFIFO,
    "device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    "socket": stat.S_ISSOCK,
}


def open_regular(path: str | Path, most_bytes: int | None = None, buffering: int = -1) -> BufferedReader:
    """Open a regular file for reading.

    Args:
        path: of the file, or a link to it.
        most_bytes: that it may have; None for any number.
        buffering: bytes that can be looked ahead at; -1 leaves it to Python.

    Raises:
        OSError: it cannot be opened, is something else than a regular file, or is larger.
    """
    descriptor = os.open(path, _AT_ONCE)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = next((name for name, is_kind in _KINDS.items() if is_kind(found.st_mode)), "special file")
            raise OSError(errno.EINVAL, f"is a {kind}, not a regular file", str(path))
        if most_bytes is not None and found.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"has {found.st_size:,} bytes, more than {most_bytes:,}", str(path))
        return _buffer(descriptor, buffering)
    except BaseException:
        os.close(descriptor)
        raise


def open_data(path: str | Path, buffering: int = -1) -> BufferedReader:
    """Open a regular file or a pipe, as in `emogen data check <(zcat rows.gz)`.

    Args:
        path: of it.
        buffering: as for `open_regular`.

    Raises:
        OSError: as for `open_regular`; into a pipe nobody has written for ten seconds.
    """
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        return open_regular(path, buffering=buffering)
    descriptor = os.open(path, _AT_ONCE)
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if not waiting.poll(1000 * _PIPE_SECONDS):
        os.close(descriptor)
        raise OSError(errno.ETIMEDOUT, f"is a pipe into which nobody has written for {_PIPE_SECONDS} s", str(path))
    os.set_blocking(descriptor, True)
    return _buffer(descriptor, buffering)


def _buffer(descriptor: int, buffering: int) -> BufferedReader:
    return BufferedReader(FileIO(descriptor), buffering if buffering > 0 else DEFAULT_BUFFER_SIZE)


def read_bytes(path: str | Path, most_bytes: int | None = None) -> bytes:
    """Read a regular file; arguments and OSError as for `open_regular`."""
    with open_regular(path, most_bytes) as handle:
        return handle.read()


def read_text(path: str | Path, encoding: str = "utf-8", most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Read a regular file of text, line ends as they are in Python; OSError as for `open_regular`, UnicodeDecodeError."""
    return read_bytes(path, most_bytes).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none, is nested too deeply, or holds a number that is not finite.
    """
    return _shallow(lambda: json.loads(text, parse_constant=_finite, parse_float=_finite))


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; ValueError as for `parse_json`."""
    return _shallow(lambda: tomllib.loads(text, parse_float=_finite))


def read_json(path: str | Path) -> Any:
    """Read a JSON file; OSError and ValueError as for `read_text` and `parse_json`."""
    return parse_json(read_text(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; OSError and ValueError as for `read_text` and `parse_toml`."""
    return parse_toml(read_text(path))


def _shallow(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number:.40} is not finite, or too large")
    return value


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; on success it takes the place of `path`, on failure `path` stays as it was.

    A link stays a link: what it points to is replaced.

    Raises:
        EmogenError: the disk is full, the folder cannot be written, or a folder, device or pipe stands at `path`.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        raise EmogenError(f"{path}: is no regular file and is not replaced; name another file")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise EmogenError(f"{path}: cannot be written ({error.strerror or error}); what stood there is untouched") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 in one piece; raise EmogenError as `replace_file` does."""
    path = Path(path)
    with replace_file(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks."""
    path = Path(path)
    digest = hashlib.sha256()
    with open_regular(path) as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
