"""Render the drift report: a page that shows how far each feature has moved."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from training_comparison import Comparison, Outcome, Outcomes

# The page has at most this many charts of features, and as many of predictions.
MOST_FIGURES = 12
# Longer labels of bins are cut off.
MOST_LABEL_CHARACTERS = 18
TRAINING_COLOR = "#b8c4d6"
NEW_COLOR = "#c2410c"
STYLE = """
:root { color-scheme: light; }
body { font: 1rem/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff;
  max-width: 66rem; margin: auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; margin-bottom: 2rem; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
td.number, th.number { text-align: right; white-space: nowrap; }
th.number { white-space: normal; }
tr.drift td { background: #fff3e8; }
td:first-child, li { overflow-wrap: anywhere; }
.figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figcaption { font-weight: 600; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; }
@media (max-width: 30rem) { th, td { padding: .3rem; } }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; }
  tr, p { break-inside: avoid; } h2 + p { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; } }
"""
# In charts, text is stored as text, so that a browser can show it in any script. It is
# never read as a formula, even if a name contains dollar signs.
rcParams.update({"svg.fonttype": "none", "text.parse_math": False})


def render_report(
    title: str,
    summary: str,
    outcomes: Outcomes,
    max_psi: float,
) -> str:
    """Return the comparison as one HTML page that needs no other file.

    The features with the largest PSI come first. `summary` is one line without a full stop.
    A PSI above `max_psi` may be drift.
    """
    escaped_title = html.escape(title)
    escaped_summary = html.escape(summary[0].upper() + summary[1:])
    drift_list = render_sentences("Drift", outcomes.drift)
    fact_list = render_sentences("New, but not drift", outcomes.facts)

    probabilities = sort_by_psi(outcomes.probabilities)
    prediction_charts = render_charts([outcomes.predictions, *probabilities])
    note_on_classes = ""
    if probabilities:
        note_on_classes = " The classes' probabilities are compared as well."

    features = sort_by_psi(outcomes.features)
    feature_table = render_table(features)
    feature_charts = render_charts(features)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped_title}</title><style>{STYLE}</style>
<h1>{escaped_title}</h1>
<p>{escaped_summary}.</p>
{drift_list}
{fact_list}
<h2>Predictions</h2>
<p>The predictions for a sample of the new rows are compared with those for the rows that
training held out.{note_on_classes}</p>
<div class="figures">{prediction_charts}</div>
<h2>Features</h2>
<p>The population stability index (PSI) says how far a feature has moved: 0 means not at
all. A PSI above {max_psi:g} is called drift, unless chance explains it for this number of
rows. The PSI of a column of dates compares only the share of missing dates.</p>
{feature_table}
<div class="figures">{feature_charts}</div>
</html>
"""


def sort_by_psi(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes in the order of their PSI, the largest first."""
    return sorted(outcomes, key=lambda outcome: -(outcome.comparison.psi or 0))


def render_sentences(heading: str, sentences: Sequence[str]) -> str:
    """Return sentences as an HTML list below a heading, or "" if there are no sentences."""
    items = "".join(f"<li>{html.escape(sentence)}</li>\n" for sentence in sentences)
    return f"<h2>{heading}</h2>\n<ul>{items}</ul>" if items else ""


def render_table(features: Sequence[Outcome]) -> str:
    """Return an HTML table of the features with their PSI and shares of missing values."""
    rows = "".join(render_row(outcome) for outcome in features)
    return f"""<table><thead><tr><th>feature</th><th class="number">PSI</th>
<th class="number">missing in training</th><th class="number">missing now</th><th></th>
</tr></thead><tbody>
{rows}</tbody></table>"""


def render_row(outcome: Outcome) -> str:
    """Return the row of a feature in the table: name, PSI, missing values, and drift."""
    feature = outcome.comparison
    # Only a comparison of repeated rows has no bins, and it is not in the table.
    assert feature.bins is not None
    # The last bin holds the missing values.
    missing_in_training = feature.bins.training_shares[-1]
    missing_now = feature.bins.new_shares[-1]
    numbers = [format_psi(feature), f"{missing_in_training:.1%}", f"{missing_now:.1%}"]

    name_cell = f'<td dir="auto">{html.escape(feature.name)}</td>'
    number_cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    if outcome.drift:
        return f'<tr class="drift">{name_cell}{number_cells}<td>drift</td></tr>\n'
    return f"<tr>{name_cell}{number_cells}<td></td></tr>\n"


def format_psi(comparison: Comparison) -> str:
    """Return the PSI with two digits behind the point, such as "0.25"."""
    return f"{comparison.psi or 0:.2f}"


def render_charts(outcomes: Sequence[Outcome]) -> str:
    """Return the charts of the first MOST_FIGURES comparisons, in HTML."""
    return "".join(render_chart(outcome) for outcome in outcomes[:MOST_FIGURES])


def render_chart(outcome: Outcome) -> str:
    """Return the chart of a comparison as an HTML figure.

    The caption has the name and the PSI, and says whether there is drift.
    """
    name = html.escape(outcome.comparison.name)
    drift_mark = ", drift" if outcome.drift else ""
    caption = f"{name}: PSI {format_psi(outcome.comparison)}{drift_mark}"
    picture = encode_picture(draw_shares(outcome.comparison))
    return (
        f'<figure><figcaption dir="auto">{caption}</figcaption>'
        f'<img alt="{caption}. Bars show the share of the rows in each range, for training'
        f' and for new data." src="data:{picture}"></figure>\n'
    )


def draw_shares(comparison: Comparison) -> Figure:
    """Draw the shares of the rows in the bins: bars for training, outlines for new data.

    Bins without any row are left out.
    """
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.subplots()
    bins = comparison.bins
    # Only a comparison of repeated rows has no bins, and it is not drawn.
    assert bins is not None
    shown_bins = [
        number
        for number in range(len(bins.labels))
        if bins.training[number] or bins.new[number]
    ]
    labels = [shorten_label(bins.labels[number]) for number in shown_bins]
    training_percent = [100 * bins.training_shares[number] for number in shown_bins]
    new_percent = [100 * bins.new_shares[number] for number in shown_bins]

    positions = np.arange(len(shown_bins))
    axes.bar(
        positions, training_percent, width=0.95, color=TRAINING_COLOR, label="training"
    )
    axes.bar(
        positions,
        new_percent,
        width=0.95,
        fill=False,
        edgecolor=NEW_COLOR,
        linewidth=1.5,
        label="new",
    )
    axes.set_xticks(positions, labels, rotation=45, ha="right", fontsize="x-small")
    axes.set_ylabel("% of the rows")
    # The legend is above the axes, where it hides no bar.
    axes.legend(
        fontsize="small",
        frameon=False,
        ncols=2,
        loc="lower right",
        bbox_to_anchor=(1, 1),
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def shorten_label(label: str) -> str:
    """Return a label on one line, cut off after MOST_LABEL_CHARACTERS.

    Characters that cannot be printed, such as the end of a line, become blanks.
    """
    text = "".join(sign if sign.isprintable() else " " for sign in label)
    if len(text) <= MOST_LABEL_CHARACTERS:
        return text
    return f"{text[: MOST_LABEL_CHARACTERS - 1]}…"


def encode_picture(figure: Figure) -> str:
    """Return a figure as the text of an SVG image, to be embedded in an HTML page."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return f"image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
