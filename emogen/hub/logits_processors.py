"""Control in `model.generate` of Transformers: of any causal language model by words, of our own by their conditions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import LogitNormalization, LogitsProcessor, LogitsProcessorList

from emogen.decoding.control import Control, parse_control
from emogen.decoding.controllers import Weights, neutral_place, of_tokens, weights_of
from emogen.emotions.labels import EKMAN, Emotion, LabelSet, named_label_set, no_emotion, parse_emotion
from emogen.errors import SettingsError
from emogen.hub.config import MODEL_TYPE

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList
    from transformers.generation.streamers import BaseStreamer

Asked = str | Emotion | None
"""An emotion: `joy`, `joy=0.7,fear=0.3`, a point over a label set, or None for no emotion."""

Instruction = Callable[[str | None], str]
"""Takes the name of an emotion, or None for no emotion; give the words in front of a prompt, none for the prompt alone."""

_LOOPS: dict[str, Literal["_sample", "_beam_search"]] = {
    "greedy_search": "_sample",
    "sample": "_sample",
    "beam_search": "_beam_search",
    "beam_sample": "_beam_search",
}


def express(emotion: str | None) -> str:
    r"""Return the instruction for plain language models: `Express joy.` and an empty line; for no emotion nothing."""
    return f"Express {emotion}.\n\n" if emotion else ""


def emotions_of(
    target: Asked | Sequence[Asked], labels: LabelSet = EKMAN, strength: float = 1.0, rows: int | None = None
) -> list[Emotion]:
    """Return what each row asks for.

    Args:
        target: one emotion for all rows, or one for each.
        labels: that they are over.
        strength: of those that are named, 0 to 1.
        rows: how many; None takes as many as there are emotions.

    Raises:
        SettingsError: an emotion that is unknown or over other labels, or as many as do not fit the rows.
    """
    several = [target] if target is None or isinstance(target, str | Emotion) else list(target)
    found = [_emotion(each, labels, strength) for each in several]
    refuse_mismatch(len(found), rows)
    return found * rows if len(found) == 1 and rows else found


def refuse_mismatch(emotions: int, rows: int | None) -> None:
    """Raise SettingsError where so many emotions are neither one for all rows nor one for each."""
    if rows and emotions not in (1, rows):
        raise SettingsError(
            f"{emotions} emotions for {rows} rows; give one, or one for each row (in a pipeline: batch_size rows)"
        )


def _emotion(target: Asked, labels: LabelSet, strength: float) -> Emotion:
    if target is None:
        return no_emotion(labels)
    emotion = parse_emotion(target, labels, strength) if isinstance(target, str) else target
    if emotion.labels != labels:
        raise SettingsError(f"emotion {emotion} is over other labels than the model's: {', '.join(labels.names)}")
    return emotion


def control_of(control: str | Control) -> Control:
    """Return the control of one call of `generate`; raise SettingsError where it is unknown, or chooses among whole texts."""
    found = parse_control(control) if isinstance(control, str) else control
    if found.choice:
        raise SettingsError(
            f"control {found}: {found.choice} chooses among whole texts, which generate does not have while it writes; "
            "ask for num_return_sequences and choose with a classifier, or use emogen.load(FOLDER).replies(..., guide=GUIDE)"
        )
    return found


def guide_logits(target: Tensor, none: Tensor | None, neutral: Tensor | None, weights: Weights) -> Tensor:
    """Return what guidance and expert make of scores, or of the states that scores are linear in.

    `controllers` has the formulas.

    Args:
        target: [rows, size], with the emotion.
        none: without emotion; None where no row is guided.
        neutral: with the neutral label, likewise.
        weights: of the rows.
    """
    moved = target
    if none is not None:
        moved = moved + weights.guidance[:, None] * (target - none)
    if neutral is not None:
        moved = moved + weights.expert[:, None] * (target - neutral)
    return moved


def prefer_logits(joint: Tensor, weights: Weights) -> Tensor:
    """Return what bayes adds to the scores, [rows, vocabulary].

    Args:
        joint: [rows, labels, vocabulary], log likelihoods of text and token under each label.
        weights: of the rows.
    """
    posterior = torch.einsum("re,rev->rv", weights.mixture, joint) - joint.logsumexp(1)
    return weights.bayes[:, None] * posterior


@dataclass(frozen=True)
class Beside:
    """Rows that are read beside those that are written: the same text behind other instructions.

    Attributes:
        emotions: of the rows.
        control: of all rows.
        tokens: [companions, time], prompts with their instructions, padded in front.
        mask: [companions, time], 0 for padding.
        row_index: [companions], the row that each stands beside.
        role: [companions], a label, or the number of labels for no emotion.
        positions: [rows, labels + 1], whose scores serve as those of a role, companions counted behind the rows; a
            row's own where
            it has no companion of that role.
        prompt: tokens of the rows' own prompts, padding included.
    """

    emotions: Sequence[Emotion]
    control: Control
    tokens: Tensor
    mask: Tensor
    row_index: Tensor
    role: Tensor
    places: Tensor
    prompt: int


def words_beside(
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    emotions: Sequence[Emotion],
    control: str | Control = "none",
    instruction: Instruction = express,
) -> Beside:
    """Return the rows behind the instructions that their emotions and the control need.

    Args:
        tokenizer: the model's.
        input_ids: [rows, time], prompts, padded in front.
        attention_mask: [rows, time]; None where nothing is padding.
        emotions: one for each row, all over the same labels.
        control: guidance, expert and bayes.
        instruction: what stands in front of a row, behind its begin token if it has one.

    Raises:
        SettingsError: control `head`, `rerank` or `mbr`.
    """
    wanted, labels, begin = _refuse_head(control), emotions[0].labels, tokenizer.bos_token_id
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in map(instruction, (*labels.names, None))]
    words = [ids[1:] if ids and ids[0] == begin else ids for ids in encoded]
    kept = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if not input_ids.shape[1] or kept.shape != input_ids.shape:
        raise SettingsError("control needs whole prompts: give input_ids, and an attention_mask of the same shape")
    rows = [ids[there].tolist() for ids, there in zip(input_ids, kept.bool(), strict=True)]
    seats = [(row, role) for row, emotion in enumerate(emotions) for role in _roles(emotion, wanted) if words[role]]
    texts = [_behind(words[role], rows[row], begin) for row, role in seats]
    width = max(map(len, texts), default=0)
    tokens = torch.tensor([[0] * (width - len(text)) + text for text in texts]).long().view(len(seats), width)
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts]).long().view(len(seats), width)
    row_index, role = torch.tensor(seats).long().view(-1, 2).unbind(1)
    places = torch.arange(len(rows))[:, None].repeat(1, len(labels) + 1)
    places[row_index, role] = len(rows) + torch.arange(len(seats))
    tokens, mask, row_index, role, places = (part.to(input_ids.device) for part in (tokens, mask, row_index, role, places))
    return Beside(emotions, wanted, tokens, mask, row_index, role, places, input_ids.shape[1])


def _refuse_head(control: str | Control) -> Control:
    wanted = control_of(control)
    if wanted.head:
        raise SettingsError(
            f"control {wanted}: a head reads the states of the emogen model that it was trained on (`emogen train-head`); "
            "for other models take guidance, expert or bayes"
        )
    return wanted


def _behind(words: Sequence[int], row: Sequence[int], begin: int | None) -> list[int]:
    """Return the row with the words in front, but behind its begin token."""
    first = 1 if row and row[0] == begin else 0
    return [*row[:first], *words, *row[first:]]


def _roles(emotion: Emotion, control: Control) -> list[int]:
    """Return what a row needs; no emotion always, since it takes the place of the row as given where there are words for it."""
    none = len(emotion.labels)
    if not emotion.strength:
        return [none]
    named = {place for place, weight in enumerate(emotion.weights) if weight or control.bayes}
    neutral = neutral_place(emotion)
    return [*sorted(named if not control.expert or neutral is None else named | {neutral}), none]


class EmotionLogitsProcessor(LogitsProcessor):
    """Moves the scores of any causal language model towards the emotions of the rows, by companions behind instructions.

    With z_e the scores behind the instruction of label e, z_none those of the row as given, y a mixture and s its strength, the
    scores with the emotion are `(1 - s) z_none + s sum_e y_e z_e`: the weighted mean of log probabilities, up to a constant.
    Guidance, expert and bayes then are as in `emogen.decoding.controllers`; guidance 1 is plain writing behind the instruction.

    The companions are read by the same model, in one batch, with a cache of their own where it gives one. Rows may change
    places, as beams do. A processor serves one call of `generate` after the other, with the same prompts. It belongs in front
    of all others: penalties that come before it are moved along. Tokens that are out of reach stay so.
    """

    def __init__(self, model: PreTrainedModel, beside: Beside, use_cache: bool = True) -> None:
        """For rows in company.

        Args:
            model: that writes, and reads the companions.
            beside: the company.
            use_cache: whether companions read one token a step; else all of their text.
        """
        self.model, self.beside, self.use_cache = model, beside, use_cache
        emotions, device = beside.emotions, beside.places.device
        self.condition = torch.tensor([emotion.condition for emotion in emotions], device=device)
        self.weights = weights_of(emotions, [beside.control] * len(emotions), device)
        self.neutral = neutral_place(emotions[0])
        self._accepted = inspect.signature(model.forward).parameters
        self._begin()

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return moved scores [rows, vocabulary], of rows `input_ids` [rows, time].

        Raises:
            SettingsError: other rows than it was made for, or a companion becomes longer than the model reads.
        """
        if len(input_ids) != len(self.condition):
            raise SettingsError(
                f"{len(input_ids)} rows are written, {len(self.condition)} have company; repeat each prompt and emotion for "
                "num_return_sequences or num_beams"
            )
        if input_ids.shape[1] == self.beside.prompt:
            self._begin()
        else:
            self._go_on(input_ids)
        self._texts = input_ids
        blocked = scores == -torch.inf
        given = scores.masked_fill(blocked, 0.0)
        return self._moved(torch.cat([given, self._read(given)])).masked_fill(blocked, -torch.inf)

    def _begin(self) -> None:
        self._tokens, self._mask = self.beside.tokens, self.beside.mask
        self._cache: Any = None
        self._seen = 0
        self._labels: Tensor | None = None
        self._likelihoods = torch.zeros_like(self.weights.mixture)

    def _go_on(self, input_ids: Tensor) -> None:
        """Take up the tokens that were chosen, and the places that rows have changed."""
        source, chosen = self._sources(input_ids[:, :-1]), input_ids[:, -1]
        if self._labels is not None:
            self._likelihoods = self._likelihoods[source] + of_tokens(self._labels[source], chosen)
        moved = self.beside.places[source[self.beside.row_index], self.beside.role] - len(input_ids)
        if not torch.equal(moved, torch.arange(len(moved), device=moved.device)):
            self._tokens, self._mask = self._tokens[moved], self._mask[moved]
            self._cache = _reorder_cache_rows(self.model, self._cache, moved)
        added = chosen[self.beside.row_index, None]
        self._tokens = torch.cat([self._tokens, added], 1)
        self._mask = torch.cat([self._mask, torch.ones_like(added)], 1)

    def _sources(self, before: Tensor) -> Tensor:
        """Return [rows], where the text of each stood in the step before.

        Rows of one text and emotion stand in for each other.
        """
        if torch.equal(before, self._texts):
            return torch.arange(len(before), device=before.device)
        same = (self.condition[:, None] == self.condition).all(-1)
        if before.shape == self._texts.shape:
            same = same & (before[:, None] == self._texts).all(-1)
        if before.shape != self._texts.shape or not bool(same.any(1).all()):
            raise SettingsError("EmotionLogitsProcessor: these texts do not go on from those before; make one for each call")
        return same.int().argmax(1)

    def _read(self, scores: Tensor) -> Tensor:
        """Return scores [companions, vocabulary] of the next token, like `scores`."""
        if not len(self._tokens):
            return scores[:0]
        longest = getattr(self.model.config, "max_position_embeddings", None)
        if longest and self._mask.shape[1] > longest:
            raise SettingsError(
                f"prompt, instruction and text are longer than the {longest} tokens that the model reads; shorten them"
            )
        new = self._tokens[:, self._seen :]
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, self._seen :]
        wanted = {"position_ids": positions, "logits_to_keep": 1, "use_cache": self.use_cache}
        if self._cache is not None:
            wanted["past_key_values"] = self._cache
        wanted = {name: value for name, value in wanted.items() if name in self._accepted}
        found = self.model(input_ids=new, attention_mask=self._mask, **wanted)
        self._cache = found.get("past_key_values")
        self._seen = self._tokens.shape[1] if self._cache is not None else 0
        last: Tensor = found.logits[:, -1]
        return last.to(scores)

    def _moved(self, scores: Tensor) -> Tensor:
        """Return moved scores of the rows, from those [rows + companions, vocabulary]."""
        places, weights, none = self.beside.places, self.weights, self.condition.shape[1] - 1
        conditioning = [role for role in range(none + 1) if bool(self.condition[:, role].any())]
        target = torch.stack([self.condition[:, role, None] * scores[places[:, role]] for role in conditioning]).sum(0)
        neutral = none if self.neutral is None else self.neutral
        moved = guide_logits(
            target,
            scores[places[:, none]] if bool(weights.guidance.any()) else None,
            scores[places[:, neutral]] if bool(weights.expert.any()) else None,
            weights,
        )
        if not bool(weights.bayes.any()):
            return moved
        self._labels = scores[places[:, :none]].log_softmax(-1)
        return moved + prefer_logits(self._labels + self._likelihoods[..., None], weights)


