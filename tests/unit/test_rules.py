"""Test the rules of names and settings value by value, each with its message and its fix."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from template_package import rules

ID = "12345678-9abc-def0-1234-56789abcdef0"
ZERO = "00000000-0000-0000-0000-000000000000"

# Of every rule: what it allows, values that fit, and values that do not, with their fixes.
NAMES = "letters, digits, hyphens and underscores, a letter or digit first"
FIND_GROUP = "a resource group's name (`az group list --output table` lists the groups)"
FIND_WORKSPACE = (
    "a workspace's name (`az ml workspace list --output table` lists the workspaces)"
)
FIND_ID = "what `az account show --query id --output tsv` prints"
FIND_CLUSTER = "a compute cluster's name, such as cpu-cluster"
FIND_SIZE = "a VM size, such as Standard_D4ds_v4"
RULES: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "SUBSCRIPTION": (
        "an id such as 12345678-9abc-def0-1234-56789abcdef0",
        [ID, ID.upper(), "00000000-0000-0000-0000-000000000001"],
        {
            f"{ID}\n": f"write {ID}",
            f" {ID}": f"write {ID}",
            f"{{{ID}}}": f"write {ID}",
            ID.replace("-", ""): f"write {ID}",
            f"subscription {ID}": f"write {FIND_ID}",
            ID[:-1]: f"write {FIND_ID}",
            ID + "0": f"write {FIND_ID}",
            ID.replace("a", "g"): f"write {FIND_ID}",
            ID.replace("1", "\u0661"): f"write {FIND_ID}",  # an Arabic digit
            "Pay-As-You-Go": f"write {FIND_ID}",
            " ": f"write {FIND_ID}",
        },
    ),
    "RESOURCE_GROUP": (
        (
            "1 to 90 letters, digits, hyphens, underscores, periods and round brackets, and "
            "not end with a period"
        ),
        [
            *("r", "7", "_", "-", "(", "rg", "RG-ml_2(test).x", "größe", "資源", ".a"),
            *("a" * 90, "a" * 89, "a.b", "-rg-"),
        ],
        {
            "rg\n": "write rg",
            "rg.": "write rg",
            "my rg": "write my-rg",
            "rg/ml": "write rg-ml",
            "r&d": "write r-d",
            "rg\tml\n": "write rg-ml",
            "a" * 91: f"write {FIND_GROUP}",
            "a" * 90 + ".": "write " + "a" * 90,
            ".": f"write {FIND_GROUP}",
            "\n": f"write {FIND_GROUP}",
            "!": f"write {FIND_GROUP}",
        },
    ),
    "WORKSPACE": (
        f"3 to 33 {NAMES}",
        ["mlw", "123", "a--", "a__", "ML-Workspace_1", "a" * 33, "a" * 32, "0-a"],
        {
            "ws\n": f"write {FIND_WORKSPACE}",
            "mlw\n": "write mlw",
            "-mlw": "write mlw",
            "_mlw": "write mlw",
            "ml workspace": "write ml-workspace",
            "ml.ws": "write ml-ws",
            "zürich": "write zurich",
            "ws": f"write {FIND_WORKSPACE}",
            "a": f"write {FIND_WORKSPACE}",
            "a" * 34: f"write {FIND_WORKSPACE}",
            "資源群": f"write {FIND_WORKSPACE}",
        },
    ),
    "REGION": (
        "the short name of a region, in lower-case letters and digits",
        [
            "westeurope",
            "eastus2",
            "uksouth",
            "usgovvirginia",
            "chinaeast3",
            "centraluseuap",
        ],
        {
            "West Europe": "write westeurope",
            "westEurope": "write westeurope",
            "WESTEUROPE": "write westeurope",
            "west-europe": "write westeurope",
            "westeurope\n": "write westeurope",
            "East US 2": "write eastus2",
            "(Europe) West Europe": "write westeurope",
            "West Europe (Netherlands)": "write westeurope",
            "EU West": "write westeurope",
            "euwest": "write westeurope",
            "Western Europe": "write westeurope",
            "Amsterdam": "write westeurope",
            "Frankfurt": "write germanywestcentral",
            "frankfurt": "write germanywestcentral",
            "Frankfurt, Germany": "write germanywestcentral",
            "germanywest": "write germanywestcentral",
            "Germany": "write germanywestcentral",
            "Berlin": "write germanynorth",
            "Zurich": "write switzerlandnorth",
            "Zürich": "write switzerlandnorth",
            "Ireland": "write northeurope",
            "Dublin": "write northeurope",
            "London": "write uksouth",
            "Paris": "write francecentral",
            "US East": "write eastus",
            "uswest": "write westus",
            "US West 2": "write westus2",
            "Virginia": "write eastus or eastus2",
            "us gov": "write one of usgovarizona, usgovtexas, usgovvirginia",
            "Narnia Land": f"write one of {', '.join(rules.REGIONS)}",
            "us-east-1": f"write one of {', '.join(rules.REGIONS)}",
            "2": f"write one of {', '.join(rules.REGIONS)}",
            " ": f"write one of {', '.join(rules.REGIONS)}",
        },
    ),
    "CLUSTER": (
        (
            "3 to 24 letters, digits and hyphens, a letter first, and a letter somewhere "
            "after each hyphen"
        ),
        [
            *(
                "cpu",
                "abc",
                "a1b",
                "a23",
                "cpu-cluster",
                "CPU-Cluster",
                "gpu-1a",
                "a--b",
            ),
            *("a-1-b", "train-b1", "a" * 16, "cpu1"),
        ],
        {
            "cpu-cluster-1": "write cpu-cluster-a",
            "cpu-cluster-26": "write cpu-cluster-z",
            "cpu-27": "write cpu-n27",
            "gpu-1-2": "write gpu-1-b",
            "a-0": "write a-n0",
            "train-": "write train",
            "-cpu": "write cpu",
            "cpu_cluster": "write cpu-cluster",
            "cpu cluster": "write cpu-cluster",
            "cpu.cluster": "write cpu-cluster",
            "cpu-cluster\n": "write cpu-cluster",
            "cpu-cluster-1\n": "write cpu-cluster-a",
            "clústér": "write cluster",
            "1cpu": f"write {FIND_CLUSTER}",
            "ab": f"write {FIND_CLUSTER}",
            "a": f"write {FIND_CLUSTER}",
            "a" * 25: f"write {FIND_CLUSTER}",
            "a-1": "write a-a",
            "\u0661cpu": "write cpu",
        },
    ),
    "VM_SIZE": (
        "letters, digits, hyphens and underscores, such as Standard_D4ds_v4",
        [
            *(
                "Standard_D4ds_v4",
                "STANDARD_D4DS_V4",
                "standard_d2s_v5",
                "Standard_D2s_v3",
            ),
            *(
                "Standard_E4-2ads_v5",
                "Standard_NC24ads_A100_v4",
                "Standard_HB120-16rs_v3",
            ),
        ],
        {
            "Standard D4ds v4": "write Standard_D4ds_v4",
            "Standard_D4ds_v4\n": "write Standard_D4ds_v4",
            "Standard_D4ds_v4;": f"write {FIND_SIZE}",
            "größe": f"write {FIND_SIZE}",
            " ": f"write {FIND_SIZE}",
        },
    ),
    "NAME": (
        f"1 to 255 {NAMES}",
        [
            "a",
            "7",
            "penguins",
            "My-Model_2",
            "a-",
            "a_",
            "9-lives",
            "a" * 254,
            "a" * 255,
        ],
        {
            "": "correct it",
            "-a": "write a",
            "_a": "write a",
            "penguins v1": "write penguins-v1",
            "v1.2": "write v1-2",
            "pingüinos": "write pinguinos",
            'say "hi"': "write say-hi",
            "a\\b": "write a-b",
            "a'b": "write a-b",
            "penguins\n": "write penguins",
            "a\nb": "write a-b",
            "a" * 256: "correct it",
            "企鵝": "correct it",
        },
    ),
    "PACKAGE": (
        (
            "1 to 80 letters, digits and underscores, a letter first, and neither a word of "
            "Python nor a module or folder that the project uses"
        ),
        [
            "a",
            "penguins",
            "p9_lives",
            "Penguins",
            "a" * 80,
            "match",
            "settings_",
            "classes",
        ],
        {
            "": "correct it",
            "9lives": "write p9lives",
            "my-package": "write my_package",
            "my package": "write my_package",
            "_private": "write private",
            "a.b": "write a_b",
            "pingüinos": "write pinguinos",
            "penguins\n": "write penguins",
            "a" * 81: "correct it",
            "class": "write class_project",
            "None": "write None_project",
            "import": "write import_project",
            "json": "write json_project",
            "platform": "write platform_project",
            "steps": "write steps_project",
            "Steps": "write Steps_project",
            "tests": "write tests_project",
            "notebooks": "write notebooks_project",
            "docs": "write docs_project",
            "data": "write data_project",
            "train": "write train_project",
            "score": "write score_project",
            "azureml": "write azureml_project",
            "sklearn": "write sklearn_project",
            "yaml": "write yaml_project",
            "企鵝": "correct it",
        },
    ),
    "NEW_PACKAGE": (
        (
            "1 to 40 lower-case letters, digits and underscores, a letter first, and "
            "neither a word of Python nor a module or folder that the project uses"
        ),
        ["a", "penguins", "p9_lives", "a" * 40, "match", "classes"],
        {
            "": "correct it",
            "Penguins": "write penguins",
            "My-Package": "write my_package",
            "None": "write none",
            "Steps": "write steps_project",
            "a" * 41: f"write {'a' * 40}",
            f"{'a' * 39}_b": f"write {'a' * 39}",
            "企鵝": "correct it",
        },
    ),
    "SLUG": (
        (
            "1 to 100 letters, digits, hyphens and underscores, a letter or digit first, "
            "and neither begin with AzureML or Microsoft, which Azure ML reserves, nor be "
            "the name of a device of Windows, such as con"
        ),
        ["a", "9-lives", "penguins-", "azureml-penguins", "a" * 100, "console"],
        {
            "": "correct it",
            "_a": "write a",
            "v1.2": "write v1-2",
            "a" * 101: f"write {'a' * 100}",
            "AzureML-penguins": "write azureml-penguins",
            "Microsoft": "write microsoft",
            "con": "write con-project",
            "LPT1": "write LPT1-project",
            "企鵝": "correct it",
        },
    ),
    "COLUMN": (
        "a column's name, and not begin with a hyphen, as options of the steps do",
        ["Species", "Body Mass (g)", "a-b", "größe", " ", "<x>", "7"],
        {"": "correct it", "-x": "correct it", "--target": "correct it"},
    ),
    "FILES": (
        "a path, from the project's folder on",
        ["data/sample", ".", "C:\\data", "my data"],
        {"": "correct it", " ": "correct it", "\n": "correct it"},
    ),
    "TIME_ZONE": (
        "a time zone of Windows, such as UTC or W. Europe Standard Time",
        ["UTC", "UTC-11", "W. Europe Standard Time", "Pacific Standard Time (Mexico)"],
        {"Europe/Berlin": "correct it", "": "correct it", "utc": "correct it"},
    ),
    "START_TIME": (
        "a time such as 2027-01-31T06:00:00, without a time zone",
        ["2027-01-31T06:00:00", "2024-02-29T23:59:59"],
        {
            "2027-02-29T06:00:00": "correct it",
            "2027-01-31": "correct it",
            "2027-01-31T06:00:00Z": "correct it",
            "2027-01-31T06:00:00+01:00": "correct it",
            "2027-01-31T06:00:00\n": "write 2027-01-31T06:00:00",
            "tomorrow": "correct it",
        },
    ),
}
PLACEHOLDERS = {
    "SUBSCRIPTION": [ZERO, f" {ZERO}\n", "<subscription id>", "<>"],
    "RESOURCE_GROUP": ["<resource-group>", " <rg> "],
    "WORKSPACE": ["<workspace>", "<my workspace>\n"],
    "REGION": ["<region>"],
    "CLUSTER": ["<cluster>"],
}
GOOD = [(rule, value) for rule, (_, good, _) in RULES.items() for value in good]
BAD = [
    (
        rule,
        value,
        f"is {json.dumps(value, ensure_ascii=False)}, but must be {expected}: {fix}.",
    )
    for rule, (expected, _, bad) in RULES.items()
    for value, fix in bad.items()
]
BAD += [
    (rule, value, f"is {json.dumps(value)}, a placeholder: write ")
    for rule, values in PLACEHOLDERS.items()
    for value in values
]
UNUSUAL = [
    (
        "REGION",
        "westeurop",
        "no region of this name is known; unless it is new, write westeurope",
    ),
    ("REGION", "wseteurope", "unless it is new, write westeurope"),
    ("REGION", "narnia", f"write one of {', '.join(rules.REGIONS)}"),
    ("REGION", "westasia", "write one of australiacentral, "),  # not eastasia
    ("REGION", "eastus4", "write one of australiacentral, "),  # not eastus2
    ("REGION", "francfurt", "unless it is new, write germanywestcentral"),
    ("REGION", "ww", "write one of australiacentral, "),
    ("VM_SIZE", "Standard_DS3_v2", "Azure retires it on 2028-05-01, so write a newer"),
    ("VM_SIZE", "STANDARD_D2_V2", "Azure retires it on 2028-05-01, so write a newer"),
    ("VM_SIZE", "Standard_F4s_v2", "Azure retires it on 2028-11-15, so write a newer"),
    ("VM_SIZE", "Standard_NC6s_v3", "Azure retired it on 2025-09-30, so write a newer"),
    ("VM_SIZE", "Basic_A1", "sizes look like Standard_D4ds_v4"),
    ("VM_SIZE", "D4ds_v4", "sizes look like Standard_D4ds_v4"),
    ("CLUSTER", "a" * 17, "shorten it to 16 characters"),
    ("CLUSTER", "a" * 24, "shorten it to 16 characters"),
]


def find_problem(rule: str, value: Any) -> Any:
    """Return the problem with a value by the rule of a name, or None."""
    return getattr(rules, rule).check("key", value)


def list_ids(cases: list[Any]) -> list[str]:
    """Return the rule and the beginning of the value of each case, for pytest."""
    return [f"{rule} {value[:30]!a}" for rule, value, *_ in cases]


def test_rules_are_tried_with_at_least_150_values() -> None:
    assert len(GOOD) + len(BAD) + len(UNUSUAL) >= 150


@pytest.mark.parametrize(("rule", "value"), GOOD, ids=list_ids(GOOD))
def test_good_value_is_accepted(rule: str, value: str) -> None:
    assert find_problem(rule, value) is None


@pytest.mark.parametrize(("rule", "value", "text"), BAD, ids=list_ids(BAD))
def test_bad_value_is_refused_in_one_line(rule: str, value: str, text: str) -> None:
    problem = find_problem(rule, value)
    assert problem.kind == "wrong"
    assert str(problem).startswith(f"key {text}")
    assert len(str(problem).splitlines()) == 1


@pytest.mark.parametrize(("rule", "value", "text"), UNUSUAL, ids=list_ids(UNUSUAL))
def test_unusual_value_is_accepted_with_a_warning(
    rule: str, value: str, text: str
) -> None:
    problem = find_problem(rule, value)
    assert problem.kind == "unusual"
    assert text in problem.fix


@pytest.mark.parametrize(("rule", "value", "text"), BAD, ids=list_ids(BAD))
def test_suggested_value_is_accepted(rule: str, value: str, text: str) -> None:
    del text
    fix = find_problem(rule, value).fix
    if fix != "correct it" and fix != f"write {getattr(rules, rule).expected_value}":
        choices = fix.removeprefix("write ").removeprefix("one of ")
        better = find_problem(rule, re.split(", | or ", choices)[0])
        assert better is None or better.kind == "unusual"


@pytest.mark.parametrize(
    "rule",
    ["SUBSCRIPTION", "RESOURCE_GROUP", "WORKSPACE", "REGION", "CLUSTER", "VM_SIZE"],
)
def test_empty_value_for_azure_must_be_filled_in(rule: str) -> None:
    assert find_problem(rule, "").kind == "empty"


def test_region_is_recognized_by_each_of_its_names() -> None:
    for name, region in rules.REGIONS.items():
        assert find_problem("REGION", name) is None
        if region.display_name != name:
            assert find_problem("REGION", region.display_name).fix == f"write {name}"
