"""The rules of names and settings.

Before a project is generated, the template's hook checks the answers by these rules. In a
project, all commands check the settings files by them. This module imports only the
standard library, because the hook runs in the environment of cookiecutter.
"""

from __future__ import annotations

import keyword
import re
import sys
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from string import ascii_lowercase
from typing import Any, NamedTuple

from .regions import REGIONS, find_misspelt_region, find_regions
from .rule import Rule
from .vm_sizes import advise_on_vm_size, correct_vm_size


class Cloud(NamedTuple):
    """The hosts of an Azure cloud: for logging in, and for managing resources."""

    login: str
    resource_manager: str


CLOUDS = {
    "AzureCloud": Cloud("login.microsoftonline.com", "management.azure.com"),
    "AzureUSGovernment": Cloud(
        "login.microsoftonline.us", "management.usgovcloudapi.net"
    ),
    "AzureChinaCloud": Cloud("login.chinacloudapi.cn", "management.chinacloudapi.cn"),
}


class RegionRule(Rule):
    """The rule of regions, whose corrections may offer several regions to choose from.

    A wrong value is often the name of a city or a country. The correction then lists the
    regions there. If there are none, it lists all regions of Azure.
    """

    def _describe_correction(self, value: Any, value_type: type) -> str:
        """Return which region to write, such as "write swedencentral or swedensouth".

        Returns "" if the value is not text.
        """
        if not isinstance(value, str):
            return ""
        names = find_regions(value) or REGIONS
        return f"write {_list_choices(names)}"


def _list_choices(choices: Iterable[str]) -> str:
    """Return "a or b" for two choices, and "one of a, b, c" for more."""
    names = list(choices)
    if len(names) <= 2:
        return " or ".join(names)
    return f"one of {', '.join(names)}"


def _replace_characters(allowed: str, replacement: str, value: str) -> str:
    """Replace each run of characters that are not allowed, and return the result.

    `allowed` lists characters as in the square brackets of a regular expression, such as
    "a-z0-9". Accents are removed first. Hyphens, underscores, periods and spaces are removed
    from both ends of the result. With "-" as the `replacement`, `größe m` becomes `gro-e-m`.
    """
    # NFKD writes ö as an o and a combining accent, which is then left out.
    decomposed = unicodedata.normalize("NFKD", value)
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    return re.sub(f"[^{allowed}]+", replacement, plain).strip("-_. ")


# The rules. They are taken from Microsoft's page on naming rules for resources, from the
# ARM types of Microsoft.MachineLearningServices, from azureml-core (the name of the
# experiment), and from Azure ML Studio (the name of a cluster).

_NAME = "letters, digits, hyphens and underscores, a letter or digit first"
_NO_OPTION = "and not begin with a hyphen, as options of the steps do"


# The name of the project

# In Windows, these are the names of devices, so no file or folder can have these names.
_WINDOWS_DEVICES = """
aux com1 com2 com3 com4 com5 com6 com7 com8 com9 con lpt1 lpt2 lpt3 lpt4 lpt5 lpt6 lpt7
lpt8 lpt9 nul prn
"""
WINDOWS_DEVICES = frozenset(_WINDOWS_DEVICES.split())
# Azure ML reserves names that begin with these words, in this spelling, for its own
# environments.
_RESERVED_PREFIXES = ("AzureML", "Microsoft")


def _correct_name(value: str) -> str:
    """Return a name with hyphens in place of characters that are not allowed."""
    return _replace_characters("a-zA-Z0-9_-", "-", value)


NAME = Rule(
    requirement=f"1 to 255 {_NAME}",
    test="[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}",
    correct=_correct_name,
)


def _may_be_slug(name: str) -> bool:
    """Return whether a new project may have this slug."""
    if name.startswith(_RESERVED_PREFIXES) or name.lower() in WINDOWS_DEVICES:
        return False
    return re.fullmatch("[a-zA-Z0-9][a-zA-Z0-9_-]{0,99}", name) is not None


