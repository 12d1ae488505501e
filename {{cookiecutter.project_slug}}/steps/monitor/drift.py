"""The statistics of drift: how far a distribution has moved, and whether by chance.

Counts of the training rows and of the new rows, bin by bin, are all that is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

# Added to each count, so that the index is finite where a bin is empty.
PRIOR_ROWS = 0.5
# A chi-squared test needs about so many expected rows in each bin.
FEWEST_EXPECTED = 5
# The chance that one run reports drift of unchanged data. The tests are approximate, so
# it is half of the chance that is promised, 1 in 100.
FALSE_ALARMS = 0.005

Counts = npt.NDArray[np.float64]


def population_stability_index(training: Sequence[int], new: Sequence[int]) -> float:
    """Return how far the new distribution is from that of training: 0 if it is the same.

    It is the sum of (q - p) * ln(q / p) over all bins, where p and q are the shares of
    the training rows and of the new rows in the bin. Bins that are empty in both count as
    if they were not there.
    """
    counts = np.array([training, new], dtype=float)
    counts = counts[:, counts.sum(axis=0) > 0] + PRIOR_ROWS
    p, q = counts / counts.sum(axis=1, keepdims=True)
    return float(np.sum((q - p) * np.log(q / p)))


def compare_distributions(training: Sequence[int], new: Sequence[int]) -> float:
    """Return the p-value of the hypothesis that both samples have one distribution.

    It is that of the chi-squared test of homogeneity. The index times the harmonic sample
    size has the same limit: Yurdakul and Naranjo (2020), "Statistical properties of the
    population stability index", Journal of Risk Model Validation 14(4).
    """
    table = pool_small_bins(training, new)
    if table.shape[1] < 2:
        return 1.0
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def compare_locations(training: Sequence[int], new: Sequence[int]) -> float:
    """Return the p-value of the hypothesis that the new values are neither larger nor smaller.

    The bins are in the order of their values. It is the test of van der Waerden: ranks
    become quantiles of a normal distribution, whose means are compared. If all values of
    a column shift, this test needs fewer rows than that of its distribution.
    """
    table = pool_small_bins(training, new)
    if table.shape[1] < 2:
        return 1.0
    rows = table.sum(axis=0)
    total = rows.sum()
    ranks = (np.cumsum(rows) - rows / 2) / total
    scores = stats.norm.ppf(ranks)
    mean = np.average(scores, weights=rows)
    variance = np.sum(rows * (scores - mean) ** 2) / (total - 1)
    training_rows, new_rows = table.sum(axis=1)
    error = math.sqrt(variance * (1 / training_rows + 1 / new_rows))
    difference = np.average(scores, weights=table[1]) - np.average(
        scores, weights=table[0]
    )
    return float(2 * stats.norm.sf(abs(difference) / error))


def pool_small_bins(training: Sequence[int], new: Sequence[int]) -> Counts:
    """Return both rows of counts, with neighbours pooled until no bin is too small.

    A bin is too small if fewer than FEWEST_EXPECTED rows of it are expected in a sample.
    """
    table = np.array([training, new], dtype=float)
    smaller_share = table.sum(axis=1).min() / table.sum()
    pooled: list[Counts] = []
    unfinished = np.zeros(2)
    for column in table.T:
        unfinished = unfinished + column
        if unfinished.sum() * smaller_share >= FEWEST_EXPECTED:
            pooled.append(unfinished)
            unfinished = np.zeros(2)
    if not pooled:
        return np.array([[unfinished[0]], [unfinished[1]]])
    pooled[-1] = pooled[-1] + unfinished
    return np.array(pooled).T


def compare_rates(
    training_count: int, training_rows: int, new_count: int, new_rows: int
) -> float:
    """Return the p-value of the hypothesis that new rows are not more often of a kind.

    Of all rows of this kind, each is a new one by the share of new rows among all. The
    test is exact, and holds for kinds that training has never seen.
    """
    share = new_rows / (training_rows + new_rows)
    return float(stats.binom.sf(new_count - 1, training_count + new_count, share))


def compare_unseen_categories(
    training: Mapping[str, int], new: Mapping[str, int]
) -> list[float]:
    """Return two p-values of the hypothesis that unseen categories are no news.

    Without drift, all rows of a category are new ones by the share of new rows among all,
    to the power of its rows. The first p-value is for a category of as many rows as the
    most frequent unseen one, the second for the number of unseen categories. So neither a
    frequent new category is missed, nor many rare ones.
    """
    unseen = [rows for category, rows in new.items() if category not in training]
    if not unseen:
        return [1.0, 1.0]
    share = sum(new.values()) / (sum(training.values()) + sum(new.values()))
    totals = [rows + new.get(category, 0) for category, rows in training.items()]
    totals += unseen
    expected = 0.0
    expected_as_frequent = 0.0
    for rows in totals:
        chance = share**rows
        expected += chance
        if rows >= max(unseen):
            expected_as_frequent += chance
    return [
        min(expected_as_frequent, 1.0),
        float(stats.poisson.sf(len(unseen) - 1, expected)),
    ]


def significance_level(tests: int) -> float:
    """Return the p-value below which one of several tests is no chance (Bonferroni)."""
    return FALSE_ALARMS / max(tests, 1)
