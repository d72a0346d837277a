"""At which temperature each system of `control.py` writes, and at which weight it is at its best: chosen without the judges.

All is chosen on texts of seeds that the test does not use, by the guide and by the models that write:

* `plain` writes at the warmest temperature at which the guide finds the emotion as often as in people's valid texts, by the
  cubic in the temperature that fits all of them best: of two that differ by chance the warmer would win too often.
* A controller writes, weight by weight, at the coldest temperature at which its texts are as various (distinct-2, corrected) as
  plain's at that point (or as people's), since a colder model is always more accurate.
* Of its weights that one is its operating point whose texts the guide finds right most often, among those whose perplexity
  under the writing model itself, told no emotion, is at most 1.25 times that of plain's where it is as various.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import click
import numpy as np
from control_writing import (
    Ask,
    Bench,
    Setting,
    accuracy_tally,
    asks_of,
    distinct_of,
    judged_by,
    own_perplexity,
    warmer,
    written,
)
from emotion_text import balanced
from numpy.polynomial import Polynomial

from emogen.errors import DataError, SettingsError

DEV_SEED = 1000
COSTLIER = 1.25
CUBIC = 3
# So that chance on the test does not take what the choice has found just enough of.
MARGIN = 0.005

CONTROLS = (
    "guidance:{}=1.25,1.5,1.75,2,3",
    "expert:{}=0.1,0.25,0.5,0.75,1",
    "head:{}=0.1,0.25,0.5,0.75,1",
    "bayes:{}=0.5,1,2,4,8",
    "rerank:{}=2,3,4,8,16",
    "guidance:{},rerank:4=1.1,1.25,1.5,1.75,2",
    "bayes:{},rerank:4=0.25,0.5,1,2,4",
)
PLAIN = Setting("plain", "none", 0.0, 1.0)


@dataclass(frozen=True)
class Look:
    """What the guide and the writing model say of the texts of one setting.

    Attributes:
        setting: how they were written.
        accuracy: by the guide, the mean over the emotions.
        distinct2: corrected.
        own_perplexity: a word, under the model that wrote them, told no emotion.
    """

    setting: Setting
    accuracy: float
    distinct2: float
    own_perplexity: float


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        real: the guide's accuracy on people's valid texts.
        floor: the distinct-2 that controllers are held to.
        plain: its operating point.
        settings: for each controller its settings, one a weight, each at its temperature.
        operating: of each controller that one of them which is its operating point.
        looks: all that were looked at.
    """

    real: float
    floor: float
    plain: Look
    settings: Mapping[str, Sequence[Setting]]
    operating: Mapping[str, Setting]
    looks: Sequence[Look]


def systems(controls: Sequence[str]) -> dict[str, list[Setting]]:
    """Return settings by system from texts such as `head:{},rerank:4=1,2,3`: a template and the weights for its `{}`.

    >>> [setting.control for setting in systems(["head:{},rerank:4=1,2.5"])["head+rerank"]]
    ['head:1,rerank:4', 'head:2.5,rerank:4']

    Raises:
        SettingsError: no template, a weight that is no number, or two of one name.
    """
    found: dict[str, list[Setting]] = {}
    for text in controls:
        template, _, weights = text.rpartition("=")
        name = "+".join(part.partition(":")[0].strip() for part in template.split(","))
        if "{}" not in template or name in found:
            raise SettingsError(f"--controls {text!r}: write such as head:{{}},rerank:4=1,2,3 and each set of controllers once")
        try:
            found[name] = [Setting(name, template.format(w.strip()), float(w), 1.0) for w in weights.split(",")]
        except ValueError:
            raise SettingsError(f"--controls {text!r}: {weights!r} are not numbers with commas between them") from None
    return found


def chosen(
    bench: Bench, controllers: Mapping[str, Sequence[Setting]], temperatures: Sequence[float], dev: int, floor: str
) -> Choice:
    """Return the operating points.

    Args:
        bench: whose first model writes.
        controllers: settings by system; their temperatures do not matter.
        temperatures: that may be chosen.
        dev: texts of each emotion that are looked at.
        floor: `plain` or `real`: as various as whom the controllers have to be.
    """
    ladder, looks = sorted(temperatures), []

    def look(setting: Setting) -> Look:
        looks.append(looked(bench, setting, dev))
        click.echo(f"valid: {setting.control} at {setting.temperature} looked at", err=True)
        return looks[-1]

    real, real_distinct = people(bench, dev)
    plain = warmest_right([look(warmer(PLAIN, temperature)) for temperature in ladder], real)
    least = MARGIN + (plain.distinct2 if floor == "plain" else real_distinct)
    at = {name: [coldest_various(own, ladder, least, look) for own in settings] for name, settings in controllers.items()}
    as_various = plain if floor == "plain" else coldest_various(PLAIN, ladder, least, look)
    most = COSTLIER * as_various.own_perplexity
    operating = {name: best(found, most, least).setting for name, found in at.items()}
    settings = {name: [found.setting for found in own] for name, own in at.items()}
    return Choice(real, least, plain, settings, operating, looks)


