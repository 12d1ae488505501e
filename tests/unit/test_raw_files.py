"""Test raw files and folders of all kinds: each is read whole, or refused in a sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import random
import re
import resource
import socket
import subprocess
import sys
import uuid
import zipfile
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import prep
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prep import prepare
from sources import DataError
from text_values import TextFormat

# The log of a Delta table, as the package deltalake 1.6 wrote it for `delete("x > 2")`.
DELTA_LOG = (
    '{"add":{"path":"part-00000-4484.snappy.parquet","partitionValues":{},"size":1081}}\n'
    '{"remove":{"path":"part-00000-4484.snappy.parquet","dataChange":true,"size":1081}}\n'
)
XLSX = "xl/workbook.xml"
DAY = date(2025, 1, 31)
DAY_2026 = date(2026, 1, 31)


def write_files(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write files below a folder, and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read_rows(folder: Path) -> list[tuple[Any, ...]]:
    """Return the rows of all Parquet files in a folder."""
    return pl.read_parquet(sorted(folder.iterdir())).rows()


def zip_files(*names: str) -> bytes:
    """Return a ZIP archive with files of these names."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, "<xml/>")
    return packed.getvalue()


TABLE_FORMATS: dict[str, tuple[dict[str, str | bytes], str]] = {
    "Delta": (
        {"_delta_log/00000000000000000000.json": DELTA_LOG},
        r"is a Delta table.*polars.read_delta\('\S+'\)",
    ),
    "Iceberg": (
        {
            "metadata/00000-c6a2.metadata.json": "{}",
            "metadata/00002-769b.metadata.json": "{}",
        },
        r"is an Iceberg table.*scan_iceberg\('\S+/metadata/00002-769b.metadata.json'\)",
    ),
    "Iceberg of Hadoop": (
        {"metadata/v9.metadata.json": "{}", "metadata/v10.metadata.json": "{}"},
        r"is an Iceberg table.*scan_iceberg\('\S+/metadata/v10.metadata.json'\)",
    ),
    "Hudi": ({".hoodie/hoodie.properties": ""}, r"is a Hudi table.*format\('hudi'\)"),
    "Paimon": ({"snapshot/LATEST": "1"}, "is a Paimon table"),
    "Spark stream": ({"_spark_metadata/0": "v1"}, "is the output of a Spark stream"),
}


