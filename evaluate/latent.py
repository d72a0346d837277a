"""Is a VAE's latent space useful: is the rate held, does z carry what it costs, and what are transfer and interpolation worth?

    emogen data fetch goemotions && emogen pull smollm2
    python evaluate/latent.py --work runs/latent
    python evaluate/latent.py --work runs/latent-zh --texts smp2020_ewect --guide ngrams --similarity chrf --keep 1 \
        --language-model own --vocabulary 0

The rows are divided as in `conditional.py`: half of the training texts are the VAEs' and the language model's, a quarter is the
guide's, a quarter the judge's; the two classifiers share neither rows nor architecture (the guide, on MiniLM where the texts
are English, judges nothing). What stands in --work is used again; rows of other seeds stay in the result file.

`rate`: a VAE for each --target-rate. The first, of the highest, has for a decoder a language model (`start`) that is trained
before, and each of the others begins with the one above it. What they are compared with, `lm`, is that language model, without
latent, trained further on the same rows for as many steps as any VAE has behind it. Of test rows, in nats a row:
`kl` beside the target (`kl_ratio`), `iw_nll` with --draws importance samples beside the `nll_reply` of `lm` (`iw_ratio`),
active units, mutual information (at most log 64 by its estimator).

`transfer`: balanced test texts, each to be given one of the other emotions, which take turns. A text's `product` is
    accuracy     1 where the judge finds the emotion that was asked for likeliest, else 0
    similarity   cosine of the sentence vectors of source and output, 0 where it is negative; or their chrF, by --similarity
    fluency      min(1, perplexity a word of the source / that of the output) under a language model from outside, or one of the
                 judge's rows, by --language-model
multiplied. `copy` gives the source back; `phrase` puts a sentence that names the emotion in front of it (PHRASES).
`beyond_copy` and `beyond_phrase` are the mean differences of the products, text by text.

`path`: seven texts between two test texts, read from the line between their latents. `mean_step` and `max_step` are distances
of neighbours, 1 less the similarity; `shuffled` has the same texts in another order.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import click
import numpy as np
import torch
from conditional import about, option, refuse_other_run, several
from conditional_data import prepared
from conditional_plan import CLASSIFIER, GAN, Classifiers, Plan, Task
from emotion_text import OWN, balanced, or_own
from latent_transfer import CHRF, PHRASES, Judging, Similarity, similarity_by, transfer_rows

import emogen
from emogen.checkpoint.model import EmotionModel
from emogen.cli import run
from emogen.data.batches import Batch
from emogen.data.exchange import Exchange, Reading
from emogen.decoding.latent import LatentSpace, interpolate, latent_space
from emogen.decoding.transfer_options import TransferOptions
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.evaluate.resampling import mean_tally
from emogen.evaluate.score import signature
from emogen.models.vae import TextVAE
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import load_recognizer
from emogen.train.config import GeneratorRun, LmSettings, VaeSettings
from emogen.train.corpus import held_out_batches, prepare
from emogen.train.fit import fit_lm, fit_vae
from emogen.train.language_model import load_language_model
from emogen.train.loops.mle import held_out_nll
from emogen.train.loops.vae import held_out_elbo
from emogen.train.run.folder import is_resumable, read_train_file
from emogen.train.run.memory import keep_freed_memory

RESULT = Path("evaluate/results/latent.json")
PARTS = ("rate", "transfer", "path")
LM = LmSettings(
    steps=5500, vocabulary=4000, width=256, dropout=0.3, learning_rate=3e-3, batch_size=64, validate_every=500, save_every=250
)
VAE = VaeSettings(
    latent=16,
    encoder_layers=1,
    dropout=0.3,
    learning_rate=1.5e-3,
    autoencoder_share=0.05,
    annealing_share=0.1,
    steps=3000,
    batch_size=64,
    validate_every=200,
    save_every=200,
)
STEPS = 7


@click.command()
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="What is made, and used again.")
@several("--part", PARTS, "What to measure.", click.Choice(PARTS))
@option("--texts", "goemotions", "Corpus of labelled texts.")
@several("--target-rate", (2.0, 5.0, 10.0), "Nats; a VAE for each.", float)
@option("--transfer-rate", 10.0, "Of the VAE of transfer and path.")
@option("--prior", "standard", "Of the VAEs.", type=click.Choice(("standard", "emotion")))
@option("--steps", VAE.steps, "Updates of the first VAE.")
@option("--next-steps", 500, "Updates of each further VAE.")
@option("--lm-steps", LM.steps, "Updates of the language model that all begin with.")
@option("--vocabulary", LM.vocabulary, "Of all models; 0: by the corpus. Chinese needs more than the default.")
@option("--rows", 1500, "Test rows of the rate.", type=click.IntRange(1))
@option("--draws", 32, "Importance samples a row.", type=click.IntRange(1))
@option("--each", 30, "Texts of each emotion to be transferred.", type=click.IntRange(1))
@option("--pairs", 50, "Pairs of texts with a path between.", type=click.IntRange(1))
@option("--split", "test", "Rows of transfer and path; settings are chosen on valid.", type=click.Choice(("valid", "test")))
@option("--similarity", "hf:all-MiniLM-L6-v2", f"hf:NAME-OR-FOLDER of a sentence encoder, or {CHRF}, for any language.")
@option("--language-model", "hf:smollm2", f"For fluency: hf:NAME-OR-FOLDER or a checkpoint; {OWN}: one of the judge's rows.")
@option("--guide", "hf:all-MiniLM-L6-v2", "Backbone of the guide of transfer.")
@option("--keep", TransferOptions.keep, "Of transfer, as in `emogen transfer`.")
@option("--seed", 0, "Of training and of transfer.")
@option("--threads", 1, "CPU threads; 0 leaves the choice to PyTorch.", type=click.IntRange(min=0))
@click.option("--only-train", is_flag=True, help="Train what is missing; no figures.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    work: Path,
    part: tuple[str, ...],
    texts: str,
    target_rate: tuple[float, ...],
    transfer_rate: float,
    prior: Literal["standard", "emotion"],
    steps: int,
    next_steps: int,
    lm_steps: int,
    vocabulary: int,
    rows: int,
    draws: int,
    each: int,
    pairs: int,
    split: str,
    similarity: str,
    language_model: str,
    guide: str,
    keep: float,
    seed: int,
    threads: int,
    only_train: bool,
    out: Path,
) -> None:
    """Measure VAEs, training what is missing."""
    keep_freed_memory()
    torch.set_num_threads(threads or torch.get_num_threads())
    classifiers, task = divided_rows(work, texts, guide, each, threads)
    lm = replace(LM, steps=lm_steps, vocabulary=vocabulary or None, seed=seed, threads=threads)
    vae = replace(VAE, steps=steps, prior=prior, seed=seed, threads=threads)
    models = Models(work / f"seed-{seed}", task, lm, vae, next_steps)
    rates = {*target_rate, transfer_rate}
    folders = models.vaes(rates)
    same = models.language_model(rates) if "rate" in part else None
    if only_train:
        return
    trained = [*folders.values(), *([same] if same else [])]
    leak = refuse_leaks(classifiers.judge, [classifiers.guide, *trained])
    found: list[dict[str, object]] = []
    if same:
        found += with_ratios(list(rate_rows(same, folders, texts, rows, draws)))
    if set(part) - {"rate"}:
        space, exchanges, similar = space_of(folders[transfer_rate]), rows_of(task, split, each), similarity_by(similarity)
        if "transfer" in part:
            language = load_language_model(or_own(language_model, work / "language", task.ready, lm))
            judging = Judging(load_recognizer(classifiers.judge), similar, language)
            guiding, options = load_recognizer(classifiers.guide), TransferOptions(keep=keep, seed=seed)
            kept = models.folder / f"transfer-{split}"
            found += transfer_rows(space, exchanges, guiding, judging, PHRASES.get(texts, {}), options, kept)
        if "path" in part:
            found += path_rows(space, exchanges, pairs, similar, seed)
    command = command_of(RESULT.stem, click.get_current_context())
    made = {"command": command, "judge_leaks": leak, "models": {folder.name: about(folder) for folder in trained}}
    write_seed(out, seed, made, found, [task.ready.source, classifiers.guide, classifiers.judge])


def write_seed(
    out: Path, seed: int, made: Mapping[str, object], found: Sequence[Mapping[str, object]], files: Sequence[Path]
) -> None:
    """Put the rows of a seed, and how they were made, into the result file, in place of those that it had."""
    before = read_json(out) if out.is_file() else {"runs": {}, "rows": []}
    runs = dict(sorted((before["runs"] | {str(seed): made}).items()))
    rows = [*(row for row in before["rows"] if row["seed"] != seed), *({**row, "seed": seed} for row in found)]
    command = " && ".join(str(each["command"]) for each in runs.values())
    write_result(out, command, files, sorted(rows, key=lambda row: int(str(row["seed"]))), {"runs": runs})


@dataclass(frozen=True)
class Models:
    """What is trained, in `folder`, on the generator's rows of `task`; `lm`: settings of `start`; `vae`: of the first VAE."""

    folder: Path
    task: Task
    lm: LmSettings
    vae: VaeSettings
    next_steps: int

    def vaes(self, rates: Collection[float]) -> dict[float, Path]:
        """Return the VAEs by their target, from the highest down."""
        found: dict[float, Path] = {}
        settings = replace(self.vae, init=str(self.start()))
        further = replace(settings, steps=self.next_steps, autoencoder_share=0.0, annealing_share=0.0)
        for rate in sorted(rates, reverse=True):
            found[rate] = learnt(self.folder / f"vae-{rate:g}", self.task, replace(settings, target_rate=rate))
            settings = replace(further, init=str(found[rate]))
        return found

    def language_model(self, rates: Collection[float]) -> Path:
        """Return the same decoder without latent, trained as long as the last of the VAEs."""
        steps = self.vae.steps + self.next_steps * (len(rates) - 1)
        further = replace(self.lm, vocabulary=None, init=str(self.start()), steps=steps, learning_rate=self.vae.learning_rate)
        return learnt(self.folder / "lm", self.task, further)

    def start(self) -> Path:
        """Return the language model that all begin with."""
        return learnt(self.folder / "start", self.task, self.lm)


