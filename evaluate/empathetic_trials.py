"""The contexts and people's replies of EmpatheticDialogues, in the form in which others' were published."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nltk.tokenize.treebank import TreebankWordTokenizer

from emogen.data.corpora import resolve
from emogen.data.exchange import Reading, read_exchanges
from emogen.data.rows import Problem, Row, read_rows
from emogen.emotions.labels import EMPATHETIC
from emogen.errors import DataError

# The authors' expansions, in their order; an apostrophe that is left goes with the tokenizer (she 's, should n't).
EXPANSIONS = {
    "it's": "it is", "don't": "do not", "doesn't": "does not", "didn't": "did not", "you'd": "you would",
    "you're": "you are", "you'll": "you will", "i'm": "i am", "they're": "they are", "that's": "that is",
    "what's": "what is", "couldn't": "could not", "i've": "i have", "we've": "we have", "can't": "cannot",
    "i'd": "i would", "aren't": "are not", "isn't": "is not", "wasn't": "was not", "weren't": "were not",
    "won't": "will not", "there's": "there is", "there're": "there are",
}  # fmt: skip


TOKENIZER = TreebankWordTokenizer()


QUOTES = {"``", "''", '"'}


@dataclass(frozen=True)
class Trial:
    """One context of the test set.

    Attributes:
        context: earlier utterances, tokenised, oldest first; the last one is the speaker's.
        reference: the listener's reply, tokenised.
        feeling: what the speaker feels, one of 32.
        published: the published systems' replies by name.
    """

    context: tuple[str, ...]
    reference: str
    feeling: str
    published: Mapping[str, str]


@lru_cache(maxsize=1 << 18)
def as_published(text: str) -> str:
    """Return a text in the form of the published replies and references.

    Lower-cased, contractions expanded, tokens between blanks.

    The authors' list of contractions, then NLTK's Treebank tokenizer on each sentence; double quotes go. Of the 5,244 test
    replies whose original is known 99.7% come out letter for letter; the rest are quirks of single quotes and of full stops
    after abbreviations (sentences are parted here by a full stop, and not by the Punkt model, which is a download).

    >>> as_published("It's OK.  She's sad, isn't she?")
    "it is ok . she 's sad , is not she ?"
    """
    text = text.replace("’", "'").lower()
    for short, long in EXPANSIONS.items():
        text = text.replace(short, long)
    tokens = (token for sentence in re.split(r"(?<=[.!?])\s+", text) for token in TOKENIZER.tokenize(sentence))
    return " ".join(token for token in tokens if token not in QUOTES)


def read_trials(path: Path) -> list[Trial]:
    """Return the rows of the file with the published replies; raise DataError where one is no trial or names other systems."""
    found: list[Trial] = []
    for read in read_rows(path):
        if isinstance(read, Problem):
            raise DataError(f"{path}:{read.number}: {read.message}")
        found.append(trial(f"{path}:{read.number}", read))
        if found[-1].published.keys() != found[0].published.keys():
            raise DataError(f"{path}:{read.number}: has outputs of other systems than the first row: one of each is needed")
    if not found:
        raise DataError(f"{path}: holds no rows; one test reply a line is expected")
    return found


def trial(place: str, read: Row) -> Trial:
    """Return one row, checked."""
    context, reference, feeling, outputs = (read.fields.get(key) for key in ("context", "reference", "emotion", "outputs"))
    if not (isinstance(context, list) and context and isinstance(reference, str) and isinstance(outputs, dict) and outputs):
        raise DataError(f"{place}: expected are context (a list), reference (a text), emotion and outputs (texts by system)")
    if not all(isinstance(text, str) for text in (*context, *outputs.values())):
        raise DataError(f"{place}: an utterance of context or outputs is no text")
    if not isinstance(feeling, str) or feeling not in EMPATHETIC:
        raise DataError(f"{place}: emotion {feeling!r} is not one of {', '.join(EMPATHETIC.names)}")
    return Trial(tuple(context), reference, feeling, outputs)


def restored(trials: Sequence[Trial], corpus: str) -> tuple[list[tuple[str, ...]], float]:
    """Return the contexts as people wrote them, and the share of utterances found.

    One that is not in the corpus stays tokenised.

    The file with the published replies has lost capitals, contractions and quotes, which other models were trained with.
    """
    path, reading = resolve(corpus, Reading())
    tests = (row for row in read_exchanges(path, reading) if row.split == "test")
    known = {letters(as_published(text)): text for row in tests for text in (*row.context, row.reply)}
    contexts = [tuple(known.get(letters(text), text) for text in each.context) for each in trials]
    utterances = [text for each in trials for text in each.context]
    return contexts, sum(letters(text) in known for text in utterances) / len(utterances)


def letters(text: str) -> str:
    """Return letters and digits alone, by which two spellings of an utterance are known for one."""
    return "".join(filter(str.isalnum, text))
