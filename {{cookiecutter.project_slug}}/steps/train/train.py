"""Train a model on prepared data, and hold some rows out for its evaluation.

The model is gradient-boosted trees, which need no scaling of numbers and no filling of
gaps. To use another model, replace the function `build_model`. Everything that is learned
from the data is saved with the model, and so are the columns that it needs, what it
predicts, and the rule by which rows were held out.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from baseline import Baseline, fit_baseline
from cross_validation import (
    CannotCompute,
    Fold,
    assign_fold_numbers,
    cross_validate,
    list_folds,
)
from hyperparameters import BuildFunction, check_hyperparameters, parse_hyperparameters
from iterations import can_choose_iterations, choose_iterations
from model_files import ModelDescription, save_model, write_holdout
from search import (
    Search,
    SearchResult,
    compute_fingerprint,
    describe_search,
    draw_candidates,
    read_search,
    run_search,
    save_search,
)
from sklearn import ensemble
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder
from split import Split, TimeSplit
from training_notes import note_columns, note_holdout
from training_profile import (
    describe_predictions,
    describe_training_data,
    save_profile,
)
from training_rows import (
    DataError,
    RowSettings,
    choose_split,
    divide_rows,
    drop_repeated_rows,
    list_excluded_columns,
    read_training_table,
    select_features,
)
from training_schema import complete_schema, read_schema, save_schema

# The training score is measured on about this many of the training rows.
SCORED_ROWS = 10_000


def build_model(
    features: pd.DataFrame,
    task: str,
    seed: int,
    max_iterations: int = 200,
    **hyperparameters: Any,
) -> Pipeline:
    """Return an untrained pipeline for features that are numbers, dates and text.

    `max_iterations` and `hyperparameters` come from `training.hyperparameters` in
    settings.yml. `hyperparameters` are passed on to scikit-learn's HistGradientBoosting
    models.
    """
    numbers = list(features.select_dtypes("number"))
    dates = list(features.select_dtypes("datetime"))
    texts = list(features.select_dtypes("object"))
    categories = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,  # an unseen category counts as missing
        min_frequency=5,  # rarer ones are put together
        max_categories=254,  # the trees' 255 bins, less one for missing values
    )
    columns = [
        # `categorical_features` names the categories by position, so they come first.
        ("categories", categories, texts),
        ("numbers", "passthrough", numbers),
        ("dates", FunctionTransformer(encode_dates), dates),
    ]
    model_of_task = {
        "classification": ensemble.HistGradientBoostingClassifier,
        "regression": ensemble.HistGradientBoostingRegressor,
    }
    # The early stopping of scikit-learn holds rows out at random, which may divide a group.
    # `prepare_model` chooses the number of trees by a cross-validation that keeps groups
    # together.
    defaults = {"max_iter": max_iterations, "early_stopping": False}
    model = model_of_task[task](
        categorical_features=range(len(texts)),
        random_state=seed,
        **{**defaults, **hyperparameters},
    )
    return Pipeline([("encode", ColumnTransformer(columns)), ("model", model)])


def encode_dates(dates: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return three numbers for each date: days since 1970, month, and day of the week.

    The time of day is the fraction of the days: noon of 2 January 1970 has 1.5 days. The
    days of the week are numbered from 0, which is Monday.
    """
    columns = []
    for name in dates:
        column = dates[name]
        # Microseconds are used, because 64 bits of nanoseconds reach only the year 2262.
        times = column.to_numpy("datetime64[us]").astype("timedelta64[us]")
        days = times / np.timedelta64(1, "D")
        columns += [days, column.dt.month, column.dt.dayofweek]
    return np.column_stack(columns)


def train(
    prepared: Path,
    model: Path,
    holdout: Path,
    *,
    task: str,
    target: str,
    keys: Sequence[str] = (),
    group: str | None = None,
    test_fraction: float = 0.2,
    holdout_column: str | None = None,
    holdout_from: str | None = None,
    holdout_by: str | None = None,
    seed: int = 42,
    hyperparameters: Mapping[str, Any],
    search: Search | None = None,
) -> None:
    """Train on the Parquet parts in `prepared`; write the model and the held-out rows.

    RowSettings explains the arguments from `task` to `seed`. If there is a `search`, the
    model is trained with the best hyperparameters that it finds. Parameters and metrics go
    to MLflow.

    Raises DataError if no model can be trained on this data, or with these
    hyperparameters.
    """
    settings = RowSettings(
        task=task,
        target=target,
        keys=keys,
        group=group,
        seed=seed,
        test_fraction=test_fraction,
        holdout_column=holdout_column,
        holdout_from=holdout_from,
        holdout_by=holdout_by,
    )
    inputs = prepare_inputs(prepared, settings)
    print_notes(inputs.notes)
    check_hyperparameters(
        "training.hyperparameters", hyperparameters, bind_build_model(inputs.data)
    )

    with mlflow.start_run():
        trained = train_and_log(inputs, settings, hyperparameters, search)
    save_training_results(trained, inputs, settings, model)
    write_holdout(inputs.holdout, holdout)

    rows, columns = inputs.data.features.shape
    print(
        f"{rows} rows with {columns} features trained on, {len(inputs.holdout)} held out"
    )


