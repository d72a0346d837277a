"""A checkpoint's folder in Hugging Face Transformers and on its hub: model, tokenizer, model card, upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple
from transformers.utils.hub import cached_file

from emogen.checkpoint.folder import HEAD_FILE, read_head
from emogen.decoding.calibration import CALIBRATION_FILE, read_calibration
from emogen.decoding.control import Control
from emogen.decoding.controllers import of_tokens, refuse_unserved
from emogen.emotions.labels import Emotion, no_emotion
from emogen.errors import SettingsError
from emogen.hub.config import EmogenConfig
from emogen.hub.logits_processors import (
    Asked,
    Steering,
    control_of,
    emotions_of,
    pack_steering,
    prefer_logits,
    refuse_mismatch,
    unpack_steering,
)
from emogen.hub.tokenizer import TOKENIZER_FILE
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.head import EmotionHead
from emogen.text.tokenizer import BOS, EOS, PAD, TURN, load_tokenizer

if TYPE_CHECKING:
    from transformers import GenerationConfig

_IGNORED = -100
_ROOM = 64

# Of `generate` of Transformers, which hands them on to every model; what becomes of positions is said by the mask.
_NOT_FOR_FORWARD = ("tokenizer", "assistant_tokenizer", "position_ids")
_WAY_OUT = (
    "encode context and reply as a pair, or render the context with the chat template and encode it, with what follows, with "
    "add_special_tokens=False (lm-eval: add_bos_token=False and apply_chat_template=True)"
)
_NOT_SERVED = ("output_attentions", "output_hidden_states", "token_healing")


@dataclass(frozen=True)
class Memory:
    """What has been read, so that the next token costs one step.

    Attributes:
        state: the generator's decoding state; its axis 2 runs over the rows.
        lengths: tokens read, [rows].
        condition_shift: of the rows' emotions, [1 + layers, rows, width].
        capacity: tokens that `state` has room for.
        each: rows here for one that is written, where a control needs company.
        likelihoods: of the replies so far under each label, in nats, [written, labels], where a control needs them.
        labels: log probabilities of the next token under each label, [written, labels, vocabulary], likewise.
    """

    state: Tensor
    lengths: Tensor
    condition_shift: Tensor
    capacity: int
    each: int = 1
    likelihoods: Tensor | None = None
    labels: Tensor | None = None

    def get_seq_length(self) -> int:
        """Return tokens of the longest row, by the name that Transformers looks for."""
        return int(self.lengths.max())

    def of_rows(self, rows: Tensor) -> Memory:
        """Return the memory of the given rows, as a copy, with all their company."""
        all_of = (rows[:, None] * self.each + torch.arange(self.each, device=rows.device)).flatten()
        likelihoods = None if self.likelihoods is None else self.likelihoods[rows]
        labels = None if self.labels is None else self.labels[rows]
        parts = self.state.index_select(2, all_of), self.lengths[all_of], self.condition_shift[:, all_of]
        return Memory(*parts, self.capacity, self.each, likelihoods, labels)


class EmogenForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """A generator with an own backbone, as a causal language model of Transformers."""

    config_class = EmogenConfig
    base_model_prefix = "generator"
    main_input_name = "input_ids"
    _is_stateful = True

    def __init__(self, config: EmogenConfig) -> None:
        """A model with fresh weights."""
        super().__init__(config)
        self.label_set = config.label_set
        self.generator = Generator(GeneratorConfig(**(config.model or {})))
        self.post_init()  # type: ignore[no-untyped-call]
        self._complete(self.generation_config)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word vectors, which are the output's, too."""
        return self.generator.embedding

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        emotion: Asked | Sequence[Asked] | Tensor = None,
        strength: float = 1.0,
        past_key_values: Memory | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
        steering: Tensor | None = None,
        head: EmotionHead | None = None,
    ) -> CausalLMOutputWithPast:
        """Return scores of the next token at each place.

        Args:
            input_ids: [rows, time], rows `context, TURN, BOS, reply, EOS`; with `past_key_values` the tokens since then.
            attention_mask: [rows, time], 0 where nothing stands; None takes padding for that.
            labels: [rows, time], as a rule `input_ids`. Only a reply's tokens and its end count, since the context is given.
            emotion: one for all rows, one for each, or conditions [rows, emotions + 1].
            strength: of emotions that are named, 0 to 1.
            past_key_values: what an earlier call with `use_cache` gave.
            use_cache: whether to give what the next call needs.
            logits_to_keep: only so many places at the end of the rows; 0 for all.
            steering: [rows, 3 + 2 labels], from `hub_control.pack_steering`: moves the scores; then only the last
                place's are given.
            head: of this model, where `steering` asks for it.

        Returns:
            `logits` [rows, time, vocabulary] and, with labels, `loss`: the mean of -log p(token), in nats.

        Raises:
            SettingsError: an emotion that the model does not know, emotions that do not fit the rows, TURN or BOS behind BOS,
                or a row without BOS that nothing can follow, since `use_cache` is off.
        """
        memory = past_key_values if isinstance(past_key_values, Memory) else None
        plan = None if steering is None else unpack_steering(steering, self.label_set)
        each = 1 + len(plan.roles) if plan else 1
        tokens, after = input_ids.repeat_interleave(each, 0), None
        if memory:
            states, after = self._continue(tokens, memory)
        else:
            condition = self.condition(emotion, strength, len(input_ids))
            condition = plan.conditioning_for(condition) if plan else condition
            present = input_ids != PAD if attention_mask is None else attention_mask.bool()
            if not torch.compiler.is_compiling():
                _refuse_malformed(input_ids.masked_fill(~present, PAD), must_begin=not use_cache)
            mask = present.repeat_interleave(each, 0)
            # A reply that has begun is looked at as a whole: under control its likelihood may count.
            alone = logits_to_keep == 1 and not (plan and bool((input_ids[:, -1] != BOS).any()))
            states, after = self._begin(tokens, mask, condition, use_cache, alone)
        if plan:
            company = states.view(len(input_ids), each, *states.shape[1:])
            logits, likelihoods, known = self._steer(company, input_ids, plan, head, memory)
            after = replace(after, each=each, likelihoods=likelihoods, labels=known) if after else None
        else:
            logits = self.generator.logits(states[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            begun = (input_ids == BOS).cumsum(1) > 0
            loss = self.loss_function(
                logits,
                labels.masked_fill(~begun | (input_ids == BOS) | (input_ids == PAD), _IGNORED),
                vocab_size=self.config.vocab_size,
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=after)  # type: ignore[arg-type]

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *arguments: Any,
        emotion: Asked | Sequence[Asked] | Tensor = None,
        strength: float = 1.0,
        control: str | Control = "none",
        **options: Any,
    ) -> Any:
        """Return replies with the emotions asked for, by the generation of Transformers.

        Args:
            inputs: [rows, time] from the tokenizer, padded in front; `input_ids` is the same. None: no context.
            generation_config: as in Transformers; else the single options.
            arguments: those that come next in Transformers, in its order.
            emotion: one for all rows, one for each, or conditions [rows, emotions + 1].
            strength: of emotions that are named, 0 to 1.
            control: what steers further towards the emotion, such as `guidance:2,head:1`; `head` where head.safetensors stands
                in the folder. Emotions that are named are told as calibration.json says, where it is of this control.
            options: those of Transformers: `do_sample`, `num_beams`, `logits_processor`, `streamer`, ...

        Returns:
            What Transformers returns: token ids [rows * num_return_sequences, time], prompts in front.

        Raises:
            SettingsError: an emotion that the model does not know, emotions that do not fit the rows, a row without BOS, a
                control that is unknown or cannot be served, or an option that asks for what this model does not have.
        """
        for name in _NOT_SERVED:
            if options.get(name) or getattr(generation_config, name, None):
                raise SettingsError(f"{name}: EmogenForCausalLM does not have that; leave it out")
        tokens = options.pop("input_ids", None) if inputs is None else inputs
        wanted = control_of(control)
        conditioning = emotion if isinstance(emotion, Tensor) else self._find_conditioning(emotion, strength, wanted)
        condition = self.condition(conditioning, rows=None if tokens is None else len(tokens))
        if wanted.names:
            labels, file = self.label_set, self._beside(HEAD_FILE) if wanted.head else None
            head = read_head(file.parent, self.generator) if file else None
            refuse_unserved([wanted], head, False, self.config.name_or_path or "this model")
            strengths = (1 - condition[:, -1]).clamp(0, 1).tolist()
            shares = functional.normalize(condition[:, :-1].float(), p=1).tolist()
            emotions = [
                Emotion(labels, tuple(row), strength) if strength else no_emotion(labels)
                for row, strength in zip(shares, strengths, strict=True)
            ]
            options |= {"steering": pack_steering(emotions, wanted, self.device), "head": head}
        if tokens is None:
            tokens = torch.full((len(condition), 1), BOS, device=self.device)
        options["attention_mask"] = self._newest(tokens, options.get("attention_mask"))
        given = generation_config
        if given is not None and given.max_length is not None and given.max_new_tokens is None:
            # The model's own longest reply is a default, which a length that is asked for replaces.
            options.setdefault("max_length", given.max_length)
        if options.get("max_length") is not None:
            options.setdefault("max_new_tokens", None)
        return super().generate(tokens, given, *arguments, emotion=condition, **options)  # type: ignore[misc]

    def prepare_inputs_for_generation(self, *arguments: Any, **kwargs: Any) -> dict[str, Any]:
        """Prepare as Transformers does, without what is for its loops alone. It looks for the name `kwargs` here."""
        inputs = super().prepare_inputs_for_generation(*arguments, **kwargs)  # type: ignore[misc]
        return {name: value for name, value in inputs.items() if name not in _NOT_FOR_FORWARD}

    def condition(self, emotion: Asked | Sequence[Asked] | Tensor, strength: float = 1.0, rows: int | None = None) -> Tensor:
        """Return what the generator is given for emotions.

        Args:
            emotion: one for all rows, one for each, or the result itself.
            strength: of emotions that are named, 0 to 1.
            rows: how many; None takes as many as there are emotions.

        Returns:
            [rows, emotions + 1]: weights times strength, then the share of "no emotion".
        """
        labels = self.label_set
        if isinstance(emotion, Tensor):
            width = len(labels) + 1
            if emotion.ndim != 2 or emotion.shape[1] != width:
                raise SettingsError(
                    f"emotion of shape {list(emotion.shape)}: [rows, {width}] is needed, one weight a label and 'none'"
                )
            wrong = (~emotion.isfinite()).nonzero().tolist()
            if wrong:
                raise SettingsError(
                    f"emotion holds {float(emotion[tuple(wrong[0])])} in row {wrong[0][0]}, column {wrong[0][1]}"
                )
            found = emotion
        else:
            found = torch.tensor([each.condition for each in emotions_of(emotion, labels, strength)])
        refuse_mismatch(len(found), rows)
        if len(found) == 1 and rows:
            found = found.expand(rows, -1)
        placed: Tensor = found.to(self.device, self.dtype)
        return placed

    def _find_conditioning(self, emotion: Asked | Sequence[Asked], strength: float, control: Control) -> list[Emotion]:
        """Return what the model is told for emotions that are asked for."""
        labels = self.label_set
        file = self._beside(CALIBRATION_FILE)
        known = read_calibration(file.parent, labels) if file else None
        target = emotions_of(emotion, labels, strength)
        return [known.conditioning_for(each) for each in target] if known and known.control == control else target

    def _beside(self, name: str) -> Path | None:
        """Return a file beside the model's weights, here or on the hub; None where there is none."""
        place = self.config.name_or_path
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        found = cached_file(place, name, **quiet) if place else None
        return Path(found) if found else None

    def _steer(
        self, states: Tensor, tokens: Tensor, plan: Steering, head: EmotionHead | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return moved scores [rows, 1, vocabulary] behind `tokens` [rows, time], and what `Memory` keeps of likelihoods.

        `states` are [rows, each, time, width], or only the last place's.
        """
        last, weights = states[:, :, -1].float(), plan.weights
        moved = plan.move_hidden(last)
        if head is not None:
            moved = moved + head.steer_hidden(last[:, 0], weights.head) - last[:, 0]
        scores = self.generator.logits(moved.to(states.dtype)).float()
        if head is not None:
            scores = scores + weights.head @ head.bias
        if not bool(weights.bayes.any()):
            return scores[:, None], None, None
        under = states[:, -len(self.label_set) :]
        likelihoods = self._likelihoods(under, tokens, memory)
        labels = self.generator.logits(under[:, :, -1]).float().log_softmax(-1)
        return (scores + prefer_logits(labels + likelihoods[..., None], weights))[:, None], likelihoods, labels

    def _likelihoods(self, states: Tensor, tokens: Tensor, memory: Memory | None) -> Tensor:
        """Log likelihoods [rows, labels] of the replies so far, from states [rows, labels, time, width] under each label."""
        begun = (tokens == BOS).cumsum(1) > 0 if memory is None else torch.ones_like(tokens).bool()
        found = states.new_zeros(states.shape[:2], dtype=torch.float32)
        if memory is not None and memory.likelihoods is not None and memory.labels is not None:
            found = memory.likelihoods + of_tokens(memory.labels, tokens[:, 0])
        for place in range(int(begun.int().argmax(1).min()), states.shape[2] - 1):
            log_probs = self.generator.logits(states[:, :, place]).float().log_softmax(-1)
            found = found + torch.where(begun[:, place, None], of_tokens(log_probs, tokens[:, place + 1]), 0.0)
        return found

    def _begin(
        self, tokens: Tensor, mask: Tensor, condition: Tensor, remember: bool, alone: bool
    ) -> tuple[Tensor, Memory | None]:
        """Return states [rows, time, width], or only the last place's where they suffice and come with the memory.

        The memory then.
        """
        if not remember:
            return self._states(tokens, mask, condition), None
        last, memory = self._read(tokens, mask, condition)
        return last[:, None] if alone else self._states(tokens, mask, condition), memory

    def _states(self, tokens: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        """Return states [rows, time, width]; the generator wants padding at the end, wherever it stands here."""
        order = _present_first(mask)
        states: Tensor = self.generator(tokens.gather(1, order), condition)
        return states.gather(1, order.argsort(1)[..., None].expand_as(states))

    def _read(self, tokens: Tensor, mask: Tensor, condition: Tensor) -> tuple[Tensor, Memory]:
        """Return states [rows, width] after each row's last token, and the memory then."""
        condition_shift, lengths = self.generator.condition_shift(condition), mask.sum(1)
        capacity = tokens.shape[1] + _ROOM
        start = self.generator.init_cache(condition_shift, capacity)
        last, state = self.generator.prefill(tokens.gather(1, _present_first(mask)), lengths, condition_shift, start)
        return last, Memory(state, lengths, condition_shift, capacity)

    def _continue(self, tokens: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Return states of `tokens` [rows, time] behind what is remembered, and the memory then."""
        states = []
        for token in tokens.unbind(1):
            memory = self._with_room(memory)
            hidden, state = self.generator.step(token, memory.lengths, memory.condition_shift, memory.state)
            memory = Memory(state, memory.lengths + 1, memory.condition_shift, memory.capacity)
            states.append(hidden)
        return torch.stack(states, 1), memory

    def _with_room(self, memory: Memory) -> Memory:
        """Return a state of greater capacity holds the smaller one in its corner."""
        if memory.get_seq_length() < memory.capacity:
            return memory
        capacity = 2 * memory.capacity
        state = self.generator.init_cache(memory.condition_shift, capacity)
        state[tuple(slice(size) for size in memory.state.shape)] = memory.state
        return Memory(state, memory.lengths, memory.condition_shift, capacity)

    def _newest(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mask without context older than the model was trained on, which emogen's own sampling leaves out, too."""
        present = tokens != PAD if mask is None else mask.bool()
        begun = ((tokens == BOS) & present).cumsum(1) > 0
        if not bool(begun[:, -1].all()):
            row = int((~begun[:, -1]).nonzero()[0])
            raise SettingsError(f"row {row} of input_ids holds no <s>; encode it with the tokenizer and its special tokens")
        context = present & ~begun
        age = context.flip(1).cumsum(1).flip(1)
        most = (self.config.limits or {}).get("context_tokens", tokens.shape[1])
        kept: Tensor = present & ~(context & (age > most))
        return kept.long()

    def _reorder_cache(self, past_key_values: Memory, beam_idx: Tensor) -> Memory:
        return past_key_values.of_rows(beam_idx)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def adjust_generation_fn(self, *arguments: Any, **options: Any) -> None:
        """Adjust as Transformers does; what the folder says nothing of is as in `emogen.load(folder).sample`."""
        super().adjust_generation_fn(*arguments, **options)  # type: ignore[misc]
        self._complete(self.generation_config)

    def _complete(self, config: GenerationConfig) -> None:
        longest = (self.config.limits or {}).get("reply_tokens", 40) + 1
        fitting = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
        for name, value in fitting.items():
            if getattr(config, name) is None:
                setattr(config, name, value)
        if config.max_length is None and config.max_new_tokens is None:
            config.max_new_tokens = longest

    def init_weights(self) -> None:
        """Do nothing: the generator has given itself its weights."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Generator):
            # Not on disk, and lost where Transformers builds a model without memory; any generator of these ids has the same.
            narrow = GeneratorConfig(module.config.vocabulary, module.config.emotions, width=1)
            module.get_buffer("suppress_mask").copy_(Generator(narrow).get_buffer("suppress_mask"))
        else:
            super()._init_weights(module)  # type: ignore[no-untyped-call]

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **options: Any,
    ) -> None:
        """Save as Transformers does, but so that `emogen.load` reads the folder, too.

        Weights by the generator's names, and the tokenizer.
        """
        named = state_dict
        if not getattr(self, "_hf_peft_config_loaded", False):
            whole = self.state_dict() if state_dict is None else state_dict
            named = {name.removeprefix(f"{self.base_model_prefix}."): tensor for name, tensor in whole.items()}
        if is_main_process:
            folder = Path(save_directory)
            place = self.config.name_or_path
            if place and not (folder / TOKENIZER_FILE).exists():
                found = cached_file(place, TOKENIZER_FILE, _raise_exceptions_for_missing_entries=False, local_files_only=True)
                if found:
                    folder.mkdir(parents=True, exist_ok=True)
                    load_tokenizer(Path(found)).save(folder / TOKENIZER_FILE)
        super().save_pretrained(save_directory, is_main_process, named, **options)


def _present_first(mask: Tensor) -> Tensor:
    """Return places [rows, time] of what is present, in order, then of the rest."""
    return mask.long().argsort(dim=1, descending=True, stable=True)


def _refuse_malformed(tokens: Tensor, must_begin: bool) -> None:
    """Raise SettingsError for rows [rows, time] that are no context, BOS and reply: their scores would mean nothing, silently.

    Marks stand in a reply where a text is encoded with special tokens that has them, or that goes on behind them. A row has no
    BOS where it is encoded without special tokens.
    """
    is_start = tokens == BOS
    begun = is_start.cumsum(1) - is_start.long() > 0
    wrong = (begun & (is_start | (tokens == TURN))).nonzero()
    if len(wrong):
        row, place = wrong[0].tolist()
        mark = "<s>" if is_start[row, place] else "<turn>"
        raise SettingsError(f"row {row} of input_ids holds {mark} at place {place}, in its reply behind <s>; {_WAY_OUT}")
    if must_begin and not bool(is_start.any(1).all()):
        row = int((~is_start.any(1)).nonzero()[0])
        raise SettingsError(f"row {row} of input_ids holds no <s>, behind which a reply stands; {_WAY_OUT}")
