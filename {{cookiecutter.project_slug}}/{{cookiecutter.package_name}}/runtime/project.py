"""A project: where its files are, its settings, read and checked, and its pipelines.

`settings.yml` says what is done, `.azureml/config.json` in which workspace. A further
workspace has a name, a file `.azureml/NAME.json`, and perhaps a `settings.NAME.yml` of
what differs there. Every wrong value is named at once, with its file. Nothing is needed
but the standard library and PyYAML.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
#: By file, what each holds of a setting: the last one counts.
Layers = dict[str, Any]
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
class WorkspaceFiles:
    """What a workspace is read from, by its name here; that of `config.json` has none."""

    name: str = ""

    @property
    def config(self) -> str:
        return f".azureml/{self.name}.json" if self.name else CONFIG

    @property
    def settings(self) -> str:
        """Where the workspace's own settings are written."""
        return f"settings.{self.name}.yml" if self.name else SETTINGS

    @property
    def option(self) -> str:
        """What goes behind a command that is to be run in the workspace."""
        return f" --workspace {self.name}" if self.name else ""


@dataclass(frozen=True)
class WorkspaceConfig(Config, Location):
    """The Azure ML workspace, and the files that it is from."""

    files: WorkspaceFiles


@dataclass(frozen=True, kw_only=True)
class ProjectSettings:
    """What the settings of every project hold; `name` is the experiment's too."""

    name: Annotated[str, rules.NAME]
    data: Any  # a dataclass of the project's own, with the paths of its data
    workspace: Location
    compute: Compute
    schedules: dict[str, Schedule | None] = field(default_factory=dict)  # by pipeline
    keep_runs: rules.Count = 20  # on this machine, the newest

    #: What `settings.NAME.yml` may hold; all else is the same in every workspace.
    may_differ = frozenset({"data", "workspace", "compute", "schedules"})


@dataclass(frozen=True)
class PipelineDefinition:
    """A pipeline of a project: what builds its steps, and the data that it reads."""

    #: given the settings and, by name, a parameter for each of `data`; as the SDK has it
    build: Callable[[Any, Mapping[str, Any]], Any]
    data: Mapping[str, str]  # to names of settings below `data`
    #: The steps that look up the registered model, and so depend on it.
    reads_model: Sequence[str] = ()
    #: The pipeline parameter that names its version; without one, the newest is meant.
    model_version: str | None = None


Pipelines = Mapping[str, PipelineDefinition]
S = TypeVar("S", bound=ProjectSettings)


class Project(Generic[S]):
    """A project, by its package's folder and the dataclass of its settings.

    What is read raises SettingsError, which names every wrong value. It is read for the
    workspace of `config.json`, or for the one that is named.
    """

    def __init__(self, package: Path, kind: type[S], workspace: str = "") -> None:
        self.package, self.root = package.name, package.parent
        self.command = f"python -m {self.package}"
        self.kind, self.files = kind, WorkspaceFiles(workspace)

    def at(self, workspace: str) -> Project[S]:
        """The project for a workspace by its name, of which there must be a file."""
        there = self._for(workspace)
        wrong = rules.NAME.check("", "--workspace", workspace)
        _refuse([wrong] if wrong else there._nowhere())
        return there

    def everywhere(self) -> list[Project[S]]:
        """The project for each workspace of which there is a file, `config.json`'s first."""
        settings = {file.name[9:-4] for file in self.root.glob("settings.*.yml")}
        names = {*self._names()} - {"config"} | settings
        return [self._for(name) for name in ["", *sorted(names)]]

    def _for(self, workspace: str) -> Project[S]:
        return Project(self.root / self.package, self.kind, workspace)

    def _names(self) -> list[str]:
        return sorted(file.stem for file in self.root.glob(".azureml/*.json"))

    def _nowhere(self) -> list[Problem]:
        """What to say of a name that has no workspace's file."""
        name, config, settings = self.files.name, self.files.config, self.files.settings
        if not name or (self.root / config).exists():
            return []
        names, missing = self._names(), f"there is no {config}"
        close = difflib.get_close_matches(name, names, 1)
        if (self.root / settings).exists():
            fix = f"rename it to settings.{close[0]}.yml, or " if close else ""
            text, fix = f"is of no workspace, as {missing}", f"{fix}write that one too"
            return [Problem(settings, "", text, fix)]
        which, known = close[0] if close else "another", ", ".join(names)
        fix = f"write {which}, of those there are ({known})" if names else "write that"
        return [Problem("", "--workspace", f"is {name}, but {missing}", fix)]

    def settings(self) -> S:
        """What `settings.yml` says; a value that only Azure needs may be empty."""
        settings, said = self._read_settings()
        _refuse(said)
        return settings  # type: ignore[no-any-return]

    @property
    def sources(self) -> list[str]:
        """The files that are read: `settings.yml`, what differs, and the workspace's."""
        own, config = self.files.settings, self.files.config
        has_own = own != SETTINGS and (self.root / own).exists()
        return [SETTINGS, *([own] if has_own else []), config]

    def _read_settings(self) -> tuple[Any, list[Problem]]:
        return _read(self.kind, self.root, *self.sources[:-1])

    def workspace_config(self, needs: Iterable[str] = NEEDED) -> WorkspaceConfig:
        """The workspace; none of `needs`, such as region or compute.name, may be empty."""
        config, said = _read(Config, self.root, self.files.config)
        settings, more = self._read_settings()
        _refuse(said + more, [*needs])
        where = vars(settings.workspace) | vars(config)
        return WorkspaceConfig(**where, files=self.files)

    def file_of(self, key: str) -> str:
        """The file that a setting is from."""
        values = _load(self.kind, self.root, self.files.settings, [])
        for name in key.split("."):
            if not isinstance(values, dict) or name not in values:
                return SETTINGS
            values = values[name]
        return self.files.settings

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
                value = _value(_hints(section)[setting], {"--set": value}, name, said)
                _refuse(said)
                return value
        return text

    def problems(self) -> list[Problem]:
        """All that is wrong, empty or unusual in the files, and the package's name."""
        package = rules.PACKAGE.check("", "package_name", self.package)
        _, settings = self._read_settings()
        config = self._nowhere() or _read(Config, self.root, self.files.config)[1]
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


