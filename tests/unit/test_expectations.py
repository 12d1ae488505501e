"""Test `data.expect`: the messages about data that breaks rules, and about wrong rules."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
import violations
from prep import prepare, prepare_for_model, stop_at_violations
from registered_model import RegisteredModel
from report import render_report
from schema import parse_schema
from sources import ColumnSchema, DataError
from template_package import PROJECT
from text_values import TextFormat

SAMPLE = PROJECT / "data" / "sample" / "training"
CUSTOMERS = """id,age,plan,email,signed_up,score
1,34,free,a@b,2016-03-01,0.5
2,-5,pro,,2016-03-02,0.25
2,51,Pro,,2014-12-31,1.5
4,130,team,d@b,2016-03-04,0.75
"""


def write_tables(folder: Path, **files: str | pl.DataFrame) -> Path:
    """Write CSV or Parquet files into a new folder, and return the folder."""
    folder.mkdir()
    for name, content in files.items():
        if isinstance(content, str):
            (folder / f"{name}.csv").write_text(content, encoding="utf-8")
        else:
            content.write_parquet(folder / f"{name}.parquet")
    return folder


def find_violations(raw: Path, rules: dict[str, Any], **options: Any) -> list[str]:
    """Prepare raw data as training data, and return the violations in the report."""
    report = prepare(raw, raw.parent / "out", expectations=rules, **options)
    violations: list[str] = report["violations"]
    return violations


# A column, its rules, and the sentence about the violation.
BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "min": (
        "age",
        {"min": 0},
        (
            "the column 'age' is below the minimum of 0 in 1 of 4 rows; the first such value is"
            " -5, in line 3 of customers.csv."
        ),
    ),
    "max": (
        "age",
        {"min": -10, "max": 50},
        (
            "the column 'age' is above the maximum of 50 in 2 of 4 rows; the first such value is"
            " 51, in line 4 of customers.csv; the largest is 130."
        ),
    ),
    "min of fractions": (
        "score",
        {"min": 0.5},
        (
            "the column 'score' is below the minimum of 0.5 in 1 of 4 rows; the first such value"
            " is 0.25, in line 3 of customers.csv."
        ),
    ),
    "values": (
        "plan",
        {"values": ["free", "pro", "team"]},
        (
            "the column 'plan' has other values than free, pro, team in 1 of 4 rows; the first"
            " is 'Pro', in line 4 of customers.csv."
        ),
    ),
    "values of integers": (
        "id",
        {"values": [1, 2, 3]},
        (
            "the column 'id' has other values than 1, 2, 3 in 1 of 4 rows; the first is 4, in"
            " line 5 of customers.csv."
        ),
    ),
    "missing": (
        "email",
        {"missing": 0.49},
        (
            "the column 'email' has no value in 2 of 4 rows (50.00%), but the share of such"
            " rows may be at most 0.49; the first is line 3 of customers.csv."
        ),
    ),
    "unique": (
        "id",
        {"unique": True},
        (
            "the column 'id', which must be unique, repeats an earlier value in 1 of 4 rows;"
            " the first such value is 2, in line 4 of customers.csv."
        ),
    ),
    "a fraction among the values of integers": (
        "id",
        {"values": [1.5, 2, 4.0]},
        (
            "the column 'id' has other values than 1.5, 2, 4.0 in 1 of 4 rows; the first is"
            " 1, in line 2 of customers.csv."
        ),
    ),
    "date": (
        "signed_up",
        {"min": "2015-01-01"},
        (
            "the column 'signed_up' is below the minimum of 2015-01-01 in 1 of 4 rows; the first"
            " such value is 2014-12-31, in line 4 of customers.csv."
        ),
    ),
}


@pytest.mark.parametrize(("column", "rules", "violation"), BROKEN.values(), ids=BROKEN)
def test_broken_rule_is_reported_with_its_first_row(
    column: str, rules: dict[str, Any], violation: str, tmp_path: Path
) -> None:
    raw = write_tables(tmp_path / "raw", customers=CUSTOMERS)
    assert find_violations(raw, {column: rules}) == [violation]
    # A column that the model ignores is checked, too.
    assert find_violations(raw, {column: rules}, ignore=[column]) == [violation]
    prepared = pl.read_parquet(tmp_path / "out" / "*.parquet")
    assert column not in prepared.columns


KEPT: dict[str, tuple[str, dict[str, Any]]] = {
    "limits belong to the range": ("age", {"min": -5, "max": 130}),
    "missing values break no other rule": ("email", {"values": ["a@b", "d@b"]}),
    "as many missing values as allowed": ("email", {"missing": 0.5}),
    "missing values are not repeated": ("email", {"unique": True}),
    "a rule that is switched off": ("id", {"unique": False}),
    "a limit of more than 64 bits": ("age", {"max": 10**30}),
    "a value of more than 64 bits": ("id", {"values": [1, 2, 4, 10**30]}),
    "a time": ("signed_up", {"min": "2014-12-31T00:00:00+02:00"}),
    "a date for times": ("at", {"max": "2026-01-31", "min": "2026-01-30"}),
    "dates and times": ("at", {"values": ["2026-01-31", "2026-01-31 23:59:00"]}),
    "dates": ("signed_up", {"values": ["2016-03-01", "2016-03-02", "2016-03-04", "2014-12-31"]}),
    "booleans": ("flag", {"values": [True, False]}),
    "a column without values": ("empty", {"min": 5, "values": ["a"], "missing": 1}),
}  # fmt: skip


@pytest.mark.parametrize(("column", "rules"), KEPT.values(), ids=KEPT)
def test_rule_that_holds_is_not_reported(
    column: str, rules: dict[str, Any], tmp_path: Path
) -> None:
    lines = CUSTOMERS.splitlines()
    lines[0] += ",at,flag,empty"
    lines[1:] = [f"{line},2026-01-31 23:59:00,true," for line in lines[1:]]
    raw = write_tables(tmp_path / "raw", customers="\n".join(lines))
    assert find_violations(raw, {column: rules}) == []


def test_rows_that_break_rules_are_counted_as_pandas_counts_them(
    tmp_path: Path,
) -> None:
    """Use the published penguins, whose individuals are numbered anew in each study."""
    rules: dict[str, dict[str, Any]] = {
        "Individual ID": {"unique": True},
        "Body Mass (g)": {"min": 2900, "max": 6000},
        "Sex": {"missing": 0.02},
    }
    report = prepare(
        SAMPLE, tmp_path / "out", keys=["Individual ID"], expectations=rules
    )
    penguins = pd.concat(pd.read_csv(file) for file in sorted(SAMPLE.iterdir()))
    mass = penguins["Body Mass (g)"]
    assert report["broken_rows_by_rule"] == {
        "Individual ID unique": penguins["Individual ID"].duplicated().sum(),
        "Body Mass (g) min": (mass < 2900).sum(),
        "Body Mass (g) max": (mass > 6000).sum(),
        "Sex missing": penguins["Sex"].isna().sum(),
    }
    assert report["violations"][0].endswith("'N21A1', in line 2 of PAL0809.csv.")
    assert all(report["broken_rows_by_rule"].values())
    assert len(report["violations"]) == 4


# A column, its rules, and a part of the error.
MISFITS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a misspelt column": ("Agee", {"min": 0}, "No file has a column 'Agee'.*'age'?"),
    "min of text": (
        "plan",
        {"min": 0},
        "data.expect.plan.min in settings.yml is 0, but",
    ),
    "max of booleans": ("flag", {"max": 1}, "is of type boolean, and only numbers and"),
    "a date for numbers": (
        "age",
        {"min": "2015-01-01"},
        "is 2015-01-01, a date, but the column 'age' is of type integer: write a number",
    ),
    "a number for dates": (
        "signed_up",
        {"max": 2030},
        "is 2030, a number, but .* of type date: write a date such as",
    ),
    "values of fractions": ("score", {"values": [1, 2]}, "use min and max"),
    "integers for text": ("plan", {"values": [1]}, "lists 1, but .*: put it in quotes"),
    "booleans for text": ("plan", {"values": [True]}, "lists true, but .*in quotes"),
    "text for integers": ("id", {"values": ["1"]}, "without quotes"),
    "text for dates": ("signed_up", {"values": ["May"]}, "a date such as"),
    "text for booleans": ("flag", {"values": ["yes"]}, "write true or false"),
}


@pytest.mark.parametrize(("column", "rules", "text"), MISFITS.values(), ids=MISFITS)
def test_rule_that_does_not_fit_its_column_is_explained(
    column: str, rules: dict[str, Any], text: str, tmp_path: Path
) -> None:
    rows = CUSTOMERS.replace("\n", ",true\n").replace("score,true", "score,flag")
    raw = write_tables(tmp_path / "raw", customers=rows)
    with pytest.raises(DataError, match=f"(?i){text}"):
        find_violations(raw, {column: rules})


def test_all_rules_that_do_not_fit_are_named_at_once(tmp_path: Path) -> None:
    ages = "\n".join(f"{age},a" for age in range(40))
    raw = write_tables(tmp_path / "raw", customers=f"age,plan\n{ages}\nn.v.,b\n")
    rules = {"age": {"min": 0, "max": 9}, "plam": {"unique": True}}
    with pytest.raises(DataError) as error:
        find_violations(raw, rules)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    # The message names the value because of which the column is text.
    assert "'n.v.' in line 42 of customers.csv" in lines[0]
    assert "Did you mean 'plan'?" in lines[2]


def test_first_row_against_a_rule_is_named_in_any_file(tmp_path: Path) -> None:
    """Check that rows are counted by file, and that values are spelled as in the file."""
    numbers = "\n".join(["x;y", *(f"{n};1,5" for n in range(12_000)), "1.234,5;2"])
    quoted = 'x;y\n"5";"a\nb"\n"-1";1\n'
    raw = write_tables(
        tmp_path / "raw",
        a=numbers,
        b=quoted,
        c=pl.DataFrame({"x": [7.0, -2.0], "y": ["1", "2"]}),
    )
    text_format = TextFormat(decimal=",", thousands=".")
    rules = {"x": {"min": 0, "max": 11_999}}
    options = {"text_format": text_format, "ignore": ["y"]}
    assert find_violations(raw, rules, **options) == [
        (
            "the column 'x' is below the minimum of 0 in 2 of 12005 rows; the first such value is"
            " -1, in line 4 of b.csv; the smallest is -2.0."
        ),
    ]
    rules = {"x": {"max": 1234}}
    (violation,) = find_violations(raw, rules, **options)
    assert "is 1235, in line 1237 of a.csv; the largest is " in violation
    (raw / "a.csv").unlink()
    (raw / "b.csv").unlink()
    (violation,) = find_violations(raw, {"x": {"min": 0}}, **options)
    assert violation.endswith("is -2.0, in row 2 of c.parquet.")


def number_lines(text: str, skipped_lines: int) -> dict[str, int]:
    """Return the line of each first value, as Python's csv module counts the lines."""
    file = io.StringIO(text, newline="")
    for _ in range(skipped_lines):
        file.readline()
    reader = csv.reader(file)
    return {row[0]: skipped_lines + reader.line_num for row in reader if row}


