"""Control from the command line: what trains, measures and steers, and one line for what a model cannot serve."""

import json
import os
import re
import shutil

import numpy as np
import pytest

from emogen.checkpoint import finding
from emogen.checkpoint import folder as checkpoint_folder
from emogen.checkpoint import model as checkpoint
from emogen.checkpoint.folder import save_classifier
from emogen.checkpoint.model import load
from emogen.cli import main
from emogen.decoding.control import parse_control
from emogen.decoding.postprocessing import parse_postprocessing
from emogen.emotions.labels import EKMAN, LabelSet
from emogen.models.classifier import Classifier, ClassifierConfig
from emogen.recognition.recognizer import load_recognizer
from emogen.train.calibration import Gain

HEAD = ["--steps", "3", "--batch-size", "8", "--rank", "2", "--device", "cpu", "--precision", "float32"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder of its own, with nothing in the environment."""
    for name in [name for name in os.environ if name.startswith("EMOGEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def model(tiny_checkpoint, folder):
    """A copy of the small model, which heeds its emotion."""
    copied = shutil.copytree(tiny_checkpoint, folder / "lm")
    found = load(copied)
    found.model.inject.weight.data.normal_()
    checkpoint_folder.save_model(copied, found.description, found.model)
    return copied


def classifier(where, labels=EKMAN):
    made = Classifier(ClassifierConfig(len(labels), buckets=64, width=4))
    for parameter in made.parameters():
        parameter.data.normal_()
    save_classifier(where, labels, made)
    return where


@pytest.fixture
def guide(folder):
    return classifier(folder / "guide")


def sampled(emogen, model, *options):
    status, out, err = emogen("sample", "--checkpoint", model, "--emotion", "joy", "--seed", "1", "-n", "4", "--json", *options)
    assert (status, err) == (0, "")
    return [json.loads(line)["text"] for line in out.splitlines()]


# ---- an emotion head


def test_a_head_is_trained_and_steers(emogen, model, rows_file):
    """It goes into the model's folder, whose weights stay; what was learnt is told; then control head has an effect."""
    before = (model / "model.safetensors").read_bytes()
    status, out, err = emogen(
        "train-head", "--checkpoint", model, *HEAD, "--learning-rate", "0.1", "--allow-worse", "yes", rows_file
    )
    assert (status, out) == (0, f"{model}\n")
    assert "emogen: held-out nats a token: nll " in err
    assert ", chance " in err
    assert (model / "model.safetensors").read_bytes() == before
    texts = sampled(emogen, model, "--control", "head:50", "--temperature", "1")
    options = checkpoint.replace(load(model).default_sampling, temperature=1.0, control=parse_control("head:50"))
    assert texts == [found.text for found in load(model).sample("joy", 4, sampling=options, seed=1)]
    assert texts != sampled(emogen, model, "--control", "none", "--temperature", "1")


def test_without_files_the_starter_corpus_is_read(emogen, model, monkeypatch):
    from emogen.train import fit_head

    target = []

    def fitted(files, reading, settings):
        target.append((files, settings.checkpoint, settings.steps))
        return model, {"nll": 1.0}

    monkeypatch.setattr(fit_head, "fit_head", fitted)
    assert emogen("train-head", "--checkpoint", model, "--steps", "9")[:2] == (0, f"{model}\n")
    assert target == [(("starter",), str(model), 9)]


def test_what_no_head_can_be_trained_on(refusal, guide, model, folder):
    assert refusal("train-head", "--checkpoint", "none")[0] == 1
    status, line = refusal("train-head", "--checkpoint", guide)
    assert (status, line.startswith(f"{guide}: is a classifier")) == (1, True)
    assert refusal("train-head", "--checkpoint", model, "--rank", "0") == (2, "--rank 0: allowed is 1 or more")
    (folder / "empty.jsonl").write_text("")
    assert refusal("train-head", "--checkpoint", model, folder / "empty.jsonl")[0] == 1


# ---- calibration


def test_a_model_is_calibrated(emogen, model, guide):
    """The file is beside the weights, says how it was measured, and is heeded under its control alone."""
    arguments = ["calibrate", "--checkpoint", model, "--guide", guide, "--texts", "1", "--control", "guidance:1.5"]
    arguments += ["--allow-worse", "yes"]
    plain = sampled(emogen, model, "--control", "none", "--strength", "0.5")
    steered = sampled(emogen, model, "--control", "guidance:1.5", "--strength", "0.5")
    status, out, err = emogen(*arguments, "--device", "cpu")
    assert (status, out) == (0, f"{model}\n")
    assert re.fullmatch(
        r"emogen: mean error on new texts: strengths 0\.\d{3} -> 0\.\d{3}.*, mixtures 0\.\d{3} -> 0\.\d{3}.*\n", err
    )
    content = json.loads((model / "calibration.json").read_text())
    assert content["labels"] == list(EKMAN.names)
    assert content["control"] == "guidance:1.5"
    assert content["signature"].startswith("guide guide ")
    assert content["signature"].endswith("; 1 texts a point, seed 0, temperature 0.6")
    content["strengths"] = [[0.0, 0.1, 1.0]] * 7
    (model / "calibration.json").write_text(json.dumps(content))
    assert sampled(emogen, model, "--control", "none", "--strength", "0.5") == plain
    assert sampled(emogen, model, "--control", "guidance:1.5", "--strength", "0.5") != steered
    status, out, _ = emogen(
        "sample", "--checkpoint", model, "--emotion", "joy", "--control", "guidance:1.5", "--strength", "0.5", "--json"
    )
    assert (status, json.loads(out)["emotion"]) == (0, "joy")


def test_the_control_of_the_model_itself_is_measured_by_default(emogen, model, guide):
    arguments = ["--guide", guide, "--texts", "1", "--allow-worse", "yes", "--device", "cpu"]
    assert emogen("calibrate", "--checkpoint", model, *arguments)[0] == 0
    found = load(model)
    assert found.calibration.control == found.default_sampling.control


def test_a_calibration_that_helps_nowhere_is_not_kept(emogen, model, guide, monkeypatch):
    """It ends in one line, and a calibration that stood there stays."""
    given = ["calibrate", "--checkpoint", model, "--guide", guide, "--texts", "1", "--device", "cpu"]
    emogen(*given, "--allow-worse", "yes")
    before = (model / "calibration.json").read_text()
    monkeypatch.setattr("emogen.train.calibration.measure_gain", lambda judged, found: Gain((0.1, 0.1), (0.2, 0.3)))
    status, out, err = emogen(*given, "--seed", "1")
    assert (status, out) == (1, "")
    conditioning, refused = err.splitlines()
    assert conditioning == (
        "emogen: mean error on new texts: strengths 0.100 -> 0.100 (no truer), mixtures 0.200 -> 0.300 (no truer)"
    )
    assert refused.startswith("emogen: the calibration makes neither strengths nor mixtures truer, and is not put into ")
    assert refused.endswith("; raise --texts, take another --guide or --control, or pass --allow-worse yes")
    assert (model / "calibration.json").read_text() == before


@pytest.mark.parametrize("command", ["train-head", "calibrate", "train-feedback"])
def test_settings_from_a_file(emogen, refusal, folder, command):
    """Shown, read back, and overruled by the command line; a table of the command's name is taken, others are let be."""
    path = folder / "own.toml"
    path.write_text('seed = 7\ndevice = "cpu"\n')
    shown = emogen(command, "--config", path, "--show-config", "--seed", "9")[1]
    assert 'device = "cpu"\n' in shown
    assert "seed = 9\n" in shown
    path.write_text(shown)
    assert emogen(command, "--config", path, "--show-config")[1] == shown
    path.write_text(f"[{command}]\nseed = 5\n[train-lm]\nwidth = 8\n")
    assert "seed = 5\n" in emogen(command, "--config", path, "--show-config")[1]
    path.write_text("colour = 1\n")
    status, line = refusal(command, "--config", path)
    assert (status, line.startswith(f"{path}: unknown setting 'colour'; known are ")) == (2, True)


def test_what_cannot_be_calibrated(refusal, model, guide, folder):
    given = ["calibrate", "--checkpoint", model, "--guide", guide]
    assert refusal(*given, "--texts", "0") == (2, "--texts 0: allowed is 1 or more")
    assert refusal(*given, "--control", "head:2", "--texts", "1")[0] == 2
    assert refusal(*given, "--control", "boost:2")[0] == 2
    assert refusal("calibrate", "--checkpoint", model, "--guide", "nowhere")[0] == 1
    assert refusal("calibrate", "--checkpoint", guide, "--guide", guide)[0] == 1
    other = classifier(folder / "other", LabelSet(("joy", "calm")))
    status, line = refusal("calibrate", "--checkpoint", model, "--guide", other, "--texts", "1")
    assert (status, line.startswith(f"guide {other}: knows no anger, ")) == (2, True)
    assert not (model / "calibration.json").exists()


# ---- sampling under control


@pytest.mark.parametrize("control", ["none", "guidance:3", "expert:2", "bayes:2", "guidance:2,bayes:1,expert:0.5"])
def test_controllers_reach_the_sampler(emogen, model, control):
    """The texts are those of the library; each controller changes some."""
    found = sampled(emogen, model, "--control", control)
    loaded = load(model)
    options = checkpoint.replace(loaded.default_sampling, control=parse_control(control))
    assert found == [one.text for one in loaded.sample("joy", 4, sampling=options, seed=1)]
    assert (control == "none") == (found == sampled(emogen, model, "--control", "guidance:1"))


def test_rerank_takes_a_guide(emogen, model, guide):
    """Of the candidates those that the guide finds nearest; its labels may stand in another order, with others between them."""
    found = sampled(emogen, model, "--control", "rerank:6", "--guide", guide)
    first = sampled(emogen, model, "--control", "none")
    judge = load_recognizer(guide)
    joy = EKMAN.position("joy")
    probabilities = [judge.probabilities(texts)[:, joy] for texts in (found, first)]
    assert (probabilities[0] >= probabilities[1]).all()
    assert found != first
    shuffled = classifier(guide.parent / "shuffled", LabelSet(("calm", *reversed(EKMAN.names))))
    assert len(sampled(emogen, model, "--control", "rerank:2", "--guide", shuffled)) == 4


def test_the_recogniser_that_ships_is_the_guide_by_default(emogen, model, guide, monkeypatch):
    monkeypatch.setattr(finding, "shipped_folder", {"recognizer": guide}.__getitem__)
    named = sampled(emogen, model, "--control", "rerank:3", "--guide", guide)
    assert sampled(emogen, model, "--control", "rerank:3") == named


def test_a_guide_over_more_labels_gives_those_of_the_model(guide, folder):
    """In the model's order; labels that it lacks are named, with the command that makes a fitting guide."""
    judge = load_recognizer(classifier(folder / "more", LabelSet(("calm", *reversed(EKMAN.names)))))
    texts = ["so happy", "so sad"]
    expected = np.stack([judge.probabilities(texts)[:, judge.names.position(name)] for name in EKMAN.names], 1)
    np.testing.assert_array_equal(judge.over(EKMAN)(texts), expected)
    assert judge.over(EKMAN)([]).shape == (0, 7)


def test_at_strength_zero_no_controller_changes_a_text(emogen, model):
    strong, none = (sampled(emogen, model, "--control", target, "--strength", "0") for target in ("guidance:5,bayes:5", "none"))
    assert strong == none


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--control", "boost:2"],
            ["'boost' is not one of guidance, expert, bayes, head, rerank, mbr, none; write guidance:2"],
        ),
        (["--control", "guidance:much"], ["'much' is not a number; write guidance:2"]),
        (["--control", "guidance:200"], ["control guidance:200: allowed is between 0 and 100"]),
        (["--control", "rerank:65"], ["control rerank:65: allowed is a whole number between 1 and 64"]),
        (["--strength", "1.5"], ["strength 1.5 is not between 0 and 1"]),
        (["--strength", "nan"], ["strength nan is not between 0 and 1"]),
        (["--emotion", "joy=0.7,fear=0.2"], ["emotion 'joy=0.7,fear=0.2': emotion weights sum to 0.9, not to 1"]),
        (
            ["--control", "head:2"],
            ["has no emotion head; `emogen train-head --checkpoint ", "the small model that ships has one"],
        ),
        (["--control", "head:2", "--stream", "--emotion", "joy"], ["has no emotion head; `emogen train-head --checkpoint "]),
        (["--post", "polish"], ["'polish' is no step of post-processing"]),
    ],
)
def test_what_a_model_cannot_serve(refusal, model, arguments, parts):
    """Exit status 2 and one line that says what is allowed, which models can, and how to get one."""
    status, line = refusal("sample", "--checkpoint", model, *arguments)
    assert status == 2
    assert all(part in line for part in parts)


