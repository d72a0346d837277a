"""The prompted base: forms of a prompt, and the examples in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from emogen.emotions.labels import EKMAN
from emogen.pretrained.bases import Base
from emogen.pretrained.loading import Pretrained, load_causal_model
from emogen.train.language_model import CausalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
from backbone_plan import Ask, Author, Example, Plan


@dataclass(frozen=True)
class Prompt:
    """A prompt: its name, its form, and the examples of each emotion."""

    name: str
    render: Callable[[str, Sequence[Example], str], str]
    examples: Mapping[str, Sequence[Example]]

    def text(self, emotion: str, context: str) -> str:
        """Return what stands before the answer."""
        return self.render(emotion, self.examples[emotion], context)


Render = Callable[["PreTrainedTokenizerBase", str, Sequence[Example], str], str]
"""From tokenizer, emotion, examples and context the text behind which the base model writes."""


def causal(base: Base, dtype: Literal["float32", "bfloat16"] = "float32") -> CausalModel:
    """Return the base model in eval mode."""
    found = load_causal_model(f"hf:{base.folder}", dtype)
    found.model.eval()
    return CausalModel(base.folder.name, found)


def prompt_author(prompt: Prompt, base: Pretrained, ends: Sequence[int], plan: Plan) -> Author:
    """Return the base model behind one prompt."""
    options = drawn(plan) | {"max_new_tokens": plan.max_tokens}

    def write(target: Sequence[Ask], seed: int) -> list[str]:
        read = [ids_of(prompt.text(ask.emotion, ask.context), base.tokenizer) for ask in target]
        return [answer(ids, base.tokenizer) for ids in continued(base, read, seed, ends, options).tolist()]

    shown = [prompt.text(emotion, context) for emotion in EKMAN.names for context in ("", "Hello.")]
    return Author("prompt", json.dumps([plan.base.revision, shown]), write, {"prompt": prompt.name})


def drawn(plan: Plan) -> dict[str, object]:
    """Return how `transformers.generate` draws tokens."""
    return {"do_sample": True, "temperature": plan.temperature, "top_p": plan.top_p, "top_k": 0}


@torch.inference_mode()
def continued(
    base: Pretrained, rows: Sequence[Sequence[int]], seed: int, ends: Sequence[int], options: Mapping[str, object]
) -> Tensor:
    """Return what `transformers.generate` writes behind each row, [rows, new tokens], padded with the first of `ends`."""
    torch.manual_seed(seed)
    longest = max(map(len, rows))
    tokens = torch.tensor([[ends[0]] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    stops = {"eos_token_id": list(ends), "pad_token_id": ends[0]}
    model: Any = base.model
    found: Tensor = model.generate(input_ids=tokens, attention_mask=mask, **stops, **options)
    return found[:, longest:]


def end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the end token, then every token with a line break in it."""
    end: Any = tokenizer.eos_token_id
    pieces = tokenizer.batch_decode([[place] for place in range(len(tokenizer))])
    return [int(end), *(place for place, piece in enumerate(pieces) if "\n" in piece and place != end)]


def answer(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the first line, without quotation marks around it."""
    line = str(tokenizer.decode(ids, skip_special_tokens=True)).partition("\n")[0]
    return " ".join(line.split()).strip('"“”').strip()


def forms_for(tokenizer: PreTrainedTokenizerBase) -> dict[str, Render]:
    """Return the forms that are tried; a model without a chat template has the plain ones alone."""
    chats: dict[str, Render] = {"turns": as_turns, "requests": as_requests, "system": as_system}
    return (chats if tokenizer.chat_template else {}) | {"fields": as_fields, "list": as_list}


def as_turns(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Return the emotion in the system message, the examples as earlier turns."""
    conditioning = f"You write one short everyday message at a time. Each of your messages expresses {feeling(emotion)}."
    shown = [(one.context if context else "Write a message.", one.reply) for one in examples]
    return chat(tokenizer, conditioning, shown, context or "Write a message.")


def as_requests(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Return a request with the emotion in every turn of the user."""

    def request(said: str) -> str:
        to = f'Somebody says: "{said}" Reply with' if context else "Write"
        return f"{to} one short sentence that expresses {feeling(emotion)}."

    return chat(tokenizer, "", [(request(one.context), one.reply) for one in examples], request(context))


def as_system(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Instruction and examples in the system message."""
    shown = "\n".join(f"- {one.context} -> {one.reply}" if context else f"- {one.reply}" for one in examples)
    task = "Reply to what the user says" if context else "Write a message"
    conditioning = f"{task} in one short sentence that expresses {feeling(emotion)}. Examples:\n{shown}"
    return chat(tokenizer, conditioning, [], context or "Write another one, not one of the examples.")


def as_fields(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Plain text: named fields, a paragraph for each example."""

    def paragraph(said: str, reply: str) -> str:
        return f"emotion: {emotion}\n" + (f"message: {said}\nreply:{reply}" if context else f"text:{reply}")

    shown = [paragraph(one.context, f" {one.reply}") for one in examples]
    return "\n\n".join([*shown, paragraph(context, "")])


def as_list(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Plain text: a heading and a list of lines."""
    heading = f"{'Replies' if context else 'Things people say'} that express {feeling(emotion)}:"
    shown = [f"{one.context} -> {one.reply}" if context else f"{emotion} -> {one.reply}" for one in examples]
    return "\n".join([heading, *shown, f"{context or emotion} ->"])


def feeling(emotion: str) -> str:
    """Return an emotion in a sentence."""
    return "no emotion at all" if emotion == "neutral" else emotion


def chat(tokenizer: PreTrainedTokenizerBase, conditioning: str, shown: Sequence[tuple[str, str]], said: str) -> str:
    """Return a dialogue in the model's chat format, up to where its next answer begins.

    Without `conditioning` with its own system message.
    """
    turns = [{"role": "system", "content": conditioning}] * bool(conditioning)
    for user, assistant in shown:
        turns += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    turns.append({"role": "user", "content": said})
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return ids of a text, without marks that are not in it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def begun(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return ids of a text, or the begin token where it has none: a model needs something to go on from."""
    begin: Any = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return ids_of(text, tokenizer) or [int(begin)]


def line_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return a line break, or the end token where the tokenizer has none."""
    end: Any = tokenizer.eos_token_id
    return ids_of("\n", tokenizer) or [int(end)]
