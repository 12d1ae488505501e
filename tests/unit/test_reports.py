"""Test the sentences, figures and pictures of the reports, for odd tables as well."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from comparison import describe_difference
from difference import Difference, Verdict
from evaluate import describe_model
from evaluation_figures import draw_pictures, shorten_name
from evaluation_report import (
    Tables,
    render_classes,
    render_metrics,
    render_report,
    render_verdict,
    render_worst_rows,
)
from leaks import NEARLY_PERFECT, measure_skill, measure_skill_of_feature
from model_metrics import METRICS, Predictions, find_metric, format_value
from prep import prepare, write_report
from report import format_share
from row_sample import count_values_by_range
from saved_model import SavedModel
from sklearn.metrics import classification_report

NAMES = ["<script>alert(1)</script>", "عدد الأيام", "name_without_a_blank_" * 9]
LOG_LOSS = find_metric("log_loss", "classification")
BASELINE = {
    "name": "class shares",
    "metrics": {"log_loss": 1.07, "accuracy": 0.4},
    "is_beaten": True,
    "reason": "the new model is better than the baseline (class shares): …",
    "comparison": {"verdict": "better"},
}


class Page(HTMLParser):
    """The elements of a page, and the texts of its table cells, as a browser reads them."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data

    def assert_offline_and_accessible(self) -> None:
        """Check that the page loads and runs nothing, and can be read by a screen reader."""
        assert not {"script", "link", "iframe"} & {tag for tag, _ in self.elements}
        for tag, attributes in self.elements:
            assert not [name for name in attributes if name.startswith("on")]
            if tag == "img":
                assert str(attributes["src"]).startswith("data:image/svg+xml;base64,")
                assert len(str(attributes["alt"])) > 40
        headings = [tag for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]
        assert headings[0] == "h1"
        assert set(headings[1:]) <= {"h2"}


def build_evaluation(**changes: Any) -> dict[str, Any]:
    """Return the figures of an evaluation, with some changes."""
    return {
        "task": "classification",
        "target": "y",
        "rows": 61,
        "compared_by": {"metric": "log_loss"},
        "metrics": {"log_loss": 0.114, "accuracy": 0.9},
        "baseline": BASELINE,
        "registered": None,
        "notes": [],
        **changes,
    }


def test_values_of_metrics_keep_the_digits_before_the_point() -> None:
    values = [0.13791, 45231.7, -1234.4, 0.0000123, 1e20]
    texts = ["0.1379", "45,232", "-1,234", "1.23e-05", "1e+20"]
    assert [format_value(value) for value in values] == texts
    assert format_value(0.5, signed=True) == "+0.5"
    assert find_metric("mape", "regression").format(3.195) == "319.5 %"


@pytest.mark.parametrize(
    ("verdict", "chance"),
    [("better", "is more than chance explains"), ("no worse", "may be due to chance")],
)
def test_sentence_on_a_difference_names_both_values(
    verdict: Verdict, chance: str
) -> None:
    difference = Difference(
        metric="log_loss",
        new=0.114,
        other=1.07,
        difference=-0.956,
        interval=(-1.2, -0.7),
        detectable=0.3,
        accepted_loss=0.02,
        verdict=verdict,
        becomes_reference=False,
    )
    assert describe_difference(difference, LOG_LOSS, "baseline") == (
        "log loss 0.114 (baseline: 1.07; lower is better), and the difference of -0.956"
        f" {chance} (95 % interval -1.2 to -0.7)"
    )


@pytest.mark.parametrize(
    ("verdict", "is_registered"),
    [("no worse", True), ("within the margin", True), ("worse", False)],
)
def test_verdict_comes_first_and_says_what_follows(
    verdict: str, is_registered: bool
) -> None:
    registered = {"version": "3", "verdict": verdict, "reason": f"{verdict} than 3"}
    first, second = render_verdict(build_evaluation(registered=registered)).split("\n")
    assert first.startswith('<p class="verdict ')
    assert f"{verdict.capitalize()} than 3. The model is therefore" in first
    assert ("not registered" in first) is not is_registered
    assert second.startswith("<p>The new model is better than the baseline")


def test_metrics_are_beside_those_of_the_other_models_on_the_same_rows() -> None:
    page = Page(render_metrics(build_evaluation()))
    heads, log_loss, accuracy = page.rows
    assert heads == ["metric", "this model", "baseline (class shares)", "difference"]
    assert log_loss[0].startswith("log loss")
    assert "lower is better; models are compared by it" in log_loss[0]
    assert log_loss[1:] == ["0.114", "1.07", "-0.956better"]
    # Without an interval, a difference is neither better nor worse.
    assert accuracy[1:] == ["0.9", "0.4", "+0.5"]

    registered = {
        "version": "3",
        "verdict": "worse",
        "reason": "worse",
        "comparison": {"rows": 61, "verdict": "worse"},
        "metrics": {"log_loss": 0.1, "accuracy": 0.9},
        "metrics_of_new_model": {"log_loss": 0.2, "accuracy": 0.8},
    }
    page = Page(render_metrics(build_evaluation(registered=registered)))
    assert page.rows[0][4:] == ["version 3", "difference"]
    assert page.rows[1][4:] == ["0.1", "+0.014worse"]
    assert page.rows[2][4:] == ["0.9", "+0"]

    registered["comparison"] = {"rows": 40, "verdict": "no worse"}
    page = Page(render_metrics(build_evaluation(registered=registered)))
    assert page.rows[3] == ["metric", "this model", "version 3", "difference"]
    assert page.rows[4][1:] == ["0.2", "0.1", "+0.1within chance"]