@dataclass(frozen=True)
class Steering:
    """How an emogen model is steered: behind each row stand those of the same text that are told something else.

    Attributes:
        weights: of the rows.
        roles: what each row's company is told: a label, or the number of labels for no emotion.
    """

    weights: Weights
    roles: tuple[int, ...]

    def conditioning_for(self, condition: Tensor) -> Tensor:
        """Return the conditions [rows * (1 + roles), labels + 1] from those of the rows."""
        company = torch.eye(condition.shape[1]).to(condition)[list(self.roles)]
        return torch.cat([condition[:, None], company.expand(len(condition), -1, -1)], 1).flatten(0, 1)

    def move_hidden(self, states: Tensor) -> Tensor:
        """Return states [rows, width] whose scores are what guidance and expert ask for, from [rows, 1 + roles, width]."""
        is_guided, has_expert = bool(self.weights.guidance.any()), bool(self.weights.expert.any())
        none = states[:, 1] if is_guided else None
        neutral = states[:, 1 + is_guided] if has_expert else None
        return guide_logits(states[:, 0], none, neutral, self.weights)


def pack_steering(emotions: Sequence[Emotion], control: Control, device: torch.device) -> Tensor:
    """Return the weights of rows as one tensor [rows, 3 + 2 labels].

    Which `generate` repeats for beams as it does any tensor.
    """
    weights = weights_of(emotions, [control] * len(emotions), device)
    return torch.cat([torch.stack([weights.guidance, weights.expert, weights.bayes], 1), weights.head, weights.mixture], 1)


