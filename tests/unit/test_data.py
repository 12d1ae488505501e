"""Odd files: each is read as a person means it, or refused in a sentence."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import html
import io
import json
import lzma
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import prep
import pytest
from conftest import SDKS, Bake
from prep import prepare
from report import describe_unusual_columns, render_report
from sources import DataError
from text_values import TextFormat

File = str | bytes | pl.DataFrame
UMLAUT = "a,b\n1,Müller\n"
BIG = 9007199254740993  # 2^53 + 1, which no float holds
DAY = datetime.date(2026, 1, 31)


def zip_csv_files(**files: str) -> bytes:
    """Return a ZIP archive with CSV files, by their names without the ending."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.csv", text)
    return packed.getvalue()


def change_in_zip(*, flag_bits: int = 0, compress_type: int = 0) -> bytes:
    """Return a zip archive with a CSV file whose headers have other flags or types."""
    content = bytearray(zip_csv_files(a="a\n1\n"))
    entry = content.index(b"PK\x01\x02")
    # The flags and the method follow each other, in the header and in the table of contents.
    fields = flag_bits.to_bytes(2, "little") + compress_type.to_bytes(2, "little")
    content[6:10] = fields
    content[entry + 8 : entry + 12] = fields
    return bytes(content)


def write_files(folder: Path, files: File | dict[str, File]) -> Path:
    """Write files into a folder, and return it. The name of a single file is a.csv."""
    for name, file in (files if isinstance(files, dict) else {"a.csv": files}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, pl.DataFrame):
            file.write_parquet(path)
        else:
            path.write_bytes(file if isinstance(file, bytes) else file.encode())
    return folder


def read_rows(folder: Path) -> list[tuple[Any, ...]]:
    """Return the rows of all Parquet files in a folder."""
    return pl.concat([pl.read_parquet(p) for p in sorted(folder.iterdir())]).rows()


