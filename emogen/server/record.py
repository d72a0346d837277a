"""What is known of one request when it is over: for the log and the metrics."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KEY = "emogen.record"
UNKNOWN_ROUTE = "-"
_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")


@dataclass
class Record:
    """Filled while a request is answered. Neither a key nor, but for `said` and `replies`, a user's words are in it.

    Attributes:
        method: of the request, "other" for one that HTTP does not know.
        id: of the request, that its answer's header x-request-id holds.
        began: when, by `time.monotonic`.
        route: as the server declares it; "-" for one that there is not.
        status: of the answer; 0 where none was begun.
        seconds: that it took.
        first: seconds to the first text of a reply.
        prompt_tokens: that the model read.
        tokens: that it wrote.
        emotion: that was asked for.
        is_cancelled: whether the client left before the end.
        error: kind of an error that ended it.
        verdicts: that were stored.
        said: by the user; logged where that is asked for.
        replies: likewise.
    """

    method: str
    id: str = field(default_factory=lambda: f"req-{uuid.uuid4().hex}")
    began: float = field(default_factory=time.monotonic)
    route: str = UNKNOWN_ROUTE
    status: int = 0
    seconds: float = 0.0
    first: float | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    emotion: str = ""
    is_cancelled: bool = False
    error: str = ""
    verdicts: Sequence[str] = ()
    said: Sequence[str] = ()
    replies: Sequence[str] = ()

    @property
    def elapsed(self) -> float:
        """Return seconds since it began."""
        return time.monotonic() - self.began

    def note_first(self) -> None:
        """Note that the first text is there now; later calls do not count."""
        if self.first is None:
            self.first = self.elapsed

    def as_line(self, with_text: bool) -> str:
        """Return one line of the log, as JSON; what there was nothing of is left out."""
        content: dict[str, object] = {"id": self.id, "method": self.method, "route": self.route, "status": self.status}
        content["seconds"] = round(self.seconds, 4)
        if self.tokens:
            content |= {"first": round(self.first or 0.0, 4), "prompt_tokens": self.prompt_tokens, "tokens": self.tokens}
        content |= {name: value for name in ("emotion", "error") if (value := getattr(self, name))}
        if self.is_cancelled:
            content["cancelled"] = True
        if with_text and (self.said or self.replies):
            content |= {"said": list(self.said), "replies": list(self.replies)}
        return json.dumps(content, ensure_ascii=False)


def open_record(scope: MutableMapping[str, Any]) -> Record:
    """Return a new record of an ASGI request, which the request has with it from here on."""
    method = str(scope["method"])
    record = Record(method if method in _METHODS else "other")
    scope[KEY] = record
    return record
