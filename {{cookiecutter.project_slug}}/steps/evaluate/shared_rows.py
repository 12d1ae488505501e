"""Find the held-out rows on which two models can be compared fairly.

These are the rows that neither of the two models was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from saved_model import RowSplit, SavedModel

# With fewer groups of rows held out from both models, they are not compared.
FEWEST_GROUPS = 30
# Rows that are held out by date are divided into this many periods.
PERIODS = 10
# A message names at most this many classes.
SHOWN_CLASSES = 5

Array = npt.NDArray[Any]


class NotComparable(Exception):
    """The registered model cannot be compared with the new one. The message says why."""


class PredictsSomethingElse(Exception):
    """The registered model has another task, target or classes. The message says which."""


@dataclass(frozen=True)
class SharedRows:
    """The rows that two models have both held out.

    `groups` has a number for each row. Rows of one group are not independent.
    """

    table: pl.DataFrame
    groups: Array


@contextmanager
def not_comparable_if_it_fails(reason: str) -> Iterator[None]:
    """Raise NotComparable with a reason if a registered model raises any error."""
    try:
        yield
    except (NotComparable, PredictsSomethingElse):
        raise
    except Exception as error:  # noqa: BLE001 (A saved model may raise anything.)
        raise NotComparable(f"{reason} ({error})") from None


@not_comparable_if_it_fails("it cannot say which rows it was trained on")
def find_shared_rows(
    new: SavedModel, registered: SavedModel, holdout: pl.DataFrame
) -> SharedRows:
    """Return the rows of the new model's hold-out that the registered model held out, too.

    Raises PredictsSomethingElse if the models predict different things. Raises
    NotComparable if there are too few such rows, or if the registered model cannot tell
    which rows it has held out.
    """
    if new.split is None or registered.split is None:
        raise NotComparable("it does not say which rows it was trained on")
    _check_target(new, registered)
    _check_holdout(new, registered)
    _check_columns(holdout, [*registered.split.by, *registered.columns])

    rows = holdout.filter(registered.split.held_out(holdout))
    groups = _choose_coarser_groups(new.split, registered.split, rows)
    count = len(np.unique(groups))
    if count < FEWEST_GROUPS:
        raise NotComparable(
            "too few groups of rows (equal ones, or of one key) are held out from both:"
            f" {count}, and {FEWEST_GROUPS} are needed"
        )
    if new.holdout_column:
        groups = form_periods(rows[new.holdout_column])
    return SharedRows(rows, groups)


def form_periods(dates: pl.Series) -> Array:
    """Return the number of a period for each row. All periods have equally many dates.

    Errors on neighbouring dates are similar, so the rows of a period are not independent
    (H. R. Künsch, "The jackknife and the bootstrap for general stationary observations",
    Annals of Statistics 17, 1989).
    """
    ranks = dates.rank("dense").to_numpy() - 1
    number_of_dates = ranks.max() + 1
    return np.asarray(ranks * PERIODS // number_of_dates, dtype=np.int64)


def _check_target(new: SavedModel, registered: SavedModel) -> None:
    """Raise PredictsSomethingElse if the task, the target or all classes differ.

    Raises NotComparable if the registered model does not say what it predicts.
    """
    if not registered.task:
        raise NotComparable("it does not say which task it was trained for")
    if (registered.task, registered.target) != (new.task, new.target):
        raise PredictsSomethingElse(
            f"it is a {registered.task} of '{registered.target}', not a {new.task} of"
            f" '{new.target}'"
        )
    if new.task != "classification":
        return

    # The type of the classes may have changed, so they are compared by name.
    new_classes = {str(name) for name in new.pipeline.classes_}
    registered_classes = sorted(str(name) for name in registered.pipeline.classes_)
    if new_classes.isdisjoint(registered_classes):
        listed = ", ".join(registered_classes[:SHOWN_CLASSES])
        raise PredictsSomethingElse(f"it knows other classes ({listed})")


def _check_holdout(new: SavedModel, registered: SavedModel) -> None:
    """Raise NotComparable if one model held rows out by date, and the other did not."""
    if new.holdout_column != registered.holdout_column:
        raise NotComparable(
            f"its rows were held out {_describe_holdout(registered)}, and those of the new"
            f" model {_describe_holdout(new)}, so one of the two was trained on dates that"
            " the other has to predict"
        )


def _describe_holdout(model: SavedModel) -> str:
    """Return how rows were held out, as part of a sentence."""
    if model.holdout_column:
        return f"by the date in '{model.holdout_column}'"
    return "at random"


def _check_columns(holdout: pl.DataFrame, columns: Iterable[str]) -> None:
    """Raise NotComparable if the hold-out lacks columns that the registered model needs."""
    distinct_columns = dict.fromkeys(columns)
    missing = [name for name in distinct_columns if name not in holdout.columns]
    if missing:
        raise NotComparable(
            f"the registered version needs columns that are gone: {', '.join(missing)}"
        )


def _choose_coarser_groups(
    new: RowSplit, registered: RowSplit, rows: pl.DataFrame
) -> Array:
    """Return the group of each row, by the rule that puts more rows into one group.

    Rows of such a group may be similar, although the other rule tells them apart.
    """
    groups_of_new = new.groups(rows)
    groups_of_registered = registered.groups(rows)
    if len(np.unique(groups_of_registered)) < len(np.unique(groups_of_new)):
        return groups_of_registered
    return groups_of_new
