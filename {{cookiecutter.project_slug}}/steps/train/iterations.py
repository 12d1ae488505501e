"""Choose the number of trees by cross-validation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import ensemble
from sklearn.base import clone
from sklearn.pipeline import Pipeline

FOLDS = 5
# With more training rows, a single fold is enough to choose the number of trees.
MOST_ROWS_FOR_ALL_FOLDS = 20_000
# Training of a fold stops after this many trees that did not improve it.
PATIENCE = 20
GROWING_MODELS = (
    ensemble.HistGradientBoostingClassifier,
    ensemble.HistGradientBoostingRegressor,
)


def can_choose_iterations(pipeline: Pipeline) -> bool:
    """Return whether the model adds trees one by one, up to a number."""
    return isinstance(pipeline[-1], GROWING_MODELS)


def choose_iterations(
    pipeline: Pipeline,
    features: pd.DataFrame,
    answers: pd.Series,
    folds: npt.NDArray[np.integer],
) -> int:
    """Return the number of trees with the smallest loss on rows they were not trained on.

    `folds` has a number for each row. The rows of each number from 0 to 4 are predicted,
    after each tree, by a model of all other rows; rows of other numbers are only trained
    on. The losses are added up over the folds.

    Raises ValueError, with the words of scikit-learn, if it refuses a hyperparameter.
    """
    count = 1 if len(features) > MOST_ROWS_FOR_ALL_FOLDS else FOLDS
    most = pipeline[-1].max_iter
    total = np.zeros(most + 1)
    for fold in range(count):
        is_judged = folds == fold
        total += _measure_losses(pipeline, features, answers, is_judged)
    if not total.any():
        return int(most)
    return max(1, int(total.argmin()))


def _measure_losses(
    pipeline: Pipeline,
    features: pd.DataFrame,
    answers: pd.Series,
    is_judged: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Return the loss after 0, 1, 2, ... trees, summed over the judged rows.

    It is 0 everywhere if there are too few judged rows, or too few others to train on.
    """
    fold = clone(pipeline)
    model = fold[-1]
    losses = np.zeros(model.max_iter + 1)
    learned = answers[~is_judged]
    if isinstance(model, ensemble.HistGradientBoostingClassifier):
        # A class that is only in the judged rows has no probability.
        is_judged = is_judged & answers.isin(learned.unique()).to_numpy()
    if is_judged.sum() < 2 or learned.nunique() < 2:
        return losses

    model.set_params(
        early_stopping=True, scoring="loss", n_iter_no_change=PATIENCE, tol=0
    )
    encoded = fold[0].fit_transform(features.loc[learned.index])
    model.fit(
        encoded,
        learned,
        X_val=fold[0].transform(features[is_judged]),
        y_val=answers[is_judged],
    )
    measured = -np.asarray(model.validation_score_) * is_judged.sum()
    losses[: len(measured)] = measured
    # Early stopping ended before the last trees. Their loss is taken to be the last one.
    losses[len(measured) :] = measured[-1]
    return losses
