"""Test that new data is read by the schema of the model that scores it.

The tests call the functions of the steps, from raw files to predictions, without a generated
project.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import comparison
import model_metrics
import numpy as np
import pandas as pd
import polars as pl
import prep
import pytest
import register
import saved_model
import score
import sklearn.datasets
import train
from registered_model import load_registered_model
from schema import parse_schema
from sources import DataError
from step_tracking import track_in
from text_values import USUAL_FORMAT, TextFormat


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let MLflow write to a temporary folder."""
    with track_in(tmp_path_factory.mktemp("mlruns"), "schema"):
        yield


@dataclass
class Project:
    """A folder with raw files and a registered model, as the pipelines make them."""

    folder: Path
    name: str
    keys: Sequence[str] = ()
    compared: dict[str, Any] | None = None

    def train(
        self,
        raw: Path,
        target: str = "y",
        text_format: TextFormat = USUAL_FORMAT,
        task: str = "classification",
    ) -> None:
        """Run prep, train and register on raw files."""
        count = len(list(self.folder.glob("train-*")))
        folder = self.folder / f"train-{count}"
        prep.prepare(
            raw, folder / "prepared", target, self.keys, text_format=text_format
        )
        train.train(
            folder / "prepared",
            folder / "model",
            folder / "holdout",
            task=task,
            target=target,
            keys=self.keys,
            hyperparameters={"max_iterations": 10, "min_samples_leaf": 5},
        )
        self.compared = comparison.compare_with_registered(
            self.name,
            saved_model.load_model(folder / "model"),
            pl.read_parquet(folder / "holdout"),
            model_metrics.find_metric("default", task),
            margin=0.02,
        )
        register.register(folder / "model", self.name)

    def score(
        self,
        raw: Path,
        version: str = "latest",
        rows_per_part: int = 100_000,
        **settings: Any,
    ) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Run prep and score on raw files; return the predictions and prep's report."""
        count = len(list(self.folder.glob("score-*")))
        folder = self.folder / f"score-{count}"
        report = prep.prepare_for_model(
            raw,
            folder / "prepared",
            load_registered_model(self.name, version),
            keys=settings.pop("keys", self.keys),
            rows_per_part=rows_per_part,
            **settings,
        )
        score.scorer = score.load_scorer(
            self.name, version, predictions=folder / "predictions"
        )
        score.run(sorted(map(str, (folder / "prepared").iterdir())))
        parts = sorted((folder / "predictions").iterdir())
        return pl.concat([pl.read_parquet(part) for part in parts]), report


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without a model."""
    return Project(tmp_path, f"model-{tmp_path.name}")


def write_csv_file(path: Path, rows: pd.DataFrame) -> Path:
    """Write a table as a CSV file, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, index=False)
    return path


def draw_table(column: list[str], rows: int = 240) -> pd.DataFrame:
    """Draw rows: `x` has the values of a column in turn, and its first value decides `y`."""
    values = np.resize(column, rows)
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": values,
            "n": random.normal(size=rows).round(3),
            "y": np.where(values == column[0], "yes", "no"),
        }
    )


# The values of a column in training; the first decides the class.
ODD_COLUMNS = {
    "a sign before a number": ["+1", "0", "-1", "DK"],
    "trailing zeros": ["1.10", "0.10", "007"],
    "codes": ["007", "7.5", "12"],
    "booleans and a word": ["True", "False", "Unknown"],
    "numbers and a limit": ["0.5", "1.5", "<0.1"],
    "dates and a word": ["2021-05-06", "2022-01-01", "before 2020"],
}


@pytest.mark.parametrize("column", ODD_COLUMNS.values(), ids=ODD_COLUMNS)
def test_batch_without_the_odd_value_is_read_as_in_training(
    column: list[str], project: Project, tmp_path: Path
) -> None:
    rows = draw_table(column)
    project.train(write_csv_file(tmp_path / "raw" / "a.csv", rows))
    whole, _ = project.score(
        write_csv_file(tmp_path / "new" / "a.csv", rows.drop(columns="y"))
    )
    assert (whole["prediction"] == pl.Series(rows["y"])).all()
    for value in column:
        batch = rows[rows["x"] == value]
        scored, report = project.score(
            write_csv_file(tmp_path / "batch" / "b.csv", batch)
        )
        expected = whole.filter(pl.Series(rows["x"] == value))
        assert scored.drop("row").equals(expected.drop("row"))
        assert report["columns"]["x"]["type"] == "text"
        single_row = write_csv_file(tmp_path / "row" / "c.csv", batch[:1])
        scored_row, _ = project.score(single_row)
        assert scored_row.drop("row").equals(expected[:1].drop("row"))


