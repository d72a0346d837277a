"""How likely texts are under a language model: another's, or a small one that is trained on generated text."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from emogen.checkpoint.model import EmotionModel, load
from emogen.data.batches import Limits, TokenArrays, batches, token_arrays
from emogen.data.exchange import Exchange
from emogen.emotions.labels import LabelSet, no_emotion
from emogen.errors import DataError, UndefinedScoreError
from emogen.models.device import choose_device
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.likelihood import reply_nll
from emogen.pretrained.loading import PREFIX, Pretrained, load_causal_model
from emogen.text.tokenizer import BOS, EOS, PAD, SentencePieceTokenizer, Tokenizer, train_tokenizer
from emogen.train.config import LmSettings
from emogen.train.loops.mle import train_mle, with_no_latent
from emogen.train.run.state import TrainState, adamw

_AT_ONCE = 32
_CHARACTERS_AT_ONCE = 4096
_MAX_TOKENS = 512
_ONE_LABEL = LabelSet(("any",))


@dataclass(frozen=True)
class CausalModel:
    """A causal language model of Hugging Face.

    Attributes:
        name: for signatures.
        pretrained: model and tokenizer, in eval mode.
    """

    name: str
    pretrained: Pretrained

    @torch.inference_mode()
    def nll(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return negative log-likelihood of each text and its end token, [texts], in nats.

        A text's first token follows a begin token.

        A text of more than 512 tokens, or of more than the model can read, is cut.
        """
        return _in_batches(texts, self._nll)

    def _nll(self, texts: Sequence[str]) -> NDArray[np.float64]:
        begin, end = self._marks()
        tokenizer, model = self.pretrained.tokenizer, self.pretrained.model
        longest = min(_MAX_TOKENS, self.pretrained.longest - 2)
        read = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=longest)["input_ids"]
        rows = [[begin, *ids, end] for ids in read]
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=end)
        present = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        device = next(model.parameters()).device
        logits = model(input_ids=tokens.to(device), attention_mask=present.long().to(device)).logits[:, :-1].float().cpu()
        nats = functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        return np.asarray((nats * present[:, 1:]).sum(1).double().numpy())

    def _marks(self) -> tuple[int, int]:
        begin, end = self.pretrained.tokenizer.bos_token_id, self.pretrained.tokenizer.eos_token_id
        if end is None:
            raise DataError(f"{self.name}: its tokenizer has no end token; take another language model")
        return end if begin is None else begin, end


@dataclass(frozen=True)
class OwnModel:
    """A generator of this toolkit, asked for no emotion and no context.

    Attributes:
        name: for signatures.
        generator: the model.
        tokenizer: its own.
        labels: the emotions it knows.
    """

    name: str
    generator: Generator
    tokenizer: Tokenizer
    labels: LabelSet

    @torch.inference_mode()
    def nll(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return negative log-likelihood of each text and its end token, [texts], in nats."""
        self.generator.eval()
        return _in_batches(texts, self._nll)

    def _nll(self, texts: Sequence[str]) -> NDArray[np.float64]:
        device = self.generator.bias.device
        rows = [torch.tensor([BOS, *self.tokenizer.encode(text)[:_MAX_TOKENS], EOS]) for text in texts]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(device)
        emotion = torch.tensor([no_emotion(self.labels).condition] * len(rows), device=device)
        starts = torch.ones(len(rows), dtype=torch.long, device=device)
        nats, _ = reply_nll(self.generator, tokens, starts, with_no_latent(self.generator, emotion))
        return np.asarray(nats.sum(1).double().cpu().numpy())


LanguageModel = CausalModel | OwnModel


def load_language_model(name: str, device: str = "cpu") -> LanguageModel:
    """Return a language model by `hf:NAME-OR-FOLDER[:FILE.gguf]`, or a checkpoint of this toolkit by its folder.

    Raises:
        CheckpointError: there is none of that name.
    """
    if name.startswith(PREFIX):
        found = load_causal_model(name)
        found.model.to(choose_device(device)).eval()
        return CausalModel(Path(name.removeprefix(PREFIX)).name, found)
    return own_model(load(name, device))


def own_model(checkpoint: EmotionModel) -> OwnModel:
    """Return a loaded generator as a language model."""
    return OwnModel(checkpoint.folder.name, checkpoint.generator, checkpoint.tokenizer, checkpoint.labels)


@dataclass(frozen=True)
class ReverseTraining:
    """The small model of reverse perplexity: an LSTM from scratch.

    Attributes:
        width: of embeddings and states.
        epochs: passes over the texts.
        batch_size: texts an update.
        learning_rate: at its peak.
        seed: of weights, order and dropout.
    """

    width: int = 256
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 2e-3
    seed: int = 0


def train_reverse(texts: Sequence[str], training: ReverseTraining | None = None) -> OwnModel:
    """Return a small language model trained on generated texts; tested on real ones it gives reverse perplexity.

    Source: Zhao et al. 2018, Adversarially regularized autoencoders.

    Raises:
        UndefinedScoreError: no text, or nothing in them.
    """
    training = training or ReverseTraining()
    kept = [text for text in texts if text.strip()]
    if not kept:
        raise UndefinedScoreError("no text to train the model of reverse perplexity on")
    torch.manual_seed(training.seed)
    # No size of its own: a size that is asked for is exact, and more than few or repetitive texts can give.
    tokenizer = train_tokenizer(kept, seed=training.seed)
    with tempfile.TemporaryDirectory(prefix="emogen-") as cache:
        arrays = _arrays(kept, tokenizer, Path(cache))
        return _train(arrays, tokenizer, training)


def _train(arrays: TokenArrays, tokenizer: SentencePieceTokenizer, training: ReverseTraining) -> OwnModel:
    generator = Generator(GeneratorConfig(tokenizer.vocabulary, 1, "lstm", training.width, dropout=0.3))
    state = TrainState({"generator": generator}, {"generator": adamw(generator, 0.01)}, torch.Generator())
    settings = LmSettings(learning_rate=training.learning_rate, emotion_dropout=0.0, seed=training.seed)
    steps = training.epochs * math.ceil(len(arrays) / training.batch_size)
    for step in islice(train_mle(generator, batches(arrays, training.batch_size, training.seed), settings, state), steps):
        state.progress = step.number / steps
    name = f"lstm{training.width}x{training.epochs}s{training.seed}"
    return OwnModel(name, generator.eval(), tokenizer, _ONE_LABEL)


def _arrays(texts: Iterable[str], tokenizer: Tokenizer, cache: Path) -> TokenArrays:
    emotion = no_emotion(_ONE_LABEL)
    limits = Limits(0, _MAX_TOKENS)
    return token_arrays(
        "generated", lambda: (Exchange((), text, emotion, "train") for text in texts), tokenizer, _ONE_LABEL, limits, cache
    )["train"]


def _in_batches(texts: Sequence[str], nll: Callable[[Sequence[str]], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return texts of similar length together, results in the texts' order."""
    nats = np.zeros(len(texts))
    waiting = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    while waiting:
        # Scores over a whole vocabulary are large: long texts go in small batches.
        longest = len(texts[waiting[min(_AT_ONCE, len(waiting)) - 1]])
        size = max(1, min(_AT_ONCE, _CHARACTERS_AT_ONCE // max(1, longest)))
        positions, waiting = waiting[:size], waiting[size:]
        nats[positions] = nll([texts[place] for place in positions])
    return nats
