"""From files and settings to a trained checkpoint: what the training commands do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import nn

from emogen.checkpoint.finding import find_checkpoint, mark_latest
from emogen.checkpoint.folder import describe, generator_of, save_model
from emogen.checkpoint.model import EmotionModel, load
from emogen.data.batches import Batch
from emogen.data.exchange import Reading
from emogen.data.fingerprints import read_fingerprints
from emogen.decoding.params import SamplingParams
from emogen.decoding.texts import Prompt, TextGenerator, sample
from emogen.emotions.labels import LabelSet, mixture
from emogen.errors import CheckpointError, Interrupted, SettingsError
from emogen.files import sha256
from emogen.models.discriminator import (
    AnyDiscriminator,
    Discriminator,
    DiscriminatorConfig,
    PretrainedDiscriminator,
    adopt_embedding,
)
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.likelihood_ratio import LikelihoodRatioDiscriminator
from emogen.models.pretrained_backbone import AdapterConfig, BaseModel, load_base
from emogen.models.pretrained_encoder import PretrainedReader, pretrained_weights
from emogen.models.vae import TextVAE, TextVaeConfig, adopt_decoder
from emogen.pretrained.bases import find_base
from emogen.pretrained.loading import Pretrained, load_encoder
from emogen.text.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer
from emogen.train.config import LANGUAGE_MODEL, PRETRAINED, GanSettings, GeneratorRun, LmSettings, RunConfig, VaeSettings
from emogen.train.corpus import TokenizedCorpus, held_out_batches, prepare
from emogen.train.gan.rewards import load_guide
from emogen.train.gan.trajectories import Adversaries
from emogen.train.loops.gan import train_gan
from emogen.train.loops.mle import held_out_nll, train_mle
from emogen.train.loops.vae import held_out_elbo, train_vae
from emogen.train.run.folder import (
    is_resumable,
    read_train_file,
    run_manifest,
    write_train_file,
)
from emogen.train.run.launch import open_run, random_stream, refuse_other_data, training_batches
from emogen.train.run.processes import broadcast_from_main
from emogen.train.run.state import Step, TrainState, adamw
from emogen.train.run.training_run import RunHooks, TrainingRun

WARM_START = "warm-start"

Chosen = TypeVar("Chosen", LmSettings, VaeSettings)
Started = TypeVar("Started", LmSettings, VaeSettings, GanSettings)
Loop = Callable[[Iterator[Batch], TrainState], Iterator[Step]]


def fit_lm(files: Sequence[str], reading: Reading, settings: LmSettings, resuming: bool = False) -> Path:
    """Train an emotion-conditioned language model; return the checkpoint's folder.

    Args:
        files: paths or names of corpora.
        reading: columns and labels.
        settings: all of `emogen train-lm`.
        resuming: go on with what stands in the folder.

    Raises:
        EmogenError: unreadable data, a folder that holds another run, a loss that is not finite, an interruption.
    """
    with open_run("train-lm", settings, resuming) as (folder, device):
        settings = _with_start(settings)
        order = run_manifest("train-lm", files, reading, settings)
        if settings.init:
            start = _start_of_lm(settings.init, device)
            order |= _facts_of_start(start, folder, resuming)
            data = _same_data(prepared_for(start, files, reading, settings.seed), folder, resuming)
            generator = start.generator
        else:
            base = _base(settings, device)
            data = _same_data(prepare(files, reading, settings, _tokenizer(base, folder, resuming)), folder, resuming)
            generator = Generator(_generator_config(settings, data, base), base).to(device)
            _adapt(generator, data)
        paced = _set_pace(settings, generator)
        state = TrainState(
            {"generator": generator}, {"generator": adamw(generator, settings.weight_decay)}, random_stream(settings)
        )
        return _train_generator(
            folder,
            settings,
            data,
            generator,
            state,
            loop=lambda rows, running: train_mle(generator, rows, paced, running),
            validate=lambda: held_out_nll(generator, held_out_batches(data.arrays)),
            about=order,
            select="nll",
            seen=[Path(order["start"])] if settings.init else [],
        )


def fit_vae(files: Sequence[str], reading: Reading, settings: VaeSettings, resuming: bool = False) -> Path:
    """Train an emotion-conditioned text VAE; arguments, result and errors as for `fit_lm`."""
    with open_run("train-vae", settings, resuming) as (folder, device):
        settings = _with_start(settings)
        order = run_manifest("train-vae", files, reading, settings)
        if settings.init:
            start = load(settings.init, device, trainable=True, whole=True)
            order |= _facts_of_start(start, folder, resuming)
            data = _same_data(prepared_for(start, files, reading, settings.seed), folder, resuming)
            vae = _begun_vae(start, settings).to(device)
        else:
            base = _base(settings, device)
            data = _same_data(prepare(files, reading, settings, _tokenizer(base, folder, resuming)), folder, resuming)
            encoder = load_encoder(settings.encoder) if settings.encoder else None
            reader = PretrainedReader(encoder, data.tokenizer, len(data.labels)) if encoder else None
            decoder = replace(_generator_config(settings, data, base), latent=settings.latent, prior=settings.prior)
            sizes = TextVaeConfig(decoder, settings.encoder_layers, decoder.heads, reader.config if reader else {})
            vae = TextVAE(sizes, base, reader).to(device)
            _adapt(vae.decoder, data)
        paced = _set_pace(settings, vae.decoder)
        optimizer = adamw(vae, settings.weight_decay, pretrained_weights(vae), settings.encoder_rate / paced.learning_rate)
        state = TrainState({"vae": vae}, {"vae": optimizer}, random_stream(settings))
        return _train_generator(
            folder,
            settings,
            data,
            vae,
            state,
            loop=lambda rows, running: train_vae(vae, rows, paced, running),
            validate=lambda: held_out_elbo(vae, held_out_batches(data.arrays)),
            about=order,
            seen=[Path(order["start"])] if settings.init else [],
        )


def _begun_vae(start: EmotionModel, settings: VaeSettings) -> TextVAE:
    """Return the VAE that is trained further, or one whose decoder begins as a language model."""
    if isinstance(start.model, TextVAE):
        return start.model
    if start.model.config.latent or start.model.config.adapter or settings.encoder:
        raise CheckpointError(
            f"{start.folder}: --init of train-vae takes a VAE that train-vae made, or a language model that train-lm made "
            "without a pretrained backbone (and no --encoder)"
        )
    decoder = replace(start.model.config, latent=settings.latent, prior=settings.prior, dropout=settings.dropout)
    vae = TextVAE(TextVaeConfig(decoder, settings.encoder_layers, decoder.heads))
    adopt_decoder(vae, start.model)
    return vae


def fit_gan(files: Sequence[str], reading: Reading, settings: GanSettings, warm: VaeSettings, resuming: bool = False) -> Path:
    """Train a generator adversarially; arguments, result and errors as for `fit_lm`.

    It starts from `settings.init`, else from a VAE that is trained with `warm` first, in the folder `warm-start` inside.
    """
    if settings.steps <= settings.warmup_steps:
        raise SettingsError(
            f"--steps {settings.steps}: the first --warmup-steps {settings.warmup_steps} train the discriminator alone, and "
            "the generator would learn nothing; raise the one or lower the other"
        )
    with open_run("train-gan", settings, resuming) as (folder, device):
        settings = _with_start(settings)
        encoder = load_encoder(settings.discriminator) if settings.discriminator.startswith(PRETRAINED) else None
        order = run_manifest("train-gan", files, reading, settings) | {"warm": asdict(warm)}
        start = load(settings.init or _warm_start(files, reading, warm, folder, order), device, trainable=True, whole=True)
        order |= _facts_of_start(start, folder, resuming)
        data = _same_data(prepared_for(start, files, reading, settings.seed), folder, resuming)
        # The warm start draws random numbers, and a resumed run does without it.
        torch.manual_seed(settings.seed)
        models = _adversaries(start, settings, encoder, device)
        if settings.compile == "yes":
            models.generator.compile_step()
        order |= {"guide_sha256": sha256(Path(settings.guide) / "model.safetensors")} if settings.guide else {}
        opponent, share = models.discriminator, settings.encoder_rate / settings.discriminator_rate
        readers = opponent.readers if isinstance(opponent, LikelihoodRatioDiscriminator) else nn.ModuleList()
        state = TrainState(
            {"generator": models.generator, "discriminator": opponent},
            {
                "generator": adamw(models.generator),
                "discriminator": adamw(opponent, slow=[*pretrained_weights(opponent), *readers.parameters()], share=share),
            },
            random_stream(settings),
        )
        return _train_generator(
            folder,
            settings,
            data,
            models.generator,
            state,
            loop=lambda rows, running: train_gan(models, rows, settings, running),
            validate=lambda: held_out_nll(models.generator, held_out_batches(data.arrays)),
            about=order,
            by_context=True,
            seen=[start.folder, *([Path(settings.guide)] if settings.guide else [])],
        )


def _base(settings: LmSettings | VaeSettings, device: torch.device) -> BaseModel | None:
    """Return the pretrained model that the backbone names; raise SettingsError where rows may be longer than it reads."""
    if not settings.is_pretrained:
        return None
    base = load_base(
        find_base(settings.backbone), device, full_precision=not settings.lora_rank or settings.precision == "float32"
    )
    most = settings.soft_prefix + settings.context_tokens + settings.reply_tokens
    if most > base.longest:
        raise SettingsError(
            f"--context-tokens {settings.context_tokens} and --reply-tokens {settings.reply_tokens}: {settings.backbone} reads "
            f"{base.longest} tokens at most, {settings.soft_prefix} of them soft; lower them"
        )
    return base


def _tokenizer(base: BaseModel | None, folder: Path, resuming: bool) -> Tokenizer | None:
    """Return the base's tokenizer, or that of the run that is resumed."""
    path = folder / "tokenizer.model"
    if base:
        return base.tokenizer
    return load_tokenizer(path) if resuming and path.exists() else None


