"""How `transfer` searches: frozen options, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from emogen.errors import SettingsError, require


@dataclass(frozen=True)
class TransferOptions:
    """How a text is searched.

    Attributes:
        samples: whole texts from the latent.
        sentences: of the emotion, to stand before or behind the text.
        spread: of their latents, in deviations of the posterior.
        temperature: of whole texts and of edits.
        rounds: of edits; 0 leaves them out.
        best: candidates that are edited in each round.
        edits: of each of them.
        keep: weight of the words that are kept.
        fluency: weight of nats a word above the source's.
        seed: of the draws; those of line i are a function of seed and i.
    """

    samples: int = 8
    sentences: int = 24
    spread: float = 0.5
    temperature: float = 0.6
    rounds: int = 1
    best: int = 3
    edits: int = 12
    keep: float = 2.0
    fluency: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "sentences", "rounds"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("best", "edits"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("spread", "keep", "fluency"):
            require(0 <= getattr(self, name) <= 100, name, getattr(self, name), "0 to 100")
        require(0 < self.temperature <= 100, "temperature", self.temperature, "above 0 and at most 100")
        if not (self.samples or self.sentences or self.rounds):
            raise SettingsError("--samples 0 --sentences 0 --rounds 0: leaves no candidate; raise one of them")
