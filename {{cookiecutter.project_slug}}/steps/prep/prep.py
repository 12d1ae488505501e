"""Prepare raw CSV and Parquet files for training or for scoring.

This step reads a file, or all CSV and Parquet files below a folder, and writes Parquet
parts that all have the same columns and types. Rows without a target are left out of
training data. All rows to score are kept.

Training data gets the types that its values allow. Data to score is read according to the
schema of the registered model, so that it has the types of the training data.

The work is divided into stages. Each stage has some of the modules in this folder:

    Find the files
        find_files            the CSV and Parquet files in a folder
        file_content          files of another kind than their names say
        unpack                files that are compressed by gzip, bz2, xz or zip
        partitions            columns from folders such as `year=2026`
    Read a file
        read_files            opens all files, by the modules below
        csv_dialect           the delimiter and the header of a CSV file
        csv_file              the rows of a CSV file
        table_layout          the first line of the table, and its delimiter
        text_encoding         UTF-8, UTF-16 and other encodings
        small_files           many small CSV files together
        parquet_files         Parquet files
    Infer the types of a CSV file
        infer_types           the type of each column
        column_rules          which types a column may have, by its name and role
        parsers               the parsers that are tried for a column
        fits                  the first parser that fits a column
        text_values           text as numbers, dates, booleans and missing values
        date_formats          the formats in which dates are written
    Combine the files
        choose_types          which columns are prepared, and one type for each
        combine               one table of all files
    Read data to score by a model's schema
        registered_model      the model that will score the data
        schema                how the columns of its training data were read
        read_by_schema        new data in the types of the schema
    Check the rules of `data.expect`
        expectations          rules in settings.yml, as checks of the columns
        violations            the rows that break a rule
    Write
        write_parts           the prepared parts, with the columns of `features`
    Report
        report                the data report
        row_sample            the distributions in it, from a sample of the rows
        column_notes, layout_notes, missing_word_notes, outlier_notes, text_notes
                              notes on what the user should look at
        suggest_formats       settings that would read text as numbers or dates
    All stages
        sources               files, columns, their types and roles, and notes
        read_options          how the files are read
        messages              help for writing messages
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import polars as pl
from expectations import (
    add_rules_for_scoring,
    add_rules_for_training,
    parse_expectations,
)
from registered_model import (
    RegisteredModel,
    choose_roles,
    choose_text_format,
    load_registered_model,
)
from report import build_report, render_report
from schema import build_training_schema
from sources import ColumnRoles, DataError, Source
from text_values import USUAL_FORMAT, TextFormat, check_date_formats
from violations import CheckResult, evaluate_checks
from write_parts import MetadataFunction, PartWriter, write_parts

# This many notes are printed. The report has all of them.
SHOWN_NOTES = 20
# Azure ML limits the number of metrics that a run can have, so no more are logged.
MAX_METRICS = 100
# MLflow refuses longer names of metrics.
MAX_NAME_CHARACTERS = 250

# The rules of data.expect in settings.yml, by the name of the column and then by that of the
# rule.
Expectations = Mapping[str, Mapping[str, Any]]
NO_EXPECTATIONS: Expectations = MappingProxyType({})


def features(table: pl.LazyFrame) -> pl.LazyFrame:
    """Add your own features as new columns, and keep all rows.

    This function is called for training and for scoring. When scoring, there is no target.
    For example: `return table.with_columns(area=pl.col("length") * pl.col("width"))`
    """
    return table


def prepare(
    raw: Path,
    prepared: Path,
    target: str | None = None,
    keys: Sequence[str] = (),
    ignore: Sequence[str] = (),
    rows_per_part: int = 100_000,
    text_format: TextFormat = USUAL_FORMAT,
    expectations: Expectations = NO_EXPECTATIONS,
    group: str | None = None,
) -> dict[str, Any]:
    """Write `raw` as Parquet parts into the folder `prepared`, and return a report.

    - With a `target`, rows without a value in it are left out.
    - `keys` are columns that identify a row. With neither keys nor a target, a column `row`
      with the number of each row is added in front.
    - Columns in `ignore` are left out.
    - A part has at most `rows_per_part` rows.
    - `text_format` says how the text of CSV files is written.
    - `group` is prepared like a feature. The train step will keep rows with equal values in
      this column together. Here, only the role of the column is recorded in the report.
    - `expectations` are rules that the data should obey. The report has a sentence on each
      violated rule in `violations`.

    Raises DataError if the data cannot be prepared.
    """
    # An ignored column is read after all if a rule must be checked, so the rules may change
    # the roles.
    roles = ColumnRoles(target, keys, ignore, group)
    roles = add_rules_for_training(roles, expectations)

    def create_metadata(
        sources: list[Source], types: Mapping[str, pl.DataType]
    ) -> dict[str, str]:
        """Return the schema, which the train step saves with the model."""
        schema = build_training_schema(sources, types, roles, text_format)
        return {"schema": json.dumps(schema)}

    return _write_and_report(
        raw, prepared, roles, rows_per_part, text_format, create_metadata
    )


def prepare_for_model(
    raw: Path,
    prepared: Path,
    model: RegisteredModel,
    keys: Sequence[str] = (),
    ignore: Sequence[str] = (),
    rows_per_part: int = 100_000,
    text_settings: Mapping[str, Any] | None = None,
    expectations: Expectations = NO_EXPECTATIONS,
) -> dict[str, Any]:
    """Prepare new data for the registered model that will score it, and return a report.

    The data is read according to the model's schema, which says how its training data was
    read. `keys`, `ignore` and `text_settings` come from settings.yml, and the report notes
    where they differ from the schema. Raises DataError if the data cannot be prepared, or
    does not fit the model.
    """
    roles, notes = choose_roles(model, keys, ignore)
    # Rules on the target are not checked, because new data may lack the target.
    target = None if model.schema is None else model.schema.target
    roles = add_rules_for_scoring(roles, expectations, ignore, target)
    text_format, notes_on_text = choose_text_format(model, text_settings or {})

    def create_metadata(
        _sources: list[Source], _types: Mapping[str, pl.DataType]
    ) -> dict[str, str]:
        """Return the model's version and the keys, which the score step needs."""
        return {"model_version": model.version, "keys": json.dumps(list(roles.keys))}

    report = _write_and_report(
        raw, prepared, roles, rows_per_part, text_format, create_metadata
    )
    report["notes"] = notes + notes_on_text + report["notes"]
    return report


