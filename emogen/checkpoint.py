"""One folder a model: config.json, tokenizer.model, model.safetensors, train.json, README.md; and how to find and load it."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from emogen.data.batches import Limits
from emogen.decoding.calibration import Calibration, read_calibration
from emogen.decoding.control import Control
from emogen.decoding.params import SamplingParams
from emogen.decoding.texts import Guide, Prompt, Sample, TextGenerator, sample, stream_steps
from emogen.emotions.labels import Emotion, LabelSet, no_emotion, parse_emotion
from emogen.errors import CheckpointError, SettingsError
from emogen.files import read_bytes, read_json, read_text, replace_file, write_text
from emogen.models.classifier import Classifier, ClassifierConfig
from emogen.models.device import choose_device
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.head import EmotionHead, head_of
from emogen.models.pretrained_backbone import AdapterConfig, BaseModel, PretrainedBackbone, load_base, merge_lora
from emogen.models.pretrained_encoder import PretrainedReader
from emogen.models.trained import take_trained, trained_tensors
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.pretrained.bases import Base, find_base
from emogen.pretrained.loading import Pretrained, build_encoder, load_tokenizer_of
from emogen.text.tokenizer import Tokenizer, load_tokenizer
from emogen.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOG = logging.getLogger(__name__)
FORMAT = 1
CHECKPOINTS = Path("checkpoints")
LATEST = "latest"
ADAPTER = "smollm2-emotion"
HEAD_FILE = "head.safetensors"
CONFUSION_FILE = "confusion.json"
_MOST_TOKENS = 4096
_CANDIDATES = 8
_FOR_TRANSFORMERS = "EmogenForCausalLM"
_TOKENIZER_FOLDER = "tokenizer"
_ENCODER_TOKENIZER_FOLDER = "encoder_tokenizer"

Kind = Literal["generator", "vae", "classifier"]


@dataclass(frozen=True)
class Description:
    """What config.json holds.

    Attributes:
        kind: generator, vae or classifier.
        labels: the model's emotions, in order.
        model: the fields of the model's config.
        limits: of the rows that it was trained on.
    """

    kind: Kind
    labels: LabelSet
    model: Mapping[str, Any]
    limits: Limits = field(default_factory=Limits)


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
        """Return replies to many contexts at once, each with its emotion, `n` to each; arguments and errors as in `iter_replies`."""
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
        """Return what the decoder takes: contexts in tokens, emotions as asked for and as the model is told them under `control`."""
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


def generator_of(model: Generator | TextVAE) -> Generator:
    """Return the model itself, or a VAE's decoder."""
    return model.decoder if isinstance(model, TextVAE) else model


def _base_of(description: Description, folder: Path, device: torch.device, full_precision: bool) -> BaseModel | None:
    """Return the base that a pretrained backbone was trained on; raise CheckpointError where it is not at hand, or another."""
    with _explain_sizes(folder):
        adapter = generator_config(description).adapter
    if not adapter:
        return None
    return load_base(_matching_base(adapter, folder), device, full_precision or not adapter.rank)


def _matching_base(adapter: AdapterConfig, folder: Path) -> Base:
    """Return the base of the revision that an adapter was trained on; raise CheckpointError where it is not at hand, or another."""
    base = find_base(adapter.base)
    if base.revision != adapter.revision:
        raise CheckpointError(
            f"{folder}: was trained on revision {adapter.revision[:12]} of {adapter.base}, but {base.folder} holds "
            f"{base.revision[:12]}; put back the base that it was trained on"
        )
    return base


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


def save_classifier(folder: str | Path, labels: LabelSet, classifier: Classifier, dtype: torch.dtype = torch.float32) -> None:
    """Write a classifier, with the tokenizer of its encoder where it has one."""
    folder = Path(folder)
    if classifier.tokenizer:
        _save_tokenizer(classifier.tokenizer, folder / _TOKENIZER_FOLDER)
    save_model(folder, describe(classifier, labels, Limits()), classifier, dtype)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write each file whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="emogen-") as elsewhere:
        tokenizer.save_pretrained(elsewhere)
        for path in sorted(Path(elsewhere).iterdir()):
            with replace_file(folder / path.name) as beside:
                beside.write_bytes(path.read_bytes())


