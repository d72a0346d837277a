"""Whether a text VAE uses its latent: reconstruction, KL, active units, mutual information, importance-weighted NLL.

emogen data fetch goemotions
emogen train-vae goemotions --labels ekman --preset small --minutes 15 --out runs/vae
python evaluate/vae_rate.py goemotions --checkpoint runs/vae
"""

from __future__ import annotations

from pathlib import Path

import click

import emogen
from emogen.data.corpora import resolve
from emogen.data.exchange import Reading
from emogen.emotions import EKMAN
from emogen.errors import CheckpointError
from emogen.evaluate.report import write_result
from emogen.models.vae import TextVAE
from emogen.train.config import GeneratorRun
from emogen.train.corpus import held_out_batches, prepare
from emogen.train.folder import read_train_file
from emogen.train.vae import held_out_elbo

RESULT = Path("evaluate/results/vae_rate.json")
DRAWS = 16


@click.command()
@click.argument("corpus")
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), required=True, help="Of train-vae.")
@click.option("--rows", "count", default=4000, show_default=True, help="Test rows.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(corpus: str, checkpoint: Path, count: int, out: Path) -> None:
    """Measure the VAE in CHECKPOINT on the test split of CORPUS (a file or a corpus name)."""
    loaded = emogen.load(checkpoint, whole=True)
    if not isinstance(loaded.model, TextVAE):
        raise CheckpointError(f"{checkpoint}: is no VAE; train one with emogen train-vae")
    limits = loaded.description.limits
    config = GeneratorRun(context_tokens=limits.context_tokens, reply_tokens=limits.reply_tokens)
    data = prepare([corpus], Reading(labels=EKMAN), config, loaded.tokenizer, loaded.labels)
    figures = held_out_elbo(loaded.model, held_out_batches(data.arrays, "test", count), DRAWS)
    settings = {name: value for name, value in read_train_file(checkpoint).get("settings", {}).items() if name != "out"}
    row = {"system": "vae", "seed": settings.get("seed", 0), "latent": loaded.generator.config.latent, **figures}
    click.echo(row)
    shown = f"{checkpoint.parent.name}/{checkpoint.name}"
    command = f"python evaluate/vae_rate.py {Path(corpus).name} --checkpoint {shown} --rows {count}"
    source = Path(resolve(corpus, Reading())[0])
    write_result(out, command, [source, checkpoint], [row], {"target_rate": settings.get("target_rate"), "settings": settings})


if __name__ == "__main__":
    main()