def _adapt(generator: Generator, data: TokenizedCorpus) -> None:
    """Open a pretrained backbone for training; its soft prefix begins as the names of the emotions."""
    if generator.config.adapter:
        generator.name_emotions([data.tokenizer.encode(name) for name in data.labels.names])
        generator.adapt()


def _with_start(settings: Started) -> Started:
    """Return the settings with the folder of `init` written out: another model may be the latest when the run is resumed."""
    return replace(settings, init=str(find_checkpoint(settings.init))) if settings.init else settings


def _start_of_lm(init: str, device: torch.device) -> EmotionModel:
    """Return the language model that is trained further; raise CheckpointError where another kind of model stands there."""
    start = load(init, device, trainable=True)
    if start.description.kind != "generator":
        raise CheckpointError(
            f"{start.folder}: is a {start.description.kind}; --init of train-lm takes what train-lm or -gan made"
        )
    return start


def prepared_for(start: EmotionModel, files: Sequence[str], reading: Reading, seed: int) -> TokenizedCorpus:
    """Return the corpus with the tokenizer, the labels and the limits of the model that is trained further."""
    limits = start.description.limits
    rows = GeneratorRun(context_tokens=limits.context_tokens, reply_tokens=limits.reply_tokens, seed=seed)
    return prepare(files, reading, rows, start.tokenizer, start.labels)


