"""Finding and opening the raw CSV and Parquet files, one by one."""

from __future__ import annotations

import errno
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from urllib.parse import unquote

import polars as pl
from advice import note_doubtful_text, note_layout, note_readings
from csv_dialect import (
    CsvFile,
    check_encoding,
    detect_dialect,
    detect_unicode,
    explain_undecodable,
)
from read_by_schema import find_csv_misfits, fit_parquet_columns
from sources import (
    INTEGER,
    NO_ROLES,
    TEXT,
    Column,
    ColumnRoles,
    DataError,
    Source,
    find_system_error,
)
from text_values import USUAL_FORMAT, TextFormat
from type_inference import infer_csv_columns, infer_parquet_columns, nameless

PARQUET_ENDINGS = (".parquet", ".pq")
CSV_ENDINGS = tuple(
    text + packed for text in (".csv", ".tsv") for packed in ("", ".gz", ".bz2", ".xz")
) + (".zip",)
ENDINGS = CSV_ENDINGS + PARQUET_ENDINGS
LISTED_FILES = 5  # that are not read, in a note
# How Hive writes a folder for a missing value.
MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def find_files(raw: Path) -> list[Path]:
    """Return the CSV and Parquet files below a folder, sorted by path, or the one file.

    Raises DataError if there is no such file, or a folder cannot be read.
    """
    status = _stat(raw)
    if status is None:
        raise DataError(f"There is no data at {raw}: {_suggest_path(raw)}.")
    files = walk(raw) if stat.S_ISDIR(status.st_mode) else [raw]
    files = [path for path in files if _is_table(path)]
    if not files:
        raise DataError(f"{raw} holds no file that ends in {', '.join(ENDINGS)}.")
    return files


def _is_table(path: Path) -> bool:
    """Return whether a file is CSV or Parquet by its name."""
    return path.name.lower().endswith(ENDINGS)


def _suggest_path(raw: Path) -> str:
    """Return what to write in settings.yml in place of a path at which nothing is."""
    if "*" in raw.name:
        return "write the folder alone: all of its files are read"
    if re.match(r"[a-z]+:/", str(raw)):
        return "download it, and write the path of what you have"
    if "~" in raw.parts:
        return "write the whole path in place of ~"
    return "write the path of a folder or file"


def walk(folder: Path) -> list[Path]:
    """Return all files below a folder, also behind links, but no hidden ones.

    A folder or file to which several links lead is visited once. Raises DataError if a
    folder cannot be read, or a link leads to itself.
    """
    return sorted(_walk(folder, folder.resolve(), set()))


def _walk(folder: Path, root: Path, visited: set[Path]) -> Iterator[Path]:
    """Yield the files below a folder that are not visited yet, and add them."""
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from None
    for path in paths:
        is_hidden = path.name[0] in "._"
        status = None if is_hidden else _stat(path)
        if status is None:
            continue
        target = path.resolve()
        # What a link inside the folder leads to is found at its own place.
        leads_inside = path.is_symlink() and target.is_relative_to(root)
        if leads_inside or target in visited:
            continue
        visited.add(target)
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path, root, visited)
        elif stat.S_ISREG(status.st_mode):
            yield path


