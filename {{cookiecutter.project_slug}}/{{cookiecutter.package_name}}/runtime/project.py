"""A project: where its files are, its settings, read and checked, and its pipelines.

`settings.yml` says what is done, `.azureml/config.json` in which workspace. Every wrong
value is named at once. Nothing is needed but the standard library and PyYAML.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from datetime import date
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_type_hints

import yaml

from . import rules
from .rules import Problem, one_of, shown, whole

SETTINGS = "settings.yml"
CONFIG = ".azureml/config.json"
NEEDED = ("subscription_id", "resource_group", "workspace_name")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

#: Key, text and fix of each value that is right by itself, but not beside the others.
Conflicts = Iterable[tuple[str, str, str]]
_hints = partial(get_type_hints, include_extras=True)


class CommandError(Exception):
    """What was asked for cannot be done; the message says why, and how to mend it."""


class SettingsError(CommandError):
    """Settings are wrong or missing: `problems`, and as text one line for each."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


@dataclass(frozen=True)
class Compute:
    """The compute cluster that the steps run on in Azure ML."""

    name: Annotated[str, rules.CLUSTER]
    vm_size: Annotated[str, rules.VM_SIZE]
    max_nodes: rules.Count


@dataclass(frozen=True)
class Schedule:
    """When a published pipeline runs, in the words of azureml's ScheduleRecurrence."""

    frequency: Annotated[str, one_of("Minute", "Hour", "Day", "Week", "Month")]
    interval: rules.Count
    hours: list[Annotated[int, whole(0, 23)]] | None = None
    minutes: list[Annotated[int, whole(0, 59)]] | None = None
    week_days: list[Annotated[str, one_of(*DAYS)]] | None = None
    time_zone: Annotated[str, rules.TIME_ZONE] = "UTC"
    start_time: Annotated[str, rules.START_TIME] | None = None

    def words(self) -> str:
        return ", ".join(
            f"{name} {value}" for name, value in vars(self).items() if value
        )

    def conflicts(self) -> Conflicts:
        text = f"does not go with frequency: {self.frequency}"
        for key in ("hours", "minutes", "week_days"):
            first = "Week" if key == "week_days" else "Day"
            if getattr(self, key) is not None and self.frequency not in (first, "Week"):
                yield key, text, f"delete it, or write frequency: {first}"


@dataclass(frozen=True)
class Location:
    """In which cloud and region the workspace is."""

    region: Annotated[str, rules.REGION]
    cloud: Annotated[str, one_of(*rules.CLOUDS)]


@dataclass(frozen=True)
class Config:
    """What `.azureml/config.json` holds, the file that Azure's SDKs look for."""

    subscription_id: Annotated[str, rules.SUBSCRIPTION]
    resource_group: Annotated[str, rules.RESOURCE_GROUP]
    workspace_name: Annotated[str, rules.WORKSPACE]


@dataclass(frozen=True)
class WorkspaceConfig(Config, Location):
    """The Azure ML workspace, from both files."""


@dataclass(frozen=True, kw_only=True)
class ProjectSettings:
    """What the settings of every project hold; `name` is the experiment's too."""

    name: Annotated[str, rules.NAME]
    data: Any  # a dataclass of the project's own, with the paths of its data
    workspace: Location
    compute: Compute
    schedules: dict[str, Schedule] = field(default_factory=dict)  # by pipeline
    keep_runs: rules.Count = 20  # on this machine, the newest


@dataclass(frozen=True)
class PipelineDefinition:
    """A pipeline of a project: what builds its steps, and the data that it reads."""

    #: given the settings and, by name, a parameter for each of `data`; as the SDK has it
    build: Callable[[Any, Mapping[str, Any]], Any]
    data: Mapping[str, str]  # to names of settings below `data`


Pipelines = Mapping[str, PipelineDefinition]
S = TypeVar("S", bound=ProjectSettings)


class Project(Generic[S]):
    """A project, by its package's folder and the dataclass of its settings.

    What is read raises SettingsError, which names every wrong value.
    """

    def __init__(self, package: Path, kind: type[S]) -> None:
        self.package, self.root = package.name, package.parent
        self.command = f"python -m {self.package}"
        self.kind = kind

    def settings(self) -> S:
        """What `settings.yml` says; a value that only Azure needs may be empty."""
        settings, said = _read(self.kind, self.root, SETTINGS)
        _refuse(said)
        return settings  # type: ignore[no-any-return]

    def workspace_config(self, needs: Iterable[str] = NEEDED) -> WorkspaceConfig:
        """The workspace; none of `needs`, such as region or compute.name, may be empty."""
        config, said = _read(Config, self.root, CONFIG)
        settings, more = _read(self.kind, self.root, SETTINGS)
        _refuse(said + more, [*needs])
        return WorkspaceConfig(**vars(settings.workspace), **vars(config))

    def data(self) -> dict[str, str]:
        """The paths of data that the settings name, by key, such as `data.training`."""
        data = self.settings().data
        hints = _hints(type(data)).items()
        paths = [name for name, hint in hints if hint == rules.Files]
        return {f"data.{name}": getattr(data, name) for name in paths}

    def parameter_value(self, name: str, text: str) -> Any:
        """A pipeline parameter's value, read and judged as the setting of that name."""
        setting = "max_nodes" if name == "node_count" else name
        for section in filter(is_dataclass, _hints(self.kind).values()):
            if setting in _hints(section):
                value: Any = text
                with suppress(ValueError, yaml.YAMLError):
                    value = yaml.safe_load(text)
                said: list[Problem] = []
                value = _value(_hints(section)[setting], value, "--set", name, said)
                _refuse(said)
                return value
        return text

    def problems(self) -> list[Problem]:
        """All that is wrong, empty or unusual in both files, and the package's name."""
        package = rules.PACKAGE.check("", "package_name", self.package)
        _, settings = _read(self.kind, self.root, SETTINGS)
        _, config = _read(Config, self.root, CONFIG)
        return [*filter(None, [package]), *settings, *config]


