"""`emogen serve`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from emogen.errors import SettingsError
from emogen.options import options_of, read_settings, resolve
from emogen.server.settings import ServerSettings

_EXTRA = ("fastapi", "pydantic", "starlette", "uvicorn", "prometheus_client")


@click.command("serve")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), envvar="EMOGEN_CONFIG", help="TOML file with settings."
)
@options_of(ServerSettings)
def serve(config_file: Path | None, **given: object) -> None:
    """Serve a model over HTTP, as the OpenAI API does, until it is stopped."""
    if os.environ.get("EMOGEN_HOST") == "":
        raise SettingsError("EMOGEN_HOST is empty; set an address such as 127.0.0.1, or unset it")
    own = read_settings(config_file, ServerSettings, "serve") if config_file else {}
    settings = resolve(ServerSettings, given, own)
    try:
        from emogen.server.run import run
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise SettingsError(f'emogen serve needs {error.name}: pip install -e ".[serve]" in the toolkit\'s folder') from None
    run(settings)