def _correct_slug(value: str) -> str:
    """Return an allowed slug that is similar to the value.

    `my project` becomes `my-project`, `AzureML-demo` becomes `azureml-demo`, and `con`
    becomes `con-project`.
    """
    name = _correct_name(value)[:100].rstrip("-_")
    if name.startswith(_RESERVED_PREFIXES):
        # These words are reserved only in this spelling, so lower case is allowed.
        return name.lower()
    if name.lower() in WINDOWS_DEVICES:
        return f"{name}-project"
    return name


# SLUG and NEW_PACKAGE are rules for new projects. They are stricter than NAME and PACKAGE,
# which also accept the names of existing projects, because these cannot be changed any more.
# The slug is the name of a folder, and a part of the environment's name, SLUG-steps, on
# Azure ML.
SLUG = Rule(
    requirement=f"1 to 100 {_NAME}, and neither begin with AzureML or Microsoft, which "
    "Azure ML reserves, nor be the name of a device of Windows, such as con",
    test=_may_be_slug,
    correct=_correct_slug,
)


# The name of the package

# A package with one of these names would hide a folder of the project.
_FOLDERS = """
steps tests notebooks data docs environment runs build dist mlruns venv conftest prep
train evaluate monitor register score summarize
"""
# A package with one of these names would hide a package that the project or one of its
# dependencies imports.
_PACKAGES = """
adal alembic azure azureml click cloudpickle comm cryptography debugpy docker duckdb
fastapi flask git google graphql ipykernel ipython jedi jinja2 joblib jupyter jupyterlab
jwt mako matplotlib mlflow msal msrest nbformat numpy packaging pandas parso pip polars
psutil pyarrow pydantic pygments pytest pytz referencing requests rich scipy setuptools
six sklearn skops sqlalchemy starlette tabulate tornado traitlets urllib3 werkzeug wheel
yaml zmq
"""
# A package with one of these names would hide a module of the standard library in Python
# 3.10 to 3.12. Newer versions, which may generate the project, do not have these modules, so
# their `sys.stdlib_module_names` lacks them.
_REMOVED_MODULES = """
aifc asynchat asyncore audioop binhex cgi cgitb chunk crypt distutils imghdr imp lib2to3
mailcap msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
"""
RESERVED_PACKAGE_NAMES = sys.stdlib_module_names.union(
    _FOLDERS.split(), _PACKAGES.split(), _REMOVED_MODULES.split(), WINDOWS_DEVICES
)


def _is_reserved(name: str) -> bool:
    """Return whether a package must not have this name."""
    return keyword.iskeyword(name) or name.lower() in RESERVED_PACKAGE_NAMES


def _may_be_package(name: str) -> bool:
    """Return whether the package of an existing project may have this name."""
    if _is_reserved(name):
        return False
    return re.fullmatch("[a-zA-Z][a-zA-Z0-9_]{0,79}", name) is not None


def _correct_package(value: str) -> str:
    """Return an allowed name of a package that is similar to the value.

    `my-package` becomes `my_package`, `9lives` becomes `p9lives`, and `json` becomes
    `json_project`.
    """
    name = _replace_characters("a-zA-Z0-9_", "_", value)
    if name[:1].isdigit():
        name = f"p{name}"
    if _is_reserved(name):
        return f"{name}_project"
    return name


PACKAGE = Rule(
    requirement="1 to 80 letters, digits and underscores, a letter first, and neither a "
    "word of Python nor a module or folder that the project uses",
    test=_may_be_package,
    correct=_correct_package,
)


def _may_be_new_package(name: str) -> bool:
    """Return whether the package of a new project may have this name."""
    if _is_reserved(name):
        return False
    return re.fullmatch("[a-z][a-z0-9_]{0,39}", name) is not None


def _correct_new_package(value: str) -> str:
    """Return an allowed name for a new package: in lower case, at most 40 characters."""
    return _correct_package(value.lower())[:40].rstrip("_")


