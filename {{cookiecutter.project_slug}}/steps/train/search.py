"""Search for better hyperparameters: try random ones, and compare them by cross-validation.

Each try is recorded as a run in MLflow, nested in the run of this step. If a search is
interrupted, the next search reuses the finished tries, and continues with the others.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import sklearn
from cross_validation import LOWER_IS_BETTER, METRICS, CannotCompute, Fold
from scipy import stats
from sklearn.model_selection import ParameterSampler
from sklearn.utils.parallel import Parallel, delayed

FILE_NAME = "search.json"
# While a step runs, the screen shows the lines of its log that begin with this text.
PROGRESS = "progress: "
# With more training rows, tries run one at a time, because each needs much memory.
MOST_ROWS_FOR_PARALLEL_TRIES = 100_000
# If joblib is given this number of jobs, it starts one for each core.
ALL_CORES = -1
# Rounding makes some draws equal, and equal draws are tried only once. So there are this
# many draws for each try.
DRAWS_PER_TRY = 20
# MLflow accepts tags of up to 8,000 characters.
MOST_ERROR_CHARACTERS = 1_000
# Drawn numbers are rounded to this many significant digits, so that people can copy them.
DIGITS = 4
# The MLflow runs of the tries have this tag. Its value is the fingerprint of their search.
TAG = "search"

Hyperparameters = dict[str, Any]
# A function that returns the metric of a model with these hyperparameters.
Measure = Callable[[Hyperparameters], float]


@dataclass(frozen=True)
class Search:
    """The hyperparameters to try, the number of tries, and the metric to compare them by.

    For each hyperparameter, `space` has a list of values, or a range such as
    `{"low": 1, "high": 9}`. After `minutes`, no further try is started. Without `minutes`,
    there is no limit of time.
    """

    metric: str
    tries: int
    space: dict[str, Any]
    minutes: float | None = None

    @property
    def higher_is_better(self) -> bool:
        """Return whether a larger value of the metric is better."""
        return self.metric not in LOWER_IS_BETTER


@dataclass(frozen=True)
class Try:
    """Hyperparameters that were tried, and the metric of the model in cross-validation.

    If the try failed, `score` is None, and `error` holds the type and text of the error.
    """

    hyperparameters: Hyperparameters
    score: float | None
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class SearchResult:
    """All tries of a search, in the order in which their hyperparameters were drawn.

    The first try has the hyperparameters of settings.yml. `best` is the position of the
    best try in the list of tries.
    """

    metric: str
    higher_is_better: bool
    tries: list[Try]
    best: int

    @property
    def best_hyperparameters(self) -> Hyperparameters:
        """Return the hyperparameters of the best try."""
        return self.tries[self.best].hyperparameters

    @property
    def best_score(self) -> float | None:
        """Return the metric of the best try."""
        return self.tries[self.best].score


def read_search(text: str, task: str) -> Search:
    """Return the search that `training.search` of settings.yml describes.

    `text` holds this setting as JSON. The metric "default" is replaced by the first metric
    of the task.
    """
    search = Search(**json.loads(text))
    if search.metric == "default":
        return replace(search, metric=METRICS[task][0])
    return search


# Candidates: the hyperparameters to try


def draw_candidates(
    search: Search, hyperparameters: Mapping[str, Any], seed: int
) -> list[Hyperparameters]:
    """Return the candidates of a search: hyperparameters to try, all of them different.

    The first candidate is `hyperparameters`, which come from settings.yml. In each other
    candidate, the hyperparameters that the search space names have random values, and the
    rest is unchanged.

    There is one candidate for each try, or fewer if the space has too few combinations.
    """
    distributions = {
        name: _make_distribution(values) for name, values in search.space.items()
    }
    # Draws that are equal after rounding are skipped, so there are more draws than tries.
    most_draws = search.tries * DRAWS_PER_TRY
    # The number of combinations is infinite if the space has a range.
    draws = int(min(most_draws, _count_combinations(search.space)))

    candidates = [dict(hyperparameters)]
    for drawn in ParameterSampler(distributions, draws, random_state=seed):
        if len(candidates) == search.tries:
            break
        candidate = dict(hyperparameters)
        for name, value in drawn.items():
            candidate[name] = _round_to_range(value, search.space[name])
        if candidate not in candidates:
            candidates.append(candidate)
    return candidates


def _count_combinations(space: Mapping[str, Any]) -> float:
    """Return the number of combinations of values; infinity if there is a range."""
    combinations = 1.0
    for values in space.values():
        if not isinstance(values, list):
            return math.inf
        combinations *= len(values)
    return combinations


def _make_distribution(values: Any) -> Any:
    """Return what scikit-learn's ParameterSampler draws from, for one hyperparameter.

    `values` is a list, which is returned unchanged, or a range such as
    `{"low": 0.01, "high": 0.3, "log": True}`, for which a distribution from `low` to `high`
    is returned.
    """
    if isinstance(values, list):
        return values
    low = values["low"]
    high = values["high"]
    if _is_integer_range(values):
        # `_round_to_range` rounds down. So that `high` itself can be drawn, the
        # distribution ends one higher.
        high += 1
    is_logarithmic = values.get("log", False)
    if is_logarithmic:
        return stats.loguniform(low, high)
    return stats.uniform(low, high - low)


def _round_to_range(value: Any, values: Any) -> Any:
    """Return a value that was drawn for a hyperparameter, rounded if it is from a range.

    `values` is the list or the range that the value was drawn from. A value from a list is
    not changed. A number from a range of integers is rounded down to an integer, and any
    other number is rounded to DIGITS significant digits. The result is never outside the
    range.
    """
    if isinstance(values, list):
        return value
    if _is_integer_range(values):
        return min(math.floor(value), values["high"])
    rounded = float(f"{value:.{DIGITS}g}")
    return float(min(max(rounded, values["low"]), values["high"]))


def _is_integer_range(limits: Mapping[str, Any]) -> bool:
    """Return whether both limits of a range are integers."""
    return isinstance(limits["low"], int) and isinstance(limits["high"], int)


# Tries


def run_search(
    search: Search,
    candidates: Sequence[Hyperparameters],
    measure: Measure,
    *,
    fingerprint: str,
    rows: int,
) -> SearchResult:
    """Try the candidates, and record each try as a nested run in MLflow.

    `measure` returns the metric of a candidate. Finished tries of an earlier search with
    the same `fingerprint` are reused. The other tries run side by side on all cores. With
    more training `rows` than MOST_ROWS_FOR_PARALLEL_TRIES, they run one at a time.

    An error of the first candidate is raised. For other candidates, it is recorded.
    """
    started = monotonic()
    try_by_position = _load_finished_tries(candidates, search.metric, fingerprint)
    if try_by_position:
        reused = len(try_by_position)
        print(
            f"note: {reused} of {len(candidates)} tries are taken from an earlier search."
        )

    # The first try runs on its own: if the settings or the metric are wrong, it raises the
    # error before any other try has started.
    if 0 not in try_by_position:
        first = _measure_candidate(measure, candidates[0])
        try_by_position[0] = first
        _record_try(first, search.metric, fingerprint)

    progress = Progress(
        search, len(candidates), started, done_before=len(try_by_position)
    )
    remaining = [
        position
        for position in range(len(candidates))
        if position not in try_by_position
    ]
    deadline = math.inf
    if search.minutes is not None:
        deadline = started + search.minutes * 60
    results = _run_tries(
        measure,
        candidates,
        _stop_at(deadline, remaining),
        jobs=1 if rows > MOST_ROWS_FOR_PARALLEL_TRIES else ALL_CORES,
    )
    for position, result in results:
        try_by_position[position] = result
        _record_try(result, search.metric, fingerprint)
        progress.show(try_by_position.values())

    tries = [try_by_position[position] for position in sorted(try_by_position)]
    best = _find_best(tries, search.higher_is_better)
    return SearchResult(search.metric, search.higher_is_better, tries, best)


def _run_tries(
    measure: Measure,
    candidates: Sequence[Hyperparameters],
    positions: Iterable[int],
    jobs: int,
) -> Iterator[tuple[int, Try]]:
    """Try the candidates at these positions; yield each position with its finished try.

    `jobs` is the number of tries that run at the same time, or ALL_CORES. Parallel tries
    finish in any order. `positions` may be a generator that ends at a deadline: no try
    starts after the deadline.
    """
    run = Parallel(
        n_jobs=jobs,
        # joblib takes the next position only when a process is free to start the try.
        pre_dispatch="n_jobs",
        return_as="generator_unordered",
    )
    results: Iterator[tuple[int, Try]] = run(
        delayed(_try_candidate)(measure, candidates[position], position)
        for position in positions
    )
    return results


def _stop_at(deadline: float, positions: Iterable[int]) -> Iterator[int]:
    """Yield the positions, but none after the deadline, a time of `monotonic()`."""
    for position in positions:
        if monotonic() >= deadline:
            return
        yield position


def _measure_candidate(measure: Measure, candidate: Hyperparameters) -> Try:
    """Return the successful try of a candidate.

    Raises the errors of `measure`, or CannotCompute if the metric is not a finite number.
    """
    started = monotonic()
    score = measure(candidate)
    if not math.isfinite(score):
        raise CannotCompute("the value of the metric is not a finite number")
    return Try(candidate, score=score, seconds=monotonic() - started)


def _try_candidate(
    measure: Measure, candidate: Hyperparameters, position: int
) -> tuple[int, Try]:
    """Return the position of a candidate, and its try, which may have failed.

    The position is returned, too, because parallel tries finish in any order.
    """
    started = monotonic()
    try:
        return position, _measure_candidate(measure, candidate)
    except Exception as error:  # noqa: BLE001 (Libraries may raise anything.)
        # Some combinations of values may be impossible. The other tries still count.
        error_text = f"{type(error).__name__}: {error}"
        failed_try = Try(
            candidate, score=None, seconds=monotonic() - started, error=error_text
        )
        return position, failed_try


def _find_best(tries: Sequence[Try], higher_is_better: bool) -> int:
    """Return the position of the best try, or of the first of several best tries."""
    sign = 1 if higher_is_better else -1
    # A failed try is worse than any other one.
    scores = [
        -math.inf if result.score is None else sign * result.score for result in tries
    ]
    return int(np.argmax(scores))


class Progress:
    """A printer of lines on the progress of a search: tries, best score, and time left.

    `started` is the time of `monotonic()` at which the search began. `done_before` is the
    number of tries that were done before progress is shown for the first time.
    """

    def __init__(
        self, search: Search, total: int, started: float, *, done_before: int
    ) -> None:
        self._search = search
        self._total = total
        self._started = started
        self._done_before = done_before

    def show(self, tries: Iterable[Try]) -> None:
        """Print a line about the tries that are done."""
        done_tries = list(tries)
        best = done_tries[_find_best(done_tries, self._search.higher_is_better)]
        seconds_left = self._estimate_seconds_left(len(done_tries))
        print(
            f"{PROGRESS}{len(done_tries)} of {self._total} tries, best"
            f" {self._search.metric} {best.score:.4g}, about"
            f" {_format_duration(seconds_left)} left",
            flush=True,
        )

    def _estimate_seconds_left(self, done: int) -> float:
        """Return the estimated seconds until all tries are done, or until the deadline.

        The earlier of the two ends the search. `done` is the number of tries that are done.
        """
        elapsed = monotonic() - self._started
        # At least 1, so that nothing is divided by 0 before any new try is done.
        newly_done = max(1, done - self._done_before)
        seconds_for_rest = elapsed / newly_done * (self._total - done)
        if self._search.minutes is None:
            return seconds_for_rest
        seconds_to_deadline = max(0.0, self._search.minutes * 60 - elapsed)
        return min(seconds_for_rest, seconds_to_deadline)


def _format_duration(seconds: float) -> str:
    """Return a duration as text such as "99 s" or, from 100 seconds on, "2 min"."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


