"""Choose the number of trees of a model by cross-validation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import ensemble
from sklearn.base import clone
from sklearn.pipeline import Pipeline

FOLDS = 5
# With more training rows than this, a single fold is enough to choose the number of trees.
MOST_ROWS_FOR_ALL_FOLDS = 20_000
# Training stops early if this many more trees do not reduce the loss.
PATIENCE = 20
BOOSTED_MODELS = (
    ensemble.HistGradientBoostingClassifier,
    ensemble.HistGradientBoostingRegressor,
)


def can_choose_iterations(pipeline: Pipeline) -> bool:
    """Return whether the model of a pipeline adds trees one after another."""
    return isinstance(pipeline[-1], BOOSTED_MODELS)


def choose_iterations(
    pipeline: Pipeline,
    features: pd.DataFrame,
    target: pd.Series,
    fold_numbers: npt.NDArray[np.integer],
) -> int:
    """Return the number of trees with the smallest loss in a cross-validation.

    `fold_numbers` has the number of a fold for each row, from 0 to 4. Rows with a larger
    number belong to no fold, and are always trained on. If no fold has enough rows to
    measure a loss, the largest number of trees is returned.

    Raises ValueError if scikit-learn refuses a hyperparameter.
    """
    fold_count = FOLDS
    if len(features) > MOST_ROWS_FOR_ALL_FOLDS:
        fold_count = 1

    max_trees = pipeline[-1].max_iter
    total_losses = np.zeros(max_trees + 1)
    for fold in range(fold_count):
        is_in_fold = fold_numbers == fold
        total_losses += _measure_losses(pipeline, features, target, is_in_fold)

    is_measured = total_losses.any()
    if not is_measured:
        return int(max_trees)
    best = int(total_losses.argmin())
    return max(1, best)


def _measure_losses(
    pipeline: Pipeline,
    features: pd.DataFrame,
    target: pd.Series,
    is_in_fold: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Return the loss on the rows of a fold after 0, 1, 2, ... trees.

    The trees are trained on all other rows. A loss is the sum over the rows of the fold.
    All losses are 0 if there are too few rows to train on or to measure a loss on.
    """
    trial = clone(pipeline)
    encoder = trial[0]
    model = trial[-1]
    losses = np.zeros(model.max_iter + 1)

    training_target = target[~is_in_fold]
    is_validated = is_in_fold
    if isinstance(model, ensemble.HistGradientBoostingClassifier):
        # The model has no probability for a class that it was not trained on, so rows of
        # such a class have no loss.
        is_known_class = target.isin(training_target.unique()).to_numpy()
        is_validated = is_in_fold & is_known_class
    validation_rows = is_validated.sum()
    if validation_rows < 2 or training_target.nunique() < 2:
        return losses

    model.set_params(
        early_stopping=True, scoring="loss", n_iter_no_change=PATIENCE, tol=0
    )
    model.fit(
        encoder.fit_transform(features.loc[training_target.index]),
        training_target,
        X_val=encoder.transform(features[is_validated]),
        y_val=target[is_validated],
    )

    # scikit-learn's scores are negative mean losses.
    measured = -np.asarray(model.validation_score_) * validation_rows
    losses[: len(measured)] = measured
    # If training stopped early, the remaining numbers of trees get the last loss.
    losses[len(measured) :] = measured[-1]
    return losses
