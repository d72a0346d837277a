"""The benchmarks that generate text without context run end to end on a corpus of a few invented lines."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from emogen.data.exchange import read_exchanges
from emogen.data.fingerprints import fingerprint, read_fingerprints
from emogen.decoding.params import SamplingParams
from emogen.errors import CheckpointError

TOP = Path(__file__).parents[2]
SMALL = ["--minutes", "0", "--steps", "3", "--width", "16"]
LINES = {
    "happy": "we won the game number {} today and the whole street sang with us until late",
    "gloomy": "the old dog number {} died last night and nobody in the house could sleep at all",
}


def script(name):
    spec = importlib.util.spec_from_file_location(name, TOP / "evaluate" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def emotion_text():
    """The script, with a small judge."""
    module = script("emotion_text")
    module.JUDGE = module.replace(module.JUDGE, width=8, buckets=512, filters=4)
    return module


def write_corpus(path, rows):
    fields = ("reply", "emotion", "split")
    path.write_text("".join(json.dumps(dict(zip(fields, row, strict=True))) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "data"))
    return tmp_path


def run(module, *arguments):
    module.main([str(argument) for argument in arguments], standalone_mode=False)


def result(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) >= {"benchmark", "command", "versions", "machine", "data", "rows"}
    return content


def emotional(path):
    sizes = {"train": 60, "valid": 6, "test": 6}
    numbered = [(split, number) for split, size in sizes.items() for number in range(size)]
    rows = [(text.format(f"{split}{number}"), name, split) for name, text in LINES.items() for split, number in numbered]
    line = LINES["happy"]
    # The same words in other case and spacing, and rows of train that are held out elsewhere.
    repeated = [(line.format("train0").upper() + "  ", "happy", "train"), (line.format("test1") + " ", "happy", "train")]
    return write_corpus(
        path, [*rows, *repeated, (line.format("valid1"), "happy", "train"), (line.format("test2"), "happy", "valid")]
    )


EMOTION = ["--judge-epochs", "1", "--each", "5", "--seeds", "3", "--temperature", "0.7", "--temperature", "1"]


def test_emotion_text_trains_halves_and_scores(workplace):
    module = emotion_text()
    corpus, work, out = emotional(workplace / "toy.jsonl"), workplace / "work", workplace / "emotion_text.json"
    arguments = [corpus, "--work", work, "--out", out, *SMALL, *EMOTION]
    run(module, *arguments)
    content = result(out)
    assert content["judge_leaks"] == {"toy": "none"}
    assert set(content["data"]) == {"toy.jsonl", "toy-judge/model.safetensors", "toy-lm/model.safetensors"}
    named = [(row["system"], row["seed"], row.get("temperature")) for row in content["rows"]]
    assert named == [("real", 0, None), ("train", 0, None), *(("lm", seed, 1.0) for seed in range(3)), ("lm", 0, 0.7)]
    assert {row["corpus"] for row in content["rows"]} == {"toy"}
    assert {row["n"] for row in content["rows"]} == {10}
    real, train, sampled = content["rows"][:3]
    assert train["novelty"] == 0 < real["novelty"]
    assert train["forward_bleu4"] > sampled["forward_bleu4"]
    measures = {"emotion_accuracy", "emotion_accuracy_corrected", "emotion_f1", "self_bleu4", "backward_bleu4", "unique"}
    assert set(sampled) >= measures | {"commonest", "emotion_f1_interval"}


def test_generator_and_judge_share_no_text(workplace):
    """The corpus repeats texts of train in other case and spacing, and texts of valid and test in train."""
    ready = emotion_text().prepared(str(emotional(workplace / "toy.jsonl")), workplace / "work", 5)
    halves = [
        {fingerprint(row.reply) for row in read_exchanges(path) if row.split == "train"}
        for path in (ready.generator, ready.judge)
    ]
    held_out = [{fingerprint(row.reply) for row in rows} for rows in (ready.valid, ready.test)]
    assert all(len(part) > 10 for part in halves)
    assert len(halves[0] | halves[1]) == 120
    parts = [*halves, *held_out]
    assert all(parts[one].isdisjoint(parts[other]) for one in range(4) for other in range(one))


def test_trained_models_are_used_again_and_no_others(workplace):
    module = emotion_text()
    corpus, work = emotional(workplace / "toy.jsonl"), workplace / "work"
    arguments = [corpus, "--work", work, "--out", workplace / "emotion_text.json", *EMOTION]
    run(module, *arguments, *SMALL)
    first = (workplace / "emotion_text.json").read_text()
    weights = work / "toy-lm" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    run(module, *arguments, *SMALL)
    assert weights.stat().st_mtime_ns == written
    assert (workplace / "emotion_text.json").read_text() == first
    with pytest.raises(CheckpointError, match="its run had steps 3, not 4"):
        run(module, *arguments, *SMALL, "--steps", "4")


def test_a_model_that_has_seen_the_judges_rows_is_refused(workplace):
    module = emotion_text()
    corpus, work, out = emotional(workplace / "toy.jsonl"), workplace / "work", workplace / "emotion_text.json"
    ready = module.prepared(str(corpus), work, 5)
    settings = module.replace(module.GENERATOR, steps=2, width=16)
    whole = module.trained(workplace / "whole", corpus, ready.reading, settings)
    arguments = [corpus, "--work", work, "--out", out, *EMOTION, "--checkpoint", f"toy={whole}"]
    with pytest.raises(CheckpointError, match="training rows are among"):
        run(module, *arguments)
    run(module, *arguments, "--allow-leak")
    content = result(out)
    shared = len(read_fingerprints(work / "toy-judge"))
    assert content["judge_leaks"] == {"toy": f"allowed(whole:{shared}rows)"}
    assert content["rows"][2]["system"] == "whole"


def captions(path):
    things = ("dog", "cat", "man", "woman", "bird", "child")
    places = ("on a bench", "near the sea", "under a tree", "in a kitchen", "by the road")
    rows = [f"a {thing} {place} with a red ball ." for thing in things for place in places]
    return write_corpus(path, [(text, "neutral", ("train", "train", "test")[number % 3]) for number, text in enumerate(rows)])


def captions_script():
    """The script, with a small discriminator of its own and short samples."""
    module = script("captions")
    module.ADVERSARY = module.replace(
        module.ADVERSARY, batch_size=4, samples=2, max_tokens=6, discriminator_width=8, discriminator_heads=2
    )
    return module


CAPTIONS = [*SMALL, "--gan-minutes", "0", "--gan-steps", "2", "--estimator", "rollout", "--samples", "12"]


def test_captions_train_sample_score_and_draw(workplace):
    module = captions_script()
    corpus, work, out = captions(workplace / "toy.jsonl"), workplace / "work", workplace / "captions.json"
    arguments = ["--corpus", corpus, "--work", work, "--out", out, *CAPTIONS, "--seeds", "2"]
    run(module, *arguments, "--only-train")
    assert not out.exists()
    weights = [work / f"{system}-{seed}" / "model.safetensors" for system in ("lm", "gan") for seed in range(2)]
    written = [path.stat().st_mtime_ns for path in weights]
    run(module, *arguments, "--temperature", "0.5", "--temperature", "1")
    assert [path.stat().st_mtime_ns for path in weights] == written
    content = result(out)
    named = [(row["system"], row["seed"], row.get("temperature")) for row in content["rows"]]
    papers = [(f"published: {name}", 0, None) for name in module.PUBLISHED]
    models = [(name, seed, at) for name in ("lm", "gan") for seed in range(2) for at in (None, 0.5, 1.0)]
    gains = [("gan over lm", 0, None), ("gan over lm", 1, None), ("gan over lm, all seeds", "all", None)]
    assert named == [("real", 0, None), ("train", 0, None), *papers, *models, *gains]
    train, likelihood, sampled = (content["rows"][place] for place in (1, 8, 9))
    assert train["forward_bleu5"] > sampled["forward_bleu5"]
    assert train["n"] == sampled["n"] == 12
    assert likelihood["perplexity"] == pytest.approx(2.718281828 ** likelihood["nll_word"], rel=1e-3)
    assert content["references"] == 10
    shown = (
        "--minutes 0.0 --steps 3 --width 16 --gan-minutes 0.0 --gan-steps 2 --estimator rollout --seeds 2 --samples 12 "
        "--temperature 0.5 --temperature 1.0"
    )
    folder = workplace.name
    assert content["command"] == f"python evaluate/captions.py --corpus {folder}/toy.jsonl --work {folder}/work {shown}"
    assert (workplace / "captions.png").stat().st_size > 1000
    svg = (workplace / "captions.svg").read_text(encoding="utf-8")
    assert all(name in svg for name in ("training captions", "our MLE", "our GAN", "published: SeqGAN", "forward_bleu4"))
    assert "RelGAN" not in svg
    texts = json.loads((work / "lm-0" / "samples-12-at-0.5.json").read_text(encoding="utf-8"))
    assert len(texts) == 12
    with pytest.raises(CheckpointError, match="lm-0: its run had steps 3, not 4"):
        run(module, *arguments, "--steps", "4")
    with pytest.raises(CheckpointError, match="gan-0: its run had estimator rollout, not dense"):
        run(module, *arguments, "--estimator", "dense")
    with pytest.raises(CheckpointError, match="gan-0: its run had discriminator lm:"):
        run(module, *arguments, "--discriminator", "own")


def test_a_gan_of_captions_begins_as_its_language_model(workplace):
    """Rows of captions name a label, which the language model was told in one of a hundred only."""
    module = captions_script()
    work, seen = workplace / "work", ["a dog on a bench .", "a cat near the sea with a red ball ."]
    arguments = ["--corpus", captions(workplace / "toy.jsonl"), "--work", work, "--seeds", "1", "--only-train"]
    run(module, *arguments, *CAPTIONS)
    before, start, label_too = (
        module.loaded(work / folder, system, "neutral")
        for folder, system in (("lm-0", "lm"), ("start-0", "lm"), ("start-0", "gan"))
    )
    plain = SamplingParams()
    conditioning = [start.sample(emotion, sampling=plain, seed=1)[0].text for emotion in ("neutral", None)]
    assert conditioning == [before.sample(sampling=plain, seed=1)[0].text] * 2
    assert before.sample("neutral", sampling=plain, seed=1)[0].text != conditioning[0]
    nats = [module.own_model(model).nll(seen) for model in (before, start, label_too)]
    assert (nats[0] == nats[1]).all()
    assert (nats[0] == nats[2]).all()


def test_gain_of_captions_is_read_off_where_both_curves_are_equally_various():
    gain = script("captions").gain
    lm = ([0.3, 0.5, 0.9], [0.1, 0.2, 0.6])
    above = ([0.4, 0.6, 0.95], [0.25, 0.4, 0.7])
    found = gain(lm, above)
    # By hand: at .5 the one stands at .325, the other at .2; .3 is beyond the second curve.
    assert found["forward_bleu4_gain_at_0.4"] == pytest.approx(0.25 - 0.15)
    assert found["forward_bleu4_gain_at_0.5"] == pytest.approx(0.325 - 0.2)
    assert found["forward_bleu4_gain_at_0.6"] == pytest.approx(0.4 - 0.3)
    assert "forward_bleu4_gain_at_0.3" not in found
    levels = [value for name, value in found.items() if "_at_" in name]
    assert found["forward_bleu4_gain"] == pytest.approx(sum(levels) / 5)
    assert set(gain(lm, lm).values()) == {0.0}
    assert gain(lm, ([0.1, 0.2], [0.1, 0.1])) == {}
