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

# The picture of the importance shows at most this many features.
MOST_FEATURES = 20
# The confusion matrix shows at most this many classes.
MOST_CLASSES = 30
# A picture shows the curves of at most this many classes.
MOST_CURVES = 8
# A picture of the errors shows at most this many rows.
MOST_POINTS = 1_000
# Probabilities, or actual values, are divided into this many ranges with about equally many
# rows. If a range would have fewer than FEWEST_ROWS_PER_RANGE rows, there are fewer ranges.
RANGES = 10
FEWEST_ROWS_PER_RANGE = 20
# Names with more characters are cut off.
LONGEST_NAME = 60
LONGEST_NAME_IN_LEGEND = 36
# The width of a character of a label, and the sizes of a bar, a cell and a legend line.
INCHES_PER_CHARACTER = 0.085
INCHES_PER_BAR = 0.28
INCHES_PER_CELL = 0.45
INCHES_PER_LEGEND_LINE = 0.25
COLOR = "#1f5f99"
SECOND_COLOR = "#c2410c"
PALE_COLOR = "#b8c4d6"

# Text in figures stays text, which a browser can show in any script. Dollar signs in a text
# do not turn it into a formula.
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
    """Return pictures of the predictions for the held-out rows, and of the features.

    In a classification, `target` holds positions in `classes`. In a regression, `classes`
    is empty, and `target` holds numbers. `importance` has a value for each feature, the
    largest first, and `metric` is the metric in which it is measured.
    """
    if classes:
        pictures = _draw_classification(target, predictions, classes)
    else:
        pictures = _draw_regression(target, predictions.values, target_name)
    return [*pictures, _draw_importance(importance, metric)]


def shorten_name(name: object, longest: int = LONGEST_NAME) -> str:
    """Return a name on one line, cut off after `longest` characters with "…"."""
    text = "".join(
        character if character.isprintable() else " " for character in str(name)
    )
    if len(text) <= longest:
        return text
    return f"{text[: longest - 1]}…"


def _measure_longest_name(names: Sequence[str]) -> float:
    """Return the approximate width of the longest name, in inches."""
    most_characters = max((len(name) for name in names), default=0)
    return INCHES_PER_CHARACTER * most_characters


# Classification


def _draw_classification(
    target: Array, predictions: Predictions, classes: Sequence[str]
) -> list[Picture]:
    """Draw the confusion matrix, the curves of the classes, and the calibration.

    With two classes, all curves are those of the rarer class. If all rows are of one class,
    only the confusion matrix is drawn.
    """
    pictures = [_draw_confusion(target, predictions.values, classes)]
    try:
        # This selects the rarer of two classes, also for the curves of other metrics.
        positions = select_classes("average_precision", target, predictions)
    except CannotCompute:
        return pictures
    return [
        *pictures,
        _draw_roc_curves(target, predictions, classes, positions),
        _draw_precision_recall(target, predictions, classes, positions),
        _draw_calibration(target, predictions, classes, positions),
    ]


def _select_frequent_classes(
    positions: Sequence[int], target: Array, most: int
) -> list[int]:
    """Return the positions of the classes that occur most often in `target`.

    `positions` are the positions to choose from. At most `most` of these positions are
    returned, in ascending order.
    """
    counts = np.bincount(target, minlength=max(positions) + 1)
    by_frequency = sorted(positions, key=lambda position: -counts[position])
    return sorted(by_frequency[:most])


def _draw_confusion(target: Array, values: Array, classes: Sequence[str]) -> Picture:
    """Draw the confusion matrix: the counts of rows by actual and predicted class.

    `target` and `values` hold the positions of the actual and the predicted classes in
    `classes`. If there are more than MOST_CLASSES classes, the most frequent are shown.
    """
    occurring_positions = sorted({*target.tolist(), *values.tolist()})
    shown_positions = _select_frequent_classes(
        occurring_positions, target, MOST_CLASSES
    )
    names = [shorten_name(classes[position]) for position in shown_positions]
    counts = metrics.confusion_matrix(target, values, labels=shown_positions)
    figure = _plot_confusion_matrix(counts, names)

    title = "Confusion matrix"
    if len(shown_positions) < len(occurring_positions):
        title += f" of the {len(shown_positions)} most frequent classes"
    correct_rows = int(np.trace(counts))
    description = (
        "The matrix has a row for each actual and a column for each predicted class."
        f" The {correct_rows} of {counts.sum()} rows on the diagonal are predicted"
        " correctly."
    )
    # Both tasks have a picture of this name in MLflow.
    return Picture("predictions", title, description, figure)


