"""Fréchet distance against closed forms, scipy and sampling theory; MAUVE through its package at both ends of its scale."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emogen.errors import DataError, SettingsError
from emogen.evaluate.distribution import frechet, mauve
from emogen.evaluate.significance import over_seeds


def with_moments(mean, deviations, texts=64):
    """Embeddings whose mean is `mean` and whose covariance is exactly diag(deviations^2), from rows of a Hadamard matrix."""
    signs = np.array([[1.0]])
    while len(signs) < texts:
        signs = np.block([[signs, signs], [signs, -signs]])
    return np.array(mean) + signs[:, 1 : len(deviations) + 1] * np.array(deviations) * ((texts - 1) / texts) ** 0.5


def noise(texts, width, seed=0):
    return np.random.default_rng(seed).normal(size=(texts, width))


NUMBERS = st.lists(st.tuples(*[st.floats(-3, 3)] * 2, *[st.floats(0, 3)] * 2), min_size=1, max_size=6)


@settings(max_examples=25)
@given(NUMBERS)
def test_diagonal_gaussians_have_the_closed_form(numbers):
    """Sum of (m - m')^2 + (s - s')^2 (Dowson & Landau 1982), zero deviations included; sets of 64 and 128 texts."""
    mean, other_mean, deviations, other_deviations = np.array(numbers).T
    expected = np.square(mean - other_mean).sum() + np.square(deviations - other_deviations).sum()
    found = frechet(with_moments(mean, deviations), with_moments(other_mean, other_deviations, 128))
    assert found.value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("texts", "others"), [(200, 300), (9, 300), (7, 5)])
def test_distance_equals_scipy(texts, others):
    """Full rank, one covariance of low rank, and both."""
    linalg = pytest.importorskip("scipy.linalg")
    generated, real = noise(texts, 12) @ noise(12, 12, 1), 0.5 + noise(others, 12, 2)
    one, other = np.cov(generated, rowvar=False), np.cov(real, rowvar=False)
    apart = np.square(generated.mean(axis=0) - real.mean(axis=0)).sum()
    # The eigenvalues of a singular product are no better than the root of the rounding.
    expected = apart + np.trace(one + other) - 2 * np.trace(linalg.sqrtm(one @ other + 1e-14 * np.eye(12))).real
    assert frechet(generated, real).value == pytest.approx(expected, rel=1e-4)


@settings(max_examples=10)
@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 3))
def test_same_texts_are_at_distance_0_whatever_the_rank(texts, width, seed):
    rows = noise(texts, width, seed)
    found = frechet(rows, rows[::-1])
    assert found.value == pytest.approx(0, abs=1e-5)
    assert 0 <= found.low <= found.value <= found.high


def test_distance_is_symmetric_and_turns_with_the_space():
    generated, real = noise(40, 5), 1 + 2 * noise(50, 5, 1)
    turn = np.linalg.qr(noise(5, 5, 2))[0]
    value = frechet(generated, real).value
    assert frechet(real, generated).value == pytest.approx(value)
    assert frechet(generated @ turn, real @ turn).value == pytest.approx(value)


def test_large_means_do_not_spoil_the_covariances():
    generated, real = noise(40, 5), 1 + 2 * noise(50, 5, 1)
    assert frechet(generated + 1e5, real + 1e5).value == pytest.approx(frechet(generated, real).value, rel=1e-6)


def test_single_precision_is_taken():
    generated, real = noise(40, 5).astype(np.float32), noise(50, 5, 1).astype(np.float32)
    assert frechet(generated, real) == frechet(generated.astype(np.float64), real.astype(np.float64))


@pytest.mark.parametrize("others", [400, 900])
def test_interval_has_the_width_of_theory(others):
    """One dimension: (m - m')^2 + (s - s')^2 by the delta method with var(m) = s^2 / n, var(s) = s^2 / 2n; 100 halves."""
    rows, shift, spread = noise(400 + others, 1), 0.5, 1.5
    found = frechet(rows[:400], shift + spread * rows[400:])
    means = (2 * shift) ** 2 * (1 / 400 + spread**2 / others)
    deviations = (2 * (spread - 1)) ** 2 * (1 / 800 + spread**2 / (2 * others))
    assert found.high - found.low == pytest.approx(2 * 1.96 * (means + deviations) ** 0.5, rel=0.25)


def test_interval_may_pass_1_and_belongs_to_the_seed():
    generated, real = noise(40, 3), 5 + noise(40, 3, 1)
    found = frechet(generated, real, seed=2)
    assert 1 < found.low < found.value < found.high
    assert found == frechet(generated, real, seed=2)
    assert found != frechet(generated, real, seed=3)


def test_two_texts_are_enough():
    """Means 1 and 4, covariances 2 and 2: only the means differ."""
    assert frechet(np.array([[0.0], [2]]), np.array([[3.0], [5]])).value == pytest.approx(9)


def test_frechet_signs_both_sizes():
    signed = frechet(noise(4, 3), noise(5, 3), seed=7, encoder="MiniLM").signature
    assert signed.startswith("frechet|encoder:MiniLM|generated:4|real:5|width:3|halves:100|seed:7|version:")


@pytest.mark.parametrize("metric", [frechet, mauve])
@pytest.mark.parametrize(
    ("generated", "real", "message"),
    [
        (noise(1, 2), noise(5, 2), "1 generated embeddings: pass those of at least two"),
        (noise(5, 2), noise(0, 2), "0 real embeddings"),
        (noise(5, 2), noise(5, 3), r"widths 2 \(generated\) and 3 \(real\) differ"),
        (noise(5, 2), np.array([[1, 2], [1, 2], [np.nan, 2]]), r"real\[2\]: the embedding has a value that is not finite"),
        (np.array([[1, 2], [np.inf, 2]]), noise(5, 2), r"generated\[1\]: the embedding has a value that is not finite"),
        (noise(5, 2)[0], noise(5, 2), r"generated embeddings have the shape \[2\]"),
        (noise(5, 0), noise(5, 0), r"generated embeddings have the shape \[5, 0\]"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(metric, generated, real, message):
    with pytest.raises(DataError, match=message):
        metric(generated, real)


def test_mauve_is_1_for_the_same_texts_and_0_for_strangers(capfd):
    """And silent, also below faiss's own 39 texts a cluster."""
    pytest.importorskip("mauve")
    rows = noise(60, 8) + 5
    same, strange = mauve(rows, rows), mauve(rows, -rows)
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    assert strange.value == pytest.approx(0, abs=0.01)
    assert 0 <= strange.low <= strange.value <= strange.high
    assert capfd.readouterr() == ("", "")