# The lines above the rows, the lines between two rows, the end of each row, and the number
# of lines to skip. Excel writes a first line such as `sep=,`.
LINES: dict[str, tuple[str, str, str, int]] = {
    "names in the first line": ("x,y\n", "", "1\n", 0),
    "a title": ("Sales\nof 2026\nx,y\n", "", "1\n", 2),
    "the first line of Excel": ("sep=,\nx,y\n", "", "1\n", 0),
    "the first line of Excel, skipped": ("sep=,\r\nx,y\r\n", "", "1\r\n", 1),
    "a title above blank lines": ("Sales\n\n\nx,y\n", "\n", "1\n", 1),
    "line breaks in values": ("Sales\nx,y\n", "", '"a\nb"\n', 1),
}


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", "a.csv"),
        ("utf-8-sig", "a.csv"),
        ("utf-16", "a.csv"),
        ("utf-8", "a.csv.gz"),
    ],
    ids=["UTF-8", "a byte order mark", "UTF-16", "gzip"],
)
@pytest.mark.parametrize(
    ("start", "between", "end", "skipped_lines"), LINES.values(), ids=LINES
)
def test_lines_are_numbered_as_pythons_csv_numbers_them(
    start: str,
    between: str,
    end: str,
    skipped_lines: int,
    encoding: str,
    name: str,
    tmp_path: Path,
) -> None:
    numbers = [*range(60), -(10**9), 60]
    text = start + between.join(f"{number},{end}" for number in numbers)
    content = text.encode(encoding)
    raw = write_tables(tmp_path / "raw", first="Title\n" * skipped_lines + "x\n1\n")
    packed = gzip.compress(content) if name.endswith(".gz") else content
    (raw / name).write_bytes(packed)

    report = prepare(
        raw,
        tmp_path / "out",
        expectations={"x": {"min": 0}},
        text_format=TextFormat(skip_lines=skipped_lines),
    )

    line = number_lines(text, skipped_lines or start.count("sep="))[str(min(numbers))]
    place = f"in line {line} of {name}"
    assert report["violations"][0].endswith(f"-1000000000, {place}.")
    assert f"column 'x' holds -1000000000 {place}, while" in "".join(report["notes"])


