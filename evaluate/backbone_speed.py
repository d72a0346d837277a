"""How long the first line takes, and how many tokens a second."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click
import torch
from torch import Tensor, nn

import emogen
from emogen.checkpoint.model import EmotionModel
from emogen.decoding.loop import PromptBatch, generate
from emogen.decoding.random_streams import fold_in, row_uniforms
from emogen.decoding.sampler import LogitsSampler, build_sampler
from emogen.emotions.labels import EKMAN
from emogen.errors import EmogenError
from emogen.models.device import probe_bfloat16
from emogen.pretrained.loading import Pretrained
from emogen.recognition.recognizer import load_recognizer
from emogen.text.tokenizer import EOS, PAD
from emogen.train.loops.mle import with_no_latent

if TYPE_CHECKING:
    pass
from backbone_plan import Ask, Found, Plan
from backbone_prompt import begun, causal, continued, drawn, end_ids
from backbone_texts import asks

READY = "import sys, emogen; emogen.load(sys.argv[1]); print('ready', flush=True)"


Timed = Callable[[int], float]
"""Writes a batch from a seed, and gives its tokens a second."""


def speed_part(plan: Plan) -> Found:
    """Return how long a user waits, and tokens a second beside `transformers.generate`."""
    return Found([*waits(plan), *rates(plan)])


def waits(plan: Plan) -> Iterator[Mapping[str, object]]:
    """Whole processes: until the adapter is loaded, and until there is a line."""
    cases = {
        "ready": ("-c", READY, str(plan.adapter)),
        "first line": ("-m", "emogen", "sample", "--checkpoint", str(plan.adapter), "--emotion", "joy", "--seed", "1"),
    }
    for case, arguments in cases.items():
        times = [to_first_line(arguments) for _ in range(plan.runs + 1)][1:]
        yield report_row({"system": "speed", "case": case, "seed": 1, "runs": plan.runs, "seconds": statistics.median(times)})


def rates(plan: Plan) -> Iterator[Mapping[str, object]]:
    """Yield batches of the adapter and of the base, with a fixed number of tokens and as they end.

    The base writes in float32, and in bfloat16 where the processor is faster in it.
    """
    adapter = emogen.load(plan.adapter)
    bases = {"float32": causal(plan.base)}
    if probe_bfloat16(torch.device("cpu")).is_faster:
        bases["bfloat16"] = causal(plan.base, "bfloat16")
    each = max(2, math.ceil(plan.batch / len(EKMAN)))
    target = asks("test", each, load_recognizer(plan.guide))[: plan.batch]
    for way, fixed in ((f"{plan.fixed} tokens each", plan.fixed), ("as they end", 0)):
        contenders = {f"adapter, {way}": own_speed(adapter, target, plan, fixed)}
        for precision, base in bases.items():
            contenders[f"generate in {precision}, {way}"] = base_speed(base.pretrained, target, plan, fixed)
        yield from raced(contenders, plan)


def report_row(row: Mapping[str, object]) -> Mapping[str, object]:
    """Return the row, shown to whoever waits."""
    click.echo(row, err=True)
    return row


def to_first_line(arguments: Sequence[str]) -> float:
    """Return seconds from the start of a Python process to its first line; raise EmogenError where it fails."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - began
        process.stdout.read()
    if process.returncode:
        raise EmogenError(f"python {' '.join(arguments)} ended with {process.returncode}; run it to see why")
    return seconds


def raced(contenders: Mapping[str, Timed], plan: Plan) -> Iterator[Mapping[str, object]]:
    """Yield each in turn, run after run.

    The first run is not counted. `ratio` is to the fastest of the others in the same run.
    """
    runs = [{name: timed(seed) for name, timed in contenders.items()} for seed in range(plan.runs + 1)][1:]
    for name in contenders:
        ratio = statistics.median(run[name] / max(rate for other, rate in run.items() if other != name) for run in runs)
        facts = {"system": "speed", "case": name, "seed": 0, "batch": plan.batch, "runs": plan.runs}
        yield report_row({**facts, "tokens_per_second": statistics.median(run[name] for run in runs), "ratio": ratio})


def own_speed(model: EmotionModel, target: Sequence[Ask], plan: Plan, fixed: int) -> Timed:
    """Return the token loop of a checkpoint with an emotion for each row.

    With `fixed` tokens each, else up to the plan's limit.
    """
    limits, generator = model.description.limits, model.generator
    read = [model.tokenizer.prefix([ask.context] if ask.context else [], limits.context_tokens) for ask in target]
    emotions = torch.tensor([model.emotion(ask.emotion).condition for ask in target])
    padded = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in read], batch_first=True, padding_value=PAD)
    lengths = torch.tensor([len(row) for row in read])
    sampling = replace(plan.sampling, max_tokens=fixed or plan.max_tokens)

    def timed(seed: int) -> float:
        began = time.perf_counter()
        sampler = build_sampler(sampling, row_uniforms([fold_in(seed, row) for row in range(len(read))], sampling.max_tokens))
        prefixes = PromptBatch(padded, lengths, with_no_latent(generator, emotions))
        found = generate(generator, prefixes, sampling.max_tokens, EndlessSampler(sampler) if fixed else sampler)
        return int((found.tokens != PAD).sum() - lengths.sum()) / (time.perf_counter() - began)

    return timed


class EndlessSampler(LogitsSampler):
    """Chooses as another sampler does, but never the end token."""

    def __init__(self, sampler: LogitsSampler) -> None:
        self.sampler = sampler

    def choose(self, logits: Tensor, rows: Tensor, number: int) -> Tensor:
        """See `LogitsSampler.choose`."""
        return self.sampler.choose(logits.index_fill(1, torch.tensor([EOS]), -math.inf), rows, number)


def base_speed(base: Pretrained, target: Sequence[Ask], plan: Plan, fixed: int) -> Timed:
    """Return `transformers.generate` behind the bare contexts, which end where the base ends them unless tokens are `fixed`."""
    read = [begun(ask.context, base.tokenizer) for ask in target]
    end = end_ids(base.tokenizer)[0]
    options = drawn(plan) | {"max_new_tokens": fixed or plan.max_tokens, "min_new_tokens": fixed}

    def timed(seed: int) -> float:
        began = time.perf_counter()
        found = continued(base, read, seed, [end], options)
        seconds = time.perf_counter() - began
        return sum(row.index(end) + 1 if end in row else len(row) for row in found.tolist()) / seconds

    return timed
