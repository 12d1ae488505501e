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
# The table shows the best tries, and the picture the first hyperparameters.
SHOWN_TRIES = 10
MOST_PANELS = 6
PANELS_PER_ROW = 3
# A scale is logarithmic if the largest number is more than this many times the smallest.
SMALLEST_LOG_RATIO = 20

# The search that the step `train` saved, and each of its tries. See SearchResult in
# steps/train/search.py. The first try has the hyperparameters of settings.yml.
Search = Mapping[str, Any]
Try = Mapping[str, Any]


def read_search(model: Path) -> Search | None:
    """Return the search that was saved with a model, or None if there was none."""
    file = model / FILE_NAME
    if not file.exists():
        return None
    search: Search = json.loads(file.read_text(encoding="utf-8"))
    return search


def sort_scored_tries(search: Search) -> list[Try]:
    """Return the tries with a score, the best first. A try that failed has no score."""
    scored = [result for result in search["tries"] if result["score"] is not None]
    return sorted(
        scored,
        key=lambda result: result["score"],
        reverse=search["higher_is_better"],
    )


def list_varied_names(search: Search) -> list[str]:
    """Return the names of the hyperparameters that differ between tries.

    Tries that have failed do not count. If only some tries have a hyperparameter, it also
    counts as different.
    """
    scored_hyperparameters = [
        result["hyperparameters"]
        for result in search["tries"]
        if result["score"] is not None
    ]
    # The keys of a dict are distinct, and keep their order.
    names: dict[str, None] = {}
    for hyperparameters in scored_hyperparameters:
        names.update(dict.fromkeys(hyperparameters))

    varied_names = []
    for name in names:
        # Values are compared as text, because a list cannot be an element of a set.
        values = {
            str(hyperparameters.get(name)) for hyperparameters in scored_hyperparameters
        }
        if len(values) > 1:
            varied_names.append(name)
    return varied_names


# The table


def render_search(search: Search) -> str:
    """Return a sentence about the search, and a table of its best tries, in HTML.

    The table always has the try with the hyperparameters of settings.yml, even if it is not
    among the best.
    """
    names = list_varied_names(search)
    column_headers = [Cell("try"), Cell(html.escape(search["metric"]), "number")]
    column_headers += [Cell(html.escape(name), "number") for name in names]

    # The first try of a search has the hyperparameters of settings.yml.
    try_from_settings = search["tries"][0]
    scored_tries = sort_scored_tries(search)
    table_rows = []
    for rank, result in enumerate(scored_tries, start=1):
        is_from_settings = result is try_from_settings
        if rank > SHOWN_TRIES and not is_from_settings:
            continue
        label = "settings.yml" if is_from_settings else str(rank)
        cells = [Cell(label), Cell(format_value(result["score"]), "number")]
        for name in names:
            value = str(result["hyperparameters"].get(name, ""))
            cells.append(Cell(html.escape(value), "number"))
        table_rows.append(cells)

    try_count = len(search["tries"])
    failed_count = try_count - len(scored_tries)
    sentence = (
        f"{try_count} tries were compared by {search['metric']} in a cross-validation on"
        " the training rows. The model uses the hyperparameters of the best try."
    )
    if failed_count:
        sentence += f" {failed_count} of the tries failed."
    table = render_table(column_headers, table_rows)
    return f"<p>{html.escape(sentence)}</p>\n{table}"


# The picture


def draw_search(search: Search) -> Picture | None:
    """Draw the metric of each try against its hyperparameters, with a panel for each.

    Only hyperparameters that differ between tries are drawn, and only the first MOST_PANELS
    of them. Returns None if no hyperparameter differs.
    """
    names = list_varied_names(search)[:MOST_PANELS]
    if not names:
        return None

    panel_columns = min(len(names), PANELS_PER_ROW)
    panel_rows = math.ceil(len(names) / PANELS_PER_ROW)
    figure = Figure(
        figsize=(3.4 * panel_columns, 2.8 * panel_rows), layout="constrained"
    )
    grid = figure.subplots(panel_rows, panel_columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    # The first try of a search has the hyperparameters of settings.yml.
    try_from_settings = search["tries"][0]
    scored_tries = sort_scored_tries(search)
    # The last row of panels may have more panels than are needed.
    for panel, name in zip(panels, names, strict=False):
        tries_with_name = [
            result for result in scored_tries if name in result["hyperparameters"]
        ]
        _draw_values(panel, name, tries_with_name, try_from_settings)
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


def _draw_values(
    panel: Axes, name: str, tries: Sequence[Try], try_from_settings: Try
) -> None:
    """Draw the metric of each try against its value of the hyperparameter `name`.

    The axis is logarithmic if the values are numbers that cover a wide range. The point of
    `try_from_settings`, the try with the hyperparameters of settings.yml, has another color
    than the other points.
    """
    values = [result["hyperparameters"][name] for result in tries]
    are_numbers = all(_is_number(value) for value in values)
    if not are_numbers:
        # Texts get equal distances on the axis.
        values = [shorten_name(value) for value in values]
    elif min(values) > 0 and max(values) / min(values) > SMALLEST_LOG_RATIO:
        panel.set_xscale("log")
        # By default, the labels of a logarithmic axis are formulas such as $10^2$. The
        # rendering of formulas is turned off (in evaluation_figures.py), so readers would
        # see the markup. This formatter writes plain numbers.
        panel.xaxis.set_major_formatter("{x:g}")

    scores = [result["score"] for result in tries]
    colors = [
        SECOND_COLOR if result is try_from_settings else COLOR for result in tries
    ]
    panel.scatter(values, scores, c=colors, s=18)
    panel.set_xlabel(shorten_name(name))


def _is_number(value: Any) -> bool:
    """Return whether a value is a number. True and False are not numbers here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
