"""What the study of conditional generation trains and measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from emotion_text import Ready

from emogen.data.exchange import Exchange
from emogen.train.config import ClassifierSettings, GanSettings, LmSettings

TASKS = ("texts", "replies")


ARMS = ("mle", "longer", "adversarial", "adversarial+emotion", "emotion")


TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4)


DIVERSITY = "distinct2_corrected"


QUALITIES = ("emotion_accuracy", "forward_bleu4", "bleu", "rougeL")


DRAWN = QUALITIES[:2]


STATED = 0.5


CLASSIFIER = ClassifierSettings(multi_label="no", width=64, buckets=1 << 14)


LM = LmSettings(
    width=256,
    dropout=0.1,
    batch_size=32,
    context_tokens=32,
    reply_tokens=32,
    learning_rate=3e-3,
    steps=6500,
    validate_every=250,
)


# Rewards add up over a reply's tokens and the two weights are of means over tokens, so 8 is about .5 a token.
GAN = GanSettings(
    estimator="dense",
    potential="log-odds",
    kl_weight=8.0,
    mle_weight=8.0,
    learning_rate=1e-3,
    encoder_rate=1e-6,
    accuracy_ceiling=1.0,
    max_tokens=33,
    batch_size=32,
    warmup_steps=10,
    steps=110,
    validate_every=100,
)


# What goes on does not begin anew, so at a lower rate.
RATE_OF_LONGER = 0.25


PLACES = frozenset({"out", "init", "guide", "threads", "device"})


ANOTHER_SEED = "lm:another-seed"


SEEDS = 3


Settings = TypeVar("Settings", LmSettings, GanSettings)


@dataclass(frozen=True)
class Plan:
    """What is measured, and with what; the fields are the options."""

    work: Path
    task: tuple[str, ...]
    texts: str
    replies: str
    arm: tuple[str, ...]
    seed: tuple[int, ...]
    lm: LmSettings
    gan: GanSettings
    emotion_weight: float
    start: Path | None
    guide: ClassifierSettings
    judge: ClassifierSettings
    each: int
    temperature: tuple[float, ...]
    language_model: str
    allow_leak: bool

    @property
    def models(self) -> Path:
        """Return the folder of what one backbone writes and has learnt."""
        return self.work / Path(self.lm.backbone.removeprefix("hf:")).name


@dataclass(frozen=True)
class Classifiers:
    """Folders of the guide and the judge; `learnt` are the judge's training rows."""

    guide: Path
    judge: Path
    learnt: Sequence[Exchange]


@dataclass(frozen=True)
class Task:
    """Rows of a task, and who learns from them.

    Attributes:
        name: `texts` or `replies`.
        ready: its files and rows.
    """

    name: str
    ready: Ready


@dataclass(frozen=True)
class Model:
    """A trained model in its place."""

    task: Task
    arm: str
    seed: int
    folder: Path