# Files, options of prepare() and the rows that it writes. Each row begins with its number,
# unless there are keys or a target.
READ: dict[
    str, tuple[File | dict[str, File], dict[str, Any], list[tuple[Any, ...]]]
] = {
    # Keys
    "keys are text": (
        "id,x\n1.10,1\n+49170,2\nNA,3\nnone,4\n 17,5\n",
        {"keys": ["id"]},
        [("1.10", 1), ("+49170", 2), ("NA", 3), ("none", 4), (" 17", 5)],
    ),
    "integer keys": ("id,x\n12,1\n-3,2\n", {"keys": ["id"]}, [(12, 1), (-3, 2)]),
    "a key of -0": ("id,x\n-0,1\n", {"keys": ["id"]}, [("-0", 1)]),
    "a key of 20 digits": (f"id\n{2**64}\n", {"keys": ["id"]}, [(str(2**64),)]),
    "a zero before a key in one file only": (
        {"a.csv": "id\n7\n", "b.csv": "id\n007\n"},
        {"keys": ["id"]},
        [("7",), ("007",)],
    ),
    "decimal keys": (
        {"a.parquet": pl.DataFrame({"id": [Decimal(BIG)]})},
        {"keys": ["id"]},
        [(BIG,)],
    ),
    "keys with cents": (
        {"a.parquet": pl.DataFrame({"id": [Decimal("1.10")]})},
        {"keys": ["id"]},
        [(Decimal("1.10"),)],
    ),
    "keys beyond 64 bits": (
        {"a.parquet": pl.DataFrame({"id": [2**64 - 1]}, {"id": pl.UInt64})},
        {"keys": ["id"]},
        [(str(2**64 - 1),)],
    ),
    "keys of 128 bits": (
        {"a.parquet": pl.DataFrame({"id": [2**100]}, {"id": pl.Int128})},
        {"keys": ["id"]},
        [(str(2**100),)],
    ),
    "keys that are whole floats in another file": (
        {"a.csv": f"id\n{BIG}\n", "b.parquet": pl.DataFrame({"id": [5.0]})},
        {"keys": ["id"]},
        [(BIG,), (5,)],
    ),
    # Targets and missing values
    "classes none and -": (
        "x,y\n1,none\n2,-\n",
        {"target": "y"},
        [(1, "none"), (2, "-")],
    ),
    "a class NA beside others": (
        {"a.csv": "x,y\n1,yes\n", "b.csv": "x,y\n2,NA\n"},
        {"target": "y"},
        [(1, "yes"), (2, "NA")],
    ),
    "a class none in Parquet": (
        {"a.parquet": pl.DataFrame({"x": [1, 2], "y": ["none", ""]})},
        {"target": "y"},
        [(1, "none")],
    ),
    "a class n/a below more missing values than the first rows": (
        {"a.csv": "y\n" + '""\n' * 10_000 + "n/a\n", "b.csv": "y\nyes\n"},
        {"target": "y", "text_format": TextFormat(thousands=",")},
        [("n/a",), ("yes",)],
    ),
    "a number target that is NA throughout one file": (
        {"a.csv": "x,y\n1,2.5\n", "b.csv": "x,y\n2,NA\n"},
        {"target": "y"},
        [(1, 2.5)],
    ),
    "an infinite target": ("x,y\n1,inf\n2,3.5\n", {"target": "y"}, [(2, 3.5)]),
    "dates as classes": (f"x,y\n1,{DAY}\n", {"target": "y"}, [(1, DAY)]),
    "empty rows": ("a,b\n1,2\n,\n\n3,4\n", {}, [(0, 1, 2), (1, None, None), (2, 3, 4)]),
    "rows of one column": ("a\n1\n\n3\n\n", {}, [(0, 1), (1, None), (2, 3), (3, None)]),
    "rows of one quoted column": ('a\n1\n""\n', {}, [(0, 1), (1, None)]),
    "blank lines at the end": ("a,b\n1,2\n\n\n", {}, [(0, 1, 2)]),
    "a spelling of one's own": (
        "a,b\n1.5,n.v.\nn.v.,2\n",
        {"text_format": TextFormat(missing=("n.v.",))},
        [(0, 1.5, None), (1, None, 2)],
    ),
    # Names
    "names like patterns": (
        "^b$,*,b,a[0],^.*$,x y\n1,2,3,4,5,6\n",
        {},
        [(0, 1, 2, 3, 4, 5, 6)],
    ),
    "a pattern as target": (
        "b,^b$,*\n1,2,3\n4,,6\n",
        {"target": "^b$", "keys": ["*"]},
        [(1, 2, 3)],
    ),
    "names like patterns in Parquet": (
        {"a.parquet": pl.DataFrame({"^b$": [1], "b": [2], "*": [3]})},
        {"target": "^b$", "ignore": ["*"]},
        [(1, 2)],
    ),
    "a folder like a pattern": ({"a[0]*/?.csv": "a\n1\n"}, {}, [(0, 1)]),
    "a line break in a name": ('"a\nb",c\n1,2\n', {}, [(0, 1, 2)]),
    # Numbers, dates, types
    "decimal commas": (
        "a;b\n1.234,5;x\n0,5;x\n",
        {"text_format": TextFormat(decimal=",", thousands=".")},
        [(0, 1234.5, "x"), (1, 0.5, "x")],
    ),
    "units": (
        "a,b,c\n5%,$-3,1 EUR\n6.5 %,$4,-2EUR\n",
        {"text_format": TextFormat(units=("%", "$", "EUR"))},
        [(0, 5.0, -3, 1), (1, 6.5, 4, -2)],
    ),
    "dates of Germany": (
        "a\n31.01.2026\n2026-01-31\n",
        {"text_format": TextFormat(date_format="%d.%m.%Y")},
        [(0, DAY), (1, DAY)],
    ),
    "dates and times of Germany": (
        "a,b\n31.01.2026 00:00,1\n2026-01-31 10:30,2\n",
        {"text_format": TextFormat(date_format="%d.%m.%Y %H:%M")},
        [
            (0, datetime.datetime(2026, 1, 31), 1),
            (1, datetime.datetime(2026, 1, 31, 10, 30), 2),
        ],
    ),
    "dates of Germany beside times": (
        "a\n31.01.2026\n2026-01-31 10:30\n",
        {"text_format": TextFormat(date_format="%d.%m.%Y")},
        [
            (0, datetime.datetime(2026, 1, 31)),
            (1, datetime.datetime(2026, 1, 31, 10, 30)),
        ],
    ),
    "thousands of France": (
        "a;b\n1\u00a0234,5;1\u202f000\n1 234;2 000\n",
        {"text_format": TextFormat(decimal=",", thousands=" ")},
        [(0, 1234.5, 1000), (1, 1234, 2000)],
    ),
    "time zones": (
        "a\n2026-01-31T10:00:00+02:00\n2026-01-31T10:00Z\n2026-01-31 10:00\n",
        {},
        [
            (i, datetime.datetime(2026, 1, 31, hour))
            for i, hour in enumerate([8, 10, 10])
        ],
    ),
    "dates and times": (
        {"a.csv": f"a\n{DAY}\n", "b.csv": f"a\n{DAY} 01:00\n"},
        {},
        [(0, datetime.datetime(2026, 1, 31)), (1, datetime.datetime(2026, 1, 31, 1))],
    ),
    "the last day": ("a\n9999-12-31\n", {}, [(0, datetime.date(9999, 12, 31))]),
    "the last second": (
        "a\n9999-12-31 23:59:59\n",
        {},
        [(0, datetime.datetime(9999, 12, 31, 23, 59, 59))],
    ),
    "booleans and 0/1": (
        {"a.csv": "a\ntrue\n", "b.csv": "a\n0\n"},
        {},
        [(0, 1), (1, 0)],
    ),
    "booleans, 0/1 and 0.0/1.0": (
        {
            "a.csv": "a\ntrue\n",
            "b.csv": "a\n0\n",
            "c.parquet": pl.DataFrame({"a": [1.0, float("nan")]}),
        },
        {},
        [(0, 1), (1, 0), (2, 1), (3, None)],
    ),
    "unsigned integers of 128 bits": (
        {"a.parquet": pl.DataFrame({"a": [2**127]}, {"a": pl.UInt128})},
        {},
        [(0, float(2**127))],
    ),
    "large unsigned integers": (
        {"a.parquet": pl.DataFrame({"a": [2**64 - 1]}, {"a": pl.UInt64})},
        {},
        [(0, float(2**64 - 1))],
    ),
    "a struct": (
        {"a.parquet": pl.DataFrame({"a": [1], "s": [{"b": 2}]})},
        {},
        [(0, 1)],
    ),
    # How files are written
    "UTF-16": (UMLAUT.encode("utf-16"), {}, [(0, 1, "Müller")]),
    "UTF-16 without a mark": (
        UMLAUT.encode("utf-16-le"),
        {"text_format": TextFormat(encoding="utf-16-le")},
        [(0, 1, "Müller")],
    ),
    "Windows-1252": (
        UMLAUT.encode("cp1252"),
        {"text_format": TextFormat(encoding="cp1252")},
        [(0, 1, "Müller")],
    ),
    "CR": ("a,b\r1,2\r3,4\r", {}, [(0, 1, 2), (1, 3, 4)]),
    "CRLF": ("a,b\r\n1,2\r\n3,4\r\n", {}, [(0, 1, 2), (1, 3, 4)]),
    "sep=": ("sep=;\r\na;b\r\n1;2\r\n", {}, [(0, 1, 2)]),
    "an index": (",a\n0,5\n1,6\n", {}, [(0, 5), (1, 6)]),
    "an empty last column": ("a,b,\n1,2,\n", {}, [(0, 1, 2)]),
    "a bare quote": ('a,b\n24" x,2\n', {}, [(0, '24" x', 2)]),
    "a long value": (f"a,b\n{'x' * 200_000},2\n", {}, [(0, "x" * 200_000, 2)]),
    "lone CR in a value": ('a,b\n"x\ry",2\n', {}, [(0, "x\ry", 2)]),
    "gzip by another name": (gzip.compress(b"a,b\n1,2\n"), {}, [(0, 1, 2)]),
    "bz2": ({"a.csv.bz2": bz2.compress(b"a,b\n1,2\n")}, {}, [(0, 1, 2)]),
    "xz": ({"a.csv.xz": lzma.compress(b"a,b\n1,2\n")}, {}, [(0, 1, 2)]),
    "zip": (
        {"a.zip": zip_csv_files(**{"a": "a,b\n1,2\n", "__MACOSX/._a": "x"})},
        {},
        [(0, 1, 2)],
    ),
    # Where files lie
    "hidden folders": (
        {"a.csv": "a\n1\n", ".ipynb_checkpoints/a.csv": "a\n2\n"},
        {},
        [(0, 1)],
    ),
    "folders that are a column": (
        {"year=2025/a.csv": "a\n1\n", "year=2026/a.csv": "a\n2\n"},
        {},
        [(0, 1, 2025), (1, 2, 2026)],
    ),
    "a folder of a missing value": (
        {"c=a%20b/a.csv": "a\n1\n", "c=__HIVE_DEFAULT_PARTITION__/a.csv": "a\n2\n"},
        {},
        [(0, 2, None), (1, 1, "a b")],
    ),
}


