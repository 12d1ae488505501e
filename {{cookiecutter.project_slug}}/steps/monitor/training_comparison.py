"""Compare new rows with the profile of the training rows, and describe what has drifted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from drift import (
    compare_distributions,
    compare_locations,
    compare_rates,
    compare_unseen_categories,
    population_stability_index,
    significance_level,
)
from new_rows import CategoryCounts, ColumnCounts, DateCounts, NumberCounts
from profiles import (
    ColumnProfile,
    DateProfile,
    NumberProfile,
    RepeatProfile,
    TextProfile,
)

# A sentence names at most this many unseen categories.
SHOWN_CATEGORIES = 3
# The label of the bin of missing values, which is the last bin of each column.
MISSING = "missing"
# If a larger share of the training rows repeats an earlier row, repeated rows are a normal
# part of this data, and not a mistake.
RARE_SHARE = 0.01


@dataclass(frozen=True)
class Bins:
    """The numbers of training rows and of new rows in the same bins."""

    labels: Sequence[str]
    training: Sequence[int]
    new: Sequence[int]

    @property
    def training_shares(self) -> list[float]:
        """Return the share of the training rows in each bin."""
        return _divide_by_sum(self.training)

    @property
    def new_shares(self) -> list[float]:
        """Return the share of the new rows in each bin."""
        return _divide_by_sum(self.new)


def _divide_by_sum(counts: Sequence[int]) -> list[float]:
    """Return the share of each count in their sum, or zeros if all counts are zero."""
    total = max(sum(counts), 1)
    return [count / total for count in counts]


@dataclass(frozen=True)
class BinChange:
    """A bin, and the shares of the training rows and of the new rows that are in it."""

    label: str
    training_share: float
    new_share: float


@dataclass(frozen=True)
class Check:
    """A difference between new rows and training rows, and the p-values of its tests.

    The difference is drift if one of the p-values is small enough. If `needs_psi` is
    True, the PSI of the column must also be above its limit.

    `sentence` describes the difference. It is None if there is no difference, such as no
    unseen category. Then nothing is reported, but the tests still count: the more tests
    there are, the smaller a p-value must be to count as drift (see `judge`).
    """

    sentence: str | None
    p_values: Sequence[float]
    needs_psi: bool = False


@dataclass(frozen=True)
class Comparison:
    """New rows compared with training rows: a feature, the predictions, or whole rows.

    `facts` are sentences on differences that are normal for new data, so they are never
    drift. The comparison of repeated rows has neither a PSI nor bins.
    """

    name: str
    checks: Sequence[Check]
    psi: float | None = None
    bins: Bins | None = None
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """A comparison, with sentences on its drift and on differences that are not drift."""

    comparison: Comparison
    drift: Sequence[str]
    facts: Sequence[str]


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of the features, of repeated rows, and of the predictions.

    `probabilities` has the outcomes of the classes' probabilities, if these are compared.
    """

    features: Sequence[Outcome]
    repeats: Outcome
    predictions: Outcome
    probabilities: Sequence[Outcome] = ()

    @property
    def all_outcomes(self) -> list[Outcome]:
        """Return the outcomes of all comparisons, starting with the features."""
        return [
            *self.features,
            self.repeats,
            self.predictions,
            *self.probabilities,
        ]

    @property
    def has_drift_of_predictions(self) -> bool:
        """Return whether the predictions or the probability of a class have drifted."""
        return any(outcome.drift for outcome in [self.predictions, *self.probabilities])

    @property
    def drift(self) -> list[str]:
        """Return the sentences on drift, of all comparisons."""
        return [sentence for outcome in self.all_outcomes for sentence in outcome.drift]

    @property
    def facts(self) -> list[str]:
        """Return the sentences on differences that are not drift, of all comparisons."""
        return [sentence for outcome in self.all_outcomes for sentence in outcome.facts]