def _write_and_report(
    raw: Path,
    prepared: Path,
    roles: ColumnRoles,
    rows_per_part: int,
    text_format: TextFormat,
    create_metadata: MetadataFunction,
) -> dict[str, Any]:
    """Write `raw` as Parquet parts with metadata, and return a report.

    The report also says which rules of `data.expect` the data breaks.
    """
    check_date_formats(text_format)
    with TemporaryDirectory() as scratch:
        writer = PartWriter(
            folder=prepared,
            scratch=Path(scratch),
            rows_per_part=rows_per_part,
            roles=roles,
            # The user may change the function `features` at the top of this file.
            add_features=features,
            create_metadata=create_metadata,
        )
        written = write_parts(raw, text_format, writer)
        # The report comes first, because it raises an error if there are no rows to check.
        report = build_report(written, prepared, roles)
        results = evaluate_checks(
            written.sources, written.checks, written.summary, writer.hashes_file
        )
        return report | describe_results(results)


def describe_results(results: Sequence[CheckResult]) -> dict[str, Any]:
    """Return what the report says on the rules of `data.expect`.

    `violations` has a sentence on each violated rule, and `broken_rows_by_rule` the number
    of rows that break each rule.
    """
    return {
        "violations": [result.violation for result in results if result.violation],
        "broken_rows_by_rule": {result.name: result.rows for result in results},
    }


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write the report as `report.json` and as `report.html` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text_by_name = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False),
        "report.html": render_report(report),
    }
    for name, text in text_by_name.items():
        # The file is renamed when it is complete, so that nobody reads half a report.
        unfinished = folder / f".{name}"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, folder / name)


def log_violations(report: dict[str, Any]) -> None:
    """Log to MLflow how many rules are violated, and how many rows break each rule.

    If there are more than MAX_METRICS metrics, the last rules are not logged.
    """
    # MLflow is slow to import, and prep without rules does not need it.
    import mlflow

    metrics: dict[str, float] = {"violations": len(report["violations"])}
    for rule, broken_rows in report["broken_rows_by_rule"].items():
        # MLflow refuses other characters in the name of a metric, and some names with a
        # slash.
        name = re.sub(r"[^\w .:-]", "_", f"rows breaking {rule}")
        metrics[name[:MAX_NAME_CHARACTERS]] = broken_rows
    logged_metrics = dict(list(metrics.items())[:MAX_METRICS])
    with mlflow.start_run():
        mlflow.log_metrics(logged_metrics)


