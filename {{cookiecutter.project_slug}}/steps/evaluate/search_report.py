"""The part of the evaluation report on the search for hyperparameters, if there was one."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation_figures import COLOR, SECOND_COLOR, Picture, shorten_name
from evaluation_report import Cell, render_table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from model_metrics import format_value

FILE_NAME = "search.json"
SHOWN_TRIES = 10
MOST_PANELS = 6
PANELS_IN_A_ROW = 3
# A range of numbers is drawn by the logarithm if its ends differ by this factor.
LOGARITHMIC_FACTOR = 20

# What step `train` has saved about a search, and about each of its tries.
Search = Mapping[str, Any]
Try = Mapping[str, Any]


def read_search(model: Path) -> Search | None:
    """Return the search that was saved with a model, or None without one."""
    file = model / FILE_NAME
    if not file.exists():
        return None
    search: Search = json.loads(file.read_text(encoding="utf-8"))
    return search


def sort_tries(search: Search) -> list[Try]:
    """Return the tries that have not failed, the best first."""
    scored = [tried for tried in search["tries"] if tried["score"] is not None]
    return sorted(
        scored,
        key=lambda tried: tried["score"],
        reverse=search["higher_is_better"],
    )


def list_searched(search: Search) -> list[str]:
    """Return the hyperparameters of which more than one value was tried."""
    names: list[str] = []
    for tried in search["tries"]:
        names += [name for name in tried["hyperparameters"] if name not in names]
    return [
        name
        for name in names
        if len({str(tried["hyperparameters"].get(name)) for tried in search["tries"]})
        > 1
    ]


def render_search(search: Search) -> str:
    """Return the best tries, and the one with the values of settings.yml, as a table."""
    tries = sort_tries(search)
    first = search["tries"][0]
    names = list_searched(search)
    heads = [Cell("try"), Cell(html.escape(search["metric"]), "number")]
    heads += [Cell(html.escape(name), "number") for name in names]
    lines = []
    for rank, tried in enumerate(tries):
        is_first = tried == first
        if rank >= SHOWN_TRIES and not is_first:
            continue
        label = "settings.yml" if is_first else f"{rank + 1}"
        cells = [Cell(label), Cell(format_value(tried["score"]), "number")]
        for name in names:
            value = tried["hyperparameters"].get(name, "")
            cells.append(Cell(html.escape(str(value)), "number"))
        lines.append(cells)

    count = len(search["tries"])
    failed = count - len(tries)
    sentence = (
        f"{count} tries, judged by {search['metric']} in a cross-validation on the"
        " training rows. The model has the values of the best one."
    )
    if failed:
        sentence += f" {failed} of them failed."
    return f"<p>{html.escape(sentence)}</p>\n{render_table(heads, lines)}"


def draw_search(search: Search) -> Picture | None:
    """Draw the metric of each try by the values of the hyperparameters.

    Returns None if a single value was tried of each.
    """
    names = list_searched(search)[:MOST_PANELS]
    if not names:
        return None
    tries = sort_tries(search)
    first = search["tries"][0]
    columns = min(len(names), PANELS_IN_A_ROW)
    rows = -(-len(names) // PANELS_IN_A_ROW)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for panel, name in zip(panels, names, strict=False):
        having = [tried for tried in tries if name in tried["hyperparameters"]]
        _draw_values(panel, name, having, first)
    for unused in list(panels):
        unused.remove()
    figure.supylabel(search["metric"], fontsize="medium")
    return Picture(
        "search",
        "Search for hyperparameters",
        "Each point is a try. The one with the values of settings.yml is orange.",
        figure,
    )


def _draw_values(panel: Axes, name: str, tries: Sequence[Try], first: Try) -> None:
    """Plot the metric of each try against its value of one hyperparameter."""
    values = [tried["hyperparameters"][name] for tried in tries]
    are_numbers = all(
        isinstance(value, (int, float)) and not isinstance(value, bool)
        for value in values
    )
    if not are_numbers:
        values = [shorten_name(value) for value in values]
    elif min(values) > 0 and max(values) / min(values) > LOGARITHMIC_FACTOR:
        panel.set_xscale("log")
        # By default, the labels are formulas such as 10^2, which are switched off here.
        panel.xaxis.set_major_formatter("{x:g}")
    colors = [SECOND_COLOR if tried == first else COLOR for tried in tries]
    panel.scatter(values, [tried["score"] for tried in tries], c=colors, s=18)
    panel.set_xlabel(shorten_name(name))
