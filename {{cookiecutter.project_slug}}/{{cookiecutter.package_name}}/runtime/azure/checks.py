"""`check`: check the settings, and with `--online` compare them with what is on Azure.

The rules for settings are in `rules.py`, and the questions to Azure in `online_checks.py`.
This module puts the results into one table, for all workspaces of the project.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .. import COMMAND
from ..errors import SettingsError
from ..harmless_text import make_harmless
from ..project import Pipelines, Project
from ..rule import Problem
from ..steps import find_unknown_steps
from ..workspaces import CONFIG, NEEDED, SETTINGS
from .check_answers import EMPTY, OK, UNASKED, UNUSUAL, WRONG, AzureNames, Row
from .online_checks import ask_azure

#: The statuses by the kinds of problems.
STATUSES = {"wrong": WRONG, "empty": EMPTY, "unusual": UNUSUAL}
#: The colors of the statuses, in a terminal and in a notebook.
COLORS = {
    OK: "#1a7f37",  # Green.
    EMPTY: "#bf8700",  # Yellow.
    UNUSUAL: "#a347ba",  # Purple.
    WRONG: "#cf222e",  # Red.
    UNASKED: "#6e7781",  # Gray.
}
#: The setting that is needed only to create a workspace.
REGION = "workspace.region"
#: The file and the key of each setting that Azure is asked about.
PLACES = {
    "subscription_id": (CONFIG, "subscription_id"),
    "resource_group": (CONFIG, "resource_group"),
    "workspace_name": (CONFIG, "workspace_name"),
    "region": (SETTINGS, REGION),
    "compute_name": (SETTINGS, "compute.name"),
    "vm_size": (SETTINGS, "compute.vm_size"),
    "max_nodes": (SETTINGS, "compute.max_nodes"),
}


@dataclass(frozen=True)
class Check:
    """A row of the table. `file` and `key` are the setting to change. They may be empty."""

    name: str
    status: str
    text: str
    fix: str = ""
    file: str = ""
    key: str = ""


def main(
    project: Project[Any],
    load_pipelines: Callable[[], Pipelines],
    online: bool,
    as_json: bool,
) -> int:
    """Print the results of all checks, and return the exit code.

    If the project has no name of a workspace, all workspaces are checked. The exit code is 1
    if something is wrong, or if Azure could not be asked about a workspace. Settings to fill
    in or to review do not change it.
    """
    projects = [project] if project.files.name else project.for_all_workspaces()
    checks = check_settings(*projects)
    if any(_names_steps(project) for project in projects):
        # The pipelines are loaded only if they are needed, because this imports the SDK.
        checks += check_steps(load_pipelines(), *projects)
    was_asked = True
    if online:
        for workspace in projects:
            answers = check_azure(workspace)
            was_asked = was_asked and _was_workspace_checked(workspace, answers)
            if len(projects) > 1:
                answers = _add_workspace_name(answers, workspace.files.name or "config")
            checks += answers

    if as_json:
        print(_to_json(checks))
    else:
        _print_table(_merge_empty_settings(checks))
    is_wrong = any(check.status == WRONG for check in checks)
    return 1 if is_wrong or not was_asked else 0


def check_settings(*projects: Project[Any]) -> list[Check]:
    """Check the settings by their rules, and check whether the data exists.

    There is one project for each workspace. Results that are the same for several
    workspaces, such as those of settings.yml, are returned only once.
    """
    problems = [problem for project in projects for problem in project.find_problems()]
    checks = [_describe_problem(problem) for problem in problems]
    files_with_problems = {problem.file for problem in problems}
    for project in projects:
        for file in project.settings_files:
            if file not in files_with_problems and (project.root / file).exists():
                checks.append(Check(file, OK, "complete and valid"))
        checks += _check_data(project)
    return list(dict.fromkeys(checks))


def _names_steps(project: Project[Any]) -> bool:
    """Return whether the settings assign steps to clusters. False if they are wrong."""
    try:
        return bool(project.settings().steps)
    except SettingsError:
        return False


def check_steps(pipelines: Pipelines, *projects: Project[Any]) -> list[Check]:
    """Return a row for each step in the settings that no pipeline has."""
    problems = dict.fromkeys(
        problem
        for project in projects
        if _names_steps(project)
        for problem in find_unknown_steps(project, pipelines)
    )
    return [_describe_problem(problem) for problem in problems]


def check_azure(project: Project[Any]) -> list[Check]:
    """Return what Azure says about the settings of one workspace."""
    try:
        clusters = read_azure_names(project)
    except SettingsError:
        return [Check("Azure", UNASKED, "not asked while settings are wrong")]
    return [_add_place(row, project) for row in ask_azure(*clusters)]


def _describe_problem(problem: Problem) -> Check:
    """Return the row for a problem of the settings."""
    return Check(
        name=_make_row_name(problem.file, problem.key),
        status=STATUSES[problem.kind],
        text=problem.text,
        fix=problem.fix,
        file=problem.file,
        key=problem.key,
    )


def _check_data(project: Project[Any]) -> list[Check]:
    """Check whether the data exists. Return no rows if the settings cannot be read."""
    try:
        paths = project.list_data_paths()
    except SettingsError:
        return []
    checks = []
    for key, path in paths.items():
        file = project.file_of(key)
        name = _make_row_name(file, key)
        if (project.root / path).exists():
            checks.append(Check(name, OK, path, file=file, key=key))
        else:
            fix = "put the data there, or write where it is"
            checks.append(Check(name, EMPTY, f"{path} is missing", fix, file, key))
    return checks


def _make_row_name(file: str, key: str) -> str:
    """Return the name of a setting's row: its key, with the file if this is not the usual."""
    if not key:
        return file
    if file in ("", SETTINGS, CONFIG):
        return key
    return f"{file}: {key}"


