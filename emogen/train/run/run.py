"""The input and output around a training loop: progress, log, checks on held-out rows, saved states, signals, time budget."""

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

import torch
from tqdm import tqdm

from emogen.emotions.names import is_visible
from emogen.errors import CheckpointError, EmogenError, Interrupted, TrainingError
from emogen.files import read_bytes, replace_file, write_text
from emogen.train.config import RunConfig
from emogen.train.run.processes import broadcast_from_main, is_main_process, largest
from emogen.train.run.state import Step, TrainState

STATE_FILE = "train_state.pt"
LOG_FILE = "log.jsonl"
_LOG_EVERY = 10
_SHOWN = 60
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
class _Meanwhile:
    """A loop's figures since the last line of the log; a step need not have all of them, and what is no number is left out."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            if math.isfinite(value):
                self.values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        means = {name: round(sum(values) / len(values), 5) for name, values in self.values.items()}
        self.values = {}
        return means


def run(loop: Iterator[Step], state: TrainState, config: RunConfig, folder: str | Path, watch: RunHooks) -> None:
    """Drives `loop` until its steps, its minutes or its patience are used up; state and model are saved at the end.

    Of several processes the first looks, logs and saves, and all leave the loop after the same step.

    Raises:
        Interrupted: by SIGINT or SIGTERM, after saving.
        TrainingError: the loss is not finite or memory is short; what was saved before stays.
    """
    folder = Path(folder)
    state.progress = _share_done(state, config)
    with explain_end(config, folder, state):
        broadcast_from_main(lambda: None if (folder / STATE_FILE).exists() else _save(state, folder))
        _advance(loop, state, config, folder, watch)
        _look(state, folder, watch, None)
        broadcast_from_main(lambda: _save_again(state, folder))


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


def refuse_overwriting(folder: Path, resuming: bool) -> None:
    """Raise CheckpointError where training would overwrite what another run left in `folder`."""
    if not resuming and ((folder / STATE_FILE).exists() or any(folder.glob(f"*/{STATE_FILE}"))):
        raise CheckpointError(f"{folder}: holds another run; pass --resume to go on with it, or another --out")
    if not resuming:
        for name in ("config.json", "model.safetensors", LOG_FILE):
            if (folder / name).exists():
                raise CheckpointError(f"{folder}: holds a {name} already; choose another --out")


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


def _advance(loop: Iterator[Step], state: TrainState, config: RunConfig, folder: Path, watch: RunHooks) -> None:
    meanwhile = _Meanwhile()
    began = time.monotonic() - state.figures.get("elapsed", 0.0)
    with _stop_requests() as target, _progress(state, config) as bar:
        while not _done(state, config):
            step = next(loop)
            meanwhile.add(step.figures)
            clock, signalled = largest([(time.monotonic() - began) if is_main_process() else 0.0, target[0] if target else 0])
            state.figures["elapsed"], stop = clock, int(signalled)
            state.progress = _share_done(state, config)
            if step.words and is_main_process():
                _log(folder, state, {"words": step.words})
            if state.step % _LOG_EVERY == 0 and is_main_process():
                figures = meanwhile.take()
                _log(folder, state, figures)
                shown = {name: f"{value:.3g}" for name, value in figures.items()}
                if config.minutes:
                    left = max(0.0, 60 * config.minutes - state.figures["elapsed"])
                    shown["left"] = f"{int(left // 60)}:{int(left % 60):02d}"
                bar.set_postfix(shown, refresh=False)
                bar.update(state.step - bar.n)
            if state.step % config.validate_every == 0:
                _look(state, folder, watch, bar)
            if state.step % config.save_every == 0 or stop:
                broadcast_from_main(lambda: _save_again(state, folder))
            if stop:
                raise Interrupted(f"stopped at step {state.step}, state saved; go on with --resume --out {folder}", stop)
        bar.update(state.step - bar.n)


def _at(state: TrainState | None) -> str:
    return f"step {state.step + 1}: " if state else ""


def _with_kept(message: str, folder: Path) -> str:
    path = folder / STATE_FILE
    return f"{message}{_KEPT} {path}" if path.exists() and _KEPT not in message else message


def _share_done(state: TrainState, config: RunConfig) -> float:
    return max(state.step / config.steps, _time_share(state, config))


def _done(state: TrainState, config: RunConfig) -> bool:
    stale = config.patience > 0 and state.figures.get("stale", 0) >= config.patience
    return state.step >= config.steps or _time_share(state, config) >= 1.0 or stale


def _time_share(state: TrainState, config: RunConfig) -> float:
    return state.figures.get("elapsed", 0.0) / (60 * config.minutes) if config.minutes else 0.0


def _look(state: TrainState, folder: Path, watch: RunHooks, bar: tqdm[None] | None) -> None:
    """Compute held-out figures and a sample, and save the model if it is the best so far (or if the newest is kept)."""
    if state.figures.get("looked") != state.step:
        state.figures.update(broadcast_from_main(lambda: _evaluate(state, folder, watch, bar)))


def _evaluate(state: TrainState, folder: Path, watch: RunHooks, bar: tqdm[None] | None) -> dict[str, float]:
    """Look and give the figures of the state that change by it."""
    _refuse_broken_weights(state)
    figures = watch.validate()
    text = watch.preview()
    _log(folder, state, {"held_out": figures, "sample": text})
    if bar is not None:
        bar.set_description_str(_on_one_line(text[:_SHOWN]), refresh=False)
    better = _is_better(state, figures, watch.select)
    state.figures["stale"] = 0 if better else state.figures.get("stale", 0) + 1
    state.figures["looked"] = state.step
    if better:
        state.figures["best_step"] = state.step
        watch.save()
    return state.figures


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


def _save_again(state: TrainState, folder: Path) -> None:
    _refuse_vanished(folder)
    _save(state, folder)


def _refuse_vanished(folder: Path) -> None:
    """Raise EmogenError where a run's first state is gone, since with it went the tokenizer and all else in the folder."""
    if not (folder / STATE_FILE).exists():
        raise EmogenError(f"{folder}: was removed while the run went on, and with it what was saved; start again")


def _save(state: TrainState, folder: Path) -> None:
    _refuse_broken_weights(state)
    with replace_file(folder / STATE_FILE) as beside:
        beside.write_bytes(state.dump())


def _refuse_broken_weights(state: TrainState) -> None:
    for name, module in state.modules.items():
        if not all(bool(weights.isfinite().all()) for weights in module.parameters()):
            raise TrainingError(f"step {state.step}: weights of the {name} are not finite; lower the learning rate")


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _log(folder: Path, state: TrainState, figures: Mapping[str, object]) -> None:
    line = json.dumps({"step": state.step, "seconds": round(state.figures["elapsed"], 1), **figures}, ensure_ascii=False)
    _refuse_vanished(folder)
    try:
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
