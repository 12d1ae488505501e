"""Write the prepared table as Parquet parts, with the user's features.

In most files, all rows look like the first ones. So the types of the columns are guessed
from the first rows, and verified while all rows are written. If a guess is wrong, the file
is read in full to find the types, and all parts are written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs
from choose_types import TypedFiles, choose_types
from combine import (
    aggregate_by_file,
    find_confirmed_files,
    set_marker_counts,
    stack_rows,
)
from expectations import Check, create_checks
from messages import find_system_error
from read_files import OpenedFiles, open_files
from read_options import ReadOptions
from sources import TYPE_NAMES, ColumnRoles, DataError, Note, Source
from text_values import TextFormat
from violations import aggregate_broken_rows, select_hashes

ROW = "row"  # The column that numbers the rows to score, from 0, if there are no keys.
# polars has many chunks of rows in memory at once. This is fewer rows than it would put
# into a chunk itself, which saves memory.
ROWS_IN_CHUNK = 20_000

# Returns a table with the user's features as further columns.
FeatureFunction = Callable[[pl.LazyFrame], pl.LazyFrame]
# Returns metadata for the Parquet parts, from the files and the types of the columns.
MetadataFunction = Callable[[list[Source], Mapping[str, pl.DataType]], dict[str, str]]


@dataclass
class WrittenParts:
    """The outcome of writing the parts: the files, the types, and a summary by file."""

    sources: list[Source]
    types: dict[str, pl.DataType]
    #: One row for each file that has rows: its number of `rows` and, with a target, how
    #: many have a value in it (`filled`), and how many of these are `infinite`.
    summary: pl.DataFrame
    #: Notes that concern all files. Those on a single file are in its source.
    notes: list[Note]
    #: The checks of data.expect. The summary also has what they count in each file.
    checks: list[Check]


@dataclass(frozen=True)
class PartWriter:
    """Writes the rows of raw files as Parquet parts, which are numbered."""

    folder: Path
    #: A folder for copies of the rows, if there are many files.
    scratch: Path
    #: The largest number of rows in a part.
    rows_per_part: int
    roles: ColumnRoles
    add_features: FeatureFunction
    #: Each part has this metadata, for the steps that follow.
    create_metadata: MetadataFunction

    @property
    def hashes_file(self) -> Path:
        """Return the file with the hashes of the columns that must be unique."""
        return self.scratch / "hashes.parquet"

    def write(self, opened: OpenedFiles) -> WrittenParts:
        """Write all rows, except those without a target.

        Raises DataError if the files do not become one table, or cannot be written.
        """
        typed = choose_types(opened.sources, self.roles)
        sources = typed.sources
        checks = create_checks(sources, typed.types, self.roles)
        with self._explain_errors():
            rows = stack_rows(
                sources, typed.types, self.scratch, with_row_numbers=len(checks) > 0
            )

        table = self._select_table(rows, typed.types)
        summary = self._summarize(rows, typed, checks)
        hashes = select_hashes(rows, checks)
        prepared_types = {
            name: dtype
            for name, dtype in typed.types.items()
            if name not in self.roles.only_checked
        }
        metadata = self.create_metadata(sources, prepared_types)
        collected_summary = self._sink(table, summary, hashes, metadata)
        return WrittenParts(
            sources=sources,
            types=prepared_types,
            summary=collected_summary,
            notes=opened.notes + typed.notes,
            checks=checks,
        )

    def _select_table(
        self, rows: pl.LazyFrame, types: Mapping[str, pl.DataType]
    ) -> pl.LazyFrame:
        """Select the rows and columns that are prepared, and add the user's features."""
        added_columns = cs.starts_with("\0")
        only_checked = cs.by_name(*self.roles.only_checked, require_all=False)
        table = rows.drop(added_columns | only_checked)

        target = self.roles.target
        if not target:
            table = apply_features(table, self.add_features, self.roles.keys)
            return table if self.roles.keys else _number_rows(table)

        has_target = cs.by_name(target).as_expr().is_not_null()
        table = table.filter(has_target).remove(_is_infinite(target, types[target]))
        required = [*self.roles.keys, target]
        table = apply_features(table, self.add_features, required)
        if not self.roles.keys:
            # Data to score will need this name.
            _check_row_name(table)
        return table

    def _summarize(
        self, rows: pl.LazyFrame, typed: TypedFiles, checks: Sequence[Check]
    ) -> pl.LazyFrame:
        """Return the summary of the rows that `WrittenParts` describes."""
        aggregations = aggregate_broken_rows(checks)
        target = self.roles.target
        if target:
            filled = cs.by_name(target).as_expr().count()
            infinite = _is_infinite(target, typed.types[target]).sum()
            aggregations.append(filled.alias("filled"))
            aggregations.append(infinite.alias("infinite"))
        has_several_files = len(typed.sources) > 1
        return aggregate_by_file(
            rows, *aggregations, has_several_files=has_several_files
        )

    def _sink(
        self,
        table: pl.LazyFrame,
        summary: pl.LazyFrame,
        hashes: pl.LazyFrame | None,
        metadata: dict[str, str],
    ) -> pl.DataFrame:
        """Write the table and the hashes, and return the summary, in one pass.

        The hashes, if there are any, are written to `hashes_file`. Raises DataError if
        the system refuses to read or write a file.
        """
        parts = pl.PartitionBy(
            self.folder,
            file_path_provider=lambda part: f"part-{part.index_in_partition:05}.parquet",
            max_rows_per_file=self.rows_per_part,
        )
        written = table.sink_parquet(
            parts, compression_level=1, metadata=metadata, mkdir=True, lazy=True
        )
        outputs = [summary, written]
        if hashes is not None:
            outputs.append(hashes.sink_parquet(self.hashes_file, lazy=True))
        with self._explain_errors(), pl.Config(streaming_chunk_size=ROWS_IN_CHUNK):
            collected_summary, *_ = pl.collect_all(
                outputs,
                # Without this, polars would keep the rows of Parquet files in memory for
                # all outputs.
                optimizations=pl.QueryOptFlags(comm_subplan_elim=False),
                engine="streaming",
            )
        return collected_summary

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Turn an error of the operating system into a DataError with its reason."""
        try:
            yield
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = find_system_error(error)
            if reason is None:
                raise
            raise DataError(
                f"The prepared data cannot be written to {self.folder}: {reason}."
            ) from None


def write_parts(raw: Path, text_format: TextFormat, writer: PartWriter) -> WrittenParts:
    """Write raw files as prepared parts.

    Raises DataError if the data cannot be read, or does not become one table.
    """
    options = ReadOptions(text_format, writer.roles)
    confirmed: set[str] = set()
    written = _write_with_guessed_types(raw, options, writer)
    if written is not None:
        confirmed = find_confirmed_files(written.sources, written.summary)

    if written is None or len(confirmed) < len(written.sources):
        # Only the guesses for confirmed files can be trusted.
        _delete_parts(writer.folder)
        opened = open_files(raw, writer.scratch, options, trusted=confirmed)
        written = writer.write(opened)
    set_marker_counts(written.sources, written.summary)
    return written


def _write_with_guessed_types(
    raw: Path, options: ReadOptions, writer: PartWriter
) -> WrittenParts | None:
    """Write the parts with types that are guessed from the first rows of the files.

    Returns None if this fails, because a wrong guess can make polars or our own checks
    fail. If the data is to blame, the error is raised when the parts are written again.
    Raises DataError if a file cannot be opened, which does not depend on a guess.
    """
    try:
        opened = open_files(raw, writer.scratch, options)
    except pl.exceptions.PolarsError:
        return None
    try:
        return writer.write(opened)
    except (DataError, pl.exceptions.PolarsError):
        return None


def _delete_parts(folder: Path) -> None:
    """Delete the parts in a folder."""
    for part in folder.glob("part-*.parquet"):
        part.unlink()


def _is_infinite(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return whether each value of a column of this type is an infinite number."""
    if dtype != pl.Float64:
        return pl.lit(False)
    return cs.by_name(name).as_expr().is_infinite()


