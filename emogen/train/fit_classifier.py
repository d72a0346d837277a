"""From labelled files and settings to a trained classifier: what `emogen train-classifier` does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from emogen.checkpoint.folder import read_weights, save_classifier, write_confusion
from emogen.checkpoint.model import load_classifier
from emogen.data.exchange import Exchange, Reading
from emogen.data.fingerprints import Fingerprints, fingerprints, read_fingerprints
from emogen.emotions.labels import LabelSet
from emogen.errors import DataError
from emogen.models.classifier import Backbone, Classifier, ClassifierConfig, emotion_probabilities
from emogen.pretrained.loading import load_encoder
from emogen.text.words import scripts_of
from emogen.train.config import ClassifierSettings
from emogen.train.corpus import Corpus, open_corpus, refuse_rare_labels
from emogen.train.loops.classifier import (
    Labelled,
    calibration,
    held_out_f1,
    label_weights,
    labelled_batches,
    train_classifier,
)
from emogen.train.run.folder import run_manifest
from emogen.train.run.launch import open_run, random_stream, refuse_other_data
from emogen.train.run.state import TrainState, adamw
from emogen.train.run.training_run import RunHooks, TrainingRun

# Posts in English quote a word of another language now and then.
_LOG = logging.getLogger(__name__)
# The standard error of an accuracy on fewer rows may be more than .07: the luckiest look would be kept, not the best.
FEWEST_TO_STOP = 50
_SCRIPT_SHARE = 0.01


@dataclass(frozen=True)
class _Defaults:
    """What suits a backbone where the settings leave it open."""

    learning_rate: float
    epochs: int
    dropout: float
    width: int = 0
    buckets: int = 0


_DEFAULTS = {
    "ngrams": _Defaults(3e-3, 8, 0.3, 16, 1 << 16),
    "cnn": _Defaults(1e-3, 15, 0.4, 128, 1 << 16),
    "transformer": _Defaults(1e-3, 15, 0.3, 128, 1 << 16),
    "pretrained": _Defaults(2e-4, 4, 0.1),
}


def fit_classifier(files: Sequence[str], reading: Reading, settings: ClassifierSettings, resuming: bool = False) -> Path:
    """Train a classifier; return the checkpoint's folder.

    The epoch with the best macro-F1 on the valid rows is kept; temperature and thresholds are chosen on the same rows.

    Args:
        files: paths or names of corpora; rows that name no split are held out by a hash, 5% valid and 5% test.
        reading: columns and labels.
        settings: all of `emogen train-classifier`.
        resuming: go on with what stands in the folder.

    Raises:
        EmogenError: unreadable data, a folder that holds another run, a loss that is not finite, an interruption.
    """
    with open_run("train-classifier", settings, resuming) as (folder, device):
        corpus = open_corpus(files, reading)
        refuse_other_data(corpus.sources, folder, resuming)
        rows = _by_split(corpus)
        trained = (np.array([exchange.emotion.weights for exchange in rows["train"]]) > 0).sum(0)
        refuse_rare_labels(corpus, trained.tolist(), "held-out rows do not count")
        classifier = _classifier(settings, corpus.labels, _is_multi_label(settings, rows["train"])).to(device)
        classifier.config = replace(classifier.config, scripts=_scripts(rows["train"], classifier.config))
        order = run_manifest("train-classifier", files, reading, settings)
        settings = _complete(settings, classifier, len(rows["train"]))
        train, valid = (_label_rows(rows[split], classifier) for split in ("train", "valid"))
        settings = _without_early_stop(settings, len(valid))
        weights = label_weights(train.targets, settings.balance, classifier.config.multi_label)
        state = TrainState(
            {"classifier": classifier}, {"classifier": adamw(classifier, settings.weight_decay)}, random_stream(settings)
        )

        hooks = RunHooks(
            validate=lambda: held_out_f1(classifier, valid, settings),
            preview=lambda: "",
            save=lambda: save_classifier(folder, corpus.labels, classifier),
            select="error",
        )
        return TrainingRun(folder, settings, state, hooks).fit(
            lambda: train_classifier(
                classifier,
                labelled_batches(train, settings.batch_size, settings.seed, state.step),
                weights,
                settings,
                state,
            ),
            facts={
                "sources": corpus.sources,
                "rows": {split: len(exchanges) for split, exchanges in rows.items()},
                **order,
            },
            rows=_seen(rows["train"], settings),
            finish=lambda: _calibrate(folder, classifier, corpus.labels, valid, rows["test"] or rows["valid"]),
        )


def _by_split(corpus: Corpus) -> dict[str, list[Exchange]]:
    rows: dict[str, list[Exchange]] = {"train": [], "valid": [], "test": []}
    for exchange in corpus.exchanges():
        rows[exchange.split].append(exchange)
    for split in ("train", "valid"):
        if not rows[split]:
            names = ", ".join(path for path, _ in corpus.parts)
            raise DataError(f"{names}: no {split} row; a classifier needs both train and valid rows; check the split column")
    return rows


def _is_multi_label(settings: ClassifierSettings, train: Sequence[Exchange]) -> bool:
    if settings.multi_label != "auto":
        return settings.multi_label == "yes"
    return any(max(exchange.emotion.weights) < 1 for exchange in train)


def _classifier(settings: ClassifierSettings, labels: LabelSet, multi_label: bool) -> Classifier:
    if settings.init:
        emotions = len(labels)
        classifier, _ = load_classifier(Path(settings.init))
        dropout = classifier.config.dropout if settings.dropout < 0 else settings.dropout
        fresh = {"emotions": emotions, "multi_label": multi_label, "dropout": dropout, "temperature": 1.0, "thresholds": ()}
        classifier.config = replace(classifier.config, **fresh)  # type: ignore[arg-type]
        classifier.head = torch.nn.Linear(classifier.head.in_features, emotions)
        return classifier
    pretrained = load_encoder(settings.backbone) if settings.backbone.startswith("hf:") else None
    backbone: Backbone = "pretrained" if pretrained else settings.backbone  # type: ignore[assignment]
    own = _DEFAULTS[backbone]
    config = ClassifierConfig(
        len(labels),
        backbone,
        buckets=settings.buckets or own.buckets,
        width=settings.width or own.width,
        order=settings.order,
        filters=settings.filters,
        layers=settings.layers,
        heads=settings.heads,
        dropout=own.dropout if settings.dropout < 0 else settings.dropout,
        max_tokens=settings.max_tokens,
        encoder=pretrained.model.config.to_diff_dict() if pretrained else {},  # type: ignore[operator, union-attr]
        multi_label=multi_label,
    )
    return Classifier(config, pretrained)


def _scripts(rows: Sequence[Exchange], config: ClassifierConfig) -> tuple[str, ...]:
    """Return those of the rows, a stray letter aside, and those that the classifier which it began with had seen."""
    if config.backbone == "pretrained":
        return ()
    counts = scripts_of(exchange.reply for exchange in rows)
    seen = {script for script, count in counts.items() if count >= _SCRIPT_SHARE * counts.total()}
    return tuple(sorted(seen | set(config.scripts)))


def _complete(settings: ClassifierSettings, classifier: Classifier, rows: int) -> ClassifierSettings:
    """Return the settings with the backbone's own values where they are left open."""
    own = _DEFAULTS[classifier.config.backbone]
    each = -(-rows // settings.batch_size)
    return replace(
        settings,
        learning_rate=settings.learning_rate or own.learning_rate,
        steps=settings.steps or each * (settings.epochs or own.epochs),
        validate_every=settings.validate_every or each,
    )


def _without_early_stop(settings: ClassifierSettings, rows: int) -> ClassifierSettings:
    """Return the settings without patience where there are too few valid rows to tell better from worse, which is then said."""
    if not settings.patience or rows >= FEWEST_TO_STOP:
        return settings
    _LOG.warning(
        "emogen: note: %d valid rows are too few to stop early by (%d are needed): all epochs are trained", rows, FEWEST_TO_STOP
    )
    return replace(settings, patience=0)


def _label_rows(rows: Sequence[Exchange], classifier: Classifier) -> Labelled:
    targets = torch.tensor([exchange.emotion.weights for exchange in rows])
    if classifier.config.multi_label:
        targets = (targets > 0).float()
    return Labelled([classifier.read(exchange.reply) for exchange in rows], targets)


def _calibrate(
    folder: Path, classifier: Classifier, labels: LabelSet, valid: Labelled, held_out: Sequence[Exchange]
) -> LabelSet:
    """Give the model that was kept its temperature and thresholds, and notes how it judges the held-out rows."""
    read_weights(folder, classifier)
    temperature, thresholds = calibration(classifier, valid)
    classifier.config = replace(classifier.config, temperature=temperature, thresholds=thresholds)
    save_classifier(folder, labels, classifier)
    single = [exchange for exchange in held_out if max(exchange.emotion.weights) == 1]
    judged = emotion_probabilities(classifier, [exchange.reply for exchange in single]).argmax(1).tolist() if single else []
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for exchange, found in zip(single, judged, strict=True):
        counts[labels.position(exchange.emotion.name), found] += 1
    write_confusion(folder, labels, counts)
    return labels


def _seen(rows: Sequence[Exchange], settings: ClassifierSettings) -> Fingerprints:
    """Return fingerprints of the training rows, and of those that the classifier began with had seen."""
    own = fingerprints(exchange.reply for exchange in rows)
    return np.union1d(own, read_fingerprints(Path(settings.init))) if settings.init else own
