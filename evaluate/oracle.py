"""SeqGAN's oracle: what adversarial training adds to maximum likelihood where the true distribution is known.

    python evaluate/oracle.py --oracle seqgan_oracle.npz --work runs/oracle --seeds 3

The protocol (Yu et al. 2017): a fixed LSTM with random weights writes 10,000 sequences to train on. `nll_oracle` is what the
generator's own samples cost under that oracle, `nll_heldout` what fresh samples of the oracle cost under the generator, both
in nats a token. The first alone says nothing: sampling at a lower temperature lowers it. So each system is measured over
temperatures, beside maximum likelihood's own curve and beside two controls whose reward can teach nothing.

The generator is an LSTM of width 32 with one layer, as published, but with a residual connection around it. Its epoch is chosen
by held-out samples. The adversarial settings were chosen on a smaller oracle of our own, by the NLL of samples under a language
model fitted to held-out rows at a given held-out NLL.

A held-out NLL hardly notices lost variety: 98% of the samples from one mode and 2% from the whole cost at most 4 nats a
sequence, .2 a token at length 20. So `entropy` and `distinct2` of the samples stand in every row: read a gain beside them.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emogen.cli import run
from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.loop import PromptBatch, generate
from emogen.decoding.sampler import LogitsSampler, inverse_cdf
from emogen.errors import DataError
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.files import replace_file, sha256, write_text
from emogen.models.discriminator import AnyDiscriminator, Discriminator, DiscriminatorConfig, adopt_embedding
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.likelihood_ratio import LikelihoodRatioDiscriminator
from emogen.models.losses import token_nll
from emogen.text.tokenizer import BOS, EOS, SPECIAL
from emogen.train.config import GanConfig, MleConfig
from emogen.train.gan.safeguards import distinct_pairs
from emogen.train.gan.trajectories import Adversaries
from emogen.train.loops.gan import train_gan
from emogen.train.loops.mle import train_mle
from emogen.train.run.memory import keep_freed_memory
from emogen.train.run.state import TrainState, adamw

if TYPE_CHECKING:
    pass

RESULT = Path("evaluate/results/oracle.json")
TEMPERATURES = (1.2, 1.1, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
ROWS, HELD_OUT, SAMPLED = 10_000, 5_000, 5_000
VOCABULARY, WIDTH, CHUNK, STEPS = 5_000, 32, 500, 100
READERS, BATCH, WEIGHT_DECAY, REPORT_EVERY = 1, 32, 0.1, 25
_READER = 1000
ABOVE = 0.2
"""Nats a token above the best held-out NLL of maximum likelihood, where systems are compared."""
DENSE = GanConfig(
    estimator="dense",
    potential="log-odds",
    learning_rate=2e-3,
    discriminator_rate=1e-3,
    samples=8,
    warmup_steps=25,
    scale_advantages="yes",
    kl_weight=0.0,
    mle_weight=10.0,
    chunk=8192,
)
SYSTEMS = {
    "rollout": replace(DENSE, estimator="rollout", rollouts=0),
    "dense": DENSE,
    "gumbel": replace(DENSE, estimator="gumbel", discriminator_reward=5.0),
    "constant": replace(DENSE, reward="constant"),
    "shuffled": replace(DENSE, reward="shuffled"),
}
ABLATIONS = {
    "without baseline": replace(DENSE, baseline="none"),
    "without standardising": replace(DENSE, scale_advantages="no"),
    "without likelihood": replace(DENSE, mle_weight=0.0),
    "without entropy floor": replace(DENSE, entropy_weight=0.0),
    "without accuracy band": replace(DENSE, accuracy_floor=0.0, accuracy_ceiling=1.0),
    "with KL 10": replace(DENSE, kl_weight=10.0),
    "with two updates, clipped": replace(DENSE, generator_updates=2),
    "with two updates, not clipped": replace(DENSE, generator_updates=2, clip=0.0),
}
"""`dense` with one thing changed, by its name."""
NEVER = -1e4
Row = dict[str, Any]
Vector = NDArray[np.float64]
FIGURES = ("nll_oracle", "entropy", "distinct2")
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
        """Return the first words read and the state before them."""
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
    """Return the oracle in an .npz file with SeqGAN's names: `embeddings`, `Wi Ui bi` and so on for each gate, `Wo bo`.

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
    """Return an oracle whose weights are all drawn from the standard normal distribution, as SeqGAN's were."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((vocabulary, width), (4 * width, width), (4 * width, width), (4 * width,), (vocabulary, width), (vocabulary,))
    return Oracle(*(torch.randn(shape, generator=random) for shape in shapes))


def drawn(oracle: Oracle, rows: int, length: int, key: int) -> Tensor:
    """Return samples of the oracle, [rows, length]; another key gives others."""
    return torch.cat(
        [_drawn(oracle, rows=part, draws=CounterRNG(key), length=length) for part in torch.split(torch.arange(rows), CHUNK)]
    )


def _drawn(oracle: Oracle, rows: Tensor, draws: CounterRNG, length: int) -> Tensor:
    (words, state), sequence = oracle.start(len(rows)), []
    for place in range(length):
        log_probs, state = oracle.step(words, state)
        words = inverse_cdf(log_probs.exp(), draws.uniforms(rows, place))
        sequence.append(words)
    return torch.stack(sequence, 1)


def oracle_nll(oracle: Oracle, sequences: Tensor) -> float:
    """Return negative log-likelihood of sequences [rows, length] of the oracle's words, in nats a word."""
    nats = 0.0
    for part in torch.split(sequences, CHUNK):
        words, state = oracle.start(len(part))
        for following in part.T:
            log_probs, state = oracle.step(words, state)
            nats -= float(log_probs.gather(1, following[:, None]).sum(dtype=torch.float64))
            words = following
    return nats / sequences.numel()


