"""Feedback from the command line: training on a store and on a file of pairs, the table, and what is refused."""

import json
import os

import pytest

from emogen.checkpoint.folder import save_classifier
from emogen.checkpoint.model import load
from emogen.data.preferences import Preference, write_preferences
from emogen.dialogue.feedback import FeedbackStore, Opinion
from emogen.emotions.labels import EKMAN, LabelSet, parse_emotion
from emogen.models.classifier import Classifier, ClassifierConfig

FAST = ["--steps", "6", "--batch-size", "4", "--learning-rate", "0.01", "--device", "cpu", "--precision", "float32"]
JOY, SADNESS = (parse_emotion(name, EKMAN) for name in ("joy", "sadness"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder of its own, with nothing in the environment."""
    for name in [name for name in os.environ if name.startswith("EMOGEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def judge(folder):
    """A classifier that knows nothing."""
    save_classifier(folder / "judge", EKMAN, Classifier(ClassifierConfig(len(EKMAN), "ngrams", buckets=64, width=4)))
    return "judge"


def rate(address, contexts=24):
    """Users like `great`: a good and a bad reply to each context."""
    with FeedbackStore(address) as store:
        for number in range(contexts):
            context, emotion = (f"How was day {number}?",), (JOY, SADNESS)[number % 2]
            for text, verdict in (("great", "good"), ("awful", "bad")):
                reply = f"{number}-{verdict}"
                store.rate(Opinion(reply, context, f"Day {number} was {text}.", emotion, verdict, session=f"s{number % 2}"))


def test_a_store_becomes_a_better_model_and_a_table(emogen, tiny_checkpoint, judge):
    rate("feedback.db")
    run = ["--checkpoint", tiny_checkpoint, "--out", "new", "--judge", judge, "--texts", "2", *FAST]
    status, out, err = emogen("train-feedback", *run)
    assert status == 0
    header, before, after = out.splitlines()[:3]
    assert header.split() == ["texts", "preference", "reward_preference", "emotion_accuracy"]
    assert [line.split()[:2] for line in (before, after)] == [["before", "14"], ["after", "14"]]
    assert "0.500 [0.500, 0.500]" in before
    assert "note: 5 pairs of 5 contexts held out, 19 trained on" in out
    assert "the new model stands in new" in err
    assert load("new").labels == EKMAN


def test_json_says_the_same_for_machines(emogen, tiny_checkpoint, judge):
    """The tiny model learns at once that `great` gains on `awful`, on contexts that it was not trained on."""
    rate("feedback.db")
    run = ["--checkpoint", tiny_checkpoint, "--out", "new", "--judge", judge, "--texts", "1", "--json", *FAST]
    status, out, _ = emogen("train-feedback", *run)
    assert status == 0
    found = json.loads(out)
    assert found["checkpoint"] == "new"
    assert found["start"] == str(tiny_checkpoint)
    after = found["systems"]["after"]["scores"]
    assert after["reward_preference"]["value"] == 1
    assert "judge:judge|leak:allowed(" in after["emotion_accuracy"]["signature"]
    assert {comparison["metric"] for comparison in found["comparisons"]} == set(after)


def test_a_file_of_pairs_needs_no_store_and_texts_0_no_judge(emogen, tiny_checkpoint, folder):
    pairs = [Preference((f"Day {number}?",), JOY, "It was great.", "It was awful.") for number in range(20)]
    write_preferences(folder / "pairs.jsonl", pairs)
    run = ["--feedback", "pairs.jsonl", "--checkpoint", tiny_checkpoint, "--out", "new", "--texts", "0", *FAST]
    status, out, _ = emogen("train-feedback", *run)
    assert status == 0
    assert "emotion_accuracy" not in out
    assert "preference" in out


def test_a_finished_run_is_resumed_with_its_settings(emogen, tiny_checkpoint):
    rate("feedback.db")
    run = ["--texts", "0", "--json"]
    first = emogen("train-feedback", "--checkpoint", tiny_checkpoint, "--out", "new", *run, *FAST)
    again = emogen("train-feedback", "--resume", "--out", "new", *run)
    assert (first[0], again[0]) == (0, 0)
    assert json.loads(again[1]) == json.loads(first[1])


def test_too_few_pairs_are_one_line(refusal, tiny_checkpoint):
    rate("feedback.db", 3)
    status, line = refusal("train-feedback", "--checkpoint", tiny_checkpoint, "--out", "new", *FAST)
    assert status == 1
    assert line.startswith("feedback.db: 3 pairs")
    assert "20 pairs of 2 contexts are needed" in line


def test_no_store_is_one_line(refusal, folder):
    assert refusal("train-feedback") == (1, "feedback.db: no such file; opinions are stored by a chat or a server")
    assert not list(folder.iterdir())


def test_pairs_in_another_form_are_one_line(refusal):
    """Not taken for the address of a database."""
    for name in ("pairs.json", "pairs.csv"):
        conditioning = f"--feedback {name}: pairs are read from JSON Lines; write one object a line into a .jsonl file"
        assert refusal("train-feedback", "--feedback", name) == (2, conditioning)


def test_a_judge_of_other_labels(emogen, refusal, tiny_checkpoint, folder):
    """Named, it is refused before anything is trained; the one that ships is left out with a note."""
    labels = LabelSet(("hunger", "thirst"))
    save_classifier(folder / "other", labels, Classifier(ClassifierConfig(2, "ngrams", buckets=64, width=4)))
    rate("feedback.db")
    status, line = refusal("train-feedback", "--checkpoint", tiny_checkpoint, "--judge", "other", "--out", "new", *FAST)
    assert status == 2
    assert "knows no anger" in line
    assert not (folder / "new").exists()


def test_wrong_usage_is_2(refusal):
    status, line = refusal("train-feedback", "--beta", "0")
    assert status == 2
    assert "--beta 0.0" in line


def test_export_and_forget(emogen, refusal):
    rate("feedback.db", 4)
    status, out, _ = emogen("feedback", "export")
    assert status == 0
    assert [json.loads(line)["reply"] for line in out.splitlines()][:2] == ["0-good", "0-bad"]
    assert emogen("feedback", "forget", "--session", "s1")[:2] == (0, "4\n")
    assert emogen("feedback", "forget", "--reply", "0-bad")[:2] == (0, "1\n")
    assert len(emogen("feedback", "export")[1].splitlines()) == 3
    assert refusal("feedback", "forget")[0] == 2


def rate_once(address, contexts=40):
    """One thumb a message: users like `great`."""
    with FeedbackStore(address) as store:
        for number in range(contexts):
            text, verdict = (("great", "good"), ("awful", "bad"))[number % 2]
            context, emotion = (f"How was day {number}?",), (JOY, SADNESS)[number // 2 % 2]
            store.rate(Opinion(f"{number}", context, f"Day {number} was {text}.", emotion, verdict, session=f"s{number % 2}"))


def test_thumbs_on_single_messages_are_learnt_from(emogen, tiny_checkpoint):
    """No message has two opinions: there is no pair. Held-out good replies gain on held-out bad ones."""
    rate_once("feedback.db")
    run = ["--checkpoint", tiny_checkpoint, "--texts", "0", *FAST, "--steps", "60"]
    status, out, err = emogen("train-feedback", *run, "--out", "new")
    assert status == 0
    assert "emogen: 0 pairs, 40 single opinions: training on single opinions (KTO)" in err
    header, before, after = out.splitlines()[:3]
    assert header.split() == ["texts", "reward_preference"]
    assert before.split()[:3] == ["before", "0", "0.500"]
    assert float(after.split()[2]) > 0.9
    assert "note: 8 opinions of 8 contexts held out, 32 trained on" in out
    again = emogen("train-feedback", *run, "--out", "again", "--loss", "kto")
    assert again[1] == out
    status, _, err = emogen("train-feedback", *run, "--out", "pairs", "--loss", "dpo")
    assert (status, "0 pairs of a good and a bad reply" in err) == (1, True)


def test_opinions_of_one_kind_alone_teach_nothing(emogen, tiny_checkpoint):
    with FeedbackStore("feedback.db") as store:
        for number in range(30):
            store.rate(Opinion(f"{number}", (f"Day {number}?",), "Fine.", JOY, "good", session="s"))
    status, _, err = emogen("train-feedback", "--checkpoint", tiny_checkpoint, "--texts", "0", *FAST, "--out", "new")
    assert status == 1
    assert err.splitlines()[-1].endswith("all opinions are good; some of both are needed")
