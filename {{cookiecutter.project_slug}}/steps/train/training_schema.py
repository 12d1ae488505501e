"""Save the schema of the training data: how prep read each of its raw columns.

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
    """Return the schema in the metadata of the prepared parts.

    Returns None if the parts have no schema, because another program wrote them.
    """
    part = min(prepared.glob("*.parquet"))
    text = pl.read_parquet_metadata(part).get("schema")
    return None if text is None else json.loads(text)


def complete_schema(
    schema: Schema, table: pl.DataFrame, features: Sequence[str]
) -> Schema:
    """Return the schema with the model's features and the categories of its text columns.

    Prep uses both when it reads new data to score. The features tell it which columns are
    required. The categories tell it how a code was written in the training data: if "007"
    is a category, prep turns the number 7 into "007".

    A column with more than MOST_CATEGORIES distinct values gets no categories.
    """
    columns = dict(schema["columns"])
    for name, column in schema["columns"].items():
        was_read_as_text = column["type"] == "text"
        if not was_read_as_text or name not in table.columns:
            continue

        categories = get_column(table, name).drop_nulls().unique()
        # The function `features` in prep.py may have changed the type of the column.
        is_still_text = categories.dtype == TEXT
        if is_still_text and len(categories) <= MOST_CATEGORIES:
            columns[name] = {**column, "categories": sorted(categories)}
    return {**schema, "columns": columns, "features": list(features)}


def save_schema(schema: Schema, model: Path) -> None:
    """Save the schema in the folder of a model."""
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    (model / FILE_NAME).write_text(text, encoding="utf-8")
