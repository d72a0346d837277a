"""How fast the adversarial core is, each part against a straightforward version of itself that stands in this file.

    python evaluate/speed.py --threads 2 --memory

The reference does what SeqGAN's paper describes (Yu et al. 2017, equation 4): for each place of a reply and each rollout it
reads the prefix again from the first token on, then draws the rest token by token with `torch.multinomial`; same generator,
same discriminator, same rewards. `dense` has no rollouts and is set against the reference's step with them.

The end token is put out of reach, so that every reply has its full length and all versions do the same work.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import click
import torch
from torch import Tensor

from emogen.cli import run
from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.loop import Generated, PromptBatch, generate
from emogen.decoding.rollout import Reward, rollout_returns
from emogen.decoding.sampler import PlainSampler
from emogen.errors import require
from emogen.evaluate.report import command_of, write_result
from emogen.files import replace_file
from emogen.models.device import choose_device, probe_bfloat16
from emogen.models.discriminator import Discriminator, DiscriminatorConfig, score
from emogen.models.generator import Generator, GeneratorConfig, reply_mask
from emogen.text.tokenizer import BOS, EOS, PAD, SPECIAL
from emogen.train.config import GanConfig, Precision
from emogen.train.gan.trajectories import Adversaries, gather_experience, policy_loss, sample_replies
from emogen.train.run.memory import keep_freed_memory
from emogen.train.run.state import TrainState, adamw, learning_rate_at, mixed_precision, update

RESULT = Path("evaluate/results/speed.json")
LONG = 20.0
"""Seconds of one run from which on a reference is repeated twice only."""
SAMPLED, SAMPLED_AT_ONCE = 10_000, 1_000
COSTS = {
    "tokens": (10, 20, 40),
    "vocabulary": (2_500, 5_000, 10_000, 20_000),
    "rollouts": (2, 4, 8, 16),
    "rows": (16, 32, 64, 128),
}
NAMES = {"tokens": "T", "vocabulary": "V", "rollouts": "R", "rows": "B"}
NEVER = -1e4

Case = Literal["step", "rollouts", "dense", "sampling"]
Row = Mapping[str, object]


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        rollouts: completions of each prefix.
        rows: replies of a step, two to a condition.
        tokens: of each reply.
        vocabulary: of generator and discriminator.
        width: of the generator, an LSTM of one layer.
        chunk: completions, scores and places computed at once.
    """

    rollouts: int = 16
    rows: int = 64
    tokens: int = 20
    vocabulary: int = 5_000
    width: int = 32
    chunk: int = 4096

    @property
    def completed(self) -> int:
        """Return tokens that the rollouts of a step draw: quadratic in the length of a reply."""
        return self.rollouts * self.rows * self.tokens * (self.tokens - 1) // 2


@dataclass(frozen=True)
class Plan:
    """How it is measured.

    Attributes:
        device: where.
        repetitions: runs of which the median counts, after one that does not.
        peak: of the device, 1e12 operations a second; 0 where unknown.
    """

    device: torch.device
    repetitions: int = 5
    peak: float = 0.0


@dataclass(frozen=True)
class Bench:
    """Models and data of one size."""

    sizes: Sizes
    models: Adversaries
    real: Batch
    device: torch.device

    @property
    def generator(self) -> Generator:
        """Return what is measured."""
        return self.models.generator

    @property
    def prefixes(self) -> PromptBatch:
        """Return BOS for each row."""
        return begun(self.sizes.rows, self.device)


def bench(sizes: Sizes, device: torch.device, reading: Literal["sequence", "prefix"] = "sequence") -> Bench:
    """Fresh models, the discriminator a Transformer of two layers, and real replies of random words."""
    torch.manual_seed(0)
    config = GeneratorConfig(sizes.vocabulary, 1, "lstm", width=sizes.width, layers=1, dropout=0.0)
    generator, reference = Generator(config), Generator(config)
    generator.bias.data[EOS] = NEVER
    reference.load_state_dict(generator.state_dict())
    discriminator = Discriminator(DiscriminatorConfig(sizes.vocabulary, 1, reading, width=64, layers=2, heads=4))
    models = Adversaries(generator.to(device).eval(), reference.to(device).eval(), discriminator.to(device))
    conditions = sizes.rows // 2
    words = torch.randint(SPECIAL, sizes.vocabulary, (conditions, sizes.tokens))
    emotion = torch.tensor([[0.0, 1.0]]).repeat(conditions, 1)
    tokens = torch.cat([torch.full((conditions, 1), BOS), words], 1)
    return Bench(sizes, models, Batch(tokens, torch.ones(conditions, dtype=torch.long), emotion).to(device), device)


