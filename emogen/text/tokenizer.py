"""Text to token ids and back: SentencePiece (Kudo & Richardson 2018), unigram model with byte fallback."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import sentencepiece

from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.files import read_bytes, replace_file

SPECIAL = 5
PAD, UNKNOWN, BOS, EOS, TURN = range(SPECIAL)
"""Ids that every vocabulary keeps free: padding, unknown, begin and end of a reply, end of a context utterance."""

_BYTES = 256
_SPACE_MARK = "\u2581"
_PROBE = "a\0b"
_UNKNOWN_MARK = "\u2585"
_COVERAGE = 0.9995
_MAX_VOCABULARY = 16_000
_MAX_LINES = 500_000
_MAX_LINE = 1_000
_THREADS = 4


class Tokenizer(Protocol):
    """What models and decoding need of a tokenizer, SentencePiece or another."""

    @property
    def vocabulary(self) -> int:
        """Return the number of ids."""

    def encode(self, text: str) -> list[int]:
        """Return ids of `text`, without special ids."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; special ids stand for nothing."""

    def prefix(self, context: Sequence[str], most: int) -> list[int]:
        """Return what stands before a reply: the newest `most` ids of the context with the marks of its turns, then BOS."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides what `encode` and `prefix` return."""


class SentencePieceTokenizer:
    """A trained SentencePiece model whose round trip is exact for any Unicode text.

    SentencePiece writes the space as U+2581, so a text that holds that character itself would come back with a space; it and
    NUL are encoded as their UTF-8 bytes instead. Runs of text in between are encoded without any normalisation.
    """

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @property
    def vocabulary(self) -> int:
        """Return the number of ids, special and byte ids included."""
        return int(self._processor.get_piece_size())

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the model."""
        return hashlib.sha256(self._model).hexdigest()

    @cached_property
    def _byte_ids(self) -> list[int]:
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(_BYTES)]

    @cached_property
    def _byte_of(self) -> dict[int, int]:
        return {piece: byte for byte, piece in enumerate(self._byte_ids)}

    def encode(self, text: str) -> list[int]:
        """Return ids of `text`, without special ids; raise DataError as in `check_text`."""
        check_text(text)
        ids: list[int] = []
        for part in re.split(f"([{_SPACE_MARK}\0])", text):
            if part in (_SPACE_MARK, "\0"):
                ids += [self._byte_ids[byte] for byte in part.encode()]
            elif part:
                ids += self._processor.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; special ids stand for nothing, bytes that form no character become U+FFFD."""
        raw = bytearray()
        for piece in ids:
            if piece in self._byte_of:
                raw.append(self._byte_of[piece])
            elif piece >= SPECIAL:
                raw += self._processor.id_to_piece(int(piece)).replace(_SPACE_MARK, " ").encode()
        return raw.decode("utf-8", errors="replace")

    def prefix(self, context: Sequence[str], most: int) -> list[int]:
        """Return the newest `most` ids of the context, each utterance ended by TURN, then BOS."""
        ids = [token for turn in context for token in (*self.encode(turn), TURN)]
        return [*ids[max(0, len(ids) - most) :], BOS]

    def save(self, path: str | Path) -> None:
        """Write the SentencePiece model file."""
        path = Path(path)
        with replace_file(path) as beside:
            beside.write_bytes(self._model)


def check_text(text: str) -> None:
    """Raise DataError where `text` holds half of a surrogate pair, which is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"text holds half of a surrogate pair at position {error.start}, which is no character") from None


def load_tokenizer(path: str | Path) -> SentencePieceTokenizer:
    """Read what `SentencePieceTokenizer.save` wrote.

    Raises:
        CheckpointError: missing or no SentencePiece model.
    """
    path = Path(path)
    try:
        model = read_bytes(path)
        if not model:
            raise ValueError("the file is empty")
        tokenizer = SentencePieceTokenizer(model)
        if tokenizer.decode(tokenizer.encode(_PROBE)) != _PROBE:
            raise ValueError("cut short, or not trained by emogen")
        return tokenizer
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable SentencePiece model ({_first_line(error)})") from None


def train_tokenizer(texts: Sequence[str], vocabulary: int | None = None, seed: int = 0) -> SentencePieceTokenizer:
    """Train a unigram model with byte fallback on `texts`.

    Args:
        texts: one text an item; beyond half a million, an even sample of them is used.
        vocabulary: number of ids; None takes `fitting_vocabulary`.
        seed: of SentencePiece's own sampling.

    Raises:
        DataError: no text at all.
        SettingsError: a vocabulary smaller than bytes, special ids and single characters need.
    """
    if vocabulary is not None and vocabulary < 1:
        raise SettingsError(f"--vocabulary {vocabulary}: at least 1 is needed; leave it out to have it chosen")
    lines = [line for text in texts[:: math.ceil(len(texts) / _MAX_LINES) or 1] for line in _trainable(text)]
    if not lines:
        raise DataError("no text to train a tokenizer on")
    sentencepiece.set_random_generator_seed(seed)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=fitting_vocabulary(lines) if vocabulary is None else vocabulary,
            model_type="unigram",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            character_coverage=_COVERAGE,
            required_chars=_SPACE_MARK,
            hard_vocab_limit=vocabulary is not None,
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BOS,
            eos_id=EOS,
            control_symbols=["<turn>"],
            split_digits=True,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = _first_line(error).rpartition("] ")[2]
        if vocabulary is None:
            raise DataError(f"no tokenizer can be trained on these texts: {reason}") from None
        raise SettingsError(f"--vocabulary {vocabulary}: {reason} Leave it out to have it chosen") from None
    return SentencePieceTokenizer(model.getvalue())


def fitting_vocabulary(texts: Iterable[str]) -> int:
    """Return a vocabulary size for a corpus: special ids, bytes, the alphabet, and a share that grows with its length.

    Distinct words grow about with the square root of a text's length (Heaps 1978), so the share for whole pieces is
    4 * sqrt(characters); the sum is held under 16,000, where the softmax of a small model costs more than it brings.
    """
    counts = Counter(character for text in texts for character in text)
    total = counts.total()
    covered, alphabet = 0, 0
    for _, count in counts.most_common():
        if covered >= _COVERAGE * total:
            break
        covered += count
        alphabet += 1
    return min(_MAX_VOCABULARY, SPECIAL + _BYTES + alphabet + round(4 * math.sqrt(total)))


def _trainable(text: str) -> list[str]:
    # SentencePiece passes over lines that hold its own mark for unknown characters, and lines of more than 4192 bytes.
    parts = re.split(f"[{_SPACE_MARK}{_UNKNOWN_MARK}\0\n\r]", text)
    return [part[at : at + _MAX_LINE] for part in parts if part.strip() for at in range(0, len(part), _MAX_LINE)]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
