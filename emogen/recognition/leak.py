"""Whether a judge has seen what a guide was trained on, or is built like it: then its verdict proves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emogen.checkpoint.folder import architecture_of, read_description
from emogen.data.fingerprints import read_fingerprints
from emogen.errors import CheckpointError


@dataclass(frozen=True)
class Leak:
    """What a judge and a guide share.

    Attributes:
        judge: the judge's checkpoint.
        guide: the checkpoint that wrote or steered the texts.
        shared: training rows of both.
        judge_rows: different training rows of the judge.
        guide_rows: different training rows of the guide.
        architecture: of both, if it is the same; else empty.
    """

    judge: Path
    guide: Path
    shared: int
    judge_rows: int
    guide_rows: int
    architecture: str

    def __bool__(self) -> bool:
        return bool(self.shared or self.architecture)

    def __str__(self) -> str:
        rows = f"{self.shared} of its {self.judge_rows} training rows are among the {self.guide_rows} of {self.guide}"
        alike = f"both are of architecture {self.architecture!r}"
        return " and ".join([rows] * bool(self.shared) + [alike] * bool(self.architecture))


def find_leak(judge: str | Path, guide: str | Path) -> Leak:
    """Compare the fingerprints of the training rows and the architectures of two checkpoints.

    Raises:
        CheckpointError: one of them has no readable description or fingerprints.
    """
    judge, guide = Path(judge), Path(guide)
    theirs, ours = read_fingerprints(judge), read_fingerprints(guide)
    one, other = (architecture_of(read_description(folder), folder) for folder in (judge, guide))
    shared = len(np.intersect1d(theirs, ours))
    return Leak(judge, guide, shared, len(theirs), len(ours), one if one == other else "")


def refuse_leaks(judge: str | Path, guides: str | Path | Sequence[str | Path], allowed: bool = False) -> str:
    """Return what the signature of a judged score says about leaks.

    `none`, `unchecked` (no guide is named), or which are allowed.

    Args:
        judge: the judge's checkpoint.
        guides: the checkpoints that wrote or steered the texts; one, or a list.
        allowed: whether a leak is only noted.

    Raises:
        CheckpointError: the judge shares rows or architecture with a guide, or nobody can know, unless that is `allowed`; or a
            guide is no folder.
    """
    judge = Path(judge)
    folders = [Path(guide) for guide in ([guides] if isinstance(guides, str | Path) else guides)]
    if not folders:
        return "unchecked"
    for guide in folders:
        if not guide.is_dir():
            raise CheckpointError(f"{guide}: no such folder; --guide names the checkpoint that wrote or steered the texts")
    notes = [note for guide in folders if (note := _note(judge, guide, allowed))]
    return f"allowed({','.join(notes)})" if notes else "none"


def _note(judge: Path, guide: Path, allowed: bool) -> str:
    """Return what an allowed leak is called in a signature; empty where there is none."""
    try:
        leak = find_leak(judge, guide)
    except CheckpointError:
        if not allowed:
            raise
        return f"{guide.name}:unknown"
    if leak and not allowed:
        way_out = "take another judge, or pass --allow-leak, which the score's signature will show"
        raise CheckpointError(f"{judge}: is no judge of {guide}: {leak}; {way_out}")
    return f"{guide.name}:{leak.shared}rows{'+architecture' * bool(leak.architecture)}" if leak else ""
