"""SeqGAN's oracle: what adversarial training adds to maximum likelihood where the true distribution is known.

    python evaluate/oracle.py --oracle seqgan_oracle.npz --work runs/oracle --seeds 3

The protocol (Yu et al. 2017): a fixed LSTM with random weights writes 10,000 sequences to train on. `nll_oracle` is what the
generator's own samples cost under that oracle, `nll_heldout` what fresh samples of the oracle cost under the generator, both
in nats a token. The first alone says nothing: sampling at a lower temperature lowers it. So each system is measured over
temperatures, beside maximum likelihood's own curve and beside two controls whose reward can teach nothing.

The generator is an LSTM of width 32 with one layer, as published, but with a residual connection around it. Its epoch, and
every setting here, was chosen by held-out samples, never by `nll_oracle`.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from torch import Tensor, nn

from emogen.atomic import replacing, write_text
from emogen.data.batches import Batch
from emogen.decoding.draws import Draws
from emogen.decoding.sampling import Prefixes, generate, inverse_cdf
from emogen.errors import DataError
from emogen.evaluate.report import command_of, write_result
from emogen.losses import token_nll
from emogen.models.generator import Generator, GeneratorConfig
from emogen.text import BOS, EOS
from emogen.train.config import MleConfig
from emogen.train.memory import keep_freed_memory
from emogen.train.mle import train_mle
from emogen.train.state import TrainState, adamw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULT = Path("evaluate/results/oracle.json")
TEMPERATURES = (1.2, 1.1, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
ROWS, HELD_OUT, SAMPLED = 10_000, 5_000, 5_000
VOCABULARY, WIDTH, CHUNK = 5_000, 32, 500
ABOVE = 0.2
SPECIAL = EOS + 2
"""Ids that the package keeps for itself; the oracle's word w is our id w + SPECIAL."""
NEVER = -1e4
PUBLISHED = {"random": 10.31, "MLE": 9.038, "SeqGAN": 8.736, "RankGAN": 8.247, "LeakGAN": 7.038, "RelGAN": 6.68, "real": 5.75}
"""Under SeqGAN's oracle at length 20, from the papers; RelGAN's table for the last two."""


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
        """The first words read and the state before them."""
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
    """The oracle in an .npz file with SeqGAN's names: `embeddings`, `Wi Ui bi` and so on for each gate, `Wo bo`.

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
    """An oracle whose weights are all drawn from the standard normal distribution, as SeqGAN's were."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((vocabulary, width), (4 * width, width), (4 * width, width), (4 * width,), (vocabulary, width), (vocabulary,))
    return Oracle(*(torch.randn(shape, generator=random) for shape in shapes))


def drawn(oracle: Oracle, rows: int, length: int, key: int) -> Tensor:
    """Samples of the oracle, [rows, length]; another key gives others."""
    return torch.cat([_drawn(oracle, rows=part, draws=Draws(key), length=length) for part in torch.arange(rows).split(CHUNK)])


def _drawn(oracle: Oracle, rows: Tensor, draws: Draws, length: int) -> Tensor:
    (words, state), sequence = oracle.start(len(rows)), []
    for place in range(length):
        log_probs, state = oracle.step(words, state)
        words = inverse_cdf(log_probs.exp(), draws.uniforms(rows, place))
        sequence.append(words)
    return torch.stack(sequence, 1)


def oracle_nll(oracle: Oracle, sequences: Tensor) -> float:
    """Negative log-likelihood of sequences [rows, length] of the oracle's words, in nats a word."""
    nats = 0.0
    for part in sequences.split(CHUNK):
        words, state = oracle.start(len(part))
        for following in part.T:
            log_probs, state = oracle.step(words, state)
            nats -= float(log_probs.gather(1, following[:, None]).sum(dtype=torch.float64))
            words = following
    return nats / sequences.numel()


def sequences_of(oracle: Oracle, length: int, rows: int = ROWS, held_out: int = HELD_OUT) -> Sequences:
    """Training, valid and test samples of the oracle."""
    parts = (drawn(oracle, size, length, key) for key, size in enumerate((rows, held_out, held_out)))
    return Sequences(*(torch.cat([torch.full((len(part), 1), BOS), part + SPECIAL], 1) for part in parts))


def as_batch(tokens: Tensor) -> Batch:
    """Sequences [rows, 1 + length] that ask for no emotion."""
    emotion = torch.tensor([[0.0, 1.0]]).repeat(len(tokens), 1)
    return Batch(tokens, torch.ones(len(tokens), dtype=torch.int64), emotion)


def shuffled_batches(tokens: Tensor, size: int, seed: int) -> Iterator[Batch]:
    """Batches without end, every epoch in a new order."""
    random = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(tokens), generator=random).split(size):
            yield as_batch(tokens[rows])


def fresh_generator(vocabulary: int, seed: int, dropout: float = 0.0) -> Generator:
    """The published size, with an output matrix of its own, that never writes an end token."""
    torch.manual_seed(seed)
    config = GeneratorConfig(vocabulary + SPECIAL, 1, backbone="lstm", width=WIDTH, layers=1, dropout=dropout)
    generator = Generator(config)
    generator.output = nn.Embedding(config.vocabulary, WIDTH)
    nn.init.normal_(generator.output.weight, std=WIDTH**-0.5)
    with torch.no_grad():
        generator.bias[EOS] = NEVER
    return generator


@torch.no_grad()
def sampled(generator: Generator, rows: int, length: int, temperature: float, key: int) -> Tensor:
    """Samples of the generator, [rows, 1 + length]."""
    generator.eval()
    draws, parts = Draws(key), []
    for numbers in torch.arange(rows).split(CHUNK):
        given = as_batch(torch.full((len(numbers), 1), BOS))

        def choose(scores: Tensor, places: Tensor, number: int, numbers: Tensor = numbers) -> Tensor:
            return inverse_cdf((scores.float() / temperature).softmax(-1), draws.uniforms(numbers[places], number))

        parts.append(generate(generator, Prefixes(given.tokens, given.reply_start, given.emotion), length, choose).tokens)
    return torch.cat(parts)


@torch.no_grad()
def token_nlls(generator: Generator, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Negative log-likelihood of each word of sequences under the generator at that temperature, [rows, length], nats."""
    generator.eval()
    parts = []
    for rows in tokens.split(CHUNK):
        batch = as_batch(rows)
        logits = generator.logits(generator(rows[:, :-1], batch.emotion).flatten(0, 1)).float() / temperature
        parts.append(token_nll(logits, rows[:, 1:].flatten()).view(len(rows), -1))
    return torch.cat(parts)