def print_notes(notes: Sequence[str]) -> None:
    """Print notes as lines of the log that the screen shows."""
    for note in notes:
        print(f"note: {note}")


# The rows


@dataclass(frozen=True)
class TrainingData:
    """The rows to train on, and how they are divided for cross-validation."""

    features: pd.DataFrame
    target: pd.Series
    task: str
    seed: int
    #: The fold number of each row, by which the number of trees is chosen.
    fold_numbers: npt.NDArray[np.int64]
    #: The folds by which a search compares hyperparameters.
    search_folds: Sequence[Fold] = ()


@dataclass(frozen=True)
class PreparedInputs:
    """Everything that training needs to know about the prepared rows."""

    data: TrainingData
    holdout: pl.DataFrame
    split: Split | TimeSplit
    #: The dates of the training rows, if rows are held out by date.
    dates: pd.Series | None
    #: How prep read the columns, or None if the prepared parts have no schema.
    schema: dict[str, Any] | None
    profile: dict[str, Any]
    notes: list[str]


def prepare_inputs(prepared: Path, settings: RowSettings) -> PreparedInputs:
    """Read the prepared rows, divide them, and describe them for later steps.

    The result has the training rows with their folds, the held-out rows, the schema and the
    profile that are saved with the model, and notes for the user.

    Raises DataError if no model can be trained on these rows.
    """
    target = settings.target
    keys = settings.keys
    prepared_rows = read_training_table(
        prepared, target=target, keys=keys, task=settings.task
    )
    distinct_rows, notes = drop_repeated_rows(prepared_rows, keys)

    split = choose_split(distinct_rows, settings)
    divided = divide_rows(distinct_rows, split, target, keys, settings.group)
    notes += note_holdout(distinct_rows, divided, split, settings)
    notes += note_columns(distinct_rows, split, settings)

    data = make_training_data(divided.training, split, settings)
    features = data.features
    dates = None
    if isinstance(split, TimeSplit):
        dates = divided.training[split.column].to_pandas()
    schema = read_schema(prepared)
    if schema is not None:
        schema = complete_schema(schema, distinct_rows, list(features))
    profile = describe_training_data(
        prepared_rows, divided.training, list(features), keys
    )
    return PreparedInputs(
        data=data,
        holdout=divided.holdout,
        split=split,
        dates=dates,
        schema=schema,
        profile=profile,
        notes=notes,
    )


def make_training_data(
    training: pl.DataFrame, split: Split | TimeSplit, settings: RowSettings
) -> TrainingData:
    """Return the features, the target and the folds of the rows to train on.

    Raises DataError if there are no features.
    """
    fold_numbers = assign_fold_numbers(training, split)
    return TrainingData(
        features=select_features(training, list_excluded_columns(settings)),
        target=training[settings.target].to_pandas(),
        task=settings.task,
        seed=settings.seed,
        fold_numbers=fold_numbers,
        search_folds=list_folds(training, fold_numbers, split),
    )


# The fit


@dataclass(frozen=True)
class TrainedModel:
    """A trained pipeline, the parameters that it was trained with, and their search.

    `search_result` is None if no hyperparameters were searched for.
    """

    pipeline: Pipeline
    parameters: dict[str, Any]
    search_result: SearchResult | None


def train_and_log(
    inputs: PreparedInputs,
    settings: RowSettings,
    hyperparameters: Mapping[str, Any],
    search: Search | None,
) -> TrainedModel:
    """Return a trained model; log its parameters and metrics to the active MLflow run.

    If there is a `search`, its first try has these `hyperparameters`, and the model is
    trained with the hyperparameters of the best try.
    """
    search_result = None
    best_hyperparameters = hyperparameters
    if search is not None:
        search_result = search_hyperparameters(search, inputs.data, hyperparameters)
        best_hyperparameters = search_result.best_hyperparameters
        print_notes(describe_search(search_result))

    pipeline = fit_model(inputs.data, best_hyperparameters)
    parameters = {
        "task": settings.task,
        "target": settings.target,
        **describe_split(inputs.split),
        "seed": settings.seed,
        **best_hyperparameters,
    }
    mlflow.log_params(parameters)
    mlflow.log_metrics(measure_trained_model(pipeline, inputs, search_result))
    return TrainedModel(pipeline, parameters, search_result)