def test_a_guide_over_other_labels_is_refused(refusal, model, folder):
    other = classifier(folder / "other", LabelSet(("joy", "fear", "calm")))
    status, line = refusal("sample", "--checkpoint", model, "--control", "rerank:4", "--guide", other)
    assert status == 2
    assert line.startswith(f"guide {other}: knows no anger, disgust, neutral, sadness, surprise, only joy, fear, calm; ")
    assert line.endswith("as `emogen train-classifier --labels anger,disgust,fear,joy,neutral,sadness,surprise` makes it")
    assert refusal("sample", "--checkpoint", model, "--control", "rerank:4", "--guide", "nowhere")[0] == 1


@pytest.mark.parametrize("name", ["head.safetensors", "calibration.json"])
def test_a_broken_file_beside_the_weights(refusal, model, name):
    (model / name).write_bytes(b"{")
    status, line = refusal("sample", "--checkpoint", model)
    assert status == 1
    assert line.startswith(f"{model / name}: ")


# ---- streams and post-processing


@pytest.mark.parametrize("control", ["none", "guidance:2,bayes:1"])
def test_a_stream_prints_the_text_of_the_same_seed(emogen, model, control):
    """In one line, as without it; several emotions are named before their texts."""
    given = ["sample", "--checkpoint", model, "--control", control, "--temperature", "1"]
    for seed in range(4):
        one = [*given, "--emotion", "joy", "--seed", seed]
        assert emogen(*one, "--stream") == emogen(*one)
        assert emogen(*given, "--seed", seed, "--stream") == emogen(*given, "--seed", seed)
    context = ["reply", "How was day 3?", *given[1:], "--emotion", "fear", "--seed", "5"]
    assert emogen(*context, "--stream") == emogen(*context)


