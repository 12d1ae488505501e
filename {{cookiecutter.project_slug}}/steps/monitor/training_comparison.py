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

SHOWN_CATEGORIES = 3  # in a sentence
MISSING = "missing"
# If a larger share of the training rows are duplicates, duplicates are normal.
RARE = 0.01


@dataclass(frozen=True)
class Bins:
    """The counts of training rows and of new rows, bin by bin."""

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
    """Divide counts by their sum; return zeros if all counts are zero."""
    total = max(sum(counts), 1)
    return [count / total for count in counts]


@dataclass(frozen=True)
class BinChange:
    """The share of the training rows and of the new rows that a bin holds."""

    label: str
    training_share: float
    new_share: float


@dataclass(frozen=True)
class Check:
    """A difference between new rows and training rows, and its p-values.

    The difference is drift if one of the p-values is small enough. If `needs_psi` is
    True, the PSI of the column must also be above its limit.

    `sentence` describes the difference. It is None if there is no difference at all, such
    as no unseen category. Then nothing is reported, but the p-values still count: the more
    tests there are, the smaller a p-value must be to count as drift (see `judge`).
    """

    sentence: str | None
    p_values: Sequence[float]
    needs_psi: bool = False


@dataclass(frozen=True)
class Comparison:
    """New rows compared with training rows: a feature, the predictions, or whole rows.

    `facts` are sentences on differences that are normal for new data, not drift.
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

    `probabilities` has those of the classes' probabilities, if these are compared.
    """

    features: Sequence[Outcome]
    repeats: Outcome
    predictions: Outcome
    probabilities: Sequence[Outcome] = ()

    @property
    def all_outcomes(self) -> list[Outcome]:
        """Return the outcomes of all comparisons, those of the features first."""
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
    """Decide for each comparison what is drift, and what may be due to chance.

    A difference is drift if a p-value is below a level that falls with the number of
    tests: among many tests, some have a small p-value by chance. `max_psi` is the limit
    of the PSI for checks that need it.
    """
    number_of_tests = sum(
        len(check.p_values) for comparison in comparisons for check in comparison.checks
    )
    level = significance_level(number_of_tests)
    return [judge_comparison(comparison, level, max_psi) for comparison in comparisons]


def judge_comparison(comparison: Comparison, level: float, max_psi: float) -> Outcome:
    """Decide what is drift in a comparison; `level` is the limit of its p-values."""
    exceeds_psi = comparison.psi is not None and comparison.psi > max_psi
    drift = []
    facts = list(comparison.facts)
    for check in comparison.checks:
        if check.sentence is None:
            continue
        is_improbable = min(check.p_values) < level
        if is_improbable and (exceeds_psi or not check.needs_psi):
            drift.append(check.sentence)
        elif not check.needs_psi:
            facts.append(check.sentence)
    return Outcome(comparison, drift, facts)


def compare_column(name: str, profile: ColumnProfile, new: ColumnCounts) -> Comparison:
    """Compare the values of a column: numbers, texts or dates.

    Raises TypeError if the new values are of another kind than those of the profile.
    """
    if isinstance(profile, NumberProfile) and isinstance(new, NumberCounts):
        return compare_numbers(name, profile, new)
    if isinstance(profile, TextProfile) and isinstance(new, CategoryCounts):
        return compare_texts(name, profile, new)
    if isinstance(profile, DateProfile) and isinstance(new, DateCounts):
        return compare_dates(name, profile, new)
    raise TypeError(f"{name}: {type(new).__name__} does not go with the profile")


def compare_numbers(name: str, profile: NumberProfile, new: NumberCounts) -> Comparison:
    """Compare the distribution and the range of a column of numbers."""
    bins = Bins(
        labels=[*label_bins(profile.edges), MISSING],
        training=[*profile.counts, profile.missing],
        new=[*new.counts, new.missing],
    )
    psi = population_stability_index(bins.training, bins.new)
    p_values = [
        compare_distributions(bins.training, bins.new),
        compare_locations(profile.counts, new.counts),
        compare_missing(bins),
    ]
    change = find_largest_change(bins)
    if change.label == MISSING or new.mean is None:
        sentence = describe_missing(name, bins, psi)
    else:
        sentence = describe_moved_numbers(name, profile, new.mean, change, psi)
    distribution = Check(sentence, p_values, needs_psi=True)
    below = check_smaller_numbers(name, profile, new)
    above = check_larger_numbers(name, profile, new)
    return Comparison(name, [distribution, below, above], psi, bins)


def check_smaller_numbers(
    name: str, profile: NumberProfile, new: NumberCounts
) -> Check:
    """Check whether new numbers are below the smallest of the training numbers."""
    # No training number is below the smallest one.
    p_value = compare_rates(0, profile.filled, new.below, new.filled)
    if not new.below or new.smallest is None:
        return Check(None, [p_value])

    sentence = (
        f"'{name}': {new.below} of {new.filled} values are below the smallest of"
        f" training, {format_number(profile.smallest)}; the smallest is"
        f" {format_number(new.smallest)}."
    )
    return Check(sentence, [p_value])


