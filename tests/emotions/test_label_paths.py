"""One rule in every path: names of emotions, the words none and auto, labels too rare to learn, pairs that teach nothing."""

import json
import logging
import shutil

import pytest
from starlette.testclient import TestClient

import emogen as library
from emogen.checkpoint.model import load
from emogen.data.exchange import Reading
from emogen.data.preferences import Preference, read_preferences, usable_pairs
from emogen.dialogue.engine import Engine
from emogen.dialogue.feedback import Opinion, preferences
from emogen.dialogue.session import SessionConfig, emotion_for
from emogen.dialogue.state import at_rest
from emogen.emotions.labels import EKMAN, LabelSet, mixture, no_emotion, parse_emotion
from emogen.errors import DataError
from emogen.hub.logits_processors import emotions_of
from emogen.server.app import build_app
from emogen.server.settings import ServerSettings
from emogen.train.config import ClassifierSettings, LmSettings
from emogen.train.corpus import open_corpus
from emogen.train.fit import fit_lm
from emogen.train.fit_classifier import fit_classifier

TINY = {"steps": 2, "batch_size": 8, "device": "cpu"}
OWN = LabelSet(("auto", "cosy", "none"))


@pytest.fixture(scope="module")
def own_model(tmp_path_factory):
    """A language model of a user who calls his labels auto, cosy and none; read only."""
    folder = tmp_path_factory.mktemp("own")
    rows = "".join(f"text {number},{OWN.names[number % 3]}\n" for number in range(30))
    (folder / "rows.csv").write_text(f"text,label\n{rows}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOGEN_DATA", str(folder / "cache"))
        settings = LmSettings(**TINY, width=16, layers=1, precision="float32", out=str(folder / "lm"))
        return fit_lm([str(folder / "rows.csv")], Reading(), settings)


def sampled(emogen, folder, target):
    status, out, err = emogen("sample", "--checkpoint", folder, "--emotion", target, "--seed", 1, "--max-tokens", 3, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)["emotion"]


def chatted(emogen, monkeypatch, folder, lines, *options):
    monkeypatch.setattr("emogen.cli.chat._lines", lambda: iter(lines))
    status, out, _ = emogen("chat", "--checkpoint", folder, "--seed", 1, "--max-tokens", 3, "--json", *options)
    assert status == 0
    return [(found["emotion"], found["strength"]) for found in map(json.loads, out.splitlines())]


def served(folder, **body):
    with Engine(load(folder)) as engine:
        client = TestClient(build_app(ServerSettings(), engine, None, None, lambda: 0.0), "http://127.0.0.1")
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, **body}
        found = client.post("/v1/chat/completions", json=body)
        return found.status_code, found.json()


@pytest.mark.parametrize("word", ["none", "None", "auto", "COSY"])
def test_a_label_goes_before_the_word_in_every_path(own_model, emogen, monkeypatch, word):
    label = word.lower()
    model = load(own_model)
    assert model.labels == OWN
    assert model.emotion(word, 0.5) == mixture({label: 1.0}, OWN, 0.5)
    assert sampled(emogen, own_model, word) == label
    status, found = served(own_model, emotion=word)
    assert (status, found["emogen"]["emotion"]) == (200, label)
    with Engine(model) as engine:
        assert emotion_for(SessionConfig(emotion=word), None, engine) == mixture({label: 1.0}, OWN)


def test_chat_asks_for_the_label_too(own_model, emogen, monkeypatch):
    found = chatted(
        emogen, monkeypatch, own_model, ["Hello.", "/emotion None", "Hello.", "/strength 0", "Hi."], "--emotion", "auto"
    )
    assert found == [("auto", 1.0), ("none", 1.0), ("none", 0.0)]


def test_the_words_mean_no_emotion_and_the_policy_where_no_label_has_them(tiny_checkpoint, emogen, monkeypatch):
    assert sampled(emogen, tiny_checkpoint, "NONE") == "none"
    lines = ["Hi.", "/emotion None", "Hi.", "/emotion AUTO", "Hi."]
    found = chatted(emogen, monkeypatch, tiny_checkpoint, lines, "--policy", "neutral")
    assert [emotion for emotion, _ in found] == ["neutral", "none", "neutral"]
    assert found[1][1] == 0.0
    for word in ("none", "auto", None):
        status, found = served(tiny_checkpoint, emotion=word)
        assert (status, found["emogen"]["emotion"]) == (200, "none")
    with Engine(load(tiny_checkpoint)) as engine:
        felt = at_rest(EKMAN).after(parse_emotion("fear", EKMAN))
        assert emotion_for(SessionConfig(emotion="Auto"), felt, engine) == emotion_for(SessionConfig(), felt, engine)