@pytest.mark.parametrize(("files", "options", "rows"), READ.values(), ids=READ)
def test_file_is_read_as_a_person_means_it(
    files: File | dict[str, File],
    options: dict[str, Any],
    rows: list[tuple[Any, ...]],
    tmp_path: Path,
) -> None:
    prepare(write_files(tmp_path / "raw", files), tmp_path / "out", **options)
    assert read_rows(tmp_path / "out") == rows


HALVES = [str(i / 2) for i in range(300)]


def write_column(*values: str, name: str = "z") -> str:
    """Return a CSV file of 300 numbers, in which `values` begin in line 3."""
    lines = [HALVES[0], *values, *HALVES[1 + len(values) :]]
    return f"x,{name}\n" + "".join(f'1,"{line}"\n' for line in lines)


NOTED: dict[str, tuple[File | dict[str, File], str]] = {
    "one bad value": (
        write_column("n.v."),
        "'z' is text because 1 of its 300 values is neither .*: 'n.v.' in line 3 of a.csv",
    ),
    "a typo among few": (
        "x,z\n1,2\n3,4\n5,6O\n",
        "1 of its 3 values is neither a number nor a date: '6O' in line 4 of a.csv",
    ),
    "a bad value far below": (
        "x,z\n" + "1,2\n" * 12_000 + "1,bad\n",
        "because 1 of its 12001 values is neither .*: 'bad' in line 12002 ",
    ),
    "a bad value behind line breaks": (
        'x,z\n"a\nb",1\n"c\nd",bad\n"e\nf",2\n',
        "'bad' in line 5 of",
    ),
    "a code among numbers": (write_column("007"), "neither a number nor a date: '007'"),
    "decimal commas": ("x;z\n1;1,5\n2;2,75\n", "write data.decimal: ',' in"),
    "thousands of France": ("x;z\n1;1\u00a0234,5\n", "',' and data.thousands: ' ' in"),
    "one thousand or one": ("x;z\n1;1,234\n", "decimal: ',' or data.thousands: ','"),
    "percent": ("x,z\n1,5%\n2,6.5 %\n", "data.units: \\['%'\\]"),
    "currency": ("x,z\n1,$5\n2,$6\n", "data.units: \\['\\$'\\]"),
    "German dates": ("x,z\n1,31.01.2026\n", "data.date_format: '%d.%m.%Y' in"),
    "American dates": ("x,z\n1,01/31/2026\n", "data.date_format: '%m/%d/%Y' in"),
    "dates of two meanings": (
        "x,z\n1,01/02/2026\n",
        "'%m/%d/%Y' or data.date_format: '%d/%m/%Y'",
    ),
    "short years": ("x,z\n1,31.01.26\n", "data.date_format: '%d.%m.%y' in"),
    "names by case": ("a,A\n1,2\n", "columns 'a' and 'A' differ only by case"),
    "names by Unicode form": ("\u00e9,e\u0301\n1,2\n", "only by case, spaces or Uni"),
    "words in text": ("x,z\n1,red\n2,NA\n", "'NA' in the column 'z' of a.csv is read"),
    "words in several files": (
        {f"{i}.csv": f"x,z\n1,red\n2,{w}\n" for i, w in enumerate(["NA", "", "-"])},
        "'NA' in the column 'z' of 0.csv and 1 more file is read.*2 rows hold",
    ),
    "words in Parquet": (
        {"a.parquet": pl.DataFrame({"z": ["red", "none"]})},
        "'none' in the column 'z' of a.parquet is read as a value, because",
    ),
    "files of other kinds": (
        {"a.csv": "a\n1\n", "b.jsonl": "{}", "c.xlsx": "x"},
        "are skipped: b.jsonl, c.xlsx. Save each sheet of a workbook as CSV",
    ),
    "a struct": (
        {"a.parquet": pl.DataFrame({"a": [1], "s": [{"b": 2}]})},
        "the column 's' in a.parquet is left out, because .* its type, Struct",
    ),
    "an index": (",a\n0,5\n", "first column of a.csv has no name"),
    "no value": ("a,z\n1,\n", "'z' holds no value"),
    "own values": (
        "a,z\n" + "".join(f"1,t{i}\n" for i in range(60)),
        "'z' is text that differs in nearly every row",
    ),
    "a lone number far from the others": (
        "x,z\n" + "".join(f"1,{i % 70}\n" for i in range(300)) + "1,9998\n1,5\n",
        "'z' holds 9998 in line 302 of a.csv, while all other numbers are between 0 and 69",
    ),
    "two numbers far from the others": (
        {"a.parquet": pl.DataFrame({"z": [*range(300), -(10**6), -(10**7)]})},
        "'z' holds -10000000 in row 302 of a.parquet and 1 more number far from all others",
    ),
    "ids that repeat": (
        "x,customer_id\n" + "".join(f"1,C-{i % 30}\n" for i in range(90)),
        "'customer_id' has 30 ids in 90 rows.*data.group: customer_id",
    ),
    "a folder's column in the file too": (
        {"year=2026/a.csv": "year\n2025\n"},
        "'year' of year=2026/a.csv is taken from the file",
    ),
}


