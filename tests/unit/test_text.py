"""Test how the text of CSV files is read: the types of the columns, and the notes."""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prep import prepare
from sources import DataError
from text_values import TextFormat

DAY = datetime.date(2026, 1, 31)
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


# The text of a value, and the value that it is read as without any setting.
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
def test_value_with_one_meaning_is_read(text: str, value: Any, tmp_path: Path) -> None:
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
def test_value_with_several_meanings_stays_text(
    texts: list[str], tmp_path: Path
) -> None:
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
def test_type_of_a_column_depends_on_all_rows(
    texts: list[str], value: Any, tmp_path: Path
) -> None:
    first, last = texts
    values, _ = prepare_column(tmp_path, [""] * 10_500 + [first] * 500 + [last])
    assert values[10_500] == value
    (tmp_path / "out" / "part-00000.parquet").unlink()
    values, _ = prepare_column(tmp_path, [first] * 11_000 + ["x"])
    assert values.to_list() == [first] * 11_000 + ["x"]


def test_word_can_be_a_value_by_a_setting(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("country,size\nNA,1\nDE,NA\n,3\n")
    (tmp_path / "text").mkdir()
    text_format = TextFormat(not_missing=("NA",))
    prepare(raw, tmp_path / "out", text_format=text_format)
    rows = pl.read_parquet(tmp_path / "out").rows()
    assert rows == [(0, "NA", 1), (1, "DE", None), (2, None, 3)]


def test_file_can_have_nothing_but_such_a_word(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.csv").write_text("country\nDE\n")
    (raw / "b.csv").write_text("country\nNA\n")
    text_format = TextFormat(not_missing=("NA",))
    prepare(raw, tmp_path / "out", text_format=text_format)
    assert pl.read_parquet(tmp_path / "out")["country"].to_list() == ["DE", "NA"]


# Settings, the texts of a column, and the values that they are read as.
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
    "a unit after parentheses": (
        {"negative": "parentheses", "units": ("EUR",)},
        ["(1.50) EUR", "(2 EUR)", "3 EUR"],
        [-1.5, -2.0, 3.0],
    ),
    "a unit after the minus sign": (
        {
            "negative": "trailing_minus",
            "units": ("EUR",),
            "decimal": ",",
            "thousands": ".",
        },
        ["1.234,50- EUR", "2 EUR-", "3,5"],
        [-1234.5, -2.0, 3.5],
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
def test_values_are_read_by_a_setting(
    settings: dict[str, Any], texts: list[str], expected: list[Any], tmp_path: Path
) -> None:
    values, _ = prepare_column(tmp_path, texts, **settings)
    assert values.to_list() == expected


# The texts of a column, and a part of the note about it.
NOTED: dict[str, tuple[list[str], str]] = {
    "American times": (
        ["01/31/2026 02:05:00 PM"],
        "write data.date_format: '%m/%d/%Y %I:%M:%S %p' in",
    ),
    "times of a web page": (
        ["1/31/2026, 2:05:00 PM"],
        "data.date_format: '%m/%d/%Y, %I:%M:%S %p' in",
    ),
    "German times": (
        ["31.01.2026 10:15"],
        "data.date_format: '%d.%m.%Y %H:%M' in",
    ),
    "months": (["2026-01", "2026-12"], "data.date_format: '%Y-%m' in"),
    "months by name": (["Jan 2026", "Dec 2026"], "data.date_format: '%B %Y' in"),
    "months of statistics": (["2026M01"], "data.date_format: '%YM%m' in"),
    "short years": (["31-Jan-26"], "data.date_format: '%d-%b-%y' in"),
    "hours and minutes": (["10:15"], "data.date_format: '%H:%M' in"),
    "one digit": (["2026.1.5"], "data.date_format: '%Y.%m.%d' in"),
    "Indian numbers": (["1,23,456"], "write data.thousands: ',' in"),
    "a currency before": (["USD 12.50"], r"write data.units: \['USD'\] in"),
    "rupees": (["Rs. 500"], r"write data.units: \['Rs.'\] in"),
    "dollars of Canada": (["CA$5"], r"write data.units: \['CA\$'\] in"),
    "accounts": (["(1.50)", "2.00"], "write data.negative: 'parentheses' in"),
    "accounts in dollars": (
        ["($1,234.50)", "$2.00"],
        r"data.thousands: ',' and data.units: \['\$'\] and data.negative: 'parenth",
    ),
    "minus signs behind": (["1.50-", "2.00"], "data.negative: 'trailing_minus' in"),
    "a bad value among certain dates": (
        ["31-Jan-2026", "n.v.", "01-Feb-2026"],
        "1 of its 3 values is neither a number nor a date: 'n.v.' in line 3",
    ),
    "times": (["10:15:00", "11:00:00"], "holds times, such as '10:15:00', and is read"),
    "a point that may separate thousands": (
        ["1.234", "5.678", "12.345"],
        r"such as '1.234'. If .*data.thousands: '\.' and data.decimal: ',' in",
    ),
    "a sentinel": (
        [str(i % 40) for i in range(90)] + ["-999"] * 10,
        r"holds -999 in 10 rows, .* between 0 and 39. If .* data.missing: \['-999'\] in",
    ),
    "a sentinel that is a fraction": (
        [f"{i % 40 / 2}" for i in range(90)] + ["-99.00"],
        r"holds -99 in 1 row, .* data.missing: \['-99.00'\] in",
    ),
    "a sentinel of nines": (
        [str(i % 40) for i in range(90)] + ["9999"],
        r"holds 9999 in 1 row.* data.missing: \['9999'\]",
    ),
    "numbers of invoices": (
        [f"INV-{i}" for i in range(60)],
        "always has the same form, such as 'INV-0': if it identifies the rows, list it under data.keys",
    ),
    "hexadecimal numbers": (
        [f"{i * 99991:08x}-{i:04x}" for i in range(60)],
        "always has the same form, such as '00000000-0000'",
    ),
    "quarters": (
        [f"{1990 + i}-Q{i % 4 + 1}" for i in range(60)],
        "always has the same form, such as '1990-Q1'",
    ),
    "comments": (
        [f"a{'b' * i} {'c' * i} {i if i % 2 else ''}" for i in range(60)],
        "list it under data.ignore",
    ),
    "a category that looks missing": (
        ["NA", "DE", "FR"],
        r"'NA' in the column 'z' .* if it is a category, write data.not_missing: \['NA'\]",
    ),
}


@pytest.mark.parametrize(("texts", "note"), NOTED.values(), ids=NOTED)
def test_note_names_the_setting(texts: list[str], note: str, tmp_path: Path) -> None:
    _, notes = prepare_column(tmp_path, texts)
    assert len(notes) == 1
    assert re.search(note, notes[0]), notes[0]


NOT_NOTED = {
    "three digits and others": ["1.234", "0.5"],
    "fractions below one": ["0.234", "0.567"],
    "thousands behind the point": ["1234.567", "1.234"],
    "a number among others": [str(-i) for i in range(990, 1000)],
    "measurements up to 999": [str(i) for i in range(0, 1000, 9)],
}


@pytest.mark.parametrize("texts", NOT_NOTED.values(), ids=NOT_NOTED)
def test_usual_numbers_need_no_note(texts: list[str], tmp_path: Path) -> None:
    _, notes = prepare_column(tmp_path, texts)
    assert notes == []


def test_note_keeps_the_values_that_settings_yml_has(tmp_path: Path) -> None:
    _, notes = prepare_column(
        tmp_path, ["$5", "$6"], units=("%",), date_format="%d.%m.%Y"
    )
    assert "write data.units: ['%', '$'] in" in notes[0]
    _, notes = prepare_column(tmp_path, ["01/31/2026"], date_format="%d.%m.%Y")
    assert "write data.date_format: ['%d.%m.%Y', '%m/%d/%Y'] in" in notes[0]


@pytest.mark.parametrize(
    ("date_format", "message"),
    {
        "%d.%m.": "must have a year and a month",
        "abc": "must have a year and a month",
        "%m/%d/%Y %H:%M %p": "is not a valid format",
    }.items(),
)
def test_wrong_date_format_is_refused(
    date_format: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        prepare_column(tmp_path, ["31.01.2026"], date_format=date_format)


# A file, the settings that read it, and its rows without their numbers.
LAYOUTS: dict[str, tuple[str, dict[str, Any], list[tuple[Any, ...]]]] = {
    "blanks": ("a b\n1 2\n3 4\n", {"delimiter": " "}, [(1, 2), (3, 4)]),
    "blanks in columns": (
        "  a    b \n  1   22 \n 333   4\n",
        {"delimiter": " "},
        [(1, 22), (333, 4)],
    ),
    "blanks in quotes": (
        'a b\n"x y" 2\n',
        {"delimiter": " "},
        [("x y", 2)],
    ),
    "tildes": ("a~b\n1~2\n", {"delimiter": "~"}, [(1, 2)]),
    "a title": ("Sales, 2026\n\na;b\n1;2\n", {"skip_lines": 2}, [(1, 2)]),
    "comments": ("# by a program\n# today\na\n1\n", {"skip_lines": 2}, [(1,)]),
    "a title above blanks": (
        "Sales of 2026\na b\n1 2\n",
        {"skip_lines": 1, "delimiter": " "},
        [(1, 2)],
    ),
    "one column of decimal commas": (
        "x\n1,5\n2,75\n",
        {"decimal": ","},
        [(1.5,), (2.75,)],
    ),
    "one column by a delimiter": (
        "x\n1,5\n2,75\n",
        {"decimal": ",", "delimiter": ";"},
        [(1.5,), (2.75,)],
    ),
    "a comma in a name": ("price, EUR;b\n1;2\n", {}, [(1, 2)]),
    "a semicolon in a name": ("a,b;c\n1,2\n", {}, [(1, 2)]),
}


@pytest.mark.parametrize(("text", "settings", "rows"), LAYOUTS.values(), ids=LAYOUTS)
def test_layout_is_read_by_its_settings(
    text: str, settings: dict[str, Any], rows: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(text)
    prepare(raw, tmp_path / "out", text_format=TextFormat(**settings))
    assert [row[1:] for row in pl.read_parquet(tmp_path / "out").rows()] == rows


# A file, and the end of the error or note that tells how to read it.
ODD_LAYOUTS = {
    "a title": (
        "Sales of 2026\n\na;b\n1;2\n3;4\n",
        "If the names are in line 3, write data.skip_lines: 2 in settings.yml",
    ),
    "comments": (
        "# by a program, today\n# of sales\na,b,c\n1,2,3\n",
        "If the names are in line 3, write data.skip_lines: 2 in settings.yml",
    ),
    "a title above blanks": (
        "Sales, 2026\na b c\n1 2 3\n",
        "write data.skip_lines: 1 and data.delimiter: ' ' in settings.yml",
    ),
    "a title with delimiters": (
        "Sales,,\na,b,c\n1,2,3\n",
        "column 2 has no name: .* data.skip_lines",
    ),
    "a comment above one column": (
        "# by a program\nx\n1\n2\n",
        "begins with '# by a program', .* data.skip_lines: 1 in settings.yml",
    ),
    "blanks": (
        "a b\n1 2\n3 4\n",
        "If spaces separate its columns, write data.delimiter: ' '",
    ),
    "blanks and decimal commas": (
        "a b\n1,5 2,5\n3,5 4,5\n",
        "If spaces separate the columns, write data.delimiter: ' '",
    ),
    "one column of decimal commas": (
        "x\n1,5\n2,75\n",
        "a single column of numbers with decimal commas, write data.decimal: ','",
    ),
    "no names": ("5.1,3.5,setosa\n4.9,3.0,setosa\n", "first line seems to be data"),
    "no names and equal values": ("0.2,0.2,a\n1,2,b\n", "first line seems to be data"),
    "no names, powers of ten": ("5e-1,4.18e-02\n6e-1,1e-3\n", "seems to be data"),
    "names of rows": (
        '"Weight","Feed"\n"1",26.5,NA\n"2",27.6,5\n',
        "row names, as written by R, add a name for it at the start of the header",
    ),
    "a title with one value less": (
        "Sales,2026\na,b,c\n1,2,3\n",
        "If the names are in line 2, write data.skip_lines: 1 in settings.yml",
    ),
    "an extra delimiter": (
        "a;b\n1;2\n3;4;5\n6;7;8\n",
        "line 3: the row has 3 values, .* Remove the extra delimiter in line 3, or put the value in",
    ),
    "no names, integers": ("6,148,72\n1,85,66\n", "first line seems to be data"),
}


@pytest.mark.parametrize(("text", "hint"), ODD_LAYOUTS.values(), ids=ODD_LAYOUTS)
def test_message_names_the_setting_for_an_odd_layout(
    text: str, hint: str, tmp_path: Path
) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(text)
    try:
        messages = prepare(raw, tmp_path / "out")["notes"]
    except DataError as error:
        messages = [str(error)]
    assert any(re.search(hint, message) for message in messages), messages


def test_missing_target_in_a_file_without_names_is_explained(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("5.1,3.5,setosa\n4.9,3.0,setosa\n")
    with pytest.raises(
        DataError, match="has no column 'y'.*first line seems to be data"
    ):
        prepare(raw, tmp_path / "out", target="y")


NAMES = {
    "years": "country,2019,2020\nChad,1,2\n",
    "numbers of pandas": "0,1,2\n5,6,7\n",
    "two words": "first name\nAnna Smith\nBert Jones\n",
    "a number sign among names": "#chrom,pos\n1,2\n",
}


@pytest.mark.parametrize("text", NAMES.values(), ids=NAMES)
def test_usual_names_need_no_note(text: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(text)
    assert prepare(raw, tmp_path / "out")["notes"] == []
