"""Every score that can be had from what is given: texts alone, or with references, training texts, judges and models.

`evaluate_texts` scores texts in memory. `evaluate` scores a `System`, whose texts may be any number, as long as they can be
gone through again; it says what it left out and keeps what `compare` needs. Overlap, judged emotion and mean length go over all
texts; whatever must hold texts in memory takes an even sample of `Options.sample` of them, which the signature tells
(`texts:` used, `seen:` there were).
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, combinations
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from emogen.emotions.labels import LabelSet
from emogen.errors import DataError, SettingsError, UndefinedScoreError
from emogen.evaluate import diversity, fluency, overlap
from emogen.evaluate.distribution import frechet, mauve
from emogen.evaluate.emotion import (
    Confusion,
    Judge,
    agreement_tally,
    confusion,
    corrected_accuracy,
    emotion_accuracy_tally,
    emotion_f1_tally,
    judged_labels,
    kappa_tally,
)
from emogen.evaluate.lexicon import polarity_agreement_tally
from emogen.evaluate.overlap import Language
from emogen.evaluate.resampling import CountStatistic, SumStatistic, added_up, reservoir
from emogen.evaluate.score import Score, align, in_batches, require_items
from emogen.evaluate.significance import Comparison, approximate_randomisation, compare_seeds, over_seeds
from emogen.evaluate.similarity import (
    Encoder,
    Match,
    best_match,
    checked_tokens,
    mean_match_tally,
    sentence_similarity_tally,
)

Item = TypeVar("Item")
Vectors = NDArray[np.float64]

_JUDGED_AT_ONCE = 512
_SHOWN_LABELS = 9
_SCORED_AT_ONCE = 256
_CHUNK = 8192
_DISTINCT_SAMPLE = 1000
# Above this a test cannot find any difference, and says so.
_NOTED_P = 0.05


class Watch(Protocol):
    """Lets somebody see how far a long loop is: gives the items through."""

    def __call__(self, items: Iterable[Item], what: str, total: int | None, /) -> Iterable[Item]:
        """Return the same items; `total` is their number where it is known."""


def watch_nothing(items: Iterable[Item], _what: str, _total: int | None, /) -> Iterable[Item]:
    """Return the items, without a word."""
    return items


@dataclass(frozen=True)
class System:
    """What is scored.

    Attributes:
        name: of the system.
        texts: the generated texts; gone through several times, so no iterator.
        references: for each text a list of at least one; likewise. None: no overlap metrics.
        target: for each text the emotion that it was to express; likewise. None: no judged metrics.
        where: what an error calls the text of a number, counted from 0.
    """

    name: str
    texts: Iterable[str]
    references: Iterable[Sequence[str]] | None = None
    target: Iterable[str] | None = None
    where: Callable[[int], str] = "texts[{}]".format


@dataclass(frozen=True)
class Judging:
    """A judge of emotions.

    Attributes:
        name: short, for the names of scores where there are several judges.
        labels: the columns of what it answers.
        probabilities: texts to probabilities [texts, labels].
        identity: name and version, for signatures.
        leak: what is known of shared data with the systems judged, for signatures.
        own: its confusion on held-out texts with known labels, if it is known; corrects the accuracy.
    """

    name: str
    labels: tuple[str, ...]
    probabilities: Judge
    identity: str = "unnamed"
    leak: str = "unchecked"
    own: Confusion | None = None


@dataclass(frozen=True)
class Encoding:
    """An encoder of texts.

    Attributes:
        name: for signatures.
        sentences: texts to embeddings [texts, width].
        tokens: texts to the token vectors [tokens, width] of each.
        both: texts to the two answers above, in one pass; None computes them one after the other.
    """

    name: str
    sentences: Callable[[Sequence[str]], NDArray[Any]]
    tokens: Encoder
    both: Callable[[Sequence[str]], tuple[NDArray[Any], Sequence[NDArray[Any]]]] | None = None

    def read(self, texts: Sequence[str]) -> tuple[Vectors, Sequence[NDArray[Any]]]:
        """Return sentence vectors [texts, width] and the token vectors of each text."""
        if self.both is None:
            return np.asarray(self.sentences(texts), dtype=np.float64), self.tokens(texts)
        sentences, tokens = self.both(texts)
        return np.asarray(sentences, dtype=np.float64), tokens


@dataclass(frozen=True)
class Fluency:
    """A language model that says how likely texts are.

    Attributes:
        name: for signatures.
        nats: texts to their negative log-likelihoods [texts], end token included.
    """

    name: str
    nats: fluency.LanguageModel


@dataclass(frozen=True)
class Resources:
    """What systems are scored with, beside their own texts.

    Attributes:
        training: what the systems were trained on, gone through once a system; gives novelty and copied.
        real: real texts that belong to no text in particular; None takes the references.
        judges: of emotions, for systems with `target`.
        encoder: gives Fréchet distance, similarity, BERTScore and, if asked for, MAUVE.
        language_model: gives perplexity.
        reverse: trains a language model on texts, for reverse perplexity on the real ones.
    """

    training: Iterable[str] | None = None
    real: Iterable[str] | None = None
    judges: tuple[Judging, ...] = ()
    encoder: Encoding | None = None
    language_model: Fluency | None = None
    reverse: Callable[[Sequence[str]], Fluency] | None = None


@dataclass(frozen=True)
class Options:
    """How scores are computed.

    Attributes:
        language: en, zh, char, or auto, which goes by the script of the references.
        lowercase: BLEU and chrF without regard to case (TER and ROUGE always are).
        sample: most texts of a system, and of the real ones, that are held in memory.
        seed: of samples, intervals and tests.
        mauve: whether to compute MAUVE, which takes minutes.
        lexicon: whether to compare the polarity asked for with that of VADER's lexicon.
    """

    language: Language = "auto"
    lowercase: bool = False
    sample: int = 100_000
    seed: int = 0
    mauve: bool = False
    lexicon: bool = False

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise SettingsError(f"sample is {self.sample}: pass a number of texts of at least 1")


@dataclass(frozen=True)
class Evaluation:
    """What came out for one system.

    Attributes:
        texts: how many were scored.
        scores: by name.
        bases: what the scores of these names were computed from, for `compare`.
        lengths: of the texts, or of the sample of them.
        confusions: by judge, how often each label was judged where each was asked for.
        notes: one line for each metric that was left out, and for samples.
        by_seed: where several training seeds were scored, the value of each metric for each seed; else empty.
    """

    texts: int
    scores: Mapping[str, Score]
    bases: Mapping[str, SumStatistic | CountStatistic]
    lengths: diversity.Lengths
    confusions: Mapping[str, Confusion]
    notes: tuple[str, ...]
    by_seed: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def evaluate_texts(
    texts: Sequence[str],
    references: Sequence[Sequence[str]] | None = None,
    target: Sequence[str] | None = None,
    means: Resources | None = None,
    options: Options | None = None,
) -> dict[str, Score]:
    """Return all scores of texts in memory that can be computed from what is given; a metric that cannot is not in the answer.

    Args:
        texts: at least one; may be empty strings.
        references: for each text a list of at least one.
        target: for each text the emotion it was to express.
        means: training texts, real texts, judges and models.
        options: how to compute.

    Returns:
        Scores by name: `bleu`, `chrf`, `ter`, `rouge1`, `distinct2`, `self_bleu4`, `emotion_accuracy` and so on. For what was
        left out and why call `evaluate`.

    Raises:
        DataError: no text, lists of different lengths, a label that a judge does not know, or a model's answer that is
            no number.
        SettingsError: an impossible option, or a package that is asked for and missing.

    >>> scores = evaluate_texts(["so happy !", "so sad ."], [["so happy !"], ["so sad ."]])
    >>> round(scores["rouge1"].value, 6), scores["unique"].value
    (1.0, 1.0)
    """
    return dict(evaluate(System("texts", texts, references, target), means, options).scores)


def evaluate(
    system: System,
    means: Resources | None = None,
    options: Options | None = None,
    watch: Watch = watch_nothing,
) -> Evaluation:
    """Return all scores of a system that can be computed from what is given, and notes on what was left out.

    Args:
        system: its texts, with references and emotions asked for where there are any.
        means: training texts, real texts, judges and models.
        options: how to compute.
        watch: sees the loop over the metrics, and those over the texts.

    Raises:
        DataError, SettingsError: as `evaluate_texts`.
    """
    job = _Job(system, means or Resources(), options or Options(), watch)
    if job.system.target is None and (job.means.judges or job.options.lexicon):
        raise SettingsError(f"{job.system.name}: a judge or lexicon needs to know which emotion each text was to express")
    for judge in job.means.judges:
        unknown: dict[str, list[int]] = {}
        for number, label in enumerate(job.system.target or ()):
            if _label_of(judge, label) is None:
                unknown.setdefault(label, []).append(number)
        if unknown:
            raise DataError(_unknown_to(judge, unknown, job.system.where))
    found: list[_Measure] = []
    tasks = _tasks(job)
    for task in watch(tasks, system.name, len(tasks)):
        found.extend(_done(task, job.notes))
    return Evaluation(
        texts=job.drawn.seen,
        scores={measure.name: measure.score for measure in found},
        bases={measure.name: measure.basis for measure in found if measure.basis is not None},
        lengths=diversity.length_distribution(job.drawn.texts),
        confusions=job.confusions,
        notes=tuple(job.notes),
    )


def plan_scores(system: System, means: Resources | None = None, options: Options | None = None) -> list[str]:
    """Return the names of the scores that `evaluate` would try to compute, without going through the texts."""
    job = _Job(system, means or Resources(), options or Options(), watch_nothing)
    return [name for task in _tasks(job) for name in task.names]


def over_training_seeds(runs: Sequence[Evaluation]) -> Evaluation:
    """Join the evaluations of one system trained with several seeds: the mean of each score, with its interval over the seeds.

    The texts of one training run share its accidents: taken together as if they were independent they give intervals and
    p-values that are far too small. So each run counts as one value, and the interval is Student's for the mean of these
    (`over_seeds`); it may reach beyond the metric's scale. Lengths are means over the runs, confusions sums.

    Args:
        runs: one for each seed, at least two.

    Raises:
        DataError: if there are fewer than two.
    """
    scored = {name for run in runs for name in run.scores}
    shared = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
    values = {name: tuple(run.scores[name].value for run in runs) for name in shared}
    missing = [f"{name} left out: not every training seed has it" for name in sorted(scored - set(shared))]
    quantiles = np.mean([run.lengths.quantiles for run in runs], axis=0).tolist()
    means = (float(np.mean([getattr(run.lengths, name) for run in runs])) for name in ("mean", "deviation", "characters"))
    mean, deviation, characters = means
    return Evaluation(
        texts=sum(run.texts for run in runs),
        scores={name: _seed_score(found, [run.scores[name].signature for run in runs]) for name, found in values.items()},
        bases={},
        lengths=diversity.Lengths(mean, deviation, tuple(quantiles), characters),
        confusions={
            judge: Confusion(np.sum([run.confusions[judge].counts for run in runs], axis=0), matrix.labels)
            for judge, matrix in runs[0].confusions.items()
        },
        notes=tuple(dict.fromkeys([*(note for run in runs for note in run.notes), *missing])),
        by_seed=values,
    )


def _seed_score(values: Sequence[float], signatures: Sequence[str]) -> Score:
    """Return the mean over seeds; numbers in which the runs' signatures differ are said to vary."""
    spread = over_seeds(values)
    signed = (
        signatures[0]
        if len(set(signatures)) == 1
        else re.sub(r"\b(\w+):\d+(?=\||$)", _vary_signature(signatures), signatures[0])
    )
    return Score(spread.mean, spread.low, spread.high, f"{signed}|training_seeds:{spread.seeds}|interval:t")


