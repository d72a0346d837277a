"""Random numbers by counters: their distribution, that nothing but the counters matters, and the hash in plain Python."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from emogen.decoding.counter_rng import CounterRNG

MASK = (1 << 64) - 1
COUNTERS = st.lists(st.integers(-(1 << 40), 1 << 40), max_size=4)


def mixed(value, counter):
    """One round in integers without bounds, cut to 64 bits: the finaliser of splitmix64 over value and counter."""
    value = (value * 0x9E3779B97F4A7C15 + counter * 0xD1342543DE82EF95 + 1) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


@given(st.integers(0, (1 << 62) - 1), st.integers(0, 1 << 40), st.integers(0, 1 << 40), COUNTERS)
def test_the_same_as_in_plain_python(key, first, row, counters):
    """To the last of 24 bits."""
    expected = mixed(first + row, key)
    for counter in counters:
        expected = mixed(expected, counter)
    found = CounterRNG(key, first).uniforms(torch.tensor([row]), *counters)
    assert found.dtype == torch.float32
    assert float(found[0]) == (expected >> 40) / 2**24


@pytest.mark.parametrize("key", [0, 1, 1 << 61])
def test_uniform_over_rows_counters_and_keys(key):
    """Kolmogorov-Smirnov along each axis and a chi-square of pairs of neighbours; p values above one in a million."""
    numbers = torch.arange(20_000)
    columns = [
        CounterRNG(key).uniforms(numbers),
        CounterRNG(key).uniforms(torch.tensor(3), numbers),
        CounterRNG(key).uniforms(torch.tensor(3), 5, numbers, 7),
        torch.cat([CounterRNG(key + other).uniforms(torch.tensor([0])) for other in range(2_000)]),
    ]
    for drawn in columns:
        assert drawn.min() >= 0
        assert drawn.max() < 1
        assert stats.kstest(drawn.double().numpy(), "uniform").pvalue > 1e-6
        cells = (drawn * 10).long()
        pairs = torch.bincount(cells[:-1] * 10 + cells[1:], minlength=100)
        assert stats.chisquare(pairs.numpy()).pvalue > 1e-6


def test_neighbours_are_independent():
    """Over 40,000 rows: numbers of the next row, counter and key correlate with none (deviation 1 / 200)."""
    rows = torch.arange(40_000)
    drawn = [
        CounterRNG(0).uniforms(rows, 4),
        CounterRNG(0).uniforms(rows + 1, 4),
        CounterRNG(0).uniforms(rows, 5),
        CounterRNG(0).uniforms(rows, 4, 0),
        CounterRNG(0).uniforms(rows),
        CounterRNG(1).uniforms(rows, 4),
    ]
    correlation = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert correlation.abs().max() < 5 / 200


def test_chunks_order_and_processes_change_nothing():
    """Rows in two parts, backwards, or as the rows from the fifth on of another process: the same numbers."""
    rows, positions = torch.arange(12), torch.arange(7)
    whole = CounterRNG(9).uniforms(rows[:, None], positions)
    assert torch.equal(torch.cat([CounterRNG(9).uniforms(part[:, None], positions) for part in rows.split(5)]), whole)
    assert torch.equal(CounterRNG(9).uniforms(rows.flip(0)[:, None], positions).flip(0), whole)
    assert torch.equal(CounterRNG(9, first=5).uniforms(torch.arange(7)[:, None], positions), whole[5:])
    assert torch.equal(torch.stack([CounterRNG(9).uniforms(rows, place) for place in range(7)], 1), whole)
    assert whole.unique().numel() == whole.numel()
