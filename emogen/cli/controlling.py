"""`emogen train-head` and `emogen calibrate`."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from emogen.cli.reading import reading_options
from emogen.data.exchange import Reading
from emogen.options import options_of, resolve
from emogen.train.config import CalibrationSettings, HeadSettings


@click.command("train-head")
@reading_options
@options_of(HeadSettings)
@click.argument("files", nargs=-1)
def train_head(files: tuple[str, ...], reading: Reading, **given: Any) -> None:
    """Give the generator in --checkpoint an emotion head, trained on FILES (default: the starter corpus).

    The generator itself stays as it is. The head stands in the same folder and serves `emogen sample --control head:2`.
    """
    settings = resolve(HeadSettings, given)
    from emogen.train.fit_head import fit_head

    folder, figures = fit_head(files or ("starter",), reading, settings)
    told = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    click.echo(f"emogen: held-out nats a token: {told}", err=True)
    click.echo(folder)


@click.command("calibrate")
@options_of(CalibrationSettings)
def calibrate(**given: Any) -> None:
    """Measure, with a guide, what the model in --checkpoint must be told for a strength or a mixture that is asked for.

    What is found stands in the same folder, and holds under the control that it was measured with.
    """
    settings = resolve(CalibrationSettings, given)
    import torch

    from emogen.atomic import sha256
    from emogen.checkpoint import load, shipped
    from emogen.decoding.calibration import write_calibration
    from emogen.decoding.control import parse_control
    from emogen.judges.recognizer import load_recognizer
    from emogen.models.device import choose_device
    from emogen.train.calibration import calibrated

    if settings.threads:
        torch.set_num_threads(settings.threads)
    model = load(settings.checkpoint, choose_device(settings.device))
    guide = load_recognizer(settings.guide or shipped("recognizer"), settings.device)
    own = model.default_sampling
    control = own.control if settings.control is None else parse_control(settings.control)
    temperature = own.temperature if settings.temperature is None else settings.temperature
    sampling = dataclasses.replace(own, control=control, temperature=temperature)
    signature = f"guide {guide.folder.name} {sha256(guide.folder / 'model.safetensors')[:12]}"
    write_calibration(model.folder, calibrated(model, guide.over(model.labels), sampling, settings, signature))
    click.echo(model.folder)
