"""Render the summary of the predictions as an HTML page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from distribution import (
    ClassDistribution,
    Distribution,
    Group,
    NumberDistribution,
    format_number,
)

STYLE = """
:root { color-scheme: light; }
body { font: 1rem/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff;
  max-width: 66rem; margin: auto; padding: 1rem; }
h1, p, li, td { overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
.result { border-left: .4rem solid #1f5f99; background: #f3f6fa; padding: .6rem 1rem; }
.result.drift { border-color: #c2410c; background: #fff4ec; }
table { border-collapse: collapse; margin-bottom: 1.5rem; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #d0d7de; text-align: start; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bars { width: 100%; }
.bars td:first-child { min-width: 6rem; }
td.bar { width: 35%; }
td.bar div { background: #1f5f99; height: 1rem; print-color-adjust: exact; }
@media print { body { max-width: none; padding: 0; } tr { break-inside: avoid; }
  h2 { break-after: avoid; } }
"""


@dataclass(frozen=True)
class MonitorResult:
    """The result of the step monitor, which compared the rows with the training data."""

    model: str
    version: str
    rows: int
    #: The outcome on one line, such as "43 rows compared with version 1: no drift".
    summary: str
    #: A sentence on each drift.
    drift: Sequence[str]


def render_report(distribution: Distribution, monitor_result: MonitorResult) -> str:
    """Return the summary of the predictions as a self-contained HTML page."""
    title = html.escape(f"{monitor_result.model}: predictions")
    model = html.escape(f"{monitor_result.model}, version {monitor_result.version}")
    missing_rows = monitor_result.rows - distribution.rows
    missing_rows_note = ""
    if missing_rows:
        missing_rows_note = (
            f"<p><b>{missing_rows:,} of {monitor_result.rows:,} rows have no"
            " prediction.</b> The log of the step <code>score</code> names the files that"
            " failed. If it names none, the model has predicted numbers that are not"
            " finite.</p>"
        )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
<p>{distribution.rows:,} rows were predicted by {model}.</p>
{missing_rows_note}
<h2>Is the new data like the training data?</h2>
{render_monitor_result(monitor_result)}
<h2>Distribution of the predictions</h2>
{render_distribution(distribution)}
</html>
"""


def render_monitor_result(monitor_result: MonitorResult) -> str:
    """Return the result of the step monitor in HTML, followed by a list of all drift."""
    summary = html.escape(capitalize_first(monitor_result.summary))
    css_class = "result drift" if monitor_result.drift else "result"
    verdict = f'<p class="{css_class}">{summary}.</p>'
    if not monitor_result.drift:
        return verdict
    items = "".join(
        f"<li>{html.escape(sentence)}</li>\n" for sentence in monitor_result.drift
    )
    return f"""{verdict}
<ul>
{items}</ul>
<p>The report of the step <code>monitor</code> shows the drift of each feature.</p>"""


def capitalize_first(text: str) -> str:
    """Return a text with a capital first letter. The other letters stay as they are."""
    return f"{text[0].upper()}{text[1:]}"


def render_distribution(distribution: Distribution) -> str:
    """Return the distribution in HTML: its figures, and a bar for each class or range."""
    if isinstance(distribution, NumberDistribution):
        bars = render_bars("prediction", distribution.ranges)
        return f"{render_figures(distribution)}\n{bars}"
    bars = render_bars("class", distribution.classes)
    return f"{bars}\n{render_probability(distribution)}"


def render_figures(distribution: NumberDistribution) -> str:
    """Return the mean and the quartiles as a table in HTML."""
    figures = distribution.list_figures()
    rows = "".join(
        f"<tr><th>{name.replace('_', ' ')}</th>"
        f'<td class="number">{format_number(value)}</td></tr>\n'
        for name, value in figures.items()
    )
    return f"<table>\n{rows}</table>"


def render_probability(distribution: ClassDistribution) -> str:
    """Return a sentence in HTML on the mean of each row's largest probability.

    If the model gives no probabilities, the result is an empty string.
    """
    mean = distribution.mean_top_probability
    if mean is None:
        return ""
    return (
        f"<p>On average, the largest probability of a row is {mean:.1%}. This does not"
        " measure accuracy: it can stay high when the data is wrong.</p>"
    )


def render_bars(heading: str, groups: Sequence[Group]) -> str:
    """Return a table of groups of rows in HTML, with a bar for the share of each group.

    The bar of the largest share has the full width. `heading` names the groups, and must
    not contain characters that have a meaning in HTML.
    """
    largest_share = max(group.share for group in groups)
    table_rows = []
    for group in groups:
        bar_percent = 100 * group.share / largest_share
        table_rows.append(
            f'<tr><td dir="auto">{html.escape(group.label)}</td>'
            f'<td class="number">{group.rows:,}</td>'
            f'<td class="number">{group.share:.1%}</td>'
            f'<td class="bar"><div style="width: {bar_percent:.1f}%"></div></td></tr>\n'
        )
    return f"""<table class="bars"><thead><tr><th>{heading}</th><th class="number">rows</th>
<th class="number">share</th><th></th></tr></thead><tbody>
{"".join(table_rows)}</tbody></table>"""