def _vary_signature(signatures: Sequence[str]) -> Callable[[re.Match[str]], str]:
    common = set.intersection(*(set(signature.split("|")) for signature in signatures))
    return lambda field: field[0] if field[0] in common else f"{field[1]}:var"


def compare(
    first: Evaluation, second: Evaluation, seed: int = 0, watch: Watch = watch_nothing
) -> tuple[dict[str, Comparison], list[str]]:
    """Return tests every metric of two systems on the same items that is made of sums or of counts.

    Where both were scored over training seeds (`over_training_seeds`), every metric is tested over these by `compare_seeds`.

    Args:
        first: of one system.
        second: of the other, on texts for the same items in the same order.
        seed: of the tests.
        watch: sees the loop over the metrics.

    Returns:
        By metric the difference with its interval, and the p-value of approximate randomisation, not yet adjusted for their
        number; and one line for each metric that the two do not allow to compare.

    Raises:
        DataError: if the systems have different numbers of texts, or only one of them several training seeds.
    """
    if first.by_seed or second.by_seed:
        return _compared_over_seeds(first, second, seed)
    if first.texts != second.texts:
        raise DataError(f"{first.texts:,} texts of the first but {second.texts:,} of the second: compare the same items")
    shared = [name for name in first.bases if name in second.bases]
    found: dict[str, Comparison] = {}
    notes: list[str] = []
    for name in watch(shared, "comparing", len(shared)):
        try:
            found[name] = _compare(first.bases[name], second.bases[name], seed)
        except UndefinedScoreError as refused:
            notes.append(f"{name} is not compared: {refused}")
    return found, notes


