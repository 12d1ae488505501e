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

# The model predicts about this many of the new rows.
PREDICTED_ROWS = 10_000
# Probabilities are rounded to as many digits as those in the profile.
PROBABILITY_DIGITS = 4
# The screen shows at most this many notes. All of them are in the report.
SHOWN_NOTES = 20
# The summary names at most this many features.
SHOWN_NAMES = 3
# Azure ML limits the number of metrics that a run can have.
MOST_METRICS = 100
# MLflow refuses longer names of metrics.
MOST_NAME_CHARACTERS = 250
# The name of the column of predictions.
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
    """Compare the rows in the folder `prepared` with the profile of a registered model.

    Writes a report to the folder `drift_report`, and logs it to MLflow. A PSI above
    `max_psi` may be drift. Features in `ignore` are left out.

    Raises MonitorError if there is drift and `on_drift` is "stop", or if the data cannot be
    compared.
    """
    model = load_scoring_model(model_name, model_version, prepared)
    drift_report.mkdir(parents=True, exist_ok=True)
    if model.profile is None:
        report_missing_profile(model, prepared, drift_report)
        return

    note_unknown_names(ignore, model.profile)
    result = compare_with_training(prepared, model, model.profile, max_psi, ignore)
    write_report(result, drift_report)
    log_metrics(result, drift_report)
    print_notes(result)
    if result.outcomes.drift and on_drift == "stop":
        raise MonitorError(explain_stop(result, drift_report))
    print(summarize(result))


def note_unknown_names(ignore: Sequence[str], profile: Profile) -> None:
    """Print a note on each name in monitoring.ignore that is not a feature of the model."""
    for name in ignore:
        if name not in profile.features:
            print(
                f"note: monitoring.ignore names '{name}', which is not a feature of the"
                " model."
            )


def explain_stop(result: DriftResult, drift_report: Path) -> str:
    """Return a message that says why nothing is scored, and what the user can do."""
    return (
        f"{summarize(result)}. Nothing is scored, because monitoring.on_drift is 'stop'."
        " Look at report.html in the output drift_report of this step"
        f" ({drift_report}). If the data is wrong, correct it. If it is right, train again"
        " with newer data, or score it anyway with --set on_drift=warn. To leave a column"
        " out of this comparison, list it under monitoring.ignore in settings.yml."
    )


