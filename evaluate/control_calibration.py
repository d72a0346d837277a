"""The parts `strength` and `mixtures` of `control.py`: does the judged emotion follow what is asked for?

Measured are a checkpoint that the guide has calibrated (`calibrate_model`) and the same without its calibration
(`uncalibrated`),
under one control at one temperature. `strength`: each emotion is asked for at 11 strengths from 0 to 1; `target_probability`
is the judge's mean probability of it, and `spearman` its rank correlation with the asked strength. `mixtures`: each pair of
emotions is asked for with three shares; of a text that is asked to be a at .25 and b at .75 the judged share of a is p(a) /
(p(a) + p(b)), and `share_error` the mean distance of the mean judged share from the asked one. `..._second` is the second
judge's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from control_writing import Ask, Bench, Setting, decoding_code, identity, loaded, probabilities, row_of, sampling_of, written
from numpy.typing import NDArray

from emogen.decoding.calibration import CALIBRATION_FILE, write_calibration
from emogen.emotions.labels import LabelSet
from emogen.errors import DataError, SettingsError
from emogen.evaluate.resampling import Values, mean_tally
from emogen.evaluate.score import Score, signature
from emogen.files import replace_file, write_text
from emogen.train.calibration import calibrate_model
from emogen.train.config import CalibrationSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRENGTHS = tuple(step / 10 for step in range(11))
SHARES = (0.25, 0.5, 0.75)
CALIBRATED, UNCALIBRATED = "calibrated", "uncalibrated"
SUFFIXES = ("", "_second")
MODEL_FILES = ("model.safetensors", "config.json", "tokenizer.model", "train.json", "rows.npy", "head.safetensors")
_TEXTS_SEED = 5000

Rows = list[dict[str, object]]
Draw = Callable[["Figure"], None]


def copied_model(source: Path, folder: Path) -> Path:
    """Return a copy of a checkpoint that may be given a head or a calibration without a change to the first."""
    for name in MODEL_FILES:
        if (source / name).is_file() and not (folder / name).is_file():
            with replace_file(folder / name) as beside:
                shutil.copyfile(source / name, beside)
    return folder


def calibrated_models(bench: Bench, setting: Setting, texts: int) -> dict[int, Path]:
    """For each seed a copy of its model, calibrated by the guide for one control; what stands is used again."""
    return {seed: calibrated_model(bench, folder, setting, texts) for seed, folder in bench.models.items()}


def calibrated_model(bench: Bench, source: Path, setting: Setting, texts: int) -> Path:
    """Return the copy of one model."""
    folder = copied_model(source, source.with_name(f"{source.name}-calibrated"))
    wanted = [decoding_code(), identity(source), identity(bench.guide.folder), setting.control, str(setting.temperature)]
    stated = folder / "calibrated_for.json"
    line = f"{wanted} {bench.sampling} {texts}\n"
    if not (folder / CALIBRATION_FILE).is_file() or not stated.is_file() or stated.read_text(encoding="utf-8") != line:
        model = loaded(source, tuple(identity(source)))
        settings = CalibrationSettings(texts=texts, seed=_TEXTS_SEED)
        sampling = sampling_of(setting, bench, model)
        found = calibrate_model(model, bench.guide.probabilities, sampling, settings, bench.guide.folder.name)
        write_calibration(folder, found)
        write_text(stated, line)
        click.echo(f"{folder.name} calibrated", err=True)
    return folder


def by_calibration(bench: Bench, models: Mapping[int, Path]) -> dict[str, Mapping[int, Path]]:
    """Return the systems of both parts."""
    return {CALIBRATED: models, UNCALIBRATED: bench.models}


# ---- strength


def strength_rows(bench: Bench, setting: Setting, models: Mapping[int, Path], each: int) -> Rows:
    """For each system, seed and emotion a row a strength, and one with the rank correlation."""
    rows: Rows = []
    for system, folders in by_calibration(bench, models).items():
        for seed, folder in folders.items():
            for name in bench.labels.names:
                rows += rising_rows(bench, Setting(system, setting.control, 0.0, setting.temperature), seed, folder, name, each)
            click.echo(f"strength: {system}, seed {seed} measured", err=True)
    return rows


def rising_rows(bench: Bench, setting: Setting, seed: int, folder: Path, name: str, each: int) -> Rows:
    """Return the rows of one emotion."""
    asks = [Ask(name, strength) for strength in STRENGTHS for _ in range(each)]
    texts, place = written(bench, folder, setting, asks, seed), bench.labels.position(name)
    facts = {key: value for key, value in row_of(bench, setting, seed).items() if key not in ("strength", "case")}
    facts |= {"control": setting.control, "case": name}
    rows: Rows = [facts | {"strength": strength, "n": each} for strength in STRENGTHS]
    whole: dict[str, object] = dict(facts)
    for suffix, judge in zip(SUFFIXES, bench.judges.values(), strict=True):
        found = probabilities(bench, judge, texts)[:, place].reshape(len(STRENGTHS), each)
        for row, own in zip(rows, found, strict=True):
            row[f"target_probability{suffix}"] = mean_score("target_probability", own, judge.folder.name)
        whole[f"spearman{suffix}"] = spearman(STRENGTHS, found.mean(1).tolist())
    return [*rows, whole]


def mean_score(name: str, values: Values, judge: str) -> Score:
    """Return a mean over texts with its interval."""
    return mean_tally(values.tolist(), signature(name, {"judge": judge, "texts": len(values)})).score()


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, -1 to 1: Pearson's of the ranks, those of equal values averaged; 0 where one side is all alike.

    >>> spearman([1, 2, 3], [10, 30, 20])
    0.5

    Raises:
        DataError: fewer than two pairs, or lists of other lengths.
    """
    if len(first) != len(second) or len(first) < 2:
        raise DataError(f"{len(first)} and {len(second)} values: a rank correlation takes two pairs or more")
    one, other = (ranks(values) - (len(values) - 1) / 2 for values in (first, second))
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size else 0.0


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Return ranks from 0; equal values share the mean of theirs.

    >>> ranks([5, 1, 5]).tolist()
    [1.5, 0.0, 1.5]
    """
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    shared: NDArray[np.float64] = (counts.cumsum() - (counts + 1) / 2)[places]
    return shared


# ---- mixtures


def mixture_rows(bench: Bench, setting: Setting, models: Mapping[int, Path], each: int) -> Rows:
    """For each system and seed a row a pair and share, and one with the mean error."""
    rows: Rows = []
    for system, folders in by_calibration(bench, models).items():
        for seed, folder in folders.items():
            own = Setting(system, setting.control, 1.0, setting.temperature)
            rows += share_rows(bench, own, seed, folder, each)
            click.echo(f"mixtures: {system}, seed {seed} measured", err=True)
    return rows


def share_rows(bench: Bench, setting: Setting, seed: int, folder: Path, each: int) -> Rows:
    """Return the rows of one model."""
    pairs = pairs_of(bench.labels)
    asks = [Ask(f"{one}={share},{other}={1 - share}") for one, other, share in pairs for _ in range(each)]
    texts = written(bench, folder, setting, asks, seed)
    facts = {key: value for key, value in row_of(bench, setting, seed).items() if key != "case"}
    facts |= {"control": setting.control}
    rows: Rows = [facts | {"case": f"{one}+{other}", "share": share, "n": each} for one, other, share in pairs]
    whole: dict[str, object] = dict(facts)
    for suffix, judge in zip(SUFFIXES, bench.judges.values(), strict=True):
        found = probabilities(bench, judge, texts).reshape(len(pairs), each, -1)
        errors = []
        for row, (one, other, share), own in zip(rows, pairs, found, strict=True):
            judged = shares_of(own[:, bench.labels.position(one)], own[:, bench.labels.position(other)])
            row[f"judged_share{suffix}"] = mean_score("judged_share", judged, judge.folder.name)
            errors.append(abs(float(judged.mean()) - share))
        whole[f"share_error{suffix}"] = float(np.mean(errors))
    return [*rows, whole]


def pairs_of(labels: LabelSet) -> list[tuple[str, str, float]]:
    """Return every two emotions with each share of the first."""
    return [(one, other, share) for one, other in combinations(labels.names, 2) for share in SHARES]


def shares_of(one: Values, other: Values) -> Values:
    """Return p(a) / (p(a) + p(b)); a half where both are 0.

    >>> shares_of(np.array([0.2, 0.0]), np.array([0.6, 0.0])).tolist()
    [0.25, 0.5]
    """
    total = one + other
    shares: Values = np.where(total > 0, one / np.where(total > 0, total, 1.0), 0.5)
    return shares


# ---- figures


def strength_figure(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """A line an emotion, calibrated and not, of the first seed."""
    first = min(row["seed"] for row in rows)
    names = list(dict.fromkeys(row["case"] for row in rows))

    def draw(figure: Figure) -> None:
        places = figure.subplots(1, 2, sharey=True)
        for axes, system in zip(places, (UNCALIBRATED, CALIBRATED), strict=True):
            for name in names:
                own = [r for r in rows if (r["system"], r["seed"], r["case"]) == (system, first, name) and "strength" in r]
                line(axes, own, name)
            axes.set(title=system, xlabel="strength asked for")
        places[0].set_ylabel("judged probability of the emotion")
        places[1].legend(fontsize=8)

    save(out.with_name(f"{out.stem}_strength.png"), draw)


def line(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """One emotion's line with the intervals of its points."""
    at, scores = [row["strength"] for row in rows], [row["target_probability"] for row in rows]
    drawn = axes.plot(at, [score.value for score in scores], marker="o", markersize=3, label=name)
    axes.fill_between(at, [s.low for s in scores], [s.high for s in scores], color=drawn[0].get_color(), alpha=0.12)
    axes.set(ylim=(0, 1))
    axes.grid(alpha=0.3)


def mixture_figure(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Judged against asked shares of every pair, calibrated and not, all seeds."""

    def draw(figure: Figure) -> None:
        places = figure.subplots(1, 2, sharey=True)
        for axes, system in zip(places, (UNCALIBRATED, CALIBRATED), strict=True):
            own = [row for row in rows if row["system"] == system and "share" in row]
            # Apart by a little, so that points of one share do not cover each other.
            at = [row["share"] + 0.08 * (place / max(1, len(own) - 1) - 0.5) for place, row in enumerate(own)]
            axes.scatter(at, [row["judged_share"].value for row in own], s=8, alpha=0.6)
            axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
            axes.set(title=system, xlabel="share asked for", xlim=(0, 1), ylim=(0, 1))
            axes.grid(alpha=0.3)
        places[0].set_ylabel("judged share")

    save(out.with_name(f"{out.stem}_mixtures.png"), draw)


def save(path: Path, draw: Draw) -> None:
    """A PNG, whole or not at all; raises SettingsError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingsError('drawing needs matplotlib: run pip install -e ".[plots]" in the toolkit\'s folder') from error
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    draw(figure)
    with replace_file(path) as beside:
        figure.savefig(beside, format="png", dpi=150)