# Tries in MLflow


def compute_fingerprint(
    features: pd.DataFrame, target: pd.Series, folds: Sequence[Fold], **settings: Any
) -> str:
    """Return a fingerprint of everything that the score of a try depends on.

    The fingerprint depends on the data, the folds, the `settings`, the code of this step
    and the version of scikit-learn. It does not depend on the hyperparameters of the try,
    which are compared separately when finished tries are loaded.
    """
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(json.dumps([sklearn.__version__, settings, list(features)]).encode())
    for table in (features, target):
        row_hashes = pd.util.hash_pandas_object(table, index=False)
        hasher.update(row_hashes.to_numpy().tobytes())
    for fold in folds:
        hasher.update(fold.train.tobytes())
        hasher.update(fold.test.tobytes())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        hasher.update(file.read_bytes())
    return hasher.hexdigest()


def _record_try(result: Try, metric: str, fingerprint: str) -> None:
    """Record a try as a nested run in MLflow, with its score or its error."""
    with mlflow.start_run(nested=True, run_name="try", tags={TAG: fingerprint}):
        mlflow.log_params(result.hyperparameters)
        if result.score is None:
            mlflow.set_tag("error", result.error[:MOST_ERROR_CHARACTERS])
        else:
            mlflow.log_metrics(
                {f"cv_{metric}": result.score, "seconds": result.seconds}
            )


