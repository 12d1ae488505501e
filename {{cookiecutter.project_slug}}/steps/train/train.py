"""Train a model on prepared data, and hold some rows out for its evaluation.

The model is gradient-boosted trees, which need no scaling of numbers and no filling of
gaps. Everything that is learned from the data is saved with the model. So are the columns
that it needs, what it predicts, and the rule by which rows were held out.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
    RowSettings,
    choose_split,
    divide_rows,
    drop_repeated_rows,
    list_excluded_columns,
    note_columns,
    read_training_table,
    select_features,
)
from training_schema import complete_schema, read_schema, save_schema

# The score on the training rows is measured on about this many of them.
SCORED_ROWS = 10_000
# The number of a fold that no row is judged in. Rows of this fold are always trained on.
NO_FOLD = FOLDS
# The types of columns in the signature of a model, by the kinds of NumPy's types.
SIGNATURE_TYPES = {"f": "double", "M": "datetime", "O": "string"}


def build_model(
    features: pd.DataFrame,
    task: str,
    seed: int,
    max_iterations: int = 200,
    **hyperparameters: Any,
) -> Pipeline:
    """Return an untrained pipeline for features that are numbers, dates and text.

    `hyperparameters` are the other ones below `training.hyperparameters` in settings.yml.
    They are passed on to scikit-learn's HistGradientBoosting models.
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
    # The early stopping of scikit-learn would put rows of one group on both sides.
    # `prepare_model` chooses the number of trees by a cross-validation that does not.
    defaults = {"max_iter": max_iterations, "early_stopping": False}
    model = trees[task](
        categorical_features=range(len(texts)),
        random_state=seed,
        **{**defaults, **hyperparameters},
    )
    return Pipeline([("encode", ColumnTransformer(columns)), ("model", model)])


def encode_dates(dates: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return three numbers for each date: a time, the month and the day of the week.

    The time is the number of days since 1970, with a fraction.
    """
    numbers = []
    for name in dates:
        column = dates[name]
        # Microseconds are used, because times in nanoseconds end in the year 2262.
        times = column.to_numpy("datetime64[us]").astype("timedelta64[us]")
        days = times / np.timedelta64(1, "D")
        numbers += [days, column.dt.month, column.dt.dayofweek]
    return np.column_stack(numbers)


@dataclass(frozen=True)
class TrainingData:
    """The rows to train on, and how they are divided for cross-validation."""

    features: pd.DataFrame
    target: pd.Series
    task: str
    seed: int
    #: The number of the fold of each row, for choosing the number of trees.
    fold_numbers: npt.NDArray[np.int64]
    #: The folds by which a search judges hyperparameters.
    search_folds: Sequence[Fold] = ()


@dataclass(frozen=True)
class PreparedInputs:
    """Everything that training needs to know about the prepared rows."""

    data: TrainingData
    holdout: pl.DataFrame
    split: Split | TimeSplit
    #: The dates of the training rows, if rows are held out by date.
    dates: pd.Series | None
    #: How prep read the columns, or None if it did not say so.
    schema: dict[str, Any] | None
    profile: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class TrainedModel:
    """A trained pipeline, the parameters of its training, and the search for them."""

    pipeline: Pipeline
    parameters: dict[str, Any]
    search_result: SearchResult | None


@dataclass(frozen=True)
class ModelDescription:
    """The metadata that is saved with a model.

    `holdout_column` is empty if rows were held out at random. `parameters` are as MLflow
    shows them, as text.
    """

    task: str
    target: str
    keys: list[str]
    split: Split | TimeSplit
    baseline: str
    holdout_column: str = ""
    training_rows: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)
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
    is_date_note_hidden: bool = False,
    seed: int = 42,
    hyperparameters: Mapping[str, Any],
    search: Search | None = None,
) -> None:
    """Train on the Parquet parts in `prepared`; write the model and the held-out rows.

    RowSettings explains the settings of the rows. A `search` replaces the hyperparameters
    by the best ones that it finds. Parameters and metrics go to MLflow.

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
        is_date_note_hidden=is_date_note_hidden,
    )
    inputs = prepare_inputs(prepared, settings)
    print_notes(inputs.notes)
    check_hyperparameters("training.hyperparameters", hyperparameters, inputs.data)

    with mlflow.start_run():
        trained = train_and_log(inputs, settings, hyperparameters, search)
    save_files(trained, inputs, settings, model)
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


