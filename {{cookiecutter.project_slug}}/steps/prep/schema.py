"""Write and read the schema of a model: how each column of its training data was read.

When training data is prepared, the schema is written into the metadata of each prepared
Parquet part. The train step saves it with the model, as `schema.json`. When data to score is
prepared, it is read according to this schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
from sources import (
    NUMBER,
    TEXT,
    TYPE_NAMES,
    ColumnRoles,
    ColumnSchema,
    DataError,
    Source,
    get_type_name,
)
from text_values import USUAL_FORMAT, TextFormat

# The version of the layout of `schema.json`. It is raised when older versions of prep would
# misread a new file.
LAYOUT_VERSION = 1
# These settings say how a single file is divided into lines and values. They are not part of
# the schema, because new files may be divided differently.
FILE_SETTINGS = ("encoding", "delimiter", "skip_lines")
# New data may have further units and markers for missing values, in addition to those of the
# training data.
ADDED_SETTINGS = ("missing", "not_missing", "units")


@dataclass(frozen=True)
class ModelSchema:
    """How the training data of a model was read."""

    keys: Sequence[str]
    text_format: TextFormat
    columns: Mapping[str, ColumnSchema]
    target: str | None = None


def build_training_schema(
    sources: list[Source],
    types: Mapping[str, pl.DataType],
    roles: ColumnRoles,
    text_format: TextFormat,
) -> dict[str, Any]:
    """Build the schema of training data, as a dictionary that can be written as JSON.

    `types` has the type of each prepared column. The train step later adds the features of
    the model, and the categories of text columns.
    """
    columns = {}
    for name, dtype in types.items():
        if name == roles.target or name in roles.keys:
            continue
        column: dict[str, Any] = {"type": get_type_name(dtype)}
        if dtype == TEXT:
            # Words such as NA stand for missing values in CSV files. In Parquet files, they
            # are ordinary values.
            column["words_are_missing"] = _is_in_csv(sources, name)
        # Times of day, such as 14:30, are prepared as a number of seconds.
        if dtype == NUMBER and _holds_times(sources, name):
            column["holds_times"] = True
        columns[name] = column

    # A setting is stored if it differs from the usual format. Settings that belong to a
    # single file, such as its encoding, are not stored.
    changed_settings = {}
    for name, value in asdict(text_format).items():
        if value != getattr(USUAL_FORMAT, name) and name not in FILE_SETTINGS:
            changed_settings[name] = value
    return {
        "layout": LAYOUT_VERSION,
        "code": hash_prep_code(),
        "target": roles.target,
        "keys": list(roles.keys),
        "text_format": changed_settings,
        "columns": columns,
    }


def hash_prep_code() -> str:
    """Return a fingerprint of the Python files of the step prep.

    The evaluate step compares the fingerprints of two models to find out whether the same
    code prepared their training data.
    """
    digest = sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode())
        digest.update(sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _is_in_csv(sources: list[Source], name: str) -> bool:
    """Return whether a CSV file has the column."""
    return any(source.is_csv and name in source.columns for source in sources)


def _holds_times(sources: list[Source], name: str) -> bool:
    """Return whether a column was read from times of day in any of the files."""
    columns = [source.columns.get(name) for source in sources]
    return any(column is not None and column.holds_times for column in columns)


def parse_schema(text: str) -> ModelSchema:
    """Parse the `schema.json` of a model.

    Raises DataError if the file is damaged, or if a newer version of this project wrote it.
    """
    try:
        return _build_schema(json.loads(text))
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        # `_build_schema` relies on the structure of the file. If the file is damaged, any of
        # these errors can occur.
        raise DataError(
            f"The file schema.json of the model is damaged ({error!r}): train again with"
            " --set register=always, or choose another version with"
            " scoring.model_version."
        ) from None


def _build_schema(schema: dict[str, Any]) -> ModelSchema:
    """Build the schema of a model from the content of its `schema.json`.

    Raises DataError if a newer version of this project wrote the file.
    """
    if schema["layout"] > LAYOUT_VERSION:
        raise DataError(
            "The model was trained by a newer version of this project, whose schema this"
            " version cannot read: copy steps/prep from the newer version."
        )
    type_by_name = {get_type_name(dtype): dtype for dtype in TYPE_NAMES}
    # The train step lists the features of the model. Without a list, no column is needed.
    features = schema.get("features", [])
    columns = {}
    for name, column in schema["columns"].items():
        # Schemas leave out fields that have the usual value. The "words" are markers such as
        # NA.
        columns[name] = ColumnSchema(
            type=type_by_name[column["type"]],
            markers_are_missing=column.get("words_are_missing", True),
            categories=column.get("categories"),
            holds_times=column.get("holds_times", False),
            is_needed=name in features,
        )
    return ModelSchema(
        keys=schema["keys"],
        text_format=TextFormat.from_settings(schema["text_format"]),
        columns=columns,
        target=schema.get("target"),
    )
