"""What a finished run is worth: against Pinsker's bound and the best constant, worked out by hand."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from emogen.train.run.outcome import describe_adversarial, describe_classifier, wilson_low


def logged(folder, *entries):
    (folder / "log.jsonl").write_text("".join(json.dumps({"step": step, **entry}) + "\n" for step, entry in enumerate(entries)))
    return folder


def test_a_generator_that_hardly_moved_is_told(tmp_path):
    """0.0016 nats a token, 12.5 tokens: sqrt(0.02 / 2) = 0.1."""
    conditioning = describe_adversarial(logged(tmp_path, {"accuracy": 0.5}, {"kl": 0.0016, "length": 12.5, "accuracy": 0.53}))
    assert "hardly moved (KL to its start 0.0016 nats a token, 53% of pairs told apart)" in conditioning
    assert "at most 10% of its replies differ" in conditioning
    assert "--learning-rate" in conditioning


def test_a_generator_that_moved_is_told_without_advice(tmp_path):
    """0.02 nats a token, 16 tokens: sqrt(0.16) = 0.4."""
    conditioning = describe_adversarial(
        logged(tmp_path, {"kl": 0.02, "length": 16.0, "accuracy": 0.71}, {"held_out": {"nll": 4.0}})
    )
    assert conditioning == "the generator moved: KL to its start 0.02 nats a token, 71% of pairs told apart"


def test_a_run_that_ended_in_its_warm_up_is_told(tmp_path):
    assert "fewer than ten times" in describe_adversarial(logged(tmp_path, {"accuracy": 0.5, "distinct2": 0.9}))


def test_a_classifier_is_compared_with_the_commonest_label():
    """One label for all: accuracy 64 of 100; F1 of that label 2 * .64 / 1.64 = .78, of the other 0."""
    conditioning = describe_classifier(np.array([[64, 0], [36, 0]]), ("joy", "fear"))
    assert conditioning.startswith("100 held-out rows: accuracy 0.64, macro-F1 0.39; always joy: 0.64, 0.39")
    assert "no better than a constant" in conditioning
    assert "constant" not in describe_classifier(np.array([[55, 5], [5, 35]]), ("joy", "fear"))


def test_few_rows_are_no_proof():
    """Three of four right where the commonest label has two of four: the interval reaches below one half."""
    assert "no better than a constant" in describe_classifier(np.array([[2, 0], [1, 1]]), ("joy", "fear"))
    assert describe_classifier(np.zeros((2, 2), dtype=np.int64), ("joy", "fear")) == ""


@pytest.mark.parametrize(("right", "rows"), [(0, 4), (3, 4), (50, 100), (999, 1000)])
def test_the_interval_is_wilsons(right, rows):
    assert wilson_low(right / rows, rows) == pytest.approx(binomtest(right, rows).proportion_ci(method="wilson").low, abs=1e-4)
