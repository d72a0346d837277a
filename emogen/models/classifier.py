"""Text classifiers: four backbones behind the same call, from a bag of n-grams to a pretrained encoder."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from emogen.errors import SettingsError
from emogen.models.transformer import Encoder, mean_of
from emogen.pretrained.loading import Pretrained
from emogen.text.words import words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Backbone = Literal["ngrams", "cnn", "transformer", "pretrained"]

_KERNELS = (1, 2, 3, 4)
_SUBWORDS = (3, 4, 5)
_SCORED_AT_ONCE = 128


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is made of and how its scores become decisions.

    Attributes:
        emotions: number of labels.
        backbone: ngrams, cnn and transformer are trained from scratch; pretrained begins with an encoder of Hugging Face.
        buckets: n-grams and pieces of words are hashed to so many ids.
        width: of an embedding.
        order: longest word n-gram (all but pretrained).
        filters: of each of the kernel sizes 1 to 4 (cnn).
        layers: Transformer blocks (transformer).
        heads: of attention (transformer).
        dropout: share of hashed ids, and of features, dropped in training.
        max_tokens: a longer text is cut.
        encoder: the encoder's own config (pretrained).
        multi_label: whether a text may have several labels, or none.
        temperature: the scores are divided by it, so that probabilities are what held-out rows show (Guo et al. 2017).
        thresholds: probability from which each label is given (multi_label); none takes a half.
        scripts: in which its training rows were written, as `scripts_of` names them; none where that is not known, or where an
            encoder was pretrained on others.
    """

    emotions: int
    backbone: Backbone = "ngrams"
    buckets: int = 1 << 16
    width: int = 16
    order: int = 2
    filters: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.3
    max_tokens: int = 256
    encoder: Mapping[str, Any] = field(default_factory=dict)
    multi_label: bool = False
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    scripts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        own = () if self.backbone == "pretrained" else ("buckets", "width", "order", "filters", "layers", "heads")
        for name in ("emotions", "max_tokens", *own):
            if not isinstance(size := getattr(self, name), int) or size < 1:
                raise SettingsError(f"classifier {name} {size!r} is no whole number of at least 1")
        if self.backbone == "transformer" and (self.width % self.heads or self.width // self.heads % 2):
            raise SettingsError(f"classifier width {self.width} does not split into {self.heads} heads of an even width")
        if len(self.thresholds) not in (0, self.emotions):
            raise SettingsError(f"{len(self.thresholds)} thresholds for {self.emotions} emotions; give one for each, or none")
        if not self.temperature > 0:
            raise SettingsError(f"temperature {self.temperature:g} is not above 0")

    @property
    def architecture(self) -> str:
        """Return what a judge and a guide must not share.

        >>> ClassifierConfig(emotions=7, backbone="cnn").architecture
        'classifier cnn'
        """
        if self.backbone != "pretrained":
            return f"classifier {self.backbone}"
        sizes = "x".join(str(self.encoder.get(name, "?")) for name in ("num_hidden_layers", "hidden_size"))
        return f"classifier {self.encoder.get('model_type', 'pretrained')} {sizes}"


@dataclass(frozen=True)
class Pieces:
    """A text as ids in groups that are embedded together.

    Attributes:
        ids: of all groups, one after another.
        sizes: ids in each group: all n-grams of the text, the pieces of one word, or one token.
    """

    ids: list[int]
    sizes: list[int]


class _Features(nn.Module):
    """What a backbone is: pieces of a text, and vectors [texts, size] from those of several."""

    def __init__(self, config: ClassifierConfig, size: int) -> None:
        super().__init__()
        self.config = config
        self.size = size

    def read(self, text: str) -> Pieces:
        raise NotImplementedError


class Classifier(nn.Module):
    """Text to a score for each emotion: the backbone's features, dropout, a linear layer."""

    def __init__(self, config: ClassifierConfig, pretrained: Pretrained | None = None) -> None:
        super().__init__()
        self.config = config
        self.features = _features(config, pretrained)
        self.head = nn.Linear(self.features.size, config.emotions)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return scores of the emotions, [texts, emotions]."""
        return self.scores([self.read(text) for text in texts])

    def read(self, text: str) -> Pieces:
        """Return the ids of a text, the same whenever it is read; a blank text has some too."""
        return self.features.read(text)

    def scores(self, texts: Sequence[Pieces]) -> Tensor:
        """Return scores of texts that are read already, [texts, emotions]."""
        features = self.features(texts)
        if self.config.backbone != "ngrams":
            features = functional.dropout(features, self.config.dropout, self.training)
        scores: Tensor = self.head(features)
        return scores.float()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Return the tokenizer of a pretrained encoder; the other backbones hash and need none."""
        return self.features.tokenizer if isinstance(self.features, _PretrainedFeatures) else None


def _features(config: ClassifierConfig, pretrained: Pretrained | None) -> _Features:
    if config.backbone == "pretrained":
        if pretrained is None:
            raise SettingsError("a pretrained backbone needs its encoder and tokenizer")
        return _PretrainedFeatures(config, pretrained)
    own: dict[str, type[_Ngrams | _Convolutions | _Transformer]] = {
        "ngrams": _Ngrams,
        "cnn": _Convolutions,
        "transformer": _Transformer,
    }
    return own[config.backbone](config)


class _Ngrams(_Features):
    """A bag of hashed word n-grams (Joulin et al. 2017, fastText): their vectors' sum over the root of their number."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config, config.width)
        self.vectors = _HashedVectors(config)

    def read(self, text: str) -> Pieces:
        tokens = words(text)[: self.config.max_tokens] or [""]
        ids = [
            hash_string(gram, self.config.buckets)
            for gram in [
                " ".join(tokens[at : at + n]) for n in range(1, self.config.order + 1) for at in range(len(tokens) - n + 1)
            ]
        ]
        return Pieces(ids, [len(ids)])

    def forward(self, texts: Sequence[Pieces]) -> Tensor:
        vectors: Tensor = self.vectors(texts)
        return vectors


class _Convolutions(_Features):
    """Convolutions over words, the largest answer of each filter (Kim 2014); a word is the sum of its pieces' vectors."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config, config.filters * len(_KERNELS))
        self.vectors = _HashedVectors(config)
        self.kernels = nn.ModuleList(nn.Conv1d(config.width, config.filters, size) for size in _KERNELS)

    def read(self, text: str) -> Pieces:
        return _word_pieces(text, self.config)

    def forward(self, texts: Sequence[Pieces]) -> Tensor:
        stream, present = _pad(self.vectors(texts), texts)
        stream = functional.dropout(stream, self.config.dropout, self.training)
        # Zeros on both sides: a short text has an answer too, and all texts have one to zeros alone, whatever pads them.
        stream = functional.pad((stream * present[..., None]).transpose(1, 2), (max(_KERNELS), max(_KERNELS)))
        answers = [functional.relu(kernel(stream)).amax(2) for kernel in self.kernels]
        return torch.cat(answers, 1)


class _Transformer(_Features):
    """Transformer blocks over words that are made of their pieces; the mean of their states."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config, config.width)
        self.vectors = _HashedVectors(config)
        self.encoder = Encoder(config.width, config.layers, config.heads, config.dropout, causal=False)

    def read(self, text: str) -> Pieces:
        return _word_pieces(text, self.config)

    def forward(self, texts: Sequence[Pieces]) -> Tensor:
        stream, present = _pad(self.vectors(texts), texts)
        return mean_of(self.encoder(stream, present), present)


class _PretrainedFeatures(_Features):
    """A pretrained encoder, its states averaged."""

    def __init__(self, config: ClassifierConfig, pretrained: Pretrained) -> None:
        super().__init__(config, int(pretrained.model.config.hidden_size))  # type: ignore[union-attr, arg-type]
        self.tokenizer = pretrained.tokenizer
        self.encoder = pretrained.model
        self.longest = min(config.max_tokens, pretrained.longest)

    def read(self, text: str) -> Pieces:
        # A tokenizer without special tokens finds nothing in a blank text.
        ids = self.tokenizer(text, truncation=True, max_length=self.longest)["input_ids"] or [self.tokenizer.pad_token_id or 0]
        return Pieces(list(ids), [1] * len(ids))

    def forward(self, texts: Sequence[Pieces]) -> Tensor:
        device = next(self.parameters()).device
        rows = [torch.tensor(text.ids) for text in texts]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0).to(device)
        present = _present([len(row) for row in rows], device)
        return mean_of(self.encoder(input_ids=tokens, attention_mask=present.long()).last_hidden_state, present)


class _HashedVectors(nn.Module):
    """One vector a group of hashed ids: their sum over the root of their number; some ids are dropped in training."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.bags = nn.EmbeddingBag(config.buckets, config.width, mode="sum")
        nn.init.uniform_(self.bags.weight, -1 / config.width, 1 / config.width)

    def forward(self, texts: Sequence[Pieces]) -> Tensor:
        """Return vectors [groups, width] of all groups of all texts, one after another."""
        device = self.bags.weight.device
        ids = torch.tensor([number for text in texts for number in text.ids], dtype=torch.long)
        sizes = torch.tensor([size for text in texts for size in text.sizes], dtype=torch.long, device=device)
        kept = torch.rand(len(ids)) >= self.dropout if self.training else torch.ones(len(ids))
        summed: Tensor = self.bags(ids.to(device), sizes.cumsum(0) - sizes, per_sample_weights=kept.float().to(device))
        return summed / sizes.clamp(min=1)[:, None] ** 0.5


def hash_string(gram: str, buckets: int) -> int:
    """Return the id of a string, the same in every process."""
    return zlib.crc32(gram.encode("utf-8", "replace")) % buckets


def _word_pieces(text: str, config: ClassifierConfig) -> Pieces:
    """Return each word as itself, its runs of 3 to 5 characters (Bojanowski et al. 2017), and the n-grams that begin with it.

    Where words are single characters, as in Chinese, these n-grams are the words.
    """
    tokens = words(text)[: config.max_tokens] or [""]
    groups = [_pieces_of(word, config.buckets) for word in tokens]
    for at, group in enumerate(groups):
        longest = min(config.order, len(tokens) - at)
        group += [hash_string(" ".join(tokens[at : at + n]), config.buckets) for n in range(2, longest + 1)]
    return Pieces([number for group in groups for number in group], [len(group) for group in groups])


def _pieces_of(word: str, buckets: int) -> list[int]:
    marked = f"<{word}>"
    runs = {marked[at : at + size] for size in _SUBWORDS for at in range(len(marked) - size + 1)} - {marked}
    return [hash_string(piece, buckets) for piece in (marked, *sorted(runs))]


def _pad(vectors: Tensor, texts: Sequence[Pieces]) -> tuple[Tensor, Tensor]:
    """Return vectors [groups, width] as [texts, time, width], zero behind a text's end, and.

    This holds where there is one [texts, time].
    """
    lengths = [len(text.sizes) for text in texts]
    present = _present(lengths, vectors.device)
    stream = vectors.new_zeros(*present.shape, vectors.shape[1])
    stream[present] = vectors
    return stream, present


def _present(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]


@torch.no_grad()
def emotion_scores(classifier: Classifier, texts: Sequence[Pieces]) -> Tensor:
    """Return scores [texts, emotions] in eval mode, on the CPU.

    The mode is left as it was. Texts of similar length go together.
    """
    training = classifier.training
    classifier.eval()
    order = sorted(range(len(texts)), key=lambda at: len(texts[at].ids))
    scores = torch.zeros(len(texts), classifier.config.emotions)
    try:
        for at in range(0, len(order), _SCORED_AT_ONCE):
            positions = order[at : at + _SCORED_AT_ONCE]
            scores[positions] = classifier.scores([texts[place] for place in positions]).cpu()
        return scores
    finally:
        classifier.train(training)


def probabilities_of(scores: Tensor, config: ClassifierConfig) -> Tensor:
    """Return scores [..., emotions] as calibrated probabilities: that sum to 1, or each on its own (multi_label)."""
    calibrated = scores / config.temperature
    return calibrated.sigmoid() if config.multi_label else calibrated.softmax(-1)


def emotion_probabilities(classifier: Classifier, texts: Sequence[str]) -> Tensor:
    """Return probabilities [texts, emotions], in eval mode."""
    return probabilities_of(emotion_scores(classifier, [classifier.read(text) for text in texts]), classifier.config)


def decide_labels(probabilities: Tensor, config: ClassifierConfig) -> Tensor:
    """Tell which labels are given, [texts, emotions] bool: the likeliest, or all that reach their threshold (multi_label)."""
    if not config.multi_label:
        return functional.one_hot(probabilities.argmax(-1), config.emotions).bool()
    return probabilities >= torch.tensor(config.thresholds or (0.5,) * config.emotions)
