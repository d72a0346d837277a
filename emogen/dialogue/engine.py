"""One model that writes for many at once: a thread of its own keeps one running batch filled."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

from emogen.checkpoint.model import EmotionModel
from emogen.decoding.continuous import ContinuousBatch, Delta, Request
from emogen.decoding.params import SamplingParams
from emogen.decoding.texts import Prompt
from emogen.dialogue.stream import Ended, ReplyStream
from emogen.emotions.labels import Emotion
from emogen.errors import BusyError, EmogenError, SettingsError, log_failure

_LOG = logging.getLogger(__name__)
_SUSPECT_SECONDS = 2.0


@dataclass(frozen=True, eq=False)
class _Entry:
    """A reply that is asked for: all that it is written from, so that it can be written again."""

    prompt: Prompt
    sampling: SamplingParams
    writing: ReplyStream
    caller: str


class Engine:
    """Writes replies for any number of sessions, threads and event loops, each as it would be alone.

    All replies that are asked for at one time are written in one batch, which rows join and leave at every token. Each is what
    `EmotionModel.reply` gives for its context, emotion, options and seed, whatever else is written beside it: token for token,
    where the model computes in float32.

    Close it, or use it as a context manager, where the program goes on without it.
    """

    def __init__(self, model: EmotionModel, max_batch_size: int = 64, max_queue: int = 256) -> None:
        """Start its thread.

        Args:
            model: that writes; nobody else may train it meanwhile.
            max_batch_size: replies that are written at once.
            max_queue: replies that may wait until there is room; more are refused.

        Raises:
            SettingsError: no rows, or a negative number that may wait.
        """
        if max_queue < 0:
            raise SettingsError(f"most waiting {max_queue}: allowed is 0 or more")
        self.model = model
        self._batch = ContinuousBatch(model.writer(), max_batch_size)
        self._most = max_batch_size + max_queue
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._entered: dict[int, _Entry] = {}
        self._lock = threading.Lock()
        self._unfinished: set[ReplyStream] = set()
        self._is_open = True
        self._may_begin_again = True
        self._wrote_at: float | None = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="emogen-engine", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Tell whether it writes: neither closed, nor ended by a failure that it could not handle."""
        return self._is_open

    @property
    def is_suspect(self) -> bool:
        """Tell whether it may write no more: its last step failed, or replies wait and none has grown for two seconds."""
        if self._wrote_at is None:
            return True
        return bool(self._unfinished) and time.monotonic() - self._wrote_at > _SUSPECT_SECONDS

    @property
    def unfinished(self) -> int:
        """Return how many replies are being written or wait."""
        return len(self._unfinished)

    def write(
        self,
        context: str | Sequence[str],
        emotion: str | Emotion | None = None,
        sampling: SamplingParams | None = None,
        seed: int = 0,
        caller: str = "",
    ) -> ReplyStream:
        """Ask for a reply; does not wait for it.

        Args:
            context: the utterance to reply to, or several, oldest first.
            emotion: `joy`, `joy=0.7,surprise=0.3`, an Emotion, or None for no emotion.
            sampling: decoding options, in place of the model's own; its n and seed give way.
            seed: the same seed gives the same reply on a CPU.
            caller: on whose behalf; where replies wait, the next is of the caller who has the fewest being written.

        Raises:
            BusyError: as many replies wait as may, or the engine is closed.
            SettingsError: an emotion that the model does not know, an impossible option, or a controller that it cannot serve
                or that chooses among whole texts.
        """
        prompt, options = self._request(context, emotion, sampling, seed)
        target = self._batch.prepare(prompt, options, caller)
        entry = _Entry(prompt, options, ReplyStream(lambda: self._orders.put(partial(self._leave, entry))), caller)
        with self._lock:
            if not self._is_open:
                raise BusyError("the engine is closed, or has failed; open another")
            if len(self._unfinished) >= self._most:
                raise BusyError(f"{self.unfinished} replies are being written or wait, which is all that may; ask again later")
            self._unfinished.add(entry.writing)
            self._orders.put(partial(self._enter, entry, target))
        return entry.writing

    def prepare(
        self,
        context: str | Sequence[str] = (),
        emotion: str | Emotion | None = None,
        sampling: SamplingParams | None = None,
        seed: int = 0,
    ) -> Request:
        """Return what `write` asks for, checked and not asked for; arguments and SettingsError as there."""
        return self._batch.prepare(*self._request(context, emotion, sampling, seed))

    def close(self) -> None:
        """End its thread; what is not written by then fails."""
        with self._lock:
            self._is_open = False
        # An order wakes a thread that waits for one.
        self._orders.put(lambda: None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _request(
        self, context: str | Sequence[str], emotion: str | Emotion | None, sampling: SamplingParams | None, seed: int
    ) -> tuple[Prompt, SamplingParams]:
        target = self.model.emotion(emotion)
        options = replace(sampling or self.model.sampling_for(target.strength > 0, streamed=True), n=1, seed=seed)
        (prompt,) = self.model.prompts([context], [target], options.control)
        return prompt, options

    def _work(self) -> None:
        error: EmogenError = BusyError("the engine was closed before the reply was written")
        try:
            while self._is_open:
                try:
                    self._follow_orders()
                    self._step()
                except Exception as failure:
                    self._begin_again(failure)
        except BaseException as failure:
            error = _log_failed_step(failure, "the engine failed, and writes no more")
        finally:
            with self._lock:
                self._is_open = False
                left, self._unfinished = self._unfinished, set()
            for writing in left:
                writing.end("failed", error)

    def _begin_again(self, failure: Exception) -> None:
        """Fail all that is asked for and go on with an empty batch: once; a second time the failure ends the thread."""
        if not self._may_begin_again:
            raise failure
        self._may_begin_again = False
        error = _log_failed_step(failure, "the engine failed; it begins again, once")
        self._batch.clear()
        self._entered = {}
        with self._lock:
            left, self._unfinished = self._unfinished, set()
        for writing in left:
            writing.end("failed", error)

    def _follow_orders(self) -> None:
        """Follow those that were given since the last step; wait for one where there is nothing to write."""
        must_wait = self._batch.is_idle
        while must_wait or not self._orders.empty():
            must_wait = False
            order = self._orders.get()
            try:
                order()
            except Exception as error:
                _log_failed_step(error, "an order to the engine failed")

    def _step(self) -> None:
        try:
            for piece in self._batch.step():
                self._take(piece)
            self._wrote_at = time.monotonic()
        except Exception as error:
            self._wrote_at = None
            failure = _log_failed_step(error, "the running batch failed; it begins anew")
            self._batch.clear()
            entries, self._entered = self._entered, {}
            for entry in entries.values():
                self._finish(entry.writing, "failed", failure)

    def _take(self, piece: Delta) -> None:
        entry = self._entered.get(piece.number)
        if entry is None:
            return
        # What is written a second time, after `_begin_anew`, is there already.
        if piece.tokens > entry.writing.tokens:
            entry.writing.add(piece.text, piece.tokens)
        if piece.ended:
            del self._entered[piece.number]
            self._finish(entry.writing, piece.ended)

    def _enter(self, entry: _Entry, prepared: Request | None = None) -> None:
        if entry.writing.ended:
            return
        try:
            target = prepared or self._batch.prepare(entry.prompt, entry.sampling, entry.caller)
            self._batch.enter(target)
            self._entered[target.number] = entry
        except Exception as error:
            self._finish(entry.writing, "failed", _log_failed_step(error, "a reply could not join the running batch"))

    def _leave(self, entry: _Entry) -> None:
        numbers = [number for number, entered in self._entered.items() if entered is entry]
        self._finish(entry.writing, "cancelled")
        for number in numbers:
            del self._entered[number]
            try:
                self._batch.cancel(number)
            except Exception as error:
                _log_failed_step(error, "a reply could not leave the running batch; the others are written anew")
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Write all replies from their beginning, in an empty batch: the old one may be changed by half.

        Their tokens are the same again, so that readers see nothing of it.
        """
        self._batch.clear()
        entries, self._entered = self._entered, {}
        for entry in entries.values():
            self._enter(entry)

    def _finish(self, writing: ReplyStream, ended: Ended, error: EmogenError | None = None) -> None:
        writing.end(ended, error)
        with self._lock:
            self._unfinished.discard(writing)


def _log_failed_step(error: BaseException, what: str) -> EmogenError:
    """Log what failed, and where; give the error for readers. Neither has the error's own words, which may be a user's."""
    log_failure(_LOG, what, error)
    failure = EmogenError("the reply could not be written, since the model failed; ask again")
    failure.__cause__ = error
    return failure
