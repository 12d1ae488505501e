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


def render_report(distribution: Distribution, monitored: MonitorResult) -> str:
    """Return the summary as one HTML page that needs no other file."""
    title = html.escape(f"{monitored.model}: predictions")
    model = html.escape(f"{monitored.model}, version {monitored.version}")
    missing = monitored.rows - distribution.rows
    failed = ""
    if missing:
        failed = (
            f"<p><b>{missing:,} of {monitored.rows:,} rows have no prediction.</b> The log"
            " of the step <code>score</code> names the files that failed.</p>"
        )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
<p>{distribution.rows:,} rows were predicted by {model}.</p>
{failed}
<h2>Is the new data like the training data?</h2>
{render_monitor_result(monitored)}
<h2>Distribution of the predictions</h2>
{render_distribution(distribution)}
</html>
"""


def render_monitor_result(monitored: MonitorResult) -> str:
    """Return the result of monitor in HTML, with all sentences on drift."""
    summary = html.escape(monitored.summary[0].upper() + monitored.summary[1:])
    kind = "result drift" if monitored.drift else "result"
    sentences = "".join(f"<li>{html.escape(text)}</li>\n" for text in monitored.drift)
    verdict = f'<p class="{kind}">{summary}.</p>'
    if not sentences:
        return verdict
    return f"""{verdict}
<ul>
{sentences}</ul>
<p>The report of the step <code>monitor</code> shows how far each feature has moved.</p>"""


def render_distribution(distribution: Distribution) -> str:
    """Return the figures of a distribution and a table with bars in HTML."""
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
    """Return a sentence on the mean probability in HTML, or "" if there is none."""
    mean = distribution.mean_top_probability
    if mean is None:
        return ""
    return (
        f"<p>The largest probability of a row is {mean:.1%} on average. This is no measure"
        " of accuracy: it can stay high when the data is wrong.</p>"
    )


def render_bars(heading: str, groups: Sequence[Group]) -> str:
    """Return a table of groups with their rows and shares, and a bar for each share."""
    largest = max(group.share for group in groups)
    rows = []
    for group in groups:
        width = 100 * group.share / largest
        rows.append(
            f'<tr><td dir="auto">{html.escape(group.label)}</td>'
            f'<td class="number">{group.rows:,}</td>'
            f'<td class="number">{group.share:.1%}</td>'
            f'<td class="bar"><div style="width: {width:.1f}%"></div></td></tr>\n'
        )
    return f"""<table class="bars"><thead><tr><th>{heading}</th><th class="number">rows</th>
<th class="number">share</th><th></th></tr></thead><tbody>
{"".join(rows)}</tbody></table>"""