def _stat(path: Path) -> os.stat_result | None:
    """Return the status of what is at a path, or None if nothing is.

    Raises DataError if the system does not tell, as for a link that leads to itself.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path | str, error: OSError) -> DataError:
    """Return an error that names a path and why the system does not let it be read."""
    return DataError(f"{path} cannot be read: {find_system_error(error)}.")


def open_files(
    raw: Path,
    scratch: Path,
    text_format: TextFormat,
    roles: ColumnRoles,
    trusted: Container[str] | None = None,
) -> list[Source]:
    """Open all files of a folder; `year=2026` in a path is a column of its files.

    The types of the `trusted` files are guessed from their first rows, and those of all
    files if it is None. Raises DataError if a file cannot be read as a table.
    """
    files = find_files(raw)
    sources = []
    for path in files:
        name = path.name if path == raw else path.relative_to(raw).as_posix()
        trust_first_rows = trusted is None or name in trusted
        sources.append(
            open_file(
                path,
                name,
                scratch,
                text_format,
                roles,
                trust_first_rows=trust_first_rows,
            )
        )
    _add_partition_columns(sources)
    if raw.is_dir():
        unread = [path.relative_to(raw).as_posix() for path in walk(raw)]
        unread = [name for name in unread if not _is_table(Path(name))]
        _note_unread_files(sources[0], unread)
    return sources


def open_file(
    path: Path,
    name: str,
    scratch: Path,
    text_format: TextFormat = USUAL_FORMAT,
    roles: ColumnRoles = NO_ROLES,
    *,
    trust_first_rows: bool = False,
) -> Source:
    """Find the columns of a file and their types, and call it `name` in messages.

    Writes a copy into the folder `scratch` if polars cannot read the file itself. Raises
    DataError if the file cannot be read as a table.
    """
    try:
        _check_start(path, name)
        if path.name.lower().endswith(PARQUET_ENDINGS):
            return _open_parquet(path, name, text_format, roles)
        return _open_csv(
            path, name, scratch, text_format, roles, trust_first_rows=trust_first_rows
        )
    except (EOFError, zlib.error, lzma.LZMAError, OSError, zipfile.BadZipFile) as error:
        if reason := find_system_error(error):
            raise DataError(f"{name} cannot be read: {reason}.") from None
        raise DataError(f"{name} is cut short or damaged: {error}.") from None


def _check_start(path: Path, name: str) -> None:
    """Raise DataError if a file is empty, or plainly something else than a table."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise DataError(f"{name} is empty.")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{name} is a pointer of Git LFS: fetch it by `git lfs pull`.")
    if re.match(rb"\s*<(!doctype|html)", start, re.IGNORECASE):
        raise DataError(f"{name} is a web page, not a table: download the file itself.")


def _open_parquet(
    path: Path, name: str, text_format: TextFormat, roles: ColumnRoles
) -> Source:
    """Open a Parquet file. Raises DataError if it has no columns or is damaged."""
    try:
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        columns = infer_parquet_columns(frame, roles)
    except (pl.exceptions.PolarsError, OSError) as error:
        if reason := find_system_error(error):
            raise DataError(f"{name} cannot be read: {reason}.") from None
        raise DataError(
            f"{name} is not a whole Parquet file, though its name says so."
        ) from None
    if not columns:
        raise DataError(f"{name} has no columns.")
    source = Source(name, frame, columns)
    fit_parquet_columns(source, text_format, roles)
    return source


def _open_csv(
    path: Path,
    name: str,
    scratch: Path,
    text_format: TextFormat,
    roles: ColumnRoles,
    *,
    trust_first_rows: bool,
) -> Source:
    """Open a CSV file in Unicode or in the encoding of settings.yml.

    Raises DataError if it is in neither, or has broken lines.
    """
    encodings = [detect_unicode(path)]
    if text_format.encoding:
        encodings.append(text_format.encoding)
    for encoding in encodings:
        check_encoding(encoding)
        try:
            file = detect_dialect(path, name, encoding, text_format)
            source = _open_csv_rows(
                file, scratch, text_format, roles, trust_first_rows=trust_first_rows
            )
            _drop_nameless_columns(source, file.header, roles)
            if roles.schema is None:
                note_doubtful_text(source, file, text_format, roles)
                note_readings(source, text_format, roles)
                note_layout(source, file)
            else:
                find_csv_misfits(source, file, text_format, roles)
            return source
        except UnicodeError:
            continue
    raise DataError(explain_undecodable(path, name))