def read_azure_names(project: Project[Any]) -> list[AzureNames]:
    """Return the settings for Azure, once for each cluster. Raises SettingsError."""
    settings = project.settings()
    config = project.workspace_config(needs=())
    return [
        AzureNames(
            subscription_id=config.subscription_id,
            resource_group=config.resource_group,
            workspace_name=config.workspace_name,
            region=config.region,
            cloud=config.cloud,
            compute_key=key,
            compute_name=compute.name,
            vm_size=compute.vm_size,
            max_nodes=compute.max_nodes,
            environment_name=f"{settings.name}-steps",
            identity=compute.identity or "",
            provision_command=f"{COMMAND} provision{project.files.option}",
        )
        for key, compute in settings.all_computes().items()
    ]


def _add_place(row: Row, project: Project[Any]) -> Check:
    """Return a row with the file and the key of the setting that its fix changes."""
    check = Check(row.name, row.status, row.text, row.fix)
    if not row.setting:
        return check
    file, key = PLACES[row.setting]
    if key.startswith("compute."):
        key = key.replace("compute", row.compute_key, 1)
    own_file = project.files.config if file == CONFIG else project.files.settings
    return replace(check, file=own_file, key=key)


def _was_workspace_checked(project: Project[Any], answers: list[Check]) -> bool:
    """Return whether Azure has answered about the workspace, or none is named yet."""
    empty_keys = {
        problem.key for problem in project.find_problems() if problem.kind == "empty"
    }
    if not empty_keys.isdisjoint(NEEDED):
        return True
    return any(
        check.name == "workspace" and check.status != UNASKED for check in answers
    )


def _add_workspace_name(checks: list[Check], workspace: str) -> list[Check]:
    """Return the rows with the name of a workspace before their own names."""
    return [replace(check, name=f"{workspace}: {check.name}") for check in checks]


def _to_json(checks: list[Check]) -> str:
    """Return the checks as JSON, on one line."""
    text = json.dumps({"checks": [vars(check) for check in checks]})
    # Azure Pipelines reads what follows ## as a command, anywhere in a line.
    return text.replace("##", "\\u0023#")


def _merge_empty_settings(checks: list[Check]) -> list[Check]:
    """Return one row for all empty settings of Azure if no workspace is named at all.

    A new project runs on this machine without them. Several rows would look like faults.
    """
    empty = [
        check
        for check in checks
        if check.status == EMPTY and (check.file, check.key) in PLACES.values()
    ]
    if not {check.key for check in empty}.issuperset(NEEDED):
        return checks
    keys = [check.key for check in empty if check.key != REGION]
    fix = f"before you use `provision` or `submit`, fill in {', '.join(keys)}"
    if len(keys) < len(empty):
        fix += f", and {REGION} for `provision --create-workspace`"
    merged = Check(
        "Azure",
        EMPTY,
        "no workspace is named yet; local runs need none",
        f"{fix}, as docs/azure.md shows",
    )
    return [*(check for check in checks if check not in empty), merged]


def _print_table(checks: list[Check]) -> None:
    """Print checks as a table, and below it the fixes and a summary.

    Settings may contain any text, so all text is made harmless for the screen.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, show_header=False)
    for check in checks:
        colored = Text(check.status, COLORS[check.status])
        name = Text(make_harmless(check.name))
        table.add_row(name, colored, Text(make_harmless(check.text)))
    console.print(table)

    # Fixes are printed below the table, whose columns would break a command into pieces.
    for check in checks:
        if check.fix:
            place = ": ".join(part for part in (check.file, check.key) if part)
            fix = make_harmless(f"{place or check.name}: {check.fix}")
            console.print(Text(f"\n{fix}"), soft_wrap=True)
    console.print(f"\n{_count_statuses(checks)}")
    if any(check.status == UNUSUAL for check in checks):
        console.print(
            "Settings to review may be correct. They do not fail this command."
        )


def _count_statuses(checks: list[Check]) -> str:
    """Return how many checks have each status, such as "9 ok, 2 wrong"."""
    counts = []
    for status in COLORS:
        count = sum(check.status == status for check in checks)
        if count:
            counts.append(f"{count} {status}")
    return ", ".join(counts)
