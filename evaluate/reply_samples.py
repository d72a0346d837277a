"""Many replies to each of many contexts, kept on disk: none is drawn twice, and a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import torch

from emogen.checkpoint.model import EmotionModel
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import Emotion
from emogen.files import replace_file, sha256

AT_ONCE = 256


def drawn(
    model: EmotionModel,
    contexts: Sequence[Sequence[str]],
    emotions: Sequence[Emotion],
    sampling: SamplingParams,
    folder: Path | None = None,
) -> list[list[str]]:
    """Return `sampling.n` replies to each context; what is in `folder` already is read there."""
    if not folder:
        return [texts for part in _parts(model, contexts, emotions, sampling, 0) for texts in part]
    path = folder / f"{model.folder.name}-{_key(model, contexts, emotions, sampling)}.jsonl"
    kept = _kept(path, len(contexts))
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as beside:
        beside.write_text("".join(map(_line, kept)), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        for part in _parts(model, contexts, emotions, sampling, len(kept)):
            kept += part
            file.write("".join(map(_line, part)))
            file.flush()
            click.echo(f"{path.name}: {len(kept)} of {len(contexts)} contexts", err=True)
    return kept


def _parts(
    model: EmotionModel, contexts: Sequence[Sequence[str]], emotions: Sequence[Emotion], sampling: SamplingParams, first: int
) -> Iterator[list[list[str]]]:
    """Yield the replies from the context at `first` on, some contexts at a time."""
    # Products in bfloat16 where the processor has them take a third of the time; they change a reply, but not how good it is.
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for at in range(first, len(contexts), AT_ONCE):
            some = contexts[at : at + AT_ONCE]
            seed = sampling.seed * len(contexts) + at
            samples = model.replies(some, emotions[at : at + AT_ONCE], sampling.n, replace(sampling, n=1), seed)
            texts = [sample.text for sample in samples]
            yield [texts[place : place + sampling.n] for place in range(0, len(texts), sampling.n)]
    finally:
        torch.set_float32_matmul_precision(precision)


def _key(model: EmotionModel, contexts: Sequence[Sequence[str]], emotions: Sequence[Emotion], sampling: SamplingParams) -> str:
    """Return a hash of all that the replies depend on."""
    options = {**asdict(sampling), "control": str(sampling.control)}
    content = [sha256(model.folder / "model.safetensors"), list(map(list, contexts)), list(map(str, emotions)), options]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _kept(path: Path, wanted: int) -> list[list[str]]:
    """Return what was drawn before, but a part that was cut short."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    whole = len(lines) if len(lines) == wanted else len(lines) // AT_ONCE * AT_ONCE
    return [json.loads(line) for line in lines[:whole]]


def _line(texts: Sequence[str]) -> str:
    return json.dumps(texts, ensure_ascii=False) + "\n"
