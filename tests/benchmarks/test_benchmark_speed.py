"""The benchmark of speed: its reference against the package, and a run from end to end with tiny sizes."""

import doctest
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.loop import generate
from emogen.decoding.rollout import rollout_returns
from emogen.decoding.sampler import PlainSampler
from emogen.models.device import probe_bfloat16
from emogen.text.tokenizer import BOS, EOS, PAD

TOP = Path(__file__).parents[2]
TINY = ("--rollouts", "2", "--rows", "4", "--tokens", "3", "--vocabulary", "70", "--threads", "1", "--repetitions", "1")


@pytest.fixture
def speed(monkeypatch):
    spec = importlib.util.spec_from_file_location("speed", TOP / "evaluate" / "speed.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "speed", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SAMPLED", 20)
    monkeypatch.setattr(module, "SAMPLED_AT_ONCE", 10)
    monkeypatch.setattr(module, "COSTS", {"tokens": (2, 4), "vocabulary": (70, 90), "rollouts": (1, 2), "rows": (2, 4)})
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def tiny(speed, end=0.0):
    made = speed.bench(speed.Sizes(rollouts=2, rows=6, tokens=4, vocabulary=9, width=8), torch.device("cpu"))
    made.generator.bias.data[EOS] = end
    return made


@torch.no_grad()
def test_both_give_the_same_returns_in_expectation(speed):
    """Each return of six replies, of which some end early, over 20 times 20 completions: within 4.5 standard errors."""
    made = tiny(speed, end=-1.0)
    written = speed.written(made, made.prefixes, 5, True)
    condition, ends = made.prefixes.condition, (written.tokens == EOS).any(1)
    assert 0 < int(ends.sum()) < 6
    whole = torch.nn.functional.pad(written.tokens, (0, 5 - written.tokens.shape[1]), value=PAD)
    worth = torch.rand(9, 5)

    def reward(tokens, _rows):
        return worth[tokens, torch.arange(5)].sum(1)

    torch.manual_seed(7)
    theirs = torch.stack([speed.reference_returns(made.generator, whole, condition, 4, reward, 20) for _ in range(20)])
    ours = torch.stack(
        [rollout_returns(made.generator, written, condition, 4, reward, 20, CounterRNG(key)) for key in range(20)]
    )
    error = ((theirs.var(0) + ours.var(0)) / 20).sqrt()
    assert ((theirs.mean(0) - ours.mean(0)).abs() <= 4.5 * error + 1e-5).all()
    assert (error > 0).any()


@torch.no_grad()
def test_the_reference_samples_the_model(speed):
    """First tokens of 4,000 replies of either version against the model's own probabilities: within 4.5 deviations."""
    made = tiny(speed)
    start = speed.begun(4000, torch.device("cpu"))
    torch.manual_seed(3)
    theirs = speed.reference_completed(made.generator, start.tokens, start.condition, 1)
    ours = generate(made.generator, start, 1, PlainSampler(CounterRNG(0).uniforms)).tokens
    expected = made.generator.logits(made.generator(start.tokens[:1], start.condition[:1]))[0, 0].softmax(0)
    deviation = (expected * (1 - expected) / 4000).sqrt()
    for tokens in (theirs, ours):
        assert (tokens[:, 0] == BOS).all()
        found = torch.bincount(tokens[:, 1], minlength=9) / 4000
        assert ((found - expected).abs() <= 4.5 * deviation + 1e-6).all()


def test_the_reference_ends_replies(speed):
    """Nothing but padding behind the end token, and a prefix that has ended stays as it is."""
    made = tiny(speed, end=3.0)
    torch.manual_seed(3)
    start = speed.begun(200, torch.device("cpu"))
    for tokens in speed.reference_completed(made.generator, start.tokens, start.condition, 4).tolist():
        behind = tokens[tokens.index(EOS) + 1 :] if EOS in tokens else []
        assert set(behind) <= {PAD}
    ended = torch.tensor([[BOS, 6, EOS]])
    assert speed.reference_completed(made.generator, ended, start.condition[:1], 4).tolist() == [[BOS, 6, EOS, PAD, PAD]]


