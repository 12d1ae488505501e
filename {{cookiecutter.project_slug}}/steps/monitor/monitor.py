"""Compare new data with the training data of the model that will score it.

This step runs before scoring. It reports drift as notes, or stops the pipeline.
`drift.json` is for programs, and `report.html` is for people. Figures also go to MLflow.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
from drift_report import render_report
from new_rows import count_new_rows, count_rows, scan_parts, select_features
from profiles import Profile, TextProfile
from scoring_model import MonitorError, ScoringModel, load_scoring_model
from training_comparison import (
    Comparison,
    Outcome,
    Outcomes,
    compare_column,
    compare_predictions,
    compare_repeats,
    judge,
)

PREDICTED_ROWS = 10_000
# Probabilities are rounded like those in the profile.
PROBABILITY_DIGITS = 4
SHOWN_NOTES = 20  # on the screen; all are in the report
SHOWN_NAMES = 3  # in the summary
# Azure ML limits the number of metrics that a run can have.
MOST_METRICS = 100
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class DriftResult:
    """New data compared with the training data of a model."""

    model: ScoringModel
    rows: int
    outcomes: Outcomes
    max_psi: float


def monitor(
    prepared: Path,
    drift_report: Path,
    *,
    model_name: str,
    model_version: str = "latest",
    max_psi: float = 0.2,
    ignore: Sequence[str] = (),
    on_drift: str = "warn",
) -> None:
    """Compare prepared parts with the profile of a registered model, and write a report.

    Features in `ignore` are left out. Raises MonitorError if there is drift and `on_drift`
    is "stop", or if the data cannot be compared.
    """
    model = load_scoring_model(model_name, model_version, prepared)
    drift_report.mkdir(parents=True, exist_ok=True)
    if model.profile is None:
        report_missing_profile(model, prepared, drift_report)
        return

    for name in ignore:
        if name not in model.profile.features:
            print(
                f"note: monitoring.ignore names '{name}', which is no feature of the"
                " model."
            )
    result = compare_with_training(prepared, model, model.profile, max_psi, ignore)
    write_report(result, drift_report)
    log_metrics(result, drift_report)
    print_notes(result)
    if result.outcomes.drift and on_drift == "stop":
        raise MonitorError(
            f"{summarize(result)}. Nothing is scored, as monitoring.on_drift is 'stop'."
            " Look at report.html in the output drift_report of this step"
            f" ({drift_report}), and correct the data. If the data is right, train again"
            " with newer data. To score the data anyway: --set on_drift=warn. To leave a"
            " column out of this comparison, list it under monitoring.ignore in"
            " settings.yml."
        )
    print(summarize(result))


def report_missing_profile(
    model: ScoringModel, prepared: Path, drift_report: Path
) -> None:
    """Report that the data is not compared, because the model has no profile."""
    print(
        f"note: {model.name}, version {model.version}, has no profile of its training"
        " data, so new data is not compared with it: train again to have one."
    )
    summary = "not compared with the training data"
    contents = {
        "model": model.name,
        "version": model.version,
        "rows": count_rows(prepared),
        "summary": summary,
        "drift": [],
        "features": {},
    }
    write_json(contents, drift_report)
    print(summary)


def compare_with_training(
    prepared: Path,
    model: ScoringModel,
    profile: Profile,
    max_psi: float,
    ignore: Sequence[str],
) -> DriftResult:
    """Compare prepared parts with the profile of a model.

    Raises MonitorError if a column that the model needs is missing.
    """
    table = scan_parts(prepared)
    names = table.collect_schema().names()
    for name in model.columns:
        if name not in names:
            raise MonitorError(f"The column '{name}' is missing; the model needs it.")
    profiles = {
        name: column for name, column in profile.features.items() if name not in ignore
    }
    # Without keys, a row repeats another one if all features are the same.
    repeat_by = list(profile.repeats.keys) or list(profile.features)
    new = count_new_rows(
        table, profiles, repeat_by, [*model.columns], sampled_rows=PREDICTED_ROWS
    )
    features = [
        compare_column(name, column, new.columns[name])
        for name, column in profiles.items()
    ]
    repeats = compare_repeats("rows", profile.repeats, new.rows, new.repeated)
    predictions, *probabilities = predict_sample(model, profile, new.sample)

    # The significance level depends on the number of all tests, so all comparisons are
    # judged together.
    outcomes = judge([*features, repeats, predictions, *probabilities], max_psi)
    after_features = len(features)
    return DriftResult(
        model=model,
        rows=new.rows,
        outcomes=Outcomes(
            features=outcomes[:after_features],
            repeats=outcomes[after_features],
            predictions=outcomes[after_features + 1],
            probabilities=outcomes[after_features + 2 :],
        ),
        max_psi=max_psi,
    )


def predict_sample(
    model: ScoringModel, profile: Profile, sample: pl.DataFrame
) -> list[Comparison]:
    """Compare the predictions for a sample of new rows with those for held-out rows.

    The first comparison is that of the predictions. The others are those of the
    probabilities of the classes, if the profile has any.
    """
    features = select_features(sample, model.columns).to_pandas()
    profiles = {PREDICTIONS: profile.predictions, **profile.probabilities}
    values = pl.Series(model.pipeline.predict(features))
    if isinstance(profile.predictions, TextProfile):
        # Python formats the classes, as it did for the profile. polars would spell True as
        # "true".
        values = pl.Series([str(name) for name in values])
    predicted = {PREDICTIONS: values}
    if profile.probabilities:
        probabilities = model.pipeline.predict_proba(features)
        for position, name in enumerate(model.pipeline.classes_):
            rounded = probabilities[:, position].round(PROBABILITY_DIGITS)
            predicted[f"probability_{name}"] = pl.Series(rounded)
    table = pl.DataFrame(predicted).lazy()
    new = count_new_rows(table, profiles, [PREDICTIONS])
    return [
        compare_predictions(name, column, new.columns[name])
        for name, column in profiles.items()
    ]


def summarize(result: DriftResult) -> str:
    """Return the outcome on one line, without a full stop."""
    drifted = [
        outcome.comparison.name for outcome in result.outcomes.features if outcome.drift
    ]
    compared = f"{result.rows} rows compared with version {result.model.version}"
    parts = []
    if drifted:
        names = ", ".join(f"'{name}'" for name in drifted[:SHOWN_NAMES])
        if len(drifted) > SHOWN_NAMES:
            names += ", …"
        parts.append(
            f"in {len(drifted)} of {len(result.outcomes.features)} features ({names})"
        )
    if result.outcomes.has_drift_of_predictions:
        parts.append("in the predictions")
    if result.outcomes.repeats.drift:
        parts.append("in repeated rows")
    if not parts:
        return f"{compared}: no drift in {len(result.outcomes.features)} features"
    *first_parts, last_part = parts
    if not first_parts:
        return f"{compared}: drift {last_part}"
    return f"{compared}: drift {', '.join(first_parts)} and {last_part}"


def print_notes(result: DriftResult) -> None:
    """Print a note on each drift, up to a number that fits on the screen."""
    for sentence in result.outcomes.drift[:SHOWN_NOTES]:
        print(f"note: drift: {sentence}")
    if len(result.outcomes.drift) > SHOWN_NOTES:
        print(
            f"note: {len(result.outcomes.drift) - SHOWN_NOTES} more are in the drift report."
        )


def write_report(result: DriftResult, folder: Path) -> None:
    """Write the result as `drift.json` and as `report.html` into a folder."""
    contents = {
        "model": result.model.name,
        "version": result.model.version,
        "rows": result.rows,
        "max_psi": result.max_psi,
        "summary": summarize(result),
        "drift": result.outcomes.drift,
        "facts": result.outcomes.facts,
        "predictions": outcome_to_json(result.outcomes.predictions),
        "probabilities": {
            outcome.comparison.name: outcome_to_json(outcome)
            for outcome in result.outcomes.probabilities
        },
        "features": {
            outcome.comparison.name: outcome_to_json(outcome)
            for outcome in result.outcomes.features
        },
    }
    title = f"{result.model.name}: new data and training data"
    page = render_report(
        title,
        summarize(result),
        result.outcomes,
        result.max_psi,
    )
    write_json(contents, folder)
    (folder / "report.html").write_text(page, encoding="utf-8")


def write_json(contents: dict[str, Any], folder: Path) -> None:
    """Write `drift.json` into a folder."""
    text = json.dumps(contents, indent=2, ensure_ascii=False)
    (folder / "drift.json").write_text(text, encoding="utf-8")


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Return the PSI, the bins and the drift of a feature or the predictions as JSON."""
    bins = outcome.comparison.bins
    return {
        "psi": outcome.comparison.psi,
        "drift": outcome.drift,
        "bins": None if bins is None else asdict(bins),
    }


