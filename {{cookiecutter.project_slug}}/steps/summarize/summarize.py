"""Sum up the predictions: the rows, their distribution, the model, and the drift.

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


class SummaryError(Exception):
    """The predictions cannot be summed up. The message says why."""


def summarize(
    predictions: Path, drift_report: Path, summary: Path, *, task: str
) -> None:
    """Write a summary of the predictions in a folder, and print it on one line.

    `drift_report` is the folder that monitor has written. Raises SummaryError if no row has
    a prediction, or if one of the folders cannot be read.
    """
    monitored = read_monitor_result(drift_report)
    distribution = read_distribution(predictions, task)
    missing = monitored.rows - distribution.rows
    if missing:
        print(
            f"note: {missing} of {monitored.rows} rows have no prediction. The log of the"
            " step score names the files that failed."
        )
    write_summary(distribution, monitored, summary)
    log_metrics(distribution, summary)
    print(
        f"{distribution.rows} rows predicted by version {monitored.version}:"
        f" {distribution.describe()}"
    )


def read_monitor_result(drift_report: Path) -> MonitorResult:
    """Read the result of the step monitor. Raises SummaryError if it cannot be read."""
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
    distribution: Distribution | None = None
    try:
        table = scan_predictions(predictions)
        if table is not None and task == "classification":
            distribution = count_classes(table)
        elif table is not None:
            distribution = measure_numbers(table)
    except pl.exceptions.PolarsError as error:
        raise SummaryError(
            f"The predictions in {predictions} cannot be read: {error}"
        ) from None
    if distribution is None:
        raise SummaryError(
            f"No row has a prediction in {predictions}. The log of the step score says why."
        )
    return distribution


def write_summary(
    distribution: Distribution, monitored: MonitorResult, folder: Path
) -> None:
    """Write the summary as `summary.json` and as `report.html` into a folder."""
    contents = {
        "model": monitored.model,
        "version": monitored.version,
        "rows": distribution.rows,
        "rows_without_prediction": monitored.rows - distribution.rows,
        **asdict(distribution),
        "monitor": monitored.summary,
        "drift": monitored.drift,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(contents, indent=2, ensure_ascii=False)
    (folder / "summary.json").write_text(text, encoding="utf-8")
    page = render_report(distribution, monitored)
    (folder / "report.html").write_text(page, encoding="utf-8")


def log_metrics(distribution: Distribution, folder: Path) -> None:
    """Log the figures of the distribution, the shares of the classes, and the report."""
    metrics = {"rows": float(distribution.rows), **distribution.list_figures()}
    if isinstance(distribution, ClassDistribution):
        for group in distribution.classes[:MOST_CLASS_METRICS]:
            # MLflow allows no other characters in the name of a metric.
            name = re.sub(r"[^\w .:/-]", "_", f"share {group.label}")
            metrics[name] = group.share
    with mlflow.start_run():
        mlflow.log_metrics(metrics)
        mlflow.log_artifacts(str(folder))


def main() -> None:
    """Run the step with the arguments of the command line.

    Exits with a message if the predictions cannot be summed up, or if a file cannot be read
    or written.
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
