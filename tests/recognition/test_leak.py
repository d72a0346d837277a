"""A judge that saw a guide's rows, or is built like it, is refused by name; every training run says which rows it saw."""

import json
from dataclasses import replace

import pytest

from emogen.checkpoint.folder import describe, save_model
from emogen.checkpoint.model import load
from emogen.data.batches import Limits
from emogen.data.exchange import Reading
from emogen.data.fingerprints import ROWS_FILE, fingerprints, read_fingerprints, write_fingerprints
from emogen.emotions.labels import LabelSet
from emogen.errors import CheckpointError
from emogen.models.classifier import Classifier, ClassifierConfig
from emogen.models.generator import Generator, GeneratorConfig
from emogen.recognition.leak import find_leak, refuse_leaks
from emogen.train.config import ClassifierSettings, GanSettings, LmSettings, VaeSettings
from emogen.train.fit import fit_gan, fit_lm
from emogen.train.fit_classifier import fit_classifier

LABELS = LabelSet(("calm", "wild"))
TINY = {"steps": 1, "batch_size": 8, "device": "cpu", "precision": "float32"}
MODEL = {"width": 16, "layers": 1}


@pytest.fixture
def seen(tmp_path):
    """Makes a checkpoint of a backbone that saw the given texts."""

    def build(name, backbone, texts):
        made = Generator(GeneratorConfig(300, 2, width=16)) if backbone == "lstm" else None
        made = made or Classifier(ClassifierConfig(2, backbone, buckets=8, width=8, filters=2, layers=1))
        save_model(tmp_path / name, describe(made, LABELS, Limits()), made)
        write_fingerprints(tmp_path / name, fingerprints(texts))
        return tmp_path / name

    return build


@pytest.fixture(scope="module")
def many():
    return [f"row number {n}" for n in range(10_000)]


