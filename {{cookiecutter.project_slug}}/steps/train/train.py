"""Train a model on prepared data, and hold some rows out for its evaluation.

Gradient-boosted trees that take a table as it is. Whatever is learned from the data is
part of the saved model, and so is what it predicts and which rows it has never seen.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from baseline import Baseline, fit_baseline
from cross_validation import CannotJudge, Fold, cross_validate, list_folds
from iterations import FOLDS, can_choose_iterations, choose_iterations
from mlflow.types import ColSpec, Schema
from model_requirements import list_requirements
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
from split import DATE, Split, TimeSplit, get_column
from training_profile import (
    describe_predictions,
    describe_training_data,
    save_profile,
)
from training_rows import (
    DataError,
    choose_split,
    divide_rows,
    drop_repeated_rows,
    note_dates,
    note_odd_columns,
    read_training_table,
    select_features,
)
from training_schema import complete_schema, read_schema, save_schema

SCORED_ROWS = 10_000  # about so many give the score on the training rows
# The types of a model's signature by the kinds of NumPy's types.
SIGNATURE_TYPES = {"f": "double", "M": "datetime", "O": "string"}


def build_model(
    features: pd.DataFrame,
    task: str,
    seed: int,
    max_iterations: int = 200,
    **hyperparameters: Any,
) -> Pipeline:
    """Return an untrained pipeline for features that are numbers, dates and texts.

    The hyperparameters are those of `training.hyperparameters` in settings.yml. They are
    passed on to scikit-learn's HistGradientBoosting models.
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
    trees = {
        "classification": ensemble.HistGradientBoostingClassifier,
        "regression": ensemble.HistGradientBoostingRegressor,
    }
    # scikit-learn's early stopping would divide rows of one group. `fit_model` chooses the
    # number of trees by its own cross-validation, which does not.
    defaults = {"max_iter": max_iterations, "early_stopping": False}
    model = trees[task](
        categorical_features=range(len(texts)),
        random_state=seed,
        **{**defaults, **hyperparameters},
    )
    return Pipeline([("encode", ColumnTransformer(columns)), ("model", model)])


