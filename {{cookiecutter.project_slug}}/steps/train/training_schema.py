"""The schema of the training data: how prep read each of its raw columns.

Prep writes the schema into the metadata of each prepared part. The schema is saved with
the model, so that prep reads new data in the same way when it is scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from split import TEXT, get_column

FILE_NAME = "schema.json"
# If a column of text has more distinct values, the schema does not list them.
MOST_CATEGORIES = 10_000

Schema = dict[str, Any]


def read_schema(prepared: Path) -> Schema | None:
    """Return the schema that prep wrote into the prepared parts, or None without one."""
    part = min(prepared.glob("*.parquet"))
    text = pl.read_parquet_metadata(part).get("schema")
    return None if text is None else json.loads(text)


def complete_schema(
    schema: Schema, table: pl.DataFrame, features: Sequence[str]
) -> Schema:
    """Add the features of the model and the categories of text columns to the schema.

    When new data is scored, prep needs the features to tell which columns must be there.
    It needs the categories to spell a number as the training data did, such as 7 as
    "007". Columns with more than MOST_CATEGORIES distinct values get no categories.
    """
    columns = {}
    for name, column in schema["columns"].items():
        columns[name] = column
        is_prepared_text = column["type"] == "text" and name in table.columns
        if not is_prepared_text:
            continue

        categories = get_column(table, name).drop_nulls().unique()
        # `features` in prep.py may have changed the type of the column.
        is_still_text = categories.dtype == TEXT
        if is_still_text and len(categories) <= MOST_CATEGORIES:
            columns[name] = {**column, "categories": sorted(categories)}
    return {**schema, "columns": columns, "features": list(features)}


def save_schema(schema: Schema, model: Path) -> None:
    """Save the schema in the folder of a model."""
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    (model / FILE_NAME).write_text(text, encoding="utf-8")