def find_checkpoint(path: str | Path | None = None) -> Path:
    """Return the folder that `load` reads.

    Raises:
        CheckpointError: nothing there.
    """
    if path is not None and not str(path):
        raise CheckpointError("--checkpoint is empty; name a folder, or leave it out")
    named = path or os.environ.get("EMOGEN_CHECKPOINT")
    chosen = Path(named) if named else _latest() or best_shipped()
    folder = _read_pointer(chosen) if chosen.name == LATEST and chosen.is_file() else chosen
    if (folder / "config.json").is_file():
        return folder
    problem = f"{folder}: no checkpoint there (no config.json)"
    if not path and named:
        raise CheckpointError(f"{problem}; EMOGEN_CHECKPOINT names it, set that to another folder or to nothing")
    if folder != chosen:
        raise CheckpointError(f"{problem}; {chosen} names it, remove that file or name a folder with --checkpoint")
    raise CheckpointError(f"{problem}; train one, or name another folder")


def shipped_folder(name: str) -> Path:
    """Return the folder of a model that ships: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parent
    inside = package / "checkpoints" / name
    return inside if inside.is_dir() else package.parent / "checkpoints" / name


def best_shipped() -> Path:
    """Return the folder of the adapter that ships, where its base is at hand; else of the small model."""
    adapter = shipped_folder(ADAPTER)
    return adapter if (adapter / "config.json").is_file() and _has_base(adapter) else shipped_folder("default")


def better_than(folder: Path) -> str:
    """Return the command that makes a better model than the one in `folder` usable; empty where there is none, or none is needed."""
    adapter = shipped_folder(ADAPTER)
    if folder != shipped_folder("default") or not (adapter / "config.json").is_file() or _has_base(adapter):
        return ""
    found = generator_config(read_description(adapter)).adapter
    return f"emogen pull {found.base}" if found else ""


def faster_than(model: EmotionModel) -> str:
    """Return the option that names a faster model: the small one that ships, where `model` has a pretrained backbone; else empty."""
    return f"--checkpoint {os.path.relpath(shipped_folder('default'))}" if model.generator.config.adapter else ""


def notice_of(folder: Path) -> str:
    """Say which model writes where nobody named one, and what to do where another may be meant."""
    better = better_than(folder)
    if better:
        return f"writing with {folder.name}; for better texts: {better}"
    if folder.resolve() in (shipped_folder(ADAPTER).resolve(), shipped_folder("default").resolve()):
        return f"writing with {folder.name}"
    named = "EMOGEN_CHECKPOINT" if os.environ.get("EMOGEN_CHECKPOINT") else str(CHECKPOINTS / LATEST)
    return f"writing with {folder}, which {named} names, not with the model that ships; name another with --checkpoint"


def _has_base(folder: Path) -> bool:
    found = generator_config(read_description(folder)).adapter
    try:
        return found is not None and bool(_matching_base(found, folder))
    except CheckpointError:
        return False


def mark_latest(folder: str | Path) -> None:
    """Make `folder` what checkpoints/latest points to, where it stands under checkpoints/."""
    folder = Path(folder)
    if folder.resolve().parent == CHECKPOINTS.resolve():
        write_text(CHECKPOINTS / LATEST, folder.name + "\n")


def describe(model: nn.Module, labels: LabelSet, limits: Limits) -> Description:
    """Return the description of a model in memory."""
    kinds: dict[type, Kind] = {Generator: "generator", TextVAE: "vae", Classifier: "classifier"}
    return Description(kinds[type(model)], labels, asdict(model.config), limits)  # type: ignore[call-overload]


def architecture_of(description: Description, folder: Path = Path()) -> str:
    """Return the kind and backbone of a model, in a few words: what a judge and a guide must not share."""
    with _explain_sizes(folder):
        if description.kind == "classifier":
            return ClassifierConfig(**description.model).architecture
        return f"{description.kind} {generator_config(description).backbone}"


def generator_config(description: Description) -> GeneratorConfig:
    """Return the sizes of a generator, or of a VAE's decoder."""
    sizes = dict(description.model["decoder"] if description.kind == "vae" else description.model)
    adapter = sizes.pop("adapter", None)
    return GeneratorConfig(**sizes, adapter=AdapterConfig(**adapter) if adapter else None)


def build_model(
    description: Description, folder: Path = Path(), base: BaseModel | None = None, reader: PretrainedReader | None = None
) -> Generator | TextVAE:
    """Return a model of that description with fresh weights, or those of its base.

    Args:
        description: of the model.
        folder: for errors.
        base: of a pretrained backbone.
        reader: the pretrained encoder of a VAE; without it such a VAE is built as its decoder.

    Raises:
        CheckpointError: what is described cannot be built.
    """
    with _explain_sizes(folder):
        config = generator_config(description)
        if description.kind == "vae":
            sizes = TextVaeConfig(**{**description.model, "decoder": config})
            return TextVAE(sizes, base, reader) if reader or not sizes.encoder else Generator(config, base)
        return Generator(config, base)


