"""Find the raw CSV and Parquet files in a folder, and report which files are skipped."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from messages import (
    find_system_error,
    join_sentences,
    show_text,
    suggest_similar_name,
)
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
# A note lists at most this many files.
LISTED_FILES = 5


@dataclass(frozen=True)
class TableFormat:
    """A format of tables whose folders also hold files with outdated rows."""

    #: The kind of table, for messages.
    name: str
    #: A folder is such a table if this pattern matches a path in it.
    marker: str
    #: A command that exports the current rows. `{folder}` in it stands for the folder, and
    #: `{metadata}` for the newest path that matches the marker.
    export: str

    def create_export_command(self, folder: Path, newest_marker: Path) -> str:
        """Return the command that exports the current rows of the table in a folder."""
        return self.export.format(folder=folder, metadata=newest_marker)


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
    """The CSV and Parquet files below a folder, and the files that are skipped."""

    tables: list[Path] = field(default_factory=list)
    other_files: list[Path] = field(default_factory=list)
    #: Tables and folders whose names begin with _ or a dot.
    hidden_tables: list[Path] = field(default_factory=list)

    def sort(self) -> None:
        """Sort each list of paths."""
        for paths in (self.tables, self.other_files, self.hidden_tables):
            paths.sort()

    def list_notes(self, folder: Path) -> list[Note]:
        """Return notes on the files that are skipped, with paths relative to `folder`."""
        notes = []
        if self.other_files:
            listed = _list_paths(self.other_files, folder)
            text = (
                f"only CSV and Parquet files are read, so these are skipped: {listed}."
            )
            if any(map(is_workbook, self.other_files)):
                text += f" {SAVE_SHEETS}"
            notes.append(Note(text))
        if self.hidden_tables:
            listed = _list_paths(self.hidden_tables, folder)
            notes.append(
                Note(
                    "names that begin with _ or . mark hidden or unfinished files, so"
                    f" these are skipped: {listed}. Rename those that hold data."
                )
            )
        return notes


def find_files(raw: Path) -> FoundFiles:
    """Return the CSV and Parquet files below the folder `raw`, or the one file `raw`.

    Raises DataError if there are no CSV and Parquet files, or if a file or a folder cannot
    be read.
    """
    status = _get_status(raw)
    if status is None:
        raise DataError(f"There is no data at {raw}. {_suggest_path(raw)}")

    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder:
        _check_parents(raw)
        files = _find_files_below(raw)
    else:
        _check_regular_file(raw, status)
        files = FoundFiles()
        if is_table(raw):
            files.tables.append(raw)

    if not files.tables:
        notes = files.list_notes(raw) if is_folder else []
        raise _explain_no_tables(raw, notes)
    for path in files.tables:
        _check_encoding_of_name(path)
    return files


def _explain_no_tables(raw: Path, notes: list[Note]) -> DataError:
    """Return the error for a folder without tables, or for a file that is no table.

    `notes` are the notes on the files in the folder that are skipped.
    """
    message = f"{raw} holds no file that ends in {', '.join(ENDINGS)}."
    sentences = [note.as_sentence() for note in notes]
    if is_workbook(raw):
        sentences.append(SAVE_SHEETS)
    return DataError(join_sentences(message, *sentences))


def is_workbook(path: Path) -> bool:
    """Return whether a file is an Excel or OpenDocument workbook, judged by its name."""
    return path.name.lower().endswith(WORKBOOK_ENDINGS)


def is_table(path: Path) -> bool:
    """Return whether a file is CSV or Parquet, judged by its name."""
    return path.name.lower().endswith(ENDINGS)


def _check_parents(raw: Path) -> None:
    """Raise DataError if a folder is inside a table of another format, such as Delta.

    The files in this folder must not be read without the rest of the table.
    """
    for parent in raw.absolute().parents:
        # Parents that cannot be listed are not part of the data.
        with suppress(OSError):
            _check_table_format(parent, set(os.listdir(parent)))


def _suggest_path(raw: Path) -> str:
    """Return a sentence on how to correct a path in settings.yml that does not exist."""
    missing = _find_missing_part(raw)
    if missing.is_symlink():
        target = show_text(os.readlink(missing))
        return f"{show_text(missing)} is a link to {target}, which does not exist."
    if "*" in raw.name:
        return "Write the folder alone: all of its files are read."
    if re.match(r"[a-z]+:/", str(raw)):
        return "Download the data, and write the path of your copy."
    if "~" in raw.parts:
        return "Write the whole path in place of ~."
    similar_name = _suggest_similar_sibling(missing)
    if similar_name:
        folder = show_text(missing.parent)
        return f"{folder} has no '{show_text(missing.name)}'. {similar_name}"
    return "Write the path of a folder or file."


def _find_missing_part(path: Path) -> Path:
    """Return the first part of a path that does not exist.

    For example, this part is /data/sampel for the path /data/sampel/a.csv, if only /data
    exists.
    """
    missing = path.absolute()
    while not missing.parent.exists():
        missing = missing.parent
    return missing


def _suggest_similar_sibling(missing: Path) -> str:
    """Ask whether the most similar name in the folder of a missing file is meant.

    Returns "" if no name is similar.
    """
    try:
        names = os.listdir(missing.parent)
    except OSError:
        # The parent is a file, or a folder that cannot be listed.
        return ""
    return suggest_similar_name(missing.name, names)


def _find_files_below(root: Path) -> FoundFiles:
    """Return all files below a folder, including those that symbolic links lead to.

    A file or folder to which several links lead is visited once. Raises DataError if

    - a folder cannot be read,
    - a link leads nowhere, or in a circle,
    - a folder is a table of another format, such as Delta, or
    - a path with the name of a table is not a file but, for example, a pipe.
    """
    files = FoundFiles()
    resolved_root = root.resolve()
    visited: set[Path] = set()
    # Each folder to visit, with its path in which all links are resolved.
    folders = [(root, resolved_root)]
    while folders:
        folder, resolved_folder = folders.pop()
        paths = _list_folder(folder)
        _check_table_format(folder, {path.name for path in paths})
        for path in paths:
            status = _get_status_of_visible_path(path, files)
            if status is None:
                continue

            # Only links take the time to resolve the whole path.
            is_link = path.is_symlink()
            resolved_path = path.resolve() if is_link else resolved_folder / path.name
            # A link to a path below the root is skipped: that path itself is visited, too.
            leads_into_root = is_link and resolved_path.is_relative_to(resolved_root)
            if leads_into_root or resolved_path in visited:
                continue
            visited.add(resolved_path)
            if stat.S_ISDIR(status.st_mode):
                folders.append((path, resolved_path))
            else:
                _add_file(files, path, status)
    files.sort()
    return files


def _get_status_of_visible_path(path: Path, files: FoundFiles) -> os.stat_result | None:
    """Return the status of a path in a folder, or None if the path is to be skipped.

    Hidden paths and broken links are skipped. If a user should know about a skipped path,
    it is added to `files`. Raises DataError if the path cannot be read, or if it does not
    exist and may have been a table.
    """
    if _is_hidden(path):
        if _is_hidden_table(path):
            files.hidden_tables.append(path)
        return None
    status = _get_status(path)
    if status is None:
        _report_missing_table(path)
        files.other_files.append(path)
    return status


def _list_folder(folder: Path) -> list[Path]:
    """Return the paths in a folder. Raises DataError if they cannot be listed."""
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise _explain_unreadable(folder, error) from None


def _add_file(files: FoundFiles, path: Path, status: os.stat_result) -> None:
    """Add a file to the tables or to the other files of `files`.

    Raises DataError if the path of a table leads to a pipe, a socket or a device.
    """
    if is_table(path):
        _check_regular_file(path, status)
        files.tables.append(path)
    else:
        files.other_files.append(path)


def _is_hidden(path: Path) -> bool:
    """Return whether a file or folder is hidden or unfinished, judged by its name."""
    return path.name.startswith((".", "_"))


def _is_hidden_table(path: Path) -> bool:
    """Return whether a hidden path is a table, or a folder that may hold tables.

    A folder with a name such as `.idea` belongs to an editor, and a file with a name such
    as `._a.csv` to macOS, so neither holds a table.
    """
    if path.name.startswith("_") and path.is_dir():
        return True
    return is_table(path) and not path.name.startswith("._")


def _get_status(path: Path) -> os.stat_result | None:
    """Return the status of a file or folder, or None if the path does not exist.

    Raises DataError if the status cannot be read, for example because the path is a link
    that leads to itself.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _explain_unreadable(path, error) from None