def _plot_confusion_matrix(counts: Array, names: Sequence[str]) -> Figure:
    """Return a figure of a confusion matrix, in which all labels have enough room.

    `counts` has a line for each actual class and a column for each predicted class, and
    `names` are the names of these classes.
    """
    has_rotated_labels = len(names) > 2
    inches_of_cells = 2 + INCHES_PER_CELL * len(names)
    inches_of_labels = _measure_longest_name(names)
    # The labels on the left need their full width. The labels below are rotated by 45
    # degrees, so they need about 0.7 of their width as height.
    width = inches_of_cells + inches_of_labels
    height = inches_of_cells + 0.7 * inches_of_labels
    figure = Figure(figsize=(width, height), layout="constrained")

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
            # Align the end of a rotated label with its column, rather than its middle.
            label.set(ha="right", rotation_mode="anchor")
    return figure


def _draw_roc_curves(
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
    positions: Sequence[int],
) -> Picture:
    """Draw the ROC curves of the classes at `positions`, each against all others.

    If there are more than MOST_CURVES classes, the most frequent are shown.
    """
    assert predictions.probabilities is not None  # It is None only in a regression.
    shown_positions = _select_frequent_classes(positions, target, MOST_CURVES)
    figure, axes = _make_square_figure(legend_lines=len(shown_positions))
    for position in shown_positions:
        metrics.RocCurveDisplay.from_predictions(
            target == position,
            predictions.probabilities[:, position],
            name=shorten_name(classes[position], LONGEST_NAME_IN_LEGEND),
            ax=axes,
            # The line of chance is drawn with the last curve, so it is last in the legend.
            plot_chance_level=position == shown_positions[-1],
            chance_level_kw={"label": "chance"},
        )
    axes.set(
        xlabel="false positive rate: share of the other rows predicted as the class",
        ylabel="true positive rate: share of the class's rows predicted as the class",
    )
    _move_legend_below(figure, axes)
    description = (
        "The more a curve bends to the upper left, the better the model tells the class"
        " from the other classes."
    )
    return Picture(
        name="roc_curve",
        title=_make_title_of_curves("ROC curve", shown_positions, positions, classes),
        description=description,
        figure=figure,
    )


def _draw_precision_recall(
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
    positions: Sequence[int],
) -> Picture:
    """Draw precision against recall for the classes at `positions`.

    If there are more than MOST_CURVES classes, the most frequent are shown.
    """
    assert predictions.probabilities is not None  # It is None only in a regression.
    shown_positions = _select_frequent_classes(positions, target, MOST_CURVES)
    figure, axes = _make_square_figure(legend_lines=len(shown_positions))
    for position in shown_positions:
        metrics.PrecisionRecallDisplay.from_predictions(
            target == position,
            predictions.probabilities[:, position],
            name=shorten_name(classes[position], LONGEST_NAME_IN_LEGEND),
            drop_intermediate=True,
            ax=axes,
        )
    axes.set(
        xlabel="recall: share of the class's rows predicted as the class",
        ylabel="precision: share of correct rows among those predicted as the class",
    )
    _move_legend_below(figure, axes)
    description = (
        "The closer a curve stays to the upper right, the fewer rows are wrongly predicted"
        " as the class."
    )
    return Picture(
        name="precision_recall",
        title=_make_title_of_curves(
            "Precision and recall", shown_positions, positions, classes
        ),
        description=description,
        figure=figure,
    )


