"""The evaluation report: a page that says how good a model is, and where it errs."""

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

SHOWN_ROWS = 10  # with the largest errors
SHOWN_FEATURES = 4  # of these rows
SHOWN_CLASSES = 100
LONGEST_VALUE = 100  # characters
# With these verdicts on a comparison, a model is registered by every rule.
GOOD_VERDICTS = ("better", "no worse", "within the margin")
# What each metric says, for a reader who does not know it.
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
  vertical-align: top; min-width: 6rem; }
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
  .wide img { min-width: 0; }
  tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cell:
    """A cell of a table, with text in HTML, and a CSS class such as `number`."""

    markup: str
    kind: str = ""


def render_report(
    title: str,
    evaluation: Mapping[str, Any],
    facts: Mapping[str, str],
    pictures: Sequence[Picture],
    classes: str,
    worst_rows: str,
    tries: str = "",
) -> str:
    """Return the evaluation as one HTML page that needs no other file.

    `facts` are shown above the metrics. `classes`, `worst_rows` and `tries` are tables in
    HTML. The first one is empty in a regression, and the last one without a search.
    """
    title = html.escape(title)
    by_class = f"<h2>Classes</h2>\n{classes}" if classes else ""
    search = f"<h2>Search for hyperparameters</h2>\n{tries}" if tries else ""
    figures = "".join(render_picture(picture) for picture in pictures)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
{render_verdict(evaluation)}
{render_notes(evaluation["notes"])}
<h2>Metrics</h2>
{render_metrics(evaluation)}
{by_class}
<h2>Pictures</h2>
<div class="figures">
{figures}</div>
<h2>Rows with the largest errors</h2>
{worst_rows}
{search}
<h2>This model</h2>
{render_facts(facts)}
</html>
"""


def render_verdict(evaluation: Mapping[str, Any]) -> str:
    """Return whether the model is good enough, and why, as paragraphs in HTML.

    The sentences are the same as on the screen.
    """
    baseline = evaluation["baseline"]
    registered = evaluation["registered"]
    if registered and registered["verdict"] != "another question":
        is_good = registered["verdict"] in GOOD_VERDICTS
        first = _write_sentence(registered["reason"])
        others = [_write_sentence(baseline["reason"])]
    else:
        is_good = baseline["is_beaten"]
        first = _write_sentence(baseline["reason"])
        others = ["No model is registered yet."]
        if registered:
            others = [_write_sentence(registered["reason"])]
    if is_good:
        first += " So it is registered."
    else:
        first += " So it is not registered, unless training.register is 'always'."
    kind = "good" if is_good else "bad"
    paragraphs = [f'<p class="verdict {kind}">{html.escape(first)}</p>']
    paragraphs += [f"<p>{html.escape(text)}</p>" for text in others]
    return "\n".join(paragraphs)


def _write_sentence(reason: str) -> str:
    """Return a reason as a sentence."""
    return f"{reason[0].upper()}{reason[1:]}."


def render_notes(notes: Sequence[str]) -> str:
    """Return notes as a list in HTML, or an empty text without any."""
    if not notes:
        return ""
    items = "\n".join(f"<li>{html.escape(_write_note(note))}" for note in notes)
    return f"<h2>Worth a look</h2>\n<ul>{items}</ul>"


def _write_note(note: str) -> str:
    """Return a note with a capital letter at its beginning."""
    return f"{note[0].upper()}{note[1:]}"


def render_facts(facts: Mapping[str, str]) -> str:
    """Return names and values as a list in HTML."""
    items = "\n".join(
        f"<dt>{html.escape(name)}<dd><bdi>{html.escape(text)}</bdi>"
        for name, text in facts.items()
    )
    return f"<dl>\n{items}\n</dl>"


def render_table(heads: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table in HTML whose first column names the rows."""
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


def render_metrics(evaluation: Mapping[str, Any]) -> str:
    """Return the metrics of the model, the baseline and the registered version.

    The registered version gets a table of its own if it is compared on fewer rows.
    """
    baseline = evaluation["baseline"]
    models = {f"baseline ({baseline['name']})": baseline["metrics"]}
    registered = evaluation["registered"]
    count = evaluation["rows"]
    if not registered or "comparison" not in registered:
        return _render_comparison(evaluation, evaluation["metrics"], models, count)

    label = f"version {registered['version']}"
    shared_rows = registered["comparison"]["rows"]
    if shared_rows == count:
        models[label] = registered["metrics"]
        return _render_comparison(evaluation, evaluation["metrics"], models, count)
    tables = [
        _render_comparison(evaluation, evaluation["metrics"], models, count),
        _render_comparison(
            evaluation,
            registered["metrics_of_new_model"],
            {label: registered["metrics"]},
            shared_rows,
        ),
    ]
    return "\n".join(tables)


