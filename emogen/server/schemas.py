"""What requests may hold, as Pydantic models; what they do not name is ignored, as the OpenAI API does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_MOST_STOPS = 4
_STOP_SIGNS = 100
_EMOTION_SIGNS = 2000


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: object) -> object:
        """Null stands for a field that is not there, wherever one need not be there."""
        if not isinstance(body, dict):
            return body
        fields = cls.model_fields
        return {
            name: value for name, value in body.items() if value is not None or (name in fields and fields[name].is_required())
        }


def _sound(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair at position {error.start}, which is no character") from None
    return text


def _as_text(content: object, kinds: tuple[str, ...]) -> object:
    """Return a message's content: a text, or a list of parts of these types, which follow each other."""
    if not isinstance(content, list):
        if not isinstance(content, str):
            raise ValueError("content is no text and no list of text parts")
        return content
    return "".join(_text_of(part, kinds) for part in content)


def _text_of(part: object, kinds: tuple[str, ...]) -> str:
    """Return the text of a part, which stands under the name of its type."""
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(kind) if isinstance(part, dict) and isinstance(kind, str) and kind in kinds else None
    if not isinstance(text, str):
        allowed = " or ".join(f'{{"type": "{kind}", "{kind}": ...}}' for kind in kinds)
        raise ValueError(f"a part of a content is read where it is {allowed}; this model reads no other")
    return text


def _as_stops(stop: object) -> object:
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS:
        raise ValueError(f"a text, or a list of at most {_MOST_STOPS}, is expected")
    if any(not isinstance(text, str) or not 0 < len(text) <= _STOP_SIGNS for text in stops):
        raise ValueError(f"texts of 1 to {_STOP_SIGNS} characters are expected")
    return stops


def _as_emotion(emotion: object) -> object:
    if isinstance(emotion, dict) and not all(type(share) in (int, float) for share in emotion.values()):
        raise ValueError('shares are numbers: {"joy": 0.7, "fear": 0.3}')
    if isinstance(emotion, str) and len(emotion) > _EMOTION_SIGNS:
        raise ValueError(f"longer than {_EMOTION_SIGNS} characters")
    if emotion is not None and not isinstance(emotion, str | dict):
        raise ValueError('write "joy", "joy=0.7,fear=0.3", {"joy": 0.7, "fear": 0.3}, or "none"')
    return emotion


Sound = Annotated[str, AfterValidator(_sound)]
Stops = Annotated[list[str], BeforeValidator(_as_stops)]
Mixture = Annotated[str | dict[str, float] | None, BeforeValidator(_as_emotion)]
Name = Annotated[str, Field(max_length=255)]
Strength = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Message(_Shape):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Sound

    @model_validator(mode="before")
    @classmethod
    def _with_text(cls, message: object) -> object:
        """Return what was said, as one text; an assistant may have refused, or have said nothing."""
        if not isinstance(message, dict):
            return message
        content = message.get("content")
        if message.get("role") != "assistant":
            return {**message, "content": _as_text(content, ("text",))}
        said = "" if content is None else _as_text(content, ("text", "refusal"))
        refusal = message.get("refusal")
        if not isinstance(refusal, str | None):
            raise ValueError("refusal is no text")
        return {**message, "content": said or refusal or ""}


class StreamOptions(_Shape):
    """Of a streamed reply."""

    include_usage: bool = False


class ChatRequest(_Shape):
    """The body of `POST /v1/chat/completions`."""

    model: Name | None = None
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Seed | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stops = []
    user: Name | None = None
    emotion: Mixture = None
    strength: Strength = 1.0
    control: Name | None = None
    policy: Name | None = None
    decay: Strength | None = None
    post: Name | None = None
    # What would change the meaning of a reply, and is not to be had here.
    tools: Any = None
    functions: Any = None
    tool_choice: Any = None
    function_call: Any = None
    response_format: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    modalities: Any = None
    audio: Any = None
    moderation: Any = None
    web_search_options: Any = None

    @property
    def refused(self) -> tuple[str, ...]:
        """Return the fields that ask for something that is not to be had, by name."""
        return tuple(name for name, plain in _REFUSED.items() if (value := getattr(self, name)) and value not in plain)


_REFUSED: dict[str, tuple[object, ...]] = {
    "tools": (),
    "functions": (),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (),
    "top_logprobs": (),
    "logit_bias": (),
    "presence_penalty": (),
    "frequency_penalty": (),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "web_search_options": (),
}


class RecognizeRequest(_Shape):
    """The body of `POST /v1/recognize`: texts of one speaker, oldest first."""

    texts: Annotated[list[Sound], Field(min_length=1, fail_fast=True)]
    decay: Strength | None = None


class FeedbackRequest(_Shape):
    """The body of `POST /v1/feedback`: a verdict on a reply, or which of two is better.

    A reply that the server may have forgotten comes with context, reply and emotion.
    """

    id: Name | None = None
    verdict: Literal["good", "bad"] | None = None
    better: Name | None = None
    worse: Name | None = None
    context: Annotated[list[str], Field(fail_fast=True)] | None = None
    reply: str | None = None
    emotion: Mixture = None
    strength: Strength = 1.0
    user: Name | None = None
