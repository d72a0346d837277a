"""evaluate/latent.py: which emotion is asked for, the figures of a text, and the ratios that targets are stated in."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sacrebleu

from emogen.data.exchange import Exchange
from emogen.decoding.transfer_options import TransferOptions
from emogen.emotions.labels import LabelSet, mixture

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluate"))

import latent
import latent_transfer

LABELS = LabelSet(("anger", "joy", "sadness"))


class Fake:
    """A judge that finds the emotion named first, a language model of ten nats a word."""

    names = LABELS
    name = "fake"
    folder = Path("fake")

    def probabilities(self, texts):
        first = [next(word for word in text.split() if word in LABELS.names) for text in texts]
        return np.array([[float(word == name) for name in LABELS.names] for word in first])

    def nll(self, texts):
        return np.array([10.0 * (len(text.split()) + 1) * (2 if "odd" in text else 1) for text in texts])


def both_or_neither(first, second):
    return np.array([float(("dog" in one) == ("dog" in other)) for one, other in zip(first, second, strict=True)])


JUDGING = latent_transfer.Judging(Fake(), latent_transfer.Similarity("fake", both_or_neither), Fake())
PHRASES = {"anger": "Angry! {}"}


def test_other_emotions_take_turns():
    rows = [Exchange((), f"text {number}", mixture({"joy": 1.0}, LABELS), "test") for number in range(5)]
    found = latent_transfer.trials(rows, LABELS.names)
    assert [trial.emotion for trial in found] == ["anger", "sadness", "anger", "sadness", "anger"]
    assert [trial.source for trial in found] == [row.reply for row in rows]


def test_figures_of_a_text():
    """Right or wrong, similarity, and e to the nats a word that the output has beyond the source; never above 1."""
    sources = ["joy dog", "joy dog", "joy dog", "joy odd dog"]
    texts = ["anger dog", "joy dog", "anger cat", "anger dog"]
    found = latent_transfer.per_text(sources, texts, ["anger"] * 4, JUDGING)
    assert found["emotion_accuracy"].tolist() == [1, 0, 1, 1]
    assert found["similarity"].tolist() == [1, 1, 0, 1]
    assert found["fluency"].tolist() == [1, 1, 1, 1]
    assert found["product"].tolist() == [1, 0, 0, 1]
    assert latent_transfer.per_text(["joy x"], ["anger odd"], ["anger"], JUDGING)["fluency"][0] == pytest.approx(math.exp(-10))


def test_baselines_and_differences(tmp_path, monkeypatch):
    """The source, the source behind a phrase, and what the transfer has beyond them, text by text."""
    rows = [Exchange((), "joy dog", mixture({"joy": 1.0}, LABELS), "test")] * 2
    space = SimpleNamespace(
        labels=LABELS, limits=SimpleNamespace(reply_tokens=9), tokenizer=SimpleNamespace(encode=lambda text: text.split())
    )
    made = [SimpleNamespace(text="anger dog"), SimpleNamespace(text="joy dog")]
    monkeypatch.setattr(latent_transfer, "transfer", lambda *_: iter(made))
    guide = SimpleNamespace(over=lambda labels: None)
    options = TransferOptions(seed=3)
    rows_made = latent_transfer.transfer_rows(space, rows, guide, JUDGING, PHRASES, options, tmp_path / "texts")
    found = {row["system"]: row for row in rows_made}
    assert list(found) == ["copy", "phrase", "transfer"]
    assert found["copy"]["product"].value == 0
    assert found["transfer"]["product"].value == 0.5
    assert found["transfer"]["beyond_copy"].value == 0.5
    assert "Angry! joy dog" in (tmp_path / "texts.json").read_text(encoding="utf-8")


def test_similarity_in_any_language():
    """ChrF of sacrebleu, as a share."""
    found = latent_transfer.similarity_by("chrf").of(["太好了", "I love dogs"], ["太好了", "I hate dogs"])
    assert found.tolist() == pytest.approx([1.0, sacrebleu.sentence_chrf("I hate dogs", ["I love dogs"]).score / 100])


def test_ratios():
    rows = [{"system": "lm", "nll_reply": 80.0}, {"system": "vae", "target_rate": 5.0, "kl": 5.5, "iw_nll": 81.0}]
    lm, vae = latent.with_ratios(rows)
    assert "kl_ratio" not in lm
    assert vae["kl_ratio"] == pytest.approx(1.1)
    assert vae["iw_ratio"] == pytest.approx(81 / 80)


def test_seeds_stand_beside_each_other(tmp_path):
    """A seed's rows take the place of its own, and of no other's."""
    out = tmp_path / "latent.json"
    for seed, kl in ((1, 5.0), (0, 5.1), (1, 5.2)):
        latent.write_seed(out, seed, {"command": f"run {seed}"}, [{"system": "vae", "kl": kl}], [])
    content = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["seed"], row["kl"]) for row in content["rows"]] == [(0, 5.1), (1, 5.2)]
    assert content["command"] == "run 0 && run 1"
