"""The scores that an evaluation can compute, each with what it needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, combinations

import numpy as np

from emogen.emotions.labels import LabelSet
from emogen.errors import DataError, UndefinedScoreError
from emogen.evaluate import diversity, fluency, overlap, set_bleu, training_overlap
from emogen.evaluate.correction import corrected_accuracy
from emogen.evaluate.distribution import frechet, mauve
from emogen.evaluate.emotion import (
    Confusion,
    agreement_tally,
    confusion,
    emotion_accuracy,
    emotion_f1,
    judged_labels,
    kappa_tally,
)
from emogen.evaluate.inputs import Encoding, Fluency, Judging, Vectors
from emogen.evaluate.job import Job, Measure, Task, compute_nats, embed
from emogen.evaluate.lexicon import polarity_agreement
from emogen.evaluate.resampling import CountStatistic, SumStatistic, added_up
from emogen.evaluate.score import Score, align, in_batches
from emogen.evaluate.similarity import (
    mean_match_tally,
    sentence_similarity,
)

_JUDGED_AT_ONCE = 512


_SHOWN_LABELS = 9


_CHUNK = 8192


_DISTINCT_SAMPLE = 1000


def list_tasks(job: Job) -> list[Task]:
    """Return the tasks in the order in which the scores are shown."""
    return [
        *(_overlap_tasks(job) if job.system.references is not None else []),
        *_diversity_tasks(job),
        *_training_tasks(job),
        *_distribution_tasks(job),
        *_fluency_tasks(job),
        *_emotion_tasks(job),
    ]


def run_task(task: Task, notes: list[str]) -> list[Measure]:
    """Return what a task finds; a note where these texts do not allow its metrics. Mistakes in the data remain errors."""
    try:
        return list(task.run())
    except UndefinedScoreError as reason:
        notes.append(f"{', '.join(task.names)} left out: {reason}")
        return []


def _overlap_tasks(job: Job) -> list[Task]:
    language, lowercase = job.options.language, job.options.lowercase
    references = job.system.references or ()

    def single(name: str, tally: Callable[..., SumStatistic], *more: bool) -> Task:
        def run() -> Iterator[Measure]:
            yield job.measure(name, tally(job.watch_texts(name), references, language, *more))

        return Task((name,), run)

    def bleu() -> Iterator[Measure]:
        job.notes.extend(filter(None, [overlap.tokenisation_note(references, language)]))
        shown, basis = overlap.bleu_tallies(job.watch_texts("bleu"), references, language, lowercase)
        if not overlap.has_four_tokens(shown):
            job.notes.append("bleu: no text has four tokens; it compares the shorter n-grams that there are (eff:yes)")
            shown = basis
        yield Measure("bleu", shown.score(job.options.seed), basis)

    def rouge() -> Iterator[Measure]:
        for name, tally in overlap.rouge_tallies(job.watch_texts("rouge"), references, language=language).items():
            tokens = 2 if name == "rouge2" else 1
            if tally.value or overlap.has_ngrams(job.system.texts, references, tokens, language):
                yield job.measure(name, tally)
            else:
                job.notes.append(f"{name} left out: no text and no reference has {'two tokens' if tokens == 2 else 'a token'}")

    return [
        Task(("bleu",), bleu),
        single("chrf", overlap.chrf.statistic, lowercase),
        single("ter", overlap.ter.statistic),
        Task(("rouge1", "rouge2", "rougeL"), rouge),
    ]


def _diversity_tasks(job: Job) -> list[Task]:
    pools: dict[str, Callable[[Sequence[str]], SumStatistic | CountStatistic]] = {
        "distinct1": partial(diversity.distinct.statistic, n=1),
        "distinct2": partial(diversity.distinct.statistic, n=2),
        "distinct2_corrected": _distinct_corrected,
        "self_bleu4": partial(set_bleu.self_bleu.statistic, order=4),
        "entropy2": partial(diversity.ngram_entropy.statistic, n=2),
        "unique": diversity.unique.statistic,
        "commonest": diversity.commonest.statistic,
    }

    def single(name: str, basis: Callable[[Sequence[str]], SumStatistic | CountStatistic]) -> Task:
        def run() -> Iterator[Measure]:
            found = basis(job.drawn.texts)
            if isinstance(found, CountStatistic) and not len(found.kinds):
                raise UndefinedScoreError("no text has enough words")
            yield job.measure(name, found, job.drawn.mark)

        return Task((name,), run)

    def lengths() -> Iterator[Measure]:
        chunks = in_batches(job.watch_texts("lengths"), _CHUNK)
        yield job.measure("mean_length", _join_parts(map(diversity.mean_length.statistic, chunks), job.drawn.seen))

    return [*(single(name, basis) for name, basis in pools.items()), Task(("mean_length",), lengths)]


def _distinct_corrected(texts: Sequence[str]) -> CountStatistic:
    try:
        return diversity.distinct_corrected.statistic(texts, 2, _DISTINCT_SAMPLE)
    except UndefinedScoreError:
        found = f"{len(texts):,} texts have fewer than {_DISTINCT_SAMPLE:,} pairs of neighbouring words"
        raise UndefinedScoreError(f"{found}; score more texts") from None


def _training_tasks(job: Job) -> list[Task]:
    training = job.means.training
    if training is None:
        return []

    def run() -> Iterator[Measure]:
        texts, mark = job.drawn.texts, job.drawn.mark
        seen = training_overlap.seen_in_training(texts, job.watch(training, "training texts", None))
        yield job.measure("novelty", training_overlap.novelty_tally(texts, seen), mark)
        yield job.measure("copied", training_overlap.copied_tally(texts, seen), mark)

    return [Task(("novelty", "copied"), run)]


def _distribution_tasks(job: Job) -> list[Task]:
    tasks: list[Task] = []
    if job.real is not None:
        tasks.append(Task(("backward_bleu4",), lambda: _backward_bleu(job)))
    encoder = job.means.encoder
    if encoder and job.real is not None:
        tasks.extend(_embedding_tasks(job, encoder))
    if encoder and job.system.references is not None:
        tasks.append(Task(("similarity", "bertscore"), lambda: _similarities(job, encoder)))
    return tasks


def _backward_bleu(job: Job) -> Iterator[Measure]:
    yield job.measure(
        "backward_bleu4",
        set_bleu.backward_bleu.statistic(job.drawn.texts, job.drawn_real.texts, order=4),
        job.drawn.mark + job.drawn_real.mark.replace("seen", "seen_references"),
    )


def _embedding_tasks(job: Job, encoder: Encoding) -> list[Task]:
    embedded: dict[str, Vectors] = {}

    def both() -> tuple[Vectors, Vectors]:
        if not embedded:
            paired = job.paired if job.system.references is not None else None
            embedded["ours"] = paired.own if paired else embed(job, job.drawn.texts, encoder)
            known = paired.references if paired and job.means.real is None else {}
            embedded["real"] = (
                np.stack([known[text] for text in job.drawn_real.texts]) if known else embed(job, job.drawn_real.texts, encoder)
            )
        return embedded["ours"], embedded["real"]

    def mark_sources(name: str, score: Score) -> list[Measure]:
        mark = job.drawn.mark + job.drawn_real.mark.replace("seen", "seen_real")
        return [Measure(name, replace(score, signature=score.signature + mark))]

    tasks = [
        Task(("frechet",), lambda: mark_sources("frechet", frechet(*both(), job.options.seed, encoder.name))),
    ]
    if job.options.mauve:
        tasks.append(Task(("mauve",), lambda: mark_sources("mauve", mauve(*both(), encoder=encoder.name))))
    return tasks


def _similarities(job: Job, encoder: Encoding) -> Iterator[Measure]:
    similarity = sentence_similarity.statistic(job.paired.own, job.paired.nearest, encoder.name)
    yield job.measure("similarity", similarity, f"|best:cosine{job.drawn.mark}")
    yield job.measure("bertscore", mean_match_tally(job.paired.matches, encoder.name), job.drawn.mark)


def _fluency_tasks(job: Job) -> list[Task]:
    tasks: list[Task] = []
    model, reverse = job.means.language_model, job.means.reverse
    if model:
        names = ("perplexity", "nats_per_character", "nats_per_sentence")
        tasks.append(Task(names, lambda: _perplexities(job, model)))
    if reverse and job.real is not None:
        tasks.append(Task(("reverse_perplexity",), lambda: _measure_reverse(job, reverse)))
    return tasks


def _perplexities(job: Job, model: Fluency) -> Iterator[Measure]:
    texts, mark = job.drawn.texts, job.drawn.mark
    nats = compute_nats(job, texts, model)
    yield job.measure("perplexity", fluency.perplexity.statistic(texts, nats, model.name), mark)
    yield job.measure("nats_per_character", fluency.nats_per_character.statistic(texts, nats, model.name), mark)
    yield job.measure("nats_per_sentence", fluency.nats_per_sentence.statistic(texts, nats, model.name), mark)


def _measure_reverse(job: Job, train: Callable[[Sequence[str]], Fluency]) -> Iterator[Measure]:
    real = job.drawn_real.texts
    model = train(job.drawn.texts)
    tally = fluency.reverse_perplexity.statistic(real, compute_nats(job, real, model), model.name)
    mark = f"|trained_on:{len(job.drawn.texts)}{job.drawn.mark}{job.drawn_real.mark.replace('seen', 'seen_real')}"
    yield job.measure("reverse_perplexity", tally, mark)


def _emotion_tasks(job: Job) -> list[Task]:
    tasks: list[Task] = []
    if job.system.target is not None and job.means.judges:
        tasks.append(Task(tuple(_judged_names(job.means.judges)), lambda: _measure_judges(job)))
    if job.system.target is not None and job.options.lexicon:
        tasks.append(Task(("polarity_agreement",), lambda: _polarity(job)))
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


def label_for(judge: Judging, target: str) -> str | None:
    """Return the judge's label that is meant by what was asked for; None where it has none."""
    return target if target in judge.labels else LabelSet(judge.labels).find(target)


