"""Reading any raw CSV and Parquet files as one typed table, nothing held in memory.

A CSV file of plain lines is read by polars as it is. Any other (compressed by zip, bz2 or
xz, in another encoding, with odd quotes, line ends or blank lines) is first copied line by
line into a Parquet file of text, by Python's csv module, which says what is wrong where.

At first the first rows of a CSV file are trusted to tell its types; `tally` sums up, as
all rows are read, whether they did. Files of which they did not are looked through.
"""

from __future__ import annotations

import bz2
import csv
import difflib
import gzip
import io
import lzma
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import IO
from urllib.parse import unquote

import polars as pl
import polars.selectors as cs

PARQUET_ENDINGS = (".parquet", ".pq")
CSV_ENDINGS = tuple(
    text + packed for text in (".csv", ".tsv") for packed in ("", ".gz", ".bz2", ".xz")
) + (".zip",)
SPELLINGS = ["", "?", "-", "NA", "N/A", "#N/A", "<NA>", "NaN", "-NaN", "NULL", "None"]
MISSING = sorted({form for s in SPELLINGS for form in (s, s.lower(), s.upper())})
FIRST_ROWS = 10_000  # of a CSV file: they rule out most types of a column
FILE, MISFIT, BYTES, WORDS = "\0file", "\0misfit", "\0bytes", "\0words "  # see `unite`
EXACT = 2**53  # up to here a float holds every integer

NAMES: dict[pl.DataType, str] = {
    pl.Int64(): "integer",
    pl.Float64(): "number",
    pl.Boolean(): "boolean",
    pl.Date(): "date",
    pl.Datetime("us"): "timestamp",
    pl.String(): "text",
}
INTEGER, NUMBER, BOOLEAN, DATE, TIMESTAMP, TEXT = NAMES
DATE_FORMATS = ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d-%m-%Y")
TIME_FORMATS = tuple(f"{day} %H:%M{s}" for day in DATE_FORMATS for s in ("", ":%S"))
# What polars reads many times as fast as a fraction of any length, %.f.
ISO_TIMES = [f"%Y-%m-%d{t}%H:%M:%S{f}" for t in " T" for f in ("", ".%6f")]
TRUE, FALSE = (
    ["".join(letters) for letters in product(*zip(word, word.upper()))]
    for word in ("true", "false")
)

csv.field_size_limit(2**31 - 1)


class DataError(Exception):
    """The data cannot be prepared; the message says which file and column, and why."""


@dataclass(frozen=True)
class Format:
    """How the text of CSV files is to be read where it is not as usual."""

    encoding: str = ""  # of files that are not UTF-8
    decimal: str = "."
    thousands: str = ""
    units: tuple[str, ...] = ()  # before or behind numbers, such as % or EUR
    date_format: str = ""  # of strptime, beside ISO 8601
    missing: tuple[str, ...] = ()  # further spellings of a missing value


USUAL = Format()


@dataclass(frozen=True)
class Roles:
    """What the settings say of columns."""

    target: str | None = None
    keys: Sequence[str] = ()
    ignore: Sequence[str] = ()


@dataclass
class Column:
    """A column of one file: its type (None where it holds no value) and its values."""

    type: pl.DataType | None
    values: pl.Expr
    text: pl.Expr | None = None  # as it stands in a CSV file, but for blanks around it
    words: int = 0  # of its values are spellings of a missing one, such as NA
    is_word: pl.Expr | None = None  # is one, where `words` are those of the first rows


@dataclass
class Source:
    """One raw file: its columns by name, and what is to be seen of its rows.

    Where the first rows are trusted, a row may be a misfit, of other types, and the values
    of all rows, with what stands between, must add up to the bytes of the file, if known.
    """

    name: str
    frame: pl.LazyFrame
    columns: dict[str, Column]
    misfit: pl.Expr = pl.nth(0).is_null() & False  # of as many rows as the file
    bytes: pl.Expr | None = None
    size: int = 0
    notes: list[str] = field(default_factory=list)


