"""The project's settings, read and checked: `settings.yml` and `.azureml/config.json`.

    read()            what is done, all that a local run needs; opens no config.json
    read_workspace()  where on Azure it is done: config.json, place in settings.yml
    examine()         all there is to say about both: wrong, empty and unusual values

The first two raise SettingsError, whose text names every wrong value and is ready to
print. The rules stand here, once: for the generation (the template's hook imports this
module), for `check`, and for all that is sent to Azure. Nothing is needed but the
standard library and PyYAML.
"""

from __future__ import annotations

import difflib
import json
import keyword
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = "settings.yml"
CONFIG = ".azureml/config.json"

CLOUDS = {  # login, resource manager
    "AzureCloud": ("login.microsoftonline.com", "management.azure.com"),
    "AzureUSGovernment": ("login.microsoftonline.us", "management.usgovcloudapi.net"),
    "AzureChinaCloud": ("login.chinacloudapi.cn", "management.chinacloudapi.cn"),
}

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

# Azure opens new regions: one that is not here is unusual, not wrong.
_REGIONS = """
australiacentral australiacentral2 australiaeast australiasoutheast austriaeast
belgiumcentral brazilsouth brazilsoutheast canadacentral canadaeast centralindia
centralus centraluseuap chilecentral chinaeast chinaeast2 chinaeast3 chinanorth
chinanorth2 chinanorth3 denmarkeast eastasia eastus eastus2 eastus2euap francecentral
francesouth germanynorth germanywestcentral indonesiacentral israelcentral italynorth
japaneast japanwest jioindiacentral jioindiawest koreacentral koreasouth malaysiawest
mexicocentral newzealandnorth northcentralus northeurope norwayeast norwaywest
polandcentral qatarcentral southafricanorth southafricawest southcentralus southeastasia
southindia spaincentral swedencentral swedensouth switzerlandnorth switzerlandwest
taiwannorth uaecentral uaenorth uksouth ukwest usdodcentral usdodeast usgovarizona
usgovtexas usgovvirginia westcentralus westeurope westindia westus westus2 westus3
"""
REGIONS = frozenset(_REGIONS.split())

# A package with one of these names would hide a folder of the project, or a module that
# the project or one of its dependencies imports.
_TAKEN = """
steps tests notebooks data docs environment runs build dist mlruns venv conftest
prep train evaluate register score
adal alembic azure azureml click cloudpickle comm cryptography debugpy docker duckdb
fastapi flask git google graphql ipykernel ipython jedi jinja2 joblib jupyter jupyterlab
jwt mako matplotlib mlflow msal msrest nbformat numpy packaging pandas parso pip polars
psutil pyarrow pydantic pygments pytest pytz referencing requests rich scipy setuptools
six sklearn skops sqlalchemy starlette tabulate tornado traitlets urllib3 werkzeug wheel
yaml zmq
"""
TAKEN = sys.stdlib_module_names.union(_TAKEN.split())


@dataclass(frozen=True)
class Problem:
    """One thing to say about one value; `str()` of it is a sentence."""

    file: str
    key: str  # empty where the whole file is meant
    text: str  # goes on after the key
    fix: str
    kind: str = "wrong"  # or "empty": to fill in, or "unusual": allowed, worth a look

    def __str__(self) -> str:
        where = ": ".join(filter(None, [self.file, self.key]))
        return f"{where} {self.text}: {self.fix}."


