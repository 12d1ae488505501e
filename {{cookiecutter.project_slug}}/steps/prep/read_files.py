"""Open the raw CSV and Parquet files, and find the types of their columns."""

from __future__ import annotations

import errno
import lzma
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from csv_dialect import detect_dialect, resolve_repeated_names
from csv_file import CsvFile
from file_content import check_content, check_line_lengths
from find_files import PARQUET_ENDINGS, find_files
from infer_types import create_placeholder_name, infer_csv_source
from layout_notes import note_layout
from messages import find_system_error, show_text
from parquet_files import open_parquet
from partitions import add_partition_columns
from read_by_schema import convert_parquet_columns, reject_unreadable_text
from read_options import USUAL_OPTIONS, ReadOptions
from small_files import MANY_FILES, SmallFile, divide_into_batches, is_small, open_batch
from sources import ColumnRoles, DataError, Note, Source
from text_encoding import check_encoding, detect_unicode, explain_undecodable
from text_notes import note_doubtful_columns

# A column that many small files have is examined for notes in this many of them.
MAX_NOTED_FILES = 20
# The numbers of errors that mean that a disk is full.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class OpenedFiles:
    """The raw files of a folder, and notes on the files that are not read."""

    sources: list[Source]
    notes: list[Note]


def open_files(
    raw: Path,
    scratch: Path,
    options: ReadOptions,
    trusted: Container[str] | None = None,
) -> OpenedFiles:
    """Open all raw files of a folder, sorted by their paths.

    A folder such as `year=2026` in the path of a file adds a column `year` to this file.
    `trusted` holds the names of the files whose types may be guessed from their first
    rows. None means all files. In the other files, all rows are read to find the types.
    Raises DataError if a file cannot be read as a table.
    """
    raw_files = find_files(raw)
    names = {path: name_file(path, raw) for path in raw_files.tables}

    # Small files are opened together, which is faster. All others are opened one by one.
    sources = open_small_files(names, scratch, options)
    for path, name in names.items():
        if path in sources:
            continue
        is_trusted = trusted is None or name in trusted
        sources[path] = open_file(
            path, name, scratch, options, trust_first_rows=is_trusted
        )

    ordered_sources = [sources[path] for path in raw_files.tables]
    add_partition_columns(ordered_sources, options)
    return OpenedFiles(ordered_sources, raw_files.list_notes(raw))


def name_file(path: Path, raw: Path) -> str:
    """Return the name of a file in messages: its path below the folder of the raw data."""
    if path == raw:
        return show_text(path.name)
    return show_text(path.relative_to(raw).as_posix())


def open_small_files(
    names: dict[Path, str], scratch: Path, options: ReadOptions
) -> dict[Path, Source]:
    """Open the small CSV files together, and return them by their paths.

    `names` has the name in messages of each raw file, by its path. The result is empty if
    there are fewer than MANY_FILES small files, because opening them together is not
    faster then. Raises DataError if a small file cannot be read as a table, or if the
    folder `scratch` is full.
    """
    try:
        paths = [path for path in names if not _is_parquet(path) and is_small(path)]
    except OSError:
        # A file cannot be read. `open_file` raises an error with its name.
        return {}
    if len(paths) < MANY_FILES:
        return {}

    small_files = (read_small_file(path, names[path], options) for path in paths)
    sources: list[Source] = []
    noted_files: Counter[tuple[str, pl.DataType | None]] = Counter()
    for batch in divide_into_batches(small_files):
        with explain_full_disk("The text of small files", scratch):
            batch_sources = open_batch(batch, scratch, options)
        for source, small_file in zip(batch_sources, batch.files, strict=True):
            _review_columns(source, small_file.file, options, noted_files)
        sources += batch_sources
        # Free the memory of its rows before the next batch is read.
        del batch
    return dict(zip(paths, sources, strict=True))


