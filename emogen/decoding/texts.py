"""From prompts to texts: batches of rows, each with its own emotion, control and random stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emogen.decoding.control import CHOICES, Control
from emogen.decoding.controllers import ControlledSampler, expand_conditions, neutral_place, refuse_unserved, weights_of
from emogen.decoding.loop import PromptBatch, generate, token_loop
from emogen.decoding.minimum_risk import least_risk
from emogen.decoding.params import SamplingParams
from emogen.decoding.random_streams import fold_in, row_normals, row_uniforms
from emogen.decoding.sampler import TRIES, LogitsSampler, Sampler, build_sampler
from emogen.emotions.labels import Emotion
from emogen.errors import SettingsError
from emogen.models.generator import Generator
from emogen.models.head import EmotionHead
from emogen.text.tokenizer import EOS, PAD, Tokenizer

_ROWS = 256
_SCORES = 1 << 26
_WEIGHTS = 1 << 33
_LEAST = 1e-9

Guide = Callable[[Sequence[str]], NDArray[np.float64]]
"""Takes texts; give probabilities [texts, labels] over the generator's labels."""


@dataclass(frozen=True)
class Sample:
    """One generated reply.

    Attributes:
        text: the reply.
        emotion: what was asked for; "none" for no emotion.
        log_probability: of the reply under the model as it was steered, at temperature 1 and without filters, in nats, its end
            token included.
        tokens: their number, the end token included.
        finished: whether the model ended it; false where max_tokens cut it.
    """

    text: str
    emotion: str
    log_probability: float
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Prompt:
    """What one reply is asked for with.

    Attributes:
        tokens: context tokens and BOS, from `Tokenizer.prefix`.
        emotion: over the generator's labels.
        conditioning: what the model is told in its place: the same, but for a calibration.
        control: in place of that of `SamplingParams`.
        seed: of its own random streams, so that its replies depend on no other prompt; else they go by its place in the call.
    """

    tokens: Sequence[int]
    emotion: Emotion
    conditioning: Emotion | None = None
    control: Control | None = None
    seed: int | None = None


@dataclass(frozen=True)
class TextGenerator:
    """All that writes.

    Attributes:
        generator: in whatever mode; it decodes in eval mode.
        tokenizer: the generator's.
        head: the generator's, where it has one.
        guide: chooses among candidates, where there is one.
        name: for messages.
    """

    generator: Generator
    tokenizer: Tokenizer
    head: EmotionHead | None = None
    guide: Guide | None = None
    name: str = "the model"


@dataclass(frozen=True)
class Row:
    """One text to be written.

    Attributes:
        prompt: what it is asked for with, control included.
        stream: of its random numbers.
        latent: [latent], where it is given.
    """

    prompt: Prompt
    stream: int
    latent: Tensor | None

    @property
    def conditioning(self) -> Emotion:
        """Return what the model is told."""
        return self.prompt.conditioning or self.prompt.emotion

    @property
    def control(self) -> Control:
        """Return what steers it."""
        return self.prompt.control or Control()


def sample(
    writer: TextGenerator, prompts: Sequence[Prompt], sampling: SamplingParams, latent: Tensor | None = None
) -> Iterator[Sample]:
    """Yield `sampling.n` replies to each prompt, those of one prompt after another.

    Args:
        writer: the generator and what steers it.
        prompts: each with a context and an emotion of its own.
        sampling: the options.
        latent: [prompts * n, latent] in place of draws from the prior.

    Raises:
        SettingsError: a reply may become longer than the model reads, or a controller that the writer cannot serve.
    """
    rows = _rows(writer, prompts, sampling, latent)
    for part in _parts(writer, rows):
        candidates = [
            (replace(row, stream=fold_in(row.stream, 0, number)) if number else row)
            for row in part
            for number in range(row.control.candidates)
        ]
        written = [found for some in _parts(writer, candidates) for found in _decode_rows(writer, some, sampling)]
        left = iter(written)
        groups = [(row, [next(left) for _ in range(row.control.candidates)]) for row in part]
        judged = iter(_log_probs(writer, [one.text for row, own in groups if row.control.rerank > 1 for one in own]))
        for row, own in groups:
            if row.control.mbr > 1:
                yield own[least_risk([one.text for one in own])]
            elif row.control.rerank > 1:
                yield own[_nearest(row, np.stack([next(judged) for _ in own]))]
            else:
                yield own[0]


