"""Discriminators score real against generated: a Transformer, per sequence or per prefix, or a pretrained encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from emogen.errors import SettingsError
from emogen.models.likelihood_ratio import LikelihoodRatioDiscriminator
from emogen.models.pretrained_encoder import PretrainedReader
from emogen.models.transformer import Encoder, last_of, mean_of, present_tokens
from emogen.text.tokenizer import PAD

# A processor's cache holds the states of so many rows, which scores a third faster than going through memory.
_ROWS_IN_CACHE = 128
_ROWS = 4096

Reading = Literal["sequence", "prefix"]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of a discriminator.

    Attributes:
        vocabulary: number of token ids.
        emotions: number of labels; the condition has one weight more.
        reading: sequence (every position sees the whole text, one score a row) or prefix (causal, one score a position).
        width: of embeddings and states.
        layers: Transformer blocks.
        heads: of attention.
        dropout: in training only; scoring is always done in eval mode.
    """

    vocabulary: int
    emotions: int
    reading: Reading = "sequence"
    width: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 2:
            raise SettingsError(f"discriminator width {self.width} does not split into {self.heads} heads of an even width")


class Discriminator(nn.Module):
    """Reads a row (context, BOS, reply, EOS) together with the emotion that was asked for."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.reading: Reading = config.reading
        self.embedding = nn.Embedding(config.vocabulary, config.width, padding_idx=PAD)
        self.condition = nn.Linear(config.emotions + 1, config.width, bias=False)
        self.encoder = Encoder(config.width, config.layers, config.heads, config.dropout, causal=config.reading == "prefix")
        self.head = nn.Linear(config.width, 1)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)

    def forward(self, tokens: Tensor, emotion: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Log odds that the text is real.

        Args:
            tokens: [batch, time], padded at the end; padding and what stands behind an end token change nothing.
            emotion: [batch, emotions + 1].
            vectors: [batch, time, width], read in place of the tokens' own; which places count is still the tokens' to say.

        Returns:
            Reading sequence: [batch]. Reading prefix: [batch, time], at each position for the text up to and with it.
        """
        present = present_tokens(tokens)
        words = self.embedding(tokens) if vectors is None else vectors
        states = self.encoder(words + self.condition(emotion)[:, None], present)
        odds: Tensor = self.head(states if self.reading == "prefix" else mean_of(states, present))
        return odds.squeeze(-1).float()

    def last_layer(self) -> list[nn.Parameter]:
        """Return what its score is linear in."""
        return list(self.head.parameters())


class PretrainedDiscriminator(nn.Module):
    """Scores a row by what a pretrained encoder makes of its text, whatever vocabulary it was written in.

    It sees both ways, so it has one score a row and none for a prefix.
    """

    reading: Reading = "sequence"

    def __init__(self, reader: PretrainedReader) -> None:
        super().__init__()
        self.reader = reader
        self.head = nn.Linear(reader.width, 1)

    def forward(self, tokens: Tensor, emotion: Tensor) -> Tensor:
        """Log odds [batch] that the text is real; arguments as for `Discriminator.forward`."""
        odds: Tensor = self.head(self.reader(tokens, emotion))
        return odds.squeeze(-1).float()

    def last_layer(self) -> list[nn.Parameter]:
        """Return what its score is linear in."""
        return list(self.head.parameters())


AnyDiscriminator = Discriminator | PretrainedDiscriminator | LikelihoodRatioDiscriminator


@torch.no_grad()
def adopt_embedding(discriminator: Discriminator, vectors: Tensor) -> None:
    """Give the discriminator word vectors that another model has learnt, reduced to its width by their principal components.

    From scratch a Transformer needs thousands of updates before it tells real from generated text better than chance.

    Args:
        discriminator: changed in place; its vectors keep the size that they were initialised to.
        vectors: [vocabulary, any width], from a model of the same vocabulary.
    """
    centred = (vectors - vectors.mean(0)).float()
    width = min(discriminator.config.width, centred.shape[1])
    _, directions = torch.linalg.eigh(centred.T @ centred)
    reduced = centred @ directions[:, -width:]
    scale = discriminator.config.width**-0.5 / reduced.std()
    discriminator.embedding.weight[:, :width] = reduced * scale
    discriminator.embedding.weight[PAD].zero_()


@contextmanager
def without_dropout(discriminator: AnyDiscriminator) -> Iterator[None]:
    """Eval mode for a while; afterwards, or after an error, the mode that it was in."""
    training = discriminator.training
    discriminator.eval()
    try:
        yield
    finally:
        discriminator.train(training)


@torch.no_grad()
def score(discriminator: AnyDiscriminator, tokens: Tensor, emotion: Tensor, chunk: int = 0) -> Tensor:
    """Return scores without gradient and without dropout, whatever mode the discriminator is in; it is left in that mode.

    Args:
        discriminator: the model.
        tokens: [batch, time].
        emotion: [batch, emotions + 1].
        chunk: rows scored at once, which bounds the memory; 0 for what suits the device.

    Returns:
        What the discriminator's `forward` returns.
    """
    chunk = chunk or (_ROWS_IN_CACHE if tokens.device.type == "cpu" else _ROWS)
    with without_dropout(discriminator):
        pieces = zip(torch.split(tokens, chunk), torch.split(emotion, chunk), strict=True)
        return torch.cat([discriminator(*piece) for piece in pieces])


def of_whole_texts(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return one score a row from what a discriminator's `forward` returned: of prefixes, the one at the row's last token.

    Args:
        scores: [batch] or [batch, time].
        tokens: [batch, time], that they are the scores of.
    """
    if scores.ndim == 1:
        return scores
    return last_of(scores, present_tokens(tokens).sum(1))
