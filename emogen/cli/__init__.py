"""The command line: `emogen COMMAND`. A command's module is imported when the command is used."""

from __future__ import annotations

import importlib
import shlex
import sys
import zlib
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from subprocess import CalledProcessError
from typing import NoReturn

import click

from emogen.errors import ElsewhereError, EmogenError, Interrupted, SettingsError
from emogen.options import current_option
from emogen.version import __version__

_COMMANDS = {
    "data": ("emogen.cli.data", "data", "Check, count, split and fetch corpora."),
    "pull": ("emogen.cli.pulling", "pull", "Put a pretrained base model into the cache."),
    "train-lm": ("emogen.cli.training", "train_lm", "Train an emotion-conditioned language model."),
    "train-vae": ("emogen.cli.training", "train_vae", "Train an emotion-conditioned text VAE."),
    "train-gan": ("emogen.cli.training", "train_gan", "Train adversarially against a Transformer discriminator."),
    "train-classifier": (
        "emogen.cli.training",
        "train_classifier",
        "Train a classifier that recognises, guides or judges.",
    ),
    "train-head": ("emogen.cli.controlling", "train_head", "Give a generator a head that steers it at little cost."),
    "train-feedback": ("emogen.cli.feedback", "train_feedback", "Train a model on what its users called good and bad."),
    "feedback": ("emogen.cli.feedback", "feedback", "Write out or forget what users think of replies."),
    "calibrate": ("emogen.cli.controlling", "calibrate", "Measure what a model is told for a strength or mixture."),
    "recognize": ("emogen.cli.recognition", "recognize", "Say which emotion a text expresses, and by which words."),
    "sample": ("emogen.cli.sampling", "sample", "Write texts with an emotion."),
    "reply": ("emogen.cli.sampling", "reply", "Reply to what was said, with an emotion."),
    "chat": ("emogen.cli.chat", "chat", "Talk with a model that answers how you feel."),
    "match": ("emogen.cli.matching", "match", "Choose the replies that fit context and emotion."),
    "policy": ("emogen.cli.policies", "policy", "Show reply policies, or learn one from dialogues."),
    "serve": ("emogen.cli.serving", "serve", "Serve a model over HTTP, as the OpenAI API does."),
    "transfer": ("emogen.cli.latent", "transfer", "Give lines another emotion and keep what they say (VAE)."),
    "interpolate": ("emogen.cli.latent", "interpolate", "Write the texts between two texts (VAE)."),
    "evaluate": ("emogen.cli.evaluating", "evaluate_command", "Score texts: overlap, diversity, fluency, judged emotion."),
}


class _LazyGroup(click.Group):
    """A group that knows its commands' one-line helps, and imports a command only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            close = get_close_matches(name.lower().replace("_", "-"), _COMMANDS)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": current_option})
@click.version_option(__version__, prog_name="emogen")
def cli() -> None:
    """Emotional text: prepare data, train models, sample from them, recognise emotion, and score what was written.

    Data goes to standard output, progress and messages to standard error. Exit status: 0 done, 1 failed, 2 wrong usage, 130
    interrupted.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; a user's mistake becomes one line on standard error."""
    run(partial(cli.main, args=arguments, prog_name="emogen", standalone_mode=False), "emogen")


def run(call: Callable[[], object], name: str) -> NoReturn:
    """Run a program to its end; what a user can get wrong becomes one line on standard error, behind the program's name.

    The exit status is that of the command line: 0 done, 1 failed, 2 wrong usage, 130 interrupted. An exception that no user can
    cause is a fault of the program and stays whole.
    """
    try:
        found = call()
        code = found if isinstance(found, int) else 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = _say(name, "interrupted", 130)
    except Interrupted as stopped:
        code = _say(name, str(stopped), 128 + stopped.signal)
    except ElsewhereError:
        code = 1
    except EmogenError as error:
        code = _say(name, str(error), 2 if isinstance(error, SettingsError) else 1)
    except CalledProcessError as error:
        command = error.cmd if isinstance(error.cmd, str) else shlex.join(map(str, error.cmd))
        code = _say(name, f"{command}: ended with exit status {error.returncode}", 1)
    except OSError as error:
        code = _say(name, f"{error.filename or 'file'}: {error.strerror or error}", 1)
    except (EOFError, zlib.error) as error:
        code = _say(name, f"a compressed file ends early or is broken ({error})", 1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        code = _say(name, "out of memory; close other programs, or take a smaller model", 1)
    sys.exit(code)


def _say(name: str, message: str, code: int) -> int:
    click.echo(f"{name}: {' '.join(message.split())}", err=True)
    return code
