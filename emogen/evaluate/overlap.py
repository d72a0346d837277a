"""Overlap of texts with references: BLEU, chrF and TER by sacrebleu, ROUGE by rouge-score.

Each metric has three forms. `bleu` gives the corpus `Score`; `bleu.statistic` the same before its interval, for
comparisons; both
read lists or streams once, in memory that does not grow with their length. `sentence_bleu` gives one value a pair.

In all of them the references are one list for each hypothesis, and the lists may differ in length. Texts may be empty.
The language `auto` is decided by the first 1000 lists of references, so that streams need no second reading. It takes `char`
where the references are mostly in a script without blanks between words (Japanese, Thai, Lao, Burmese, Khmer): words of such
texts would be whole sentences, and BLEU 0 even for a text that equals its reference.

METEOR is not here, since NLTK's needs a download of WordNet.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, islice, zip_longest
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rouge_score.tokenize import tokenize
from sacrebleu.metrics.base import Metric as SacreMetric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.tokenizers.tokenizer_char import TokenizerChar

from emogen.errors import DataError, SettingsError
from emogen.evaluate.metric import Metric
from emogen.evaluate.resampling import SumStatistic, Values, added_up
from emogen.evaluate.score import Signature, require_items, require_pairs, signature
from emogen.text.words import WORDS_VERSION, language_of, unspaced_script, words

Language = Literal["en", "zh", "char", "auto"]
RougeKind = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]

_Settled = Literal["en", "zh", "char"]
_Pair = tuple[str, list[str]]

_LISTS_THAT_DECIDE = 1000
_BLEU_TOKENIZERS = {"en": "13a", "zh": "zh", "char": "char"}


@Metric
def bleu(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    language: Language = "auto",
    lowercase: bool = False,
    effective_order: bool = False,
) -> SumStatistic:
    """Return corpus BLEU of sacrebleu, with a bootstrap interval over the pairs.

    As sacrebleu defines it, a corpus in which no hypothesis has four tokens scores 0, even if each equals its reference;
    with `effective_order` it is scored by the orders that occur, and every other corpus as without.

    Args:
        hypotheses: the texts to score.
        references: one list of references for each hypothesis.
        language: `en` tokenises with sacrebleu's `13a`, `zh` with its `zh` (Chinese by characters), `char` with its `char`
            (everything by characters); `auto` goes by the script.
        lowercase: compare without regard to case.
        effective_order: leave out the n-gram orders for which all hypotheses are too short.

    Returns:
        BLEU from 0 to 100, equal to `sacrebleu.corpus_bleu`; the signature is sacrebleu's.

    Raises:
        DataError: if there is no pair, a list of references is missing or empty, or something is not a text.
        SettingsError: if the language is another.

    Source: Papineni et al. 2002; Post 2018 (sacrebleu); Koehn 2004 (bootstrap of BLEU).
    """
    settled, pairs = _settle_language(hypotheses, references, language, _language_of)
    return _tally("bleu", _bleu_metric(settled, lowercase, effective_order), pairs)


def bleu_tallies(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    language: Language = "auto",
    lowercase: bool = False,
) -> tuple[SumStatistic, SumStatistic]:
    """Return what `bleu` is computed from, without and with `effective_order`, in one reading of the texts; same errors.

    Both have one value where any hypothesis has four tokens. The second one compares with every other system's.
    """
    settled, pairs = _settle_language(hypotheses, references, language, _language_of)
    plain = _tally("bleu", _bleu_metric(settled, lowercase, effective_order=False), pairs)
    values = _metric_of_sums(_bleu_metric(settled, lowercase, effective_order=True))
    return plain, SumStatistic(plain.sums, values, Signature(plain.signature).with_fields({"eff": "yes"}))


def has_four_tokens(tally: SumStatistic) -> bool:
    """Tell whether any hypothesis behind a tally of BLEU has four tokens; without `effective_order` it is 0 where none has."""
    return bool(tally.sums[:, -1].any())


def sentence_bleu(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    language: Language = "auto",
    lowercase: bool = False,
) -> NDArray[np.float64]:
    """BLEU of each pair, [pairs], from 0 to 100: equal to `sacrebleu.sentence_bleu`, thus with the effective order.

    Arguments and errors are those of `bleu`.
    """
    settled, pairs = _settle_language(hypotheses, references, language, _language_of)
    return _sentence_values(_bleu_metric(settled, lowercase, effective_order=True), pairs)


@Metric
def chrf(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    language: Language = "auto",
    lowercase: bool = False,
) -> SumStatistic:
    """Return corpus chrF2 of sacrebleu (characters up to order 6, no words), with a bootstrap interval over the pairs.

    Of several references the one with the best chrF counts. Two empty texts score 0.

    Args:
        hypotheses: the texts to score.
        references: one list of references for each hypothesis.
        language: of no effect on characters; checked as in the other metrics.
        lowercase: compare without regard to case.

    Returns:
        chrF from 0 to 100, equal to `sacrebleu.corpus_chrf`; the signature is sacrebleu's.

    Raises:
        DataError: as `bleu`.
        SettingsError: if the language is another.

    Source: Popović 2015, chrF: character n-gram F-score for automatic MT evaluation.
    """
    _check_language(language)
    return _tally(f"chrf|beta:{CHRF.BETA}", CHRF(lowercase=lowercase), _pairs(hypotheses, references))


def sentence_chrf(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    language: Language = "auto",
    lowercase: bool = False,
) -> NDArray[np.float64]:
    """ChrF of each pair, [pairs], from 0 to 100: equal to `sacrebleu.sentence_chrf`; arguments and errors of `chrf`."""
    _check_language(language)
    return _sentence_values(CHRF(lowercase=lowercase), _pairs(hypotheses, references))


@Metric
def ter(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    language: Language = "auto",
    lowercase: bool = True,
) -> SumStatistic:
    """Return corpus translation edit rate of sacrebleu, with a bootstrap interval over the pairs: lower is better.

    Of several references the one with the fewest edits counts, over their mean length. The search for shifted words takes
    milliseconds for texts of 20 words and seconds for texts of 200.

    Args:
        hypotheses: the texts to score.
        references: one list of references for each hypothesis.
        language: `en` takes words as spaces part them, sacrebleu's default; `zh` sets sacrebleu's `normalized` and
            `asian_support`, which part Han characters and punctuation (the second has no effect without the first);
            `char` takes every character for a word, as sacrebleu's tokenizer `char` does for BLEU; `auto` goes by the script.
        lowercase: compare without regard to case, sacrebleu's default for TER.

    Returns:
        Edits per 100 words of reference, from 0 to above 100, equal to `sacrebleu.corpus_ter`; the signature is
        sacrebleu's, with `tok:char` behind it for characters. 100 if all references are empty and a hypothesis is not.

    Raises:
        DataError: as `bleu`.
        SettingsError: if the language is another.

    Source: Snover et al. 2006, A study of translation edit rate with targeted human annotation.
    """
    settled, pairs = _settle_language(hypotheses, references, language, _language_of)
    tally = _tally("ter", _ter_metric(settled, lowercase), _part_characters(pairs, settled))
    return replace(tally, signature=f"{tally.signature}|tok:char") if settled == "char" else tally


def sentence_ter(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    language: Language = "auto",
    lowercase: bool = True,
) -> NDArray[np.float64]:
    """TER of each pair, [pairs], 0 or more: equal to `sacrebleu.sentence_ter`; arguments and errors of `ter`."""
    settled, pairs = _settle_language(hypotheses, references, language, _language_of)
    return _sentence_values(_ter_metric(settled, lowercase), _part_characters(pairs, settled))


@Metric
def rouge(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    kind: RougeKind,
    language: Language = "auto",
) -> SumStatistic:
    """Return the mean F-measure of rouge-score over the pairs, without stemming, with a bootstrap interval.

    Of several references the one with the best F-measure counts (rouge-score's `score_multi`). `rougeLsum` takes each line
    for a sentence; a text without line breaks is one sentence, and then `rougeLsum` equals `rougeL`. Texts without a token
    score 0, and so do texts of one token in `rouge2`, even if they equal their reference.

    Args:
        hypotheses: the texts to score.
        references: one list of references for each hypothesis.
        kind: `rouge1` and `rouge2` (n-grams), `rougeL` (longest common subsequence), `rougeLsum` (the same by lines).
        language: `en` takes rouge-score's own tokens, which are runs of a-z and 0-9 and nothing else; `zh` and `char` those of
            `emogen.text.words`, which suit every script and keep emoji and punctuation; `auto` takes rouge-score's, unless
            they would lose most words and symbols of the references (Han characters, Cyrillic words, emoji).

    Returns:
        From 0 to 1. The signature's `tok` is `default` for rouge-score's tokens, else `words-` and the version of ours.

    Raises:
        DataError: as `bleu`.
        SettingsError: if the kind or the language is another.

    Source: Lin 2004, ROUGE: a package for automatic evaluation of summaries.
    """
    return rouge_tallies(hypotheses, references, [kind], language)[kind]


def rouge_tallies(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    kinds: Sequence[RougeKind] = ("rouge1", "rouge2", "rougeL"),
    language: Language = "auto",
) -> dict[RougeKind, SumStatistic]:
    """Return what `rouge` is computed from, for several kinds in one reading of the texts; same arguments and errors."""
    _check_kinds(kinds)
    settled, pairs = _settle_language(hypotheses, references, language, _rouge_language_of)
    numbers: set[int] = set()
    scored = _rouge_values(_noting_numbers(pairs, numbers), kinds, settled)
    sums = added_up((*values, 1.0) for values in scored)
    return {
        kind: SumStatistic(sums[:, [column, -1]], _mean, _rouge_signature(kind, settled, numbers))
        for column, kind in enumerate(kinds)
    }


def sentence_rouge(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    kind: RougeKind,
    language: Language = "auto",
) -> NDArray[np.float64]:
    """Return f-measure of each pair, [pairs], from 0 to 1: equal to rouge-score's; arguments and errors of `rouge`."""
    _check_kinds([kind])
    settled, pairs = _settle_language(hypotheses, references, language, _rouge_language_of)
    return np.array([value for (value,) in _rouge_values(pairs, [kind], settled)])


def has_ngrams(hypotheses: Iterable[str], references: Iterable[Sequence[str]], n: int, language: Language = "auto") -> bool:
    """Tell whether any of the texts or references has `n` tokens of `rouge`: without, n-grams say nothing.

    Arguments and errors are those of `rouge`.
    """
    settled, pairs = _settle_language(hypotheses, references, language, _rouge_language_of)
    texts = (text for hypothesis, listed in pairs for text in (hypothesis, *listed))
    return any(len(tokenize(text, None) if settled == "en" else words(text)) >= n for text in texts)


def tokenisation_note(references: Iterable[Sequence[str]], language: Language = "auto") -> str:
    """Say in one line how BLEU and TER part references without blanks between words; empty for all others.

    Args:
        references: as for `bleu`; the first 1000 lists decide.
        language: as for `bleu`.
    """
    script = unspaced_script(text for listed in islice(references, _LISTS_THAT_DECIDE) for text in listed)
    if not script:
        return ""
    if language in ("auto", "char"):
        return f"bleu and ter compare characters, since {script} has no blanks between words"
    return f"bleu and ter: {language!r} does not part {script} into words; --language char compares characters"


def _pairs(hypotheses: Iterable[str], references: Iterable[Sequence[str]]) -> Iterator[_Pair]:
    """Yield each hypothesis with its references, checked on the way."""
    if isinstance(hypotheses, Sized) and isinstance(references, Sized):
        require_pairs(hypotheses, references, ("hypotheses", "lists of references"))
    number = -1
    for number, (hypothesis, listed) in enumerate(zip_longest(hypotheses, references)):
        _check_text(f"hypotheses[{number}]", hypothesis)
        place = f"references[{number}]"
        if listed is None:
            raise DataError(f"{place} is missing: pass a list of references for every hypothesis")
        if isinstance(listed, str) or not isinstance(listed, Sequence) or not listed:
            raise DataError(f"{place} is {listed!r}: pass a list of at least one reference")
        for position, text in enumerate(listed):
            _check_text(f"{place}[{position}]", text)
        yield hypothesis, list(listed)
    require_items(range(number + 1), "hypotheses")


def _check_text(place: str, text: object) -> None:
    if text is None:
        raise DataError(f"{place} is missing: pass a text and a list of references for every item")
    if not isinstance(text, str):
        raise DataError(f"{place} is {text!r}: pass a text")


def _settle_language(
    hypotheses: Iterable[str],
    references: Iterable[Sequence[str]],
    language: Language,
    decide: Callable[[Sequence[str]], _Settled],
) -> tuple[_Settled, Iterator[_Pair]]:
    """Return the pairs with their language, which `decide` gives for the first of them if it is `auto`."""
    _check_language(language)
    pairs = _pairs(hypotheses, references)
    if language != "auto":
        return language, pairs
    first = list(islice(pairs, _LISTS_THAT_DECIDE))
    return decide([text for _, listed in first for text in listed]), chain(first, pairs)


def _language_of(texts: Sequence[str]) -> _Settled:
    return "char" if unspaced_script(texts) else language_of(texts)


def _part_characters(pairs: Iterable[_Pair], language: _Settled) -> Iterator[_Pair]:
    """Yield the pairs, with blanks between all characters where they count as words."""
    split: Callable[[str], str] = TokenizerChar() if language == "char" else str  # type: ignore[no-untyped-call]
    for hypothesis, listed in pairs:
        yield split(hypothesis), [split(text) for text in listed]


def _check_language(language: str) -> None:
    if language not in get_args(Language):
        raise SettingsError(f"language {language!r} is not one of auto, char, en, zh")


def _check_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in get_args(RougeKind):
            raise SettingsError(f"ROUGE {kind!r} is not one of {', '.join(get_args(RougeKind))}")


def _noting_numbers(pairs: Iterable[_Pair], numbers: set[int]) -> Iterator[_Pair]:
    """Yield the same pairs, while the numbers of references that occur gather in `numbers`."""
    for hypothesis, listed in pairs:
        numbers.add(len(listed))
        yield hypothesis, listed


def _bleu_metric(language: _Settled, lowercase: bool, effective_order: bool) -> BLEU:
    return BLEU(lowercase=lowercase, tokenize=_BLEU_TOKENIZERS[language], effective_order=effective_order)


def _ter_metric(language: _Settled, lowercase: bool) -> TER:
    chinese = language == "zh"
    return TER(normalized=chinese, asian_support=chinese, case_sensitive=not lowercase)


def _tally(name: str, metric: SacreMetric, pairs: Iterable[_Pair]) -> SumStatistic:
    numbers: set[int] = set()
    sums = added_up(_statistics(metric, _noting_numbers(pairs, numbers)))
    metric.num_refs = numbers.pop() if len(numbers) == 1 else -1
    return SumStatistic(sums, _metric_of_sums(metric), f"{name}|{metric.get_signature()}")


def _statistics(metric: SacreMetric, pairs: Iterable[_Pair]) -> Iterator[list[float]]:
    """Yield one row of sums a pair, in sacrebleu's columns."""
    for hypothesis, listed in pairs:
        # Protected, but the only way to them: sacrebleu's own significance tests read them from outside as well.
        yield metric._extract_corpus_statistics([hypothesis], [[text] for text in listed])[0]


def _metric_of_sums(metric: SacreMetric) -> Callable[[Values], Values]:
    def values(sums: Values) -> Values:
        rows = sums.reshape(-1, sums.shape[-1]).tolist()
        return np.array([metric._compute_score_from_stats(row).score for row in rows]).reshape(sums.shape[:-1])

    return values


def _sentence_values(metric: SacreMetric, pairs: Iterable[_Pair]) -> NDArray[np.float64]:
    return np.array([metric.sentence_score(hypothesis, listed).score for hypothesis, listed in pairs], dtype=np.float64)


class _Words:
    """`emogen.text.words` as rouge-score wants a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _rouge_values(pairs: Iterable[_Pair], kinds: Sequence[RougeKind], language: _Settled) -> Iterator[list[float]]:
    """Yield the best F-measure of each kind, for each pair."""
    # Here, since it loads the whole of NLTK, which takes longer than everything else that this package imports.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(kinds, tokenizer=None if language == "en" else _Words())
    for hypothesis, listed in pairs:
        best = scorer.score_multi(listed, hypothesis)
        yield [best[kind].fmeasure for kind in kinds]


def _rouge_language_of(texts: Sequence[str]) -> _Settled:
    """Return `zh` if rouge-score's tokenizer would lose more words and symbols of these texts than it keeps, else `en`."""
    tokens = [token for text in texts for token in words(text)]
    kept = sum(bool(tokenize(token, None)) for token in tokens)
    return "zh" if sum(map(_is_lost, tokens)) > kept else "en"


def _is_lost(token: str) -> bool:
    # Curly quotes and dashes are ordinary in English, and rouge-score drops all punctuation: it decides nothing.
    return not tokenize(token, None) and not token.isascii() and unicodedata.category(token[0])[0] != "P"


def _mean(sums: Values) -> Values:
    mean: Values = sums[..., 0] / sums[..., 1]
    return mean


def _rouge_signature(kind: RougeKind, language: _Settled, numbers: set[int]) -> str:
    fields = {
        "nrefs": next(iter(numbers)) if len(numbers) == 1 else "var",
        "best": "fmeasure",
        "tok": "default" if language == "en" else f"words-{WORDS_VERSION}",
        "stem": "no",
    }
    sentences = {"sentences": "lines"} if kind == "rougeLsum" else {}
    return signature(kind, {**fields, **sentences, "rouge_score": version("rouge-score")})
