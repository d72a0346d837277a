"""Who is let in, and how often."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from emogen.dialogue.server.errors import ApiError

_MOST_CALLERS = 10_000
# Of a request: who waits as long as he was told is let in, however seconds are rounded.
_ROUNDING = 1e-6
_BEARER = "bearer"
_CHALLENGE = {"www-authenticate": "Bearer"}


class Keys:
    """The keys that are let in. Only their digests are held."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Of these; none lets everybody in."""
        self._digests = [_digest(key.encode()) for key in keys]

    def caller(self, authorization: bytes | None, address: str) -> str:
        """Who calls, by a name that tells no key; where there are no keys, by his address.

        All keys are compared, each in the same time whatever was sent.

        Raises:
            ApiError: 401.
        """
        if not self._digests:
            return address
        kind, _, key = (authorization or b"").partition(b" ")
        if kind.decode("latin-1").lower() != _BEARER or not key.strip():
            message = "no API key was sent; send it as Authorization: Bearer KEY"
            raise ApiError(401, message, "missing_api_key", headers=_CHALLENGE)
        sent = _digest(key.strip())
        if not sum(hmac.compare_digest(sent, known) for known in self._digests):
            message = "the API key is not one that this server knows"
            raise ApiError(401, message, "invalid_api_key", headers=_CHALLENGE)
        return sent.hex()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Rate:
    """So many requests a minute for each caller, all at once or spread: a bucket that fills steadily.

    The callers that have been silent longest are forgotten beyond ten thousand.
    """

    def __init__(self, a_minute: int, clock: Callable[[], float]) -> None:
        """Full buckets.

        Args:
            a_minute: what a bucket holds, and gets in a minute; 0 is without limit.
            clock: in seconds, never backwards.
        """
        self._most, self._clock = a_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Counts a request; raises ApiError 429 where it is one too many."""
        if not self._most:
            return
        now = self._clock()
        left, since = self._left.pop(caller, (float(self._most), now))
        left = min(self._most, left + (now - since) * self._most / 60)
        is_due = left >= 1 - _ROUNDING
        self._left[caller] = (left - 1 if is_due else left, now)
        if len(self._left) > _MOST_CALLERS:
            self._left.popitem(last=False)
        if not is_due:
            seconds = math.ceil((1 - left) * 60 / self._most)
            message = f"more than {self._most} requests in a minute; send the next one in {seconds} s"
            raise ApiError(429, message, "rate_limit_exceeded", retry_after=seconds)
