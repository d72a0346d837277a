"""`emogen match` and `emogen policy`: files and options in, replies or policies out, or one line for whatever is wrong."""

import gzip
import io
import json
from types import SimpleNamespace

import pytest
import torch

from emogen.checkpoint.folder import save_classifier
from emogen.checkpoint.model import load
from emogen.dialogue.context_fit import mutual_information
from emogen.dialogue.policy import read_policy
from emogen.emotions.labels import LabelSet
from emogen.models.classifier import Classifier, ClassifierConfig
from emogen.recognition.recognizer import load_recognizer

PAIR = LabelSet(("joy", "sadness"))
REPLIES = ("so happy", "so sad", "Day 3 was great, we won.", "no")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, tiny_checkpoint):
    """A working folder with replies and an untrained classifier; models are found by the environment."""
    torch.manual_seed(1)
    save_classifier(tmp_path / "own", PAIR, Classifier(ClassifierConfig(2, "ngrams", buckets=64, width=8)))
    monkeypatch.setenv("EMOGEN_CLASSIFIER", str(tmp_path / "own"))
    monkeypatch.setenv("EMOGEN_CHECKPOINT", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("".join(f"{reply}\n" for reply in REPLIES), encoding="utf-8")
    return tmp_path


def matched(ended):
    status, out, err = ended
    assert (status, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_by_the_emotion_alone(emogen, folder):
    joy = load_recognizer(folder / "own").probabilities(REPLIES)[:, 0]
    found = matched(emogen("match", "a.txt", "--emotion", "joy", "--n", 4, "--json"))
    assert [each["text"] for each in found] == [REPLIES[at] for at in (-joy).argsort()]
    assert [each["line"] for each in found] == [at + 1 for at in (-joy).argsort()]
    assert found[0]["context"] is None
    assert found[0]["asked"] == {"emotion": "joy", "strength": 1.0}
    assert emogen("match", "a.txt", "--emotion", "joy", "-n", 1)[1] == f"{found[0]['fit']:.3f}\t{found[0]['text']}\n"


def test_by_the_context_alone(emogen, tiny_checkpoint):
    fits = mutual_information(load(tiny_checkpoint), ["How was day 3?"])(REPLIES)
    found = matched(emogen("match", "a.txt", "--context", "How was day 3?", "--json"))
    assert [each["text"] for each in found] == [REPLIES[at] for at in (-fits).argsort()[:3]]
    assert found[0]["fit"] == found[0]["context"] == pytest.approx(max(fits), abs=1e-5)
    assert found[0]["emotion"] is None
    assert found[0]["asked"] is None


def test_by_both_and_always_the_same(emogen):
    call = ("match", "a.txt", "--context", "How was day 3?", "--emotion", "joy=0.5,sadness=0.5", "--json")
    weights = ("--emotion-weight", 3, "--context-weight", 0.5)
    for each in matched(emogen(*call, *weights)):
        assert each["fit"] == pytest.approx(3 * each["emotion"] + 0.5 * each["context"], abs=1e-5)
    assert emogen(*call) == emogen(*call)


def test_a_policy_answers_the_user_over_his_turns(emogen, folder):
    """Of three turns the first and the third are the user's; mirror at decay 1 asks for the mean of both."""
    own = load_recognizer(folder / "own").probabilities(["so sad", "so happy"])
    turns = ("--context", "so sad", "--context", "no", "--context", "so happy")
    found = matched(emogen("match", "a.txt", *turns, "--policy", "mirror", "--decay", 1, "--json"))
    shares = dict(part.split("=") for part in found[0]["asked"]["emotion"].split(","))
    assert [float(shares[name]) for name in PAIR.names] == pytest.approx(own.mean(0).tolist(), abs=1e-4)
    last = matched(emogen("match", "a.txt", *turns, "--policy", "mirror", "--decay", 0, "--json"))
    assert last[0]["asked"] != found[0]["asked"]


def test_a_policy_of_ones_own(emogen, folder):
    rows = {name: {"emotion": "sadness", "strength": 0.5} for name in PAIR.names}
    content = {"user": PAIR.names, "reply": PAIR.names, "rows": rows}
    (folder / "mine.json").write_text(json.dumps(content), encoding="utf-8")
    found = matched(emogen("match", "a.txt", "--context", "so", "--policy", "mine.json", "--json"))
    assert found[0]["asked"] == {"emotion": "sadness", "strength": 0.5}


def test_an_encoder_judges_the_context(emogen, bert_folder):
    found = matched(emogen("match", "a.txt", "--context", "so happy", "--encoder", f"hf:{bert_folder}", "--json"))
    assert (found[0]["text"], found[0]["context"], found[0]["fit"]) == ("so happy", 1.0, 10.0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.jsonl", '{"text": "so happy"}\n{"text": ""}\n{"text": "so sad"}\n'),
        ("b.csv", "reply,label\nso happy,joy\n,joy\nso sad,joy\n"),
        ("b.tsv", "id\toutput\n1\tso happy\n2\t\n3\tso sad\n"),
        ("b.txt.gz", "\ufeffso happy\r\n\r\nso sad\r\nso  sad\r\n"),
    ],
)
def test_files_are_read_by_their_endings(emogen, folder, name, content):
    raw = content.encode("utf-8")
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    found = matched(emogen("match", name, "--emotion", "joy", "--n", 9, "--json"))
    assert sorted(each["text"] for each in found) == ["so happy", "so sad"]


def test_a_pipe_and_a_column_by_its_name(emogen, folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO("so happy\n我很开心\n".encode())))
    assert len(matched(emogen("match", "-", "--emotion", "joy", "--json"))) == 2
    (folder / "b.csv").write_text("text,answer\nno,yes\n", encoding="utf-8")
    assert matched(emogen("match", "b.csv", "--emotion", "joy", "--text-column", "answer", "--json"))[0]["text"] == "yes"


