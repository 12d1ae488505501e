"""Write the prepared table as Parquet parts, with the user's features.

In most files, all rows look like the first ones. So the types of the columns are guessed
from the first rows, and verified while all rows are written. If a guess is wrong, the
file is read in full to find the types, and the parts are written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs
from choose_types import choose_types
from combine import (
    aggregate_by_file,
    find_confirmed_files,
    set_missing_words,
    stack_rows,
)
from expectations import Check, choose_checks, count_broken_rows, select_hashes
from messages import find_system_error
from read_files import OpenedFiles, open_files
from read_options import ReadOptions
from sources import TYPE_NAMES, ColumnRoles, DataError, Note, Source
from text_values import TextFormat

ROW = "row"  # The column that numbers the rows to score, from 0, if there are no keys.
# polars holds many chunks of rows in memory at once. Its own chunks are larger.
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
        types = typed.types
        checks = choose_checks(sources, types, self.roles)
        with self._explain_errors():
            rows = stack_rows(
                sources, types, self.scratch, with_row_numbers=len(checks) > 0
            )

        only_checked = cs.by_name(*self.roles.only_checked, require_all=False)
        table = rows.drop(cs.starts_with("\0") | only_checked)
        aggregations = count_broken_rows(checks)
        target = self.roles.target
        if target:
            values = cs.by_name(target).as_expr()
            is_infinite = pl.lit(False)
            if types[target] == pl.Float64:
                is_infinite = values.is_infinite()
            table = table.filter(values.is_not_null()).remove(is_infinite)
            aggregations.append(values.count().alias("filled"))
            aggregations.append(is_infinite.sum().alias("infinite"))

        table = self._select_columns(table)
        summary = aggregate_by_file(
            rows, *aggregations, has_many_files=len(sources) > 1
        )
        prepared_types = {
            name: dtype
            for name, dtype in types.items()
            if name not in self.roles.only_checked
        }
        metadata = self.create_metadata(sources, prepared_types)
        hashes = select_hashes(rows, checks)
        return WrittenParts(
            sources=sources,
            types=prepared_types,
            summary=self._sink(table, summary, hashes, metadata),
            notes=opened.notes + typed.notes,
            checks=checks,
        )

    def _select_columns(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """Return the table with the user's features, and with row numbers if needed."""
        keys = self.roles.keys
        target = self.roles.target
        required = [*keys, target] if target else keys
        table = apply_features(table, self.add_features, required)
        if keys:
            return table
        if ROW in table.collect_schema():
            raise DataError(
                f"The column '{ROW}' has the name of the row numbers in the predictions:"
                " list it under data.keys or data.ignore in settings.yml, or rename it."
            )
        if target:
            return table
        return table.with_row_index(ROW).cast({ROW: pl.Int64})

    def _sink(
        self,
        table: pl.LazyFrame,
        summary: pl.LazyFrame,
        hashes: pl.LazyFrame | None,
        metadata: dict[str, str],
    ) -> pl.DataFrame:
        """Write the table, and return the summary, in one pass over the raw files.

        The hashes, if there are any, are written to `hashes_file` in the same pass. Raises
        DataError if the system does not let a file be read or written.
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
        """Turn an error of the system into a DataError with its reason."""
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
        for part in writer.folder.glob("part-*.parquet"):
            part.unlink()
        opened = open_files(raw, writer.scratch, options, trusted=confirmed)
        written = writer.write(opened)
    set_missing_words(written.sources, written.summary)
    return written


def _write_with_guessed_types(
    raw: Path, options: ReadOptions, writer: PartWriter
) -> WrittenParts | None:
    """Write the parts with types that are guessed from the first rows of the files.

    Returns None if that fails: a wrong guess can make polars or our own checks fail. If
    the data is the reason, writing the parts again raises the error again. Only errors
    of opening the files do not depend on a guess. They are raised as DataError.
    """
    try:
        opened = open_files(raw, writer.scratch, options)
    except pl.exceptions.PolarsError:
        return None
    try:
        return writer.write(opened)
    except (DataError, pl.exceptions.PolarsError):
        return None


def apply_features(
    table: pl.LazyFrame, add_features: FeatureFunction, required: Sequence[str]
) -> pl.LazyFrame:
    """Return the table with the user's features, in the types of prepared tables.

    Raises DataError if `features` fails, leaves out one of the columns that are
    `required`, or adds a column of a type that is not supported.
    """
    others = ~cs.by_name(*required, require_all=False)
    integers = others & cs.integer()
    numbers = others & (cs.numeric() - cs.integer())
    times = others & cs.datetime(time_zone=None)
    categories = others & (cs.categorical() | cs.enum())
    table = add_features(table).with_columns(
        integers.cast(pl.Int64),
        numbers.cast(pl.Float64),
        times.cast(pl.Datetime("us")),
        categories.cast(pl.String),
    )
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