def _load_finished_tries(
    candidates: Sequence[Hyperparameters], metric: str, fingerprint: str
) -> dict[int, Try]:
    """Return the tries of these candidates that earlier searches have finished.

    The keys are positions in `candidates`. Only searches with the same fingerprint count,
    because they had the same data, folds and code. Failed tries do not count.
    """
    runs = mlflow.MlflowClient().search_runs(
        [mlflow.active_run().info.experiment_id], f"tags.{TAG} = '{fingerprint}'"
    )
    score_name = f"cv_{metric}"
    metrics_by_parameters = {
        frozenset(run.data.params.items()): run.data.metrics
        for run in runs
        if score_name in run.data.metrics
    }

    try_by_position = {}
    for position, candidate in enumerate(candidates):
        # MLflow keeps the values of parameters as text.
        parameters = frozenset((name, str(value)) for name, value in candidate.items())
        metrics = metrics_by_parameters.get(parameters)
        if metrics is not None:
            try_by_position[position] = Try(
                candidate, score=metrics[score_name], seconds=metrics["seconds"]
            )
    return try_by_position


# The result


def save_search(result: SearchResult, model: Path) -> None:
    """Save the tries in the folder of a model, for the report of the step `evaluate`."""
    text = json.dumps(asdict(result), indent=2, ensure_ascii=False)
    (model / FILE_NAME).write_text(text, encoding="utf-8")


