"""Odd files: each is read as a person means it, or refused in a sentence."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prep import prepare
from raw import DataError, Format

UMLAUT = "a,b\n1,Müller\n"
READ: dict[str, tuple[str | bytes, dict[str, Any], list[tuple[Any, ...]]]] = {
    "keys are text": (
        "id,x\n1.10,1\n+49170,2\nNA,3\n",
        {"keys": ["id"]},
        [("1.10", 1), ("+49170", 2), ("NA", 3)],
    ),
    "a class none": ("x,y\n1,none\n2,-\n", {"target": "y"}, [(1, "none"), (2, "-")]),
    "names like patterns": ("^b$,*,b\n1,2,3\n", {}, [(0, 1, 2, 3)]),
    "UTF-16": (UMLAUT.encode("utf-16"), {}, [(0, 1, "Müller")]),
    "Windows-1252": (
        UMLAUT.encode("cp1252"),
        {"form": Format(encoding="cp1252")},
        [(0, 1, "Müller")],
    ),
    "CR": ("a,b\r1,2\r3,4\r", {}, [(0, 1, 2), (1, 3, 4)]),
    "sep=": ("sep=;\na;b\n1;2\n", {}, [(0, 1, 2)]),
    "an index": (",a\n0,5\n1,6\n", {}, [(0, 5), (1, 6)]),
    "a bare quote": ('a,b\n24" x,2\n', {}, [(0, '24" x', 2)]),
    "an infinite target": ("x,y\n1,inf\n2,3.5\n", {"target": "y"}, [(2, 3.5)]),
    "empty rows": ("a,b\n1,2\n,\n\n3,4\n", {}, [(0, 1, 2), (1, None, None), (2, 3, 4)]),
    "decimal commas": (
        "a;b\n1.234,5;x\n",
        {"form": Format(decimal=",", thousands=".")},
        [(0, 1234.5, "x")],
    ),
}


@pytest.mark.parametrize(("text", "options", "rows"), READ.values(), ids=READ)
def test_read(
    text: str | bytes,
    options: dict[str, Any],
    rows: list[tuple[Any, ...]],
    tmp_path: Path,
) -> None:
    raw = tmp_path / "a.csv"
    raw.write_bytes(text if isinstance(text, bytes) else text.encode())
    prepare(raw, tmp_path / "out", **options)
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").rows() == rows


def test_one_bad_value_is_named_with_its_line(tmp_path: Path) -> None:
    rows = "".join(f"{i},{'n.v.' if i == 17 else i / 2}\n" for i in range(300))
    (tmp_path / "a.csv").write_text("x,z\n" + rows)
    notes = prepare(tmp_path, tmp_path / "out")["notes"]
    assert (
        "'z' is text because of 1 of 300 values: 'n.v.' in line 19 of a.csv" in notes[0]
    )


REFUSED = {
    "a.csv": (UMLAUT.encode("cp1252"), "line 2: is not UTF-8.*Müller.*cp1252"),
    "a.csv.gz": (gzip.compress(b"a,b\n" + b"1,2\n" * 9999)[:60], "is cut short"),
    "b.csv": (b"<!DOCTYPE html>\n", "is a web page"),
    "a.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, tmp_path / "out")


def test_an_ignored_column_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y_leak,y\n1,2\n")
    with pytest.raises(DataError, match="did you mean 'y_leak'"):
        prepare(tmp_path, tmp_path / "out", target="y", ignore=["Y_leek"])
