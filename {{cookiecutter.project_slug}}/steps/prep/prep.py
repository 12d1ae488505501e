"""Prepare raw CSV and Parquet files for training or for scoring.

This step reads a file, or all CSV and Parquet files below a folder, and writes Parquet
parts that all have the same columns and types. Rows without a target are left out of
training data. All rows to score are kept.

Training data gets the types that its values allow. Data to score is read by the schema of
the registered model, so that it has the types of the training data.

Its work is divided into stages, of which each has some of the modules in this folder:

    Find the files
        find_files            the CSV and Parquet files in a folder
        file_content          files that are not what their names say
        unpack                gzip, bz2, xz and zip
        partitions            columns from folders such as `year=2026`
    Read a file
        read_files            opens all files, by the modules below
        csv_dialect           the delimiter and the header of a CSV file
        csv_file              the rows of a CSV file
        table_layout          the first line of the table, and what separates its columns
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
    Read by a model's schema
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
        suggest_formats       settings that would read a column of text otherwise
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
    find_registered_model,
)
from report import build_report, render_report
from schema import build_training_schema
from sources import ColumnRoles, DataError, Source
from text_values import USUAL_FORMAT, TextFormat, check_date_formats
from violations import CheckResult, evaluate_checks
from write_parts import MetadataFunction, PartWriter, write_parts

SHOWN_NOTES = 20  # on the screen; all are in the report
# Azure ML limits the number of metrics that a run can have.
MOST_METRICS = 100

# The rules of data.expect in settings.yml, by column and by the name of the rule.
Expectations = Mapping[str, Mapping[str, Any]]
NO_EXPECTATIONS: Expectations = MappingProxyType({})


def features(table: pl.LazyFrame) -> pl.LazyFrame:
    """Add your own features as new columns, and keep all rows.

    It is called for training and for scoring. When scoring, there is no target. For
    example: `return table.with_columns(area=pl.col("length") * pl.col("width"))`
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

    With a `target`, rows without a value in it are left out. With neither a target nor
    `keys`, a first column `row` numbers the rows. The column `group`, whose rows train
    keeps together, is prepared like a feature; the report names its role. Rules of
    `expectations` that the rows break are `violations` in the report. Raises DataError if
    the data cannot be prepared.
    """
    roles = ColumnRoles(target, keys, ignore, group)
    roles = add_rules_for_training(roles, expectations)

    def create_metadata(
        sources: list[Source], types: Mapping[str, pl.DataType]
    ) -> dict[str, str]:
        schema = build_training_schema(sources, types, roles, text_format)
        return {"schema": json.dumps(schema)}

    return _prepare(raw, prepared, roles, rows_per_part, text_format, create_metadata)


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

    The data is read by the model's schema. Where settings.yml differs from it, in `keys`,
    `ignore` or `text_settings`, the report has a note. Each part names the model's version
    and the keys, for the score step. Raises DataError if the data cannot be prepared, or
    does not fit the model.
    """
    roles, notes = choose_roles(model, keys, ignore)
    target = None if model.schema is None else model.schema.target
    roles = add_rules_for_scoring(roles, expectations, ignore, target)
    text_format, notes_on_text = choose_text_format(model, text_settings or {})

    def create_metadata(
        sources: list[Source], types: Mapping[str, pl.DataType]
    ) -> dict[str, str]:
        return {"model_version": model.version, "keys": json.dumps(list(roles.keys))}

    report = _prepare(raw, prepared, roles, rows_per_part, text_format, create_metadata)
    report["notes"] = notes + notes_on_text + report["notes"]
    return report


def _prepare(
    raw: Path,
    prepared: Path,
    roles: ColumnRoles,
    rows_per_part: int,
    text_format: TextFormat,
    create_metadata: MetadataFunction,
) -> dict[str, Any]:
    """Write `raw` as Parquet parts with metadata, and return a report."""
    check_date_formats(text_format)
    with TemporaryDirectory() as scratch:
        writer = PartWriter(
            folder=prepared,
            scratch=Path(scratch),
            rows_per_part=rows_per_part,
            roles=roles,
            add_features=features,
            create_metadata=create_metadata,
        )
        written = write_parts(raw, text_format, writer)
        report = build_report(written, prepared, roles)
        results = evaluate_checks(
            written.sources, written.checks, written.summary, writer.hashes_file
        )
        return {**describe_results(results), **report}