def report_missing_profile(
    model: ScoringModel, prepared: Path, drift_report: Path
) -> None:
    """Report that the data is not compared, because the model has no profile.

    Prints a note, and writes `drift.json` with the fields that the step `summarize` reads.
    There is no `report.html`.
    """
    print(
        f"note: {model.name}, version {model.version}, was saved without a profile of its"
        " training data, so new data cannot be compared with it. Train again to get one."
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
    """Compare the rows in the folder `prepared` with the profile of a model.

    Features in `ignore` are left out. Raises MonitorError if a column that the model needs,
    or a column of the keys at its training, is missing.
    """
    table = scan_parts(prepared)
    column_names = table.collect_schema().names()
    for name in model.columns:
        if name not in column_names:
            raise MonitorError(f"The column '{name}' is missing; the model needs it.")
    for name in profile.repeats.keys:
        if name not in column_names:
            raise MonitorError(
                f"The column '{name}' is missing. It was a key when the model was trained,"
                " so repeated rows are counted by it. List it under data.keys in"
                " settings.yml again, or train again with the present keys."
            )

    feature_profiles = {
        name: column for name, column in profile.features.items() if name not in ignore
    }
    # Without keys, a row repeats an earlier one if all features are the same.
    repeat_columns = list(profile.repeats.keys) or list(profile.features)
    new = count_new_rows(
        table,
        feature_profiles,
        repeat_columns,
        sampled_columns=list(model.columns),
        sampled_rows=PREDICTED_ROWS,
    )
    features = [
        compare_column(name, column, new.columns[name])
        for name, column in feature_profiles.items()
    ]
    repeats = compare_repeats("rows", profile.repeats, new.rows, new.repeated)
    predictions, *probabilities = compare_sample_predictions(model, profile, new.sample)

    # The significance level depends on the total number of tests, so all comparisons are
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


def compare_sample_predictions(
    model: ScoringModel, profile: Profile, sample: pl.DataFrame
) -> list[Comparison]:
    """Compare the predictions for a sample of new rows with those for held-out rows.

    The first comparison is about the predictions. The others are about the probabilities of
    the classes, if the profile has any.
    """
    predictions = predict_sample(model, profile, sample)
    profiles = {PREDICTIONS: profile.predictions, **profile.probabilities}
    # `count_new_rows` needs columns in which to count repeated rows. Repeated predictions
    # mean nothing, because many rows have the same one, so their number is not used.
    new = count_new_rows(predictions.lazy(), profiles, repeat_columns=[PREDICTIONS])
    return [
        compare_predictions(name, column, new.columns[name])
        for name, column in profiles.items()
    ]


def predict_sample(
    model: ScoringModel, profile: Profile, sample: pl.DataFrame
) -> pl.DataFrame:
    """Return the model's predictions for a sample of rows, to be compared with the profile.

    The column PREDICTIONS has the predictions. If the profile has probabilities, there is
    also a column with the probability of each class, such as "probability_Adelie".
    """
    features = select_features(sample, model.columns).to_pandas()
    predicted = pl.Series(model.pipeline.predict(features))
    if isinstance(profile.predictions, TextProfile):
        # The profile names the classes as str() does, such as "True". A cast in polars
        # would write "true".
        predicted = pl.Series([str(label) for label in predicted])
    columns = {PREDICTIONS: predicted}
    if profile.probabilities:
        probabilities = model.pipeline.predict_proba(features)
        for position, label in enumerate(model.pipeline.classes_):
            rounded = probabilities[:, position].round(PROBABILITY_DIGITS)
            columns[f"probability_{label}"] = pl.Series(rounded)
    return pl.DataFrame(columns)


def summarize(result: DriftResult) -> str:
    """Return one line that says how many rows were compared, and where there is drift.

    The line has no full stop, because messages also begin with it.
    """
    outcomes = result.outcomes
    features = len(outcomes.features)
    drifted = [
        f"'{outcome.comparison.name}'" for outcome in outcomes.features if outcome.drift
    ]
    places = []
    if drifted:
        shown_names = ", ".join(drifted[:SHOWN_NAMES])
        if len(drifted) > SHOWN_NAMES:
            shown_names += ", …"
        places.append(f"in {len(drifted)} of {features} features ({shown_names})")
    if outcomes.has_drift_of_predictions:
        places.append("in the predictions")
    if outcomes.repeats.drift:
        places.append("in repeated rows")

    compared = f"{result.rows} rows compared with version {result.model.version}"
    if not places:
        return f"{compared}: no drift in {features} features"
    return f"{compared}: drift {join_with_and(places)}"


def join_with_and(texts: Sequence[str]) -> str:
    """Return texts as an enumeration: "a", "a and b", or "a, b and c"."""
    if len(texts) == 1:
        return texts[0]
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def print_notes(result: DriftResult) -> None:
    """Print a note on each drift, but at most SHOWN_NOTES of them."""
    sentences = result.outcomes.drift
    for sentence in sentences[:SHOWN_NOTES]:
        print(f"note: drift: {sentence}")
    if len(sentences) > SHOWN_NOTES:
        print(
            f"note: {len(sentences) - SHOWN_NOTES} more notes on drift are in the drift"
            " report."
        )


def write_report(result: DriftResult, folder: Path) -> None:
    """Write the result as `drift.json` and as `report.html` into a folder."""
    write_json(result_to_json(result), folder)
    page = render_report(
        f"{result.model.name}: new data compared with training data",
        summarize(result),
        result.outcomes,
        result.max_psi,
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def write_json(contents: dict[str, Any], folder: Path) -> None:
    """Write `drift.json` into a folder."""
    text = json.dumps(contents, indent=2, ensure_ascii=False)
    (folder / "drift.json").write_text(text, encoding="utf-8")


def result_to_json(result: DriftResult) -> dict[str, Any]:
    """Return the contents of `drift.json`."""
    outcomes = result.outcomes
    return {
        "model": result.model.name,
        "version": result.model.version,
        "rows": result.rows,
        "max_psi": result.max_psi,
        "summary": summarize(result),
        "drift": outcomes.drift,
        "facts": outcomes.facts,
        "predictions": outcome_to_json(outcomes.predictions),
        "probabilities": outcomes_to_json(outcomes.probabilities),
        "features": outcomes_to_json(outcomes.features),
    }


def outcomes_to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the outcomes of several columns for `drift.json`, by the columns' names."""
    return {outcome.comparison.name: outcome_to_json(outcome) for outcome in outcomes}


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Return the PSI, the drift and the bins of a column for `drift.json`."""
    bins = outcome.comparison.bins
    return {
        "psi": outcome.comparison.psi,
        "drift": outcome.drift,
        "bins": None if bins is None else asdict(bins),
    }


def log_metrics(result: DriftResult, folder: Path) -> None:
    """Log a run to MLflow with the verdict, the largest PSIs, and the files of the report.

    At most MOST_METRICS metrics are logged. If the name of a column has characters that
    MLflow does not allow, they become underscores.
    """
    outcomes = result.outcomes
    psi_by_name = {
        outcome.comparison.name: outcome.comparison.psi
        for outcome in [
            *outcomes.features,
            outcomes.predictions,
            *outcomes.probabilities,
        ]
        if outcome.comparison.psi is not None
    }
    drifted = sum(bool(outcome.drift) for outcome in outcomes.all_outcomes)
    metrics: dict[str, float] = {"rows": result.rows, "drifted": drifted}

    largest_first = sorted(psi_by_name, key=lambda name: -psi_by_name[name])
    free_metrics = MOST_METRICS - len(metrics)
    for name in largest_first[:free_metrics]:
        # MLflow refuses other characters in the name of a metric, and some names with a
        # slash.
        metric = re.sub(r"[^\w .:-]", "_", f"psi {name}")
        metrics[metric[:MOST_NAME_CHARACTERS]] = psi_by_name[name]

    verdict = "drift" if drifted else "no drift"
    with mlflow.start_run():
        # The command `runs` of this project shows these tags.
        mlflow.set_tags({"verdict": verdict, "version": result.model.version})
        mlflow.log_metrics(metrics)
        mlflow.log_artifacts(str(folder))


def main() -> None:
    """Run the step with the arguments of the command line.

    Exits with a message if there is drift and `--on-drift` is "stop", if the data cannot be
    compared, or if a file cannot be read or written.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--prepared", type=Path, required=True, help="folder of the parts of new data"
    )
    parser.add_argument(
        "--drift-report", type=Path, required=True, help="folder to write the report to"
    )
    parser.add_argument("--model-name", required=True, help="registered model")
    parser.add_argument(
        "--model-version", default="latest", help="used if prep has recorded no version"
    )
    parser.add_argument(
        "--max-psi", type=float, default=0.2, help="a larger PSI may be drift"
    )
    parser.add_argument("--ignore", nargs="*", default=[], help="features to leave out")
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