def _compared_over_seeds(first: Evaluation, second: Evaluation, seed: int) -> tuple[dict[str, Comparison], list[str]]:
    if not (first.by_seed and second.by_seed):
        which = "second" if first.by_seed else "first"
        raise DataError(f"the {which} system has a single training seed: a test over seeds takes at least two of each")
    shared = [name for name in first.by_seed if name in second.by_seed]
    found = {name: compare_seeds(first.by_seed[name], second.by_seed[name], name, seed) for name in shared}
    ours, theirs = (len(next(iter(run.by_seed.values()), ())) for run in (first, second))
    least = (2 if ours == theirs else 1) / math.comb(ours + theirs, ours)
    note = f"tested over {ours} and {theirs} training seeds: p cannot be below {least:.2g}"
    return found, [note] if least > _NOTED_P else []


@dataclass(frozen=True)
class _Measure:
    name: str
    score: Score
    basis: SumStatistic | CountStatistic | None = None


@dataclass(frozen=True)
class _Drawn:
    """An even sample of texts, and how many there were."""

    texts: list[str]
    seen: int

    @property
    def mark(self) -> str:
        """Return what a signature says of the sample; nothing where it holds everything."""
        return f"|seen:{self.seen}" if self.seen > len(self.texts) else ""


@dataclass(frozen=True)
class _Task:
    """Some metrics that are computed together.

    Attributes:
        names: of the scores.
        run: computes them.
    """

    names: tuple[str, ...]
    run: Callable[[], Iterable[_Measure]]