def test_both_versions_of_a_step_learn(speed):
    """After one step of each the generator's weights are others, and the discriminator's the same."""
    for case, version in (("step", speed.work), ("dense", speed.work), ("step", speed.reference_work)):
        made = speed.bench(speed.Sizes(2, 4, 3, 70, 8), torch.device("cpu"), "prefix" if case == "dense" else "sequence")
        before = [parameter.clone() for parameter in (*made.generator.parameters(), *made.models.discriminator.parameters())]
        version(case, made)()
        after = (*made.generator.parameters(), *made.models.discriminator.parameters())
        changed = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
        learnt = len(list(made.generator.parameters()))
        assert any(changed[:learnt])
        assert not any(changed[learnt:])


def test_counts_by_hand(speed):
    """T=3, R=2, B=4: prefixes of 1 and 2 tokens take 2 and 1 more, so 2 x 4 x 3 tokens; the step has its 12 besides."""
    sizes = speed.Sizes(2, 4, 3, 70, 8)
    assert sizes.completed == 24
    assert [speed.tokens_of(case, sizes) for case in ("step", "rollouts", "dense", "sampling")] == [36, 24, 12, 60]
    assert speed.operations("rollouts", sizes) == 2 * 24 * (8 * 8**2 + 8 * 70)
    assert speed.operations("sampling", sizes) == 2 * 60 * (8 * 8**2 + 8 * 70)


def test_a_long_reference_counts_twice(speed):
    """The median of as many runs as asked for, or of two."""
    runs = []
    plan = speed.Plan(torch.device("cpu"), 3)
    assert speed.timed(lambda: runs.append(0), plan, long=1e9)[1] == 3
    assert len(runs) == 4
    assert speed.timed(lambda: runs.append(0), plan, long=0.0)[1] == 2
    assert len(runs) == 6


def test_the_step_of_the_memory_case(speed):
    """Runs here with tiny sizes and chunk; seconds and peak are positive."""
    assert all(value > 0 for value in speed.whole_step(speed.Sizes(2, 4, 3, 70, 8, chunk=5), torch.get_num_threads()))


def test_end_to_end(speed, tmp_path):
    """Every system in each precision of this processor with its ratio, every axis of the cost with its power, the figure."""
    out = tmp_path / "speed.json"
    speed.main([*TINY, "--peak", "0.1", "--out", str(out)], standalone_mode=False)
    result = json.loads(out.read_text())
    rows = result["rows"]
    found = {(row["system"], row["precision"]): row for row in rows if "ratio" in row}
    precisions = ("float32", "bf16") if probe_bfloat16(torch.device("cpu")).runs else ("float32",)
    assert set(found) == {
        (system, precision) for system in ("step", "rollouts", "dense", "sampling") for precision in precisions
    }
    for row in found.values():
        assert row["ratio"] == pytest.approx(row["reference_seconds"] / row["seconds"], rel=0.02)
        assert row["repetitions"] == row["reference_repetitions"] == 1
        assert row["share_of_peak"] == pytest.approx(row["operations_per_second"] / 1e11, abs=1e-5)
    costs = {(row["case"], row["axis"], row["value"]) for row in rows if row["system"] == "cost"}
    assert {("rollouts", "T", 4), ("step", "V", 90), ("dense", "B", 2), ("rollouts", "R", 1)} <= costs
    powers = {(row["case"], row["axis"]): row["expected_at_most"] for row in rows if row["system"] == "power"}
    assert len(powers) == 11
    assert powers["rollouts", "T"] == powers["step", "T"] == 2
    assert set(powers.values()) == {1, 2}
    assert result["setting"]["T"] == 3
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert result["command"].startswith("python evaluate/speed.py --rollouts 2")


def test_examples(speed):
    """Those in docstrings."""
    assert doctest.testmod(speed).failed == 0