def _open_csv_rows(
    file: CsvFile,
    scratch: Path,
    text_format: TextFormat,
    roles: ColumnRoles,
    *,
    trust_first_rows: bool,
) -> Source:
    """Open a CSV file by polars itself, or by a copy if it may read some line wrongly.

    If the first rows are trusted, the lines are not looked through: that each row adds up
    to its bytes is verified while all rows are written.
    """
    row_bytes = file.count_row_bytes() if trust_first_rows else 0
    if _can_be_scanned(file, lines_are_verified_later=row_bytes > 0):
        frame = file.scan()
    else:
        frame = _copy_rows(file, scratch)
        row_bytes = 0
        trust_first_rows = False
    source = infer_csv_columns(
        frame, file, text_format, roles, trust_first_rows=trust_first_rows
    )
    if row_bytes:
        lengths = [pl.col(position).str.len_bytes() for position in file.positions]
        # A delimiter between two values, and a line end.
        separators = pl.lit(len(file.positions), pl.UInt32)
        source.row_bytes = pl.sum_horizontal(*lengths, separators)
        source.expected_bytes = row_bytes
    return source


def _can_be_scanned(file: CsvFile, *, lines_are_verified_later: bool) -> bool:
    """Return whether polars reads the same rows as Python's csv module."""
    if not file.is_plain():
        return False
    if lines_are_verified_later:
        return True
    try:
        return not file.has_odd_lines()
    except (pl.exceptions.PolarsError, OSError):
        # Python's csv module says what is wrong, and in which line.
        return False


def _copy_rows(file: CsvFile, scratch: Path) -> pl.LazyFrame:
    """Return the rows of a CSV file from a copy in Parquet, under the next free name.

    Raises DataError if the temporary folder has no room for it.
    """
    copies = len(list(scratch.iterdir()))
    copy = scratch / f"{copies:05}.parquet"
    try:
        file.copy_to_parquet(copy)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DataError(
                f"{file.name} cannot be copied into the temporary folder {scratch}:"
                f" {find_system_error(error)}. Make room there, or set TMPDIR to another"
                " folder."
            ) from None
        raise
    return pl.scan_parquet(copy, glob=False)


def _drop_nameless_columns(
    source: Source, header: list[str], roles: ColumnRoles
) -> None:
    """Leave out columns without a name: the index of pandas, or one without a value.

    Raises DataError if another column of training data has values but no name.
    """
    for position, name in enumerate(header):
        if name:
            continue
        column = source.columns.pop(nameless(position))
        if column.type is None or roles.schema is not None:
            continue
        if position > 0:
            raise DataError(
                f"{source.name}: column {position + 1} has no name in the first line: write"
                " one, or skip a title above the names by data.skip_lines in settings.yml."
            )
        source.notes.append(
            f"the first column of {source.name} has no name, as pandas writes an index,"
            " and is left out: name it in the first line if it is data."
        )


def _add_partition_columns(sources: list[Source]) -> None:
    """Add the columns that folders such as `year=2026` give to the files below them."""
    partitions = [_read_partitions(source.name) for source in sources]
    names = dict.fromkeys(name for values in partitions for name in values)
    for name in names:
        texts = {unquote(values[name]) for values in partitions if name in values}
        texts.discard(MISSING_PARTITION)
        is_integer = all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) for text in texts)
        for source, values in zip(sources, partitions):
            if name not in values:
                continue
            text = unquote(values[name])
            if name in source.columns:
                source.notes.append(
                    f"the column '{name}' of {source.name} is taken from the file, not"
                    f" from its folder '{name}={values[name]}'."
                )
            elif text == MISSING_PARTITION:
                source.columns[name] = Column(None, pl.lit(None))
            elif is_integer:
                source.columns[name] = Column(INTEGER, pl.lit(int(text)))
            else:
                source.columns[name] = Column(TEXT, pl.lit(text))


def _read_partitions(name: str) -> dict[str, str]:
    """Return the value of each column that the folders of a path name, as it is quoted."""
    partitions = {}
    for folder in Path(name).parts[:-1]:
        column, equals, text = folder.partition("=")
        if equals:
            partitions[column] = text
    return partitions


def _note_unread_files(source: Source, unread: list[str]) -> None:
    """Add a note on files that are neither CSV nor Parquet, if there are any."""
    if not unread:
        return
    listed = ", ".join(unread[:LISTED_FILES])
    if len(unread) > LISTED_FILES:
        listed += f" and {len(unread) - LISTED_FILES} more"
    source.notes.append(f"not read, as only CSV and Parquet files are: {listed}.")
