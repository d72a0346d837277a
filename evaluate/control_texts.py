"""The part `texts` of `control.py`: every system's texts measured, and each controller's frontier against plain's.

A frontier is a system over temperatures, the same for all, a controller with the weight of its operating point: points of
judged accuracy, corrected distinct-2 and minus the logarithm of the perplexity. Its hypervolume is what is dominated by some
point and better than a reference: chance, half of all pairs different, ten times the perplexity of people's texts. Two systems
are compared on the same halves of the texts asked for, drawn without repetition: repeated texts, as a bootstrap draws them,
would count as lost diversity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import backbone_plan
import backbone_prompt
import backbone_texts
import click
import emotion_text
import numpy as np
from control_choice import DEV_SEED, Choice, diversity, guided
from control_writing import (
    Ask,
    Bench,
    Setting,
    accuracy_tally,
    asks_of,
    figures,
    identity,
    judged_by,
    kept,
    nats,
    row_of,
    warmer,
    with_perplexity,
    written,
)
from numpy.typing import NDArray

from emogen.emotions.labels import LabelSet
from emogen.evaluate import copied
from emogen.evaluate.diversity import distinct_corrected
from emogen.evaluate.frontier import Point, axis, dominated_volume, draw
from emogen.evaluate.resampling import Values, half_sample_interval
from emogen.evaluate.score import Score, signature
from emogen.pretrained.bases import find_base
from emogen.text.words import words

LEAST_DISTINCT = 0.5
MOST_PERPLEXITY = 10.0
HALVES = 200
PROMPT_TEMPERATURES = (0.7, 0.85, 1.0)
PROMPT_TOP_P = 0.95
PROMPT_BATCH = 32

Rates = Mapping[str, float]
"""Tokens a second by control."""
Rows = list[dict[str, object]]
Mask = NDArray[np.bool_]


# ---- rows


def real_row(bench: Bench) -> dict[str, object]:
    """Return people's test texts."""
    texts, asks = people(bench)
    return {"corpus": bench.ready.name, "system": "real", "strength": 0.0, "seed": 0} | figures(bench, texts, asks)


def people(bench: Bench) -> tuple[list[str], list[Ask]]:
    """Test texts with what they would have been asked for with."""
    return [row.reply for row in bench.ready.test], [Ask(row.emotion.name) for row in bench.ready.test]


def curves_of(temperatures: Sequence[float], choice: Choice) -> dict[str, list[Setting]]:
    """Return every system at its operating point's weight over the temperatures."""
    points = {"plain": choice.plain.setting, **choice.operating}
    return {name: [warmer(point, each) for each in sorted(set(temperatures))] for name, point in points.items()}


def settings_of(curves: Mapping[str, Sequence[Setting]], choice: Choice) -> list[Setting]:
    """Return all that is measured, each once: the curves, and every weight at its own temperature."""
    weights = [setting for own in choice.settings.values() for setting in own]
    return list(dict.fromkeys([*(setting for own in curves.values() for setting in own), choice.plain.setting, *weights]))


def rows_of(bench: Bench, settings: Sequence[Setting], choice: Choice, rates: Rates) -> Rows:
    """Return a row for each setting and seed."""
    rows = []
    for setting in settings:
        for seed, folder in bench.models.items():
            texts = written(bench, folder, setting, bench.asks, seed)
            speed = {"tokens_per_second": rates[setting.control], "is_operating": is_operating(setting, choice)}
            rows.append(row_of(bench, setting, seed, **speed) | figures(bench, texts, bench.asks))
        click.echo(f"{setting.system} {setting.control} at {setting.temperature} measured", err=True)
    return rows


def is_operating(setting: Setting, choice: Choice) -> bool:
    """Tell whether it is its system's chosen setting."""
    return setting in (choice.plain.setting, *choice.operating.values())


# ---- the base model, prompted