def stop_at_violations(report: dict[str, Any], folder: Path) -> None:
    """Raise DataError if the data violates a rule. The message names the report's folder."""
    violation_count = len(report["violations"])
    if not violation_count:
        return
    rules = "a rule" if violation_count == 1 else f"{violation_count} rules"
    raise DataError(
        f"The data violates {rules} of data.expect in settings.yml: see the notes above and"
        f" report.html in {folder}. The pipeline ends here, because data.on_violation is"
        " 'stop'. Correct the data, or the rules if they are wrong. To continue anyway, run"
        " the pipeline with --set on_violation=warn."
    )


def print_summary(report: dict[str, Any]) -> None:
    """Print the violations, the first notes, and the numbers of rows.

    Lines that begin with "note:" also appear in the list of notes at the end of a run.
    """
    for violation in report["violations"]:
        # The error that may end prep is printed to another stream. Without flushing, it
        # could appear before the violations that it mentions.
        print(f"note: violation: {violation}", flush=True)
    notes = report["notes"]
    for note in notes[:SHOWN_NOTES]:
        print(f"note: {note}")
    hidden_count = len(notes) - SHOWN_NOTES
    if hidden_count == 1:
        print("note: 1 more note is in the data report.")
    elif hidden_count > 1:
        print(f"note: {hidden_count} more notes are in the data report.")
    print(f"{report['rows_in']} rows read, {report['rows_out']} prepared")


def parse_text_settings(text: str) -> dict[str, Any]:
    """Parse the settings on the text of CSV files from JSON.

    Raises ValueError if `text` is not JSON, and TypeError if it has other settings. argparse
    turns both into an error message.
    """
    settings: dict[str, Any] = json.loads(text)
    # This checks the names of the settings.
    TextFormat.from_settings(settings)
    return settings


def main() -> None:
    """Prepare the data that the command line names, and write a report on it."""
    args = parse_arguments()
    try:
        report = prepare_by_arguments(args)
        write_report(report, args.report)
        print_summary(report)
        if args.expect:
            log_violations(report)
        if args.on_violation == "stop":
            stop_at_violations(report, args.report)
    except DataError as error:
        sys.exit(f"prep: {error}")
    except OSError as error:
        sys.exit(f"prep: a file cannot be read or written: {error}")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line. Most options are settings under `data` in settings.yml."""
    parser = argparse.ArgumentParser(
        description="Prepare raw CSV and Parquet files for training or for scoring."
    )
    parser.add_argument(
        "--raw",
        type=Path,
        required=True,
        help="CSV or Parquet file, or folder of files",
    )
    parser.add_argument(
        "--prepared", type=Path, required=True, help="folder for the Parquet parts"
    )
    parser.add_argument(
        "--report",
        type=Path,
        required=True,
        help="folder for report.json and report.html",
    )
    parser.add_argument("--target", help="column to predict")
    parser.add_argument(
        "--keys", nargs="*", default=[], help="columns that identify a row"
    )
    parser.add_argument("--ignore", nargs="*", default=[], help="columns to leave out")
    parser.add_argument(
        "--group", help="column whose equal values keep rows together in training"
    )
    parser.add_argument(
        "--rows-per-part",
        type=int,
        default=100_000,
        help="largest number of rows in a Parquet part",
    )
    parser.add_argument(
        "--text-format",
        type=parse_text_settings,
        default={},
        help='how text is written, as JSON, such as \'{"decimal": ","}\'',
    )
    parser.add_argument(
        "--expect",
        type=parse_expectations,
        default={},
        help='rules that columns must obey, as JSON, such as \'{"age": {"min": 0}}\'',
    )
    parser.add_argument(
        "--on-violation",
        choices=["warn", "stop"],
        default="stop",
        help="whether prep only warns or stops if the data breaks a rule",
    )
    parser.add_argument(
        "--model-name",
        help="registered model to score with, whose schema says how to read the data",
    )
    parser.add_argument(
        "--model-version", default="latest", help='number of the version, or "latest"'
    )
    return parser.parse_args()


def prepare_by_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare data for training, or for scoring if the arguments name a model.

    Returns the report. Raises DataError if the data cannot be prepared.
    """
    if not args.model_name:
        return prepare(
            raw=args.raw,
            prepared=args.prepared,
            target=args.target,
            keys=args.keys,
            ignore=args.ignore,
            rows_per_part=args.rows_per_part,
            text_format=TextFormat.from_settings(args.text_format),
            expectations=args.expect,
            group=args.group,
        )
    return prepare_for_model(
        raw=args.raw,
        prepared=args.prepared,
        model=load_registered_model(args.model_name, args.model_version),
        keys=args.keys,
        ignore=args.ignore,
        rows_per_part=args.rows_per_part,
        text_settings=args.text_format,
        expectations=args.expect,
    )


if __name__ == "__main__":
    main()
