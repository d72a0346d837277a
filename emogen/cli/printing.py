"""What commands write to standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click


def print_text(text: str, nl: bool = True) -> None:
    """Print a text, in UTF-8 whatever the terminal's locale, and by default a line end behind it."""
    click.echo(text.encode("utf-8", errors="backslashreplace"), nl=nl)


def as_cells(columns: Mapping[str, object]) -> list[str]:
    """Return the values of a row's columns as cells of a line with tabs: each on one line, what is no text as JSON."""
    texts = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in columns.values())
    return [" ".join(text.split()) for text in texts]
