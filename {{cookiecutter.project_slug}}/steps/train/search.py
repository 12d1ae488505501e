"""Search for better hyperparameters: try random ones, and judge them by cross-validation.

Each try is a run in MLflow, nested in the run of this step. If a search is interrupted, the
next search finds the finished tries there, and continues with the others.
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
from cross_validation import LOWER_IS_BETTER, METRICS, CannotJudge, Fold
from scipy import stats
from sklearn.model_selection import ParameterSampler
from sklearn.utils.parallel import Parallel, delayed

FILE_NAME = "search.json"
# While a step runs, the screen shows the lines of its log that begin with this text.
PROGRESS = "progress: "
# With more training rows, tries run one at a time, because each needs much memory.
MOST_ROWS_FOR_PARALLEL_TRIES = 100_000
# The same values may be drawn more than once, so this many are drawn for each try.
DRAWS_PER_TRY = 20
# MLflow accepts tags of up to 8,000 characters.
MOST_ERROR_CHARACTERS = 1_000
# Numbers are drawn with this many significant digits, so that people can copy them.
DIGITS = 4
# The runs of tries in MLflow have this tag. Its value is the fingerprint of their search.
TAG = "search"

Hyperparameters = dict[str, Any]
# Returns the metric of a model with some hyperparameters.
Measure = Callable[[Hyperparameters], float]


@dataclass(frozen=True)
class Search:
    """The hyperparameters to try, the number of tries, and the metric to judge them by.

    For each hyperparameter, `space` has a list of values, or a range such as
    `{"low": 1, "high": 9}`. After `minutes`, no further try is started.
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
    """Hyperparameters that were tried. If the try failed, `error` says why."""

    hyperparameters: Hyperparameters
    score: float | None
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class SearchResult:
    """All tries, in the order in which they were drawn.

    The first try has the hyperparameters of settings.yml. `best` is the position of the
    best try.
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
    """Return the search that is described by `training.search` of settings.yml, as JSON."""
    search = Search(**json.loads(text))
    if search.metric == "default":
        return replace(search, metric=METRICS[task][0])
    return search


# Candidates: the hyperparameters to try


def draw_candidates(
    search: Search, hyperparameters: Mapping[str, Any], seed: int
) -> list[Hyperparameters]:
    """Return the hyperparameters of settings.yml, and random changes to them.

    There is one candidate for each try, or fewer if the space has fewer combinations.
    """
    distributions = {
        name: _make_distribution(values) for name, values in search.space.items()
    }
    most_draws = search.tries * DRAWS_PER_TRY
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
    """Return the values to draw from: a list itself, or a distribution over a range."""
    if isinstance(values, list):
        return values
    low = values["low"]
    high = values["high"]
    if _is_integer_range(values):
        # Drawn numbers are rounded down, and the range includes `high`.
        high += 1
    if values.get("log", False):
        return stats.loguniform(low, high)
    return stats.uniform(low, high - low)


def _round_to_range(value: Any, values: Any) -> Any:
    """Round a number that was drawn from a range. A value from a list is not changed."""
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
    """Try the candidates on all cores, and record each try as a nested run in MLflow.

    `measure` returns the metric of a candidate. Finished tries of an earlier search with
    the same `fingerprint` are not repeated. `rows` is the number of training rows.

    An error of the first candidate is raised. For other candidates, it is recorded.
    """
    started = monotonic()
    tries = _find_tries(candidates, search.metric, fingerprint)
    if tries:
        print(f"note: tries that are taken from an earlier search: {len(tries)}.")

    if 0 not in tries:
        first = _measure_candidate(measure, candidates[0])
        tries[0] = first
        _record_try(first, search.metric, fingerprint)

    progress = Progress(search, len(candidates), started, len(tries))
    remaining = [
        position for position in range(len(candidates)) if position not in tries
    ]
    deadline = math.inf
    if search.minutes is not None:
        deadline = started + search.minutes * 60
    run_in_parallel = Parallel(
        n_jobs=1 if rows > MOST_ROWS_FOR_PARALLEL_TRIES else -1,
        # Only tries that can start at once are taken from the list, so that none starts
        # after the deadline.
        pre_dispatch="n_jobs",
        return_as="generator_unordered",
    )
    results = run_in_parallel(
        delayed(_try_candidate)(measure, candidates[position], position)
        for position in _stop_at(deadline, remaining)
    )
    for position, result in results:
        tries[position] = result
        _record_try(result, search.metric, fingerprint)
        progress.show(tries.values())

    in_order = [tries[position] for position in sorted(tries)]
    best = _choose_best(in_order, search.higher_is_better)
    return SearchResult(search.metric, search.higher_is_better, in_order, best)


def _stop_at(deadline: float, positions: Iterable[int]) -> Iterator[int]:
    """Yield positions until the deadline has passed."""
    for position in positions:
        if monotonic() >= deadline:
            return
        yield position


def _measure_candidate(measure: Measure, candidate: Hyperparameters) -> Try:
    """Return a try of a candidate.

    Raises the errors of `measure`, or CannotJudge if the metric is not a finite number.
    """
    started = monotonic()
    score = measure(candidate)
    if not math.isfinite(score):
        raise CannotJudge("the value of the metric is not a finite number")
    return Try(candidate, score, monotonic() - started)


def _try_candidate(
    measure: Measure, candidate: Hyperparameters, position: int
) -> tuple[int, Try]:
    """Return the position of a candidate, and its try, which may have failed."""
    started = monotonic()
    try:
        return position, _measure_candidate(measure, candidate)
    except Exception as error:  # noqa: BLE001 (Libraries may raise anything.)
        # Some combinations of values may be impossible. The other tries still count.
        error_text = f"{type(error).__name__}: {error}"
        return position, Try(candidate, None, monotonic() - started, error_text)


def _choose_best(tries: Sequence[Try], higher_is_better: bool) -> int:
    """Return the position of the best try. Of equally good tries, it is the first."""
    sign = 1 if higher_is_better else -1
    scores = [
        -math.inf if result.score is None else sign * result.score for result in tries
    ]
    return int(np.argmax(scores))


class Progress:
    """Prints how many tries are done, the best score so far, and the time that is left."""

    def __init__(
        self, search: Search, total: int, started: float, done_before: int
    ) -> None:
        self._search = search
        self._total = total
        self._started = started
        self._done_before = done_before

    def show(self, tries: Iterable[Try]) -> None:
        """Print a line about the tries that are done."""
        results = list(tries)
        best = results[_choose_best(results, self._search.higher_is_better)]
        seconds_left = self._estimate_seconds_left(len(results))
        print(
            f"{PROGRESS}{len(results)} of {self._total} tries, best"
            f" {self._search.metric} {best.score:.4g}, about"
            f" {_format_duration(seconds_left)} left",
            flush=True,
        )

    def _estimate_seconds_left(self, done: int) -> float:
        """Return the time that the other tries will take, up to the deadline."""
        elapsed = monotonic() - self._started
        done_in_this_search = max(1, done - self._done_before)
        seconds = elapsed / done_in_this_search * (self._total - done)
        if self._search.minutes is None:
            return seconds
        seconds_to_deadline = max(0.0, self._search.minutes * 60 - elapsed)
        return min(seconds, seconds_to_deadline)


def _format_duration(seconds: float) -> str:
    """Return a duration as text, in seconds or in minutes."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