def judge(comparisons: Sequence[Comparison], max_psi: float) -> list[Outcome]:
    """Decide for each comparison which differences are drift.

    A difference is drift only if a p-value is below the significance level. Among many tests,
    some have a small p-value by chance, so the level falls with the number of tests. If the
    check of a difference needs the PSI (population stability index), the PSI of the column
    must also be above `max_psi`.
    """
    number_of_tests = sum(
        len(check.p_values) for comparison in comparisons for check in comparison.checks
    )
    level = significance_level(number_of_tests)
    return [judge_comparison(comparison, level, max_psi) for comparison in comparisons]


def judge_comparison(comparison: Comparison, level: float, max_psi: float) -> Outcome:
    """Decide which differences of a comparison are drift, and which are only reported.

    A difference is drift if one of its p-values is below `level` and, if its check needs
    the PSI (population stability index), the PSI is also above `max_psi`. Other differences
    are reported as facts, unless their check needs the PSI: such a check compares two
    distributions, which always differ a little, so a difference that is not drift is not
    worth reporting.
    """
    exceeds_psi = comparison.psi is not None and comparison.psi > max_psi
    drift = []
    facts = list(comparison.facts)
    for check in comparison.checks:
        if check.sentence is None:
            continue
        is_improbable = min(check.p_values) < level
        is_large_enough = exceeds_psi or not check.needs_psi
        if is_improbable and is_large_enough:
            drift.append(check.sentence)
        elif not check.needs_psi:
            facts.append(check.sentence)
    return Outcome(comparison, drift, facts)


def compare_column(name: str, profile: ColumnProfile, new: ColumnCounts) -> Comparison:
    """Compare the new values of a column with its profile: numbers, texts or dates.

    Raises TypeError if the new values and the profile are not of the same kind.
    """
    if isinstance(profile, NumberProfile) and isinstance(new, NumberCounts):
        return compare_numbers(name, profile, new)
    if isinstance(profile, TextProfile) and isinstance(new, CategoryCounts):
        return compare_texts(name, profile, new)
    if isinstance(profile, DateProfile) and isinstance(new, DateCounts):
        return compare_dates(name, profile, new)
    raise TypeError(
        f"'{name}': the new values are {type(new).__name__}, and the profile is a"
        f" {type(profile).__name__}"
    )


def compare_numbers(name: str, profile: NumberProfile, new: NumberCounts) -> Comparison:
    """Compare the distribution and the range of a column of numbers with training."""
    bins = Bins(
        labels=[*label_bins(profile.edges), MISSING],
        training=[*profile.counts, profile.missing],
        new=[*new.counts, new.missing],
    )
    psi = population_stability_index(bins.training, bins.new)
    p_values = [
        compare_distributions(bins.training, bins.new),
        # Missing values are neither large nor small, so they are not counted here.
        compare_locations(profile.counts, new.counts),
        compare_missing(bins),
    ]
    change = find_largest_change(bins)
    # The mean is None if there is no new number.
    if change.label == MISSING or new.mean is None:
        sentence = describe_missing(name, bins, psi)
    else:
        sentence = describe_moved_numbers(name, profile, new.mean, change, psi)
    checks = [
        Check(sentence, p_values, needs_psi=True),
        check_smaller_numbers(name, profile, new),
        check_larger_numbers(name, profile, new),
    ]
    return Comparison(name, checks, psi, bins)


def check_smaller_numbers(
    name: str, profile: NumberProfile, new: NumberCounts
) -> Check:
    """Check whether new numbers are below the smallest number in training.

    If no new number is smaller, the check has a p-value, but no sentence.
    """
    # By definition, 0 training numbers are below the smallest one.
    p_value = compare_rates(0, profile.filled, new.below, new.filled)
    if not new.below or new.smallest is None:
        return Check(None, [p_value])

    sentence = (
        f"'{name}': {new.below} of {new.filled} new values are below"
        f" {format_number(profile.smallest)}, the smallest value in training; the smallest"
        f" new value is {format_number(new.smallest)}."
    )
    return Check(sentence, [p_value])


def check_larger_numbers(name: str, profile: NumberProfile, new: NumberCounts) -> Check:
    """Check whether new numbers are above the largest number in training.

    If no new number is larger, the check has a p-value, but no sentence.
    """
    # By definition, 0 training numbers are above the largest one.
    p_value = compare_rates(0, profile.filled, new.above, new.filled)
    if not new.above or new.largest is None:
        return Check(None, [p_value])

    sentence = (
        f"'{name}': {new.above} of {new.filled} new values are above"
        f" {format_number(profile.largest)}, the largest value in training; the largest new"
        f" value is {format_number(new.largest)}."
    )
    return Check(sentence, [p_value])


