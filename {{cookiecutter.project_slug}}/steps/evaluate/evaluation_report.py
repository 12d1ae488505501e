"""Render the evaluation report: how good a model is, and where it errs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from evaluation_figures import Picture, shorten_name
from matplotlib.figure import Figure
from model_metrics import METRICS, Metric, Predictions, format_value
from shared_rows import PREDICTS_SOMETHING_ELSE
from sklearn.metrics import precision_recall_fscore_support

# The table of the largest errors has this many rows, and this many features of each row.
SHOWN_ROWS = 10
SHOWN_FEATURES = 4
SHOWN_CLASSES = 100
# The most characters of a value that are shown.
LONGEST_VALUE = 100
# The verdicts with which a model is registered. The step `register` has the same list.
GOOD_VERDICTS = ("better", "no worse", "within the margin")
# The words for a difference in the table of metrics, for each verdict of the comparison.
RELATIONS = {
    "better": "better",
    "no worse": "within chance",
    "within the margin": "worse, within the margin",
    "worse": "worse",
}
# A picture that is wider than this number of inches takes the full width of the page.
WIDE_PICTURE = 6.5
# The explanation of each metric.
MEANINGS = {
    "log_loss": "how good the probabilities are",
    "roc_auc": "how well rows of a class are ranked above others",
    "average_precision": "the same, for rare classes",
    "f1_macro": "precision and recall, the mean over the classes",
    "balanced_accuracy": "share of correct rows, the mean over the classes",
    "accuracy": "share of correct rows",
    "rmse": "size of the errors, where large ones count more",
    "mae": "size of the errors",
    "mape": "size of the errors as a share of the actual value",
    "r2": "share of the variance that is explained; 1 is perfect",
}
STYLE = """
:root { color-scheme: light; }
body { font: 1rem/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff;
  max-width: 66rem; margin: auto; padding: 1rem; }
