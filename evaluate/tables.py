"""Write the tables of the pages below from the result files, between `<!-- NAME -->` and `<!-- end -->`.

python evaluate/tables.py
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from emogen.cli import run
from emogen.evaluate.report import read_json
from emogen.files import write_text

RESULTS = Path("evaluate/results")
PAGES = (Path("docs/benchmarks.md"), Path("docs/performance.md"), Path("evaluate/README.md"))
DIALOGUE = (
    "emotion_accuracy",
    "emotion_f1",
    "emotion_accuracy_balanced",
    "emotion_f1_balanced",
    "bleu",
    "rougeL",
    "distinct2",
    "unique",
    "commonest",
)
LATENT = (
    "kl",
    "kl_ratio",
    "active_units",
    "latent",
    "mutual_information",
    "iw_nll",
    "nll_reply",
    "iw_ratio",
    "emotion_accuracy",
    "similarity",
    "fluency",
    "product",
    "mean_step",
    "max_step",
)
SHOWN = {
    "threads": ("seconds", "runs"),
    "startup": ("seconds_to_first_line", "seconds"),
    "blind": ("fit", "empathy", "fluency"),
    "blind_texts": ("emotion_read", "sense", "fluency"),
    "speed": ("seconds", "reference_seconds", "ratio", "repetitions", "gigabytes"),
    "conditional": (
        "emotion_accuracy",
        "forward_bleu4",
        "bleu",
        "rougeL",
        "distinct2_corrected",
        "mean_length",
        "beyond_emotion_accuracy",
        "beyond_forward_bleu4",
        "beyond_bleu",
        "beyond_rougeL",
    ),
    "conditional_pretrained": (
        "emotion_accuracy",
        "forward_bleu4",
        "distinct2_corrected",
        "mean_length",
        "beyond_emotion_accuracy",
    ),
    "latent": LATENT,
    "latent_smp2020_ewect": LATENT,
    "feedback_single": ("preference", "emotion_accuracy", "asks_back", "unique", "distinct2", "words"),
    "feedback": ("preference", "emotion_accuracy", "asks_back", "unique", "distinct2", "words"),
    "load": (
        "replies",
        "equal",
        "not_equal",
        "seconds_to_first_token",
        "tokens_per_second",
        "ratio",
        "acknowledged",
        "acknowledged_and_lost",
    ),
    "soak": (
        "seconds",
        "ratio",
        "replies",
        "equal",
        "acknowledged",
        "acknowledged_and_lost",
        "health_untrue",
        "probe_seconds",
        "memory_growth",
        "descriptors_before",
        "descriptors_after",
        "wrong",
    ),
    "kills": ("kills", "equal", "seconds_alone"),
    "septet": ("n", "nats_septet", "nats_starter", "gain"),
    "fresh_clone": ("seconds", "cpu_seconds"),
    "fresh_clone_plain": ("seconds", "cpu_seconds"),
    "metrics": ("n", "seconds", "ratio", "difference", "at_500", "at_5000", "drift"),
    "classifiers": ("emotion_f1", "emotion_accuracy", "calibration_error", "seconds"),
    "correction": ("truth", "emotion_accuracy", "error"),
    "emotion_text": (
        "emotion_accuracy",
        "emotion_accuracy_corrected",
        "emotion_f1",
        "distinct2_corrected",
        "self_bleu4",
        "forward_bleu4",
        "backward_bleu4",
        "frechet",
        "novelty",
        "unique",
        "commonest",
    ),
    "captions": (
        *(f"forward_bleu{order}" for order in (2, 3, 4, 5)),
        *(f"self_bleu{order}" for order in (2, 3, 4, 5)),
        "backward_bleu5",
        "nll_token",
        "nll_word",
        "perplexity",
        "forward_bleu4_gain",
    ),
    "empathetic_replies": (
        "recognition_accuracy",
        "bleu",
        "rougeL",
        "chrf",
        "distinct2",
        "distinct2_corrected",
        "unique",
        "commonest",
        "mean_length",
    ),
    "backbone": (
        "n",
        "emotion_accuracy",
        "perplexity",
        "distinct2_corrected",
        "bleu",
        "rougeL",
        "tokens_per_second",
        "seconds",
        "ratio",
    ),
    "daily_dialog": DIALOGUE,
    "daily_dialog_zh": DIALOGUE,
}


@click.command()
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
    """Return one line a system: the mean over its rows and, where there are several, their standard deviation."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return ""
    content = read_json(path)
    systems: dict[str, list[dict[str, Any]]] = {}
    for row in content["rows"]:
        systems.setdefault(system_of(row), []).append(row)
    lines = [f"| {name} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for system, rows in systems.items():
        lines.append(f"| {system} | {' | '.join(cell(rows, column) for column in columns)} |")
    return "\n".join([*lines, "", f"`{content['command']}`", ""])


def system_of(row: dict[str, Any]) -> str:
    """Return the system, with its corpus, case and temperature where the benchmark has several."""
    corpus = f"{row['corpus']}: " if "corpus" in row else ""
    case = f" ({row['case']})" if "case" in row else f" ({row['setting']}, cores {row['cores']})" if "cores" in row else ""
    return f"{corpus}{row['system']}{case}" + (f" at {row['temperature']:g}" if "temperature" in row else "")


def cell(rows: Sequence[dict[str, Any]], column: str) -> str:
    """Return the mean over seeds ± deviation; for a single row its 95% interval."""
    values = [row[column] for row in rows if column in row]
    if not values:
        return ""
    if len(values) > 1 and statistics.stdev(values) > 0:
        return f"{shown(statistics.mean(values))} ± {shown(statistics.stdev(values))}"
    interval = rows[0].get(f"{column}_interval")
    return shown(values[0]) + (f" ({shown(interval[0])} to {shown(interval[1])})" if interval else "")


def shown(value: float) -> str:
    """Three significant digits, all digits before the point; whole numbers as they are."""
    if isinstance(value, int):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    run(main, "tables.py")