def _refuse(said: list[Problem], needs: Iterable[str] = ()) -> None:
    def stops(problem: Problem) -> bool:
        if problem.kind == "empty":
            return problem.key.removeprefix("workspace.") in needs
        return problem.kind == "wrong"

    if any(map(stops, said)):
        raise SettingsError([*filter(stops, said)])


class _Loader(yaml.SafeLoader):
    """Refuses a name that stands twice in a mapping, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        names = [name.value for name, _ in node.value]
        for i, (name, _) in enumerate(node.value):
            if name.value in names[:i]:
                problem = f"{name.value} stands there a second time"
                raise yaml.MarkedYAMLError(None, None, problem, name.start_mark)
        return super().construct_mapping(node, deep)


def _read(kind: Any, root: Path, file: str) -> tuple[Any, list[Problem]]:
    """The dataclass `kind` that a file holds, or None; and what there is to say of it."""
    values, text, form = None, "", "JSON" if file == CONFIG else "YAML"
    fix = "correct it, or restore it from version control"
    try:
        content = (root / file).read_text(encoding="utf-8-sig")
        if not content.strip():
            text = "is empty"
        elif file == CONFIG:
            values = json.loads(content)
            yaml.load(content.replace("\t", " "), _Loader)  # refuses a name twice
        else:
            values = yaml.load(content, _Loader)
    except FileNotFoundError:
        text, fix = "is missing", f"write it, with {', '.join(_hints(kind))}"
    except json.JSONDecodeError as error:
        text = f"is not JSON at line {error.lineno}, column {error.colno} ({error.msg})"
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}"
        text = f"is not {form} at {where} ({error.problem})"
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        text = f"cannot be read ({' '.join(str(error).split())})"
    said = [Problem(file, "", text, fix)] if text else []
    return (None if text else _section(kind, values, file, "", said)), said


def _section(kind: Any, values: Any, file: str, key: str, said: list[Problem]) -> Any:
    """The dataclass `kind` of names with values, or None where something is wrong."""
    hints, dot, before, found = _hints(kind), f"{key}." if key else "", len(said), {}
    names = ", ".join(hints)
    if not isinstance(values, dict):
        text = f"is {shown(values)}, but must hold names with values"
        said.append(Problem(file, key, text, f"write {names} there"))
        return None
    for name, value in values.items():
        at = f"{dot}{name}"
        if name in hints:
            found[name] = _value(hints[name], value, file, at, said)
        else:
            absent = hints.keys() - values.keys()
            close = difflib.get_close_matches(str(name), absent, 1)
            found.update(dict.fromkeys(close))  # or it would be missing too
            fix = f"write {close[0]}" if close else f"delete it ({names} are)"
            said.append(Problem(file, at, "is not a setting", fix))
    for name, setting in signature(kind).parameters.items():
        if name not in found and setting.default is setting.empty:
            said.append(Problem(file, f"{dot}{name}", "is missing", "add it"))
    if any(problem.kind == "wrong" for problem in said[before:]):
        return None
    made = kind(**found)
    if hasattr(made, "conflicts"):
        said += [Problem(file, dot + name, *rest) for name, *rest in made.conflicts()]
    return made


def _value(hint: Any, value: Any, file: str, key: str, said: list[Problem]) -> Any:
    """`value` as the annotation `hint` says; what there is to say of it goes to `said`."""
    inner = get_args(hint)
    if is_dataclass(hint):
        return _section(hint, value, file, key, said)
    if type(None) in inner:
        return None if value is None else _value(inner[0], value, file, key, said)
    kind = hint.__origin__  # list, dict, or the type that a rule is for
    if kind in (list, dict) and value is None:
        return kind()
    if kind is list and isinstance(value, list):
        return [_value(inner[0], item, file, key, said) for item in value]
    if kind is dict and isinstance(value, dict):
        found = {}
        for name, item in value.items():
            at = f"{key}.{name}"
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(name)):
                text = "is not a name of letters, digits and underscores"
                said.append(Problem(file, at, text, "choose another name"))
            found[name] = _value(inner[1], item, file, at, said)
        return found
    if kind in (list, dict):
        must, fix = "hold names with values", "write NAME: VALUE there"
        if kind is list:
            must, fix = "be a list", f"write [{value}]"
        said.append(Problem(file, key, f"is {shown(value)}, but must {must}", fix))
        return None
    if kind is str and file != CONFIG:  # what YAML makes of nothing, and of a time
        value = "" if value is None else value
        value = value.isoformat() if isinstance(value, date) else value
    value = float(value) if kind is float and type(value) is int else value
    said += filter(None, [inner[1].check(file, key, value, kind)])
    return value
