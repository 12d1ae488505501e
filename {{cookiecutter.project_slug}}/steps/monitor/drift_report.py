"""The drift report: a page that shows how far each feature has moved since training."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from training_comparison import Comparison, Outcome, Outcomes

MOST_FIGURES = 12  # of features, and of predictions: those that moved the most
LONGEST_LABEL = 18
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
# Text in figures stays text, which a browser can show in any script. Dollar signs in names
# do not make a formula of it.
rcParams.update({"svg.fonttype": "none", "text.parse_math": False})


def render_report(
    title: str,
    summary: str,
    outcomes: Outcomes,
    max_psi: float,
) -> str:
    """Return the comparison as one HTML page that needs no other file.

    The features that have moved the farthest come first.
    """
    features_by_psi = sort_by_psi(outcomes.features)
    probabilities_by_psi = sort_by_psi(outcomes.probabilities)
    title = html.escape(title)
    about_classes = ""
    if probabilities_by_psi:
        about_classes = " The classes' probabilities are compared as well."
    predictions = render_figures([outcomes.predictions, *probabilities_by_psi])
    figures = render_figures(features_by_psi)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
<p>{html.escape(summary[0].upper() + summary[1:])}.</p>
{render_sentences("Drift", outcomes.drift)}
{render_sentences("New, but not drift", outcomes.facts)}
<h2>Predictions</h2>
<p>The predictions for a sample of the new rows are compared with those for the rows that
training held out.{about_classes}</p>
<div class="figures">{predictions}</div>
<h2>Features</h2>
<p>The population stability index (PSI) says how far a feature has moved: 0 means not at
all. A PSI above {max_psi:g} is drift if chance does not explain it for this many rows.
The PSI of a column of dates compares only how many of them are missing.</p>
{render_table(features_by_psi)}
<div class="figures">{figures}</div>
</html>
"""


def sort_by_psi(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Sort outcomes by their PSI, the largest first."""
    return sorted(outcomes, key=lambda outcome: -(outcome.comparison.psi or 0))


def render_sentences(heading: str, sentences: Sequence[str]) -> str:
    """Return sentences as a list below a heading, or an empty string if there are none."""
    items = "".join(f"<li>{html.escape(sentence)}</li>\n" for sentence in sentences)
    return f"<h2>{heading}</h2>\n<ul>{items}</ul>" if items else ""


def render_table(features: Sequence[Outcome]) -> str:
    """Return a table of the features with their PSI and missing values."""
    rows = []
    for outcome in features:
        feature = outcome.comparison
        cells = [f'<td dir="auto">{html.escape(feature.name)}</td>']
        figures = [f"{feature.psi or 0:.2f}"]
        if feature.bins is not None:
            # The last bin is that of the missing values.
            figures.append(f"{feature.bins.training_shares[-1]:.1%}")
            figures.append(f"{feature.bins.new_shares[-1]:.1%}")
        cells += [f'<td class="number">{figure}</td>' for figure in figures]
        cells.append(f"<td>{'drift' if outcome.drift else ''}</td>")
        kind = ' class="drift"' if outcome.drift else ""
        rows.append(f"<tr{kind}>{''.join(cells)}</tr>\n")
    return f"""<table><thead><tr><th>feature</th><th class="number">PSI</th>
<th class="number">missing in training</th><th class="number">missing now</th><th></th>
</tr></thead><tbody>
{"".join(rows)}</tbody></table>"""


def render_figures(outcomes: Sequence[Outcome]) -> str:
    """Return the pictures of the first comparisons, in HTML."""
    return "".join(render_figure(outcome) for outcome in outcomes[:MOST_FIGURES])


def render_figure(outcome: Outcome) -> str:
    """Return the picture of a comparison with its name and PSI, in HTML."""
    comparison = outcome.comparison
    name = html.escape(comparison.name)
    mark = ", drift" if outcome.drift else ""
    caption = f"{name}: PSI {comparison.psi or 0:.2f}{mark}"
    picture = encode_picture(draw_shares(comparison))
    return (
        f'<figure><figcaption dir="auto">{caption}</figcaption>'
        f'<img alt="{caption}. Bars show the share of the rows in each range, of training'
        f' and of new data." src="data:{picture}"></figure>\n'
    )


def draw_shares(comparison: Comparison) -> Figure:
    """Draw the share of the rows in each bin, of training and of new data."""
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.subplots()
    bins = comparison.bins
    assert bins is not None
    shown = [
        number
        for number, label in enumerate(bins.labels)
        if bins.training[number] or bins.new[number]
    ]
    labels = [shorten_label(bins.labels[number]) for number in shown]
    positions = np.arange(len(shown))
    training = [100 * bins.training_shares[number] for number in shown]
    new = [100 * bins.new_shares[number] for number in shown]
    axes.bar(positions, training, width=0.95, color=TRAINING_COLOR, label="training")
    axes.bar(
        positions,
        new,
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
    """Shorten a label for a figure, and put it on one line."""
    text = "".join(sign if sign.isprintable() else " " for sign in label)
    if len(text) <= LONGEST_LABEL:
        return text
    return f"{text[: LONGEST_LABEL - 1]}…"


def encode_picture(figure: Figure) -> str:
    """Encode a figure as an image that can be embedded in an HTML page."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return f"image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
