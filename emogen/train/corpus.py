"""From files to what a run is fed with: label set, tokenizer and token arrays."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from emogen.data.batches import Batch, Limits, TokenArrays, token_arrays
from emogen.data.check import split_of
from emogen.data.corpora import data_folder, resolve
from emogen.data.exchange import Exchange, Reading, read_exchanges, survey_labels
from emogen.emotions.labels import LabelSet
from emogen.emotions.names import fold_name
from emogen.errors import DataError
from emogen.files import sha256
from emogen.text.tokenizer import Tokenizer, train_tokenizer
from emogen.train.config import GeneratorRun
from emogen.train.run.processes import broadcast_from_main, is_main_process, main_process_first

_SHARES = (0.9, 0.05, 0.05)
_SPLIT_SEED = 0
_TOKENIZER_LINES = 500_000
_HELD_OUT_ROWS = 2_000
_HELD_OUT_BATCH = 64
_LEAST_ROWS = 2
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus ready to train on.

    Attributes:
        tokenizer: trained on its training rows, or the given one.
        labels: of its emotions.
        limits: of its rows.
        arrays: by split; `train` is there, `valid` and `test` may be.
        sources: SHA-256 of each file.
    """

    tokenizer: Tokenizer
    labels: LabelSet
    limits: Limits
    arrays: dict[str, TokenArrays]
    sources: dict[str, str]


@dataclass(frozen=True)
class Corpus:
    """Files that are read as one.

    Attributes:
        parts: each file and how it is read.
        labels: of all of them.
        sources: SHA-256 of each file.
        rows: that carry each label, in all splits.
    """

    parts: tuple[tuple[str, Reading], ...]
    labels: LabelSet
    sources: dict[str, str]
    rows: tuple[int, ...] = ()

    def exchanges(self) -> Iterator[Exchange]:
        """Yield all rows in order; one that names no split gets one by a hash of its reply: 5% valid, 5% test."""
        for path, reading in self.parts:
            for exchange in read_exchanges(path, reading):
                yield exchange if exchange.split else replace(exchange, split=split_of(exchange.reply, _SHARES, _SPLIT_SEED))


def open_corpus(files: Sequence[str], reading: Reading, labels: LabelSet | None = None) -> Corpus:
    """Return files by path or name of a corpus; labels: the given ones, else those of `reading`, else what the files hold.

    Raises:
        DataError: a file that cannot be read, or only once.
    """
    named = replace(reading, labels=labels or reading.labels)
    parts = [resolve(file, named) for file in files]
    for path, _ in parts:
        if path == "-" or (Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir()):
            raise DataError(f"{path}: training reads its data more than once, so not from a pipe; give a file")
    uses = [survey_labels(path, own) for path, own in parts]
    found = [own.labels or use.label_set(own.renames) for (_, own), use in zip(parts, uses, strict=True)]
    joint, counts = labels or _joint_labels(found), Counter[str]()
    for file, (path, own), use in zip(files, parts, uses, strict=True):
        counts.update(use.rows_of_labels(joint, own.renames))
        # How a public corpus is read is no news.
        for note in use.notes(joint, own.renames) if file == path else ():
            _LOG.warning("emogen: note: %s: %s", path, note)
    read = tuple((path, replace(own, labels=joint)) for path, own in parts)
    return Corpus(read, joint, _hashes([path for path, _ in parts]), tuple(counts[name] for name in joint.names))