def name_of(dtype: pl.DataType) -> str:
    """A type's name in messages."""
    return NAMES.get(dtype, str(dtype))


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, also behind links, but for hidden ones."""
    root, seen = folder.resolve(), set()

    def below(folder: Path) -> Iterator[Path]:
        for path in folder.iterdir():
            real = path.resolve()
            copied = path.is_symlink() and real.is_relative_to(root)
            if path.name[0] in "._" or real in seen or copied:
                continue
            seen.add(real)
            if path.is_dir():
                yield from below(path)
            elif path.is_file():
                yield path

    yield from sorted(below(folder))


def find_files(raw: Path) -> list[Path]:
    """The CSV and Parquet files below a folder by the order of their paths, or a file."""
    endings = CSV_ENDINGS + PARQUET_ENDINGS
    if not raw.exists():
        hint = "write the path of a folder or file"
        if "*" in raw.name:
            hint = "write the folder alone: all of its files are read"
        elif re.match(r"[a-z]+:/", str(raw)):
            hint = "download it, and write the path of what you have"
        elif "~" in raw.parts:
            hint = "write the whole path in place of ~"
        raise DataError(f"There is no data at {raw}: {hint}.")
    files = [
        path
        for path in (walk(raw) if raw.is_dir() else [raw])
        if path.name.lower().endswith(endings)
    ]
    if not files:
        raise DataError(f"{raw} holds no file that ends in {', '.join(endings)}.")
    return files


def open_source(
    path: Path,
    name: str,
    scratch: Path,
    form: Format = USUAL,
    roles: Roles = Roles(),
    trust: bool = False,
) -> Source:
    """Look through a file for its columns and their types; if of trust, its first rows."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise DataError(f"{name} is empty.")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{name} is a pointer of Git LFS: fetch it by `git lfs pull`.")
    if re.match(rb"\s*<(!doctype|html)", start, re.IGNORECASE):
        raise DataError(f"{name} is a web page, not a table: download the file itself.")
    if path.name.lower().endswith(PARQUET_ENDINGS):
        return _open_parquet(path, name, roles)
    try:
        return _open_csv(path, name, scratch, form, roles, trust)
    except (EOFError, zlib.error, lzma.LZMAError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{name} is cut short or damaged: {error}.") from None


def _open_parquet(path: Path, name: str, roles: Roles) -> Source:
    try:
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        typed = {
            column: _typed(frame, i, dtype, column in roles.keys)
            for i, (column, dtype) in enumerate(frame.collect_schema().items())
            # pandas keeps the index of a table under such a name; it is not data.
            if not column.startswith("__index_level_")
        }
        if not typed:
            raise DataError(f"{name} has no columns.")
        counted = []
        for type, values in typed.values():
            words = pl.when(values.is_in(MISSING)).then(values)
            counted += [values, words if type == TEXT else pl.lit(None)]
        counts = _count(frame, counted)
    except (pl.exceptions.PolarsError, OSError):
        raise DataError(
            f"{name} is not a whole Parquet file, though its name says so."
        ) from None
    columns = {
        column: Column(type if count else None, values, words=words)
        for (column, (type, values)), count, words in zip(
            typed.items(), counts[::2], counts[1::2]
        )
    }
    return Source(name, frame, columns)


def _typed(
    frame: pl.LazyFrame, i: int, dtype: pl.DataType, is_key: bool
) -> tuple[pl.DataType, pl.Expr]:
    """A Parquet column's type (the file's own where it is none of ours) and values.

    By its position, because polars reads some names as patterns. A key stays as it is.
    """
    column = pl.nth(i)
    whole = dtype.is_integer() or (isinstance(dtype, pl.Decimal) and not dtype.scale)
    if whole:
        integer = column.cast(pl.Int64, strict=False)
        fits = integer.null_count() == column.null_count()
        if frame.select(fits).collect(engine="streaming").item():
            return INTEGER, integer
        if is_key:
            return TEXT, column.cast(pl.String)
    if is_key and not isinstance(dtype, (pl.Categorical, pl.Enum)):
        return dtype, column.fill_nan(None) if dtype.is_float() else column
    if dtype.is_numeric():
        return NUMBER, column.cast(pl.Float64).fill_nan(None)
    if isinstance(dtype, pl.Datetime):
        utc = column.dt.convert_time_zone("UTC") if dtype.time_zone else column
        return TIMESTAMP, utc.dt.replace_time_zone(None).cast(TIMESTAMP)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        text = column.cast(pl.String)
        return TEXT, text if is_key else _filled(text.str.strip_chars())
    return dtype, column


def _count(frame: pl.LazyFrame, columns: list[pl.Expr]) -> list[int]:
    """The number of values of each column."""
    once = {id(column): column for column in columns}
    counts = [column.count().alias(str(key)) for key, column in once.items()]
    found = frame.select(counts).collect(engine="streaming").row(0, named=True)
    return [found[str(id(column))] for column in columns]


def _filled(bare: pl.Expr) -> pl.Expr:
    """Text without blanks around it, missing where nothing is left."""
    return pl.when(bare != "").then(bare)


def _clean(bare: pl.Expr, form: Format) -> pl.Expr:
    """Text without blanks around it, missing where it spells a missing value."""
    return pl.when(~bare.is_in([*MISSING, *form.missing])).then(bare)


def _parse(text: pl.Expr, type: pl.DataType, form: Format) -> pl.Expr:
    """Text as a type; missing where it is not of that type.

    Digits behind a zero (007), or too many of them for a number, are a code, which
    only text keeps as it is.
    """
    if type == INTEGER:
        digits = _plain(text, form)
        is_integer = digits.str.contains(r"^[+-]?(0|[1-9][0-9]{0,17})$")
        return pl.when(is_integer).then(digits.cast(pl.Int64, strict=False))
    if type == NUMBER:
        digits = _plain(text, form)
        is_code = digits.str.contains(r"^[+-]?(0[0-9]|[0-9]{19})")
        return pl.when(~is_code).then(digits.cast(pl.Float64, strict=False))
    if type == BOOLEAN:
        return pl.when(text.is_in(TRUE + FALSE)).then(text.is_in(TRUE))
    if type == DATE:
        iso = text.str.to_date("%Y-%m-%d", strict=False)
        if re.search("%[^a-zA-Z]*[HIklMSTRXrcs]", form.date_format or "%H"):
            return iso  # there is no other format, or one of times
        return pl.coalesce(iso, text.str.to_date(form.date_format, strict=False))
    if type == TIMESTAMP:
        plain = text.str.replace("T", " ", literal=True)
        plain = plain.str.replace(r"^([^ ]+ \d\d:\d\d)(Z|[+-].*)?$", "${1}:00${2}")
        naive, zoned = "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f%#z"
        forms = [
            plain.str.to_datetime(naive, time_unit="us", strict=False),
            plain.str.to_datetime(
                zoned, time_unit="us", strict=False
            ).dt.replace_time_zone(None),
            text.str.to_date("%Y-%m-%d", strict=False).cast(TIMESTAMP),
        ]
        if form.date_format:
            written = form.date_format
            forms.append(text.str.to_datetime(written, time_unit="us", strict=False))
            forms.append(text.str.to_date(written, strict=False).cast(TIMESTAMP))
        return pl.coalesce(forms)
    return text


def _plain(text: pl.Expr, form: Format) -> pl.Expr:
    """Numbers as Python writes them; others of the given form are missing."""
    if form.units:
        unit = "|".join(map(re.escape, form.units))
        text = text.str.replace(rf"\s*(?:{unit})$", "")
        text = text.str.replace(rf"^([+-]?)(?:{unit})\s*", "${1}")
    if form.thousands == " ":
        text = text.str.replace_all(r"\p{Zs}", " ")
    if form.thousands:
        mark, point = re.escape(form.thousands), re.escape(form.decimal)
        first, three = r"\d{1,3}", r"\d{3}"
        grouped = text.str.contains(rf"^[+-]?{first}({mark}{three})+({point}\d*)?$")
        without = text.str.replace_all(form.thousands, "", literal=True)
        text = pl.when(grouped).then(without).otherwise(text)
    if form.decimal != ".":
        pointed = text.str.contains(".", literal=True)
        text = pl.when(~pointed).then(text.str.replace(form.decimal, ".", literal=True))
    return text


def _open_csv(
    path: Path, name: str, scratch: Path, form: Format, roles: Roles, trust: bool
) -> Source:
    for encoding in filter(None, [_bom(path) or "utf-8-sig", form.encoding]):
        try:
            file = CsvFile(path, name, encoding)
            size = file.size() if trust else 0
            if (frame := file.scan(bool(size))) is None:
                copy = scratch / f"{len(list(scratch.iterdir())):05}.parquet"
                file.copy(copy)
                frame, size, trust = pl.scan_parquet(copy, glob=False), 0, False
            source = _csv_source(frame, file, form, roles, trust)
            if size:
                source.size = size
                lengths = [pl.col(column).str.len_bytes() for column in file.names]
                between = pl.lit(len(file.names), pl.UInt32)
                source.bytes = pl.sum_horizontal(*lengths, between)
            _leave_out_nameless(source, file.header)
            _note_doubts(source, file, form, roles)
            return source
        except UnicodeError:
            continue
        except LookupError:
            raise DataError(
                f"data.encoding in settings.yml: Python knows no '{encoding}'."
            ) from None
    raise DataError(_not_utf8(path, name))


def _bom(path: Path) -> str:
    with _open_binary(path) as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else ""


def _not_utf8(path: Path, name: str) -> str:
    with _open_binary(path) as file:
        start = file.read(65536)
        if start.count(b"\0") * 3 > len(start) and not start.startswith(b"PAR1"):
            order = "le" if start[1:2] == b"\0" else "be"
            return f"{name} is UTF-16: write data.encoding: utf-16-{order} in settings.yml."
        if b"\0" in start or start.startswith(b"PAR1"):
            return f"{name} is not a CSV file, though its name says so."
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                shown = line.decode("cp1252", "replace").strip()[:60]
                return (
                    f"{name}, line {number}: is not UTF-8: if it should read"
                    f" '{shown}', write data.encoding: cp1252 in settings.yml, else the"
                    " encoding that the file was saved in."
                )
    return f"{name} is not a CSV file in UTF-8."


def _open_binary(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)  # type: ignore[return-value]
    if start.startswith(b"BZh"):
        return bz2.open(path)
    if start.startswith(b"\xfd7zXZ"):
        return lzma.open(path)
    if start.startswith(b"PK\x03\x04"):
        archive = zipfile.ZipFile(path)
        inside = [
            name
            for name in archive.namelist()
            if name.lower().endswith((".csv", ".tsv"))
            and Path(name).name[0] not in "._"
        ]
        if len(inside) != 1:
            raise DataError(
                f"{path.name} holds {len(inside)} CSV files, not one: unpack it."
            )
        return archive.open(inside[0])
    return path.open("rb")


@dataclass
class Test:
    """A column read as a type, which it is of if no value is lost, and none is odd."""

    type: pl.DataType
    values: pl.Expr
    all: pl.Expr
    with_words: pl.Expr  # all, and the spellings of missing ones, such as NA
    is_odd: Callable[[pl.Expr], pl.Expr] | None = None

    @property
    def fitting(self) -> pl.Expr:
        """The values that are not odd."""
        if self.is_odd is None:
            return self.values
        return pl.when(~self.is_odd(self.values)).then(self.values)


class CsvFile:
    """How a CSV file is written, and its rows.

    The delimiter is what makes most columns of the header; `skip` lines stand before
    that (`sep=;`); `names` stand for the columns, as libraries take some for patterns.
    """

    def __init__(self, path: Path, name: str, encoding: str) -> None:
        self.path, self.name, self.encoding = path, name, encoding
        with self.open() as file:
            start = file.read(65536)
            if "\0" in start or start.startswith("PAR1"):
                raise UnicodeError
            declared = re.match(r'"?sep=(.)"?\r?\n', start)
            headers: dict[str, list[str]] = {}
            for delimiter in declared[1] if declared else ",;\t|":
                file.seek(0)
                reader = csv.reader(file, delimiter=delimiter)
                if declared:
                    next(reader)
                headers[delimiter] = next(filter(None, reader), [])
        self.skip = int(declared is not None)
        self.delimiter, header = max(headers.items(), key=lambda found: len(found[1]))
        if not header:
            raise DataError(f"{name} is empty.")
        self.header = [column.strip() for column in header]
        self.names = [str(i) for i in range(len(header))]
        for i, column in enumerate(self.header):
            if column and column in self.header[:i]:
                raise DataError(
                    f"{name}: the first line names the column '{column}' twice."
                )

    def open(self) -> IO[str]:
        """The text of the file, unpacked."""
        return io.TextIOWrapper(_open_binary(self.path), self.encoding, newline="")

    def size(self) -> int:
        """The bytes of all rows, each with one for its end; 0 if the values do not add
        up to them, as there are quotes, or the file is packed."""
        size, block = 0, b""
        with _open_binary(self.path) as file:
            if not isinstance(file, io.BufferedReader) or b'"' in file.readline():
                return 0
            for block in iter(partial(file.read, 2**20), b""):
                if b'"' in block:
                    return 0
                returns = block.count(b"\r") if b"\r" in block else 0
                size += len(block) - returns
        return size + bool(block and not block.endswith(b"\n"))

    def scan(self, trust: bool) -> pl.LazyFrame | None:
        """The rows as polars reads them; None if Python's csv module may read others."""
        packed = self.path.name.lower().endswith((".bz2", ".xz", ".zip"))
        if packed or self.skip or self.encoding != "utf-8-sig":
            return None
        with _open_binary(self.path) as file:
            start = file.read(65536)
        if re.search(rb"\r[^\n]", start) or start.lstrip(b"\r\n") != start:
            return None
        frame = pl.scan_csv(
            self.path,
            glob=False,
            separator=self.delimiter,
            new_columns=self.names,
            infer_schema=False,
        )
        try:
            if not trust and self._has_odd_lines():
                return None
        except (pl.exceptions.PolarsError, OSError):
            return None  # the copy says what is wrong
        return frame

    def _has_odd_lines(self) -> bool:
        """Whether a line has other than one value a column, or quotes within a value."""
        lines = pl.scan_csv(
            self.path,
            glob=False,
            separator="\x1f",
            quote_char=None,
            new_columns=["line"],
            infer_schema=False,
        )
        line, mark = pl.col("line"), re.escape(self.delimiter)
        quoted = line.str.contains('"', literal=True).fill_null(False)
        # A quoted value becomes one sign, behind which only a delimiter may stand.
        bare = line.str.replace_all(rf'(^|{mark})"(?:[^"]|"")*"', "${1}\x1f")
        for rows, text, odd in (
            (lines.filter(~quoted), line, "\r"),
            (lines.filter(quoted), bare, rf'["\r]|\x1f[^{mark}]'),
        ):
            columns = text.str.count_matches(self.delimiter, literal=True) + 1
            is_odd = (columns != len(self.names)) | text.str.contains(odd)
            is_odd = is_odd.fill_null(len(self.names) > 1)  # a blank line
            if rows.select(is_odd.any()).collect(engine="streaming").item():
                return True
        return False

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The values of each row, and its line; DataError if one has not its columns.

        Blank lines are no rows, but in a file of one column they are missing values.
        """
        columns = len(self.names)
        with self.open() as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            try:
                for _ in range(self.skip):
                    next(reader)
                next(filter(None, reader), None)
                for values in reader:
                    if columns == 1 and not values:
                        values = [""]
                    if len(values) == columns:
                        yield reader.line_num, values
                    elif len(values) > 1 or "".join(values).strip():
                        raise DataError(
                            f"{self.name}, line {reader.line_num}: {len(values)} values"
                            f" where the first line names {columns} columns."
                        )
            except csv.Error as error:
                raise DataError(
                    f"{self.name}, line {reader.line_num}: {error}."
                ) from None

    def copy(self, copy: Path) -> None:
        """Write the rows as a Parquet file of text."""
        import pyarrow as pa  # which takes as long as polars, and few files need it
        import pyarrow.parquet as pq

        schema = pa.schema([(column, pa.string()) for column in self.names])
        rows = self.rows()
        with pq.ParquetWriter(copy, schema) as writer:
            while batch := [values for _, values in islice(rows, FIRST_ROWS)]:
                columns = [pa.array(values, pa.string()) for values in zip(*batch)]
                writer.write_table(pa.table(columns, schema=schema))


def _csv_source(
    frame: pl.LazyFrame, file: CsvFile, form: Format, roles: Roles, trust: bool
) -> Source:
    """A CSV file's columns by the narrowest type of all values, or of the first rows.

    A key is its text, unless all are plain integers. In a target that is text, words
    such as NA and none are classes.
    """
    tests: list[list[Test]] = []
    bare = {position: pl.col(position).str.strip_chars() for position in file.names}
    if trust:  # all rows are read by many expressions at once, which polars repeats
        frame = frame.with_columns(text.name.suffix(" bare") for text in bare.values())
        bare = {position: pl.col(f"{position} bare") for position in file.names}
    for position, name in zip(file.names, file.header):
        text = pl.col(position)
        if name in roles.ignore:
            tests.append([Test(TEXT, text, text, text)])
        elif name in roles.keys:
            written = pl.when(text != "").then(text)
            is_plain = text.str.contains(r"^(0|-?[1-9][0-9]{0,17})$")
            number = pl.when(is_plain).then(text.cast(pl.Int64, strict=False))
            tests.append([Test(INTEGER, number, written, written)])
            tests[-1].append(Test(TEXT, written, written, written))
        else:
            filled, clean = _filled(bare[position]), _clean(bare[position], form)
            as_text = filled if name == roles.target else clean
            tests.append([])
            for type in (INTEGER, NUMBER, BOOLEAN, DATE, TIMESTAMP):
                tests[-1] += _plain_tests(text, type, form)
                values = _parse(clean, type, form)
                tests[-1].append(Test(type, values, clean, as_text))
            tests[-1].append(Test(TEXT, as_text, as_text, filled))

    # The first rows rule most types out, so that one or two are tried on the whole file.
    head = frame.head(FIRST_ROWS).collect(engine="streaming").lazy()
    for rows in (head.head(100), head):
        flat = [e for column in tests for t in column for e in (t.fitting, t.all)]
        counts = iter(_count(rows, flat))
        tests = [[t for t in c if next(counts) == next(counts)] for c in tests]
    settled: dict[int, Column] = {}
    while open_ := [i for i in range(len(tests)) if i not in settled]:
        first = [tests[i][0] for i in open_]
        flat = [e for t in first for e in (t.fitting, t.all, t.with_words)]
        counts = iter(_count(head if trust else frame, flat))
        for i, test in zip(open_, first):
            count, every, with_words = next(counts), next(counts), next(counts)
            if count == every:
                found, text = test.type if count else None, bare[file.names[i]]
                settled[i] = Column(found, test.fitting, text, with_words - count)
            else:
                tests[i].pop(0)
    columns = {name or f"\0{i}": settled[i] for i, name in enumerate(file.header)}
    source = Source(file.name, frame, columns)
    if trust:
        _expect(source, [column[0] for column in tests])
    return source


def _plain_tests(text: pl.Expr, type: pl.DataType, form: Format) -> list[Test]:
    """Faster tests of text as it stands, which holds neither blanks nor words."""
    if form.missing:
        return []
    if type in (INTEGER, NUMBER):
        if form.decimal != "." or form.thousands:
            return []
        values = text.cast(type, strict=False)
        return [Test(type, values, text, text, partial(_is_odd, text))]
    if type == TIMESTAMP:
        to_time = partial(text.str.to_datetime, time_unit="us", strict=False)
        return [Test(type, to_time(f, cache=False), text, text) for f in ISO_TIMES]
    return [Test(type, _parse(text, type, form), text, text)]


def _is_odd(text: pl.Expr, number: pl.Expr) -> pl.Expr:
    """Whether a number may be a code, is huge or NaN, or has a plus.

    By the order of text, where : is behind 9, and + before -: faster than by patterns.
    """
    code = text.is_between(pl.lit("00"), pl.lit("0:"))
    minus_code = text.is_between(pl.lit("-00"), pl.lit("-0:"))
    is_usual = number.is_between(-(10**18), 10**18, closed="none")
    return (text < "-") | code | minus_code | ~is_usual


def _expect(source: Source, tests: list[Test]) -> None:
    """Have the columns found in the first rows checked in all rows."""
    staged: dict[str, pl.Expr] = {}
    misfits = [source.misfit]
    for column, test in zip(source.columns.values(), tests):
        name = f"{len(staged)} values"
        staged[name], column.values = test.values, pl.col(name)
        is_null = column.values.is_null()
        if column.type is None:  # nor a word, if there is none in the first rows
            none = test.all if column.words else test.with_words
            misfits.append(none.is_not_null())
        elif test.all is not test.values:
            misfits.append(is_null & test.all.is_not_null())
        if test.is_odd is not None:
            misfits.append(test.is_odd(column.values))
        if test.with_words is not test.all:
            column.is_word = is_null & test.with_words.is_not_null()
    source.frame = source.frame.with_columns(**staged)
    source.misfit = pl.any_horizontal(misfits)


def _leave_out_nameless(source: Source, header: list[str]) -> None:
    """Columns without a name: pandas' index, which comes first, or one of no value."""
    for i, column in enumerate(header):
        if column:
            continue
        empty = source.columns.pop(f"\0{i}").type is None
        if i and not empty:
            raise DataError(
                f"{source.name}: column {i + 1} has no name in the first line."
            )
        if not empty:
            source.notes.append(
                f"the first column of {source.name} has no name, as pandas writes an"
                " index, and is left out: name it in the first line if it is data."
            )


def _note_doubts(source: Source, file: CsvFile, form: Format, roles: Roles) -> None:
    """Say which columns are text, though most of their values would be another type."""
    exempt = {*roles.keys, *roles.ignore}
    texts = {
        name: _clean(column.text, form)
        for name, column in source.columns.items()
        if column.type == TEXT and column.text is not None and name not in exempt
    }
    columns = [text.alias(str(i)) for i, text in enumerate(texts.values())]
    head = source.frame.head(FIRST_ROWS).select(columns).collect(engine="streaming")
    for sample, (name, text) in zip(head, texts.items()):
        filled = source.frame.select(text=text).with_row_index("row").drop_nulls()
        values = sample.drop_nulls().head(1000).to_frame("text")
        if not len(values):
            values = filled.head(1000).collect(engine="streaming")
        like = values["text"].str.contains(r"(?i)\d|^(true|false)$").sum()
        if like * 2 < len(values):
            continue
        codes = values["text"].str.contains(r"^[+-]?(0[0-9]+|[0-9]{19,})$").sum()
        others = dict.fromkeys([form, *_others(form, values)])
        fitting = [_is_quantity(pl.col("text"), other).sum() for other in others]
        counts = values.select(f.alias(str(i)) for i, f in enumerate(fitting)).row(0)
        fits = dict(zip(others, counts))
        most = max(fits.values())
        if codes * 20 > len(values) or most * 2 < len(values) or not most:
            continue
        odd = filled.filter(~_is_quantity(pl.col("text"), form))
        count = odd.select(pl.len()).collect(engine="streaming").item()
        if not count:
            continue  # numbers and dates beside each other: none of them is the odd one
        (of,) = _count(source.frame, [source.columns[name].values])
        row, value = odd.head(1).collect(engine="streaming").row(0)
        line, _ = next(islice(file.rows(), row, None), (row, []))
        where = f"'{value[:40]}' in line {line} of {source.name}"
        if fits[form] == most:
            source.notes.append(
                f"column '{name}' is text because of {count} of {of} values:"
                f" {where}: correct it, or write it in data.missing in settings.yml."
            )
        else:
            advice = [_advice(form, o) for o, count in fits.items() if count == most]
            few = min(len(settings) for settings in advice)
            settings = " or ".join(
                dict.fromkeys(" and ".join(a) for a in advice if len(a) == few)
            )
            source.notes.append(
                f"column '{name}' is text, though most of it may be numbers or dates"
                f" ({where}): if so, write {settings} in settings.yml."
            )


def _is_quantity(text: pl.Expr, form: Format) -> pl.Expr:
    """Whether text is of a type that is narrower than text."""
    types = (NUMBER, BOOLEAN, DATE, TIMESTAMP)
    return pl.any_horizontal(_parse(text, type, form).is_not_null() for type in types)


def _others(form: Format, values: pl.DataFrame) -> Iterator[Format]:
    """Other formats that the values could be in."""
    if not values.height:
        return
    for decimal, thousands in zip(",.,.,.", ("", ",", ".", " ", " ", "'")):
        yield replace(form, decimal=decimal, thousands=thousands)
    for pattern in (r"^[+-]?(\p{Sc})\s?\d", r"\d\s*(\p{Sc}|[%‰°]|[[:alpha:]]{2,4})$"):
        units = values.select(pl.col("text").str.extract(pattern)).drop_nulls()
        if units.height:
            unit = (units.item(0, 0),)
            yield replace(form, units=unit)
            yield replace(form, units=unit, decimal=",")
            yield replace(form, units=unit, thousands=",")
            yield replace(form, units=unit, decimal=",", thousands=".")
    years = values["text"].str.contains(r"\d{4}").any()
    for date_format in (*DATE_FORMATS, *TIME_FORMATS):
        written = date_format if years else date_format.replace("%Y", "%y")
        yield replace(form, date_format=written)


def _advice(form: Format, other: Format) -> list[str]:
    """The settings that make one format of another."""
    return [
        f"data.{key}: {list(value) if isinstance(value, tuple) else repr(value)}"
        for key, value in vars(other).items()
        if value != getattr(form, key)
    ]


def open_all(
    raw: Path,
    scratch: Path,
    form: Format = USUAL,
    roles: Roles = Roles(),
    trusted: Container[str] | None = None,
) -> list[Source]:
    """All files of a folder; `year=2026` in a path is a column of its files.

    The first rows of the trusted files tell their types; of all files, if None is given.
    """
    files = find_files(raw)
    names = [p.relative_to(raw).as_posix() if p != raw else p.name for p in files]
    sources = [
        open_source(
            path, name, scratch, form, roles, trusted is None or name in trusted
        )
        for path, name in zip(files, names)
    ]
    partitions = [
        dict(part.split("=", 1) for part in Path(name).parts[:-1] if "=" in part)
        for name in names
    ]
    for column in dict.fromkeys(key for found in partitions for key in found):
        texts = {unquote(found[column]) for found in partitions if column in found}
        texts.discard("__HIVE_DEFAULT_PARTITION__")
        whole = all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) for text in texts)
        type = INTEGER if whole else TEXT
        for source, found in zip(sources, partitions):
            if column in source.columns and column in found:
                source.notes.append(
                    f"the column '{column}' of {source.name} is taken from the file, not"
                    f" from its folder '{column}={found[column]}'."
                )
            elif column in found and (text := unquote(found[column])) in texts:
                values = pl.lit(int(text) if whole else text)
                source.columns[column] = Column(type, values)
            elif column in found:
                source.columns[column] = Column(None, pl.lit(None))
    unread = [p for p in walk(raw) if p not in files] if raw.is_dir() else []
    if unread:
        listed = ", ".join(p.relative_to(raw).as_posix() for p in unread[:5])
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        sources[0].notes.append(
            f"not read, as only CSV and Parquet files are: {listed}{more}."
        )
    return sources


