"""Find the raw CSV and Parquet files in a folder, and report what is left out."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from messages import find_system_error, join_sentences, show_text
from sources import DataError, Note

PARQUET_ENDINGS = (".parquet", ".pq")
CSV_ENDINGS = tuple(
    text + packed for text in (".csv", ".tsv") for packed in ("", ".gz", ".bz2", ".xz")
) + (".zip",)
ENDINGS = CSV_ENDINGS + PARQUET_ENDINGS
WORKBOOK_ENDINGS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
SAVE_SHEETS = (
    "Save each sheet of a workbook as CSV UTF-8 in Excel or LibreOffice, or convert it with"
    " pandas.read_excel() and to_parquet()."
)
LISTED_FILES = 5  # in a note


@dataclass(frozen=True)
class TableFormat:
    """A kind of table whose folder also holds files that are no longer part of it."""

    name: str
    #: A folder is such a table if this pattern matches a path in it.
    marker: str
    #: How to export the rows that the table has now.
    export: str


TABLE_FORMATS = (
    TableFormat(
        name="a Delta table",
        marker="_delta_log",
        export="`pip install deltalake`, then in Python"
        " `polars.read_delta('{folder}').write_parquet('export.parquet')`",
    ),
    TableFormat(
        name="an Iceberg table",
        marker="metadata/*.metadata.json",
        export="`pip install pyiceberg`, then in Python"
        " `polars.scan_iceberg('{metadata}').sink_parquet('export.parquet')`",
    ),
    TableFormat(
        name="a Hudi table",
        marker=".hoodie",
        export="in Spark"
        " `spark.read.format('hudi').load('{folder}').write.parquet('export')`",
    ),
    TableFormat(
        name="a Paimon table",
        marker="snapshot/LATEST",
        export="in Spark"
        " `spark.read.format('paimon').load('{folder}').write.parquet('export')`",
    ),
    TableFormat(
        name="the output of a Spark stream",
        marker="_spark_metadata",
        export="in Spark `spark.read.parquet('{folder}').write.parquet('export')`",
    ),
)

# Tests of a path's mode, and what the path is if it passes the test.
SPECIAL_FILES = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass
class FoundFiles:
    """The CSV and Parquet files below a folder, and the files that are not read."""

    tables: list[Path] = field(default_factory=list)
    other_files: list[Path] = field(default_factory=list)
    hidden_tables: list[Path] = field(default_factory=list)

    def sort(self) -> None:
        """Sort all paths."""
        for paths in (self.tables, self.other_files, self.hidden_tables):
            paths.sort()

    def list_notes(self, folder: Path) -> list[Note]:
        """Return notes on the files that are not read. Paths are relative to the folder."""
        notes = []
        if self.other_files:
            listed = _list_paths(self.other_files, folder)
            text = f"only CSV and Parquet files are read, so these are not: {listed}."
            if any(map(is_workbook, self.other_files)):
                text += f" {SAVE_SHEETS}"
            notes.append(Note(text))
        if self.hidden_tables:
            listed = _list_paths(self.hidden_tables, folder)
            notes.append(
                Note(
                    "names that begin with _ or . mark hidden or unfinished files, so"
                    f" these are not read: {listed}. Rename those that hold data."
                )
            )
        return notes


def find_files(raw: Path) -> FoundFiles:
    """Return the CSV and Parquet files below a folder, or the only file.

    Raises DataError if there are none, or if a file or a folder cannot be read.
    """
    status = _get_status(raw)
    if status is None:
        raise DataError(f"There is no data at {raw}. {_suggest_path(raw)}")

    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder:
        _check_parents(raw)
        files = _walk(raw)
    else:
        _check_regular_file(raw, status)
        files = FoundFiles()
        if is_table(raw):
            files.tables.append(raw)

    if not files.tables:
        message = f"{raw} holds no file that ends in {', '.join(ENDINGS)}."
        notes = files.list_notes(raw) if is_folder else []
        sentences = [note.as_sentence() for note in notes]
        if is_workbook(raw):
            sentences.append(SAVE_SHEETS)
        raise DataError(join_sentences(message, *sentences))
    for path in files.tables:
        _check_encoding_of_name(path)
    return files


def is_workbook(path: Path) -> bool:
    """Return whether a file is a workbook of Excel or OpenDocument by its name."""
    return path.name.lower().endswith(WORKBOOK_ENDINGS)


def is_table(path: Path) -> bool:
    """Return whether a file is CSV or Parquet by its name."""
    return path.name.lower().endswith(ENDINGS)


def _check_parents(raw: Path) -> None:
    """Raise DataError if a folder is part of a table whose files must not be read alone."""
    for parent in raw.absolute().parents:
        # Parents that cannot be listed are not part of the data.
        with suppress(OSError):
            _check_table_format(parent, set(os.listdir(parent)))


def _suggest_path(raw: Path) -> str:
    """Return a sentence on what to write in settings.yml for a path without data."""
    if raw.is_symlink():
        return f"It is a link to {show_text(os.readlink(raw))}, where nothing is."
    if "*" in raw.name:
        return "Write the folder alone: all of its files are read."
    if re.match(r"[a-z]+:/", str(raw)):
        return "Download the data, and write the path of your copy."
    if "~" in raw.parts:
        return "Write the whole path in place of ~."
    return "Write the path of a folder or file."


def _walk(root: Path) -> FoundFiles:
    """Return all files below a folder, including those that symbolic links lead to.

    A folder or file to which several links lead is visited once. Raises DataError if a
    folder cannot be read, if a link leads nowhere or to itself, if a folder is a table of
    its own kind, such as a Delta table, or if a path with the name of a table is a pipe or
    another thing that is not a file.
    """
    found = FoundFiles()
    resolved_root = root.resolve()
    visited: set[Path] = set()
    # Each folder with its path without links.
    folders = [(root, resolved_root)]
    while folders:
        folder, resolved_folder = folders.pop()
        paths = _list_folder(folder)
        _check_table_format(folder, {path.name for path in paths})
        found.hidden_tables += [path for path in paths if _is_hidden_table(path)]
        for path in paths:
            if _is_hidden(path):
                continue
            status = _get_status(path)
            if status is None:
                _check_missing_target(path)
                found.other_files.append(path)
                continue

            is_link = path.is_symlink()
            target = path.resolve() if is_link else resolved_folder / path.name
            # Something inside the root is visited anyway, so links to it are skipped.
            is_link_inside = is_link and target.is_relative_to(resolved_root)
            if is_link_inside or target in visited:
                continue
            visited.add(target)
            if stat.S_ISDIR(status.st_mode):
                folders.append((path, target))
            else:
                _add_file(found, path, status)
    found.sort()
    return found


def _list_folder(folder: Path) -> list[Path]:
    """Return the paths in a folder. Raises DataError if they cannot be listed."""
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise _explain_unreadable(folder, error) from None


def _add_file(found: FoundFiles, path: Path, status: os.stat_result) -> None:
    """Add a file to the tables or to the other files.

    Raises DataError if the path of a table leads to a pipe, a socket or a device.
    """
    if is_table(path):
        _check_regular_file(path, status)
        found.tables.append(path)
    else:
        found.other_files.append(path)


def _is_hidden(path: Path) -> bool:
    """Return whether a file or folder is hidden or unfinished, judged by its name."""
    return path.name.startswith((".", "_"))


def _is_hidden_table(path: Path) -> bool:
    """Return whether a path is a hidden table, or a hidden folder that may hold tables.

    Folders whose names begin with a dot belong to editors, and files whose names begin
    with `._` to macOS.
    """
    if path.name.startswith("_") and path.is_dir():
        return True
    return _is_hidden(path) and is_table(path) and not path.name.startswith("._")


def _get_status(path: Path) -> os.stat_result | None:
    """Return the status of a file or folder, or None if there is nothing at the path.

    Raises DataError if it cannot be read, for example because a link leads to itself.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _explain_unreadable(path, error) from None


