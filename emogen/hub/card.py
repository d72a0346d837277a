"""The model card of a checkpoint: what its header must name, and a template filled with what the folder knows of itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import huggingface_hub
from safetensors import safe_open

from emogen.checkpoint.folder import Description, architecture_of, is_for_transformers, read_description
from emogen.errors import SettingsError
from emogen.files import read_json, read_text, write_text

CARD_FILE = "README.md"
_NEEDED = ("license", "language", "datasets")
_PRIVATE = ("out", "init", "start")
_SUMMARIES = {
    "generator": "Writes short replies with an emotion that is asked for: {labels}, a mixture of them, or none.",
    "vae": "Writes short replies with an emotion that is asked for: {labels}, a mixture of them, or none.",
    "classifier": "Says how likely each of these emotions is in a text: {labels}.",
}
_WRITE = (
    "import emogen\nfrom huggingface_hub import snapshot_download\n\n"
    'model = emogen.load(snapshot_download("{repo}"))\n'
    'for sample in model.sample("{label}", n=3, context="They called."):\n    print(sample.text)\n'
)
_RECOGNISE = (
    "from emogen.recognition.recognizer import load_recognizer\nfrom huggingface_hub import snapshot_download\n\n"
    'recognizer = load_recognizer(snapshot_download("{repo}"))\n'
    'print(recognizer.recognize(["They called. I got the job."]))\n'
)
_PIPELINE = (
    "import emogen.hub\nfrom transformers import pipeline\n\n"
    'write = pipeline("text-generation", model="{repo}")\n'
    'print(write("They called. I got the job.", emotion="{label}", return_full_text=False))\n'
)


def complete_card(folder: str | Path, repo: str, given: Mapping[str, Any]) -> None:
    """See to it that a folder's README.md names licence, languages and datasets in its header; writes a missing one.

    Args:
        folder: of a checkpoint.
        repo: OWNER/NAME that the card speaks of.
        given: entries of the header, by the hub's names, in place of what stands there; empty ones change nothing.

    Raises:
        SettingsError: neither the card nor `given` names all three; nothing is written then.
    """
    folder = Path(folder)
    path = folder / CARD_FILE
    there = (huggingface_hub.metadata_load(path) or {}) if path.exists() else {}
    header = there | {key: value for key, value in given.items() if value}
    missing = [key for key in _NEEDED if not header.get(key)]
    if missing:
        raise SettingsError(
            f"{path}: its header names no {', no '.join(missing)}; write them there, or pass licence, languages and datasets"
        )
    if not path.exists():
        write_text(path, filled_card(folder, repo, header))
    elif header != there:
        huggingface_hub.metadata_save(path, header)


def filled_card(folder: str | Path, repo: str, header: Mapping[str, Any]) -> str:
    """Return the template with what config.json, train.json and log.jsonl say.

    The header's license, language and datasets.
    """
    folder = Path(folder)
    template = Template((resources.files("emogen") / "model_card.md").read_text(encoding="utf-8"))
    path = folder / "train.json"
    found: dict[str, Any] = read_json(path) if path.exists() else {}
    description, run = read_description(folder), found
    names = ", ".join(description.labels.names)
    settings = {name: value for name, value in run.get("settings", {}).items() if name not in _PRIVATE}
    return template.substitute(
        licence=json.dumps(header["license"]),
        languages=json.dumps(header["language"]),
        datasets=json.dumps(header["datasets"]),
        task="text-classification" if description.kind == "classifier" else "text-generation",
        kind=description.kind,
        name=repo.rpartition("/")[2],
        summary=_SUMMARIES[description.kind].format(labels=names),
        architecture=architecture_of(description, folder).capitalize(),
        weights=f"{_weights(folder):,}",
        version=run.get("emogen", "of an unknown version"),
        labels=names,
        data=", ".join(header["datasets"]),
        terms=header["license"],
        sources=_lines("- `{}`: `{}`", run.get("sources", {})),
        rows=", ".join(f"{count} {split}" for split, count in run.get("rows", {}).items()) or "not kept",
        command=run.get("command", f"train-{description.kind}"),
        steps=run.get("steps", "an unknown number of"),
        settings=_lines("{} = {}", settings),
        figures=_lines("- {}: {:.4g}", _held_out(folder)),
        use=_use(description, repo),
    )


def _held_out(folder: Path) -> dict[str, float]:
    """Return the newest held-out figures of the log."""
    path = folder / "log.jsonl"
    lines = read_text(path).splitlines() if path.exists() else []
    looks: list[dict[str, float]] = [json.loads(line)["held_out"] for line in lines if '"held_out"' in line]
    return looks[-1] if looks else {}


def _lines(form: str, content: Mapping[str, Any]) -> str:
    return "\n".join(form.format(name, value) for name, value in content.items()) or "not kept"


def _weights(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _use(description: Description, repo: str) -> str:
    if description.kind == "classifier":
        return _code(_RECOGNISE, description, repo)
    blocks = [_code(_WRITE, description, repo)]
    if is_for_transformers(description):
        blocks += ["Or with Hugging Face Transformers:", _code(_PIPELINE, description, repo)]
    return "\n\n".join(blocks)


def _code(lines: str, description: Description, repo: str) -> str:
    return f"```python\n{lines.format(repo=repo, label=description.labels.names[0])}```"
