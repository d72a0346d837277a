"""Closeness in meaning, by the vectors of an encoder that comes in as a callable, or by vectors that are there already."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError
from emogen.evaluate.metric import Metric
from emogen.evaluate.resampling import SumStatistic, mean_tally
from emogen.evaluate.score import align, in_batches, signature

Vectors = NDArray[np.float64]
Encoder = Callable[[Sequence[str]], Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class Match:
    """How well the tokens of two texts find each other.

    Attributes:
        precision: mean over the hypothesis's tokens of the cosine with the nearest token of the reference.
        recall: the same from the reference's tokens.
        f1: their harmonic mean; 0 if one of them is not above 0.
    """

    precision: float
    recall: float
    f1: float


@Metric
def bertscore(
    hypotheses: Iterable[str], references: Iterable[Sequence[str]], encode: Encoder, encoder: str, batch_size: int = 64
) -> SumStatistic:
    """Return the mean F1 of greedy token matching between each hypothesis and its best reference, with a bootstrap interval.

    Without idf weights and without rescaling to a baseline. Each pair is scored as `token_matches` says.

    Args:
        hypotheses: the texts to score.
        references: one list of references for each hypothesis; the lists may differ in length.
        encode: from texts to the token vectors [tokens, width] of each; special tokens should be left out, as in the source.
        encoder: its name, with layer and version where there are several, for the signature.
        batch_size: how many pairs are in memory at a time, and how many texts `encode` gets at most.

    Returns:
        From 0 (no common direction) to 1 (the same tokens); real encoders rarely go below 0.3.

    Raises:
        DataError: if there is no pair, one side ends before the other, a hypothesis has no reference, or the encoder's
            answer has another number of texts, another shape or a value that is not finite.
        SettingsError: if `batch_size` is below 1.

    Source: Zhang et al. 2020, BERTScore: evaluating text generation with BERT.
    """
    return mean_match_tally(token_matches(hypotheses, references, encode, batch_size), encoder)


def mean_match_tally(matches: Iterable[Match], encoder: str) -> SumStatistic:
    """Return the tally behind `bertscore`, from matches that are there already, one a pair."""
    values = (match.f1 for match in matches)
    return _mean("bertscore", values, {"encoder": encoder, "idf": "no", "rescale": "no"})


def token_matches(
    hypotheses: Iterable[str], references: Iterable[Sequence[str]], encode: Encoder, batch_size: int = 64
) -> Iterator[Match]:
    """Yield the match of each hypothesis with that of its references which gives the highest F1, pair by pair.

    A text for which the encoder has no token, as a rule the empty one, matches nothing: all three figures are 0.

    Args, errors and source: as for `bertscore`.
    """
    for own, others in _encoded_pairs(hypotheses, references, encode, batch_size):
        yield best_match(own, others)


def best_match(own: NDArray[Any], others: Iterable[NDArray[Any]]) -> Match:
    """Return the match with that of several texts which gives the highest F1; arguments and errors as `greedy_match`."""
    return max((greedy_match(own, other) for other in others), key=lambda match: match.f1)


def greedy_match(hypothesis: NDArray[Any], reference: NDArray[Any]) -> Match:
    """Return each token with the nearest one on the other side, by cosine; several may choose the same.

    Args:
        hypothesis: token vectors [tokens, width]; a vector of zeros has the cosine 0 with all.
        reference: [other tokens, width].

    Returns:
        Zeros if one side has no token.

    Raises:
        DataError: if the widths differ.

    >>> greedy_match(np.array([[1, 0], [0, 1]]), np.array([[2, 0]]))
    Match(precision=0.5, recall=1.0, f1=0.6666666666666666)
    """
    if not len(hypothesis) or not len(reference):
        return Match(0.0, 0.0, 0.0)
    if hypothesis.shape[1] != reference.shape[1]:
        raise DataError(f"token vectors of widths {hypothesis.shape[1]} and {reference.shape[1]}: use one encoder for both")
    cosines = _unit(hypothesis) @ _unit(reference).T
    precision, recall = float(cosines.max(axis=1).mean()), float(cosines.max(axis=0).mean())
    return Match(precision, recall, 2 * precision * recall / (precision + recall) if min(precision, recall) > 0 else 0.0)


@Metric
def sentence_similarity(generated: Iterable[NDArray[Any]], source: Iterable[NDArray[Any]], encoder: str) -> SumStatistic:
    """Return the mean cosine between the sentence embeddings of pairs, with a bootstrap interval: is the content preserved?

    Args:
        generated: [pairs, width], or one embedding [width] after the other.
        source: of the texts that each was made from, or is to be compared with; the same shape.
        encoder: name of what made the embeddings, for the signature.

    Returns:
        From -1 to 1 (the same direction in every pair); an embedding of zeros counts as 0.

    Raises:
        DataError: if there is no pair, one side ends before the other, two widths differ or a value is not finite.
    """
    pairs = align(generated, source, ("generated embeddings", "source embeddings"))
    cosines = (_cosine(*pair, number) for number, pair in enumerate(pairs))
    return _mean("sentence_similarity", cosines, {"encoder": encoder})


def _mean(name: str, values: Iterable[float], fields: Mapping[str, object]) -> SumStatistic:
    """Return the mean of a stream, signed with the number of values that came."""
    tally = mean_tally(values, name)
    return replace(tally, signature=signature(name, {**fields, "texts": int(tally.sums[:, 1].sum())}))


def _encoded_pairs(
    hypotheses: Iterable[str], references: Iterable[Sequence[str]], encode: Encoder, size: int
) -> Iterator[tuple[Vectors, list[Vectors]]]:
    """Token vectors of each hypothesis and of each of its references; those of `size` pairs are in memory."""
    pairs = enumerate(align(hypotheses, references, ("hypotheses", "lists of references")))
    for batch in in_batches(pairs, size):
        named = [text for number, pair in batch for text in _name_texts(number, *pair)]
        vectors = iter(_encode(named, encode, size))
        for _, (_, listed) in batch:
            own = next(vectors)
            yield own, list(islice(vectors, len(listed)))


def _name_texts(number: int, hypothesis: str, listed: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the texts of one pair, each with what errors call it."""
    if isinstance(listed, str) or not listed:
        raise DataError(f"references[{number}] is {listed!r}: pass a list of at least one reference")
    names = [f"hypotheses[{number}]", *(f"references[{number}][{place}]" for place in range(len(listed)))]
    for name, text in zip(names, [hypothesis, *listed], strict=True):
        if not isinstance(text, str):
            raise DataError(f"{name} is {text!r}: pass a text")
        yield name, text