def _set_pace(settings: Chosen, generator: Generator) -> Chosen:
    """Return the settings with the learning rate that the generator's backbone asks for."""
    return replace(settings, learning_rate=settings.pretrained_rate) if generator.config.adapter else settings


def _same_data(data: TokenizedCorpus, folder: Path, resuming: bool) -> TokenizedCorpus:
    refuse_other_data(data.sources, folder, resuming)
    return data


def _generator_config(settings: LmSettings | VaeSettings, data: TokenizedCorpus, base: BaseModel | None) -> GeneratorConfig:
    if base:
        sizes = base.model.config
        adapter = AdapterConfig(
            base.base.name, base.base.revision, settings.soft_prefix, settings.lora_rank, 2 * settings.lora_rank
        )
        return GeneratorConfig(
            data.tokenizer.vocabulary,
            len(data.labels),
            "pretrained",
            sizes.hidden_size,
            sizes.num_hidden_layers,
            sizes.num_attention_heads,
            dropout=settings.dropout,
            adapter=adapter,
        )
    return GeneratorConfig(
        data.tokenizer.vocabulary,
        len(data.labels),
        cast("Literal['lstm', 'transformer']", settings.backbone),
        settings.width,
        settings.layers,
        settings.heads,
        dropout=settings.dropout,
    )


def _warm_start(files: Sequence[str], reading: Reading, warm: VaeSettings, folder: Path, order: dict[str, Any]) -> Path:
    """Return the VAE that adversarial training starts from where no other model is named.

    Its run may have been begun before.
    """
    inside = folder / WARM_START
    if read_train_file(inside).get("finished", False):
        return inside
    broadcast_from_main(lambda: write_train_file(folder, read_train_file(folder) | order | {"finished": False}))
    try:
        return fit_vae(files, reading, replace(warm, out=str(inside)), resuming=is_resumable(inside))
    except Interrupted as stopped:
        message = f"stopped in the warm start, state saved; go on with --resume --out {folder}"
        raise Interrupted(message, stopped.signal) from None


def _facts_of_start(start: EmotionModel, folder: Path, resuming: bool) -> dict[str, Any]:
    """Tell where the start stands and what it was trained on; raise CheckpointError where a resumed run had another."""
    weights = sha256(start.folder / "model.safetensors")
    before = read_train_file(folder).get("start_sha256", weights) if resuming else weights
    if before != weights:
        raise CheckpointError(f"{start.folder}: holds another model than the one that the run in {folder} began with")
    sources = read_train_file(start.folder).get("sources", {})
    return {"start": str(start.folder), "start_sha256": weights, "start_sources": sources}


