"""How expected a text is to a language model from outside, by its negative log-likelihoods.

A model's tokenizer decides how many tokens a text has, so nats a token do not compare between models. The sum over a text does,
as long as the model can spell every text: it is divided here by what the text itself has, words, characters or sentences.
All three count the end of the text, whose token is in the sum. To get several figures, score the texts once and pass the array.

Source: Mielke 2019, Can you compare perplexity across different segmentations?
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError
from emogen.evaluate.metric import Metric
from emogen.evaluate.resampling import SumStatistic, Values, added_up
from emogen.evaluate.score import align, in_batches, signature
from emogen.text.words import WORDS_VERSION, words

LanguageModel = Callable[[Sequence[str]], Sequence[float] | NDArray[Any]]
Nats = Iterable[float] | NDArray[Any] | LanguageModel

# Rounding in half precision puts a near certain text a little below 0.
_BELOW_ZERO = -1e-3
# The perplexity of more nats a word would be no finite number.
_MOST_EXPONENT = 709.0


@Metric
def perplexity(texts: Iterable[str], nats: Nats, model: str, batch_size: int = 32) -> SumStatistic:
    """Return the perplexity a word, exp(nats of all texts / words of all texts), with a bootstrap interval over the texts.

    The words are those of `emogen.text.words` (a Chinese character is one) and one end a text, whatever the model's tokens are.

    Args:
        texts: at least one; an empty one has its end alone.
        nats: of each text the negative log-likelihood in nats, summed over its tokens and the end token; or what gives them
            for a list of texts.
        model: name of the language model, for the signature.
        batch_size: how many texts `nats` gets at a time, if it is a callable.

    Returns:
        1 or more, lower is more expected; e^709 also beyond 709 nats a word.

    Raises:
        DataError: if there is no text, there are more of one than of the other, or a value is below 0, nan or infinite.
        SettingsError: if `batch_size` is below 1.

    >>> round(perplexity(["a b", "c"], [3 * np.log(50), 2 * np.log(50)], "uniform over 50 words").value, 9)
    50.0
    """
    return _perplexity_tally("perplexity", texts, nats, model, batch_size)


@Metric
def reverse_perplexity(texts: Iterable[str], nats: Nats, model: str, batch_size: int = 32) -> SumStatistic:
    """Return the perplexity a word of real text under a language model that was trained on a generator's samples.

    It rises both when the samples are broken and when they leave out part of what people write. It depends on the number of
    samples and on the model trained: compare generators with both the same, and with the same model trained on real text.

    Args:
        texts: real texts, none of which the generator has seen.
        nats: as for `perplexity`, under the model trained on the samples.
        model: which model it is and on what it was trained, for the signature.
        batch_size: as for `perplexity`.

    Returns, errors: as for `perplexity`.

    Source: Zhao et al. 2018, Adversarially regularized autoencoders.
    """
    return _perplexity_tally("reverse_perplexity", texts, nats, model, batch_size)


@Metric
def nats_per_character(texts: Iterable[str], nats: Nats, model: str, batch_size: int = 32) -> SumStatistic:
    """Return nats of all texts / characters of all texts, with a bootstrap interval over the texts.

    Characters are Unicode code points as given, and one end a text. Divided by ln 2 = 0.6931 it is bits per character.

    Args, errors: as for `perplexity`.

    Returns:
        0 or more, lower is more expected.
    """
    fields = {"model": model, "unit": "character+end"}
    return _tally("nats_per_character", fields, _sums(texts, nats, batch_size, _characters), _ratio)


@Metric
def nats_per_sentence(texts: Iterable[str], nats: Nats, model: str, batch_size: int = 32) -> SumStatistic:
    """Return the mean over the texts of their nats, with a bootstrap interval.

    It compares models on the same texts, not texts of different lengths.

    Args, errors: as for `perplexity`.

    Returns:
        0 or more, lower is more expected.
    """
    fields = {"model": model, "unit": "text"}
    return _tally("nats_per_sentence", fields, _sums(texts, nats, batch_size, lambda _text: 1), _ratio)


def _perplexity_tally(name: str, texts: Iterable[str], nats: Nats, model: str, batch_size: int) -> SumStatistic:
    fields = {"model": model, "unit": "word+end", "words": WORDS_VERSION}
    return _tally(name, fields, _sums(texts, nats, batch_size, _words), _exp_ratio)


def _tally(name: str, fields: Mapping[str, object], sums: Values, metric: Callable[[Values], Values]) -> SumStatistic:
    return SumStatistic(sums, metric, signature(name, {**fields, "texts": int(sums[:, 2].sum())}))


def _sums(texts: Iterable[str], nats: Nats, batch_size: int, units: Callable[[str], int]) -> Values:
    """Return nats, units and texts, [blocks, 3]."""
    pairs = _compute(texts, nats, batch_size) if callable(nats) else align(texts, nats, ("texts", "log-likelihoods"))
    return added_up((_check_value(value, number), units(text), 1.0) for number, (text, value) in enumerate(pairs))


def _compute(texts: Iterable[str], score: LanguageModel, size: int) -> Iterator[tuple[str, float]]:
    for number, batch in enumerate(in_batches(texts, size)):
        values = score(batch)
        if len(values) != len(batch):
            place = f"texts[{number * size}] and after"
            raise DataError(
                f"{place}: the model gave {len(values)} log-likelihoods for {len(batch)} texts; it must give one each"
            )
        yield from zip(batch, values, strict=True)


def _check_value(value: float, number: int) -> float:
    if not np.isfinite(value) or value < _BELOW_ZERO:
        raise DataError(f"nats[{number}] is {value}: pass the negative log-likelihood of the text, finite and not below 0")
    return max(0.0, float(value))


def _words(text: str) -> int:
    return len(words(text)) + 1


def _characters(text: str) -> int:
    return len(text) + 1


def _ratio(sums: Values) -> Values:
    ratio: Values = sums[..., 0] / sums[..., 1]
    return ratio


def _exp_ratio(sums: Values) -> Values:
    return np.exp(np.minimum(_ratio(sums), _MOST_EXPONENT))
