"""Fetching a public corpus: download, checksum, unpacking, and its rows as exchanges."""

from __future__ import annotations

import gzip
import http.client
import io
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from emogen.data.corpora import CONTEXT_TURNS, Corpus, Roles, Source, data_folder, locate
from emogen.data.exchange import Exchange, Reading, exchanges_of, write_exchanges
from emogen.data.formats import (
    Files,
)
from emogen.data.rows import Problem, Row, read_rows
from emogen.emotions.labels import blend
from emogen.errors import DataError, SettingsError
from emogen.files import sha256

Progress = Callable[[str, int, int | None], None]
"""Told the address, the bytes so far and the bytes in all (None where the server does not say)."""


_BLOCK = 1 << 16


_TIMEOUT_SECONDS = 60


_MAX_MEMBER = 1 << 29


def fetch(
    corpus: Corpus,
    target_folder: str | Path | None = None,
    from_folder: str | Path | None = None,
    roles: Roles = "replies",
    progress: Progress | None = None,
) -> Path:
    """Write `NAME.jsonl.gz`, whole or not at all, from the official files or from a folder; return its path.

    Args:
        corpus: one of CORPORA; the bundled one is returned where it lies.
        target_folder: where to write; default `data_folder()`.
        from_folder: read `NAME.jsonl.gz`, `NAME.jsonl` or the official files, gzipped or not, from here instead of the
            network. The folder is the caller's own: checksums are not compared.
        roles: see Roles; matters for empatheticdialogues and esconv alone.
        progress: called while downloading.

    Raises:
        DataError: no network, no address to download from, a checksum that differs, files that are missing or are not
            what they should be.
    """
    if not corpus.sources:
        return locate(corpus.name)
    target = (Path(target_folder) if target_folder else data_folder()) / f"{corpus.name}.jsonl.gz"
    if from_folder:
        write_exchanges(target, _some(corpus, _from_folder(corpus, Path(from_folder), roles)))
        return target
    if any(source.is_by_hand for source in corpus.sources):
        raise DataError(f"{corpus.name}: no address to download from; get the files from {corpus.home}, {_way_out(corpus)}")
    with tempfile.TemporaryDirectory(prefix="emogen-") as folder:
        paths = [_download(corpus, source, Path(folder), progress) for source in corpus.sources]
        write_exchanges(target, _some(corpus, exchanges(corpus, _unpack(paths), roles)))
    return target


def exchanges(corpus: Corpus, files: Files, roles: Roles = "replies") -> Iterator[Exchange]:
    """Yield the official files as exchanges: every utterance that counts, with at most 10 earlier ones as its context.

    Several labels of one utterance become an even mixture.

    Raises:
        DataError: a file that is missing or malformed, or a label that the corpus does not have.
    """
    for dialogue in corpus.parse(files):
        said = [turn for turn in dialogue.turns if turn.text.strip() and turn.emotions]
        texts = tuple(turn.text.strip() for turn in said)
        for position, turn in enumerate(said):
            if roles == "replies" and not turn.answers:
                continue
            try:
                emotion = blend(turn.emotions, corpus.labels)
            except SettingsError as error:
                raise DataError(f"{corpus.name}: {error}") from None
            context = texts[max(0, position - CONTEXT_TURNS) : position]
            yield Exchange(context, texts[position], emotion, dialogue.split)


def _some(corpus: Corpus, found: Iterable[Exchange]) -> Iterator[Exchange]:
    empty = True
    for exchange in found:
        empty = False
        yield exchange
    if empty:
        raise DataError(f"{corpus.name}: the files hold no utterance; are they the ones of {corpus.home}?")


