"""A Hugging Face tokenizer under our `Tokenizer` protocol, with the turns of a dialogue marked as its model marks them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from emogen.errors import CheckpointError
from emogen.text.tokenizer import BOS, EOS, PAD, SPECIAL, TURN, UNKNOWN, check_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]
_SAID = ("\u2042first\u2042", "\u2042second\u2042", "\u2042third\u2042")


@dataclass(frozen=True)
class Marks:
    """What stands around an utterance, as ids of the base."""

    before: Ids
    after: Ids


@dataclass(frozen=True)
class TurnFormat:
    """How a base model tells turns apart.

    Attributes:
        start: in front of everything.
        user: around an utterance of the one who is replied to.
        reply: around an utterance of the one who replies; the reply to be written begins behind `reply.before`.
    """

    start: Ids
    user: Marks
    reply: Marks


class PretrainedTokenizer:
    """The tokenizer of a base model. Our id is its id + 5; our five special ids come first.

    A row is `context, BOS, reply, EOS` here as everywhere: BOS stands for the last of the marks behind which the base's replies
    begin, EOS for the end token of the base, so that their vectors can be taken from it.
    """

    def __init__(self, base: PreTrainedTokenizerBase, name: str) -> None:
        """Wrap `base`; raise CheckpointError where it has no end token."""
        if base.eos_token_id is None:
            raise CheckpointError(
                f"{name}: its tokenizer has no end token, so no reply would end; set eos_token in its tokenizer_config.json"
            )
        self._base = base
        self.format = chat_format(base) or text_format(base)

    @property
    def vocabulary(self) -> int:
        """Return the number of ids, our five special ones included."""
        return SPECIAL + len(self._base)

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the vocabulary, the rules and the marks."""
        rules = self._base.backend_tokenizer.to_str() if self._base.is_fast else repr(sorted(self._base.get_vocab().items()))
        return hashlib.sha256(f"{rules}{self.format}".encode()).hexdigest()

    @cached_property
    def vectors(self) -> Ids:
        """Return ids of the base whose vectors our special ids begin with, in their order: PAD, UNKNOWN, BOS, EOS, TURN."""
        end = int(self._base.eos_token_id)
        opening = (self.format.reply.before or (end,))[-1]
        vectors = {
            PAD: end,
            UNKNOWN: self._base.unk_token_id,
            BOS: opening,
            EOS: end,
            TURN: (self.format.user.after or (end,))[0],
        }
        return tuple(end if vectors[place] is None else int(vectors[place]) for place in range(SPECIAL))

    @cached_property
    def marks(self) -> Ids:
        """Return our ids of the base's special tokens, none of which belongs into a reply."""
        added = {place for place, token in self._base.added_tokens_decoder.items() if token.special}
        return tuple(sorted(SPECIAL + place for place in added | set(self._base.all_special_ids)))

    def encode(self, text: str) -> list[int]:
        """Return ids of `text`; marks of the base that are written out in it are plain text.

        Raises DataError as in `check_text`.
        """
        check_text(text)
        ids = self._base.encode(text, add_special_tokens=False, split_special_tokens=True)
        return [SPECIAL + place for place in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; special ids stand for nothing."""
        kept = [place - SPECIAL for place in ids if place >= SPECIAL]
        text = self._base.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def prefix(self, context: Sequence[str], most: int) -> list[int]:
        """Return what stands before a reply, in the format of the base: whole utterances while they fit, the last of them cut.

        Args:
            context: utterances, oldest first; the newest is the user's.
            most: ids of the context that are kept, marks around its utterances included.
        """
        turns: list[int] = []
        for back, text in enumerate(reversed(context)):
            marks = self.format.reply if back % 2 else self.format.user
            room = most - len(turns) - len(marks.before) - len(marks.after)
            if room <= 0:
                break
            said = self.encode(text)
            turns = [*_ours(marks.before), *said[-room:], *_ours(marks.after), *turns]
            if len(said) > room:
                break
        return [*_ours(self.format.start), *turns, *_ours(self.format.reply.before[:-1]), BOS]


def chat_format(tokenizer: PreTrainedTokenizerBase) -> TurnFormat | None:
    """Return the marks of the tokenizer's chat template, found by rendering a dialogue.

    None where it has none that can be told apart.

    The system prompt that some templates put in front is left out: a soft prefix takes its place.
    """
    if not tokenizer.chat_template:
        return None
    one, two, three = _SAID
    try:
        target = _render(tokenizer, (one,), False).partition(one)
        answered = _render(tokenizer, (one, two), False).partition(two)
        whole = _render(tokenizer, (one, two, three), True)
        after_user, after_reply = target[2], answered[2]
        before_reply = _between(whole, one + after_user, two)
        before_user = _between(whole, two + after_reply, three)
    except (ValueError, TypeError, KeyError):
        return None
    closing, opening = _ids(tokenizer, after_user), _ids(tokenizer, before_reply)
    if not opening:
        # Where nothing opens a reply, the end of what it replies to does.
        closing, opening = closing[:-1], closing[-1:]
    user = Marks(_ids(tokenizer, before_user), closing)
    return TurnFormat(_start(tokenizer), user, Marks(opening, _ids(tokenizer, after_reply)))


def text_format(tokenizer: PreTrainedTokenizerBase) -> TurnFormat:
    """Return one utterance a line, for a base that has no chat template."""
    line = _ids(tokenizer, "\n")
    return TurnFormat(start=_start(tokenizer), user=Marks((), ()), reply=Marks(line, line))


def _render(tokenizer: PreTrainedTokenizerBase, said: Sequence[str], opened: bool) -> str:
    roles = ("user", "assistant", "user")
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opened))


def _between(text: str, left: str, right: str) -> str:
    """Return what stands in `text` between the two; raise ValueError where one of them is not there."""
    begin = text.index(left) + len(left)
    return text[begin : text.index(right, begin)]


def _start(tokenizer: PreTrainedTokenizerBase) -> Ids:
    """Return what the tokenizer itself puts in front of every text."""
    plain, marked = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a", add_special_tokens=True)
    return tuple(marked[: marked.index(plain[0])]) if plain[0] in marked else ()


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()


def _ours(ids: Ids) -> list[int]:
    return [SPECIAL + place for place in ids]