NEW_PACKAGE = Rule(
    requirement="1 to 40 lower-case letters, digits and underscores, a letter first, and "
    "neither a word of Python nor a module or folder that the project uses",
    test=_may_be_new_package,
    correct=_correct_new_package,
)


# The workspace


def _correct_subscription(value: str) -> str:
    """Return an id in lower case, without braces or spaces, with its four hyphens.

    `{123456789ABCDEF0123456789ABCDEF0}` becomes `12345678-9abc-def0-1234-56789abcdef0`.
    """
    digits = re.sub("[^0-9a-f]", "", value.lower())
    return re.sub("^(.{8})(.{4})(.{4})(.{4})", r"\1-\2-\3-\4-", digits)


SUBSCRIPTION = Rule(
    requirement="an id such as 12345678-9abc-def0-1234-56789abcdef0",
    test="(?!0{8}(-0{4}){3}-0{12})[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    correct=_correct_subscription,
    expected_value="what `az account show --query id --output tsv` prints",
    may_be_empty_for_now=True,
)


def _correct_resource_group(value: str) -> str:
    """Return a name with hyphens in place of characters that are not allowed."""
    return _replace_characters(r"\w.()-", "-", value)


RESOURCE_GROUP = Rule(
    requirement="1 to 90 letters, digits, hyphens, underscores, periods and round "
    "brackets, and not end with a period",
    test=r"[\w.()-]{0,89}[\w()-]",
    correct=_correct_resource_group,
    expected_value="a resource group's name (`az group list --output table` lists the "
    "groups)",
    may_be_empty_for_now=True,
)
WORKSPACE = Rule(
    requirement=f"3 to 33 {_NAME}",
    test="[a-zA-Z0-9][a-zA-Z0-9_-]{2,32}",
    correct=_correct_name,
    expected_value="a workspace's name (`az ml workspace list --output table` lists the "
    "workspaces)",
    may_be_empty_for_now=True,
)


def _may_be_region(name: str) -> bool:
    """Return whether a name is a region, or may be a new region that is not in REGIONS.

    `paris` cannot be the name of a new region, because it means francecentral.
    """
    if name in REGIONS:
        return True
    is_city_or_other_spelling = bool(find_regions(name))
    if is_city_or_other_spelling:
        return False
    return re.fullmatch("[a-z][a-z0-9]+", name) is not None


def _correct_region(value: str) -> str:
    """Return the only region that a name or a place may mean.

    Returns "" if there is no such region, or if there are several.
    """
    names = find_regions(value)
    return names[0] if len(names) == 1 else ""


def _advise_on_region(name: str) -> str:
    """Return advice if a region is not in REGIONS, the list of known regions.

    Returns "" for a known region.
    """
    if name in REGIONS:
        return ""
    similar_region = find_misspelt_region(name)
    choices = similar_region or _list_choices(REGIONS)
    return f"no region of this name is known; unless it is new, write {choices}"


REGION = RegionRule(
    requirement="the short name of a region, in lower-case letters and digits",
    test=_may_be_region,
    correct=_correct_region,
    expected_value="the workspace's region (`az account list-locations --output table` "
    "lists the regions)",
    may_be_empty_for_now=True,
    advise_if_unusual=_advise_on_region,
)


# The compute cluster

# How many characters the name of a cluster may have in every part of Azure ML.
LONGEST_CLUSTER_EVERYWHERE = 16


def _correct_cluster(value: str) -> str:
    """Return a cluster's name that Azure ML allows.

    Characters that are not allowed are replaced by hyphens. Azure ML also refuses a name
    that ends in a hyphen and a number. A number from 1 to 26 is therefore replaced by a
    letter: `cpu-cluster-1` becomes `cpu-cluster-a`. Any other number gets an n before it:
    27 becomes n27.
    """
    name = _replace_characters("a-zA-Z0-9-", "-", value)
    start, hyphen, last_part = name.rpartition("-")
    if start and last_part.isdecimal():
        number = int(last_part)
        if 1 <= number <= len(ascii_lowercase):
            last_part = ascii_lowercase[number - 1]
        else:
            last_part = f"n{number}"
    return start + hyphen + last_part