@dataclass(frozen=True)
class _Job:
    """One system with all that it is scored with, and what is found on the way."""

    system: System
    means: Resources
    options: Options
    watch: Watch
    notes: list[str] = field(default_factory=list)
    confusions: dict[str, Confusion] = field(default_factory=dict)

    @property
    def real(self) -> Iterable[str] | None:
        """Real texts that belong to no text in particular."""
        references = self.system.references
        return self.means.real if self.means.real is not None or references is None else _Flat(references)

    @cached_property
    def drawn(self) -> _Drawn:
        """Return a sample of the texts."""
        drawn = _Drawn(*self.sample(self.system.texts, "texts"))
        require_items(drawn.texts, "texts")
        if drawn.mark:
            self.notes.append(_sampled_note(f"{self.system.name}: diversity, distribution and fluency", drawn))
        return drawn

    @cached_property
    def drawn_real(self) -> _Drawn:
        """Return a sample of the real texts."""
        drawn = _Drawn(*self.sample(self.real or (), "real texts"))
        require_items(drawn.texts, "real texts")
        if drawn.mark:
            self.notes.append(_sampled_note("real texts", drawn))
        return drawn

    @cached_property
    def drawn_references(self) -> list[list[str]]:
        """Return the references of the sampled texts: the same seed and number draw the same places."""
        listed = map(json.dumps, self.system.references or ())
        return list(map(json.loads, self.sample(listed, "references")[0]))

    @cached_property
    def drawn_asked(self) -> list[str]:
        """Return what was asked for in the sampled texts."""
        return self.sample(self.system.target or (), "emotions")[0]

    @cached_property
    def paired(self) -> _Paired:
        """Return what the encoder says of the sampled texts and their references."""
        if self.means.encoder is None:
            raise SettingsError("an encoder is needed to compare texts with references")
        return _embed_pairs(self, self.means.encoder)

    def sample(self, texts: Iterable[str], what: str) -> tuple[list[str], int]:
        """Sample as `reservoir` does, watched."""
        return reservoir(self.watch(texts, what, None), self.options.sample, self.options.seed)

    def watch_texts(self, what: str) -> Iterable[str]:
        """Return all texts."""
        return self.watch(self.system.texts, what, self.drawn.seen)

    def measure(self, name: str, basis: SumStatistic | CountStatistic, mark: str = "") -> _Measure:
        """Return the score of a basis whose signature gets a mark."""
        signed = replace(basis, signature=basis.signature + mark)
        return _Measure(name, signed.score(self.options.seed), signed)


@dataclass(frozen=True)
class _Flat:
    """All references one after another."""

    references: Iterable[Sequence[str]]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.references)


def _sampled_note(what: str, drawn: _Drawn) -> str:
    return f"{what}: an even sample of {len(drawn.texts):,} of {drawn.seen:,} texts; --sample changes that"


