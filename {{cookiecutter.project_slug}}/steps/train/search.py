"""Search for better hyperparameters: try some, drawn at random, by cross-validation.

Each try is a run in MLflow below the run of this step. If a search is interrupted, the
next one finds the tries there, and goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import sklearn
from cross_validation import LOWER_IS_BETTER, METRICS, Fold
from scipy import stats
from sklearn.model_selection import ParameterSampler
from sklearn.utils.parallel import Parallel, delayed

FILE_NAME = "search.json"
# Lines of the log that begin like this are shown on the screen while the step runs.
PROGRESS = "progress: "
# With more rows than this, tries run one after another, as each needs so much memory.
MOST_ROWS_SIDE_BY_SIDE = 100_000
# The same values may be drawn again, so more are drawn than are needed.
DRAWS_PER_TRY = 20
LONGEST_ERROR = 1_000  # characters, of which MLflow takes no more than 8,000
DIGITS = 4  # of numbers that are drawn, so that they can be read and copied
# The tag of a try's run in MLflow; it has the fingerprint of the search.
TAG = "search"

Hyperparameters = dict[str, Any]


@dataclass(frozen=True)
class Search:
    """What to try, and how long.

    `space` has a list of values, or a range such as `{"low": 1, "high": 9}`, for each
    hyperparameter. No try begins later than `minutes`, unless they are None.
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
    """Hyperparameters that were tried. `score` is None if that failed with an `error`."""

    hyperparameters: Hyperparameters
    score: float | None
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class SearchResult:
    """All tries in the order they were drawn; the first one is what settings.yml has."""

    metric: str
    higher_is_better: bool
    tries: list[Try]
    best: int  # the position of the best try

    @property
    def best_hyperparameters(self) -> Hyperparameters:
        """Return the hyperparameters of the best try."""
        return self.tries[self.best].hyperparameters

    @property
    def best_score(self) -> float | None:
        """Return the metric of the best try. The first try has one, so this has one too."""
        return self.tries[self.best].score


def read_search(text: str, task: str) -> Search:
    """Return the search that settings.yml describes, given as JSON."""
    search = Search(**json.loads(text))
    if search.metric == "default":
        return Search(**{**asdict(search), "metric": METRICS[task][0]})
    return search


# Candidates


def draw_candidates(
    search: Search, hyperparameters: Mapping[str, Any], seed: int
) -> list[Hyperparameters]:
    """Return the hyperparameters to try: those of settings.yml, then others at random.

    If the space has fewer combinations than tries, each is tried once.
    """
    distributions = {}
    combinations = 1.0
    for name, values in search.space.items():
        if isinstance(values, list):
            distributions[name] = values
            combinations *= len(values)
        else:
            distributions[name] = _make_distribution(**values)
            combinations = math.inf
    draws = int(min(search.tries * DRAWS_PER_TRY, combinations))
    candidates = [dict(hyperparameters)]
    for drawn in ParameterSampler(distributions, draws, random_state=seed):
        if len(candidates) == search.tries:
            break
        candidate = dict(hyperparameters)
        for name, value in drawn.items():
            values = search.space[name]
            is_range = isinstance(values, dict)
            candidate[name] = _round_into(values, value) if is_range else value
        if candidate not in candidates:
            candidates.append(candidate)
    return candidates


def _make_distribution(low: float, high: float, log: bool = False) -> Any:
    """Return a distribution over a range, evenly by the numbers or by their logarithms."""
    if isinstance(low, int) and isinstance(high, int):
        high += 1  # The number is rounded down, and `high` belongs to the range.
    if log:
        return stats.loguniform(low, high)
    return stats.uniform(low, high - low)


def _round_into(limits: Mapping[str, Any], value: float) -> float:
    """Return a drawn number as an integer if both limits are, else with few digits."""
    low = limits["low"]
    high = limits["high"]
    if isinstance(low, int) and isinstance(high, int):
        return min(math.floor(value), high)
    return float(min(max(float(f"{value:.{DIGITS}g}"), low), high))


# Tries


def run_search(
    search: Search,
    candidates: Sequence[Hyperparameters],
    measure: Callable[[Hyperparameters], float],
    *,
    fingerprint: str,
    rows: int,
) -> SearchResult:
    """Try the candidates on all cores, each as a nested run in MLflow.

    `measure` returns the metric of a candidate. Tries of an earlier search with the same
    `fingerprint` are taken from MLflow. The first candidate is always tried; what it
    raises is raised here. For others, it is recorded with the try.
    """
    started = monotonic()
    deadline = math.inf
    if search.minutes is not None:
        deadline = started + search.minutes * 60
    tries = _find_tries(candidates, search.metric, fingerprint)
    if tries:
        print(f"note: tries that are taken from an earlier search: {len(tries)}.")
    if 0 not in tries:
        begun = monotonic()
        score = measure(candidates[0])
        tries[0] = Try(candidates[0], score, monotonic() - begun)
        _record_try(tries[0], search.metric, fingerprint)

    progress = Progress(search, len(candidates), started, len(tries))
    remaining = [
        position for position in range(len(candidates)) if position not in tries
    ]
    jobs = 1 if rows > MOST_ROWS_SIDE_BY_SIDE else -1
    parallel = Parallel(
        n_jobs=jobs, pre_dispatch="n_jobs", return_as="generator_unordered"
    )
    done = parallel(
        delayed(_try_candidate)(measure, candidates[position], position)
        for position in _until(deadline, remaining)
    )
    for position, result in done:
        tries[position] = result
        _record_try(result, search.metric, fingerprint)
        progress.show(tries.values())

    in_order = [tries[position] for position in sorted(tries)]
    best = _choose_best(in_order, search.higher_is_better)
    return SearchResult(search.metric, search.higher_is_better, in_order, best)