def test_mauve_is_the_mean_over_runs_of_the_package():
    """Its own call with its defaults; the interval is Student's."""
    package = pytest.importorskip("mauve")
    generated, real = noise(60, 8), 0.5 + noise(80, 8, 1)
    runs = [package.compute_mauve(p_features=real, q_features=generated, seed=seed).mauve for seed in (3, 5, 8)]
    found, spread = mauve(generated, real, seeds=(3, 5, 8), encoder="MiniLM"), over_seeds(runs)
    assert (found.value, found.low) == pytest.approx((np.mean(runs), max(0, spread.low)))
    assert found.high == pytest.approx(min(1, spread.high))
    assert len(set(runs)) > 1
    signed = found.signature
    assert signed.startswith("mauve|mauve-text:")
    assert "|faiss:" in signed
    assert "|encoder:MiniLM|generated:60|real:80|seeds:3,5,8|version:" in signed


def test_mauve_leaves_faiss_as_it_was():
    pytest.importorskip("mauve")
    faiss = pytest.importorskip("faiss")
    before = faiss.Kmeans
    mauve(noise(20, 4), noise(20, 4, 1))
    assert faiss.Kmeans is before


def test_one_direction_is_refused():
    with pytest.raises(DataError, match="all embeddings have one direction"):
        mauve(np.ones((20, 4)), 2 * np.ones((20, 4)))


@pytest.mark.parametrize("seeds", [(), (1,), (1, 2, 1)])
def test_seeds_without_spread_are_refused(seeds):
    with pytest.raises(SettingsError, match="pass two or more different ones"):
        mauve(noise(20, 4), noise(20, 4, 1), seeds=seeds)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(SettingsError, match=r'^mauve needs the extra: pip install -e "\.\[mauve\]"$'):
        mauve(noise(20, 4), noise(20, 4, 1))