def prepare_inputs(prepared: Path, settings: RowSettings) -> PreparedInputs:
    """Read the prepared rows, and divide them into training rows and held-out rows.

    Raises DataError if no model can be trained on them.
    """
    target = settings.target
    keys = settings.keys
    prepared_rows = read_training_table(
        prepared, target=target, keys=keys, task=settings.task
    )
    table, notes = drop_repeated_rows(prepared_rows, keys)
    split = choose_split(table, settings)
    divided = divide_rows(table, split, target, keys, settings.group)
    notes += divided.notes
    notes += note_columns(table, split, settings)

    training = divided.training
    features = select_features(training, list_excluded_columns(settings))
    fold_numbers = divide_into_folds(training, split)
    data = TrainingData(
        features=features,
        target=training[target].to_pandas(),
        task=settings.task,
        seed=settings.seed,
        fold_numbers=fold_numbers,
        search_folds=list_folds(training, fold_numbers, split),
    )

    dates = None
    if isinstance(split, TimeSplit):
        dates = training[split.column].to_pandas()
    schema = read_schema(prepared)
    if schema is not None:
        schema = complete_schema(schema, table, list(features))
    return PreparedInputs(
        data=data,
        holdout=divided.holdout,
        split=split,
        dates=dates,
        schema=schema,
        profile=describe_training_data(prepared_rows, training, features, keys),
        notes=notes,
    )


def divide_into_folds(
    training: pl.DataFrame, split: Split | TimeSplit
) -> npt.NDArray[np.int64]:
    """Return the number of a fold for each training row.

    Rows of one group are in the same fold. If rows are held out by date, only the last
    fifth of the training days is a fold, so that the number of trees is judged on later
    rows, too.
    """
    if isinstance(split, Split):
        # With another seed, the folds do not depend on which rows were held out.
        other_split = Split(split.by, (split.seed + 1) % 2**32, split.fraction)
        groups = other_split.groups(training)
        return (groups % np.uint64(FOLDS)).astype(np.int64)

    dates = get_column(training, split.column).cast(DATE)
    is_late = (dates >= dates.quantile(0.8)).fill_null(value=False)
    return np.where(is_late.to_numpy(), 0, NO_FOLD)


# The fit


def train_and_log(
    inputs: PreparedInputs,
    settings: RowSettings,
    hyperparameters: Mapping[str, Any],
    search: Search | None,
) -> TrainedModel:
    """Train a model, and log its parameters and metrics to the active MLflow run.

    If there is a `search`, the model gets the best hyperparameters that it finds.
    """
    search_result = None
    if search is not None:
        search_result = search_hyperparameters(search, inputs.data, hyperparameters)
        hyperparameters = search_result.best_hyperparameters
        print_notes(describe_search(search_result))

    pipeline = fit_model(inputs.data, hyperparameters)
    parameters = {
        "task": settings.task,
        "target": settings.target,
        "test_fraction": settings.test_fraction,
        "seed": settings.seed,
        **hyperparameters,
    }
    mlflow.log_params(parameters)
    mlflow.log_metrics(measure_training(pipeline, inputs, search_result))
    return TrainedModel(pipeline, parameters, search_result)


def fit_model(data: TrainingData, hyperparameters: Mapping[str, Any]) -> Pipeline:
    """Return a pipeline that is trained on all training rows.

    Raises DataError if the library of the model refuses a hyperparameter.
    """
    with explain_refusal():
        pipeline = prepare_model(data, hyperparameters)
        pipeline.fit(data.features, data.target)
    return pipeline


def prepare_model(data: TrainingData, hyperparameters: Mapping[str, Any]) -> Pipeline:
    """Return an untrained pipeline with all its hyperparameters.

    If the model adds trees one after another, their number is chosen by cross-validation.
    It is not if `early_stopping` is a hyperparameter: then the user has decided about it.

    Raises TypeError or ValueError if scikit-learn refuses a hyperparameter.
    """
    pipeline = build_model(data.features, data.task, data.seed, **hyperparameters)
    if can_choose_iterations(pipeline) and "early_stopping" not in hyperparameters:
        iterations = choose_iterations(
            pipeline, data.features, data.target, data.fold_numbers
        )
        pipeline[-1].set_params(max_iter=iterations)
    return pipeline


