"""A pretrained encoder in use: vectors of sentences and of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emogen.models.device import choose_device
from emogen.models.pretrained import PREFIX, Pretrained, load_encoder

Vectors = NDArray[np.float64]

_AT_ONCE = 64
_MAX_TOKENS = 256


@dataclass(frozen=True)
class TextEncoder:
    """Texts to vectors.

    Attributes:
        pretrained: encoder and tokenizer, in eval mode.
        name: for signatures.
    """

    pretrained: Pretrained
    name: str

    def sentences(self, texts: Sequence[str]) -> Vectors:
        """The mean of each text's token vectors, of length 1, [texts, width]."""
        if not texts:
            return np.zeros((0, int(self.pretrained.model.config.hidden_size)))  # type: ignore[union-attr, arg-type]
        means = np.stack([states.mean(0) for states in self._states(texts, special=True)])
        vectors: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """For each text its token vectors [tokens, width], without those of special tokens; a blank text has none."""
        return self._states(texts, special=False)

    @torch.inference_mode()
    def _states(self, texts: Sequence[str], special: bool) -> list[Vectors]:
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        states: list[Vectors] = [np.empty(0)] * len(texts)
        for at in range(0, len(order), _AT_ONCE):
            places = order[at : at + _AT_ONCE]
            for place, found in zip(places, self._batch([texts[place] for place in places], special), strict=True):
                states[place] = found
        return states

    def _batch(self, texts: Sequence[str], special: bool) -> list[Vectors]:
        tokenizer, model = self.pretrained.tokenizer, self.pretrained.model
        read = tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=min(_MAX_TOKENS, self.pretrained.longest),
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        device = next(model.parameters()).device
        kept = read["attention_mask"].bool()
        hidden = model(input_ids=read["input_ids"].to(device), attention_mask=kept.to(device)).last_hidden_state.double().cpu()
        kept = kept if special else kept & ~read["special_tokens_mask"].bool()
        return [states[mask].numpy() for states, mask in zip(hidden, kept, strict=True)]


def load_text_encoder(name: str, device: str = "cpu") -> TextEncoder:
    """An encoder by `hf:NAME-OR-FOLDER`; raises CheckpointError where there is none of that name."""
    pretrained = load_encoder(name)
    pretrained.model.to(choose_device(device)).eval()
    return TextEncoder(pretrained, Path(name.removeprefix(PREFIX)).name)