CLEANED = {
    "a sign that numbers lose": (
        ["+1", "0", "-1", "DK"],
        ["+1", "0", "-1"],
        "as text",
    ),
    "zeros that numbers lose": (
        ["0.10", "1.5", "x"],
        ["0.10", "1.5", "2.5"],
        "as text",
    ),
    "numbers as they were": (["1", "0", "-1", "DK"], ["1", "0", "-1"], None),
    "a word among numbers": (["0.5", "1.5"], ["0.5", "1.5", "<0.1"], "as numbers"),
    "a word among dates": (
        ["2021-05-06", "2022-01-01"],
        ["2021-05-06", "2022-01-01", "before 2020"],
        "as Datetime",
    ),
    "booleans beside a word": (["True", "False", "-?"], ["True", "False"], "as text"),
}


@pytest.mark.parametrize(
    ("before", "after", "reason"), CLEANED.values(), ids=CLEANED.keys()
)
def test_model_is_not_judged_on_values_that_it_would_read_differently(
    before: list[str], after: list[str], reason: str | None, project: Project
) -> None:
    project.train(write_csv_file(project.folder / "old" / "a.csv", draw_table(before)))
    assert project.compared is None
    project.train(write_csv_file(project.folder / "new" / "a.csv", draw_table(after)))
    assert project.compared is not None
    if reason is None:
        assert project.compared["metrics"]["f1_macro"] == 1
        return
    assert project.compared["verdict"] == "not comparable"
    assert reason in project.compared["reason"]


# A table of text in other conventions ----------------------------------------------------


