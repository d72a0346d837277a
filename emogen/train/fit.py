"""From files and settings to a trained checkpoint: what the training commands do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emogen.atomic import sha256, write_text
from emogen.checkpoint import CHECKPOINTS, Checkpoint, describe, find_checkpoint, load, mark_latest, save_model
from emogen.data.batches import Batch, TokenArrays, batches
from emogen.data.exchange import Columns, Reading
from emogen.decoding.sampling import Prompt, Sampling, sample
from emogen.emotions import LabelSet, mixture
from emogen.errors import CheckpointError, EmogenError, Interrupted
from emogen.models.discriminator import Discriminator, DiscriminatorConfig
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.text import BOS, SentencePieceTokenizer, load_tokenizer
from emogen.train.config import GanSettings, LmSettings, RunConfig, VaeSettings
from emogen.train.corpus import Prepared, prepare
from emogen.train.gan import Adversaries, train_gan
from emogen.train.memory import keep_freed_memory
from emogen.train.mle import held_out_nll, train_mle
from emogen.train.run import STATE_FILE, Watch, explaining, refuse_overwriting, resume, run
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
    with _begun("train-lm", settings, resuming) as (folder, device):
        data = _same_data(prepare(files, reading, settings, _kept_tokenizer(folder, resuming)), folder, resuming)
        generator = Generator(_generator_config(settings, data)).to(device)
        state = TrainState({"generator": generator}, {"generator": adamw(generator, settings.weight_decay)}, _random(settings))
        return _drive(
            folder,
            settings,
            data,
            generator,
            state,
            loop=lambda rows, running: train_mle(generator, rows, settings, running),
            validate=lambda: held_out_nll(generator, held_out_batches(data.arrays)),
            about=_order("train-lm", files, reading, settings),
            select="nll",
        )


def fit_vae(files: Sequence[str], reading: Reading, settings: VaeSettings, resuming: bool = False) -> Path:
    """Trains an emotion-conditioned text VAE; arguments, result and errors as for `fit_lm`."""
    with _begun("train-vae", settings, resuming) as (folder, device):
        data = _same_data(prepare(files, reading, settings, _kept_tokenizer(folder, resuming)), folder, resuming)
        decoder = replace(_generator_config(settings, data), latent=settings.latent)
        vae = TextVAE(TextVaeConfig(decoder, settings.encoder_layers, settings.heads)).to(device)
        state = TrainState({"vae": vae}, {"vae": adamw(vae, settings.weight_decay)}, _random(settings))
        return _drive(
            folder,
            settings,
            data,
            vae,
            state,
            loop=lambda rows, running: train_vae(vae, rows, settings, running),
            validate=lambda: held_out_elbo(vae, held_out_batches(data.arrays)),
            about=_order("train-vae", files, reading, settings),
        )


def fit_gan(files: Sequence[str], reading: Reading, settings: GanSettings, warm: VaeSettings, resuming: bool = False) -> Path:
    """Trains a generator adversarially; arguments, result and errors as for `fit_lm`.

    It starts from `settings.init`, else from a VAE that is trained with `warm` first, in the folder `warm-start` inside.
    """
    with _begun("train-gan", settings, resuming) as (folder, device):
        if settings.init:
            # Another model may be the latest when the run is resumed.
            settings = replace(settings, init=str(find_checkpoint(settings.init)))
        order = _order("train-gan", files, reading, settings) | {"warm": asdict(warm)}
        start = load(settings.init or _warm_start(files, reading, warm, folder, order), device)
        order |= _facts_of_start(start, folder, resuming)
        limits = start.description.limits
        rows = replace(settings, context_tokens=limits.context_tokens, reply_tokens=limits.reply_tokens)
        data = _same_data(prepare(files, reading, rows, start.tokenizer, start.labels), folder, resuming)
        # The warm start draws random numbers, and a resumed run does without it.
        torch.manual_seed(settings.seed)
        models = _adversaries(start, settings, device)
        state = TrainState(
            {"generator": models.generator, "discriminator": models.discriminator},
            {"generator": adamw(models.generator), "discriminator": adamw(models.discriminator)},
            _random(settings),
        )
        return _drive(
            folder,
            settings,
            data,
            models.generator,
            state,
            loop=lambda rows, running: train_gan(models, rows, settings, running),
            validate=lambda: held_out_nll(models.generator, held_out_batches(data.arrays)),
            about=order,
            by_context=True,
        )


def held_out_batches(arrays: dict[str, TokenArrays], split: str = "valid", rows: int = _HELD_OUT_ROWS) -> Iterator[Batch]:
    """Rows spread evenly over a held-out split, in order of length; of `train` where that split has none."""
    chosen = arrays[split] if len(arrays.get(split, ())) else arrays["train"]
    spread = {at * len(chosen) // min(rows, len(chosen)) for at in range(min(rows, len(chosen)))}
    places = sorted(spread, key=lambda row: (int(chosen.offsets[row + 1] - chosen.offsets[row]), row))
    for at in range(0, len(places), _HELD_OUT_BATCH):
        yield chosen.batch(places[at : at + _HELD_OUT_BATCH])


def resumable_folder(out: str | None, command: str) -> Path:
    """The folder to resume: `out`, else the one under checkpoints/ where a run of `command` began or ended last.

    Raises:
        CheckpointError: there is none, or it holds a run of another command.
    """
    if not out:
        runs = [path for path in CHECKPOINTS.glob(f"*/{TRAIN_FILE}") if _is_resumable(path.parent)]
        runs = [path for path in runs if read_train_file(path.parent).get("command", command) == command]
        if not runs:
            raise CheckpointError(f"{CHECKPOINTS}: no run of {command} to resume there; name its folder with --out")
        return max(runs, key=lambda path: path.stat().st_mtime).parent
    folder = Path(out)
    begun = read_train_file(folder).get("command", command)
    if begun != command:
        raise CheckpointError(f"{folder}: holds a run of {begun}; go on with: emogen {begun} --resume --out {folder}")
    if not _is_resumable(folder):
        raise CheckpointError(f"{folder}: no run to resume there; leave out --resume to start one")
    return folder


def read_train_file(folder: Path) -> dict[str, Any]:
    """What train.json says about a checkpoint: settings, hashes of its data, steps and figures; empty where it is missing.

    Raises:
        CheckpointError: it is there and cannot be read.
    """
    path = folder / TRAIN_FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); put back a whole one, or start again elsewhere") from None
    if not isinstance(content, dict) or not isinstance(content.get("settings", {}), dict):
        raise CheckpointError(f"{path}: holds no table of facts; put back a whole one, or start again elsewhere")
    return content


def saved_data(folder: Path) -> tuple[tuple[str, ...], Reading]:
    """The files of the run in `folder` and how it read them; no files where its train.json does not say."""
    content = read_train_file(folder)
    try:
        fields = dict(content.get("reading", {}))
        columns = Columns(**fields.pop("columns", {}))
        labels = LabelSet(tuple(fields.pop("labels")["names"])) if fields.get("labels") else None
        return tuple(content.get("files", ())), Reading(**{**fields, "columns": columns, "labels": labels})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / TRAIN_FILE}: no readable account of the data ({error!r})") from None


@contextmanager
def _begun(command: str, settings: RunConfig, resuming: bool) -> Iterator[tuple[Path, torch.device]]:
    """The run's folder and device; a folder that is new and in which nothing came to stand goes away again."""
    keep_freed_memory()
    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    folder, is_new = _own_folder(command, settings, resuming)
    torch.manual_seed(settings.seed)
    try:
        with explaining(settings, folder):
            yield folder, device
    finally:
        if is_new:
            _remove_unused(folder)


