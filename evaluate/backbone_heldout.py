"""How likely held-out replies are under the adapter and under its base."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional

import emogen
from emogen.checkpoint.model import EmotionModel
from emogen.data.exchange import Exchange
from emogen.emotions.labels import no_emotion
from emogen.errors import SettingsError
from emogen.evaluate.resampling import Values
from emogen.models.likelihood import reply_nll
from emogen.pretrained.loading import Pretrained
from emogen.text.tokenizer import EOS, PAD
from emogen.train.language_model import CausalModel
from emogen.train.loops.mle import with_no_latent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
from backbone_plan import DIALOGUES, ROWS_AT_ONCE, Found, Plan
from backbone_prompt import begun, causal, ids_of, line_end
from backbone_texts import held_out, perplexity, token_counts


def heldout_part(plan: Plan) -> Found:
    """Return the perplexity of test replies under the base in its formats, and under the adapter."""
    base, adapter = causal(plan.base), emogen.load(plan.adapter, full_precision=True)
    rows: list[Mapping[str, object]] = []
    for corpus in DIALOGUES:
        replies = test_replies(corpus, plan.replies, adapter)
        tokens = token_counts([row.reply for row in replies], base)
        figures = {f"base, {name}": perplexity(nats, tokens, base.name) for name, nats in base_nats(base, replies)}
        best = min(score.value for score in figures.values())
        figures["adapter"] = perplexity(adapter_nats(adapter, replies), tokens, adapter.folder.name)
        facts = {"system": "heldout", "seed": 0, "corpus": corpus, "n": len(replies), "tokens": sum(tokens)}
        for case, score in figures.items():
            rows.append({**facts, "case": case, "perplexity": score, "ratio": score.value / best})
            click.echo(f"{corpus}, {case}: {score.value:.2f}", err=True)
    return Found(rows)


def test_replies(corpus: str, most: int, adapter: EmotionModel) -> list[Exchange]:
    """Test rows with a context that fits into the adapter's limit, drawn with a fixed seed."""
    rows = [row for row in held_out(corpus) if row.split == "test" and row.context]
    drawn = random.Random(2).sample(rows, min(most, len(rows)))
    return [replace(row, context=newest(row.context, adapter)) for row in drawn]


def newest(context: Sequence[str], adapter: EmotionModel) -> tuple[str, ...]:
    """Return the newest utterances that fit into the adapter's limit with its marks; of the very last one maybe only its end.

    Raises:
        SettingsError: not a word fits.
    """
    kept: tuple[str, ...] = ()
    for text in reversed(context):
        if not fits((text, *kept), adapter):
            break
        kept = (text, *kept)
    if kept:
        return kept
    spoken = context[-1].split()
    ends = (" ".join(spoken[at:]) for at in range(1, len(spoken)))
    for end in ends:
        if fits((end,), adapter):
            return (end,)
    raise SettingsError(f"{adapter.folder}: reads no context (context_tokens is {adapter.description.limits.context_tokens})")


def fits(context: Sequence[str], adapter: EmotionModel) -> bool:
    """Tell whether the adapter reads a context whole."""
    whole, nothing = (len(adapter.tokenizer.prefix(turns, sys.maxsize)) for turns in (context, ()))
    return whole - nothing <= adapter.description.limits.context_tokens


def base_nats(base: CausalModel, rows: Sequence[Exchange]) -> Iterator[tuple[str, Values]]:
    """Format by format, the negative log-likelihood of each reply and its end, [rows], in nats."""
    tokenizer = base.pretrained.tokenizer
    for name, encode in {"chat": chat_row, "lines": line_row, "speakers": speaker_row}.items():
        if name != "chat" or tokenizer.chat_template:
            yield name, reply_nats(base.pretrained, [encode(row, tokenizer) for row in rows])


Row = tuple[list[int], list[int]]
"""What stands before a reply, and the reply with its end, as ids of the base."""


def chat_row(row: Exchange, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Return the chat format of the model, with its own system message; the newest utterance is the user's."""
    roles = ["user" if (len(row.context) - place) % 2 else "assistant" for place in range(len(row.context))]
    turns = [{"role": role, "content": text} for role, text in zip(roles, row.context, strict=True)]
    before = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    end: Any = tokenizer.eos_token_id
    return ids_of(before, tokenizer), [*ids_of(row.reply, tokenizer), int(end)]


def line_row(row: Exchange, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Return an utterance a line; behind the model's begin token, where there is nothing else to begin with."""
    return begun("".join(f"{text}\n" for text in row.context), tokenizer), [*ids_of(row.reply, tokenizer), *line_end(tokenizer)]


def speaker_row(row: Exchange, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Return an utterance a line, spoken by A and B in turn."""
    names = ["AB"[(len(row.context) - place) % 2] for place in range(len(row.context) + 1)]
    before = "".join(f"{name}: {text}\n" for name, text in zip(names, row.context, strict=False))
    return begun(f"{before}{names[-1]}:", tokenizer), [*ids_of(f" {row.reply}", tokenizer), *line_end(tokenizer)]


@torch.inference_mode()
def reply_nats(base: Pretrained, rows: Sequence[Row]) -> Values:
    """Return the negative log-likelihood of each reply given what stands before it, [rows], in nats."""
    nats = np.zeros(len(rows))
    for places in batched([len(before) + len(reply) for before, reply in rows]):
        starts = torch.tensor([[len(rows[place][0])] for place in places])
        lengths = starts + torch.tensor([[len(rows[place][1])] for place in places])
        tokens = nn.utils.rnn.pad_sequence([torch.tensor([*rows[p][0], *rows[p][1]]) for p in places], batch_first=True)
        times = torch.arange(tokens.shape[1])
        logits = base.model(input_ids=tokens, attention_mask=(times < lengths).long()).logits[:, :-1].float()
        each = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        inside = (times >= starts) & (times < lengths)
        nats[places] = (each.view(len(places), -1) * inside[:, 1:]).sum(1).double().numpy()
    return nats


@torch.inference_mode()
def adapter_nats(adapter: EmotionModel, rows: Sequence[Exchange]) -> Values:
    """Return the same under a checkpoint, asked for no emotion: of each reply and its end token."""
    most, tokenizer, generator = adapter.description.limits.context_tokens, adapter.tokenizer, adapter.generator
    before = [tokenizer.prefix(row.context, most) for row in rows]
    whole = [[*prefix, *tokenizer.encode(row.reply), EOS] for prefix, row in zip(before, rows, strict=True)]
    nats = np.zeros(len(rows))
    for places in batched(list(map(len, whole))):
        drawn_up = [torch.tensor(whole[place]) for place in places]
        tokens = nn.utils.rnn.pad_sequence(drawn_up, batch_first=True, padding_value=PAD)
        starts = torch.tensor([len(before[place]) for place in places])
        emotion = torch.tensor([no_emotion(adapter.labels).condition] * len(places))
        each, _ = reply_nll(generator, tokens, starts, with_no_latent(generator, emotion))
        nats[places] = each.sum(1).double().numpy()
    return nats


def batched(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield places of rows of similar length together."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for at in range(0, len(order), ROWS_AT_ONCE):
        yield order[at : at + ROWS_AT_ONCE]
