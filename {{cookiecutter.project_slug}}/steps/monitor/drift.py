"""Measure drift: how far a distribution has moved, and whether chance explains it.

All functions need only the numbers of training rows and of new rows in each bin.

A p-value is the probability that data without drift differs at least as much by chance. So
a small p-value is a sign of drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

# Added to each count, so that the stability index is finite even if a bin is empty.
PRIOR_ROWS = 0.5
# A chi-squared test needs about this many expected rows in each bin.
FEWEST_EXPECTED = 5
# The probability that a run on unchanged data reports drift. The documentation promises
# 1 in 100. Half of that is used here, because the tests are approximate.
FALSE_ALARMS = 0.005

# A table with two rows, the counts of training and of new data, and a column for each bin.
CountTable = npt.NDArray[np.float64]


def population_stability_index(training: Sequence[int], new: Sequence[int]) -> float:
    """Return how far a distribution has moved since training: 0 if it is the same.

    `training` and `new` count the rows in each bin. The index (PSI) is the sum of
    (q - p) * ln(q / p) over all bins, where p is the share of the training rows in the bin,
    and q the share of the new rows. Bins without any row are left out.
    """
    counts = np.array([training, new], dtype=float)
    has_rows = counts.sum(axis=0) > 0
    counts = counts[:, has_rows] + PRIOR_ROWS
    p, q = counts / counts.sum(axis=1, keepdims=True)
    return float(np.sum((q - p) * np.log(q / p)))


def compare_distributions(training: Sequence[int], new: Sequence[int]) -> float:
    """Return the p-value of the hypothesis that the distribution has not changed.

    `training` and `new` count the rows in each bin. This is the chi-squared test of
    homogeneity. It suits the population stability index: for many rows, the index times
    n * m / (n + m) has the distribution of the test statistic, where n and m are the
    numbers of rows. See Yurdakul and Naranjo (2020), "Statistical properties of the
    population stability index", Journal of Risk Model Validation 14(4).
    """
    table = pool_small_bins(training, new)
    if table.shape[1] < 2:
        return 1.0
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def compare_locations(training: Sequence[int], new: Sequence[int]) -> float:
    """Return the p-value of the hypothesis that values are neither larger nor smaller now.

    `training` and `new` count the rows in each bin. The bins are in the order of their
    values. This is the test of van der Waerden: the ranks of all values become quantiles of
    a normal distribution, and the means of these scores are compared. It needs fewer rows
    than `compare_distributions` to find that all values have moved in one direction.
    """
    table = pool_small_bins(training, new)
    if table.shape[1] < 2:
        return 1.0
    training_counts, new_counts = table

    # All rows of a bin get the rank of its middle.
    bin_rows = training_counts + new_counts
    total = bin_rows.sum()
    ranks = (np.cumsum(bin_rows) - bin_rows / 2) / total
    scores = stats.norm.ppf(ranks)

    training_mean = np.average(scores, weights=training_counts)
    new_mean = np.average(scores, weights=new_counts)
    mean = np.average(scores, weights=bin_rows)
    variance = np.sum(bin_rows * (scores - mean) ** 2) / (total - 1)
    standard_error = math.sqrt(
        variance * (1 / training_counts.sum() + 1 / new_counts.sum())
    )
    return float(2 * stats.norm.sf(abs(new_mean - training_mean) / standard_error))


def pool_small_bins(training: Sequence[int], new: Sequence[int]) -> CountTable:
    """Return the counts of training rows and of new rows, without bins that are too small.

    Neighbouring bins are added up until FEWEST_EXPECTED rows are expected in each of them,
    in the smaller of the two samples. For example, if there are as many new rows as
    training rows, a bin needs 10 rows in total.
    """
    table = np.array([training, new], dtype=float)
    # Without drift, this share of each bin's rows is expected in the smaller sample.
    smaller_share = table.sum(axis=1).min() / table.sum()
    pooled_bins: list[CountTable] = []
    unfinished_bin = np.zeros(2)
    for bin_counts in table.T:
        unfinished_bin = unfinished_bin + bin_counts
        if unfinished_bin.sum() * smaller_share >= FEWEST_EXPECTED:
            pooled_bins.append(unfinished_bin)
            unfinished_bin = np.zeros(2)
    if not pooled_bins:
        return unfinished_bin.reshape(2, 1)
    # The rest is too small for a bin, so it is added to the last one.
    pooled_bins[-1] = pooled_bins[-1] + unfinished_bin
    return np.array(pooled_bins).T


def compare_rates(
    training_count: int, training_rows: int, new_count: int, new_rows: int
) -> float:
    """Return the p-value of the hypothesis that a kind of row is not more frequent now.

    `training_count` of the `training_rows` and `new_count` of the `new_rows` are of this
    kind, such as rows with a missing value. If the kind is equally frequent in both, each
    row of this kind is a new row with the same probability: the share of new rows among all
    rows. So the number of new rows of this kind has a binomial distribution. The test is
    exact, even if no training row is of this kind.
    """
    share_of_new = new_rows / (training_rows + new_rows)
    total_count = training_count + new_count
    # `sf(n - 1)` is the probability of n or more.
    return float(stats.binom.sf(new_count - 1, total_count, share_of_new))


def compare_unseen_categories(
    training: Mapping[str, int], new: Mapping[str, int]
) -> list[float]:
    """Return two p-values of the hypothesis that unseen categories are unseen by chance.

    A category is unseen if no training row has it. `training` and `new` map each category
    to its number of rows. The first p-value is small if one frequent category is unseen,
    and the second one if many rare categories are.

    If r of all rows have a category, the probability that all of them are new rows by
    chance is p ** r, where p is the share of new rows among all rows. The sum of these
    probabilities is the number of unseen categories to be expected. The first p-value is
    this sum for the categories that are at least as frequent as the most frequent unseen
    one. It is an upper bound, because an expected number is at least as large as the
    probability of one or more. The second p-value is the probability of as many unseen
    categories or more, by the Poisson distribution.
    """
    unseen_rows = [rows for category, rows in new.items() if category not in training]
    if not unseen_rows:
        return [1.0, 1.0]

    total = sum(training.values()) + sum(new.values())
    share_of_new = sum(new.values()) / total
    seen_rows = [rows + new.get(category, 0) for category, rows in training.items()]
    all_rows = [*seen_rows, *unseen_rows]

    most_rows = max(unseen_rows)
    expected_frequent_unseen = sum(
        share_of_new**rows for rows in all_rows if rows >= most_rows
    )
    expected_unseen = sum(share_of_new**rows for rows in all_rows)
    return [
        min(expected_frequent_unseen, 1.0),
        float(stats.poisson.sf(len(unseen_rows) - 1, expected_unseen)),
    ]


def significance_level(tests: int) -> float:
    """Return the p-value below which the result of one of several tests is significant.

    `tests` is the number of tests. With this level, which is Bonferroni's correction, the
    probability that any of them is significant by chance is at most FALSE_ALARMS.
    """
    return FALSE_ALARMS / max(tests, 1)