def _tasks(job: _Job) -> list[_Task]:
    """Return the tasks in the order in which the scores are shown."""
    return [
        *(_overlap_tasks(job) if job.system.references is not None else []),
        *_diversity_tasks(job),
        *_training_tasks(job),
        *_distribution_tasks(job),
        *_fluency_tasks(job),
        *_emotion_tasks(job),
    ]


def _done(task: _Task, notes: list[str]) -> list[_Measure]:
    """Return what a task finds; a note where these texts do not allow its metrics. Mistakes in the data remain errors."""
    try:
        return list(task.run())
    except UndefinedScoreError as reason:
        notes.append(f"{', '.join(task.names)} left out: {reason}")
        return []


def _overlap_tasks(job: _Job) -> list[_Task]:
    language, lowercase = job.options.language, job.options.lowercase
    references = job.system.references or ()

    def single(name: str, tally: Callable[..., SumStatistic], *more: bool) -> _Task:
        def run() -> Iterator[_Measure]:
            yield job.measure(name, tally(job.watch_texts(name), references, language, *more))

        return _Task((name,), run)

    def bleu() -> Iterator[_Measure]:
        job.notes.extend(filter(None, [overlap.tokenisation_note(references, language)]))
        shown, basis = overlap.bleu_tallies(job.watch_texts("bleu"), references, language, lowercase)
        if not overlap.has_four_tokens(shown):
            job.notes.append("bleu: no text has four tokens; it compares the shorter n-grams that there are (eff:yes)")
            shown = basis
        yield _Measure("bleu", shown.score(job.options.seed), basis)

    def rouge() -> Iterator[_Measure]:
        for name, tally in overlap.rouge_tallies(job.watch_texts("rouge"), references, language=language).items():
            tokens = 2 if name == "rouge2" else 1
            if tally.value or overlap.has_ngrams(job.system.texts, references, tokens, language):
                yield job.measure(name, tally)
            else:
                job.notes.append(f"{name} left out: no text and no reference has {'two tokens' if tokens == 2 else 'a token'}")

    return [
        _Task(("bleu",), bleu),
        single("chrf", overlap.chrf_tally, lowercase),
        single("ter", overlap.ter_tally),
        _Task(("rouge1", "rouge2", "rougeL"), rouge),
    ]


def _diversity_tasks(job: _Job) -> list[_Task]:
    pools: dict[str, Callable[[Sequence[str]], SumStatistic | CountStatistic]] = {
        "distinct1": partial(diversity.distinct_pool, n=1),
        "distinct2": partial(diversity.distinct_pool, n=2),
        "distinct2_corrected": _distinct_corrected,
        "self_bleu4": partial(diversity.self_bleu_tally, order=4),
        "entropy2": partial(diversity.ngram_entropy_pool, n=2),
        "unique": diversity.unique_pool,
        "commonest": diversity.commonest_pool,
    }

    def single(name: str, basis: Callable[[Sequence[str]], SumStatistic | CountStatistic]) -> _Task:
        def run() -> Iterator[_Measure]:
            found = basis(job.drawn.texts)
            if isinstance(found, CountStatistic) and not len(found.kinds):
                raise UndefinedScoreError("no text has enough words")
            yield job.measure(name, found, job.drawn.mark)

        return _Task((name,), run)

    def lengths() -> Iterator[_Measure]:
        chunks = in_batches(job.watch_texts("lengths"), _CHUNK)
        yield job.measure("mean_length", _join_parts(map(diversity.mean_length_tally, chunks), job.drawn.seen))

    return [*(single(name, basis) for name, basis in pools.items()), _Task(("mean_length",), lengths)]


def _distinct_corrected(texts: Sequence[str]) -> CountStatistic:
    try:
        return diversity.distinct_corrected_pool(texts, 2, _DISTINCT_SAMPLE)
    except UndefinedScoreError:
        found = f"{len(texts):,} texts have fewer than {_DISTINCT_SAMPLE:,} pairs of neighbouring words"
        raise UndefinedScoreError(f"{found}; score more texts") from None


def _training_tasks(job: _Job) -> list[_Task]:
    training = job.means.training
    if training is None:
        return []

    def run() -> Iterator[_Measure]:
        texts, mark = job.drawn.texts, job.drawn.mark
        seen = diversity.seen_in_training(texts, job.watch(training, "training texts", None))
        yield job.measure("novelty", diversity.novelty_tally(texts, seen), mark)
        yield job.measure("copied", diversity.copied_tally(texts, seen), mark)

    return [_Task(("novelty", "copied"), run)]