def _check_missing_target(path: Path) -> None:
    """Raise DataError if a path may have led to data, but leads nowhere.

    It is a link without a target, or a file that has been removed. Names with the suffix
    of another kind of file are ignored.
    """
    has_other_suffix = path.suffix != "" and not is_table(path)
    if has_other_suffix:
        return
    if not path.is_symlink():
        raise DataError(f"{show_text(path)} was removed while the data was read.")
    raise DataError(
        f"{show_text(path)} is a link to {show_text(os.readlink(path))}, where nothing"
        " is: bring the data there, or remove the link."
    )


def _check_regular_file(path: Path, status: os.stat_result) -> None:
    """Raise DataError if a path leads to a pipe, a socket or a device."""
    for is_kind, kind in SPECIAL_FILES:
        if is_kind(status.st_mode):
            raise DataError(
                f"{show_text(path)} is {kind}, not a file: write the data to a file."
            )


def _check_encoding_of_name(path: Path) -> None:
    """Raise DataError if a path is not UTF-8: polars cannot open such a file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"The path {show_text(path)} is not UTF-8, as names from an old Windows disk"
            " may be: rename the file or folder."
        ) from None


def _check_table_format(folder: Path, names: set[str]) -> None:
    """Raise DataError if a folder holds files that are no longer part of its table.

    `names` are the names of all files and folders in it.
    """
    for table_format in TABLE_FORMATS:
        first_name = table_format.marker.partition("/")[0]
        if first_name not in names:
            continue
        markers = sorted(folder.glob(table_format.marker))
        if markers:
            newest = max(markers, key=lambda path: path.name)
            export = table_format.export.format(folder=folder, metadata=newest)
            raise DataError(
                f"{show_text(folder)} is {table_format.name}: it also holds files with"
                " rows that were changed or removed. Export the rows that it has now, and"
                f" read the export: {export}."
            )


def _explain_unreadable(path: Path, error: OSError) -> DataError:
    """Return an error that names a path, and the system's reason for not reading it."""
    return DataError(f"{show_text(path)} cannot be read: {find_system_error(error)}.")


def _list_paths(paths: list[Path], folder: Path) -> str:
    """List the first paths for a note, and say how many more there are."""
    shown = [
        show_text(path.relative_to(folder).as_posix()) for path in paths[:LISTED_FILES]
    ]
    listed = ", ".join(shown)
    if len(paths) > LISTED_FILES:
        listed += f" and {len(paths) - LISTED_FILES} more"
    return listed