def use_decimal_commas(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table of text in which numbers such as 1.5 are 1,5."""
    return rows.replace(r"^([+-]?\d*)\.(\d+)$", r"\1,\2", regex=True)


def write_first_line_of_excel(rows: pd.DataFrame) -> bytes:
    """Write a table below the line by which Excel names the separator."""
    return b"sep=;\r\n" + write_csv(sep=";")(rows)


def write_extra_columns(rows: pd.DataFrame) -> bytes:
    """Write a table with another column, the target, and another order than in training."""
    extra = rows.iloc[:, ::-1].assign(extra=range(len(rows)), y="a b c")
    return write_csv()(extra)


def write_csv(**options: Any) -> Callable[[pd.DataFrame], bytes]:
    """Return a function that writes a table with options of pandas."""

    def to_bytes(rows: pd.DataFrame) -> bytes:
        file = io.BytesIO()
        rows.to_csv(file, index=False, **options)
        return file.getvalue()

    return to_bytes


@dataclass(frozen=True)
class Convention:
    """A way to write a table, the name of the file, and the settings to read it."""

    to_bytes: Callable[[pd.DataFrame], bytes]
    name: str = "a.csv"
    settings: Mapping[str, Any] = field(default_factory=dict)


CONVENTIONS = {
    "semicolons": Convention(write_csv(sep=";")),
    "tabs": Convention(write_csv(sep="\t"), "a.tsv"),
    "pipes": Convention(write_csv(sep="|")),
    "decimal commas": Convention(
        lambda rows: write_csv(sep=";")(use_decimal_commas(rows)),
        settings={"decimal": ","},
    ),
    "all quoted": Convention(write_csv(quoting=csv.QUOTE_ALL)),
    "a byte order mark": Convention(write_csv(encoding="utf-8-sig")),
    "UTF-16": Convention(write_csv(encoding="utf-16")),
    "Windows' encoding": Convention(
        write_csv(encoding="cp1252", errors="xmlcharrefreplace"),
        settings={"encoding": "cp1252"},
    ),
    "gzip": Convention(lambda rows: gzip.compress(write_csv()(rows)), "a.csv.gz"),
    "xz": Convention(lambda rows: lzma.compress(write_csv()(rows)), "a.csv.xz"),
    "line ends of Windows": Convention(write_csv(lineterminator="\r\n")),
    "line ends of an old Mac": Convention(write_csv(lineterminator="\r")),
    "the first line of Excel": Convention(write_first_line_of_excel),
    "other columns in another order": Convention(write_extra_columns),
}


def read_foreign_table(file: Path) -> pd.DataFrame:
    """Return a CSV file as the text that it is, with the target `y` as last column."""
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    return rows.set_axis([*rows.columns[:-1], "y"], axis=1)


def score_convention(
    project: Project, rows: pd.DataFrame, convention: Convention, folder: Path
) -> pl.DataFrame:
    """Write new rows in a convention, and return their predictions."""
    folder.mkdir()
    (folder / convention.name).write_bytes(convention.to_bytes(rows))
    scored, _ = project.score(folder, text_settings=convention.settings)
    return scored


def score_parquet(
    project: Project, csv_text: bytes, folder: Path, *, by_pandas: bool
) -> pl.DataFrame:
    """Let pandas or polars read CSV and write Parquet, and return the predictions."""
    folder.mkdir()
    if by_pandas:
        pd.read_csv(io.BytesIO(csv_text)).to_parquet(folder / "a.parquet")
    else:
        table = pl.read_csv(csv_text, infer_schema_length=None, try_parse_dates=True)
        table.write_parquet(folder / "a.parquet")
    scored, _ = project.score(folder)
    return scored


def check_all_conventions(
    project: Project, table: pd.DataFrame, task: str, folder: Path
) -> int:
    """Train on a table, score it in every form, and return the number of forms.

    The predictions of each are bit-equal to those of the whole table as CSV.
    """
    project.train(write_csv_file(folder / "raw" / "a.csv", table), task=task)
    rows = table.drop(columns="y")
    expected, _ = project.score(write_csv_file(folder / "whole" / "a.csv", rows))
    for name, convention in CONVENTIONS.items():
        scored = score_convention(project, rows, convention, folder / name)
        assert scored.equals(expected), name
    text = write_csv()(rows)
    for by_pandas in (True, False):
        name = f"Parquet {by_pandas}"
        scored = score_parquet(project, text, folder / name, by_pandas=by_pandas)
        assert scored.equals(expected), name
    single_rows = range(0, len(rows), -(-len(rows) // 4))
    for row in single_rows:
        file = write_csv_file(folder / f"row {row}" / "a.csv", rows[row : row + 1])
        scored, _ = project.score(file)
        assert scored.drop("row").equals(expected[row : row + 1].drop("row")), row
    return 1 + len(CONVENTIONS) + 2 + len(single_rows)


FOREIGN = {
    "iris.csv": "classification",
    "wine_data.csv": "classification",
}


@pytest.mark.parametrize(("name", "task"), FOREIGN.items(), ids=FOREIGN.keys())
def test_table_has_the_same_predictions_in_every_convention(
    name: str, task: str, project: Project, tmp_path: Path
) -> None:
    file = Path(sklearn.datasets.__file__).parent / "data" / name
    table = read_foreign_table(file)
    # A column of words beside the numbers, some with an umlaut or a comma.
    texts = ["Müller", "a, b", "", "007", "+1", '"quoted"']
    table.insert(0, "word", np.resize(texts, len(table)))
    assert check_all_conventions(project, table, task, tmp_path / "data") == 21


# What does not fit -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A model of a column of each type, and of a column without a value."""
    folder = tmp_path_factory.mktemp("types")
    project = Project(folder, "types", keys=["id"])
    project.train(write_csv_file(folder / "raw" / "a.csv", draw_columns_of_all_types()))
    return project


def draw_columns_of_all_types(rows: int = 240) -> pd.DataFrame:
    """Draw rows with a column of each type, a key and a class."""
    random = np.random.default_rng(1)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(rows) % 50, "D")
    frame = pd.DataFrame(
        {
            "id": [f"{number:05}" for number in range(rows)],
            "age": random.integers(18, 90, rows),
            "weight": random.normal(70, 9, rows).round(1),
            "smoker": random.choice(["true", "false"], rows),
            "born": days.strftime("%Y-%m-%d"),
            "seen": days.strftime("%Y-%m-%dT06:30:00"),
            "zip": random.choice(["01067", "10115", "80331"], rows),
            "empty": "",
        }
    )
    frame["y"] = np.where((frame.age > 50) | (frame.smoker == "true"), "a", "b")
    return frame


