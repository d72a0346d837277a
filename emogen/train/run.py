"""The input and output around a training loop: progress, log, checks on held-out rows, saved states, signals, time budget."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from emogen.atomic import replacing, write_text
from emogen.errors import CheckpointError, EmogenError, Interrupted, TrainingError
from emogen.train.config import RunConfig
from emogen.train.state import Step, TrainState

STATE_FILE = "train_state.pt"
LOG_FILE = "log.jsonl"
_LOG_EVERY = 10
_SHOWN = 60


@dataclass(frozen=True)
class Watch:
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
class _Meanwhile:
    """Sums of a loop's figures since the last line of the log."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    def add(self, figures: dict[str, float]) -> None:
        self.steps += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        means = {name: round(value / self.steps, 5) for name, value in self.sums.items()}
        self.sums, self.steps = {}, 0
        return means


def run(loop: Iterator[Step], state: TrainState, config: RunConfig, folder: Path, watch: Watch) -> None:
    """Drives `loop` until its steps, its minutes or its patience are used up; state and model are saved at the end.

    Raises:
        Interrupted: by SIGINT or SIGTERM, after saving.
        TrainingError: the loss is not finite or memory is short; what was saved before stays.
    """
    meanwhile = _Meanwhile()
    began = time.monotonic() - state.figures.get("elapsed", 0.0)
    with _stop_requests() as stop, _progress(state, config) as bar:
        while not _done(state, config):
            step = _advance(loop, state, config, folder)
            state.figures["elapsed"] = time.monotonic() - began
            state.progress = max(state.step / config.steps, _time_share(state, config))
            meanwhile.add(step.figures)
            if state.step % _LOG_EVERY == 0:
                figures = meanwhile.take()
                _log(folder, state, figures)
                _show(bar, state, config, figures)
            if state.step % config.validate_every == 0:
                _look(state, config, folder, watch, bar)
            if state.step % config.save_every == 0 or stop:
                _save(state, folder)
            if stop:
                raise Interrupted(f"stopped at step {state.step}, state saved in {folder}; go on with --resume", stop[0])
    _look(state, config, folder, watch, None)
    _save(state, folder)


def resume(state: TrainState, folder: Path) -> None:
    """Takes over the state saved in `folder`, if there is one, and cuts the log back to it.

    Raises:
        CheckpointError: the state is cut short or of another model.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return
    state.restore(path.read_bytes(), str(path))
    log = folder / LOG_FILE
    if log.exists():
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(log, "".join(line for line in lines if _step_of(line) <= state.step))


def refuse_overwriting(folder: Path, resuming: bool) -> None:
    """Raises CheckpointError where training would overwrite what another run left in `folder`."""
    if not resuming and (folder / STATE_FILE).exists():
        raise CheckpointError(f"{folder}: holds another run; pass --resume to go on with it, or another --out")
    if not resuming and (folder / "config.json").exists():
        raise CheckpointError(f"{folder}: holds a model; choose another --out")


def _advance(loop: Iterator[Step], state: TrainState, config: RunConfig, folder: Path) -> Step:
    try:
        return next(loop)
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        lower = "; ".join(
            f"--{name.replace('_', '-')} (now {getattr(config, name)})"
            for name in ("batch_size", "chunk", "rollouts", "reply_tokens")
            if hasattr(config, name)
        )
        raise TrainingError(f"step {state.step + 1}: out of memory; lower {lower}") from None
    except TrainingError as error:
        kept = folder / STATE_FILE
        raise TrainingError(f"{error}; the last good state stands in {kept}" if kept.exists() else str(error)) from None


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _done(state: TrainState, config: RunConfig) -> bool:
    stale = config.patience > 0 and state.figures.get("stale", 0) >= config.patience
    return state.step >= config.steps or _time_share(state, config) >= 1.0 or stale


def _time_share(state: TrainState, config: RunConfig) -> float:
    return state.figures.get("elapsed", 0.0) / (60 * config.minutes) if config.minutes else 0.0


def _look(state: TrainState, config: RunConfig, folder: Path, watch: Watch, bar: tqdm[None] | None) -> None:
    """Held-out figures, a sample, and the model saved if it is the best so far (or if the newest is kept)."""
    if state.figures.get("looked") == state.step:
        return
    figures = watch.validate()
    text = watch.preview()
    _log(folder, state, {"held_out": figures, "sample": text})
    if bar is not None:
        bar.set_description_str(text[:_SHOWN], refresh=False)
    chosen = figures.get(watch.select, -math.inf)
    better = chosen < state.figures.get("best", math.inf) or not watch.select
    state.figures["stale"] = 0 if better else state.figures.get("stale", 0) + 1
    state.figures["looked"] = state.step
    if better:
        state.figures |= {"best": chosen, "best_step": state.step}
        watch.save()


def _save(state: TrainState, folder: Path) -> None:
    with replacing(folder / STATE_FILE) as beside:
        beside.write_bytes(state.dump())


def _log(folder: Path, state: TrainState, figures: dict[str, object] | dict[str, float]) -> None:
    line = json.dumps({"step": state.step, "seconds": round(state.figures["elapsed"], 1), **figures}, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG_FILE).open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
    except OSError as error:
        raise EmogenError(f"{folder / LOG_FILE}: cannot be written ({error.strerror}); the last state is untouched") from None


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize


def _progress(state: TrainState, config: RunConfig) -> tqdm[None]:
    terminal = sys.stderr.isatty()
    return tqdm(
        total=config.steps, initial=state.step, file=sys.stderr, unit="step", mininterval=0.5 if terminal else 30.0,
        dynamic_ncols=terminal, smoothing=0.05,
    )


def _show(bar: tqdm[None], state: TrainState, config: RunConfig, figures: dict[str, float]) -> None:
    shown = {name: f"{value:.3g}" for name, value in figures.items()}
    if config.minutes:
        left = max(0.0, 60 * config.minutes - state.figures["elapsed"])
        shown["left"] = f"{int(left // 60)}:{int(left % 60):02d}"
    bar.set_postfix(shown, refresh=False)
    bar.update(state.step - bar.n)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that the first SIGINT or SIGTERM is put into; a second SIGINT interrupts as usual."""
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