def begun(rows: int, device: torch.device) -> PromptBatch:
    """Return rows of which nothing but BOS is written, without emotion."""
    condition = torch.tensor([[0.0, 1.0]], device=device).repeat(rows, 1)
    ones = torch.ones(rows, dtype=torch.long, device=device)
    return PromptBatch(torch.full((rows, 1), BOS, device=device), ones, condition)


@torch.no_grad()
def reference_completed(generator: Generator, tokens: Tensor, condition: Tensor, max_tokens: int) -> Tensor:
    """Return rows [rows, 1 + max_tokens] that begin with `tokens` [rows, time], one step a token from the first one on."""
    kept = tokens.shape[1]
    condition_shift = generator.condition_shift(condition)
    state = generator.init_cache(condition_shift, 1 + max_tokens)
    for place in range(kept):
        hidden, state = generator.step(tokens[:, place], torch.full_like(tokens[:, 0], place), condition_shift, state)
    ended = (tokens == EOS).any(1)
    for place in range(kept, 1 + max_tokens):
        drawn = torch.multinomial(generator.logits(hidden).float().softmax(-1), 1).squeeze(1)
        drawn = torch.where(ended, PAD, drawn)
        ended = ended | (drawn == EOS)
        tokens = torch.cat([tokens, drawn[:, None]], 1)
        if place < max_tokens:
            hidden, state = generator.step(drawn, torch.full_like(drawn, place), condition_shift, state)
    return tokens


def reference_returns(
    generator: Generator, tokens: Tensor, condition: Tensor, max_tokens: int, reward: Reward, rollouts: int
) -> Tensor:
    """As `emogen.decoding.rollout.rollout_returns`, of rows [rows, 1 + max_tokens] that begin with BOS."""
    rows = torch.arange(len(tokens), device=tokens.device)
    returns = torch.zeros(len(tokens), max_tokens, device=tokens.device)
    for place in range(1, max_tokens):
        for _ in range(rollouts):
            completed = reference_completed(generator, tokens[:, : place + 1], condition, max_tokens)
            returns[:, place - 1] += reward(completed, rows) / rollouts
    returns[:, -1] = reward(tokens, rows)
    return returns * reply_mask(tokens, torch.ones_like(rows))


