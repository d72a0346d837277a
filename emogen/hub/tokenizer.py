"""A checkpoint's tokenizer as a tokenizer of Hugging Face Transformers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer

from emogen.text.tokenizer import BOS, EOS, PAD, TURN, UNKNOWN, load_tokenizer

if TYPE_CHECKING:
    pass


TOKENIZER_FILE = "tokenizer.model"


# Content is a text or a list of parts; a message that has none, as one of a refusal or of a call, is left out.
_CHAT_TEMPLATE = (
    "{% macro said(message) %}"
    "{% set content = message['content'] if message['content'] is defined else message['refusal'] %}"
    "{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if part['type'] in ('text', 'refusal') %}{{ part[part['type']] }}"
    "{% else %}{{ raise_exception('this model reads parts of type text alone, not ' ~ part['type']) }}{% endif %}"
    "{% endfor %}{% endif %}{% endmacro %}"
    "{% for message in messages if message['content'] is defined or message['refusal'] is defined %}"
    "{% if loop.last and message['role'] == 'assistant' and not add_generation_prompt %}"
    "{{ bos_token + said(message) + eos_token }}"
    "{% else %}{{ said(message) + '<turn>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}{% endif %}"
)


class EmogenTokenizer(PreTrainedTokenizer):
    """The SentencePiece tokenizer of a checkpoint as a tokenizer of Transformers, with the same ids.

    A text is a context: `tokenizer("Hello.")` is `Hello. TURN BOS`, behind which the model writes its reply; an empty text is
    BOS alone. A pair is a context and its reply, `context TURN BOS reply EOS`, as a row of training is. Several utterances go
    through `apply_chat_template`. Special tokens that are written out in a text (`<s>`) are text, unless
    `add_special_tokens=False` says that the caller has put them there.
    """

    vocab_files_names = {"vocab_file": TOKENIZER_FILE}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side = "left"

    def __init__(self, vocab_file: str, **options: Any) -> None:
        """Read a `tokenizer.model`; `options` as in Transformers."""
        self._text = load_tokenizer(Path(vocab_file))
        names = SentencePieceProcessor(model_file=str(vocab_file))
        self._pieces = [names.id_to_piece(number) for number in range(self._text.vocabulary)]
        self._ids = {piece: number for number, piece in enumerate(self._pieces)}
        special = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": BOS, "eos_token": EOS}
        options = {name: self._pieces[number] for name, number in special.items()} | options
        options.setdefault("extra_special_tokens", [self._pieces[TURN]])
        options.setdefault("chat_template", _CHAT_TEMPLATE)
        super().__init__(**options)  # type: ignore[no-untyped-call]

    @property
    def vocab_size(self) -> int:
        """Return the number of ids, special and byte ids included."""
        return len(self._pieces)

    def get_vocab(self) -> dict[str, int]:
        """Return ids by piece."""
        return self._ids | self._added_tokens_encoder

    def _encode_plus(self, text: Any, *arguments: Any, **options: Any) -> Any:
        if options.get("add_special_tokens", True):
            options["split_special_tokens"] = True
        return super()._encode_plus(text, *arguments, **options)

    def tokenize(self, text: str, **options: Any) -> list[str]:  # type: ignore[override]
        """Tokenize as Transformers does; tokens that were added are found also where special ones are text."""
        added = [re.escape(token.content) for token in self._added_tokens_decoder.values() if not token.special]
        parts = re.split(f"({'|'.join(sorted(added, key=len, reverse=True))})", text) if added else [text]
        pieces: list[str] = []
        for at, part in enumerate(parts):
            pieces += [part] if at % 2 else super().tokenize(part, **options)
        return pieces

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [self._pieces[number] for number in self._text.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, UNKNOWN)

    def _convert_id_to_token(self, index: int) -> str:
        return self._pieces[index]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Return the text of pieces; special tokens and added ones stand for themselves."""
        whole = self._added_tokens_encoder.keys() | set(self.all_special_tokens)
        runs = groupby(tokens, whole.__contains__)
        return "".join("".join(run) if apart else self._text.decode(map(self._convert_token_to_id, run)) for apart, run in runs)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return tokens beside a text, TURN and BOS, or beside a pair, with EOS."""
        return 3 if pair else 2

    def truncate_sequences(
        self, ids: list[int], pair_ids: list[int] | None = None, num_tokens_to_remove: int = 0, *arguments: Any, **options: Any
    ) -> tuple[list[int], list[int], list[int]]:
        """Truncate as Transformers does; behind an empty context stands no TURN, so one token more has room."""
        surplus = num_tokens_to_remove if ids else num_tokens_to_remove - 1
        shortened: tuple[list[int], list[int], list[int]] = super().truncate_sequences(
            ids, pair_ids, surplus, *arguments, **options
        )
        return shortened

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None) -> list[int]:
        """Return a context with what stands behind it, and its reply where there is one."""
        prompt = [*token_ids_0, TURN, BOS] if token_ids_0 else [BOS]
        return prompt if token_ids_1 is None else [*prompt, *token_ids_1, EOS]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """Return 1 for each special token of a row, else 0."""
        row = token_ids_0 if already_has_special_tokens else self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        return [int(number in self.all_special_ids) for number in row]

    def apply_chat_template(self, conversation: Any, *arguments: Any, **options: Any) -> Any:
        """Format messages as Transformers does: every message is an utterance, whatever its role.

        Special tokens in messages are text.

        A text, which `tokenize=False` gives, cannot tell them apart.
        """
        given = inspect.signature(super().apply_chat_template).bind(conversation, *arguments, **options).arguments
        if (
            given.get("tokenize", True)
            and not given.get("return_assistant_tokens_mask")
            and "sanitize_control_tokens" not in given
        ):
            options["sanitize_control_tokens"] = True
        return super().apply_chat_template(conversation, *arguments, **options)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write `tokenizer.model`."""
        path = Path(save_directory) / (f"{filename_prefix}-{TOKENIZER_FILE}" if filename_prefix else TOKENIZER_FILE)
        self._text.save(path)
        return (str(path),)
