"""Writes the tables of README.md and evaluate/README.md from the result files, between `<!-- NAME -->` and `<!-- end -->`.

python evaluate/tables.py
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emogen.atomic import write_text

RESULTS = Path("evaluate/results")
PAGES = (Path("README.md"), Path("evaluate/README.md"))
SHOWN = {
    "startup": ("seconds_to_first_line", "seconds"),
    "adversarial": ("nll_heldout", "emotion_accuracy", "distinct2", "self_bleu4", "bleu", "unique", "commonest"),
    "vae_rate": ("reconstruction", "kl", "active_units", "latent", "mutual_information", "iw_nll"),
    "fresh_clone": ("seconds",),
}


def main() -> None:
    """Rewrite the tables in place; a result that is not there leaves its place empty."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, columns in SHOWN.items():
            begin, found, rest = text.partition(f"<!-- {name} -->\n")
            if found:
                text = begin + found + table(name, columns) + "<!-- end -->" + rest.partition("<!-- end -->")[2]
        write_text(page, text)


def table(name: str, columns: Sequence[str]) -> str:
    """One line a system: the mean over its rows and, where there are several, their standard deviation."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return ""
    content = json.loads(path.read_text(encoding="utf-8"))
    systems: dict[str, list[dict[str, Any]]] = {}
    for row in content["rows"]:
        systems.setdefault(row["system"], []).append(row)
    lines = [f"| {name} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for system, rows in systems.items():
        lines.append(f"| {system} | {' | '.join(cell(rows, column) for column in columns)} |")
    return "\n".join([*lines, "", f"`{content['command']}`", ""])


def cell(rows: Sequence[dict[str, Any]], column: str) -> str:
    """Mean over seeds ± deviation; for a single row its 95% interval."""
    values = [row[column] for row in rows if column in row]
    if not values:
        return ""
    if len(values) > 1 and statistics.stdev(values) > 0:
        return f"{shown(statistics.mean(values))} ± {shown(statistics.stdev(values))}"
    interval = rows[0].get(f"{column}_interval")
    return shown(values[0]) + (f" ({shown(interval[0])} to {shown(interval[1])})" if interval else "")


def shown(value: float) -> str:
    """Three significant digits; whole numbers as they are."""
    return str(value) if isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
    main()
