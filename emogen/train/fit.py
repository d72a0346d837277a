"""From files and settings to a trained checkpoint: what the training commands do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emogen.atomic import write_text
from emogen.checkpoint import CHECKPOINTS, Checkpoint, describe, find_checkpoint, load, mark_latest, save_model
from emogen.data.batches import Batch, TokenArrays, batches
from emogen.data.exchange import Reading
from emogen.decoding.sampling import Prompt, Sampling, sample
from emogen.emotions import LabelSet, mixture
from emogen.errors import CheckpointError
from emogen.models.discriminator import Discriminator, DiscriminatorConfig
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.text import BOS, SentencePieceTokenizer, load_tokenizer
from emogen.train.config import GanSettings, LmSettings, RunConfig, VaeSettings
from emogen.train.corpus import Prepared, prepare
from emogen.train.gan import Adversaries, train_gan
from emogen.train.mle import held_out_nll, train_mle
from emogen.train.run import STATE_FILE, Watch, refuse_overwriting, resume, run
from emogen.train.state import Step, TrainState, adamw, choose_device
from emogen.train.vae import held_out_elbo, train_vae
from emogen.version import __version__

TRAIN_FILE = "train.json"
WARM_START = "warm-start"
_HELD_OUT_ROWS = 2_000
_HELD_OUT_BATCH = 64

Loop = Callable[[Iterator[Batch], TrainState], Iterator[Step]]


def fit_lm(files: Sequence[str], reading: Reading, settings: LmSettings, resuming: bool = False) -> Path:
    """Trains an emotion-conditioned language model; returns the checkpoint's folder.

    Args:
        files: paths or names of corpora.
        reading: columns and labels.
        settings: all of `emogen train-lm`.
        resuming: go on with what stands in the folder.

    Raises:
        EmogenError: unreadable data, a folder that holds another run, a loss that is not finite, an interruption.
    """
    folder, device = _begin("lm", settings, resuming)
    data = prepare(files, reading, settings, _kept_tokenizer(folder))
    generator = Generator(_generator_config(settings, data)).to(device)
    state = TrainState({"generator": generator}, {"generator": adamw(generator, settings.weight_decay)}, _random(settings))
    return _drive(
        folder, settings, data, generator, state,
        loop=lambda rows, running: train_mle(generator, rows, settings, running),
        validate=lambda: held_out_nll(generator, held_out_batches(data.arrays)),
        select="nll",
    )


def fit_vae(files: Sequence[str], reading: Reading, settings: VaeSettings, resuming: bool = False) -> Path:
    """Trains an emotion-conditioned text VAE; arguments, result and errors as for `fit_lm`."""
    folder, device = _begin("vae", settings, resuming)
    data = prepare(files, reading, settings, _kept_tokenizer(folder))
    decoder = replace(_generator_config(settings, data), latent=settings.latent)
    vae = TextVAE(TextVaeConfig(decoder, settings.encoder_layers, settings.heads)).to(device)
    state = TrainState({"vae": vae}, {"vae": adamw(vae, settings.weight_decay)}, _random(settings))
    return _drive(
        folder, settings, data, vae, state,
        loop=lambda rows, running: train_vae(vae, rows, settings, running),
        validate=lambda: held_out_elbo(vae, held_out_batches(data.arrays)),
    )


def fit_gan(files: Sequence[str], reading: Reading, settings: GanSettings, warm: VaeSettings, resuming: bool = False) -> Path:
    """Trains a generator adversarially; arguments, result and errors as for `fit_lm`.

    It starts from `settings.init`, else from a VAE that is trained with `warm` first, in the folder `warm-start` inside.
    """
    folder, device = _begin("gan", settings, resuming)
    start = load(find_checkpoint(settings.init) if settings.init else _warm_start(files, reading, warm, folder), device)
    limits = start.description.limits
    rows = replace(settings, context_tokens=limits.context_tokens, reply_tokens=limits.reply_tokens)
    data = prepare(files, reading, rows, start.tokenizer, start.labels)
    models = _adversaries(start, settings, device)
    state = TrainState(
        {"generator": models.generator, "discriminator": models.discriminator},
        {"generator": adamw(models.generator), "discriminator": adamw(models.discriminator)},
        _random(settings),
    )
    return _drive(
        folder, settings, data, models.generator, state,
        loop=lambda rows, running: train_gan(models, rows, settings, running),
        validate=lambda: held_out_nll(models.generator, held_out_batches(data.arrays)),
        about={"start": str(start.folder), "start_sources": read_train_file(start.folder).get("sources", {})},
        by_context=True,
    )


def held_out_batches(arrays: dict[str, TokenArrays], split: str = "valid", rows: int = _HELD_OUT_ROWS) -> Iterator[Batch]:
    """The first rows of a held-out split in order of length; of `train` where there is no such split."""
    chosen = arrays.get(split, arrays["train"])
    places = sorted(range(min(rows, len(chosen))), key=lambda row: int(chosen.offsets[row + 1] - chosen.offsets[row]))
    for at in range(0, len(places), _HELD_OUT_BATCH):
        yield chosen.batch(places[at : at + _HELD_OUT_BATCH])


def resumable_folder(out: str | None) -> Path:
    """The folder to resume: `out`, else what checkpoints/latest or the newest folder under checkpoints/ with a saved state is.

    Raises:
        CheckpointError: there is none.
    """
    if out:
        return Path(out)
    states = sorted(CHECKPOINTS.glob(f"*/{STATE_FILE}"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise CheckpointError(f"{CHECKPOINTS}: no run to resume there; name one with --out")
    return states[-1].parent


def read_train_file(folder: Path) -> dict[str, Any]:
    """What train.json says about a checkpoint: settings, hashes of its data, steps and figures; empty where it is missing."""
    try:
        content: dict[str, Any] = json.loads((folder / TRAIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def _begin(kind: str, settings: RunConfig, resuming: bool) -> tuple[Path, torch.device]:
    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    folder = Path(settings.out) if settings.out else _new_folder(kind)
    refuse_overwriting(folder, resuming)
    if resuming and not folder.is_dir():
        raise CheckpointError(f"{folder}: nothing to resume there; leave out --resume to start")
    torch.manual_seed(settings.seed)
    return folder, device


def _new_folder(kind: str) -> Path:
    return next(folder for number in range(1, 10_000) if not (folder := CHECKPOINTS / f"{kind}-{number}").exists())


def _kept_tokenizer(folder: Path) -> SentencePieceTokenizer | None:
    path = folder / "tokenizer.model"
    return load_tokenizer(path) if path.exists() else None


def _random(settings: RunConfig) -> torch.Generator:
    return torch.Generator().manual_seed(settings.seed)


def _generator_config(settings: LmSettings | VaeSettings, data: Prepared) -> GeneratorConfig:
    return GeneratorConfig(
        data.tokenizer.vocabulary, len(data.labels), settings.backbone, settings.width, settings.layers, settings.heads,
        dropout=settings.dropout,
    )


def _warm_start(files: Sequence[str], reading: Reading, warm: VaeSettings, folder: Path) -> Path:
    inside = replace(warm, out=str(folder / WARM_START))
    done = read_train_file(folder / WARM_START).get("finished", False)
    return folder / WARM_START if done else fit_vae(files, reading, inside, resuming=(folder / WARM_START).is_dir())


def _adversaries(start: Checkpoint, settings: GanSettings, device: torch.device) -> Adversaries:
    config = start.generator.config
    sizes = DiscriminatorConfig(
        config.vocabulary, config.emotions, "prefix" if settings.estimator == "dense" else "sequence",
        settings.discriminator_width, settings.discriminator_layers, settings.discriminator_heads,
        settings.discriminator_dropout,
    )
    reference = copy.deepcopy(start.generator).eval().requires_grad_(False)
    return Adversaries(start.generator, reference, Discriminator(sizes).to(device))


def _drive(
    folder: Path,
    settings: RunConfig,
    data: Prepared,
    model: nn.Module,
    state: TrainState,
    loop: Loop,
    validate: Callable[[], dict[str, float]],
    select: str = "",
    about: dict[str, Any] | None = None,
    by_context: bool = False,
) -> Path:
    """Writes what a checkpoint needs beside its weights, resumes what stands there, and runs the loop."""
    data.tokenizer.save(folder / "tokenizer.model")
    resume(state, folder)
    facts = {
        "emogen": __version__,
        "torch": torch.__version__,
        "settings": asdict(settings),
        "sources": data.sources,
        "rows": {split: len(arrays) for split, arrays in data.arrays.items()},
        "left_out": {split: arrays.left_out for split, arrays in data.arrays.items()},
        **(about or {}),
    }
    _write_facts(folder, facts, state, finished=False)
    description = describe(model, data.labels, data.limits)
    watch = Watch(
        validate=validate,
        preview=lambda: _preview(model, data.tokenizer, data.labels, state.step),
        save=lambda: save_model(folder, description, model),
        select=select,
    )
    rows = batches(data.arrays["train"], settings.batch_size, settings.seed, state.step, by_context)
    run(loop(rows, state), state, settings, folder, watch)
    _write_facts(folder, facts, state, finished=True)
    mark_latest(folder)
    return folder


def _write_facts(folder: Path, facts: dict[str, Any], state: TrainState, finished: bool) -> None:
    content = facts | {"finished": finished, "steps": state.step, "figures": state.figures}
    write_text(folder / TRAIN_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _preview(model: nn.Module, tokenizer: SentencePieceTokenizer, labels: LabelSet, seed: int) -> str:
    """One sample with an emotion that changes from call to call."""
    generator = model.decoder if isinstance(model, TextVAE) else model
    assert isinstance(generator, Generator)
    name = labels.names[seed // 10 % len(labels)]
    options = Sampling(temperature=0.8, top_p=0.95, seed=seed)
    found = next(sample(generator, tokenizer, [Prompt([BOS], mixture({name: 1.0}, labels))], options))
    return f"{name}: {found.text}"