@pytest.mark.parametrize(("files", "note"), NOTED.values(), ids=NOTED)
def test_doubtful_values_are_noted_once(
    files: File | dict[str, File], note: str, tmp_path: Path
) -> None:
    report = prepare(write_files(tmp_path / "raw", files), tmp_path / "out")
    notes: list[str] = report["notes"]
    assert len(notes) == 1
    with pytest.raises(DataError, match=note):
        raise DataError(notes[0])
    assert html.escape(notes[0]) in render_report(report)


def test_a_lone_number_in_a_target_with_missing_values_is_noted(tmp_path: Path) -> None:
    prices = ["NA", *range(1_000, 60_000, 500), 12_345_678]
    table = "area,price\n" + "".join(f"1,{price}\n" for price in prices)
    report = prepare(write_files(tmp_path / "raw", table), tmp_path / "out", "price")
    _, missing_value, outlier = report["notes"]
    assert "'NA' in the column 'price'" in missing_value
    assert "'price' holds 12345678 in line 121 of a.csv" in outlier


def test_booleans_are_constant_only_if_all_rows_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample for the pictures does not hold the last row, which differs."""
    monkeypatch.setattr("row_sample.SAMPLED_ROWS", 10)
    table = pl.DataFrame(
        {
            "paid": [True] * 19 + [False],
            "active": [None] + [True] * 19,
            "empty": pl.Series([None] * 20, dtype=pl.Boolean),
            "id": [7] * 20,
            "y": [1.5] * 20,
        }
    )
    raw = write_files(tmp_path / "raw", {"a.parquet": table})
    report = prepare(raw, tmp_path / "out", keys=["id"], target="y")
    (sentence,) = describe_unusual_columns(report)
    assert sentence.startswith("Only one value occurs in 'active'. Nothing")
    # In data to score, a feature may well have a single value.
    report = prepare(raw, tmp_path / "new", keys=["id"])
    assert not describe_unusual_columns(report)


@pytest.mark.parametrize(
    ("count", "last_line"),
    {
        prep.SHOWN_NOTES: "note: note 20",
        prep.SHOWN_NOTES + 1: "note: 1 more note is in the data report.",
        prep.SHOWN_NOTES + 2: "note: 2 more notes are in the data report.",
    }.items(),
    ids=["no note", "a note", "two notes"],
)
def test_notes_that_are_only_in_the_report_are_counted(
    count: int, last_line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = [f"note {number + 1}" for number in range(count)]
    report = {"violations": [], "notes": notes, "rows_in": 2, "rows_out": 2}
    prep.print_summary(report)
    assert capsys.readouterr().out.splitlines()[-2] == last_line


def test_distinct_texts_are_counted_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"C-{i * 7919}" for i in range(1500)]
    plans = [None, "free", "paid"] * 500
    table = pl.DataFrame({"id": keys, "^plan$": plans, "y": plans[::-1]})
    raw = write_files(tmp_path / "raw", {"a.parquet": table})
    monkeypatch.setattr("report.VALUES_PER_PASS", 3000)
    report = prepare(raw, tmp_path / "exact")
    columns = report["columns"]
    assert columns["id"]["distinct"] == 1500
    assert columns["^plan$"]["distinct"] == columns["y"]["distinct"] == 2
    assert "<td>1,500</td>" in render_report(report)

    monkeypatch.setattr("report.MAX_ROWS_FOR_EXACT_COUNT", 1499)
    report = prepare(raw, tmp_path / "estimate")
    assert 1400 < report["columns"]["id"]["distinct"] <= 1500
    assert "<td>about 1," in render_report(report)


def test_plain_tables_and_ignored_columns_need_no_note(tmp_path: Path) -> None:
    text = "zip,word,x,day\n01234,a,1.5,2026-01-31\nK1A,b,,\n98765,a,2,2026-02-01\n"
    files: dict[str, File] = {
        "a.csv": text,
        "b.csv": text,
        "c.csv": write_column("n.v."),
    }
    raw = write_files(tmp_path / "raw", files)
    assert prepare(raw, tmp_path / "out", ignore=["z"])["notes"] == []


@pytest.mark.parametrize("draw", [np.exp, np.cosh], ids=["skewed", "very skewed"])
def test_largest_of_skewed_numbers_needs_no_note(
    draw: Callable[[Any], Any], tmp_path: Path
) -> None:
    generator = np.random.default_rng(1)
    numbers = draw(2 * generator.normal(size=(2_000, 20)))
    table = pl.DataFrame({f"x{i}": column for i, column in enumerate(numbers.T)})
    raw = write_files(tmp_path / "raw", {"a.parquet": table})
    assert prepare(raw, tmp_path / "out")["notes"] == []


def test_group_needs_no_note_and_has_its_role_in_the_report(tmp_path: Path) -> None:
    text = "x,customer_id\n" + "".join(f"1,C-{i % 30}\n" for i in range(90))
    raw = write_files(tmp_path / "raw", text)
    report = prepare(raw, tmp_path / "out", group="customer_id")
    assert report["notes"] == []
    assert report["roles"]["customer_id"] == "group"


def test_rows_that_are_left_out_are_noted(tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", "x,y\n1,2.5\n2,NA\n3,inf\n")
    report = prepare(raw, tmp_path / "out", target="y")
    assert report["dropped"] == {"no value in the target": 1, "an infinite target": 1}
    *left_out, word = report["notes"]
    assert word.startswith("'NA' in the column 'y' of a.csv is read as a missing value")
    assert left_out == [
        "1 of 3 rows is left out: no value in the target 'y'.",
        "1 of 3 rows is left out: an infinite target 'y'.",
    ]


REFUSED: dict[str, tuple[File | dict[str, File], dict[str, Any], str]] = {
    "no UTF-8": (UMLAUT.encode("cp1252"), {}, "line 2 is not UTF-8.*Müller.*cp1252"),
    "no UTF-8 far in a line": (
        f"a,b\n1,{'x' * 200}{UMLAUT[-9:]}".encode("cp1252"),
        {},
        "line 2 is not UTF-8.*'x{20,30}.*'",
    ),
    "a workbook alone": ({"c.xlsx": "x"}, {}, "no file that.*Save each sheet of a"),
    "UTF-16 without a mark": (UMLAUT.encode("utf-16-le"), {}, "encoding: utf-16-le"),
    "no encoding": (
        UMLAUT.encode("cp1252"),
        {"text_format": TextFormat(encoding="cp9999")},
        "data.encoding in settings.yml is 'cp9999', which is not the name of a text encoding",
    ),
    "a cut gzip": (
        {"a.csv.gz": gzip.compress(b"a,b\n" + b"1,2\n" * 9999)[:60]},
        {},
        "a.csv.gz is cut short",
    ),
    "a gzip cut at its end": (
        {"a.csv.gz": gzip.compress(b"a,b\n1,2\n")[:-6]},
        {},
        "a.csv.gz is cut short",
    ),
    "no UTF-8 after line ends of an old Mac": (
        UMLAUT.replace("\n", "\r").encode("cp1252"),
        {},
        "line 2 is not UTF-8",
    ),
    "a cut zip": ({"a.zip": zip_csv_files(a="a\n1\n")[:40]}, {}, "a.zip is cut short"),
    "a zip with a password": (
        {"a.zip": change_in_zip(flag_bits=1)},
        {},
        "a.zip has a password, or",
    ),
    "a zip of Deflate64": (
        {"a.zip": change_in_zip(compress_type=9)},
        {},
        "or is compressed by a method .* such as Deflate64",
    ),
    "UTF-16 that is cut": (
        ("\ufeff" + UMLAUT).encode("utf-16-le")[:-1],
        {},
        "a.csv is cut short or damaged: it begins with the byte order mark of UTF-16",
    ),
    "two in a zip": (
        {"a.zip": zip_csv_files(a="a\n1\n", b="a\n")},
        {},
        "holds 2 CSV files, but an archive may hold only one: unpack the archive",
    ),
    "a web page": ({"b.csv": "<!DOCTYPE html>\n"}, {}, "b.csv is a web page"),
    "a pointer": (
        {"a.parquet": b"version https://git-lfs.github.com/spec/v1\n"},
        {},
        "a.parquet is a pointer of Git LFS",
    ),
    "Parquet by another name": (
        {"a.csv": b"PAR1\0\0PAR1"},
        {},
        "a.csv is not a CSV file, despite the ending of its name",
    ),
    "blank lines alone": ("\n\n", {}, "a.csv is empty"),
    "a mark of UTF-8 alone": (b"\xef\xbb\xbf", {}, "a.csv is empty"),
    "no columns": ({"a.parquet": pl.DataFrame()}, {}, "a.parquet has no columns"),
    "a target that is infinite throughout": (
        "x,y\n1,inf\n2,\n",
        {"target": "y"},
        "target 'y' has no finite value in any row",
    ),
    "a last column without a name": ("a,b,\n1,2,3\n", {}, "column 3 has no name"),
    "keys that are other floats": (
        {"a.csv": "id\n1\n", "b.parquet": pl.DataFrame({"id": [2.0**53 + 2]})},
        {"keys": ["id"]},
        "'id' has different types: integer in a.csv and number in b.parquet",
    ),
    "keys of bytes and numbers": (
        {"a.csv": "id\n1\n", "b.parquet": pl.DataFrame({"id": [b"\xff"]})},
        {"keys": ["id"]},
        "b.parquet: the key 'id' holds bytes that are not text",
    ),
    "keys that are durations": (
        {"a.parquet": pl.DataFrame({"id": [datetime.timedelta(1)]})},
        {"keys": ["id"]},
        "'id' is of type Duration.*convert it",
    ),
    "booleans and 2": (
        {"a.csv": "a\ntrue\n", "b.csv": "a\n2\n"},
        {},
        "'a' has different types: boolean in a.csv and integer in b.csv",
    ),
    "a typo in one file": (
        {"a.csv": "z\n1\n2\n", "b.csv": "z\n1\n2\nx3\n"},
        {},
        "'z' has different types: .*'x3' in line 4 of b.csv",
    ),
    "percent in one file": (
        {"a.csv": "z\n5%\n", "b.csv": "z\n0.05\n"},
        {},
        "'z' has different types: .*data.units: \\['%'\\]",
    ),
    "a target of structs": (
        {"a.parquet": pl.DataFrame({"a": [1], "y": [{"b": 2}]})},
        {"target": "y"},
        "'y' is of type Struct.*convert it",
    ),
    "an ignored column that there is not": (
        "y_leak,y\n1,2\n",
        {"target": "y", "ignore": ["Y_leek"]},
        r"which data.ignore in settings.yml names\. Did you mean 'y_leak'\?$",
    ),
    "a key that there is not": (
        "Id,y\n1,2\n",
        {"keys": ["id"]},
        r"has no column 'id', which is a key in settings.yml.*Did you mean 'Id'\?$",
    ),
    "a feature row": ("row,y\n1,2\n", {"target": "y"}, "'row' has the name of the row"),
}


@pytest.mark.parametrize(("files", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_file_that_cannot_be_read_is_refused_with_a_reason(
    files: File | dict[str, File],
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    raw = write_files(tmp_path / "raw", files)
    with pytest.raises(DataError, match=message):
        prepare(raw, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("path", "hint"),
    {
        "*.csv": "Write the folder alone",
        "~/data": "in place of ~",
        "https://example.com/a.csv": "Download the data",
        "data": "the path of a folder or file",
    }.items(),
)
def test_path_that_does_not_exist_is_explained(
    path: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=hint):
        prepare(Path(path), tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "hint"),
    {
        "sampel/iris.csv": r" has no 'sampel'\. Did you mean 'sample'\?$",
        "sample/irsi.csv": r"sample has no 'irsi.csv'\. Did you mean 'iris.csv'\?$",
        "sample/iris.csv/2026": "the path of a folder or file",
        "link/iris.csv": "link is a link to gone, which does not exist",
    }.items(),
)
def test_misspelled_path_is_corrected(path: str, hint: str, tmp_path: Path) -> None:
    write_files(tmp_path / "sample", {"iris.csv": "a\n1\n"})
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(DataError, match=hint):
        prepare(tmp_path / path, tmp_path / "out")


def test_scoring_data_may_lack_an_ignored_column(tmp_path: Path) -> None:
    prepare(write_files(tmp_path / "raw", "a\n1\n"), tmp_path / "out", ignore=["leak"])
    assert read_rows(tmp_path / "out") == [(0, 1)]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", {"a/a.csv": "a\n1\n"})
    elsewhere = write_files(tmp_path / "elsewhere", {"b.csv": "a\n2\n"})
    (raw / "link").symlink_to(elsewhere)
    (raw / "a" / "up").symlink_to(raw)
    (elsewhere / "round").symlink_to(elsewhere)
    prepare(raw, tmp_path / "out")
    assert read_rows(tmp_path / "out") == [(0, 1), (1, 2)]


def run_prep(
    raw: Path,
    out: Path,
    *before: str,
    after: Sequence[str] = (),
    most_bytes: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run prep as the pipeline does, with arguments before and after its command line.

    Files that grow beyond `most_bytes` cannot be written.
    """

    def limit_files() -> None:
        if most_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [*before, sys.executable, "-B", prep.__file__, "--raw", str(raw)]
    return subprocess.run(
        [*command, "--prepared", out / "prepared", "--report", out / "report", *after],
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
        check=False,
    )


