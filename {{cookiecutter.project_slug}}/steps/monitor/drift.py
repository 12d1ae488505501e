"""The statistics of drift: how far a distribution has moved, and whether by chance.

They need only the numbers of training rows and of new rows in each bin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

# Added to each count, so that the index is finite where a bin is empty.
PRIOR_ROWS = 0.5
# A chi-squared test needs about this many expected rows in each bin.
FEWEST_EXPECTED = 5
# The probability that one run reports drift of unchanged data. The documentation promises
# 1 in 100. The tests are approximate, so half of that is used.
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

    This is the chi-squared test of homogeneity. The index times the harmonic sample size
    asymptotically follows the same distribution as the test statistic: Yurdakul and Naranjo
    (2020), "Statistical properties of the population stability index", Journal of Risk
    Model Validation 14(4).
    """
    table = pool_small_bins(training, new)
    if table.shape[1] < 2:
        return 1.0
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def compare_locations(training: Sequence[int], new: Sequence[int]) -> float:
    """Return the p-value of the hypothesis that the new values are neither larger nor smaller.

    The bins are in the order of their values. This is the test of van der Waerden: ranks
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
    """Return the p-value of the hypothesis that a kind of row is no more frequent than before.

    `training_count` of the `training_rows` and `new_count` of the `new_rows` are of this
    kind. Under the null hypothesis, a row of this kind is a new row with the same
    probability as any other row. The test is exact, even if no training row is of this
    kind.
    """
    share = new_rows / (training_rows + new_rows)
    return float(stats.binom.sf(new_count - 1, training_count + new_count, share))


def compare_unseen_categories(
    training: Mapping[str, int], new: Mapping[str, int]
) -> list[float]:
    """Return two p-values of the hypothesis that categories are unseen only by chance.

    `training` and `new` have the number of rows of each category.

    Without drift, the probability that all r rows of a category are new rows is share ** r,
    where share is the share of new rows among all rows. Its sum over the categories is the
    expected number of unseen ones. The first p-value is this number for categories that are
    at least as frequent as the most frequent unseen one; it finds one frequent new category.
    The second p-value is for the number of unseen categories; it finds many rare ones.
    """
    unseen_rows = [rows for category, rows in new.items() if category not in training]
    if not unseen_rows:
        return [1.0, 1.0]

    share = sum(new.values()) / (sum(training.values()) + sum(new.values()))
    seen_rows = [rows + new.get(category, 0) for category, rows in training.items()]
    all_rows = [*seen_rows, *unseen_rows]
    expected_unseen = sum(share**rows for rows in all_rows)
    expected_frequent_unseen = sum(
        share**rows for rows in all_rows if rows >= max(unseen_rows)
    )
    return [
        min(expected_frequent_unseen, 1.0),
        float(stats.poisson.sf(len(unseen_rows) - 1, expected_unseen)),
    ]


def significance_level(tests: int) -> float:
    """Return the p-value below which the result of one of several tests is significant.

    This is Bonferroni's correction for the number of tests.
    """
    return FALSE_ALARMS / max(tests, 1)