def unify(sources: list[Source], roles: Roles) -> dict[str, pl.DataType]:
    """The columns to keep, with the type that holds each of them in every file.

    A file may lack a feature, which then counts as missing, but neither target nor key.
    In training, which has a target, `ignore` must name columns that there are.
    """
    target, keys, ignore = roles.target, roles.keys, roles.ignore
    kept = list(dict.fromkeys(name for source in sources for name in source.columns))
    parts = dict.fromkeys(keys, "key") | ({target: "target"} if target else {})
    for source in sources:
        for name, role in parts.items():
            if name not in source.columns:
                raise DataError(
                    f"{source.name} has no column '{name}', the {role} by settings.yml;"
                    f" it has {', '.join(source.columns)}{_nearest(name, kept)}."
                )
    for name in ignore if target else []:
        if name not in kept:
            raise DataError(
                f"No file has a column '{name}', which data.ignore in settings.yml"
                f" names{_nearest(name, kept)}."
            )
    same: dict[str, list[str]] = {}
    for name in kept:
        folded = unicodedata.normalize("NFKC", name).casefold().strip()
        same.setdefault(folded, []).append(name)
    for names in same.values():
        if len(names) > 1 and not set(names) <= set(ignore):
            sources[0].notes.append(
                f"the columns {' and '.join(map(repr, names))} differ only by case or"
                " Unicode form: they stay apart; rename one if they are the same."
            )
    types = {}
    for name in kept:
        if name not in ignore:
            type = _common_type(sources, name, roles)
            if type is not None:
                types[name] = type
    return types