def prepare(
    files: Sequence[str],
    reading: Reading,
    config: GeneratorRun,
    tokenizer: Tokenizer | None = None,
    labels: LabelSet | None = None,
    cache: Path | None = None,
) -> TokenizedCorpus:
    """Read tokenises (once for given files, tokenizer and limits) and map a corpus; of several processes the first reads.

    Args:
        files: paths or names of corpora. Rows that name no split are held out by a hash of their reply: 5% valid, 5% test.
        reading: columns and labels.
        config: limits, vocabulary and seed.
        tokenizer: of a model that is trained on; None trains one on the training rows.
        labels: of that model; None takes those of `reading`, else of the files.
        cache: where token arrays are kept; None takes `arrays` in `data_folder()`.

    Raises:
        DataError: a file or row that cannot be read, a label with a single row, nothing to train on.
    """
    corpus = broadcast_from_main(lambda: open_corpus(files, reading, labels))
    tokenizer = tokenizer or broadcast_from_main(
        lambda: train_tokenizer(_training_texts(corpus.exchanges(), config.seed), config.vocabulary, config.seed)
    )
    limits = Limits(config.context_tokens, config.reply_tokens)
    identity = hashlib.sha256(repr([*corpus.sources.items(), *(own for _, own in corpus.parts)]).encode()).hexdigest()
    cache = cache or data_folder() / "arrays"
    arrays = main_process_first(lambda: token_arrays(identity, corpus.exchanges, tokenizer, corpus.labels, limits, cache))
    uncounted = f"held-out rows and replies of more than --reply-tokens {limits.reply_tokens} do not count"
    refuse_rare_labels(corpus, (arrays["train"].emotions[:, :-1] > 0).sum(0).tolist(), uncounted)
    if is_main_process() and not len(arrays.get("valid", ())):
        _LOG.warning("emogen: note: no valid row: figures called held-out are of training rows; check the splits, or add rows")
    return TokenizedCorpus(tokenizer, corpus.labels, limits, arrays, corpus.sources)


def held_out_batches(arrays: dict[str, TokenArrays], split: str = "valid", rows: int = _HELD_OUT_ROWS) -> Iterator[Batch]:
    """Yield rows spread evenly over a held-out split, in order of length; of `train` where that split has none."""
    chosen = arrays[split] if len(arrays.get(split, ())) else arrays["train"]
    spread = {at * len(chosen) // min(rows, len(chosen)) for at in range(min(rows, len(chosen)))}
    positions = sorted(spread, key=lambda row: (int(chosen.offsets[row + 1] - chosen.offsets[row]), row))
    for at in range(0, len(positions), _HELD_OUT_BATCH):
        yield chosen.batch(positions[at : at + _HELD_OUT_BATCH])


def _joint_labels(found: Sequence[LabelSet]) -> LabelSet:
    """Return the labels of several files together; one that two files spell differently stands once."""
    if len(set(found)) == 1:
        return found[0]
    joint: dict[str, str] = {}
    for name in (name for labels in found for name in labels.names):
        joint.setdefault(fold_name(name), name)
    return LabelSet(tuple(sorted(joint.values())))


def _training_texts(exchanges: Iterable[Exchange], seed: int) -> list[str]:
    """Return replies and the last utterance before each, of training rows.

    Beyond half a million an even sample (Vitter 1985).
    """
    texts = (text for exchange in exchanges if exchange.split == "train" for text in (*exchange.context[-1:], exchange.reply))
    kept = list(islice(texts, _TOKENIZER_LINES))
    draw = random.Random(seed)
    for seen, text in enumerate(texts, _TOKENIZER_LINES + 1):
        place = draw.randrange(seen)
        if place < _TOKENIZER_LINES:
            kept[place] = text
    return kept


def _hashes(paths: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of each file under its name, or its whole path where another has the same name."""
    names = Counter(Path(path).name for path in set(paths))
    try:
        return {Path(path).name if names[Path(path).name] == 1 else path: sha256(Path(path)) for path in paths}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None


def refuse_rare_labels(corpus: Corpus, trained: Sequence[int], uncounted: str) -> None:
    """Refuse labels that a model would not learn: those of the files of which one row or none is left to train on.

    Args:
        corpus: with the rows of each label in its files; a label that stands in none of them is left alone.
        trained: of each label, the rows to train on.
        uncounted: which rows are not among them.

    Raises:
        DataError: with the first such label.
    """
    for name, given, left in zip(corpus.labels.names, corpus.rows, trained, strict=True):
        if given and left < _LEAST_ROWS:
            count = "a single row" if 1 in (given, left) else f"none of its {given:,} rows"
            raise DataError(
                f"emotion {name!r} has {count} to train on ({uncounted}); add rows, read it as another with --map, or drop it"
            )
