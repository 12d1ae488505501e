"""Write the prepared table as Parquet parts, with the user's features.

In most files, all rows look like the first ones. So the types of the columns are guessed
from the first rows, and verified while all rows are written. If a guess is wrong, all rows
of the file are read to find the types, and all parts are written again.
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

# The column with the number of each row to score, counted from 0. It is only added if there
# are no keys.
ROW = "row"
# polars has many chunks of rows in memory at once. It would put more rows into a chunk by
# itself, so this saves memory.
ROWS_IN_CHUNK = 20_000
# Parts are compressed by zstd. The lowest level is the fastest one.
COMPRESSION_LEVEL = 1

# A function that adds the user's features to a table, as further columns.
FeatureFunction = Callable[[pl.LazyFrame], pl.LazyFrame]
# A function that returns metadata for the Parquet parts, from the raw files and the types of
# the prepared columns.
MetadataFunction = Callable[[list[Source], Mapping[str, pl.DataType]], dict[str, str]]


@dataclass
class WrittenParts:
    """What was written into the parts: the raw files, the types, and a summary by file."""

    sources: list[Source]
    types: dict[str, pl.DataType]
    #: One row for each file that has rows. The column `rows` is the number of rows. With a
    #: target, `filled` counts the rows with a value in the target, and `infinite` counts
    #: the rows in which this value is infinite.
    summary: pl.DataFrame
    #: Notes that concern all files. Notes on a single file are in its source.
    notes: list[Note]
    #: The checks of data.expect. The summary also has their results for each file.
    checks: list[Check]


@dataclass(frozen=True)
class PartWriter:
    """Writes the rows of raw files as numbered Parquet parts, such as part-00000.parquet."""

    folder: Path
    #: A folder for temporary files.
    scratch: Path
    #: The largest number of rows in a part.
    rows_per_part: int
    roles: ColumnRoles
    add_features: FeatureFunction
    #: Each part has the metadata that this function returns, for the steps that follow.
    create_metadata: MetadataFunction

    @property
    def hashes_file(self) -> Path:
        """Return the path of the hashes of the columns that must be unique."""
        return self.scratch / "hashes.parquet"

    def write(self, opened: OpenedFiles) -> WrittenParts:
        """Write all rows as parts, and return what was written.

        Rows of training data without a finite value in the target are left out. Raises
        DataError if the files cannot be combined into one table, or if a file cannot be
        read or written.
        """
        typed = choose_types(opened.sources, self.roles)
        sources = typed.sources
        checks = create_checks(sources, typed.types, self.roles)
        with self._explain_system_errors():
            # This copies the rows of many files, which fails if the disk is full.
            rows = stack_rows(
                sources, typed.types, self.scratch, with_row_numbers=len(checks) > 0
            )

        # Until `_write_in_one_pass`, polars only plans the outputs.
        if self.roles.target:
            table = self._select_training_rows(rows, self.roles.target, typed.types)
        else:
            table = self._select_rows_to_score(rows)
        summary = self._summarize(rows, typed, checks)
        hashes = select_hashes(rows, checks)
        # Columns that are only read to check their rules are not written.
        prepared_types = {
            name: dtype
            for name, dtype in typed.types.items()
            if name not in self.roles.only_checked
        }
        metadata = self.create_metadata(sources, prepared_types)

        # One pass over the rows writes the parts and the hashes, and computes the summary.
        collected_summary = self._write_in_one_pass(table, summary, hashes, metadata)
        return WrittenParts(
            sources=sources,
            types=prepared_types,
            summary=collected_summary,
            notes=opened.notes + typed.notes,
            checks=checks,
        )

    def _select_training_rows(
        self, rows: pl.LazyFrame, target: str, types: Mapping[str, pl.DataType]
    ) -> pl.LazyFrame:
        """Select the rows and columns to train on, and add the user's features.

        Rows without a finite value in the target are left out.
        """
        target_values = cs.by_name(target).as_expr()
        is_infinite = _is_infinite(target, types[target])
        table = self._select_prepared_columns(rows)
        table = table.filter(target_values.is_not_null() & ~is_infinite)
        table = apply_features(table, self.add_features, [*self.roles.keys, target])
        if not self.roles.keys:
            # Without keys, data to score gets a column ROW, so no feature may have its name.
            _check_row_name(table)
        return table

    def _select_rows_to_score(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Select all rows and the columns to score, and add the user's features.

        Without keys, the rows are numbered.
        """
        table = self._select_prepared_columns(rows)
        table = apply_features(table, self.add_features, self.roles.keys)
        return table if self.roles.keys else _number_rows(table)

    def _select_prepared_columns(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Drop the columns that were only needed to check the rows."""
        # The names of columns that prep has added to the rows begin with a NUL character.
        added_columns = cs.starts_with("\0")
        only_checked = cs.by_name(*self.roles.only_checked, require_all=False)
        return rows.drop(added_columns | only_checked)

    def _summarize(
        self, rows: pl.LazyFrame, typed: TypedFiles, checks: Sequence[Check]
    ) -> pl.LazyFrame:
        """Return the summary of the rows, with one row for each file that has rows.

        Its columns are the number of rows, the values that `aggregate_broken_rows` finds
        for the rules and, with a target, the numbers of values (`filled`) and of infinite
        values (`infinite`) in the target.
        """
        aggregations = aggregate_broken_rows(checks)
        target = self.roles.target
        if target:
            filled_count = cs.by_name(target).as_expr().count()
            infinite_count = _is_infinite(target, typed.types[target]).sum()
            aggregations.append(filled_count.alias("filled"))
            aggregations.append(infinite_count.alias("infinite"))
        has_several_files = len(typed.sources) > 1
        return aggregate_by_file(
            rows, *aggregations, has_several_files=has_several_files
        )

    def _write_in_one_pass(
        self,
        table: pl.LazyFrame,
        summary: pl.LazyFrame,
        hashes: pl.LazyFrame | None,
        metadata: dict[str, str],
    ) -> pl.DataFrame:
        """Write the table into Parquet parts, and return the computed summary.

        The hashes, if there are any, are written into `hashes_file`. All of this takes a
        single pass over the rows. Raises DataError if the operating system refuses to read
        or write a file.
        """
        parts = pl.PartitionBy(
            self.folder,
            file_path_provider=lambda part: f"part-{part.index_in_partition:05}.parquet",
            max_rows_per_file=self.rows_per_part,
        )
        written = table.sink_parquet(
            parts,
            compression_level=COMPRESSION_LEVEL,
            metadata=metadata,
            mkdir=True,
            lazy=True,
        )
        outputs = [summary, written]
        if hashes is not None:
            outputs.append(hashes.sink_parquet(self.hashes_file, lazy=True))
        with (
            self._explain_system_errors(),
            # By itself, polars would put more rows into a chunk, which takes more memory.
            pl.Config(streaming_chunk_size=ROWS_IN_CHUNK),
        ):
            collected_summary, *_ = pl.collect_all(
                outputs,
                # With this optimization, polars would keep the rows of Parquet files in
                # memory, because several outputs need them.
                optimizations=pl.QueryOptFlags(comm_subplan_elim=False),
                engine="streaming",
            )
        return collected_summary

    @contextmanager
    def _explain_system_errors(self) -> Iterator[None]:
        """Raise DataError if the operating system refuses to read or write a file."""
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
    """Write raw files as prepared parts, and return what was written.

    The types of the columns are first guessed from the first rows of each file. If this
    fails, or if later rows of some files contradict the guess, all rows of these files are
    read to find the types, and all parts are written again. The first rows of all other
    files, whose guess is confirmed, are enough.

    Raises DataError if the data cannot be read, or cannot be combined into one table.
    """
    options = ReadOptions(text_format, writer.roles)
    written = _write_with_guessed_types(raw, options, writer)
    if written is None:
        written = _write_again(raw, options, writer, confirmed=set())
    else:
        confirmed = find_confirmed_files(written.sources, written.summary)
        if len(confirmed) < len(written.sources):
            written = _write_again(raw, options, writer, confirmed)
    # The report notes how many markers, such as NA, were read as missing values.
    set_marker_counts(written.sources, written.summary)
    return written


def _write_again(
    raw: Path, options: ReadOptions, writer: PartWriter, confirmed: set[str]
) -> WrittenParts:
    """Delete the parts that were written with wrong types, and write all rows again.

    `confirmed` are the names of the files whose guessed types have been right. All rows of
    the other files are read to find the types.
    """
    _delete_parts(writer.folder)
    opened = open_files(raw, writer.scratch, options, trusted=confirmed)
    return writer.write(opened)


def _write_with_guessed_types(
    raw: Path, options: ReadOptions, writer: PartWriter
) -> WrittenParts | None:
    """Write the parts with types that are guessed from the first rows of the files.

    Returns None if polars or a check fails, because a wrong guess may be the cause. If the
    data itself is wrong, writing the parts again will raise the same error. Raises
    DataError if a file cannot be opened.
    """
    try:
        # A DataError while opening the files does not depend on a guess, so it is raised.
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
    """Return an expression for whether each value of a column is an infinite number.

    `dtype` is the type of the column. Only floats can be infinite.
    """
    if dtype != pl.Float64:
        return pl.lit(False)
    return cs.by_name(name).as_expr().is_infinite()


def _number_rows(table: pl.LazyFrame) -> pl.LazyFrame:
    """Add the column ROW in front, which numbers the rows from 0."""
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
    """Add the user's features to the table, and convert them to the types of prepared data.

    `add_features` is the function features() in prep.py. Raises DataError if polars cannot
    carry it out, if it leaves out a column that is `required`, or if it adds a column of a
    type that is not supported.
    """
    # If the user's code itself raises an error, it is not caught: its traceback shows the
    # line to correct.
    table = _convert_feature_types(add_features(table), required)
    try:
        schema = table.collect_schema()
    except pl.exceptions.PolarsError as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(f"features() in prep.py fails: {first_line}.") from None
    for name in required:
        if name not in schema:
            raise DataError(
                f"features() in prep.py leaves out the column '{name}', which settings.yml"
                " names as the target or as a key."
            )
    for name, dtype in schema.items():
        if name not in required and dtype not in TYPE_NAMES:
            raise DataError(
                f"features() in prep.py gives the column '{name}' the type {dtype}, which"
                " is not a number, a date or text: convert it to one of these."
            )
    return table


def _convert_feature_types(
    table: pl.LazyFrame, required: Sequence[str]
) -> pl.LazyFrame:
    """Convert all columns except the `required` ones to the types that features have.

    These are integers and floats of 64 bits, times in microseconds, and text. Columns of
    other types are not changed.
    """
    # Selectors choose columns by name or type, and are combined like sets.
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
