"""Training of classifiers: losses and weights in closed form, the loop, and the command from file to checkpoint."""

import json
import math
import sys
from itertools import islice

import numpy as np
import pytest
import torch

from emogen.checkpoint.model import load_classifier
from emogen.data.exchange import Reading
from emogen.data.fingerprints import fingerprints, read_fingerprints
from emogen.errors import CheckpointError, DataError, SettingsError, TrainingError
from emogen.models.classifier import Classifier, ClassifierConfig, emotion_probabilities
from emogen.recognition.recognizer import load_recognizer
from emogen.train.config import ClassifierSettings, ClassifierTraining
from emogen.train.fit_classifier import fit_classifier
from emogen.train.loops.classifier import (
    Labelled,
    calibration,
    classification_loss,
    gold_labels,
    held_out_f1,
    label_weights,
    labelled_batches,
    train_classifier,
)
from emogen.train.run.state import TrainState, adamw

OWN = ("ngrams", "cnn", "transformer")
FOUR = ["so happy we won", "very sad it was lost", "good day to you", "no no no !"]
QUICK = ["--device", "cpu", "--precision", "float32"]
SMALL = {"buckets": 256, "width": 16, "filters": 8, "layers": 1}
TINY = {"batch_size": 8, "device": "cpu", "precision": "float32", **SMALL}


def made(backbone, small_bert, emotions=4, **changes):
    pretrained = small_bert() if backbone == "pretrained" else None
    encoder = pretrained.model.config.to_diff_dict() if pretrained else {}
    return Classifier(ClassifierConfig(emotions, backbone, encoder=encoder, **(SMALL | {"dropout": 0.0} | changes)), pretrained)


def trained(classifier, data, training, steps, weights=None):
    state = TrainState({"classifier": classifier}, {"classifier": adamw(classifier)}, torch.Generator())
    weights = torch.ones(data.targets.shape[1]) if weights is None else weights
    loop = train_classifier(classifier, labelled_batches(data, len(data), 0), weights, training, state)
    return [step.figures for step in islice(loop, steps)]


def labelled(classifier, texts, targets):
    return Labelled([classifier.read(text) for text in texts], torch.tensor(targets))


# ---- losses and weights


def by_hand(scores, targets, weights, smoothing):
    """Mean over texts of the weighted cross-entropy with softened targets."""
    total = 0.0
    for row, shares in zip(scores.double().tolist(), targets.tolist(), strict=True):
        whole = math.log(sum(math.exp(value) for value in row))
        soft = [share * (1 - smoothing) + smoothing / len(row) for share in shares]
        total -= sum(w * s * (v - whole) for w, s, v in zip(weights, soft, row, strict=True))
    return total / len(scores)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_one_label_a_text(smoothing):
    scores = torch.randn(5, 3)
    targets, weights = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]), [0.5, 2.0, 1.0]
    found = classification_loss(scores, targets, torch.tensor(weights), smoothing, False)
    assert float(found) == pytest.approx(by_hand(scores, targets, weights, smoothing), rel=1e-5)
    plain = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(scores[:3], torch.tensor([0, 1, 2]))
    assert float(classification_loss(scores[:3], targets[:3], torch.ones(3), smoothing, False)) == pytest.approx(float(plain))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_of_several_labels_a_text(smoothing):
    """Mean of -w t log p - (1 - t) log(1 - p), with t moved toward a half."""
    scores, targets, weights = torch.randn(4, 3), (torch.rand(4, 3) < 0.5).float(), torch.tensor([0.5, 2.0, 1.0])
    p, t = scores.double().sigmoid(), targets * (1 - smoothing) + smoothing / 2
    expected = -(weights * t * p.log() + (1 - t) * (1 - p).log()).mean()
    assert float(classification_loss(scores, targets, weights, smoothing, True)) == pytest.approx(float(expected), rel=1e-5)


def test_weights_of_labels_in_closed_form():
    """One, two and four rows of a label: inverse 1, 1/2, 1/4, brought to mean 1; a label without rows weighs nothing."""
    targets = torch.eye(4)[torch.tensor([0, 1, 1, 2, 2, 2, 2])]
    torch.testing.assert_close(label_weights(targets, 1.0), torch.tensor([12 / 7, 6 / 7, 3 / 7, 0.0]))
    torch.testing.assert_close(label_weights(targets, 0.0), torch.tensor([1.0, 1, 1, 0]))
    half = torch.tensor([1.0, 2**-0.5, 0.5, 0])
    torch.testing.assert_close(label_weights(targets, 0.5), half * 3 / half.sum())


