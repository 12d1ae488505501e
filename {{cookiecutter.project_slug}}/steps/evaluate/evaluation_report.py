"""The evaluation report: figures, and a page that a person opens."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy.typing as npt
import pandas as pd
from matplotlib import rcParams
from matplotlib.figure import Figure
from sklearn import metrics

# In the figures.
MOST_FEATURES = 20
MOST_CLASSES = 30
LONGEST_NAME = 24
STYLE = """
body { font: 1rem/1.5 system-ui; max-width: 50rem; margin: auto; padding: 1rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
img { max-width: 100%; height: auto; }
"""
# Text in figures is shown as it is, in whatever letters, and never read as a formula.
rcParams.update({"svg.fonttype": "none", "text.parse_math": False})


def draw_figures(
    target: pd.Series, predicted: npt.NDArray[Any], importance: pd.Series, task: str
) -> dict[str, Figure]:
    """Return pictures of the predictions and of the features that matter most."""
    if task == "regression":
        predictions = _draw_errors(target, predicted)
    else:
        predictions = _draw_confusion(target, predicted)
    return {
        "Predictions": predictions,
        "Importance of the features": _draw_importance(importance),
    }


def _draw_errors(target: pd.Series, predicted: npt.NDArray[Any]) -> Figure:
    """Draw predicted beside actual numbers, of 1,000 rows at the most."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    metrics.PredictionErrorDisplay.from_predictions(
        target,
        predicted,
        kind="actual_vs_predicted",
        random_state=0,
        ax=figure.subplots(),
    )
    return figure


def _draw_confusion(target: pd.Series, predicted: npt.NDArray[Any]) -> Figure:
    """Draw how often each class is predicted as which, of the most frequent classes."""
    classes = target.value_counts().index[:MOST_CLASSES].sort_values()
    size = 3 + 0.5 * len(classes)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    counts = metrics.confusion_matrix(target, predicted, labels=classes)
    names = [shorten_name(name) for name in classes]
    confusion = metrics.ConfusionMatrixDisplay(counts, display_labels=names)
    confusion.plot(
        ax=figure.subplots(), cmap="Blues", xticks_rotation=45, colorbar=False
    )
    return figure


def _draw_importance(importance: pd.Series) -> Figure:
    """Draw a bar for each of the features that matter most, the longest on top."""
    bars = importance.head(MOST_FEATURES)[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(bars)), layout="constrained")
    names = [shorten_name(name) for name in bars.index]
    figure.subplots().barh(range(len(bars)), bars, tick_label=names)
    figure.supxlabel("loss of score when the feature is shuffled", fontsize="medium")
    return figure


def shorten_name(name: object) -> str:
    """Return a name as a figure shows it: short, and on one line."""
    text = "".join(sign if sign.isprintable() else " " for sign in str(name))
    if len(text) <= LONGEST_NAME:
        return text
    return f"{text[: LONGEST_NAME - 1]}…"


def render_report(
    title: str, evaluation: dict[str, Any], figures: dict[str, Figure]
) -> str:
    """Return the evaluation as one HTML page that needs no other file."""
    title = html.escape(title)
    baseline = evaluation["baseline"]
    registered = evaluation["registered"]
    sentences = [f"{evaluation['rows']} held-out rows.", _write_sentence(baseline)]
    if registered:
        sentences.append(_write_sentence(registered))
    else:
        sentences.append("No model is registered yet.")
    for note in evaluation["notes"]:
        sentences.append(f"Note: {note}")
    paragraphs = "\n".join(f"<p>{html.escape(text)}</p>" for text in sentences)
    pictures = "".join(
        f'<h2>{name}</h2><img alt="{name}" src="data:{_encode_picture(figure)}">\n'
        for name, figure in figures.items()
    )
    table = _tabulate_metrics(evaluation)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
{paragraphs}
{table.to_html(float_format="{:.4g}".format, border=0)}
{pictures}</html>
"""


def _write_sentence(comparison: dict[str, Any]) -> str:
    """Return the reason of a comparison as a sentence."""
    reason: str = comparison["reason"]
    return f"{reason[0].upper()}{reason[1:]}."


def _tabulate_metrics(evaluation: dict[str, Any]) -> pd.DataFrame:
    """Return the metrics of the new model, the baseline and the registered version."""
    baseline = evaluation["baseline"]
    columns = {
        "new model": pd.Series(evaluation["metrics"]),
        f"baseline ({baseline['name']})": pd.Series(baseline["metrics"]),
    }
    registered = evaluation["registered"]
    if registered and "comparison" in registered:
        rows = registered["comparison"]["rows"]
        heading = f"version {registered['version']}, on {rows} rows held out from both"
        columns[heading] = pd.Series(registered["metrics"])
    return pd.DataFrame(columns).reindex(list(evaluation["metrics"]))


def _encode_picture(figure: Figure) -> str:
    """Return a figure as text that an HTML page can hold."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return f"image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
