"""The benchmark of control: its sums by hand and by closed forms, and a run from end to end on invented rows."""

import doctest
import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.emotions.labels import LabelSet
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.evaluate.resampling import SumStatistic

TOP = Path(__file__).parents[2]
MODULES = ("writing", "choice", "texts", "speed", "calibration", "checks")
LINES = {
    "happy": "we won the game number {} today and the whole street sang with us until late",
    "gloomy": "the old dog number {} died last night and nobody in the house could sleep at all",
    "plain": "the train number {} leaves from the second platform every morning at half past eight",
}
SIZES = {"train": 60, "valid": 8, "test": 8}
SMALL = [
    *("--models", "1", "--seed", "0", "--seed", "1", "--start-steps", "20", "--head-steps", "4", "--each", "4"),
    *("--perplexity-each", "2", "--dev", "4", "--temperature", "0.8", "--temperature", "1.2", "--ladder", "0.8"),
    *("--ladder", "1.2", "--controls", "guidance:{}=1.5,3", "--controls", "head:{},rerank:2=1,2", "--language-model", "own"),
    *("--strength-each", "2", "--mixture-each", "2", "--calibration-texts", "2"),
    *("--race-rows", "8", "--race-tokens", "4", "--race-runs", "1"),
    *(part for setting in ("width=16", "batch_size=8", "reply_tokens=64") for part in ("--lm", setting)),
]


