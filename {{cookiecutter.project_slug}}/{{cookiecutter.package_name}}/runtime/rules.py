"""The rules of the settings: what a value must be, and how a wrong one is mended.

The generation (the template's hook imports the settings), `check`, and all that is sent
to Azure go by them. Nothing is needed but the standard library.
"""

from __future__ import annotations

import difflib
import json
import keyword
import math
import re
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, get_args

CLOUDS = {  # login, resource manager
    "AzureCloud": ("login.microsoftonline.com", "management.azure.com"),
    "AzureUSGovernment": ("login.microsoftonline.us", "management.usgovcloudapi.net"),
    "AzureChinaCloud": ("login.chinacloudapi.cn", "management.chinacloudapi.cn"),
}

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

# A package of such a name would hide a folder of the project, or a module that it or a
# dependency imports; then come modules of Python 3.10 and 3.11 that newer Pythons, which
# may run the generation, have no more.
_TAKEN = """
steps tests notebooks data docs environment runs build dist mlruns venv conftest prep
train evaluate register score adal alembic azure azureml click cloudpickle comm
cryptography debugpy docker duckdb fastapi flask git google graphql ipykernel ipython
jedi jinja2 joblib jupyter jupyterlab jwt mako matplotlib mlflow msal msrest nbformat
numpy packaging pandas parso pip polars psutil pyarrow pydantic pygments pytest pytz
referencing requests rich scipy setuptools six sklearn skops sqlalchemy starlette
tabulate tornado traitlets urllib3 werkzeug wheel yaml zmq aifc asynchat asyncore
audioop binhex cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis
nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
"""
# Windows opens a device where a file or folder has one of these names.
_WINDOWS_DEVICES = """
aux com1 com2 com3 com4 com5 com6 com7 com8 com9 con lpt1 lpt2 lpt3 lpt4 lpt5 lpt6 lpt7
lpt8 lpt9 nul prn
"""
TAKEN = sys.stdlib_module_names.union(_TAKEN.split(), _WINDOWS_DEVICES.split())


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


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test, and how a wrong one is mended."""

    words: str
    test: str | Callable[[Any], object]  # a pattern of the whole text, or a function
    mend: Callable[[Any], Any] = lambda value: value
    find: str = ""  # where to find a value; without it a value must not be empty
    doubt: Callable[[str], str] = lambda value: ""  # about a value that fits

    def fits(self, value: Any) -> bool:
        with suppress(ValueError):
            if isinstance(self.test, str):
                return bool(re.fullmatch(self.test, value))
            return bool(self.test(value))
        return False

    def check(self, file: str, key: str, value: Any, kind: Any = str) -> Problem | None:
        """What there is to say about a value that should be a `kind`."""
        kinds = get_args(kind) or (kind,)
        text = f"is {shown(value)}"
        fix = f"write {self.find}" if self.find else "correct it"
        if self.find and value == "":
            return Problem(file, key, "is empty", fix, "empty")
        if type(value) in kinds and self.fits(value):
            doubt = self.doubt(value)
            return Problem(file, key, text, doubt, "unusual") if doubt else None
        if re.fullmatch(r"\s*(<.*>|0{8}(-0{4}){3}-0{12})\s*", str(value)):
            return Problem(file, key, f"{text}, a placeholder", fix)
        if isinstance(value, (str, int, float)):
            with suppress(ValueError):
                mended = self.mend(kinds[0](str(value).strip()))
                if self.fits(mended):  # text in place of a number is mended by quotes
                    fix = f"write {mended if isinstance(value, str) else repr(mended)}"
                    if kinds[0] is str and isinstance(value, (bool, float)):
                        fix = "put it in quotes"  # may be written as yes, or as 1.10
        return Problem(file, key, f"{text}, but must be {self.words}", fix)


def shown(value: Any) -> str:
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):  # what YAML can hold, and JSON cannot
        return repr(value)


def whole(low: int, high: float = math.inf) -> Rule:
    to = "or more" if high == math.inf else f"to {high}"
    return Rule(f"a whole number, {low} {to}", lambda number: low <= number <= high)


def one_of(*choices: str) -> Rule:
    def mend(value: str) -> str:
        same = [choice for choice in choices if choice.lower() == value.lower()]
        return (same or difflib.get_close_matches(value, choices, 1) or [""])[0]

    return Rule(f"one of {', '.join(choices)}", choices.__contains__, mend)


def _tidy(other: str, instead: str, value: str) -> str:
    plain = unicodedata.normalize("NFKD", value)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return re.sub(f"{other}+", instead, plain).strip("-_. ")


def _mend_subscription(value: str) -> str:
    digits = re.sub("[^0-9a-f]", "", value.lower())  # braces off, hyphens put right
    return re.sub("^(.{8})(.{4})(.{4})(.{4})", r"\1-\2-\3-\4-", digits)


def _mend_cluster(value: str) -> str:
    name, hyphen, end = _tidy("[^a-zA-Z0-9-]", "-", value).rpartition("-")
    if name and end.isdecimal():  # cpu-cluster-1 becomes cpu-cluster-a
        end = chr(96 + int(end)) if int(end) <= 26 else f"n{int(end)}"
    return name + hyphen + end


def _is_taken(name: str) -> bool:
    return keyword.iskeyword(name) or name.lower() in TAKEN


def _mend_package(value: str) -> str:
    name = re.sub("^(?=[0-9])", "p", _tidy("[^a-zA-Z0-9_]", "_", value))
    return f"{name}_project" if _is_taken(name) else name


def _mend_new_package(value: str) -> str:
    return _mend_package(value.lower())[:40].rstrip("_")


def _may_name_a_folder(name: str) -> bool:
    return name.lower() not in _WINDOWS_DEVICES.split()


def _mend_slug(value: str) -> str:
    name = _hyphens(value)[:100].rstrip("-_")
    if name.startswith(("AzureML", "Microsoft")):
        return name.lower()
    return name if _may_name_a_folder(name) else f"{name}-project"


def _doubt_region(value: str) -> str:
    close = difflib.get_close_matches(value, REGIONS, 1)
    meant = f"unless it is new, write {close[0]}" if close else "check its spelling"
    return "" if value in REGIONS else f"no region of this name is known here, {meant}"


# Sources of the names' rules: Microsoft's page of resource name rules, the ARM types of
# Microsoft.MachineLearningServices, azureml-core (experiment) and the Studio (cluster).
_NAME = "letters, digits, hyphens and underscores, a letter or digit first"
_NO_OPTION = "and not begin with a hyphen, as options of the steps do"
_SIZES = "sizes look like Standard_DS3_v2 (`az ml compute list-sizes` shows them)"
_hyphens = partial(_tidy, "[^a-zA-Z0-9_-]", "-")
NAME = Rule(f"1 to 255 {_NAME}", "[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}", _hyphens)
PACKAGE = Rule(
    "1 to 80 letters, digits and underscores, a letter first, and neither a word of "
    "Python nor a module or folder that the project uses",
    lambda name: re.fullmatch(r"(?ai)[a-z]\w{0,79}", name) and not _is_taken(name),
    _mend_package,
)
# The generation allows less than PACKAGE and NAME do, by which projects that exist are
# checked: their names cannot be changed any more.
NEW_PACKAGE = Rule(
    "1 to 40 lower-case letters, digits and underscores, a letter first, and neither a "
    "word of Python nor a module or folder that the project uses",
    lambda name: re.fullmatch("[a-z][a-z0-9_]{0,39}", name) and not _is_taken(name),
    _mend_new_package,
)
SLUG = Rule(  # of a folder, and of the environment SLUG-steps on Azure ML
    f"1 to 100 {_NAME}, and neither begin with AzureML or Microsoft, which Azure ML "
    "reserves, nor be the name of a device of Windows, such as con",
    lambda name: (
        re.fullmatch("(?!AzureML|Microsoft)[a-zA-Z0-9][a-zA-Z0-9_-]{0,99}", name)
        and _may_name_a_folder(name)
    ),
    _mend_slug,
)
SUBSCRIPTION = Rule(
    "an id such as 12345678-9abc-def0-1234-56789abcdef0",
    "(?!0{8}(-0{4}){3}-0{12})[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    _mend_subscription,
    "what `az account show --query id --output tsv` prints",
)
RESOURCE_GROUP = Rule(
    "1 to 90 letters, digits, hyphens, underscores, periods and round brackets, and "
    "not end with a period",
    r"[\w.()-]{0,89}[\w()-]",
    partial(_tidy, r"[^\w.()-]", "-"),
    "a resource group's name (`az group list --output table` shows those there are)",
)
WORKSPACE = Rule(
    f"3 to 33 {_NAME}",
    "[a-zA-Z0-9][a-zA-Z0-9_-]{2,32}",
    _hyphens,
    "a workspace's name (`az ml workspace list --output table` shows those there are)",
)
REGION = Rule(
    "a region's short name, in lower-case letters and digits",
    "[a-z][a-z0-9]+",
    lambda value: re.sub("[^a-z0-9]", "", value.lower()),
    "the workspace's region (`az account list-locations --output table` shows them)",
    _doubt_region,
)
CLUSTER = Rule(
    "3 to 24 letters, digits and hyphens, a letter first, and a letter somewhere after "
    "each hyphen",
    "[a-zA-Z](?!.*-[0-9]*$)[a-zA-Z0-9-]{2,23}",
    _mend_cluster,
    "a compute cluster's name, such as cpu-cluster",
    lambda value: "longer than the 16 that are safe" if len(value) > 16 else "",
)
VM_SIZE = Rule(
    "letters, digits, hyphens and underscores, such as Standard_DS3_v2",
    "[a-zA-Z0-9_-]+",
    lambda value: re.sub(r"\s+", "_", value),
    "a VM size, such as Standard_DS3_v2",
    lambda value: "" if re.match(r"(?i)standard_[a-z]+\d", value) else _SIZES,
)
FILES = Rule("a path, from the project's folder on", r"(?s).*\S.*")
COLUMN = Rule(f"a column's name, {_NO_OPTION}", "(?s)[^-].*")
TEXT = Rule(f"some text, {_NO_OPTION}", "(?s)[^-].*")
HYPERPARAMETER = Rule("a number, a text, true or false", lambda value: True)
MODEL_VERSION = Rule(
    "latest, or a version's number",
    lambda value: value == "latest" or (isinstance(value, int) and value >= 1),
    lambda value: int(value) if value.isdecimal() else "latest",
)
TIME_ZONE = Rule(
    "a time zone of Windows, such as UTC or W. Europe Standard Time", "[A-Z][^/]+"
)
START_TIME = Rule(
    "a time such as 2027-01-31T06:00:00, with no zone behind it",
    lambda value: datetime.strptime(value, "%Y-%m-%dT%H:%M:%S"),
)
