"""Simulate the gate: are its intervals right, what does it refuse, does it wear down?

    .venv/bin/python benchmarks/gate.py [ROUNDS]

Each round draws new held-out rows and what two models predict of them. How good the models
are is known from a very large sample, so it is known what is true.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from threadpoolctl import threadpool_limits

TEMPLATE = Path(__file__).resolve().parents[1]
EVALUATE = TEMPLATE / "{{cookiecutter.project_slug}}" / "steps" / "evaluate"

sys.dont_write_bytecode = True  # in the template, whose steps are copied as they are
sys.path.insert(0, str(EVALUATE))

from difference import Difference, compare_predictions
from model_metrics import (
    METRICS,
    CannotCompute,
    Metric,
    Predictions,
    compute_metric,
)

Values = npt.NDArray[Any]
RETRAININGS = 15
MARGIN = 0.05


@dataclass(frozen=True)
class Rows:
    """Held-out rows, and what models of several qualities predict of them."""

    target: Values
    groups: Values
    models: list[Predictions]


@dataclass(frozen=True)
class Data:
    """A kind of data: how many groups of how many rows, and the shares of its classes.

    Without classes, the target is a number. If it `is_skewed`, a few numbers are very large,
    as prices are, and errors are in proportion to them.
    """

    groups: int
    rows_per_group: int = 1
    shares: tuple[float, ...] = ()
    is_skewed: bool = False

    @property
    def metrics(self) -> list[Metric]:
        return METRICS["classification" if self.shares else "regression"]

    def enlarge(self) -> Data:
        """Return the same kind of data with 400,000 rows."""
        return replace(self, groups=400_000 // self.rows_per_group)


def draw_rows(
    random: np.random.Generator, data: Data, qualities: list[float], alike: float
) -> Rows:
    """Draw rows, and predictions of models of these qualities.

    `alike` is the share of the models' errors that they have in common. Half of what is
    random about a row is the same in its group.
    """
    groups = np.repeat(np.arange(data.groups), data.rows_per_group)
    width = max(1, len(data.shares))

    def draw(*shape: int) -> Values:
        of_rows = random.normal(size=(len(groups), *shape))
        if data.rows_per_group == 1:
            return of_rows
        of_groups = random.normal(size=(data.groups, *shape))[groups]
        return np.asarray((of_rows + of_groups) / np.sqrt(2))

    common = draw(width)
    models = []
    if not data.shares:
        target = np.exp(draw()) if data.is_skewed else np.abs(5 + draw())
        for quality in qualities:
            errors = np.sqrt(alike) * common + np.sqrt(1 - alike) * draw(width)
            error = errors[:, 0] / quality
            if data.is_skewed:
                models.append(Predictions(target * np.exp(0.3 * error)))
            else:
                models.append(Predictions(target + error / 2))
        return Rows(target, groups, models)

    edges = stats.norm.ppf(np.cumsum(data.shares)[:-1])
    target = np.searchsorted(edges, draw())
    for quality in qualities:
        errors = np.sqrt(alike) * common + np.sqrt(1 - alike) * draw(width)
        scores = np.log(data.shares) + 1.5 * (quality * np.eye(width)[target] + errors)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        models.append(Predictions(probabilities.argmax(axis=1), probabilities))
    return Rows(target, groups, models)


def compare(
    metric: Metric, rows: Rows, new: int, other: int, margin: float = 0.0
) -> Difference:
    """Compare two of the models."""
    return compare_predictions(
        metric, rows.target, rows.models[new], rows.models[other], rows.groups, margin
    )


# Intervals

COVERAGE = {
    "200 rows, 5 % of a class": Data(200, 1, (0.95, 0.05)),
    "1,000 rows, 5 % of a class": Data(1_000, 1, (0.95, 0.05)),
    "5,000 rows, 5 % of a class": Data(5_000, 1, (0.95, 0.05)),
    "200 rows, two classes": Data(200, 1, (0.6, 0.4)),
    "60 groups of 5 rows, two classes": Data(60, 5, (0.6, 0.4)),
    "20 groups of 10 rows, two classes": Data(20, 10, (0.6, 0.4)),
    "60 groups of 20 rows, 5 % of a class": Data(60, 20, (0.95, 0.05)),
    "20 groups of 50 rows, 5 % of a class": Data(20, 50, (0.95, 0.05)),
    "200 numbers": Data(200),
    "1,000 numbers": Data(1_000),
    "5,000 numbers": Data(5_000),
    "60 groups of 5 numbers": Data(60, 5),
    "20 groups of 10 numbers": Data(20, 10),
    "200 prices": Data(200, is_skewed=True),
    "1,000 prices": Data(1_000, is_skewed=True),
    "5,000 prices": Data(5_000, is_skewed=True),
    "60 groups of 5 prices": Data(60, 5, is_skewed=True),
}


def measure_coverage(data: Data, rounds: int, seed: int = 1) -> dict[str, float]:
    """Return by metric how often the interval contains the true difference."""
    qualities = [1.0, 1.2]
    true = compute_true_differences(data, qualities)
    contained: dict[str, list[bool]] = {metric.name: [] for metric in data.metrics}
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        rows = draw_rows(random, data, qualities, 0.5)
        for metric in data.metrics:
            try:
                low, high = compare(metric, rows, 1, 0).interval
            except CannotCompute:
                continue
            contained[metric.name].append(low <= true[metric.name] <= high)
    return {name: float(np.mean(hits)) for name, hits in contained.items()}


def compute_true_differences(data: Data, qualities: list[float]) -> dict[str, float]:
    """Return by metric how the second model differs from the first, from many rows."""
    random = np.random.default_rng(0)
    samples = [draw_rows(random, data.enlarge(), qualities, 0.5) for _ in range(3)]
    differences = {}
    for metric in data.metrics:
        first, second = (
            np.mean(
                [compute_metric(metric.name, s.target, s.models[i]) for s in samples]
            )
            for i in (0, 1)
        )
        differences[metric.name] = float(second - first)
    return differences


# Retraining again and again

RETRAINED = {
    "500 rows, two classes": Data(500, 1, (0.6, 0.4)),
    "5,000 rows, two classes": Data(5_000, 1, (0.6, 0.4)),
    "500 numbers": Data(500),
    "5,000 numbers": Data(5_000),
}


@dataclass
class Series:
    """The state of a series of retrainings by one metric, and what it came to."""

    current: int = 0
    reference: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Retrainings:
    """What many series of 15 retrainings came to, by one metric.

    `refused` is the share of the models. The other numbers are shares of the first model's
    metric: how much is lost in the end (the mean, and the value that 95 % of the series do
    not exceed), and how large a loss would be noticed on these rows.
    """

    refused: float
    mean_lost: float
    most_lost: float
    detectable: float


def retrain(
    data: Data,
    metrics: list[Metric],
    *,
    loss_each_time: float,
    margin: float,
    rounds: int,
    keep_reference: bool = True,
) -> dict[str, Retrainings]:
    """Retrain 15 times on new rows; each model is worse than the registered one.

    A model is compared with the reference, as comparison.py does. `keep_reference=False`
    is the gate as it was: each model is compared with the one before it.
    """
    qualities = [(1 - loss_each_time) ** step for step in range(RETRAININGS + 1)]
    truth = draw_rows(np.random.default_rng(0), data.enlarge(), qualities, 0.8)
    random = np.random.default_rng(1)
    results: dict[str, list[Series]] = {metric.name: [] for metric in metrics}
    detectable: dict[str, list[float]] = {metric.name: [] for metric in metrics}
    for _ in range(rounds):
        series = {metric.name: Series() for metric in metrics}
        for _ in range(RETRAININGS):
            rows = draw_rows(random, data, qualities, 0.8)
            for metric in metrics:
                state = series[metric.name]
                candidate = state.current + 1
                difference = compare(metric, rows, candidate, state.reference, margin)
                detectable[metric.name].append(difference.detectable)
                if difference.verdict == "worse":
                    state.refused += 1
                    continue
                state.current = candidate
                if difference.becomes_reference or not keep_reference:
                    state.reference = candidate
        for name, state in series.items():
            results[name].append(state)

    outcomes = {}
    for metric in metrics:
        values = np.array(
            [compute_metric(metric.name, truth.target, model) for model in truth.models]
        )
        lost = abs(values - values[0]) / abs(values[0])
        losses = [lost[state.current] for state in results[metric.name]]
        refused = [state.refused / RETRAININGS for state in results[metric.name]]
        outcomes[metric.name] = Retrainings(
            refused=float(np.mean(refused)),
            mean_lost=float(np.mean(losses)),
            most_lost=float(np.quantile(losses, 0.95)),
            detectable=float(np.mean(detectable[metric.name]) / abs(values[0])),
        )
    return outcomes


def share_refused_of_equal(
    data: Data, metrics: list[Metric], rounds: int
) -> dict[str, float]:
    """Retrain equal models on the same rows again and again; return the share refused.

    If a lucky model becomes the reference, others look worse beside it.
    """
    random = np.random.default_rng(2)
    refused: dict[str, list[bool]] = {metric.name: [] for metric in metrics}
    for _ in range(rounds):
        rows = draw_rows(random, data, [1.0] * (RETRAININGS + 1), 0.8)
        for metric in metrics:
            reference = 0
            for candidate in range(1, RETRAININGS + 1):
                difference = compare(metric, rows, candidate, reference, 0.02)
                refused[metric.name].append(difference.verdict == "worse")
                if difference.becomes_reference:
                    reference = candidate
    return {name: float(np.mean(verdicts)) for name, verdicts in refused.items()}


# What is printed


def show_coverage(rounds: int) -> None:
    print("How often a 95 % interval contains the true difference:")
    for name, data in COVERAGE.items():
        shares = measure_coverage(data, rounds)
        shown = ", ".join(f"{metric} {share:.1%}" for metric, share in shares.items())
        print(f"  {name:36} {shown}", flush=True)


def show_retrainings(rounds: int) -> None:
    print(f"15 retrainings, each model worse than the one before; margin {MARGIN:.0%}:")
    for name, data in RETRAINED.items():
        options: dict[str, Any] = {"loss_each_time": 0.02, "rounds": rounds}
        new = retrain(data, data.metrics, margin=MARGIN, **options)
        for metric in data.metrics:
            result = new[metric.name]
            print(
                f"  {name:26} {metric.name:18} lost {result.mean_lost:6.1%}, 95 % of"
                f" series at most {result.most_lost:6.1%};"
                f" a loss of {result.detectable:.1%} would be noticed",
                flush=True,
            )


def show_equal_models(rounds: int) -> None:
    print("Equal models refused, of 15 retrainings on the same rows:")
    for name, data in RETRAINED.items():
        shares = share_refused_of_equal(data, data.metrics, rounds)
        shown = ", ".join(f"{metric} {share:.1%}" for metric, share in shares.items())
        print(f"  {name:26} {shown}", flush=True)


def show_cost() -> None:
    for data in (Data(2_000_000, 1, (0.6, 0.4)), Data(2_000_000)):
        rows = draw_rows(np.random.default_rng(0), data, [1.0, 1.1], 0.5)
        for metric in data.metrics:
            start = time.perf_counter()
            compare(metric, rows, 1, 0)
            seconds = time.perf_counter() - start
            print(f"2 million rows, {metric.name}: {seconds:.1f} s", flush=True)


PARTS: dict[str, Callable[[int], None]] = {
    "coverage": show_coverage,
    "equal": show_equal_models,
    "retrainings": show_retrainings,
}


def main(rounds: int, parts: list[str]) -> None:
    for name in parts:
        PARTS[name](rounds)
    show_cost()


if __name__ == "__main__":
    with threadpool_limits(1):  # arrays so small are not worth two threads
        wanted = sys.argv[2:] or list(PARTS)
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 400, wanted)