def check_larger_numbers(name: str, profile: NumberProfile, new: NumberCounts) -> Check:
    """Check whether new numbers are above the largest of the training numbers."""
    # No training number is above the largest one.
    p_value = compare_rates(0, profile.filled, new.above, new.filled)
    if not new.above or new.largest is None:
        return Check(None, [p_value])

    sentence = (
        f"'{name}': {new.above} of {new.filled} values are above the largest of"
        f" training, {format_number(profile.largest)}; the largest is"
        f" {format_number(new.largest)}."
    )
    return Check(sentence, [p_value])


def describe_moved_numbers(
    name: str, profile: NumberProfile, new_mean: float, change: BinChange, psi: float
) -> str:
    """Describe how numbers have moved since training.

    `change` is the bin whose share of the rows has changed the most. It is named if the new
    mean lies in the middle half of the training values. Such a mean does not explain the
    change: for example, all values may have become the same.
    """
    means = (
        f"'{name}': PSI {psi:.2f}, mean {format_number(new_mean)} instead of"
        f" {format_number(profile.mean)}"
    )
    edges = profile.edges
    if not edges:
        return f"{means}."
    lower_quartile = edges[len(edges) // 4]
    upper_quartile = edges[3 * len(edges) // 4]
    if not lower_quartile <= new_mean <= upper_quartile:
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
        sentence = (
            f"'{name}': PSI {psi:.2f}, {change.label} in {change.new_share:.0%} of the"
            f" rows instead of {change.training_share:.0%}."
        )
    checks = [Check(sentence, p_values, needs_psi=True)]
    if profile.seen is not None:
        checks.append(check_unseen_categories(name, profile.seen, new))
    return Comparison(name, checks, psi, bins)


def divide_into_bins(profile: TextProfile, new: CategoryCounts) -> Bins:
    """Count the training rows and the new rows by category.

    There is a bin for each frequent category of the training rows, and one for missing
    values. The rarer categories are put into groups: the profile's `edges` divide their
    alphabetical order into ranges, and each range has a bin.
    """
    frequent = dict.fromkeys(profile.frequent, 0)
    rarer_groups = [0] * len(profile.counts)
    for category, rows in new.categories.items():
        if category in frequent:
            frequent[category] = rows
        else:
            group = bisect_left(profile.edges, category)
            rarer_groups[group] += rows
    frequent_labels = [f"'{category}'" for category in profile.frequent]
    return Bins(
        labels=[*frequent_labels, *label_groups(profile.edges), MISSING],
        training=[*profile.frequent.values(), *profile.counts, profile.missing],
        new=[*frequent.values(), *rarer_groups, new.missing],
    )


def check_unseen_categories(
    name: str, seen: Mapping[str, int], new: CategoryCounts
) -> Check:
    """Check whether new rows have categories that no training row has.

    `seen` holds the number of training rows of each category.
    """
    p_values = compare_unseen_categories(seen, new.categories)
    unseen = {
        category: rows
        for category, rows in new.categories.items()
        if category not in seen
    }
    if not unseen:
        return Check(None, p_values)

    by_rows = sorted(unseen, key=lambda category: (-unseen[category], category))
    shown = [
        f"'{category}' ({unseen[category]})" for category in by_rows[:SHOWN_CATEGORIES]
    ]
    if len(unseen) > SHOWN_CATEGORIES:
        shown.append("…")
    rows = sum(unseen.values())
    sentence = (
        f"'{name}': {rows} of {new.filled} values are categories that training has not"
        f" seen: {', '.join(shown)}."
    )
    return Check(sentence, p_values)


def compare_dates(name: str, profile: DateProfile, new: DateCounts) -> Comparison:
    """Compare the missing values of a column of dates, and find dates before training.

    New data is usually later than training data, so later dates are a fact, not drift.
    """
    bins = Bins(
        labels=["a date", MISSING],
        training=[profile.filled, profile.missing],
        new=[new.filled, new.missing],
    )
    psi = population_stability_index(bins.training, bins.new)
    missing = Check(
        sentence=describe_missing(name, bins, psi),
        p_values=[compare_missing(bins)],
        needs_psi=True,
    )
    checks = [missing]
    if profile.earliest is not None:
        checks.append(check_earlier_dates(name, profile.filled, profile.earliest, new))
    facts = []
    if new.after and new.latest is not None:
        facts.append(
            f"'{name}': {new.after} of {new.filled} dates are after the latest of"
            f" training, {profile.latest:%Y-%m-%d}; the latest is"
            f" {new.latest:%Y-%m-%d}."
        )
    return Comparison(name, checks, psi, bins, facts)


def check_earlier_dates(
    name: str, training_dates: int, earliest: datetime, new: DateCounts
) -> Check:
    """Check whether new dates are before the earliest of the training dates.

    `training_dates` is the number of training rows that have a date.
    """
    p_value = compare_rates(0, training_dates, new.before, new.filled)
    if not new.before or new.earliest is None:
        return Check(None, [p_value])

    sentence = (
        f"'{name}': {new.before} of {new.filled} dates are before the earliest of"
        f" training, {earliest:%Y-%m-%d}; the earliest is {new.earliest:%Y-%m-%d}."
    )
    return Check(sentence, [p_value])


def compare_repeats(
    name: str, profile: RepeatProfile, new_rows: int, new_repeated: int
) -> Comparison:
    """Compare the number of duplicates: rows that are equal to another row.

    Rows are equal if their keys are, or without keys, if all their features are. If there
    are nearly no duplicates in training, a duplicate was probably delivered twice by
    mistake. If they are frequent in training, they are normal, and nothing is compared.
    """
    duplicates_are_normal = profile.repeated > RARE * profile.rows
    if duplicates_are_normal:
        return Comparison(name, [])

    training_opportunities = profile.rows
    new_opportunities = new_rows
    if new_rows > profile.rows:
        # Some rows are equal by pure chance. Any pair of rows may be, and the number of
        # pairs grows with the square of the number of rows: with twice as many rows, four
        # times as many duplicates are normal. So if there are more new rows than training
        # rows, duplicates are compared as shares of the pairs, not of the rows.
        training_opportunities = profile.rows**2
        new_opportunities = new_rows**2
    p_value = compare_rates(
        profile.repeated, training_opportunities, new_repeated, new_opportunities
    )
    if not new_repeated:
        return Comparison(name, [Check(None, [p_value])])

    compared_columns = "all features"
    if profile.keys:
        compared_columns = f"the keys ({', '.join(profile.keys)})"
    sentence = (
        f"{new_repeated} of {new_rows} rows repeat another one in {compared_columns};"
        f" in training, {profile.repeated} of {profile.rows} rows did."
    )
    return Comparison(name, [Check(sentence, [p_value])])


def compare_predictions(
    name: str, profile: ColumnProfile, new: ColumnCounts
) -> Comparison:
    """Compare the distribution of predictions, or of the probabilities of a class.

    Other checks of a column, such as those for its range, are left out.
    """
    comparison = compare_column(name, profile, new)
    # The first check of each kind of column is the one for its distribution.
    return replace(comparison, checks=comparison.checks[:1])


def compare_missing(bins: Bins) -> float:
    """Return the p-value of the test whether missing values have become more frequent.

    The last of the bins is the one for missing values.
    """
    return compare_rates(
        bins.training[-1], sum(bins.training), bins.new[-1], sum(bins.new)
    )


def describe_missing(name: str, bins: Bins, psi: float) -> str:
    """Describe how the share of missing values has changed.

    The last of the bins is the one for missing values.
    """
    return (
        f"'{name}': PSI {psi:.2f}, missing in {bins.new_shares[-1]:.0%} of the rows"
        f" instead of {bins.training_shares[-1]:.0%}."
    )


def find_largest_change(bins: Bins) -> BinChange:
    """Find the bin whose share of the rows has changed the most.

    The last of the bins is the one for missing values. It takes precedence over bins that
    have changed as much: if a column has only one value, and some rows lose it, the shares
    of this value and of missing values change equally.
    """
    training_rows = sum(bins.training)
    new_rows = sum(bins.new)
    # The changes of the shares are multiplied by both numbers of rows. Integers are exact,
    # so equal changes are found to be equal.
    changes = [
        abs(new * training_rows - training * new_rows)
        for training, new in zip(bins.training, bins.new, strict=True)
    ]
    position = changes.index(max(changes))
    if changes[-1] == max(changes):
        position = len(changes) - 1
    return BinChange(
        label=bins.labels[position],
        training_share=bins.training_shares[position],
        new_share=bins.new_shares[position],
    )


def label_bins(edges: Sequence[float]) -> list[str]:
    """Name the range of numbers of each bin, such as "up to 5" or "5 to 10"."""
    if not edges:
        return ["any number"]
    numbers = [format_number(edge) for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(numbers)]
    return [f"up to {numbers[0]}", *between, f"above {numbers[-1]}"]


def label_groups(edges: Sequence[str]) -> list[str]:
    """Name the groups into which the edges divide the rarer categories."""
    if not edges:
        return ["others"]
    between = [f"others to '{edge}'" for edge in edges]
    return [*between, f"others after '{edges[-1]}'"]


def format_number(number: float) -> str:
    """Format a number with up to six digits, which are enough for a comparison."""
    return f"{number:.6g}"
