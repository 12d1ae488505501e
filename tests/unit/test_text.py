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