class SettingsError(Exception):
    """Settings are wrong or missing: `problems`, and as text one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test, and how a wrong one is mended."""

    words: str
    fits: Callable[[Any], bool]
    mend: Callable[[Any], Any] = lambda value: value
    find: str = ""  # where to find a value; without it a value must not be empty
    doubt: Callable[[str], str] = lambda value: ""  # about a value that fits

    def check(self, file: str, key: str, value: Any, kind: Any = str) -> Problem | None:
        """What there is to say about a value that should be a `kind`."""

        def say(text: str, fix: str, kind: str = "wrong") -> Problem:
            return Problem(file, key, text, fix, kind)

        kinds = get_args(kind) or (kind,)
        shown = _shown(value)
        fix = f"write {self.find}" if self.find else "correct it"
        if value == "" and self.find:
            return say("is empty", fix, "empty")
        if type(value) in kinds and self.fits(value):
            doubt = self.doubt(value)
            return say(f"is {shown}", doubt, "unusual") if doubt else None
        if re.fullmatch(r"\s*(<.*>|0{8}(-0{4}){3}-0{12})\s*", str(value)):
            return say(f"is {shown}, a placeholder", fix)
        if isinstance(value, (str, int, float)):
            with suppress(ValueError):
                mended = self.mend(kinds[0](str(value).strip()))
                if self.fits(mended):  # text in place of a number is mended by quotes
                    fix = f"write {mended if isinstance(value, str) else repr(mended)}"
        return say(f"is {shown}, but must be {self.words}", fix)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):  # what YAML can hold, and JSON cannot
        return repr(value)


def _like(pattern: str) -> Callable[[str], bool]:
    # fullmatch, because `$` lets a trailing newline through
    return lambda value: re.fullmatch(pattern, value) is not None


def _tidy(other: str, instead: str) -> Callable[[str], str]:
    def mend(value: str) -> str:
        plain = unicodedata.normalize("NFKD", value)
        plain = "".join(c for c in plain if not unicodedata.combining(c))
        return re.sub(f"({other})+", instead, plain).strip("-_. ")

    return mend


def _from(low: int, high: float = math.inf) -> Rule:
    to = "or more" if high == math.inf else f"to {high}"
    return Rule(f"a whole number, {low} {to}", lambda number: low <= number <= high)


def _one_of(*choices: str) -> Rule:
    def mend(value: str) -> str:
        same = [choice for choice in choices if choice.lower() == value.lower()]
        return (same or difflib.get_close_matches(value, choices, 1) or [""])[0]

    return Rule(f"one of {', '.join(choices)}", choices.__contains__, mend)


def _mend_subscription(value: str) -> str:
    digits = re.sub("[^0-9a-f]", "", value.lower())  # braces off, hyphens put right
    return re.sub("^(.{8})(.{4})(.{4})(.{4})", r"\1-\2-\3-\4-", digits)


def _mend_cluster(value: str) -> str:
    def letter(number: re.Match[str]) -> str:  # cpu-cluster-1 becomes cpu-cluster-a
        n = int(number[1])
        return f"-{chr(96 + n)}" if n <= 26 else f"-n{n}"

    return re.sub(r"-(\d+)$", letter, _tidy("[^a-zA-Z0-9-]", "-")(value))


def _mend_package(value: str) -> str:
    name = _tidy("[^a-zA-Z0-9_]", "_")(value)
    name = f"p{name}" if name[:1].isdigit() else name
    taken = keyword.iskeyword(name) or name.lower() in TAKEN
    return f"{name}_project" if taken else name


def _doubt_region(value: str) -> str:
    close = difflib.get_close_matches(value, REGIONS, 1)
    meant = f"unless it is new, write {close[0]}" if close else "check its spelling"
    return "" if value in REGIONS else f"no region of this name is known here, {meant}"


