"""Reading a GGUF file: its model as bfloat16 safetensors, and its tokenizer."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emogen.errors import CheckpointError
from emogen.pretrained.base_files import as_bfloat16, first_line, licence_of

# They take seconds to import: only where a model is converted.
if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The vocabularies that split text as GPT-2 does; a digit is a token of its own in SmolLM2 for want of longer ones.
_SPLIT_LIKE_GPT2 = ("gpt-2", "smollm")
_CONTROL, _USER_DEFINED = 3, 4


def convert_gguf(path: Path, to: Path) -> str:
    """Write the model and tokenizer of a GGUF file to the folder `to`, as Transformers reads them; give the licence.

    Raises:
        CheckpointError: it is none, not whole, of an architecture that Transformers does not read, or the packages that
            read GGUF files are not installed.
    """
    if not (find_spec("gguf") and find_spec("accelerate")):
        raise CheckpointError(f"{path}: the packages that read GGUF files are not installed; pip install gguf accelerate")
    try:
        reader = importlib.import_module("gguf").GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        import torch
        from transformers import AutoModelForCausalLM

        # Transformers shows bars on standard error here whatever it is told.
        with redirect_stderr(StringIO()):
            read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            config = read.config
            if hasattr(config, "quantization_config"):
                # With it, Transformers takes the weights for quantised ones, and saves none.
                del config.quantization_config
            with torch.device("meta"):
                model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
            model.load_state_dict({name: as_bfloat16(tensor) for name, tensor in read.state_dict().items()}, assign=True)
            model.tie_weights()
            model.save_pretrained(to)
        _save_tokenizer(path, fields, to)
    # Whatever the readers raise for a file that is no model, or none that they know.
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be converted ({first_line(error)}); get the file again, or another") from None
    return str(fields.get("general.license") or licence_of(path.parent))


def _save_tokenizer(path: Path, fields: Mapping[str, Any], to: Path) -> None:
    """Write the tokenizer; one like GPT-2's is built here, since versions of Transformers differ in what they make of it."""
    from transformers import AutoTokenizer

    if fields.get("tokenizer.ggml.model") == "gpt2" and fields.get("tokenizer.ggml.pre") in _SPLIT_LIKE_GPT2:
        _byte_level_tokenizer(fields).save(str(to / "tokenizer.json"))
        settings = json.dumps(_settings(fields), ensure_ascii=False, indent=2)
        (to / "tokenizer_config.json").write_text(settings + "\n", encoding="utf-8")
        return
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if tokenizer.eos_token_id != fields.get("tokenizer.ggml.eos_token_id", tokenizer.eos_token_id):
        raise ValueError("Transformers misreads its end token")
    tokenizer.save_pretrained(to)


def _byte_level_tokenizer(fields: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    words, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    tokenizer.decoder = decoders.ByteLevel()
    control, own = ([word for word, kind in zip(words, kinds, strict=True) if kind == of] for of in (_CONTROL, _USER_DEFINED))
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in control])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in own])
    return tokenizer


def _settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    places = {name: fields.get(f"tokenizer.ggml.{kind}_token_id") for name, kind in kinds.items()}
    words, template = fields["tokenizer.ggml.tokens"], fields.get("tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(fields[f"{fields['general.architecture']}.context_length"]),
        **{name: words[place] for name, place in places.items() if place is not None},
        **({"chat_template": template} if template else {}),
    }