def drop_privileges_of_root() -> list[str]:
    """Return a command that makes root, too, obey the permissions of files."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root may read every file, and setpriv is not there")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.zip", "a.parquet", "folder/a.csv", "folder"]
)
def test_file_without_permission_is_named(name: str, tmp_path: Path) -> None:
    raw = write_files(
        tmp_path / "raw", {"readable.csv": "a\n1\n", "folder/b.csv": "a\n1\n"}
    )
    if name != "folder":
        (raw / name).write_bytes(b"a\n1\n")
    (raw / name).chmod(0)
    done = run_prep(raw, tmp_path, *drop_privileges_of_root())
    (raw / name).chmod(0o700)
    assert done.returncode == 1
    assert re.fullmatch(
        rf"prep: (.*/)?{name} cannot be read: Permission denied\.\n", done.stderr
    )


@pytest.mark.parametrize("name", ["a.csv", "folder", ""])
def test_link_that_leads_to_itself_is_named(name: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    if name:
        write_files(raw, {"b.csv": "a\n1\n"})
    (raw / name).symlink_to("other")
    (raw / name).with_name("other").symlink_to(raw / name)
    done = run_prep(raw, tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"prep: \S+ cannot be read: Too many levels of symbolic links\.\n", done.stderr
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "a.csv.bz2",
            r"a.csv.bz2 cannot be copied into the temporary folder \S+: File",
        ),
        ("a.csv", r"The prepared data cannot be written to \S+/prepared: File"),
    ],
)
def test_full_folder_is_not_reported_as_damaged_data(
    file: str, message: str, tmp_path: Path
) -> None:
    """A limit on files is as near to a full folder as an ordinary process may come."""
    text = "a\n" + "".join(f"{random.random()}\n" for _ in range(20_000))
    content = bz2.compress(text.encode()) if file.endswith("bz2") else text.encode()
    raw = write_files(tmp_path / "raw", {file: content})
    done = run_prep(raw, tmp_path, most_bytes=50_000)
    assert done.returncode == 1
    assert re.match(f"prep: {message} too large", done.stderr), done.stderr


def test_report_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", "a\n1\n")
    (tmp_path / "report").write_text("This is no folder.")
    done = run_prep(raw, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("prep: a file cannot be read or written: ")
    assert str(tmp_path / "report") in done.stderr


def test_types_do_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    texts: list[File] = ["a,b\n1,\n", "a,b\n1.5,true\n", "a,b\n,0\n"]
    forward = tmp_path / "forward"
    backward = tmp_path / "backward"
    for folder, order in ((forward, texts), (backward, texts[::-1])):
        files = {f"{number}.csv": text for number, text in enumerate(order)}
        prepare(write_files(folder / "raw", files), folder / "out")
    rows = [row[1:] for row in read_rows(forward / "out")]
    rows_backward = [row[1:] for row in read_rows(backward / "out")]
    assert rows == rows_backward[::-1]
    part = Path("out") / "part-00000.parquet"
    types = pl.read_parquet_schema(forward / part)
    assert types == pl.read_parquet_schema(backward / part)


FEATURES: dict[str, tuple[Any, str]] = {
    "drops rows": (lambda t: t.filter(pl.col("x") > 1), "turned 2 rows into 1: it may"),
    "drops the key": (lambda t: t.drop("id"), "leaves out the column 'id'"),
    "drops the target": (lambda t: t.drop("y"), "leaves out the column 'y'"),
    "makes a struct": (
        lambda t: t.with_columns(s=pl.struct("x", "y")),
        "gives the column 's' the type Struct",
    ),
    "reads a column that is not there": (
        lambda t: t.with_columns(s=pl.col("size") * 2),
        r"fails: unable to find column \"size\"",
    ),
}


@pytest.mark.parametrize(("features", "message"), FEATURES.values(), ids=FEATURES)
def test_mistakes_in_features_are_explained(
    features: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prep, "features", features)
    raw = write_files(tmp_path / "raw", "id,x,y\n1,1,1.5\n2,2,2\n")
    with pytest.raises(DataError, match=message):
        prepare(raw, tmp_path / "out", target="y", keys=["id"])


def test_features_may_not_be_called_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prep, "features", lambda t: t.with_columns(row=pl.lit(1)))
    raw = write_files(tmp_path / "raw", "x,y\n1,1\n")
    for target in ("y", None):
        with pytest.raises(DataError, match="'row' has the name of the row numbers"):
            prepare(raw, tmp_path / "out", target=target)


def test_features_come_as_the_usual_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more(table: pl.LazyFrame) -> pl.LazyFrame:
        x = pl.col("x")
        word = pl.lit("a").cast(pl.Categorical)
        return table.with_columns(n=x.cast(pl.UInt8), f=x.cast(pl.Float32), c=word)

    monkeypatch.setattr(prep, "features", more)
    report = prepare(
        write_files(tmp_path / "raw", "x\n1\n"), tmp_path / "out", keys=["x"]
    )
    types = {name: column["type"] for name, column in report["columns"].items()}
    assert types == {"x": "integer", "n": "integer", "f": "number", "c": "text"}


@pytest.mark.parametrize("sdk", SDKS)
def test_all_settings_of_the_text_format_reach_prep(bake: Bake, sdk: str) -> None:
    """Use values that a shell, JSON or a command line could misread."""
    project = bake(azureml_sdk=sdk)
    (project.path / "data" / "table.csv").write_bytes(
        (
            "Wort;Preis;Tag;z\n"
            "groß;1'234,5 €;31.01.2026;n.v. $x\n"
            "klein;7,25 €;01.02.2026;3\n"
        ).encode("cp1252")
    )
    project.set(
        "data",
        training="data/table.csv",
        target="Wort",
        keys=[],
        ignore=[],
        encoding="cp1252",
        decimal=",",
        thousands="'",
        units=["€", "%"],
        date_format="%d.%m.%Y",
        missing=["n.v. $x", 'with "quotes"'],
    )
    prep_step = project.run("training").json["steps"][0]
    assert (prep_step["name"], prep_step["status"]) == ("prep", "ran")
    report = Path(prep_step["outputs"]["data_report"], "report.json")
    columns = json.loads(report.read_text(encoding="utf-8"))["columns"]
    assert {name: column["type"] for name, column in columns.items()} == {
        "Wort": "text",
        "Preis": "number",
        "Tag": "date",
        "z": "integer",
    }
    assert columns["Preis"]["largest"] == "1234.5"
    assert columns["z"]["missing"] == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"decimals": ","}'])
def test_damaged_text_format_is_refused(text: str, tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", "a\n1\n")
    done = run_prep(raw, tmp_path, after=["--text-format", text])
    assert done.returncode == 2
    assert "argument --text-format: invalid" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seed", range(12))
def test_csv_files_of_pandas_are_read_back_as_they_were(
    seed: int, tmp_path: Path
) -> None:
    """Tables of text, numbers and dates, however pandas writes them as CSV."""
    chance = random.Random(seed)
    rows = chance.choice([1, 7, 400])
    letters = "abc äß€ \"'\\,;\t|\n#%$"
    texts = ["".join(chance.choices(letters, k=chance.randint(1, 9))) for _ in range(9)]
    table = pd.DataFrame(
        {
            "key": [f"{i:05}" for i in range(rows)],
            chance.choice(["plain", "a,b;c", 'quo"te', "*", "^key$"]): [
                f"w{chance.choice(texts)}w" for _ in range(rows)
            ],
            "float": [
                chance.choice([None, chance.uniform(-9, 9)]) for _ in range(rows)
            ],
            "integer": [chance.randint(-(10**15), 10**15) for _ in range(rows)],
            "flag": [chance.random() < 0.5 for _ in range(rows)],
            "day": pd.date_range("1999-12-31", periods=rows),
        }
    )
    sep = chance.choice(",;\t|")
    decimal = chance.choice([".", ","])
    encoding = chance.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    packing = chance.choice(["", ".gz", ".bz2", ".xz"])
    path = tmp_path / f"a.csv{packing}"
    table.to_csv(
        path,
        index=False,
        sep=sep,
        decimal=decimal,
        encoding=encoding,
        quoting=chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
        lineterminator=chance.choice(["\n", "\r\n"]),
        na_rep=chance.choice(["", "NA", "nan"]),
    )
    unmarked = "utf-16-le" if encoding == "utf-16" else "cp1252"
    text_format = TextFormat(encoding=unmarked, decimal=decimal)
    prepare(path, tmp_path / "out", keys=["key"], text_format=text_format)
    back = pd.read_parquet(tmp_path / "out")
    back["day"] = pd.to_datetime(back["day"])
    if table["float"].isna().all():
        table["float"] = None
    pd.testing.assert_frame_equal(back, table, check_dtype=False)


@pytest.mark.parametrize("seed", range(40))
def test_odd_quotes_are_read_as_pythons_csv_reads_them(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    signs = ['"', '""', ",", "x", " ", "y", "\n", "\r\n", "'"]
    body = "".join(chance.choices(signs, k=chance.randint(5, 60)))
    text = f"a,b\n1,2\n{body}\n"
    try:
        expected = [
            tuple(values)
            for values in csv.reader(io.StringIO(text, newline=""), strict=True)
            if values and (len(values) > 1 or values[0].strip())
        ][1:]
    except csv.Error:
        expected = None
    raw = write_files(tmp_path / "raw", text)
    if expected is None or any(len(values) != 2 for values in expected):
        with pytest.raises(DataError, match=r"a.csv, line \d+: "):
            prepare(raw, tmp_path / "out", keys=["a", "b"])
    else:
        prepare(raw, tmp_path / "out", keys=["a", "b"])
        rows = [
            tuple(str(value or "") for value in row)
            for row in read_rows(tmp_path / "out")
        ]
        assert rows == expected
