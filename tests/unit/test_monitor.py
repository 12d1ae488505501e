"""Test that monitor finds drift and raises no false alarm, on drawn and on real tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import polars.selectors as cs
import pytest
import score
from drift import compare_distributions, compare_locations, population_stability_index
from drift_report import render_report
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.types import ColSpec, Schema
from monitor import compare_sample_predictions, compare_with_training
from new_rows import count_new_rows
from profiles import RepeatProfile, parse_column, parse_profile
from scoring_model import MonitorError, ScoringModel, list_columns, read_profile
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from template_package import PROJECT
from training_comparison import (
    Outcome,
    Outcomes,
    compare_column,
    compare_repeats,
    judge,
)
from training_profile import choose_edges, describe_predictions, profile_column

MAX_PSI = 0.2
SAMPLE = PROJECT / "data" / "sample"


def compare(training: pl.DataFrame, new: pl.DataFrame) -> list[Outcome]:
    """Compare two tables without keys, as `monitor` does: features, then repeated rows."""
    profiles = {}
    for column in training:
        # polars would take some names for patterns, so train gives none.
        described = json.dumps(profile_column(column.alias("")))
        profiles[column.name] = parse_column(json.loads(described))
    counted = count_new_rows(new.lazy(), profiles, new.columns)
    repeated = len(training) - training.n_unique()
    repeats = RepeatProfile([], len(training), repeated)
    comparisons = [
        compare_column(name, profile, counted.columns[name])
        for name, profile in profiles.items()
    ]
    comparisons.append(compare_repeats("rows", repeats, counted.rows, counted.repeated))
    return judge(comparisons, MAX_PSI)


def list_drift(outcomes: list[Outcome]) -> dict[str, list[str]]:
    """Return the sentences on drift by the name of what has drifted."""
    return {
        outcome.comparison.name: [*outcome.drift]
        for outcome in outcomes
        if outcome.drift
    }


def draw_table(random: np.random.Generator, rows: int) -> pl.DataFrame:
    """Draw 50 features of ten kinds."""
    columns = {}
    for number in range(0, 50, 10):
        normal = random.normal(size=rows)
        is_missing = random.random(rows) < 0.2
        kinds = [
            normal,
            random.lognormal(size=rows),
            random.standard_t(2, size=rows),
            random.poisson(3, size=rows).astype(float),
            (random.random(rows) < 0.03).astype(float),
            np.where(is_missing, np.nan, random.exponential(size=rows)),
            random.integers(0, 5, rows).astype(str),
            random.zipf(1.5, rows).astype(str),
            random.integers(0, 60, rows).astype(str),
            random.integers(0, 10**9, rows).astype(str),
        ]
        for position, values in enumerate(kinds):
            columns[str(number + position)] = pl.Series(values)
    return pl.DataFrame(columns).with_columns(cs.float().fill_nan(None))


@pytest.mark.parametrize(
    ("training_rows", "new_rows", "runs"),
    [(300, 100, 8), (300, 1_000, 4), (2_000, 100, 4)],
)
def test_unchanged_data_raises_no_alarm(
    training_rows: int, new_rows: int, runs: int
) -> None:
    """Try a few fixed draws. Of many runs on unchanged data, about 1 in 200 reports drift."""
    random = np.random.default_rng(2)
    for _ in range(runs):
        training = draw_table(random, training_rows)
        outcomes = compare(training, draw_table(random, new_rows))
        assert list_drift(outcomes) == {}


def test_shift_of_the_mean_by_half_a_standard_deviation_is_detected() -> None:
    """Move 1 of 50 features, with 300 rows of training and 300 new ones."""
    random = np.random.default_rng(1)
    p_value_needed = 0.005 / (50 * 5)
    runs = 200
    detected = 0
    for _ in range(runs):
        training = random.normal(size=300)
        new = random.normal(size=300) + 0.5
        edges = choose_edges(pl.Series(training))
        counts = [
            np.bincount(
                np.searchsorted(edges, values), minlength=len(edges) + 1
            ).tolist()
            for values in (training, new)
        ]
        psi = population_stability_index(*counts)
        p_value = min(compare_distributions(*counts), compare_locations(*counts))
        detected += psi > MAX_PSI and p_value < p_value_needed
    assert detected >= 0.9 * runs


@pytest.fixture(scope="module")
def penguins() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The features of the sample for training, and of the sample to score."""
    left_out = ["studyName", "Sample Number", "Individual ID", "Comments", "Species"]
    files = sorted((SAMPLE / "training").iterdir())
    new = next((SAMPLE / "scoring").glob("*classification*"))
    training = pl.concat([read_penguins(file) for file in files])
    return training.drop(left_out), read_penguins(new).drop(left_out, strict=False)