def save_model(folder: str | Path, description: Description, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Write what was trained, safetensors in `dtype`, then config, each whole or not at all: beside a config are weights.

    Of a VAE with a pretrained encoder, that encoder's tokenizer too.
    """
    folder = Path(folder)
    if isinstance(model, TextVAE) and isinstance(model.encoder, PretrainedReader):
        _save_tokenizer(model.encoder.texts.tokenizer, folder / _ENCODER_TOKENIZER_FOLDER)
    tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in trained_tensors(model).items()}
    with replace_file(folder / "model.safetensors") as beside:
        beside.write_bytes(safetensors.torch.save(tensors))
    content = {
        "model_type": "emogen",
        **({"architectures": [_FOR_TRANSFORMERS]} if is_for_transformers(description) else {}),
        "format": FORMAT,
        "emogen": __version__,
        "kind": description.kind,
        "labels": list(description.labels.names),
        "model": dict(description.model),
        "limits": asdict(description.limits),
    }
    write_text(folder / "config.json", json.dumps(content, indent=1) + "\n")


def is_for_transformers(description: Description) -> bool:
    """Tell whether Hugging Face Transformers loads it too: a generator with a backbone of our own, and no latent."""
    return description.kind == "generator" and description.model["backbone"] != "pretrained" and not description.model["latent"]


def read_description(folder: str | Path) -> Description:
    """Read config.json; raise CheckpointError where it is missing, broken or of another format."""
    folder = Path(folder)
    path = folder / "config.json"
    try:
        content = read_json(path)
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path}: format {content['format']} (emogen {content.get('emogen', 'unknown')}), this emogen {__version__} "
                f"reads {FORMAT}; install that version or train again"
            )
        if content["kind"] not in get_args(Kind):
            raise CheckpointError(f"{path}: kind {content['kind']!r} is not one of {', '.join(get_args(Kind))}")
        labels, limits = LabelSet(tuple(content["labels"])), Limits(**content["limits"])
        return Description(content["kind"], labels, content["model"], limits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SettingsError) as error:
        raise CheckpointError(f"{path}: no readable model description ({error!r})") from None


def read_weights(folder: str | Path, model: nn.Module) -> None:
    """Fill `model` from model.safetensors.

    Raises:
        CheckpointError: missing, not readable, cut short, of other names or shapes than the model's, or larger than the memory.
    """
    path = Path(folder) / "model.safetensors"
    with _explain_errors(path, "copy the whole folder again, or name another checkpoint"):
        tensors = {name: tensor.float() for name, tensor in safetensors.torch.load(read_bytes(path)).items()}
        if isinstance(model, Generator):
            inside = {name.removeprefix("decoder."): tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
            tensors = inside or dict(tensors)
        if isinstance(model, (Generator, TextVAE)):
            tensors = _merged_or_refused(generator_of(model), tensors)
        _refuse_other_tensors(trained_tensors(model), model.state_dict(), tensors)
        take_trained(model, tensors)


class _OtherTensorsError(Exception):
    """A file's tensors are not those of the model that is to take them; the words are the reason."""


@contextmanager
def _explain_errors(path: Path, way_out: str) -> Iterator[None]:
    """Tell apart what can go wrong with a file of tensors; raise CheckpointError, and let our own mistakes through."""
    try:
        yield
    except FileNotFoundError:
        reason = "it is not there"
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be opened ({error.strerror or error}); allow it to be read, or mend it"
        ) from None
    except SafetensorError as error:
        reason = f"it is cut short, or no file of safetensors: {error}"
    except _OtherTensorsError as error:
        reason = f"it is of another model: {error}"
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        size = f"{path.stat().st_size / 1e6:.0f} MB"
        raise CheckpointError(f"{path}: there is not enough memory to read its {size}; close other programs") from None
    else:
        return
    raise CheckpointError(f"{path}: cannot be read ({' '.join(reason.split())}); {way_out}")


