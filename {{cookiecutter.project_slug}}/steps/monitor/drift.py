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

# This is added to each count, so that the population stability index is finite even if a
# bin is empty in one of the samples.
PRIOR_ROWS = 0.5
# The p-value of a chi-squared test is only accurate if about this many rows or more are
# expected in each bin.
FEWEST_EXPECTED = 5
# The probability that a run on unchanged data reports drift. The documentation promises
# 1 in 100. Half of that is used here, because the tests are approximate.
FALSE_ALARMS = 0.005

# The number of rows in each bin.
Counts = npt.NDArray[np.float64]
# A table with a column for each bin, and two rows: the counts of the training data, and
# those of the new data.
CountTable = npt.NDArray[np.float64]


def population_stability_index(training: Sequence[int], new: Sequence[int]) -> float:
    """Return how far a distribution has moved since training: 0 if it is the same.

    `training` and `new` count the rows in each bin. The index (PSI) is the sum of
    (q - p) * ln(q / p) over all bins, where p is the share of the training rows in the bin,
    and q the share of the new rows. Bins without any row are left out. PRIOR_ROWS is added
    to all other counts, so that a bin that is empty in only one of the samples does not
    make the logarithm infinite.
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
    """Return the p-value of the hypothesis that values have not become larger or smaller.

    `training` and `new` count the rows in each bin. The bins are in the order of their
    values. This is the test of van der Waerden: the rank of each value is replaced by a
    score, a quantile of the normal distribution, and the mean scores of the training rows
    and of the new rows are compared. This test needs fewer rows than
    `compare_distributions` to find that all values have moved in one direction.
    """
    table = pool_small_bins(training, new)
    if table.shape[1] < 2:
        return 1.0
    training_counts, new_counts = table

    # All rows of a bin share the middle rank of the bin, as a share of all rows: between 0
    # for the smallest value and 1 for the largest.
    bin_rows = training_counts + new_counts
    rank_shares = (np.cumsum(bin_rows) - bin_rows / 2) / bin_rows.sum()
    scores = stats.norm.ppf(rank_shares)
    return _compare_mean_scores(scores, training_counts, new_counts)


def _compare_mean_scores(
    scores: Counts, training_counts: Counts, new_counts: Counts
) -> float:
    """Return the p-value of the hypothesis that both samples have the same mean score.

    All rows of a bin have the same score. `training_counts` and `new_counts` are the
    numbers of rows in each bin. The difference of the two means is divided by its standard
    error, and compared with the normal distribution.
    """
    bin_rows = training_counts + new_counts
    training_mean = np.average(scores, weights=training_counts)
    new_mean = np.average(scores, weights=new_counts)
    mean = np.average(scores, weights=bin_rows)
    variance = np.sum(bin_rows * (scores - mean) ** 2) / (bin_rows.sum() - 1)
    standard_error = math.sqrt(
        variance * (1 / training_counts.sum() + 1 / new_counts.sum())
    )
    standard_errors_apart = abs(new_mean - training_mean) / standard_error
    # The mean may have moved up or down, so both tails of the distribution count.
    return float(2 * stats.norm.sf(standard_errors_apart))


def pool_small_bins(training: Sequence[int], new: Sequence[int]) -> CountTable:
    """Return the counts of training rows and of new rows, with small bins merged.

    The chi-squared test is unreliable if few rows are expected in a bin. So neighbouring
    bins are merged until at least FEWEST_EXPECTED rows of the smaller sample are expected
    in each merged bin. For example, if there are as many new rows as training
    rows, a merged bin needs 2 * FEWEST_EXPECTED rows in total.
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
    # The remaining rows are too few for a bin of their own, so they join the last bin.
    pooled_bins[-1] = pooled_bins[-1] + unfinished_bin
    return np.array(pooled_bins).T


def compare_rates(
    training_count: int, training_rows: int, new_count: int, new_rows: int
) -> float:
    """Return the p-value of the hypothesis that a kind of row has not become more frequent.

    `training_count` of the `training_rows` and `new_count` of the `new_rows` are of this
    kind, such as rows with a missing value. If the kind is equally frequent in the training
    data and in the new data, each row of this kind has the same probability of being a new
    row: the share of the new rows among all rows. So the number of new rows of this kind
    has a binomial distribution. The test is exact, even if no training row is of this kind.
    """
    share_of_new = new_rows / (training_rows + new_rows)
    total_count = training_count + new_count
    # `sf(n - 1)` is the probability of n or more.
    return float(stats.binom.sf(new_count - 1, total_count, share_of_new))


def compare_unseen_categories(
    training: Mapping[str, int], new: Mapping[str, int]
) -> list[float]:
    """Return two p-values of the hypothesis that unseen categories are unseen by chance.

    A category is unseen if only new rows have it. `training` and `new` map each category to
    its number of rows.

    1. The first p-value is small if a frequent category is unseen. Of the categories that
       are at least as frequent as the most frequent unseen one, it is the number that is
       expected to be unseen by chance. This expected number is an upper bound of the
       probability that any of these categories is unseen by chance.
    2. The second p-value is small if many categories are unseen, even if all of them are
       rare. It is the probability that chance produces at least as many unseen categories,
       by the Poisson distribution.
    """
    unseen_rows = [rows for category, rows in new.items() if category not in training]
    if not unseen_rows:
        return [1.0, 1.0]

    total = sum(training.values()) + sum(new.values())
    share_of_new = sum(new.values()) / total
    seen_rows = [rows + new.get(category, 0) for category, rows in training.items()]
    rows_of_categories = [*seen_rows, *unseen_rows]

    rows_of_most_frequent_unseen = max(unseen_rows)
    rows_of_frequent_categories = [
        rows for rows in rows_of_categories if rows >= rows_of_most_frequent_unseen
    ]
    expected_frequent = _compute_expected_unseen(
        rows_of_frequent_categories, share_of_new
    )
    expected = _compute_expected_unseen(rows_of_categories, share_of_new)
    return [
        min(expected_frequent, 1.0),
        # `sf(n - 1)` is the probability of n or more.
        float(stats.poisson.sf(len(unseen_rows) - 1, expected)),
    ]


def _compute_expected_unseen(
    rows_of_categories: Sequence[int], share_of_new: float
) -> float:
    """Return the expected number of categories that only new rows have by chance.

    `rows_of_categories` has the number of rows of each category, training rows and new rows
    together. `share_of_new` is the share of the new rows among all rows, and so the
    probability that any single row is a new one. The probability that all rows of a
    category are new is `share_of_new ** rows`, and the expected number is the sum of these
    probabilities.
    """
    return sum(share_of_new**rows for rows in rows_of_categories)


def significance_level(tests: int) -> float:
    """Return the p-value below which the result of one of several tests is significant.

    `tests` is the number of tests. This is Bonferroni's correction: if the data has not
    changed, the probability that any of the tests is significant is at most FALSE_ALARMS.
    """
    return FALSE_ALARMS / max(tests, 1)