def _report_missing_table(path: Path) -> None:
    """Raise DataError for a path that does not exist, if the path may have been a table.

    The path is a broken link, or a file that was removed while the data was read. A path
    with the suffix of another kind of file, such as .txt, was no table, so nothing is
    raised for it.
    """
    has_other_suffix = path.suffix != "" and not is_table(path)
    if has_other_suffix:
        return
    if path.is_symlink():
        raise DataError(
            f"{show_text(path)} is a link to {show_text(os.readlink(path))}, which does"
            " not exist: bring the data there, or remove the link."
        )
    raise DataError(f"{show_text(path)} was removed while the data was read.")


def _check_regular_file(path: Path, status: os.stat_result) -> None:
    """Raise DataError if a path leads to a pipe, a socket or a device."""
    for is_kind, kind in SPECIAL_FILES:
        if is_kind(status.st_mode):
            raise DataError(
                f"{show_text(path)} is {kind}, not a file: write the data to a file."
            )


def _check_encoding_of_name(path: Path) -> None:
    """Raise DataError if a path is not UTF-8, because polars cannot open the file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"The path {show_text(path)} is not UTF-8, as names from an old Windows disk"
            " may be: rename the file or folder."
        ) from None


def _check_table_format(folder: Path, names: set[str]) -> None:
    """Raise DataError if a folder is a table of another format, such as Delta.

    The folder must not be read file by file, because some of its files hold outdated rows.
    `names` are the names of all files and folders in the folder.
    """
    for table_format in TABLE_FORMATS:
        # A format is recognized by its marker, a path such as metadata/*.metadata.json.
        # Most folders have none, and a look at their names is faster than a search.
        first_part_of_marker = table_format.marker.partition("/")[0]
        if first_part_of_marker not in names:
            continue
        markers = list(folder.glob(table_format.marker))
        if markers:
            # Iceberg numbers its metadata files, so the newest has the largest number.
            newest = max(markers, key=_read_version)
            export = table_format.create_export_command(folder, newest)
            raise DataError(
                f"{show_text(folder)} is {table_format.name}: it also holds files with"
                " outdated or deleted rows. Export the current rows, and read the export:"
                f" {export}."
            )


def _read_version(path: Path) -> int:
    """Return the version in a name such as v10.metadata.json, or 0 if there is none.

    Other catalogs of Iceberg use names such as 00010-c6a2.metadata.json.
    """
    version = re.match(r"v?(\d+)", path.name)
    return int(version[1]) if version else 0


def _explain_unreadable(path: Path, error: OSError) -> DataError:
    """Return the error for a path that the operating system refuses to read."""
    return DataError(f"{show_text(path)} cannot be read: {find_system_error(error)}.")


def _list_paths(paths: list[Path], folder: Path) -> str:
    """Return the first paths, relative to a folder, and the number of the others."""
    shown_paths = [
        show_text(path.relative_to(folder).as_posix()) for path in paths[:LISTED_FILES]
    ]
    listed = ", ".join(shown_paths)
    if len(paths) > LISTED_FILES:
        listed += f" and {len(paths) - LISTED_FILES} more"
    return listed