def people(bench: Bench, each: int) -> tuple[float, float]:
    """Return the guide's accuracy on all of people's valid texts, and the distinct-2 of `each` of every emotion."""
    rows = [row for row in bench.ready.valid if row.emotion.name in bench.labels.names]
    some = balanced(bench.ready.valid, dict.fromkeys(bench.labels.names, each))
    accuracy = guided(bench, [row.reply for row in rows], [Ask(row.emotion.name) for row in rows])
    return accuracy, diversity(bench, [row.reply for row in some])


def looked(bench: Bench, setting: Setting, each: int) -> Look:
    """Return the texts of one setting, by the first model."""
    asks = asks_of(bench.labels, each)
    texts = written(bench, bench.first, setting, asks, DEV_SEED)
    own = own_perplexity(bench, bench.first, texts)
    return Look(setting, guided(bench, texts, asks), diversity(bench, texts), own)


def guided(bench: Bench, texts: Sequence[str], asks: Sequence[Ask]) -> float:
    """Return the guide's accuracy."""
    judged = judged_by(bench, bench.guide, texts)
    return accuracy_tally([ask.emotion for ask in asks], judged, bench.labels, {"judge": "guide"}).value


def diversity(bench: Bench, texts: Sequence[str]) -> float:
    """Return corrected distinct-2; raise DataError where the texts are too few for it."""
    score = distinct_of(texts, 2)
    if score is None:
        raise DataError(
            f"{bench.ready.name}: {len(texts)} texts hold too few pairs of words for distinct-2; pass a larger --dev"
        )
    return score.value


def warmest_right(looks: Sequence[Look], accuracy: float) -> Look:
    """Return the warmest at least as accurate, chance smoothed away; the coldest of all where none is."""
    temperatures = [look.setting.temperature for look in looks]
    fitted = Polynomial.fit(temperatures, [look.accuracy for look in looks], min(CUBIC, len(looks) - 1))(np.array(temperatures))
    right = [look for look, smooth in zip(looks, fitted, strict=True) if smooth >= accuracy]
    return max(right, key=lambda look: look.setting.temperature) if right else looks[0]


def coldest_various(setting: Setting, ladder: Sequence[float], least: float, look: Callable[[Setting], Look]) -> Look:
    """Return the coldest of the temperatures whose distinct-2 is at least that, by halving, since it rises.

    Else the warmest.
    """
    low, high = 0, len(ladder) - 1
    found = {}
    while low < high:
        middle = (low + high) // 2
        found[middle] = look(warmer(setting, ladder[middle]))
        low, high = (low, middle) if found[middle].distinct2 >= least else (middle + 1, high)
    return found[low] if low in found else look(warmer(setting, ladder[low]))


def best(looks: Sequence[Look], most: float, least: float) -> Look:
    """Return the most accurate of those that are likely and various enough; the likeliest where none is."""
    fine = [look for look in looks if look.own_perplexity <= most and look.distinct2 >= least]
    return max(fine, key=lambda look: look.accuracy) if fine else min(looks, key=lambda look: look.own_perplexity)


def as_notes(choice: Choice) -> dict[str, object]:
    """Return the choice for the result file."""
    looks = [
        {
            "control": look.setting.control,
            "temperature": look.setting.temperature,
            "guide_accuracy": round(look.accuracy, 4),
            "distinct2_corrected": round(look.distinct2, 4),
            "own_perplexity": round(look.own_perplexity, 2),
        }
        for look in choice.looks
    ]
    return {
        "guide_accuracy_real": round(choice.real, 4),
        "least_distinct2": round(choice.floor, 4),
        "plain_temperature": choice.plain.setting.temperature,
        "operating": {name: [own.control, own.temperature] for name, own in choice.operating.items()},
        "looks": looks,
    }
