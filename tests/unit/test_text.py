"""Test how the text of CSV files is read: which type a column gets, and what is said."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prep import prepare
from text_values import TextFormat

DAY = datetime.date(2026, 1, 31)
MIDNIGHT = datetime.datetime(2026, 1, 31)
MORNING = datetime.datetime(2026, 1, 31, 10, 15)
AFTERNOON = datetime.datetime(2026, 1, 31, 14, 5)


def prepare_column(
    folder: Path, values: Sequence[str], **text_settings: Any
) -> tuple[pl.Series, list[str]]:
    """Prepare a CSV file with the column `z`; return its values and the notes."""
    raw = folder / "raw.csv"
    with raw.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "z"), *enumerate(values)])
    report = prepare(
        raw, folder / "out", keys=["id"], text_format=TextFormat(**text_settings)
    )
    return pl.read_parquet(folder / "out")["z"], report["notes"]


# A value as it stands in the file, and what it is read as without any setting.
DATES_AND_TIMES: dict[str, Any] = {
    # Named months
    "31-Jan-2026": DAY,
    "31-JAN-2026": DAY,
    "31-january-2026": DAY,
    "31 Jan 2026": DAY,
    "31 January, 2026": DAY,
    "31. January 2026": DAY,
    "31/Jan/2026": DAY,
    "31.Jan.2026": DAY,
    "31JAN2026": DAY,
    "Jan 31, 2026": DAY,
    "January 31, 2026": DAY,
    "Jan 31 2026": DAY,
    "Jan-31-2026": DAY,
    "2026-Jan-31": DAY,
    "2026 January 31": DAY,
    "Saturday, January 31, 2026": DAY,
    "Sat 31 Jan 2026": DAY,
    "31-Jan-2026 10:15": MORNING,
    "31-Jan-2026 10:15:00.000": MORNING,
    "31JAN2026:10:15:00": MORNING,
    "Jan 31, 2026 2:05 PM": AFTERNOON,
    "January 31, 2026 at 2:05 PM": AFTERNOON,
    # Mail, web servers and programs
    "Sat, 31 Jan 2026 10:15:00 +0000": MORNING,
    "Sat, 31 Jan 2026 11:15:00 +0100": MORNING,
    "31 Jan 2026 10:15:00 GMT": MORNING,
    "Sat, 31 Jan 2026 10:15:00 +0000 (UTC)": MORNING,
    "31/Jan/2026:11:15:00 +0100": MORNING,
    "Sat Jan 31 10:15:00 2026": MORNING,
    "Sat Jan 31 10:15:00 UTC 2026": MORNING,
    "Sat Jan 31 10:15:00 +0000 2026": MORNING,
    "Sat Jan 31 2026 11:15:00 GMT+0100": MORNING,
    # The year first
    "2026.01.31": DAY,
    "2026/01/31": DAY,
    "2026/1/31": DAY,
    "2026-1-31": DAY,
    "2026-W05-6": DAY,
    "2026/01/31 10:15": MORNING,
    "2026.01.31 10:15:00": MORNING,
    "2026-01-31 02:05:00 PM": AFTERNOON,
    "2026-01-31 10:15:00,000": MORNING,
    "20260131T101500": MORNING,
    "20260131T101500Z": MORNING,
    "20260131T1115+0100": MORNING,
    "2026-01-31 10:15:00 UTC": MORNING,
    "2026-01-31 10:15:00.000 UTC": MORNING,
    "2026-01-31T10:15:00 GMT": MORNING,
    "2026-01-31 11:15:00 +0100": MORNING,
    "2026-01-31 11:15:00 +01:00": MORNING,
    "2026-01-31 11:15:00+01": MORNING,
    "2026-01-31 10:15:00 +0000 UTC": MORNING,
    # Times of day and durations, in seconds
    "10:15:00": 36_900.0,
    "9:05:30.5": 32_730.5,
    "2:05 PM": 50_700.0,
    "2:05:30 pm": 50_730.0,
    "36:15:00": 130_500.0,
    "0 days 10:15:00": 36_900.0,
    "2 days, 01:00:00": 176_400.0,
    # A typographic minus
    "\u22121.5": -1.5,
    "\u22123": -3,
    "\u20132.5": -2.5,
}


@pytest.mark.parametrize(
    ("text", "value"), DATES_AND_TIMES.items(), ids=DATES_AND_TIMES
)
def test_a_certain_value_is_read(text: str, value: Any, tmp_path: Path) -> None:
    values, _ = prepare_column(tmp_path, [text, "NA", text])
    assert values.to_list() == [value, None, value]


# Values that may be read in several ways, or as nothing that a setting names.
DOUBTFUL = {
    "month or day first": ["01/02/2026", "03/04/2026"],
    "versions of a program": ["2026.01.31", "2026.1.5"],
    "a day that there is not": ["31-Jan-2026", "31-Feb-2026"],
    "a weekday of another date": ["Sun, 31 Jan 2026"],
    "years of two digits": ["31-Jan-26", "01-Feb-26"],
    "months or seasons": ["2010-11", "2011-12"],
    "hours and minutes, or minutes and seconds": ["10:15", "11:30"],
    "a zone of several countries": ["2026-01-31 10:15:00 IST"],
    "formats that are mixed": ["31-Jan-2026", "Jan 31, 2026"],
    "times and words": ["10:15:00", "noon"],
    "61 minutes": ["10:61:00"],
    "accounts": ["(1.50)", "2.00"],
    "minus signs behind": ["1.50-", "2.00"],
    "Indian numbers": ["1,23,456", "12,34,567"],
    "currencies": ["USD 12.50", "USD 3"],
    "a dash between numbers": ["1\u20132", "3\u20134"],
}


@pytest.mark.parametrize("texts", DOUBTFUL.values(), ids=DOUBTFUL)
def test_a_doubtful_value_stays_text(texts: list[str], tmp_path: Path) -> None:
    values, _ = prepare_column(tmp_path, texts)
    assert values.to_list() == texts


NAN_SPELLINGS = ["nan", "NaN", "NAN", "Nan", "nAn", "+nan", "-NaN", "-nAN", "1.#QNAN"]


@pytest.mark.parametrize("nan", NAN_SPELLINGS)
def test_nan_is_missing_in_every_spelling(nan: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(f"a,b,c,y\n1.5,red,10:15:00,1.5\n{nan},{nan},{nan},2\n3,4,,{nan}\n")
    prepare(raw, tmp_path / "out", target="y")
    rows = pl.read_parquet(tmp_path / "out").rows()
    assert rows == [(1.5, "red", 36_900.0, 1.5), (None, None, None, 2.0)]


def test_nan_is_missing_in_a_target_of_text(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("x,y\n1,yes\n2,NaN\n3,none\n")
    report = prepare(raw, tmp_path / "out", target="y")
    assert pl.read_parquet(tmp_path / "out")["y"].to_list() == ["yes", "none"]
    assert any("'NaN' in the column 'y'" in note for note in report["notes"])


@pytest.mark.parametrize("rows", [1, 6_000], ids=["few rows", "many rows"])
def test_words_that_spell_infinity_stay_text(rows: int, tmp_path: Path) -> None:
    values, _ = prepare_column(tmp_path, ["Nan", "Inf"] * rows)
    assert values.to_list() == [None, "Inf"] * rows


@pytest.mark.parametrize("rows", [1, 11_000], ids=["few rows", "many rows"])
def test_infinity_beside_a_number_is_a_number(rows: int, tmp_path: Path) -> None:
    values, _ = prepare_column(tmp_path, ["Inf"] * rows + ["1.5"])
    assert values.to_list() == [float("inf")] * rows + [1.5]


LATE_VALUES = {
    "a format far below": (["31-Jan-2026", "01-Feb-2026"], DAY),
    "a minus sign far below": (["1.5", "\u22122"], 1.5),
}


@pytest.mark.parametrize(("texts", "value"), LATE_VALUES.values(), ids=LATE_VALUES)
def test_all_rows_decide(texts: list[str], value: Any, tmp_path: Path) -> None:
    first, last = texts
    values, _ = prepare_column(tmp_path, [""] * 10_500 + [first] * 500 + [last])
    assert values[10_500] == value
    (tmp_path / "out" / "part-00000.parquet").unlink()
    values, _ = prepare_column(tmp_path, [first] * 11_000 + ["x"])
    assert values.to_list() == [first] * 11_000 + ["x"]


def test_a_word_that_is_a_value_by_settings(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("country,size\nNA,1\nDE,NA\n,3\n")
    (tmp_path / "text").mkdir()
    text_format = TextFormat(not_missing=("NA",))
    prepare(raw, tmp_path / "out", text_format=text_format)
    rows = pl.read_parquet(tmp_path / "out").rows()
    assert rows == [(0, "NA", 1), (1, "DE", None), (2, None, 3)]


def test_a_file_with_nothing_but_a_word_that_is_a_value(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.csv").write_text("country\nDE\n")
    (raw / "b.csv").write_text("country\nNA\n")
    text_format = TextFormat(not_missing=("NA",))
    prepare(raw, tmp_path / "out", text_format=text_format)
    assert pl.read_parquet(tmp_path / "out")["country"].to_list() == ["DE", "NA"]


# A format in settings.yml, a value in the file, and what it is read as.
BY_SETTING: dict[str, tuple[dict[str, Any], list[str], list[Any]]] = {
    "American times": (
        {"date_format": "%m/%d/%Y %I:%M:%S %p"},
        ["01/31/2026 02:05:00 PM"],
        [AFTERNOON],
    ),
    "months": (
        {"date_format": "%Y-%m"},
        ["2026-01", "2026-02"],
        [datetime.date(2026, 1, 1), datetime.date(2026, 2, 1)],
    ),
    "hours and minutes": ({"date_format": "%H:%M"}, ["10:15"], [36_900.0]),
    "digits that are dates": ({"date_format": "%Y%m%d"}, ["20260131"], [DAY]),
    "digits that are no dates": (
        {"date_format": "%Y%m%d"},
        ["20260131", "20269999"],
        [20260131, 20269999],
    ),
    "the day before the month": (
        {"date_format": "%Y-%d-%m"},
        ["2026-31-01", "2026-02-01"],
        [DAY, datetime.date(2026, 1, 2)],
    ),
    "the second of two formats": (
        {"date_format": ("%d.%m.%Y", "%m/%d/%Y")},
        ["01/31/2026"],
        [DAY],
    ),
    "a year of four digits that has two": (
        {"date_format": "%d.%m.%Y"},
        ["31.01.26"],
        ["31.01.26"],
    ),
    "accounts": ({"negative": "parentheses"}, ["(1.50)", "2"], [-1.5, 2.0]),
    "accounts in dollars": (
        {"negative": "parentheses", "units": ("$",), "thousands": ","},
        ["$(1,234.50)", "($2)", "$3"],
        [-1234.5, -2.0, 3.0],
    ),
    "minus signs behind": ({"negative": "trailing_minus"}, ["5-", "7"], [-5, 7]),
    "Indian numbers": (
        {"thousands": ","},
        ["1,23,456", "12,34,56,789", "1,234"],
        [123456, 123456789, 1234],
    ),
    "Swiss numbers": ({"thousands": "'"}, ["1\u2019234.5", "2'000"], [1234.5, 2000.0]),
    "currencies": ({"units": ("USD",)}, ["USD 12.50", "-USD 3"], [12.5, -3.0]),
}


@pytest.mark.parametrize(
    ("settings", "texts", "expected"), BY_SETTING.values(), ids=BY_SETTING
)
def test_a_setting_reads(
    settings: dict[str, Any], texts: list[str], expected: list[Any], tmp_path: Path
) -> None:
    values, _ = prepare_column(tmp_path, texts, **settings)
    assert values.to_list() == expected
