"""A project: where its files are, its settings, read and checked, and its pipelines.

`settings.yml` says what is done, `.azureml/config.json` in which workspace. Every wrong
value is named at once. Nothing is needed but the standard library and PyYAML.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml

from . import rules
from .rules import Problem, one_of, shown, whole

SETTINGS = "settings.yml"
CONFIG = ".azureml/config.json"
NEEDED = ("subscription_id", "resource_group", "workspace_name")


class CommandError(Exception):
    """What was asked for cannot be done; the message says why, and how to mend it."""


class SettingsError(CommandError):
    """Settings are wrong or missing: `problems`, and as text one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Compute:
    """The compute cluster that the steps run on in Azure ML."""

    name: Annotated[str, rules.CLUSTER]
    vm_size: Annotated[str, rules.VM_SIZE]
    max_nodes: Annotated[int, whole(1)]


@dataclass(frozen=True)
class Schedule:
    """When a published pipeline runs: the arguments of azureml's ScheduleRecurrence."""

    frequency: Annotated[str, one_of("Minute", "Hour", "Day", "Week", "Month")]
    interval: Annotated[int, whole(1)]
    hours: list[Annotated[int, whole(0, 23)]] | None = None
    minutes: list[Annotated[int, whole(0, 59)]] | None = None
    week_days: list[Annotated[str, one_of(*rules.DAYS)]] | None = None
    time_zone: Annotated[str, rules.TIME_ZONE] = "UTC"
    start_time: Annotated[str, rules.START_TIME] | None = None

    def conflicts(self) -> Iterable[tuple[str, str, str]]:
        """Key, text and fix of what is right by itself, but not together."""
        for key in ("hours", "minutes", "week_days"):
            periods = ["Week"] if key == "week_days" else ["Day", "Week"]
            if getattr(self, key) is not None and self.frequency not in periods:
                fix = f"delete it, or write frequency: {periods[0]}"
                yield key, f"does not go with frequency: {self.frequency}", fix


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


@dataclass(frozen=True)
class PipelineDefinition:
    """A pipeline of a project: what builds its steps, and the data that it reads.

    `build` is given the settings and, by name, a pipeline parameter for each of `data`,
    whose values are names of settings below `data`.
    """

    build: Callable[[Any, Mapping[str, Any]], list[Any]]
    data: Mapping[str, str]


Pipelines = Mapping[str, PipelineDefinition]
S = TypeVar("S", bound=ProjectSettings)


class Project(Generic[S]):
    """A project, by the folder of its package and the dataclass of its settings.

    What is read raises SettingsError, whose text names every wrong value.
    """

    def __init__(self, package: Path, kind: type[S]) -> None:
        self.package, self.root = package.name, package.parent
        self.command = f"python -m {self.package}"
        self.kind = kind

    def settings(self) -> S:
        """What `settings.yml` says, which is all that a local run needs.

        The values that only Azure needs (compute name and size, region) may be empty.
        """
        settings, problems = _read(self.kind, self.root, SETTINGS)
        _refuse(problems)
        return settings  # type: ignore[no-any-return]

    def workspace_config(self, needs: Iterable[str] = NEEDED) -> WorkspaceConfig:
        """The workspace; none of `needs` may be empty.

        `needs` are names of fields of WorkspaceConfig, or "compute.name" and "compute.vm_size":
        what is about to be done on Azure decides what must be filled in.
        """
        config, problems = _read(Config, self.root, CONFIG)
        settings, others = _read(self.kind, self.root, SETTINGS)
        _refuse([*problems, *others], [*needs])
        return WorkspaceConfig(**vars(settings.workspace), **vars(config))

    def data(self) -> dict[str, str]:
        """The paths of data that the settings name, by key, such as `data.training`."""
        data = self.settings().data
        hints = get_type_hints(type(data), include_extras=True)
        return {
            f"data.{name}": getattr(data, name)
            for name, hint in hints.items()
            if rules.FILES in get_args(hint)
        }

    def parameter_value(self, name: str, text: str) -> Any:
        """The value of a pipeline parameter, given as text on the command line.

        One that a setting is called as is read and judged as in `settings.yml`; any
        other is the text itself.
        """
        setting = "max_nodes" if name == "node_count" else name
        for section in get_type_hints(self.kind, include_extras=True).values():
            if is_dataclass(section):
                hint = get_type_hints(section, include_extras=True).get(setting)
                if hint:
                    problems: list[Problem] = []
                    try:
                        value = yaml.safe_load(text)
                    except yaml.YAMLError:
                        value = text
                    value = _value(hint, value, "--set", name, problems)
                    _refuse(problems)
                    return value
        return text

    def problems(self) -> list[Problem]:
        """All that is wrong, empty or unusual in both files, and the package's name."""
        package = rules.PACKAGE.check("", "package_name", self.package)
        others = [
            *_read(self.kind, self.root, SETTINGS)[1],
            *_read(Config, self.root, CONFIG)[1],
        ]
        return [package, *others] if package else others