def _number_rows(table: pl.LazyFrame) -> pl.LazyFrame:
    """Add the column ROW, which numbers the rows from 0."""
    _check_row_name(table)
    return table.with_row_index(ROW).cast({ROW: pl.Int64})


def _check_row_name(table: pl.LazyFrame) -> None:
    """Raise DataError if the table has a column ROW already."""
    if ROW in table.collect_schema():
        raise DataError(
            f"The column '{ROW}' has the name of the row numbers in the predictions:"
            " list it under data.keys or data.ignore in settings.yml, or rename it."
        )


def apply_features(
    table: pl.LazyFrame, add_features: FeatureFunction, required: Sequence[str]
) -> pl.LazyFrame:
    """Add the user's features to the table, in the types of prepared tables.

    Raises DataError if `features` fails, leaves out a column that is `required`, or adds a
    column of a type that is not supported.
    """
    table = _convert_feature_types(add_features(table), required)
    try:
        frame_schema = table.collect_schema()
    except pl.exceptions.PolarsError as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(f"features() in prep.py fails: {first_line}.") from None
    for name in required:
        if name not in frame_schema:
            raise DataError(
                f"features() in prep.py leaves out the column '{name}', which settings.yml"
                " names as the target or as a key."
            )
    for name, dtype in frame_schema.items():
        if name not in required and dtype not in TYPE_NAMES:
            raise DataError(
                f"features() in prep.py makes the column '{name}' of type {dtype}, which"
                " is neither a number nor a date nor text: convert it."
            )
    return table


def _convert_feature_types(
    table: pl.LazyFrame, required: Sequence[str]
) -> pl.LazyFrame:
    """Convert all columns but those that are `required` to the types of features.

    Columns of other types are not changed.
    """
    features = ~cs.by_name(*required, require_all=False)
    integers = features & cs.integer()
    numbers = features & (cs.numeric() - cs.integer())
    times = features & cs.datetime(time_zone=None)
    categories = features & (cs.categorical() | cs.enum())
    return table.with_columns(
        integers.cast(pl.Int64),
        numbers.cast(pl.Float64),
        times.cast(pl.Datetime("us")),
        categories.cast(pl.String),
    )
