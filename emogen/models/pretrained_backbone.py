"""A pretrained causal language model as the backbone of a generator, with LoRA (Hu et al. 2022) or trained in full."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from emogen.errors import CheckpointError, SettingsError, require_whole
from emogen.models.device import probe_bfloat16
from emogen.models.transformer import last_of, write_cache
from emogen.pretrained.bases import Base
from emogen.pretrained.loading import load_causal_model
from emogen.text.tokenizer import SPECIAL

# Transformers takes seconds to import: only where a pretrained model is asked for.
if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from emogen.text.base_tokenizer import PretrainedTokenizer

_LORA_A, _LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"
_PROBE = "How are you?"
_TOLERANCE = 0.02


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained on top of a base model.

    Attributes:
        base: its name, as `emogen pull` takes it.
        revision: SHA-256 of its weights and tokenizer.
        prefix: soft tokens in front of each row.
        rank: of the low-rank updates; 0 where all weights are trained.
        alpha: the updates are scaled by alpha / rank.
    """

    base: str
    revision: str
    prefix: int = 4
    rank: int = 16
    alpha: int = 32

    def __post_init__(self) -> None:
        for name in ("prefix", "rank", "alpha"):
            require_whole(name, getattr(self, name), 0)


@dataclass(frozen=True)
class Vocabulary:
    """Word vectors in the order of our ids, the five special ones first.

    Attributes:
        inputs: [vocabulary, width].
        outputs: the same shape; None where they are the inputs.
        bias: of the scores, [vocabulary].
    """

    inputs: Tensor
    outputs: Tensor | None
    bias: Tensor


@dataclass(frozen=True)
class BaseModel:
    """A pretrained causal language model, fixed, with its tokenizer under our ids."""

    base: Base
    model: PreTrainedModel
    tokenizer: PretrainedTokenizer

    @property
    def longest(self) -> int:
        """Return tokens of the longest row that the model reads."""
        return longest_of(self.model)

    @torch.no_grad()
    def vocabulary(self) -> Vocabulary:
        """Return the model's word vectors under our ids.

        Raises:
            CheckpointError: its scores are no plain product of states and vectors, or its tokenizer has more ids than vectors.
        """
        known = self.tokenizer.vocabulary - SPECIAL
        embed, head = cast("nn.Embedding", self.model.get_input_embeddings()), self._head()
        if known > min(len(embed.weight), len(head.weight)):
            raise CheckpointError(f"{self.base.name}: its tokenizer has {known} ids, its model {len(embed.weight)} vectors")
        ids = torch.tensor([*self.tokenizer.vectors, *range(known)], device=embed.weight.device)
        inputs = embed(ids)
        # Tied vectors are a fifth of a small model: no second copy, and none to be compared.
        outputs = inputs if head.weight is embed.weight else head.weight[ids]
        bias = inputs.new_zeros(len(ids)) if head.bias is None else head.bias[ids]
        ours = torch.tensor([self.tokenizer.encode(_PROBE)], device=inputs.device)
        expected = self.model(ours - SPECIAL, use_cache=False).logits[0, -1, : len(inputs) - SPECIAL]
        states = self.model.base_model(inputs_embeds=inputs[ours], use_cache=False).last_hidden_state[0, -1]
        found = (outputs @ states + bias)[SPECIAL:]
        if not torch.allclose(found.float(), expected.float(), rtol=_TOLERANCE, atol=_TOLERANCE * float(expected.abs().max())):
            raise CheckpointError(
                f"{self.base.name}: its scores are scaled or capped behind its word vectors, which is not supported; "
                "take a model such as SmolLM2, Qwen2 or GPT-2"
            )
        return Vocabulary(inputs, None if outputs is inputs or torch.equal(inputs, outputs) else outputs, bias)

    def decoder(self) -> PreTrainedModel:
        """Return the model without its word vectors, which the generator keeps itself."""
        decoder = cast("PreTrainedModel", self.model.base_model)
        decoder.set_input_embeddings(nn.Identity())
        return decoder.requires_grad_(False)

    def _head(self) -> nn.Linear:
        return cast("nn.Linear", self.model.get_output_embeddings())  # type: ignore[no-untyped-call]