def test_thousands_of_replies_and_hostile_ones(emogen, folder):
    odd = ["a" * 300_000, "\u202eabc\0\x1b[31m", "'; DROP TABLE x; --", "\U0001f600" * 999]
    lines = [*(f"Day {number} was great." for number in range(2000)), *odd]
    (folder / "many.txt").write_text("\n".join(lines), encoding="utf-8")
    found = matched(emogen("match", "many.txt", "--emotion", "joy", "--n", 9999, "--json"))
    assert sorted(each["line"] for each in found) == list(range(1, 2005))
    (folder / "odd.txt").write_text("\n".join(odd), encoding="utf-8")
    assert len(matched(emogen("match", "odd.txt", "--context", odd[0], "--n", 9, "--json"))) == 4


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("b.txt", b"", "b.txt: holds no texts"),
        ("b.txt", b"\n \n", "b.txt: no reply to choose from: every text is blank"),
        ("b.txt", b"so\n\xff\n", "b.txt:2: byte 0xff"),
        ("b.jsonl", b'{"text": "a"}\n{"text": 3}\n', "b.jsonl:2: text 3 is no text"),
        ("b.jsonl", b'{"text": "a"}\n{"word": "b"}\n', "b.jsonl:2: no column 'reply' or 'text' or 'output', found word"),
        ("b.jsonl", b'{"text": "a \\ud83d"}\n', "b.jsonl:1: the text holds half of a surrogate pair"),
        ("b.pdf", b"so\n", "b.pdf: ending '.pdf' is not one of .txt"),
        ("b.txt", None, "b.txt: no such file"),
    ],
)
def test_bad_files_end_in_one_line_that_says_where(refusal, folder, name, raw, said):
    if raw is not None:
        (folder / name).write_bytes(raw)
    status, line = refusal("match", name, "--emotion", "joy")
    assert status == 1
    assert said in line


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ((), 2, "nothing to fit: give --context, --emotion or both"),
        (("--emotion", "none"), 2, "nothing to fit: no emotion is asked for; name one, or give --context"),
        (("--emotion", "hunger"), 2, "emotion 'hunger' is not one of joy, sadness"),
        (("--emotion", "joy=0.5"), 2, "emotion weights sum to 0.5, not to 1"),
        (("--emotion", "joy", "--strength", 2), 2, "strength 2 is not between 0 and 1"),
        (("--emotion", "joy", "--policy", "mirror"), 2, "give one of them"),
        (("--policy", "mirror"), 2, "--policy answers what somebody said; give --context"),
        (("--policy", "sooth", "--context", "so"), 2, "policy 'sooth' is not one of mirror, soothe, cheer, neutral"),
        (("--policy", "mine.json", "--context", "so"), 1, "mine.json: cannot be read as a policy (No such file"),
        (("--policy", "mirror", "--context", "so", "--decay", 2), 2, "decay 2 is not between 0 and 1"),
        (("--context", " "), 2, "the context is empty"),
        (("--context", "so", "--checkpoint", "a", "--encoder", "hf:b"), 2, "give one of them"),
        (("--context", "so", "--checkpoint", "nope"), 1, "nope: no checkpoint there"),
        (("--context", "so", "--encoder", "hf:nope"), 1, "hf:nope: cannot be loaded"),
        (("--emotion", "joy", "--recognizer", "nope"), 1, "nope: no classifier there"),
        (("--emotion", "joy", "--emotion-weight", -1), 2, "weight -1 of a fit is not at least 0"),
        (("--emotion", "joy", "--emotion-weight", "nan"), 2, "weight nan of a fit is not at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(refusal, options, status, said):
    found, line = refusal("match", "a.txt", *options)
    assert found == status
    assert said in line


def test_a_policy_over_other_labels_is_refused(refusal, folder):
    content = {"user": ["joy"], "reply": PAIR.names, "rows": {"joy": {"emotion": "joy"}}}
    (folder / "mine.json").write_text(json.dumps(content), encoding="utf-8")
    status, line = refusal("match", "a.txt", "--context", "so", "--policy", "mine.json")
    assert (status, "policy mine has no row for sadness, only for joy" in line) == (2, True)


def test_a_classifier_that_gives_no_numbers_is_refused_with_the_line(refusal, folder):
    classifier = Classifier(ClassifierConfig(2, "ngrams", buckets=64, width=8))
    with torch.no_grad():
        classifier.head.bias.fill_(float("nan"))
    save_classifier(folder / "broken", PAIR, classifier)
    status, line = refusal("match", "a.txt", "--emotion", "joy", "--recognizer", "broken")
    assert (status, line) == (1, "a.txt: line 1: the reply's fit is nan, no finite number; check the model")


def test_policies_are_shown(emogen):
    status, out, _ = emogen("policy", "show")
    assert (status, [block.split(":")[0] for block in out.split("\n\n")]) == (0, ["mirror", "soothe", "cheer", "neutral"])
    status, out, _ = emogen("policy", "show", "mirror", "--user", "empathetic", "--reply", "ekman")
    assert (status, "furious       anger 1.00 (strength 1.00)" in out) == (0, True)
    content = json.loads(emogen("policy", "show", "cheer", "--json")[1])
    assert (content["name"], len(content["rows"])) == ("cheer", 7)


DIALOGUES = (
    '{"context": ["hi", "so sad"], "reply": "very sad", "emotion": "sadness", "split": "train"}\n'
    '{"context": ["so sad"], "reply": "no", "emotion": "joy"}\n'
    '{"context": [], "reply": "very happy", "emotion": "joy", "split": "train"}\n'
    '{"context": ["so sad"], "reply": "very happy", "emotion": "joy", "split": "test"}\n'
)


@pytest.mark.parametrize("name", ["policy.json", "policy.toml"])
def test_a_policy_is_learnt_from_the_labels_of_the_replies(emogen, folder, name):
    """Two rows of training have a context; what the user feels is the recogniser's."""
    (folder / "talk.jsonl").write_text(DIALOGUES, encoding="utf-8")
    options = ("--labels", "joy,sadness", "--emotion-of", "reply", "--smoothing", 0, "--out", name)
    status, out, err = emogen("policy", "learn", "talk.jsonl", *options)
    assert (status, out, err) == (0, f"{name}\n", "")
    found = read_policy(folder / name)
    # The same utterance was answered once with sadness and once with joy.
    assert [row.weights for row in found.rows] == [pytest.approx((0.5, 0.5))] * 2
    assert "2 pairs of turns" in found.intent
    assert emogen("policy", "show", name)[1].splitlines()[1] == "joy      joy 0.50, sadness 0.50 (strength 1.00)"
    assert matched(emogen("match", "a.txt", "--context", "so", "--policy", name, "--json"))


def test_a_policy_is_learnt_from_what_users_felt_or_from_nobodys_labels(emogen, folder):
    (folder / "talk.jsonl").write_text(DIALOGUES, encoding="utf-8")
    assert emogen("policy", "learn", "talk.jsonl", "--emotion-of", "user", "--smoothing", 0, "--out", "user.json")[0] == 0
    own = load_recognizer(folder / "own").probabilities(["very sad", "no"])
    rows = dict(zip(read_policy(folder / "user.json").user.names, read_policy(folder / "user.json").rows, strict=True))
    # The file's names are Ekman's; two of them were felt.
    assert rows["sadness"].weights == pytest.approx(own[0], abs=1e-5)
    assert rows["joy"].weights == pytest.approx(own[1], abs=1e-5)
    assert rows["fear"].strength == 0
    assert emogen("policy", "learn", "talk.jsonl", "--most", 1, "--smoothing", 0, "--out", "own.json")[0] == 0
    found = read_policy(folder / "own.json")
    assert found.user == found.reply == PAIR
    assert "1 pairs of turns" in found.intent
    assert found.rows[0].weights == pytest.approx(own[0], abs=1e-5)


def test_what_no_policy_can_be_learnt_from_is_refused(refusal, folder):
    (folder / "talk.jsonl").write_text('{"reply": "no", "emotion": "joy"}\n', encoding="utf-8")
    (folder / "other.jsonl").write_text('{"context": ["no"], "reply": "no", "emotion": "hunger"}\n', encoding="utf-8")
    for arguments, said in [
        (("talk.jsonl", "--out", "p.json"), "0 pairs of turns hold no feeling"),
        (("talk.jsonl", "other.jsonl", "--out", "p.json"), "the files have different labels; give --labels"),
        (("talk.jsonl", "--out", "p.yaml"), "p.yaml: a policy's file ends in .json or .toml"),
        (("nope.jsonl", "--out", "p.json"), "nope.jsonl"),
    ]:
        assert said in refusal("policy", "learn", *arguments)[1]
    assert "policy 'sooth' is not one of" in refusal("policy", "show", "sooth")[1]
    assert not (folder / "p.json").exists()


def test_the_other_columns_of_a_reply_stay(emogen, folder):
    rows = ({"id": number, "reply": reply, "tags": ["a"]} for number, reply in enumerate(REPLIES))
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = matched(emogen("match", "a.jsonl", "--emotion", "JOYFUL", "--n", 4, "--json"))
    assert [REPLIES[each["row"]["id"]] for each in found] == [each["text"] for each in found]
    assert {str(each["row"]["tags"]) for each in found} == {"['a']"}
    assert found[0]["asked"] == {"emotion": "joy", "strength": 1.0}
    lines = emogen("match", "a.jsonl", "--emotion", "joy")[1].splitlines()
    assert [line.split("\t")[1:] for line in lines] == [[each["text"], str(each["row"]["id"]), '["a"]'] for each in found[:3]]
    assert "row" not in matched(emogen("match", "a.txt", "--emotion", "joy", "--json"))[0]


def test_no_emotion_leaves_the_choice_to_the_context(emogen):
    found = matched(emogen("match", "a.txt", "--context", "How was day 3?", "--emotion", "None", "--json"))
    plain = matched(emogen("match", "a.txt", "--context", "How was day 3?", "--json"))
    assert found[0]["asked"] == {"emotion": "none", "strength": 0.0}
    assert [each["fit"] for each in found] == [each["fit"] for each in plain]
