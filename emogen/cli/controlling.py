"""`emogen train-head` and `emogen calibrate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emogen.cli.reading import reading_options, with_renames_of
from emogen.data.exchange import Reading
from emogen.errors import TrainingError
from emogen.options import as_toml, settings_from, settings_options
from emogen.train.config import CalibrationSettings, HeadSettings

if TYPE_CHECKING:
    from emogen.train.calibration import Gain


@click.command("train-head")
@reading_options
@settings_options(HeadSettings)
@click.argument("files", nargs=-1)
def train_head(files: tuple[str, ...], reading: Reading, config_file: Path | None, show_config: bool, **given: Any) -> None:
    """Give the generator in --checkpoint an emotion head, trained on FILES (default: the starter corpus).

    The generator itself stays as it is. The head stands in the same folder and serves `emogen sample --control head:2`.
    """
    settings = settings_from("train-head", HeadSettings, config_file, given)
    if show_config:
        click.echo(as_toml(settings), nl=False)
        return
    from emogen.train.fit_head import fit_head

    folder, figures = fit_head(files or ("starter",), with_renames_of(config_file, reading), settings)
    conditioning = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    click.echo(f"emogen: held-out nats a token: {conditioning}", err=True)
    click.echo(folder)


@click.command("calibrate")
@settings_options(CalibrationSettings)
def calibrate(config_file: Path | None, show_config: bool, **given: Any) -> None:
    """Measure, with a guide, what the model in --checkpoint must be told for a strength or a mixture that is asked for.

    What is found stands in the same folder, and holds under the control that it was measured with. It is tried on new texts
    first: strengths or shares that it makes no truer are left as they are asked.
    """
    settings = settings_from("calibrate", CalibrationSettings, config_file, given)
    if show_config:
        click.echo(as_toml(settings), nl=False)
        return
    import torch

    from emogen.checkpoint.finding import shipped_folder
    from emogen.checkpoint.model import load
    from emogen.decoding.calibration import write_calibration
    from emogen.files import sha256
    from emogen.models.device import choose_device
    from emogen.recognition.recognizer import load_recognizer
    from emogen.train.calibration import calibrate_model, judged_by, keep_what_helps, measure_gain

    if settings.threads:
        torch.set_num_threads(settings.threads)
    model = load(settings.checkpoint, choose_device(settings.device))
    recognizer = load_recognizer(settings.guide or shipped_folder("recognizer"), settings.device)
    from emogen.decoding.control import parse_control

    control = model.default_sampling.control if settings.control is None else parse_control(settings.control)
    temperature = model.default_sampling.temperature if settings.temperature is None else settings.temperature
    guide, sampling = (
        recognizer.over(model.labels),
        dataclasses.replace(model.default_sampling, control=control, temperature=temperature),
    )
    signature = f"guide {recognizer.folder.name} {sha256(recognizer.folder / 'model.safetensors')[:12]}"
    found = calibrate_model(model, guide, sampling, settings, signature)
    gain = measure_gain(judged_by(model, guide, sampling, settings.texts, settings.seed + 1), found)
    click.echo(f"emogen: mean error on new texts: {_describe_gain(gain)}", err=True)
    kept = found if settings.allow_worse == "yes" else keep_what_helps(found, gain)
    if kept is None:
        raise TrainingError(
            f"the calibration makes neither strengths nor mixtures truer, and is not put into {model.folder}; "
            "raise --texts, take another --guide or --control, or pass --allow-worse yes"
        )
    write_calibration(model.folder, kept)
    click.echo(model.folder)


def _describe_gain(gain: Gain) -> str:
    parts = {"strengths": gain.strengths, "mixtures": gain.shares}
    return ", ".join(
        f"{name} {before:.3f} -> {after:.3f}{'' if after < before else ' (no truer)'}"
        for name, (before, after) in parts.items()
    )
