"""From pairs of a better and a worse reply to a new checkpoint: what `emogen train-feedback` does."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emogen.atomic import sha256
from emogen.checkpoint import Checkpoint, describe, find_checkpoint, load, mark_latest, save_model
from emogen.data.exchange import Reading
from emogen.data.fingerprints import Fingerprints, fingerprints, read_fingerprints
from emogen.data.preferences import Preference, as_json, split_by_context, usable_pairs
from emogen.emotions import no_emotion
from emogen.errors import CheckpointError, DataError
from emogen.text import SentencePieceTokenizer
from emogen.train.config import FeedbackSettings
from emogen.train.folder import order_of, read_train_file
from emogen.train.launch import begun, drive, random_stream, refuse_other_data
from emogen.train.preference import (
    PairRows,
    fitting,
    held_out_preference,
    pair_batches,
    pair_log_probabilities,
    pair_rows,
    train_preference,
)
from emogen.train.run import Watch
from emogen.train.state import TrainState, adamw

COMMAND = "train-feedback"
_LEAST_CONTEXTS = 2


@dataclass(frozen=True)
class Preferred:
    """What came of a run.

    Attributes:
        folder: of the new checkpoint.
        start: of the model that it began with.
        held_out: the pairs that were not trained on.
        before: [2, pairs], log probabilities of their better and worse replies under the start, in nats.
        after: the same under the new model.
        trained: number of pairs that were trained on.
        left_out: pairs with a reply longer than the model's rows, or with an emotion that it does not know.
        unusable: pairs that stand there twice, or whose replies are equal or blank.
    """

    folder: Path
    start: Path
    held_out: tuple[Preference, ...]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    trained: int
    left_out: int
    unusable: int = 0


@dataclass(frozen=True)
class _Division:
    """The pairs of a run."""

    train: list[Preference]
    held_out: list[Preference]
    left_out: int
    unusable: int


def fit_preference(pairs: Sequence[Preference], source: str, settings: FeedbackSettings, resuming: bool = False) -> Preferred:
    """Trains a model on pairs and writes the newest as a new checkpoint; the one that it began with stays as it is.

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
    with begun(COMMAND, settings, resuming) as (folder, device):
        start = load(_start_of(settings, folder, resuming), device, trainable=True)
        order = order_of(COMMAND, [source], Reading(), replace(settings, checkpoint=str(start.folder)))
        division = divided(pairs, start, source, settings)
        sources = {source: _digest(pairs)}
        refuse_other_data(sources, folder, resuming)
        generator = start.generator
        train, held_out = _rows(_with_untold(division.train, settings), start), _rows(division.held_out, start)
        before, before_held_out = (pair_log_probabilities(generator, rows, settings.precision) for rows in (train, held_out))
        paced = _completed(settings, len(train))
        state = TrainState({"generator": generator}, {"generator": adamw(generator)}, random_stream(settings))
        if isinstance(start.tokenizer, SentencePieceTokenizer):
            start.tokenizer.save(folder / "tokenizer.model")
        description = describe(generator, start.labels, start.description.limits)
        drive(
            folder,
            paced,
            state,
            lambda: train_preference(
                generator, pair_batches(train, before, paced.batch_size, paced.seed, state.step), paced, state
            ),
            Watch(
                validate=lambda: held_out_preference(generator, held_out, before_held_out, paced),
                preview=lambda: "",
                save=lambda: save_model(folder, description, generator),
            ),
            {"sources": sources, **_facts(division), **_facts_of_start(start), **order},
            _seen(division, start),
            lambda: start.labels,
        )
        mark_latest(folder)
        after = pair_log_probabilities(generator, held_out, settings.precision)
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


def divided(pairs: Sequence[Preference], start: Checkpoint, source: str, settings: FeedbackSettings) -> _Division:
    """The pairs that the model can read, divided by context; raises DataError where they are too few."""
    usable = usable_pairs(pairs)
    known = [found for pair in usable if (found := pair.over(start.labels))]
    fit = fitting(known, start.tokenizer, start.description.limits)
    left_out, unusable = len(usable) - len(fit), len(pairs) - len(usable)
    contexts = len({pair.context for pair in fit})
    if len(fit) < settings.least_pairs or contexts < _LEAST_CONTEXTS:
        reasons = ((left_out, "do not fit the model"), (unusable, "stand there twice, or have replies that are equal or blank"))
        more = ", ".join(f"{count} more {reason}" for count, reason in reasons if count)
        raise DataError(
            f"{source}: {len(fit)} pairs of a good and a bad reply to the same context and emotion, of {contexts} contexts"
            f"{more and f' ({more})'}; {settings.least_pairs} pairs of {_LEAST_CONTEXTS} contexts are needed (--least-pairs)"
        )
    return _Division(*split_by_context(fit, settings.held_out), left_out, unusable)


def _start_of(settings: FeedbackSettings, folder: Path, resuming: bool) -> Path:
    """The folder of the model that the run begins with, or began with."""
    saved = read_train_file(folder) if resuming else {}
    found = find_checkpoint(settings.checkpoint or saved.get("start"))
    if saved.get("start_sha256", weights := sha256(found / "model.safetensors")) != weights:
        raise CheckpointError(f"{found}: holds another model than the one that the run in {folder} began with")
    return found


def _with_untold(pairs: Sequence[Preference], settings: FeedbackSettings) -> list[Preference]:
    """The pairs, and a share of them once more under no emotion."""
    chosen = random.Random(settings.seed).sample(range(len(pairs)), round(settings.untold * len(pairs)))
    return [*pairs, *(replace(pairs[place], emotion=no_emotion(pairs[place].emotion.labels)) for place in sorted(chosen))]


def _rows(pairs: Sequence[Preference], start: Checkpoint) -> PairRows:
    return pair_rows(pairs, start.tokenizer, start.description.limits)


def _completed(settings: FeedbackSettings, pairs: int) -> FeedbackSettings:
    """The settings with the numbers that follow from that of the pairs."""
    epoch = math.ceil(pairs / settings.batch_size)
    return replace(settings, steps=settings.steps or settings.epochs * epoch, validate_every=settings.validate_every or epoch)


def _digest(pairs: Sequence[Preference]) -> str:
    return hashlib.sha256("\n".join(sorted(map(as_json, pairs))).encode()).hexdigest()


def _facts(division: _Division) -> dict[str, Any]:
    return {
        "rows": {"train": len(division.train), "valid": len(division.held_out)},
        "left_out": {"train": division.left_out + division.unusable},
    }


def _facts_of_start(start: Checkpoint) -> dict[str, Any]:
    about = read_train_file(start.folder)
    return {
        "start": str(start.folder),
        "start_sha256": sha256(start.folder / "model.safetensors"),
        "start_sources": about.get("start_sources", {}) | about.get("sources", {}),
    }


def _seen(division: _Division, start: Checkpoint) -> Fingerprints:
    """The rows that the new model knows: those of its start, and the replies of the pairs that it was trained on."""
    replies = fingerprints(reply for pair in division.train for reply in (pair.better, pair.worse))
    return np.concatenate([read_fingerprints(start.folder), replies])