def load_base(base: Base, device: torch.device, full_precision: bool = False) -> BaseModel:
    """Read a base model.

    Args:
        base: from `find_base`.
        device: where it is to compute.
        full_precision: float32; else bfloat16 where the device is faster in it.

    Raises:
        CheckpointError: it cannot be read, is no causal language model, or has a tokenizer without end token.
    """
    from emogen.text.base_tokenizer import PretrainedTokenizer

    narrow = not full_precision and probe_bfloat16(device).is_faster
    found = load_causal_model(str(base.folder), "bfloat16" if narrow else "float32")
    model = cast("PreTrainedModel", found.model)
    # For rows as short as replies, plain attention is the faster one on a CPU: twice forward and backward.
    model.set_attn_implementation("eager" if device.type == "cpu" else "sdpa")
    return BaseModel(base, model, PretrainedTokenizer(found.tokenizer, base.name))


class PretrainedBackbone(nn.Module):
    """The decoder layers of a Hugging Face model behind the protocol `Backbone`.

    The condition enters as `prefix` soft tokens in front of the row (Li & Liang 2021) and as a shift of each layer's input.
    """

    def __init__(self, decoder: PreTrainedModel, prefix: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.prefix = prefix
        self.is_adapted = False
        self.layers = tuple(layers_of(decoder))
        sizes = decoder.config
        self.heads = getattr(sizes, "num_key_value_heads", None) or sizes.num_attention_heads
        self.head_width = getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads

    def adapt(self, config: AdapterConfig) -> None:
        """Put low-rank updates beside the base's weights: trainable and in float32, while the base may be in bfloat16."""
        add_lora(self.decoder, config.rank, config.alpha)
        self.is_adapted = True

    @property
    def longest(self) -> int:
        """See `Backbone.longest`."""
        return longest_of(self.decoder) - self.prefix

    def forward(self, stream: Tensor, condition_shift: Tensor) -> Tensor:
        """See `Backbone.__call__`."""
        whole = torch.cat([self._front(condition_shift), self._cast(stream)], 1)
        with self._condition_layers(condition_shift):
            states: Tensor = self.decoder(inputs_embeds=whole, use_cache=False).last_hidden_state
        return states[:, self.prefix :]

    def init_cache(self, condition_shift: Tensor, capacity: int) -> Tensor:
        """See `Backbone.start`; [layers, 2 (key, value), rows, heads, prefix + capacity, head width], the prefix read."""
        rows, layers = condition_shift.shape[1], len(self.layers)
        state = self._cast(condition_shift.new_zeros(layers, 2, rows, self.heads, self.prefix + capacity, self.head_width))
        if self.prefix:
            places = torch.arange(self.prefix, device=condition_shift.device).expand(rows, -1)
            self._advance(self._front(condition_shift), condition_shift, places, state)
        return state

    def prefill(self, stream: Tensor, lengths: Tensor, condition_shift: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.read`; what is written for padding is written over before it is seen."""
        places = torch.arange(self.prefix, self.prefix + stream.shape[1], device=stream.device).expand(len(stream), -1)
        return last_of(self._advance(self._cast(stream), condition_shift, places, state), lengths), state

    def step(self, stream: Tensor, condition_shift: Tensor, positions: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.step`; `state` is written in place."""
        places = (self.prefix + positions)[:, None]
        return self._advance(self._cast(stream[:, None]), condition_shift, places, state).squeeze(1), state

    def fork_cache(self, history: Sequence[Tensor], rows: Tensor, times: Tensor) -> Tensor:
        """See `Backbone.branch`; entries behind a row's position are never read, so the last state serves all times."""
        return history[-1].index_select(2, rows)

    def _advance(self, stream: Tensor, condition_shift: Tensor, places: Tensor, state: Tensor) -> Tensor:
        """Return states [rows, time, width] of tokens at `places` [rows, time], counted from the first of the prefix on."""
        upto = int(places.max()) + 1
        seen = torch.arange(upto, device=places.device) <= places[..., None]
        mask = torch.zeros(seen.shape, dtype=stream.dtype, device=stream.device)
        mask = mask.masked_fill(~seen, torch.finfo(stream.dtype).min)[:, None]
        with self._condition_layers(condition_shift):
            found = self.decoder(
                inputs_embeds=stream,
                position_ids=places,
                attention_mask=mask,
                past_key_values=_TensorCache(state[..., :upto, :], places),
                use_cache=True,
            )
        states: Tensor = found.last_hidden_state
        return states

    @contextmanager
    def _condition_layers(self, condition_shift: Tensor) -> Iterator[None]:
        """Run with the shifts on the layers, and one type of number for the base and its updates."""
        mixed = self.is_adapted and self.decoder.dtype == torch.bfloat16
        with (
            _shift_inputs(self.layers, condition_shift),
            torch.autocast(condition_shift.device.type, torch.bfloat16, mixed, cache_enabled=False),
        ):
            yield

    def _front(self, condition_shift: Tensor) -> Tensor:
        return self._cast(condition_shift[len(self.layers) :].transpose(0, 1))

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.decoder.dtype)


class _TensorCache:
    """Keys and values [layers, 2, rows, heads, places, head width] where a Hugging Face decoder looks for its cache."""

    is_compileable = False

    def __init__(self, state: Tensor, places: Tensor) -> None:
        self.state = state
        self.places = places

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values; give all of that layer."""
        cache = self.state[layer_idx]
        write_cache(cache, key, value, self.places)
        return cache[0], cache[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens read before."""
        return self.state.shape[4] - self.places.shape[1]


@contextmanager
def _shift_inputs(layers: Sequence[nn.Module], condition_shift: Tensor) -> Iterator[None]:
    """Add its shift [rows, width] to the input of each layer while the block runs."""

    def add_shift(shift: Tensor) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            stream, *rest = arguments
            return (stream + shift[:, None].to(stream.dtype), *rest)

        return hook

    handles = [layer.register_forward_pre_hook(add_shift(shift)) for layer, shift in zip(layers, condition_shift, strict=False)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def longest_of(model: PreTrainedModel) -> int:
    """Return tokens of the longest row that a model reads."""
    return int(getattr(model.config, "max_position_embeddings", None) or sys.maxsize)


def layers_of(decoder: PreTrainedModel) -> Sequence[nn.Module]:
    """Return the decoder's layers; raise CheckpointError where they are not found."""
    count = decoder.config.num_hidden_layers
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise CheckpointError(f"{decoder.config.model_type}: its {count} layers are not found; take a model such as Llama or GPT-2")


def add_lora(decoder: PreTrainedModel, rank: int, alpha: int) -> None:
    """Put trainable low-rank updates on the matrices of the layers, in place, in float32.

    Matrices whose output is wider than the stream, such as the way into a feed-forward layer, are left out: an update costs
    most where it is added to a wide output (a third of a training step), and the others suffice.

    Args:
        decoder: its layers' linear maps are replaced by peft's.
        rank: of the updates.
        alpha: the updates are scaled by alpha / rank.

    Raises:
        SettingsError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError:
        raise SettingsError(
            "--lora-rank needs peft: pip install 'peft>=0.17', or pass --lora-rank 0 to train all weights"
        ) from None
    width = decoder.config.hidden_size
    targets = {name: matrix for name, matrix in _matrices(decoder).items() if _outputs(matrix) <= width}
    updates = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets),
        fan_in_fan_out=not any(isinstance(matrix, nn.Linear) for matrix in targets.values()),
    )
    inject_adapter_in_model(updates, decoder)
    for module in decoder.modules():
        if isinstance(module, LoraLayer):
            # Else peft turns the layer's input into float32, which costs more than the update itself.
            module.cast_input_dtype_enabled = False
    for name, parameter in decoder.named_parameters():
        if name.endswith((_LORA_A, _LORA_B)):
            parameter.data = parameter.data.float()


@torch.no_grad()
def merge_lora(decoder: PreTrainedModel, updates: Mapping[str, Tensor], scale: float) -> None:
    """Add low-rank updates to the matrices that they belong to, in place, so that they cost nothing from then on.

    Args:
        decoder: without peft's layers.
        updates: pairs `NAME.lora_A.default.weight` [rank, in] and `NAME.lora_B.default.weight` [out, rank].
        scale: alpha / rank.

    Raises:
        KeyError: an update of a matrix that the decoder does not have, or half of a pair.
    """
    matrices = _matrices(decoder)
    for name in sorted({key.removesuffix(_LORA_A).removesuffix(_LORA_B) for key in updates}):
        weight = cast("Tensor", matrices[name].weight)
        change = scale * updates[name + _LORA_B].float() @ updates[name + _LORA_A].float()
        weight.copy_(weight.float() + (change if isinstance(matrices[name], nn.Linear) else change.T))


def _outputs(matrix: nn.Module) -> int:
    return int(matrix.out_features if isinstance(matrix, nn.Linear) else matrix.nf)  # type: ignore[arg-type]


def _matrices(decoder: PreTrainedModel) -> dict[str, nn.Module]:
    """Return all linear maps inside the layers by name: `Linear`, and GPT-2's `Conv1D`, whose weight stands transposed."""
    inside = {id(module) for layer in layers_of(decoder) for module in layer.modules()}
    named = ((name, module) for name, module in decoder.named_modules() if id(module) in inside)
    return {name: module for name, module in named if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"}
