"""A pretrained encoder that reads the rows of a generator as text: for a discriminator, and for the posterior of a VAE."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from emogen.errors import CheckpointError
from emogen.models.transformer import mean_of, present_tokens
from emogen.pretrained.loading import Pretrained
from emogen.text.base_tokenizer import PretrainedTokenizer
from emogen.text.tokenizer import BOS, EOS, SPECIAL, TURN, Tokenizer

# Transformers takes seconds to import: only where a pretrained model is asked for.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Ids = tuple[int, ...]

_PROBE = "a"
_AT_ONCE = 64
_CONTEXTS = 4096


@dataclass(frozen=True)
class TextMarks:
    """What an encoder's tokenizer puts around texts, as its own ids.

    Attributes:
        front: before everything.
        between: behind a text that another follows.
        end: behind the last text.
        types: the type of the first and of the second text of a pair; none where the encoder tells none apart.
    """

    front: Ids
    between: Ids
    end: Ids
    types: Ids


@dataclass(frozen=True)
class EncoderRow:
    """A row in the ids of an encoder; from `second` on they are of the second text of a pair."""

    ids: list[int]
    second: int


class RowTexts:
    """The rows of a generator as rows of an encoder: decoded, tokenised anew, with the encoder's own marks.

    The utterances of the context and the reply stand one behind the other with the encoder's mark between them. The mark at the
    end stands behind a reply that has its end token, and not behind one that was cut. What is longer than the encoder reads
    loses the oldest of its context, then the last of its reply.
    """

    def __init__(self, words: Tokenizer, pretrained: Pretrained) -> None:
        """Read rows of the generator whose tokenizer is `words`; raise CheckpointError as `text_marks` does."""
        self.tokenizer = pretrained.tokenizer
        self.marks = text_marks(pretrained.tokenizer, pretrained.name)
        self._words = words
        self._room = pretrained.longest - len(self.marks.front) - len(self.marks.end)
        self._turns = _between_turns(words)
        # The completions of one reply, a thousand of them, share its context.
        self._context = lru_cache(_CONTEXTS)(self._read_context)

    def read(self, tokens: Tensor, with_context: bool) -> list[EncoderRow]:
        """Return rows `context, BOS, reply, EOS` [batch, time]; what stands behind an end token, and padding, is not read."""
        present = present_tokens(tokens)
        begins = (tokens == BOS).int().argmax(1).tolist()
        ended = ((tokens == EOS) & present).any(1).tolist()
        rows = [row[:length] for row, length in zip(tokens.tolist(), present.sum(1).tolist(), strict=True)]
        replies = self._ids([self._words.decode(row[begin + 1 :]) for row, begin in zip(rows, begins, strict=True)])
        contexts = [self._context(tuple(row[:begin])) if with_context else () for row, begin in zip(rows, begins, strict=True)]
        return [self._row(*parts) for parts in zip(contexts, replies, ended, strict=True)]

    def _row(self, context: Ids, reply: Sequence[int], ended: bool) -> EncoderRow:
        kept = reply[: self._room]
        front = (*self.marks.front, *context[max(0, len(context) + len(kept) - self._room) :])
        ids = [*front, *kept, *(self.marks.end if ended else ())]
        return EncoderRow(ids or list(self.marks.end), len(front) if context else len(ids))

    def _read_context(self, ids: Ids) -> Ids:
        """Return the utterances of a context, each with the mark behind it that another text follows."""
        parts = self._turns.split("".join(map(chr, ids)))
        turns = self._ids([self._words.decode(map(ord, part)) for part in parts if part])
        return tuple(place for turn in turns for place in (*turn, *self.marks.between))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Return ids without marks; marks that are written out in a text are plain text, else a generator could write them."""
        if not texts:
            return []
        read = self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return cast("list[list[int]]", read["input_ids"])