h1, h2, p, li, dd, td, th, figcaption { overflow-wrap: anywhere; }
thead th.number { overflow-wrap: normal; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
.verdict { border-left: .4rem solid; padding: .6rem 1rem; font-size: 1.1rem; }
.good { border-color: #1a7f37; background: #eefbf1; }
.bad { border-color: #c2410c; background: #fff4ec; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
dt { color: #57606a; }
dd { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #d0d7de; text-align: start;
  vertical-align: top; min-width: 5rem; }
thead th { border-bottom: 2px solid #8c959f; }
th.number, td.number { min-width: 4rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead .number { white-space: normal; }
tbody th { font-weight: 600; min-width: 9rem; }
small { color: #57606a; font-weight: 400; display: block; }
.decides { background: #f3f6fa; }
.figures { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(28rem, 100%), 1fr)); }
.wide { grid-column: 1 / -1; overflow-x: auto; }
.wide img { min-width: 42rem; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-weight: 600; }
img { max-width: 100%; height: auto; }
@media print { body { max-width: none; padding: 0; } .scroll, .wide { overflow: visible; }
  .wide img { min-width: 0; } .figures { grid-template-columns: 1fr 1fr; }
  table { font-size: .8rem; } th, td, tbody th { min-width: 3rem; padding: .2rem .4rem; }
  tr { break-inside: avoid; } h2, h2 + p { break-after: avoid; } }
"""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cell:
    """A cell of a table. `markup` is HTML, and `kind` is a CSS class such as `number`."""

    markup: str
    kind: str = ""


@dataclass(frozen=True)
class Tables:
    """The tables of a report, in HTML.

    In a regression, the table of `classes` is an empty string. The table of `tries` is
    empty if hyperparameters were not searched for.
    """

    classes: str
    worst_rows: str
    tries: str = ""


def render_report(
    title: str,
    results: Mapping[str, Any],
    facts: Mapping[str, str],
    pictures: Sequence[Picture],
    tables: Tables,
) -> str:
    """Return the evaluation report as a self-contained HTML page.

    `results` is the content of `metrics.json`. `facts` maps the names of facts about the
    model, such as "git commit", to their values.
    """
    heading = html.escape(title)
    classes_section = ""
    if tables.classes:
        classes_section = f"<h2>Classes</h2>\n{tables.classes}"
    search_section = ""
    if tables.tries:
        search_section = f"<h2>Search for hyperparameters</h2>\n{tables.tries}"
    figures = "".join(render_picture(picture) for picture in pictures)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title><style>{STYLE}</style>
<h1>{heading}</h1>
{render_verdict(results)}
{render_notes(results["notes"])}
<h2>Metrics</h2>
{render_metrics(results)}
{classes_section}
<h2>Pictures</h2>
<div class="figures">
{figures}</div>
<h2>Rows with the largest errors</h2>
{tables.worst_rows}
{search_section}
<h2>This model</h2>
{render_facts(facts)}
</html>
"""


def render_verdict(results: Mapping[str, Any]) -> str:
    """Return the verdict on the model as two paragraphs in HTML.

    The first paragraph gives the deciding comparison, and whether the model is registered
    because of it. The second paragraph gives the other comparison. The comparison with the
    registered model decides if this model has the same task and target as the new model. In
    all other cases, the comparison with the baseline decides.
    """
    baseline = results["baseline"]
    registered = results["registered"]
    against_baseline = _capitalize(baseline["reason"]) + "."
    against_registered = "No model is registered yet."
    if registered:
        against_registered = _capitalize(registered["reason"]) + "."

    if registered and registered["verdict"] != PREDICTS_SOMETHING_ELSE:
        is_accepted = registered["verdict"] in GOOD_VERDICTS
        deciding_comparison = against_registered
        other_comparison = against_baseline
    else:
        is_accepted = baseline["is_beaten"]
        deciding_comparison = against_baseline
        other_comparison = against_registered

    if is_accepted:
        css_class = "good"
        decision = "The model is therefore registered."
    else:
        css_class = "bad"
        decision = (
            "The model is therefore not registered, unless training.register is"
            " 'always'."
        )
    verdict = f"{deciding_comparison} {decision}"
    return (
        f'<p class="verdict {css_class}">{html.escape(verdict)}</p>\n'
        f"<p>{html.escape(other_comparison)}</p>"
    )


def render_notes(notes: Sequence[str]) -> str:
    """Return notes as a list in HTML, or an empty string if there are none."""
    if not notes:
        return ""
    items = "\n".join(f"<li>{html.escape(_capitalize(note))}" for note in notes)
    return f"<h2>Worth a look</h2>\n<ul>{items}</ul>"


def _capitalize(text: str) -> str:
    """Return a text with a capital first letter. The other letters stay as they are."""
    return f"{text[0].upper()}{text[1:]}"


def render_facts(facts: Mapping[str, str]) -> str:
    """Return the names and values of facts about the model as a list in HTML."""
    items = "\n".join(
        f"<dt>{html.escape(name)}<dd><bdi>{html.escape(value)}</bdi>"
        for name, value in facts.items()
    )
    return f"<dl>\n{items}\n</dl>"


def render_table(column_headers: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table in HTML. The first cell of each row is the row's header."""
    head = "".join(
        f'<th scope="col" class="{cell.kind}">{cell.markup}</th>'
        for cell in column_headers
    )
    body_rows = []
    for row_header, *other_cells in rows:
        cells = [f'<th scope="row" class="{row_header.kind}">{row_header.markup}</th>']
        for cell in other_cells:
            cells.append(f'<td class="{cell.kind}">{cell.markup}</td>')
        body_rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(body_rows)
    # A wide table scrolls. With a tabindex, it can be scrolled from the keyboard, too.
    return f"""<div class="scroll" tabindex="0"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div>"""


# Metrics


@dataclass(frozen=True)
class OtherModel:
    """A model that the new model was compared with, on the same rows.

    `verdict` is the result of the comparison, such as "better". It is an empty string if
    the two models could not be compared.
    """

    label: str
    metrics: Mapping[str, float]
    verdict: str


def render_metrics(results: Mapping[str, Any]) -> str:
    """Return a table of the model's metrics next to those of the other models, in HTML.

    If the registered model was compared on fewer rows than the baseline, it is shown in a
    second table, because only metrics on the same rows can be compared.
    """
    row_count = results["rows"]
    baseline = results["baseline"]
    registered = results["registered"]
    other_models = [_make_other_model(f"baseline ({baseline['name']})", baseline)]
    second_table = ""
    if registered and "comparison" in registered:
        registered_model = _make_other_model(
            f"version {registered['version']}", registered
        )
        # The shared rows are some of the held-out rows, or all of them.
        shared_row_count = registered["comparison"]["rows"]
        if shared_row_count == row_count:
            other_models.append(registered_model)
        else:
            second_table = _render_comparison(
                results,
                registered["metrics_of_new_model"],
                [registered_model],
                shared_row_count,
            )
    first_table = _render_comparison(
        results, results["metrics"], other_models, row_count
    )
    return f"{first_table}\n{second_table}" if second_table else first_table


def _make_other_model(label: str, result: Mapping[str, Any]) -> OtherModel:
    """Return the model that the new model was compared with.

    `result` is the part of `metrics.json` about this comparison.
    """
    verdict = result.get("comparison", {}).get("verdict", "")
    return OtherModel(label, result["metrics"], verdict)


def _render_comparison(
    results: Mapping[str, Any],
    value_by_metric: Mapping[str, float],
    other_models: Sequence[OtherModel],
    row_count: int,
) -> str:
    """Return a table of the new model's metrics next to those of other models, in HTML.

    `results` is the content of `metrics.json`, and `value_by_metric` has the metrics of the
    new model. All metrics are measured on the same `row_count` rows.
    """
    column_headers = [Cell("metric"), Cell("this model", "number")]
    for other_model in other_models:
        column_headers.append(Cell(html.escape(other_model.label), "number"))
        column_headers.append(Cell("difference", "number"))

    table_rows = []
    for metric in METRICS[results["task"]]:
        if metric.name not in value_by_metric:
            continue
        is_deciding = metric.name == results["compared_by"]["metric"]
        value = value_by_metric[metric.name]
        cells = [_render_metric_name(metric, is_deciding)]
        cells.append(Cell(metric.format(value), "number"))
        for other_model in other_models:
            other_value = other_model.metrics.get(metric.name)
            # Only the deciding metric has a confidence interval, which shows whether the
            # difference is more than chance.
            relation = RELATIONS.get(other_model.verdict, "") if is_deciding else ""
            cells += _make_difference_cells(metric, value, other_value, relation)
        if is_deciding:
            # The CSS class "decides" highlights the row.
            cells = [Cell(cell.markup, f"{cell.kind} decides") for cell in cells]
        table_rows.append(cells)
    table = render_table(column_headers, table_rows)
    return f"<p>On {row_count:,} held-out rows:</p>\n{table}"


def _render_metric_name(metric: Metric, is_deciding: bool) -> Cell:
    """Return a cell with the name and the explanation of a metric.

    `is_deciding` is whether models are compared by this metric.
    """
    explanation = f"{MEANINGS[metric.name]}; {metric.direction}"
    if is_deciding:
        explanation += "; models are compared by it"
    return Cell(f"{metric.title}<small>{explanation}</small>")


def _make_difference_cells(
    metric: Metric, new_value: float, other_value: float | None, relation: str
) -> list[Cell]:
    """Return a cell with another model's value, and a cell with the difference from it.

    `relation` is written below the difference, such as "better". It may be empty. Without
    a value of the other model, both cells are empty.
    """
    if other_value is None:
        return [Cell("", "number"), Cell("", "number")]
    difference = metric.format(new_value - other_value, signed=True)
    if relation:
        difference += f"<small>{relation}</small>"
    return [Cell(metric.format(other_value), "number"), Cell(difference, "number")]


# Classes and rows


def render_classes(target: Array, values: Array, classes: Sequence[str]) -> str:
    """Return a table with the precision and recall of each class, in HTML.

    `target` and `values` are the positions of the actual and the predicted classes in
    `classes`. The most frequent class comes first, and at most SHOWN_CLASSES are shown.
    """
    positions = np.arange(len(classes))
    precisions, recalls, f1_values, actual_counts = precision_recall_fscore_support(
        target, values, labels=positions, zero_division=0
    )
    predicted_counts = np.bincount(values, minlength=len(classes))
    shown_positions = np.argsort(-actual_counts, kind="stable")[:SHOWN_CLASSES]

    column_headers = [Cell("class")]
    for name in ("actual rows", "predicted rows", "precision", "recall", "F1"):
        column_headers.append(Cell(name, "number"))
    table_rows = []
    for position in shown_positions:
        actual_count = actual_counts[position]
        predicted_count = predicted_counts[position]
        # The precision of a class that is never predicted is undefined, and so is the
        # recall of a class that never occurs. The cell of an undefined value is empty. F1
        # is left out together with the recall.
        texts = [
            f"{actual_count:,}",
            f"{predicted_count:,}",
            f"{precisions[position]:.1%}" if predicted_count else "",
            f"{recalls[position]:.1%}" if actual_count else "",
            f"{f1_values[position]:.1%}" if actual_count else "",
        ]
        cells = [_render_value(classes[position])]
        cells += [Cell(text, "number") for text in texts]
        table_rows.append(cells)

    table = render_table(column_headers, table_rows)
    if len(shown_positions) < len(classes):
        table += (
            f"\n<p>These are the {len(shown_positions)} most frequent of"
            f" {len(classes)} classes.</p>"
        )
    return f"""<p>Precision: the share of correct rows among those predicted as the class.
Recall: the share of the class's rows that are predicted as the class.
F1: the harmonic mean of both.</p>
{table}"""


def render_worst_rows(
    table: pl.DataFrame,
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
) -> str:
    """Return a table of the rows with the largest errors, in HTML.

    `table` has the columns to show. In a classification, `target` holds positions in
    `classes`, and a row has a large error if its actual class has a small probability. In a
    regression, `classes` is empty, and the error is the predicted minus the actual value.
    """
    column_headers = [_render_value(name) for name in table.columns]
    if classes:
        column_headers += [Cell("actual"), Cell("predicted")]
        column_headers.append(Cell("probability of the actual class", "number"))
        error_cells_by_row = _list_worst_classified_rows(target, predictions, classes)
    else:
        for name in ("actual", "predicted", "error"):
            column_headers.append(Cell(name, "number"))
        error_cells_by_row = _list_worst_regression_rows(target, predictions.values)

    table_rows = []
    for row, error_cells in error_cells_by_row.items():
        value_cells = [_render_value(value) for value in table.row(row)]
        table_rows.append([*value_cells, *error_cells])
    return render_table(column_headers, table_rows)


def _list_worst_classified_rows(
    target: Array, predictions: Predictions, classes: Sequence[str]
) -> dict[int, list[Cell]]:
    """Return cells that describe the rows whose actual class is the least probable.

    The keys are the positions of these rows, the worst row first. The cells are the actual
    class, the predicted class, and the probability of the actual class.
    """
    assert predictions.probabilities is not None  # It is None only in a regression.
    rows = np.arange(len(target))
    probability_of_actual = predictions.probabilities[rows, target]
    worst_rows = np.argsort(probability_of_actual, kind="stable")[:SHOWN_ROWS]
    return {
        int(row): [
            _render_value(classes[target[row]]),
            _render_value(classes[predictions.values[row]]),
            Cell(f"{probability_of_actual[row]:.2%}", "number"),
        ]
        for row in worst_rows
    }


def _list_worst_regression_rows(target: Array, values: Array) -> dict[int, list[Cell]]:
    """Return cells that describe the rows with the largest errors of a regression.

    The keys are the positions of these rows, the worst row first. The cells are the actual
    value, the predicted value, and the error: the predicted minus the actual value.
    """
    errors = values - target
    worst_rows = np.argsort(-np.abs(errors), kind="stable")[:SHOWN_ROWS]
    return {
        int(row): [
            Cell(format_value(target[row]), "number"),
            Cell(format_value(values[row]), "number"),
            Cell(format_value(errors[row], signed=True), "number"),
        ]
        for row in worst_rows
    }


def _render_value(value: object) -> Cell:
    """Return a cell with a value of the data, which may be text of any script.

    The element `bdi` keeps text that runs from right to left apart from its surroundings.
    """
    if value is None:
        return Cell("<small>missing</small>")
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return Cell(f"<bdi>{html.escape(shorten_name(text, LONGEST_VALUE))}</bdi>")


# Pictures


def render_picture(picture: Picture) -> str:
    """Return a picture with its title and its description, in HTML."""
    title = html.escape(picture.title)
    description = html.escape(picture.description)
    width, _ = picture.figure.get_size_inches()
    # A wide picture takes the full width of the page, so that its text is not too small. On
    # a small screen it scrolls, and a tabindex lets it scroll from the keyboard, too.
    attributes = ' class="wide" tabindex="0"' if width > WIDE_PICTURE else ""
    return (
        f'<figure{attributes}><figcaption dir="auto">{title}</figcaption>\n'
        f'<img alt="{title}. {description}" src="data:{encode_picture(picture.figure)}">\n'
        f"<p>{description}</p></figure>\n"
    )


def encode_picture(figure: Figure) -> str:
    """Return a figure as the text of a data URL, after its prefix `data:`."""
    svg_file = io.BytesIO()
    figure.savefig(svg_file, format="svg")
    encoded_svg = base64.b64encode(svg_file.getvalue()).decode()
    return f"image/svg+xml;base64,{encoded_svg}"
