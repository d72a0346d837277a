"""Every score that can be had from what is given: texts alone, or with references, training texts, judges and models.

`evaluate_texts` scores texts in memory. `evaluate` scores a `System`, whose texts may be any number, as long as they can be
gone through again; it says what it left out and keeps what `compare` needs. Overlap, judged emotion and mean length go over all
texts; whatever must hold texts in memory takes an even sample of `Options.sample` of them, which the signature tells
(`texts:` used, `seen:` there were).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from emogen.errors import DataError, SettingsError, UndefinedScoreError
from emogen.evaluate import diversity
from emogen.evaluate.emotion import (
    Confusion,
)
from emogen.evaluate.inputs import Options, Resources, System, Watch, watch_nothing
from emogen.evaluate.job import Job, Measure
from emogen.evaluate.resampling import CountStatistic, SumStatistic
from emogen.evaluate.score import Score, Signature
from emogen.evaluate.significance import Comparison, approximate_randomisation, compare_seeds, over_seeds
from emogen.evaluate.tasks import describe_unknown, label_for, list_tasks, run_task

# Above this a test cannot find any difference, and says so.
_NOTED_P = 0.05


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
    job = Job(system, means or Resources(), options or Options(), watch)
    if job.system.target is None and (job.means.judges or job.options.lexicon):
        raise SettingsError(f"{job.system.name}: a judge or lexicon needs to know which emotion each text was to express")
    for judge in job.means.judges:
        unknown: dict[str, list[int]] = {}
        for number, label in enumerate(job.system.target or ()):
            if label_for(judge, label) is None:
                unknown.setdefault(label, []).append(number)
        if unknown:
            raise DataError(describe_unknown(judge, unknown, job.system.where))
    found: list[Measure] = []
    tasks = list_tasks(job)
    for task in watch(tasks, system.name, len(tasks)):
        found.extend(run_task(task, job.notes))
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
    job = Job(system, means or Resources(), options or Options(), watch_nothing)
    return [name for task in list_tasks(job) for name in task.names]


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
    first, *others = map(Signature, signatures)
    varying = {
        name: "var"
        for name, value in first.fields.items()
        if value.isdigit() and any(other.fields.get(name) != value for other in others)
    }
    signed = first.with_fields({**varying, "training_seeds": spread.seeds, "interval": "t"})
    return Score(spread.mean, spread.low, spread.high, signed)


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


def _compare(first: SumStatistic | CountStatistic, second: SumStatistic | CountStatistic, seed: int) -> Comparison:
    if isinstance(first, SumStatistic) and isinstance(second, SumStatistic):
        return approximate_randomisation(first, second, seed)
    if isinstance(first, CountStatistic) and isinstance(second, CountStatistic):
        return approximate_randomisation(first, second, seed)
    raise UndefinedScoreError("one is made of sums and the other of counts")
