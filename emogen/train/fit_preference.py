"""From pairs of a better and a worse reply to a new checkpoint: what `emogen train-feedback` does."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from emogen.checkpoint.finding import find_checkpoint, mark_latest
from emogen.checkpoint.folder import describe, save_model
from emogen.checkpoint.model import EmotionModel, load
from emogen.data.batches import Limits
from emogen.data.exchange import Reading
from emogen.data.fingerprints import Fingerprints, fingerprints, read_fingerprints
from emogen.data.preferences import (
    Opined,
    Preference,
    Rating,
    as_json,
    split_by_context,
    usable_pairs,
    usable_ratings,
)
from emogen.emotions.labels import no_emotion
from emogen.errors import CheckpointError, DataError
from emogen.files import sha256
from emogen.models.generator import Generator
from emogen.text.tokenizer import SentencePieceTokenizer, Tokenizer
from emogen.train.config import FeedbackSettings
from emogen.train.loops.preference import (
    PairRows,
    RatedRows,
    drop_long,
    held_out_preference,
    held_out_unpaired,
    pair_batches,
    pair_log_probabilities,
    pair_rows,
    rated_batches,
    rated_rows,
    train_preference,
    train_unpaired,
)
from emogen.train.run.folder import read_train_file, run_manifest
from emogen.train.run.launch import open_run, random_stream, refuse_other_data
from emogen.train.run.state import Step, TrainState, adamw
from emogen.train.run.training_run import RunHooks, TrainingRun

COMMAND = "train-feedback"
_LEAST_CONTEXTS = 2
Rows = TypeVar("Rows", PairRows, RatedRows)


@dataclass(frozen=True)
class Preferred(Generic[Opined]):
    """What came of a run.

    Attributes:
        folder: of the new checkpoint.
        start: of the model that it began with.
        held_out: the pairs, or ratings, that were not trained on.
        before: [2, held out], log probabilities under the start, in nats: of better and worse replies, or of rated replies and
            those of other contexts.
        after: the same under the new model.
        trained: number that were trained on.
        left_out: those with a reply longer than the model's rows, or with an emotion that it does not know.
        unusable: those that stand there twice, or whose replies are equal or blank.
    """

    folder: Path
    start: Path
    held_out: tuple[Opined, ...]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    trained: int
    left_out: int
    unusable: int = 0


@dataclass(frozen=True)
class _Division(Generic[Opined]):
    """The pairs, or ratings, of a run."""

    train: list[Opined]
    held_out: list[Opined]
    left_out: int
    unusable: int


@dataclass(frozen=True)
class _Objective(Generic[Opined, Rows]):
    """How opinions of one kind are learnt from.

    Attributes:
        usable: those from which something can be learnt.
        name: of the kind, for messages.
        encode: into rows of tokens, for tokenizer and limits of a model.
        pairs: the rows whose log probabilities are compared.
        train: the loop, for rows, their log probabilities before, settings and state.
        validate: held-out figures, likewise.
    """

    usable: Callable[[Sequence[Opined]], list[Opined]]
    name: str
    encode: Callable[[Sequence[Opined], Tokenizer, Limits], Rows]
    pairs: Callable[[Rows], PairRows]
    train: Callable[[Generator, Rows, Tensor, FeedbackSettings, TrainState], Iterator[Step]]
    validate: Callable[[Generator, Rows, Tensor, FeedbackSettings], dict[str, float]]


_PAIRED: _Objective[Preference, PairRows] = _Objective(
    usable_pairs,
    "pairs of a good and a bad reply to the same context and emotion",
    pair_rows,
    lambda rows: rows,
    lambda generator, rows, before, settings, state: train_preference(
        generator, pair_batches(rows, before, settings.batch_size, settings.seed, state.step), settings, state
    ),
    held_out_preference,
)
_UNPAIRED: _Objective[Rating, RatedRows] = _Objective(
    usable_ratings,
    "single opinions",
    rated_rows,
    lambda rows: rows.rows,
    lambda generator, rows, before, settings, state: train_unpaired(
        generator, rated_batches(rows, before, settings.batch_size, settings.seed, state.step), settings, state
    ),
    held_out_unpaired,
)


def fit_preference(
    pairs: Sequence[Preference], source: str, settings: FeedbackSettings, resuming: bool = False
) -> Preferred[Preference]:
    """Train a model on pairs and write the newest as a new checkpoint; the one that it began with stays as it is.

    Nothing is chosen by the held-out pairs, so that their figures are fair. Of a VAE the decoder is trained, at the mean of its
    prior, and written as a generator. An emotion head and a calibration are of the model as it was and are not taken along.

    Args:
        pairs: in any order.
        source: what train.json says that they are from; no password.
        settings: all of `emogen train-feedback`.
        resuming: go on with what stands in the folder.

    Raises:
        DataError: too few pairs.
        EmogenError: no checkpoint, a folder that holds another run, a loss that is not finite, an interruption.
    """
    return _fit(pairs, source, settings, resuming, _PAIRED)


def fit_unpaired(
    ratings: Sequence[Rating], source: str, settings: FeedbackSettings, resuming: bool = False
) -> Preferred[Rating]:
    """Train a model on single good and bad replies, as `fit_preference` on pairs; DataError also where all are of one kind."""
    if len({rating.is_good for rating in ratings}) == 1:
        raise DataError(f"{source}: all opinions are {'good' if ratings[0].is_good else 'bad'}; some of both are needed")
    return _fit(ratings, source, settings, resuming, _UNPAIRED)


def _fit(
    opinions: Sequence[Opined], source: str, settings: FeedbackSettings, resuming: bool, objective: _Objective[Opined, Rows]
) -> Preferred[Opined]:
    with open_run(COMMAND, settings, resuming) as (folder, device):
        start = load(_start_of(settings, folder, resuming), device, trainable=True)
        order = run_manifest(COMMAND, [source], Reading(), replace(settings, checkpoint=str(start.folder)))
        division = _divide(opinions, start, source, settings, objective)
        sources = {source: hashlib.sha256("\n".join(sorted(map(as_json, opinions))).encode()).hexdigest()}
        refuse_other_data(sources, folder, resuming)
        generator, limits = start.generator, start.description.limits
        train = objective.encode(_with_untold(division.train, settings), start.tokenizer, limits)
        held_out = objective.encode(division.held_out, start.tokenizer, limits)
        before, before_held_out = (
            pair_log_probabilities(generator, objective.pairs(rows), settings.precision) for rows in (train, held_out)
        )
        paced = _complete(settings, len(objective.pairs(train)))
        state = TrainState({"generator": generator}, {"generator": adamw(generator)}, random_stream(settings))
        if isinstance(start.tokenizer, SentencePieceTokenizer):
            start.tokenizer.save(folder / "tokenizer.model")
        description = describe(generator, start.labels, limits)
        hooks = RunHooks(
            validate=lambda: objective.validate(generator, held_out, before_held_out, paced),
            preview=lambda: "",
            save=lambda: save_model(folder, description, generator),
        )
        TrainingRun(folder, paced, state, hooks).fit(
            lambda: objective.train(generator, train, before, paced, state),
            facts={"sources": sources, **_facts(division), **_facts_of_start(start), **order},
            rows=_seen(division, start),
            finish=lambda: start.labels,
        )
        mark_latest(folder)
        after = pair_log_probabilities(generator, objective.pairs(held_out), settings.precision)
    return Preferred(
        folder,
        start.folder,
        tuple(division.held_out),
        before_held_out.double().numpy(),
        after.double().numpy(),
        len(division.train),
        division.left_out,
        division.unusable,
    )


def _divide(
    opinions: Sequence[Opined],
    start: EmotionModel,
    source: str,
    settings: FeedbackSettings,
    objective: _Objective[Opined, Rows],
) -> _Division[Opined]:
    """Return the opinions that the model can read, divided by context; raise DataError where they are too few."""
    usable = objective.usable(opinions)
    known = [found for opinion in usable if (found := opinion.over(start.labels))]
    fit = drop_long(known, start.tokenizer, start.description.limits)
    left_out, unusable = len(usable) - len(fit), len(opinions) - len(usable)
    contexts = len({opinion.context for opinion in fit})
    if len(fit) < settings.min_pairs or contexts < _LEAST_CONTEXTS:
        reasons = ((left_out, "do not fit the model"), (unusable, "stand there twice, or have replies that are equal or blank"))
        more = ", ".join(f"{count} more {reason}" for count, reason in reasons if count)
        raise DataError(
            f"{source}: {len(fit)} {objective.name}, of {contexts} contexts{more and f' ({more})'}; "
            f"{settings.min_pairs} {objective.name.split()[0]} of {_LEAST_CONTEXTS} contexts are needed (--min-pairs)"
        )
    return _Division(*split_by_context(fit, settings.held_out), left_out, unusable)


def _start_of(settings: FeedbackSettings, folder: Path, resuming: bool) -> Path:
    """Return the folder of the model that the run begins with, or began with."""
    saved = read_train_file(folder) if resuming else {}
    found = find_checkpoint(settings.checkpoint or saved.get("start"))
    if saved.get("start_sha256", weights := sha256(found / "model.safetensors")) != weights:
        raise CheckpointError(f"{found}: holds another model than the one that the run in {folder} began with")
    return found


def _with_untold(pairs: Sequence[Opined], settings: FeedbackSettings) -> list[Opined]:
    """Return the opinions, and a share of them once more under no emotion."""
    chosen = random.Random(settings.seed).sample(range(len(pairs)), round(settings.unconditional_share * len(pairs)))
    found = list(pairs)
    found += [replace(pairs[place], emotion=no_emotion(pairs[place].emotion.labels)) for place in sorted(chosen)]
    return found


def _complete(settings: FeedbackSettings, pairs: int) -> FeedbackSettings:
    """Return the settings with the numbers that follow from that of the pairs."""
    epoch = math.ceil(pairs / settings.batch_size)
    return replace(settings, steps=settings.steps or settings.epochs * epoch, validate_every=settings.validate_every or epoch)


def _facts(division: _Division[Opined]) -> dict[str, Any]:
    return {
        "rows": {"train": len(division.train), "valid": len(division.held_out)},
        "left_out": {"train": division.left_out + division.unusable},
    }


def _facts_of_start(start: EmotionModel) -> dict[str, Any]:
    about = read_train_file(start.folder)
    return {
        "start": str(start.folder),
        "start_sha256": sha256(start.folder / "model.safetensors"),
        "start_sources": about.get("start_sources", {}) | about.get("sources", {}),
    }


def _seen(division: _Division[Opined], start: EmotionModel) -> Fingerprints:
    """Return the rows that the new model knows: those of its start, and the replies of the pairs that it was trained on."""
    replies = fingerprints(reply for opinion in division.train for reply in opinion.replies)
    return np.concatenate([read_fingerprints(start.folder), replies])