def divided_rows(work: Path, texts: str, guide: str, each: int, threads: int) -> tuple[Classifiers, Task]:
    """Guide, judge and the rows, as `conditional.py` divides them; `guide` is a backbone."""
    guiding, judging = (replace(CLASSIFIER, backbone=backbone, threads=threads) for backbone in (guide, "cnn"))
    plan = Plan(
        work=work,
        task=("texts",),
        texts=texts,
        replies="",
        arm=(),
        seed=(),
        lm=LM,
        gan=GAN,
        emotion_weight=0.0,
        start=None,
        guide=guiding,
        judge=judging,
        each=each,
        temperature=(),
        language_model="",
        allow_leak=False,
    )
    classifiers, (task,) = prepared(plan)
    return classifiers, task


def learnt(folder: Path, task: Task, settings: LmSettings | VaeSettings) -> Path:
    """Return the model in `folder`: as it stands there if its run has ended, else trained, or trained to its end."""
    if read_train_file(folder).get("finished"):
        refuse_other_run(folder, task.ready.generator, settings)
        return folder
    files, reading, resuming = [str(task.ready.generator)], task.ready.reading, is_resumable(folder)
    if isinstance(settings, VaeSettings):
        return fit_vae(files, reading, replace(settings, out=str(folder)), resuming)
    return fit_lm(files, reading, replace(settings, out=str(folder)), resuming)


