"""Find the rows on which two models can be compared fairly.

These are the rows that were held out from the training of both models.
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

# Two models are not compared if fewer groups of rows were held out from both.
FEWEST_GROUPS = 30
# Rows that are held out by date are divided into this many periods.
PERIODS = 10
# A message names at most this many classes.
SHOWN_CLASSES = 5
# The verdict on a new model if the registered model predicts something else.
PREDICTS_SOMETHING_ELSE = "another question"

Array = npt.NDArray[Any]


class NotComparable(Exception):
    """The registered model cannot be compared with the new one. The message says why."""


class PredictsSomethingElse(Exception):
    """The registered model has another task or target, or entirely different classes.

    The message names the difference.
    """


@dataclass(frozen=True)
class SharedRows:
    """The rows that were held out from the training of two models.

    `groups` holds the group of each row, as an integer. Rows of one group are not
    independent.
    """

    table: pl.DataFrame
    groups: Array


@contextmanager
def raise_not_comparable_on_error(reason: str) -> Iterator[None]:
    """Turn every error in a `with` block into NotComparable.

    The block uses a registered model, which may raise anything. The message is `reason`,
    followed by the message of the error in brackets. NotComparable and
    PredictsSomethingElse pass unchanged.
    """
    try:
        yield
    except (NotComparable, PredictsSomethingElse):
        raise
    except Exception as error:  # noqa: BLE001 (A saved model may raise anything.)
        raise NotComparable(f"{reason} ({error})") from None


@raise_not_comparable_on_error("it cannot say which rows it was trained on")
def find_shared_rows(
    new: SavedModel, registered: SavedModel, holdout: pl.DataFrame
) -> SharedRows:
    """Return the rows that were held out from the training of both models.

    `holdout` has the rows that were held out from the new model.

    Raises PredictsSomethingElse if the models predict different things. Raises
    NotComparable if too few rows are shared, if the registered model needs columns that are
    missing, or if it is unknown which rows were held out from it.
    """
    if new.split is None or registered.split is None:
        raise NotComparable(
            "one of the two models does not record which rows it was trained on"
        )
    _check_target(new, registered)
    _check_holdout(new, registered)
    _check_columns(holdout, [*registered.split.by, *registered.columns])

    rows = holdout.filter(registered.split.held_out(holdout))
    groups = _choose_coarser_groups(new.split, registered.split, rows)
    # Rows of one group are equal or have the same key, so only whole groups are independent
    # evidence. They are counted here even if the models are compared by periods below.
    group_count = len(np.unique(groups))
    if group_count < FEWEST_GROUPS:
        raise NotComparable(
            f"only {group_count} independent groups of rows were held out from both models,"
            f" and {FEWEST_GROUPS} are needed (rows that are equal or have the same key"
            " count as one group)"
        )
    if new.holdout_column:
        # The rows were held out by date. Rows of the same period are not independent.
        periods = form_periods(rows[new.holdout_column])
        return SharedRows(rows, groups=periods)
    return SharedRows(rows, groups)


def form_periods(dates: pl.Series) -> Array:
    """Divide dates into PERIODS periods, and return the period of each row, from 0.

    All periods have about equally many distinct dates. Errors on neighbouring dates are
    similar, so the rows of a period are not independent (H. R. Künsch, "The jackknife and
    the bootstrap for general stationary observations", Annals of Statistics 17, 1989).
    """
    position_of_date = dates.rank("dense").to_numpy() - 1
    date_count = position_of_date.max() + 1
    return np.asarray(position_of_date * PERIODS // date_count, dtype=np.int64)


def _check_target(new: SavedModel, registered: SavedModel) -> None:
    """Raise PredictsSomethingElse if the models differ in the task or in the target.

    PredictsSomethingElse is also raised if both models predict classes, but have no class
    in common. Raises NotComparable if the registered model does not record its task.
    """
    if not registered.task:
        raise NotComparable("it does not record which task it was trained for")
    if (registered.task, registered.target) != (new.task, new.target):
        raise PredictsSomethingElse(
            f"it is a {registered.task} of '{registered.target}', not a {new.task} of"
            f" '{new.target}'"
        )
    if new.task != "classification":
        return

    # The type of the classes may have changed, such as from 1 to "1", so they are compared
    # by name.
    new_classes = {str(name) for name in new.pipeline.classes_}
    registered_classes = sorted(str(name) for name in registered.pipeline.classes_)
    if new_classes.isdisjoint(registered_classes):
        shown_classes = ", ".join(registered_classes[:SHOWN_CLASSES])
        raise PredictsSomethingElse(f"all its classes are different ({shown_classes})")


def _check_holdout(new: SavedModel, registered: SavedModel) -> None:
    """Raise NotComparable if rows were held out by date for only one of the models.

    NotComparable is also raised if rows were held out by the dates in different columns.
    """
    if new.holdout_column != registered.holdout_column:
        raise NotComparable(
            f"its rows were held out {_describe_holdout(registered)}, and those of the new"
            f" model {_describe_holdout(new)}, so one of the two was trained on dates that"
            " the other has to predict"
        )


def _describe_holdout(model: SavedModel) -> str:
    """Return how rows were held out: "at random" or "by the date in 'COLUMN'"."""
    if model.holdout_column:
        return f"by the date in '{model.holdout_column}'"
    return "at random"


def _check_columns(holdout: pl.DataFrame, columns: Iterable[str]) -> None:
    """Raise NotComparable if the hold-out lacks columns that the registered model needs."""
    distinct_columns = dict.fromkeys(columns)
    missing = [name for name in distinct_columns if name not in holdout.columns]
    if missing:
        raise NotComparable(
            f"it needs columns that are missing now: {', '.join(missing)}"
        )


def _choose_coarser_groups(
    new: RowSplit, registered: RowSplit, rows: pl.DataFrame
) -> Array:
    """Return the group of each row, by the split that forms fewer groups.

    `new` and `registered` are the splits of two models. Rows that one split puts into a
    group may be similar, even if the other split keeps them apart. Larger groups are the
    safe choice, because they count similar rows as one. If both splits form equally many
    groups, the groups of the new model are returned.
    """
    groups_of_new = new.groups(rows)
    groups_of_registered = registered.groups(rows)
    new_count = len(np.unique(groups_of_new))
    registered_count = len(np.unique(groups_of_registered))
    return groups_of_registered if registered_count < new_count else groups_of_new