def describe_search(result: SearchResult) -> list[str]:
    """Return notes for the user: which try is the best, and how many tries failed."""
    notes = [_describe_best_try(result)]
    errors = [tried.error for tried in result.tries if tried.score is None]
    if errors:
        notes.append(
            f"{len(errors)} of {len(result.tries)} tries failed. The first error was"
            f" {errors[0]}"
        )
    return notes


def _describe_best_try(result: SearchResult) -> str:
    """Return a sentence that compares the best try with the first one.

    The first try has the values of training.hyperparameters in settings.yml. If no other
    try is better, the sentence says so.
    """
    first = result.tries[0]
    best = result.tries[result.best]
    count = len(result.tries)
    if result.best == 0:
        return (
            "no other try is better than training.hyperparameters, with which"
            f" {result.metric} is {first.score:.4g} in cross-validation ({count} tries in"
            " total)."
        )

    changes = []
    for name, value in best.hyperparameters.items():
        is_new = name not in first.hyperparameters
        if is_new or first.hyperparameters[name] != value:
            changes.append(f"{name} = {value}")
    return (
        f"the best of {count} tries has {', '.join(changes)}. With these values,"
        f" {result.metric} is {best.score:.4g} in cross-validation; with"
        f" training.hyperparameters, it is {first.score:.4g}."
    )
