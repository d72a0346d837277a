"""The benchmark of conditional adversarial training: its sums by hand, and a run from end to end on invented rows."""

import doctest
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from emogen.data.exchange import read_exchanges
from emogen.data.fingerprints import fingerprint, read_fingerprints
from emogen.errors import CheckpointError, SettingsError
from emogen.evaluate.score import Score

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluate"))

import conditional_data
import conditional_plan
import conditional_summary

TOP = Path(__file__).parents[2]
LINES = {
    "happy": "we won the game number {} today and the whole street sang with us until late",
    "gloomy": "the old dog number {} died last night and nobody in the house could sleep at all",
}
SIZES = {"train": 60, "valid": 6, "test": 6}
SMALL_GAN = ("warmup_steps=1", "batch_size=4", "samples=2", "max_tokens=8", "discriminator_width=16", "discriminator_layers=1")
SMALL = [
    *(
        "--start-steps",
        "3",
        "--steps",
        "2",
        "--each",
        "5",
        "--lm",
        "width=16",
        "--lm",
        "batch_size=8",
        "--lm",
        "reply_tokens=64",
    ),
    *(part for setting in SMALL_GAN for part in ("--gan", setting)),
    *("--temperature", "0.8", "--temperature", "1"),
]


@pytest.fixture
def conditional(monkeypatch):
    """The script, with small classifiers, and a corrected distinct-2 of few pairs."""
    monkeypatch.syspath_prepend(str(TOP / "evaluate"))
    spec = importlib.util.spec_from_file_location("conditional", TOP / "evaluate" / "conditional.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "conditional", module)
    spec.loader.exec_module(module)
    module.CLASSIFIER = module.replace(module.CLASSIFIER, width=8, buckets=512, filters=4, layers=1, epochs=3)
    monkeypatch.setattr(sys.modules["emotion_text"], "PAIRS", 10)
    return module


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    """A corpus of texts with labels, and one of replies to contexts, whose labels are the speaker's."""
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "data"))
    numbered = [(name, split, number) for name in LINES for split, size in SIZES.items() for number in range(size)]
    texts = [
        {"reply": LINES[name].format(f"{split}{number}"), "emotion": name, "split": split} for name, split, number in numbered
    ]
    replies = [
        {"context": [f"what about {split} {number}?"], "reply": LINES[name].format(f"{number} of {split}"), "emotion": "proud"}
        | {"split": split}
        for name, split, number in numbered
    ]
    # A text of the other corpus, which the judge may have learnt.
    replies += [{"context": [], "reply": row["reply"].upper(), "emotion": "proud", "split": "train"} for row in texts[:60]]
    for name, rows in (("texts", texts), ("replies", replies)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def run(module, place, *arguments):
    named = ["--texts", place / "texts.jsonl", "--replies", place / "replies.jsonl", "--work", place / "work"]
    given = [*named, "--out", place / "conditional.json", *SMALL, *arguments]
    module.main([str(argument) for argument in given], standalone_mode=False)
    path = place / "conditional.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def learnt(path):
    return {fingerprint(row.reply) for row in read_exchanges(path) if row.split == "train"}


def test_doctests(conditional):
    tried = doctest.testmod(conditional_summary)
    assert tried.attempted >= 5
    assert not tried.failed


def test_every_arm_from_start_to_figures(conditional, corpora):
    content = run(conditional, corpora, "--seed", "1", "--arm", "adversarial", "--arm", "adversarial+emotion")
    assert content["judge_leaks"] == "none"
    rows = content["rows"]
    arms = ["mle", "adversarial", "adversarial+emotion"]
    drawn = {(row["corpus"], row["system"], row["seed"], row["temperature"]) for row in rows if "temperature" in row}
    assert drawn == {(task, arm, 1, t) for task in ("texts", "replies") for arm in arms for t in (0.8, 1)}
    assert {row["system"] for row in rows} == {"real", "train", *arms}
    measures = {"emotion_accuracy", "distinct2_corrected", "forward_bleu4", "backward_bleu4", "unique", "commonest"}
    assert all(set(row) >= measures for row in rows if "temperature" in row)
    assert all(("rougeL" in row) == (row["corpus"] == "replies") for row in rows if "temperature" in row)
    assert {entry["system"] for entry in content["beyond"]} == set(arms[1:])
    assert all(entry["seeds"] <= 1 for entry in content["beyond"])
    for task in ("texts", "replies"):
        for quality in ("emotion_accuracy", "forward_bleu4"):
            assert (corpora / f"conditional_{task}_{quality}.png").stat().st_size > 1000
    models = content["models"]
    assert models["texts-adversarial+emotion-1"]["settings"]["emotion_reward"] == 5
    assert models["texts-adversarial-1"]["settings"]["emotion_reward"] == 0
    assert len({model["weights"] for model in models.values()}) == len(models) == 8


def test_who_sees_which_rows(conditional, corpora):
    run(conditional, corpora, "--seed", "0", "--arm", "mle", "--only-train")
    work = corpora / "work"
    parts = [learnt(work / f"texts-{part}.jsonl.gz") for part in ("generator", "guide", "judge")]
    assert all(len(part) > 10 for part in parts)
    assert len(set.union(*parts)) == sum(map(len, parts)) == 120
    replies = learnt(work / "replies-generator.jsonl.gz")
    assert replies & parts[0]
    assert not replies & parts[2]
    judge = set(read_fingerprints(work / "judge").tolist())
    assert judge == parts[2]
    assert not judge & set(read_fingerprints(work / "guide").tolist())
    labels = {row.emotion.name for row in read_exchanges(work / "replies-generator.jsonl.gz")}
    assert labels <= set(LINES)


def test_what_stands_there_is_used_again_and_nothing_else(conditional, corpora, monkeypatch):
    arguments = ["--seed", "0", "--task", "texts", "--arm", "adversarial"]
    monkeypatch.setattr(conditional, "figure", lambda *_: None)
    first = run(conditional, corpora, *arguments)
    weights = corpora / "work" / "lstm" / "texts-adversarial-0" / "model.safetensors"
    (texts,) = (corpora / "work" / "lstm" / "texts").glob("texts-adversarial-0-*.json")
    stood = [path.stat().st_mtime_ns for path in (weights, texts)]
    assert run(conditional, corpora, *arguments) == first
    assert [path.stat().st_mtime_ns for path in (weights, texts)] == stood
    with pytest.raises(CheckpointError, match=r"its run had kl_weight 8\.0, not 0\.0"):
        run(conditional, corpora, *arguments, "--gan", "kl_weight=0")
    with pytest.raises(CheckpointError, match="its run had steps 3, not 4"):
        run(conditional, corpora, *arguments, "--start-steps", "4")
    other = corpora / "work" / "lstm" / "texts-mle-0" / "model.safetensors"
    other.write_bytes(other.read_bytes()[:-4] + b"abcd")
    with pytest.raises(CheckpointError, match="its run had another start"):
        run(conditional, corpora, *arguments)


def test_the_judge_learns_nothing_that_a_given_start_has_learnt(conditional, corpora):
    whole = conditional.replace(conditional_plan.LM, width=16, steps=2, reply_tokens=64)
    opened = conditional_data.open_corpus([str(corpora / "texts.jsonl")], conditional_data.Reading())
    rows = [row for row in opened.exchanges() if row.split == "train"]
    conditional_data.write_exchanges(corpora / "some.jsonl", rows[:40])
    start = conditional.fit_lm(
        [str(corpora / "some.jsonl")], opened.parts[0][1], conditional.replace(whole, out=str(corpora / "start"))
    )
    content = run(conditional, corpora, "--seed", "0", "--task", "texts", "--arm", "mle", "--start", start)
    assert content["judge_leaks"] == "none"
    judge, given = (set(read_fingerprints(folder).tolist()) for folder in (corpora / "work" / "judge", start))
    assert len(given) == 40
    assert judge
    assert not judge & given
    assert {row["system"] for row in content["rows"]} == {"real", "train", "mle"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "transformer"], "--judge transformer: the guide is built like it"),
        (
            ["--judge", "transformer", "--guide", "cnn", "--discriminator", ""],
            "--judge transformer: the discriminator is built like it",
        ),
        (
            ["--judge", "hf:mini", "--discriminator", "hf:mini", "--gan", "estimator=rollout"],
            "--judge hf:mini: the discriminator is built like it",
        ),
        (["--gan", "sample=3"], "sample=3: 'sample' is not one of"),
        (["--gan", "samples=many"], "samples=many: 'many' is no int"),
        (["--lm", "out=here"], "out=here: 'out' is not one of"),
        (["--lm", "vocabulary=9"], "vocabulary=9: 'vocabulary' is not one of"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(conditional, corpora, arguments, message):
    with pytest.raises(SettingsError, match=message):
        run(conditional, corpora, *arguments)
    assert not (corpora / "work").exists()


# ---- the difference at equal diversity


def row(system, temperature, diversity, quality, seed=0):
    scores = {"distinct2_corrected": diversity, "emotion_accuracy": quality}
    return {"corpus": "texts", "system": system, "seed": seed, "temperature": temperature} | {
        name: Score(number, number, number, name) for name, number in scores.items()
    }


def test_beyond_the_start_by_hand(conditional):
    """The start's line from (.4, .8) to (.8, .4); the arm's from (.5, .9) to (.7, .6) and on to (.9, .3), beyond its end."""
    start = [row("mle", 0.6, 0.4, 0.8), row("mle", 1.0, 0.8, 0.4)]
    arm = [row("adversarial", 0.6, 0.5, 0.9), row("adversarial", 1.0, 0.7, 0.6), row("adversarial", 1.4, 0.9, 0.3)]
    real = {"corpus": "texts", "system": "real", "seed": 0}
    rows = conditional_summary.with_differences([real, *start, *arm])
    assert rows[0] == real
    beyond = {row.get("temperature"): row.get("beyond_emotion_accuracy") for row in rows if row["system"] == "adversarial"}
    assert beyond[0.6] == pytest.approx(0.9 - 0.7)
    assert beyond[1.0] == pytest.approx(0.6 - 0.5)
    assert beyond[1.4] is None
    # At .5, .7 and .8 the arm is .2, .1 and .05 above: the mean is (.2 * .15 + .1 * .075) / .3.
    assert beyond[None] == pytest.approx(0.125)
    assert not [row for row in rows if row["system"] == "mle" and "beyond_emotion_accuracy" in row]


def test_a_colder_start_is_not_beyond_itself(conditional):
    """Points of the start's own line: judged right more often, but less various."""
    start = [row("mle", 0.6, 0.4, 0.8), row("mle", 1.0, 0.8, 0.4)]
    colder = [row("adversarial", 0.6, 0.45, 0.75), row("adversarial", 1.0, 0.6, 0.6)]
    rows = conditional_summary.with_differences([*start, *colder])
    found = [row["beyond_emotion_accuracy"] for row in rows if row["system"] == "adversarial"]
    assert found == pytest.approx([0, 0, 0])


def test_each_seed_is_beside_its_own_start(conditional):
    starts = [row("mle", t, d, q + seed, seed) for seed in (0, 1) for t, d, q in ((0.6, 0.4, 0.8), (1.0, 0.8, 0.4))]
    arms = [row("adversarial", 1.0, 0.6, 0.7 + seed, seed) for seed in (0, 1)]
    arms += [row("adversarial", 0.6, 0.5, 0.8 + seed, seed) for seed in (0, 1)]
    summed = conditional_summary.summary(conditional_summary.with_differences([*starts, *arms]))
    assert [entry["temperature"] for entry in summed] == [1.0, 0.6, None]
    assert {(entry["mean"], entry["deviation"], entry["is_beyond"]) for entry in summed} == {(0.1, 0.0, True)}


def test_curves_without_common_diversity_have_no_difference(conditional):
    near, far = (conditional_summary.Curve(np.array(ends), np.array([1.0, 0.5])) for ends in ([0.1, 0.2], [0.3, 0.4]))
    assert conditional_summary.mean_difference(near, far) is None


def test_two_deviations_are_needed_in_all_seeds(conditional):
    """Standard deviation of 1, 2, 3 is 1 and the mean 2: not more than two of it."""
    assert conditional_summary.over_seeds([1.0, 2.0, 3.0]) == {"seeds": 3, "mean": 2, "deviation": 1, "is_beyond": False}
    assert conditional_summary.over_seeds([1.1, 2.1, 3.1])["is_beyond"]
    assert not conditional_summary.over_seeds([1.1, 1.1, None])["is_beyond"]
    assert conditional_summary.over_seeds([None]) == {"seeds": 0, "mean": None, "deviation": None, "is_beyond": False}