def read_penguins(file: Path) -> pl.DataFrame:
    """Read a file of the sample, with all numbers as floats."""
    # The name of the file has braces, which polars takes for a pattern.
    table = pl.read_csv(file.read_bytes(), null_values="NA", try_parse_dates=True)
    return table.with_columns(cs.numeric().cast(pl.Float64))


def test_sample_to_score_has_not_drifted(
    penguins: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    assert list_drift(compare(*penguins)) == {}


LENGTH = "Flipper Length (mm)"
DEPTH = "Culmen Depth (mm)"
every_eighth = pl.int_range(pl.len()) % 8 == 0
#: An edit of the new rows, the column that drifts, and a part of the sentence about it.
SHIFTS: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str, str]] = {
    "millimetres to centimetres": (
        lambda t: t.with_columns(pl.col(LENGTH) / 10),
        LENGTH,
        "are below 172, the smallest value in training",
    ),
    "15 mm added": (
        lambda t: t.with_columns(pl.col(LENGTH) + 15),
        LENGTH,
        "mean 215.605 instead of",
    ),
    "columns swapped": (
        lambda t: t.rename({LENGTH: DEPTH, DEPTH: LENGTH}),
        DEPTH,
        "43 of 43 new values are above",
    ),
    "a sentinel in every eighth row": (
        lambda t: t.with_columns(
            pl.when(every_eighth).then(-999.0).otherwise(pl.col(DEPTH)).alias(DEPTH)
        ),
        DEPTH,
        (
            "6 of 43 new values are below 13.1, the smallest value in training; the"
            " smallest new value is -999."
        ),
    ),
    "another case": (
        lambda t: t.with_columns(pl.col("Island").str.to_lowercase()),
        "Island",
        "categories that do not occur in training: 'biscoe' (20), 'dream' (16)",
    ),
    "every row twice": (
        lambda t: pl.concat([t, t]),
        "rows",
        "43 of 86 rows repeat another row in all features",
    ),
    "a column without values": (
        lambda t: t.with_columns(pl.lit(None, pl.String).alias("Sex")),
        "Sex",
        "missing in 100% of the rows instead of 3%",
    ),
    "one group only": (
        lambda t: t.filter(pl.col("Island") == "Biscoe"),
        "Island",
        "'Biscoe' in 100% of the rows instead of 49%",
    ),
    "a constant": (
        lambda t: t.with_columns(pl.lit(4000.0).alias("Body Mass (g)")),
        "Body Mass (g)",
        # The mean has hardly changed, so a range is named as well.
        " in 100% of the rows instead of ",
    ),
    "a new category": (
        lambda t: t.with_columns(
            pl.when(every_eighth)
            .then(pl.lit("King George"))
            .otherwise(pl.col("Island"))
            .alias("Island")
        ),
        "Island",
        "do not occur in training: 'King George' (6)",
    ),
    "every date the first day of Unix time": (
        lambda t: t.with_columns(pl.lit(date(1970, 1, 1)).alias("Date Egg")),
        "Date Egg",
        (
            "43 of 43 new dates are before 2007-11-09, the earliest date in training; the"
            " earliest new date is 1970-01-01."
        ),
    ),
}


