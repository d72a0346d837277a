"""The files of a model's folder: config.json, tokenizer.model, model.safetensors, and what stands beside them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from emogen.data.batches import Limits
from emogen.emotions.labels import LabelSet
from emogen.errors import CheckpointError, SettingsError
from emogen.files import read_bytes, read_json, replace_file, write_text
from emogen.models.classifier import Classifier, ClassifierConfig
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.head import EmotionHead, head_of
from emogen.models.pretrained_backbone import AdapterConfig, BaseModel, PretrainedBackbone, merge_lora
from emogen.models.pretrained_encoder import PretrainedReader
from emogen.models.trained import take_trained, trained_tensors
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


FORMAT = 1


HEAD_FILE = "head.safetensors"


CONFUSION_FILE = "confusion.json"


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


def generator_of(model: Generator | TextVAE) -> Generator:
    """Return the model itself, or a VAE's decoder."""
    return model.decoder if isinstance(model, TextVAE) else model


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
    """Return the tensors but the low-rank updates.

    Which are added to the weights of a generator that does not keep them apart.
    """
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
