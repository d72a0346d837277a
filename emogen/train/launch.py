"""What every training command does around its loop: device, folder, what train.json keeps, and the run itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from emogen.data.fingerprints import Fingerprints, write_fingerprints
from emogen.emotions import LabelSet
from emogen.errors import CheckpointError
from emogen.models.device import choose_device
from emogen.train.config import RunConfig
from emogen.train.folder import held, own_folder, read_train_file, remove_unused, write_model_card, write_train_file
from emogen.train.memory import keep_freed_memory
from emogen.train.run import Watch, explaining, resume, run
from emogen.train.state import Step, TrainState
from emogen.version import __version__


@contextmanager
def begun(command: str, settings: RunConfig, resuming: bool) -> Iterator[tuple[Path, torch.device]]:
    """The run's folder and device; a folder that is new and in which nothing came to stand goes away again."""
    keep_freed_memory()
    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    folder, is_new = own_folder(command, settings, resuming)
    torch.manual_seed(settings.seed)
    try:
        with held(folder), explaining(settings, folder):
            yield folder, device
    finally:
        if is_new:
            remove_unused(folder)


def random_stream(settings: RunConfig) -> torch.Generator:
    """The random numbers of a run's own loop."""
    return torch.Generator().manual_seed(settings.seed)


def refuse_other_data(sources: Mapping[str, str], folder: Path, resuming: bool) -> None:
    """Raises CheckpointError where a run is resumed on other files than it began with."""
    before = read_train_file(folder).get("sources", {}) if resuming else {}
    if before and sorted(before.values()) != sorted(sources.values()):
        now = ", ".join(sources)
        raise CheckpointError(f"{folder}: the run began with {', '.join(before)}; {now} holds other rows; pass the same files")


def drive(
    folder: Path,
    settings: RunConfig,
    state: TrainState,
    loop: Callable[[], Iterator[Step]],
    watch: Watch,
    facts: Mapping[str, Any],
    rows: Fingerprints,
    finish: Callable[[], LabelSet],
) -> Path:
    """Resumes what stands in the folder, runs the loop to its end, and leaves a whole checkpoint.

    Args:
        folder: of the run.
        settings: steps, minutes, looks.
        state: filled from the folder where a state stands there.
        loop: opened once `state` is what it was.
        watch: held-out figures, preview, and how the model is saved.
        facts: what train.json says, besides versions, steps and figures.
        rows: fingerprints of all training rows.
        finish: what is left to do with the model that was kept; gives its labels.
    """
    resume(state, folder)
    write_fingerprints(folder, rows)
    facts = {"emogen": __version__, "torch": torch.__version__, **facts}
    write_train_file(folder, facts | {"finished": False, "steps": state.step, "figures": state.figures})
    run(loop(), state, settings, folder, watch)
    labels = finish()
    facts |= {"finished": True, "steps": state.step, "figures": state.figures}
    write_model_card(folder, facts, labels)
    write_train_file(folder, facts)
    return folder
