"""New rows compared with the profile of the training rows: what has drifted, in sentences."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from drift import (
    choose_level,
    compare_distributions,
    compare_levels,
    compare_rates,
    compare_unseen_categories,
    population_stability_index,
)
from new_rows import NewColumn, NewDates, NewNumbers, NewTexts
from profiles import (
    ColumnProfile,
    DateProfile,
    NumberProfile,
    RepeatProfile,
    TextProfile,
)

SHOWN_CATEGORIES = 3  # in a sentence
MISSING = "missing"
# If more rows of training repeat another one, repeated rows are normal.
RARE = 0.01


@dataclass(frozen=True)
class Bins:
    """The counts of training rows and of new rows, bin by bin."""

    labels: Sequence[str]
    training: Sequence[int]
    new: Sequence[int]

    @property
    def training_shares(self) -> list[float]:
        """The share of the training rows in each bin."""
        return _divide_by_sum(self.training)

    @property
    def new_shares(self) -> list[float]:
        """The share of the new rows in each bin."""
        return _divide_by_sum(self.new)


def _divide_by_sum(counts: Sequence[int]) -> list[float]:
    total = max(sum(counts), 1)
    return [count / total for count in counts]


@dataclass(frozen=True)
class Check:
    """A difference between new rows and training rows, and how probable it is by chance.

    It is drift if one of the p-values is small enough. If `needs_psi`, the PSI must be
    above the limit, too. The sentence is empty if there is no difference.
    """

    sentence: str
    p_values: Sequence[float]
    needs_psi: bool = False


@dataclass(frozen=True)
class Comparison:
    """New rows and training rows, compared in a feature, in the predictions or as rows.

    `facts` are sentences on differences that are normal for new data.
    """

    name: str
    checks: Sequence[Check]
    psi: float | None = None
    bins: Bins | None = None
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class Verdict:
    """What has drifted, and what is only listed: sentences, by the name of a comparison."""

    drift: Mapping[str, Sequence[str]]
    facts: Mapping[str, Sequence[str]]


def judge(comparisons: Sequence[Comparison], max_psi: float) -> Verdict:
    """Tell drift from chance.

    The more tests there are, the smaller is the p-value that each of them needs.
    """
    tests = [
        p_value
        for comparison in comparisons
        for check in comparison.checks
        for p_value in check.p_values
    ]
    level = choose_level(len(tests))
    drift: dict[str, list[str]] = {}
    facts: dict[str, list[str]] = {}
    for comparison in comparisons:
        has_moved = comparison.psi is not None and comparison.psi > max_psi
        listed = list(comparison.facts)
        drifted = []
        for check in comparison.checks:
            is_improbable = min(check.p_values) < level
            if is_improbable and (has_moved or not check.needs_psi):
                drifted.append(check.sentence)
            elif check.sentence and not check.needs_psi:
                listed.append(check.sentence)
        if drifted:
            drift[comparison.name] = drifted
        if listed:
            facts[comparison.name] = listed
    return Verdict(drift, facts)


def compare_column(name: str, profile: ColumnProfile, new: NewColumn) -> Comparison:
    """Compare the values of a column, by its kind."""
    if isinstance(profile, NumberProfile) and isinstance(new, NewNumbers):
        return compare_numbers(name, profile, new)
    if isinstance(profile, TextProfile) and isinstance(new, NewTexts):
        return compare_texts(name, profile, new)
    if isinstance(profile, DateProfile) and isinstance(new, NewDates):
        return compare_dates(name, profile, new)
    raise TypeError(f"{name}: {type(new).__name__} does not go with the profile")


def compare_numbers(name: str, profile: NumberProfile, new: NewNumbers) -> Comparison:
    """Compare the distribution and the range of a column of numbers."""
    bins = Bins(
        labels=[*label_bins(profile.edges), MISSING],
        training=[*profile.counts, profile.missing],
        new=[*new.counts, new.missing],
    )
    psi = population_stability_index(bins.training, bins.new)
    p_values = [
        compare_distributions(bins.training, bins.new),
        compare_levels(profile.counts, new.counts),
        compare_missing(bins),
    ]
    sentence = describe_missing(name, bins, psi)
    if not sentence and new.mean is not None:
        sentence = (
            f"'{name}': PSI {psi:.2f}, mean {format_number(new.mean)} instead of"
            f" {format_number(profile.mean)}."
        )
    moved = Check(sentence, p_values, needs_psi=True)

    below = Check("", [compare_rates(0, profile.filled, new.below, new.filled)])
    if new.below and new.smallest is not None:
        sentence = (
            f"'{name}': {new.below} of {new.filled} values are below the smallest of"
            f" training, {format_number(profile.smallest)}; the smallest is"
            f" {format_number(new.smallest)}."
        )
        below = replace(below, sentence=sentence)
    above = Check("", [compare_rates(0, profile.filled, new.above, new.filled)])
    if new.above and new.largest is not None:
        sentence = (
            f"'{name}': {new.above} of {new.filled} values are above the largest of"
            f" training, {format_number(profile.largest)}; the largest is"
            f" {format_number(new.largest)}."
        )
        above = replace(above, sentence=sentence)
    return Comparison(name, [moved, below, above], psi, bins)


def compare_texts(name: str, profile: TextProfile, new: NewTexts) -> Comparison:
    """Compare the shares of the categories of a column, and find unseen categories."""
    bins = count_categories(profile, new)
    psi = population_stability_index(bins.training, bins.new)
    p_values = [compare_distributions(bins.training, bins.new), compare_missing(bins)]
    sentence = describe_missing(name, bins, psi)
    if not sentence:
        label, before, now = find_largest_change(bins)
        sentence = (
            f"'{name}': PSI {psi:.2f}, {label} in {now:.0%} of the rows instead of"
            f" {before:.0%}."
        )
    checks = [Check(sentence, p_values, needs_psi=True)]
    if profile.seen is not None:
        checks.append(check_unseen_categories(name, profile.seen, new))
    return Comparison(name, checks, psi, bins)


def count_categories(profile: TextProfile, new: NewTexts) -> Bins:
    """Return bins for the frequent categories, for groups of others, and missing values."""
    frequent = dict.fromkeys(profile.frequent, 0)
    others = [0] * len(profile.counts)
    for category, rows in new.categories.items():
        if category in frequent:
            frequent[category] = rows
        else:
            others[bisect_left(profile.edges, category)] += rows
    frequent_labels = [f"'{category}'" for category in profile.frequent]
    return Bins(
        labels=[*frequent_labels, *label_groups(profile.edges), MISSING],
        training=[*profile.frequent.values(), *profile.counts, profile.missing],
        new=[*frequent.values(), *others, new.missing],
    )


def check_unseen_categories(name: str, seen: Mapping[str, int], new: NewTexts) -> Check:
    """Check whether new rows have categories that are not among those `seen` in training."""
    p_values = compare_unseen_categories(seen, new.categories)
    unseen = {
        category: rows
        for category, rows in new.categories.items()
        if category not in seen
    }
    if not unseen:
        return Check("", p_values)
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


def compare_dates(name: str, profile: DateProfile, new: NewDates) -> Comparison:
    """Compare the missing values of a column of dates.

    New data is usually later than training data, so its dates are no drift.
    """
    bins = Bins(
        labels=["a date", MISSING],
        training=[profile.filled, profile.missing],
        new=[new.filled, new.missing],
    )
    psi = population_stability_index(bins.training, bins.new)
    check = Check(
        describe_missing(name, bins, psi), [compare_missing(bins)], needs_psi=True
    )
    facts = []
    if new.after and new.latest is not None:
        facts.append(
            f"'{name}': {new.after} of {new.filled} dates are after the latest of"
            f" training, {profile.latest:%Y-%m-%d}; the latest is"
            f" {new.latest:%Y-%m-%d}."
        )
    return Comparison(name, [check], psi, bins, facts)


def compare_repeats(
    name: str, profile: RepeatProfile, new_rows: int, new_repeated: int
) -> Comparison:
    """Compare how many rows repeat another one.

    Where nearly no row of training does, a repeated row was probably delivered twice.
    """
    if profile.repeated > RARE * profile.rows:
        return Comparison(name, [])
    training_chances = profile.rows
    new_chances = new_rows
    if new_rows > profile.rows:
        # Rows that are equal by chance grow in number with the pairs of rows.
        training_chances = profile.rows**2
        new_chances = new_rows**2
    p_value = compare_rates(
        profile.repeated, training_chances, new_repeated, new_chances
    )
    if not new_repeated:
        return Comparison(name, [Check("", [p_value])])
    by = "all features"
    if profile.keys:
        by = f"the keys ({', '.join(profile.keys)})"
    sentence = (
        f"{new_repeated} of {new_rows} rows repeat another one in {by}; in training,"
        f" {profile.repeated} of {profile.rows} rows did."
    )
    return Comparison(name, [Check(sentence, [p_value])])


def compare_predictions(
    name: str, profile: ColumnProfile, new: NewColumn
) -> Comparison:
    """Compare the distribution of predictions, in which nothing else is drift."""
    comparison = compare_column(name, profile, new)
    return replace(comparison, checks=comparison.checks[:1])


def compare_missing(bins: Bins) -> float:
    """Return the p-value that new values are not more often missing."""
    return compare_rates(
        bins.training[-1], sum(bins.training), bins.new[-1], sum(bins.new)
    )


def describe_missing(name: str, bins: Bins, psi: float) -> str:
    """Return a sentence on missing values if their share has changed the most, else ''."""
    label, before, now = find_largest_change(bins)
    if label != MISSING:
        return ""
    return (
        f"'{name}': PSI {psi:.2f}, missing in {now:.0%} of the rows instead of"
        f" {before:.0%}."
    )


def find_largest_change(bins: Bins) -> tuple[str, float, float]:
    """Return the label of the bin whose share has changed the most, and both shares."""
    training = bins.training_shares
    new = bins.new_shares
    changes = [abs(now - before) for before, now in zip(training, new, strict=True)]
    position = changes.index(max(changes))
    return bins.labels[position], training[position], new[position]


def label_bins(edges: Sequence[float]) -> list[str]:
    """Return the ranges of the bins between edges, as a person reads them."""
    if not edges:
        return ["any number"]
    numbers = [format_number(edge) for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(numbers)]
    return [f"up to {numbers[0]}", *between, f"above {numbers[-1]}"]


def label_groups(edges: Sequence[str]) -> list[str]:
    """Return the groups of rarer categories between edges, as a person reads them."""
    if not edges:
        return ["others"]
    between = [f"others to '{edge}'" for edge in edges]
    return [*between, f"others after '{edges[-1]}'"]


def format_number(number: float) -> str:
    """Return a number with the digits that a person needs to compare it."""
    return f"{number:.6g}"