def read_small_file(path: Path, name: str, options: ReadOptions) -> SmallFile:
    """Read all rows of a small CSV file. Raises DataError if it is not a table."""
    with explain_damage(name):
        check_content(path, name)
        for file in detect_dialects(path, name, options):
            try:
                return SmallFile(file, [values for _, values in file.read_rows()])
            except UnicodeError:
                continue
    raise DataError(explain_undecodable(path, name))


@contextmanager
def explain_damage(name: str) -> Iterator[None]:
    """Turn errors of the system or of unpacking into a DataError that names the file."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, OSError, zipfile.BadZipFile) as error:
        reason = find_system_error(error)
        if reason is not None:
            raise DataError(f"{name} cannot be read: {reason}.") from None
        raise DataError(f"{name} is cut short or damaged: {error}.") from None


@contextmanager
def explain_full_disk(what: str, scratch: Path) -> Iterator[None]:
    """Turn the error that the folder `scratch` is full into a DataError.

    `what` is the beginning of the message: what was being copied into the folder.
    """
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = find_system_error(error)
        if reason is None:
            raise
        # Errors of Python have a number, which tells whether the disk is full. Those of
        # polars have none.
        is_other_error = (
            isinstance(error, OSError)
            and error.errno is not None
            and error.errno not in NO_SPACE
        )
        if is_other_error:
            raise
        raise DataError(
            f"{what} cannot be copied into the temporary folder {scratch}: {reason}."
            " Make room there, or set TMPDIR to another folder."
        ) from None


def open_file(
    path: Path,
    name: str,
    scratch: Path,
    options: ReadOptions = USUAL_OPTIONS,
    *,
    trust_first_rows: bool = False,
) -> Source:
    """Open a raw file, which messages call `name`, and find the types of its columns.

    If polars cannot read the file correctly, a copy is written into the folder `scratch`.
    If `trust_first_rows` is True, the types are guessed from the first rows. Raises
    DataError if the file is not a table.
    """
    with explain_damage(name):
        check_content(path, name)
        if _is_parquet(path):
            source = open_parquet(path, name, options)
            convert_parquet_columns(source, options)
            return source
        check_line_lengths(path, name)
        return _open_csv(
            path, name, scratch, options, trust_first_rows=trust_first_rows
        )


def _is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, judged by its name."""
    return path.name.lower().endswith(PARQUET_ENDINGS)


def _open_csv(
    path: Path,
    name: str,
    scratch: Path,
    options: ReadOptions,
    *,
    trust_first_rows: bool,
) -> Source:
    """Open a CSV file in Unicode or in the encoding of settings.yml.

    Raises DataError if the file is in neither, or if a line is broken.
    """
    for file in detect_dialects(path, name, options):
        try:
            source = _open_csv_rows(
                file, scratch, options, trust_first_rows=trust_first_rows
            )
            _review_columns(source, file, options, noted_files=Counter())
            return source
        except UnicodeError:
            continue
    raise DataError(explain_undecodable(path, name))


def detect_dialects(path: Path, name: str, options: ReadOptions) -> Iterator[CsvFile]:
    """Yield a CSV file with its dialect, for each encoding in which it can be decoded.

    Unicode and the encoding of settings.yml are tried. Raises DataError if Python does not
    know the encoding, if the file has no header, or if two columns have the same name.
    """
    encodings = [detect_unicode(path)]
    if options.text_format.encoding:
        encodings.append(options.text_format.encoding)
    for encoding in encodings:
        check_encoding(encoding)
        with suppress(UnicodeError):
            file = detect_dialect(path, name, encoding, options.text_format)
            resolve_repeated_names(file, options.roles)
            yield file