@pytest.fixture(scope="module", autouse=True)
def control():
    """The script, with small classifiers, and a corrected distinct-n of few n-grams."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOP / "evaluate"))
        # Other tests load these scripts too: all of one load belong together.
        for script in (TOP / "evaluate").glob("*.py"):
            patch.delitem(sys.modules, script.stem, raising=False)
        spec = importlib.util.spec_from_file_location("control", TOP / "evaluate" / "control.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "control", module)
        spec.loader.exec_module(module)
        small = {"width": 8, "buckets": 512, "filters": 4, "layers": 1, "epochs": 3}
        for name in ("CLASSIFIER", "SECOND"):
            patch.setattr(module, name, module.replace(getattr(module, name), **small))
        patch.setattr(sys.modules["emotion_text"], "PAIRS", 10)
        yield module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of texts with three labels."""
    place = tmp_path_factory.mktemp("control")
    rows = [
        {"reply": LINES[name].format(f"{split}{number}"), "emotion": name, "split": split}
        for name in LINES
        for split, size in SIZES.items()
        for number in range(size)
    ]
    (place / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


def run(module, place, *arguments):
    named = ["--corpus", place / "texts.jsonl", "--work", place / "work", "--out", place / "control.json"]
    module.main([str(argument) for argument in [*named, *SMALL, *arguments]], standalone_mode=False)
    return json.loads((place / "control.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def content(control, corpus):
    """All parts, measured in two calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOGEN_DATA", str(corpus / "data"))
        run(control, corpus, "--part", "texts", "--part", "speed")
        return run(control, corpus, "--part", "strength", "--part", "mixtures")


def module_of(name):
    return sys.modules[f"control_{name}"]


def rows_of(content, part, **wanted):
    return [row for row in content["rows"] if row["part"] == part and wanted.items() <= row.items()]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(control, name):
    assert not doctest.testmod(module_of(name)).failed


def test_texts_of_every_system_setting_and_seed(content):
    texts = rows_of(content, "texts")
    assert content["benchmark"] == "control"
    written = {(row["system"], row.get("case"), row["strength"], row["seed"]) for row in texts if row["system"] != "plain"}
    keys = [(row["system"], row.get("case"), row.get("temperature"), row["seed"]) for row in texts]
    assert len(keys) == len(set(keys))
    controls = {("guidance", f"guidance:{w:g}", w) for w in (1.5, 3)} | {
        ("head+rerank", f"head:{w:g},rerank:2", w) for w in (1, 2)
    }
    assert written == {("real", None, 0, 0)} | {(*control, seed) for control in controls for seed in (0, 1)}
    plain = {(row["temperature"], row["seed"]) for row in texts if row["system"] == "plain"}
    assert plain == {(temperature, seed) for temperature in (0.8, 1.2) for seed in (0, 1)}
    measures = {"emotion_accuracy", "emotion_accuracy_second", "perplexity", "distinct2_corrected", "distinct3_corrected"}
    measures |= {"self_bleu4", "mean_length"}
    assert all(set(row) >= measures | {f"{name}_interval" for name in measures} for row in texts)
    assert all(row["tokens_per_second"] > 0 for row in texts if row["system"] != "real")
    for system in ("plain", "guidance", "head+rerank"):
        operating = {(row.get("case"), row["temperature"]) for row in texts if row["system"] == system and row["is_operating"]}
        assert len(operating) == 1
        ((case, _),) = operating
        curve = {row["temperature"] for row in texts if row["system"] == system and row.get("case") == case}
        assert curve == {0.8, 1.2}
    assert not {row["system"] for row in texts} & {"prompt"}


def test_guide_and_judges_share_nothing_and_the_models_have_heads(content, corpus):
    assert content["judge_leaks"] == {"emotion_accuracy": "none", "emotion_accuracy_second": "none"}
    heads = [name for name, facts in content["models"].items() if "head" in facts]
    assert len(heads) == 1
    assert heads[0].startswith("texts-mle-0-")
    assert not (corpus / "work" / "lstm" / "texts-mle-0" / "head.safetensors").exists()


def test_hypervolumes_compare_each_controller_with_plain(content):
    found = content["parts"]["texts"]["hypervolumes"]
    assert [own["system"] for own in found["systems"]] == ["plain", "guidance", "head+rerank"]
    assert found["reference"][:2] == [round(1 / 3, 5), 0.5]
    plain = found["systems"][0]["hypervolume"]
    for own in found["systems"][1:]:
        assert own["difference"] == pytest.approx(own["hypervolume"] - plain, abs=2e-5)
        low, high = own["difference_interval"]
        assert low <= own["difference"] <= high
        assert own["is_beyond"] == (low > 0)


def test_strength_and_mixture_rows(content, corpus):
    strength, mixtures = rows_of(content, "strength"), rows_of(content, "mixtures")
    systems = ("calibrated", "uncalibrated")
    points = {(row["system"], row["seed"], row["case"], row["strength"]) for row in strength if "strength" in row}
    assert len(points) == 2 * 2 * 3 * 11
    assert len([row for row in strength if "spearman" in row and "spearman_second" in row]) == 2 * 2 * 3
    assert {(row["system"], row["case"], row["share"]) for row in mixtures if "share" in row} == {
        (system, pair, share)
        for system in systems
        for pair in ("gloomy+happy", "gloomy+plain", "happy+plain")
        for share in (0.25, 0.5, 0.75)
    }
    for system in systems:
        shares = rows_of(content, "mixtures", system=system, seed=0)
        errors = [abs(row["judged_share"] - row["share"]) for row in shares if "share" in row]
        (whole,) = [row["share_error"] for row in shares if "share_error" in row]
        assert whole == pytest.approx(np.mean(errors), abs=1e-4)
    for figure in ("strength", "mixtures", "frontier"):
        assert (corpus / f"control_{figure}.png").stat().st_size > 1000


def test_speed_rows_and_their_ratios(content):
    speed = {(row["system"], row["case"]): row for row in rows_of(content, "speed")}
    assert {system for system, _ in speed} == {"plain", "guidance", "head+rerank:2"}
    assert speed["plain", "one target"]["ratio"] == 1
    one, alone, many = (speed["guidance", case] for case in ("one target", "each of them alone", "32 targets"))
    # There is one counted run, so that the ratio is that of the two medians.
    assert many["ratio"] == pytest.approx(many["tokens_per_second"] / alone["tokens_per_second"], rel=1e-3)
    for row in (one, alone):
        beside = row["tokens_per_second"] / speed["plain", "one target"]["tokens_per_second"]
        assert row["ratio"] == pytest.approx(beside, rel=1e-3)


def test_what_stands_is_used_again(control, content, corpus, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(corpus / "data"))
    kept = sorted((corpus / "work" / "control").rglob("*.json")) + sorted((corpus / "work").rglob("*.safetensors"))
    before = [path.stat().st_mtime_ns for path in kept]
    again = run(control, corpus, "--part", "texts", "--part", "mixtures")
    assert again["rows"] == content["rows"]
    assert [path.stat().st_mtime_ns for path in kept] == before
    with pytest.raises(CheckpointError, match="its run had steps 20, not 21"):
        run(control, corpus, "--start-steps", "21")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--second", "cnn"], "--guide, --judge and --second are transformer, cnn, cnn"),
        (["--controls", "guidance:2"], "--controls 'guidance:2'"),
        (["--controls", "head:{}=1", "--controls", "head:{}=2"], r"--controls 'head:\{\}=2'"),
        (["--controls", "head:{}=1,much"], "'1,much' are not numbers"),
    ],
)
def test_wrong_options(control, corpus, monkeypatch, content, arguments, message):
    monkeypatch.setenv("EMOGEN_DATA", str(corpus / "data"))
    with pytest.raises(SettingsError, match=message):
        run(control, corpus, *arguments)


# ---- sums


@given(st.permutations(range(9)))
def test_spearman_of_ranks_without_ties(order):
    """1 - 6 sum d^2 / (n (n^2 - 1)), Spearman 1904."""
    closed = 1 - 6 * sum((place - rank) ** 2 for place, rank in enumerate(order)) / (9 * (81 - 1))
    assert spearman()(range(9), [math.exp(rank) for rank in order]) == pytest.approx(closed)


@given(st.lists(st.integers(0, 4), min_size=3, max_size=9), st.randoms())
def test_spearman_with_ties_is_pearson_of_mean_ranks(values, random):
    others = [random.randint(0, 4) for _ in values]

    def mean_ranks(numbers):
        return [np.mean([place for place, one in enumerate(sorted(numbers)) if one == number]) for number in numbers]

    if len(set(values)) > 1 and len(set(others)) > 1:
        wanted = np.corrcoef(mean_ranks(values), mean_ranks(others))[0, 1]
        assert spearman()(values, others) == pytest.approx(wanted)
    else:
        assert spearman()(values, others) == 0


def test_spearman_takes_pairs(control):
    with pytest.raises(DataError, match="3 and 2 values"):
        spearman()([1, 2, 3], [1, 2])


def spearman():
    return module_of("calibration").spearman


def test_shares_of_two(control):
    shares = module_of("calibration").shares_of(np.array([0.1, 0.0, 0.0]), np.array([0.3, 0.5, 0.0]))
    assert shares.tolist() == pytest.approx([0.25, 0, 0.5])


@pytest.fixture
def choice(control):
    return module_of("choice")


def look(choice, temperature, accuracy=0.5, distinct=0.8, perplexity=100.0, control="none"):
    return choice.Look(choice.Setting("system", control, 1.0, temperature), accuracy, distinct, perplexity)


def test_plain_writes_at_the_warmest_that_is_right_often_enough(choice):
    """Of accuracies on the line 1 - t / 2; one was lucky, and is past the point at which the line is at 0.5."""
    lucky = {1.1: 0.06}
    looks = [look(choice, t, 1 - t / 2 + lucky.get(t, 0)) for t in (0.5, 0.6, 0.7, 0.8, 0.9, 0.98, 1.1, 1.2, 1.3, 1.4)]
    assert choice.warmest_right(looks, 0.5).setting.temperature == 0.98
    assert choice.warmest_right(looks, 0.95).setting.temperature == 0.5
    assert choice.warmest_right(looks[:1], 0.7).setting.temperature == 0.5


@given(st.floats(0, 2), st.integers(1, 9))
def test_halving_finds_the_coldest_that_is_various_enough(least, steps):
    """Beside a walk up the whole ladder; distinct-2 is the temperature itself."""
    found = module_of("choice")
    ladder, seen = [round(0.2 * step, 1) for step in range(1, steps + 1)], []

    def looked(setting):
        seen.append(setting.temperature)
        return look(found, setting.temperature, distinct=setting.temperature)

    wanted = next((step for step in ladder if step >= least), ladder[-1])
    assert found.coldest_various(found.PLAIN, ladder, least, looked).setting.temperature == wanted
    assert len(seen) == len(set(seen)) <= 1 + math.ceil(math.log2(steps)) if steps > 1 else len(seen) == 1


def test_the_best_weight_is_the_most_accurate_of_the_likely_and_various(choice):
    looks = [
        look(choice, 1, 0.7, 0.9, 100),
        look(choice, 1, 0.8, 0.85, 120),
        look(choice, 1, 0.95, 0.9, 130),
        look(choice, 1, 0.99, 0.7, 90),
    ]
    assert choice.best(looks, 125, 0.85) is looks[1]
    assert choice.best(looks, 50, 0.85) is looks[3]


def test_a_point_is_that_of_the_texts_that_are_marked(control):
    texts = module_of("texts")
    labels = LabelSet(("good", "bad"))
    hits = module_of("writing").accuracy_tally(["good", "good", "bad"], ["good", "bad", "bad"], labels, {})
    assert isinstance(hits, SumStatistic)
    assert hits.value == 0.75
    measured = texts.Measured(hits.sums, lambda mask: mask.sum() / 4, np.array([6.0, 0, 4]), np.array([3.0, 0, 2]))
    assert measured.place(np.array([True, True, True])) == pytest.approx((0.75, 0.75, -2))
    assert measured.place(np.array([True, False, False])) == pytest.approx((1, 0.25, -2))


def test_a_system_gains_over_plain_what_its_points_add(control):
    """Two systems of one point each: volumes are those of boxes."""
    texts = module_of("texts")

    def constant(accuracy, distinct, nats):
        rows = np.tile([accuracy, 1.0], (6, 1))
        return texts.Measured(rows, lambda _: distinct, np.full(6, nats), np.ones(6))

    plain, other = (texts.Setting(name, name, 0, 1) for name in ("plain", "other"))
    points = {plain: constant(0.5, 0.8, 5.0), other: constant(0.75, 0.7, 6.0)}
    found = texts.differences(points, {"plain": [plain], "other": [other]}, (0.25, 0.5, -7.0), 20)
    assert [own["hypervolume"] for own in found] == pytest.approx([0.25 * 0.3 * 2, 0.5 * 0.2 * 1])
    assert found[1]["difference"] == pytest.approx(0.1 - 0.15)
    assert found[1]["difference_interval"] == pytest.approx([-0.05, -0.05])
    assert not found[1]["is_beyond"]


def test_checks_say_what_holds(control):
    checks = module_of("checks")

    def row(system, accuracy, distinct, perplexity, seed=0, is_operating=True):
        figures = {"emotion_accuracy": accuracy, "distinct2_corrected": distinct, "perplexity": perplexity}
        return {"part": "texts", "system": system, "seed": seed, "is_operating": is_operating, **figures}

    rows = [
        {"part": "texts", "system": "real", "seed": 0, "emotion_accuracy": 0.55, "distinct2_corrected": 0.9},
        row("plain", 0.54, 0.8, 100.0),
        row("plain", 0.1, 0.99, 900.0, is_operating=False),
        row("head", 0.64, 0.8, 124.0),
        row("head", 0.68, 0.82, 124.0, seed=1),
        row("bayes", 0.9, 0.79, 100.0),
        {"part": "strength", "system": "calibrated", "seed": 0, "case": "joy", "spearman": 0.95},
        {"part": "strength", "system": "uncalibrated", "seed": 0, "case": "fear", "spearman": 0.1},
        {"part": "mixtures", "system": "calibrated", "seed": 0, "share_error": 0.13},
        {"part": "speed", "system": "head", "case": "one target", "seed": 0, "ratio": 0.86},
    ]
    found = {check.figure: check.holds for check in checks.checks(rows, 7)}
    assert found["plain, emotion_accuracy"]
    assert found["head, emotion_accuracy"]
    assert found["head, distinct2_corrected"]
    assert not found["bayes, distinct2_corrected"]
    (best,) = [check for check in checks.checks(rows, 7) if check.figure.startswith("best")]
    assert (best.got, best.holds) == ("head", True)
    assert found["strength, joy: Spearman"]
    assert "strength, fear: Spearman" not in found
    assert not found["mixtures of two, mean absolute error of judged share"]
    assert found["head, tokens a second of plain's"]
    assert found["bayes, tokens a second of plain's"] is None
    two = {check.figure: check.holds for check in checks.checks(rows, 2)}
    assert two["bayes, emotion_accuracy"]
    assert not two["bayes, distinct2_corrected"]
    assert not two["head, emotion_accuracy"]


def test_nothing_measured_is_no_failure(control):
    assert {check.holds for check in module_of("checks").checks([], 7)} == {None}


def test_signatures_tell_the_judge(content):
    signed = content["parts"]["texts"]["signatures"]
    assert "judge:judge|leak:none" in signed["emotion_accuracy"]
    assert "judge:second-ngrams|leak:none" in signed["emotion_accuracy_second"]
