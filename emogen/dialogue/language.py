"""The scripts that a model writes, so that a message in another one is told."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from functools import cached_property

from emogen.text.tokenizer import SPECIAL, Tokenizer

_LEAST_SHARE = 0.03
_MOST_PIECES = 5_000
_FEWEST_PIECES = 100
_WORDS = "CJK"
_NAMES = {_WORDS: "Chinese characters"}


class WrittenScripts:
    """The scripts that a model writes: those of at least 3% of the pieces of words in its tokenizer's vocabulary.

    A tokenizer that was trained on one language has a few letters of others in it (in the vocabulary of an English base,
    0.2% of the pieces are Chinese), and pieces of words of its own. So single letters do not count, but for Chinese characters,
    which are words. Languages of one script are not told apart.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take the tokenizer of a model; its vocabulary is read once, at the first message."""
        self._tokenizer = tokenizer

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the scripts by their Unicode names (`LATIN`, `CJK`), the most frequent first; none of a small vocabulary."""
        # Of large vocabularies an even sample.
        stride = -(-self._tokenizer.vocabulary // _MOST_PIECES)
        pieces = (self._tokenizer.decode([number]) for number in range(SPECIAL, self._tokenizer.vocabulary, stride))
        letters = map(_scripts_of, pieces)
        counts = Counter(script for held in letters if len(held) > 1 or held == [_WORDS] for script in set(held))
        least = _LEAST_SHARE * counts.total() if counts.total() >= _FEWEST_PIECES else math.inf
        return tuple(script for script, count in counts.most_common() if count >= least)

    def describe_mismatch(self, text: str) -> str:
        """Say in one sentence that more than half of a message's letters are of scripts which the model does not write.

        Returns:
            The sentence, without a word of the message; empty where the model writes them, where there are no letters, or where
            the vocabulary is too small to tell.
        """
        counts = Counter(_scripts_of(text))
        foreign = [script for script, _ in counts.most_common() if script not in self.names]
        if not self.names or 2 * sum(counts[script] for script in foreign) <= counts.total():
            return ""
        written = " and ".join(map(_show_script, self.names))
        return (
            f"the message is in {_show_script(foreign[0])}, but this model reads and writes {written} alone: its reply "
            "will not fit; write in its language, or use a model that was trained on yours"
        )


def _scripts_of(text: str) -> list[str]:
    """Return the script of each letter, as the first word of its Unicode name.

    Letters of odd shapes are those that they stand for.
    """
    letters = filter(str.isalpha, unicodedata.normalize("NFKC", text))
    return [name.partition(" ")[0] for letter in letters if (name := unicodedata.name(letter, ""))]


def _show_script(script: str) -> str:
    return _NAMES.get(script, f"{script.capitalize()} letters")
