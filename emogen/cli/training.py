"""`emogen train-lm`, `train-vae`, `train-gan`, `train-classifier`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import click

from emogen.cli.reading import reading_options, with_renames_of
from emogen.data.exchange import Reading
from emogen.errors import CheckpointError, SettingsError
from emogen.options import as_toml, check_settings, read_settings, resolve, settings_from, settings_options
from emogen.train.config import ClassifierSettings, GanSettings, LmSettings, VaeSettings

Settings = TypeVar("Settings", LmSettings, VaeSettings, GanSettings, ClassifierSettings)
PRESETS = ("tiny", "small", "base")
_MODEL = (
    "backbone",
    "width",
    "layers",
    "heads",
    "latent",
    "prior",
    "encoder",
    "encoder_layers",
    "vocabulary",
    "lora_rank",
    "soft_prefix",
)
_FIXED = (
    "seed",
    "estimator",
    "discriminator",
    "encoder_rate",
    "guide",
    "context_tokens",
    "reply_tokens",
    "max_tokens",
    "multi_label",
    "buckets",
    "filters",
    "order",
    *_MODEL,
    *(f"discriminator_{name}" for name in ("width", "layers", "heads")),
)


def _training_options(settings: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what the commands share: files, reading, preset, TOML file, and the settings as options."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            settings_options(settings),
            reading_options,
            click.option("--resume", "resuming", is_flag=True, help="Go on with the run in --out, or the newest one."),
            click.option("--preset", type=click.Choice(PRESETS), default="small", show_default=True, help="Sizes and steps."),
            click.argument("files", nargs=-1),
        ):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True)
class _Order(Generic[Settings]):
    """What a training command was asked for."""

    files: tuple[str, ...]
    reading: Reading
    settings: Settings
    resuming: bool
    preset: str


@click.command("train-lm")
@_training_options(LmSettings)
def train_lm(**options: Any) -> None:
    """Train an emotion-conditioned language model on FILES (default: the starter corpus)."""
    if order := _order("train-lm", LmSettings, **options):
        from emogen.train.fit import fit_lm

        _train(order, lambda: fit_lm(order.files, order.reading, order.settings, order.resuming))


@click.command("train-vae")
@_training_options(VaeSettings)
def train_vae(**options: Any) -> None:
    """Train an emotion-conditioned text VAE on FILES (default: the starter corpus)."""
    if order := _order("train-vae", VaeSettings, **options):
        from emogen.train.fit import fit_vae

        _train(order, lambda: fit_vae(order.files, order.reading, order.settings, order.resuming))


@click.command("train-gan")
@_training_options(GanSettings)
def train_gan(**options: Any) -> None:
    """Train a generator adversarially on FILES (default: the starter corpus).

    It starts from --init, a checkpoint of train-lm or train-vae; without it, from a VAE that is trained first with the settings
    that `emogen train-vae --preset PRESET --show-config` prints.
    """
    if order := _order("train-gan", GanSettings, **options):
        from emogen.train.fit import fit_gan
        from emogen.train.run.outcome import describe_adversarial

        warm = _warm(order.preset, order.settings, order.resuming)
        _train(order, lambda: fit_gan(order.files, order.reading, order.settings, warm, order.resuming), describe_adversarial)


@click.command("train-classifier")
@_training_options(ClassifierSettings)
def train_classifier(**options: Any) -> None:
    """Train an emotion classifier on the replies in FILES (default: the starter corpus).

    The look with the best macro-F1 on the valid rows is kept; temperature and thresholds are chosen on the same rows.
    """
    if order := _order("train-classifier", ClassifierSettings, **options):
        from emogen.train.fit_classifier import fit_classifier

        _train(order, lambda: fit_classifier(order.files, order.reading, order.settings, order.resuming), _outcome)


def _outcome(folder: Path) -> str:
    """Describe what a classifier that stands in `folder` is worth."""
    from emogen.checkpoint.folder import read_confusion, read_description
    from emogen.train.run.outcome import describe_classifier

    labels = read_description(folder).labels
    counts = read_confusion(folder, labels)
    return "" if counts is None else describe_classifier(counts, labels.names)


def _train(order: _Order[Any], fit: Callable[[], Path], describe: Callable[[Path], str] | None = None) -> None:
    """Train; say what came of it, and print the checkpoint's folder: of several processes in the first."""
    from emogen.models.device import choose_device
    from emogen.train.run.processes import is_main_process, process_group

    with process_group(choose_device(order.settings.device)):
        folder = fit()
        if is_main_process():
            if describe and (outcome := describe(folder)):
                click.echo(f"emogen: {outcome}", err=True)
            click.echo(folder)


