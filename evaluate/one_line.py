"""Benchmarks on the command line: a user's mistake becomes one line on standard error."""

from __future__ import annotations

import json
import shlex
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import click

from emogen.errors import DataError, EmogenError, SettingsError


def run(main: Callable[[], object], script: str) -> None:
    """Call `main`, and end the program with one line, behind the script's name, for an error that a user can cause.

    These are the toolkit's own errors, files and folders that cannot be read or written, and other programs that fail. The
    exit status is 2 for a wrong setting and 1 for the others; any other exception is a fault of the benchmark, and whole.
    """
    try:
        main()
    except EmogenError as error:
        _end(script, str(error), 2 if isinstance(error, SettingsError) else 1)
    except CalledProcessError as error:
        command = error.cmd if isinstance(error.cmd, str) else shlex.join(map(str, error.cmd))
        _end(script, f"{command}: ended with exit status {error.returncode}", 1)
    except (OSError, EOFError, zlib.error) as error:
        name, reason = getattr(error, "filename", None), getattr(error, "strerror", None) or error
        _end(script, f"{name}: {reason}" if name else str(reason), 1)


def read_json(path: Path) -> Any:
    """Read a JSON file that an earlier call wrote.

    Raises:
        DataError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}); move it away, and it is made again") from None


def _end(script: str, message: str, status: int) -> None:
    click.echo(f"{script}: {' '.join(message.split())}", err=True)
    sys.exit(status)