@pytest.mark.parametrize("place", ["raw", "raw/tables/sales", "above raw"])
@pytest.mark.parametrize(
    ("files", "message"), TABLE_FORMATS.values(), ids=TABLE_FORMATS
)
def test_tables_with_removed_files_are_refused(
    files: dict[str, str | bytes], message: str, place: str, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    table = tmp_path if place == "above raw" else tmp_path / place
    write_files(raw, {"a.csv": "x\n1\n"})
    write_files(table, files)
    with pytest.raises(DataError, match=message):
        prepare(raw, tmp_path / "out")


# Folders of partitions, and the values that their column has.
PARTITIONS: dict[str, tuple[list[str], list[Any]]] = {
    "dates": (["day=2025-01-31", "day=2025-02-01"], [DAY, date(2025, 2, 1)]),
    "numbers": (["price=0.5", "price=1"], [0.5, 1.0]),
    "integers": (["year=2025", "year=2026"], [2025, 2026]),
    "booleans": (["flag=false", "flag=true"], [False, True]),
    "codes": (["zip=007", "zip=12"], ["007", "12"]),
    "text": (["c=a%20b", "c=b%2Fc"], ["a b", "b/c"]),
    "words": (["country=DE", "country=NA"], ["DE", "NA"]),
    "a missing date": (
        ["day=2025-01-31", "day=__HIVE_DEFAULT_PARTITION__"],
        [DAY, None],
    ),
    "dates and text": (["day=2025-01-31", "day=soon"], ["2025-01-31", "soon"]),
    "a quoted name": (["a%20b=1", "a%20b=2"], [1, 2]),
}


@pytest.mark.parametrize(("folders", "expected"), PARTITIONS.values(), ids=PARTITIONS)
def test_columns_of_folders_have_types(
    folders: list[str], expected: list[Any], tmp_path: Path
) -> None:
    files: dict[str, str | bytes] = {
        f"{folder}/a.csv": f"x\n{number}\n" for number, folder in enumerate(folders)
    }
    prepare(write_files(tmp_path / "raw", files), tmp_path / "out")
    values = {x: value for _, x, value in read_rows(tmp_path / "out")}
    assert [values[0], values[1]] == expected


def make_special_file(path: Path, kind: str) -> None:
    """Create a named pipe, a socket, or a link to a device."""
    path.parent.mkdir(exist_ok=True)
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/null")


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device"])
@pytest.mark.parametrize("is_raw", [True, False], ids=["alone", "in a folder"])
def test_special_files_are_named(
    kind: str, is_raw: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The path of a socket must be short, so it is made in the folder itself.
    monkeypatch.chdir(tmp_path)
    path = Path("raw/a.csv")
    make_special_file(path, kind)
    with pytest.raises(DataError, match=f"raw/a.csv is {kind}, not a file"):
        prepare(path if is_raw else path.parent, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.csv", "part", "a.parquet"])
def test_links_that_lead_nowhere_are_named(name: str, tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", {"b.csv": "x\n1\n"})
    (raw / name).symlink_to("../gone")
    with pytest.raises(
        DataError, match=rf"{name} is a link to ../gone, which does not"
    ):
        prepare(raw, tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such name")
@pytest.mark.parametrize("name", [b"\xfc.csv", b"\xfc/a.csv"], ids=["file", "folder"])
def test_name_that_is_not_utf_8_is_shown(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / "raw" / os.fsdecode(name)
    path.parent.mkdir(parents=True)
    path.write_text("x\n1\n")
    with pytest.raises(DataError, match=r"raw/\\udcfc\S* is not UTF-8"):
        prepare(tmp_path / "raw", tmp_path / "out")


#: A shell, a terminal or a search for files would take these for more than names.
HOSTILE_NAMES = ["-rf.csv", "*.csv", "a[1].csv", "{a,b}.csv", "a\nb.csv", "\x1b[2J.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such name")
def test_files_with_odd_names_are_read(tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", dict.fromkeys(HOSTILE_NAMES, "x\n1\n"))
    prepare(raw, tmp_path / "out")
    assert len(read_rows(tmp_path / "out")) == len(HOSTILE_NAMES)


def test_path_that_is_a_link_to_nothing_is_explained(tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to("gone")
    with pytest.raises(DataError, match="raw is a link to gone, which does not exist"):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_very_deep_folders_are_read(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    # A path of this length can be read, but not be made by its whole name at once.
    descriptor = os.open(raw, os.O_RDONLY)
    for _ in range(1_100):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    write_files(Path(f"/proc/self/fd/{descriptor}"), {"a.csv": "x\n1\n"})
    os.close(descriptor)
    try:
        prepare(raw, tmp_path / "out")
    finally:
        # Python's own functions, which pytest uses, cannot remove such folders.
        subprocess.run(["rm", "-r", raw], check=True)
    assert read_rows(tmp_path / "out") == [(0, 1)]


HIDDEN: dict[str, tuple[str, str]] = {
    "a file": ("_a.csv", "names that begin with _ .*: _a.csv"),
    "a folder": ("_old/a.csv", "names that begin with _ .*: _old"),
    "unfinished output": (
        "_temporary/0/a.parquet",
        "names that begin .*: _temporary",
    ),
    "a dotfile": (
        ".a.csv",
        "names that begin with _ or . .*: .a.csv",
    ),
    "another kind": ("a.jsonl", "only CSV and Parquet .*: a.jsonl"),
    "a dangling link": ("notes.txt", "only CSV .*: notes.txt"),
    "an escape": ("\x1b[2J.txt", r"only CSV .*: \\x1b\[2J.txt"),
    "no UTF-8": ("a\udcff.txt", r"only CSV .*: a\\udcff.txt"),
}


@pytest.mark.parametrize(("name", "note"), HIDDEN.values(), ids=HIDDEN)
def test_file_that_is_not_read_is_noted(name: str, note: str, tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", {"b.csv": "x\n1\n"})
    if name == "notes.txt":
        (raw / name).symlink_to("gone")
    else:
        write_files(raw, {name: b"x"})
    notes = prepare(raw, tmp_path / "out")["notes"]
    assert len(notes) == 1
    assert re.match(note, notes[0])


@pytest.mark.parametrize("name", ["_SUCCESS", "._a.csv", ".DS_Store", "_a.crc"])
def test_marks_of_other_programs_need_no_note(name: str, tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", {"b.csv": "x\n1\n", name: b"x"})
    assert prepare(raw, tmp_path / "out")["notes"] == []


def test_folder_with_only_hidden_tables_is_explained(tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", {"_a.csv": "x\n1\n"})
    with pytest.raises(DataError, match="no file that ends in .*begin with _ .*_a.csv"):
        prepare(raw, tmp_path / "out")


OTHER_CONTENT: dict[str, tuple[bytes, str]] = {
    "xlsx": (zip_files("[Content_Types].xml", XLSX), r"an Excel workbook \(.xlsx\)"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), r"workbook \(.xls\)"),
    "xlsb": (zip_files("xl/workbook.bin"), r"an Excel workbook \(.xlsb\)"),
    "ods": (zip_files("mimetype", "content.xml"), "an OpenDocument sheet"),
    "two marks": (b"\xef\xbb\xbf" * 2 + b"id,x\n1,2\n", "two byte order marks"),
    "two marks of UTF-16": ("\ufeffid\n1\n".encode("utf-16"), "two byte order marks"),
    "JSON": (b'{"id": 1}\n', "is JSON"),
    "JSON in a list": (b'[\n  {"id": 1}]', "is JSON"),
    "XML": (b'\xef\xbb\xbf<?xml version="1.0"?>', "is XML"),
    "ORC": (b"ORC\x0a\x0b\n\x03", "is an ORC file"),
    "Avro": (b"Obj\x01\x04", "is an Avro file"),
    "Feather": (b"ARROW1\0\0", r"is an Arrow \(Feather\) file"),
    "SQLite": (b"SQLite format 3\0", "is an SQLite database"),
    "PDF": (b"%PDF-1.7", "is a PDF document"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "is packed by zstd"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "is a 7z archive"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "encrypted Parquet": (b"PARE\x15\0", "is an encrypted Parquet file"),
    "a tar archive": (b"a.csv".ljust(257, b"\0") + b"ustar", "is a tar archive"),
    "a zero-width space": (
        "id\u200b,x\n1,2\n".encode(),
        r"no column 'id', .*Its columns are id\\u200b, x",
    ),
}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("content", "message"), OTHER_CONTENT.values(), ids=OTHER_CONTENT
)
def test_content_that_contradicts_the_name_is_recognized(
    content: bytes, message: str, ending: str, tmp_path: Path
) -> None:
    if ending == "parquet" and "id" in message:
        pytest.skip("only the text of a CSV file")
    raw = write_files(tmp_path / "raw", {f"a.{ending}": content})
    with pytest.raises(DataError, match=message):
        prepare(raw, tmp_path / "out", keys=["id"])


@pytest.mark.parametrize("name", ["ORCID", "PARENT_ID", "PAR1", "ARROW1", "$FL2"])
@pytest.mark.parametrize("word", ["x", "\u00fc"], ids=["ASCII", "cp1252"])
def test_column_may_be_named_like_the_start_of_another_file(
    name: str, word: str, tmp_path: Path
) -> None:
    content = f"{name},x\n1,{word}\n".encode("cp1252")
    raw = write_files(tmp_path / "raw", {"a.csv": content})
    prepare(raw, tmp_path / "out", text_format=TextFormat(encoding="cp1252"))
    assert read_rows(tmp_path / "out") == [(0, 1, word)]


@pytest.mark.parametrize("encoding", ["utf-32", "utf-16", "utf-8-sig"])
def test_byte_order_marks_name_the_encoding(encoding: str, tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", {"a.csv": "id,x\n1,Müller\n".encode(encoding)})
    prepare(raw, tmp_path / "out", keys=["id"])
    assert read_rows(tmp_path / "out") == [(1, "Müller")]


def write_small_files(folder: Path, seed: int) -> Path:
    """Write 45 small files in many conventions, of which some differ in their types."""
    chance = random.Random(seed)
    files: dict[str, str | bytes] = {}
    for number in range(45):
        delimiter = chance.choice(",;\t|")
        header = chance.choice(["id,x,color", "id,x,color", "id,x,color", "id,color,x"])
        lines = [header.replace(",", delimiter)]
        for row in range(chance.choice([0, 1, 50])):
            x = chance.choice(["1", "2.5", "", "NA", "-3"])
            color = chance.choice(["red", '"dark\nred"', "none", "NA", ""])
            cells = {"id": f"{number}-{row}", "x": x, "color": color}
            lines.append(delimiter.join(cells[name] for name in header.split(",")))
        text = chance.choice(["\n", "\r\n"]).join(lines) + chance.choice(["", "\n"])
        content = text.encode(chance.choice(["utf-8", "utf-8-sig", "utf-16"]))
        files[f"{number:03}.csv"] = content
        if chance.random() < 0.1:
            files[f"{number:03}.csv"] = gzip.compress(content)
    return write_files(folder, files)


@pytest.mark.parametrize("seed", range(2))
def test_many_small_files_are_read_like_single_files(
    seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raw = write_small_files(tmp_path / "raw", seed)
    together = prepare(raw, tmp_path / "together", keys=["id"])
    monkeypatch.setattr("read_files.MANY_FILES", 1_000)
    alone = prepare(raw, tmp_path / "alone", keys=["id"])
    assert together["files"] == alone["files"]
    assert together["notes"] == alone["notes"]
    assert together["columns"] == alone["columns"]
    assert read_rows(tmp_path / "together") == read_rows(tmp_path / "alone")


@pytest.mark.parametrize(
    ("content", "message"),
    {
        "a long line": (b"id,x\n1,2\n1,2,3\n", "050.csv, line 3: the row has 3 values"),
        "an empty file": (b"", "050.csv is empty"),
        "another encoding": (b"id,x\n1,\xfc\n", "050.csv, line 2 is not UTF-8"),
        "another type": (
            b"id,x\n1,2\n2,6O\n",
            "x.*has different types.*'6O' in line 3 of",
        ),
    }.values(),
    ids=["a long line", "an empty file", "another encoding", "another type"],
)
def test_odd_file_among_many_small_ones_is_named(
    content: bytes, message: str, tmp_path: Path
) -> None:
    files: dict[str, str | bytes] = {
        f"{number:03}.csv": "id,x\n1,2\n" for number in range(100)
    }
    raw = write_files(tmp_path / "raw", files | {"050.csv": content})
    with pytest.raises(DataError, match=message):
        prepare(raw, tmp_path / "out", keys=["id"])


@pytest.mark.parametrize(
    "files",
    [
        {f"{number:03}.csv": "x\n1\n2\n-999\n" for number in range(40)},
        {"blank.csv": "\nx\n" + "1\n2\n-999\n" * 40},
    ],
    ids=["small files", "a blank line above the names"],
)
def test_sentinel_is_noted_if_the_rows_were_copied(
    files: dict[str, str | bytes], tmp_path: Path
) -> None:
    raw = write_files(tmp_path / "raw", files)
    notes = "\n".join(prepare(raw, tmp_path / "out")["notes"])
    assert "holds -999 in 40 rows" in notes
    assert "write data.missing: ['-999'] in settings.yml" in notes


def write_parquet(folder: Path, table: pa.Table, **options: Any) -> Path:
    """Write a Parquet file by pyarrow, and return its folder."""
    folder.mkdir()
    pq.write_table(table, folder / "a.parquet", **options)
    return folder


UUID = uuid.UUID("123e4567-e89b-12d3-a456-426614174000")
FAR = datetime(3000, 1, 1, 12, 30)
# A table, options to write and to prepare it, and the values of its column x.
PARQUET: dict[str, tuple[pa.Table, dict[str, Any], dict[str, Any], list[Any]]] = {
    "INT96": (
        pa.table({"x": pa.array([FAR, None], pa.timestamp("us"))}),
        {"use_deprecated_int96_timestamps": True, "store_schema": False},
        {},
        [FAR, None],
    ),
    "nanoseconds": (
        pa.table({"x": pa.array([datetime(2026, 1, 31)], pa.timestamp("ns"))}),
        {"store_schema": False},
        {},
        [datetime(2026, 1, 31)],
    ),
    "dates in text": (pa.table({"x": ["2026-01-31", None]}), {}, {}, [DAY_2026, None]),
    "times in text": (
        pa.table({"x": ["2026-01-31T10:00:00", "2026-02-01"]}),
        {},
        {},
        [datetime(2026, 1, 31, 10), datetime(2026, 2, 1)],
    ),
    "dates and words": (
        pa.table({"x": ["2026-01-31", "soon"]}),
        {},
        {},
        ["2026-01-31", "soon"],
    ),
    "late words": (
        pa.table({"x": ["2026-01-31"] * 2_000 + ["soon"]}),
        {},
        {},
        ["2026-01-31"] * 2_000 + ["soon"],
    ),
    "German dates by the setting": (
        pa.table({"x": ["31.01.2026"]}),
        {},
        {"text_format": TextFormat(date_format="%d.%m.%Y")},
        [DAY_2026],
    ),
    "digits in text": (pa.table({"x": ["20260131", "7"]}), {}, {}, ["20260131", "7"]),
    "a key of dates in text": (
        pa.table({"x": ["2026-01-31"]}),
        {},
        {"keys": ["x"]},
        ["2026-01-31"],
    ),
    "a key of UUIDs": (
        pa.table({"x": pa.array([UUID.bytes], pa.uuid())}),
        {},
        {"keys": ["x"]},
        [str(UUID)],
    ),
    "UUIDs": (
        pa.table({"x": pa.array([UUID.bytes, None], pa.uuid())}),
        {},
        {},
        [str(UUID), None],
    ),
    "a key of bytes that are text": (
        pa.table({"x": [b"a"]}),
        {},
        {"keys": ["x"]},
        ["a"],
    ),
    "text that old writers did not declare": (
        pa.table({"x": [b"red", "grün".encode(), None]}),
        {},
        {},
        ["red", "grün", None],
    ),
    "a key of times of day": (
        pa.table({"x": pa.array([36_900], pa.time32("s"))}),
        {},
        {"keys": ["x"]},
        ["10:15:00"],
    ),
    "the index as a key": (
        pa.table({"__index_level_0__": ["a"], "x": [1]}),
        {},
        {"keys": ["__index_level_0__"]},
        [1],
    ),
    "a decimal beside an ignored one of 50 digits": (
        pa.table(
            {
                "x": pa.array([Decimal("1.5")], pa.decimal128(10, 2)),
                "y": pa.array([Decimal("1.5")], pa.decimal256(50, 2)),
            }
        ),
        {},
        {"ignore": ["y"]},
        [1.5],
    ),
}


@pytest.mark.parametrize(
    ("table", "writing", "options", "values"), PARQUET.values(), ids=PARQUET
)
def test_columns_of_parquet_files_are_read(
    table: pa.Table,
    writing: dict[str, Any],
    options: dict[str, Any],
    values: list[Any],
    tmp_path: Path,
) -> None:
    raw = write_parquet(tmp_path / "raw", table, **writing)
    prepare(raw, tmp_path / "out", **options)
    assert pl.read_parquet(tmp_path / "out")["x"].to_list() == values


REFUSED_PARQUET: dict[str, tuple[pa.Table, str]] = {
    "one name twice": (
        pa.table([[1], [2], [3]], names=["x", "id", "x"]),
        "a.parquet has several columns named 'x': rename all but one",
    ),
    "decimals of 50 digits": (
        pa.table({"id": [1], "d": pa.array([Decimal("1.5")], pa.decimal256(50, 2))}),
        "a.parquet: the column 'd' holds decimal numbers of 50 digits",
    ),
    "a key of bytes": (
        pa.table({"id": [b"\xff"]}),
        "a.parquet: the key 'id' holds bytes that are not text",
    ),
}


@pytest.mark.parametrize(
    ("table", "message"), REFUSED_PARQUET.values(), ids=REFUSED_PARQUET
)
def test_columns_of_parquet_files_that_cannot_be_read_are_refused(
    table: pa.Table, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        prepare(write_parquet(tmp_path / "raw", table), tmp_path / "out", keys=["id"])


@pytest.mark.parametrize(
    "options",
    [
        {"group": "__index_level_0__"},
        {"expectations": {"__index_level_0__": {"missing": 0}}},
    ],
    ids=["group", "rules"],
)
def test_index_that_settings_name_is_kept(
    options: dict[str, Any], tmp_path: Path
) -> None:
    table = pa.table({"__index_level_0__": ["a"], "x": [1]})
    prepare(write_parquet(tmp_path / "raw", table), tmp_path / "out", **options)
    assert read_rows(tmp_path / "out") == [(0, "a", 1)]


@pytest.mark.parametrize("index", [["a", "b"], [DAY, DAY], [7, 9]], ids=str)
def test_index_that_pandas_stored_is_noted(index: list[Any], tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    table = pd.DataFrame({"x": [1, 2]}, index=index)
    table.to_parquet(tmp_path / "raw" / "a.parquet")
    (note,) = prepare(tmp_path / "raw", tmp_path / "out")["notes"]
    assert note.startswith("the index that pandas stores in Parquet files")
    assert read_rows(tmp_path / "out") == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"id,x\n1," + b"x" * 2**25, "a.csv has a line of more than 16 MB"),
        ("a.csv", b"x" * 2**25, "a line of more than 16 MB, which begins at byte 0"),
        (
            "a.csv",
            b'id,x\n1,"' + (b"x" * 999 + b"\n") * 17_000,
            "line .*: a value has more than 16",
        ),
        (
            "a.csv.gz",
            gzip.compress(b"id,x\n1," + b"x" * 2**25),
            "a.csv.gz has a line of more than 16 MB",
        ),
        (
            "a.csv.bz2",
            bz2.compress(b"id,x\n1," + b"x" * 2**25),
            "a.csv.bz2, line 2: a value has more than 16 million characters",
        ),
        (
            "a.csv.bz2",
            bz2.compress(b"x" * 2**25),
            "a.csv.bz2, line 1: a value has more than 16 million characters",
        ),
    ],
    ids=[
        "a value",
        "a header",
        "open quotes",
        "gzip",
        "a packed value",
        "a packed header",
    ],
)
def test_values_that_are_too_long_are_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        prepare(write_files(tmp_path / "raw", {name: content}), tmp_path / "out")


def test_full_temporary_folder_is_named(tmp_path: Path) -> None:
    """A limit on files is as near to a full folder as an ordinary process may come."""
    rows = "".join(f"{number},{number / 7}\n" for number in range(500))
    files: dict[str, str | bytes] = {f"{i:02}.csv": "id,x\n" + rows for i in range(40)}
    raw = write_files(tmp_path / "raw", files)

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, "-B", prep.__file__, "--raw", str(raw)]
    done = subprocess.run(
        [*command, "--prepared", tmp_path / "out", "--report", tmp_path / "report"],
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.match(
        r"prep: The text of small files cannot be copied into the temporary folder \S+:"
        r" File too large",
        done.stderr,
    )
