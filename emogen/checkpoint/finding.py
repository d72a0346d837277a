"""Where models are found: by name, the latest one, or those that ship."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from emogen.errors import CheckpointError
from emogen.files import read_text, write_text
from emogen.models.pretrained_backbone import AdapterConfig
from emogen.pretrained.bases import Base, find_base

if TYPE_CHECKING:
    pass
from emogen.checkpoint.folder import generator_config, read_description

CHECKPOINTS = Path("checkpoints")


LATEST = "latest"


ADAPTER = "smollm2-emotion"


def _matching_base(adapter: AdapterConfig, folder: Path) -> Base:
    """Return the base of the revision that an adapter was trained on.

    Raise CheckpointError where it is not at hand, or another.
    """
    base = find_base(adapter.base)
    if base.revision != adapter.revision:
        raise CheckpointError(
            f"{folder}: was trained on revision {adapter.revision[:12]} of {adapter.base}, but {base.folder} holds "
            f"{base.revision[:12]}; put back the base that it was trained on"
        )
    return base


def find_checkpoint(path: str | Path | None = None) -> Path:
    """Return the folder that `load` reads.

    Raises:
        CheckpointError: nothing there.
    """
    if path is not None and not str(path):
        raise CheckpointError("--checkpoint is empty; name a folder, or leave it out")
    named = path or os.environ.get("EMOGEN_CHECKPOINT")
    chosen = Path(named) if named else _latest() or best_shipped()
    folder = _read_pointer(chosen) if chosen.name == LATEST and chosen.is_file() else chosen
    if (folder / "config.json").is_file():
        return folder
    problem = f"{folder}: no checkpoint there (no config.json)"
    if not path and named:
        raise CheckpointError(f"{problem}; EMOGEN_CHECKPOINT names it, set that to another folder or to nothing")
    if folder != chosen:
        raise CheckpointError(f"{problem}; {chosen} names it, remove that file or name a folder with --checkpoint")
    raise CheckpointError(f"{problem}; train one, or name another folder")


def shipped_folder(name: str) -> Path:
    """Return the folder of a model that ships: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / "checkpoints" / name
    return inside if inside.is_dir() else package.parent / "checkpoints" / name


def best_shipped() -> Path:
    """Return the folder of the adapter that ships, where its base is at hand; else of the small model."""
    adapter = shipped_folder(ADAPTER)
    return adapter if (adapter / "config.json").is_file() and _has_base(adapter) else shipped_folder("default")


def better_than(folder: Path) -> str:
    """Return the command that makes a better model than the one in `folder` usable.

    Empty where there is none, or none is needed.
    """
    adapter = shipped_folder(ADAPTER)
    if folder != shipped_folder("default") or not (adapter / "config.json").is_file() or _has_base(adapter):
        return ""
    found = generator_config(read_description(adapter)).adapter
    return f"emogen pull {found.base}" if found else ""


def notice_of(folder: Path) -> str:
    """Say which model writes where nobody named one, and what to do where another may be meant."""
    better = better_than(folder)
    if better:
        return f"writing with {folder.name}; for better texts: {better}"
    if folder.resolve() in (shipped_folder(ADAPTER).resolve(), shipped_folder("default").resolve()):
        return f"writing with {folder.name}"
    named = "EMOGEN_CHECKPOINT" if os.environ.get("EMOGEN_CHECKPOINT") else str(CHECKPOINTS / LATEST)
    return f"writing with {folder}, which {named} names, not with the model that ships; name another with --checkpoint"


def _has_base(folder: Path) -> bool:
    found = generator_config(read_description(folder)).adapter
    try:
        return found is not None and bool(_matching_base(found, folder))
    except CheckpointError:
        return False


def mark_latest(folder: str | Path) -> None:
    """Make `folder` what checkpoints/latest points to, where it stands under checkpoints/."""
    folder = Path(folder)
    if folder.resolve().parent == CHECKPOINTS.resolve():
        write_text(CHECKPOINTS / LATEST, folder.name + "\n")


def _latest() -> Path | None:
    pointer = CHECKPOINTS / LATEST
    return pointer if pointer.is_file() else None


def _read_pointer(pointer: Path) -> Path:
    try:
        return pointer.parent / read_text(pointer).strip()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{pointer}: cannot be read ({error}); remove it or name a folder with --checkpoint") from None
