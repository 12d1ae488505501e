"""What `settings.yml` holds: a setting is a field here, with the rule that it keeps.

To add one, write it in `settings.yml` and as a field below. Those that every
project has (`name`, `workspace`, `compute`, `schedules`) come with `ProjectSettings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .runtime.project import Project, ProjectSettings
from .runtime.rules import (
    COLUMN,
    FILES,
    HYPERPARAMETER,
    MODEL_VERSION,
    TEXT,
    Rule,
    one_of,
    whole,
)


@dataclass(frozen=True)
class Data:
    """What is read: paths, from the project's folder on, and the roles of columns."""

    training: Annotated[str, FILES]
    scoring: Annotated[str, FILES]
    target: Annotated[str, COLUMN]
    keys: list[Annotated[str, COLUMN]]
    ignore: list[Annotated[str, COLUMN]]
    rows_per_part: Annotated[int, whole(1)]
    encoding: Annotated[str, TEXT] | None = None
    decimal: Annotated[str, one_of(".", ",")] | None = None
    thousands: Annotated[str, one_of(".", ",", " ", "'")] | None = None
    units: list[Annotated[str, TEXT]] | None = None
    date_format: Annotated[str, TEXT] | None = None
    missing: list[Annotated[str, TEXT]] | None = None

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """Key, text and fix of what is right by itself, but not together."""
        for key, columns in {"keys": self.keys, "ignore": self.ignore}.items():
            if self.target in columns:
                yield key, f"names the target, {self.target}", "take it out there"
        for column in dict.fromkeys(self.keys + self.ignore):
            if (self.keys + self.ignore).count(column) > 1:
                key = "ignore" if column in self.ignore else "keys"
                yield key, f"names {column} again", "name it once, in keys or in ignore"
        if self.thousands == (self.decimal or "."):
            yield "thousands", "is the decimal mark too", "write both as they differ"


@dataclass(frozen=True)
class Training:
    """How a model is trained and held to account."""

    test_fraction: Annotated[float, Rule("above 0, below 1", lambda f: 0 < f < 1)]
    seed: Annotated[int, whole(0, 2**32 - 1)]
    register: Annotated[str, one_of("unless_worse", "always")]
    hyperparameters: dict[str, Annotated[str | int | float | bool, HYPERPARAMETER]]

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """Key, text and fix of what is right by itself, but not together."""
        for name in self.hyperparameters.keys() & {"raw_data", "register"}:
            text = "is a parameter of the pipeline already"
            yield f"hyperparameters.{name}", text, "choose another name"


@dataclass(frozen=True)
class Scoring:
    """Which model scores, and how the work is cut into mini-batches."""

    model_version: Annotated[str | int, MODEL_VERSION]
    mini_batch_size: Annotated[int, whole(1)]
    process_count_per_node: Annotated[int, whole(1)]
    run_max_try: Annotated[int, whole(1)]
    run_invocation_timeout: Annotated[int, whole(1)]
    error_threshold: Annotated[int, whole(-1)]


@dataclass(frozen=True, kw_only=True)
class Settings(ProjectSettings):
    """All of `settings.yml`."""

    task: Annotated[str, one_of("classification", "regression")]
    data: Data
    training: Training
    scoring: Scoring


PROJECT = Project(Path(__file__).resolve().parent, Settings)
