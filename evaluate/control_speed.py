"""The part `speed` of `control.py`: what each controller costs, and what it costs that every row has a target of its own.

All write a batch with one model, in turn, run after run, and each row has the same number of tokens, since the end token is
out of reach; the first run is not counted. Ratios are taken within a run, and their median over the runs counts. One target is
a label alone, in a batch for each label, since what `bayes` costs depends on it. The many are mixtures of two, which cost it
more, since their labels stand beside the row to the end: so they are held against batches that have one of them each; of every
fifth, so that each label leads one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from control_choice import PLAIN
from control_writing import Bench, Setting, decoding_code, guide_for, identity, kept, sampling_of

import emogen
from emogen.checkpoint.model import EmotionModel
from emogen.decoding.control import parse_control
from emogen.emotions.labels import Emotion, LabelSet, mixture
from emogen.text.tokenizer import EOS

TARGETS = 32
ONE, MANY, ALONE = "one target", f"{TARGETS} targets", "each of them alone"
# Far below every other score, and finite, so that differences of scores stay numbers.
OUT_OF_REACH = -1e4


@dataclass(frozen=True)
class Race:
    """How speed is measured: rows of a batch, tokens of each, counted runs."""

    rows: int = 256
    tokens: int = 24
    runs: int = 5


Runs = dict[str, list[float]]
"""Tokens a second of each contender in each run."""


def kind(control: str) -> str:
    """Return what decides how long a control takes: which controllers are on, and how many candidates there are.

    >>> kind("guidance:1.5,rerank:4"), kind("head:3"), kind("none")
    ('guidance+rerank:4', 'head', 'plain')
    """
    found = parse_control(control)
    names = [name if name != "rerank" else f"rerank:{found.rerank}" for name in found.names]
    return "+".join(names) or "plain"


def targets(labels: LabelSet, number: int) -> list[Emotion]:
    """So many different mixtures of two labels.

    >>> len({target.weights for target in targets(LabelSet(("good", "bad")), 32)})
    32
    """
    names, found = labels.names, []
    for place in range(number):
        first, share = place % len(names), 1 - 0.5 * place / number
        second = (first + 1) % len(names)
        found.append(mixture({names[first]: share, names[second]: 1 - share}, labels))
    return found


def raced(bench: Bench, controls: Sequence[str], race: Race) -> Runs:
    """Return tokens a second of one control of each kind, with one target and with many; kept."""
    kinds = {kind(control): control for control in ("none", *controls)}
    key = [decoding_code(), identity(bench.first), repr(race), sorted(kinds), torch.get_num_threads(), repr(bench.sampling)]
    runs: Runs = kept(bench.work / "speed", key, lambda: run_all(bench, endless(bench.first), kinds, race))
    return runs


def endless(folder: Path) -> EmotionModel:
    """Return a checkpoint that does not end its texts."""
    model = emogen.load(folder, "auto")
    with torch.no_grad():
        model.generator.bias[EOS] = OUT_OF_REACH
    return model


def run_all(bench: Bench, model: EmotionModel, kinds: Mapping[str, str], race: Race) -> Runs:
    """Return every contender in turn, run after run."""
    many = targets(bench.labels, TARGETS)
    alone = [[target] * race.rows for target in many[::5]]
    labels = [[mixture({name: 1.0}, bench.labels)] * race.rows for name in bench.labels.names]
    target = {ONE: labels, ALONE: alone, MANY: [cycled(many, race.rows)]}
    contenders = {
        f"{name}, {case}": contender(bench, model, control, batches, race)
        for name, control in kinds.items()
        for case, batches in target.items()
    }
    runs: Runs = {name: [] for name in contenders}
    for number in range(race.runs + 1):
        for name, timed in contenders.items():
            runs[name].append(timed(number))
        click.echo(f"speed: run {number} of {race.runs}", err=True)
    return {name: rates[1:] for name, rates in runs.items()}


def cycled(emotions: Sequence[Emotion], rows: int) -> list[Emotion]:
    """In turn, as many as there are rows."""
    return [emotions[row % len(emotions)] for row in range(rows)]


def contender(
    bench: Bench, model: EmotionModel, control: str, batches: Sequence[Sequence[Emotion]], race: Race
) -> Callable[[int], float]:
    """Write the batches from a seed, and give their tokens a second: those of the texts that are kept."""
    setting = Setting("", control, 0.0, PLAIN.temperature)
    sampling = replace(sampling_of(setting, bench, model), max_tokens=race.tokens)
    guide = guide_for(sampling, bench)

    def timed(seed: int) -> float:
        began, tokens = time.perf_counter(), 0
        for emotions in batches:
            found = model.replies([()] * len(emotions), emotions, sampling=sampling, seed=seed, guide=guide)
            tokens += sum(sample.tokens for sample in found)
        return tokens / (time.perf_counter() - began)

    return timed


def rates(runs: Runs, controls: Sequence[str]) -> dict[str, float]:
    """Median tokens a second by control, many targets in the batch as in the rows of `texts`."""
    return {control: statistics.median(runs[f"{kind(control)}, {MANY}"]) for control in controls}


def ratio(runs: Runs, one: str, other: str) -> float:
    """Median over the runs of how many times as fast the first is.

    >>> ratio({"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0]}, "a", "b")
    1.0
    """
    return statistics.median(mine / theirs for mine, theirs in zip(runs[one], runs[other], strict=True))


def speed_rows(bench: Bench, runs: Runs, race: Race) -> list[dict[str, object]]:
    """For one target the ratio to plain, for many the ratio to each of them alone."""
    rows: list[dict[str, object]] = []
    for name in dict.fromkeys(contender.rpartition(", ")[0] for contender in runs):
        for case, other in ((ONE, f"plain, {ONE}"), (ALONE, f"plain, {ONE}"), (MANY, f"{name}, {ALONE}")):
            found = f"{name}, {case}"
            rows.append(
                {
                    "corpus": bench.ready.name,
                    "system": name,
                    "case": case,
                    "seed": 0,
                    "batch": race.rows,
                    "tokens": race.tokens,
                    "runs": race.runs,
                    "threads": torch.get_num_threads(),
                    "tokens_per_second": statistics.median(runs[found]),
                    "ratio": ratio(runs, found, other),
                }
            )
    return rows
