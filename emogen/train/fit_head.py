"""An emotion head for a generator that stands: what `emogen train-head` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from emogen.checkpoint.folder import save_head
from emogen.checkpoint.model import load
from emogen.data.batches import batches
from emogen.data.exchange import Reading
from emogen.data.fingerprints import read_fingerprints, write_fingerprints
from emogen.errors import TrainingError
from emogen.models.device import choose_device
from emogen.models.head import head_of
from emogen.train.config import HeadSettings
from emogen.train.corpus import held_out_batches
from emogen.train.fit import prepared_for
from emogen.train.loops.head import held_out_head_nll, train_head
from emogen.train.run.memory import keep_freed_memory
from emogen.train.run.state import TrainState, adamw, check_precision


def fit_head(files: Sequence[str], reading: Reading, settings: HeadSettings) -> tuple[Path, dict[str, float]]:
    """Train an emotion head and put it into the checkpoint's folder, in place of one that stands there.

    The rows that it has learnt join the checkpoint's own, so that a judge which knows them is found out.

    Args:
        files: paths or names of corpora.
        reading: columns and labels.
        settings: all of `emogen train-head`.

    Returns:
        The folder, and the held-out figures.

    Raises:
        EmogenError: unreadable data, no checkpoint, a loss that is not finite, a head that is no better than chance.
    """
    keep_freed_memory()
    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    start = load(settings.checkpoint, device)
    seen = read_fingerprints(start.folder)
    data = prepared_for(start, files, reading, settings.seed)
    generator = start.generator.requires_grad_(False)
    # Only here: a head that stands there already takes random numbers while it is loaded.
    torch.manual_seed(settings.seed)
    head = head_of(generator, settings.rank).to(generator.bias.device)
    state = TrainState({"head": head}, {"head": adamw(head)}, torch.Generator().manual_seed(settings.seed))
    rows = batches(data.arrays["train"], settings.batch_size, settings.seed)
    for step in train_head(generator, head, rows, settings, state):
        state.progress = step.number / settings.steps
        if step.number == settings.steps:
            break
    figures = held_out_head_nll(generator, head, held_out_batches(data.arrays))
    if figures["nll"] >= figures["chance"] and settings.allow_worse == "no":
        raise TrainingError(
            f"the head is no better than chance ({figures['nll']:.3f} nats a token, chance {figures['chance']:.3f}), and is "
            f"not put into {start.folder}; give it more rows or --steps, or another --learning-rate, or pass --allow-worse yes"
        )
    # The rows first: a head whose rows are unknown would pass any leak check.
    write_fingerprints(start.folder, np.union1d(seen, data.arrays["train"].fingerprints))
    save_head(start.folder, head)
    return start.folder, figures
