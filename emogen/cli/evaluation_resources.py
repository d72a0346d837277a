"""What `emogen evaluate` loads: judges, encoder, language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emogen.errors import SettingsError
from emogen.evaluate.emotion import Confusion
from emogen.evaluate.inputs import Encoding, Fluency, Judging
from emogen.files import sha256

if TYPE_CHECKING:
    from emogen.recognition.recognizer import Recognizer
from emogen.cli.evaluation_request import Request

WEIGHTS_FILE = "model.safetensors"


HASH_LENGTH = 8


def load_judges(request: Request) -> tuple[Judging, ...]:
    """Load the judges that are named, each checked against the others and the generator."""
    if not request.judge:
        return ()
    from emogen.recognition.recognizer import load_recognizer

    folders = [Path(folder) for folder in request.judge]
    names = [folder.resolve().name for folder in folders]
    judges = [
        _load_judging(load_recognizer(folder, request.device), name if names.count(name) == 1 else str(folder), request)
        for folder, name in zip(folders, names, strict=True)
    ]
    if len({judge.name for judge in judges}) < len(judges):
        raise SettingsError("--judge names a folder twice: name each judge once")
    return tuple(judges)


def _load_judging(recognizer: Recognizer, name: str, request: Request) -> Judging:
    from emogen.checkpoint.folder import read_confusion
    from emogen.recognition.leak import refuse_leaks

    own = read_confusion(recognizer.folder, recognizer.names)
    labels = recognizer.names.names
    return Judging(
        name=name,
        labels=labels,
        probabilities=partial(_single_label, recognizer)
        if recognizer.classifier.config.multi_label
        else recognizer.probabilities,
        identity=f"{recognizer.folder.resolve().name}@{sha256(recognizer.folder / WEIGHTS_FILE)[:HASH_LENGTH]}",
        leak=refuse_leaks(recognizer.folder, [Path(guide) for guide in request.guide], request.allow_leak),
        own=None if own is None else Confusion(own, labels),
    )


def _single_label(recognizer: Recognizer, texts: Sequence[str]) -> Any:
    """Turn the probabilities of a judge that may give several labels into shares that sum to 1.

    The likeliest stays the likeliest.
    """
    rows = recognizer.probabilities(texts)
    return rows / rows.sum(axis=1, keepdims=True)


def load_encoding(request: Request) -> Encoding | None:
    """Load the sentence encoder that is named; None where none is."""
    if not request.encoder:
        return None
    from emogen.recognition.encoder import load_text_encoder

    encoder = load_text_encoder(request.encoder, request.device)
    return Encoding(encoder.name, encoder.sentences, encoder.tokens, encoder.both)


def load_fluency(request: Request) -> Fluency | None:
    """Load the language model that is named; None where none is."""
    if not request.language_model:
        return None
    from emogen.train.language_model import load_language_model

    model = load_language_model(request.language_model, request.device)
    return Fluency(model.name, model.nll)


def train_reverse(texts: Sequence[str]) -> Fluency:
    """Train a small language model on generated texts, for the perplexity of real ones under it."""
    from emogen.train.language_model import train_reverse

    model = train_reverse(texts)
    return Fluency(model.name, model.nll)
