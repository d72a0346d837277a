"""What texts share with those that a model was trained on: novel n-grams, and whole copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from emogen.errors import DataError
from emogen.evaluate.diversity import check_order, join_ngrams, ratio_of_sums
from emogen.evaluate.resampling import SumStatistic, added_up, mean_tally
from emogen.evaluate.score import Score, require_items, signature
from emogen.text.words import WORDS_VERSION, words


@dataclass(frozen=True)
class Seen:
    """What training texts hold of some other texts; `seen_in_training` makes it.

    Attributes:
        n: words in an n-gram.
        training: how many training texts there were.
        novel: the n-grams of the texts that no training text holds, words joined by blanks.
        copied: the texts as their words joined by blanks, and whether a training text has the same words.
    """

    n: int
    training: int
    novel: frozenset[str]
    copied: Mapping[str, bool]


def seen_in_training(texts: Sequence[str], training: Iterable[str], n: int = 4) -> Seen:
    """Look for the texts and their n-grams in training texts, in one pass; for `novelty_tally` and `copied_tally`.

    The texts of several systems may be passed together.

    Args:
        texts: at least one; they and their n-grams are held in memory.
        training: at least one; read once, one at a time.
        n: words in an n-gram, 1 or more.

    Raises:
        DataError: if there is no text or no training text (an iterator is empty when it was read before).
        SettingsError: if `n` is below 1.
    """
    check_order("n", n)
    require_items(texts, "texts")
    novel = {ngram for text in texts for ngram in join_ngrams(words(text), n)}
    whole = dict.fromkeys(map(_normal, texts), False)
    read = 0
    for text in training:
        read += 1
        sentence = words(text)
        novel.difference_update(join_ngrams(sentence, n))
        if (normal := " ".join(sentence)) in whole:
            whole[normal] = True
    if not read:
        raise DataError("no training texts to look in: pass at least one, and an iterator only once")
    return Seen(n, read, frozenset(novel), whole)


def novelty(texts: Sequence[str], training: Iterable[str], n: int = 4, seed: int = 0) -> Score:
    """Return the share of the texts' n-grams that occur in no training text, pooled over the texts.

    Every occurrence counts, so long texts weigh more and a novel n-gram said twice counts twice. With more training texts it
    falls. The interval is a bootstrap over the texts. For `copied` in the same pass over the training texts use
    `seen_in_training`, `novelty_tally` and `copied_tally`.

    Args:
        texts: at least one; a text shorter than `n` words adds nothing.
        training: what the generator was trained on, at least one; read once, one at a time, and not held.
        n: words in an n-gram, 1 or more.
        seed: of the bootstrap.

    Returns:
        From 0 (all seen) to 1; 0 if no text has `n` words.

    Raises:
        DataError: if there is no text or no training text.
        SettingsError: if `n` is below 1.

    Source: McCoy et al. 2023, How much do language models copy from their training data?
    """
    return novelty_tally(texts, seen_in_training(texts, training, n)).score(seed)


def novelty_tally(texts: Sequence[str], seen: Seen) -> SumStatistic:
    """Return the tally behind `novelty`, of n-grams as long as those of `seen`.

    Raises:
        DataError: if there is no text, or one that was not passed to `seen_in_training`.
    """
    _check_looked_for(texts, seen)
    ngrams = (list(join_ngrams(words(text), seen.n)) for text in texts)
    sums = added_up((sum(ngram in seen.novel for ngram in owned), len(owned)) for owned in ngrams)
    fields = {"n": seen.n, "words": WORDS_VERSION, "texts": len(texts), "training": seen.training}
    return SumStatistic(sums, ratio_of_sums, signature("novelty", fields))


def copied(texts: Sequence[str], training: Iterable[str], seed: int = 0) -> Score:
    """Return the share of texts that are a whole training text, word for word; case and blanks do not count.

    Short texts ("thank you.") are copies without having been learnt by heart: read it beside that of real held-out texts. The
    interval is a bootstrap over the texts.

    Args:
        texts: at least one; a blank text is a copy if a training text is blank.
        training: what the generator was trained on, at least one; read once, one at a time, and not held.
        seed: of the bootstrap.

    Returns:
        From 0 to 1 (all copied).

    Raises:
        DataError: if there is no text or no training text.
    """
    return copied_tally(texts, seen_in_training(texts, training)).score(seed)


def copied_tally(texts: Sequence[str], seen: Seen) -> SumStatistic:
    """Return the tally behind `copied`.

    Raises:
        DataError: if there is no text, or one that was not passed to `seen_in_training`.
    """
    _check_looked_for(texts, seen)
    fields = {"words": WORDS_VERSION, "texts": len(texts), "training": seen.training}
    return mean_tally((float(seen.copied[_normal(text)]) for text in texts), signature("copied", fields))


def _check_looked_for(texts: Sequence[str], seen: Seen) -> None:
    for number, text in enumerate(texts):
        if _normal(text) not in seen.copied:
            raise DataError(f"texts[{number}] was not looked for in training: pass the same texts to seen_in_training")


def _normal(text: str) -> str:
    return " ".join(words(text))