def refusal(judge, guides):
    with pytest.raises(CheckpointError) as refused:
        refuse_leaks(judge, guides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_one_shared_row_in_ten_thousand_is_found_and_named(seen, many):
    guide = seen("guide", "ngrams", many)
    judge = seen("judge", "cnn", [*(f"another {n}" for n in range(9_999)), "Row  NUMBER 7777"])
    leak = find_leak(judge, guide)
    assert (leak.shared, leak.judge_rows, leak.guide_rows, leak.architecture) == (1, 10_000, 10_000, "")
    assert bool(leak)
    found = refusal(judge, [guide])
    assert found.startswith(f"{judge}: is no judge of {guide}: 1 of its 10000 training rows are among the 10000 of {guide}; ")
    assert found.endswith("take another judge, or pass --allow-leak, which the score's signature will show")


def test_no_shared_row_and_another_architecture_is_no_leak(seen, many):
    guide, judge = seen("guide", "ngrams", many), seen("judge", "cnn", [f"another {n}" for n in range(10_000)])
    assert not find_leak(judge, guide)
    assert refuse_leaks(judge, [guide]) == "none"
    assert refuse_leaks(judge, [guide], allowed=True) == "none"
    assert refuse_leaks(judge, []) == "unchecked"


@pytest.mark.parametrize("backbone", ["ngrams", "cnn", "transformer"])
def test_the_same_architecture_is_refused_and_named(seen, backbone):
    guide, judge = seen("guide", backbone, ["a"]), seen("judge", backbone, ["b"])
    assert f"both are of architecture 'classifier {backbone}'" in refusal(judge, [guide])


def test_a_generator_and_a_classifier_differ_but_may_share_rows(seen):
    generator, judge = seen("generator", "lstm", ["a", "b"]), seen("judge", "cnn", ["b", "c", "d"])
    assert find_leak(judge, generator).architecture == ""
    assert "1 of its 3 training rows are among the 2 of" in refusal(judge, [generator])


def test_a_leak_beside_a_clean_guide_is_found(seen):
    judge, clean, leaky = seen("judge", "cnn", ["a"]), seen("clean", "ngrams", ["b"]), seen("leaky", "ngrams", ["a"])
    assert refusal(judge, [clean, leaky]).startswith(f"{judge}: is no judge of {leaky}: ")


def test_an_allowed_leak_is_told_in_the_signature(seen):
    judge = seen("judge", "cnn", ["a", "b", "c"])
    rows, alike, both = seen("rows", "ngrams", ["a", "b"]), seen("alike", "cnn", ["x"]), seen("both", "cnn", ["c"])
    assert refuse_leaks(judge, [rows], allowed=True) == "allowed(rows:2rows)"
    several = refuse_leaks(judge, [rows, alike, both], allowed=True)
    assert several == "allowed(rows:2rows,alike:0rows+architecture,both:1rows+architecture)"


def test_a_checkpoint_that_does_not_say_what_it_saw(seen):
    guide, judge = seen("guide", "ngrams", ["a"]), seen("judge", "cnn", ["b"])
    (guide / ROWS_FILE).unlink()
    assert refusal(judge, [guide]).startswith(f"{guide / ROWS_FILE}: cannot be read (No such file or directory), so nobody")
    assert refuse_leaks(judge, [guide], allowed=True) == "allowed(guide:unknown)"


# ---- what training writes


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Writes rows of all three splits, one of them too long for a generator; gives the file and the rows by split."""
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))

    def write(name):
        splits = ["train"] * 6 + ["valid", "test"]
        texts = {split: [f"{name} {n} was fine." for n in range(40) if splits[n % 8] == split] for split in set(splits)}
        texts["train"].append(f"{name} long {'and so on ' * 50}")
        rows = [
            {"reply": text, "emotion": ("joy", "fear")[at % 2], "split": split}
            for split, part in texts.items()
            for at, text in enumerate(part)
        ]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path), texts

    return write


def test_a_classifier_notes_its_training_rows_and_no_others(corpus, tmp_path):
    file, texts = corpus("day")
    settings = ClassifierSettings(**TINY, backbone="ngrams", buckets=64, width=4, out=str(tmp_path / "mine"))
    found = read_fingerprints(fit_classifier([file], Reading(), settings))
    assert found.tolist() == fingerprints(texts["train"]).tolist()
    assert len(found) == 31


def test_generators_note_the_rows_that_were_short_enough(corpus, tmp_path):
    file, texts = corpus("day")
    settings = LmSettings(**TINY, **MODEL, reply_tokens=20, out=str(tmp_path / "mine"))
    assert read_fingerprints(fit_lm([file], Reading(), settings)).tolist() == fingerprints(texts["train"][:-1]).tolist()


def test_adversarial_training_notes_what_its_start_saw_too(corpus, tmp_path):
    """Started from a model of other rows, and from a VAE of its own."""
    (first, before), (second, after) = corpus("day"), corpus("night")
    start = fit_lm([first], Reading(), LmSettings(**TINY, **MODEL, reply_tokens=20, out=str(tmp_path / "start")))
    sizes = {"warmup_steps": 0, "samples": 2, "rollouts": 1, "max_tokens": 5, "discriminator_width": 16}
    settings = GanSettings(**TINY, **sizes, discriminator_layers=1, init=str(start), out=str(tmp_path / "gan"))
    warm = VaeSettings(**TINY, **MODEL, reply_tokens=20, latent=2, encoder_layers=1)
    found = read_fingerprints(fit_gan([second], Reading(), settings, warm))
    assert found.tolist() == fingerprints([*before["train"][:-1], *after["train"][:-1]]).tolist()
    alone = replace(settings, init=None, out=str(tmp_path / "alone"))
    assert read_fingerprints(fit_gan([second], Reading(), alone, warm)).tolist() == fingerprints(after["train"][:-1]).tolist()
    assert load(tmp_path / "alone" / "warm-start")


def test_a_judge_on_the_rows_of_a_trained_guide_is_refused(corpus, tmp_path):
    file, _ = corpus("day")
    sizes = {"buckets": 64, "width": 8, "filters": 2}
    guide = fit_classifier(
        [file], Reading(), ClassifierSettings(**TINY, **sizes, backbone="ngrams", out=str(tmp_path / "guide"))
    )
    judge = fit_classifier([file], Reading(), ClassifierSettings(**TINY, **sizes, backbone="cnn", out=str(tmp_path / "judge")))
    assert f"31 of its 31 training rows are among the 31 of {guide}" in refusal(judge, [guide])
    other, _ = corpus("night")
    clean = fit_classifier([other], Reading(), ClassifierSettings(**TINY, **sizes, backbone="cnn", out=str(tmp_path / "clean")))
    assert refuse_leaks(clean, [guide]) == "none"


def test_folders_may_be_strings(seen):
    """One guide or several; a string is one folder, not its letters."""
    judge, guide = seen("judge", "cnn", ["a", "b"]), seen("guide", "lstm", ["c"])
    assert find_leak(str(judge), str(guide)) == find_leak(judge, guide)
    assert refuse_leaks(str(judge), [str(guide)]) == refuse_leaks(judge, str(guide)) == refuse_leaks(judge, guide) == "none"
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        refuse_leaks(str(judge), "nowhere")