def _own_folder(command: str, settings: RunConfig, resuming: bool) -> tuple[Path, bool]:
    """The run's folder, made where it is not there yet, and whether it was made."""
    try:
        if resuming:
            return resumable_folder(settings.out, command), False
        if not settings.out:
            return _new_folder(command.removeprefix("train-")), True
        folder = Path(settings.out)
        refuse_overwriting(folder, resuming)
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        return folder, is_new
    except OSError as error:
        raise EmogenError(f"{error.filename}: cannot be made a folder ({error.strerror}); choose another --out") from None


def _new_folder(kind: str) -> Path:
    """The first free checkpoints/KIND-NUMBER, made at once so that a run that starts beside this one takes the next."""
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        with suppress(FileExistsError):
            folder = CHECKPOINTS / f"{kind}-{number}"
            folder.mkdir()
            return folder
        number += 1


def _remove_unused(folder: Path) -> None:
    with suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {TRAIN_FILE}:
            (folder / TRAIN_FILE).unlink(missing_ok=True)
            folder.rmdir()


def _is_resumable(folder: Path) -> bool:
    """Whether a state is saved there, or a run was begun there and no model stands there yet."""
    if (folder / STATE_FILE).exists():
        return True
    return (folder / TRAIN_FILE).exists() and not (folder / "config.json").exists()