def describe_moved_numbers(
    name: str, profile: NumberProfile, new_mean: float, change: BinChange, psi: float
) -> str:
    """Return a sentence on how numbers have moved since training: their PSI and mean.

    If the new mean is between the quartiles of training, it is an ordinary value, although
    the distribution has changed: all values may have become equal, for example. The
    sentence then also names `change`, the bin whose share of the rows has changed the most.
    """
    start_of_sentence = (
        f"'{name}': PSI {psi:.2f}, mean {format_number(new_mean)} instead of"
        f" {format_number(profile.mean)}"
    )
    if not _is_between_quartiles(new_mean, profile.edges):
        return f"{start_of_sentence}."
    return (
        f"{start_of_sentence}, {change.label} in {change.new_share:.0%} of the rows instead"
        f" of {change.training_share:.0%}."
    )


def _is_between_quartiles(number: float, edges: Sequence[float]) -> bool:
    """Return whether a number is between the quartiles of the training values.

    `edges` are the edges of the bins of a column of numbers. The bins hold about equally
    many training values, so the edge after a quarter of the edges is about the lower
    quartile. This is only a rough estimate if the training values are few different
    numbers. There are no edges, and no quartiles, if all training values are equal.
    """
    if not edges:
        return False
    lower_quartile = edges[len(edges) // 4]
    upper_quartile = edges[3 * len(edges) // 4]
    return lower_quartile <= number <= upper_quartile


def compare_texts(name: str, profile: TextProfile, new: CategoryCounts) -> Comparison:
    """Compare the shares of the categories of a column, and find unseen categories."""
    bins = divide_into_bins(profile, new)
    psi = population_stability_index(bins.training, bins.new)
    p_values = [compare_distributions(bins.training, bins.new), compare_missing(bins)]
    change = find_largest_change(bins)
    if change.label == MISSING:
        sentence = describe_missing(name, bins, psi)
    else:
        sentence = describe_moved_categories(name, change, psi)
    # With many rows, even a small change has a small p-value. So the PSI, which measures
    # how large the change is, must be high, too.
    checks = [Check(sentence, p_values, needs_psi=True)]
    # The profile does not list the categories if there are too many.
    if profile.seen is not None:
        checks.append(check_unseen_categories(name, profile.seen, new))
    return Comparison(name, checks, psi, bins)


def describe_moved_categories(name: str, change: BinChange, psi: float) -> str:
    """Return a sentence on the category, or the bin, whose share has changed the most."""
    return (
        f"'{name}': PSI {psi:.2f}, {change.label} in {change.new_share:.0%} of the rows"
        f" instead of {change.training_share:.0%}."
    )


def divide_into_bins(profile: TextProfile, new: CategoryCounts) -> Bins:
    """Divide the training rows and the new rows into the same bins of categories.

    There is a bin for each frequent category of the training rows, and one for missing
    values. Every other category falls into one of the alphabetical ranges that the
    profile's `edges` separate: with the edge "k", the ranges are up to "k" and after "k".
    Each range is a bin, too.
    """
    new_frequent_counts = dict.fromkeys(profile.frequent, 0)
    training_range_counts = profile.counts
    new_range_counts = [0] * len(training_range_counts)
    for category, rows in new.categories.items():
        if category in new_frequent_counts:
            new_frequent_counts[category] = rows
        else:
            # An edge is the last category of its range.
            range_number = bisect_left(profile.edges, category)
            new_range_counts[range_number] += rows
    frequent_labels = [f"'{category}'" for category in profile.frequent]
    return Bins(
        labels=[*frequent_labels, *label_ranges(profile.edges), MISSING],
        training=[
            *profile.frequent.values(),
            *training_range_counts,
            profile.missing,
        ],
        new=[*new_frequent_counts.values(), *new_range_counts, new.missing],
    )


def check_unseen_categories(
    name: str, seen: Mapping[str, int], new: CategoryCounts
) -> Check:
    """Check whether new rows have categories that no training row has.

    `seen` maps each category of the training rows to its number of rows. If there is no
    unseen category, the check has p-values, but no sentence.
    """
    p_values = compare_unseen_categories(seen, new.categories)
    unseen = {
        category: rows
        for category, rows in new.categories.items()
        if category not in seen
    }
    if not unseen:
        return Check(None, p_values)

    most_frequent_first = sorted(
        unseen, key=lambda category: (-unseen[category], category)
    )
    shown = [
        f"'{category}' ({unseen[category]})"
        for category in most_frequent_first[:SHOWN_CATEGORIES]
    ]
    if len(unseen) > SHOWN_CATEGORIES:
        shown.append("…")
    unseen_rows = sum(unseen.values())
    sentence = (
        f"'{name}': {unseen_rows} of {new.filled} new values belong to categories that do"
        f" not occur in training: {', '.join(shown)}."
    )
    return Check(sentence, p_values)


def compare_dates(name: str, profile: DateProfile, new: DateCounts) -> Comparison:
    """Compare the missing values of a column of dates, and find dates before training.

    New data is usually later than the training data. So dates after training are only
    reported as a fact, and are never drift.
    """
    bins = Bins(
        labels=["a date", MISSING],
        training=[profile.filled, profile.missing],
        new=[new.filled, new.missing],
    )
    psi = population_stability_index(bins.training, bins.new)
    checks = [
        Check(
            describe_missing(name, bins, psi), [compare_missing(bins)], needs_psi=True
        )
    ]
    # Earlier versions of this project have saved profiles without an earliest date.
    if profile.earliest is not None:
        checks.append(check_earlier_dates(name, profile.filled, profile.earliest, new))
    facts = []
    if new.after and new.latest is not None:
        facts.append(
            f"'{name}': {new.after} of {new.filled} new dates are after"
            f" {profile.latest:%Y-%m-%d}, the latest date in training; the latest new date"
            f" is {new.latest:%Y-%m-%d}."
        )
    return Comparison(name, checks, psi, bins, facts)


def check_earlier_dates(
    name: str, training_dates: int, training_earliest: datetime, new: DateCounts
) -> Check:
    """Check whether new dates are before the earliest date in training.

    `training_dates` is the number of training rows that have a date. If no new date is
    earlier, the check has a p-value, but no sentence.
    """
    # By definition, 0 training dates are before the earliest one.
    p_value = compare_rates(0, training_dates, new.before, new.filled)
    if not new.before or new.earliest is None:
        return Check(None, [p_value])

    sentence = (
        f"'{name}': {new.before} of {new.filled} new dates are before"
        f" {training_earliest:%Y-%m-%d}, the earliest date in training; the earliest new"
        f" date is {new.earliest:%Y-%m-%d}."
    )
    return Check(sentence, [p_value])


def compare_repeats(
    name: str, profile: RepeatProfile, new_rows: int, new_repeated: int
) -> Comparison:
    """Compare how many rows repeat an earlier row in training and in the new data.

    A row repeats an earlier one if it has the same keys or, without keys, the same values
    in all features. Of the `new_rows`, `new_repeated` rows repeat an earlier row.

    If more than RARE_SHARE of the training rows are repeated rows, such rows are normal,
    and nothing is compared. Otherwise, a repeated row was probably delivered twice by
    mistake, so an increase is drift.
    """
    are_repeats_normal = profile.repeated > RARE_SHARE * profile.rows
    if are_repeats_normal:
        return Comparison(name, checks=[])

    p_value = _compare_repeat_rates(profile, new_rows, new_repeated)
    sentence = None
    if new_repeated:
        sentence = _describe_repeats(profile, new_rows, new_repeated)
    return Comparison(name, [Check(sentence, [p_value])])


def _compare_repeat_rates(
    profile: RepeatProfile, new_rows: int, new_repeated: int
) -> float:
    """Return the p-value of the hypothesis that repeated rows are not more frequent now.

    `profile` describes the training rows. Of the `new_rows`, `new_repeated` rows repeat an
    earlier row.

    Rows may be repeated by mistake: in twice as many rows, there are twice as many
    mistakes. But rows may also be equal by chance: twice as many rows have four times as
    many pairs, any of which may be equal. To avoid false alarms, the cause that explains
    more of the new repeated rows is assumed.
    """
    if new_rows <= profile.rows:
        return compare_rates(profile.repeated, profile.rows, new_repeated, new_rows)
    # In more rows than those of training, chance explains more repeated rows than mistakes
    # do. The numbers of pairs are proportional to the squares of the numbers of rows.
    return compare_rates(profile.repeated, profile.rows**2, new_repeated, new_rows**2)


def _describe_repeats(profile: RepeatProfile, new_rows: int, new_repeated: int) -> str:
    """Return a sentence on how many new rows, and how many training rows, are repeated."""
    compared_columns = "all features"
    if profile.keys:
        compared_columns = f"the keys ({', '.join(profile.keys)})"
    return (
        f"{new_repeated} of {new_rows} rows repeat another row in {compared_columns}; in"
        f" training, {profile.repeated} of {profile.rows} rows did."
    )


def compare_predictions(
    name: str, profile: ColumnProfile, new: ColumnCounts
) -> Comparison:
    """Compare the distribution of predictions, or of the probabilities of a class.

    Other checks of a column, such as the check of its range, are left out.
    """
    comparison = compare_column(name, profile, new)
    # The first check of a column, whatever its kind, compares the distributions.
    return replace(comparison, checks=comparison.checks[:1])


def compare_missing(bins: Bins) -> float:
    """Return the p-value of the hypothesis that missing values are not more frequent now.

    The last bin holds the missing values.
    """
    return compare_rates(
        bins.training[-1], sum(bins.training), bins.new[-1], sum(bins.new)
    )


def describe_missing(name: str, bins: Bins, psi: float) -> str:
    """Return a sentence on how the share of missing values has changed.

    The last bin holds the missing values. `psi` is the population stability index.
    """
    return (
        f"'{name}': PSI {psi:.2f}, missing in {bins.new_shares[-1]:.0%} of the rows"
        f" instead of {bins.training_shares[-1]:.0%}."
    )


def find_largest_change(bins: Bins) -> BinChange:
    """Return the bin whose share of the rows has changed the most.

    If several bins have changed equally, the last bin, which holds the missing values, is
    preferred, and then the first bin. For example, if a column has only one value, and it
    is missing in some new rows, the shares of its two bins change equally. The user should
    then read about the missing values.
    """
    training_rows = sum(bins.training)
    new_rows = sum(bins.new)
    # The change of a share is new / new_rows - training / training_rows. It is multiplied
    # by training_rows * new_rows here, to compare integers: they have no rounding errors,
    # so equal changes stay equal.
    scaled_changes = [
        abs(new * training_rows - training * new_rows)
        for training, new in zip(bins.training, bins.new, strict=True)
    ]
    largest = max(scaled_changes)
    if scaled_changes[-1] == largest:
        position = len(scaled_changes) - 1
    else:
        position = scaled_changes.index(largest)
    return BinChange(
        label=bins.labels[position],
        training_share=bins.training_shares[position],
        new_share=bins.new_shares[position],
    )


def label_bins(edges: Sequence[float]) -> list[str]:
    """Return the labels of bins of numbers, such as "up to 5", "5 to 10" and "above 10"."""
    if not edges:
        return ["any number"]
    numbers = [format_number(edge) for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(numbers)]
    return [f"up to {numbers[0]}", *between, f"above {numbers[-1]}"]


def label_ranges(edges: Sequence[str]) -> list[str]:
    """Return the labels of ranges of rarer categories, such as "others to 'k'".

    The last range has no end: "others after 'k'". Without edges, there is only one range.
    """
    if not edges:
        return ["others"]
    between = [f"others to '{edge}'" for edge in edges]
    return [*between, f"others after '{edges[-1]}'"]


def format_number(number: float) -> str:
    """Return a number with up to six digits, which are enough for a comparison."""
    return f"{number:.6g}"