def _order(
    command: str,
    kind: type[Settings],
    files: tuple[str, ...],
    preset: str,
    config_file: Path | None,
    resuming: bool,
    show_config: bool,
    reading: Reading,
    **given: object,
) -> _Order[Settings] | None:
    """Return the order that the options make; None where only its settings were to be shown, which is done then.

    A resumed run takes files and reading that it began with where none are given.
    """
    settings = _settings(command, kind, preset, config_file, resuming, given)
    if show_config:
        click.echo(as_toml(settings), nl=False)
        return None
    reading = with_renames_of(config_file, reading)
    if resuming:
        from emogen.train.run.folder import saved_data

        saved_files, saved_reading = saved_data(Path(settings.out or ""))
        files, reading = files or saved_files, saved_reading if reading == Reading() else reading
    return _Order(files or ("starter",), reading, settings, resuming, preset)


def _warm(preset: str, settings: GanSettings, resuming: bool) -> VaeSettings:
    """Return settings of the warm start: the preset's VAE (or that of the resumed run), with the run's own seed and device."""
    saved = _saved_warm(settings) if resuming else {}
    warm = resolve(VaeSettings, {}, saved or _preset(preset, "train-vae", VaeSettings))
    return dataclasses.replace(
        warm,
        steps=settings.warm_steps or warm.steps,
        minutes=settings.warm_minutes,
        **{name: getattr(settings, name) for name in ("seed", "device", "threads", "vocabulary", "precision")},
    )


def _saved_warm(settings: GanSettings) -> dict[str, object]:
    from emogen.train.run.folder import read_train_file

    return _checked_saved(read_train_file(Path(settings.out or "")).get("warm", {}), VaeSettings, settings.out or "")


def _settings(
    command: str, kind: type[Settings], preset: str, config_file: Path | None, resuming: bool, given: dict[str, object]
) -> Settings:
    """Default < preset < TOML file < environment < flag; a resumed run takes its saved settings in place of the first three."""
    if resuming and config_file:
        raise SettingsError(f"--config {config_file}: a resumed run keeps its settings; change single ones by options")
    if resuming:
        from emogen.train.run.folder import read_train_file, resumable_folder

        folder = resumable_folder(cast("str | None", given.get("out")), command)
        saved = _checked_saved(read_train_file(folder).get("settings", {}), kind, str(folder))
        if not saved:
            raise CheckpointError(f"{folder}: no train.json with settings to resume; start again with another --out")
        before, now = resolve(kind, {}, saved), resolve(kind, {**given, "out": str(folder)}, saved)
        for field in dataclasses.fields(kind):
            began, target = getattr(before, field.name), getattr(now, field.name)
            if field.name in _FIXED and target != began:
                found = (
                    f"--{field.name.replace('_', '-')} {target}: the run in {folder} began with {began}, which cannot change"
                )
                raise SettingsError(f"{found}; leave it out, or start anew with another --out")
        return now
    return settings_from(command, kind, config_file, given, _preset(preset, command, kind))


def _checked_saved(values: dict[str, object], kind: type, where: str) -> dict[str, object]:
    given = {name: value for name, value in values.items() if value is not None}
    return check_settings(given, kind, f"{where}/train.json")


def _preset(name: str, command: str, kind: type) -> dict[str, object]:
    with as_file(resources("emogen.presets").joinpath(f"{name}.toml")) as path:
        return read_settings(path, kind, command)