@pytest.mark.parametrize(
    ("is_dirty", "shown"), [("True", "abc, with uncommitted changes"), ("False", "abc")]
)
def test_commit_of_an_evaluation_is_shown(is_dirty: str, shown: str) -> None:
    tags = {"mlflow.source.git.commit": "abc", "azureml.git.dirty": is_dirty}
    run: Any = SimpleNamespace(
        data=SimpleNamespace(tags=tags), info=SimpleNamespace(run_id="1")
    )
    model = SavedModel(None, {}, {}, task="", target="", split=None)
    facts = describe_model(model, 60, run)
    assert facts["git commit"] == shown
    assert (facts["run"], facts["held-out rows"]) == ("1", "60")


def test_table_of_classes_has_the_figures_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    classes = ["rare", "never seen", "often", "sometimes"]
    target = random.choice([0, 2, 3], 300, p=[0.1, 0.6, 0.3])
    values = np.where(random.random(300) < 0.6, target, 2)
    expected: Any = classification_report(
        target, values, labels=range(4), output_dict=True, zero_division=0
    )
    _, *rows = Page(render_classes(target, values, classes)).rows
    assert [row[0] for row in rows] == ["often", "sometimes", "rare", "never seen"]
    assert rows[-1][1:] == ["0", "0", "", "", ""]
    for name, actual, _, *shares in rows[:-1]:
        figures = expected[str(classes.index(name))]
        assert int(actual) == figures["support"]
        names = ("precision", "recall", "f1-score")
        assert shares == [f"{figures[name]:.1%}" for name in names]


def draw_predictions(count: int, classes: int) -> tuple[Any, Predictions, list[str]]:
    """Targets of some classes, with predictions for them, and the names of the classes."""
    random = np.random.default_rng(0)
    names = [f"{NAMES[position % 3]} {position}" for position in range(classes)]
    target = random.integers(0, classes, count)
    probabilities = random.dirichlet(np.ones(classes), count)
    probabilities[np.arange(count), target] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return target, Predictions(probabilities.argmax(axis=1), probabilities), names


@pytest.mark.parametrize("classes", [0, 1, 2, 9])
def test_report_is_one_page_that_reads_offline(classes: int) -> None:
    """Draw a report of a regression (0 classes), of a single class, and of several."""
    if classes == 0:
        task = "regression"
        target = np.arange(300.0)
        predictions = Predictions(np.arange(300.0))
        names: list[str] = []
    else:
        task = "classification"
        target, predictions, names = draw_predictions(300, classes)
    features = [f"{NAMES[number % 3]} {number}" for number in range(300)]
    importance = pd.Series(np.linspace(1, 0, 300), features)
    metric = METRICS[task][0]
    pictures = draw_pictures(target, predictions, names, importance, metric, NAMES[0])
    assert len(pictures) == {0: 4, 1: 2}.get(classes, 5)
    assert f"{metric.title} gets" in pictures[-1].description
    if classes == 2:
        rarer = names[np.bincount(target).argmin()]
        curves = [picture.title for picture in pictures[1:4]]
        assert all(shorten_name(rarer) in title for title in curves)

    keys = pl.DataFrame({NAMES[0]: [NAMES[2], None] * 150})
    worst_rows = render_worst_rows(keys, target, predictions, names)
    classes_table = ""
    if names:
        classes_table = render_classes(target, predictions.values, names)
    tables = Tables(classes_table, worst_rows)
    results = build_evaluation(task=task, notes=[f"'{NAMES[0]}' is odd."])
    facts = {"run": NAMES[0], "training rows": "240"}
    markup = render_report(NAMES[0], results, facts, pictures, tables)
    page = Page(markup)
    page.assert_offline_and_accessible()
    assert (
        markup.index("verdict good") < markup.index("is odd") < markup.index("<table")
    )
    # A name is whole where there is room.
    assert NAMES[2][:95] in {row[0][:95] for row in page.rows[-10:]}


