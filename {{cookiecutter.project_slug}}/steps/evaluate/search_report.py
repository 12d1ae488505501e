"""Show the search for hyperparameters in the evaluation report."""

from __future__ import annotations

import html
import json
import math
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
PANELS_PER_ROW = 3
# A scale is logarithmic if the largest number is more than this many times the smallest.
LOGARITHMIC_FACTOR = 20

# The search that the step `train` has saved, and each of its tries. See SearchResult in
# steps/train/search.py.
Search = Mapping[str, Any]
Try = Mapping[str, Any]


def read_search(model: Path) -> Search | None:
    """Return the search that was saved with a model, or None if there was none."""
    file = model / FILE_NAME
    if not file.exists():
        return None
    search: Search = json.loads(file.read_text(encoding="utf-8"))
    return search


def sort_tries(search: Search) -> list[Try]:
    """Return the tries that have not failed, the best first."""
    scored = [result for result in search["tries"] if result["score"] is not None]
    return sorted(
        scored,
        key=lambda result: result["score"],
        reverse=search["higher_is_better"],
    )


def list_varied_names(search: Search) -> list[str]:
    """Return the names of the hyperparameters of which several values have a score."""
    candidates = [
        result["hyperparameters"]
        for result in search["tries"]
        if result["score"] is not None
    ]
    names = dict.fromkeys(name for candidate in candidates for name in candidate)
    varied_names = []
    for name in names:
        values = {str(candidate.get(name)) for candidate in candidates}
        if len(values) > 1:
            varied_names.append(name)
    return varied_names


# The table


def render_search(search: Search) -> str:
    """Return a sentence about the search, and a table of its best tries, in HTML.

    The table also has the first try, with the values of settings.yml.
    """
    names = list_varied_names(search)
    heads = [Cell("try"), Cell(html.escape(search["metric"]), "number")]
    heads += [Cell(html.escape(name), "number") for name in names]

    first = search["tries"][0]
    tries = sort_tries(search)
    lines = []
    for rank, result in enumerate(tries, start=1):
        is_first = result == first
        if rank > SHOWN_TRIES and not is_first:
            continue
        label = "settings.yml" if is_first else str(rank)
        cells = [Cell(label), Cell(format_value(result["score"]), "number")]
        for name in names:
            value = str(result["hyperparameters"].get(name, ""))
            cells.append(Cell(html.escape(value), "number"))
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


# The picture


def draw_search(search: Search) -> Picture | None:
    """Draw the metric of each try against the values of its hyperparameters.

    Returns None if each hyperparameter had a single value.
    """
    names = list_varied_names(search)[:MOST_PANELS]
    if not names:
        return None

    columns = min(len(names), PANELS_PER_ROW)
    rows = math.ceil(len(names) / PANELS_PER_ROW)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    first = search["tries"][0]
    tries = sort_tries(search)
    for panel, name in zip(panels, names, strict=False):
        tries_with_name = [
            result for result in tries if name in result["hyperparameters"]
        ]
        _draw_values(panel, name, tries_with_name, first)
    for unused_panel in panels[len(names) :]:
        unused_panel.remove()
    figure.supylabel(search["metric"], fontsize="medium")
    return Picture(
        name="search",
        title="Search for hyperparameters",
        description=(
            "Each point is a try. The one with the values of settings.yml is orange."
        ),
        figure=figure,
    )


def _draw_values(panel: Axes, name: str, tries: Sequence[Try], first: Try) -> None:
    """Draw the metric of each try against its value of one hyperparameter."""
    values = [result["hyperparameters"][name] for result in tries]
    if not all(_is_number(value) for value in values):
        values = [shorten_name(value) for value in values]
    elif min(values) > 0 and max(values) / min(values) > LOGARITHMIC_FACTOR:
        panel.set_xscale("log")
        # Without this format, the labels would be formulas such as 10^2, which are off.
        panel.xaxis.set_major_formatter("{x:g}")

    scores = [result["score"] for result in tries]
    colors = [SECOND_COLOR if result == first else COLOR for result in tries]
    panel.scatter(values, scores, c=colors, s=18)
    panel.set_xlabel(shorten_name(name))


def _is_number(value: Any) -> bool:
    """Return whether a value is a number. True and False are not numbers here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