def prompt_rows(bench: Bench, base: str, choice: Choice, dev: int) -> tuple[Rows, dict[str, object]]:
    """Return the base behind a few-shot prompt, for each seed; and how prompt and temperature were chosen.

    First the form of the prompt with the most texts that the guide finds right, at .85; then, as for the controllers, the
    coldest temperature at which the texts are as various as plain's, or the warmest of all.
    """
    plan = base_plan(bench, base, 0.85)
    authors, asks = backbone_texts.prompt_authors(plan), asks_of(bench.labels, dev)
    tried = {name: guided(bench, prompted(author, DEV_SEED, asks, plan), asks) for name, author in authors.items()}
    form = max(tried, key=tried.__getitem__)
    looks = {}
    for temperature in PROMPT_TEMPERATURES:
        plan = base_plan(bench, base, temperature)
        looks[temperature] = diversity(bench, prompted(backbone_texts.prompt_authors(plan)[form], DEV_SEED + 1, asks, plan))
        if looks[temperature] >= choice.floor:
            break
    author = backbone_texts.prompt_authors(plan)[form]
    rows = [prompt_row(bench, author, seed, plan) for seed in bench.models]
    return rows, {"form": form, "guide_accuracy": tried, "distinct2_corrected": looks, "base": plan.base.revision}


def base_plan(bench: Bench, base: str, temperature: float) -> backbone_plan.Plan:
    """Return what `backbone.py` needs to write with the base alone; the rest of its plan is left open."""
    blank: dict[str, Any] = {field.name: Path() for field in fields(backbone_plan.Plan)}
    sizes = {"batch": PROMPT_BATCH, "temperature": temperature, "top_p": PROMPT_TOP_P, "max_tokens": 33}
    return backbone_plan.Plan(**blank | sizes | {"base": find_base(base), "work": bench.work / "prompted"})


def prompted(author: backbone_plan.Author, seed: int, asks: Sequence[Ask], plan: backbone_plan.Plan) -> list[str]:
    """Return what the base writes; kept."""
    return backbone_texts.in_order(backbone_texts.written(author, seed, [backbone_plan.Ask(ask.emotion) for ask in asks], plan))


def prompt_row(bench: Bench, author: backbone_plan.Author, seed: int, plan: backbone_plan.Plan) -> dict[str, object]:
    """Return the row of one seed; its tokens are those of the base."""
    asks = [backbone_plan.Ask(ask.emotion) for ask in bench.asks]
    rounds = backbone_texts.written(author, seed, asks, plan)
    texts = backbone_texts.in_order(rounds)
    shown = copied(texts, (reply for pairs in backbone_plan.EXAMPLES.values() for _, reply in pairs))
    speed = prompt_speed(bench, rounds, plan)
    facts = {"tokens_per_second": speed, "is_operating": True, "top_p": plan.top_p, "copied_examples": shown}
    return row_of(bench, Setting("prompt", "none", 0.0, plan.temperature), seed) | facts | figures(bench, texts, bench.asks)


def prompt_speed(bench: Bench, rounds: Sequence[backbone_plan.Round], plan: backbone_plan.Plan) -> float:
    """Return tokens a second while the texts were written, the reading of the prompt included."""
    key = [plan.base.revision, [[found.seconds, list(found.texts)] for found in rounds]]
    rate: float = kept(
        bench.work / "speed",
        key,
        lambda: backbone_texts.tokens_per_second(rounds, plan.batch, backbone_prompt.causal(plan.base)),
    )
    return rate


def is_promptable(labels: LabelSet) -> bool:
    """Tell whether there are examples of every emotion."""
    return set(labels.names) <= set(backbone_plan.EXAMPLES)


# ---- frontiers

Place = tuple[float, float, float]
"""Accuracy, corrected distinct-2, minus the logarithm of the perplexity: more is better."""


@dataclass(frozen=True)
class Measured:
    """The texts of one setting, all seeds together, in a form in which any part of them can be measured.

    Attributes:
        hits: [texts, 2 labels], as `mean_recall` takes them.
        distinct: corrected distinct-2 of the texts in a mask [texts].
        nats: [texts], 0 where none were computed.
        units: [texts], words and the end, 0 likewise.
    """

    hits: Values
    distinct: Callable[[Mask], float]
    nats: Values
    units: Values

    def place(self, chosen: Mask) -> Place:
        """Return the point of the texts that are marked."""
        accuracy = backbone_texts.mean_recall(self.hits[chosen].sum(0))
        return float(accuracy), self.distinct(chosen), -float(self.nats[chosen].sum() / self.units[chosen].sum())


def measured(bench: Bench, texts: Sequence[str], asks: Sequence[Ask]) -> Measured:
    """By the first judge and the language model."""
    judge = next(iter(bench.judges.values()))
    hits = accuracy_tally([ask.emotion for ask in asks], judged_by(bench, judge, texts), bench.labels, {}).sums
    costs, units = np.zeros(len(texts)), np.zeros(len(texts))
    places = with_perplexity(asks, bench.perplexity_each)
    costs[places] = nats(bench, [texts[place] for place in places])
    units[places] = [len(words(texts[place])) + 1 for place in places]
    return Measured(hits, distinct_corrected.statistic(texts, 2, emotion_text.PAIRS).among(), costs, units)


