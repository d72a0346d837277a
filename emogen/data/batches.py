"""Token arrays on disk, and batches of similar lengths from them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emogen.data.exchange import Exchange
from emogen.data.fingerprints import Fingerprints, fingerprint
from emogen.emotions.labels import LabelSet
from emogen.errors import DataError, EmogenError, require_whole
from emogen.files import read_json
from emogen.text.tokenizer import EOS, PAD, Tokenizer

Item = TypeVar("Item")

_POOL = 50
_LAYOUT = 3


@dataclass(frozen=True)
class Limits:
    """How long a row may be.

    Attributes:
        context_tokens: the newest tokens of the context that are kept.
        reply_tokens: a longer reply is left out (and counted), never cut.
    """

    context_tokens: int = 32
    reply_tokens: int = 40

    def __post_init__(self) -> None:
        require_whole("context_tokens", self.context_tokens, 0)
        require_whole("reply_tokens", self.reply_tokens)


@dataclass(frozen=True)
class Shard:
    """Which rows of every batch one of several processes takes: a run of them, as many as any other takes, or one less.

    Attributes:
        number: of the process, counted from 0.
        world: number of processes.
    """

    number: int = 0
    world: int = 1

    def of(self, rows: int) -> slice:
        """Return places of its own among `rows` rows; none where there are fewer rows than processes."""
        return slice(rows * self.number // self.world, rows * (self.number + 1) // self.world)


@dataclass(frozen=True)
class Batch:
    """Rows `context, BOS, reply, EOS` padded at the end; of several processes, this one's part of the whole batch.

    Attributes:
        tokens: [batch, time], int64.
        reply_start: [batch], place of the first reply token.
        emotion: [batch, emotions + 1], the condition; the last column is the share of "no emotion".
        before: rows of the whole batch that processes before this one have.
        after: rows that those after it have.
    """

    tokens: Tensor
    reply_start: Tensor
    emotion: Tensor
    before: int = 0
    after: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def whole(self) -> int:
        """Return rows of the whole batch."""
        return self.before + len(self) + self.after

    def own(self, values: Tensor) -> Tensor:
        """Return of `values` [whole, ...] those of the rows that are here."""
        return values[self.before : self.before + len(self)]

    def part(self, part: Shard) -> Batch:
        """Return one process's rows of a whole batch."""
        places = part.of(len(self))
        tokens, reply_start, emotion = (each[places] for each in (self.tokens, self.reply_start, self.emotion))
        return Batch(tokens, reply_start, emotion, places.start, len(self) - places.stop)

    def to(self, device: torch.device) -> Batch:
        """Return the same rows on `device`."""
        tokens, reply_start, emotion = (
            each.to(device, non_blocking=True) for each in (self.tokens, self.reply_start, self.emotion)
        )
        return replace(self, tokens=tokens, reply_start=reply_start, emotion=emotion)

    def pin_batch(self) -> Batch:
        """Return the same rows in memory from which CUDA copies while it computes."""
        tokens, reply_start, emotion = (each.pin_memory() for each in (self.tokens, self.reply_start, self.emotion))
        return replace(self, tokens=tokens, reply_start=reply_start, emotion=emotion)