def _advise_on_cluster(name: str) -> str:
    """Return advice if a cluster's name is too long for some parts of Azure ML.

    Returns "" if the name is short enough.
    """
    if len(name) <= LONGEST_CLUSTER_EVERYWHERE:
        return ""
    return (
        f"shorten it to {LONGEST_CLUSTER_EVERYWHERE} characters, which every part of "
        "Azure ML accepts"
    )


CLUSTER = Rule(
    requirement="3 to 24 letters, digits and hyphens, a letter first, and a letter "
    "somewhere after each hyphen",
    test="[a-zA-Z](?!.*-[0-9]*$)[a-zA-Z0-9-]{2,23}",
    correct=_correct_cluster,
    expected_value="a compute cluster's name, such as cpu-cluster",
    may_be_empty_for_now=True,
    advise_if_unusual=_advise_on_cluster,
)

VM_SIZE = Rule(
    requirement="letters, digits, hyphens and underscores, such as Standard_D4ds_v4",
    test="[a-zA-Z0-9_-]+",
    correct=correct_vm_size,
    expected_value="a VM size, such as Standard_D4ds_v4",
    may_be_empty_for_now=True,
    advise_if_unusual=advise_on_vm_size,
)
IDENTITY = Rule(
    requirement="system, or the resource id of a user-assigned identity, such as "
    "/subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.ManagedIdentity/"
    "userAssignedIdentities/NAME",
    test="system|/subscriptions/[^/]+/resource[gG]roups/[^/]+/providers/"
    "Microsoft.ManagedIdentity/userAssignedIdentities/[^/]+",
    correct=str.lower,
)
SUBNET = Rule(
    requirement="the resource id of a subnet, such as /subscriptions/ID/resourceGroups/"
    "GROUP/providers/Microsoft.Network/virtualNetworks/NETWORK/subnets/NAME",
    test="/subscriptions/[^/]+/resource[gG]roups/[^/]+/providers/"
    "Microsoft.Network/virtualNetworks/[^/]+/subnets/[^/]+",
)


# Data, models and schedules


def _accept(_: Any) -> bool:
    """Return True, for settings that may have any value of their type."""
    return True


FILES = Rule(
    requirement="a path, from the project's folder on",
    test=r"(?s).*\S.*",
)
COLUMN = Rule(requirement=f"a column's name, {_NO_OPTION}", test="(?s)[^-].*")
TEXT = Rule(requirement=f"some text, {_NO_OPTION}", test="(?s)[^-].*")
HYPERPARAMETER = Rule(requirement="a number, a text, true or false", test=_accept)


def _is_model_version(value: Any) -> bool:
    """Return whether a value is "latest", or a number that is 1 or more."""
    return value == "latest" or (isinstance(value, int) and value >= 1)


def _correct_model_version(value: str) -> int | str:
    """Return the number in a text such as "3" or "v3", or "latest" if there is none."""
    number = value.lower().removeprefix("v")
    return int(number) if number.isdecimal() else "latest"


MODEL_VERSION = Rule(
    requirement="latest, or a version's number",
    test=_is_model_version,
    correct=_correct_model_version,
)


def _is_start_time(value: str) -> bool:
    """Return True if a text is a time such as 2027-01-31T06:00:00.

    Raises ValueError if it is not.
    """
    datetime.strptime(value, "%Y-%m-%dT%H:%M:%S")
    return True


def _correct_start_time(value: str) -> str:
    """Return a time with a T between the date and the time of day."""
    return value.replace(" ", "T")


TIME_ZONE = Rule(
    requirement="a time zone of Windows, such as UTC or W. Europe Standard Time",
    test="[A-Z][^/]+",
)
START_TIME = Rule(
    requirement="a time such as 2027-01-31T06:00:00, without a time zone",
    test=_is_start_time,
    correct=_correct_start_time,
)
