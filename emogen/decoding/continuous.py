"""A batch that never has to wait for its longest row: rows join at any step, and leave as soon as they have ended."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from emogen.decoding.control import Control
from emogen.decoding.controllers import ControlledSampler
from emogen.decoding.loop import read_prefixes
from emogen.decoding.params import SamplingParams
from emogen.decoding.random_streams import row_uniforms
from emogen.decoding.sampler import TRIES, LogitsSampler, build_sampler
from emogen.decoding.texts import IncrementalDetokenizer, Prompt, Row, TextGenerator, build_controlled, streamed_rows
from emogen.errors import SettingsError
from emogen.models.generator import Generator
from emogen.text.tokenizer import EOS

_MORE_ROWS = 16
_MORE_PLACES = 32
# The axis of a decoding state that runs over the places of its tokens; the axis before last, which an LSTM's does not have.
_PLACES = 4


@dataclass(frozen=True)
class Delta:
    """What one step has written of one reply.

    Attributes:
        number: of the reply, `Request.number`.
        text: what comes next; empty where a character is not whole yet, and at an end token.
        tokens: of the reply so far, the end token included.
        ended: by what the reply has ended, its end token or the limit of its length; None while it goes on.
    """

    number: int
    text: str
    tokens: int
    ended: Literal["end", "limit"] | None


@dataclass(frozen=True, eq=False)
class Request:
    """A reply that is asked for, from `ContinuousBatch.prepare`; it is written once.

    Attributes:
        number: that its pieces have.
        row: what it is written from.
        filters: temperature and filters alone, so that rows that share them are equal here.
        uniforms: [tokens, tries], its random numbers.
        written: so far.
        caller: on whose behalf.
    """

    number: int
    row: Row
    filters: SamplingParams
    uniforms: Tensor
    written: IncrementalDetokenizer
    caller: str = ""


class ContinuousBatch:
    """Replies with prompts, controls, filters, lengths and seeds of their own, written in one batch a token a step.

    Each is, token for token, what `texts.stream` gives for its prompt alone. Nothing here waits or knows of threads: a caller
    calls `step` until `is_idle`, and between two steps `join` and `cancel`.

    Source: batching by iteration, after Orca (Yu et al. 2022).
    """

    def __init__(self, writer: TextGenerator, max_batch_size: int = 64) -> None:
        """An empty batch.

        Args:
            writer: the generator and what steers it; its guide is not used.
            max_batch_size: replies that are written at once, their company not counted; more wait, and
                different callers take turns.
        """
        if max_batch_size < 1:
            raise SettingsError(f"most rows {max_batch_size}: allowed is 1 or more")
        self._writer, self._most_rows = writer, max_batch_size
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._numbers = itertools.count(1)
        self._rows: _Rows | None = None

    @property
    def is_idle(self) -> bool:
        """Tell whether no reply is being written or waits."""
        return not (self._running or self._waiting)

    @property
    def running(self) -> int:
        """Return how many replies are being written."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Return how many replies wait for room, or for the next step."""
        return len(self._waiting)

    def join(self, prompt: Prompt, sampling: SamplingParams) -> int:
        """Ask for a reply, which begins with the next step where there is room; give the number of its pieces.

        Arguments and errors as for `prepare`.
        """
        request = self.prepare(prompt, sampling)
        self.enter(request)
        return request.number

    def enter(self, request: Request) -> None:
        """Put a reply that was prepared among those that wait."""
        self._waiting.append(request)

    def prepare(self, prompt: Prompt, sampling: SamplingParams, caller: str = "") -> Request:
        """Return a reply to be entered, checked and with its random numbers. Alone of all methods, it is safe in any thread.

        Args:
            prompt: its context and emotion, and what else is its own.
            sampling: its options; its `n` is 1.
            caller: on whose behalf.

        Raises:
            SettingsError: the reply may become longer than the model reads, a controller that the writer cannot serve or that
                chooses among whole texts, several replies at once, or a prompt that is not for this model.
        """
        if sampling.n != 1:
            raise SettingsError(f"n {sampling.n}: a running batch writes one reply a prompt; join it once for each seed")
        conditioning, known, words = (
            prompt.conditioning or prompt.emotion,
            self._writer.generator.config.emotions,
            self._writer.generator.config.vocabulary,
        )
        if len(conditioning.labels) != known:
            raise SettingsError(
                f"emotion {conditioning} is over {len(conditioning.labels)} labels, {self._writer.name} has {known}; "
                "take its own"
            )
        if not prompt.tokens:
            raise SettingsError("a prompt without tokens; begin it with `Tokenizer.prefix`, which gives one token at least")
        for place, token in enumerate(prompt.tokens):
            if not 0 <= token < words:
                raise SettingsError(
                    f"token {token} at place {place} of a prompt: {self._writer.name} has ids from 0 to {words - 1}"
                )
        (row,) = streamed_rows(self._writer, [prompt], sampling)
        filters = replace(sampling, control=Control(), max_tokens=1, seed=0)
        uniforms = row_uniforms([row.stream], TRIES * sampling.max_tokens).view(TRIES, sampling.max_tokens).T
        written = IncrementalDetokenizer(self._writer.tokenizer, sampling.max_tokens)
        return Request(next(self._numbers), row, filters, uniforms, written, caller)

    def cancel(self, number: int) -> None:
        """Take a reply out, at once; one that has ended meanwhile is let be."""
        self._waiting = [reply for reply in self._waiting if reply.number != number]
        self._keep([reply.number != number for reply in self._running])

    def clear(self) -> None:
        """Take all replies out, as after a `step` that raised."""
        self._waiting.clear()
        self._running.clear()
        self._rows = None

    @torch.no_grad()
    def step(self) -> list[Delta]:
        """Write one token of each running reply, and of as many that wait as there is room for.

        Returns:
            A piece for each reply that wrote, those that joined first in front; none where the batch is idle.
        """
        if self._rows:
            self._rows.advance()
        self._admit(min(len(self._waiting), self._most_rows - len(self._running)))
        if not self._rows:
            return []
        pieces = [
            Delta(reply.number, reply.written.take(token), len(reply.written.tokens), reply.written.ended)
            for reply, token in zip(self._running, self._rows.pick().tolist(), strict=True)
        ]
        self._keep([piece.ended is None for piece in pieces])
        return pieces

    def _admit(self, count: int) -> None:
        """Read the prefixes of some that wait: each of the caller who has the fewest being written, the first of those."""
        if not count:
            return
        newcomers: list[Request] = []
        written = Counter(reply.caller for reply in self._running)
        for _ in range(count):
            chosen = min(self._waiting, key=lambda reply: written[reply.caller])
            self._waiting.remove(chosen)
            newcomers.append(chosen)
            written[chosen.caller] += 1
        self._running += newcomers
        sampler = build_controlled(self._writer, [reply.row for reply in newcomers], _RunningSampler(self._running))
        read = _Rows(self._writer.generator.eval(), sampler)
        if self._rows:
            self._rows.join(read)
        else:
            self._rows = read

    def _keep(self, stays: Sequence[bool]) -> None:
        """Let all running replies go but those that stay, and company that has left."""
        self._running[:] = [reply for reply, stay in zip(self._running, stays, strict=True) if stay]
        if not self._running:
            self._rows = None
        elif self._rows:
            self._rows.keep(torch.tensor(stays))