@contextmanager
def explain_refusal() -> Iterator[None]:
    """Raise DataError where the library of the model refuses its hyperparameters or data.

    scikit-learn raises TypeError or ValueError, and other libraries an error of their own
    such as LightGBMError. Other built-in errors are faults of code: they are not caught, so
    that their traceback is seen.
    """
    try:
        yield
    except CannotJudge:
        # The metric is at fault, not the model.
        raise
    except Exception as error:
        is_of_a_library = type(error).__module__ != "builtins"
        if not is_of_a_library and not isinstance(error, (TypeError, ValueError)):
            raise
        raise DataError(f"The model cannot be trained: {error}") from None


def measure_training(
    pipeline: Pipeline, inputs: PreparedInputs, search_result: SearchResult | None
) -> dict[str, float]:
    """Return the metrics of the training by their names in MLflow.

    The model is scored on some of its training rows only, because scoring all of them may
    take as long as the fit. Raises DataError if it cannot be scored.
    """
    data = inputs.data
    rows, columns = data.features.shape
    every_nth_row = slice(None, None, math.ceil(rows / SCORED_ROWS))
    with explain_refusal():
        score = pipeline.score(data.features[every_nth_row], data.target[every_nth_row])
    measured = {
        "features": columns,
        "training_rows": rows,
        "holdout_rows": len(inputs.holdout),
        "training_score": float(score),
    }
    if can_choose_iterations(pipeline):
        measured["iterations"] = pipeline[-1].n_iter_
    if search_result is not None and search_result.best_score is not None:
        measured[f"cv_{search_result.metric}"] = search_result.best_score
    return measured


# Hyperparameters


def search_hyperparameters(
    search: Search, data: TrainingData, hyperparameters: Mapping[str, Any]
) -> SearchResult:
    """Try hyperparameters on the training rows, and return the score of each try.

    Raises DataError if `build_model` does not accept a name of the search, or if the
    hyperparameters of settings.yml cannot be tried.
    """
    # An unknown name fails with any value, so one value of each is enough.
    examples = {
        name: values[0] if isinstance(values, list) else values["low"]
        for name, values in search.space.items()
    }
    check_hyperparameters("training.search.space", examples, data)

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
    except CannotJudge as error:
        raise DataError(
            f"training.search cannot judge its tries by {search.metric}: {error}. Choose"
            " another training.metric, or delete training.search, in settings.yml."
        ) from None


def measure_hyperparameters(
    hyperparameters: Mapping[str, Any], data: TrainingData, metric: str
) -> float:
    """Return the metric of a model with these hyperparameters, by cross-validation.

    Raises DataError if the library of the model refuses a hyperparameter, or CannotJudge if
    the metric has no value.
    """
    with explain_refusal():
        pipeline = prepare_model(data, hyperparameters)
        return cross_validate(
            pipeline, data.features, data.target, data.search_folds, data.task, metric
        )


def check_hyperparameters(
    setting: str, hyperparameters: Mapping[str, Any], data: TrainingData
) -> None:
    """Raise DataError if `build_model` does not accept the name of a hyperparameter.

    `setting` is where the names are in settings.yml. The message lists all unknown names,
    each with the most similar name that is accepted.
    """
    if can_build_model(hyperparameters, data):
        return

    arguments, other_names = list_hyperparameters(data)
    problems = []
    for name, value in hyperparameters.items():
        # If `build_model` has this argument, its value is wrong, and not its name.
        if name in arguments or can_build_model({name: value}, data):
            continue
        similar = difflib.get_close_matches(name, arguments | other_names, n=1)
        fix = "delete it"
        # A parameter of the model that is refused is one that `build_model` sets itself.
        if similar and similar[0] != name:
            fix = f"write {similar[0]}"
        problems.append(
            f"{setting} names {name}, which build_model in steps/train/train.py does not"
            f" take: {fix}."
        )
    if problems:
        raise DataError(" ".join(problems))


def can_build_model(hyperparameters: Mapping[str, Any], data: TrainingData) -> bool:
    """Return whether `build_model` accepts some hyperparameters."""
    try:
        build_model(data.features, data.task, data.seed, **hyperparameters)
    except (TypeError, ValueError):
        return False
    return True