def sequences_of(oracle: Oracle, length: int, rows: int = ROWS, held_out: int = HELD_OUT) -> Sequences:
    """Return training, valid and test samples of the oracle."""
    parts = (drawn(oracle, size, length, key) for key, size in enumerate((rows, held_out, held_out)))
    return Sequences(*(torch.cat([torch.full((len(part), 1), BOS), part + SPECIAL], 1) for part in parts))


def as_batch(tokens: Tensor) -> Batch:
    """Return sequences [rows, 1 + length] that ask for no emotion."""
    emotion = torch.tensor([[0.0, 1.0]]).repeat(len(tokens), 1)
    return Batch(tokens, torch.ones(len(tokens), dtype=torch.int64), emotion)


def shuffled_batches(tokens: Tensor, size: int, seed: int) -> Iterator[Batch]:
    """Yield batches without end, every epoch in a new order."""
    random = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.split(torch.randperm(len(tokens), generator=random), size):
            yield as_batch(tokens[rows])


def fresh_generator(vocabulary: int, seed: int, dropout: float = 0.0) -> Generator:
    """Return the published size, with an output matrix of its own, that never writes an end token."""
    torch.manual_seed(seed)
    config = GeneratorConfig(vocabulary + SPECIAL, 1, backbone="lstm", width=WIDTH, layers=1, dropout=dropout)
    generator = Generator(config)
    generator.output = nn.Embedding(config.vocabulary, WIDTH)
    nn.init.normal_(generator.output.weight, std=WIDTH**-0.5)
    with torch.no_grad():
        generator.bias[EOS] = NEVER
    return generator


class WarmSampler(LogitsSampler):
    """Draws at a temperature, with random numbers that depend on the row's number alone."""

    def __init__(self, draws: CounterRNG, numbers: Tensor, temperature: float) -> None:
        self.draws, self.numbers, self.temperature = draws, numbers, temperature

    def choose(self, logits: Tensor, rows: Tensor, number: int) -> Tensor:
        """See `LogitsSampler.choose`."""
        return inverse_cdf((logits.float() / self.temperature).softmax(-1), self.draws.uniforms(self.numbers[rows], number))


