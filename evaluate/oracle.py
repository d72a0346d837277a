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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import safetensors.torch
import torch
from oracle_sequences import (
    _READER,
    BATCH,
    HELD_OUT,
    READERS,
    REPORT_EVERY,
    ROWS,
    SAMPLED,
    STEPS,
    WEIGHT_DECAY,
    Oracle,
    Row,
    Sequences,
    fresh_generator,
    load_oracle,
    oracle_nll,
    own_oracle,
    sampled,
    sequences_of,
    shuffled_batches,
    token_nlls,
)
from oracle_summary import draw, summary

from emogen.cli import run
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.files import replace_file, sha256, write_text
from emogen.models.discriminator import AnyDiscriminator, Discriminator, DiscriminatorConfig, adopt_embedding
from emogen.models.generator import Generator
from emogen.models.likelihood_ratio import LikelihoodRatioDiscriminator
from emogen.text.tokenizer import SPECIAL
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
    """Return the rows of a system and seed, from the file beside its model if they stand there.

    Config None is maximum likelihood.
    """
    path = study.path(system, seed, config and study.settings(config)).with_suffix(f".{study.sampled}.json")
    if not path.exists():
        generator = fitted(study, seed) if config is None else adversarial(study, system, config, seed)
        write_text(path, json.dumps(list(measured(study, system, seed, generator))))
    rows: list[Row] = read_json(path)
    for row in rows:
        click.echo(row, err=True)
    return rows


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
