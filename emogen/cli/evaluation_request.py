"""The options of `emogen evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emogen.cli.reading import parse_renames
from emogen.data.outputs import (
    EMOTION_COLUMN,
    OutputColumns,
)
from emogen.evaluate.inputs import Options
from emogen.evaluate.overlap import Language

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Request:
    """The command's arguments and options, by their names."""

    hyps: tuple[str, ...]
    references: tuple[str, ...]
    real: tuple[str, ...]
    train: tuple[str, ...]
    judge: tuple[str, ...]
    guide: tuple[str, ...]
    allow_leak: bool
    text_column: str
    emotion_column: str | None
    reference_column: str
    map: tuple[str, ...]
    format: str | None
    language: Language
    lowercase: bool
    encoder: str | None
    mauve: bool
    language_model: str | None
    reverse: bool
    lexicon: bool
    seed_column: str | None
    pool_seeds: bool
    compare: tuple[tuple[str, str], ...]
    frontier: str | None
    quality: str | None
    diversity: str
    sample: int
    seed: int
    device: str
    as_object: bool
    as_page: bool

    @property
    def files(self) -> tuple[str, ...]:
        """Return all files of texts to score, each once."""
        return tuple(dict.fromkeys([*self.hyps, *(file for pair in self.compare for file in pair)]))

    @property
    def options(self) -> Options:
        """Return how scores are computed."""
        return Options(self.language, self.lowercase, self.sample, self.seed, self.mauve, self.lexicon)

    @property
    def columns(self) -> OutputColumns:
        """Read the emotion where somebody asks for it."""
        wanted = EMOTION_COLUMN if self.judge or self.lexicon else ""
        emotion, renames = self.emotion_column or wanted, parse_renames(self.map)
        return OutputColumns(self.text_column, emotion, self.reference_column, renames, self.seed_column or "", self.pool_seeds)
