"""The oracle, the sequences it writes, and how likely sequences are under it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.loop import PromptBatch, generate
from emogen.decoding.sampler import LogitsSampler, inverse_cdf
from emogen.errors import DataError
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.losses import token_nll
from emogen.text.tokenizer import BOS, EOS, SPECIAL

if TYPE_CHECKING:
    pass


ROWS, HELD_OUT, SAMPLED = 10_000, 5_000, 5_000
VOCABULARY, WIDTH, CHUNK, STEPS = 5_000, 32, 500, 100


READERS, BATCH, WEIGHT_DECAY, REPORT_EVERY = 1, 32, 0.1, 25


_READER = 1000


NEVER = -1e4


Row = dict[str, Any]


Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Oracle:
    """A fixed LSTM language model without an end token; a sequence's first word follows word 0.

    Attributes:
        embeddings: [vocabulary, width].
        of_word: [4 * width, width], gates in PyTorch's order: input, forget, cell, output.
        of_state: likewise.
        bias: [4 * width].
        output: [vocabulary, width].
        output_bias: [vocabulary].
    """

    embeddings: Tensor
    of_word: Tensor
    of_state: Tensor
    bias: Tensor
    output: Tensor
    output_bias: Tensor

    def step(self, words: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Log probabilities [rows, vocabulary] of the next word after `words` [rows], and the state then."""
        gates = (self.of_word, self.of_state, self.bias, torch.zeros_like(self.bias))
        hidden, cell = torch.lstm_cell(self.embeddings[words], state, *gates)
        return (hidden @ self.output.T + self.output_bias).log_softmax(-1), (hidden, cell)

    def start(self, rows: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the first words read and the state before them."""
        zeros = torch.zeros(rows, self.of_state.shape[1])
        return torch.zeros(rows, dtype=torch.int64), (zeros, zeros)


@dataclass(frozen=True)
class Sequences:
    """Samples of an oracle in the package's ids, [rows, 1 + length] each, BOS in front and no end token.

    Attributes:
        train: what models learn from.
        valid: chooses epoch and settings.
        test: is reported.
    """

    train: Tensor
    valid: Tensor
    test: Tensor


def load_oracle(path: Path) -> Oracle:
    """Return the oracle in an .npz file with SeqGAN's names: `embeddings`, `Wi Ui bi` and so on for each gate, `Wo bo`.

    Raises:
        DataError: the file cannot be read, or lacks one of them.
    """
    try:
        with np.load(path) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        gates = [[arrays[f"{kind}{gate}"] for gate in ("i", "f", "c", "og")] for kind in "WUb"]
        of_word, of_state, bias = (torch.cat(parts, -1) for parts in gates)
        words = arrays["embeddings"], arrays["Wo"].T.contiguous(), arrays["bo"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: is no oracle ({error}); leave out --oracle for one of our own") from error
    return Oracle(words[0], of_word.T.contiguous(), of_state.T.contiguous(), bias, *words[1:])


def own_oracle(seed: int, vocabulary: int = VOCABULARY, width: int = WIDTH) -> Oracle:
    """Return an oracle whose weights are all drawn from the standard normal distribution, as SeqGAN's were."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((vocabulary, width), (4 * width, width), (4 * width, width), (4 * width,), (vocabulary, width), (vocabulary,))
    return Oracle(*(torch.randn(shape, generator=random) for shape in shapes))


def drawn(oracle: Oracle, rows: int, length: int, key: int) -> Tensor:
    """Return samples of the oracle, [rows, length]; another key gives others."""
    return torch.cat(
        [_drawn(oracle, rows=part, draws=CounterRNG(key), length=length) for part in torch.split(torch.arange(rows), CHUNK)]
    )


def _drawn(oracle: Oracle, rows: Tensor, draws: CounterRNG, length: int) -> Tensor:
    (words, state), sequence = oracle.start(len(rows)), []
    for place in range(length):
        log_probs, state = oracle.step(words, state)
        words = inverse_cdf(log_probs.exp(), draws.uniforms(rows, place))
        sequence.append(words)
    return torch.stack(sequence, 1)


def oracle_nll(oracle: Oracle, sequences: Tensor) -> float:
    """Return negative log-likelihood of sequences [rows, length] of the oracle's words, in nats a word."""
    nats = 0.0
    for part in torch.split(sequences, CHUNK):
        words, state = oracle.start(len(part))
        for following in part.T:
            log_probs, state = oracle.step(words, state)
            nats -= float(log_probs.gather(1, following[:, None]).sum(dtype=torch.float64))
            words = following
    return nats / sequences.numel()


def sequences_of(oracle: Oracle, length: int, rows: int = ROWS, held_out: int = HELD_OUT) -> Sequences:
    """Return training, valid and test samples of the oracle."""
    parts = (drawn(oracle, size, length, key) for key, size in enumerate((rows, held_out, held_out)))
    return Sequences(*(torch.cat([torch.full((len(part), 1), BOS), part + SPECIAL], 1) for part in parts))


def as_batch(tokens: Tensor) -> Batch:
    """Return sequences [rows, 1 + length] that ask for no emotion."""
    emotion = torch.tensor([[0.0, 1.0]]).repeat(len(tokens), 1)
    return Batch(tokens, torch.ones(len(tokens), dtype=torch.int64), emotion)


def shuffled_batches(tokens: Tensor, size: int, seed: int) -> Iterator[Batch]:
    """Yield batches without end, every epoch in a new order."""
    random = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.split(torch.randperm(len(tokens), generator=random), size):
            yield as_batch(tokens[rows])


def fresh_generator(vocabulary: int, seed: int, dropout: float = 0.0) -> Generator:
    """Return the published size, with an output matrix of its own, that never writes an end token."""
    torch.manual_seed(seed)
    config = GeneratorConfig(vocabulary + SPECIAL, 1, backbone="lstm", width=WIDTH, layers=1, dropout=dropout)
    generator = Generator(config)
    generator.output = nn.Embedding(config.vocabulary, WIDTH)
    nn.init.normal_(generator.output.weight, std=WIDTH**-0.5)
    with torch.no_grad():
        generator.bias[EOS] = NEVER
    return generator


class WarmSampler(LogitsSampler):
    """Draws at a temperature, with random numbers that depend on the row's number alone."""

    def __init__(self, draws: CounterRNG, numbers: Tensor, temperature: float) -> None:
        self.draws, self.numbers, self.temperature = draws, numbers, temperature

    def choose(self, logits: Tensor, rows: Tensor, number: int) -> Tensor:
        """See `LogitsSampler.choose`."""
        return inverse_cdf((logits.float() / self.temperature).softmax(-1), self.draws.uniforms(self.numbers[rows], number))


@torch.no_grad()
def sampled(generator: Generator, rows: int, length: int, temperature: float, key: int) -> Tensor:
    """Return samples of the generator, [rows, 1 + length]."""
    generator.eval()
    draws, parts = CounterRNG(key), []
    for numbers in torch.split(torch.arange(rows), CHUNK):
        given = as_batch(torch.full((len(numbers), 1), BOS))

        sampler = WarmSampler(draws, numbers, temperature)
        parts.append(generate(generator, PromptBatch(given.tokens, given.reply_start, given.emotion), length, sampler).tokens)
    return torch.cat(parts)


@torch.no_grad()
def token_nlls(generator: Generator, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Return negative log-likelihood of each word of sequences under the generator at that temperature, [rows, length].

    Nats.
    """
    generator.eval()
    parts = []
    for rows in torch.split(tokens, CHUNK):
        batch = as_batch(rows)
        logits = generator.logits(generator(rows[:, :-1], batch.emotion).flatten(0, 1)).float() / temperature
        parts.append(token_nll(logits, rows[:, 1:].flatten()).view(len(rows), -1))
    return torch.cat(parts)