def test_a_stream_is_one_line_whatever_is_written(emogen, model, monkeypatch):
    """Line ends inside a text are blanks, wherever a piece is cut; blanks at the ends are gone."""
    pieces = [" ", " so", "\n", "happy\n", "\ntoday", "\u2028!", " ", "\n"]
    steps = ((0, piece, number == len(pieces)) for number, piece in enumerate(pieces, 1))
    monkeypatch.setattr(checkpoint.EmotionModel, "stream_replies", lambda *_arguments: steps)
    status, out, _ = emogen("sample", "--checkpoint", model, "--emotion", "joy", "--stream", "--seed", "1")
    assert (status, out) == (0, "so happy today !\n")


def test_a_stream_shows_each_piece_at_once(model, monkeypatch, capsysbinary):
    """Nothing waits for the end of the line."""
    seen = []

    def pieces(*_arguments):
        for piece in ("so", " happy", " today", ""):
            yield 0, piece, not piece
            seen.append(capsysbinary.readouterr().out)

    monkeypatch.setattr(checkpoint.EmotionModel, "stream_replies", pieces)
    with pytest.raises(SystemExit):
        main(["sample", "--checkpoint", str(model), "--emotion", "joy", "--stream"])
    assert seen == [b"so", b" happy", b" today"]


