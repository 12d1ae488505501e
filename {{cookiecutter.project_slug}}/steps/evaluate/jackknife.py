"""Compute each metric again without one block of rows at a time, for all blocks at once.

difference.py needs these values to tell how much of a difference is chance. They are the
same as those of model_metrics.py for the rows outside a block. To compute them one by one
would take far too long for large tables.
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


def compute_without_each_block(
    name: str, target: Array, predictions: Predictions, block_of_row: Array
) -> Array:
    """Return one value for each block: the metric of all rows outside the block.

    Blocks are numbers from 0. A value is NaN if the rows outside the block have none.
    Raises CannotCompute if all rows together have none.
    """
    match name:
        case "roc_auc" | "average_precision":
            return _compute_rank_metric(name, target, predictions, block_of_row)
        case "f1_macro" | "balanced_accuracy":
            return _compute_class_metric(name, target, predictions.values, block_of_row)
        case "r2":
            return _compute_r2(target, predictions.values, block_of_row)
        case "rmse":
            squares = (predictions.values - target) ** 2
            return np.sqrt(_compute_means(squares, block_of_row))
        case _:
            return _compute_means(
                _compute_losses(name, target, predictions), block_of_row
            )


def _compute_losses(name: str, target: Array, predictions: Predictions) -> Array:
    """Return a number for each row, of which the metric is the mean. Raises KeyError."""
    values = predictions.values
    match name:
        case "log_loss":
            return compute_losses_of_probabilities(target, predictions)
        case "accuracy":
            return np.asarray(values == target, dtype=float)
        case "mae":
            return np.asarray(np.abs(values - target))
        case "mape":
            return np.asarray(np.abs(values - target) / np.abs(target))
    raise KeyError(name)


def _compute_means(values: Array, block_of_row: Array) -> Array:
    """Return the mean value of the rows outside each block."""
    rows = _sum_without_each_block(np.ones(len(values)), block_of_row)
    return _sum_without_each_block(values, block_of_row) / rows


def _sum_without_each_block(values: Array, block_of_row: Array) -> Array:
    """Return the sum of the values of the rows outside each block."""
    sums = np.bincount(block_of_row, values)
    return np.asarray(sums.sum() - sums)


def _count_without_each_block(
    positions: Array, width: int, block_of_row: Array, blocks: int
) -> Array:
    """Return how often each position from 0 to `width` occurs outside each block.

    The result has a row for each block and a column for each position.
    """
    cells = block_of_row * width + positions
    counts = np.bincount(cells, minlength=blocks * width).reshape(blocks, width)
    return np.asarray(counts.sum(axis=0) - counts)


def _compute_r2(target: Array, values: Array, block_of_row: Array) -> Array:
    """Return R² without each block."""
    # Sums of squares lose fewer digits around the mean.
    centred = target - target.mean()
    rows = _sum_without_each_block(np.ones(len(target)), block_of_row)
    errors = _sum_without_each_block((values - target) ** 2, block_of_row)
    sums = _sum_without_each_block(centred, block_of_row)
    squares = _sum_without_each_block(centred**2, block_of_row)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 - errors / (squares - sums**2 / rows))


def _compute_class_metric(
    name: str, target: Array, values: Array, block_of_row: Array
) -> Array:
    """Return the mean F1 or recall of the classes, without each block."""
    width = int(max(target.max(), values.max())) + 1
    blocks = int(block_of_row.max()) + 1
    is_correct = target == values
    actual = _count_without_each_block(target, width, block_of_row, blocks)
    correct = _count_without_each_block(
        target[is_correct], width, block_of_row[is_correct], blocks
    )
    if name == "balanced_accuracy":
        numerators = correct
        denominators = actual
    else:
        predicted = _count_without_each_block(values, width, block_of_row, blocks)
        numerators = 2 * correct
        denominators = actual + predicted

    # A class that does not occur has 0 in both, and must not be divided by 0.
    scores = numerators / np.maximum(denominators, 1)
    return np.asarray(scores.sum(axis=1) / (denominators > 0).sum(axis=1))


def _compute_rank_metric(
    name: str, target: Array, predictions: Predictions, block_of_row: Array
) -> Array:
    """Return the ROC AUC or average precision without each block.

    It is the mean over the classes. A class of which a block holds all rows is left out of
    the value for this block.
    """
    assert predictions.probabilities is not None
    blocks = int(block_of_row.max()) + 1
    by_class = []
    for position in select_classes(name, target, predictions):
        ranks = _rank_descending(predictions.probabilities[:, position])
        width = int(ranks.max()) + 1
        is_positive = target == position
        all_rows = _count_without_each_block(ranks, width, block_of_row, blocks)
        positives = _count_without_each_block(
            ranks[is_positive], width, block_of_row[is_positive], blocks
        )
        if name == "roc_auc":
            by_class.append(_compute_roc_auc(positives, all_rows - positives))
        else:
            by_class.append(_compute_average_precision(positives, all_rows))

    table = np.array(by_class)
    has_value = ~np.isnan(table)
    sums = np.where(has_value, table, 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / has_value.sum(axis=0))


def _rank_descending(probabilities: Array) -> Array:
    """Return the rank of each row, 0 for the largest probability; equal ones share it."""
    distinct, ranks = np.unique(-probabilities, return_inverse=True)
    if len(distinct) <= MOST_RANKS:
        return np.asarray(ranks)
    rows_up_to_rank = np.cumsum(np.bincount(ranks))
    coarse = (rows_up_to_rank - 1) * MOST_RANKS // len(probabilities)
    return np.asarray(coarse[ranks])


def _compute_roc_auc(positives: Array, negatives: Array) -> Array:
    """Return the area under the ROC curve for each line of counts by descending rank.

    It is the share of pairs of a positive and a negative row in which the positive one
    ranks higher; pairs of equal rank count half (Hanley and McNeil, Radiology 143, 1982).
    """
    negatives_below = negatives.sum(axis=1, keepdims=True) - negatives.cumsum(axis=1)
    wins = (positives * (negatives_below + negatives / 2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(wins / (positives.sum(axis=1) * negatives.sum(axis=1)))


def _compute_average_precision(positives: Array, all_rows: Array) -> Array:
    """Return the average precision for each line of counts by descending rank."""
    precisions = positives.cumsum(axis=1) / np.maximum(all_rows.cumsum(axis=1), 1)
    with np.errstate(invalid="ignore"):
        return np.asarray((positives * precisions).sum(axis=1) / positives.sum(axis=1))