def list_hyperparameters(data: TrainingData) -> tuple[set[str], set[str]]:
    """Return the names of the arguments of `build_model`, and those that it passes on.

    The latter are the parameters of its model. There are none if `build_model` has no
    `**hyperparameters`.
    """
    parameters = inspect.signature(build_model).parameters.values()
    kinds = {parameter.name: parameter.kind for parameter in parameters}
    arguments = {
        name
        for name, kind in kinds.items()
        if kind is not inspect.Parameter.VAR_KEYWORD
    }
    arguments -= {"features", "task", "seed"}
    if inspect.Parameter.VAR_KEYWORD not in kinds.values():
        return arguments, set()

    model = build_model(data.features, data.task, data.seed)[-1]
    # The parameters of a model inside of another one have a prefix, such as `estimator__`.
    passed_on = {name.rpartition("__")[2] for name in model.get_params()}
    return arguments, passed_on


# The files


def save_files(
    trained: TrainedModel, inputs: PreparedInputs, settings: RowSettings, folder: Path
) -> None:
    """Save the model, its baseline, and the files that describe its training.

    The profile also describes the model's predictions for the held-out rows.
    """
    data = inputs.data
    baseline = fit_baseline(data.target, data.task, inputs.dates)
    description = ModelDescription(
        task=data.task,
        target=settings.target,
        keys=list(settings.keys),
        split=inputs.split,
        baseline=baseline.name,
        holdout_column=settings.holdout_column or "",
        training_rows=len(data.features),
        parameters={name: str(value) for name, value in trained.parameters.items()},
        notes=inputs.notes,
    )
    save_model(trained.pipeline, data.features, description, baseline, folder)

    if trained.search_result is not None:
        save_search(trained.search_result, folder)
    if inputs.schema is not None:
        save_schema(inputs.schema, folder)
    profile_of_predictions = describe_predictions(
        trained.pipeline, inputs.holdout, data.features, data.task
    )
    save_profile({**inputs.profile, **profile_of_predictions}, folder)


def save_model(
    pipeline: Pipeline,
    features: pd.DataFrame,
    description: ModelDescription,
    baseline: Baseline,
    folder: Path,
) -> None:
    """Save a trained pipeline as an MLflow model, with its description and its baseline.

    The signature of the model names the features and their types. The file `baseline.pkl`
    holds the baseline. The file `split.pkl` holds the rule by which rows were held out. Its
    code is saved too, so that later changes to the code do not change this rule.
    """
    columns = [
        ColSpec(SIGNATURE_TYPES[dtype.kind], name, required=False)
        for name, dtype in features.dtypes.items()
    ]
    # The code of this step is saved too, so that the model needs no file of this project.
    modules = find_modules_of_this_step()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    requirements = list_requirements(pipeline, [module.__name__ for module in modules])
    # MLflow warns about cloudpickle, but only cloudpickle can save any pipeline.
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
    """Return this module, and the modules in its folder that have been imported."""
    names = {path.stem for path in Path(__file__).parent.glob("*.py")}
    names.add(__name__)
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


def write_holdout(rows: pl.DataFrame, folder: Path) -> None:
    """Write the held-out rows as a Parquet file. Raises OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rows.write_parquet(folder / "holdout.parquet")
    except pl.exceptions.PolarsError as error:
        # polars raises this error if the disk is full.
        raise OSError(f"{folder / 'holdout.parquet'}: {error}") from None


# The command line


def parse_hyperparameters(arguments: Sequence[str]) -> dict[str, Any]:
    """Return hyperparameters from the arguments `NAME VALUE NAME VALUE ...`.

    A value that is not a Python literal, such as `sqrt`, is text.
    """
    hyperparameters: dict[str, Any] = {}
    names = arguments[::2]
    texts = arguments[1::2]
    for name, text in zip(names, texts, strict=True):
        hyperparameters[name] = text
        with suppress(SyntaxError, ValueError):
            hyperparameters[name] = ast.literal_eval(text)
    return hyperparameters


def main() -> None:
    """Run the step with the arguments of the command line.

    Exits with a message if no model can be trained, or if a file cannot be read or written.
    """
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
    parser.add_argument(
        "--holdout-by", choices=["random"], help="hide the note on a column of dates"
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
            is_date_note_hidden=args.holdout_by == "random",
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
