"""The schema of the training data: how prep read each raw column of it.

Prep writes it into the metadata of each prepared part. It is saved with the model, so that
scoring's prep reads new data as the training data was read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from split import TEXT, get_column

FILE_NAME = "schema.json"
# Of a column of text with more different values, they are not kept.
MOST_CATEGORIES = 10_000

Schema = dict[str, Any]


def read_schema(prepared: Path) -> Schema | None:
    """Return the schema that prep has written into the prepared parts, if it has."""
    part = min(prepared.glob("*.parquet"))
    text = pl.read_parquet_metadata(part).get("schema")
    return None if text is None else json.loads(text)


def complete_schema(
    schema: Schema, table: pl.DataFrame, features: Sequence[str]
) -> Schema:
    """Return the schema with the features of the model, and the categories of text.

    By them, scoring's prep tells which columns must be there, and how a number in a
    column of text was spelled.
    """
    columns = {}
    for name, column in schema["columns"].items():
        columns[name] = column
        if column["type"] != "text" or name not in table.columns:
            continue
        categories = get_column(table, name).drop_nulls().unique()
        if categories.dtype == TEXT and len(categories) <= MOST_CATEGORIES:
            columns[name] = {**column, "categories": sorted(categories)}
    return {**schema, "columns": columns, "features": list(features)}


def save_schema(schema: Schema, model: Path) -> None:
    """Save the schema in the folder of a model."""
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    (model / FILE_NAME).write_text(text, encoding="utf-8")
