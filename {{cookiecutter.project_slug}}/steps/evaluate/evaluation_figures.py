"""Draw the pictures of the evaluation report: how good the predictions are, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from model_metrics import (
    CannotCompute,
    Metric,
    Predictions,
    format_value,
    select_classes,
)
from sklearn import metrics
from sklearn.calibration import CalibrationDisplay

MOST_FEATURES = 20
# The confusion matrix shows at most this many classes.
MOST_CLASSES = 30
MOST_CURVES = 8
# Probabilities, or actual numbers, are divided into this many ranges, each with equally
# many rows. If these would be fewer than FEWEST_ROWS_PER_RANGE, there are fewer ranges.
RANGES = 10
FEWEST_ROWS_PER_RANGE = 20
# Longer names are cut off. These are numbers of characters.
LONGEST_NAME = 60
LONGEST_NAME_IN_LEGEND = 36
# The width of a character of a label.
INCHES_PER_CHARACTER = 0.085
COLOR = "#1f5f99"
SECOND_COLOR = "#c2410c"

# Text in figures stays text, which a browser can show in any script. Dollar signs in names
# do not make a formula of it.
rcParams.update({"svg.fonttype": "none", "text.parse_math": False})

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """A figure with a title, and with a description for people who cannot see it.

    `name` is the name of its file in MLflow, without an extension.
    """

    name: str
    title: str
    description: str
    figure: Figure


def draw_pictures(
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
    importance: pd.Series,
    metric: Metric,
    target_name: str,
) -> list[Picture]:
    """Draw the predictions for the held-out rows, and the importance of the features.

    `target` has positions in the list of classes, or numbers if the list is empty.
    """
    if classes:
        pictures = _draw_classification(target, predictions, classes)
    else:
        pictures = _draw_regression(target, predictions.values, target_name)
    return [*pictures, _draw_importance(importance, metric)]


def shorten_name(name: object, longest: int = LONGEST_NAME) -> str:
    """Return a name on one line, with at most `longest` characters."""
    text = "".join(
        character if character.isprintable() else " " for character in str(name)
    )
    if len(text) <= longest:
        return text
    return f"{text[: longest - 1]}…"


def _measure_names(names: Sequence[str]) -> float:
    """Return the approximate width in inches of the longest name."""
    most_characters = max((len(name) for name in names), default=0)
    return INCHES_PER_CHARACTER * most_characters


# Classification


def _draw_classification(
    target: Array, predictions: Predictions, classes: Sequence[str]
) -> list[Picture]:
    """Draw the confusion matrix, the curves of the classes, and the calibration.

    Of two classes, all curves show the rarer one. If all rows are of one class, there is
    only the confusion matrix.
    """
    pictures = [_draw_confusion(target, predictions.values, classes)]
    try:
        positions = select_classes("average_precision", target, predictions)
    except CannotCompute:
        return pictures
    return [
        *pictures,
        _draw_roc_curves(target, predictions, classes, positions),
        _draw_precision_recall(target, predictions, classes, positions),
        _draw_calibration(target, predictions, classes, positions),
    ]


def _select_frequent(positions: Sequence[int], target: Array, most: int) -> list[int]:
    """Return the positions of the most frequent classes, in the order of the classes."""
    counts = np.bincount(target, minlength=max(positions) + 1)
    by_frequency = sorted(positions, key=lambda position: -counts[position])
    return sorted(by_frequency[:most])


def _draw_confusion(target: Array, values: Array, classes: Sequence[str]) -> Picture:
    """Draw a matrix of the actual and the predicted classes of the rows."""
    occurring = sorted({*target.tolist(), *values.tolist()})
    shown = _select_frequent(occurring, target, MOST_CLASSES)
    names = [shorten_name(classes[position]) for position in shown]
    has_rotated_labels = len(names) > 2
    size = 2 + 0.45 * len(shown)
    margin = _measure_names(names)
    figure = Figure(figsize=(size + margin, size + 0.7 * margin), layout="constrained")

    counts = metrics.confusion_matrix(target, values, labels=shown)
    matrix = metrics.ConfusionMatrixDisplay(counts, display_labels=names)
    matrix.plot(
        ax=figure.subplots(),
        cmap="Blues",
        values_format="d",
        xticks_rotation=45 if has_rotated_labels else "horizontal",
        colorbar=False,
    )
    axes = matrix.ax_
    axes.set(xlabel="predicted class", ylabel="actual class")
    if has_rotated_labels:
        for label in axes.get_xticklabels():
            # The end of a rotated label is at its column, and not its middle.
            label.set(ha="right", rotation_mode="anchor")

    title = "Confusion matrix"
    if len(shown) < len(occurring):
        title += f" of the {len(shown)} most frequent classes"
    correct = int(np.trace(counts))
    description = (
        "A table with a row for each actual and a column for each predicted class."
        f" {correct} of {counts.sum()} rows are on the diagonal, which is correct."
    )
    return Picture("predictions", title, description, figure)


def _draw_roc_curves(
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
    positions: Sequence[int],
) -> Picture:
    """Draw the ROC curves of the classes at some positions, each against all others."""
    assert predictions.probabilities is not None
    shown = _select_frequent(positions, target, MOST_CURVES)
    figure, axes = _make_square_figure(len(shown))
    for position in shown:
        metrics.RocCurveDisplay.from_predictions(
            target == position,
            predictions.probabilities[:, position],
            name=shorten_name(classes[position], LONGEST_NAME_IN_LEGEND),
            ax=axes,
            plot_chance_level=position == shown[-1],
            chance_level_kw={"label": "chance"},
        )
    axes.set(
        xlabel="share of the other rows that are taken for the class",
        ylabel="share of the rows of the class that are recognized",
    )
    _move_legend_below(figure, axes)
    description = (
        "The more a curve bends to the upper left, the better the model tells the class"
        " from the others."
    )
    return Picture(
        name="roc_curve",
        title=_title_curves("ROC curve", shown, positions, classes),
        description=description,
        figure=figure,
    )


def _draw_precision_recall(
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
    positions: Sequence[int],
) -> Picture:
    """Draw precision by recall for the classes at some positions."""
    assert predictions.probabilities is not None
    shown = _select_frequent(positions, target, MOST_CURVES)
    figure, axes = _make_square_figure(len(shown))
    for position in shown:
        metrics.PrecisionRecallDisplay.from_predictions(
            target == position,
            predictions.probabilities[:, position],
            name=shorten_name(classes[position], LONGEST_NAME_IN_LEGEND),
            drop_intermediate=True,
            ax=axes,
        )
    axes.set(
        xlabel="recall: share of the rows of the class that are recognized",
        ylabel="precision: share of correct rows among them",
    )
    _move_legend_below(figure, axes)
    description = (
        "The closer a curve stays to the upper right, the fewer rows are taken for the"
        " class by mistake."
    )
    return Picture(
        name="precision_recall",
        title=_title_curves("Precision and recall", shown, positions, classes),
        description=description,
        figure=figure,
    )


def _draw_calibration(
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
    positions: Sequence[int],
) -> Picture:
    """Draw how often predictions of a certain probability are right.

    Of two classes, it is the probability of the class at the only position. Of several
    classes, it is the probability of the predicted class.
    """
    assert predictions.probabilities is not None
    if len(classes) == 2:
        position = positions[0]
        is_right = target == position
        probabilities = predictions.probabilities[:, position]
        subject = f"the class {shorten_name(classes[position])}"
    else:
        is_right = target == predictions.values
        probabilities = predictions.probabilities.max(axis=1)
        subject = "the predicted class"

    figure, axes = _make_square_figure(curves=0)
    CalibrationDisplay.from_predictions(
        is_right,
        # Sums of rounded numbers can be slightly more than 1.
        np.clip(probabilities, 0, 1),
        n_bins=_choose_ranges(len(target)),
        strategy="quantile",
        color=COLOR,
        name="model",
        ax=axes,
    )
    axes.set(
        xlabel=f"mean probability of {subject}",
        ylabel="share of rows for which it is true",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.legend(["perfect", "model"], frameon=False, loc="upper left")
    description = (
        "On the diagonal, probabilities can be taken at their word. Below it, the model"
        " is too sure of itself."
    )
    return Picture("calibration", f"Calibration of {subject}", description, figure)


def _title_curves(
    title: str, shown: Sequence[int], positions: Sequence[int], classes: Sequence[str]
) -> str:
    """Return the title of a picture of curves, with the classes that are shown."""
    if len(positions) == 1:
        return f"{title} of the class {classes[positions[0]]}"
    if len(shown) < len(positions):
        return f"{title} of the {len(shown)} most frequent classes, each against all others"
    return f"{title} of each class against all others"


def _make_square_figure(curves: int) -> tuple[Figure, Axes]:
    """Return a square figure with room for a legend of some curves, and its axes."""
    figure = Figure(figsize=(5.5, 5.5 + 0.25 * curves), layout="constrained")
    return figure, figure.subplots()


def _move_legend_below(figure: Figure, axes: Axes) -> None:
    """Move the legend below the axes, where it hides no curve."""
    handles, labels = axes.get_legend_handles_labels()
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    figure.legend(handles, labels, loc="outside lower left", frameon=False)


def _choose_ranges(rows: int) -> int:
    """Return a number of ranges that leaves enough rows in each range."""
    return max(2, min(RANGES, rows // FEWEST_ROWS_PER_RANGE))


# Regression


def _draw_regression(target: Array, values: Array, target_name: str) -> list[Picture]:
    """Draw predicted and actual numbers, the residuals, and the errors by range."""
    name = shorten_name(target_name)
    return [
        Picture(
            name="predictions",
            title=f"Predicted and actual {name}",
            description="Points on the diagonal are predicted exactly.",
            figure=_draw_errors(
                target,
                values,
                "actual_vs_predicted",
                f"predicted {name}",
                f"actual {name}",
            ),
        ),
        Picture(
            name="residuals",
            title="Residuals",
            description=(
                "Points around the line at 0 without a pattern are chance. A bend or a"
                " funnel says that the model errs more in some places."
            ),
            figure=_draw_errors(
                target,
                values,
                "residual_vs_predicted",
                f"predicted {name}",
                "actual less predicted",
            ),
        ),
        _draw_error_by_range(target, values, name),
    ]


def _draw_errors(
    target: Array, values: Array, kind: str, xlabel: str, ylabel: str
) -> Figure:
    """Draw a point for each row. `kind` is that of scikit-learn's display."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    display = metrics.PredictionErrorDisplay.from_predictions(
        target,
        values,
        kind=kind,
        # Of many rows, the display draws 1,000 at random.
        random_state=0,
        scatter_kwargs={"color": COLOR, "alpha": 0.5},
        ax=figure.subplots(),
    )
    display.ax_.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def _draw_error_by_range(target: Array, values: Array, name: str) -> Picture:
    """Draw the mean errors of rows with small, middle and large actual numbers."""
    ranges = _choose_ranges(len(target))
    limits = np.unique(np.quantile(target, np.linspace(0, 1, ranges + 1)))
    range_of_row = np.searchsorted(limits[1:-1], target, side="left")
    rows = np.bincount(range_of_row)
    occurring = np.flatnonzero(rows)

    errors = values - target
    total_sizes = np.bincount(range_of_row, np.abs(errors))
    total_errors = np.bincount(range_of_row, errors)
    mean_sizes = total_sizes[occurring] / rows[occurring]
    mean_errors = total_errors[occurring] / rows[occurring]

    # If all actual numbers are equal, there is a single limit.
    upper_limits = limits[1:] if len(limits) > 1 else limits
    labels = [f"to {format_value(upper_limits[number])}" for number in occurring]

    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(occurring))
    axes.bar(positions, mean_sizes, color="#b8c4d6", label="mean absolute error")
    axes.plot(
        positions,
        mean_errors,
        color=SECOND_COLOR,
        marker="o",
        linestyle="none",
        label="mean of predicted less actual",
    )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(positions, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set(xlabel=f"actual {name}", ylabel="error")
    _move_legend_below(figure, axes)
    description = (
        f"The rows are divided into {len(occurring)} ranges of the actual number. A point"
        " far from 0 says that numbers of this range are predicted too large or too small."
    )
    return Picture("error_by_range", "Error along the range", description, figure)


# Features


def _draw_importance(importance: pd.Series, metric: Metric) -> Picture:
    """Draw a bar for each of the most important features, the longest on top."""
    bars = importance.head(MOST_FEATURES)[::-1]
    names = [shorten_name(name) for name in bars.index]
    figure = Figure(
        figsize=(4.5 + _measure_names(names), 1.2 + 0.28 * len(bars)),
        layout="constrained",
    )
    axes = figure.subplots()
    axes.barh(range(len(bars)), bars, tick_label=names, color=COLOR)
    axes.axvline(0, color="black", linewidth=0.8)
    change = "loss" if metric.higher_is_better else "increase"
    figure.supxlabel(
        f"{change} of {metric.title} if the feature is shuffled", fontsize="medium"
    )
    title = "Importance of the features"
    if len(importance) > len(bars):
        title += f" (the first {len(bars)} of {len(importance)})"
    description = (
        f"How much worse {metric.title} gets on the held-out rows if the values of a"
        " feature are shuffled."
    )
    return Picture("importance_of_the_features", title, description, figure)