def note_words(
    sources: list[Source], types: dict[str, pl.DataType], roles: Roles
) -> None:
    """Say where words such as NA are read as missing in CSV, or are values."""
    for name, is_csv in product(types, (True, False)):
        if name in roles.keys or (name == roles.target and types[name] == TEXT):
            continue
        having = [
            (source, column)
            for source in sources
            if (column := source.columns.get(name))
            and column.words
            and (column.text is not None) == is_csv
        ]
        if not having:
            continue
        source, column = having[0]
        text = column.values if column.text is None else _filled(column.text)
        lost = column.values.is_null() | text.is_in(MISSING)
        words = source.frame.select(text=text, lost=lost).drop_nulls("text")
        word = words.filter("lost").head(1).collect(engine="streaming").item(0, 0)
        count = sum(column.words for _, column in having)
        others = len(having) - 1
        more = f" and {others} more file{'s' * (others > 1)}" if others else ""
        means = "is read as a missing value"
        if not is_csv:
            means = "is a value of its own, as Parquet has missing values apart"
        source.notes.append(
            f"'{word}' in the column '{name}' of {source.name}{more} {means}"
            f" ({count} {'rows' if count > 1 else 'row'} with such words)."
        )


def _nearest(name: str, names: list[str]) -> str:
    folded = {other.casefold(): other for other in names}
    close = difflib.get_close_matches(name.casefold(), folded, 1)
    return f": did you mean '{folded[close[0]]}'?" if close else ""


