"""One model that writes for many at once: a thread of its own keeps one running batch filled."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from emogen.checkpoint import Checkpoint
from emogen.decoding.running import Asked, RunningBatch
from emogen.decoding.sampling import Sampling
from emogen.dialogue.writing import Writing
from emogen.emotions import Emotion
from emogen.errors import BusyError, EmogenError, SettingsError

_LOG = logging.getLogger(__name__)


class Engine:
    """Writes replies for any number of sessions, threads and event loops, each as it would be alone.

    All replies that are asked for at one time are written in one batch, which rows join and leave at every token. Each is what
    `Checkpoint.reply` gives for its context, emotion, options and seed, whatever else is written beside it: token for token,
    where the model computes in float32.

    Close it, or use it as a context manager, where the program goes on without it.
    """

    def __init__(self, model: Checkpoint, most_rows: int = 64, most_waiting: int = 256) -> None:
        """Starts its thread.

        Args:
            model: that writes; nobody else may train it meanwhile.
            most_rows: replies that are written at once.
            most_waiting: replies that may wait until there is room; more are refused.

        Raises:
            SettingsError: no rows, or a negative number that may wait.
        """
        if most_waiting < 0:
            raise SettingsError(f"most waiting {most_waiting}: allowed is 0 or more")
        self.model = model
        self._batch = RunningBatch(model.writer(), most_rows)
        self._most = most_rows + most_waiting
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._writings: dict[int, Writing] = {}
        self._counting = threading.Lock()
        self._unfinished, self._is_open = 0, True
        self._thread = threading.Thread(target=self._work, name="emogen-engine", daemon=True)
        self._thread.start()

    @property
    def unfinished(self) -> int:
        """How many replies are being written or wait."""
        return self._unfinished

    def write(
        self,
        context: str | Sequence[str],
        emotion: str | Emotion | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Writing:
        """Asks for a reply; does not wait for it.

        Args:
            context: the utterance to reply to, or several, oldest first.
            emotion: `joy`, `joy=0.7,surprise=0.3`, an Emotion, or None for no emotion.
            sampling: decoding options, in place of the model's own; its n and seed give way.
            seed: the same seed gives the same reply on a CPU.

        Raises:
            BusyError: as many replies wait as may, or the engine is closed.
            SettingsError: an emotion that the model does not know, an impossible option, or a controller that it cannot serve
                or that chooses among whole texts.
        """
        asked = self.prepare(context, emotion, sampling, seed)
        writing = Writing(lambda: self._orders.put(partial(self._leave, asked.number)))
        with self._counting:
            if not self._is_open:
                raise BusyError("the engine is closed; open another")
            if self._unfinished >= self._most:
                raise BusyError(f"{self._unfinished} replies are being written or wait, which is all that may; ask again later")
            self._unfinished += 1
            self._orders.put(partial(self._enter, asked, writing))
        return writing

    def prepare(
        self,
        context: str | Sequence[str] = (),
        emotion: str | Emotion | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Asked:
        """What `write` asks for, checked and not asked for; arguments and SettingsError as there."""
        asked = self.model.emotion(emotion)
        options = replace(sampling or self.model.sampling_for(asked.strength > 0, streamed=True), n=1, seed=seed)
        (prompt,) = self.model.prompts([context], [asked], options.control)
        return self._batch.prepare(prompt, options)

    def close(self) -> None:
        """Ends its thread; what is not written by then fails."""
        with self._counting:
            self._is_open = False
        self._orders.put(lambda: self._fail(BusyError("the engine was closed before the reply was written")))
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _work(self) -> None:
        while self._is_open or self._unfinished:
            self._follow_orders()
            try:
                self._step()
            except Exception as error:
                _LOG.exception("the running batch failed; it begins anew")
                self._fail(EmogenError(f"the reply could not be written ({type(error).__name__}: {error}); ask again"))

    def _follow_orders(self) -> None:
        """Those that were given since the last step; waits for one where there is nothing to write."""
        if self._batch.is_idle:
            self._orders.get()()
        while not self._orders.empty():
            self._orders.get()()

    def _step(self) -> None:
        for piece in self._batch.step():
            writing = self._writings[piece.number]
            writing.add(piece.text, piece.tokens)
            if piece.ended:
                writing.end(piece.ended)
                self._forget(piece.number)

    def _enter(self, asked: Asked, writing: Writing) -> None:
        self._writings[asked.number] = writing
        self._batch.enter(asked)

    def _leave(self, number: int) -> None:
        self._batch.cancel(number)
        self._forget(number)

    def _fail(self, error: EmogenError) -> None:
        self._batch.clear()
        for number, writing in list(self._writings.items()):
            writing.end("failed", error)
            self._forget(number)

    def _forget(self, number: int) -> None:
        if self._writings.pop(number, None):
            with self._counting:
                self._unfinished -= 1