def _until(deadline: float, positions: Sequence[int]) -> Iterator[int]:
    """Yield positions until the deadline has passed."""
    for position in positions:
        if monotonic() >= deadline:
            return
        yield position


def _try_candidate(
    measure: Callable[[Hyperparameters], float],
    candidate: Hyperparameters,
    position: int,
) -> tuple[int, Try]:
    """Return the position of a candidate, and how it did."""
    started = monotonic()
    try:
        score = measure(candidate)
    except Exception as error:  # noqa: BLE001 (Libraries may raise anything.)
        # Some combinations of values may be impossible. The other tries still count.
        seconds = monotonic() - started
        return position, Try(
            candidate, None, seconds, f"{type(error).__name__}: {error}"
        )
    if not math.isfinite(score):
        error_text = "its metric is not a finite number"
        return position, Try(candidate, None, monotonic() - started, error_text)
    return position, Try(candidate, score, monotonic() - started)


def _choose_best(tries: Sequence[Try], higher_is_better: bool) -> int:
    """Return the position of the best try, the first one of those that are equally good."""
    sign = 1 if higher_is_better else -1
    scores = [
        -math.inf if result.score is None else sign * result.score for result in tries
    ]
    return int(np.argmax(scores))


class Progress:
    """Print how many tries are done, the best of them, and how long the others take."""

    def __init__(
        self, search: Search, total: int, started: float, done_before: int
    ) -> None:
        self._search = search
        self._total = total
        self._started = started
        self._done_before = done_before

    def show(self, tries: Any) -> None:
        """Print a line about the tries so far."""
        results = list(tries)
        best = results[_choose_best(results, self._search.higher_is_better)]
        elapsed = monotonic() - self._started
        missing = self._total - len(results)
        seconds = elapsed / max(1, len(results) - self._done_before) * missing
        if self._search.minutes is not None:
            seconds = min(seconds, max(0.0, self._search.minutes * 60 - elapsed))
        print(
            f"{PROGRESS}{len(results)} of {self._total} tries, best"
            f" {self._search.metric} {best.score:.4g}, about {_describe_time(seconds)} left",
            flush=True,
        )


def _describe_time(seconds: float) -> str:
    """Return a duration as text, in seconds or in minutes."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


# Tries in MLflow


def compute_fingerprint(
    features: pd.DataFrame,
    answers: pd.Series,
    folds: Sequence[Fold],
    **settings: Any,
) -> str:
    """Return a text that is the same for searches whose tries have the same scores.

    It depends on the data, the folds, the code of this step and the `settings`.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([sklearn.__version__, settings, list(features)]).encode())
    for table in (features, answers):
        digest.update(
            pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes()
        )
    for fold in folds:
        digest.update(fold.fitted.tobytes() + fold.judged.tobytes())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _record_try(result: Try, metric: str, fingerprint: str) -> None:
    """Record a try as a nested run, which is marked as failed if the try has failed."""
    with mlflow.start_run(nested=True, run_name="try", tags={TAG: fingerprint}):
        mlflow.log_params(result.hyperparameters)
        if result.score is None:
            mlflow.set_tag("error", result.error[:LONGEST_ERROR])
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
    scored = {}
    for run in runs:
        if f"cv_{metric}" in run.data.metrics:
            scored[frozenset(run.data.params.items())] = run.data.metrics
    tries = {}
    for position, candidate in enumerate(candidates):
        parameters = frozenset((name, str(value)) for name, value in candidate.items())
        if parameters in scored:
            values = scored[parameters]
            tries[position] = Try(candidate, values[f"cv_{metric}"], values["seconds"])
    return tries


def save_search(result: SearchResult, model: Path) -> None:
    """Save the tries in the folder of a model, for the report of step `evaluate`."""
    text = json.dumps(asdict(result), indent=2, ensure_ascii=False)
    (model / FILE_NAME).write_text(text, encoding="utf-8")


def describe_search(result: SearchResult) -> list[str]:
    """Return sentences: how the best try compares with the first, and how many failed."""
    first = result.tries[0]
    best = result.tries[result.best]
    count = len(result.tries)
    scores = f"{result.metric} {best.score:.4g}"
    if result.best == 0:
        summary = (
            f"none of {count} tries is better than training.hyperparameters as they are,"
            f" with {scores} in cross-validation."
        )
    else:
        changed = [
            f"{name} {value}"
            for name, value in best.hyperparameters.items()
            if name not in first.hyperparameters or first.hyperparameters[name] != value
        ]
        summary = (
            f"the best of {count} tries has {', '.join(changed)}, with {scores} in"
            f" cross-validation, not {first.score:.4g} as with training.hyperparameters"
            " as they are."
        )
    errors = [tried.error for tried in result.tries if tried.score is None]
    if not errors:
        return [summary]
    return [
        summary,
        f"{len(errors)} of {count} tries failed, the first of them with {errors[0]}",
    ]