def _from_folder(corpus: Corpus, folder: Path, roles: Roles) -> Iterator[Exchange]:
    for name in (f"{corpus.name}.jsonl.gz", f"{corpus.name}.jsonl"):
        if (folder / name).is_file():
            return _normalise(folder / name, corpus, roles)
    found = [_present(folder, source) for source in corpus.sources]
    paths = [path for path in found if path is not None]
    if len(paths) < len(corpus.sources):
        pairs = zip(corpus.sources, found, strict=True)
        missing = ", ".join(" or ".join(source.names) for source, path in pairs if path is None)
        what = f"has neither {corpus.name}.jsonl.gz nor {missing}" if folder.is_dir() else "is no folder"
        raise DataError(f"{folder}: {what}; get the files from {corpus.home}")
    return exchanges(corpus, _unpack(paths), roles)


def _present(folder: Path, source: Source) -> Path | None:
    paths = (folder / (name + ending) for name in source.names for ending in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _normalise(path: Path, corpus: Corpus, roles: Roles) -> Iterator[Exchange]:
    kept = (row for row in read_rows(path) if isinstance(row, Problem) or _is_kept(row, roles))
    for found in exchanges_of(kept, Reading(max_words=sys.maxsize), corpus.labels):
        if isinstance(found, Problem):
            raise DataError(f"{path}:{found.number}: {found.message}")
        yield found[1]


def _is_kept(row: Row, roles: Roles) -> bool:
    meta = row.fields.get("meta")
    if not isinstance(meta, dict):
        return True
    return not meta.get("leaky") and (roles == "all" or meta.get("role") not in ("speaker", "seeker"))


def _download(corpus: Corpus, source: Source, folder: Path, progress: Progress | None) -> Path:
    beside = folder / f"{source.name}.part"
    try:
        request = urllib.request.Request(source.url, headers={"User-Agent": "emogen"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer, beside.open("wb") as handle:
            length = answer.headers["Content-Length"] or ""
            total = int(length) if length.isdecimal() else None
            done = 0
            while block := answer.read(_BLOCK):
                handle.write(block)
                done += len(block)
                if progress:
                    progress(source.url, done, total)
        if total is not None and done < total:
            raise ConnectionError(f"it ended after {done} of {total} bytes")
    except (OSError, http.client.HTTPException) as error:
        if source.otherwise:
            return _download(corpus, source.otherwise, folder, progress)
        raise DataError(f"{source.url}: no download ({getattr(error, 'reason', error)}); {_way_out(corpus)}") from error
    found = sha256(beside)
    if source.sha256 and found != source.sha256:
        raise DataError(f"{source.url}: SHA-256 is {found}, the owners give {source.sha256}; nothing was kept")
    return beside.rename(folder / source.name)


def _way_out(corpus: Corpus) -> str:
    names = ", ".join(" or ".join(source.names) for source in corpus.sources)
    return f"put {names} in a folder and run: emogen data fetch {corpus.name} --from FOLDER"


def _unpack(paths: Sequence[Path]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for path in paths:
        try:
            with path.open("rb") as handle:
                files.update(_members(path.name, handle))
        except (OSError, EOFError, RuntimeError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read ({error}); get it again") from error
    return files


def _members(name: str, handle: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    if name.endswith(".zip"):
        with zipfile.ZipFile(handle) as archive:
            for member in archive.infolist():
                if member.is_dir() or member.filename.startswith("__MACOSX/"):
                    continue
                _check_size(member.filename, member.file_size)
                yield from _members(Path(member.filename).name, io.BytesIO(archive.read(member)))
    elif name.endswith((".tar.gz", ".tgz")):
        yield from _tar_members(handle)
    elif name.endswith(".gz"):
        yield name.removesuffix(".gz"), _unzip(name, handle)
    else:
        yield name, handle.read()


def _tar_members(handle: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=handle, mode="r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content:
                _check_size(member.name, member.size)
                yield Path(member.name).name, content.read()


def _unzip(name: str, handle: IO[bytes]) -> bytes:
    with gzip.open(handle) as unzipped:
        content = unzipped.read(_MAX_MEMBER + 1)
    _check_size(name, len(content))
    return content


def _check_size(name: str, size: int) -> None:
    if size > _MAX_MEMBER:
        raise DataError(f"{name}: {size} bytes is too large for any file of the public corpora")
