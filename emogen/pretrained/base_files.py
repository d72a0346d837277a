"""A base model's files: what they say (weights, revision, licence, kind), and a copy of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from emogen.errors import CheckpointError
from emogen.files import read_json

# PyTorch and Transformers take seconds to import: only where a model is looked at.
if TYPE_CHECKING:
    from torch import Tensor

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_TOKENIZER = "tokenizer.json"
_VOCABULARIES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json", "merges.txt")
# Neither pickles, which can run code, nor code.
BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "NOTICE*")
_WAY_OUT = "get the whole model as safetensors, or name a GGUF file: PLACE:FILE.gguf"


def revision_of(folder: Path) -> str:
    """Return the SHA-256 over the weights, then over the tokenizer; see `Base.revision`.

    Raises:
        CheckpointError: weights or tokenizer are missing or not whole.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in weights_of(folder):
        digest.update(f"{name}\0{json.dumps(list(tensor.shape))}\0".encode())
        digest.update(as_bfloat16(tensor).reshape(-1).view(torch.uint8).numpy().data)
    for path in _tokenizer_files(folder):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def weights_of(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights by name, in the order of names; raise CheckpointError where a file is missing or not whole."""
    try:
        for name, path in sorted(_places(folder).items()):
            with safe_open(path, framework="pt") as file:
                yield name, file.get_tensor(name)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be read ({first_line(error)}); {_WAY_OUT}") from None


def as_bfloat16(tensor: Tensor) -> Tensor:
    """Return floating-point numbers rounded to the nearest bfloat16; others as they are."""
    import torch

    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def is_language_model(folder: Path) -> bool:
    """Tell whether the config is a causal language model's; raise CheckpointError where it cannot be read."""
    names = _config(folder).get("architectures") or ()
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def copy_model(folder: Path, to: Path) -> str:
    """Copy a model, its weights as one file, those of a language model rounded to bfloat16; give the licence.

    Raises:
        CheckpointError: config or weights are missing, not whole, or quantised.
    """
    from safetensors.torch import save_file

    if "quantization_config" in _config(folder):
        raise CheckpointError(f"{folder}: the weights are quantised; take the model as it was before, or as GGUF")
    rounds = is_language_model(folder)
    weights = {name: as_bfloat16(tensor) if rounds else tensor for name, tensor in weights_of(folder)}
    save_file(weights, to / _WEIGHTS, {"format": "pt"})
    for path in {path for pattern in BESIDE_WEIGHTS for path in folder.glob(pattern)}:
        if path.is_file() and path.name != _INDEX:
            shutil.copyfile(path, to / path.name)
    return licence_of(folder)


def licence_of(folder: Path) -> str:
    """Return the licence that the front matter of the model card states."""
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    stated = (metadata_load(card) if card.is_file() else None) or {}
    licence = stated.get("license", "unknown")
    return str(stated.get("license_name", licence) if licence == "other" else licence)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = read_json(folder / _CONFIG)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / _CONFIG}: cannot be read ({first_line(error)}); {_WAY_OUT}") from None
    return config


def _places(folder: Path) -> dict[str, Path]:
    """Return the file that holds each tensor."""
    path, index = folder / _WEIGHTS, folder / _INDEX
    if index.is_file() and not path.is_file():
        return {name: folder / file for name, file in read_json(index)["weight_map"].items()}
    with safe_open(path, framework="pt") as file:
        return dict.fromkeys(file.keys(), path)


def _tokenizer_files(folder: Path) -> list[Path]:
    if (folder / _TOKENIZER).is_file():
        return [folder / _TOKENIZER]
    found = [folder / name for name in _VOCABULARIES if (folder / name).is_file()]
    if not found:
        raise CheckpointError(f"{folder}: no tokenizer there (no {_TOKENIZER}); put the tokenizer's files beside the model")
    return found