def reference_step(bench: Bench, optimizer: torch.optim.Optimizer) -> None:
    """A step by plain policy gradient (REINFORCE with the mean return as baseline)."""
    sizes, generator, real = bench.sizes, bench.generator, bench.real
    condition = bench.prefixes.condition
    tokens = reference_completed(generator, bench.prefixes.tokens, condition, sizes.tokens)
    emotion, samples = real.emotion.repeat_interleave(2, 0), len(tokens) // len(real)
    real_scores = score(bench.models.discriminator, real.tokens, real.emotion).repeat_interleave(samples)

    def reward(tokens: Tensor, rows: Tensor) -> Tensor:
        return (score(bench.models.discriminator, tokens, emotion) - real_scores[rows]).sigmoid()

    returns = reference_returns(generator, tokens, condition, sizes.tokens, reward, sizes.rollouts)
    log_probs = generator.logits(generator(tokens[:, :-1], condition)).float().log_softmax(-1)
    taken = log_probs.gather(2, tokens[:, 1:, None]).squeeze(2)
    loss = -((returns - returns.mean()) * taken).mean()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def reference_work(case: Case, bench: Bench) -> Callable[[], object]:
    """Return the reference's version of a case."""
    sizes, generator = bench.sizes, bench.generator
    if case == "sampling":
        start = begun(SAMPLED_AT_ONCE, bench.device)
        parts = range(SAMPLED // SAMPLED_AT_ONCE)
        return lambda: [reference_completed(generator, start.tokens, start.condition, sizes.tokens) for _ in parts]
    if case == "rollouts":
        start = bench.prefixes
        tokens = reference_completed(generator, start.tokens, start.condition, sizes.tokens)
        return lambda: reference_returns(generator, tokens, start.condition, sizes.tokens, no_reward, sizes.rollouts)
    optimizer = torch.optim.AdamW(generator.parameters())
    return lambda: reference_step(bench, optimizer)


def work(case: Case, bench: Bench) -> Callable[[], object]:
    """Return this package's version of a case; every run has random numbers of its own."""
    keys = iter(range(1 << 62))
    if case == "sampling":
        parts = range(SAMPLED // SAMPLED_AT_ONCE)
        return lambda: [written(bench, begun(SAMPLED_AT_ONCE, bench.device), next(keys), False) for _ in parts]
    if case == "rollouts":
        generated = written(bench, bench.prefixes, next(keys), True)
        return lambda: completed(bench, generated, next(keys))
    state = fresh_state(bench.models)
    return lambda: step(bench, gan_config(bench.sizes, case), state, next(keys))


def written(bench: Bench, prefixes: PromptBatch, key: int, keep_states: bool) -> Generated:
    """Return replies of the full length."""
    return generate(bench.generator, prefixes, bench.sizes.tokens, PlainSampler(CounterRNG(key).uniforms), keep_states)


def completed(bench: Bench, generated: Generated, key: int) -> Tensor:
    """Return all rollouts of a step, without anything that judges them."""
    sizes, condition = bench.sizes, bench.prefixes.condition
    draws = CounterRNG(key)
    return rollout_returns(bench.generator, generated, condition, sizes.tokens, no_reward, sizes.rollouts, draws, sizes.chunk)


def no_reward(tokens: Tensor, _rows: Tensor) -> Tensor:
    """Return 0 for each row."""
    return torch.zeros(len(tokens), device=tokens.device)


def step(bench: Bench, config: GanConfig, state: TrainState, key: int) -> None:
    """The generator's step of `train_gan`: replies, what they are worth, one update."""
    replies = sample_replies(bench.models, bench.real, config, CounterRNG(key))
    experience = gather_experience(bench.models, bench.real, replies, config, CounterRNG(~key))
    loss, _, _ = policy_loss(bench.models, replies, experience, config)
    update(loss, state.optimizers["generator"], learning_rate_at(config.learning_rate, state), state)


def gan_config(sizes: Sizes, case: Case) -> GanConfig:
    """Return the package's own settings but for the sizes."""
    return GanConfig(
        estimator="dense" if case == "dense" else "rollout",
        samples=2,
        rollouts=sizes.rollouts,
        max_tokens=sizes.tokens,
        warmup_steps=0,
        chunk=sizes.chunk,
    )


def fresh_state(models: Adversaries) -> TrainState:
    """Of a run that begins."""
    modules = {"generator": models.generator, "discriminator": models.discriminator}
    return TrainState({}, {name: adamw(module) for name, module in modules.items()}, torch.Generator().manual_seed(0))


def timed(work: Callable[[], object], plan: Plan, long: float = math.inf) -> tuple[float, int]:
    """Median seconds of the work and how often it counted: twice, the first run too, where that takes longer than `long`."""

    def seconds() -> float:
        began = time.perf_counter()
        work()
        if plan.device.type == "cuda":
            torch.cuda.synchronize(plan.device)
        return time.perf_counter() - began

    first = seconds()
    times = [first, seconds()] if first > long else [seconds() for _ in range(plan.repetitions)]
    return statistics.median(times), len(times)


def operations(case: Case, sizes: Sizes) -> float:
    """Model operations of a case: 2 a weight and token forward, 6 with the backward pass (Kaplan et al. 2020).

    Attention's own products and the embeddings that are only looked up are left out.
    """
    generator = 8 * sizes.width**2 + sizes.width * sizes.vocabulary
    discriminator = 2 * (4 * 64**2 + 3 * 64 * 192)
    reply = sizes.rows * sizes.tokens
    if case == "sampling":
        return 2.0 * generator * SAMPLED * sizes.tokens
    if case == "rollouts":
        return 2.0 * generator * sizes.completed
    rollouts = sizes.completed if case == "step" else 0
    judged = reply + (sizes.rollouts * sizes.rows * (sizes.tokens - 1) * sizes.tokens if rollouts else 0)
    return 2.0 * generator * (reply + rollouts) + 2.0 * discriminator * judged + (6.0 + 2.0) * generator * reply


def tokens_of(case: Case, sizes: Sizes) -> int:
    """Return tokens that a case draws."""
    if case == "sampling":
        return SAMPLED * sizes.tokens
    replies = 0 if case == "rollouts" else sizes.rows * sizes.tokens
    return replies + (sizes.completed if case != "dense" else 0)


def report_row(row: Row) -> Row:
    """Return the row, shown as it comes."""
    parts = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items())
    click.echo(", ".join(parts), err=True)
    return row


def own_row(case: Case, sizes: Sizes, precision: Precision, plan: Plan) -> dict[str, object]:
    """Time of this package's version of a case, and what that says about the device."""
    with mixed_precision(precision, plan.device):
        made = bench(sizes, plan.device, "prefix" if case == "dense" else "sequence")
        seconds, count = timed(work(case, made), plan)
    facts: dict[str, object] = {
        "system": case,
        "seed": 0,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
    }
    rate = operations(case, sizes) / seconds
    share = {"share_of_peak": rate / (plan.peak * 1e12)} if plan.peak else {}
    speed = {"tokens_per_second": tokens_of(case, sizes) / seconds, "operations_per_second": rate}
    return {**facts, "repetitions": count, **speed, **share}


def against_reference(sizes: Sizes, plan: Plan) -> Iterator[Row]:
    """Yield each case against the reference in float32: in float32, and in bfloat16 where the device computes in it."""
    precisions: list[Precision] = ["float32"]
    if probe_bfloat16(plan.device).runs:
        precisions.append("bf16")
    else:
        click.echo("no rows in bfloat16: this device cannot train in it", err=True)
    references: dict[Case, tuple[float, int]] = {}
    for case in ("step", "rollouts", "sampling"):
        references[case] = timed(reference_work(case, bench(sizes, plan.device)), plan, LONG)
    references["dense"] = references["step"]
    for case, (seconds, count) in references.items():
        for precision in precisions:
            row = own_row(case, sizes, precision, plan)
            ratio = seconds / float(str(row["seconds"]))
            yield report_row({**row, "reference_seconds": seconds, "reference_repetitions": count, "ratio": ratio})


def by_threads(sizes: Sizes, plan: Plan) -> Iterator[Row]:
    """Yield each case with one thread, to compare with the rows above."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for case in ("step", "rollouts", "dense", "sampling"):
            yield report_row({**own_row(case, sizes, "float32", plan), "system": "threads", "case": case})
    finally:
        torch.set_num_threads(threads)


def costs(sizes: Sizes, plan: Plan, axes: Mapping[str, Sequence[int]]) -> Iterator[Row]:
    """Yield each case along each axis that it depends on, the others staying as they are; then the power of the axis that fits.

    Rollouts complete every prefix, so their tokens are quadratic in T: a row has seconds a token beside its seconds.
    """
    for axis, values in axes.items():
        for case in ("rollouts", "dense", "step"):
            if case == "dense" and axis == "rollouts":
                continue
            found = []
            for value in values:
                changed = replace(sizes, **{axis: value})
                row = own_row(case, changed, "float32", plan)
                found.append(float(str(row["seconds"])))
                each = {"seconds": found[-1], "tokens": tokens_of(case, changed), "repetitions": row["repetitions"]}
                yield report_row({"system": "cost", "seed": 0, "case": case, "axis": NAMES[axis], "value": value, **each})
            expected = 2 if axis == "tokens" and case != "dense" else 1
            power = slope([math.log(value) for value in values], [math.log(seconds) for seconds in found])
            yield report_row(
                {"system": "power", "seed": 0, "case": case, "axis": NAMES[axis], "power": power, "expected_at_most": expected}
            )


def slope(across: Sequence[float], along: Sequence[float]) -> float:
    """Of the least-squares line.

    >>> slope([0, 1, 2], [1, 3, 5])
    2.0
    """
    return statistics.linear_regression(across, along).slope


def memory_row(sizes: Sizes, threads: int) -> Row:
    """Return one whole step in a fresh process, with the most memory that it ever held."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak = pool.apply(whole_step, (sizes, threads))
    facts = {"rollouts": sizes.rollouts, "rows": sizes.rows, "tokens": sizes.tokens, "vocabulary": sizes.vocabulary}
    return report_row({"system": "memory", "seed": 0, **facts, "chunk": sizes.chunk, "seconds": seconds, "gigabytes": peak})


def whole_step(sizes: Sizes, threads: int) -> tuple[float, float]:
    """Return seconds of one generator step on the CPU, and the peak of this process's resident memory, 1e9 bytes."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    device = torch.device("cpu")
    made = bench(sizes, device)
    with mixed_precision("auto", device):
        began = time.perf_counter()
        step(made, gan_config(sizes, "step"), fresh_state(made.models), 0)
        seconds = time.perf_counter() - began
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def plot(rows: Sequence[Row], path: Path) -> None:
    """Seconds along each axis, both logarithmic, with a line of the power that each case may have."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    for axes, axis in zip(figure.subplots(2, 2).flat, NAMES.values(), strict=True):
        for case, marker in (("step", "o"), ("rollouts", "s"), ("dense", "^")):
            mine = [row for row in rows if (row["system"], row.get("case"), row.get("axis")) == ("cost", case, axis)]
            if not mine:
                continue
            values, seconds = ([float(str(row[name])) for row in mine] for name in ("value", "seconds"))
            (line,) = axes.plot(values, seconds, marker=marker, markersize=4, label=case)
            power = 2 if axis == "T" and case != "dense" else 1
            straight = [seconds[-1] * (value / values[-1]) ** power for value in values]
            axes.plot(values, straight, color=line.get_color(), linestyle=":", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="seconds")
        axes.minorticks_off()
        axes.set_xticks(values, [f"{value:,.0f}" for value in values])
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.legend(fontsize=7)
    figure.suptitle("Seconds a step; dotted: linear (of T squared, where every prefix is completed)", fontsize=10)
    with replace_file(path) as beside:
        figure.savefig(beside, format="png", dpi=150)


@click.command()
@click.option("--rollouts", type=click.IntRange(min=1), default=16, show_default=True, help="R, completions of each prefix.")
@click.option("--rows", type=click.IntRange(min=2), default=64, show_default=True, help="B, replies of a step; an even number.")
@click.option("--tokens", type=click.IntRange(min=1), default=20, show_default=True, help="T, of each reply.")
@click.option("--vocabulary", type=click.IntRange(min=SPECIAL + 1), default=5_000, show_default=True, help="V.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Processor cores.")
@click.option(
    "--repetitions",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Counted runs; a reference of more than 20 s counts twice.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--peak", default=0.0, help="Of the device, 1e12 operations a second, for the share of it; 0 where unknown.")
@click.option("--memory", is_flag=True, help="Also one step at R=16, B=256, T=64, V=32,000, which takes many minutes.")
@click.option(
    "--chunk", type=click.IntRange(min=1), default=1024, show_default=True, help="Completions and places at once in that step."
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def main(
    context: click.Context,
    rollouts: int,
    rows: int,
    tokens: int,
    vocabulary: int,
    threads: int,
    repetitions: int,
    device: str,
    peak: float,
    memory: bool,
    chunk: int,
    out: Path,
) -> None:
    """Time the step, the rollouts, the dense estimator and sampling, and see how their cost grows."""
    require(rows % 2 == 0, "rows", rows, "an even number, two replies to a condition")
    torch.set_num_threads(threads)
    keep_freed_memory()
    sizes, plan = Sizes(rollouts, rows, tokens, vocabulary), Plan(choose_device(device), repetitions, peak)
    found: list[Row] = []
    if memory:
        found.append(memory_row(Sizes(16, 256, 64, 32_000, chunk=chunk), threads))
    found += against_reference(sizes, plan)
    if device == "cpu" and threads > 1:
        found += by_threads(sizes, plan)
    # A quarter of the rollouts: how cost grows shows there too, and sooner.
    found += costs(replace(sizes, rollouts=max(1, rollouts // 4)), replace(plan, repetitions=min(3, repetitions)), COSTS)
    plot(found, out.with_suffix(".png"))
    setting = {"R": rollouts, "B": rows, "T": tokens, "V": vocabulary, "sampled": SAMPLED, "threads": threads, "device": device}
    write_result(out, command_of("speed", context), [], found, {"setting": setting})


if __name__ == "__main__":
    run(main, "speed.py")