class _RunningSampler(LogitsSampler):
    """Samples rows with the same filters at once, each with the random numbers of its own next token."""

    def __init__(self, running: list[Request]) -> None:
        self._running = running

    def choose(self, logits: Tensor, rows: Tensor, number: int) -> Tensor:
        replies = [self._running[row] for row in rows.tolist()]
        uniforms = torch.stack([reply.uniforms[len(reply.written.tokens)] for reply in replies]).to(logits.device)
        chosen = torch.zeros_like(rows)
        for filters in dict.fromkeys(reply.filters for reply in replies):
            alike = torch.tensor([place for place, reply in enumerate(replies) if reply.filters == filters]).to(logits.device)
            sampler = build_sampler(filters, uniforms[alike])
            chosen[alike] = sampler.choose(logits[alike], torch.arange(len(alike)), 0)
        return chosen


class _Rows:
    """The tensors of all rows that are decoded, company included, in any order.

    Decoding states stand in the corner of a tensor with room for more rows and places. Rows at the end move into the places of
    those that leave. So most steps copy no state, and few copy all.
    """

    def __init__(self, generator: Generator, choice: ControlledSampler) -> None:
        """Read the prefixes of the rows of `choice`."""
        self._generator, self._choice = generator, choice
        prefixes = choice.company.prefixes
        self._shifts = generator.condition_shift(prefixes.condition)
        self._hidden, self._room = read_prefixes(generator, prefixes, self._shifts, prefixes.tokens.shape[1])
        self._read = prefixes.lengths
        self._tokens = torch.zeros_like(self._read)
        self._numbers = torch.arange(len(self._read), device=self._read.device)

    @property
    def _places(self) -> int:
        """Return how many places of the decoding state are in use, soft tokens included."""
        adapter = self._generator.config.adapter
        return (adapter.prefix if adapter else 0) + int(self._read.max())

    @property
    def _state(self) -> Tensor:
        """Return the decoding state: what is in use of the room."""
        return _corner(self._room, len(self._read), self._places)

    def pick(self) -> Tensor:
        """Return the next tokens of those that are asked for, in the order in which they joined."""
        self._tokens, _ = self._choice.sample(self._generator, self._hidden, self._numbers, 0)
        company = self._choice.company
        target = company.is_asked
        return self._tokens.new_zeros(company.target).index_put((company.row_index[target],), self._tokens[target])

    def advance(self) -> None:
        """Read the tokens that were picked."""
        positions, self._read = self._read, self._read + 1
        self._make_room(len(positions), self._places)
        state = self._state
        self._hidden, after = self._generator.step(self._tokens, positions, self._shifts, state)
        if after is not state:
            state.copy_(after)

    def join(self, others: _Rows) -> None:
        """Take in others that have picked no token yet, where these have read theirs."""
        at, state = len(self._read), others._state
        self._choice = self._choice.join(others._choice)
        self._shifts, self._hidden = torch.cat([self._shifts, others._shifts], 1), torch.cat([self._hidden, others._hidden])
        self._make_room(at + len(others._read), max(self._places, others._places))
        self._read = torch.cat([self._read, others._read])
        self._numbers = torch.arange(len(self._read), device=self._read.device)
        freed = self._room[:, :, at : len(self._read)].zero_()
        _corner(freed, state.shape[2], others._places).copy_(state)

    def keep(self, stays: Tensor) -> None:
        """Close up behind those, of the rows that are asked for, that do not stay, and behind company that has left.

        Between `pick` and `advance`.
        """
        staying = stays.to(self._read.device)[self._choice.company.row_index] & (self._tokens != EOS)
        kept = staying.nonzero().squeeze(1)
        if len(kept) == len(staying):
            return
        free = (~staying[: len(kept)]).nonzero().squeeze(1)
        order = self._numbers[: len(kept)].index_put((free,), kept[len(kept) - len(free) :])
        self._room[:, :, free] = self._room[:, :, order[free]]
        self._choice, self._shifts = self._choice.of(order), self._shifts[:, order]
        self._read, self._tokens, self._numbers = self._read[order], self._tokens[order], self._numbers[: len(kept)]

    def _make_room(self, rows: int, places: int) -> None:
        """Make room for so many rows and places, and some more."""
        has_rows, has_places = self._room.shape[2], places if self._room.dim() <= _PLACES else self._room.shape[_PLACES]
        if rows <= has_rows and places <= has_places:
            return
        sizes = list(self._room.shape)
        sizes[2] = _rounded_up(rows, _MORE_ROWS)
        if len(sizes) > _PLACES:
            sizes[_PLACES] = _rounded_up(places, _MORE_PLACES)
        state, self._room = self._state, self._room.new_zeros(sizes)
        _corner(self._room, state.shape[2], state.shape[_PLACES] if state.dim() > _PLACES else 0).copy_(state)


def _corner(state: Tensor, rows: int, places: int) -> Tensor:
    """Return the first rows and places of a decoding state; that of an LSTM has no places."""
    return state[:, :, :rows, :, :places] if state.dim() > _PLACES else state[:, :, :rows]


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step
