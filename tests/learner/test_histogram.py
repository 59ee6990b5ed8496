import numpy as np
import pytest

from learner.histogram import BINS, histogram, histograms


def test_a_histogram_counts_every_value_once_between_its_smallest_and_largest() -> None:
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    found = histogram(values)
    assert (found.low, found.high) == (values.min(), values.max())
    assert (len(found.counts), sum(found.counts)) == (BINS, 500)
    width = (found.high - found.low) / BINS
    middles = found.low + width * (np.arange(BINS) + 0.5)
    assert np.average(middles, weights=found.counts) == pytest.approx(found.total / 500, abs=width / 2)
    assert found.squares / 500 - (found.total / 500) ** 2 == pytest.approx(values.astype(np.float64).var())


def test_equal_values_share_one_bin() -> None:
    found = histogram(np.full(7, 2.0))
    assert (found.low, found.high, found.counts) == (2.0, 2.0, (7,))


def test_what_is_not_finite_is_not_counted() -> None:
    assert histogram(np.array([np.nan, 1.0, np.inf, 3.0])).total == 4.0
    assert histogram(np.array([np.nan])) is None


def test_parts_of_a_step_are_counted_together_and_a_step_without_values_is_absent() -> None:
    found = histograms({2: [np.ones(3), np.zeros(2)], 0: [np.full(1, np.nan)], 1: []})
    assert list(found) == [2]
    assert (found[2].counts[0], found[2].counts[-1], found[2].total) == (2, 3, 3.0)