def _common_type(sources: list[Source], name: str, roles: Roles) -> pl.DataType | None:
    """The type that holds a column in every file; None for a feature of no use."""
    is_key, is_target = name in roles.keys, name == roles.target
    files: dict[pl.DataType, Source] = {}  # the first file of each type
    for source in sources:
        if (column := source.columns.get(name)) and column.type is not None:
            files.setdefault(column.type, source)
    if is_target and set(files) <= {TEXT}:
        # Words such as none are classes, in a file that holds no other too.
        for source in sources:
            column = source.columns[name]
            if column.type is None and column.words and column.text is not None:
                column.type, column.values = TEXT, _filled(column.text)
                files.setdefault(TEXT, source)
    for type, source in files.items():
        no_key = type.is_nested() or type == pl.Duration
        if no_key if is_key else type not in NAMES:
            if is_key or is_target:
                raise DataError(
                    f"{source.name}: the column '{name}' is of type {type}, which is"
                    " neither a number nor a date nor text: convert it."
                )
            source.notes.append(
                f"the column '{name}' in {source.name} is of type {type}, which no"
                " feature can be made of, and is left out."
            )
            return None
    if len(files) < 2:
        return next(iter(files), TEXT)
    if is_key:
        if set(files) == {INTEGER, NUMBER} and _all(sources, name, NUMBER, _is_whole):
            return INTEGER
        if not any(type.is_float() or type == pl.Binary for type in files):
            return TEXT
    elif set(files) == {INTEGER, NUMBER}:
        return NUMBER
    elif set(files) == {DATE, TIMESTAMP}:
        return TIMESTAMP
    elif set(files) <= {BOOLEAN, INTEGER, NUMBER} and all(
        _all(sources, name, type, _is_bit) for type in (INTEGER, NUMBER)
    ):
        return INTEGER
    places = " and ".join(f"{name_of(t)} in {s.name}" for t, s in files.items())
    said = [note for source in sources for note in source.notes if f"'{name}'" in note]
    raise DataError(
        f"The column '{name}' changes its type: {places}. Make it one type"
        + (", or list it under data.ignore in settings.yml." if not is_key else ".")
        + "".join(f" In detail: {note}" for note in said[:1])
    )