def _adversaries(start: EmotionModel, settings: GanSettings, encoder: Pretrained | None, device: torch.device) -> Adversaries:
    fixed = {id(weight): weight for weight in start.generator.parameters() if not weight.requires_grad}
    before = copy.deepcopy(start.model, fixed).eval().requires_grad_(False)
    guide = load_guide(settings.guide, start.labels, start.tokenizer, device) if settings.guide else None
    return Adversaries(
        generator_of(start.model),
        generator_of(before),
        _discriminator(start, generator_of(before), settings, encoder).to(device),
        before if isinstance(before, TextVAE) else None,
        guide,
    )


def _discriminator(
    start: EmotionModel, before: Generator, settings: GanSettings, encoder: Pretrained | None
) -> AnyDiscriminator:
    config = start.generator.config
    if settings.discriminator.startswith(LANGUAGE_MODEL):
        folders = settings.discriminator.removeprefix(LANGUAGE_MODEL).split(",")
        return LikelihoodRatioDiscriminator([_reader(folder, start) for folder in folders], before)
    if encoder:
        return PretrainedDiscriminator(PretrainedReader(encoder, start.tokenizer, config.emotions))
    sizes = DiscriminatorConfig(
        config.vocabulary,
        config.emotions,
        "prefix" if settings.estimator == "dense" else "sequence",
        settings.discriminator_width,
        settings.discriminator_layers,
        settings.discriminator_heads,
        settings.discriminator_dropout,
    )
    discriminator = Discriminator(sizes).to(start.generator.bias.device)
    adopt_embedding(discriminator, start.generator.embedding.weight)
    return discriminator


def _reader(folder: str, start: EmotionModel) -> Generator:
    """Return a language model that stands in `folder`.

    Raise SettingsError where it reads other rows than the model at the start.
    """
    found = load(folder, start.generator.bias.device, trainable=True)
    same = found.tokenizer.fingerprint == start.tokenizer.fingerprint and found.labels == start.labels
    if not same or found.generator.config.latent or start.generator.config.latent:
        raise SettingsError(
            f"--discriminator {LANGUAGE_MODEL}{folder}: has another tokenizer or other labels than {start.folder}, or one of "
            "them has a latent; train both with train-lm on the same files, with another --seed"
        )
    return found.generator


def _train_generator(
    folder: Path,
    settings: RunConfig,
    data: TokenizedCorpus,
    model: nn.Module,
    state: TrainState,
    *,
    loop: Loop,
    validate: Callable[[], dict[str, float]],
    about: dict[str, Any],
    select: str = "",
    by_context: bool = False,
    seen: Sequence[Path] = (),
) -> Path:
    """Write what a checkpoint needs beside its weights, and run the loop on the training rows.

    The rows that the models in `seen` were trained on count as rows that this one has seen.
    """
    if isinstance(own := data.tokenizer, SentencePieceTokenizer):
        broadcast_from_main(lambda: own.save(folder / "tokenizer.model"))
    description = describe(model, data.labels, data.limits)
    hooks = RunHooks(
        validate=validate,
        preview=lambda: _preview(model, data.tokenizer, data.labels, state.step),
        save=lambda: save_model(folder, description, model),
        select=select,
    )
    known = [np.asarray(data.arrays["train"].fingerprints), *map(read_fingerprints, seen)]
    TrainingRun(folder, settings, state, hooks).fit(
        lambda: loop(training_batches(data.arrays["train"], settings, state, by_context), state),
        facts={
            "sources": data.sources,
            "rows": {split: len(arrays) for split, arrays in data.arrays.items()},
            "left_out": {split: arrays.left_out for split, arrays in data.arrays.items()},
            **about,
        },
        rows=np.concatenate(known),
        finish=lambda: data.labels,
    )
    broadcast_from_main(lambda: mark_latest(folder))
    return folder


def _preview(model: nn.Module, tokenizer: Tokenizer, labels: LabelSet, seed: int) -> str:
    """Return one sample with an emotion that changes from call to call."""
    generator = model.decoder if isinstance(model, TextVAE) else model
    assert isinstance(generator, Generator)
    name = labels.names[seed // 10 % len(labels)]
    options = SamplingParams(temperature=0.7, top_p=0.9, seed=seed)
    found = next(
        sample(TextGenerator(generator, tokenizer), [Prompt(tokenizer.prefix([], 0), mixture({name: 1.0}, labels))], options)
    )
    return f"{name}: {found.text}"
