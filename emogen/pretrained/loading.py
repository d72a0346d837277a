"""Pretrained encoders of Hugging Face: where a name is found, and what comes with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from emogen.errors import CheckpointError
from emogen.pretrained.base_files import first_line
from emogen.pretrained.bases import KNOWN_BASES, locate_base, split_gguf
from emogen.pretrained.bases import PREFIX as PREFIX

# Transformers takes seconds to import: only where a pretrained model is asked for.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pretrained:
    """A model and its tokenizer.

    Attributes:
        name: as it was asked for.
        model: an encoder gives `last_hidden_state`, a causal language model `logits`.
        tokenizer: its own.
    """

    name: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase

    @property
    def longest(self) -> int:
        """Return tokens of the longest text that the model reads, special ones included."""
        places = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        return int(min(places, self.tokenizer.model_max_length))


def load_encoder(name: str) -> Pretrained:
    """Return an encoder by `hf:NAME-OR-FOLDER`: a folder, a base model that is at hand (see bases.py), or one of the hub.

    Raises:
        CheckpointError: there is none of that name, or the hub cannot be reached.
    """
    from transformers import AutoModel, AutoTokenizer

    place = name.removeprefix(PREFIX)
    where = str(locate_base(place) or place)
    with _quietly(name):
        model = AutoModel.from_pretrained(where, attn_implementation="sdpa", dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(where)
    return Pretrained(name, model, _with_words(tokenizer, name))


def load_causal_model(name: str, dtype: Literal["float32", "bfloat16"] = "float32") -> Pretrained:
    """Return a causal language model by `hf:NAME-OR-FOLDER[:FILE.gguf]`; errors as for `load_encoder`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, file = _place(name.removeprefix(PREFIX))
    with _quietly(name):
        loaded: Any = AutoModelForCausalLM.from_pretrained(where, gguf_file=file or None, dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file or None)
    model, report = loaded
    if report["missing_keys"]:
        raise CheckpointError(f"{name}: is no causal language model (no {min(report['missing_keys'])}); name one that is")
    return Pretrained(name, model, _with_words(tokenizer, name))


def _place(name: str) -> tuple[str, str]:
    """Tell where a causal language model stands, and the GGUF file there; none once it was pulled and so converted."""
    if found := locate_base(name):
        return str(found), ""
    place, file = split_gguf(name)
    return str(locate_base(place) or place), file


def build_encoder(config: Mapping[str, Any]) -> nn.Module:
    """Return an encoder with fresh weights from the fields of its config, `model_type` among them."""
    from transformers import AutoConfig, AutoModel

    fields = dict(config)
    sizes = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model: nn.Module = AutoModel.from_config(sizes, attn_implementation="sdpa")  # type: ignore[no-untyped-call]
    return model


def load_tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """Return the Hugging Face tokenizer that stands in a folder; raise CheckpointError where none does."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer_config.json").is_file():
        raise CheckpointError(f"{folder}: no tokenizer there (no tokenizer_config.json); put back a whole checkpoint")
    with _quietly(str(folder)):
        return AutoTokenizer.from_pretrained(folder)


def _with_words(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer; Transformers makes one that knows special tokens alone where its files are missing."""
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise CheckpointError(f"{name}: its tokenizer knows no words; put the tokenizer's files beside the model")
    return tokenizer


@contextmanager
def _quietly(name: str) -> Iterator[None]:
    """Without progress bars, and with one line for whatever keeps a model from being read."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except Exception as error:
        known = ", ".join(known.name for known in KNOWN_BASES if not known.file)
        way_out = f"give a folder, or {known} from its package"
        raise CheckpointError(f"{name}: cannot be loaded ({first_line(error)}); {way_out}") from None
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