def describe_split(split: Split | TimeSplit) -> dict[str, Any]:
    """Return the settings that decide which rows are held out, to be logged."""
    if isinstance(split, TimeSplit):
        return {"holdout_column": split.column, "holdout_from": split.start}
    return {"test_fraction": split.fraction}


def fit_model(data: TrainingData, hyperparameters: Mapping[str, Any]) -> Pipeline:
    """Return a pipeline that is trained on all training rows.

    Raises DataError if the library of the model refuses a hyperparameter or the data.
    """
    with explain_refusal():
        pipeline = prepare_model(data, hyperparameters)
        pipeline.fit(data.features, data.target)
    return pipeline


def prepare_model(data: TrainingData, hyperparameters: Mapping[str, Any]) -> Pipeline:
    """Return an untrained pipeline with these hyperparameters.

    For a boosting model of scikit-learn, the number of trees is chosen by cross-validation,
    up to `max_iterations`. If `early_stopping` is among the hyperparameters, the user has
    decided how training ends, so no number is chosen.

    Raises TypeError or ValueError if scikit-learn refuses a hyperparameter, and ValueError
    if a classifier cannot predict probabilities.
    """
    pipeline = build_model(data.features, data.task, data.seed, **hyperparameters)
    check_probabilities(pipeline, data.task)
    user_decides = "early_stopping" in hyperparameters
    if can_choose_iterations(pipeline) and not user_decides:
        iterations = choose_iterations(
            pipeline, data.features, data.target, data.fold_numbers
        )
        pipeline[-1].set_params(max_iter=iterations)
    return pipeline


def check_probabilities(pipeline: Pipeline, task: str) -> None:
    """Raise ValueError if a classifier cannot predict probabilities, which metrics need."""
    if task == "classification" and not hasattr(pipeline, "predict_proba"):
        raise ValueError(
            f"build_model returns a classifier, {type(pipeline[-1]).__name__}, that has no"
            " method predict_proba, but models are judged by the probabilities of the"
            " classes. Wrap it in sklearn.calibration.CalibratedClassifierCV."
        )


@contextmanager
def explain_refusal() -> Iterator[None]:
    """Raise DataError if the library of a model refuses hyperparameters or data.

    Use it as `with explain_refusal(): ...` around calls of the library. scikit-learn raises
    TypeError or ValueError, and other libraries raise classes of their own, such as
    LightGBMError. Any other built-in error is a bug in the code, and is raised unchanged,
    so that the user sees its traceback.
    """
    try:
        yield
    except CannotCompute:
        # The metric of a search is not defined for the rows. The model is not at fault.
        raise
    except Exception as error:
        is_builtin = type(error).__module__ == "builtins"
        is_bug = is_builtin and not isinstance(error, (TypeError, ValueError))
        if is_bug:
            raise
        raise DataError(f"The model cannot be trained: {error}") from None


def measure_trained_model(
    pipeline: Pipeline, inputs: PreparedInputs, search_result: SearchResult | None
) -> dict[str, float]:
    """Return the metrics of a trained model that are logged to MLflow, by their names.

    The metrics are the numbers of rows and features, the score on the training rows
    (accuracy or R²), the number of trees, and the metric of the search. Scoring all
    training rows may take as long as the fit, so only about SCORED_ROWS rows are scored.

    Raises DataError if the model cannot predict these rows.
    """
    data = inputs.data
    rows, columns = data.features.shape
    every_nth_row = slice(None, None, math.ceil(rows / SCORED_ROWS))
    with explain_refusal():
        score = pipeline.score(data.features[every_nth_row], data.target[every_nth_row])
    metrics = {
        "features": columns,
        "training_rows": rows,
        "holdout_rows": len(inputs.holdout),
        "training_score": float(score),
    }
    if can_choose_iterations(pipeline):
        metrics["iterations"] = pipeline[-1].n_iter_
    if search_result is not None and search_result.best_score is not None:
        metrics[f"cv_{search_result.metric}"] = search_result.best_score
    return metrics


# The search


def bind_build_model(data: TrainingData) -> BuildFunction:
    """Return `build_model` with the data filled in: a function of hyperparameters only."""
    return partial(build_model, data.features, data.task, data.seed)