# Tries in MLflow


def compute_fingerprint(
    features: pd.DataFrame, target: pd.Series, folds: Sequence[Fold], **settings: Any
) -> str:
    """Return a text that is the same for searches whose tries have the same scores.

    It depends on the data, the folds, the `settings`, the code of this step and the version
    of scikit-learn.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([sklearn.__version__, settings, list(features)]).encode())
    for table in (features, target):
        row_hashes = pd.util.hash_pandas_object(table, index=False)
        digest.update(row_hashes.to_numpy().tobytes())
    for fold in folds:
        digest.update(fold.fitted.tobytes())
        digest.update(fold.judged.tobytes())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _record_try(result: Try, metric: str, fingerprint: str) -> None:
    """Record a try as a nested run in MLflow."""
    with mlflow.start_run(nested=True, run_name="try", tags={TAG: fingerprint}):
        mlflow.log_params(result.hyperparameters)
        if result.score is None:
            mlflow.set_tag("error", result.error[:MOST_ERROR_CHARACTERS])
        else:
            mlflow.log_metrics(
                {f"cv_{metric}": result.score, "seconds": result.seconds}
            )


def _find_tries(
    candidates: Sequence[Hyperparameters], metric: str, fingerprint: str
) -> dict[int, Try]:
    """Return the tries of earlier searches, by the positions of their candidates."""
    runs = mlflow.MlflowClient().search_runs(
        [mlflow.active_run().info.experiment_id], f"tags.{TAG} = '{fingerprint}'"
    )
    score_name = f"cv_{metric}"
    metrics_of_parameters = {
        frozenset(run.data.params.items()): run.data.metrics
        for run in runs
        if score_name in run.data.metrics
    }

    tries = {}
    for position, candidate in enumerate(candidates):
        # MLflow keeps the values of parameters as text.
        parameters = frozenset((name, str(value)) for name, value in candidate.items())
        metrics = metrics_of_parameters.get(parameters)
        if metrics is not None:
            tries[position] = Try(candidate, metrics[score_name], metrics["seconds"])
    return tries


# The result


def save_search(result: SearchResult, model: Path) -> None:
    """Save the tries in the folder of a model, for the report of the step `evaluate`."""
    text = json.dumps(asdict(result), indent=2, ensure_ascii=False)
    (model / FILE_NAME).write_text(text, encoding="utf-8")


def describe_search(result: SearchResult) -> list[str]:
    """Return notes: which try is the best, and how many tries failed."""
    notes = [_describe_best_try(result)]
    count = len(result.tries)
    errors = [tried.error for tried in result.tries if tried.score is None]
    if errors:
        notes.append(
            f"{len(errors)} of {count} tries failed, the first of them with {errors[0]}"
        )
    return notes


def _describe_best_try(result: SearchResult) -> str:
    """Return a sentence that compares the best try with the first one."""
    first = result.tries[0]
    best = result.tries[result.best]
    count = len(result.tries)
    best_score = f"{result.metric} {best.score:.4g}"
    if result.best == 0:
        return (
            f"none of {count} tries is better than training.hyperparameters, which have"
            f" {best_score} in cross-validation."
        )

    changed = []
    for name, value in best.hyperparameters.items():
        is_new = name not in first.hyperparameters
        if is_new or first.hyperparameters[name] != value:
            changed.append(f"{name} {value}")
    return (
        f"the best of {count} tries has {', '.join(changed)}, with {best_score} in"
        f" cross-validation, not {first.score:.4g} as with training.hyperparameters."
    )