@pytest.mark.parametrize(("change", "name", "part"), SHIFTS.values(), ids=SHIFTS)
def test_shift_of_the_sample_is_reported(
    change: Callable[[pl.DataFrame], pl.DataFrame],
    name: str,
    part: str,
    penguins: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    training, new = penguins
    drift = list_drift(compare(training, change(new)))
    assert any(part in sentence for sentence in drift[name])


def test_later_dates_are_no_drift(penguins: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    training, new = penguins
    later = new.with_columns(pl.col("Date Egg").dt.offset_by("2y"))
    outcomes = compare(training, later)
    assert list_drift(outcomes) == {}
    facts = [fact for outcome in outcomes for fact in outcome.facts]
    assert any(
        fact.startswith("'Date Egg': ")
        and ", the latest date in training; the latest new date is" in fact
        for fact in facts
    )


@pytest.mark.parametrize(
    ("offset", "drifted"),
    [("-2020y", ["day"]), ("8000y", [])],
    ids=["before year 1", "after year 9999"],
)
def test_years_that_python_cannot_represent_are_compared(
    offset: str, drifted: list[str]
) -> None:
    usual = pl.DataFrame({"day": [date(2019, 1, 2), date(2020, 3, 4)] * 100})
    unusual = usual.with_columns(pl.col("day").dt.offset_by(offset))
    assert list_drift(compare(unusual, unusual)) == {}
    assert list(list_drift(compare(usual, unusual))) == drifted


def test_profile_without_an_earliest_date_is_compared() -> None:
    """Read a profile of an earlier version, which saved only the latest date."""
    profile = parse_column(
        {
            "kind": "date",
            "missing": 0,
            "filled": 200,
            "latest": "2026-01-01T00:00:00.000000",
        }
    )
    new = pl.DataFrame({"day": [date(1970, 1, 1)] * 200})
    counted = count_new_rows(new.lazy(), {"day": profile}, ["day"])
    comparison = compare_column("day", profile, counted.columns["day"])
    [outcome] = judge([comparison], MAX_PSI)
    assert not outcome.drift
    assert not outcome.facts


@pytest.fixture(scope="module")
def rare_class() -> tuple[ScoringModel, pd.DataFrame]:
    """A model whose second class is in 5 % of the rows and never predicted, and new rows."""
    random = np.random.default_rng(3)
    features = pd.DataFrame({"a": random.normal(size=6_000)})
    is_rare = random.random(6_000) < 0.05 * np.exp(0.5 * features["a"])
    training, held_out, new = features[:2_000], features[2_000:4_000], features[4_000:]
    model = LogisticRegression().fit(training, is_rare[: len(training)])
    described = describe_predictions(
        model, pl.from_pandas(held_out), training, "classification"
    )
    repeats = {"keys": [], "rows": 2_000, "repeated": 0}
    profile = parse_profile(
        {"rows": 2_000, "features": {}, "repeats": repeats, **described}
    )
    columns = {"a": pl.Float64()}
    return ScoringModel("rare", "1", model, columns, profile), new


@pytest.mark.parametrize(
    ("shift", "drifted"), [(0.0, []), (1.0, ["probability_True"])], ids=["no", "yes"]
)
def test_probability_of_a_class_that_is_never_predicted_is_compared(
    shift: float, drifted: list[str], rare_class: tuple[ScoringModel, pd.DataFrame]
) -> None:
    model, new = rare_class
    assert model.profile is not None
    sample = pl.from_pandas(new + shift)
    comparisons = compare_sample_predictions(model, model.profile, sample)
    assert list(list_drift(judge(comparisons, MAX_PSI))) == drifted


def test_profile_without_probabilities_is_compared(
    rare_class: tuple[ScoringModel, pd.DataFrame],
) -> None:
    """Read a profile of an earlier version, which saved no probabilities."""
    model, new = rare_class
    assert model.profile is not None
    profile = replace(model.profile, probabilities={})
    [predictions] = compare_sample_predictions(model, profile, pl.from_pandas(new))
    assert predictions.name == "predictions"


def test_key_of_the_training_that_is_missing_now_is_named(
    rare_class: tuple[ScoringModel, pd.DataFrame], tmp_path: Path
) -> None:
    model, new = rare_class
    assert model.profile is not None
    repeats = replace(model.profile.repeats, keys=["id"])
    profile = replace(model.profile, repeats=repeats)
    pl.from_pandas(new).write_parquet(tmp_path / "part-00000.parquet")
    with pytest.raises(MonitorError, match=r"'id' is missing.*under data\.keys"):
        compare_with_training(tmp_path, model, profile, MAX_PSI, ignore=[])


@pytest.mark.parametrize(
    ("list_model_columns", "error"),
    [
        pytest.param(list_columns, MonitorError, id="monitor"),
        pytest.param(score.list_model_columns, score.ScoringError, id="score"),
    ],
)
def test_type_that_train_does_not_save_is_named(
    list_model_columns: Callable[[Model], object], error: type[Exception]
) -> None:
    signature = ModelSignature(inputs=Schema([ColSpec("long", "age")]))
    with pytest.raises(error, match="the column 'age' has the type long, which is not"):
        list_model_columns(Model(signature=signature))


def test_incomplete_part_is_named(tmp_path: Path) -> None:
    part = tmp_path / "part-00003.parquet"
    pl.DataFrame({"a": [1, 2]}).write_parquet(part)
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(
        score.ScoringError, match=r"^part-00003\.parquet cannot be read:"
    ):
        score.read_key_names(part)


TABLES = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "diabetes": datasets.load_diabetes,
    "breast cancer": datasets.load_breast_cancer,
}


@pytest.mark.parametrize("load", TABLES.values(), ids=TABLES)
def test_parts_of_real_tables_that_are_split_at_random_have_not_drifted(
    load: Callable[..., Any],
) -> None:
    frame = pl.from_pandas(load(as_frame=True).data)
    random = np.random.default_rng(2)
    for _ in range(3):
        is_new = pl.Series(random.random(len(frame)) < 0.3)
        outcomes = compare(frame.filter(~is_new), frame.filter(is_new))
        assert list_drift(outcomes) == {}


def test_names_of_any_kind_are_compared_and_escaped() -> None:
    names = ["^a$", "<script>alert(1)</script>", "*", "שם", "up_to_1 0", "rows"]
    random = np.random.default_rng(1)
    training = pl.DataFrame({name: random.normal(size=500) for name in names})
    new = training.with_columns(pl.all() * 100)
    *features, repeats = compare(training, new)
    assert list(list_drift(features)) == names
    assert not repeats.drift
    outcomes = Outcomes(features, repeats, predictions=features[0])
    page = render_report("<b>", "<i>", outcomes, MAX_PSI)
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


DAMAGED_PROFILES = {
    "cut off": b'{"rows": 3, "features": {',
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "without features": b'{"rows": 3}',
    "features that are a number": b'{"rows": 3, "features": 1}',
    "an unknown figure": b'{"rows": 3, "features": {"a": {"kind": "text", "x": 1}}}',
}


@pytest.mark.parametrize("content", DAMAGED_PROFILES.values(), ids=DAMAGED_PROFILES)
def test_damaged_profile_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_bytes(content)
    with pytest.raises(MonitorError, match=r"profile\.json of the model is damaged \("):
        read_profile(tmp_path)


DAYS = pl.date_range(date(2020, 1, 1), date(2020, 6, 30), eager=True)
#: The values of a column, from which rows are drawn.
COLUMN_VALUES = {
    "numbers": pl.Series(np.random.default_rng(4).lognormal(size=500)),
    "few numbers": pl.Series([1.0, 2.0, 5.0]),
    "a constant number": pl.Series([5.0]),
    "many categories": pl.Series([f"c{number}" for number in range(100)]),
    "few categories": pl.Series(["a", "b", "c"]),
    "a constant category": pl.Series(["a"]),
    "dates": DAYS,
    "a constant date": DAYS[:1],
}


def draw_columns(missing_share: float) -> pl.DataFrame:
    """Draw 300 rows of each column, of which exactly a share is missing."""
    random = np.random.default_rng(5)
    columns = {}
    for name, values in COLUMN_VALUES.items():
        drawn = values[random.integers(0, len(values), 300).tolist()]
        is_missing = pl.Series(random.permutation(300) < missing_share * 300)
        columns[name] = drawn.set(is_missing, None)
    return pl.DataFrame(columns)


def list_true_parts(training: pl.Series, new: pl.Series) -> list[str]:
    """Return the patterns that a sentence on the drift of a column may match."""
    missing_now = new.null_count() / len(new)
    missing_before = training.null_count() / len(training)
    missing = f"{missing_now:.0%} of the rows instead of {missing_before:.0%}"
    parts = [f": PSI .*, missing in {missing}\\."]
    if new.dtype.is_float() and new.count():
        mean_now = np.mean(new.drop_nulls().to_numpy())
        mean_before = np.mean(training.drop_nulls().to_numpy())
        means = f"{mean_now:.6g} instead of {mean_before:.6g}"
        parts.append(f": PSI .*, mean {re.escape(means)}[.,]")
    for rows in new.drop_nulls().value_counts()["count"]:
        parts.append(f": PSI .*, .* in {rows / len(new):.0%} of the rows instead of ")
    return parts


@pytest.mark.parametrize("is_constant", [False, True], ids=["as before", "constant"])
@pytest.mark.parametrize("missing_now", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("missing_before", [0.0, 0.1, 0.5, 0.9])
def test_each_drift_has_a_true_sentence(
    missing_before: float, missing_now: float, *, is_constant: bool
) -> None:
    training = draw_columns(missing_before)
    new = draw_columns(missing_now)
    if is_constant:
        first_values = training.select(pl.all().drop_nulls().first())
        new = new.with_columns(
            pl.when(values.is_not_null())
            .then(first_values[values.name])
            .alias(values.name)
            for values in new
        )
    *features, _ = compare(training, new)
    drift = list_drift(features)
    for name, sentences in drift.items():
        true_parts = list_true_parts(training[name], new[name])
        for sentence in sentences:
            assert sentence.startswith(f"'{name}': ")
            assert any(re.search(part, sentence) for part in true_parts)

    if missing_now >= missing_before + 0.4 and not is_constant:
        for name in COLUMN_VALUES:
            [sentence] = drift[name]
            assert f"missing in {missing_now:.0%} of the rows instead of" in sentence