def space_of(folder: Path) -> LatentSpace:
    """Return the latent space of a VAE's checkpoint."""
    found = emogen.load(folder, whole=True)
    return latent_space(found.model, found.tokenizer, found.labels, found.description.limits, folder.name)


def rows_of(task: Task, split: str, each: int) -> Sequence[Exchange]:
    """Return balanced rows that no model was trained on."""
    if split == "test":
        return task.ready.test
    return balanced(task.ready.valid, dict.fromkeys(task.ready.labels, each))


# ---- rate


def rate_rows(lm: Path, vaes: Mapping[float, Path], corpus: str, rows: int, draws: int) -> Iterator[dict[str, object]]:
    """Yield figures of the language model, then of each VAE, on the same test rows."""
    found = emogen.load(lm)
    yield {"system": "lm", **held_out_nll(found.generator, test_batches(found, corpus, rows))}
    for rate, folder in vaes.items():
        loaded = emogen.load(folder, whole=True)
        assert isinstance(loaded.model, TextVAE)
        figures = held_out_elbo(loaded.model, test_batches(loaded, corpus, rows), draws)
        case = {"system": "vae", "case": f"{rate:g} nats", "target_rate": rate}
        yield {**case, "latent": loaded.generator.config.latent, "draws": draws, **figures}
        click.echo(f"{folder.name} measured: {figures}", err=True)


