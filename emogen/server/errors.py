"""What is wrong with a request, as the OpenAI API tells it: a status, and one sentence in an object `error`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from emogen.errors import BusyError, DataError, EmogenError, SettingsError, log_failure

_LOG = logging.getLogger("emogen.server")
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_SHOWN = 400


class ApiError(EmogenError):
    """A request that is refused.

    Attributes:
        status: of the answer.
        code: for programs, in one word.
        param: the field that is wrong, where it is one.
        headers: further ones of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)

    def as_object(self) -> dict[str, object]:
        """Return the body of the answer, and the data of an event in a stream that began well."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def as_json(self) -> bytes:
        """Return the body, as ASCII: a part of it may be what no UTF-8 can hold."""
        return json.dumps(self.as_object()).encode("ascii")


def as_api_error(error: Exception, name: str) -> ApiError:
    """Turn what a request of that id led to into the answer to it.

    Only what was raised as an answer speaks for itself. Other errors' words, maybe a path or another user's, are left out.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(503, str(error), "busy", retry_after=1)
    return ApiError(500, f"the server failed; its log says where, under {name}", "failed")


def log_place(error: Exception, name: str) -> None:
    """Log where the unforeseen error of a request of that id came from; its words only under `--debug`."""
    if not isinstance(error, ApiError | BusyError):
        log_failure(_LOG, f"{name} failed", error)


@contextmanager
def name_field(param: str) -> Iterator[None]:
    """Lay a mistake in here at this field's door."""
    try:
        yield
    except (SettingsError, DataError) as error:
        raise ApiError(400, _shorten(str(error)), param=param) from None


def of_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return the first of Pydantic's errors in the body of a request; without the value, which may be long."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}", "invalid_json")
    path = [str(part) for part in first["loc"] if part != "body"]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not path:
        return ApiError(400, "the body is no JSON object; send one, with Content-Type: application/json", "invalid_json")
    return ApiError(400, _shorten(f"{'.'.join(path)}: {message[:1].lower()}{message[1:]}"), param=path[0])


def _shorten(message: str) -> str:
    """Return it in one line, without what a command line alone would call it by."""
    line = " ".join(message.split()).removeprefix("--")
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."
