"""Simulate the gate: are its intervals right, what does it refuse, does it wear down?

    .venv/bin/python benchmarks/gate.py [ROUNDS]

Each round draws new held-out rows and what two models predict of them. How good the models
are is known from a very large sample, so it is known what is true.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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


@dataclass(frozen=True)
class Rows:
    """Held-out rows, and what models of several qualities predict of them."""

    target: Values
    groups: Values
    models: list[Predictions]


@dataclass(frozen=True)
class Data:
    """A kind of data: how many groups of how many rows, and the shares of its classes.

    Without classes, the target is a number.
    """

    groups: int
    rows_per_group: int = 1
    shares: tuple[float, ...] = ()

    @property
    def metrics(self) -> list[Metric]:
        return METRICS["classification" if self.shares else "regression"]

    def enlarge(self) -> Data:
        """Return the same kind of data with 400,000 rows."""
        return Data(400_000 // self.rows_per_group, self.rows_per_group, self.shares)


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
        target = np.abs(5 + draw())
        for quality in qualities:
            errors = np.sqrt(alike) * common + np.sqrt(1 - alike) * draw(width)
            models.append(Predictions(target + errors[:, 0] / quality))
        return Rows(target, groups, models)

    edges = np.quantile(random.normal(size=200_000), np.cumsum(data.shares)[:-1])
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
    "60 rows, two classes": Data(60, 1, (0.6, 0.4)),
    "60 groups of 5 rows, two classes": Data(60, 5, (0.6, 0.4)),
    "300 rows, 5 % of a class": Data(300, 1, (0.95, 0.05)),
    "1,000 rows, 5 % of a class": Data(1000, 1, (0.95, 0.05)),
    "200 groups of 5 rows, three classes": Data(200, 5, (0.6, 0.3, 0.1)),
    "60 numbers": Data(60),
    "60 groups of 5 numbers": Data(60, 5),
    "1,000 numbers": Data(1000),
}


def measure_coverage(data: Data, rounds: int, seed: int = 1) -> dict[str, float]:
    """Return by metric how often the interval contains the true difference."""
    qualities = [1.0, 1.2]
    truth = draw_rows(np.random.default_rng(0), data.enlarge(), qualities, 0.5)
    contained: dict[str, list[bool]] = {metric.name: [] for metric in data.metrics}
    true = {
        metric.name: compute_metric(metric.name, truth.target, truth.models[1])
        - compute_metric(metric.name, truth.target, truth.models[0])
        for metric in data.metrics
    }
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


# Retraining again and again

RETRAINED = {
    "500 rows, two classes": Data(500, 1, (0.6, 0.4)),
    "10,000 rows, two classes": Data(10_000, 1, (0.6, 0.4)),
    "500 numbers": Data(500),
    "10,000 numbers": Data(10_000),
}


@dataclass(frozen=True)
class Retrainings:
    """What many series of 15 retrainings came to, by one metric.

    `lost` is the share of the first model's metric that is lost in the end: its mean, and
    the value that 95 % of the series do not exceed. `detectable` is such a share too.
    """

    refused: float
    mean_lost: float
    most_lost: float
    detectable: float


def retrain(
    data: Data,
    metric: Metric,
    *,
    loss_each_time: float,
    margin: float,
    rounds: int,
    keep_reference: bool = True,
) -> Retrainings:
    """Retrain 15 times on new rows; each model is worse than the registered one.

    A model is compared with the reference, as comparison.py does. `keep_reference=False`
    is the gate as it was: each model is compared with the one before it.
    """
    steps = RETRAININGS + 1 if loss_each_time else 1
    qualities = [(1 - loss_each_time) ** step for step in range(steps)]
    truth = draw_rows(np.random.default_rng(0), data.enlarge(), qualities, 0.8)
    values = [compute_metric(metric.name, truth.target, m) for m in truth.models]
    random = np.random.default_rng(1)
    refusals = []
    losses = []
    detectable = []
    for _ in range(rounds):
        current = 0
        reference = 0
        for _ in range(RETRAININGS):
            candidate = current + 1 if loss_each_time else 0
            pair = [qualities[candidate], qualities[reference]]
            rows = draw_rows(random, data, pair, 0.8)
            difference = compare(metric, rows, 0, 1, margin)
            detectable.append(difference.detectable / abs(values[0]))
            refusals.append(difference.verdict == "worse")
            if difference.verdict == "worse":
                continue
            current = candidate
            if difference.verdict == "better" or not keep_reference:
                reference = candidate
        losses.append(abs(values[current] - values[0]) / abs(values[0]))
    return Retrainings(
        refused=float(np.mean(refusals)),
        mean_lost=float(np.mean(losses)),
        most_lost=float(np.quantile(losses, 0.95)),
        detectable=float(np.mean(detectable)),
    )


def share_refused_of_equal(data: Data, metric: Metric, rounds: int) -> float:
    """Retrain equal models on the same rows again and again; return the share refused.

    A lucky model becomes the reference, and then others look worse beside it.
    """
    random = np.random.default_rng(2)
    refused = []
    for _ in range(rounds):
        rows = draw_rows(random, data, [1.0] * (RETRAININGS + 1), 0.8)
        reference = 0
        for candidate in range(1, RETRAININGS + 1):
            verdict = compare(metric, rows, candidate, reference, 0.02).verdict
            refused.append(verdict == "worse")
            if verdict == "better":
                reference = candidate
    return float(np.mean(refused))


# What is printed


def show_coverage(rounds: int) -> None:
    print("How often a 95 % interval contains the true difference:")
    for name, data in COVERAGE.items():
        shares = measure_coverage(data, rounds)
        shown = ", ".join(f"{metric} {share:.1%}" for metric, share in shares.items())
        print(f"  {name:36} {shown}", flush=True)


def show_retrainings(rounds: int) -> None:
    print("15 retrainings, each model worse than the one before; margin 5 %:")
    for name, data in RETRAINED.items():
        for metric in data.metrics:
            options: dict[str, Any] = {"loss_each_time": 0.02, "rounds": rounds}
            new = retrain(data, metric, margin=0.05, **options)
            old = retrain(data, metric, margin=0, keep_reference=False, **options)
            print(
                f"  {name:26} {metric.name:18} lost {new.mean_lost:6.1%}, 95 % of series"
                f" at most {new.most_lost:6.1%}; these rows show {new.detectable:6.1%};"
                f" gate as it was: lost {old.mean_lost:6.1%}",
                flush=True,
            )


def show_equal_models(rounds: int) -> None:
    print("Equal models refused, of 15 retrainings on the same rows:")
    for name, data in RETRAINED.items():
        shares = {m.name: share_refused_of_equal(data, m, rounds) for m in data.metrics}
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