def test_batches(loaded: EmotionModel, corpus: str, rows: int) -> Iterator[Batch]:
    """Return rows spread evenly over the corpus's own test split, as the model reads them."""
    limits = loaded.description.limits
    config = GeneratorRun(context_tokens=limits.context_tokens, reply_tokens=limits.reply_tokens)
    data = prepare([corpus], Reading(labels=loaded.labels), config, loaded.tokenizer, loaded.labels)
    return held_out_batches(data.arrays, "test", rows)


def with_ratios(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows with what the targets are stated in.

    KL by its target, and importance-weighted by the language model's NLL.

    >>> with_ratios([{"nll_reply": 80.0}, {"target_rate": 5.0, "kl": 5.5, "iw_nll": 81.0}])[1]["iw_ratio"]
    1.0125
    """
    (nll,) = (float(str(row["nll_reply"])) for row in rows if "nll_reply" in row)
    found = []
    for row in rows:
        ratios = {}
        if "kl" in row:
            ratios = {
                "kl_ratio": float(str(row["kl"])) / float(str(row["target_rate"])),
                "iw_ratio": float(str(row["iw_nll"])) / nll,
            }
        found.append({**row, **ratios})
    return found


# ---- transfer


# ---- path


def path_rows(
    space: LatentSpace, rows: Sequence[Exchange], pairs: int, similarity: Similarity, seed: int
) -> Iterator[dict[str, object]]:
    """Yield figures of paths between texts, and of the same texts in another order."""
    draw = random.Random(seed)
    readable = [row.reply for row in rows if 0 < len(space.tokenizer.encode(row.reply)) <= space.limits.reply_tokens]
    paths = []
    for _ in range(pairs):
        first, second = draw.sample(readable, 2)
        paths.append([found.text.strip() or "." for found in interpolate(space, first, second, STEPS)])
    shuffled = [draw.sample(texts, STEPS) for texts in paths]
    for system, found in (("path", paths), ("shuffled", shuffled)):
        steps = np.array([1 - similarity.of(texts[:-1], texts[1:]) for texts in found])
        about = {"paths": pairs, "texts": STEPS, "similarity": similarity.name}
        yield {
            "system": system,
            "n": pairs,
            "mean_step": mean_tally(steps.mean(1).tolist(), signature("mean_step", about)).score(),
            "max_step": mean_tally(steps.max(1).tolist(), signature("max_step", about)).score(),
        }


if __name__ == "__main__":
    run(main, "latent.py")
