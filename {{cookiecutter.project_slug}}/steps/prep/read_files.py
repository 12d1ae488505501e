"""Opening the raw CSV and Parquet files: their columns, and the types of these."""

from __future__ import annotations

import errno
import lzma
import uuid
import zipfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
from advice import note_doubtful_text, note_layout, note_readings
from csv_dialect import (
    CsvFile,
    check_encoding,
    detect_dialect,
    detect_unicode,
    explain_undecodable,
)
from file_content import check_content, check_line_lengths
from find_files import PARQUET_ENDINGS, find_files
from parquet_files import open_parquet
from partitions import add_partition_columns
from read_by_schema import find_csv_misfits, fit_parquet_columns
from small_files import (
    MANY_FILES,
    SmallFile,
    divide_into_batches,
    is_small,
    open_batch,
)
from sources import (
    NO_ROLES,
    ColumnRoles,
    DataError,
    Source,
    find_system_error,
    show_text,
)
from text_values import USUAL_FORMAT, TextFormat
from type_inference import infer_csv_columns, nameless

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
    found = find_files(raw)
    names = {path: name_file(path, raw) for path in found.tables}
    sources = open_small_files(names, scratch, text_format, roles)
    for path, name in names.items():
        if path not in sources:
            sources[path] = open_file(
                path,
                name,
                scratch,
                text_format,
                roles,
                trust_first_rows=trusted is None or name in trusted,
            )
    in_order = [sources[path] for path in found.tables]
    add_partition_columns(in_order, text_format, roles)
    in_order[0].notes.extend(found.list_notes(raw))
    return in_order


def name_file(path: Path, raw: Path) -> str:
    """Return the name of a file in messages: its path below the folder of the raw data."""
    return show_text(path.name if path == raw else path.relative_to(raw).as_posix())


def open_small_files(
    names: dict[Path, str], scratch: Path, text_format: TextFormat, roles: ColumnRoles
) -> dict[Path, Source]:
    """Open the small CSV files among many, by their paths; return nothing if few are.

    Raises DataError if one cannot be read as a table, or the folder `scratch` is full.
    """
    try:
        paths = [path for path in names if not _is_parquet(path) and is_small(path)]
    except OSError:
        # The file that cannot be read is named when it is opened on its own.
        return {}
    if len(paths) < MANY_FILES:
        return {}
    small_files = (read_small_file(path, names[path], text_format) for path in paths)
    sources: list[Source] = []
    for batch in divide_into_batches(small_files):
        with explain_full_disk("The text of small files", scratch):
            opened = open_batch(batch, scratch, text_format, roles)
        for source, small in zip(opened, batch.files, strict=True):
            _look_through_columns(source, small.file, text_format, roles)
        sources += opened
    return dict(zip(paths, sources, strict=True))


def read_small_file(path: Path, name: str, text_format: TextFormat) -> SmallFile:
    """Return a CSV file with all of its rows. Raises DataError if it is no table."""
    with explain_damage(name):
        check_content(path, name)
        for file in detect_files(path, name, text_format):
            try:
                return SmallFile(file, [values for _, values in file.rows()])
            except UnicodeError:
                continue
    raise DataError(explain_undecodable(path, name))


@contextmanager
def explain_damage(name: str) -> Iterator[None]:
    """Turn errors of the system and of packed files into a DataError with the file."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, OSError, zipfile.BadZipFile) as error:
        if reason := find_system_error(error):
            raise DataError(f"{name} cannot be read: {reason}.") from None
        raise DataError(f"{name} is cut short or damaged: {error}.") from None


@contextmanager
def explain_full_disk(what: str, scratch: Path) -> Iterator[None]:
    """Turn the error of a full temporary folder into a DataError."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = find_system_error(error)
        # Errors of polars have their reason in their text, and no number.
        number = error.errno if isinstance(error, OSError) else None
        if reason is None or number not in {None, *NO_SPACE}:
            raise
        raise DataError(
            f"{what} cannot be copied into the temporary folder {scratch}: {reason}."
            " Make room there, or set TMPDIR to another folder."
        ) from None


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
    with explain_damage(name):
        check_content(path, name)
        if _is_parquet(path):
            source = open_parquet(path, name, text_format, roles)
            fit_parquet_columns(source, text_format, roles)
            return source
        check_line_lengths(path, name)
        return _open_csv(
            path, name, scratch, text_format, roles, trust_first_rows=trust_first_rows
        )


def _is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet by its name."""
    return path.name.lower().endswith(PARQUET_ENDINGS)


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
    for file in detect_files(path, name, text_format):
        try:
            source = _open_csv_rows(
                file, scratch, text_format, roles, trust_first_rows=trust_first_rows
            )
            _look_through_columns(source, file, text_format, roles)
            return source
        except UnicodeError:
            continue
    raise DataError(explain_undecodable(path, name))


def detect_files(path: Path, name: str, text_format: TextFormat) -> Iterator[CsvFile]:
    """Yield how a CSV file is written, for each encoding that it may have.

    They are Unicode and that of settings.yml. Raises DataError if it is not known, or if
    the file has no header.
    """
    encodings = [detect_unicode(path)]
    if text_format.encoding:
        encodings.append(text_format.encoding)
    for encoding in encodings:
        check_encoding(encoding)
        with suppress(UnicodeError):
            yield detect_dialect(path, name, encoding, text_format)


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
    """Return the rows of a CSV file from a copy in Parquet in the folder `scratch`.

    Raises DataError if the folder has no room for it.
    """
    copy = scratch / f"{uuid.uuid4().hex}.parquet"
    with explain_full_disk(file.name, scratch):
        file.copy_to_parquet(copy)
    return pl.scan_parquet(copy, glob=False)


def _look_through_columns(
    source: Source, file: CsvFile, text_format: TextFormat, roles: ColumnRoles
) -> None:
    """Leave out columns without a name, and add notes, or misfits of a model's schema.

    Raises DataError if a column of training data has values but no name.
    """
    _drop_nameless_columns(source, file.header, roles)
    if roles.schema is None:
        note_doubtful_text(source, file, text_format, roles)
        note_readings(source, text_format, roles)
        note_layout(source, file)
    else:
        find_csv_misfits(source, file, text_format, roles)


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
