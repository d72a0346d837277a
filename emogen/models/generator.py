"""The generator p(reply | context, latent, emotion): one class over interchangeable backbones."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from emogen.errors import SettingsError, require_whole
from emogen.models.losses import Gaussian, standard_normal
from emogen.models.pretrained_backbone import AdapterConfig, BaseModel, PretrainedBackbone
from emogen.models.transformer import Block, last_of, present_tokens, rotation_of
from emogen.text.tokenizer import BOS, PAD, TURN, UNKNOWN

_NEVER = -1e4
_LOG_VARIANCES = (-4.0, 4.0)
_ROWS = 256


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of a generator.

    Attributes:
        vocabulary: number of token ids.
        emotions: number of labels; the condition has one weight more, for "no emotion".
        backbone: lstm, transformer, or pretrained.
        width: of embeddings and states.
        layers: of the backbone.
        heads: of attention; the LSTM has none.
        latent: dimensions of the latent, 0 for a plain language model.
        dropout: share of states dropped in training.
        adapter: of a pretrained backbone; its base decides on vocabulary, width, layers and heads.
        prior: of the latent: standard normal, or one for each emotion.
    """

    vocabulary: int
    emotions: int
    backbone: Literal["lstm", "transformer", "pretrained"] = "lstm"
    width: int = 256
    layers: int = 1
    heads: int = 4
    latent: int = 0
    dropout: float = 0.1
    adapter: AdapterConfig | None = None
    prior: Literal["standard", "emotion"] = "standard"

    def __post_init__(self) -> None:
        for name in ("vocabulary", "emotions", "width", "layers", "heads"):
            require_whole(name, getattr(self, name))
        require_whole("latent", self.latent, 0)
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout {self.dropout!r:.40}: allowed is a number from 0 to below 1")
        if self.prior not in ("standard", "emotion"):
            raise SettingsError(f"prior {self.prior!r} is not one of standard, emotion")
        if self.backbone not in ("lstm", "transformer", "pretrained"):
            raise SettingsError(f"backbone {self.backbone!r} is not one of lstm, transformer, pretrained")
        if (self.backbone == "pretrained") != (self.adapter is not None):
            raise SettingsError(f"backbone {self.backbone!r} with adapter {self.adapter}: the two go together")
        if self.backbone == "transformer" and (self.width % self.heads or self.width // self.heads % 2):
            raise SettingsError(f"width {self.width} does not split into {self.heads} heads of an even width")


class Backbone(Protocol):
    """What turns embedded tokens into states: whole sequences in training, one token a row in decoding.

    A decoding state is one tensor whose axis 2 runs over the rows. Of `condition_shift` [layers + prefix, rows,
    width] the first enter
    the layers; the rest, which a pretrained backbone alone has, stand in front of the row.
    """

    @property
    def longest(self) -> int:
        """Return tokens of the longest row that it reads."""

    def __call__(self, stream: Tensor, condition_shift: Tensor) -> Tensor:
        """Return states [batch, time, width] from inputs of that shape."""

    def init_cache(self, condition_shift: Tensor, capacity: int) -> Tensor:
        """State of rows that have seen nothing, with room for `capacity` tokens."""

    def prefill(self, stream: Tensor, lengths: Tensor, condition_shift: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read the beginning of each row at once.

        Args:
            stream: [rows, time, width], padded at the end.
            lengths: [rows], at least 1.
            condition_shift: as above.
            state: from `init_cache`.

        Returns:
            States [rows, width] after each row's last token, and the decoding state then.
        """

    def step(self, stream: Tensor, condition_shift: Tensor, positions: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return states [rows, width] after one more token a row, at `positions` [rows], and the decoding state then."""

    def fork_cache(self, history: Sequence[Tensor], rows: Tensor, times: Tensor) -> Tensor:
        """Return the decoding state of each of `rows` as it was in `history[time]`, as a copy."""


class LstmBackbone(nn.Module):
    """LSTM layers with residual connections; the condition is added to every layer's input at every step."""

    longest = sys.maxsize

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.layers = nn.ModuleList(nn.LSTM(config.width, config.width, batch_first=True) for _ in range(config.layers))

    def train(self, mode: bool = True) -> LstmBackbone:
        """Switch modes as any module does, but the LSTMs stay in training mode.

        CuDNN has no backward for others, and they drop nothing.
        """
        super().train(mode)
        self.layers.train()
        return self

    def forward(self, stream: Tensor, condition_shift: Tensor) -> Tensor:
        """See `Backbone.__call__`."""
        for layer, shift in zip(self.layers, condition_shift, strict=True):
            states, _ = layer(functional.dropout(stream, self.dropout, self.training) + shift[:, None])
            stream = stream + states
        return functional.dropout(stream, self.dropout, self.training)

    def init_cache(self, condition_shift: Tensor, capacity: int) -> Tensor:
        """See `Backbone.start`; [layers, 2 (hidden, cell), rows, width], whatever the capacity."""
        return condition_shift.new_zeros(len(self.layers), 2, *condition_shift.shape[1:])

    def prefill(self, stream: Tensor, lengths: Tensor, condition_shift: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.read`."""
        last = torch.zeros_like(stream[:, 0])
        for place in range(stream.shape[1]):
            reading = (place < lengths)[:, None]
            states, after = self.step(stream[:, place], condition_shift, lengths, state)
            last, state = torch.where(reading, states, last), torch.where(reading, after, state)
        return last, state

    def step(self, stream: Tensor, condition_shift: Tensor, positions: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.step`."""
        states = []
        for layer, shift, (hidden, cell) in zip(self.layers, condition_shift, state, strict=True):
            hidden, cell = torch.lstm_cell(stream + shift, (hidden, cell), *layer.all_weights[0])  # type: ignore[index]
            stream = stream + hidden
            states.append(torch.stack([hidden, cell]))
        return stream, torch.stack(states)

    def fork_cache(self, history: Sequence[Tensor], rows: Tensor, times: Tensor) -> Tensor:
        """See `Backbone.branch`."""
        return torch.stack(list(history))[times, :, :, rows].permute(1, 2, 0, 3).contiguous()


class TransformerBackbone(nn.Module):
    """Causal Transformer blocks; the condition is added to the stream before every block."""

    longest = sys.maxsize

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_width = config.width // config.heads
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)

    def forward(self, stream: Tensor, condition_shift: Tensor) -> Tensor:
        """See `Backbone.__call__`."""
        rotation = rotation_of(torch.arange(stream.shape[1], device=stream.device), self.head_width)
        for block, shift in zip(self.blocks, condition_shift, strict=True):
            stream = block(stream + shift[:, None], rotation, None, True)
        normed: Tensor = self.norm(stream)
        return normed

    def init_cache(self, condition_shift: Tensor, capacity: int) -> Tensor:
        """See `Backbone.start`; [layers, 2 (key, value), rows, heads, capacity, head width]."""
        return condition_shift.new_zeros(len(self.blocks), 2, condition_shift.shape[1], self.heads, capacity, self.head_width)

    def prefill(self, stream: Tensor, lengths: Tensor, condition_shift: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.read`; what is written for padding is written over before it is seen."""
        positions = torch.arange(stream.shape[1], device=stream.device).expand(len(stream), -1)
        return last_of(self._advance(stream, condition_shift, positions, state), lengths), state

    def step(self, stream: Tensor, condition_shift: Tensor, positions: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.step`; `state` is written in place."""
        return self._advance(stream[:, None], condition_shift, positions[:, None], state).squeeze(1), state

    def _advance(self, stream: Tensor, condition_shift: Tensor, positions: Tensor, state: Tensor) -> Tensor:
        rotation = rotation_of(positions, self.head_width)[:, :, None]
        for block, shift, cache in zip(self.blocks, condition_shift, state, strict=True):
            stream = block.step(stream + shift[:, None], rotation, cache, positions)  # type: ignore[operator]
        normed: Tensor = self.norm(stream)
        return normed

    def fork_cache(self, history: Sequence[Tensor], rows: Tensor, times: Tensor) -> Tensor:
        """See `Backbone.branch`; entries behind a row's position are never read, so the last state serves all times."""
        return history[-1].index_select(2, rows)


class Generator(nn.Module):
    """Writes replies token by token.

    A row is `context tokens, BOS, reply tokens, EOS`. The condition holds the emotion's weights, the share of "no emotion", and
    the latent; one linear map of it is added to the embedding in front and to the input of every layer, since a condition that
    enters only in front is ignored in training.
    """

    backbone: Backbone
    output: nn.Embedding | None

    def __init__(self, config: GeneratorConfig, base: BaseModel | None = None) -> None:
        """A generator with fresh weights, or with those of the `base` that `config.adapter` is for, which are left fixed."""
        super().__init__()
        self.config = config
        prefix = config.adapter.prefix if config.adapter else 0
        self.inject = nn.Linear(config.emotions + 1 + config.latent, (1 + config.layers + prefix) * config.width, bias=False)
        suppress_mask = torch.zeros(config.vocabulary)
        suppress_mask[[PAD, UNKNOWN, BOS, TURN, *(base.tokenizer.marks if base else ())]] = _NEVER
        if config.prior == "emotion":
            self.prior_map = nn.Linear(config.emotions + 1, 2 * config.latent, bias=False)
            nn.init.zeros_(self.prior_map.weight)
        if base:
            words = base.vocabulary()
            self.embedding = _freeze_embedding(words.inputs)
            self.output = None if words.outputs is None else _freeze_embedding(words.outputs)
            self.bias = nn.Parameter(words.bias, requires_grad=False)
            self.backbone = PretrainedBackbone(base.decoder(), prefix)
            nn.init.zeros_(self.inject.weight)
            # Not at zero: the gradient through the norm of a zero vector grows a hundredfold in each layer.
            self.name_emotions([[BOS]] * self.config.emotions)
        else:
            self.embedding = nn.Embedding(config.vocabulary, config.width, padding_idx=PAD)
            self.output = None
            self.bias = nn.Parameter(torch.zeros(config.vocabulary))
            self.backbone = LstmBackbone(config) if config.backbone == "lstm" else TransformerBackbone(config)
            nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)
            with torch.no_grad():
                self.embedding.weight[PAD].zero_()
                if latent := self.config.latent:
                    # No larger than a word's vector: a latent that drowns the words slows learning for thousands of steps.
                    self.inject.weight[:, -latent:].normal_(std=(self.config.width * latent) ** -0.5)
            for name, parameter in self.named_parameters():
                if name.endswith((".out.weight", ".down.weight")):
                    nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.layers))
        self.register_buffer("suppress_mask", suppress_mask.to(self.bias.dtype), persistent=False)

    @torch.no_grad()
    def name_emotions(self, names: Sequence[Sequence[int]]) -> None:
        """Begin the soft prefix of a pretrained backbone, for each emotion, with the vectors of the ids of its name."""
        assert self.config.adapter
        width, prefix = self.config.width, self.config.adapter.prefix
        front = self.inject.weight[len(self.inject.weight) - prefix * width :].view(prefix, width, self.inject.in_features)
        for emotion, ids in enumerate([*names, [BOS]]):
            for place in range(prefix):
                front[place, :, emotion] = self.embedding.weight[ids[place % len(ids)]]

    def adapt(self) -> None:
        """Make trainable what the adapter's config says: low-rank updates of the base, or with rank 0 all of it."""
        assert isinstance(self.backbone, PretrainedBackbone)
        assert self.config.adapter
        if self.config.adapter.rank:
            self.backbone.adapt(self.config.adapter)
        else:
            self.requires_grad_(True)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Return states [batch, time, width] after each token.

        Args:
            tokens: [batch, time], padded at the end.
            condition: [batch, emotions + 1 + latent].
        """
        condition_shift = self.condition_shift(condition)
        return self.backbone(self.embedding(tokens) + condition_shift[0][:, None], condition_shift[1:])

    def prior(self, emotion: Tensor) -> Gaussian:
        """Return the distribution that latents are drawn from, mean and log variance each [batch, latent].

        Args:
            emotion: [batch, emotions + 1]. Where the prior depends on it, mean and log variance are linear maps of it, which
                begin at the standard normal.
        """
        if self.config.prior == "standard":
            return standard_normal(emotion.new_zeros(len(emotion), self.config.latent))
        mean, log_variance = self.prior_map(emotion).float().chunk(2, -1)
        return Gaussian(mean, log_variance.clamp(*_LOG_VARIANCES))

    def logits(self, states: Tensor) -> Tensor:
        """Return scores of the next token, [..., vocabulary], of states [..., width]; ids that no reply holds are out of reach.

        More than 256 states are filled up to a multiple of that: replies come in a thousand different totals, and the
        allocator keeps large blocks of each size it has seen.
        """
        rows = states.flatten(0, -2)
        if len(rows) > _ROWS:
            rows = functional.pad(rows, (0, 0, 0, -len(rows) % _ROWS))
        vectors = self.embedding if self.output is None else self.output
        scores = functional.linear(rows, vectors.weight, self.bias + self.suppress_mask)  # type: ignore[operator]
        return scores[: states.shape[:-1].numel()].view(*states.shape[:-1], -1)

    def condition_shift(self, condition: Tensor) -> Tensor:
        """Return what the condition adds to embeddings and layers, then its soft prefix, [1 + layers + prefix, batch.

        Width].
        """
        added: Tensor = self.inject(condition)
        return added.view(len(condition), -1, self.config.width).transpose(0, 1)

    def init_cache(self, condition_shift: Tensor, capacity: int) -> Tensor:
        """Return decoding state of rows that have seen nothing, with room for `capacity` tokens."""
        return self.backbone.init_cache(condition_shift[1:], capacity)

    def prefill(self, tokens: Tensor, lengths: Tensor, condition_shift: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read the beginning of each row at once; what comes back is as for `step`.

        Args:
            tokens: [rows, time], padded at the end.
            lengths: [rows], at least 1.
            condition_shift: [1 + layers + prefix, rows, width], from `condition_shift`.
            state: from `init_cache`.
        """
        return self.backbone.prefill(self.embedding(tokens) + condition_shift[0][:, None], lengths, condition_shift[1:], state)

    def compile_step(self) -> None:
        """Compiles the pass of one token for any number of rows; of use where many small operations wait for a GPU.

        Takes seconds to a minute when it is first used, and on a CPU a C++ compiler.
        """
        self.backbone.step = torch.compile(self.backbone.step, dynamic=True)  # type: ignore[method-assign]

    def step(self, tokens: Tensor, positions: Tensor, condition_shift: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read one token a row.

        Args:
            tokens: [rows].
            positions: [rows], place of the token in its row.
            condition_shift: [1 + layers + prefix, rows, width], from `condition_shift`.
            state: from `init_cache` or the step before.

        Returns:
            What `logits` turns into scores of the next token, [rows, width], and the state after this token.
        """
        return self.backbone.step(self.embedding(tokens) + condition_shift[0], condition_shift[1:], positions, state)


def _freeze_embedding(vectors: Tensor) -> nn.Embedding:
    rows, width = vectors.shape
    return nn.Embedding(rows, width, padding_idx=PAD, _weight=vectors, _freeze=True)


def reply_mask(tokens: Tensor, reply_start: Tensor) -> Tensor:
    """Tell where the token to be predicted belongs to the reply or is its end token.

    Args:
        tokens: [batch, time], padded at the end.
        reply_start: [batch], place of the first reply token.

    Returns:
        [batch, time - 1], true at t if token t + 1 counts; nothing behind the end token does.
    """
    positions = torch.arange(1, tokens.shape[1], device=tokens.device)
    return (positions >= reply_start[:, None]) & present_tokens(tokens)[:, 1:]
