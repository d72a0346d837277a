"""A pretrained encoder in use: vectors of sentences and of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emogen.models.device import choose_device
from emogen.pretrained.loading import PREFIX, Pretrained, load_encoder

Vectors = NDArray[np.float64]
# Vectors of a text's tokens [tokens, width], and which of the tokens are special.
_States = tuple[Vectors, NDArray[np.bool_]]

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
        """Return the mean of each text's token vectors, of length 1, [texts, width]."""
        if not texts:
            return np.zeros((0, int(self.pretrained.model.config.hidden_size)))  # type: ignore[union-attr, arg-type]
        return _mean_directions(self._states(texts))

    def tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """Return for each text its token vectors [tokens, width], without those of special tokens; a blank text has none."""
        return [states[~special] for states, special in self._states(texts)]

    def both(self, texts: Sequence[str]) -> tuple[Vectors, list[Vectors]]:
        """Compute `sentences` and `tokens` of at least one text in one pass through the encoder."""
        read = self._states(texts)
        return _mean_directions(read), [states[~special] for states, special in read]

    @torch.inference_mode()
    def _states(self, texts: Sequence[str]) -> list[_States]:
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        found: dict[int, _States] = {}
        for at in range(0, len(order), _AT_ONCE):
            places = order[at : at + _AT_ONCE]
            found.update(zip(places, self._batch([texts[place] for place in places]), strict=True))
        return [found[place] for place in range(len(texts))]

    def _batch(self, texts: Sequence[str]) -> list[_States]:
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
        special = read["special_tokens_mask"].bool()
        return [(states[mask].numpy(), own[mask].numpy()) for states, mask, own in zip(hidden, kept, special, strict=True)]


def _mean_directions(read: Sequence[_States]) -> Vectors:
    """Return the mean of each text's vectors, at length 1, [texts, width]."""
    means = np.stack([states.mean(0) for states, _ in read])
    vectors: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors


def load_text_encoder(name: str, device: str = "cpu") -> TextEncoder:
    """Return an encoder by `hf:NAME-OR-FOLDER`; raise CheckpointError where there is none of that name."""
    pretrained = load_encoder(name)
    pretrained.model.to(choose_device(device)).eval()
    return TextEncoder(pretrained, Path(name.removeprefix(PREFIX)).name)
