"""Writing the prepared table as Parquet parts, with the user's features.

Most files are in all rows as their first rows are. So the types of the columns are
guessed from these, and verified while all rows are written. If that fails for a file, it
is looked through from its first row to its last, and the parts are written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs
from combine import choose_types, confirm_types, stack_rows, summarise_files
from expectations import Check, choose_checks, count_broken_rows, select_hashes
from read_files import open_files
from sources import TYPE_NAMES, ColumnRoles, DataError, Source, find_system_error
from text_values import TextFormat

ROW = "row"  # numbers the rows to score, from 0, where no key column names them
# Rows at a time, of which many are under way: fewer than is usual take less memory.
ROWS_IN_MEMORY = 20_000

AddFeatures = Callable[[pl.LazyFrame], pl.LazyFrame]
Describe = Callable[[list[Source], Mapping[str, pl.DataType]], dict[str, str]]


@dataclass
class WrittenParts:
    """What was read for the prepared parts, and how many rows of each file it was.

    `summary` has a row for each file that has rows: its number of `rows` and, with a
    target, how many have a value in it (`filled`), and how many of these are `infinite`.
    It also has the figures of the `checks` of data.expect.
    """

    sources: list[Source]
    types: dict[str, pl.DataType]
    summary: pl.DataFrame
    checks: list[Check]


@dataclass(frozen=True)
class PartWriter:
    """Writes the rows of raw files as Parquet parts of at most `rows_per_part` rows.

    Each part has metadata for the steps that follow: `describe` returns it, given the
    files and the types of their columns. Rows of many files are first copied into the
    folder `scratch`.
    """

    folder: Path
    scratch: Path
    rows_per_part: int
    roles: ColumnRoles
    add_features: AddFeatures
    describe: Describe

    @property
    def hashes_file(self) -> Path:
        """Return the file with the hashes of the columns that must be unique."""
        return self.scratch / "hashes.parquet"

    def write(self, sources: list[Source]) -> WrittenParts:
        """Write all rows, but those without a target. Raises DataError if it cannot."""
        types = choose_types(sources, self.roles)
        checks = choose_checks(sources, types, self.roles)
        with self._explain_errors():
            rows = stack_rows(
                sources, types, self.scratch, with_row_numbers=len(checks) > 0
            )
        only_checked = cs.by_name(*self.roles.only_checked, require_all=False)
        table = rows.drop(cs.starts_with("\0") | only_checked)
        figures = count_broken_rows(checks)
        target = self.roles.target
        if target:
            values = cs.by_name(target)
            is_infinite = pl.lit(False)
            if types[target] == pl.Float64:
                is_infinite = values.is_infinite()
            figures.append(values.count().alias("filled"))
            figures.append(is_infinite.sum().alias("infinite"))
            table = table.drop_nulls(values).remove(is_infinite)
        table = self._select_columns(table)
        summary = summarise_files(rows, *figures, several=len(sources) > 1)
        prepared_types = {
            name: dtype
            for name, dtype in types.items()
            if name not in self.roles.only_checked
        }
        summarised = self._sink(
            table,
            summary,
            select_hashes(rows, checks),
            self.describe(sources, prepared_types),
        )
        return WrittenParts(sources, prepared_types, summarised, checks)

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
        with self._explain_errors(), pl.Config(streaming_chunk_size=ROWS_IN_MEMORY):
            summarised, *_ = pl.collect_all(
                outputs,
                # polars would keep Parquet in memory for all, see `stack_rows`.
                optimizations=pl.QueryOptFlags(comm_subplan_elim=False),
                engine="streaming",
            )
        return summarised

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
    confirmed: set[str] = set()
    # Guessed types may be wrong, and so may be what polars or we say of them.
    with suppress(pl.exceptions.PolarsError):
        sources = open_files(raw, writer.scratch, text_format, writer.roles)
        with suppress(DataError):
            written = writer.write(sources)
            confirmed = confirm_types(sources, written.summary)
            if len(confirmed) == len(sources):
                return written
    for part in writer.folder.glob("part-*.parquet"):
        part.unlink()
    sources = open_files(
        raw, writer.scratch, text_format, writer.roles, trusted=confirmed
    )
    written = writer.write(sources)
    confirm_types(sources, written.summary)
    return written


def apply_features(
    table: pl.LazyFrame, add_features: AddFeatures, required: Sequence[str]
) -> pl.LazyFrame:
    """Return the table with the user's features, in the types of prepared tables.

    Raises DataError if `features` fails, leaves out one of the columns that are
    `required`, or makes one of another kind.
    """
    added = ~cs.by_name(*required, require_all=False)
    table = add_features(table).with_columns(
        (added & cs.integer()).cast(pl.Int64),
        (added & cs.numeric() - cs.integer()).cast(pl.Float64),
        (added & cs.datetime(time_zone=None)).cast(pl.Datetime("us")),
        (added & (cs.categorical() | cs.enum())).cast(pl.String),
    )
    try:
        schema = table.collect_schema()
    except pl.exceptions.PolarsError as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(f"features() in prep.py fails: {first_line}.") from None
    for name in required:
        if name not in schema:
            raise DataError(
                f"features() in prep.py leaves out the column '{name}', which is the"
                " target or a key by settings.yml."
            )
    for name, dtype in schema.items():
        if name not in required and dtype not in TYPE_NAMES:
            raise DataError(
                f"features() in prep.py makes the column '{name}' of type {dtype}, which"
                " is neither a number nor a date nor text: convert it."
            )
    return table