def encode_dates(dates: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return three numbers for each column of dates.

    They are the days since 1970 with their fraction, the month and the day of the week.
    """
    numbers = []
    for name in dates:
        column = dates[name]
        # In microseconds, as nanoseconds end in the year 2262.
        times = column.to_numpy("datetime64[us]").astype("timedelta64[us]")
        days = times / np.timedelta64(1, "D")
        numbers += [days, column.dt.month, column.dt.dayofweek]
    return np.column_stack(numbers)


@dataclass(frozen=True)
class ModelDescription:
    """What a saved model says about itself, beside the columns in its signature."""

    task: str
    target: str
    keys: list[str]
    split: Split | TimeSplit
    baseline: str
    holdout_column: str = ""  # Rows are held out from a date in this column on.
    training_rows: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)  # as MLflow has them
    notes: list[str] = field(default_factory=list)


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
    seed: int = 42,
    hyperparameters: Mapping[str, Any],
    search: Search | None = None,
) -> None:
    """Train on the Parquet parts in `prepared`; write the model and the held-out rows.

    Rows with the same value of the column `group` are all trained on or all held out. If
    `holdout_column` is given, the rows from the date `holdout_from` on are held out, else
    the share `test_fraction` at random. A `search` replaces the hyperparameters by the
    best ones that it finds.

    Parameters and metrics go to MLflow. Raises DataError if no model can be trained on
    this data.
    """
    prepared_rows = read_training_table(prepared, target=target, keys=keys, task=task)
    table, notes = drop_repeated_rows(prepared_rows, keys)
    split = choose_split(
        table,
        target=target,
        task=task,
        keys=keys,
        group=group,
        seed=seed,
        fraction=test_fraction,
        holdout_column=holdout_column,
        holdout_from=holdout_from,
    )
    divided = divide_rows(table, split, target, keys, group)
    not_features = [target, *keys]
    if group is not None:
        not_features.append(group)
    notes += divided.notes
    notes += note_odd_columns(table, target=target, excluded=not_features, task=task)
    if isinstance(split, Split):
        notes += note_dates(
            table, target=target, excluded=not_features, fraction=test_fraction
        )
    for note in notes:
        print(f"note: {note}")

    features = select_features(divided.training, not_features)
    answers = divided.training[target].to_pandas()
    held_out = divided.holdout
    folds = divide_into_folds(divided.training, split)
    judged_folds = list_folds(divided.training, folds, split)
    dates = None
    if isinstance(split, TimeSplit):
        dates = divided.training[split.column].to_pandas()
    schema = read_schema(prepared)
    if schema is not None:
        schema = complete_schema(schema, table, list(features))
    profile = describe_training_data(prepared_rows, divided.training, features, keys)
    # The fit needs the memory of these.
    del prepared_rows, table, divided

    rows, columns = features.shape
    search_result = None
    with mlflow.start_run():
        if search is not None:
            search_result = search_hyperparameters(
                search,
                features,
                answers,
                task,
                seed,
                hyperparameters,
                folds,
                judged_folds,
            )
            hyperparameters = search_result.best_hyperparameters
            for note in describe_search(search_result):
                print(f"note: {note}")
        pipeline, training_score = fit_model(
            features, answers, task, seed, hyperparameters, folds
        )
        baseline = fit_baseline(answers, task, dates)
        parameters = {
            "task": task,
            "target": target,
            "test_fraction": test_fraction,
            "seed": seed,
            **hyperparameters,
        }
        mlflow.log_params(parameters)
        if search_result is not None:
            mlflow.log_metric(f"cv_{search_result.metric}", search_result.best_score)
        if can_choose_iterations(pipeline):
            mlflow.log_metric("iterations", pipeline[-1].n_iter_)
        mlflow.log_metrics(
            {
                "features": columns,
                "training_rows": rows,
                "holdout_rows": len(held_out),
                "training_score": training_score,
            }
        )
    description = ModelDescription(
        task,
        target,
        list(keys),
        split,
        baseline.name,
        holdout_column=holdout_column or "",
        training_rows=rows,
        parameters={name: str(value) for name, value in parameters.items()},
        notes=notes,
    )
    save_model(pipeline, features, description, baseline, model)
    if search_result is not None:
        save_search(search_result, model)
    if schema is not None:
        save_schema(schema, model)
    profile["predictions"] = describe_predictions(pipeline, held_out, features, task)
    save_profile(profile, model)
    write_holdout(held_out, holdout)
    print(f"{rows} rows with {columns} features trained on, {len(held_out)} held out")


def fit_model(
    features: pd.DataFrame,
    answers: pd.Series,
    task: str,
    seed: int,
    hyperparameters: Mapping[str, Any],
    folds: npt.NDArray[np.int64],
) -> tuple[Pipeline, float]:
    """Return a trained pipeline, and its score on some of the rows it was trained on.

    Raises DataError, with the words of scikit-learn, if it refuses a hyperparameter.
    """
    # Only some rows are scored, because scoring all of them may take as long as the fit.
    sample = slice(None, None, math.ceil(len(features) / SCORED_ROWS))
    try:
        pipeline = prepare_model(features, answers, task, seed, hyperparameters, folds)
        pipeline.fit(features, answers)
        score = pipeline.score(features[sample], answers[sample])
    except (TypeError, ValueError) as error:
        raise DataError(f"The model cannot be trained: {error}") from None
    return pipeline, float(score)


def prepare_model(
    features: pd.DataFrame,
    answers: pd.Series,
    task: str,
    seed: int,
    hyperparameters: Mapping[str, Any],
    folds: npt.NDArray[np.int64],
) -> Pipeline:
    """Return an untrained pipeline with all its hyperparameters.

    If the model adds trees one by one, it gets as many as predict best what they were not
    trained on, by `choose_iterations`, but not if `early_stopping` is a hyperparameter.

    Raises TypeError or ValueError if scikit-learn refuses a hyperparameter.
    """
    pipeline = build_model(features, task, seed, **hyperparameters)
    if can_choose_iterations(pipeline) and "early_stopping" not in hyperparameters:
        iterations = choose_iterations(pipeline, features, answers, folds)
        pipeline[-1].set_params(max_iter=iterations)
    return pipeline


def search_hyperparameters(
    search: Search,
    features: pd.DataFrame,
    answers: pd.Series,
    task: str,
    seed: int,
    hyperparameters: Mapping[str, Any],
    folds: npt.NDArray[np.int64],
    judged_folds: list[Fold],
) -> SearchResult:
    """Try hyperparameters on the training rows, and return the score of each try.

    The score of a try is measured on `judged_folds`. `folds` has the number of the fold of
    each row, by which the number of trees is chosen within a try.

    Raises DataError if the search has names that `build_model` does not take, or if the
    hyperparameters of settings.yml cannot be tried.
    """
    check_names(search, features, task, seed)
    measure = partial(
        measure_hyperparameters,
        features=features,
        answers=answers,
        task=task,
        seed=seed,
        folds=folds,
        judged_folds=judged_folds,
        metric=search.metric,
    )
    fingerprint = compute_fingerprint(
        features, answers, judged_folds, task=task, seed=seed, metric=search.metric
    )
    candidates = draw_candidates(search, hyperparameters, seed)
    try:
        return run_search(
            search, candidates, measure, fingerprint=fingerprint, rows=len(features)
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"The model cannot be trained: {error}") from None
    except CannotJudge as error:
        raise DataError(
            f"training.search cannot judge its tries by {search.metric}: {error}. Choose"
            " another training.metric, or delete training.search, in settings.yml."
        ) from None


def measure_hyperparameters(
    hyperparameters: Mapping[str, Any],
    *,
    features: pd.DataFrame,
    answers: pd.Series,
    task: str,
    seed: int,
    folds: npt.NDArray[np.int64],
    judged_folds: list[Fold],
    metric: str,
) -> float:
    """Return the metric of a model with these hyperparameters, by cross-validation."""
    pipeline = prepare_model(features, answers, task, seed, hyperparameters, folds)
    return cross_validate(pipeline, features, answers, judged_folds, task, metric)


def check_names(search: Search, features: pd.DataFrame, task: str, seed: int) -> None:
    """Raise DataError if the space has names that `build_model` does not take.

    The message lists all unknown names, each with the most similar accepted one.
    """
    parameters = inspect.signature(build_model).parameters.values()
    accepted = {
        parameter.name
        for parameter in parameters
        if parameter.kind != parameter.VAR_KEYWORD
    }
    accepted -= {"features", "task", "seed"}
    accepted |= set(build_model(features, task, seed)[-1].get_params(deep=False))
    problems = []
    for name, values in search.space.items():
        # An unknown name fails with any value, so the first one is enough.
        value = values[0] if isinstance(values, list) else values["low"]
        try:
            build_model(features, task, seed, **{name: value})
        except (TypeError, ValueError):
            similar = difflib.get_close_matches(name, accepted, n=1)
            fix = f"write {similar[0]}" if similar else "delete it"
            problems.append(
                f"training.search.space names {name}, which build_model in"
                f" steps/train/train.py does not take: {fix}."
            )
    if problems:
        raise DataError(" ".join(problems))


def divide_into_folds(
    training: pl.DataFrame, split: Split | TimeSplit
) -> npt.NDArray[np.int64]:
    """Return the fold of each training row, in which rows of one group are together.

    If rows are held out from a date on, the last fifth of the days is fold 0, and no other
    row is in a fold that is judged. So the number of trees is tried on later rows too.
    """
    if isinstance(split, Split):
        # Another seed, as the rows were divided by this one.
        other_split = Split(split.by, (split.seed + 1) % 2**32, split.fraction)
        return (other_split.groups(training) % np.uint64(FOLDS)).astype(np.int64)
    dates = get_column(training, split.column).cast(DATE)
    is_late = (dates >= dates.quantile(0.8)).fill_null(value=False)
    return np.where(is_late.to_numpy(), 0, FOLDS)


def save_model(
    pipeline: Pipeline,
    features: pd.DataFrame,
    description: ModelDescription,
    baseline: Baseline,
    folder: Path,
) -> None:
    """Save a trained pipeline as an MLflow model that describes itself.

    Its signature names the columns of the features and their types, and its metadata is
    the description. The file `split.pkl` is the rule by which rows were held out, with
    its code, so that a later change of that code leaves this model's rule as it is. The
    file `baseline.pkl` is the baseline of the same training rows.
    """
    columns = [
        ColSpec(SIGNATURE_TYPES[dtype.kind], name, required=False)
        for name, dtype in features.dtypes.items()
    ]
    # Saved with the code of this step, so that the model needs no file of this project.
    modules = find_modules_of_this_step()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    requirements = list_requirements(pipeline, [module.__name__ for module in modules])
    # MLflow warns of cloudpickle, which is chosen on purpose: it saves any pipeline.
    logger = logging.getLogger("mlflow.sklearn")
    logger.addFilter(lambda record: "cloudpickle" not in record.getMessage())
    mlflow.sklearn.save_model(
        pipeline,
        folder,
        serialization_format="cloudpickle",
        pip_requirements=requirements,
        signature=mlflow.models.ModelSignature(Schema(columns)),
        metadata=asdict(description),
    )
    (folder / "split.pkl").write_bytes(cloudpickle.dumps(description.split))
    (folder / "baseline.pkl").write_bytes(cloudpickle.dumps(baseline.model))


def find_modules_of_this_step() -> list[ModuleType]:
    """Return this module and the imported ones whose files lie beside it."""
    names = {path.stem for path in Path(__file__).parent.glob("*.py")}
    names.add(__name__)
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


def write_holdout(rows: pl.DataFrame, folder: Path) -> None:
    """Write the held-out rows as a Parquet file. Raises OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rows.write_parquet(folder / "holdout.parquet")
    except pl.exceptions.PolarsError as error:  # so it calls a full disk
        raise OSError(f"{folder / 'holdout.parquet'}: {error}") from None


def parse_hyperparameters(words: Sequence[str]) -> dict[str, Any]:
    """Return the hyperparameters of a command line, `NAME VALUE NAME VALUE ...`.

    A value is what Python reads it as, else text.
    """
    hyperparameters: dict[str, Any] = {}
    for name, text in zip(words[::2], words[1::2], strict=True):
        hyperparameters[name] = text
        with suppress(SyntaxError, ValueError):
            hyperparameters[name] = ast.literal_eval(text)
    return hyperparameters


def main() -> None:
    """Train as the command line says; end with one sentence if that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--holdout", type=Path, required=True)
    parser.add_argument(
        "--task", choices=["classification", "regression"], required=True
    )
    parser.add_argument("--target", required=True)
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--group")
    parser.add_argument("--test-fraction", type=float, default=0.2)
    parser.add_argument("--holdout-column")
    parser.add_argument("--holdout-from")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--search", help="training.search of settings.yml as JSON")
    # The last one, as it takes all that follows: a value may begin with a hyphen.
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
