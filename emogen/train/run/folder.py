"""The folder of a run: which one it is, who may write there, and what its train.json says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emogen.checkpoint.finding import CHECKPOINTS
from emogen.data.columns import Columns
from emogen.data.exchange import Reading
from emogen.emotions.labels import LabelSet
from emogen.errors import CheckpointError, EmogenError
from emogen.files import read_json, write_text
from emogen.train.config import RunConfig

try:
    import fcntl
except ImportError:
    # Windows has none.
    fcntl = None  # type: ignore[assignment]

STATE_FILE = "train_state.pt"
LOG_FILE = "log.jsonl"
TRAIN_FILE = "train.json"
LOCK_FILE = ".lock"


def resumable_folder(out: str | None, command: str) -> Path:
    """Return the folder to resume: `out`, else the one under checkpoints/ where a run of `command` began or ended last.

    Raises:
        CheckpointError: there is none, or it holds a run of another command.
    """
    if not out:
        runs = [path for path in CHECKPOINTS.glob(f"*/{TRAIN_FILE}") if is_resumable(path.parent)]
        runs = [path for path in runs if read_train_file(path.parent).get("command", command) == command]
        if not runs:
            raise CheckpointError(f"{CHECKPOINTS}: no run of {command} to resume there; name its folder with --out")
        return max(runs, key=lambda path: path.stat().st_mtime).parent
    folder = Path(out)
    open_run = read_train_file(folder).get("command", command)
    if open_run != command:
        raise CheckpointError(f"{folder}: holds a run of {open_run}; go on with: emogen {open_run} --resume --out {folder}")
    if not is_resumable(folder):
        raise CheckpointError(f"{folder}: no run to resume there; leave out --resume to start one")
    return folder


def read_train_file(folder: Path) -> dict[str, Any]:
    """Return what train.json says about a checkpoint: settings, hashes of its data, steps and figures.

    Empty where it is missing.

    Raises:
        CheckpointError: it is there and cannot be read.
    """
    path = folder / TRAIN_FILE
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); put back a whole one, or start again elsewhere") from None
    if not isinstance(content, dict) or not isinstance(content.get("settings", {}), dict):
        raise CheckpointError(f"{path}: holds no table of facts; put back a whole one, or start again elsewhere")
    return content


def saved_data(folder: Path) -> tuple[tuple[str, ...], Reading]:
    """Return the files of the run in `folder` and how it read them; no files where its train.json does not say."""
    content = read_train_file(folder)
    try:
        fields = dict(content.get("reading", {}))
        columns = Columns(**fields.pop("columns", {}))
        labels = LabelSet(tuple(fields.pop("labels")["names"])) if fields.get("labels") else None
        renames = tuple((str(name), str(label)) for name, label in fields.pop("renames", ()))
        return tuple(content.get("files", ())), Reading(**{**fields, "columns": columns, "labels": labels, "renames": renames})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / TRAIN_FILE}: no readable account of the data ({error!r})") from None


def own_folder(command: str, settings: RunConfig, resuming: bool) -> tuple[Path, bool]:
    """Return the run's folder, made where it is not there yet, and whether it was made."""
    try:
        if resuming:
            return resumable_folder(settings.out, command), False
        if not settings.out:
            return _new_folder(command.removeprefix("train-")), True
        folder = Path(settings.out)
        refuse_overwriting(folder, resuming)
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        return folder, is_new
    except OSError as error:
        raise EmogenError(f"{error.filename}: cannot be made a folder ({error.strerror}); choose another --out") from None


def _new_folder(kind: str) -> Path:
    """Return the first free checkpoints/KIND-NUMBER, made at once so that a run that starts beside this one takes the next."""
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        with suppress(FileExistsError):
            folder = CHECKPOINTS / f"{kind}-{number}"
            folder.mkdir()
            return folder
        number += 1


def remove_unused(folder: Path) -> None:
    """Remove the folder of a run that failed before anything came to stand in it."""
    with suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {TRAIN_FILE}:
            (folder / TRAIN_FILE).unlink(missing_ok=True)
            folder.rmdir()


def is_resumable(folder: Path) -> bool:
    """Tell whether a state is saved there, or a run was begun there and no model stands there yet."""
    if (folder / STATE_FILE).exists():
        return True
    return (folder / TRAIN_FILE).exists() and not (folder / "config.json").exists()


def run_manifest(command: str, files: Sequence[str], reading: Reading, settings: RunConfig) -> dict[str, Any]:
    """Return what was asked for, as train.json keeps it."""
    return {"command": command, "files": list(files), "reading": asdict(reading), "settings": asdict(settings)}


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder until this one ends, however it ends; without effect where there is no `flock`.

    Raises:
        CheckpointError: another run is going on there.
    """
    path = folder / LOCK_FILE
    with path.open("w") as handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CheckpointError(
                    f"{folder}: another run is going on there; wait for it, or choose another --out"
                ) from None
        try:
            yield
        finally:
            # A folder that nobody may write any more has already ended the run, with words of its own.
            with suppress(OSError):
                path.unlink()


def write_train_file(folder: Path, content: Mapping[str, Any]) -> None:
    """Write train.json, whole or not at all."""
    write_text(folder / TRAIN_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_model_card(folder: Path, content: Mapping[str, Any], labels: LabelSet) -> None:
    """Write README.md from what train.json holds: what the model is, its data by hash, and how to use it.

    A card that stands there is left alone: its reader may have added to it.
    """
    if (folder / "README.md").exists():
        return
    every = content["sources"] | content.get("start_sources", {})
    sources = "".join(f"- `{name}` (SHA-256 `{digest}`)\n" for name, digest in every.items())
    rows = ", ".join(f"{count} {split}" for split, count in content["rows"].items())
    settings = "".join(f"{name} = {value}\n" for name, value in content["settings"].items() if name not in ("out", "init"))
    write_text(
        folder / "README.md",
        f"# {folder.name}\n\nTrained by `emogen {content['command']}` {content['emogen']} for {content['steps']} steps.\n\n"
        f"## Data\n\n{sources}\nRows: {rows}. The weights carry the licence of these data: say here which one that is.\n\n"
        f"## Settings\n\n```\n{settings}```\n\n"
        f"## Use\n\n`{_use(content['command'], folder, labels)}`\n\n"
        "Figures on held-out rows, and samples that nobody picked, are in `log.jsonl`.\n",
    )


def _use(command: str, folder: Path, labels: LabelSet) -> str:
    if command == "train-classifier":
        return f"emogen recognize TEXT --checkpoint {folder}"
    return f"emogen sample --checkpoint {folder} --emotion {labels.names[0]} -n 5"


def refuse_overwriting(folder: Path, resuming: bool) -> None:
    """Raise CheckpointError where training would overwrite what another run left in `folder`."""
    if not resuming and ((folder / STATE_FILE).exists() or any(folder.glob(f"*/{STATE_FILE}"))):
        raise CheckpointError(f"{folder}: holds another run; pass --resume to go on with it, or another --out")
    if not resuming:
        for name in ("config.json", "model.safetensors", LOG_FILE):
            if (folder / name).exists():
                raise CheckpointError(f"{folder}: holds a {name} already; choose another --out")