def _order(command: str, files: Sequence[str], reading: Reading, settings: RunConfig) -> dict[str, Any]:
    """What was asked for, as train.json keeps it."""
    return {"command": command, "files": list(files), "reading": asdict(reading), "settings": asdict(settings)}


def _kept_tokenizer(folder: Path, resuming: bool) -> SentencePieceTokenizer | None:
    path = folder / "tokenizer.model"
    return load_tokenizer(path) if resuming and path.exists() else None


def _same_data(data: Prepared, folder: Path, resuming: bool) -> Prepared:
    """The data as it is; raises CheckpointError where a run is resumed on other files than it began with."""
    before = read_train_file(folder).get("sources", {}) if resuming else {}
    if before and sorted(before.values()) != sorted(data.sources.values()):
        now = ", ".join(data.sources)
        raise CheckpointError(f"{folder}: the run began with {', '.join(before)}; {now} holds other rows; pass the same files")
    return data


def _random(settings: RunConfig) -> torch.Generator:
    return torch.Generator().manual_seed(settings.seed)


def _generator_config(settings: LmSettings | VaeSettings, data: Prepared) -> GeneratorConfig:
    return GeneratorConfig(
        data.tokenizer.vocabulary,
        len(data.labels),
        settings.backbone,
        settings.width,
        settings.layers,
        settings.heads,
        dropout=settings.dropout,
    )


def _warm_start(files: Sequence[str], reading: Reading, warm: VaeSettings, folder: Path, order: dict[str, Any]) -> Path:
    """The VAE that adversarial training starts from where no other model is named; its run may have been begun before."""
    inside = folder / WARM_START
    if read_train_file(inside).get("finished", False):
        return inside
    write_text(folder / TRAIN_FILE, _as_json(read_train_file(folder) | order | {"finished": False}))
    try:
        return fit_vae(files, reading, replace(warm, out=str(inside)), resuming=_is_resumable(inside))
    except Interrupted as stopped:
        message = f"stopped in the warm start, state saved; go on with --resume --out {folder}"
        raise Interrupted(message, stopped.signal) from None


def _facts_of_start(start: Checkpoint, folder: Path, resuming: bool) -> dict[str, Any]:
    """Where the start stands and what it was trained on; raises CheckpointError where a resumed run had another."""
    weights = sha256(start.folder / "model.safetensors")
    before = read_train_file(folder).get("start_sha256", weights) if resuming else weights
    if before != weights:
        raise CheckpointError(f"{start.folder}: holds another model than the one that the run in {folder} began with")
    sources = read_train_file(start.folder).get("sources", {})
    return {"start": str(start.folder), "start_sha256": weights, "start_sources": sources}


def _adversaries(start: Checkpoint, settings: GanSettings, device: torch.device) -> Adversaries:
    config = start.generator.config
    sizes = DiscriminatorConfig(
        config.vocabulary,
        config.emotions,
        "prefix" if settings.estimator == "dense" else "sequence",
        settings.discriminator_width,
        settings.discriminator_layers,
        settings.discriminator_heads,
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
    about: dict[str, Any],
    select: str = "",
    by_context: bool = False,
) -> Path:
    """Writes what a checkpoint needs beside its weights, resumes what stands there, and runs the loop."""
    data.tokenizer.save(folder / "tokenizer.model")
    resume(state, folder)
    facts = {
        "emogen": __version__,
        "torch": torch.__version__,
        "sources": data.sources,
        "rows": {split: len(arrays) for split, arrays in data.arrays.items()},
        "left_out": {split: arrays.left_out for split, arrays in data.arrays.items()},
        **about,
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
    write_text(folder / TRAIN_FILE, _as_json(content))


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _preview(model: nn.Module, tokenizer: SentencePieceTokenizer, labels: LabelSet, seed: int) -> str:
    """One sample with an emotion that changes from call to call."""
    generator = model.decoder if isinstance(model, TextVAE) else model
    assert isinstance(generator, Generator)
    name = labels.names[seed // 10 % len(labels)]
    options = Sampling(temperature=0.8, top_p=0.95, seed=seed)
    found = next(sample(generator, tokenizer, [Prompt([BOS], mixture({name: 1.0}, labels))], options))
    return f"{name}: {found.text}"
