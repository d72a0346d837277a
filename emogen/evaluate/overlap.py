"""Overlap of texts with references, through sacrebleu."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

from emogen.errors import DataError, SettingsError
from emogen.evaluate.score import RESAMPLES, Score, bootstrap_sums, percentile_interval, require_pairs
from emogen.words import language_of

_TOKENIZERS = {"en": "13a", "zh": "zh"}


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    language: Literal["en", "zh", "auto"] = "auto",
    lowercase: bool = False,
    seed: int = 0,
) -> Score:
    """Corpus BLEU of sacrebleu, with a bootstrap interval over the hypotheses.

    Args:
        hypotheses: the texts to score; an empty text is allowed.
        references: one list of references for each hypothesis; the lists may differ in length.
        language: `en` tokenises with sacrebleu's `13a` and `zh` by characters; `auto` goes by the references' script.
        lowercase: compare without regard to case.
        seed: of the 1000 resamples.

    Returns:
        BLEU from 0 to 100, equal to `sacrebleu.corpus_bleu`; the signature is sacrebleu's.

    Raises:
        DataError: if the lists differ in length, are empty or hold no list of references.
        SettingsError: if the language is another.

    Source: Papineni et al. 2002; Post 2018 (sacrebleu); Koehn 2004 (bootstrap of BLEU).
    """
    _check(hypotheses, references)
    metric = BLEU(lowercase=lowercase, tokenize=_tokenizer(references, language))
    value = metric.corpus_score(list(hypotheses), list(zip_longest(*references))).score
    statistics = _sentence_statistics(hypotheses, references, metric)
    low, high = percentile_interval(_resampled_bleu(statistics, seed))
    signature = metric.get_signature()
    signature.update("bs", RESAMPLES)
    signature.update("seed", seed)
    return Score(value, low, high, f"bleu|{signature}")


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    require_pairs(hypotheses, references, ("hypotheses", "lists of references"))
    for number, listed in enumerate(references):
        if isinstance(listed, str) or not listed:
            raise DataError(f"references[{number}] is {listed!r}: pass a list of at least one reference")


def _tokenizer(references: Sequence[Sequence[str]], language: str) -> str:
    known = language_of(text for listed in references for text in listed) if language == "auto" else language
    if known not in _TOKENIZERS:
        raise SettingsError(f"language {language!r} is not one of auto, {', '.join(_TOKENIZERS)}")
    return _TOKENIZERS[known]


def _sentence_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]], metric: BLEU) -> NDArray[np.int64]:
    """BLEU's sufficient statistics, [hypotheses, 10]: both lengths, matches and n-grams of orders 1 to 4."""
    tokenizer = metric.tokenizer.signature()
    # The effective order changes no count; without it sacrebleu warns at every sentence.
    sentence = BLEU(lowercase=metric.lowercase, tokenize=tokenizer, effective_order=True)
    scores = map(sentence.sentence_score, hypotheses, map(list, references))
    return np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores])


def _resampled_bleu(statistics: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    sums = bootstrap_sums(statistics, seed).tolist()
    return np.array([BLEU.compute_bleu(row[2:6], row[6:], row[0], row[1], "exp").score for row in sums])
