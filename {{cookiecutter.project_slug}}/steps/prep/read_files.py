"""Open the raw CSV and Parquet files, and find the types of their columns."""

from __future__ import annotations

import errno
import lzma
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager
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

# Many small files often have the same columns. Columns of the same name and type are
# examined for notes in at most this many files.
MAX_NOTED_FILES = 20
# The number of files in which a column has been examined for notes, by its name and type.
NotedFiles = Counter[tuple[str, pl.DataType | None]]
# The error numbers of the operating system that mean that there is no room for a file.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class OpenedFiles:
    """The raw files in a folder, and notes on other files, which are not read."""

    sources: list[Source]
    notes: list[Note]


def open_files(
    raw: Path,
    scratch: Path,
    options: ReadOptions,
    trusted: Container[str] | None = None,
) -> OpenedFiles:
    """Open all raw files of a folder, in the order of their paths.

    A folder such as `year=2026` adds a column `year` to the files in it. Small files, and
    files that polars would read wrongly, are copied into the folder `scratch`.

    `trusted` holds the names of the files whose types may be guessed from their first rows.
    None means that all files are trusted. All rows of the other files are read to find
    their types. Raises DataError if a file cannot be read as a table.
    """
    raw_files = find_files(raw)
    name_by_path = {path: name_file(path, raw) for path in raw_files.tables}

    # Many small files are opened together, which is faster. `trusted` does not matter to
    # them, because all of their rows are read anyway. Other files are opened one by one.
    source_by_path = open_small_files(name_by_path, scratch, options)
    for path, name in name_by_path.items():
        if path in source_by_path:
            continue
        is_trusted = trusted is None or name in trusted
        source_by_path[path] = open_file(
            path, name, scratch, options, trust_first_rows=is_trusted
        )

    sources = [source_by_path[path] for path in raw_files.tables]
    add_partition_columns(sources, options)
    return OpenedFiles(sources, raw_files.list_notes(raw))


def name_file(path: Path, raw: Path) -> str:
    """Return the name of a file in messages: its path inside the folder of raw data.

    If `raw` is the file itself, this is only the name of the file.
    """
    if path == raw:
        return show_text(path.name)
    return show_text(path.relative_to(raw).as_posix())


def open_small_files(
    name_by_path: dict[Path, str], scratch: Path, options: ReadOptions
) -> dict[Path, Source]:
    """Open the small CSV files together, and return a source for each path.

    `name_by_path` has the names that messages use for all raw files. The result is empty if
    there are fewer than MANY_FILES small files, because then it is not faster to open them
    together. Raises DataError if a small file cannot be read as a table, or if the folder
    `scratch` is full.
    """
    try:
        paths = [path for path in name_by_path if _is_small_csv(path)]
    except OSError:
        # A file cannot be read. `open_file` will raise an error with the name of the file.
        return {}
    if len(paths) < MANY_FILES:
        return {}

    # This is a generator: to limit the memory, only the files of one batch are read at a
    # time.
    small_files = (read_small_file(path, name_by_path[path], options) for path in paths)
    sources: list[Source] = []
    # All files share this counter, so that only some of them are examined for notes.
    noted_files: NotedFiles = Counter()
    for batch in divide_into_batches(small_files):
        with explain_full_disk("The text of small files", scratch):
            batch_sources = open_batch(batch, scratch, options)
        for source, small_file in zip(batch_sources, batch.files, strict=True):
            _review_columns(source, small_file.file, options, noted_files)
        sources += batch_sources
        # Free the memory of this batch before the loop reads the rows of the next one.
        del batch
    return dict(zip(paths, sources, strict=True))


def read_small_file(path: Path, name: str, options: ReadOptions) -> SmallFile:
    """Read all rows of a small CSV file.

    `name` is the name of the file in messages. Raises DataError if it is not a table.
    """
    with explain_damage(name):
        check_content(path, name)
        for file in try_encodings(path, name, options):
            try:
                rows = [values for _, values in file.read_rows()]
                return SmallFile(file, rows)
            except UnicodeError:
                # The start of the file can be decoded, but not all of it.
                continue
    raise DataError(explain_undecodable(path, name))