def test_weights_of_several_labels_are_the_odds_against_them():
    """Of eight rows one, four and none have the label."""
    targets = torch.zeros(8, 3)
    targets[0, 0], targets[:4, 1] = 1, 1
    torch.testing.assert_close(label_weights(targets, 1.0, multi_label=True), torch.tensor([7.0, 1.0, 8.0]))
    torch.testing.assert_close(label_weights(targets, 0.5, multi_label=True), torch.tensor([7.0, 1.0, 8.0]).sqrt())
    torch.testing.assert_close(label_weights(targets, 0.0, multi_label=True), torch.ones(3))


def test_a_weight_of_zero_hides_a_label(small_bert):
    classifier = made("ngrams", small_bert, 2)
    data = labelled(classifier, FOUR[:2], [[1.0, 0.0], [0.0, 1.0]])
    trained(classifier, data, ClassifierTraining(learning_rate=0.05), 60, torch.tensor([1.0, 0.0]))
    assert emotion_probabilities(classifier, FOUR[:2]).argmax(1).tolist() == [0, 0]


# ---- the loop


@pytest.mark.parametrize("backbone", [*OWN, "pretrained"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_four_examples_are_learnt_by_heart(backbone, multi_label, small_bert):
    classifier = made(backbone, small_bert, multi_label=multi_label)
    targets = torch.eye(4) if not multi_label else torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    rate = 3e-3 if backbone == "pretrained" else 0.03
    figures = trained(
        classifier,
        labelled(classifier, FOUR, targets.tolist()),
        ClassifierTraining(learning_rate=rate, precision="float32"),
        120,
    )
    assert figures[-1]["loss"] < 0.05 < figures[0]["loss"]
    torch.testing.assert_close(emotion_probabilities(classifier, FOUR), targets, atol=0.15, rtol=0)


def test_a_loss_that_is_no_number_ends_the_loop(small_bert):
    classifier = made("ngrams", small_bert)
    with torch.no_grad():
        classifier.head.bias[0] = math.nan
    with pytest.raises(TrainingError, match=r"^step 1: loss nan .* lower the learning rate$"):
        trained(classifier, labelled(classifier, FOUR, torch.eye(4).tolist()), ClassifierTraining(learning_rate=1e-3), 1)


def test_batches_hold_every_row_once_an_epoch_and_begin_anywhere(small_bert):
    classifier = made("ngrams", small_bert, 1)
    data = Labelled([classifier.read("no " * (at + 1)) for at in range(10)], torch.arange(10.0)[:, None])
    epochs = [batch.targets[:, 0].tolist() for batch in islice(labelled_batches(data, 4, 3), 9)]
    for at in (0, 3, 6):
        assert sorted(row for batch in epochs[at : at + 3] for row in batch) == list(range(10))
    assert epochs[:3] != epochs[3:6]
    for start in (1, 3, 5):
        again = islice(labelled_batches(data, 4, 3, start), 9 - start)
        assert [batch.targets[:, 0].tolist() for batch in again] == epochs[start:]
    assert [len(text.ids) for text in next(labelled_batches(data, 4, 3)).texts] == [2 * row + 1 for row in map(int, epochs[0])]


def test_no_row_makes_no_batch_and_no_calibration(small_bert):
    nothing = Labelled([], torch.zeros(0, 4))
    with pytest.raises(DataError, match="no row to train a classifier on"):
        next(labelled_batches(nothing, 4, 0))
    with pytest.raises(DataError, match="no valid row to choose temperature and thresholds on"):
        calibration(made("ngrams", small_bert), nothing)


def test_held_out_figures_by_hand(small_bert):
    """Scores set by the bias alone: every text is called the first of two labels, which three of four have."""
    classifier = made("ngrams", small_bert, 2)
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.copy_(torch.tensor([math.log(3), 0.0]))
    data = labelled(classifier, FOUR, [[1.0, 0], [1, 0], [0.6, 0.4], [0, 1]])
    found = held_out_f1(classifier, data, ClassifierTraining(precision="float32"))
    assert found["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)
    assert found["error"] == pytest.approx(1 - found["macro_f1"])
    assert found["loss"] == pytest.approx(-(2.6 * math.log(0.75) + 1.4 * math.log(0.25)) / 4, rel=1e-5)
    assert gold_labels(data.targets).tolist() == [[True, False], [True, False], [True, False], [False, True]]
    assert calibration(classifier, data)[1] == ()


# ---- from file to checkpoint


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def facts(folder):
    return json.loads((folder / "train.json").read_text(encoding="utf-8"))


def config(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def two_moods(elsewhere):
    """Eighty rows whose words say their mood, sixteen of them valid and eight test."""
    splits = ["valid", "valid", "test", *["train"] * 7]
    words = {"joy": ("great", "lovely", "happy"), "sadness": ("awful", "lonely", "sad")}
    rows = [
        {"reply": f"What a {words[mood][n % 3]} day {n} it was.", "emotion": mood, "split": splits[n % 10]}
        for n in range(40)
        for mood in words
    ]
    return write(elsewhere / "moods.jsonl", rows)


@pytest.mark.parametrize("backbone", OWN)
def test_the_command_trains_what_a_recognizer_loads(emogen, two_moods, elsewhere, backbone):
    steps = ["--steps", "60", "--validate-every", "20", "--learning-rate", "0.02"]
    status, out, err = emogen(
        "train-classifier", two_moods, "--preset", "tiny", "--backbone", backbone, *steps, "--out", "mine", *QUICK
    )
    assert (status, out) == (0, "mine\n"), err
    folder = elsewhere / "mine"
    recognizer = load_recognizer(folder)
    found = recognizer.recognize(["a happy day", "an awful day"])
    assert [recognition.label for recognition in found] == ["joy", "sadness"]
    assert [recognition.labels for recognition in found] == [("joy",), ("sadness",)]
    assert sum(found[0].probabilities.values()) == pytest.approx(1)
    assert found[0].strength == pytest.approx(1 - found[0].probabilities["neutral"])
    assert facts(folder)["finished"]
    assert facts(folder)["rows"] == {"train": 56, "valid": 16, "test": 8}
    assert not (elsewhere / "checkpoints").exists()
    names = {"README.md", "config.json", "confusion.json", "log.jsonl", "model.safetensors", "rows.npy", "train.json"}
    assert {path.name for path in folder.iterdir()} == {*names, "train_state.pt"}


def test_temperature_is_chosen_on_the_valid_rows(two_moods, elsewhere):
    """At the temperature in the checkpoint the valid rows are likelier than at one a tenth off either way."""
    settings = ClassifierSettings(**TINY, backbone="ngrams", steps=30, learning_rate=0.02, out="mine")
    classifier, labels = load_classifier(fit_classifier([str(two_moods)], Reading(), settings))
    rows = [json.loads(line) for line in two_moods.read_text().splitlines()]
    valid = [row for row in rows if row["split"] == "valid"]
    gold = torch.tensor([labels.position(row["emotion"]) for row in valid])
    with torch.no_grad():
        scores = classifier([row["reply"] for row in valid])
    own = classifier.config.temperature
    losses = [float(torch.nn.functional.cross_entropy(scores / (own * factor), gold)) for factor in (1.0, 0.9, 1.1)]
    assert min(losses) == losses[0]


def test_a_run_without_a_better_look_ends(two_moods, monkeypatch):
    """A rate of next to nothing: the first look is never bettered, and two later ones end the run."""
    monkeypatch.setattr(sys.modules[fit_classifier.__module__], "FEWEST_TO_STOP", 1)
    settings = ClassifierSettings(
        **TINY, learning_rate=1e-30, steps=50, validate_every=1, patience=2, out="mine", backbone="ngrams"
    )
    folder = fit_classifier([str(two_moods)], Reading(), settings)
    assert facts(folder)["steps"] == 3
    assert facts(folder)["figures"]["best_step"] == 1
    assert facts(folder)["finished"]


def test_few_valid_rows_end_no_run_early(two_moods, caplog):
    settings = ClassifierSettings(
        **TINY, learning_rate=1e-30, steps=9, validate_every=1, patience=2, out="mine", backbone="ngrams"
    )
    assert facts(fit_classifier([str(two_moods)], Reading(), settings))["steps"] == 9
    assert "valid rows are too few to stop early by (50 are needed)" in caplog.text


def test_the_best_look_is_kept(two_moods):
    """Its weights give the held-out figure that the log has for it."""
    settings = ClassifierSettings(**TINY, learning_rate=0.02, steps=40, validate_every=5, out="mine", backbone="ngrams")
    folder = fit_classifier([str(two_moods)], Reading(), settings)
    looks = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if "held_out" in line]
    best = next(look for look in looks if look["step"] == facts(folder)["figures"]["best_step"])
    classifier, labels = load_classifier(folder)
    rows = [json.loads(line) for line in two_moods.read_text().splitlines()]
    valid = [row for row in rows if row["split"] == "valid"]
    targets = torch.eye(len(labels))[[labels.position(row["emotion"]) for row in valid]]
    data = labelled(classifier, [row["reply"] for row in valid], targets.tolist())
    assert held_out_f1(classifier, data, settings)["loss"] == pytest.approx(best["held_out"]["loss"], rel=1e-4)
    assert best["held_out"]["error"] == min(look["held_out"]["error"] for look in looks)


@pytest.mark.parametrize(("target", "expected"), [("auto", True), ("yes", True), ("no", False)])
def test_several_labels_a_row_are_noticed(elsewhere, target, expected):
    rows = [
        {"reply": f"So {n} it goes.", "emotion": "joy,fear" if n in (3, 4) else "joy", "split": "valid" if n > 15 else "train"}
        for n in range(20)
    ]
    settings = ClassifierSettings(**TINY, backbone="ngrams", steps=2, multi_label=target, out="mine")
    folder = fit_classifier([str(write(elsewhere / "rows.jsonl", rows))], Reading(), settings)
    assert config(folder)["multi_label"] is expected
    assert len(config(folder)["thresholds"]) == (7 if expected else 0)
    found = load_recognizer(folder).probabilities(["So it goes.", ""])
    assert (np.allclose(found.sum(1), 1)) is not expected


def test_one_label_a_row_is_one_label_a_text(two_moods):
    folder = fit_classifier([str(two_moods)], Reading(), ClassifierSettings(**TINY, backbone="ngrams", steps=1, out="mine"))
    assert config(folder)["multi_label"] is False


def test_a_classifier_begins_with_anothers_features(two_moods, elsewhere):
    """At a rate of next to nothing the features stay; the labels are new ones, and rows of both were seen."""
    sizes = TINY | {"backbone": "cnn", "steps": 3}
    base = fit_classifier([str(two_moods)], Reading(), ClassifierSettings(**sizes, out="base"))
    rows = [
        {"reply": f"It was {n}.", "emotion": ("proud", "calm", "bored")[n % 3], "split": ("train", "valid")[n % 2]}
        for n in range(12)
    ]
    other = write(elsewhere / "other.jsonl", rows)
    settings = ClassifierSettings(**(sizes | {"learning_rate": 1e-30}), init=str(base), out="mine")
    folder = fit_classifier([str(other)], Reading(), settings)
    (before, _), (after, labels) = load_classifier(base), load_classifier(folder)
    assert labels.names == ("bored", "calm", "proud")
    assert after.head.out_features == 3
    assert (before.config.scripts, after.config.scripts) == (("LATIN",), ("LATIN",))
    for name, weights in before.features.state_dict().items():
        assert torch.equal(after.features.state_dict()[name], weights), name
    own = fingerprints(row["reply"] for row in rows if row["split"] == "train")
    assert read_fingerprints(folder).tolist() == sorted({*own.tolist(), *read_fingerprints(base).tolist()})


def test_the_scripts_of_the_training_rows_are_kept(elsewhere):
    """A letter in a hundred makes a script, and a held-out row none."""
    texts = [("Так хорошо", "train"), ("so it goes on and on" * 9, "train"), ("ὦ so it goes on and on" * 9, "train")]
    rows = [{"reply": text, "emotion": ("joy", "fear")[n % 2], "split": split} for n in range(4) for text, split in texts]
    rows += [{"reply": "很好", "emotion": "joy", "split": "valid"}, {"reply": "ok", "emotion": "fear", "split": "valid"}]
    settings = ClassifierSettings(**TINY, backbone="ngrams", steps=2, out="mine")
    folder = fit_classifier([str(write(elsewhere / "rows.jsonl", rows))], Reading(), settings)
    assert load_classifier(folder)[0].config.scripts == ("CYRILLIC", "GREEK", "LATIN")
    with_init = ClassifierSettings(**TINY, steps=2, init=str(folder), out="next")
    latin = [{**row, "reply": "plain"} for row in rows]
    folder = fit_classifier([str(write(elsewhere / "latin.jsonl", latin))], Reading(), with_init)
    assert load_classifier(folder)[0].config.scripts == ("CYRILLIC", "GREEK", "LATIN")


def test_the_same_seed_gives_the_same_classifier(two_moods):
    def weights(name, seed):
        settings = ClassifierSettings(**TINY, backbone="cnn", steps=4, seed=seed, out=name)
        return (fit_classifier([str(two_moods)], Reading(), settings) / "model.safetensors").read_bytes()

    first = weights("a", 1)
    assert weights("b", 1) == first
    assert weights("c", 2) != first


# ---- what is refused


def test_no_valid_row(refusal, elsewhere):
    rows = [{"reply": f"Day {n}.", "emotion": "joy", "split": "train"} for n in range(4)]
    status, line = refusal("train-classifier", write(elsewhere / "rows.jsonl", rows), "--out", "mine", *QUICK)
    assert status == 1
    assert line.startswith(f"{elsewhere / 'rows.jsonl'}: no valid row; a classifier needs both train and valid rows")
    assert not (elsewhere / "mine").exists()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--backbone", "rnn"], 2, "--backbone rnn: allowed is ngrams, cnn, transformer or hf:NAME-OR-FOLDER"),
        (["--backbone", "hf:"], 2, "--backbone hf:: allowed is"),
        (["--backbone", "hf:."], 1, "hf:.: cannot be loaded ("),
        (["--backbone", "hf:nothing-of-that-name"], 1, "hf:nothing-of-that-name: cannot be loaded ("),
        (["--backbone", "transformer", "--width", "18"], 2, "classifier width 18 does not split into 4 heads"),
        (["--init", "nowhere"], 1, "nowhere/config.json: no readable model description ("),
        (["--dropout", "1"], 2, "--dropout 1.0: allowed is at least 0 and below 1, or -1"),
        (["--label-smoothing", "1"], 2, "--label-smoothing 1.0: allowed is"),
        (["--learning-rate", "-1"], 2, "--learning-rate -1.0: allowed is"),
    ],
)
def test_what_cannot_be_trained_is_one_line(refusal, two_moods, elsewhere, options, status, message):
    found, line = refusal("train-classifier", two_moods, "--out", "mine", *QUICK, *options)
    assert (found, line[: len(message)]) == (status, message)
    assert not (elsewhere / "mine").exists()


def test_a_checkpoint_of_another_kind_is_nothing_to_begin_with(refusal, two_moods, tiny_checkpoint):
    status, line = refusal("train-classifier", two_moods, "--init", tiny_checkpoint, "--out", "mine", *QUICK)
    assert (status, line) == (1, f"{tiny_checkpoint}: is a generator, not a classifier")


def test_a_classifier_with_other_labels_than_its_config(two_moods):
    folder = fit_classifier([str(two_moods)], Reading(), ClassifierSettings(**TINY, backbone="ngrams", steps=1, out="mine"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"labels": ["joy", "fear"]}))
    with pytest.raises(CheckpointError, match=r"^mine: the classifier has 7 labels, its config 2$"):
        load_recognizer(folder)
    spoilt = content | {"model": content["model"] | {"thresholds": [0.5]}}
    (folder / "config.json").write_text(json.dumps(spoilt))
    with pytest.raises(CheckpointError, match=r"describes no model that can be built \(1 thresholds for 7 emotions"):
        load_recognizer(folder)


def test_impossible_settings_name_the_option():
    with pytest.raises(SettingsError, match="--max-tokens 0: allowed is 1 or more"):
        ClassifierSettings(max_tokens=0)
