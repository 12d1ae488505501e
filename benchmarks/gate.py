"""How often evaluate calls a new model worse: equal ones (an error), and worse ones.

    .venv/bin/python benchmarks/gate.py [ROUNDS]

Each round draws new held-out rows and what two models predict of them: by numbers that
say how good either is, or by models trained on scikit-learn's own data sets. At last,
what the comparison costs.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import Ridge
from sklearn.naive_bayes import GaussianNB
from threadpoolctl import threadpool_limits

TEMPLATE = Path(__file__).resolve().parents[1]

Values = npt.NDArray[Any]
# Target, predictions of the new and of the current model, group of each row.
Round = tuple[Values, Values, Values, Values]


def load_step(step: str, name: str) -> Any:
    """A module of a step, which needs no generated project."""
    folder = TEMPLATE / "{{cookiecutter.project_slug}}" / "steps" / step
    spec = importlib.util.spec_from_file_location(f"step_{name}", folder / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sys.dont_write_bytecode = True  # in the template, whose steps are copied as they are
comparison = load_step("evaluate", "comparison")


def classes(
    rows: int, new: float, current: float, rare: float = 0.5
) -> Callable[[Any], Round]:
    """Two classes, one of them `rare`, of which the models hit these shares."""

    def draw(random: Any) -> Round:
        actual = (random.random(rows) < rare).astype(int)
        both = [
            np.where(random.random(rows) < p, actual, 1 - actual)
            for p in (new, current)
        ]
        return actual, both[0], both[1], np.arange(rows)

    return draw


def numbers(
    rows: int, new: float, current: float, per_key: int = 1
) -> Callable[[Any], Round]:
    """A number whose errors, of this standard deviation, are half the key's own."""

    def draw(random: Any) -> Round:
        keys = np.repeat(np.arange(rows // per_key), per_key)
        actual = random.normal(size=len(keys))
        errors = [
            (random.normal(size=len(keys)) + random.normal(size=keys.max() + 1)[keys])
            * size
            / np.sqrt(2)
            for size in (new, current)
        ]
        return actual, actual + errors[0], actual + errors[1], keys

    return draw


def trained(
    load: Callable[..., Any], model: Callable[[], Any], share: float = 1
) -> Callable[[Any], Round]:
    """Models on two parts of a data set, the new one on a `share` of its part.

    With all of it the two are made equal by a coin, which gives one of the predictions
    of each row to the one and the other to the other.
    """
    features, target = load(return_X_y=True)

    def draw(random: Any) -> Round:
        order = random.permutation(len(target))
        ends = [int(part * len(order)) for part in (0.35, 0.35 * share, 0.7)]
        current, new, held_out = order[: ends[0]], order[ends[0] :], order[ends[2] :]
        both = [
            model().fit(features[rows], target[rows]).predict(features[held_out])
            for rows in (new[: ends[1]], current)
        ]
        if share == 1:
            is_swapped = random.random(len(held_out)) < 0.5
            both = [np.where(is_swapped, *both), np.where(is_swapped, *both[::-1])]
        return target[held_out], both[0], both[1], held_out

    return draw


EQUAL = {
    "equal: 60 rows, 80 % right": classes(60, 0.8, 0.8),
    "equal: 500 rows, 5 % of a class, 90 % right": classes(500, 0.9, 0.9, 0.05),
    "equal: 200 numbers": numbers(200, 1, 1),
    "equal: 300 numbers, 5 of one key": numbers(300, 1, 1, 5),
    "equal: breast cancer": trained(load_breast_cancer, GaussianNB),
    "equal: digits": trained(load_digits, GaussianNB),
    "equal: diabetes": trained(load_diabetes, Ridge),
}
WORSE = {
    "worse: 200 rows, 65 instead of 80 % right": classes(200, 0.65, 0.8),
    "worse: 1000 rows, 75 instead of 80 % right": classes(1000, 0.75, 0.8),
    "worse: 200 numbers, errors 1.3 times as large": numbers(200, 1.3, 1),
    "worse: digits, a twentieth of the rows": trained(load_digits, GaussianNB, 0.05),
    "worse: diabetes, a twentieth of the rows": trained(load_diabetes, Ridge, 0.05),
}


def share_refused(draw: Callable[[Any], Round], rounds: int) -> float:
    """In which share of the rounds the new model is called worse."""
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(rounds):
        target, new, current, groups = draw(random)
        task = "classification" if target.dtype.kind == "i" else "regression"
        found = comparison.compare_predictions(
            pd.Series(target), new, current, groups.astype(np.uint64), task
        )
        refused += found["verdict"] == "worse"
    return refused / rounds


def main(rounds: int) -> None:
    for name, draw in {**EQUAL, **WORSE}.items():
        print(f"{name:48} refused {share_refused(draw, rounds):6.1%}", flush=True)
    random = np.random.default_rng(0)
    for count in (2, 10, 1000):
        columns = [random.integers(count, size=2_000_000) for _ in range(3)]
        names = [pd.Series(column).astype(str) for column in columns]
        groups = random.integers(2**63, size=2_000_000).astype(np.uint64)
        start = time.perf_counter()
        comparison.compare_predictions(*names, groups, "classification")
        taken = time.perf_counter() - start
        print(f"2 million rows, {count} classes: {taken:.1f} s", flush=True)


if __name__ == "__main__":
    with threadpool_limits(1):  # tables so small are not worth two threads
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
