"""`emogen train-lm`, `train-vae`, `train-gan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from emogen.cli.reading import reading_options
from emogen.data.exchange import Reading
from emogen.errors import SettingsError
from emogen.options import as_toml, checked, options_of, read_settings, resolve
from emogen.train.config import GanSettings, LmSettings, VaeSettings

Settings = TypeVar("Settings", LmSettings, VaeSettings, GanSettings)
PRESETS = ("tiny", "small", "base")


def _training_options(settings: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What the three commands share: files, reading, preset, TOML file, and the settings as options."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            options_of(settings),
            reading_options,
            click.option("--show-config", is_flag=True, help="Print the settings as TOML and stop."),
            click.option("--resume", "resuming", is_flag=True, help="Go on with the run in --out, or the newest one."),
            click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file with settings."),
            click.option("--preset", type=click.Choice(PRESETS), default="small", show_default=True, help="Sizes and steps."),
            click.argument("files", nargs=-1),
        ):
            command = option(command)
        return command

    return decorate


@click.command("train-lm")
@_training_options(LmSettings)
def train_lm(
    files: tuple[str, ...], preset: str, config_file: Path | None, resuming: bool, show_config: bool, reading: Reading, **given: object
) -> None:
    """Train an emotion-conditioned language model on FILES (default: the starter corpus)."""
    settings = _settings("train-lm", LmSettings, preset, config_file, resuming, given)
    if show_config:
        click.echo(as_toml(settings), nl=False)
        return
    from emogen.train.fit import fit_lm

    click.echo(fit_lm(files or ("starter",), reading, settings, resuming))


@click.command("train-vae")
@_training_options(VaeSettings)
def train_vae(
    files: tuple[str, ...], preset: str, config_file: Path | None, resuming: bool, show_config: bool, reading: Reading, **given: object
) -> None:
    """Train an emotion-conditioned text VAE on FILES (default: the starter corpus)."""
    settings = _settings("train-vae", VaeSettings, preset, config_file, resuming, given)
    if show_config:
        click.echo(as_toml(settings), nl=False)
        return
    from emogen.train.fit import fit_vae

    click.echo(fit_vae(files or ("starter",), reading, settings, resuming))


@click.command("train-gan")
@_training_options(GanSettings)
def train_gan(
    files: tuple[str, ...], preset: str, config_file: Path | None, resuming: bool, show_config: bool, reading: Reading, **given: object
) -> None:
    """Train a generator adversarially on FILES (default: the starter corpus).

    It starts from --init, a checkpoint of train-lm or train-vae; without it, from a VAE that is trained first with the settings that
    `emogen train-vae --preset PRESET --show-config` prints.
    """
    settings = _settings("train-gan", GanSettings, preset, config_file, resuming, given)
    if show_config:
        click.echo(as_toml(settings), nl=False)
        return
    from emogen.train.fit import fit_gan

    click.echo(fit_gan(files or ("starter",), reading, settings, _warm(preset, settings), resuming))


def _warm(preset: str, settings: GanSettings) -> VaeSettings:
    """Settings of the warm start: the preset's VAE, with the run's own data limits, seed and device."""
    warm = resolve(VaeSettings, {}, _preset(preset, "train-vae", VaeSettings))
    return replace(
        warm,
        steps=settings.warm_steps or warm.steps,
        minutes=settings.warm_minutes,
        **{name: getattr(settings, name) for name in ("seed", "device", "threads", "vocabulary", "precision")},
    )


def _settings(
    command: str, kind: type[Settings], preset: str, config_file: Path | None, resuming: bool, given: dict[str, object]
) -> Settings:
    """Default < preset < TOML file < environment < flag; a resumed run takes its saved settings in place of the first three."""
    if resuming:
        return _saved(kind, given)
    own = read_settings(config_file, kind, command) if config_file else {}
    return resolve(kind, given, _preset(preset, command, kind), own)


def _saved(kind: type[Settings], given: dict[str, object]) -> Settings:
    from emogen.train.fit import read_train_file, resumable_folder

    folder = resumable_folder(cast("str | None", given.get("out")))
    saved = {name: value for name, value in read_train_file(folder).get("settings", {}).items() if value is not None}
    if not saved:
        raise SettingsError(f"{folder}: no train.json with settings to resume; leave out --resume to start anew")
    return resolve(kind, {**given, "out": str(folder)}, checked(saved, kind, str(folder / "train.json")))


def _preset(name: str, command: str, kind: type) -> dict[str, object]:
    with resources("emogen.presets").joinpath(f"{name}.toml") as path:
        return read_settings(Path(str(path)), kind, command)