class PretrainedReader(nn.Module):
    """One vector for each row of a generator: the mean of a pretrained encoder's states of its text.

    The emotion enters as a learnt map of the condition, at first zero, that is added to the word vectors.
    """

    def __init__(self, pretrained: Pretrained, words: Tokenizer, emotions: int) -> None:
        """A reader that is trained together with its encoder.

        Args:
            pretrained: the encoder, with its own tokenizer.
            words: the tokenizer of the generator whose rows are read.
            emotions: number of labels; the condition has one weight more.

        Raises:
            CheckpointError: the model decodes as well, or its tokenizer puts no mark behind a text.
        """
        super().__init__()
        self.texts = RowTexts(words, pretrained)
        self.encoder = cast("PreTrainedModel", pretrained.model)
        if self.encoder.config.is_encoder_decoder:
            raise CheckpointError(
                f"{pretrained.name}: encodes and decodes; name a model that is an encoder alone, such as BERT"
            )
        self.width = int(self.encoder.config.hidden_size)
        self.condition = nn.Linear(emotions + 1, self._vectors.embedding_dim, bias=False)
        nn.init.zeros_(self.condition.weight)

    @property
    def config(self) -> Mapping[str, Any]:
        """Return the encoder's own config, from which `build_encoder` makes another."""
        return cast("Mapping[str, Any]", self.encoder.config.to_diff_dict())

    @property
    def _vectors(self) -> nn.Embedding:
        return cast("nn.Embedding", self.encoder.get_input_embeddings())

    def forward(self, tokens: Tensor, emotion: Tensor, with_context: bool = True) -> Tensor:
        """Return vectors [batch, width].

        Args:
            tokens: [batch, time], rows as the generator takes them.
            emotion: [batch, emotions + 1].
            with_context: whether the context is read too, or the reply alone.
        """
        rows = self.texts.read(tokens, with_context)
        # Rows of similar length together: less padding, and on a CPU small parts stay in its cache.
        order = sorted(range(len(rows)), key=lambda row: len(rows[row].ids))
        parts = [order[at : at + _AT_ONCE] for at in range(0, len(order), _AT_ONCE)]
        pooled = torch.cat([self._pool([rows[row] for row in part], emotion[part]) for part in parts])
        return pooled[torch.tensor(order, device=pooled.device).argsort()]

    def _pool(self, rows: Sequence[EncoderRow], emotion: Tensor) -> Tensor:
        padded = nn.utils.rnn.pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True).to(emotion.device)
        positions = torch.arange(padded.shape[1], device=emotion.device)
        present = positions < torch.tensor([[len(row.ids)] for row in rows], device=emotion.device)
        stream = self._vectors(padded) + self.condition(emotion)[:, None]
        states = self.encoder(inputs_embeds=stream, attention_mask=present.long(), **self._types(rows, positions))
        return mean_of(states.last_hidden_state, present)

    def _types(self, rows: Sequence[EncoderRow], positions: Tensor) -> dict[str, Tensor]:
        if not self.texts.marks.types:
            return {}
        first, second = self.texts.marks.types
        is_second = positions >= torch.tensor([[row.second] for row in rows], device=positions.device)
        return {"token_type_ids": torch.where(is_second, second, first)}


def pretrained_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the weights of pretrained encoders inside `module`.

    They know much already, and want smaller steps than the rest.
    """
    readers = [part for part in module.modules() if isinstance(part, PretrainedReader)]
    return [weight for reader in readers for weight in reader.encoder.parameters()]


def text_marks(tokenizer: PreTrainedTokenizerBase, name: str) -> TextMarks:
    """Return the marks of an encoder's tokenizer, found by reading a text, and a pair of texts.

    Raises:
        CheckpointError: it puts none behind a text.
    """
    plain = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    alone, pair = tokenizer(_PROBE), tokenizer(_PROBE, _PROBE)
    ids = list(alone["input_ids"])
    begin = ids.index(plain[0])
    end = ids[begin + len(plain) :]
    if not end:
        raise CheckpointError(
            f"{name}: its tokenizer puts no mark (sep token) behind a text, so that an ended reply would look like a cut one; "
            "name an encoder such as BERT or RoBERTa"
        )
    second = len(pair["input_ids"]) - len(end) - len(plain)
    types = pair.get("token_type_ids")
    return TextMarks(
        front=tuple(ids[:begin]),
        between=tuple(pair["input_ids"][begin + len(plain) : second]),
        end=tuple(end),
        types=(types[begin], types[second]) if types else (),
    )


def _between_turns(words: Tokenizer) -> re.Pattern[str]:
    """Find what stands before, between and behind the utterances of a context, where each id is written as one character."""
    runs: set[Ids] = {(TURN,)}
    if isinstance(words, PretrainedTokenizer):
        start, user, reply = words.format.start, words.format.user, words.format.reply
        marks = (start, user.before, user.after, reply.before, reply.before[:-1], reply.after)
        runs = {tuple(SPECIAL + place for place in run) for run in marks if run}
    longest_first = sorted(runs, key=lambda run: (-len(run), run))
    return re.compile("|".join(re.escape("".join(map(chr, run))) for run in longest_first))