def test_rules_are_checked_across_many_small_files(tmp_path: Path) -> None:
    files = {f"part{n:03}": f"id,x\n{n},1\n{n + 1},2\n" for n in range(100)}
    raw = write_tables(tmp_path / "raw", **files)
    rules = {"id": {"unique": True, "max": 70}}
    assert find_violations(raw, rules) == [
        (
            "the column 'id', which must be unique, repeats an earlier value in 99 of 200"
            " rows; the first such value is 1, in line 2 of part001.csv."
        ),
        (
            "the column 'id' is above the maximum of 70 in 59 of 200 rows; the first such value is"
            " 71, in line 3 of part070.csv; the largest is 100."
        ),
    ]


@pytest.mark.parametrize("portion", [7, 50, 10**6])
def test_repeats_are_found_in_portions(
    portion: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`unique` needs the memory for one portion only, however many rows there are."""
    monkeypatch.setattr(violations, "HASHES_AT_A_TIME", portion)
    chance = random.Random(portion)
    values = [chance.choice([None, *range(150)]) for _ in range(300)]
    raw = write_tables(tmp_path / "raw", a=pl.DataFrame({"x": values[:100]}))
    pl.DataFrame({"x": values[100:]}).write_parquet(raw / "b.parquet")

    filled = [value for value in values if value is not None]
    repeats = len(filled) - len(set(filled))
    first = next(i for i, v in enumerate(values) if v is not None and v in values[:i])
    (violation,) = find_violations(raw, {"x": {"unique": True}})
    assert f"in {repeats} of 300 rows" in violation
    assert violation.endswith(f"{values[first]}, in row {first + 1} of a.parquet.")


def register_customers(folder: Path, **options: Any) -> RegisteredModel:
    """Prepare customers as training data, and return a model with their schema."""
    prepare(
        write_tables(folder / "training", customers=CUSTOMERS),
        folder / "prepared",
        target="plan",
        ignore=["email"],
        **options,
    )
    part = folder / "prepared" / "part-00000.parquet"
    schema = json.loads(pl.read_parquet_metadata(part)["schema"])
    return RegisteredModel("m", "1", parse_schema(json.dumps(schema)))


RULES: dict[str, dict[str, Any]] = {
    "age": {"min": 0},
    "plan": {"values": ["free"]},
    "email": {"unique": True},
    "score": {"max": 1},
}


def test_new_data_need_not_have_every_column(tmp_path: Path) -> None:
    model = register_customers(tmp_path, expectations=RULES)
    assert model.schema is not None
    assert "email" not in model.schema.columns
    raw = write_tables(
        tmp_path / "new", customers="id,age,signed_up,score\n1,-1,2020-01-01,1.5\n"
    )
    options: dict[str, Any] = {"ignore": ["email"], "expectations": RULES}
    report = prepare_for_model(raw, tmp_path / "out", model, **options)
    assert len(report["violations"]) == 2
    assert report["broken_rows_by_rule"] == {"age min": 1, "score max": 1}

    # An ignored column is checked if it is there. The target is not.
    (raw / "customers.csv").write_text(
        "id,age,signed_up,score,email,plan\n1,1,2020-01-01,1,a,x\n2,1,2020-01-01,1,a,x\n"
    )
    report = prepare_for_model(raw, tmp_path / "out", model, **options)
    assert [v for v in report["violations"] if "'email'" in v] == report["violations"]
    assert "email" not in pl.read_parquet(tmp_path / "out" / "*.parquet").columns

    options["expectations"] = {"ages": {"min": 0}}
    with pytest.raises(DataError, match="data.expect .* Did you mean 'age'?"):
        prepare_for_model(raw, tmp_path / "out", model, **options)
    old_model = RegisteredModel("m", "1", None)
    options["expectations"] = RULES | {"other": {"min": 0}}
    report = prepare_for_model(raw, tmp_path / "out", old_model, **options)
    assert len(report["violations"]) == 2


def test_fractions_where_the_training_data_had_integers_break_values(
    tmp_path: Path,
) -> None:
    model = register_customers(tmp_path)
    raw = write_tables(
        tmp_path / "new", a="id,age,signed_up,score\n1,34.5,2020-01-01,1.5\n"
    )
    report = prepare_for_model(
        raw, tmp_path / "out", model, expectations={"age": {"values": [34, 51]}}
    )
    assert "the first is 34.5, in line 2 of a.csv" in report["violations"][0]


def test_column_that_is_left_out_of_new_data_is_not_prepared(tmp_path: Path) -> None:
    model = register_customers(tmp_path)
    assert model.schema is not None
    columns = {**model.schema.columns, "flag": ColumnSchema(pl.Boolean())}
    model = replace(model, schema=replace(model.schema, columns=columns))
    raw = write_tables(tmp_path / "new", a="id,age,flag\n1,,2\n2,,0\n")
    report = prepare_for_model(
        raw, tmp_path / "out", model, expectations={"flag": {"missing": 0}}
    )
    assert any("'flag' must hold true or false" in note for note in report["notes"])
    assert "flag" not in pl.read_parquet(tmp_path / "out" / "*.parquet").columns
    assert not report["violations"]
    # The column of ages holds integers by the schema, but has no values.
    assert "None" not in render_report(report)


def test_violations_come_first_in_the_report(tmp_path: Path) -> None:
    raw = write_tables(tmp_path / "raw", a="x,<b>\n1,-2\n")
    report = prepare(raw, tmp_path / "out", expectations={"<b>": {"min": 0}})
    page = render_report(report)
    assert "<b>" not in page
    assert page.index("is below the minimum of 0") < page.index("Worth a look")
    with pytest.raises(DataError, match="violates a rule of data.expect"):
        stop_at_violations(report, tmp_path)
    stop_at_violations(prepare(raw, tmp_path / "out"), tmp_path)


def test_violations_fail_the_step_only_if_on_violation_is_stop(tmp_path: Path) -> None:
    """Check that both `stop` and `warn` print every violation and log the figures."""
    raw = write_tables(tmp_path / "raw", customers=CUSTOMERS)
    rules = {"age": {"min": 0, "max": 120}, "id": {"unique": True}}
    command: list[object] = [
        *(sys.executable, "-B", PROJECT / "steps" / "prep" / "prep.py"),
        *(
            "--raw",
            raw,
            "--prepared",
            tmp_path / "out",
            "--report",
            tmp_path / "report",
        ),
        *("--expect", json.dumps(rules), "--on-violation"),
    ]
    results = {}
    for reaction in ("stop", "warn"):
        results[reaction] = subprocess.run(
            [*map(str, command), reaction],
            capture_output=True,
            text=True,
            check=False,
            # A folder of files needs no database, which would take seconds to create.
            env={
                "MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns",
                "MLFLOW_ALLOW_FILE_STORE": "true",
            },
        )
        assert results[reaction].stdout.count("note: violation: the column") == 3
    assert results["warn"].returncode == 0
    assert results["stop"].returncode == 1
    assert results["stop"].stderr.startswith("prep: The data violates 3 rules of")
    assert "--set on_violation=warn" in results["stop"].stderr
    (figures,) = {
        tuple(sorted((f.name, f.read_text().split()[1]) for f in folder.iterdir()))
        for folder in tmp_path.glob("mlruns/*/*/metrics")
    }
    assert ("violations", "3.0") in figures
    assert ("rows breaking id unique", "1.0") in figures