def draw_new_rows(rows: int = 4) -> pd.DataFrame:
    """Draw rows to score, which have no class."""
    return draw_columns_of_all_types().drop(columns="y").head(rows)


def test_all_that_does_not_fit_is_reported_at_once(
    trained: Project, tmp_path: Path
) -> None:
    rows = draw_new_rows().astype(object).rename(columns={"zip": "ZIP "})
    rows.loc[2, "age"] = "<18"
    rows.loc[1, "smoker"] = "often"
    rows.loc[3, "born"] = "before 2020"
    write_csv_file(tmp_path / "new" / "a.csv", rows)
    write_csv_file(
        tmp_path / "new" / "b.csv", rows.assign(age=1.5, smoker=1, born="", weight="?x")
    )
    with pytest.raises(DataError) as caught:
        trained.score(tmp_path / "new")
    fix = "Correct it, or list it under data.missing in settings.yml."
    must = "must hold"
    as_before = "as in the training data, but holds"
    assert str(caught.value).splitlines() == [
        "The new data does not fit the model's training data:",
        (
            "a.csv has no column 'zip', which the model needs. It has id, age, weight,"
            " smoker, born, seen, ZIP, empty. Did you mean 'ZIP'?"
        ),
        f"a.csv, line 4: the column 'age' {must} numbers, {as_before} '<18'. {fix}",
        f"a.csv, line 3: the column 'smoker' {must} true or false, {as_before} 'often'. {fix}",
        f"a.csv, line 5: the column 'born' {must} dates, {as_before} 'before 2020'. {fix}",
        f"b.csv, line 2: the column 'weight' {must} numbers, {as_before} '?x'. {fix}",
    ]
    _, report = trained.score(
        write_csv_file(tmp_path / "c.csv", rows.rename(columns={"ZIP ": "zip"})),
        text_settings={"missing": ["<18", "often", "before 2020"]},
    )
    assert [report["columns"][name]["missing"] for name in ("age", "smoker")] == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"age": "old"},
            "a.parquet, row 1: the column 'age' must hold numbers, .* but holds 'old'",
        ),
        ({"smoker": 2}, "the column 'smoker' must hold true or false, .* but holds 2"),
        (
            {"born": True},
            "the column 'born' must hold dates, .* but holds true or false",
        ),
        (
            {"weight": pd.Timestamp("2026-01-31")},
            "the column 'weight' must hold numbers, .* but holds times",
        ),
        ({"zip": True}, "the column 'zip' holds true or false"),
    ],
    ids=["text", "a number", "booleans", "times", "booleans for text"],
)
def test_parquet_column_of_another_type_is_refused(
    change: dict[str, Any], message: str, trained: Project, tmp_path: Path
) -> None:
    draw_new_rows().assign(**change).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        trained.score(tmp_path / "a.parquet")


def test_columns_that_the_model_does_not_need_never_stop_scoring(
    trained: Project, tmp_path: Path
) -> None:
    rows = draw_new_rows()
    expected, _ = trained.score(write_csv_file(tmp_path / "a.csv", rows))
    odd = rows.assign(y=1.5, comment=["1", "x", "2024-01-01", ""], empty="a word")
    doubled = pd.concat([odd, odd[["y", "comment"]]], axis=1)
    write_csv_file(tmp_path / "odd" / "a.csv", doubled[:2])
    odd[2:].assign(comment=1, y="b").to_parquet(tmp_path / "odd" / "b.parquet")
    (tmp_path / "odd" / "b.parquet").rename(tmp_path / "odd" / "c.parquet")
    scored, report = trained.score(tmp_path / "odd")
    assert scored.equals(expected)
    assert not {"y", "comment"} & report["columns"].keys()
    assert not [note for note in report["notes"] if "ignore" in note]
    doubled = pd.concat([odd, odd[["age"]]], axis=1)
    with pytest.raises(
        DataError, match="the header names the column 'age' more than once"
    ):
        trained.score(write_csv_file(tmp_path / "b.csv", doubled))