def _open_csv_rows(
    file: CsvFile,
    scratch: Path,
    options: ReadOptions,
    *,
    trust_first_rows: bool,
) -> Source:
    """Open the rows of a CSV file, and find the types of its columns.

    polars reads the file itself if it reads every line as Python's csv module does.
    Otherwise the csv module copies the rows into the folder `scratch`, and polars reads
    the copy.
    """
    # If the first rows are trusted, the lines are not checked here, which would take one
    # more pass over the file. Instead, `find_confirmed_files` later compares the bytes of
    # the values that polars has read with the bytes of the file.
    expected_bytes = file.count_row_bytes() if trust_first_rows else 0
    bytes_are_verified_later = expected_bytes > 0

    if not _polars_reads_correctly(file, bytes_are_verified_later):
        copied_rows = _copy_rows(file, scratch)
        return infer_csv_source(copied_rows, file, options, trust_first_rows=False)

    source = infer_csv_source(
        file.scan(), file, options, trust_first_rows=trust_first_rows
    )
    if bytes_are_verified_later:
        source.row_bytes = _measure_rows(file)
        source.expected_bytes = expected_bytes
    return source


def _measure_rows(file: CsvFile) -> pl.Expr:
    """Return the length of each row in bytes, as far as polars has read values from it."""
    value_bytes = [pl.col(column).str.len_bytes() for column in file.positions]
    # A row of n values has n - 1 delimiters and one line end.
    separator_bytes = pl.lit(len(file.positions), pl.UInt32)
    return pl.sum_horizontal(*value_bytes, separator_bytes)


def _polars_reads_correctly(file: CsvFile, bytes_are_verified_later: bool) -> bool:
    """Return whether polars reads the same rows as Python's csv module.

    If the bytes are verified later, only the start of the file is checked.
    """
    if not file.polars_can_read():
        return False
    if bytes_are_verified_later:
        return True
    try:
        return not file.has_odd_lines()
    except (pl.exceptions.PolarsError, OSError):
        # Python's csv module reads the file instead. Its error names the line.
        return False


def _copy_rows(file: CsvFile, scratch: Path) -> pl.LazyFrame:
    """Copy a CSV file to Parquet in the folder `scratch`, and return the copied rows.

    Raises DataError if the folder has no room for the copy.
    """
    copy = scratch / f"{uuid.uuid4().hex}.parquet"
    with explain_full_disk(file.name, scratch):
        file.copy_to_parquet(copy)
    return pl.scan_parquet(copy, glob=False)


def _review_columns(
    source: Source,
    file: CsvFile,
    options: ReadOptions,
    noted_files: Counter[tuple[str, pl.DataType | None]],
) -> None:
    """Remove columns without a name, and add notes on the others.

    In data to score, columns that do not fit the model's schema are rejected instead.
    Raises DataError if a column of training data has values but no name.

    `noted_files` counts the files in which each column of a type has been examined for
    notes. To examine thousands of files would take too long.
    """
    _drop_nameless_columns(source, file.header, options.roles)
    if options.roles.model_columns is not None:
        reject_unreadable_text(source, file, options)
        return
    names = []
    for name, column in source.columns.items():
        if noted_files[name, column.type] < MAX_NOTED_FILES:
            noted_files[name, column.type] += 1
            names.append(name)
    note_doubtful_columns(source, names, file, options)
    note_layout(source, file)


def _drop_nameless_columns(
    source: Source, header: list[str], roles: ColumnRoles
) -> None:
    """Remove the columns without a name from a source.

    Raises DataError if such a column of training data has values. The first column is an
    exception, because it is probably an index that pandas wrote.
    """
    for position, name in enumerate(header):
        if name:
            continue
        column = source.columns.pop(create_placeholder_name(position))
        if column.type is None or roles.model_columns is not None:
            continue
        if position > 0:
            raise DataError(
                f"{source.name}: column {position + 1} has no name in the first line: write"
                " one, or skip a title above the names by data.skip_lines in settings.yml."
            )
        text = (
            f"the first column of {source.name} has no name, as pandas writes an index, and"
            " is left out: name it in the first line if it is data."
        )
        source.notes.append(Note(text))