def stream(writer: TextGenerator, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[tuple[int, str]]:
    """Yield the replies of `sample`, as they are written: the number of a reply and the next piece of its text.

    Joined, the pieces of a reply are its text, but for blanks at its ends. All replies are in one batch. Arguments and errors
    as for `sample`; `rerank` and `mbr` are refused, since they choose among whole texts.
    """
    yield from ((row, piece) for row, piece, _ in stream_steps(writer, prompts, sampling) if piece)


def stream_steps(writer: TextGenerator, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[tuple[int, str, bool]]:
    """Stream as `stream` does, a step of each reply at a time.

    Its number, a piece that may be empty, and whether it has ended.
    """
    rows = streamed_rows(writer, prompts, sampling)
    if not rows:
        return
    prefixes, sampler = _prepare(writer, rows, sampling)
    written = [IncrementalDetokenizer(writer.tokenizer, sampling.max_tokens) for _ in rows]
    for chosen in token_loop(writer.generator, prefixes, sampling.max_tokens, sampler):
        for row, token in zip(chosen.rows.tolist(), chosen.tokens.tolist(), strict=True):
            if row < len(rows) and token != PAD:
                yield row, written[row].take(token), written[row].ended is not None


class IncrementalDetokenizer:
    """The text of one reply, piece by piece as its tokens are written; a character of several tokens comes whole.

    Attributes:
        tokens: those that were taken.
    """

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        """Of a reply that is cut after `most` tokens."""
        self.tokens: list[int] = []
        self._tokenizer, self._most, self._conditioning = tokenizer, most, 0

    @property
    def ended(self) -> Literal["end", "limit"] | None:
        """Return by what the reply has ended, its end token or the limit; None while it goes on."""
        if self.tokens and self.tokens[-1] == EOS:
            return "end"
        return "limit" if len(self.tokens) == self._most else None

    def take(self, token: int) -> str:
        """Return the next piece, once `token` is written; empty where it ends no character."""
        self.tokens.append(token)
        text = self._tokenizer.decode(self.tokens)
        # Bytes of a character that is not whole yet are shown as a replacement character.
        if not self.ended and text.endswith("�"):
            return ""
        conditioning, self._conditioning = self._conditioning, max(self._conditioning, len(text))
        return text[conditioning:]


def streamed_rows(writer: TextGenerator, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[Row]:
    """Return the rows of `stream`; arguments and errors as there."""
    for prompt in prompts:
        if choice := (prompt.control or sampling.control).choice:
            raise SettingsError(f"control {choice}: chooses among whole texts, which a stream has not; leave it out")
    return _rows(writer, prompts, sampling, None)


def _rows(writer: TextGenerator, prompts: Sequence[Prompt], sampling: SamplingParams, latent: Tensor | None) -> list[Row]:
    """Return the rows of a call, refused where the writer cannot serve them."""
    target = [replace(prompt, control=prompt.control or sampling.control) for prompt in prompts]
    if target:
        refuse_unserved([prompt.control or Control() for prompt in target], writer.head, writer.guide is not None, writer.name)
        longest, most = max(len(prompt.tokens) for prompt in target), writer.generator.backbone.longest
        if longest + sampling.max_tokens > most:
            raise SettingsError(
                f"--max-tokens {sampling.max_tokens} behind {longest} tokens of context: the model reads {most}; lower it"
            )
    numbered = [(prompt, number) for prompt in target for number in range(sampling.n)]
    return [
        Row(
            prompt,
            fold_in(sampling.seed, place) if prompt.seed is None else fold_in(prompt.seed, number),
            None if latent is None else latent[place],
        )
        for place, (prompt, number) in enumerate(numbered)
    ]


def _parts(writer: TextGenerator, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield the rows, some at a time: as many as with their company bound the scores that are held, and the work of a step."""
    generator = writer.generator
    company = max((3 + generator.config.emotions * (row.control.bayes > 0) for row in rows), default=1)
    weights = sum(parameter.numel() for parameter in generator.parameters())
    size = max(1, min(_ROWS, _SCORES // (company * len(generator.bias)), _WEIGHTS // weights))
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


def _decode_rows(writer: TextGenerator, rows: Sequence[Row], sampling: SamplingParams) -> Iterator[Sample]:
    """Yield the samples of rows that are decoded at once."""
    prefixes, sampler = _prepare(writer, rows, sampling)
    generated = generate(writer.generator, prefixes, sampling.max_tokens, sampler)
    totals = generated.log_probs.sum(1).tolist()
    # The company of the rows, behind them, wrote the same.
    for row, tokens, total in zip(rows, generated.tokens.tolist(), totals, strict=False):
        reply = tokens[len(row.prompt.tokens) :]
        kept = reply[: reply.index(PAD)] if PAD in reply else reply
        yield Sample(writer.tokenizer.decode(kept).strip(), row.prompt.emotion.shown, total, len(kept), EOS in kept)


def _prepare(writer: TextGenerator, rows: Sequence[Row], sampling: SamplingParams) -> tuple[PromptBatch, Sampler]:
    """Return what the token loop is given."""
    generator = writer.generator.eval()
    uniforms = row_uniforms([row.stream for row in rows], TRIES * sampling.max_tokens).to(generator.bias.device)
    sampler = build_sampler(sampling, uniforms)
    if not any(set(row.control.names) - set(CHOICES) for row in rows):
        return _pad_rows(rows, generator), sampler
    steered = build_controlled(writer, rows, sampler)
    return steered.company.prefixes, steered


def build_controlled(writer: TextGenerator, rows: Sequence[Row], sampler: LogitsSampler) -> ControlledSampler:
    """Build the sampler of rows in the company that their controls need; `sampler` as in `ControlledSampler`."""
    prefixes = _pad_rows(rows, writer.generator)
    weights = weights_of([row.conditioning for row in rows], [row.control for row in rows], prefixes.tokens.device)
    company = expand_conditions(prefixes, weights, neutral_place(rows[0].conditioning))
    return ControlledSampler(company, weights, sampler, writer.head)


@torch.no_grad()
def _pad_rows(rows: Sequence[Row], generator: Generator) -> PromptBatch:
    device = generator.bias.device
    tokens = [torch.tensor(row.prompt.tokens) for row in rows]
    condition = torch.tensor([row.conditioning.condition for row in rows], device=device)
    noise = row_normals([row.stream for row in rows], generator.config.latent).to(device)
    drawn = generator.prior(condition).sample(noise)
    latents = [drawn[place] if row.latent is None else row.latent.to(device) for place, row in enumerate(rows)]
    return PromptBatch(
        tokens=nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD).to(device),
        lengths=torch.tensor([len(row) for row in tokens], device=device),
        condition=torch.cat([condition, torch.stack(latents)], 1),
    )


def _log_probs(writer: TextGenerator, texts: Sequence[str]) -> NDArray[np.float64]:
    """Return what the guide finds, [texts, labels]; it is not asked where there is nothing to judge."""
    if not texts or writer.guide is None:
        return np.zeros((0, 0))
    found: NDArray[np.float64] = np.log(np.maximum(writer.guide(texts), _LEAST))
    return found


def _nearest(row: Row, log_probs: NDArray[np.float64]) -> int:
    """Return the candidate nearest to the row's emotion: with the smallest divergence of its probabilities from the mixture."""
    # A weaker emotion chooses among fewer.
    allowed = 1 + round((row.control.rerank - 1) * row.conditioning.strength)
    return int(np.argmax(log_probs[:allowed] @ np.asarray(row.conditioning.weights)))
