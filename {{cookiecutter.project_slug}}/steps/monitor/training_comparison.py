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
# If a larger share of the training rows repeats an earlier row, repeated rows are normal.
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

    A difference is drift only if a p-value is below a level that falls with the number of
    tests: among many tests, some have a small p-value by chance. Some differences are drift
    only if the PSI of the column is also above `max_psi`.
    """
    number_of_tests = sum(
        len(check.p_values) for comparison in comparisons for check in comparison.checks
    )
    level = significance_level(number_of_tests)
    return [judge_comparison(comparison, level, max_psi) for comparison in comparisons]


def judge_comparison(comparison: Comparison, level: float, max_psi: float) -> Outcome:
    """Decide which differences of a comparison are drift, and which are only reported.

    A difference is drift if one of its p-values is below `level` and, if its check needs
    the PSI (population stability index), the PSI is above `max_psi`. Any other difference
    is reported as a fact. The exception is a check that needs the PSI: nothing is reported,
    because distributions always differ a little.
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

    If there are none, the check has a p-value, but no sentence.
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

    If there are none, the check has a p-value, but no sentence.
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

    If the new mean is between the quartiles of training, it does not show the change: all
    values may have become the same, for example. The sentence then also describes `change`,
    the bin whose share of the rows has changed the most.
    """
    means = (
        f"'{name}': PSI {psi:.2f}, mean {format_number(new_mean)} instead of"
        f" {format_number(profile.mean)}"
    )
    # The edges of the bins are quantiles of the training values. There is none if all
    # training values are the same.
    edges = profile.edges
    if not edges:
        return f"{means}."
    lower_quartile = edges[len(edges) // 4]
    upper_quartile = edges[3 * len(edges) // 4]
    is_mean_ordinary = lower_quartile <= new_mean <= upper_quartile
    if not is_mean_ordinary:
        return f"{means}."
    return (
        f"{means}, {change.label} in {change.new_share:.0%} of the rows instead of"
        f" {change.training_share:.0%}."
    )


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
    values. All other categories are sorted alphabetically, and put into the ranges between
    the profile's `edges`. Each range is a bin.
    """
    new_frequent = dict.fromkeys(profile.frequent, 0)
    new_rarer = [0] * len(profile.counts)
    for category, rows in new.categories.items():
        if category in new_frequent:
            new_frequent[category] = rows
        else:
            # An edge is the last category of its range.
            range_number = bisect_left(profile.edges, category)
            new_rarer[range_number] += rows
    frequent_labels = [f"'{category}'" for category in profile.frequent]
    return Bins(
        labels=[*frequent_labels, *label_ranges(profile.edges), MISSING],
        training=[*profile.frequent.values(), *profile.counts, profile.missing],
        new=[*new_frequent.values(), *new_rarer, new.missing],
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

    A row repeats another if the keys are equal or, without keys, all features. This is so
    for `new_repeated` of the `new_rows`. If at most RARE_SHARE of the training rows repeat
    another, a repeated row was probably delivered twice by mistake, so an increase is
    drift. If more of them do, repeated rows are normal, and nothing is compared.
    """
    are_repeats_normal = profile.repeated > RARE_SHARE * profile.rows
    if are_repeats_normal:
        return Comparison(name, checks=[])

    training_trials = profile.rows
    new_trials = new_rows
    if new_rows > profile.rows:
        # Two rows may be equal by chance, and the number of pairs of rows grows with the
        # square of the number of rows: with twice as many rows, four times as many rows
        # repeat another one. So repeated rows are compared as a share of the pairs, and not
        # of the rows.
        training_trials = profile.rows**2
        new_trials = new_rows**2
    p_value = compare_rates(profile.repeated, training_trials, new_repeated, new_trials)
    if not new_repeated:
        return Comparison(name, [Check(None, [p_value])])

    compared_columns = "all features"
    if profile.keys:
        compared_columns = f"the keys ({', '.join(profile.keys)})"
    sentence = (
        f"{new_repeated} of {new_rows} rows repeat another row in {compared_columns}; in"
        f" training, {profile.repeated} of {profile.rows} rows did."
    )
    return Comparison(name, [Check(sentence, [p_value])])


def compare_predictions(
    name: str, profile: ColumnProfile, new: ColumnCounts
) -> Comparison:
    """Compare the distribution of predictions, or of the probabilities of a class.

    Other checks of a column, such as the one for its range, are left out.
    """
    comparison = compare_column(name, profile, new)
    # The first check of each kind of column is the one for its distribution.
    return replace(comparison, checks=comparison.checks[:1])


def compare_missing(bins: Bins) -> float:
    """Return the p-value of the hypothesis that missing values are not more frequent now.

    The last bin is the one of the missing values.
    """
    return compare_rates(
        bins.training[-1], sum(bins.training), bins.new[-1], sum(bins.new)
    )


def describe_missing(name: str, bins: Bins, psi: float) -> str:
    """Return a sentence on how the share of missing values has changed.

    The last bin is the one of the missing values.
    """
    return (
        f"'{name}': PSI {psi:.2f}, missing in {bins.new_shares[-1]:.0%} of the rows"
        f" instead of {bins.training_shares[-1]:.0%}."
    )


def find_largest_change(bins: Bins) -> BinChange:
    """Return the bin whose share of the rows has changed the most.

    Of bins that have changed equally, the first one is returned. But the last bin, which
    holds the missing values, is preferred: if a column has only one value, and some rows
    lose it, the shares of both bins change equally, and the user should read about the
    missing values.
    """
    training_rows = sum(bins.training)
    new_rows = sum(bins.new)
    # This is the change of the share, new / new_rows - training / training_rows, times both
    # numbers of rows. Integers have no rounding errors, so equal changes stay equal.
    changes = [
        abs(new * training_rows - training * new_rows)
        for training, new in zip(bins.training, bins.new, strict=True)
    ]
    largest = max(changes)
    if changes[-1] == largest:
        position = len(changes) - 1
    else:
        position = changes.index(largest)
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