@pytest.mark.parametrize(("word", "label"), [("Happy", "joy"), ("伤心", "sadness"), ("FEAR", "fear"), ("thankful", "joy")])
def test_an_emotion_is_named_in_other_words_in_every_path(tiny_checkpoint, tmp_path, emogen, monkeypatch, word, label):
    model = library.load(tiny_checkpoint)
    assert model.emotion(word).name == label
    assert sampled(emogen, tiny_checkpoint, word) == label
    assert chatted(emogen, monkeypatch, tiny_checkpoint, ["Hi.", f"/emotion {word}", "Hi."])[1] == (label, 1.0)
    for target in (word, {word: 1.0}, f"{word}=1"):
        assert served(tiny_checkpoint, emotion=target)[1]["emogen"]["emotion"] == label
    assert emotions_of(word, EKMAN, 1.0, 1) == [mixture({label: 1.0}, EKMAN)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"context": ["Hi"], "emotion": word, "better": "Good.", "worse": "Bad."}), encoding="utf-8")
    assert [pair.emotion.name for pair in read_preferences(pairs, EKMAN)] == [label]


def test_close_names_are_said_in_every_path(tiny_checkpoint, refusal):
    status, line = refusal("sample", "--checkpoint", tiny_checkpoint, "--emotion", "hapiness")
    assert (status, line.endswith("(did you mean happiness, read as joy?)")) == (2, True)
    status, found = served(tiny_checkpoint, emotion="sadnes")
    assert (status, "did you mean sadness?" in found["error"]["message"]) == (400, True)


# ---- labels too rare to learn


def rows(emotion, count, split="train", reply="We sat by the river."):
    return [{"reply": f"{reply} {n}", "emotion": emotion, "split": split} for n in range(count)]


COMMON = [*rows("joy", 9), *rows("sadness", 9), *rows("joy", 3, "valid"), *rows("sadness", 3, "test")]
LONG = "rows that are too long"
RARE = {
    "one row": (rows("fear", 1), "emotion 'fear' has a single row to train on ("),
    "one row in train": ([*rows("fear", 1), *rows("fear", 4, "valid")], "emotion 'fear' has a single row to train on ("),
    "held-out rows alone": (rows("fear", 4, "valid"), "emotion 'fear' has none of its 4 rows to train on ("),
    LONG: (rows("fear", 4, reply="on and on " * 60), "emotion 'fear' has none of its 4 rows to train on ("),
}
COMMANDS = {
    "train-lm": ("--preset", "tiny"),
    "train-vae": ("--preset", "tiny"),
    "train-gan": ("--preset", "tiny", "--warmup-steps", "1"),
    "train-gan --init": ("--preset", "tiny", "--warmup-steps", "1", "--init", "lm"),
    "train-lm --init": ("--preset", "tiny", "--init", "lm"),
    "train-classifier": ("--backbone", "ngrams"),
    "train-head": ("--checkpoint", "lm", "--allow-worse", "yes"),
}


# A classifier reads the beginning of a long text: to it such a row is one to train on.
REFUSED = [(command, case) for command in COMMANDS for case in RARE if (command, case) != ("train-classifier", LONG)]


@pytest.mark.parametrize(("command", "case"), REFUSED)
def test_no_command_learns_a_label_that_is_too_rare(refusal, tmp_path, monkeypatch, tiny_checkpoint, command, case):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    shutil.copytree(tiny_checkpoint, "lm")
    few, message = RARE[case]
    with open("rows.jsonl", "w") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in [*COMMON, *few])
    status, line = refusal(command.split()[0], "rows.jsonl", "--steps", 2, *COMMANDS[command])
    assert (status, line[: len(message)]) == (1, message)
    assert line.endswith("; add rows, read it as another with --map, or drop it")


def test_labels_that_no_row_has_are_let_be(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in COMMON))
    for labels in (EKMAN, LabelSet(("joy", "sadness", "longing"))):
        out = str(tmp_path / str(len(labels)))
        assert fit_classifier(
            [str(path)], Reading(labels=labels), ClassifierSettings(**TINY, backbone="ngrams", out=out)
        ).exists()