def _distribution_tasks(job: _Job) -> list[_Task]:
    tasks: list[_Task] = []
    if job.real is not None:
        tasks.append(_Task(("backward_bleu4",), lambda: _backward_bleu(job)))
    encoder = job.means.encoder
    if encoder and job.real is not None:
        tasks.extend(_embedding_tasks(job, encoder))
    if encoder and job.system.references is not None:
        tasks.append(_Task(("similarity", "bertscore"), lambda: _similarities(job, encoder)))
    return tasks


def _backward_bleu(job: _Job) -> Iterator[_Measure]:
    yield job.measure(
        "backward_bleu4",
        diversity.backward_bleu_tally(job.drawn.texts, job.drawn_real.texts, order=4),
        job.drawn.mark + job.drawn_real.mark.replace("seen", "seen_references"),
    )


def _embedding_tasks(job: _Job, encoder: Encoding) -> list[_Task]:
    embedded: dict[str, Vectors] = {}

    def both() -> tuple[Vectors, Vectors]:
        if not embedded:
            paired = job.paired if job.system.references is not None else None
            embedded["ours"] = paired.own if paired else _embed(job, job.drawn.texts, encoder)
            known = paired.references if paired and job.means.real is None else {}
            embedded["real"] = (
                np.stack([known[text] for text in job.drawn_real.texts])
                if known
                else _embed(job, job.drawn_real.texts, encoder)
            )
        return embedded["ours"], embedded["real"]

    def mark_sources(name: str, score: Score) -> list[_Measure]:
        mark = job.drawn.mark + job.drawn_real.mark.replace("seen", "seen_real")
        return [_Measure(name, replace(score, signature=score.signature + mark))]

    tasks = [
        _Task(("frechet",), lambda: mark_sources("frechet", frechet(*both(), job.options.seed, encoder.name))),
    ]
    if job.options.mauve:
        tasks.append(_Task(("mauve",), lambda: mark_sources("mauve", mauve(*both(), encoder=encoder.name))))
    return tasks


def _embed(job: _Job, texts: Sequence[str], encoder: Encoding) -> Vectors:
    batches = in_batches(job.watch(texts, "embeddings", len(texts)), _SCORED_AT_ONCE)
    return np.concatenate([np.asarray(encoder.sentences(batch), dtype=np.float64) for batch in batches])


def _similarities(job: _Job, encoder: Encoding) -> Iterator[_Measure]:
    similarity = sentence_similarity_tally(job.paired.own, job.paired.nearest, encoder.name)
    yield job.measure("similarity", similarity, f"|best:cosine{job.drawn.mark}")
    yield job.measure("bertscore", mean_match_tally(job.paired.matches, encoder.name), job.drawn.mark)


_PAIR = ("texts", "lists of references")


@dataclass(frozen=True)
class _Paired:
    """What an encoder says of texts and their references.

    Attributes:
        own: [texts, width], sentence vectors of the texts.
        nearest: [texts, width], those of the reference nearest to each.
        matches: of each text's tokens with those of its best reference.
        references: sentence vectors of the references that stand for real texts.
    """

    own: Vectors
    nearest: Vectors
    matches: list[Match]
    references: Mapping[str, Vectors]


def _embed_pairs(job: _Job, encoder: Encoding) -> _Paired:
    """Read every text and every reference once."""
    texts, listed = job.drawn.texts, job.drawn_references
    wanted = frozenset(job.drawn_real.texts) if job.means.real is None else frozenset()
    own, nearest = [], []
    matches: list[Match] = []
    kept: dict[str, Vectors] = {}
    pairs = job.watch(list(align(texts, listed, _PAIR)), "embeddings", len(texts))
    for batch in in_batches(pairs, 64):
        named = [text for pair in batch for text in (pair[0], *pair[1])]
        sentences, tokens = encoder.read(named)
        if not len(sentences) == len(tokens) == len(named):
            found = f"{len(sentences)} sentence vectors and the tokens of {len(tokens)} texts"
            raise DataError(f"the encoder {encoder.name} gave {found} for {len(named)} texts; it must give one each")
        kept.update((text, vector) for text, vector in zip(named, sentences, strict=True) if text in wanted)
        read = zip(sentences, map(checked_tokens, tokens, map(repr, named)), strict=True)
        for _, references in batch:
            (vector, words), others = next(read), [next(read) for _ in references]
            own.append(vector)
            nearest.append(max((other for other, _ in others), key=partial(_cosine, vector)))
            matches.append(best_match(words, (other for _, other in others)))
    left = list(wanted - kept.keys())
    kept.update(zip(left, _embed(job, left, encoder), strict=True) if left else ())
    return _Paired(np.array(own), np.array(nearest), matches, kept)


