"""A training run: a loop, and around it progress, log, looks at held-out rows, saved states, signals and a budget of time."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from emogen.data.fingerprints import Fingerprints, write_fingerprints
from emogen.emotions.labels import LabelSet
from emogen.emotions.names import is_visible
from emogen.errors import CheckpointError, EmogenError, Interrupted, TrainingError
from emogen.files import read_bytes, replace_file, write_text
from emogen.train.config import RunConfig
from emogen.train.run.folder import LOG_FILE, STATE_FILE, write_model_card, write_train_file
from emogen.train.run.processes import broadcast_from_main, is_main_process, largest, rank, world
from emogen.train.run.state import Step, TrainState
from emogen.version import __version__

_LOG_EVERY = 10
_SHOWN = 60
_LOGGED_ALONE = {"tokens", "learning_rate", "gradient_norm"}
_KEPT = "; the last good state stands in"
_MEMORY_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
_IN_A_STEP = ("batch_size", "samples", "max_tokens", "chunk", "reply_tokens")
_IN_A_MODEL = ("batch_size", "width", "layers", "vocabulary", "discriminator_width")


@dataclass(frozen=True)
class RunHooks:
    """What a run looks at and keeps.

    Attributes:
        validate: figures on held-out rows; must not touch PyTorch's own random numbers.
        preview: a sample of what the model writes now; likewise.
        save: writes the model as it is to the checkpoint.
        select: the held-out figure whose smallest value decides which model is kept; empty keeps the newest.
    """

    validate: Callable[[], dict[str, float]]
    preview: Callable[[], str]
    save: Callable[[], None]
    select: str = ""


@dataclass
class TrainingRun:
    """A training loop's run in its folder. Of several processes the first looks, logs and saves.

    Attributes:
        folder: of the run.
        settings: steps, minutes, how often it looks and saves.
        state: what the loop changes.
        hooks: what is looked at and kept.
    """

    folder: Path
    settings: RunConfig
    state: TrainState
    hooks: RunHooks
    _since_log: dict[str, list[float]] = field(default_factory=dict, init=False, repr=False)

    def fit(
        self,
        open_loop: Callable[[], Iterator[Step]],
        *,
        facts: Mapping[str, Any],
        rows: Fingerprints,
        finish: Callable[[], LabelSet],
    ) -> Path:
        """Resume what stands in the folder, train to the end, and leave a whole checkpoint there; return the folder.

        Args:
            open_loop: called once the state is what it was.
            facts: what train.json says, besides versions, steps and figures.
            rows: fingerprints of all training rows.
            finish: what is left to do with the model that was kept; gives its labels.
        """
        resume(self.state, self.folder)
        if not is_main_process():
            torch.manual_seed(int(np.random.SeedSequence([self.settings.seed, self.state.step, rank()]).generate_state(1)[0]))
        facts = {"emogen": __version__, "torch": torch.__version__, "processes": world(), **facts}

        def note(finished: bool) -> dict[str, Any]:
            return {**facts, "finished": finished, "steps": self.state.step, "figures": self.state.figures}

        def begin() -> None:
            write_fingerprints(self.folder, rows)
            write_train_file(self.folder, note(False))

        def end() -> None:
            labels = finish()
            write_model_card(self.folder, note(True), labels)
            write_train_file(self.folder, note(True))

        broadcast_from_main(begin)
        self.train(open_loop())
        broadcast_from_main(end)
        return self.folder

    def train(self, loop: Iterator[Step]) -> None:
        """Advance the loop until its steps, its minutes or its patience are used up; state and model are saved at the end.

        All processes leave the loop after the same step.

        Raises:
            Interrupted: by SIGINT or SIGTERM, after saving.
            TrainingError: the loss is not finite or memory is short; what was saved before stays.
        """
        state, settings = self.state, self.settings
        state.progress = self._share_done()
        began = time.monotonic() - state.figures.get("elapsed", 0.0)
        with explain_end(settings, self.folder, state):
            broadcast_from_main(lambda: None if (self.folder / STATE_FILE).exists() else self._save())
            with _stop_requests() as signals, _progress(state, settings) as bar:
                while not self._is_done():
                    step = next(loop)
                    clock = (time.monotonic() - began) if is_main_process() else 0.0
                    clock, signalled = largest([clock, signals[0] if signals else 0])
                    state.figures["elapsed"], stop = clock, int(signalled)
                    state.progress = self._share_done()
                    self._note(step, bar)
                    if state.step % settings.validate_every == 0:
                        self._look(bar)
                    if state.step % settings.save_every == 0 or stop:
                        broadcast_from_main(self._save_again)
                    if stop:
                        found = f"stopped at step {state.step}, state saved; go on with --resume --out {self.folder}"
                        raise Interrupted(found, stop)
                bar.update(state.step - bar.n)
            self._look(None)
            broadcast_from_main(self._save_again)

    def _share_done(self) -> float:
        return max(self.state.step / self.settings.steps, self._share_of_time())

    def _is_done(self) -> bool:
        patience = self.settings.patience
        stale = patience > 0 and self.state.figures.get("stale", 0) >= patience
        return self.state.step >= self.settings.steps or self._share_of_time() >= 1.0 or stale

    def _share_of_time(self) -> float:
        minutes = self.settings.minutes
        return self.state.figures.get("elapsed", 0.0) / (60 * minutes) if minutes else 0.0

    def _note(self, step: Step, bar: tqdm[None]) -> None:
        """Log what a step says at once, and every few steps the means of its figures; what is no number is left out."""
        for name, value in step.figures.items():
            if math.isfinite(value):
                self._since_log.setdefault(name, []).append(value)
        if not is_main_process():
            return
        if step.words:
            self._log({"words": step.words})
        if self.state.step % _LOG_EVERY:
            return
        figures = {name: round(sum(values) / len(values), 6) for name, values in self._since_log.items()}
        self._since_log.clear()
        self._log(figures)
        shown = {name: f"{value:.3g}" for name, value in figures.items() if name not in _LOGGED_ALONE}
        if self.settings.minutes:
            left = max(0.0, 60 * self.settings.minutes - self.state.figures["elapsed"])
            shown["left"] = f"{int(left // 60)}:{int(left % 60):02d}"
        bar.set_postfix(shown, refresh=False)
        bar.update(self.state.step - bar.n)

    def _look(self, bar: tqdm[None] | None) -> None:
        """Compute held-out figures and a sample, and save the model if it is the best so far (or if the newest is kept)."""
        if self.state.figures.get("looked") != self.state.step:
            self.state.figures.update(broadcast_from_main(lambda: self._evaluate(bar)))

    def _evaluate(self, bar: tqdm[None] | None) -> dict[str, float]:
        """Look and give the figures of the state that change by it."""
        state = self.state
        _refuse_broken_weights(state)
        figures = self.hooks.validate()
        text = self.hooks.preview()
        self._log({"held_out": figures, "sample": text})
        if bar is not None:
            bar.set_description_str(_on_one_line(text[:_SHOWN]), refresh=False)
        better = _is_better(state, figures, self.hooks.select)
        state.figures["stale"] = 0 if better else state.figures.get("stale", 0) + 1
        state.figures["looked"] = state.step
        if better:
            state.figures["best_step"] = state.step
            self.hooks.save()
        return state.figures

    def _save_again(self) -> None:
        _refuse_vanished(self.folder)
        self._save()

    def _save(self) -> None:
        _refuse_broken_weights(self.state)
        with replace_file(self.folder / STATE_FILE) as beside:
            beside.write_bytes(self.state.dump())

    def _log(self, figures: Mapping[str, object]) -> None:
        seconds = round(self.state.figures["elapsed"], 1)
        line = json.dumps({"step": self.state.step, "seconds": seconds, **figures}, ensure_ascii=False)
        path = self.folder / LOG_FILE
        _refuse_vanished(self.folder)
        try:
            with path.open("a", encoding="utf-8") as handle:
                handle.write(line + "\n")
        except OSError as error:
            raise EmogenError(f"{path}: cannot be written ({error.strerror}); the last state is untouched") from None


def resume(state: TrainState, folder: str | Path) -> None:
    """Take over the state saved in `folder`, if there is one, cuts the log back to it, and clears half-written files away.

    Raises:
        CheckpointError: the state is cut short or of another model.
    """
    folder = Path(folder)
    path = folder / STATE_FILE
    if path.exists():
        state.restore(_content(path), str(path))
    broadcast_from_main(lambda: _tidy(folder, state))


def _tidy(folder: Path, state: TrainState) -> None:
    for unfinished in folder.glob(".*.part"):
        unfinished.unlink(missing_ok=True)
    log = folder / LOG_FILE
    if log.exists():
        lines = _content(log).decode("utf-8", errors="replace").split("\n")
        write_text(log, "".join(f"{line}\n" for line in lines if _step_of(line) <= state.step))


@contextmanager
def explain_end(config: RunConfig, folder: Path, state: TrainState | None = None) -> Iterator[None]:
    """Make one line of what ends a run: what to lower where memory is short, and which state is kept.

    Args:
        config: names and values of what can be lowered are taken from it.
        folder: of the run.
        state: of a loop; None while models are built.

    Raises:
        TrainingError: in place of a lack of memory or an overflow, and with more words where there was one already.
    """
    try:
        yield
    except TrainingError as error:
        raise TrainingError(_with_kept(str(error), folder)) from None
    except OverflowError:
        raise TrainingError(_with_kept(f"{_at(state)}figures grow past all bounds; lower the learning rate", folder)) from None
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in _MEMORY_SIGNS)):
            raise
        names = _IN_A_STEP if state else _IN_A_MODEL
        lower = ", ".join(
            f"--{name.replace('_', '-')} (now {getattr(config, name)})" for name in names if hasattr(config, name)
        )
        raise TrainingError(_with_kept(f"{_at(state)}out of memory; lower {lower}", folder)) from None


def _at(state: TrainState | None) -> str:
    return f"step {state.step + 1}: " if state else ""


def _with_kept(message: str, folder: Path) -> str:
    path = folder / STATE_FILE
    return f"{message}{_KEPT} {path}" if path.exists() and _KEPT not in message else message


def _on_one_line(text: str) -> str:
    """Return the text without what moves a terminal's cursor: an untrained model writes any character."""
    return "".join(sign if is_visible(sign) else " " for sign in text)


