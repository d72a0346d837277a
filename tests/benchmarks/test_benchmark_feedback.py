"""The benchmark of feedback: whom the simulated user prefers, what must hold, and a run from end to end with a tiny model."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from emogen.checkpoint.folder import save_classifier
from emogen.data.fingerprints import fingerprints, write_fingerprints
from emogen.emotions.labels import EKMAN
from emogen.evaluate.score import Score
from emogen.models.classifier import Classifier, ClassifierConfig

TOP = Path(__file__).parents[2]


@pytest.fixture
def feedback(monkeypatch):
    spec = importlib.util.spec_from_file_location("feedback", TOP / "evaluate" / "feedback.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "feedback", module)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def test_the_user_likes_short_replies_that_ask_back(feedback):
    assert feedback.likes("Oh no. What happened?")
    assert feedback.likes("Why? ")
    for text in ("Oh no.", "What? Never.", "", "?" * 0, "word " * 15 + "?"):
        assert not feedback.likes(text)
    assert feedback.prefers("Why?", "Oh.") == 1
    assert feedback.prefers("Oh.", "Why?") == -1
    assert feedback.prefers("Why?", "When?") == feedback.prefers("Oh.", "No.") == 0


def score(value):
    return Score(value, value, value, "")


def rows(preferred, old, new):
    for one, before, after in zip(preferred, old, new, strict=True):
        yield {"system": "old", "preference": score(0.5), "emotion_accuracy": score(before)}
        yield {"system": "new", "preference": score(one), "emotion_accuracy": score(after)}


@pytest.mark.parametrize(
    ("preferred", "new", "holds"),
    [
        ((0.7, 0.7, 0.7), (0.9, 0.9, 0.9), [True, True]),
        ((0.8, 0.7, 0.57), (0.88, 0.88, 0.88), [False, True]),
        ((0.9, 0.9, 0.9), (0.87, 0.87, 0.89), [True, False]),
    ],
)
def test_what_must_hold_is_of_the_means(feedback, preferred, new, holds):
    found = feedback.checked(list(rows(preferred, (0.9, 0.9, 0.9), new)))
    assert [check["holds"] for check in found] == holds


def test_a_run_from_end_to_end(feedback, monkeypatch, tiny_checkpoint, rows_file, tmp_path):
    """A tiny model asks nothing back, so that this user likes replies of an even number of bytes."""
    monkeypatch.setattr(feedback, "likes", lambda text: len(text.encode()) % 2 == 0)
    written = feedback.replies
    # What it writes at random would be too long to be trained on.
    monkeypatch.setattr(feedback, "replies", lambda *target: [text[:5] for text in written(*target)])
    small = {"min_pairs": 2, "batch_size": 4, "precision": "float32"}
    monkeypatch.setattr(feedback, "FeedbackSettings", partial(feedback.FeedbackSettings, **small))
    judge = tmp_path / "judge"
    save_classifier(judge, EKMAN, Classifier(ClassifierConfig(len(EKMAN), "ngrams", buckets=64, width=4)))
    write_fingerprints(judge, fingerprints(["a row of its own"]))
    given = {"--corpus": rows_file, "--checkpoint": tiny_checkpoint, "--judge": judge, "--split": "valid", "--epochs": 1}
    arguments = [str(part) for pair in given.items() for part in pair]
    out = tmp_path / "feedback.json"
    run = CliRunner().invoke(feedback.main, [*arguments, "--seed", "0", "--seed", "1", "--out", str(out)])
    assert run.exit_code == 0, run.output
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["system"], row["seed"]) for row in found["rows"]] == [("old", 0), ("new", 0), ("old", 1), ("new", 1)]
    for row in found["rows"]:
        assert 0 <= row["preference_interval"][0] <= row["preference"] <= row["preference_interval"][1] <= 1
        assert row["n"] == 8
    new = found["rows"][1]
    assert new["opinions"] <= 2 * 32
    assert {"held_out_before", "held_out_after", "pairs"} <= set(new)
    assert found["leak"] == "none"
    assert str(tmp_path) not in json.dumps(found)
    assert run.stdout.splitlines()[0].split()[0] in ("holds", "MISSED")