FORMS_OF_VALUES = {
    "integers as fractions": {"age": lambda v: v + ".0"},
    "numbers in quotes and blanks": {"age": lambda v: f" {v} ", "weight": lambda v: v},
    "booleans as digits": {"smoker": lambda v: str(int(v == "true"))},
    "booleans in capitals": {"smoker": str.upper},
    "days with a time": {"born": lambda v: v + " 00:00:00"},
    "times with a zone": {"seen": lambda v: v + "Z"},
    "days with slashes": {"born": lambda v: v.replace("-", "/")},
}


@pytest.mark.parametrize("forms", FORMS_OF_VALUES.values(), ids=FORMS_OF_VALUES)
def test_value_in_another_form_is_read_the_same(
    forms: dict[str, Callable[[str], str]], trained: Project, tmp_path: Path
) -> None:
    rows = draw_new_rows().astype(str)
    expected, report = trained.score(write_csv_file(tmp_path / "a.csv", rows))
    for name, form in forms.items():
        rows[name] = rows[name].map(form)
    scored, report_of_forms = trained.score(write_csv_file(tmp_path / "b.csv", rows))
    assert scored.equals(expected)
    assert report_of_forms["columns"] == report["columns"]
    by_polars = pl.read_csv(tmp_path / "b.csv", infer_schema=False)
    by_polars.write_parquet(tmp_path / "text.parquet")
    scored, report_of_forms = trained.score(tmp_path / "text.parquet")
    assert scored.equals(expected)


def test_fractions_and_times_are_noted(trained: Project, tmp_path: Path) -> None:
    rows = draw_new_rows().assign(age=30.5, born="2024-01-01T10:00:00")
    _, report = trained.score(write_csv_file(tmp_path / "a.csv", rows))
    assert [report["columns"][name]["type"] for name in ("age", "born")] == [
        "number",
        "timestamp",
    ]
    assert "'age' holds fractions" in report["notes"][0]
    assert "'born' holds times" in report["notes"][1]


