"""What every test shares: one CPU thread, a fixed random state, and a small trained checkpoint."""

import json

import pytest
import torch
from hypothesis import settings

from emogen.data.exchange import Reading
from emogen.train.config import LmSettings
from emogen.train.fit import fit_lm

settings.register_profile("emogen", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("emogen")
torch.set_num_threads(1)

TINY = {"steps": 5, "batch_size": 8, "width": 16, "layers": 1, "device": "cpu", "precision": "float32"}


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory):
    """Forty labelled exchanges, joy and sadness, eight of them for validation; read only."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = (
        {
            "context": [f"How was day {number}?"],
            "reply": f"Day {number} was {('awful, I cried', 'great, we won')[number % 2]}.",
            "emotion": ("sadness", "joy")[number % 2],
            "split": "valid" if number % 10 > 7 else "train",
        }
        for number in range(40)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, rows_file):
    """The folder of a language model after five steps on `rows_file`; read only."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOGEN_DATA", str(folder / "cache"))
        return fit_lm([str(rows_file)], Reading(), LmSettings(**TINY, out=str(folder / "lm")))
