"""Compute a metric again and again, each time with one block of rows left out.

difference.py needs these values to judge how much of a difference is chance. The values are
those of model_metrics.py for the rows outside a block, but are computed for all blocks at
once, because it would take far too long to compute them one by one. Only `roc_auc` and
`average_precision` of more than MOST_RANKS distinct probabilities are approximate.

In all functions, `block_of_row` holds the block of each row, as an integer from 0. An array
with a value for each block has the value of block b at position b: the metric of all rows
outside block b.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from model_metrics import Predictions, compute_losses_of_probabilities, select_classes

# With more distinct probabilities than this, similar ones are put together into this many
# ranges with equally many rows, and count as equal.
MOST_RANKS = 5_000

Array = npt.NDArray[Any]


def compute_leaving_out_each_block(
    metric_name: str, target: Array, predictions: Predictions, block_of_row: Array
) -> Array:
    """Return one value for each block of rows: the metric of all rows outside the block.

    `block_of_row` holds the block of each row, as an integer from 0. A value is NaN or
    infinite if the metric is undefined for the rows outside the block. Raises CannotCompute
    if the metric is `roc_auc` or `average_precision`, and all rows are of one class.
    """
    values = predictions.values
    match metric_name:
        case "roc_auc" | "average_precision":
            return _compute_rank_metric(metric_name, target, predictions, block_of_row)
        case "f1_macro" | "balanced_accuracy":
            return _compute_class_metric(metric_name, target, values, block_of_row)
        case "r2":
            return _compute_r2(target, values, block_of_row)
        case "rmse":
            squared_errors = (values - target) ** 2
            return np.sqrt(_compute_means(squared_errors, block_of_row))
        case _:
            row_values = _compute_row_values(metric_name, target, predictions)
            return _compute_means(row_values, block_of_row)


def _compute_row_values(
    metric_name: str, target: Array, predictions: Predictions
) -> Array:
    """Return one value for each row. The metric is the mean of these values.

    For example, the values of `accuracy` are 1 for a correct row and 0 for a wrong row.
    Raises KeyError if the metric is not the mean of a value of each row.
    """
    values = predictions.values
    match metric_name:
        case "log_loss":
            return compute_losses_of_probabilities(target, predictions)
        case "accuracy":
            return np.asarray(values == target, dtype=float)
        case "mae":
            return np.asarray(np.abs(values - target))
        case "mape":
            return np.asarray(np.abs(values - target) / np.abs(target))
    raise KeyError(metric_name)


# Sums, means and counts outside each block


def _compute_means(row_values: Array, block_of_row: Array) -> Array:
    """For each block, return the mean of the values of all rows outside the block."""
    row_counts = _sum_outside_each_block(np.ones(len(row_values)), block_of_row)
    return _sum_outside_each_block(row_values, block_of_row) / row_counts


def _sum_outside_each_block(row_values: Array, block_of_row: Array) -> Array:
    """For each block, return the sum of the values of all rows outside the block."""
    sums_of_blocks = np.bincount(block_of_row, row_values)
    return np.asarray(sums_of_blocks.sum() - sums_of_blocks)


def _count_outside_each_block(
    integers: Array, end: int, block_of_row: Array, block_count: int
) -> Array:
    """Count how often each integer from 0 to `end - 1` occurs outside each block.

    `integers` has an element for each row, such as the position of the row's class. The
    result has a line for each block and a column for each integer.
    """
    # Each pair of a block and an integer is one cell of the table of counts.
    cell_of_row = block_of_row * end + integers
    counts = np.bincount(cell_of_row, minlength=block_count * end)
    counts_of_blocks = counts.reshape(block_count, end)
    return np.asarray(counts_of_blocks.sum(axis=0) - counts_of_blocks)


# Metrics that are not the mean of a value of each row


def _compute_r2(target: Array, values: Array, block_of_row: Array) -> Array:
    """For each block, return R² of the predicted numbers of all rows outside the block."""
    # Sums of squares lose fewer digits if the numbers are near 0. If the target is the same
    # in all rows outside a small block, it is the median there, so that its deviations are
    # exactly 0.
    centred_target = target - np.median(target)
    row_counts = _sum_outside_each_block(np.ones(len(target)), block_of_row)
    squared_errors = _sum_outside_each_block((values - target) ** 2, block_of_row)
    sums = _sum_outside_each_block(centred_target, block_of_row)
    sums_of_squares = _sum_outside_each_block(centred_target**2, block_of_row)
    squared_deviations = sums_of_squares - sums**2 / row_counts
    # If the target is the same in all rows outside a block, R² is undefined: the result of
    # the division by 0 is NaN or infinite.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 - squared_errors / squared_deviations)


def _compute_class_metric(
    metric_name: str, target: Array, values: Array, block_of_row: Array
) -> Array:
    """For each block, return the macro F1 or mean recall of all rows outside the block.

    `metric_name` is `f1_macro` or `balanced_accuracy`. `target` and `values` are the
    positions of the actual and the predicted classes. Each count below has a line for each
    block and a column for each class.
    """
    class_count = int(max(target.max(), values.max())) + 1
    block_count = int(block_of_row.max()) + 1
    is_correct = target == values
    actual_counts = _count_outside_each_block(
        target, class_count, block_of_row, block_count
    )
    correct_counts = _count_outside_each_block(
        target[is_correct], class_count, block_of_row[is_correct], block_count
    )
    if metric_name == "balanced_accuracy":
        numerators = correct_counts
        denominators = actual_counts
    else:
        predicted_counts = _count_outside_each_block(
            values, class_count, block_of_row, block_count
        )
        numerators = 2 * correct_counts
        denominators = actual_counts + predicted_counts

    # A class that does not occur outside a block has the denominator 0, and is not counted
    # in the mean. The maximum avoids a division by 0.
    scores = numerators / np.maximum(denominators, 1)
    occurring_classes = (denominators > 0).sum(axis=1)
    return np.asarray(scores.sum(axis=1) / occurring_classes)


def _compute_rank_metric(
    metric_name: str, target: Array, predictions: Predictions, block_of_row: Array
) -> Array:
    """For each block, return the ROC AUC or average precision of the rows outside it.

    The metric is the mean over the classes. If all rows of a class are in one block, the
    class has no value for the rows outside this block, and the mean of the other classes is
    returned.
    """
    assert predictions.probabilities is not None  # It is None only in a regression.
    block_count = int(block_of_row.max()) + 1
    values_by_class = []
    for position in select_classes(metric_name, target, predictions):
        ranks = _rank_descending(predictions.probabilities[:, position])
        rank_count = int(ranks.max()) + 1
        is_positive = target == position
        all_counts = _count_outside_each_block(
            ranks, rank_count, block_of_row, block_count
        )
        positive_counts = _count_outside_each_block(
            ranks[is_positive], rank_count, block_of_row[is_positive], block_count
        )
        if metric_name == "roc_auc":
            negative_counts = all_counts - positive_counts
            values = _compute_roc_auc(positive_counts, negative_counts)
        else:
            values = _compute_average_precision(positive_counts, all_counts)
        values_by_class.append(values)
    return _average_defined_values(np.array(values_by_class))


def _average_defined_values(values_by_class: Array) -> Array:
    """For each column, return the mean of the values that are not NaN.

    The mean is NaN if all values of the column are NaN. In this case, numpy.nanmean would
    also print a warning.
    """
    is_defined = ~np.isnan(values_by_class)
    sums = np.where(is_defined, values_by_class, 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / is_defined.sum(axis=0))


def _rank_descending(probabilities: Array) -> Array:
    """Return the rank of each row: 0 for the largest probability.

    Equal probabilities have the same rank. If there are more than MOST_RANKS ranks,
    neighbouring ranks are put together, so that about equally many rows have each rank.
    """
    distinct, ranks = np.unique(-probabilities, return_inverse=True)
    if len(distinct) <= MOST_RANKS:
        return np.asarray(ranks)
    # Think of the rows as sorted by rank and cut into MOST_RANKS ranges of equal size. All
    # rows of a rank go to the range of the last of these rows, so that rows with equal
    # probabilities stay together.
    last_row_of_rank = np.cumsum(np.bincount(ranks)) - 1
    range_of_rank = last_row_of_rank * MOST_RANKS // len(probabilities)
    return np.asarray(range_of_rank[ranks])


def _compute_roc_auc(positive_counts: Array, negative_counts: Array) -> Array:
    """For each line of counts, return the area under the ROC curve.

    A line of `positive_counts` and `negative_counts` has the count of rows at each rank,
    and rank 0 has the largest probability. The area is the share of pairs of a positive and
    a negative row in which the positive row has the larger probability. Pairs of equal rank
    count half (Hanley and McNeil, Radiology 143, 1982). The area is NaN if there are only
    positive or only negative rows.
    """
    all_negatives = negative_counts.sum(axis=1, keepdims=True)
    negatives_below = all_negatives - negative_counts.cumsum(axis=1)
    wins = (positive_counts * (negatives_below + negative_counts / 2)).sum(axis=1)
    pairs = positive_counts.sum(axis=1) * negative_counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(wins / pairs)


def _compute_average_precision(positive_counts: Array, all_counts: Array) -> Array:
    """For each line of counts, return the average precision.

    A line of `positive_counts` and `all_counts` has the count of rows at each rank, and
    rank 0 has the largest probability. The value is NaN if there are no positive rows.
    """
    rows_up_to_rank = all_counts.cumsum(axis=1)
    precisions = positive_counts.cumsum(axis=1) / np.maximum(rows_up_to_rank, 1)
    sums = (positive_counts * precisions).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / positive_counts.sum(axis=1))
