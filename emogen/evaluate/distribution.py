"""Distance between the distributions of generated and of real texts, by their sentence embeddings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError, SettingsError, UndefinedScoreError
from emogen.evaluate.resampling import half_sample_interval
from emogen.evaluate.score import Score, signature
from emogen.evaluate.significance import over_seeds

Embeddings = NDArray[np.float64]

_FRECHET_DRAWS = 100


def frechet(generated: NDArray[Any], real: NDArray[Any], seed: int = 0, encoder: str = "unnamed") -> Score:
    """Fréchet distance between normal distributions fitted to two sets of sentence embeddings.

    |mean - mean'|^2 + trace(S + S' - 2 (S S')^(1/2)), with the unbiased covariances S. It is biased upward, roughly by a
    constant over the number of texts, in particular while that is not far above the width: compare values of equal sizes
    of both sets only, or beside the value of two sets of real texts of these sizes.

    The interval comes from half-samples of both sets, each drawn without replacement: the sampling error at these sizes. It is
    wide where the two distributions are nearly the same.

    Args:
        generated: [texts, width], at least two.
        real: [other texts, width], at least two.
        seed: of the half-samples.
        encoder: name of what made the embeddings, for the signature.

    Returns:
        0 (the same means and covariances) or more, in squared units of the embeddings.

    Raises:
        DataError: if a set has fewer than two texts or a value that is not finite, or the widths differ.

    Source: Heusel et al. 2017 (FID); Semeniuta et al. 2018, On accurate evaluation of GANs for language generation.
    """
    ours, theirs = _two_sets(generated, real)
    value = _distance(ours, theirs)
    random = np.random.default_rng([seed, 1])
    low, high = half_sample_interval(
        value,
        lambda chosen: _distance(ours[chosen], theirs[_half(len(theirs), random)]),
        len(ours),
        seed,
        draws=_FRECHET_DRAWS,
        bounds=(0.0, np.inf),
    )
    fields = {"encoder": encoder, "generated": len(ours), "real": len(theirs), "width": ours.shape[1]}
    return Score(value, low, high, signature("frechet", {**fields, "halves": _FRECHET_DRAWS, "seed": seed}))


def mauve(
    generated: NDArray[Any], real: NDArray[Any], seeds: Sequence[int] = (0, 1, 2, 3, 4), encoder: str = "unnamed"
) -> Score:
    """MAUVE of the package mauve-text with its defaults: area under the divergence curve of the clustered embeddings.

    The value is the mean over the seeds of the clustering. The interval is Student's for that mean, cut at 0 and 1: it holds
    the error of the clustering, not that of sampling the texts. MAUVE depends on the number of texts (a tenth of it is the
    number of clusters) and on the encoder: compare values with both the same. Its authors advise thousands of texts.

    Args:
        generated: [texts, width], at least two.
        real: [other texts, width], at least two; equally many are best.
        seeds: two or more different ones.
        encoder: name of what made the embeddings, for the signature.

    Returns:
        From 0 (no overlap; the curve leaves about 0.004) to 1 (the same clusters equally full).

    Raises:
        DataError: if a set has fewer than two texts or a value that is not finite, the widths differ, or all embeddings have
            one direction.
        SettingsError: if mauve-text is missing, or the seeds are fewer than two or repeat.

    Source: Pillutla et al. 2021, MAUVE: measuring the gap between neural text and human text using divergence frontiers.
    """
    ours, theirs = _two_sets(generated, real)
    both = np.vstack([ours, theirs])
    lengths = np.linalg.norm(both, axis=1, keepdims=True)
    unit = both / np.where(lengths > 0, lengths, 1)
    if np.allclose(unit, unit[0], atol=1e-9):
        raise UndefinedScoreError(
            "all embeddings have one direction, generated and real alike: there is nothing for mauve to compare"
        )
    if len(set(seeds)) < max(2, len(seeds)):
        raise SettingsError(f"seeds are {list(seeds)}: pass two or more different ones, since their spread is the interval")
    values, faiss = _mauve_values(ours, theirs, seeds)
    fields = {"mauve-text": version("mauve-text"), "faiss": faiss, "encoder": encoder, "generated": len(ours)}
    signed = signature("mauve", {**fields, "real": len(theirs), "seeds": ",".join(map(str, seeds))})
    spread = over_seeds(values)
    return Score(spread.mean, max(0.0, spread.low), min(1.0, spread.high), signed)


def _two_sets(generated: NDArray[Any], real: NDArray[Any]) -> tuple[Embeddings, Embeddings]:
    ours, theirs = _embeddings(generated, "generated"), _embeddings(real, "real")
    if ours.shape[1] != theirs.shape[1]:
        raise DataError(f"widths {ours.shape[1]} (generated) and {theirs.shape[1]} (real) differ: embed both with one encoder")
    return ours, theirs


def _embeddings(given: NDArray[Any], name: str) -> Embeddings:
    found = np.asarray(given, dtype=np.float64)
    if found.ndim != 2 or not found.shape[1]:
        raise DataError(f"{name} embeddings have the shape {list(found.shape)}: pass an array [texts, width]")
    if len(found) < 2:
        raise UndefinedScoreError(f"{len(found)} {name} embeddings: pass those of at least two texts")
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise DataError(f"{name}[{broken[0]}]: the embedding has a value that is not finite (nan or infinite)")
    return found


def _half(items: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return places of a random half."""
    return random.permutation(items)[: items // 2]


def _distance(one: Embeddings, other: Embeddings) -> float:
    (mean, covariance), (other_mean, other_covariance) = _moments(one), _moments(other)
    apart = float(np.square(mean - other_mean).sum())
    traces = float(np.trace(covariance) + np.trace(other_covariance))
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    return max(0.0, apart + traces - 2 * float(np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)).sum()))


def _moments(texts: Embeddings) -> tuple[Embeddings, Embeddings]:
    """Return the mean [width] and covariance [width, width]; that of a single text, as half of three may be, is 0."""
    mean = texts.mean(axis=0)
    centred = texts - mean
    covariance: Embeddings = centred.T @ centred / max(1, len(texts) - 1)
    return mean, covariance


def _mauve_values(generated: Embeddings, real: Embeddings, seeds: Sequence[int]) -> tuple[list[float], str]:
    """MAUVE with each seed, and the version of faiss that clustered."""
    with catch_warnings():
        # Those of the packages behind it, while they are imported or at work.
        simplefilter("ignore")
        package, faiss = _mauve_packages()
        with _content_with_few_texts(faiss):
            runs = [package.compute_mauve(p_features=real, q_features=generated, seed=seed, verbose=False) for seed in seeds]
    return [min(1.0, float(run.mauve)) for run in runs], faiss.__version__


def _mauve_packages() -> tuple[Any, Any]:
    try:
        return import_module("mauve"), import_module("faiss")
    except ImportError:
        raise SettingsError('mauve needs the extra: pip install -e ".[mauve]"') from None


@contextmanager
def _content_with_few_texts(faiss: Any) -> Iterator[None]:
    """Stop faiss from writing to stderr below 39 texts a cluster: mauve's own rule always comes to 20."""
    clustering = faiss.Kmeans
    faiss.Kmeans = partial(clustering, min_points_per_centroid=1)
    try:
        yield
    finally:
        faiss.Kmeans = clustering
