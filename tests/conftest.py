"""What every test shares: one CPU thread, no network, a fixed random state, small models, and the command line."""

import json
import os

import pytest
import torch
from hypothesis import settings

from emogen.cli import main
from emogen.data.exchange import Reading
from emogen.train.config import LmSettings
from emogen.train.fit import fit_lm

settings.register_profile("emogen", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("emogen")
torch.set_num_threads(1)
# Read when Transformers is imported, which only the tests that need it do.
os.environ["HF_HUB_OFFLINE"] = "1"

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


WORD_PIECES = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] good bad day very so happy sad no to you it was we won lost ##s ##ly ! . , ? 我 很 开 心"
)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A Hugging Face encoder of two layers and width 32 that reads 64 tokens, with random weights; read only."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("pretrained") / "small-bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORD_PIECES.split()) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(WORD_PIECES.split()), max_position_embeddings=64, initializer_range=0.2, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def small_bert(bert_folder):
    """Loads that encoder anew."""
    from emogen.models.pretrained import load_encoder

    return lambda: load_encoder(f"hf:{bert_folder}")


@pytest.fixture
def emogen(capsys):
    """Runs the command line in this process; gives exit status, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.fixture
def refusal(emogen):
    """Runs a command that must fail with one line on standard error; gives exit status and that line."""

    def call(*arguments):
        status, out, err = emogen(*arguments)
        # A progress bar may stand before it.
        *_, line = err.replace("\r", "\n").splitlines()
        assert out == ""
        assert line.startswith("emogen: ")
        assert "Traceback" not in err
        assert err.count("emogen: ") == 1
        return status, line.removeprefix("emogen: ")

    return call
