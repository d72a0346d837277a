"""The one shape of every benchmark's result file."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from emogen.atomic import sha256, write_text
from emogen.evaluate.score import Score, toolkit_version

_VERSIONED = ("torch", "transformers", "sentencepiece", "sacrebleu", "nltk", "numpy")


def write_result(
    path: Path,
    command: str,
    data: Sequence[Path],
    rows: Sequence[Mapping[str, object]],
    extra: Mapping[str, object] | None = None,
) -> None:
    """Writes a benchmark's figures with all that is needed to judge and repeat them, whole or not at all.

    Args:
        path: evaluate/results/NAME.json; NAME is the benchmark's.
        command: what anyone can run to get the file.
        data: files that the figures depend on; their SHA-256 are written, folders count by their model's weights.
        rows: one for each system (and seed, temperature and so on). A Score becomes its value, with its interval beside it.
        extra: anything else, at the top level.
    """
    content = {
        "benchmark": path.stem,
        "command": command,
        "versions": _versions(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "data": {file.name if file.is_file() else f"{file.name}/model.safetensors": sha256(_weights(file)) for file in data},
        **(extra or {}),
        "rows": [_flat(row) for row in rows],
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _versions() -> dict[str, str]:
    found = {"emogen": toolkit_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _weights(path: Path) -> Path:
    return path / "model.safetensors" if path.is_dir() else path


def _flat(row: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, Score):
            flat[name] = round(value.value, 5)
            flat[f"{name}_interval"] = [round(value.low, 5), round(value.high, 5)]
        else:
            flat[name] = round(value, 5) if isinstance(value, float) else value
    return flat