def test_rows_with_the_largest_errors_are_named_by_their_keys() -> None:
    keys = pl.DataFrame({"id": [f"row {number}" for number in range(20)]})
    target = np.arange(20.0)
    values = target.copy()
    values[13] += 1000
    values[4] -= 7
    _, first, second, *_ = Page(
        render_worst_rows(keys, target, Predictions(values), [])
    ).rows
    assert first == ["row 13", "13", "1,013", "+1,000"]
    assert second == ["row 4", "4", "-3", "-7"]

    probabilities = np.full((20, 2), 0.5)
    probabilities[11] = [0.99, 0.01]
    predictions = Predictions(np.zeros(20, dtype=int), probabilities)
    table = render_worst_rows(keys, np.ones(20, dtype=int), predictions, ["no", "yes"])
    assert Page(table).rows[1] == ["row 11", "yes", "no", "1.00%"]


# The data report


def read_data_report(table: pl.DataFrame, folder: Path, target: str) -> Page:
    """Prepare a table, and return the page on it."""
    folder.mkdir()
    table.write_csv(folder / "raw.csv")
    report = prepare(folder / "raw.csv", folder / "prepared", target=target)
    write_report(report, folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_data_report_counts_as_people_do(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "number": range(1000),
            "city": ["Paris", "paris", "Rome", None] * 250,
            "constant": ["same"] * 999 + [None],
            "y": ["<b>yes</b>"] * 300 + [NAMES[1]] * 700,
        }
    )
    page = read_data_report(table, tmp_path / "a", "y")
    page.assert_offline_and_accessible()
    assert ["<b>yes</b>", "300 (30.0 %)"] in page.rows
    columns = {row[0]: row for row in page.rows if len(row) == 8}
    assert columns["number"][1:7] == ["feature", "integer", "0 %", "", "0", "999"]
    assert columns["city"][3:5] == ["25.0 %", "3"]
    assert columns["constant"][3:5] == ["0.1 %", "1"]
    assert columns["constant"][7] == "same 100.0 %"
    assert columns["y"][1] == "target"
    markup = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert (
        "&#x27;city&#x27; has categories that differ only in upper and lower" in markup
    )
    assert "Only one value occurs in &#x27;constant&#x27;. Nothing" in markup
    assert markup.count("<svg") == 1


def test_data_report_shows_odd_columns_as_they_are(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        f"{name} {i}": [name, "ab"] * 2 for i in range(99) for name in NAMES
    }
    table = pl.DataFrame(
        {**columns, "all missing": [None] * 4, "y": [1.5, 2, 3, 1e300]}
    )
    page = read_data_report(table, tmp_path / "a", "y")
    page.assert_offline_and_accessible()
    names = [row[0] for row in page.rows if len(row) == 8]
    assert names[1:] == table.columns
    missing = next(row[3] for row in page.rows if row[0] == "all missing")
    assert missing == "100 %"


def test_share_is_0_or_100_percent_only_if_it_is_exact() -> None:
    assert [format_share(count, 10**6) for count in (0, 1, 5_000, 999_999, 10**6)] == [
        "0 %",
        "< 0.1 %",
        "0.5 %",
        "> 99.9 %",
        "100 %",
    ]
    assert format_share(0, 0) == "0 %"


def test_ranges_of_a_histogram_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    expected, _ = np.histogram(values, bins=24)
    assert count_values_by_range(pl.Series(values)) == list(expected)
    huge = pl.Series([-1.7e308, 0.0, 1.7e308])
    assert sum(count_values_by_range(huge)) == 3
    assert count_values_by_range(pl.Series([1.0, 1.0])) == []
    neighbors = pl.Series([0.1 + 0.7, 0.8])
    assert count_values_by_range(neighbors) == []


# Leaks


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_copy_of_the_target_is_a_leak_and_a_good_feature_is_not(task: str) -> None:
    random = np.random.default_rng(0)
    target: Any = random.integers(0, 3, 600)
    target[0] = 3  # a class with one row
    text = pd.Series(np.array(["red", "green", None, "blue"], object)[target])
    feature = pd.Series(target + random.normal(size=600) / 3)
    if task == "regression":
        target = random.normal(size=600)
        text = pd.Series(target * 2.2 + 3)
        feature = pd.Series(target + random.normal(size=600) / 5)
    assert measure_skill_of_feature(text, target, task) >= NEARLY_PERFECT
    assert 0.8 < measure_skill_of_feature(feature, target, task) < NEARLY_PERFECT
    assert (
        measure_skill_of_feature(pd.Series(random.normal(size=600)), target, task) < 0.2
    )
    # Numbers beyond those of a tree, and too few rows.
    huge = pd.Series(np.where(np.arange(600) % 2, np.inf, 1e300))
    assert measure_skill_of_feature(huge, target, task) < 0.2
    assert measure_skill_of_feature(text[:4], target[:4], task) == 0


def test_skill_is_0_for_guesses_and_1_for_no_error() -> None:
    target = np.array([0, 1, 0, 1])
    shares = np.full((4, 2), 0.5)
    assert measure_skill(target, shares, "classification") == 0
    assert measure_skill(target, np.eye(2)[target], "classification") == 1
    assert measure_skill(np.zeros(4), np.zeros(4), "regression") == 0
