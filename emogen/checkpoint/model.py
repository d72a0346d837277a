"""One folder a model: config.json, tokenizer.model, model.safetensors, train.json, README.md; and how to find and load it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emogen.checkpoint.finding import ADAPTER, _matching_base, find_checkpoint, notice_of, shipped_folder
from emogen.checkpoint.folder import (
    _ENCODER_TOKENIZER_FOLDER,
    _TOKENIZER_FOLDER,
    Description,
    _explain_sizes,
    build_model,
    generator_config,
    generator_of,
    read_description,
    read_head,
    read_weights,
)
from emogen.decoding.calibration import Calibration, read_calibration
from emogen.decoding.control import Control
from emogen.decoding.params import SamplingParams
from emogen.decoding.texts import Guide, Prompt, Sample, TextGenerator, sample, stream_steps
from emogen.emotions.labels import Emotion, LabelSet, no_emotion, parse_emotion
from emogen.errors import CheckpointError, SettingsError
from emogen.models.classifier import Classifier, ClassifierConfig
from emogen.models.device import choose_device
from emogen.models.generator import Generator
from emogen.models.head import EmotionHead
from emogen.models.pretrained_backbone import BaseModel, load_base
from emogen.models.pretrained_encoder import PretrainedReader
from emogen.models.vae import TextVAE
from emogen.pretrained.loading import Pretrained, build_encoder, load_tokenizer_of
from emogen.text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    pass

_LOG = logging.getLogger(__name__)
_MOST_TOKENS = 4096
_CANDIDATES = 8


@dataclass(frozen=True)
class EmotionModel:
    """A loaded generator or VAE with all that text from it needs.

    Attributes:
        folder: where it stands.
        description: its config.
        model: Generator or TextVAE.
        tokenizer: its tokenizer.
        head: its emotion head, where `emogen train-head` has given it one.
        calibration: what it is told for an emotion that is asked for; where `emogen calibrate` has measured it.
    """

    folder: Path
    description: Description
    model: Generator | TextVAE
    tokenizer: Tokenizer
    head: EmotionHead | None = None
    calibration: Calibration | None = None

    @property
    def labels(self) -> LabelSet:
        """Return the emotions it knows, in order."""
        return self.description.labels

    @property
    def generator(self) -> Generator:
        """Return the model itself, or a VAE's decoder."""
        return generator_of(self.model)

    def emotion(self, target: str | Emotion | None, strength: float = 1.0) -> Emotion:
        """Return an emotion over the model's labels from `joy`, `joy=0.7,fear=0.3`, an Emotion, or None for no emotion."""
        if target is None:
            return no_emotion(self.labels)
        if not isinstance(target, Emotion):
            return parse_emotion(target, self.labels, strength)
        if target.labels != self.labels:
            raise SettingsError(f"emotion {target} is over other labels than the model's: {', '.join(self.labels.names)}")
        return target

    def sample(
        self,
        emotion: str | Emotion | None = None,
        n: int = 1,
        context: str | Sequence[str] = (),
        sampling: SamplingParams | None = None,
        seed: int = 0,
    ) -> list[Sample]:
        """Return texts with the emotion that is asked for.

        Args:
            emotion: `joy`, `joy=0.7,surprise=0.3`, or None for no emotion.
            n: how many.
            context: the utterance to reply to, or several, oldest first.
            sampling: decoding options, in place of the model's own defaults; its n and seed give way to those here.
            seed: the same seed gives the same texts on a CPU.

        Raises:
            SettingsError: an emotion that the model does not know, or an impossible option.
        """
        return self.replies([context], [emotion], n, sampling, seed)

    def reply(
        self,
        context: str | Sequence[str],
        emotion: str | Emotion | None = None,
        sampling: SamplingParams | None = None,
        seed: int = 0,
    ) -> Sample:
        """Return the reply to an utterance, or to a dialogue, oldest first; arguments and errors as in `sample`."""
        (found,) = self.sample(emotion, 1, context, sampling, seed)
        return found

    def replies(
        self,
        contexts: Sequence[str | Sequence[str]],
        emotions: Sequence[str | Emotion | None],
        n: int = 1,
        sampling: SamplingParams | None = None,
        seed: int | Sequence[int] = 0,
        guide: Guide | None = None,
        latent: Tensor | None = None,
    ) -> list[Sample]:
        """Return replies to many contexts at once, each with its emotion, `n` to each.

        Arguments and errors as in `iter_replies`.
        """
        return list(self.iter_replies(contexts, emotions, n, sampling, seed, guide, latent))

    def iter_replies(
        self,
        contexts: Sequence[str | Sequence[str]],
        emotions: Sequence[str | Emotion | None],
        n: int = 1,
        sampling: SamplingParams | None = None,
        seed: int | Sequence[int] = 0,
        guide: Guide | None = None,
        latent: Tensor | None = None,
    ) -> Iterator[Sample]:
        """Write replies to many contexts, each with its emotion, `n` to each, and yield them in order as batches are done.

        Args:
            contexts: for each reply the utterance before it, or several, oldest first.
            emotions: one for each context, as `sample` takes them.
            n: replies to each.
            sampling: decoding options, control among them, in place of `sampling_for`.
            seed: the same seed gives the same texts on a CPU. A sequence gives each context its own: its replies are then
                those that it gets alone under that seed.
            guide: probabilities over the model's labels of texts, for control `rerank`.
            latent: of a VAE, [contexts * n, latent], in place of draws from its prior.

        Raises:
            SettingsError: an emotion that the model does not know, or an impossible option.
        """
        options, prompts = self._target(contexts, emotions, sampling or self.sampling_for(self._any_asked(emotions)), seed)
        return sample(self.writer(guide), prompts, replace(options, n=n), latent)

    def stream(
        self,
        context: str | Sequence[str] = (),
        emotion: str | Emotion | None = None,
        sampling: SamplingParams | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yield the text of `sample`, piece by piece as it is written; arguments as there, defaults as in `stream_replies`."""
        yield from (piece for _, piece, _ in self.stream_replies([context], [emotion], sampling, seed) if piece)

    def stream_replies(
        self,
        contexts: Sequence[str | Sequence[str]],
        emotions: Sequence[str | Emotion | None],
        sampling: SamplingParams | None = None,
        seed: int | Sequence[int] = 0,
    ) -> Iterator[tuple[int, str, bool]]:
        """Write a reply to each context, all in one batch: yield (number of the context, next piece, whether that ends it).

        Arguments and errors as in `iter_replies`; a control that chooses among whole texts is refused.
        """
        defaults = sampling or self.sampling_for(self._any_asked(emotions), streamed=True)
        options, prompts = self._target(contexts, emotions, defaults, seed)
        return stream_steps(self.writer(), prompts, options)

    def _target(
        self,
        contexts: Sequence[str | Sequence[str]],
        emotions: Sequence[str | Emotion | None],
        sampling: SamplingParams,
        seed: int | Sequence[int],
    ) -> tuple[SamplingParams, list[Prompt]]:
        """Build what the decoder takes, with one seed of all prompts or one of each."""
        options = replace(sampling, n=1)
        prompts = self.prompts(contexts, emotions, options.control)
        if isinstance(seed, int):
            return replace(options, seed=seed), prompts
        if len(seed) != len(prompts):
            raise SettingsError(f"{len(seed)} seeds for {len(prompts)} contexts; give one for each, or one for all")
        return options, [replace(prompt, seed=own) for prompt, own in zip(prompts, seed, strict=True)]

    def prompts(
        self, contexts: Sequence[str | Sequence[str]], emotions: Sequence[str | Emotion | None], control: Control
    ) -> list[Prompt]:
        """Return what the decoder takes.

        Contexts in tokens, emotions as asked for and as the model is told them under `control`.
        """
        if len(contexts) != len(emotions):
            raise SettingsError(f"{len(contexts)} contexts for {len(emotions)} emotions; give one for each")
        turns = ([context] if isinstance(context, str) else context for context in contexts)
        encoded = (self.tokenizer.prefix(each, self.description.limits.context_tokens) for each in turns)
        target = [self.emotion(emotion) for emotion in emotions]
        known = self.calibration if self.calibration and self.calibration.control == control else None
        conditioning = (known.conditioning_for(emotion) if known else None for emotion in target)
        return [Prompt(*parts) for parts in zip(encoded, target, conditioning, strict=True)]

    def writer(self, guide: Guide | None = None) -> TextGenerator:
        """Return the model as the decoder takes it."""
        return TextGenerator(self.generator, self.tokenizer, self.head, guide, str(self.folder))

    @property
    def default_sampling(self) -> SamplingParams:
        """Return the options for texts with an emotion that is asked for: for reading, not for measuring.

        Warmer, or guided more, texts name their emotion and stammer.
        """
        return SamplingParams(temperature=0.6, top_p=0.95, control=Control(guidance=1.5), max_tokens=self._most_tokens)

    def sampling_for(self, with_emotion: bool, streamed: bool = False) -> SamplingParams:
        """Choose the options for replies that are given none: those that readers prefer.

        Args:
            with_emotion: whether any reply of the call is asked for with an emotion; else nothing steers the replies.
            streamed: whether replies are read while they are written; else each is the one among several candidates that is
                most like all of them (minimum Bayes risk).
        """
        if with_emotion:
            return self.default_sampling
        if streamed:
            return SamplingParams(temperature=0.4, top_p=0.95, max_tokens=self._most_tokens)
        return SamplingParams(temperature=0.6, top_p=0.95, control=Control(mbr=_CANDIDATES), max_tokens=self._most_tokens)

    def _any_asked(self, emotions: Sequence[str | Emotion | None]) -> bool:
        return any(self.emotion(emotion).strength for emotion in emotions)

    @property
    def _most_tokens(self) -> int:
        return min(self.description.limits.reply_tokens + 1, _MOST_TOKENS)


def load(
    path: str | Path | None = None,
    device: str | torch.device = "cpu",
    trainable: bool = False,
    full_precision: bool = False,
    whole: bool = False,
) -> EmotionModel:
    """Load a generator or a VAE.

    Args:
        path: a checkpoint's folder; None takes `$EMOGEN_CHECKPOINT`, else checkpoints/latest, else the model that ships.
        device: where the weights go: cpu, cuda, auto, or a device of PyTorch.
        trainable: keeps the low-rank updates of a pretrained backbone apart from its base, to train them further; else they are
            merged and cost nothing.
        full_precision: a pretrained backbone in float32, even where the device is faster in bfloat16.
        whole: a VAE with its pretrained encoder too; else it is loaded as its decoder, which is all that text needs.

    Raises:
        CheckpointError: missing, cut short, of another version, or a classifier; its base model is not at hand, or another one.
        SettingsError: a device that is unknown or not there.
    """
    where = choose_device(device) if isinstance(device, str) else device
    folder = find_checkpoint(path)
    if not path and folder not in (shipped_folder(ADAPTER), shipped_folder("default")):
        _LOG.warning("%s", notice_of(folder))
    description = read_description(folder)
    if description.kind == "classifier":
        raise CheckpointError(f"{folder}: is a classifier, which writes no text; pass a checkpoint of train-lm, -vae or -gan")
    base = _base_of(description, folder, where, full_precision)
    tokenizer = base.tokenizer if base else load_tokenizer(folder / "tokenizer.model")
    model = build_model(description, folder, base, _reader_of(description, folder, tokenizer) if whole else None)
    if base and trainable:
        generator_of(model).adapt()
    read_weights(folder, model)
    model.to(where).eval()
    head, calibration = read_head(folder, generator_of(model)), read_calibration(folder, description.labels)
    found = EmotionModel(folder, description, model, tokenizer, head, calibration)
    sizes = found.generator.config
    pairs = {"labels": (sizes.emotions, len(found.labels)), "token ids": (sizes.vocabulary, found.tokenizer.vocabulary)}
    for what, (needed, there) in pairs.items():
        if needed != there:
            raise CheckpointError(
                f"{found.folder}: the model has {needed} {what}, its files {there}; they are of different models"
            )
    return found


def _base_of(description: Description, folder: Path, device: torch.device, full_precision: bool) -> BaseModel | None:
    """Return the base that a pretrained backbone was trained on; raise CheckpointError where it is not at hand, or another."""
    with _explain_sizes(folder):
        adapter = generator_config(description).adapter
    if not adapter:
        return None
    return load_base(_matching_base(adapter, folder), device, full_precision or not adapter.rank)


def _reader_of(description: Description, folder: Path, tokenizer: Tokenizer) -> PretrainedReader | None:
    """Return the pretrained encoder of a VAE with fresh weights; None where it has none."""
    encoder = description.model.get("encoder")
    if description.kind != "vae" or not encoder:
        return None
    read_by = load_tokenizer_of(folder / _ENCODER_TOKENIZER_FOLDER)
    with _explain_sizes(folder):
        return PretrainedReader(Pretrained(str(folder), build_encoder(encoder), read_by), tokenizer, len(description.labels))


def load_classifier(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Classifier, LabelSet]:
    """Load a classifier and its labels; raise CheckpointError and SettingsError as `load` does."""
    folder = Path(folder)
    description = read_description(folder)
    if description.kind != "classifier":
        raise CheckpointError(f"{folder}: is a {description.kind}, not a classifier")
    with _explain_sizes(folder):
        sizes = dict(description.model)
        config = ClassifierConfig(**sizes | {name: tuple(sizes.get(name, ())) for name in ("thresholds", "scripts")})
        classifier = Classifier(
            config,
            None
            if config.backbone != "pretrained"
            else Pretrained(str(folder), build_encoder(config.encoder), load_tokenizer_of(folder / _TOKENIZER_FOLDER)),
        )
    read_weights(folder, classifier)
    if len(description.labels) != config.emotions:
        raise CheckpointError(f"{folder}: the classifier has {config.emotions} labels, its config {len(description.labels)}")
    return classifier.to(choose_device(device) if isinstance(device, str) else device).eval(), description.labels


def faster_than(model: EmotionModel) -> str:
    """Return the option that names a faster model: the small one that ships, where `model` has a pretrained backbone.

    Else empty.
    """
    return f"--checkpoint {os.path.relpath(shipped_folder('default'))}" if model.generator.config.adapter else ""
