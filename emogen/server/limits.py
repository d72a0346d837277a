"""Who is let in, and how often."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from emogen.server.errors import ApiError

_LOG = logging.getLogger("emogen.server")
_MOST_CALLERS = 10_000
_SHARE = 4
_KNOCK_SECONDS = 0.5
_KNOCKS_AT_ONCE = 10
_LONGEST_WAIT = 10.0
_WRONG_TOLD = 100
# Of a request: who waits as long as he was told is let in, however seconds are rounded.
_ROUNDING = 1e-6
_BEARER = "bearer"
_CHALLENGE = {"www-authenticate": "Bearer"}


class Keys:
    """The keys that are let in. Only their digests are held."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Of these; none lets everybody in."""
        self._digests = [_digest(key.encode()) for key in keys]

    @property
    def are_needed(self) -> bool:
        """Tell whether nobody is let in without one."""
        return bool(self._digests)

    def caller(self, authorization: bytes | None, address: str) -> str:
        """Tell who calls, by a name that tells no key; where there are no keys, by his address.

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


class Shares:
    """Places for what is asked for at one time, so shared that no caller holds them all.

    A caller may take more while he holds less than four times what is free. Alone he gets four in five; two that want all get
    four in nine each; whoever comes next finds room. Source: dynamic thresholds of shared buffers (Choudhury & Hahne 1998).

    Attributes:
        arriving: requests whose bodies are still being read; they hold no place.
    """

    def __init__(self, places: int) -> None:
        """All free."""
        self._places = places
        self._held: Counter[str] = Counter()
        self.arriving = 0

    @property
    def held(self) -> int:
        """Return how many places are taken."""
        return self._held.total()

    @property
    def callers(self) -> int:
        """Return how many callers hold a place."""
        return len(self._held)

    @property
    def is_full(self) -> bool:
        """Tell whether no place is free."""
        return self.held >= self._places

    def take(self, caller: str, count: int = 1) -> None:
        """Take places for a caller.

        Raises:
            ApiError: 503 where so many are not free, 429 where they would be more than the caller's share.
        """
        own, free = self._held[caller], self._places - self.held
        if count > free:
            self._forget(caller)
            message = f"{self.held} replies and requests are being served, which is all that may; ask again later"
            raise ApiError(503, message, "busy", retry_after=1)
        if own + count > 1 and own + count - 1 >= _SHARE * (free - count + 1):
            self._forget(caller)
            message = (
                f"{own} of {self._places} places are yours already; leave some to others, and ask again when you have less"
            )
            raise ApiError(429, message, "share_exceeded", retry_after=1)
        self._held[caller] += count

    def give_back(self, caller: str, count: int) -> None:
        """Free places of a caller."""
        self._held[caller] -= count
        self._forget(caller)

    def _forget(self, caller: str) -> None:
        if not self._held[caller]:
            del self._held[caller]


class Holding:
    """The places of one request: one for itself, and more where it asks for several replies."""

    def __init__(self, shares: Shares, caller: str) -> None:
        """Take one; raise ApiError as `Shares.take` does."""
        shares.take(caller)
        self._shares, self.caller, self._count = shares, caller, 1

    def widen(self, count: int) -> None:
        """Take places for `count` replies in place of one; raise ApiError as `Shares.take` does."""
        if count > self._count:
            self._shares.take(self.caller, count - self._count)
            self._count = count

    def release(self) -> None:
        """Give all back."""
        self._shares.give_back(self.caller, self._count)


class Knocks:
    """Paces answers to wrong keys, so that nobody tries many; counted by address.

    An address gets ten answers at once, then two a second, each in its turn; where its turn is too far off, 429 at once. So
    that none tells whether a key was right, right ones wait as well, unless they were let in from this address before: behind a
    proxy all callers share one address.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """None yet; `clock` in seconds."""
        self._clock = clock
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def wait_of(self, address: str, caller: str | None) -> float:
        """Return the seconds that an answer is to be held back.

        Args:
            address: where a request comes from.
            caller: whose key it has; None for a wrong key, which is counted.

        Raises:
            ApiError: 429.
        """
        now = self._clock()
        known = self._addresses.pop(address, None) or _Address(now)
        self._addresses[address] = known
        if len(self._addresses) > _MOST_CALLERS:
            self._addresses.popitem(last=False)
        if caller in known.callers:
            return 0.0
        wait = max(0.0, known.turn - now - _KNOCKS_AT_ONCE * _KNOCK_SECONDS)
        if wait > _LONGEST_WAIT:
            message = f"too many wrong keys came from your address; send the next one in {math.ceil(wait)} s"
            raise ApiError(429, message, "too_many_wrong_keys", retry_after=math.ceil(wait))
        if caller is None:
            known.turn = max(known.turn, now) + _KNOCK_SECONDS
            known.wrong += 1
            if known.wrong % _WRONG_TOLD == 0:
                _LOG.warning("%d wrong keys came from %s", known.wrong, address)
        elif len(known.callers) < _MOST_CALLERS:
            known.callers.add(caller)
        return wait


@dataclass
class _Address:
    """What is known of an address: when its next answer is due, how many wrong keys it sent, and who was let in."""

    turn: float
    wrong: int = 0
    callers: set[str] = field(default_factory=set)


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
        """Count a request; raise ApiError 429 where it is one too many."""
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