def _encode(named: Sequence[tuple[str, str]], encode: Encoder, size: int) -> Iterator[Vectors]:
    for batch in in_batches(named, size):
        names, texts = zip(*batch, strict=True)
        answer = encode(texts)
        if len(answer) != len(texts):
            raise DataError(f"{names[0]}: the encoder gave {len(answer)} answers for {len(texts)} texts; it must give one each")
        yield from map(checked_tokens, answer, names)


def checked_tokens(vectors: NDArray[Any], name: str) -> Vectors:
    """Return the token vectors of one text, [tokens, width], or [0, 0] where it has none.

    Raises:
        DataError: they have another shape, or a value that is not finite; the line begins with `name`.
    """
    found = np.asarray(vectors, dtype=np.float64)
    if found.size and found.ndim != 2:
        raise DataError(f"{name}: the encoder gave an array of shape {list(found.shape)}; it must be [tokens, width]")
    if not np.isfinite(found).all():
        raise DataError(f"{name}: the encoder gave a value that is not finite (nan or infinite)")
    return found if found.size else np.empty((0, 0))


def _cosine(one: NDArray[Any], other: NDArray[Any], number: int) -> float:
    if one.shape != other.shape or one.ndim != 1:
        shapes = f"{list(one.shape)} and {list(other.shape)}"
        raise DataError(f"pair {number} has embeddings of shapes {shapes}: pass two of one width, made by one encoder")
    left, right = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise DataError(f"pair {number}: an embedding has a value that is not finite (nan or infinite)")
    return float(_unit(left) @ _unit(right))


def _unit(vectors: NDArray[Any]) -> Vectors:
    """Return each vector at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Vectors = vectors / np.where(lengths > 0, lengths, 1)
    return unit