def _is_better(state: TrainState, figures: dict[str, float], select: str) -> bool:
    """Tell whether the model is to be kept; notes the smallest selected figure."""
    if not select:
        return True
    if not math.isfinite(figures[select]):
        found = f"held-out {select} {figures[select]:g}"
        raise TrainingError(f"step {state.step}: {found} is not finite; lower the learning rate")
    better = figures[select] < state.figures.get("best", math.inf)
    state.figures["best"] = min(figures[select], state.figures.get("best", math.inf))
    return better


def _refuse_vanished(folder: Path) -> None:
    """Raise EmogenError where a run's first state is gone, since with it went the tokenizer and all else in the folder."""
    if not (folder / STATE_FILE).exists():
        raise EmogenError(f"{folder}: was removed while the run went on, and with it what was saved; start again")


def _refuse_broken_weights(state: TrainState) -> None:
    for name, module in state.modules.items():
        if not all(bool(weights.isfinite().all()) for weights in module.parameters()):
            raise TrainingError(f"step {state.step}: weights of the {name} are not finite; lower the learning rate")


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize


def _progress(state: TrainState, config: RunConfig) -> tqdm[None]:
    terminal = sys.stderr.isatty()
    return tqdm(
        total=config.steps,
        initial=state.step,
        file=sys.stderr,
        unit="step",
        mininterval=0.5 if terminal else 30.0,
        dynamic_ncols=terminal,
        smoothing=0.05,
        disable=not is_main_process(),
    )


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Return a list that the first SIGINT or SIGTERM is put into; a second SIGINT interrupts as usual."""
    target: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if target and number == signal.SIGINT:
            raise KeyboardInterrupt
        target.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield target
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield target
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