def _cosine(one: Vectors, other: Vectors) -> float:
    return float(one @ other) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), sys.float_info.min)


def _fluency_tasks(job: _Job) -> list[_Task]:
    tasks: list[_Task] = []
    model, reverse = job.means.language_model, job.means.reverse
    if model:
        names = ("perplexity", "nats_per_character", "nats_per_sentence")
        tasks.append(_Task(names, lambda: _perplexities(job, model)))
    if reverse and job.real is not None:
        tasks.append(_Task(("reverse_perplexity",), lambda: _measure_reverse(job, reverse)))
    return tasks


def _perplexities(job: _Job, model: Fluency) -> Iterator[_Measure]:
    texts, mark = job.drawn.texts, job.drawn.mark
    nats = _nats(job, texts, model)
    yield job.measure("perplexity", fluency.perplexity_tally(texts, nats, model.name), mark)
    yield job.measure("nats_per_character", fluency.nats_per_character_tally(texts, nats, model.name), mark)
    yield job.measure("nats_per_sentence", fluency.nats_per_sentence_tally(texts, nats, model.name), mark)


def _nats(job: _Job, texts: Sequence[str], model: Fluency) -> Vectors:
    batches = in_batches(job.watch(texts, "log-likelihoods", len(texts)), _SCORED_AT_ONCE)
    return np.concatenate([np.asarray(model.nats(batch), dtype=np.float64) for batch in batches])


def _measure_reverse(job: _Job, train: Callable[[Sequence[str]], Fluency]) -> Iterator[_Measure]:
    real = job.drawn_real.texts
    model = train(job.drawn.texts)
    tally = fluency.reverse_perplexity_tally(real, _nats(job, real, model), model.name)
    mark = f"|trained_on:{len(job.drawn.texts)}{job.drawn.mark}{job.drawn_real.mark.replace('seen', 'seen_real')}"
    yield job.measure("reverse_perplexity", tally, mark)


def _emotion_tasks(job: _Job) -> list[_Task]:
    tasks: list[_Task] = []
    if job.system.target is not None and job.means.judges:
        tasks.append(_Task(tuple(_judged_names(job.means.judges)), lambda: _measure_judges(job)))
    if job.system.target is not None and job.options.lexicon:
        tasks.append(_Task(("polarity_agreement",), lambda: _polarity(job)))
    return tasks


def _suffix(judge: Judging, judges: Sequence[Judging]) -> str:
    return f":{judge.name}" if len(judges) > 1 else ""


def _judged_names(judges: Sequence[Judging]) -> Iterator[str]:
    for judge in judges:
        suffix = _suffix(judge, judges)
        yield from (f"emotion_accuracy{suffix}", f"emotion_f1{suffix}")
        if judge.own:
            yield f"emotion_accuracy_corrected{suffix}"
    for pair in combinations(judges, 2):
        yield from (f"{name}{_of_pair(pair, judges)}" for name in ("agreement", "kappa"))


def _of_pair(pair: tuple[Judging, Judging], judges: Sequence[Judging]) -> str:
    return f":{pair[0].name}+{pair[1].name}" if len(judges) > 2 else ""


def _label_of(judge: Judging, target: str) -> str | None:
    """Return the judge's label that is meant by what was asked for; None where it has none."""
    return target if target in judge.labels else LabelSet(judge.labels).find(target)


def _unknown_to(judge: Judging, unknown: Mapping[str, list[int]], where: Callable[[int], str]) -> str:
    (label, numbers), *others = unknown.items()
    texts = f" ({len(numbers):,} texts)" if len(numbers) > 1 else ""
    more = "".join(f", nor is {name!r} ({len(places):,})" for name, places in others[:_SHOWN_LABELS])
    return (
        f"{where(numbers[0])}: emotion {label!r}{texts} is no label of judge {judge.name}: {', '.join(judge.labels)}"
        f"{LabelSet(judge.labels).suggestion(label)}{more}; rename it (--map {label}=LABEL) or take another judge"
    )