def _load(kind: Any, root: Path, file: str, said: list[Problem]) -> Any:
    """What a file holds; None, and a problem more, if that cannot be read."""
    form = "JSON" if file.endswith(".json") else "YAML"
    fix = "correct it, or restore it from version control"
    try:
        content = (root / file).read_text(encoding="utf-8-sig")
        if content.strip():
            if form == "YAML":
                return yaml.load(content, _Loader)
            values = json.loads(content)
            yaml.load(content.replace("\t", " "), _Loader)  # refuses a name twice
            return values
        text = "is empty"
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
    said.append(Problem(file, "", text, fix))
    return None


def _read(kind: Any, root: Path, *files: str) -> tuple[Any, list[Problem]]:
    """The dataclass `kind` that a file holds, or None; and what there is to say of it.

    A second file holds what differs of what may differ.
    """
    said: list[Problem] = []
    layers: Layers = {}
    for file in files:
        before = len(said)
        values = _load(kind, root, file, said)
        if len(said) == before:
            layers[file] = values
    first, *others = files
    if first not in layers:
        return None, said
    for file in others:
        own: Any = layers.get(file)
        differ = [name for name in _hints(kind) if name in kind.may_differ]
        for name in _hints(kind) if isinstance(own, dict) else ():
            if name in own and name not in differ:
                del own[name]
                text, fix = "is the same in every workspace", f"write it in {first}"
                fix += f" ({', '.join(differ)} may differ)"
                said.append(Problem(file, name, text, fix))
    return _section(kind, layers, "", said), said


def _section(kind: Any, layers: Layers, key: str, said: list[Problem]) -> Any:
    """The dataclass `kind` of names with values, or None where something is wrong."""
    hints, dot, before, found = _hints(kind), f"{key}." if key else "", len(said), {}
    names = ", ".join(hints)
    for file, values in layers.items():
        if not isinstance(values, dict):
            text = f"is {shown(values)}, but must hold names with values"
            said.append(Problem(file, key, text, f"write {names} there"))
            return None
    for name, own in _by_name(layers).items():
        at = f"{dot}{name}"
        if name in hints:
            found[name] = _value(hints[name], own, at, said)
            continue
        for file in own:
            absent = hints.keys() - layers[file].keys()
            close = difflib.get_close_matches(str(name), absent, 1)
            found.update(dict.fromkeys(close))  # or it would be missing too
            fix = f"write {close[0]}" if close else f"delete it ({names} are)"
            said.append(Problem(file, at, "is not a setting", fix))
    first, *others = layers
    for name, setting in signature(kind).parameters.items():
        if name not in found and setting.default is setting.empty:
            said.append(Problem(first, f"{dot}{name}", "is missing", "add it"))
    if any(problem.kind == "wrong" for problem in said[before:]):
        return None
    made = kind(**found)
    if hasattr(made, "conflicts"):
        alone = others and _section(kind, {first: layers[first]}, key, [])
        known = [*alone.conflicts()] if alone else []
        for conflict in made.conflicts():
            name, *rest = conflict
            file = first if conflict in known else [*layers][-1]
            said.append(Problem(file, dot + name, *rest))
    return made


def _by_name(layers: Layers) -> dict[Any, Layers]:
    """What each name of a section has for values, by file."""
    found: dict[Any, Layers] = {}
    for file, values in layers.items():
        for name, value in values.items():
            found.setdefault(name, {})[file] = value
    return found


def _value(hint: Any, layers: Layers, key: str, said: list[Problem]) -> Any:
    """The last value as the annotation `hint` says; what is to be said goes to `said`.

    Only sections are put together from more than one file, and a `dict` by its names.
    """
    inner, (file, value) = get_args(hint), [*layers.items()][-1]
    if not all(isinstance(one, dict) for one in layers.values()):
        layers = {file: value}
    if is_dataclass(hint):
        return _section(hint, layers, key, said)
    if type(None) in inner:
        return None if value is None else _value(inner[0], layers, key, said)
    kind = hint.__origin__  # list, dict, or the type that a rule is for
    if kind in (list, dict) and value in (None, kind()):
        return kind()
    if kind is list and isinstance(value, list):
        return [_value(inner[0], {file: item}, key, said) for item in value]
    if kind is dict and isinstance(value, dict):
        found = {}
        for name, own in _by_name(layers).items():
            at, (file, item) = f"{key}.{name}", [*own.items()][-1]
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(name)):
                text = "is not a name of letters, digits and underscores"
                said.append(Problem(file, at, text, "choose another name"))
            found[name] = _value(inner[1], {file: item}, at, said)
        return found
    if kind in (list, dict):
        must, fix = "hold names with values", "write NAME: VALUE there"
        if kind is list:
            must, fix = "be a list", f"write [{value}]"
        said.append(Problem(file, key, f"is {shown(value)}, but must {must}", fix))
        return None
    # What YAML makes of nothing, and of a time:
    if kind is str and not file.endswith(".json"):
        value = "" if value is None else value
        value = value.isoformat() if isinstance(value, date) else value
    value = float(value) if kind is float and type(value) is int else value
    said += filter(None, [inner[1].check(file, key, value, kind)])
    return value
