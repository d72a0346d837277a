"""The oracle benchmark: the oracle against a second implementation, the summary by hand, and the whole script in small."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emogen.errors import DataError
from emogen.text.tokenizer import BOS, EOS, SPECIAL

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluate"))

import oracle_sequences
import oracle_summary

TOP = Path(__file__).parents[2]


def script():
    spec = importlib.util.spec_from_file_location("oracle", TOP / "evaluate" / "oracle.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["oracle"] = module
    spec.loader.exec_module(module)
    return module


benchmark = script()
WORDS, WIDTH = 11, 4


def seqgan_arrays():
    """Weights under SeqGAN's names, of a tiny vocabulary."""
    random = np.random.default_rng(0)
    shapes = {"embeddings": (WORDS, WIDTH), "Wo": (WIDTH, WORDS), "bo": (WORDS,)}
    for gate in ("i", "f", "og", "c"):
        shapes |= {f"W{gate}": (WIDTH, WIDTH), f"U{gate}": (WIDTH, WIDTH), f"b{gate}": (WIDTH,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def numpy_log_probs(arrays, sequence):
    """Log probabilities [length, words] before each word of a sequence, by the SeqGAN paper's formulas, in float64."""
    weights = {name: value.astype(np.float64) for name, value in arrays.items()}

    def gate(name, word, hidden):
        return word @ weights[f"W{name}"] + hidden @ weights[f"U{name}"] + weights[f"b{name}"]

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    hidden, cell, found = np.zeros(WIDTH), np.zeros(WIDTH), []
    for before in [0, *sequence[:-1]]:
        word = weights["embeddings"][before]
        put, keep, out = (sigmoid(gate(name, word, hidden)) for name in ("i", "f", "og"))
        cell = keep * cell + put * np.tanh(gate("c", word, hidden))
        hidden = out * np.tanh(cell)
        scores = hidden @ weights["Wo"] + weights["bo"]
        found.append(scores - np.log(np.exp(scores).sum()))
    return np.array(found)


@pytest.fixture
def oracle_file(tmp_path):
    path = tmp_path / "oracle.npz"
    np.savez(path, **seqgan_arrays())
    return path


def test_the_oracle_scores_as_seqgans_own_formulas_do(oracle_file):
    sequences = np.random.default_rng(1).integers(WORDS, size=(7, 5))
    expected = [[numpy_log_probs(seqgan_arrays(), row)[place, word] for place, word in enumerate(row)] for row in sequences]
    found = oracle_sequences.oracle_nll(oracle_sequences.load_oracle(oracle_file), torch.from_numpy(sequences))
    assert found == pytest.approx(-np.mean(expected), abs=1e-5)


def test_the_oracles_own_samples_cost_its_entropy(oracle_file):
    samples = oracle_sequences.drawn(oracle_sequences.load_oracle(oracle_file), 3000, 5, key=3)
    log_probs = np.array([numpy_log_probs(seqgan_arrays(), row) for row in samples[:400].tolist()])
    entropy = -(np.exp(log_probs) * log_probs).sum(-1).mean()
    assert oracle_sequences.oracle_nll(oracle_sequences.load_oracle(oracle_file), samples) == pytest.approx(entropy, abs=0.03)


def test_an_oracle_file_that_lacks_a_gate_is_refused(tmp_path):
    arrays = seqgan_arrays()
    del arrays["Uog"]
    np.savez(tmp_path / "broken.npz", **arrays)
    with pytest.raises(DataError, match="Uog"):
        oracle_sequences.load_oracle(tmp_path / "broken.npz")


def test_sequences_differ_between_splits_and_not_between_calls():
    oracle = oracle_sequences.own_oracle(5, WORDS, WIDTH)
    first, again = (oracle_sequences.sequences_of(oracle, 6, rows=30, held_out=30) for _ in range(2))
    assert first.train.shape == (30, 7)
    assert (first.train[:, 0] == BOS).all()
    assert first.train[:, 1:].min() >= SPECIAL
    assert torch.equal(first.train, again.train)
    assert not torch.equal(first.valid, first.test)
    assert not torch.equal(first.train, first.valid)


def test_the_generator_writes_full_length_and_scores_what_it_wrote():
    generator = oracle_sequences.fresh_generator(WORDS, seed=0)
    written = oracle_sequences.sampled(generator, 600, 8, temperature=0.7, key=1)
    assert written.shape == (600, 9)
    assert written[:, 1:].min() >= SPECIAL
    assert EOS not in written
    with torch.no_grad():
        scores = generator.logits(generator(written[:, :-1], oracle_sequences.as_batch(written).emotion))[:, :, SPECIAL:] / 0.7
    entropy = torch.distributions.Categorical(logits=scores).entropy().mean()
    assert float(oracle_sequences.token_nlls(generator, written, 0.7).mean()) == pytest.approx(float(entropy), abs=0.05)


def curve(system, seed, points, length=20):
    return [
        {
            "system": system,
            "seed": seed,
            "length": length,
            "temperature": t,
            "nll_heldout": h,
            "nll_oracle": o,
            "entropy": t,
            "distinct2": t / 2,
        }
        for t, h, o in points
    ]


def test_the_summary_interpolates_along_the_cooling_side():
    rows = curve("mle", 0, [(0.5, 8.0, 8.0), (1.0, 7.5, 9.5), (0.8, 7.6, 9.0), (1.2, 7.9, 10.0)])
    # Halfway between 7.6 and 8.0; the hot side, which has 7.8 too, does not count.
    assert oracle_summary.reached(rows, 7.8) == pytest.approx(8.5)
    assert oracle_summary.reached(rows, 7.5) == pytest.approx(9.5)
    assert oracle_summary.reached(rows, 8.1) is None
    assert oracle_summary.reached(rows, 7.8, "distinct2") == pytest.approx(0.325)


def test_the_summary_compares_means_in_deviations():
    rows = []
    for seed, lower in enumerate((0.0, 0.1, 0.2)):
        rows += curve("mle", seed, [(1.0, 7.5, 9.5), (0.5, 7.9, 8.5 + lower)])
        rows += curve("dense", seed, [(1.0, 7.5, 9.0), (0.5, 7.9, 8.0 + lower)])
        rows += curve("gumbel", seed, [(1.0, 7.9, 9.0), (0.5, 8.9, 8.0)])
    mle, dense, gumbel = oracle_summary.summary(rows, above=0.4)
    assert mle["nll_heldout"] == pytest.approx(7.9)
    assert (mle["nll_oracle"], mle["below_mle"]) == (pytest.approx(8.6), 0)
    assert dense["below_mle"] == pytest.approx(0.5)
    # Sample deviation of .0 .1 .2 is .1 for both.
    assert dense["below_mle_in_deviations"] == pytest.approx(5.0)
    assert mle["above_dense_in_deviations"] == pytest.approx(5.0)
    assert (dense["entropy"], dense["distinct2"]) == (pytest.approx(0.5), pytest.approx(0.25))
    assert (gumbel["system"], gumbel["reached"]) == ("gumbel", 3)
    assert [entry["reached"] for entry in oracle_summary.summary(rows, above=0.2)] == [3, 3, 0]


SMALL = ["--rows", 40, "--epochs", 1, "--steps", 1, "--sampled", 12, "--length", 4, "--seeds", 1]


@pytest.fixture
def small(monkeypatch, oracle_file):
    """The script with one step of warm-up; the arguments but --work and --out."""
    small = {name: replace(config, warmup_steps=1, samples=2) for name, config in benchmark.SYSTEMS.items()}
    monkeypatch.setattr(benchmark, "SYSTEMS", small)
    monkeypatch.setattr(benchmark, "ABLATIONS", {"with KL 10": replace(small["dense"], kl_weight=0.0)})
    monkeypatch.setattr(benchmark, "TEMPERATURES", (1.1, 1.0, 0.5))
    return ["--oracle", oracle_file, *SMALL, "--ablation", "with KL 10"]


def test_the_whole_benchmark_in_small_and_resumed(tmp_path, small, monkeypatch):
    work, out = tmp_path / "work", tmp_path / "out" / "oracle.json"
    arguments = [str(argument) for argument in [*small, "--work", work, "--out", out]]
    benchmark.main(arguments, standalone_mode=False)
    content = json.loads(out.read_text(encoding="utf-8"))
    systems = {row["system"] for row in content["rows"]}
    assert systems == {"mle", "rollout", "dense", "gumbel", "constant", "shuffled", "dense with KL 10"}
    assert len(content["rows"]) == len(systems) * 3
    for row in content["rows"]:
        assert set(row) >= {"system", "length", "temperature", "seed", "nll_oracle", "nll_heldout"}
        assert ("ablation" in row) == (row["system"] == "dense with KL 10")
    assert {entry["system"] for entry in content["summary"]} == systems
    assert out.with_suffix(".png").exists()
    assert out.with_suffix(".svg").exists()

    def refuse(*_):
        raise AssertionError("a second call trains nothing")

    monkeypatch.setattr(benchmark, "_fit", refuse)
    monkeypatch.setattr(benchmark, "_adversarial", refuse)
    benchmark.main(arguments, standalone_mode=False)
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == content["rows"]


def test_each_ablation_changes_dense_and_no_two_alike():
    settings = [benchmark.DENSE, *benchmark.ABLATIONS.values()]
    assert len(set(settings)) == len(settings)


def test_a_model_is_the_same_when_made_and_when_found(tmp_path, oracle_file):
    oracle = oracle_sequences.load_oracle(oracle_file)
    data = oracle_sequences.sequences_of(oracle, 4, rows=40, held_out=10)
    fit = replace(benchmark.Fit(), epochs=1, dropout=0.5)
    study = benchmark.Study(oracle, "tiny", 4, data, tmp_path, fit, steps=1)
    made, found = benchmark.fitted(study, 0), benchmark.fitted(study, 0)
    assert made.config == found.config
    assert all(torch.equal(weight, found.state_dict()[name]) for name, weight in made.state_dict().items())