def unpack_steering(steering: Tensor, labels: LabelSet) -> Steering:
    """Return what `pack_steering` has packed, and the company that it needs."""
    guidance, expert, bayes = steering[:, :3].unbind(1)
    head, mixture = steering[:, 3:].chunk(2, 1)
    none, neutral = len(labels), neutral_place(no_emotion(labels))
    wanted = [(guidance, [none]), (expert, [none if neutral is None else neutral]), (bayes, range(none))]
    roles = tuple(role for weight, company in wanted if bool(weight.any()) for role in company)
    return Steering(Weights(guidance, expert, bayes, head, mixture), roles)


def _reorder_cache_rows(model: Any, cache: Any, rows: Tensor) -> Any:
    """Return a cache for other rows, in the ways that Transformers knows."""
    if hasattr(model, "_reorder_cache") and cache is not None:
        return model._reorder_cache(cache, rows)
    if cache is not None:
        cache.reorder_cache(rows)
    return cache


def generate_with_emotion(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    emotion: Asked | Sequence[Asked] | Tensor = None,
    strength: float = 1.0,
    control: str | Control = "none",
    labels: LabelSet | str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    instruction: Instruction = express,
    streamer: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> Any:
    """Return the loop of `model.generate(**inputs, custom_generate=...)`: that of Transformers, with the controllers in front.

    Transformers keeps `tokenizer` and `streamer` from callables, so bind them:
    `functools.partial(generate_with_emotion, tokenizer=tokenizer)`. An emogen model needs no tokenizer, since it is told
    emotions by its own conditions; it takes `emotion`, `strength` and `control` without this callable, too.

    Args:
        model: any causal language model; this and the next four come from Transformers.
        input_ids: [rows, time], padded in front.
        logits_processor: further processors, of which the emotion's will be the first.
        stopping_criteria: as they are.
        generation_config: greedy, sampling or beams.
        emotion: one for all prompts, or one for each.
        strength: of emotions that are named, 0 to 1.
        control: such as `guidance:2,bayes:1`.
        labels: that emotions are over: a set, `ekman` and the like, or names with commas between; None for `ekman`.
        tokenizer: the model's.
        instruction: what stands in front of a prompt for an emotion.
        streamer: is given each token; not for beams.
        model_kwargs: what the model is called with.

    Raises:
        SettingsError: an emotion or control that is unknown or cannot be served, a number of emotions that does not fit the
            prompts, no tokenizer, or another way of decoding.
    """
    loop = _LOOPS.get(str(generation_config.get_generation_mode().value))
    if loop is None or (streamer and loop == "_beam_search"):
        raise SettingsError("generate_with_emotion: decodes greedily, by sampling, or with beams, these without a streamer")
    if model.config.is_encoder_decoder:
        raise SettingsError("generate_with_emotion: is for causal language models, which go on with their prompt")
    if isinstance(emotion, Tensor) and model.config.model_type == MODEL_TYPE:
        # From EmogenForCausalLM.generate, which has passed on the rest to the model itself.
        model_kwargs["emotion"] = emotion.repeat_interleave(len(input_ids) // len(emotion), 0)
    else:
        repeats = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
        rows = emotions_of(emotion, _label_set(labels), strength, len(input_ids) // repeats)  # type: ignore[arg-type]
        beside = words_beside(
            _require_tokenizer(tokenizer),
            input_ids,
            model_kwargs.get("attention_mask"),
            emotions=[each for each in rows for _ in range(repeats)],
            control=control,
            instruction=instruction,
        )
        ours = [EmotionLogitsProcessor(model, beside, bool(model_kwargs.get("use_cache", True)))]
        # Beams of one row are compared by their sums of log probabilities.
        normalise = [LogitNormalization()] if loop == "_beam_search" else []
        logits_processor = LogitsProcessorList([*ours, *normalise, *logits_processor])
    streaming = {"streamer": streamer} if streamer else {}
    return getattr(model, loop)(input_ids, logits_processor, stopping_criteria, generation_config, **streaming, **model_kwargs)


def _require_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    if tokenizer is None:
        raise SettingsError(
            "generate_with_emotion: has no tokenizer, which Transformers keeps from callables; "
            "pass custom_generate=functools.partial(generate_with_emotion, tokenizer=tokenizer)"
        )
    return tokenizer


def _label_set(labels: LabelSet | str | None) -> LabelSet:
    if labels is None:
        return EKMAN
    return named_label_set(labels) if isinstance(labels, str) else labels
