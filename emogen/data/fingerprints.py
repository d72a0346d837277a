"""Which rows a model was trained on, as hashes: enough to find a shared row, without the rows themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emogen.errors import CheckpointError
from emogen.files import replace_file
from emogen.text.words import words

ROWS_FILE = "rows.npy"

Fingerprints = NDArray[np.uint64]


def fingerprint(text: str) -> int:
    """Return 64 bits of the text's words (BLAKE2b): the same for texts that differ in case and spacing alone.

    >>> fingerprint("So  happy!") == fingerprint("so happy !")
    True
    """
    digest = hashlib.blake2b(" ".join(words(text)).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def fingerprints(texts: Iterable[str]) -> Fingerprints:
    """Return the texts' fingerprints, sorted, each once."""
    return np.unique(np.fromiter(map(fingerprint, texts), dtype=np.uint64))


def write_fingerprints(folder: str | Path, rows: Fingerprints) -> None:
    """Write the training rows' fingerprints into a checkpoint, whole or not at all."""
    folder = Path(folder)
    with replace_file(folder / ROWS_FILE) as beside, beside.open("wb") as handle:
        np.save(handle, np.unique(rows), allow_pickle=False)


def read_fingerprints(folder: str | Path) -> Fingerprints:
    """Return the training rows' fingerprints of a checkpoint, sorted.

    Raises:
        CheckpointError: it holds none that can be read.
    """
    folder = Path(folder)
    path = folder / ROWS_FILE
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be read ({reason}), so nobody knows which rows it saw; train it again") from None
    if rows.dtype != np.uint64 or rows.ndim != 1:
        raise CheckpointError(f"{path}: holds {rows.dtype} of {rows.ndim} dimensions, not a list of 64-bit hashes")
    return np.asarray(rows, dtype=np.uint64)
