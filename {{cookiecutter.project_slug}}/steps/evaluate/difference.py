"""Compare the predictions of two models by a metric, with a confidence interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from jackknife import compute_leaving_out_each_block
from model_metrics import CannotCompute, Metric, Predictions, compute_metric
from scipy import stats

# Groups of rows are put together into at most this many blocks.
MOST_BLOCKS = 200
# The probability that the interval contains the true difference.
CONFIDENCE = 0.95
# The probability with which a loss of the size `detectable` would be noticed.
POWER = 0.95
# The confidence with which a model must be better to become the reference. Among many
# equally good models, one is bound to look better by luck with a confidence of 95 %. As the
# reference, this model would make all others look worse.
REFERENCE_CONFIDENCE = 0.995

Array = npt.NDArray[Any]
Verdict = Literal["better", "no worse", "within the margin", "worse"]


@dataclass(frozen=True)
class Difference:
    """How a new model differs from another one in a metric.

    `difference` is the new model's value minus the other model's value. `interval` contains
    the true difference with a probability of 95 %. A model that is worse by `detectable`
    would be noticed with a probability of 95 %. `verdict` is

    - "better" if the whole interval is a gain,
    - "no worse" if the interval contains 0,
    - "within the margin" if the whole interval is a loss, but of no more than
      `accepted_loss`,
    - "worse" otherwise.

    `becomes_reference` is whether the new model is better with so much confidence that
    later models are to be compared with it.
    """

    metric: str
    new: float
    other: float
    difference: float
    interval: tuple[float, float]
    detectable: float
    accepted_loss: float
    verdict: Verdict
    becomes_reference: bool

    @property
    def is_within_chance(self) -> bool:
        """Return whether the models may be equally good: the interval contains 0."""
        return self.verdict == "no worse"


@dataclass(frozen=True)
class StandardError:
    """The standard error of a difference, and how precisely the error itself is known.

    With few degrees of freedom, the error is itself uncertain. The interval is then wider,
    because the quantiles of Student's t distribution are larger.
    """

    value: float
    degrees_of_freedom: float

    def multiply_by_quantile(self, probability: float) -> float:
        """Return the error times the quantile of Student's t for a probability.

        With the probability 0.975, this is half the width of a 95 % confidence interval.
        """
        quantile = float(stats.t.ppf(probability, self.degrees_of_freedom))
        return quantile * self.value


def compare_predictions(
    metric: Metric,
    target: Array,
    new: Predictions,
    other: Predictions,
    groups: Array,
    margin: float = 0.0,
) -> Difference:
    """Return how the predictions of two models for the same rows differ.

    `groups` holds the group of each row, as an integer. Rows of one group are not
    independent, so the computation of the error leaves them out together. `margin` is the
    loss that is accepted, as a share of the other model's value. The verdict has these
    properties:

    - A model is called "worse" only if the difference is more than chance explains, and its
      interval goes beyond the margin.
    - An equally good model is called "worse" in at most 2.5 % of all cases.
    - A loss that is larger than both the margin and `detectable` goes unnoticed in at most
      5 % of all cases.

    This is a test of non-inferiority (Piaggio et al., JAMA 308, 2012), with one exception:
    if there are too few rows for such a test, a model passes unless it is certainly worse.

    Raises CannotCompute if the metric or the interval cannot be computed.
    """
    new_value = compute_metric(metric.name, target, new)
    other_value = compute_metric(metric.name, target, other)
    difference = new_value - other_value

    differences = _compute_differences(metric, target, new, other, _form_blocks(groups))
    error = estimate_standard_error(differences)
    half_width = error.multiply_by_quantile((1 + CONFIDENCE) / 2)
    interval = (difference - half_width, difference + half_width)

    gain = difference if metric.higher_is_better else -difference
    clear_gain = error.multiply_by_quantile((1 + REFERENCE_CONFIDENCE) / 2)
    accepted_loss = margin * abs(other_value)
    return Difference(
        metric=metric.name,
        new=new_value,
        other=other_value,
        difference=difference,
        interval=interval,
        detectable=half_width + error.multiply_by_quantile(POWER),
        accepted_loss=accepted_loss,
        verdict=_choose_verdict(interval, metric.higher_is_better, accepted_loss),
        becomes_reference=gain > clear_gain,
    )


def _choose_verdict(
    interval: tuple[float, float], higher_is_better: bool, accepted_loss: float
) -> Verdict:
    """Return the verdict on a new model, compared with another model.

    `interval` is the confidence interval of the metric of the new model minus that of the
    other model. The verdict is "better" if the whole interval is a gain, and "no worse" if
    the interval contains 0. If the whole interval is a loss, the verdict is "within the
    margin" if no part of the interval is a larger loss than `accepted_loss`, and "worse"
    otherwise.
    """
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
        # The interval contains 0, so the difference may be chance. A wide interval does not
        # rule out a loss, but does not show one either.
        return "no worse"
    if smallest_gain >= -accepted_loss:
        return "within the margin"
    return "worse"


def _form_blocks(groups: Array) -> Array:
    """Put whole groups of rows together into blocks, and return the block of each row.

    Blocks are numbered from 0. There are at most MOST_BLOCKS blocks. If there are no more
    groups than that, each group is a block.
    """
    distinct_groups, position_of_group = np.unique(groups, return_inverse=True)
    block_count = min(len(distinct_groups), MOST_BLOCKS)
    return np.asarray(position_of_group % block_count)


def _compute_differences(
    metric: Metric,
    target: Array,
    new: Predictions,
    other: Predictions,
    block_of_row: Array,
) -> Array:
    """For each block, return the difference of the metric for all rows outside the block.

    `block_of_row` holds the block of each row, from 0. Raises CannotCompute if there is
    only one block, or if the metric is undefined for the rows outside a block.
    """
    if block_of_row.max() == 0:
        raise CannotCompute(
            "all rows belong to one block, so there is no confidence interval"
        )
    new_values = compute_leaving_out_each_block(metric.name, target, new, block_of_row)
    other_values = compute_leaving_out_each_block(
        metric.name, target, other, block_of_row
    )
    differences = new_values - other_values
    if not np.isfinite(differences).all():
        raise CannotCompute(
            f"{metric.title} is undefined if one block of rows is left out, so there is no"
            " confidence interval"
        )
    return differences


def estimate_standard_error(differences: Array) -> StandardError:
    """Estimate the standard error of a difference with a jackknife.

    Each element of `differences` is the difference computed with one block of rows left
    out. The method is the delete-a-group jackknife (P. S. Kott, "The delete-a-group
    jackknife", Journal of Official Statistics 17, 2001). For the ROC AUC, the result is
    close to the error that DeLong et al. derived (Biometrics 44, 1988).
    """
    block_count = len(differences)
    deviations = differences - differences.mean()
    spread = np.sqrt((deviations**2).mean())
    # The variance is (n - 1) times the mean squared deviation of n blocks.
    error = float(spread * np.sqrt(block_count - 1))
    return StandardError(error, _estimate_degrees_of_freedom(deviations))


def _estimate_degrees_of_freedom(deviations: Array) -> float:
    """Return the degrees of freedom of a variance that is estimated from deviations.

    There are at most n - 1 degrees of freedom for n deviations. If a few large deviations
    cause most of the variance (because of a rare class or very large numbers, for example),
    the variance is known less precisely than n suggests. In this case, the formula of
    Satterthwaite (Biometrics Bulletin 2, 1946) gives fewer degrees of freedom:

        2 / (relative variance of the estimated variance) = 2 n / (kurtosis - 1)
    """
    block_count = len(deviations)
    most_degrees = float(block_count - 1)
    spread = np.sqrt((deviations**2).mean())
    if spread == 0:
        return most_degrees
    kurtosis = ((deviations / spread) ** 4).mean()
    if kurtosis <= 1:
        # All deviations have the same size, apart from rounding.
        return most_degrees
    return min(most_degrees, float(2 * block_count / (kurtosis - 1)))
