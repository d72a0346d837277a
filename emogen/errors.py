"""The errors that a user can cause. Each message is one line and says the way out."""

from __future__ import annotations

import logging
import traceback

_MOST_KINDS = 4
_MOST_WHOLE = 2**31 - 1


class EmogenError(Exception):
    """A user's mistake or a condition outside the program; the command line prints it and exits with 1."""


class DataError(EmogenError):
    """A file, row, column or label that cannot be read as exchanges."""


class UndefinedScoreError(DataError):
    """A metric that has no value on these texts, such as self-BLEU of a single one; it is left out with a note."""


class SettingsError(EmogenError):
    """A setting with an impossible value or an unknown name; the command line exits with 2."""


class CheckpointError(EmogenError):
    """A checkpoint that is missing, cut short, of another version or of another kind."""


class TrainingError(EmogenError):
    """Training that cannot go on: a loss that is not a number, memory or disk used up."""


class BusyError(EmogenError):
    """As much is asked for as can be served, or no more is; a server answers with 503."""


class Interrupted(EmogenError):
    """The run was asked to stop by a signal and has saved its state; the command line exits with 128 + `signal`."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class ElsewhereError(EmogenError):
    """Another process of the same run failed and says why; the command line exits with 1 and says nothing."""


def log_failure(log: logging.Logger, what: str, error: BaseException) -> None:
    """Log what failed, kinds of its error and of those behind it, and where; their words, maybe a user's, at DEBUG alone."""
    kinds, cause = [type(error).__name__], error.__cause__ or error.__context__
    while cause is not None and len(kinds) < _MOST_KINDS:
        kinds.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    log.error("%s (%s)\n%s", what, " from ".join(kinds), places_of(error))
    log.debug("%s in its own words", what, exc_info=error)


def places_of(error: BaseException) -> str:
    """List where an error came from, a line a call: for logs that must not hold its own words, which may be a user's."""
    frames = traceback.extract_tb(error.__traceback__)
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)


def on_one_line(text: str) -> str:
    """Show a text that a user gave within one line: as it is, or quoted where it has line breaks."""
    return text if text.splitlines() in ([], [text]) else repr(text)


def require_whole(name: str, value: object, least: int = 1) -> None:
    """Raise SettingsError unless a size is a whole number from `least` to 2^31 - 1; files hold any value."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST_WHOLE:
        raise SettingsError(f"{name} {value!r:.40}: allowed is a whole number from {least} to {_MOST_WHOLE}")


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise SettingsError that names the option, its value and what is allowed, unless `holds`; `name` may be a field's."""
    if not holds:
        raise SettingsError(f"--{name.replace('_', '-')} {value}: allowed is {allowed}")
