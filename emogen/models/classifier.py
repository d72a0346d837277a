"""A small text classifier: a bag of hashed word n-grams (Joulin et al. 2017, fastText)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emogen.words import words


@dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of a classifier.

    Attributes:
        emotions: number of labels.
        buckets: n-grams are hashed to so many ids.
        width: of an n-gram's vector.
        order: longest n-gram.
        dropout: share of n-grams dropped in training.
    """

    emotions: int
    buckets: int = 1 << 16
    width: int = 16
    order: int = 2
    dropout: float = 0.3


class Classifier(nn.Module):
    """Text to emotion probabilities: its n-gram vectors' sum over the square root of their number, then a linear layer."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.vectors = nn.EmbeddingBag(config.buckets, config.width, mode="sum")
        self.head = nn.Linear(config.width, config.emotions)
        nn.init.uniform_(self.vectors.weight, -1 / config.width, 1 / config.width)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Scores of the emotions, [texts, emotions]."""
        return self.scores([ngram_ids(text, self.config) for text in texts])

    def scores(self, grams: Sequence[Sequence[int]]) -> Tensor:
        """Scores of texts given as n-gram ids, [texts, emotions]."""
        device = self.head.bias.device
        ids = torch.tensor([gram for text in grams for gram in text], dtype=torch.long)
        sizes = torch.tensor([len(text) for text in grams], dtype=torch.long, device=device)
        kept = torch.rand(len(ids)) >= self.config.dropout if self.training else torch.ones(len(ids))
        summed = self.vectors(ids.to(device), sizes.cumsum(0) - sizes, per_sample_weights=kept.float().to(device))
        scores: Tensor = self.head(summed / sizes.clamp(min=1)[:, None] ** 0.5)
        return scores


def ngram_ids(text: str, config: ClassifierConfig) -> list[int]:
    """Hashed ids of the text's word n-grams up to the config's order; a blank text has one of its own."""
    tokens = words(text) or [""]
    grams = (" ".join(tokens[at : at + n]) for n in range(1, config.order + 1) for at in range(len(tokens) - n + 1))
    return [zlib.crc32(gram.encode("utf-8", "replace")) % config.buckets for gram in grams]


@torch.no_grad()
def emotion_probabilities(classifier: Classifier, texts: Sequence[str]) -> Tensor:
    """Probabilities [texts, emotions], in eval mode."""
    classifier.eval()
    probabilities: Tensor = classifier(texts).softmax(-1)
    return probabilities