def together(bench: Bench, setting: Setting) -> Measured:
    """Return one setting with the texts of all its seeds."""
    parts = [
        measured(bench, written(bench, folder, setting, bench.asks, seed), bench.asks) for seed, folder in bench.models.items()
    ]
    texts = [text for seed, folder in bench.models.items() for text in written(bench, folder, setting, bench.asks, seed)]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("hits", "nats", "units")}
    return Measured(distinct=distinct_corrected.statistic(texts, 2, emotion_text.PAIRS).among(), **joined)


def volumes(
    bench: Bench, curves: Mapping[str, Sequence[Setting]], reference: Place, halves: int = HALVES
) -> list[dict[str, object]]:
    """Hypervolume of each system, and of each controller less plain's on the same texts."""
    settings = [setting for own in curves.values() for setting in own]
    state = [identity(folder) for folder in bench.models.values()]
    about = {"settings": [repr(setting) for setting in settings], "reference": reference, "halves": halves, "models": state}
    texts = [written(bench, folder, setting, bench.asks, seed) for setting in settings for seed, folder in bench.models.items()]
    key = [about, bench.perplexity_each, bench.language_model.rpartition("/")[2], texts]
    judges = [identity(judge.folder) for judge in bench.judges.values()]

    def make() -> list[dict[str, object]]:
        return differences({setting: together(bench, setting) for setting in settings}, curves, reference, halves)

    found: list[dict[str, object]] = kept(bench.work / "volumes", [key, judges], make)
    return found


def differences(
    points: Mapping[Setting, Measured], curves: Mapping[str, Sequence[Setting]], reference: Place, halves: int
) -> list[dict[str, object]]:
    """Return the same from points; `plain` among the curves is what the others are compared with."""

    def volume(system: str, chosen: Mask) -> float:
        return dominated_volume([points[setting].place(chosen) for setting in curves[system]], reference)

    def gain(system: str, chosen: Mask) -> float:
        return volume(system, chosen) - volume("plain", chosen)

    items = len(next(iter(points.values())).hits)
    every = np.ones(items, dtype=np.bool_)
    found = []
    for system in curves:
        own: dict[str, object] = {
            "system": system,
            "hypervolume": round(volume(system, every), 5),
            "points": len(curves[system]),
        }
        if system != "plain":
            own |= against_plain(partial(gain, system), every, halves)
        found.append(own)
    return found


def against_plain(difference: Callable[[Mask], float], every: Mask, halves: int) -> dict[str, object]:
    """Return the difference with its 95% interval."""
    value = difference(every)
    low, high = half_sample_interval(value, difference, len(every), 0, halves, (-math.inf, math.inf))
    fields_ = {"against": "plain", "interval": "halves", "draws": halves, "paired": "texts", "texts": len(every), "seed": 0}
    return {
        "difference": round(value, 5),
        "difference_interval": [round(low, 5), round(high, 5)],
        "is_beyond": low > 0,
        "signature": signature("hypervolume", fields_),
    }


def reference_of(labels: LabelSet, real: Mapping[str, object]) -> Place:
    """Return the worst corner that counts."""
    score = real["perplexity"]
    assert isinstance(score, Score)
    return 1 / len(labels), LEAST_DISTINCT, -math.log(MOST_PERPLEXITY * score.value)


def figure(rows: Sequence[Mapping[str, object]], choice: Choice, out: Path) -> None:
    """Accuracy against distinct-2 over temperatures, of the first seed."""
    first = min(int(str(row["seed"])) for row in rows if row["system"] == "plain")
    cases = {"plain": None, **{name: point.control for name, point in choice.operating.items()}}
    points = []
    for row in rows:
        accuracy, distinct, system = row["emotion_accuracy"], row.get("distinct2_corrected"), str(row["system"])
        if row["seed"] == first and system in cases and row.get("case") == cases[system] and isinstance(distinct, Score):
            assert isinstance(accuracy, Score)
            points.append(Point(cases[system] or system, float(str(row["temperature"])), accuracy, distinct))
    if points:
        draw(points, out.with_name(f"{out.stem}_frontier"), axis("emotion_accuracy"), axis("distinct2_corrected"))
