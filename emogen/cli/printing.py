"""What commands write to standard output."""

from __future__ import annotations

import click


def print_text(text: str, nl: bool = True) -> None:
    """Prints a text, in UTF-8 whatever the terminal's locale, and by default a line end behind it."""
    click.echo(text.encode("utf-8", errors="backslashreplace"), nl=nl)
