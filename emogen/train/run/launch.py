"""What every training command does around its loop: device, folder, what train.json keeps, and the run itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from emogen.data.batches import Batch, TokenArrays, ahead, batches
from emogen.errors import CheckpointError, SettingsError
from emogen.models.device import choose_device
from emogen.train.config import GeneratorRun, RunConfig
from emogen.train.run.folder import hold_folder, own_folder, read_train_file, remove_unused
from emogen.train.run.memory import keep_freed_memory
from emogen.train.run.processes import broadcast_from_main, is_main_process, part, process_group, world
from emogen.train.run.state import TrainState, check_precision
from emogen.train.run.training_run import explain_end


@contextmanager
def open_run(command: str, settings: RunConfig, resuming: bool) -> Iterator[tuple[Path, torch.device]]:
    """Return the run's folder and device; a folder that is new and in which nothing came to stand goes away again.

    Of several processes the first makes the folder and holds it.
    """
    keep_freed_memory()
    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with process_group(device):
        if world() > 1 and not isinstance(settings, GeneratorRun):
            raise SettingsError(f"emogen {command} runs in one process, not {world()}; start it without torchrun")
        folder, is_new = broadcast_from_main(lambda: own_folder(command, settings, resuming))
        torch.manual_seed(settings.seed)
        try:
            with hold_folder(folder) if is_main_process() else nullcontext(), explain_end(settings, folder):
                yield folder, device
        finally:
            if is_new and is_main_process():
                remove_unused(folder)


def random_stream(settings: RunConfig) -> torch.Generator:
    """Return the random numbers of a run's own loop."""
    return torch.Generator().manual_seed(settings.seed)


def training_batches(arrays: TokenArrays, settings: RunConfig, state: TrainState, by_context: bool = False) -> Iterator[Batch]:
    """Return this process's part of the batches that come after `state.step`; for CUDA pinned and prepared one ahead.

    Args:
        arrays: the training rows.
        settings: rows a batch and process, the order's seed, and the device.
        state: of the run.
        by_context: as for `batches`.
    """
    rows = batches(arrays, settings.batch_size, settings.seed, state.step, by_context, part())
    if choose_device(settings.device).type != "cuda":
        return rows
    own = torch.cuda.current_device()
    return ahead(rows, Batch.pin_batch, lambda: torch.cuda.set_device(own))


def refuse_other_data(sources: Mapping[str, str], folder: Path, resuming: bool) -> None:
    """Raise CheckpointError where a run is resumed on other files than it began with."""
    before = read_train_file(folder).get("sources", {}) if resuming else {}
    if before and sorted(before.values()) != sorted(sources.values()):
        now = ", ".join(sources)
        raise CheckpointError(f"{folder}: the run began with {', '.join(before)}; {now} holds other rows; pass the same files")