def _render_comparison(
    evaluation: Mapping[str, Any],
    values: Mapping[str, float],
    other_models: Mapping[str, Mapping[str, float]],
    rows: int,
) -> str:
    """Return a table of the metrics of the new model and of others on the same rows."""
    heads = [Cell("metric"), Cell("this model", "number")]
    for label in other_models:
        heads.append(Cell(html.escape(label), "number"))
        heads.append(Cell("difference", "number"))
    deciding = evaluation["compared_by"]["metric"]
    lines = []
    for metric in METRICS[evaluation["task"]]:
        if metric.name not in values:
            continue
        is_deciding = metric.name == deciding
        value = values[metric.name]
        cells = [_name_metric(metric, is_deciding)]
        cells.append(Cell(format_value(value), "number"))
        for other in other_models.values():
            cells += _compare_values(metric, value, other.get(metric.name))
        if is_deciding:
            cells = [Cell(cell.markup, f"{cell.kind} decides") for cell in cells]
        lines.append(cells)
    return f"<p>On {rows:,} held-out rows:</p>\n{render_table(heads, lines)}"


def _name_metric(metric: Metric, is_deciding: bool) -> Cell:
    """Return the name of a metric, what it says, and which values are better."""
    explanation = f"{MEANINGS[metric.name]}; {metric.direction}"
    if is_deciding:
        explanation += "; models are compared by it"
    return Cell(f"{metric.title}<small>{explanation}</small>")


def _compare_values(metric: Metric, value: float, other: float | None) -> list[Cell]:
    """Return another model's value, and how much better or worse the new one is."""
    if other is None:
        return [Cell("", "number"), Cell("", "number")]
    difference = value - other
    gain = difference if metric.higher_is_better else -difference
    relation = "equal"
    if gain:
        relation = "better" if gain > 0 else "worse"
    return [
        Cell(format_value(other), "number"),
        Cell(
            f"{format_value(difference, signed=True)}<small>{relation}</small>",
            "number",
        ),
    ]


# Classes and rows


def render_classes(target: Array, values: Array, classes: Sequence[str]) -> str:
    """Return a table with the precision and recall of each class, frequent ones first.

    `target` and `values` are the actual and the predicted positions in `classes`.
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
        # Without a row, the shares have no value.
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
    """Return a table of the rows that are predicted worst.

    These are the rows whose own class has the smallest probability, or whose number is
    farthest from the predicted one. `table` has the columns to show of each row.
    """
    values = predictions.values
    heads = [Cell(_render_value(name).markup) for name in table.columns]
    if classes:
        assert predictions.probabilities is not None
        probabilities = predictions.probabilities[np.arange(len(target)), target]
        order = np.argsort(probabilities, kind="stable")[:SHOWN_ROWS]
        heads += [Cell("actual"), Cell("predicted")]
        heads.append(Cell("probability of the actual class", "number"))
    else:
        order = np.argsort(-np.abs(values - target), kind="stable")[:SHOWN_ROWS]
        heads += [Cell(name, "number") for name in ("actual", "predicted", "error")]

    lines = []
    for row in order:
        cells = [_render_value(value) for value in table.row(row)]
        if classes:
            cells.append(_render_value(classes[target[row]]))
            cells.append(_render_value(classes[values[row]]))
            cells.append(Cell(f"{probabilities[row]:.2%}", "number"))
        else:
            error = format_value(values[row] - target[row], signed=True)
            cells.append(Cell(format_value(target[row]), "number"))
            cells.append(Cell(format_value(values[row]), "number"))
            cells.append(Cell(error, "number"))
        lines.append(cells)
    return render_table(heads, lines)


def _render_value(value: object) -> Cell:
    """Return a value of the data as a cell, in its own direction of writing."""
    if value is None:
        return Cell("<small>missing</small>")
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return Cell(f"<bdi>{html.escape(shorten_name(text, LONGEST_VALUE))}</bdi>")


# Pictures


def render_picture(picture: Picture) -> str:
    """Return a picture with its title and its description in HTML."""
    title = html.escape(picture.title)
    description = html.escape(picture.description)
    width, _ = picture.figure.get_size_inches()
    # Wider pictures take a whole line, so that their text is not too small.
    kind = ' class="wide" tabindex="0"' if width > 6.5 else ""
    return (
        f'<figure{kind}><figcaption dir="auto">{title}</figcaption>\n'
        f'<img alt="{title}. {description}" src="data:{encode_picture(picture.figure)}">\n'
        f"<p>{description}</p></figure>\n"
    )


def encode_picture(figure: Figure) -> str:
    """Return a figure as text that an HTML page can hold."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return f"image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
