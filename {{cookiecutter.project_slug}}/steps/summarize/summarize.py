"""Summarize the predictions: the rows, their distribution, the model, and the drift.

This step runs after all predictions have been written. It also reports rows without a
prediction, whose files could not be scored. `summary.json` is for programs, and
`report.html` is for people.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import mlflow
import polars as pl
from distribution import (
    ClassDistribution,
    Distribution,
    count_classes,
    measure_numbers,
    scan_predictions,
)
from summary_report import MonitorResult, render_report

# Azure ML limits the number of metrics that a run can have.
MOST_CLASS_METRICS = 90
# MLflow refuses longer names of metrics.
MOST_NAME_CHARACTERS = 250


class SummaryError(Exception):
    """The predictions cannot be summarized. The message says why."""


def summarize(
    predictions: Path, drift_report: Path, summary: Path, *, task: str
) -> None:
    """Summarize predictions as files, as MLflow metrics, and on one line of the screen.

    All paths are folders: the predictions, the output of the step monitor, and the folder
    for the summary. Raises SummaryError if no row has a prediction, or if a file in one of
    the folders cannot be read.
    """
    monitor_result = read_monitor_result(drift_report)
    distribution = read_distribution(predictions, task)
    missing_rows = monitor_result.rows - distribution.rows
    if missing_rows:
        print(
            f"note: {missing_rows} of {monitor_result.rows} rows have no prediction. The"
            " log of the step score names the files that failed. If it names none, the model"
            " has predicted numbers that are not finite."
        )
    write_summary(distribution, monitor_result, summary)
    log_metrics(distribution, summary)
    print(
        f"{distribution.rows} rows predicted by version {monitor_result.version}:"
        f" {distribution.describe()}"
    )


def read_monitor_result(drift_report: Path) -> MonitorResult:
    """Read the result of the step monitor from the folder that it has written.

    Raises SummaryError if the result cannot be read.
    """
    file = drift_report / "drift.json"
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
        return MonitorResult(
            model=contents["model"],
            version=contents["version"],
            rows=contents["rows"],
            summary=contents["summary"],
            drift=contents["drift"],
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SummaryError(
            f"The result of the step monitor cannot be read from {file}: {error!r}"
        ) from None


def read_distribution(predictions: Path, task: str) -> Distribution:
    """Return how the predictions in a folder are distributed.

    Raises SummaryError if no row has a prediction, or if a file cannot be read.
    """
    try:
        table = scan_predictions(predictions)
        distribution: Distribution | None
        if table is None:
            # No file has predictions.
            distribution = None
        elif task == "classification":
            distribution = count_classes(table)
        else:
            distribution = measure_numbers(table)
    except pl.exceptions.PolarsError as error:
        raise SummaryError(
            f"The predictions in {predictions} cannot be read: {error}"
        ) from None
    if distribution is None:
        raise SummaryError(
            f"No row has a prediction in {predictions}. Look at the log of the step score."
        )
    return distribution


def write_summary(
    distribution: Distribution, monitor_result: MonitorResult, folder: Path
) -> None:
    """Write the summary as `summary.json` and as `report.html` into a folder."""
    contents = {
        "model": monitor_result.model,
        "version": monitor_result.version,
        "rows": distribution.rows,
        "rows_without_prediction": monitor_result.rows - distribution.rows,
        # asdict() repeats the key "rows". A repeated key keeps its first position, so
        # "rows" stays near the top of the file.
        **asdict(distribution),
        "monitor": monitor_result.summary,
        "drift": monitor_result.drift,
    }
    folder.mkdir(parents=True, exist_ok=True)
    summary_as_json = json.dumps(contents, indent=2, ensure_ascii=False)
    (folder / "summary.json").write_text(summary_as_json, encoding="utf-8")
    page = render_report(distribution, monitor_result)
    (folder / "report.html").write_text(page, encoding="utf-8")


def log_metrics(distribution: Distribution, folder: Path) -> None:
    """Log the summary to MLflow: its figures as metrics, and the files in `folder`.

    The metrics are the number of rows, the figures of the distribution (such as the mean),
    and the share of each class. For example, the class "a" has the metric "share a".
    """
    metrics = {"rows": float(distribution.rows), **distribution.list_figures()}
    if isinstance(distribution, ClassDistribution):
        for group in distribution.classes[:MOST_CLASS_METRICS]:
            # MLflow refuses other characters in the name of a metric, and some names with a
            # slash.
            name = re.sub(r"[^\w .:-]", "_", f"share {group.label}")
            metrics[name[:MOST_NAME_CHARACTERS]] = group.share
    with mlflow.start_run():
        mlflow.log_metrics(metrics)
        mlflow.log_artifacts(str(folder))


def main() -> None:
    """Run the step with the command-line arguments.

    Exits with a message if the predictions cannot be summarized, or if a file cannot be
    read or written.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--drift-report", type=Path, required=True)
    parser.add_argument("--summary", type=Path, required=True)
    parser.add_argument(
        "--task", choices=["classification", "regression"], required=True
    )
    args = parser.parse_args()
    try:
        summarize(args.predictions, args.drift_report, args.summary, task=args.task)
    except SummaryError as error:
        sys.exit(f"summarize: {error}")
    except OSError as error:
        sys.exit(f"summarize: a file cannot be read or written: {error}")


if __name__ == "__main__":
    main()