@pytest.mark.parametrize("options", [["--json"], ["-n", "2"], ["--post", "case"]])
def test_what_needs_whole_texts_is_not_streamed(refusal, model, options):
    status, line = refusal("sample", "--checkpoint", model, "--emotion", "joy", "--stream", *options)
    assert (status, line) == (
        2,
        "--stream prints a text as it is written: leave out --json, --post, --near and -n, which need it whole",
    )


@pytest.mark.parametrize("emotions", [["--emotion", "joy"], []])
def test_rerank_is_not_streamed(refusal, model, guide, emotions):
    """Nothing is printed before it is refused."""
    given = ["--stream", "--control", "rerank:2", "--guide", guide]
    status, line = refusal("sample", "--checkpoint", model, *emotions, *given)
    assert (status, line) == (2, "control rerank: chooses among whole texts, which a stream has not; leave it out")


def test_texts_are_post_processed(emogen, model, monkeypatch):
    """In the order that is asked for; the seed and the rest stay."""
    real = checkpoint.sample
    texts = ["so  happy ,it was .write to me at ann@example.org", "and and and and then i left . maybe"]

    def odd(*arguments):
        for text, found in zip(texts, real(*arguments), strict=False):
            yield checkpoint.replace(found, text=text)

    monkeypatch.setattr(checkpoint, "sample", odd)
    given = ["sample", "--checkpoint", model, "--emotion", "joy", "-n", "2", "--seed", "1"]
    for post in ("detokenise,case", "spacing,personal", "sentence"):
        expected = [parse_postprocessing(post)(text) for text in texts]
        assert emogen(*given, "--post", post)[1].splitlines() == [" ".join(text.split()) for text in expected]
        rows = [json.loads(line) for line in emogen(*given, "--post", post, "--json")[1].splitlines()]
        assert [row["text"] for row in rows] == expected != texts
        assert [row["seed"] for row in rows] == [1, 1]
    assert "ann@" not in emogen(*given, "--post", "personal")[1]
