"""Choose the number of trees of a boosting model by cross-validation.

A boosting model adds trees one after another. With too few trees it predicts badly, and
with too many it learns the noise of the training rows.
"""

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
    """Return whether the last step of a pipeline is a boosting model of scikit-learn."""
    return isinstance(pipeline[-1], BOOSTED_MODELS)


def choose_iterations(
    pipeline: Pipeline,
    features: pd.DataFrame,
    target: pd.Series,
    fold_numbers: npt.NDArray[np.integer],
) -> int:
    """Return the number of trees with the smallest loss in a cross-validation.

    `fold_numbers` holds the fold number of each row. Rows with the number FOLDS or a larger
    one are in no fold, and always trained on. If there are more than
    MOST_ROWS_FOR_ALL_FOLDS rows, only the loss of the first fold is measured.

    Returns the parameter `max_iter` of the model if no fold has enough rows to measure a
    loss. Raises ValueError if scikit-learn refuses a hyperparameter.
    """
    fold_count = FOLDS
    if len(features) > MOST_ROWS_FOR_ALL_FOLDS:
        fold_count = 1

    max_trees = pipeline[-1].max_iter
    # The position in this array is the number of trees.
    total_losses = np.zeros(max_trees + 1)
    for number in range(fold_count):
        is_in_fold = fold_numbers == number
        total_losses += _measure_losses(pipeline, features, target, is_in_fold)

    # The losses of a fold with too few rows are all 0.
    is_any_loss_measured = total_losses.any()
    if not is_any_loss_measured:
        return int(max_trees)
    best = int(total_losses.argmin())
    # A model needs at least one tree.
    return max(1, best)


def _measure_losses(
    pipeline: Pipeline,
    features: pd.DataFrame,
    target: pd.Series,
    is_in_fold: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Return the loss on the rows of a fold after 0, 1, 2, ... trees.

    The trees are trained on all rows outside the fold. Each loss is the sum over the rows
    of the fold. All losses are 0 if there are too few rows to train on or to measure a loss
    on. The pipeline itself is not changed.
    """
    pipeline = clone(pipeline)
    encoder = pipeline[0]
    model = pipeline[-1]
    losses = np.zeros(model.max_iter + 1)

    is_trained_on = ~is_in_fold
    training_target = target[is_trained_on]
    is_measured = is_in_fold
    if isinstance(model, ensemble.HistGradientBoostingClassifier):
        # The model has no probability for a class that it was not trained on, so a row of
        # such a class has no loss.
        has_known_class = target.isin(training_target.unique()).to_numpy()
        is_measured = is_in_fold & has_known_class
    measured_rows = is_measured.sum()
    if measured_rows < 2 or training_target.nunique() < 2:
        return losses

    model.set_params(
        early_stopping=True, scoring="loss", n_iter_no_change=PATIENCE, tol=0
    )
    model.fit(
        encoder.fit_transform(features[is_trained_on]),
        training_target,
        X_val=encoder.transform(features[is_measured]),
        y_val=target[is_measured],
    )

    # scikit-learn's scores are mean losses with a minus sign.
    measured_losses = -np.asarray(model.validation_score_) * measured_rows
    losses[: len(measured_losses)] = measured_losses
    # If training stopped early, larger numbers of trees were not measured. They get the
    # last loss that was.
    losses[len(measured_losses) :] = measured_losses[-1]
    return losses
