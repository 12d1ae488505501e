"""Compare the predictions of two models by a metric, with a confidence interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jackknife import compute_without_each_block
from model_metrics import CannotCompute, Metric, Predictions, compute_metric
from scipy import stats

# Groups of rows are put together into at most this many blocks.
MOST_BLOCKS = 200
# The probability that the interval contains the true difference.
CONFIDENCE = 0.95
# The probability with which a loss of the size `detectable` would be noticed.
POWER = 0.95
# The confidence with which a model must be better to become the reference. Of many equal
# models, a lucky one is better with 95 %, and the others then look worse beside it.
REFERENCE_CONFIDENCE = 0.995

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

    `becomes_reference` says whether the new model is better with so much confidence that
    later models are to be compared with it.
    """

    metric: str
    new: float
    other: float
    difference: float
    interval: tuple[float, float]
    detectable: float
    accepted_loss: float
    verdict: str
    becomes_reference: bool


@dataclass(frozen=True)
class StandardError:
    """The standard error of a difference, and how well it is known.

    With few `degrees` of freedom, the error is itself uncertain. The interval is then
    wider, as the quantiles of Student's t distribution are larger.
    """

    value: float
    degrees: float

    def scale(self, probability: float) -> float:
        """Return the error times the quantile of t that belongs to a probability."""
        return float(stats.t.ppf(probability, self.degrees)) * self.value


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
    an equal model is called worse in at most 2.5 % of all cases. A model that is worse by
    more than the margin, and by more than `detectable`, passes in at most 5 %.

    Raises CannotCompute if the metric or the interval cannot be computed.
    """
    new_value = compute_metric(metric.name, target, new)
    other_value = compute_metric(metric.name, target, other)
    difference = new_value - other_value

    differences = _compute_differences(metric, target, new, other, _form_blocks(groups))
    error = estimate_standard_error(differences)
    half_width = error.scale((1 + CONFIDENCE) / 2)
    interval = (difference - half_width, difference + half_width)
    gain = difference if metric.higher_is_better else -difference
    accepted_loss = margin * abs(other_value)
    return Difference(
        metric=metric.name,
        new=new_value,
        other=other_value,
        difference=difference,
        interval=interval,
        detectable=half_width + error.scale(POWER),
        accepted_loss=accepted_loss,
        verdict=_choose_verdict(interval, metric.higher_is_better, accepted_loss),
        becomes_reference=gain > error.scale((1 + REFERENCE_CONFIDENCE) / 2),
    )


def _choose_verdict(
    interval: tuple[float, float], higher_is_better: bool, accepted_loss: float
) -> str:
    """Return the verdict on a new model from the interval of its difference."""
    low, high = interval
    if higher_is_better:
        smallest_gain = low
        largest_gain = high
    else:
        smallest_gain = -high
        largest_gain = -low

    if smallest_gain > 0:
        return "better"
    if largest_gain >= 0:
        return "no worse"
    if smallest_gain >= -accepted_loss:
        return "within the margin"
    return "worse"


def _form_blocks(groups: Array) -> Array:
    """Return the block of each row: a number from 0, the same for rows of one group."""
    distinct, positions = np.unique(groups, return_inverse=True)
    return np.asarray(positions % min(len(distinct), MOST_BLOCKS))


def _compute_differences(
    metric: Metric,
    target: Array,
    new: Predictions,
    other: Predictions,
    block_of_row: Array,
) -> Array:
    """Return one difference for each block: that of all rows outside the block.

    Raises CannotCompute if there is only one block, or if the metric has no value without
    some block.
    """
    if block_of_row.max() == 0:
        raise CannotCompute("all rows are of one group")
    new_values = compute_without_each_block(metric.name, target, new, block_of_row)
    other_values = compute_without_each_block(metric.name, target, other, block_of_row)
    differences = new_values - other_values
    if not np.isfinite(differences).all():
        raise CannotCompute("nearly all rows are of one class or have the same value")
    return differences


def estimate_standard_error(differences: Array) -> StandardError:
    """Return the standard error of a difference, from its values without each block.

    This is the delete-a-group jackknife (P. S. Kott, "The delete-a-group jackknife",
    Journal of Official Statistics 17, 2001). For the ROC AUC, it is close to what DeLong
    et al. derived (Biometrics 44, 1988).

    If a few blocks cause most of the spread, as those with rows of a rare class or with
    very large numbers do, the spread is known less well than the number of blocks
    suggests. The variance of the estimated spread depends on the kurtosis of the blocks'
    deviations, and the degrees of freedom are those of Satterthwaite (Biometrics
    Bulletin 2, 1946) for it. They are blocks - 1 if the deviations are normally
    distributed.
    """
    blocks = len(differences)
    deviations = differences - differences.mean()
    spread = np.sqrt((deviations**2).mean())
    degrees = float(blocks - 1)
    if spread > 0:
        kurtosis = ((deviations / spread) ** 4).mean()
        if kurtosis > 1:
            degrees = min(degrees, 2 * blocks / (kurtosis - 1))
    return StandardError(float(spread * np.sqrt(blocks - 1)), degrees)
