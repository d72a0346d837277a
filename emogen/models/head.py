"""The emotion head: for every next token, how likely the text then has each emotion, without a second pass of the generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emogen.models.generator import Generator


class EmotionHead(nn.Module):
    """Scores of each emotion, given the generator's state and the next token.

    The score of emotion e for token x is `(U_e D state) . vector(x) + b_e(x)`: a bilinear form of low rank and a bias. A
    softmax over the emotions makes probabilities of them. What steers decoding is their centred log ratio, log p(e) less the
    mean over the emotions, in which the normaliser of the softmax falls away. So it is linear in the state: steering adds a
    vector to the state and a few bias rows to the scores, and costs no second product with the vocabulary.

    Source: the shape is Director's (Arora et al. 2022, one classifier output a token); the low rank, and the centred log ratio
    in place of a classifier for each emotion, are ours.
    """

    def __init__(self, width: int, emotions: int, vocabulary: int, rank: int = 32) -> None:
        """A head whose scores are all 0.

        Args:
            width: of the generator's states.
            emotions: number of labels.
            vocabulary: number of token ids.
            rank: of the bilinear form.
        """
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Parameter(torch.zeros(emotions, width, rank))
        self.bias = nn.Parameter(torch.zeros(emotions, vocabulary))

    def forward(self, states: Tensor, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Return scores of the emotions [places, emotions].

        Args:
            states: [places, width], of the generator before each token.
            vectors: [places, width], output vectors of the tokens.
            tokens: [places], their ids.
        """
        read = torch.einsum("nw,ewr->ner", vectors, self.up)
        return torch.einsum("ner,nr->ne", read, self.down(states)) + self.bias[:, tokens].T

    def steer_hidden(self, states: Tensor, weights: Tensor) -> Tensor:
        """Return states [rows, width] whose scores hold `weights` [rows, emotions] times the emotions' bilinear part."""
        weighted: Tensor = weights[:, :, None] * self.down(states)[:, None]
        return states + weighted.flatten(1) @ self.up.transpose(1, 2).flatten(0, 1)

    def add_biases(self, scores: Tensor, weights: Tensor) -> Tensor:
        """Add the other part to `scores` [rows, vocabulary], in place."""
        added: Tensor = scores.addmm_(weights, self.bias)
        return added


def head_of(generator: Generator, rank: int = 32) -> EmotionHead:
    """Return a fresh head for a generator."""
    config = generator.config
    return EmotionHead(config.width, config.emotions, config.vocabulary, rank)


def output_vectors(generator: Generator, tokens: Tensor) -> Tensor:
    """Return the vectors [places, width] by which the generator scores `tokens` [places]."""
    vectors = generator.embedding if generator.output is None else generator.output
    found: Tensor = vectors(tokens)
    return found
