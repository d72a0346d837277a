"""Benchmarks on the command line: a user's mistake becomes one line on standard error."""

from __future__ import annotations

from collections.abc import Callable

from emogen.errors import EmogenError


def run(main: Callable[[], object], script: str) -> None:
    """Calls `main`; an error that a user can cause ends the program with its line, behind the script's name."""
    try:
        main()
    except EmogenError as error:
        raise SystemExit(f"{script}: {error}") from None