def _is_time(value: str) -> bool:
    try:
        return bool(datetime.strptime(value, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return False


# Sources of the names' rules: Microsoft's page of resource name rules, the ARM types of
# Microsoft.MachineLearningServices, azureml-core (experiment) and the Studio (cluster).
NAME = Rule(
    "1 to 255 letters, digits, hyphens and underscores, a letter or digit first",
    _like("[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}"),
    _tidy("[^a-zA-Z0-9_-]", "-"),
)
PACKAGE = Rule(
    "1 to 80 letters, digits and underscores, a letter first, and neither a word of "
    "Python nor a module or folder that the project uses",
    lambda value: _like("[a-zA-Z][a-zA-Z0-9_]{0,79}")(value)
    and not keyword.iskeyword(value)
    and value.lower() not in TAKEN,
    _mend_package,
)
SUBSCRIPTION = Rule(
    "an id such as 12345678-9abc-def0-1234-56789abcdef0",
    _like("(?!0{8}(-0{4}){3}-0{12})[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    _mend_subscription,
    "what `az account show --query id --output tsv` prints",
)
RESOURCE_GROUP = Rule(
    "1 to 90 letters, digits, hyphens, underscores, periods and round brackets, and "
    "not end with a period",
    _like(r"[\w.()-]{0,89}[\w()-]"),
    _tidy(r"[^\w.()-]", "-"),
    "a resource group's name (`az group list --output table` shows those there are)",
)
WORKSPACE = Rule(
    "3 to 33 letters, digits, hyphens and underscores, a letter or digit first",
    _like("[a-zA-Z0-9][a-zA-Z0-9_-]{2,32}"),
    _tidy("[^a-zA-Z0-9_-]", "-"),
    "a workspace's name (`az ml workspace list --output table` shows those there are)",
)
REGION = Rule(
    "a region's short name, in lower-case letters and digits",
    _like("[a-z][a-z0-9]+"),
    lambda value: re.sub("[^a-z0-9]", "", value.lower()),
    "the workspace's region (`az account list-locations --output table` shows them)",
    _doubt_region,
)
CLUSTER = Rule(
    "3 to 24 letters, digits and hyphens, a letter first, and a letter somewhere after "
    "each hyphen",
    _like("[a-zA-Z](?!.*-[0-9]*$)[a-zA-Z0-9-]{2,23}"),
    _mend_cluster,
    "a compute cluster's name, such as cpu-cluster",
    lambda value: "longer than the 16 that are safe" if len(value) > 16 else "",
)
VM_SIZE = Rule(
    "letters, digits, hyphens and underscores, such as Standard_DS3_v2",
    _like("[a-zA-Z0-9_-]+"),
    lambda value: re.sub(r"\s+", "_", value),
    "a VM size, such as Standard_DS3_v2",
    lambda value: (
        ""
        if re.fullmatch(r"(?i)standard_[a-z]+\d+[\w-]*", value)
        else "sizes look like Standard_DS3_v2 (`az ml compute list-sizes` shows them)"
    ),
)
FILES = Rule("a path, from the project's folder on", lambda value: value.strip() != "")
COLUMN = Rule(
    "a column's name, and not begin with a hyphen, as options of the steps do",
    lambda value: value != "" and not value.startswith("-"),
)
OTHERS = ("raw_data", "register")  # parameters of the training pipeline
HYPERPARAMETER = Rule("a number, a text, true or false", lambda value: True)
MODEL_VERSION = Rule(
    "latest, or a version's number",
    lambda value: value == "latest" or (isinstance(value, int) and value >= 1),
    lambda value: int(value) if value.isdecimal() else "latest",
)
TIME_ZONE = Rule(
    "a time zone of Windows, such as UTC or W. Europe Standard Time",
    _like("[A-Z][^/]+"),
)
START_TIME = Rule(
    "a time such as 2027-01-31T06:00:00, with no zone behind it", _is_time
)


@dataclass(frozen=True)
class Data:
    """What is read: paths, from the project's folder on, and the roles of columns."""

    training: Annotated[str, FILES]
    scoring: Annotated[str, FILES]
    target: Annotated[str, COLUMN]
    keys: list[Annotated[str, COLUMN]]
    ignore: list[Annotated[str, COLUMN]]
    rows_per_part: Annotated[int, _from(1)]

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """Key, text and fix of what is right by itself, but not together."""
        for key, columns in {"keys": self.keys, "ignore": self.ignore}.items():
            if self.target in columns:
                yield key, f"names the target, {self.target}", "take it out there"
        for column in dict.fromkeys(self.keys + self.ignore):
            if (self.keys + self.ignore).count(column) > 1:
                key = "ignore" if column in self.ignore else "keys"
                yield key, f"names {column} again", "name it once, in keys or in ignore"


@dataclass(frozen=True)
class Training:
    """How a model is trained and held to account."""

    test_fraction: Annotated[float, Rule("above 0, below 1", lambda f: 0 < f < 1)]
    seed: Annotated[int, _from(0, 2**32 - 1)]
    register: Annotated[str, _one_of("unless_worse", "always")]
    hyperparameters: dict[str, Annotated[bool | int | float | str, HYPERPARAMETER]]


@dataclass(frozen=True)
class Scoring:
    """Which model scores, and how the work is cut into mini-batches."""

    model_version: Annotated[str | int, MODEL_VERSION]
    mini_batch_size: Annotated[int, _from(1)]
    process_count_per_node: Annotated[int, _from(1)]
    run_max_try: Annotated[int, _from(1)]
    run_invocation_timeout: Annotated[int, _from(1)]
    error_threshold: Annotated[int, _from(-1)]


@dataclass(frozen=True)
class Compute:
    """The compute cluster that the steps run on in Azure ML."""

    name: Annotated[str, CLUSTER]
    vm_size: Annotated[str, VM_SIZE]
    max_nodes: Annotated[int, _from(1)]


@dataclass(frozen=True)
class Schedule:
    """When a published pipeline runs: the arguments of azureml's ScheduleRecurrence."""

    frequency: Annotated[str, _one_of("Minute", "Hour", "Day", "Week", "Month")]
    interval: Annotated[int, _from(1)]
    hours: list[Annotated[int, _from(0, 23)]] | None = None
    minutes: list[Annotated[int, _from(0, 59)]] | None = None
    week_days: list[Annotated[str, _one_of(*DAYS)]] | None = None
    time_zone: Annotated[str, TIME_ZONE] = "UTC"
    start_time: Annotated[str, START_TIME] | None = None

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """Key, text and fix of what is right by itself, but not together."""
        for key in ("hours", "minutes", "week_days"):
            periods = ["Week"] if key == "week_days" else ["Day", "Week"]
            if getattr(self, key) is not None and self.frequency not in periods:
                fix = f"delete it, or write frequency: {periods[0]}"
                yield key, f"does not go with frequency: {self.frequency}", fix


@dataclass(frozen=True)
class Place:
    """In which cloud and region the workspace is."""

    region: Annotated[str, REGION]
    cloud: Annotated[str, _one_of(*CLOUDS)]


@dataclass(frozen=True)
class Config:
    """What `.azureml/config.json` holds, the file that Azure's SDKs look for."""

    subscription_id: Annotated[str, SUBSCRIPTION]
    resource_group: Annotated[str, RESOURCE_GROUP]
    workspace_name: Annotated[str, WORKSPACE]


@dataclass(frozen=True)
class Workspace(Config, Place):
    """The Azure ML workspace, from both files."""


@dataclass(frozen=True)
class Settings:
    """All of `settings.yml`; `name` is the experiment's and the registered model's."""

    name: Annotated[str, NAME]
    task: Annotated[str, _one_of("classification", "regression")]
    data: Data
    training: Training
    scoring: Scoring
    workspace: Place
    compute: Compute
    schedule: Schedule | None = None


def read(root: Path = ROOT) -> Settings:
    """What `settings.yml` in `root` says; SettingsError when any of it is wrong.

    The values that only Azure needs (compute name and size, region) may be empty.
    """
    settings, problems = _read(Settings, root, SETTINGS)
    _refuse(problems)
    return settings  # type: ignore[no-any-return]


def read_workspace(
    root: Path = ROOT,
    needs: Iterable[str] = ("subscription_id", "resource_group", "workspace_name"),
) -> Workspace:
    """The workspace; SettingsError when a value is wrong, or one of `needs` is empty.

    `needs` are names of fields of Workspace, or "compute.name" and "compute.vm_size":
    what is about to be done on Azure decides what must be filled in.
    """
    config, problems = _read(Config, root, CONFIG)
    settings, others = _read(Settings, root, SETTINGS)
    _refuse([*problems, *others], [*needs])
    return Workspace(**vars(settings.workspace), **vars(config))


def examine(root: Path = ROOT) -> list[Problem]:
    """All that is wrong, empty or unusual in both files, and the package's name."""
    package = PACKAGE.check("", "package_name", Path(__file__).resolve().parent.name)
    problems = _read(Settings, root, SETTINGS)[1] + _read(Config, root, CONFIG)[1]
    return [package, *problems] if package else problems


def _refuse(problems: list[Problem], needs: list[str] | None = None) -> None:
    def stops(problem: Problem) -> bool:
        if problem.kind == "empty":
            return problem.key.removeprefix("workspace.") in (needs or [])
        return problem.kind == "wrong"

    stopping = [*filter(stops, problems)]
    if stopping:
        raise SettingsError(stopping)


def _read(kind: Any, root: Path, file: str) -> tuple[Any, list[Problem]]:
    """The `kind` that a file holds, or None; and what there is to say about it."""
    text, fix = "", "correct it, or restore it from version control"
    try:
        content = (root / file).read_text(encoding="utf-8-sig")
        if not content.strip():
            text = "is empty"
        else:
            values = json.loads(content) if file == CONFIG else yaml.safe_load(content)
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
    known = {field.name: field.default for field in fields(kind)}
    if not isinstance(values, dict):
        text = f"is {_shown(values)}, but must hold names with values"
        problems.append(Problem(file, key, text, f"write {', '.join(known)} there"))
        return None
    dot, found, meant, before = f"{key}." if key else "", {}, set(), len(problems)
    for name in [name for name in values if name not in known]:
        close = difflib.get_close_matches(str(name), known.keys() - values.keys(), 1)
        fix = f"write {close[0]}" if close else f"delete it ({', '.join(known)} are)"
        problems.append(Problem(file, f"{dot}{name}", "is not a setting", fix))
        meant.update(close)
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name in values:
            found[name] = _value(hint, values[name], file, f"{dot}{name}", problems)
        elif known[name] is MISSING and name not in meant:
            problems.append(Problem(file, f"{dot}{name}", "is missing", "add it"))
    if any(problem.kind == "wrong" for problem in problems[before:]):
        return None
    made = kind(**found)
    for name, text, fix in made.conflicts() if hasattr(made, "conflicts") else ():
        problems.append(Problem(file, f"{dot}{name}", text, fix))
    return made


def _is_name(name: Any, file: str, key: str, problems: list[Problem]) -> bool:
    """Whether a name can be that of a pipeline parameter of its own."""
    if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(name)) and name not in OTHERS:
        return True
    text = "is not a name of letters, digits and underscores"
    text = "is a parameter of the pipeline already" if name in OTHERS else text
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
            text = f"is {_shown(value)}, but must be a list"
            problems.append(Problem(file, key, text, f"write [{value}]"))
        return []
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            text = f"is {_shown(value)}, but must hold names with values"
            problems.append(Problem(file, key, text, "write NAME: VALUE there"))
            return {}
        one = get_args(hint)[1]
        return {
            name: _value(one, item, file, f"{key}.{name}", problems)
            for name, item in value.items()
            if _is_name(name, file, f"{key}.{name}", problems)
        }
    kind, rule = get_args(hint)
    if file == SETTINGS and kind is str:  # what YAML makes of nothing, and of a time
        value = "" if value is None else value
        value = value.isoformat() if isinstance(value, date) else value
    value = float(value) if kind is float and type(value) is int else value
    problem = rule.check(file, key, value, kind)
    if problem:
        problems.append(problem)
    return value