def describe_results(results: Sequence[CheckResult]) -> dict[str, Any]:
    """Return the violations, and how many rows break each rule, for the report."""
    return {
        "violations": [result.violation for result in results if result.violation],
        "rows_against_rules": {result.name: result.rows for result in results},
    }


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write the report as `report.json` and as `report.html` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False),
        "report.html": render_report(report),
    }
    for name, text in texts.items():
        # The file is renamed when it is complete, so that nobody reads half a report.
        unfinished = folder / f".{name}"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, folder / name)


def log_figures(report: dict[str, Any]) -> None:
    """Log to MLflow how many rules are violated, and how many rows break each rule."""
    # MLflow takes long to import, and prep without rules does not need it.
    import mlflow

    metrics: dict[str, float] = {"violations": len(report["violations"])}
    for rule, rows in report["rows_against_rules"].items():
        if len(metrics) == MOST_METRICS:
            break
        # MLflow allows no other characters in the name of a metric.
        name = re.sub(r"[^\w .:/-]", "_", f"rows against {rule}")
        metrics[name] = rows
    with mlflow.start_run():
        mlflow.log_metrics(metrics)


def stop_at_violations(report: dict[str, Any], folder: Path) -> None:
    """Raise DataError if the data violates a rule. The message names the report's folder."""
    count = len(report["violations"])
    if not count:
        return
    rules = "a rule" if count == 1 else f"{count} rules"
    raise DataError(
        f"The data violates {rules} of data.expect in settings.yml, see the notes above"
        f" and report.html in {folder}. The pipeline ends here, as data.on_violation is"
        " 'stop'. Correct the data, or the rules if they are wrong. To continue anyway:"
        " --set on_violation=warn"
    )


def print_summary(report: dict[str, Any]) -> None:
    """Print the violations, the first notes, and the numbers of rows."""
    for violation in report["violations"]:
        # The error that may end prep is printed to another stream. Without flushing, it
        # could appear before the violations that it mentions.
        print(f"note: violation: {violation}", flush=True)
    notes = report["notes"]
    for note in notes[:SHOWN_NOTES]:
        print(f"note: {note}")
    hidden = len(notes) - SHOWN_NOTES
    if hidden == 1:
        print("note: 1 more note is in the data report.")
    elif hidden > 1:
        print(f"note: {hidden} more notes are in the data report.")
    print(f"{report['rows_in']} rows read, {report['rows_out']} prepared")


def parse_text_settings(text: str) -> dict[str, Any]:
    """Parse the settings for reading text from JSON.

    Raises ValueError if the text is not JSON, and TypeError if it has other settings.
    """
    settings: dict[str, Any] = json.loads(text)
    # Errors that are raised here are reported by argparse.
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
            log_figures(report)
        if args.on_violation == "stop":
            stop_at_violations(report, args.report)
    except DataError as error:
        sys.exit(f"prep: {error}")
    except OSError as error:
        sys.exit(f"prep: a file cannot be read or written: {error}")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Prepare raw CSV and Parquet files for training or for scoring."
    )
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--target")
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--ignore", nargs="*", default=[])
    parser.add_argument("--group")
    parser.add_argument("--rows-per-part", type=int, default=100_000)
    parser.add_argument("--text-format", type=parse_text_settings, default={})
    parser.add_argument("--expect", type=parse_expectations, default={})
    parser.add_argument("--on-violation", choices=["warn", "stop"], default="stop")
    # For scoring: the registered model by whose schema the data is read.
    parser.add_argument("--model-name")
    parser.add_argument("--model-version", default="latest")
    return parser.parse_args()


def prepare_by_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare data for training, or for the model that the arguments name."""
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
        model=find_registered_model(args.model_name, args.model_version),
        keys=args.keys,
        ignore=args.ignore,
        rows_per_part=args.rows_per_part,
        text_settings=args.text_format,
        expectations=args.expect,
    )


if __name__ == "__main__":
    main()
