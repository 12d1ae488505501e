"""How much two models differ in a metric, and how much of it may be chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from model_metrics import (
    CannotCompute,
    Metric,
    Predictions,
    compute_metric,
    compute_without_each_block,
)
from scipy import stats

# Groups of rows are put together into at most so many blocks.
MOST_BLOCKS = 200
# The probability that the interval contains the true difference.
CONFIDENCE = 0.95
# The probability with which a loss of the size `detectable` would be noticed.
POWER = 0.95

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """How a new model differs from another one in a metric.

    `difference` is the new model's value less the other one's, and `interval` contains
    the true difference with a probability of 95 %. A model that is worse by `detectable`
    would be seen to be worse with a probability of 95 %. `verdict` is

    - "better" or "worse" if the interval lies on one side of 0,
    - "within the margin" if it is worse, but all of the interval lies within
      `accepted_loss`,
    - else "no worse".
    """

    metric: str
    new: float
    other: float
    difference: float
    interval: tuple[float, float]
    detectable: float
    accepted_loss: float
    verdict: str


def compare_predictions(
    metric: Metric,
    target: Array,
    new: Predictions,
    other: Predictions,
    groups: Array,
    margin: float = 0.0,
) -> Difference:
    """Return how the predictions of two models for the same rows differ.

    Rows of one group are not independent: they are left out of the computation together.
    `margin` is the share of the other model's value that the new one may lose.

    This is a test of non-inferiority (Piaggio et al., JAMA 308, 2012), except where there
    are too few rows for one: a model is "worse" only if it is so by more than chance. So
    an equal model is called worse in at most 2.5 % of all cases. A model that is worse
    by more than the margin, and by more than `detectable`, passes in at most 5 %.

    Raises CannotCompute if the metric or the interval cannot be computed.
    """
    new_value = compute_metric(metric.name, target, new)
    other_value = compute_metric(metric.name, target, other)
    difference = new_value - other_value

    block_of_row = _form_blocks(groups)
    error, degrees = _estimate_standard_error(metric, target, new, other, block_of_row)
    half_width = stats.t.ppf((1 + CONFIDENCE) / 2, degrees) * error
    detectable = half_width + stats.t.ppf(POWER, degrees) * error
    low = difference - half_width
    high = difference + half_width

    accepted_loss = margin * abs(other_value)
    least_gain = low if metric.higher_is_better else -high
    most_gain = high if metric.higher_is_better else -low
    verdict = "no worse"
    if least_gain > 0:
        verdict = "better"
    elif most_gain < 0:
        verdict = "within the margin" if -least_gain <= accepted_loss else "worse"
    return Difference(
        metric=metric.name,
        new=new_value,
        other=other_value,
        difference=difference,
        interval=(float(low), float(high)),
        detectable=float(detectable),
        accepted_loss=accepted_loss,
        verdict=verdict,
    )


def _form_blocks(groups: Array) -> Array:
    """Return the block of each row: a number from 0, the same for rows of one group."""
    distinct, positions = np.unique(groups, return_inverse=True)
    return np.asarray(positions % min(len(distinct), MOST_BLOCKS))


def _estimate_standard_error(
    metric: Metric,
    target: Array,
    new: Predictions,
    other: Predictions,
    block_of_row: Array,
) -> tuple[float, int]:
    """Return the standard error of the difference, and its degrees of freedom.

    By the delete-a-group jackknife: the difference is computed again without each block
    of rows, and the spread of these differences gives the error (P. S. Kott, "The
    delete-a-group jackknife", Journal of Official Statistics 17, 2001). For the ROC AUC
    this is close to what DeLong et al. (Biometrics 1988) derived. Raises CannotCompute if
    the metric has no value without some block.
    """
    blocks = int(block_of_row.max()) + 1
    if blocks < 2:
        raise CannotCompute("all rows are of one group")
    differences = compute_without_each_block(
        metric.name, target, new, block_of_row
    ) - compute_without_each_block(metric.name, target, other, block_of_row)
    if not np.isfinite(differences).all():
        raise CannotCompute("nearly all rows are of one class or have the same value")
    spread = ((differences - differences.mean()) ** 2).sum()
    return float(np.sqrt(spread * (blocks - 1) / blocks)), blocks - 1
