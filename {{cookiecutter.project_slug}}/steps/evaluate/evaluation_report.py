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
from sklearn.metrics import precision_recall_fscore_support

# The table of the largest errors has this many rows, and this many features of each row.
SHOWN_ROWS = 10
SHOWN_FEATURES = 4
SHOWN_CLASSES = 100
# The most characters of a value that are shown.
LONGEST_VALUE = 100
# The verdicts with which a model is registered. The step `register` has the same list.
GOOD_VERDICTS = ("better", "no worse", "within the margin")
# How a difference is called in the table of metrics, by the verdict of the comparison.
RELATIONS = {
    "better": "better",
    "no worse": "within chance",
    "within the margin": "worse, within the margin",
    "worse": "worse",
}
# Explanations of the metrics.
MEANINGS = {
    "log_loss": "how good the probabilities are",
    "roc_auc": "how well rows of a class are ranked above others",
    "average_precision": "the same, for rare classes",
    "f1_macro": "precision and recall, the mean over the classes",
    "balanced_accuracy": "share of correct rows, the mean over the classes",
    "accuracy": "share of correct rows",
    "rmse": "size of the errors, where large ones count more",
    "mae": "size of the errors",
    "mape": "size of the errors as a share of the actual number",
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
    """A cell of a table, with text in HTML, and a CSS class such as `number`."""

    markup: str
    kind: str = ""


@dataclass(frozen=True)
class Tables:
    """The tables of a report, in HTML.

    In a regression, there is no table of `classes`. Without a search for hyperparameters,
    there is no table of `tries`.
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
    """Return the report as one HTML page that needs no other file.

    `results` is the content of `metrics.json`. `facts` are names and texts to show.
    """
    title = html.escape(title)
    classes = f"<h2>Classes</h2>\n{tables.classes}" if tables.classes else ""
    search = ""
    if tables.tries:
        search = f"<h2>Search for hyperparameters</h2>\n{tables.tries}"
    figures = "".join(render_picture(picture) for picture in pictures)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
{render_verdict(results)}
{render_notes(results["notes"])}
<h2>Metrics</h2>
{render_metrics(results)}
{classes}
<h2>Pictures</h2>
<div class="figures">
{figures}</div>
<h2>Rows with the largest errors</h2>
{tables.worst_rows}
{search}
<h2>This model</h2>
{render_facts(facts)}
</html>
"""


def render_verdict(results: Mapping[str, Any]) -> str:
    """Return the verdict on the model as two paragraphs in HTML.

    The first one says how the model compares with the model that decides, and whether it
    is registered. The registered model decides if there is one for the same task and
    target. Otherwise the baseline decides. The second paragraph is about the one that
    does not decide.
    """
    baseline = results["baseline"]
    registered = results["registered"]
    against_baseline = _capitalize(baseline["reason"]) + "."
    if not registered:
        against_registered = "No model is registered yet."
    else:
        against_registered = _capitalize(registered["reason"]) + "."

    # The verdict "another question" means that the registered model has another task or
    # target, so the two models cannot be compared.
    registered_decides = registered and registered["verdict"] != "another question"
    if registered_decides:
        is_accepted = registered["verdict"] in GOOD_VERDICTS
        deciding_comparison = against_registered
        other_comparison = against_baseline
    else:
        is_accepted = baseline["is_beaten"]
        deciding_comparison = against_baseline
        other_comparison = against_registered

    if is_accepted:
        kind = "good"
        consequence = "So it is registered."
    else:
        kind = "bad"
        consequence = "So it is not registered, unless training.register is 'always'."
    verdict = f"{deciding_comparison} {consequence}"
    return (
        f'<p class="verdict {kind}">{html.escape(verdict)}</p>\n'
        f"<p>{html.escape(other_comparison)}</p>"
    )


def render_notes(notes: Sequence[str]) -> str:
    """Return notes as a list in HTML, or an empty text if there are none."""
    if not notes:
        return ""
    items = "\n".join(f"<li>{html.escape(_capitalize(note))}" for note in notes)
    return f"<h2>Worth a look</h2>\n<ul>{items}</ul>"


def _capitalize(text: str) -> str:
    """Return a text with a capital first letter. The other letters stay as they are."""
    return f"{text[0].upper()}{text[1:]}"


def render_facts(facts: Mapping[str, str]) -> str:
    """Return names and values as a list in HTML."""
    items = "\n".join(
        f"<dt>{html.escape(name)}<dd><bdi>{html.escape(text)}</bdi>"
        for name, text in facts.items()
    )
    return f"<dl>\n{items}\n</dl>"


def render_table(heads: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table in HTML. The first cell of each row is its name."""
    head = "".join(
        f'<th scope="col" class="{cell.kind}">{cell.markup}</th>' for cell in heads
    )
    lines = []
    for first, *others in rows:
        cells = [f'<th scope="row" class="{first.kind}">{first.markup}</th>']
        for cell in others:
            cells.append(f'<td class="{cell.kind}">{cell.markup}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f"""<div class="scroll" tabindex="0"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div>"""


# Metrics


@dataclass(frozen=True)
class OtherModel:
    """A model that the new one was compared with, on the same rows.

    `verdict` is that of the comparison by one metric; it is empty if there was none.
    """

    label: str
    metrics: Mapping[str, float]
    verdict: str


def render_metrics(results: Mapping[str, Any]) -> str:
    """Return the metrics of the model beside those of the other models, in HTML.

    The registered model has a table of its own if it was compared on fewer rows.
    """
    rows = results["rows"]
    baseline = results["baseline"]
    other_models = [_describe_model(f"baseline ({baseline['name']})", baseline)]
    registered = results["registered"]
    if not registered or "comparison" not in registered:
        return _render_comparison(results, results["metrics"], other_models, rows)

    registered_model = _describe_model(f"version {registered['version']}", registered)
    shared_rows = registered["comparison"]["rows"]
    if shared_rows == rows:
        other_models.append(registered_model)
        return _render_comparison(results, results["metrics"], other_models, rows)

    table_of_all_rows = _render_comparison(
        results, results["metrics"], other_models, rows
    )
    table_of_shared_rows = _render_comparison(
        results, registered["metrics_of_new_model"], [registered_model], shared_rows
    )
    return f"{table_of_all_rows}\n{table_of_shared_rows}"


def _describe_model(label: str, comparison: Mapping[str, Any]) -> OtherModel:
    """Return a model from the part of the results that compares it with the new one."""
    verdict = comparison.get("comparison", {}).get("verdict", "")
    return OtherModel(label, comparison["metrics"], verdict)


def _render_comparison(
    results: Mapping[str, Any],
    metrics: Mapping[str, float],
    other_models: Sequence[OtherModel],
    rows: int,
) -> str:
    """Return a table of the metrics of the new model and of others on the same rows."""
    heads = [Cell("metric"), Cell("this model", "number")]
    for other_model in other_models:
        heads.append(Cell(html.escape(other_model.label), "number"))
        heads.append(Cell("difference", "number"))

    lines = []
    for metric in METRICS[results["task"]]:
        if metric.name not in metrics:
            continue
        is_deciding = metric.name == results["compared_by"]["metric"]
        value = metrics[metric.name]
        cells = [_name_metric(metric, is_deciding)]
        cells.append(Cell(metric.format(value), "number"))
        for other_model in other_models:
            other_value = other_model.metrics.get(metric.name)
            # Only the deciding metric has an interval, which tells chance from more.
            relation = RELATIONS.get(other_model.verdict, "") if is_deciding else ""
            cells += _compare_values(metric, value, other_value, relation)
        if is_deciding:
            cells = [Cell(cell.markup, f"{cell.kind} decides") for cell in cells]
        lines.append(cells)
    return f"<p>On {rows:,} held-out rows:</p>\n{render_table(heads, lines)}"


def _name_metric(metric: Metric, is_deciding: bool) -> Cell:
    """Return a cell with the name and the explanation of a metric."""
    explanation = f"{MEANINGS[metric.name]}; {metric.direction}"
    if is_deciding:
        explanation += "; models are compared by it"
    return Cell(f"{metric.title}<small>{explanation}</small>")


def _compare_values(
    metric: Metric, value: float, other: float | None, relation: str
) -> list[Cell]:
    """Return cells with the value of another model, and with the difference to it.

    `relation` is written below the difference.
    """
    if other is None:
        return [Cell("", "number"), Cell("", "number")]
    difference = metric.format(value - other, signed=True)
    if relation:
        difference += f"<small>{relation}</small>"
    return [Cell(metric.format(other), "number"), Cell(difference, "number")]


# Classes and rows


def render_classes(target: Array, values: Array, classes: Sequence[str]) -> str:
    """Return a table with the precision and recall of each class, in HTML.

    `target` and `values` are the actual and the predicted positions in `classes`. Frequent
    classes come first.
    """
    positions = np.arange(len(classes))
    precision, recall, f1, actual = precision_recall_fscore_support(
        target, values, labels=positions, zero_division=0
    )
    predicted = np.bincount(values, minlength=len(classes))
    order = np.argsort(-actual, kind="stable")[:SHOWN_CLASSES]
    heads = [Cell("class")]
    for name in ("actual rows", "predicted rows", "precision", "recall", "F1"):
        heads.append(Cell(name, "number"))
    lines = []
    for position in order:
        # A share of no rows has no value.
        texts = [
            f"{actual[position]:,}",
            f"{predicted[position]:,}",
            f"{precision[position]:.1%}" if predicted[position] else "",
            f"{recall[position]:.1%}" if actual[position] else "",
            f"{f1[position]:.1%}" if actual[position] else "",
        ]
        cells = [_render_value(classes[position])]
        cells += [Cell(text, "number") for text in texts]
        lines.append(cells)
    table = render_table(heads, lines)
    if len(order) < len(classes):
        table += f"\n<p>These are the {len(order)} most frequent of {len(classes)}.</p>"
    return f"""<p>Precision: of the rows predicted to be of the class, the share that is.
Recall: of the rows of the class, the share that is predicted to be.
F1: the harmonic mean of both.</p>
{table}"""


def render_worst_rows(
    table: pl.DataFrame,
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
) -> str:
    """Return a table of the rows with the largest errors, in HTML.

    `table` has the columns to show. In a classification, the rows whose actual class has
    the smallest probability have the largest errors.
    """
    heads = [Cell(_render_value(name).markup) for name in table.columns]
    if classes:
        heads += [Cell("actual"), Cell("predicted")]
        heads.append(Cell("probability of the actual class", "number"))
        errors = _list_class_errors(target, predictions, classes)
    else:
        heads += [Cell(name, "number") for name in ("actual", "predicted", "error")]
        errors = _list_number_errors(target, predictions.values)

    lines = []
    for row, error_cells in errors.items():
        value_cells = [_render_value(value) for value in table.row(row)]
        lines.append([*value_cells, *error_cells])
    return render_table(heads, lines)


def _list_class_errors(
    target: Array, predictions: Predictions, classes: Sequence[str]
) -> dict[int, list[Cell]]:
    """Return the last cells of the worst rows, by the position of the row."""
    assert predictions.probabilities is not None
    probabilities = predictions.probabilities[np.arange(len(target)), target]
    worst_rows = np.argsort(probabilities, kind="stable")[:SHOWN_ROWS]
    return {
        int(row): [
            _render_value(classes[target[row]]),
            _render_value(classes[predictions.values[row]]),
            Cell(f"{probabilities[row]:.2%}", "number"),
        ]
        for row in worst_rows
    }


def _list_number_errors(target: Array, values: Array) -> dict[int, list[Cell]]:
    """Return the last cells of the worst rows, by the position of the row."""
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
    """Return a value of the data as a cell. Its text may run from right to left."""
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
    # A wide picture takes the whole width of the page, so that its text is not too small.
    kind = ' class="wide" tabindex="0"' if width > 6.5 else ""
    return (
        f'<figure{kind}><figcaption dir="auto">{title}</figcaption>\n'
        f'<img alt="{title}. {description}" src="data:{encode_picture(picture.figure)}">\n'
        f"<p>{description}</p></figure>\n"
    )


def encode_picture(figure: Figure) -> str:
    """Return a figure as the text of a data URL, without its `data:`."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return f"image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
