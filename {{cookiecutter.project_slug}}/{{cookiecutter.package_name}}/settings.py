"""What `settings.yml` holds: a setting is a field here, with the rule that it keeps.

To add one, write it in `settings.yml` and as a field below. Those that every
project has (`name`, `workspace`, `compute`, `schedules`) come with `ProjectSettings`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from .runtime import rules
from .runtime.project import Conflicts, Project, ProjectSettings
from .runtime.rules import Column, Count, Files, Rule, Text, one_of, whole


@dataclass(frozen=True)
class Tables:
    """What is read: paths, from the project's folder on, and the roles of columns."""

    training: Files
    scoring: Files
    target: Column
    keys: list[Column]
    ignore: list[Column]
    rows_per_part: Count


@dataclass(frozen=True)
class TextFormat:
    """How the text of CSV files is written, where it differs from the usual."""

    encoding: Text | None = None
    decimal: Annotated[str, one_of(".", ",")] | None = None
    thousands: Annotated[str, one_of(".", ",", " ", "'")] | None = None
    units: list[Text] | None = None
    date_format: Text | None = None
    missing: list[Text] | None = None

    def text_format(self) -> str | None:
        """Return those of these settings that are set, as JSON for prep; None without."""
        values = {field.name: getattr(self, field.name) for field in fields(TextFormat)}
        values = {name: value for name, value in values.items() if value is not None}
        return json.dumps(values) if values else None


@dataclass(frozen=True)
class Data(TextFormat, Tables):
    """All settings below `data`; the fields of `Tables` come first in messages."""

    def conflicts(self) -> Conflicts:
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
    hyperparameters: dict[
        str, Annotated[str | int | float | bool, rules.HYPERPARAMETER]
    ]

    def conflicts(self) -> Conflicts:
        text = "is a parameter of the pipeline already"
        for name in self.hyperparameters.keys() & {"raw_data", "register"}:
            yield f"hyperparameters.{name}", text, "choose another name"


@dataclass(frozen=True)
class Scoring:
    """Which model scores, and how the work is cut into mini-batches."""

    model_version: Annotated[str | int, rules.MODEL_VERSION]
    mini_batch_size: Count
    process_count_per_node: Count
    run_max_try: Count
    run_invocation_timeout: Count
    error_threshold: Annotated[int, whole(-1)]


@dataclass(frozen=True, kw_only=True)
class Settings(ProjectSettings):
    """All of `settings.yml`; of that `settings.NAME.yml` may hold `may_differ`."""

    may_differ = ProjectSettings.may_differ | {"scoring"}

    task: Annotated[str, one_of("classification", "regression")]
    data: Data
    training: Training
    scoring: Scoring


PROJECT = Project(Path(__file__).resolve().parent, Settings)
