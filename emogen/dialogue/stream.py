"""A reply while it is written: its pieces as they come, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

Ended = Literal["end", "limit", "cancelled", "failed"]


class ReplyStream:
    """A reply while it is written, and after.

    Iterated, with `for` or `async for`, it gives its pieces from the first on as they come; joined they are its text, but for
    blanks at its ends. Any number of readers may do so, in any threads and event loops.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        """Of a reply that nobody writes any more once `on_cancel` was called."""
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._wakers: list[Callable[[], object]] = []
        self._pieces: list[str] = []
        self._tokens = 0
        self._ended: Ended | None = None
        self._error: Exception | None = None

    @property
    def text(self) -> str:
        """Return what is written by now, without blanks around it."""
        return "".join(self._pieces).strip()

    @property
    def tokens(self) -> int:
        """Return how many are written by now, the end token included."""
        return self._tokens

    @property
    def ended(self) -> Ended | None:
        """Return by what it ended: its end token, the limit of its length, a cancellation, or a failure.

        None while it is written.
        """
        return self._ended

    def cancel(self) -> None:
        """Stop it where it stands; one that has ended stays as it is."""
        if self.end("cancelled"):
            self._on_cancel()

    def wait(self) -> str:
        """Return its text, once it has ended.

        Raises:
            EmogenError: it failed.
        """
        for _ in self:
            pass
        return self.text

    def __iter__(self) -> Iterator[str]:
        at, is_over = 0, False
        while not is_over:
            with self._changed:
                while self._ended is None and at == len(self._pieces):
                    self._changed.wait()
                is_over, pieces = self._ended is not None, self._pieces[at:]
            yield from pieces
            at += len(pieces)
        self._raise()

    async def __aiter__(self) -> AsyncIterator[str]:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # A loop that was closed while its reader waited reads no more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)

        self._wakers.append(wake)
        try:
            at, is_over = 0, False
            while not is_over:
                changed.clear()
                is_over = self._ended is not None
                pieces = self._pieces[at:]
                for piece in pieces:
                    yield piece
                at += len(pieces)
                if not is_over:
                    await changed.wait()
        finally:
            self._wakers.remove(wake)
        self._raise()

    def add(self, text: str, tokens: int) -> None:
        """Take what comes next, and the number of tokens by now, from who writes it; lost where it has ended."""
        with self._changed:
            if self._ended is None:
                self._tokens = tokens
                self._pieces += [text] if text else []
                self._changed.notify_all()
        self._wake()

    def end(self, ended: Ended, error: Exception | None = None) -> bool:
        """Take its end from who writes it, and for readers the error that made it fail.

        Return False where it had ended before.
        """
        with self._changed:
            if self._ended is not None:
                return False
            self._error, self._ended = error, ended
            self._changed.notify_all()
        self._wake()
        return True

    def _wake(self) -> None:
        for wake in tuple(self._wakers):
            wake()

    def _raise(self) -> None:
        if self._error:
            raise self._error
