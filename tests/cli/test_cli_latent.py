"""`emogen transfer` and `emogen interpolate`: lines in, as many lines out, or one line for whatever is wrong."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from emogen.data.exchange import Reading
from emogen.emotions.labels import LabelSet
from emogen.train.config import VaeSettings
from emogen.train.fit import fit_vae

PAIR = LabelSet(("joy", "sadness"))
QUICK = ("--samples", 2, "--sentences", 0, "--rounds", 1, "--guide", "own")
TINY = {"steps": 3, "batch_size": 8, "width": 16, "layers": 1, "latent": 4, "device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def vae(tmp_path_factory, rows_file):
    """The folder of a VAE after three steps; read only."""
    folder = tmp_path_factory.mktemp("vae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOGEN_DATA", str(folder / "cache"))
        return fit_vae([str(rows_file)], Reading(labels=PAIR), VaeSettings(**TINY, prior="emotion", out=str(folder / "vae")))


@pytest.fixture
def piped(monkeypatch):
    """Sets what comes through standard input."""

    def pipe(text):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode("utf-8"))))

    return pipe


def test_transfer_of_a_pipe(emogen, vae, piped):
    """A line for each line; the same again; JSON says where each came from."""
    piped("We won.\nI cried a lot, naïve me.\n")
    status, out, _ = emogen("transfer", "--emotion", "joy", "--checkpoint", vae, *QUICK)
    assert status == 0
    assert len(out.splitlines()) == 2
    piped("We won.\nI cried a lot, naïve me.\n")
    status, again, _ = emogen("transfer", "-", "--emotion", "joy", "--checkpoint", vae, *QUICK, "--json")
    objects = [json.loads(line) for line in again.splitlines()]
    assert [each["source"] for each in objects] == ["We won.", "I cried a lot, naïve me."]
    assert [" ".join(each["text"].split()) for each in objects] == out.splitlines()
    assert {(each["emotion"], each["seed"]) for each in objects} == {("joy", 0)}


def test_transfer_of_a_file(emogen, vae, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("We won.\n", encoding="utf-8")
    status, out, _ = emogen("transfer", path, "--emotion", "joy=0.5,sadness=0.5", "--checkpoint", vae, *QUICK)
    assert (status, len(out.splitlines())) == (0, 1)


def test_transfer_by_the_guide_that_ships(emogen, vae, piped):
    """The recogniser that ships knows these labels among others."""
    from emogen.checkpoint.finding import shipped_folder

    piped("We won.\n")
    options = ("--samples", 2, "--sentences", 2, "--rounds", 0, "--guide", shipped_folder("recognizer"), "--checkpoint", vae)
    status, out, _ = emogen("transfer", "--emotion", "sadness", *options)
    assert (status, len(out.splitlines())) == (0, 1)


def test_interpolation(emogen, vae):
    """So many texts, from a share of 0 to one of 1."""
    status, out, _ = emogen("interpolate", "We won.", "I cried.", "--steps", 3, "--checkpoint", vae)
    assert (status, len(out.split("\n"))) == (0, 4)
    status, out, _ = emogen("interpolate", "We won.", "I cried.", "--steps", 3, "--checkpoint", vae, "--json")
    assert [json.loads(line)["share"] for line in out.splitlines()] == [0, 0.5, 1]


@pytest.mark.parametrize("command", [("transfer", "--emotion", "joy"), ("interpolate", "a", "b")])
def test_checkpoint_without_an_encoder(refusal, tiny_checkpoint, piped, command):
    """Says which checkpoints have one, and how to get one."""
    piped("We won.\n")
    status, line = refusal(*command, "--checkpoint", tiny_checkpoint)
    assert status == 1
    assert line.startswith(f"{tiny_checkpoint}: is a language model")
    assert "emogen train-vae FILES" in line


@pytest.mark.parametrize(
    ("text", "options", "status", "said"),
    [
        ("\n", (), 1, "line 1 is empty"),
        ("We won.\n", ("--emotion", "hunger"), 2, "'hunger' is not one of joy, sadness"),
        ("We won.\n", ("--emotion", "joy=0.5"), 2, "sum to 0.5"),
        ("We won.\n", ("--strength", 2), 2, "strength 2 is not between 0 and 1"),
        ("We won.\n", ("--samples", 0, "--rounds", 0), 2, "--samples 0 --sentences 0 --rounds 0"),
        ("We won. " * 40, (), 1, "tokens long, the model reads 40"),
    ],
)
def test_what_transfer_refuses(refusal, vae, piped, text, options, status, said):
    piped(text)
    found, line = refusal("transfer", "--emotion", "joy", "--checkpoint", vae, *QUICK, *options)
    assert found == status
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("transfer --emotion joy", 1, "no VAE is named, and the models that ship are language models"),
        ("interpolate a b", 1, "no VAE is named"),
        ("transfer --emotion joy --checkpoint {lm}", 1, "{lm}: is a language model"),
        ("interpolate a b --checkpoint {lm}", 1, "{lm}: is a language model"),
        ("transfer --emotion joy --checkpoint nowhere", 1, "nowhere: no checkpoint there"),
        ("transfer --emotion hunger --checkpoint {vae}", 2, "emotion 'hunger' is not one of joy, sadness"),
        ("interpolate a b --emotion joy=0.5 --checkpoint {vae}", 2, "sum to 0.5"),
        ("transfer --emotion joy --checkpoint {vae} nothing.txt", 1, "nothing.txt: no such file"),
        ("transfer --emotion joy --checkpoint {vae} --guide nowhere", 1, "nowhere: no classifier there"),
    ],
)
def test_what_needs_no_weights_is_refused_without_pytorch(vae, tiny_checkpoint, tmp_path, arguments, status, said):
    """In a process of its own, in a folder without checkpoints."""
    places = {"lm": str(tiny_checkpoint), "vae": str(vae)}
    code = (
        "import sys; from emogen.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as ended: print(ended.code, 'torch' in sys.modules)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "EMOGEN_CHECKPOINT"}
    ended = subprocess.run(
        [sys.executable, "-c", code, *(part.format(**places) for part in arguments.split())],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == f"{status} False\n", ended.stderr
    assert said.format(**places) in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_file_that_is_not_there(refusal, vae):
    status, line = refusal("transfer", "lines.txt", "--emotion", "joy", "--checkpoint", vae, *QUICK)
    assert status == 1
    assert "lines.txt: no such file" in line


def test_an_empty_text_has_no_path(refusal, vae):
    status, line = refusal("interpolate", "We won.", " ", "--checkpoint", vae)
    assert status == 1
    assert "text 2 is empty" in line


def test_texts_near_another(emogen, vae):
    """With no spread all are decoded from one latent, so that greedy ones are alike; with a wide one they differ."""
    given = ("sample", "--emotion", "joy", "--checkpoint", vae, "--near", "We won.", "--seed", 1, "-n", 6, "--temperature")
    status, out, _ = emogen(*given, 0, "--spread", 0)
    assert status == 0
    assert len(set(out.splitlines())) == 1
    found = {emogen(*given, 1, "--spread", spread)[1] for spread in (0, 50)}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--near", " "], "text 1 is empty"),
        (["--near", "We won.", "--spread", -1], "--spread -1: allowed is 0 to 100"),
        (["--near", "We won.", "--stream"], "leave out --json, --post, --near and -n"),
    ],
)
def test_what_cannot_be_near(refusal, vae, options, said):
    _, line = refusal("sample", "--emotion", "joy", "--checkpoint", vae, *options)
    assert said in line