def _refuse(problems: list[Problem], needs: Iterable[str] = ()) -> None:
    def stops(problem: Problem) -> bool:
        if problem.kind == "empty":
            return problem.key.removeprefix("workspace.") in needs
        return problem.kind == "wrong"

    stopping = [*filter(stops, problems)]
    if stopping:
        raise SettingsError(stopping)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, key in enumerate(keys):
            if key.value in [before.value for before in keys[:i]]:
                problem = f"{key.value} stands there a second time"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of JSON's names and values; ValueError for a name that stands twice."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} stands there a second time")
    return dict(pairs)


def _read(kind: Any, root: Path, file: str) -> tuple[Any, list[Problem]]:
    """The `kind` that a file holds, or None; and what there is to say about it."""
    text, fix = "", "correct it, or restore it from version control"
    try:
        content = (root / file).read_text(encoding="utf-8-sig")
        if not content.strip():
            text = "is empty"
        else:
            values = (
                json.loads(content, object_pairs_hook=_once)
                if file == CONFIG
                else yaml.load(content, _Loader)
            )
    except FileNotFoundError:
        text, fix = "is missing", f"write it, with {', '.join(get_type_hints(kind))}"
    except json.JSONDecodeError as error:
        text = f"is not JSON at line {error.lineno}, column {error.colno} ({error.msg})"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        text = f"is not YAML{where} ({error.problem})"
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        text = f"cannot be read ({' '.join(str(error).split())})"
    problems = [Problem(file, "", text, fix)] if text else []
    return (None if text else _build(kind, values, file, "", problems)), problems


def _build(kind: Any, values: Any, file: str, key: str, problems: list[Problem]) -> Any:
    """The dataclass `kind` of `values`, or None; what is to say goes to `problems`."""
    known = {field.name: _is_required(field) for field in fields(kind)}
    if not isinstance(values, dict):
        text = f"is {shown(values)}, but must hold names with values"
        problems.append(Problem(file, key, text, f"write {', '.join(known)} there"))
        return None
    dot, found, meant, before = f"{key}." if key else "", {}, set(), len(problems)
    for name in [name for name in values if name not in known]:
        close = difflib.get_close_matches(str(name), known.keys() - values.keys(), 1)
        fix = f"write {close[0]}" if close else f"delete it ({', '.join(known)} are)"
        problems.append(Problem(file, f"{dot}{name}", "is not a setting", fix))
        meant.update(close)
    hints = get_type_hints(kind, include_extras=True)
    for name in [name for name in values if name in known]:
        found[name] = _value(hints[name], values[name], file, f"{dot}{name}", problems)
    for name in [name for name in known if name not in values]:
        if known[name] and name not in meant:
            problems.append(Problem(file, f"{dot}{name}", "is missing", "add it"))
    if any(problem.kind == "wrong" for problem in problems[before:]):
        return None
    made = kind(**found)
    for name, text, fix in made.conflicts() if hasattr(made, "conflicts") else ():
        problems.append(Problem(file, f"{dot}{name}", text, fix))
    return made


def _is_required(setting: Any) -> bool:
    return setting.default is MISSING and setting.default_factory is MISSING


def _is_name(name: Any, file: str, key: str, problems: list[Problem]) -> bool:
    """Whether a name can be that of a pipeline parameter of its own."""
    if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(name)):
        return True
    text = "is not a name of letters, digits and underscores"
    problems.append(Problem(file, key, text, "choose another name"))
    return False


def _value(hint: Any, value: Any, file: str, key: str, problems: list[Problem]) -> Any:
    """`value` as the annotation `hint` says; what is to say goes to `problems`."""
    if type(None) in get_args(hint):
        if value is None:
            return None
        hint = get_args(hint)[0]
    if is_dataclass(hint):
        return _build(hint, value, file, key, problems)
    if get_origin(hint) is list:
        if isinstance(value, list):
            one = get_args(hint)[0]
            return [_value(one, item, file, key, problems) for item in value]
        if value is not None:
            text = f"is {shown(value)}, but must be a list"
            problems.append(Problem(file, key, text, f"write [{value}]"))
        return []
    if get_origin(hint) is dict:
        if value is None or isinstance(value, dict):
            one = get_args(hint)[1]
            return {
                name: _value(one, item, file, f"{key}.{name}", problems)
                for name, item in (value or {}).items()
                if _is_name(name, file, f"{key}.{name}", problems)
            }
        text = f"is {shown(value)}, but must hold names with values"
        problems.append(Problem(file, key, text, "write NAME: VALUE there"))
        return {}
    kind, rule = get_args(hint)
    if file == SETTINGS and kind is str:  # what YAML makes of nothing, and of a time
        value = "" if value is None else value
        value = value.isoformat() if isinstance(value, date) else value
    value = float(value) if kind is float and type(value) is int else value
    problem = rule.check(file, key, value, kind)
    if problem:
        problems.append(problem)
    return value
