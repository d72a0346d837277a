"""`emogen sample`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from emogen.errors import SettingsError


@click.command("sample")
@click.option(
    "--emotion", "emotions", multiple=True, help="joy, or a mixture joy=0.7,surprise=0.3; may be given several times."
)
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Texts for each emotion.")
@click.option("--context", "contexts", multiple=True, help="What is replied to; given several times: a dialogue, oldest first.")
@click.option(
    "--checkpoint",
    default=None,
    help="Folder of a model  [default: $EMOGEN_CHECKPOINT, checkpoints/latest, the one that ships]",
)
@click.option("--strength", type=float, default=1.0, show_default=True, help="Of the emotion, 0 to 1.")
@click.option("--temperature", type=float, default=None, help="0 takes the likeliest token.  [default: 0.7]")
@click.option("--top-k", type=int, default=None, help="Only the k likeliest tokens.")
@click.option("--top-p", type=float, default=None, help="Only the likeliest tokens of this total probability.  [default: 0.9]")
@click.option("--min-p", type=float, default=None, help="Only tokens at least this share as likely as the likeliest.")
@click.option("--max-tokens", type=int, default=None, help="Cut a text after so many.")
@click.option("--seed", type=int, default=None, help="The same seed gives the same texts  [default: another one each time]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def sample(
    emotions: tuple[str, ...],
    count: int,
    contexts: tuple[str, ...],
    checkpoint: str | None,
    strength: float,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    max_tokens: int | None,
    seed: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Write texts with the emotion you ask for, one a line; without --emotion, one for each emotion the model knows."""
    import secrets

    from emogen.checkpoint import load

    model = load(checkpoint, device)
    given: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "max_tokens": max_tokens,
    }
    options = dataclasses.replace(model.default_sampling, **{name: value for name, value in given.items() if value is not None})
    asked = [model.emotion(text, strength) for text in emotions or model.labels.names]
    if any(not context.strip() for context in contexts):
        raise SettingsError("--context is empty; leave it out to sample without context")
    seed = secrets.randbelow(2**31) if seed is None else seed
    for emotion in asked:
        for found in model.sample(emotion, count, contexts, options, seed):
            if as_json:
                _print(json.dumps({**dataclasses.asdict(found), "seed": seed}, ensure_ascii=False))
            else:
                text = " ".join(found.text.split())
                _print(text if len(asked) == 1 else f"{found.emotion}\t{text}")


def _print(line: str) -> None:
    # Bytes, because these texts are UTF-8 whatever the terminal's locale.
    click.echo(line.encode("utf-8", errors="backslashreplace"))