@dataclass(frozen=True)
class TokenArrays:
    """The rows of one split, memory-mapped.

    Attributes:
        tokens: all rows one after another, [tokens].
        offsets: where each row begins, [rows + 1].
        reply_starts: place of the first reply token in its row, [rows].
        emotions: [rows, emotions + 1].
        fingerprints: of the replies, [rows].
        left_out: rows that were longer than the limits.
    """

    tokens: NDArray[np.unsignedinteger]
    offsets: NDArray[np.int64]
    reply_starts: NDArray[np.int32]
    emotions: NDArray[np.float32]
    fingerprints: Fingerprints
    left_out: int

    def __len__(self) -> int:
        return len(self.reply_starts)

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the given rows as tensors."""
        pieces = [self.tokens[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        tokens = np.full((len(pieces), max(map(len, pieces))), PAD, dtype=np.int64)
        for row, piece in zip(tokens, pieces, strict=True):
            row[: len(piece)] = piece
        rows = np.asarray(rows)
        starts = self.reply_starts[rows].astype(np.int64)
        return Batch(torch.from_numpy(tokens), torch.from_numpy(starts), torch.from_numpy(self.emotions[rows]))


def token_arrays(
    source: str,
    exchanges: Callable[[], Iterable[Exchange]],
    tokenizer: Tokenizer,
    labels: LabelSet,
    limits: Limits,
    cache: Path,
) -> dict[str, TokenArrays]:
    """Return the corpus as token arrays by split, tokenised once and read from disk from then on.

    Args:
        source: hash of the data that `exchanges` yields.
        exchanges: opens the corpus; called only where the arrays are not there yet. Every row names its split.
        tokenizer: its fingerprint is part of the arrays' name.
        labels: the emotions' order in the arrays.
        limits: of a row.
        cache: folder under which arrays are kept, one folder for each combination of the above.

    Raises:
        DataError: no row is left for training.
    """
    identity = {"layout": _LAYOUT, "source": source, "tokenizer": tokenizer.fingerprint, "labels": labels.names}
    key = json.dumps(identity | asdict(limits), sort_keys=True)
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:20]
    if not (folder / "source.json").exists():
        _build(folder, key, exchanges(), tokenizer, len(labels), limits)
    return {path.name: _open(path) for path in sorted(folder.iterdir()) if path.is_dir()}


def batches(
    arrays: TokenArrays, size: int, seed: int, start: int = 0, by_context: bool = False, part: Shard = Shard()
) -> Iterator[Batch]:
    """Yield batches without end, every epoch in a new order; a pure function of the arguments, so that `start` resumes exactly.

    Args:
        arrays: the rows.
        size: rows a batch and process; the last batch of an epoch may be smaller.
        seed: of the order.
        start: number of batches to pass over.
        by_context: rows of similar context length go together instead of rows of similar length.
        part: of each batch of `size * part.world` rows that is taken. What is left of an epoch is given up where it has fewer
            rows than there are processes.

    Raises:
        DataError: fewer rows than processes, or none.
    """
    if not len(arrays):
        raise DataError("no row to make batches of")
    if len(arrays) < part.world:
        raise DataError(f"{len(arrays)} rows to make batches of in {part.world} processes; start fewer of them")
    keys = arrays.reply_starts if by_context else np.diff(arrays.offsets)
    for rows in batch_rows(keys, size * part.world, seed, start, least=part.world):
        places = part.of(len(rows))
        yield replace(arrays.batch(rows[places]), before=places.start, after=len(rows) - places.stop)


def ahead(
    items: Iterator[Item], prepare: Callable[[Item], Item], started: Callable[[], object] | None = None
) -> Iterator[Item]:
    """Yield the items, each prepared in a thread while the one before it is used.

    The thread ends when nothing more is asked for.

    Args:
        items: taken in the thread, one after another.
        prepare: called there too.
        started: called there first.

    Raises:
        Exception: whatever `items` or `prepare` raise, in their turn.
    """

    def take_next() -> list[Item]:
        return [prepare(item) for item in islice(items, 1)]

    with ThreadPoolExecutor(1, "batches", started) as thread:
        coming = thread.submit(take_next)
        while found := coming.result():
            coming = thread.submit(take_next)
            yield found[0]


def batch_rows(
    lengths: NDArray[np.integer], size: int, seed: int, start: int = 0, least: int = 1
) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers of batches without end, from batch `start` on.

    Every epoch in the order that `epoch_order` gives it.

    What is left of an epoch is given up where it is fewer than `least` rows; there must be that many rows in all.
    """
    whole, rest = divmod(len(lengths), size)
    epoch, first = divmod(start, whole + (rest >= least))
    while True:
        order = epoch_order(lengths, size, np.random.default_rng([seed, epoch]))
        yield from [rows for rows in order if len(rows) >= least][first:]
        epoch, first = epoch + 1, 0