def log_metrics(result: DriftResult, folder: Path) -> None:
    """Log the verdict, the PSI of the features that moved the most, and the report."""
    psi_by_name = {
        outcome.comparison.name: outcome.comparison.psi
        for outcome in [
            *result.outcomes.features,
            result.outcomes.predictions,
            *result.outcomes.probabilities,
        ]
        if outcome.comparison.psi is not None
    }
    names = sorted(psi_by_name, key=lambda name: -psi_by_name[name])
    metrics: dict[str, float] = {
        "rows": result.rows,
        "drifted": sum(bool(outcome.drift) for outcome in result.outcomes.all_outcomes),
    }
    for name in names[: MOST_METRICS - len(metrics)]:
        # MLflow allows no other characters in the name of a metric.
        metric = re.sub(r"[^\w .:/-]", "_", f"psi {name}")
        metrics[metric] = psi_by_name[name]
    verdict = "drift" if metrics["drifted"] else "no drift"
    with mlflow.start_run():
        # The command `runs` shows these tags.
        mlflow.set_tags({"verdict": verdict, "version": result.model.version})
        mlflow.log_metrics(metrics)
        mlflow.log_artifacts(str(folder))


def main() -> None:
    """Run the step with the arguments of the command line.

    Exits with a message if there is drift and `--on-drift` is "stop", if the data cannot be
    compared, or if a file cannot be read or written.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--drift-report", type=Path, required=True)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--model-version", default="latest")
    parser.add_argument("--max-psi", type=float, default=0.2)
    parser.add_argument("--ignore", nargs="*", default=[])
    parser.add_argument("--on-drift", choices=["warn", "stop"], default="warn")
    args = parser.parse_args()
    try:
        monitor(
            args.prepared,
            args.drift_report,
            model_name=args.model_name,
            model_version=args.model_version,
            max_psi=args.max_psi,
            ignore=args.ignore,
            on_drift=args.on_drift,
        )
    except MonitorError as error:
        sys.exit(f"monitor: {error}")
    except OSError as error:
        sys.exit(f"monitor: a file cannot be read or written: {error}")


if __name__ == "__main__":
    main()