def _measure_judges(job: _Job) -> Iterator[_Measure]:
    judges = job.means.judges
    target, verdicts = _verdicts(job)
    for judge, judged in zip(judges, verdicts, strict=True):
        yield from _of_judge(job, judge, target, judged)
    for (one, first), (other, second) in combinations(zip(judges, verdicts, strict=True), 2):
        suffix, mark = _of_pair((one, other), judges), f"|judges:{one.identity},{other.identity}"
        yield job.measure(f"agreement{suffix}", agreement_tally(first, second), mark)
        yield job.measure(f"kappa{suffix}", kappa_tally(first, second), mark)


def _verdicts(job: _Job) -> tuple[list[str], list[list[str]]]:
    """Return the label asked for in each text, and for each judge its labels: 8 bytes each, since equal labels are one string."""
    target: list[str] = []
    verdicts: list[list[str]] = [[] for _ in job.means.judges]
    pairs = align(job.watch_texts("judging"), job.system.target or (), ("texts", "emotions asked for"))
    for batch in in_batches(pairs, _JUDGED_AT_ONCE):
        for judge, judged in zip(job.means.judges, verdicts, strict=True):
            judged.extend(_labels(job, judge, [text for text, _ in batch], len(target)))
        target.extend(sys.intern(label) for _, label in batch)
    return target, verdicts


def _labels(job: _Job, judge: Judging, texts: Sequence[str], start: int) -> list[str]:
    """Return the judge's label of each text; what is wrong with its answer is told with the place of the batch."""
    try:
        probabilities = judge.probabilities(texts)
        if len(probabilities) != len(texts):
            raise DataError(f"{len(probabilities)} rows of probabilities for {len(texts)} texts")
        return judged_labels(probabilities, judge.labels)
    except DataError as error:
        raise DataError(f"judge {judge.name}, texts from {job.system.where(start)} on: {error}") from None


def _of_judge(job: _Job, judge: Judging, target: Sequence[str], judged: Sequence[str]) -> Iterator[_Measure]:
    suffix, mark = _suffix(judge, job.means.judges), f"|judge:{judge.identity}|leak:{judge.leak}"
    # Known since `_require_known_labels`.
    own = {name: _label_of(judge, name) or name for name in dict.fromkeys(target)}
    changed = ", ".join(f"{name!r} as {label!r}" for name, label in own.items() if name != label)
    if changed:
        job.notes.append(f"{job.system.name}: for judge {judge.name}, what was asked for is read {changed}")
    target = [own[name] for name in target]
    job.confusions[judge.name] = confusion(target, judged, judge.labels)
    yield job.measure(f"emotion_accuracy{suffix}", emotion_accuracy_tally(target, judged), mark)
    chunks = (slice(start, start + _CHUNK) for start in range(0, len(target), _CHUNK))
    tallies = (emotion_f1_tally(target[chunk], judged[chunk], judge.labels) for chunk in chunks)
    yield job.measure(f"emotion_f1{suffix}", _join_parts(tallies, len(target)), mark)
    if judge.own:
        yield from _measure_corrected(job, judge.own, f"emotion_accuracy_corrected{suffix}", target, judged, mark)


def _measure_corrected(
    job: _Job, own: Confusion, name: str, target: Sequence[str], judged: Sequence[str], mark: str
) -> Iterator[_Measure]:
    try:
        score = corrected_accuracy(target, judged, own, job.options.seed)
    except UndefinedScoreError as reason:
        job.notes.append(f"{name} left out: {reason}")
    else:
        yield _Measure(name, replace(score, signature=score.signature + mark))


def _polarity(job: _Job) -> Iterator[_Measure]:
    yield job.measure("polarity_agreement", polarity_agreement_tally(job.drawn_asked, job.drawn.texts), job.drawn.mark)


def _join_parts(tallies: Iterable[SumStatistic], texts: int) -> SumStatistic:
    """Return one tally from those of parts, in bounded memory; each part is small enough that its blocks are single texts."""
    parts = iter(tallies)
    first = next(parts)
    sums = added_up(chain(first.sums, chain.from_iterable(part.sums for part in parts)))
    return replace(first, sums=sums, signature=re.sub(r"\|texts:\d+", f"|texts:{texts}", first.signature))


def _compare(first: SumStatistic | CountStatistic, second: SumStatistic | CountStatistic, seed: int) -> Comparison:
    if isinstance(first, SumStatistic) and isinstance(second, SumStatistic):
        return approximate_randomisation(first, second, seed)
    if isinstance(first, CountStatistic) and isinstance(second, CountStatistic):
        return approximate_randomisation(first, second, seed)
    raise UndefinedScoreError("one is made of sums and the other of counts")
