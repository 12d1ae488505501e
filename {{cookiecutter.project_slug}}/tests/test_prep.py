"""prep: what comes in, and what must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from steps.prep import prep
from steps.prep.prep import DataError, prepare


@pytest.fixture(autouse=True)
def without_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tables are none of the project's, for which its features are made."""
    monkeypatch.setattr(prep, "features", lambda table: table)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def read(folder: Path) -> list[dict[str, Any]]:
    return pl.read_parquet(folder / "*.parquet").to_dicts()


def test_types_and_missing_values_are_found(tmp_path: Path) -> None:
    raw = write(
        tmp_path / "raw",
        a="n,x,ok,day,code,word\n1,0.5,true,2024-02-29,007,b\n,NA,n/a,?, null ,None\n",
    )
    report = prepare(raw, tmp_path / "out")

    first, second = read(tmp_path / "out")
    assert str(first.pop("day")) == "2024-02-29"
    assert first == {"row": 0, "n": 1, "x": 0.5, "ok": True, "code": "007", "word": "b"}
    assert set(second.values()) == {1, None}
    assert report["columns"]["x"]["type"] == "number"
    assert report["columns"]["x"]["missing"] == 1


def test_csv_and_parquet_nested_become_one_table_in_parts(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", a="k,x\n1,1\n2,2\n3,3\n")
    (raw / "more").mkdir()
    pl.DataFrame({"x": [4.5, float("nan")], "k": [4, 5]}).write_parquet(
        raw / "more" / "b.parquet"
    )
    report = prepare(raw, tmp_path / "out", keys=["k"], rows_per_part=2)

    parts = sorted((tmp_path / "out").iterdir())
    assert [len(pl.read_parquet(part)) for part in parts] == [2, 2, 1]
    assert len({str(pl.read_parquet_schema(part)) for part in parts}) == 1
    assert [row["x"] for row in read(tmp_path / "out")] == [1, 2, 3, 4.5, None]
    assert report["files"] == {"a.csv": 3, "more/b.parquet": 2}


def test_rows_without_the_target_are_dropped_and_counted(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", a="x,y\n1,a\n2,\n3,b\n", b="x,y\n4,\n")
    report = prepare(raw, tmp_path / "out", target="y")

    assert read(tmp_path / "out") == [{"x": 1, "y": "a"}, {"x": 3, "y": "b"}]
    assert report["dropped"] == {"no value in the target": 2}
    assert (report["rows_in"], report["rows_out"]) == (4, 2)


def test_rows_to_score_are_all_kept(tmp_path: Path) -> None:
    raw = write(
        tmp_path / "raw", a="x,z\n1,1\n1,1\n", b="z\n\n7\n"
    )  # in one column, a blank line is a row
    prepare(raw, tmp_path / "out")

    assert read(tmp_path / "out") == [
        {"row": 0, "x": 1, "z": 1},
        {"row": 1, "x": 1, "z": 1},
        {"row": 2, "x": None, "z": None},
        {"row": 3, "x": None, "z": 7},
    ]


def test_a_feature_from_two_columns_is_one_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write(tmp_path / "raw", a="x,z\n2,3\n")

    def area(table: pl.LazyFrame) -> pl.LazyFrame:
        return table.with_columns(area=pl.col("x") * pl.col("z"))

    monkeypatch.setattr("steps.prep.prep.features", area)
    report = prepare(raw, tmp_path / "out")
    assert read(tmp_path / "out") == [{"row": 0, "x": 2, "z": 3, "area": 6}]
    assert report["columns"]["area"]["type"] == "integer"


def test_other_delimiters_quotes_and_blank_lines(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", a='"x, y";z\n\n1;"two\nlines"\n')
    prepare(raw, tmp_path / "out", keys=["z"])
    assert read(tmp_path / "out") == [{"x, y": 1, "z": "two\nlines"}]


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match="holds no file that ends in .csv"):
        prepare(tmp_path / "raw", tmp_path / "out")


BAD = {
    "an empty file": ({"a": ""}, "a.csv is empty"),
    "no rows": ({"a": "x,y\n"}, "There is no row of data in a.csv"),
    "a line too long": (
        {"a": "x,y\n1,2\n1,2,3\n"},
        "a.csv, line 3: the row has 3 values",
    ),
    "a line too short": ({"a": "x,y\n1,2\n1\n"}, "a.csv, line 3: the row has 1 value,"),
    "an open quote": ({"a": 'x,y\n1,"2\n3,4\n'}, "a.csv, line 3: unexpected end"),
    "a name twice": ({"a": "x,x\n1,2\n"}, "a.csv: .* 'x' more than once"),
    "no target": ({"a": "x,y\n1,2\n", "b": "x\n1\n"}, "b.csv has no column 'y'"),
    "no value in it": ({"a": "x,y\n1,\n"}, "target 'y' has no value"),
    "a changed type": (
        {"a": "x,y\n1,2\n", "b": "x,y\nbad,2\n"},
        "'x' has different types: integer in a.csv and text in b.csv",
    ),
}


@pytest.mark.parametrize(("files", "message"), BAD.values(), ids=BAD)
def test_bad_data(files: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        prepare(write(tmp_path / "raw", **files), tmp_path / "out", target="y")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_file_that_is_not_what_its_name_says(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG\x00\x01")
    with pytest.raises(DataError, match=f"{name} is not a"):
        prepare(tmp_path, tmp_path / "out")