@contextmanager
def explain_damage(name: str) -> Iterator[None]:
    """Turn an error in the `with` block into a DataError if a file cannot be read.

    The file may also be compressed and damaged. `name` is its name in the message.
    """
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, OSError, zipfile.BadZipFile) as error:
        reason = find_system_error(error)
        if reason is not None:
            raise DataError(f"{name} cannot be read: {reason}.") from None
        raise DataError(f"{name} is cut short or damaged: {error}.") from None


@contextmanager
def explain_full_disk(copied_data: str, scratch: Path) -> Iterator[None]:
    """Turn an error in the `with` block into a DataError if the folder `scratch` is full.

    `copied_data` is the beginning of the message: what was being copied into the folder.
    """
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = find_system_error(error)
        if reason is None:
            raise
        # The number of a Python error tells whether the disk is full. An error without a
        # number, such as one of polars, is taken for a full disk.
        error_number = error.errno if isinstance(error, OSError) else None
        may_be_full = error_number is None or error_number in NO_SPACE
        if not may_be_full:
            raise
        raise DataError(
            f"{copied_data} cannot be copied into the temporary folder {scratch}: {reason}."
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
    """Open a raw file, and find the types of its columns.

    `name` is the name of the file in messages. A CSV file that polars would read wrongly is
    copied into the folder `scratch`. If `trust_first_rows` is True, the types of a CSV file
    are guessed from its first rows. Raises DataError if the file is not a table.
    """
    with explain_damage(name):
        check_content(path, name)
        if _is_parquet(path):
            source = open_parquet(path, name, options)
            # Parquet files have types of their own, which may differ from those in the
            # model's schema. CSV files need no conversion: their text is parsed as the
            # types in the schema.
            convert_parquet_columns(source, options)
            return source
        check_line_lengths(path, name)
        return _open_csv(
            path, name, scratch, options, trust_first_rows=trust_first_rows
        )


def _is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, judged by its name."""
    return path.name.lower().endswith(PARQUET_ENDINGS)


def _is_small_csv(path: Path) -> bool:
    """Return whether a file is CSV, and small enough to be opened together with others."""
    return not _is_parquet(path) and is_small(path)


def _open_csv(
    path: Path,
    name: str,
    scratch: Path,
    options: ReadOptions,
    *,
    trust_first_rows: bool,
) -> Source:
    """Open a CSV file in Unicode or in the encoding of settings.yml.

    Raises DataError if the file is in neither, or if a line cannot be divided into the
    columns of the header.
    """
    for file in try_encodings(path, name, options):
        try:
            source = _open_csv_rows(
                file, scratch, options, trust_first_rows=trust_first_rows
            )
            # No earlier file is counted, so all columns are examined for notes.
            _review_columns(source, file, options, noted_files=Counter())
            return source
        except UnicodeError:
            # The start of the file can be decoded, but not all of it. So the next encoding
            # is tried.
            continue
    raise DataError(explain_undecodable(path, name))


def try_encodings(path: Path, name: str, options: ReadOptions) -> Iterator[CsvFile]:
    """Yield a CSV file for each encoding in which its start can be decoded.

    The caller uses the first one in which the whole file can be decoded. The Unicode
    encoding of the file comes first, and then the encoding of settings.yml. The dialect of
    the file, such as its delimiter, is detected for each encoding. Raises DataError if
    Python does not know the encoding, if the file has no header, or if two columns have the
    same name.
    """
    encodings = [detect_unicode(path)]
    if options.text_format.encoding:
        encodings.append(options.text_format.encoding)
    for encoding in encodings:
        check_encoding(encoding)
        try:
            file = detect_dialect(path, name, encoding, options.text_format)
        except UnicodeError:
            continue
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

    polars reads the file itself if it divides every line as Python's csv module does.
    Otherwise the csv module copies the rows into the folder `scratch`, and polars reads the
    copy.

    If `trust_first_rows` is True, the types are guessed from the first rows of a file that
    polars reads itself. Both the types and the lines are then verified later, while the
    rows are written.
    """
    # To verify the lines later, `find_confirmed_files` compares the bytes of all values
    # that polars has read (`row_bytes`) with the bytes in the file (`expected_bytes`). They
    # differ if polars has divided a line wrongly, and then the file is read again. Checking
    # each line now takes a pass over the file, so it is only done if the bytes cannot be
    # compared, as in a file with quotes.
    expected_bytes = file.count_row_bytes() if trust_first_rows else None
    lines_are_verified_later = expected_bytes is not None
    if not _is_safe_for_polars(file, check_lines=not lines_are_verified_later):
        copied_rows = _copy_rows(file, scratch)
        # The copy has no bytes to compare, so all of its rows are read to find the types.
        return infer_csv_source(copied_rows, file, options, trust_first_rows=False)

    source = infer_csv_source(
        file.scan(), file, options, trust_first_rows=trust_first_rows
    )
    if expected_bytes is not None:
        source.row_bytes = _measure_rows(file)
        source.expected_bytes = expected_bytes
    return source


def _measure_rows(file: CsvFile) -> pl.Expr:
    """Return the length of each row in bytes, counted from the values that polars has read.

    The length includes the delimiters and the line end.
    """
    value_bytes = [pl.col(column).str.len_bytes() for column in file.positions]
    # A row of n values has n - 1 delimiters and one line end.
    separator_bytes = pl.lit(len(file.positions), pl.UInt32)
    return pl.sum_horizontal(*value_bytes, separator_bytes)


def _is_safe_for_polars(file: CsvFile, *, check_lines: bool) -> bool:
    """Return whether polars reads the same rows of a file as Python's csv module.

    The name and the start of the file are always examined. Each line is only examined if
    `check_lines` is True.
    """
    # This only examines the name and the start of the file.
    if not file.polars_can_read():
        return False
    if not check_lines:
        return True
    try:
        # A line is odd if polars may divide it differently from Python's csv module.
        return not file.has_odd_lines()
    except (pl.exceptions.PolarsError, OSError):
        # Python's csv module reads the file instead. If it fails, too, its error names the
        # line.
        return False


def _copy_rows(file: CsvFile, scratch: Path) -> pl.LazyFrame:
    """Copy a CSV file to a Parquet file in the folder `scratch`, and return its rows.

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
    noted_files: NotedFiles,
) -> None:
    """Remove the columns without a name from a CSV file, and examine the others.

    - In training data, notes are added on columns that may have been read wrongly, and on
      the layout of the file.
    - In data to score, columns that do not fit the model's schema are rejected instead.

    `file` has the dialect of the CSV file. `noted_files` says how often columns of each name
    and type have been examined in earlier files. Raises DataError if a column of training
    data has values but no name.
    """
    _drop_nameless_columns(source, file.header, options.roles)
    if options.roles.model_columns is not None:
        reject_unreadable_text(source, file, options)
        return
    names = _choose_columns_to_note(source, noted_files)
    note_doubtful_columns(source, names, file, options)
    note_layout(source, file)


def _choose_columns_to_note(source: Source, noted_files: NotedFiles) -> list[str]:
    """Return the names of the columns to examine for notes, and count them as examined.

    `noted_files` counts the files in which a column of this name and type was examined. Only
    the first MAX_NOTED_FILES files count, because thousands of files would take too long.
    """
    chosen_names = []
    for name, column in source.columns.items():
        if noted_files[name, column.type] < MAX_NOTED_FILES:
            noted_files[name, column.type] += 1
            chosen_names.append(name)
    return chosen_names


def _drop_nameless_columns(
    source: Source, header: list[str], roles: ColumnRoles
) -> None:
    """Remove the columns without a name from a source.

    A first column without a name is probably an index that pandas wrote. In training data,
    a note says that it is left out. Raises DataError if another column of training data has
    values but no name.
    """
    for position, name in enumerate(header):
        if name:
            continue
        column = source.columns.pop(create_placeholder_name(position))
        has_values = column.type is not None
        is_training_data = roles.model_columns is None
        if not has_values or not is_training_data:
            continue
        if position > 0:
            raise DataError(
                f"{source.name}: column {position + 1} has no name: write one into the first"
                " line. If the file begins with a title, skip it with data.skip_lines in"
                " settings.yml."
            )
        text = (
            f"the first column of {source.name} has no name, like an index that pandas"
            " writes, so it is left out: if it is data, give it a name in the first line."
        )
        source.notes.append(Note(text))