@torch.no_grad()
def sampled(generator: Generator, rows: int, length: int, temperature: float, key: int) -> Tensor:
    """Return samples of the generator, [rows, 1 + length]."""
    generator.eval()
    draws, parts = CounterRNG(key), []
    for numbers in torch.split(torch.arange(rows), CHUNK):
        given = as_batch(torch.full((len(numbers), 1), BOS))

        sampler = WarmSampler(draws, numbers, temperature)
        parts.append(generate(generator, PromptBatch(given.tokens, given.reply_start, given.emotion), length, sampler).tokens)
    return torch.cat(parts)


@torch.no_grad()
def token_nlls(generator: Generator, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Return negative log-likelihood of each word of sequences under the generator at that temperature, [rows, length], nats."""
    generator.eval()
    parts = []
    for rows in torch.split(tokens, CHUNK):
        batch = as_batch(rows)
        logits = generator.logits(generator(rows[:, :-1], batch.emotion).flatten(0, 1)).float() / temperature
        parts.append(token_nll(logits, rows[:, 1:].flatten()).view(len(rows), -1))
    return torch.cat(parts)


@dataclass(frozen=True)
class Fit:
    """Training by maximum likelihood, as chosen by the NLL of valid rows.

    Attributes:
        config: rate and weight decay.
        dropout: of the generator.
        epochs: passes over the training rows; the best one is kept.
        batch: rows an update.
    """

    config: MleConfig = MleConfig(learning_rate=5e-3, weight_decay=0.1, emotion_dropout=0.0)
    dropout: float = 0.1
    epochs: int = 15
    batch: int = 64


@dataclass(frozen=True)
class Study:
    """What all models of one oracle and length share.

    Attributes:
        oracle: the truth.
        name: of the oracle; with the settings it names the files of models.
        length: words of a sequence.
        data: its samples.
        work: folder of what is made.
        fit: training by maximum likelihood.
        steps: adversarial updates of each model.
        sampled: sequences that each figure is measured on.
    """

    oracle: Oracle
    name: str
    length: int
    data: Sequences
    work: Path
    fit: Fit
    steps: int
    sampled: int = SAMPLED

    def path(self, system: str, seed: int, settings: object) -> Path:
        """Tell where a model of these settings is kept."""
        conditioning = json.dumps([self.name, len(self.data.train), asdict(self.fit), settings], sort_keys=True)
        key = hashlib.sha256(conditioning.encode()).hexdigest()[:10]
        return self.work / f"{system.replace(' ', '-')}-{self.length}-{seed}-{key}.safetensors"

    def settings(self, config: GanConfig) -> object:
        """Return all that decides about an adversarial run."""
        return [asdict(config), self.steps, READERS, BATCH, WEIGHT_DECAY]

    def fresh(self, seed: int, dropout: float = 0.0) -> Generator:
        """Return a generator with weights of that seed."""
        return fresh_generator(len(self.oracle.embeddings), seed, dropout)


def kept(path: Path, study: Study, make: Callable[[], Generator]) -> Generator:
    """Return the generator that stands at `path`, where it is made and put before if it is missing; without dropout."""
    if not path.exists():
        weights = make().state_dict()
        with replace_file(path) as beside:
            beside.write_bytes(safetensors.torch.save(weights))
    generator = study.fresh(0)
    generator.load_state_dict(safetensors.torch.load(path.read_bytes()))
    return generator


def fitted(study: Study, seed: int) -> Generator:
    """Return a generator fitted by maximum likelihood, as it was after the epoch with the best NLL of valid rows."""
    return kept(study.path("mle", seed, None), study, lambda: _fit(study, seed))


def _fit(study: Study, seed: int) -> Generator:
    fit, generator = study.fit, study.fresh(seed, study.fit.dropout)
    state = state_of(seed, generator=adamw(generator, fit.config.weight_decay))
    epoch = math.ceil(len(study.data.train) / fit.batch)
    best, weights = math.inf, generator.state_dict()
    for step in train_mle(generator, shuffled_batches(study.data.train, fit.batch, seed), fit.config, state):
        state.progress = step.number / (epoch * fit.epochs)
        if step.number % epoch == 0:
            nll = float(token_nlls(generator, study.data.valid).mean())
            if nll < best:
                best, weights = nll, {name: weight.clone() for name, weight in generator.state_dict().items()}
        if step.number == epoch * fit.epochs:
            break
    generator.load_state_dict(weights)
    return generator


def state_of(seed: int, **optimizers: torch.optim.Optimizer) -> TrainState:
    """Return the state of a run that begins."""
    return TrainState({}, dict(optimizers), torch.Generator().manual_seed(seed))


def discriminator_of(study: Study, reference: Generator, config: GanConfig, seed: int) -> AnyDiscriminator:
    """Language models of other seeds beside the starting model; for `gumbel` a Transformer with the starting model's words."""
    if config.estimator != "gumbel":
        readers = [fitted(study, _READER + number) for number in range(READERS)]
        return LikelihoodRatioDiscriminator(readers, reference)
    torch.manual_seed(seed)
    discriminator = Discriminator(DiscriminatorConfig(reference.config.vocabulary, 1, width=64))
    adopt_embedding(discriminator, reference.embedding.weight.detach())
    return discriminator


def adversarial(study: Study, system: str, config: GanConfig, seed: int) -> Generator:
    """Return the fitted generator of that seed after adversarial training."""
    path = study.path(system, seed, study.settings(config))
    return kept(path, study, lambda: _adversarial(study, config, seed))


def _adversarial(study: Study, config: GanConfig, seed: int) -> Generator:
    generator, reference = fitted(study, seed), fitted(study, seed)
    discriminator = discriminator_of(study, reference.requires_grad_(False), config, seed)
    optimizers = {"generator": adamw(generator), "discriminator": adamw(discriminator, WEIGHT_DECAY)}
    state = state_of(seed, **optimizers)
    models, total = Adversaries(generator, reference, discriminator), config.warmup_steps + study.steps
    batches = shuffled_batches(study.data.train, BATCH, seed)
    for step in train_gan(models, batches, replace(config, max_tokens=study.length), state):
        state.progress = step.number / total
        if step.number % REPORT_EVERY == 0 or step.number == total:
            click.echo({"step": step.number, **step.figures}, err=True)
        if step.number == total:
            break
    return generator


def measured(study: Study, system: str, seed: int, generator: Generator) -> Iterator[Row]:
    """Yield one row for each temperature."""
    test = study.data.test
    for temperature in TEMPERATURES:
        written = sampled(generator, study.sampled, study.length, temperature, seed)
        yield {
            "system": system,
            "length": study.length,
            "temperature": temperature,
            "seed": seed,
            "nll_oracle": oracle_nll(study.oracle, written[:, 1:] - SPECIAL),
            "nll_heldout": float(token_nlls(generator, test, temperature).mean()),
            "entropy": float(token_nlls(generator, written, temperature).mean()),
            "distinct2": distinct_pairs(written, torch.ones_like(written[:, 1:], dtype=torch.bool)),
        }


def measured_once(study: Study, system: str, seed: int, config: GanConfig | None) -> list[Row]:
    """Return the rows of a system and seed, from the file beside its model if they stand there; config None is maximum likelihood."""
    path = study.path(system, seed, config and study.settings(config)).with_suffix(f".{study.sampled}.json")
    if not path.exists():
        generator = fitted(study, seed) if config is None else adversarial(study, system, config, seed)
        write_text(path, json.dumps(list(measured(study, system, seed, generator))))
    rows: list[Row] = read_json(path)
    for row in rows:
        click.echo(row, err=True)
    return rows


def reached(rows: Sequence[Row], held_out: float, figure: str = "nll_oracle") -> float | None:
    """Return a figure where the curve of one model, cooled down from its best held-out NLL, reaches `held_out`.

    Args:
        rows: of one system, length and seed; between two temperatures the curve is taken to be straight.
        held_out: nats a token.
        figure: key of the rows.

    Returns:
        None if the curve never reaches it.
    """
    cooling = sorted(rows, key=lambda row: -row["temperature"])
    best = min(range(len(cooling)), key=lambda place: cooling[place]["nll_heldout"])
    for before, after in pairwise(cooling[best:]):
        low, high = before["nll_heldout"], after["nll_heldout"]
        if low <= held_out <= high:
            share = (held_out - low) / (high - low) if high > low else 0.0
            return float(before[figure] + share * (after[figure] - before[figure]))
    return None


def summary(rows: Sequence[Row], above: float = ABOVE) -> list[Row]:
    """Return each system where its held-out NLL is `above` the best of maximum likelihood's: means over seeds, SD, gaps.

    Returns:
        One entry a length and system: `nll_oracle` with its `deviation` over seeds; `entropy` and `distinct2` of the samples
        there, since the oracle NLL alone also falls where samples are less various; `below_mle` and `above_dense`, differences
        of `nll_oracle`, and the same divided by the root mean square of the two deviations (`..._in_deviations`).
        `reached` says how many of the seeds' curves come to that point. What cannot be computed is left out.
    """
    found = []
    for length in sorted({row["length"] for row in rows}):
        here = [row for row in rows if row["length"] == length]
        limit = min(row["nll_heldout"] for row in here if row["system"] == "mle") + above
        systems = list(dict.fromkeys(row["system"] for row in here))
        points = {system: _points(here, system, limit, "nll_oracle") for system in systems}
        for system in systems:
            entry: Row = {"length": length, "system": system, "nll_heldout": limit, "reached": len(points[system])}
            for figure in FIGURES:
                entry |= _mean(figure, _points(here, system, limit, figure))
            entry |= _gap("below_mle", points[system], points["mle"])
            entry |= _gap("above_dense", points.get("dense", []), points[system])
            found.append(entry)
    return found


def _points(rows: Sequence[Row], system: str, limit: float, figure: str) -> list[float]:
    """Return a figure at the limit for each seed whose curve reaches it."""
    own = [row for row in rows if row["system"] == system]
    seeds = sorted({row["seed"] for row in own})
    points = [reached([row for row in own if row["seed"] == seed], limit, figure) for seed in seeds]
    return [point for point in points if point is not None]


def _mean(name: str, values: Sequence[float]) -> Row:
    mean = {name: statistics.mean(values)} if values else {}
    return mean | ({"deviation": statistics.stdev(values)} if name == "nll_oracle" and len(values) > 1 else {})


def _gap(name: str, lower: Sequence[float], higher: Sequence[float]) -> Row:
    if not lower or not higher:
        return {}
    gap = statistics.mean(higher) - statistics.mean(lower)
    if min(len(lower), len(higher)) < 2 or statistics.variance(lower) + statistics.variance(higher) == 0:
        return {name: gap}
    spread = math.sqrt((statistics.variance(lower) + statistics.variance(higher)) / 2)
    return {name: gap, f"{name}_in_deviations": gap / spread}


def draw(rows: Sequence[Row], path: Path) -> None:
    """The figure: each system's mean curve, maximum likelihood's with a band of two deviations, and what was published."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    axes = figure.add_subplot()
    for system in dict.fromkeys(row["system"] for row in rows if "ablation" not in row):
        held_out, oracle, spread = _curve([row for row in rows if row["system"] == system])
        axes.plot(held_out, oracle, marker="o", markersize=3, linewidth=1.2, label=system)
        if system == "mle":
            axes.fill_between(held_out, oracle - 2 * spread, oracle + 2 * spread, alpha=0.25, linewidth=0)
    edge = axes.get_xlim()[1]
    for name, value in PUBLISHED.items():
        axes.plot([edge], [value], marker="<", color="black", markersize=5, clip_on=False)
        axes.annotate(f"{name} {value:g} ", (edge, value), ha="right", va="center", fontsize=7)
    axes.set_xlabel("NLL of held-out oracle samples under the generator, nats a token (lower is better)")
    axes.set_ylabel("NLL of generated samples under the oracle, nats a token (lower is better)")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend()
    for suffix in (".png", ".svg"):
        with replace_file(path.with_suffix(suffix)) as beside:
            figure.savefig(beside, format=suffix[1:], dpi=200)


def _curve(rows: Sequence[Row]) -> tuple[Vector, Vector, Vector]:
    """Return means over seeds of held-out and oracle NLL at each temperature, and the deviation of the latter."""
    temperatures = sorted({row["temperature"] for row in rows})
    groups = [[row for row in rows if row["temperature"] == temperature] for temperature in temperatures]
    tables = [np.array([[row["nll_heldout"], row["nll_oracle"]] for row in group]) for group in groups]
    means = np.array([table.mean(0) for table in tables])
    return means[:, 0], means[:, 1], np.array([table[:, 1].std(ddof=min(1, len(table) - 1)) for table in tables])


@click.command()
@click.option("--oracle", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="SeqGAN's, as .npz.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="What is made, and used again.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings of each system.")
@click.option(
    "--length", "lengths", multiple=True, type=click.IntRange(min=1), default=(20,), show_default=True, help="Words a sequence."
)
@click.option(
    "--system", "systems", multiple=True, type=click.Choice(list(SYSTEMS)), default=tuple(SYSTEMS), help="Beside mle."
)
@click.option("--ablation", "ablations", multiple=True, type=click.Choice(list(ABLATIONS)), default=tuple(ABLATIONS))
@click.option("--ablation-seeds", type=click.IntRange(min=0), default=1, show_default=True, help="Trainings of each ablation.")
@click.option("--steps", type=click.IntRange(min=0), default=STEPS, show_default=True, help="Adversarial updates.")
@click.option("--rows", type=click.IntRange(min=1), default=ROWS, show_default=True, help="Training sequences.")
@click.option(
    "--epochs", type=click.IntRange(min=1), default=Fit().epochs, show_default=True, help="Of maximum likelihood at most."
)
@click.option(
    "--sampled", type=click.IntRange(min=1), default=SAMPLED, show_default=True, help="Sequences that a figure is measured on."
)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="CPU threads; 0 leaves the choice to PyTorch.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    file: Path | None,
    work: Path,
    seeds: int,
    lengths: tuple[int, ...],
    systems: tuple[str, ...],
    ablations: tuple[str, ...],
    ablation_seeds: int,
    steps: int,
    rows: int,
    epochs: int,
    sampled: int,
    threads: int,
    out: Path,
) -> None:
    """Train what is missing, measure, compare and draw. Without --oracle a seeded one of our own takes its place."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    oracle = load_oracle(file) if file else own_oracle(0)
    name = sha256(file) if file else "own"
    found: list[Row] = []
    for length in lengths:
        data = sequences_of(oracle, length, rows, min(rows, HELD_OUT))
        study = Study(oracle, name, length, data, work, replace(Fit(), epochs=epochs), steps, sampled)
        found += studied(study, seeds, systems)
        found += ablated(study, ablation_seeds, ablations)
    extra = {"summary": summary(found), "settings": settings_of(steps)}
    write_result(out, command_of(RESULT.stem, click.get_current_context()), [file] if file else [], found, extra)
    draw([row for row in found if row["length"] == lengths[0]], out)


def studied(study: Study, seeds: int, systems: Sequence[str]) -> list[Row]:
    """Return the rows of all systems, one seed after another."""
    rows: list[Row] = []
    for seed in range(seeds):
        rows += measured_once(study, "mle", seed, None)
        for system in systems:
            rows += measured_once(study, system, seed, SYSTEMS[system])
    return rows


def ablated(study: Study, seeds: int, ablations: Sequence[str]) -> list[Row]:
    """Return the rows of `dense` with one thing changed."""
    rows: list[Row] = []
    for seed in range(seeds):
        for part in ablations:
            found = measured_once(study, f"dense {part}", seed, ABLATIONS[part])
            rows += [{**row, "ablation": part} for row in found]
    return rows


def settings_of(steps: int) -> dict[str, object]:
    """Return what the result file says about how the models were trained."""
    return {"steps": steps, "fit": asdict(Fit()), **{name: asdict(config) for name, config in SYSTEMS.items()}}


if __name__ == "__main__":
    run(main, "oracle.py")