def epoch_order(lengths: NDArray[np.integer], size: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return the row numbers of an epoch's batches.

    Shuffled, sorted by length within pools of 50 batches, cut, and shuffled again.
    """
    rows = random.permutation(len(lengths))
    pools = [rows[at : at + _POOL * size] for at in range(0, len(rows), _POOL * size)]
    ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    cut = [ordered[at : at + size] for at in range(0, len(ordered), size)]
    return [cut[place] for place in random.permutation(len(cut))]


class _Writer:
    """Appends the rows of one split to its files."""

    def __init__(self, folder: Path, dtype: type[np.unsignedinteger], emotions: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.dtype = dtype
        self.shape = (-1, emotions + 1)
        names = ("tokens", "rows", "emotions", "fingerprints")
        self.tokens, self.rows, self.emotions, self.fingerprints = ((folder / name).open("wb") for name in names)
        self.end = 0
        self.left_out = 0

    def add(self, prefix: list[int], reply: list[int], condition: Sequence[float], identity: int) -> None:
        row = [*prefix, *reply, EOS]
        self.end += len(row)
        self.tokens.write(np.asarray(row, dtype=self.dtype).tobytes())
        self.rows.write(np.asarray([self.end, len(prefix)], dtype=np.int64).tobytes())
        self.emotions.write(np.asarray(condition, dtype=np.float32).tobytes())
        self.fingerprints.write(np.asarray(identity, dtype=np.uint64).tobytes())

    def close(self) -> None:
        for handle in (self.tokens, self.rows, self.emotions, self.fingerprints):
            handle.close()

    def finish(self) -> None:
        for handle in (self.tokens, self.rows, self.emotions, self.fingerprints):
            handle.flush()
            os.fsync(handle.fileno())
        self.close()
        about = {"dtype": np.dtype(self.dtype).name, "emotions": self.shape[1], "left_out": self.left_out}
        (self.folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _build(folder: Path, key: str, exchanges: Iterable[Exchange], tokenizer: Tokenizer, emotions: int, limits: Limits) -> None:
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    dtype = np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.uint32
    writers: dict[str, _Writer] = {}
    try:
        for exchange in exchanges:
            if exchange.split not in writers:
                writers[exchange.split] = _Writer(beside / exchange.split, dtype, emotions)
            _write_row(writers[exchange.split], exchange, tokenizer, limits)
        for writer in writers.values():
            writer.finish()
        if "train" not in writers or not writers["train"].end:
            raise DataError(f"no row is left to train on: check the splits, or raise --reply-tokens {limits.reply_tokens}")
        (beside / "source.json").write_text(key, encoding="utf-8")
        try:
            beside.replace(folder)
        except OSError:
            # Another run may have built the same arrays meanwhile; they are as good.
            if not (folder / "source.json").exists():
                raise
    except OSError as error:
        raise EmogenError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        for writer in writers.values():
            writer.close()
        shutil.rmtree(beside, ignore_errors=True)


def _write_row(writer: _Writer, exchange: Exchange, tokenizer: Tokenizer, limits: Limits) -> None:
    reply = tokenizer.encode(exchange.reply)
    if len(reply) > limits.reply_tokens:
        writer.left_out += 1
    else:
        prefix = tokenizer.prefix(exchange.context, limits.context_tokens)
        writer.add(prefix, reply, exchange.emotion.condition, fingerprint(exchange.reply))


def _open(folder: Path) -> TokenArrays:
    about = read_json(folder / "about.json")
    rows = _map(folder / "rows", np.int64).reshape(-1, 2)
    return TokenArrays(
        tokens=_map(folder / "tokens", np.dtype(about["dtype"])),
        offsets=np.concatenate([[0], rows[:, 0]]),
        reply_starts=rows[:, 1].astype(np.int32),
        emotions=_map(folder / "emotions", np.float32).reshape(-1, about["emotions"]),
        fingerprints=_map(folder / "fingerprints", np.uint64),
        left_out=about["left_out"],
    )


def _map(path: Path, dtype: np.dtype | type) -> NDArray:  # type: ignore[type-arg]
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