def _is_whole(values: pl.Expr) -> pl.Expr:
    return (values == values.round()) & (values.abs() <= EXACT)


def _is_bit(values: pl.Expr) -> pl.Expr:
    return (values == 0) | (values == 1)


def _all(
    sources: list[Source],
    name: str,
    type: pl.DataType,
    test: Callable[[pl.Expr], pl.Expr],
) -> bool:
    """Whether a test holds for all values of a column in the files of a type."""
    for source in sources:
        column = source.columns.get(name)
        if column and column.type == type:
            passed = source.frame.select(test(column.values).all())
            if not passed.collect(engine="streaming").item():
                return False
    return True


def unite(sources: list[Source], types: dict[str, pl.DataType]) -> pl.LazyFrame:
    """All rows of all files, in order: the columns of `types`, and those for `tally`.

    The text of CSV is parsed once for all that is made of it. Parquet is not kept for the
    slowest of its readers, which would take memory: each reads what it needs.
    """
    lacking, no = Column(None, pl.lit(None)), pl.lit(False)
    columns = [[s.columns.get(name, lacking) for name in types] for s in sources]
    worded = [any(c.is_word is not None for c in column) for column in zip(*columns)]
    frames = []
    for i, source in enumerate(sources):
        size = pl.lit(0) if source.bytes is None else source.bytes
        seen = [pl.lit(i).alias(FILE), source.misfit.alias(MISFIT)]
        seen.append(size.cast(pl.Int64).alias(BYTES))
        for (name, type), column, has_words in zip(types.items(), columns[i], worded):
            values = column.values if column.type is not None else lacking.values
            seen.append(values.cast(type).alias(name))
            if has_words:
                is_word = no if column.is_word is None else column.is_word
                seen.append(is_word.alias(WORDS + name))
        frame = source.frame.select(seen)
        is_csv = any(column.text is not None for column in source.columns.values())
        frames.append(frame.cache() if is_csv else frame)
    return pl.concat(frames)


def tally(rows: pl.LazyFrame, several: bool, *figures: pl.Expr) -> pl.LazyFrame:
    """Of each file in `unite`d rows: their number, sums for `held`, further figures."""
    sums = (cs.by_name(MISFIT, BYTES) | cs.starts_with(WORDS)).sum()
    figures = (pl.len().alias("rows"), sums, *figures)
    if several:
        return rows.group_by(FILE).agg(figures)
    return rows.select(pl.first(FILE), *figures)


def held(sources: list[Source], tallied: pl.DataFrame) -> set[str]:
    """The files whose rows all were as their first rows; counts the words in all files."""
    found = {row[FILE]: row for row in tallied.to_dicts()}
    names = set()
    for i, source in enumerate(sources):
        row = found.get(i, {MISFIT: 0, BYTES: 0})
        if not row[MISFIT] and row[BYTES] == source.size:
            names.add(source.name)
        for name, column in source.columns.items():
            if column.is_word is not None:
                column.words = row.get(WORDS + name, 0)
    return names