def describe_unknown(judge: Judging, unknown: Mapping[str, list[int]], where: Callable[[int], str]) -> str:
    """Say which emotions asked for a judge does not know, and where the first of them stands."""
    (label, numbers), *others = unknown.items()
    texts = f" ({len(numbers):,} texts)" if len(numbers) > 1 else ""
    more = "".join(f", nor is {name!r} ({len(places):,})" for name, places in others[:_SHOWN_LABELS])
    return (
        f"{where(numbers[0])}: emotion {label!r}{texts} is no label of judge {judge.name}: {', '.join(judge.labels)}"
        f"{LabelSet(judge.labels).suggestion(label)}{more}; rename it (--map {label}=LABEL) or take another judge"
    )


def _measure_judges(job: Job) -> Iterator[Measure]:
    judges = job.means.judges
    target, verdicts = _verdicts(job)
    for judge, judged in zip(judges, verdicts, strict=True):
        yield from _of_judge(job, judge, target, judged)
    for (one, first), (other, second) in combinations(zip(judges, verdicts, strict=True), 2):
        suffix, mark = _of_pair((one, other), judges), f"|judges:{one.identity},{other.identity}"
        yield job.measure(f"agreement{suffix}", agreement_tally(first, second), mark)
        yield job.measure(f"kappa{suffix}", kappa_tally(first, second), mark)


