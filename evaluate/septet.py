"""Does the size of Septet pay? The same small model trained on it and on the starter corpus, read on the test rows of both.

    python evaluate/septet.py --minutes 10

For each seed a language model with the settings of --preset is trained for --minutes on each of the two corpora, English and
Chinese together; the look with the best likelihood of its own valid rows is kept. Both then read the test rows of both corpora.
`nats` is the negative log-likelihood of a whole reply, its end included, so that it does not depend on how a tokenizer cuts the
text; `gain` is by how many nats a reply the model of Septet reads the same rows better than that of the starter corpus, with
the paired 95% bootstrap interval over replies.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from emogen.checkpoint.model import EmotionModel, load
from emogen.cli import cli, run
from emogen.data.corpora import locate
from emogen.data.exchange import Reading, read_exchanges
from emogen.evaluate.report import command_of, write_result
from emogen.evaluate.resampling import RESAMPLES, percentile_interval
from emogen.evaluate.score import Score, signature
from emogen.models.likelihood import reply_nll
from emogen.text.words import language_of
from emogen.train.fit import prepared_for
from emogen.train.loops.mle import with_no_latent

RESULT = Path("evaluate/results/septet.json")
CORPORA = ("septet", "starter")
_ROWS = 64


@click.command()
@click.option("--preset", default="tiny", show_default=True, help="Sizes, as of train-lm.")
@click.option("--minutes", type=click.FloatRange(min=0.01), default=10.0, show_default=True, help="Of each training.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def main(context: click.Context, preset: str, minutes: float, seeds: tuple[int, ...], threads: int, out: Path) -> None:
    """Train on both corpora, and read the test rows of both."""
    torch.set_num_threads(threads)
    rows: list[dict[str, object]] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="emogen-septet-") as folder:
            models = {name: trained(name, Path(folder) / name, preset, minutes, seed, threads) for name in CORPORA}
            rows += [row for test in CORPORA for row in compared(models, test, seed)]
    write_result(out, command_of("septet", context), [locate(name) for name in CORPORA], rows)
    for row in rows:
        click.echo(row)


def trained(corpus: str, out: Path, preset: str, minutes: float, seed: int, threads: int) -> EmotionModel:
    """Train a language model as the command does; no reply is too long for it."""
    time = ("--minutes", str(minutes), "--steps", "1000000", "--patience", "10")
    lengths = ("--reply-tokens", "120", "--context-tokens", "96")
    run_with = ("--preset", preset, "--seed", str(seed), "--device", "cpu", "--threads", str(threads), "--out", str(out))
    cli.main(["train-lm", corpus, *time, *lengths, *run_with], prog_name="emogen", standalone_mode=False)
    return load(out)


def compared(models: dict[str, EmotionModel], test: str, seed: int) -> list[dict[str, object]]:
    """Of each language of a corpus' test rows both models' nats, and the gain."""
    found = [row for row in read_exchanges(locate(test)) if row.split == "test"]
    languages = np.array([language_of([*row.context, row.reply]) for row in found])
    nats = {name: nats_of(model, test) for name, model in models.items()}
    result: list[dict[str, object]] = []
    for language in ("en", "zh"):
        own = {name: values[languages == language] for name, values in nats.items()}
        gain = own["starter"] - own["septet"]
        draws = np.random.default_rng(seed).choice(gain, (RESAMPLES, len(gain))).mean(1)
        how = signature("gain", {"unit": "nats a reply", "rows": len(gain)})
        result.append(
            {
                "system": f"{test}, {language}",
                "seed": seed,
                "n": len(gain),
                **{f"nats_{name}": round(float(values.mean()), 3) for name, values in own.items()},
                "gain": Score(float(gain.mean()), *percentile_interval(draws), how),
            }
        )
    return result


@torch.no_grad()
def nats_of(model: EmotionModel, corpus: str) -> NDArray[np.float64]:
    """Return negative log-likelihood of each test reply of a corpus, in the order of its rows."""
    arrays = prepared_for(model, [corpus], Reading(), 0).arrays["test"]
    generator, sums = model.generator.eval(), list[float]()
    for begin in range(0, len(arrays), _ROWS):
        batch = arrays.batch(list(range(begin, min(begin + _ROWS, len(arrays)))))
        nll, _ = reply_nll(generator, batch.tokens, batch.reply_start, with_no_latent(generator, batch.emotion))
        sums += nll.sum(1).tolist()
    return np.array(sums)


if __name__ == "__main__":
    run(main, "septet.py")
