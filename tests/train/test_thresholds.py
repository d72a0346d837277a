"""Thresholds and temperature against brute force, macro-F1 against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from emogen.train.thresholds import best_temperature, best_thresholds, macro_f1

SHARES = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([float(np.nextafter(np.float32(0.5), np.float32(toward))) for toward in (0, 1)]),
)
COLUMN = st.lists(st.tuples(SHARES, st.booleans()), min_size=1, max_size=8)


def f1(found, gold):
    hits = sum(a and b for a, b in zip(found, gold, strict=True))
    return 2 * hits / (sum(found) + sum(gold)) if sum(found) + sum(gold) else 0.0


@given(COLUMN)
def test_no_threshold_makes_a_better_f1(column):
    """Every way to cut the column, tried one after another, ties and zeros among them."""
    probabilities, gold = [p for p, _ in column], [g for _, g in column]
    (threshold,) = best_thresholds(torch.tensor(probabilities)[:, None], torch.tensor(gold)[:, None]).tolist()
    reached = f1([p >= threshold for p in probabilities], gold)
    best = max(f1([p >= cut for p in probabilities], gold) for cut in [*probabilities, 2.0])
    assert reached == pytest.approx(best, abs=1e-9)
    assert 0 <= threshold <= 1


def test_a_threshold_lies_between_what_is_taken_and_what_is_not():
    """By hand: .9 and .8 are right, .3 is wrong."""
    probabilities = torch.tensor([[0.3, 0.7], [0.9, 0.6], [0.8, 0.5]])
    gold = torch.tensor([[False, False], [True, False], [True, False]])
    torch.testing.assert_close(best_thresholds(probabilities, gold), torch.tensor([0.55, 0.5]))


def test_labels_have_thresholds_of_their_own():
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.rand(50, 4, generator=generator)
    gold = torch.rand(50, 4, generator=generator) < probabilities
    alone = [best_thresholds(probabilities[:, [at]], gold[:, [at]])[0] for at in range(4)]
    assert torch.equal(best_thresholds(probabilities, gold), torch.stack(alone))


@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=3), min_size=1, max_size=10))
def test_macro_f1_is_scikit_learns(rows):
    """With labels that are in neither left out, which is its `zero_division=nan`."""
    metrics = pytest.importorskip("sklearn.metrics")
    found, gold = (np.array([[pair[which] for pair in row] for row in rows]) for which in (0, 1))
    ours = macro_f1(torch.from_numpy(found), torch.from_numpy(gold))
    if not (found | gold).any():
        assert ours == 0.0
    else:
        assert ours == pytest.approx(metrics.f1_score(gold, found, average="macro", zero_division=np.nan))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_the_temperature_that_scores_were_multiplied_by_is_found(multi_label, scale):
    """Targets drawn from known probabilities, 20,000 rows: within 6%, one place on the grid."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(20_000, 4, generator=generator) * 2
    if multi_label:
        targets = (torch.rand(scores.shape, generator=generator) < scores.sigmoid()).float()
    else:
        drawn = torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]
        targets = functional.one_hot(drawn, 4).float()
    assert best_temperature(scores * scale, targets, multi_label) == pytest.approx(scale, rel=0.06)


def test_shares_as_targets_have_their_own_temperature():
    """Targets that are the probabilities at temperature 2 are likeliest at 2."""
    scores = torch.randn(100, 3, generator=torch.Generator().manual_seed(4)) * 3
    assert best_temperature(scores, (scores / 2).softmax(1), False) == pytest.approx(2, rel=0.06)