def test_training_says_how_labels_were_read(tmp_path, caplog):
    own, other = tmp_path / "own.csv", tmp_path / "other.csv"
    own.write_text("text,label\na,Warm\nb,warm\nc,cold\nd,\n")
    other.write_text("text,label\na,WARM\nb,mild\n")
    with caplog.at_level(logging.WARNING, "emogen"):
        corpus = open_corpus([str(own), str(other)], Reading(skip_blank=True))
    assert corpus.labels == LabelSet(("cold", "mild", "warm"))
    assert corpus.rows == (1, 1, 3)
    assert [exchange.emotion.name for exchange in corpus.exchanges()] == ["warm", "warm", "cold", "warm", "mild"]
    assert [record.getMessage() for record in caplog.records] == [
        f"emogen: note: {own}: label 'warm' is also read from 'Warm' 1 (1 row)",
        f"emogen: note: {own}: 1 row without a text or a label left out",
        f"emogen: note: {other}: label 'warm' is also read from 'WARM' 1 (1 row)",
    ]


@pytest.mark.parametrize("command", ["train-lm", "train-vae", "train-gan --init", "train-head", "train-classifier"])
def test_without_valid_rows_no_figure_passes_for_held_out(emogen, tmp_path, monkeypatch, tiny_checkpoint, command, caplog):
    """A generator's figures are then of its training rows, which is said; a classifier is chosen by them, and refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    shutil.copytree(tiny_checkpoint, "lm")
    with open("rows.jsonl", "w") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in COMMON if row["split"] == "train")
    status, _, err = emogen(command.split()[0], "rows.jsonl", "--steps", 2, "--device", "cpu", *COMMANDS[command])
    said = [record.getMessage() for record in caplog.records]
    if command == "train-classifier":
        assert (status, "no valid row; a classifier needs both" in err) == (1, True)
    else:
        assert (status, sum("no valid row: figures called held-out" in message for message in said)) == (0, 1)


def test_map_in_the_settings_of_a_run(emogen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    (tmp_path / "rows.csv").write_text("text,label\n" + "a,up\nb,down\nc,so so\n" * 20)
    (tmp_path / "run.toml").write_text(
        '[map]\nup = "joy"\ndown = "sadness"\n"so so" = "fear"\n[train-lm]\nsteps = 2\nwidth = 16\n'
    )
    options = ("--config", "run.toml", "--map", "So So=neutral", "--map", "so so=neutral", "--labels", "ekman", "--out", "lm")
    assert emogen("train-lm", "rows.csv", "--preset", "tiny", *options)[0] == 0
    kept = json.loads((tmp_path / "lm" / "train.json").read_text())["reading"]["renames"]
    assert {name: label for name, label in kept if name.islower()} == {"up": "joy", "down": "sadness", "so so": "neutral"}


# ---- pairs that teach nothing

JOY = mixture({"joy": 1.0}, EKMAN)
TAUGHT = [("Good.", "Bad."), ("Good.", "Hm."), ("Bad.", "Good.")]
NOTHING = [("Same.", "Same."), ("Same. ", " Same."), ("", "Bad."), ("Good.", " "), ("", ""), ("Good.", "Bad.")]


def test_pairs_are_usable_by_one_rule_from_a_file_and_from_opinions():
    pairs = [Preference(("Hi",), JOY, better, worse) for better, worse in [*TAUGHT, *NOTHING]]
    assert [(pair.better, pair.worse) for pair in usable_pairs(pairs)] == TAUGHT
    for better, worse in NOTHING[:-1]:
        opinions = [Opinion("a", ("Hi",), better, JOY, "good"), Opinion("b", ("Hi",), worse, JOY, "bad")]
        assert preferences(opinions) == []


@pytest.mark.parametrize("better", ["Same.", "Same.  "])
def test_a_file_of_equal_pairs_is_refused(refusal, tmp_path, monkeypatch, tiny_checkpoint, better):
    monkeypatch.chdir(tmp_path)
    pairs = [{"context": [f"Hi {n}"], "emotion": "joy", "better": better, "worse": "Same."} for n in range(30)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    status, line = refusal("train-feedback", "--feedback", "pairs.jsonl", "--checkpoint", tiny_checkpoint, "--texts", 0)
    assert status == 1
    assert line.startswith("pairs.jsonl: 0 pairs of a good and a bad reply")
    assert "(30 more stand there twice, or have replies that are equal or blank)" in line


def test_no_emotion_is_what_null_and_none_ask_for_in_pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    target = ('"emotion": null, ', '"emotion": "none", ', "")
    path.write_text("".join(f'{{{emotion}"better": "a", "worse": "b"}}\n' for emotion in target))
    assert {pair.emotion for pair in read_preferences(path, EKMAN)} == {no_emotion(EKMAN)}


def test_an_unknown_emotion_in_pairs_is_told_with_its_line(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"better": "a", "worse": "b"}\n{"emotion": "sadnes", "better": "a", "worse": "b"}\n')
    with pytest.raises(DataError, match=r"pairs.jsonl:2: emotion 'sadnes' is not one of .*did you mean sadness"):
        list(read_preferences(path, EKMAN))