def search_hyperparameters(
    search: Search, data: TrainingData, hyperparameters: Mapping[str, Any]
) -> SearchResult:
    """Try hyperparameters on the training rows, and return the score of each try.

    The first try uses `hyperparameters` unchanged. Raises DataError if `build_model` does
    not take a name in the search space, if the library of the model refuses the first try,
    or if the metric is not defined for these rows.
    """
    # Only the names are checked here, so any value of each hyperparameter will do: the first
    # value of a list, or the lower end of a range.
    example_values = {
        name: values[0] if isinstance(values, list) else values["low"]
        for name, values in search.space.items()
    }
    build = bind_build_model(data)
    check_hyperparameters("training.search.space", example_values, build)

    # Tries of an earlier search with the same fingerprint are reused.
    fingerprint = compute_fingerprint(
        data.features,
        data.target,
        data.search_folds,
        task=data.task,
        seed=data.seed,
        metric=search.metric,
    )
    candidates = draw_candidates(search, hyperparameters, data.seed)
    measure = partial(measure_hyperparameters, data=data, metric=search.metric)
    try:
        return run_search(
            search,
            candidates,
            measure,
            fingerprint=fingerprint,
            rows=len(data.features),
        )
    except CannotCompute as error:
        raise DataError(
            f"training.search cannot compare its tries by {search.metric}: {error}. Choose"
            " another training.metric, or delete training.search, in settings.yml."
        ) from None


def measure_hyperparameters(
    hyperparameters: Mapping[str, Any], data: TrainingData, metric: str
) -> float:
    """Return the cross-validated metric of a model with these hyperparameters.

    Raises DataError if the library of the model refuses a hyperparameter or the data, and
    CannotCompute if the metric is not defined for these rows.
    """
    with explain_refusal():
        pipeline = prepare_model(data, hyperparameters)
        return cross_validate(
            pipeline, data.features, data.target, data.search_folds, data.task, metric
        )


# The files


def save_training_results(
    trained: TrainedModel, inputs: PreparedInputs, settings: RowSettings, folder: Path
) -> None:
    """Save the model, and everything else that later steps need, into a folder.

    These are a description of the model, a baseline, the tries of the search, the schema,
    and the profile: the distributions of the training rows, and of the model's predictions
    for the held-out rows. The baseline, a model without features, is fitted here.
    """
    data = inputs.data
    baseline = fit_baseline(data.target, data.task, inputs.dates)
    description = describe_model(trained, inputs, settings, baseline)
    save_model(trained.pipeline, data.features, description, baseline, folder)

    if trained.search_result is not None:
        save_search(trained.search_result, folder)
    if inputs.schema is not None:
        save_schema(inputs.schema, folder)
    prediction_profile = describe_predictions(
        trained.pipeline, inputs.holdout, data.features, data.task
    )
    save_profile({**inputs.profile, **prediction_profile}, folder)


def describe_model(
    trained: TrainedModel,
    inputs: PreparedInputs,
    settings: RowSettings,
    baseline: Baseline,
) -> ModelDescription:
    """Return the metadata that is saved with a trained model."""
    return ModelDescription(
        task=settings.task,
        target=settings.target,
        keys=list(settings.keys),
        split=inputs.split,
        baseline=baseline.name,
        holdout_column=settings.holdout_column or "",
        training_rows=len(inputs.data.features),
        parameters={name: str(value) for name, value in trained.parameters.items()},
        notes=inputs.notes,
    )


# The command line


def main() -> None:
    """Run the step with the arguments of the command line.

    Exits with a message if no model can be trained, or if a file cannot be read or written.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--prepared", type=Path, required=True, help="folder of the prepared parts"
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="folder to write the model to"
    )
    parser.add_argument(
        "--holdout", type=Path, required=True, help="folder for the held-out rows"
    )
    parser.add_argument(
        "--task", choices=["classification", "regression"], required=True
    )
    parser.add_argument("--target", required=True, help="column to predict")
    parser.add_argument("--keys", nargs="*", default=[], help="columns of the keys")
    parser.add_argument("--group", help="column of rows that are held out together")
    parser.add_argument(
        "--test-fraction", type=float, default=0.2, help="share of rows to hold out"
    )
    parser.add_argument("--holdout-column", help="column of dates to hold out by")
    parser.add_argument("--holdout-from", help="first date to hold out")
    parser.add_argument(
        "--holdout-by", choices=["random"], help="hide the note on columns of dates"
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--search", help="training.search of settings.yml as JSON")
    # This option takes all arguments that follow, because a value may begin with a hyphen.
    parser.add_argument("--hyperparameters", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    search = read_search(args.search, args.task) if args.search else None
    try:
        train(
            args.prepared,
            args.model,
            args.holdout,
            task=args.task,
            target=args.target,
            keys=args.keys,
            group=args.group,
            test_fraction=args.test_fraction,
            holdout_column=args.holdout_column,
            holdout_from=args.holdout_from,
            holdout_by=args.holdout_by,
            seed=args.seed,
            hyperparameters=parse_hyperparameters(args.hyperparameters),
            search=search,
        )
    except DataError as error:
        sys.exit(f"train: {error}")
    except OSError as error:
        sys.exit(f"train: a file cannot be read or written: {error}")


if __name__ == "__main__":
    main()