def _refuse_other_tensors(needed: Mapping[str, Tensor], known: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise for the first tensor that is needed and not found, found and not known, or found in another shape."""
    for name in needed:
        if name not in found:
            raise _OtherTensorsError(f"{name} is not in it, of shape {list(needed[name].shape)}")
    for name, tensor in found.items():
        if name not in known:
            raise _OtherTensorsError(f"{name} is in it, of shape {list(tensor.shape)}, and not in the model")
        if tensor.shape != known[name].shape:
            raise _OtherTensorsError(f"{name} has shape {list(tensor.shape)}, the model needs {list(known[name].shape)}")


def _merged_or_refused(generator: Generator, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        return merge_updates(generator, tensors)
    except KeyError as error:
        raise _OtherTensorsError(f"the base has no matrix for the update {error}, or half of it is not there") from None
    except RuntimeError as error:
        if _is_of_memory(error):
            raise
        raise _OtherTensorsError(f"its updates do not fit the base ({str(error).splitlines()[0]})") from None


def _is_of_memory(error: Exception) -> bool:
    """PyTorch has a class of its own for a GPU's memory alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error)


def save_head(folder: str | Path, head: EmotionHead) -> None:
    """Write an emotion head into a checkpoint's folder, whole or not at all."""
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in head.state_dict().items()}
    with replace_file(folder / HEAD_FILE) as beside:
        beside.write_bytes(safetensors.torch.save(tensors))


def read_head(folder: str | Path, generator: Generator) -> EmotionHead | None:
    """Return the emotion head of a checkpoint, in eval mode where its generator is; None where it has none.

    Raises:
        CheckpointError: not readable, cut short, of another generator, or larger than the memory.
    """
    folder = Path(folder)
    path = folder / HEAD_FILE
    if not path.exists():
        return None
    with _explain_errors(path, "remove it, then run `emogen train-head` again"):
        tensors = {name: tensor.float() for name, tensor in safetensors.torch.load(read_bytes(path)).items()}
        if tensors.get("down.weight", torch.zeros(())).dim() != 2:
            raise _OtherTensorsError("it holds no matrix down.weight, which every head has")
        head = head_of(generator, len(tensors["down.weight"]))
        _refuse_other_tensors(head.state_dict(), head.state_dict(), tensors)
        head.load_state_dict(tensors)
    return head.to(generator.bias.device).eval().requires_grad_(False)


def merge_updates(generator: Generator, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors but the low-rank updates, which are added to the weights of a generator that does not keep them apart."""
    backbone = generator.backbone
    if not isinstance(backbone, PretrainedBackbone) or not generator.config.adapter or backbone.is_adapted:
        return dict(tensors)
    updates = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    inside = {name.partition("backbone.decoder.")[2]: tensor for name, tensor in updates.items()}
    merge_lora(backbone.decoder, inside, generator.config.adapter.alpha / max(generator.config.adapter.rank, 1))
    return {name: tensor for name, tensor in tensors.items() if name not in updates}


def write_confusion(folder: str | Path, labels: LabelSet, counts: NDArray[np.int64]) -> None:
    """Write into a checkpoint how its classifier judged its held-out test rows, whole or not at all.

    Args:
        folder: of the checkpoint.
        labels: of the classifier.
        counts: [true, judged] rows.
    """
    folder = Path(folder)
    content = {"labels": list(labels.names), "counts": np.asarray(counts).tolist()}
    write_text(folder / CONFUSION_FILE, json.dumps(content) + "\n")


def read_confusion(folder: str | Path, labels: LabelSet) -> NDArray[np.int64] | None:
    """Return how a classifier judged its own held-out test rows, [true, judged]; None if there is no such file.

    Raises:
        CheckpointError: the file is there but cut short, of other labels, or holds no counts.
    """
    folder = Path(folder)
    path = folder / CONFUSION_FILE
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        names, counts = tuple(content["labels"]), _counts(content["counts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no readable confusion ({error!r}); remove it or train the classifier again") from None
    if names != labels.names or len(counts) != len(names):
        expected = ", ".join(labels.names)
        raise CheckpointError(f"{path}: is of {', '.join(map(str, names))}, the classifier has {expected}; remove the file")
    return counts


def _counts(rows: Any) -> NDArray[np.int64]:
    counts = np.array(rows)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.dtype.kind != "i" or (counts < 0).any():
        raise ValueError("counts must be whole numbers of at least 0, a row and a column for each label")
    return counts.astype(np.int64)


@contextmanager
def _explain_sizes(folder: Path) -> Iterator[None]:
    """Say of sizes that make no model where they stand."""
    try:
        yield
    except (TypeError, KeyError, ValueError, ArithmeticError, RuntimeError, SettingsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder / 'config.json'}: describes no model that can be built ({reason})") from None


def _latest() -> Path | None:
    pointer = CHECKPOINTS / LATEST
    return pointer if pointer.is_file() else None


def _read_pointer(pointer: Path) -> Path:
    try:
        return pointer.parent / read_text(pointer).strip()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{pointer}: cannot be read ({error}); remove it or name a folder with --checkpoint") from None
