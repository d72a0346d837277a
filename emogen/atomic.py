"""Files that are there whole or not at all: write beside, flush to disk, rename."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from emogen.errors import EmogenError
from emogen.files import open_regular

_BLOCK = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success it takes the place of `path`, on failure `path` stays as it was.

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
        _flush(beside)
        os.replace(beside, path)
    except OSError as error:
        raise EmogenError(f"{path}: cannot be written ({error.strerror or error}); what stood there is untouched") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _flush(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8 in one piece; raises EmogenError as `replacing` does."""
    path = Path(path)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks."""
    path = Path(path)
    digest = hashlib.sha256()
    with open_regular(path) as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