def _draw_calibration(
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
    positions: Sequence[int],
) -> Picture:
    """Draw a calibration curve: the actual share of a class against its mean probability.

    With two classes, the curve shows the class in `positions`, which has one element. With
    more classes, it shows the predicted class of each row.
    """
    assert predictions.probabilities is not None  # It is None only in a regression.
    if len(classes) == 2:
        position = positions[0]
        is_of_class = target == position
        probabilities = predictions.probabilities[:, position]
        subject = f"the class {shorten_name(classes[position])}"
    else:
        is_of_class = target == predictions.values
        probabilities = predictions.probabilities.max(axis=1)
        subject = "the predicted class"

    figure, axes = _make_square_figure(legend_lines=0)
    CalibrationDisplay.from_predictions(
        is_of_class,
        # Because of rounding errors, a probability can be slightly more than 1.
        np.clip(probabilities, 0, 1),
        n_bins=_choose_number_of_ranges(len(target)),
        strategy="quantile",
        color=COLOR,
        name="model",
        ax=axes,
    )
    axes.set(
        xlabel=f"mean probability of {subject}",
        ylabel="share of rows of this class",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.legend(["perfect", "model"], frameon=False, loc="upper left")
    description = (
        "On the diagonal, the probabilities are as large as the shares of rows. Below it,"
        " the model is overconfident."
    )
    return Picture("calibration", f"Calibration of {subject}", description, figure)


def _make_title_of_curves(
    title: str, shown: Sequence[int], positions: Sequence[int], classes: Sequence[str]
) -> str:
    """Return the title of a picture with curves of classes, such as "ROC curve of …".

    `positions` are the positions in `classes` of all classes that have a curve. `shown` are
    the positions of the classes whose curves are drawn.
    """
    if len(positions) == 1:
        return f"{title} of the class {classes[positions[0]]}"
    if len(shown) < len(positions):
        return f"{title} of the {len(shown)} most frequent classes, each against all others"
    return f"{title} of each class against all others"


def _make_square_figure(legend_lines: int) -> tuple[Figure, Axes]:
    """Return a square figure and its axes, with room below for the lines of a legend."""
    height = 5.5 + INCHES_PER_LEGEND_LINE * legend_lines
    figure = Figure(figsize=(5.5, height), layout="constrained")
    return figure, figure.subplots()


def _move_legend_below(figure: Figure, axes: Axes) -> None:
    """Move the legend below the axes, where it does not hide a curve."""
    handles, labels = axes.get_legend_handles_labels()
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    figure.legend(handles, labels, loc="outside lower left", frameon=False)


def _choose_number_of_ranges(row_count: int) -> int:
    """Return the number of ranges into which rows are to be divided: 2 to RANGES.

    Each range has at least FEWEST_ROWS_PER_RANGE rows, unless there are too few rows even
    for two ranges of this size.
    """
    return max(2, min(RANGES, row_count // FEWEST_ROWS_PER_RANGE))


# Regression


def _draw_regression(target: Array, values: Array, target_name: str) -> list[Picture]:
    """Draw the predicted and actual values, the residuals, and the errors by range."""
    name = shorten_name(target_name)
    return [
        Picture(
            name="predictions",
            title=f"Predicted and actual {name}",
            description="Points on the diagonal are predicted exactly.",
            figure=_draw_errors(
                target,
                values,
                kind="actual_vs_predicted",
                xlabel=f"predicted {name}",
                ylabel=f"actual {name}",
            ),
        ),
        Picture(
            name="residuals",
            title="Residuals",
            description=(
                "If the points scatter around 0 without a pattern, the remaining errors are"
                " chance. A bend or a funnel shows that the errors depend on the predicted"
                " value."
            ),
            figure=_draw_errors(
                target,
                values,
                kind="residual_vs_predicted",
                xlabel=f"predicted {name}",
                ylabel="residual (actual - predicted)",
            ),
        ),
        _draw_error_by_range(target, values, name),
    ]


def _draw_errors(
    target: Array, predicted: Array, *, kind: str, xlabel: str, ylabel: str
) -> Figure:
    """Draw a point for each row, or for MOST_POINTS random rows if there are more rows.

    `kind` chooses the vertical axis: "actual_vs_predicted" or "residual_vs_predicted". See
    PredictionErrorDisplay of scikit-learn.
    """
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    display = metrics.PredictionErrorDisplay.from_predictions(
        target,
        predicted,
        kind=kind,
        subsample=MOST_POINTS,
        # The random rows are the same in each report.
        random_state=0,
        scatter_kwargs={"color": COLOR, "alpha": 0.5},
        ax=figure.subplots(),
    )
    display.ax_.set(xlabel=xlabel, ylabel=ylabel)
    return figure


@dataclass(frozen=True)
class RangeErrors:
    """The mean errors of the rows in each range of the actual values."""

    upper_limits: Array
    mean_absolute_errors: Array
    mean_errors: Array


def _compute_errors_by_range(target: Array, values: Array) -> RangeErrors:
    """Divide the actual values into ranges, and return the mean errors in each range.

    `target` and `values` are the actual and the predicted numbers. An error is the
    predicted minus the actual number. The ranges have about equally many rows. Repeated
    actual values can leave a range without rows. Such ranges are left out.
    """
    range_count = _choose_number_of_ranges(len(target))
    shares = np.linspace(0, 1, range_count + 1)
    limits = np.unique(np.quantile(target, shares))
    # A value that equals the limit of two ranges belongs to the lower range.
    range_of_row = np.searchsorted(limits[1:-1], target, side="left")
    row_counts = np.bincount(range_of_row)

    errors = values - target
    sums_of_absolute_errors = np.bincount(range_of_row, np.abs(errors))
    sums_of_errors = np.bincount(range_of_row, errors)
    # If all actual values are equal, there is a single limit.
    upper_limits = limits[1:] if len(limits) > 1 else limits

    ranges_with_rows = np.flatnonzero(row_counts)
    row_counts = row_counts[ranges_with_rows]
    return RangeErrors(
        upper_limits=upper_limits[ranges_with_rows],
        mean_absolute_errors=sums_of_absolute_errors[ranges_with_rows] / row_counts,
        mean_errors=sums_of_errors[ranges_with_rows] / row_counts,
    )


def _draw_error_by_range(target: Array, values: Array, name: str) -> Picture:
    """Draw the mean error in each range of the actual values, from small to large.

    `name` is the name of the target.
    """
    errors = _compute_errors_by_range(target, values)
    labels = [f"to {format_value(limit)}" for limit in errors.upper_limits]
    positions = np.arange(len(labels))

    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(
        positions,
        errors.mean_absolute_errors,
        color=PALE_COLOR,
        label="mean absolute error",
    )
    axes.plot(
        positions,
        errors.mean_errors,
        color=SECOND_COLOR,
        marker="o",
        linestyle="none",
        label="mean error (predicted - actual)",
    )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(positions, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set(xlabel=f"actual {name}", ylabel="error")
    _move_legend_below(figure, axes)
    description = (
        f"The rows are divided into {len(labels)} ranges of the actual value. A point far"
        " above 0 means that values in this range are predicted too high. A point far below"
        " 0 means that they are predicted too low."
    )
    return Picture(
        name="error_by_range",
        title="Error by range of the actual value",
        description=description,
        figure=figure,
    )


# Features


def _draw_importance(importance: pd.Series, metric: Metric) -> Picture:
    """Draw a bar for each of the most important features, the most important on top.

    `importance` has the features as its index, the most important one first. Its values say
    how much worse `metric` gets when the values of the feature are shuffled.
    """
    # barh draws the first bar at the bottom.
    bars = importance.head(MOST_FEATURES)[::-1]
    names = [shorten_name(name) for name in bars.index]
    width = 4.5 + _measure_longest_name(names)
    height = 1.2 + INCHES_PER_BAR * len(bars)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(bars)), bars, tick_label=names, color=COLOR)
    axes.axvline(0, color="black", linewidth=0.8)
    direction = "decrease" if metric.higher_is_better else "increase"
    figure.supxlabel(
        f"{direction} in {metric.title} when the feature is shuffled", fontsize="medium"
    )
    title = "Importance of the features"
    if len(importance) > len(bars):
        title += f" (the first {len(bars)} of {len(importance)})"
    description = (
        f"The bars show how much worse {metric.title} gets on the held-out rows when the"
        " values of a feature are shuffled."
    )
    return Picture("importance_of_the_features", title, description, figure)
