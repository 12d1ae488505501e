"""The project's settings: `settings.yml` and `.azureml/config.json`, read and checked.

Needs nothing but the standard library and PyYAML: the template's hook imports it too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

ROOT = Path(__file__).resolve().parents[1]


class SettingsError(Exception):
    """A setting is wrong; the message says which, where it stands and how to mend it."""


@dataclass(frozen=True)
class Data:
    """What is read: paths relative to the project, and the roles of columns."""

    training: str
    scoring: str
    target: str
    keys: list[str]
    ignore: list[str]
    rows_per_part: int


@dataclass(frozen=True)
class Training:
    """How a model is trained and held to account."""

    test_fraction: float
    seed: int
    learning_rate: float
    max_iterations: int


@dataclass(frozen=True)
class Scoring:
    """Which model scores, and how the work is cut into mini-batches."""

    model_version: Union[str, int]
    parts_per_batch: int
    processes_per_node: int
    max_tries: int
    timeout_seconds: int
    error_threshold: int


@dataclass(frozen=True)
class Compute:
    """The compute cluster that the steps run on in Azure ML."""

    name: str
    vm_size: str
    max_nodes: int


@dataclass(frozen=True)
class Workspace:
    """The Azure ML workspace; empty values mean that none is configured yet."""

    subscription_id: str
    resource_group: str
    workspace_name: str
    region: str
    cloud: str


@dataclass(frozen=True)
class Settings:
    """Everything in `settings.yml` and `.azureml/config.json`."""

    name: str
    task: str
    data: Data
    training: Training
    scoring: Scoring
    workspace: Workspace
    compute: Compute


def read(root: Path = ROOT) -> Settings:
    """The settings of the project in `root`; SettingsError if one is missing or wrong."""
    values = _mapping(root / "settings.yml", yaml.safe_load)
    workspace = _mapping(root / ".azureml" / "config.json", json.loads)
    values["workspace"] = {**workspace, **(values.get("workspace") or {})}
    settings: Settings = _typed(Settings, values, "")
    return settings


def _mapping(path: Path, parse: Any) -> dict[str, Any]:
    """The mapping that a settings file holds."""
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing: restore it from version control.") from None
    except (ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must hold names with values, not {type(values).__name__}.")
    return values


def _typed(kind: Any, value: Any, key: str) -> Any:
    """`value` as a `kind` (a dataclass or a plain type); `key` is where it stands."""
    hints = get_type_hints(kind) if hasattr(kind, "__dataclass_fields__") else None
    if hints is not None:
        value = value or {}
        unknown, missing = set(value) - set(hints), set(hints) - set(value)
        if unknown or missing:
            names = ", ".join(f"{key}{name}" for name in sorted(unknown or missing))
            raise SettingsError(f"settings.yml: {'unknown' if unknown else 'missing'}: {names}")
        return kind(**{name: _typed(hint, value[name], f"{key}{name}.") for name, hint in hints.items()})
    if get_origin(kind) is list:
        return [_typed(get_args(kind)[0], item, key) for item in value or []]
    if get_origin(kind) is Union:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and value is None:
        return ""
    if type(value) is not kind:
        raise SettingsError(f"settings.yml: {key[:-1]} is {value!r}, not a {kind.__name__}.")
    return value