def _verdicts(job: Job) -> tuple[list[str], list[list[str]]]:
    """Return the label asked for in each text, and for each judge its labels.

    8 bytes each, since equal labels are one string.
    """
    target: list[str] = []
    verdicts: list[list[str]] = [[] for _ in job.means.judges]
    pairs = align(job.watch_texts("judging"), job.system.target or (), ("texts", "emotions asked for"))
    for batch in in_batches(pairs, _JUDGED_AT_ONCE):
        for judge, judged in zip(job.means.judges, verdicts, strict=True):
            judged.extend(_labels(job, judge, [text for text, _ in batch], len(target)))
        target.extend(sys.intern(label) for _, label in batch)
    return target, verdicts


def _labels(job: Job, judge: Judging, texts: Sequence[str], start: int) -> list[str]:
    """Return the judge's label of each text; what is wrong with its answer is told with the place of the batch."""
    try:
        probabilities = judge.probabilities(texts)
        if len(probabilities) != len(texts):
            raise DataError(f"{len(probabilities)} rows of probabilities for {len(texts)} texts")
        return judged_labels(probabilities, judge.labels)
    except DataError as error:
        raise DataError(f"judge {judge.name}, texts from {job.system.where(start)} on: {error}") from None


def _of_judge(job: Job, judge: Judging, target: Sequence[str], judged: Sequence[str]) -> Iterator[Measure]:
    suffix, mark = _suffix(judge, job.means.judges), f"|judge:{judge.identity}|leak:{judge.leak}"
    # Known since `_require_known_labels`.
    own = {name: label_for(judge, name) or name for name in dict.fromkeys(target)}
    changed = ", ".join(f"{name!r} as {label!r}" for name, label in own.items() if name != label)
    if changed:
        job.notes.append(f"{job.system.name}: for judge {judge.name}, what was asked for is read {changed}")
    target = [own[name] for name in target]
    job.confusions[judge.name] = confusion(target, judged, judge.labels)
    yield job.measure(f"emotion_accuracy{suffix}", emotion_accuracy.statistic(target, judged), mark)
    chunks = (slice(start, start + _CHUNK) for start in range(0, len(target), _CHUNK))
    tallies = (emotion_f1.statistic(target[chunk], judged[chunk], judge.labels) for chunk in chunks)
    yield job.measure(f"emotion_f1{suffix}", _join_parts(tallies, len(target)), mark)
    if judge.own:
        yield from _measure_corrected(job, judge.own, f"emotion_accuracy_corrected{suffix}", target, judged, mark)


def _measure_corrected(
    job: Job, own: Confusion, name: str, target: Sequence[str], judged: Sequence[str], mark: str
) -> Iterator[Measure]:
    try:
        score = corrected_accuracy(target, judged, own, job.options.seed)
    except UndefinedScoreError as reason:
        job.notes.append(f"{name} left out: {reason}")
    else:
        yield Measure(name, replace(score, signature=score.signature + mark))


def _polarity(job: Job) -> Iterator[Measure]:
    yield job.measure("polarity_agreement", polarity_agreement.statistic(job.drawn_asked, job.drawn.texts), job.drawn.mark)


def _join_parts(tallies: Iterable[SumStatistic], texts: int) -> SumStatistic:
    """Return one tally from those of parts, in bounded memory; each part is small enough that its blocks are single texts."""
    parts = iter(tallies)
    first = next(parts)
    sums = added_up(chain(first.sums, chain.from_iterable(part.sums for part in parts)))
    return replace(first, sums=sums, signature=re.sub(r"\|texts:\d+", f"|texts:{texts}", first.signature))