def test_function_features_gets_the_types_of_training(
    trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schemas: list[dict[str, pl.DataType]] = []

    def features(table: pl.LazyFrame) -> pl.LazyFrame:
        schemas.append(dict(table.collect_schema()))
        return table

    monkeypatch.setattr(prep, "features", features)
    training = write_csv_file(tmp_path / "raw" / "a.csv", draw_columns_of_all_types())
    prep.prepare(training, tmp_path / "prepared", "y", ["id"])
    trained.score(write_csv_file(tmp_path / "a.csv", draw_new_rows(1)))
    trained.score(
        write_csv_file(tmp_path / "b.csv", draw_new_rows(2).assign(born="", weight=70))
    )
    of_training, *of_scoring = schemas
    del of_training["y"], of_training["id"]
    for schema in of_scoring:
        del schema["id"]
        assert schema == of_training


def test_folders_are_read_as_in_training(project: Project, tmp_path: Path) -> None:
    rows = draw_table(["a", "b"]).drop(columns="x")
    for value in ("01", "x", "007"):
        write_csv_file(tmp_path / "raw" / f"code={value}" / "year=2025" / "a.csv", rows)
    project.train(tmp_path / "raw")
    write_csv_file(tmp_path / "new" / "code=007" / "year=2025" / "a.csv", rows[:2])
    _, report = project.score(tmp_path / "new")
    assert report["columns"]["code"]["type"] == "text"
    assert report["columns"]["year"]["type"] == "integer"
    write_csv_file(tmp_path / "old" / "code=007" / "year=last" / "a.csv", rows[:2])
    with pytest.raises(
        DataError, match="the folder 'year=last' gives it the value 'last'"
    ):
        project.score(tmp_path / "old")


@pytest.mark.parametrize(
    "values",
    [[7, 12, 7], ["7", "12", "7"], [7.0, 12.0, 7.0]],
    ids=["integers", "text", "floats"],
)
def test_numbers_in_parquet_get_the_spelling_of_the_training_data(
    values: list[Any], project: Project, tmp_path: Path
) -> None:
    rows = draw_table(["007", "12", "DK"])
    project.train(write_csv_file(tmp_path / "raw" / "a.csv", rows))
    expected, _ = project.score(
        write_csv_file(tmp_path / "a.csv", rows[["x", "n"]][:3])
    )
    new = pl.DataFrame({"x": values, "n": rows["n"][:3].to_list()})
    new.write_parquet(tmp_path / "a.parquet")
    scored, _ = project.score(tmp_path / "a.parquet")
    # Text stays as it is written: 7 is not 007.
    is_text = isinstance(values[0], str)
    assert scored["prediction"][0] == ("no" if is_text else "yes")
    assert expected["prediction"].to_list() == ["yes", "no", "no"]


def test_numbers_that_are_not_in_the_training_data_are_noted(
    project: Project, tmp_path: Path
) -> None:
    project.train(
        write_csv_file(tmp_path / "raw" / "a.csv", draw_table(["007", "12", "DK"]))
    )
    new = pl.DataFrame({"x": [7, 8], "n": [0.5, 0.5]})
    new.write_parquet(tmp_path / "a.parquet")
    _, report = project.score(tmp_path / "a.parquet")
    assert (
        "'x' of a.parquet holds values that the training data does not have"
        in report["notes"][0]
    )


def test_number_that_may_be_two_categories_is_refused(
    project: Project, tmp_path: Path
) -> None:
    project.train(
        write_csv_file(tmp_path / "raw" / "a.csv", draw_table(["1", "+1", "DK"]))
    )
    pl.DataFrame({"x": [1], "n": [0.5]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="save the column as text"):
        project.score(tmp_path / "a.parquet")


# Models and settings ---------------------------------------------------------------------


def test_model_without_a_schema_is_used_with_a_note(
    project: Project, tmp_path: Path
) -> None:
    rows = draw_table(["a", "b"])
    project.train(write_csv_file(tmp_path / "raw" / "a.csv", rows))
    (project.folder / "train-0" / "model" / "schema.json").unlink()
    register.register(project.folder / "train-0" / "model", project.name)
    file = write_csv_file(tmp_path / "new" / "a.csv", rows.drop(columns="y"))
    expected, report = project.score(file, "1")
    assert not report["notes"]
    scored, report = project.score(file, "2")
    assert scored.equals(expected)
    assert "has no schema" in report["notes"][0]


def test_score_uses_the_version_that_prep_has_used(
    project: Project, tmp_path: Path
) -> None:
    project.train(write_csv_file(tmp_path / "raw" / "a.csv", draw_table(["a", "b"])))
    file = write_csv_file(
        tmp_path / "new" / "a.csv", draw_table(["a", "b"]).drop(columns="y")
    )
    model = load_registered_model(project.name, "latest")
    prep.prepare_for_model(file, tmp_path / "prepared", model)
    rows = draw_table(["a", "b"])
    rows["y"] = rows["y"].replace("yes", "perhaps")
    project.train(write_csv_file(tmp_path / "other" / "a.csv", rows))
    (part,) = (tmp_path / "prepared").iterdir()
    for suffix in ("parquet", "csv"):
        score.scorer = score.load_scorer(
            project.name,
            "latest",
            predictions=tmp_path / suffix,
            predictions_format=suffix,
        )
        assert score.scorer.version == "2"
        assert score.run([str(part)]) == [f"{part.stem}.{suffix}"]
    scored = pl.read_parquet(tmp_path / "parquet")
    assert scored.equals(pl.read_csv(tmp_path / "csv"))
    assert set(scored["prediction"]) == {"yes", "no"}


def test_settings_that_contradict_the_model_are_named(
    project: Project, tmp_path: Path
) -> None:
    rows = draw_table(["a", "b"]).assign(
        id=range(240), n=lambda rows: rows.n.astype(str)
    )
    project = dataclasses.replace(project, keys=["id"])
    comma = use_decimal_commas(rows)
    file = tmp_path / "raw.csv"
    comma.to_csv(file, sep=";", index=False)
    project.train(file, text_format=TextFormat(decimal=","))

    # The text is read as in training, without a setting.
    comma.drop(columns="y").to_csv(tmp_path / "a.csv", sep=";", index=False)
    expected, report = project.score(tmp_path / "a.csv")
    assert not report["notes"]
    _, report = project.score(tmp_path / "a.csv", keys=["n"], ignore=["x"])
    assert "data.keys in settings.yml is ['n']" in report["notes"][0]
    assert "data.ignore in settings.yml names 'x'" in report["notes"][1]
    assert "id" in report["columns"]

    # New files may be written in another way.
    write_csv_file(tmp_path / "b.csv", rows)
    with pytest.raises(DataError, match="'n' must hold numbers.*data.decimal: '.'"):
        project.score(tmp_path / "b.csv")
    scored, report = project.score(tmp_path / "b.csv", text_settings={"decimal": "."})
    assert scored.equals(expected)
    assert "data.decimal in settings.yml is '.'" in report["notes"][0]

    # The encoding is one of the file, and has nothing to do with the model.
    settings = {"encoding": "cp1252"}
    _, report = project.score(tmp_path / "a.csv", text_settings=settings)
    assert not report["notes"]


def test_scoring_without_a_registered_model_is_refused(project: Project) -> None:
    with pytest.raises(DataError, match="cannot be loaded: run the training pipeline"):
        project.score(project.folder)


def test_model_that_was_trained_on_parquet_scores_csv(
    project: Project, tmp_path: Path
) -> None:
    random = np.random.default_rng(2)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(240) % 40, "D")
    rows = pd.DataFrame(
        {
            "country": np.resize(["NA", "DE", "007", "1.0", " x "], 240),
            "kind": pd.Categorical(np.resize(["1", "2"], 240)),
            "count": pd.array(np.resize([1, 2, 2, None], 240), "Int64"),
            "share": random.normal(size=240),
            "price": [Decimal(f"{number % 7}.10") for number in range(240)],
            "is_new": pd.array(np.resize([True, False, None], 240), "boolean"),
            "day": days.date,
            "time": days + pd.Timedelta("6h"),
        }
    )
    rows["y"] = np.where((rows.country == "NA") | (rows["share"] > 1), "yes", "no")
    (tmp_path / "raw").mkdir()
    rows.to_parquet(tmp_path / "raw" / "a.parquet")
    project.train(tmp_path / "raw")
    rows.drop(columns="y").to_parquet(tmp_path / "a.parquet")
    expected, report = project.score(tmp_path / "a.parquet")
    by_pandas, report_of_csv = project.score(
        write_csv_file(tmp_path / "pandas.csv", rows)
    )
    assert by_pandas.equals(expected)
    assert report_of_csv["columns"] == report["columns"]
    pl.read_parquet(tmp_path / "a.parquet").write_csv(tmp_path / "polars.csv")
    by_polars, _ = project.score(tmp_path / "polars.csv")
    assert by_polars.equals(expected)
    for row in (0, 2):
        file = write_csv_file(tmp_path / f"{row}.csv", rows[row : row + 1])
        scored, _ = project.score(file)
        assert scored.drop("row").equals(expected[row : row + 1].drop("row"))


DAMAGED_SCHEMAS = {
    "empty": "",
    "cut off": '{"layout": 1, "keys": [',
    "nested too deeply": "[" * 100_000,
    "a list": "[]",
    "without columns": '{"layout": 1, "keys": [], "text_format": {}}',
    "a layout that is text": '{"layout": "1"}',
    "an unknown type": (
        '{"layout": 1, "keys": [], "text_format": {}, "columns": {"a": {"type": "b"}}}'
    ),
    "columns that are a number": (
        '{"layout": 1, "keys": [], "text_format": {}, "columns": 1}'
    ),
}


@pytest.mark.parametrize("text", DAMAGED_SCHEMAS.values(), ids=DAMAGED_SCHEMAS)
def test_damaged_schema_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"schema\.json of the model is damaged \("):
        parse_schema(text)
