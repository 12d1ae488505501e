"""`check`: are the settings right, and, with `--online`, does Azure agree with them?

The settings are checked by the rules of `rules.py`, Azure is asked by `online_checks.py`.
Here the two are put together into one table, for all workspaces of the project.
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

STATUSES = {"wrong": WRONG, "empty": EMPTY, "unusual": UNUSUAL}  # By a problem's kind.
#: The colors of the statuses, in a terminal and in a notebook.
COLORS = {
    OK: "#1a7f37",  # Green.
    EMPTY: "#bf8700",  # Yellow.
    UNUSUAL: "#a347ba",  # Purple.
    WRONG: "#cf222e",  # Red.
    UNASKED: "#6e7781",  # Gray.
}
#: Where the settings are written that Azure is asked about: file and key.
PLACES = {
    "subscription_id": (CONFIG, "subscription_id"),
    "resource_group": (CONFIG, "resource_group"),
    "workspace_name": (CONFIG, "workspace_name"),
    "region": (SETTINGS, "workspace.region"),
    "compute_name": (SETTINGS, "compute.name"),
    "vm_size": (SETTINGS, "compute.vm_size"),
    "max_nodes": (SETTINGS, "compute.max_nodes"),
}


@dataclass(frozen=True)
class Check:
    """One row of the table. `file` and `key` are the setting that the fix is for, if any."""

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
    """Print the checks, of all workspaces if none is named, and return the exit code.

    It is 1 if something is wrong, or if Azure could not be asked about a workspace. What
    is to be filled in or to be reviewed may be meant, and does not change it.
    """
    projects = [project] if project.files.name else project.for_all_workspaces()
    checks = check_settings(*projects)
    if any(_names_steps(project) for project in projects):
        # Only now, as this imports the SDK.
        checks += check_steps(load_pipelines(), *projects)
    was_asked = True
    if online:
        for workspace in projects:
            answers = check_azure(workspace)
            was_asked = was_asked and _knows_workspace(workspace, answers)
            if len(projects) > 1:
                answers = _name_workspace(answers, workspace.files.name or "config")
            checks += answers

    if as_json:
        print(_to_json(checks))
    else:
        _print_table(checks)
    is_wrong = any(check.status == WRONG for check in checks)
    return 1 if is_wrong or not was_asked else 0


def check_settings(*projects: Project[Any]) -> list[Check]:
    """Check the settings by their rules, and check whether the data exists.

    There is one project for each workspace.
    """
    # All projects share settings.yml, so each of its problems is shown only once.
    problems = dict.fromkeys(
        problem for project in projects for problem in project.find_problems()
    )
    checks = [_describe_problem(problem) for problem in problems]
    files_with_problems = {problem.file for problem in problems}
    for project in projects:
        for file in project.settings_files:
            if file not in files_with_problems and (project.root / file).exists():
                checks.append(Check(file, OK, "complete, and right by the rules"))
        checks += _check_data(project)
    return list(dict.fromkeys(checks))


def _names_steps(project: Project[Any]) -> bool:
    """Return whether settings that can be read name steps."""
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
    return [_place_row(row, project) for row in ask_azure(*clusters)]


def _describe_problem(problem: Problem) -> Check:
    return Check(
        name=_name_row(problem.file, problem.key),
        status=STATUSES[problem.kind],
        text=problem.text,
        fix=problem.fix,
        file=problem.file,
        key=problem.key,
    )


def _check_data(project: Project[Any]) -> list[Check]:
    """Return whether the data exists; nothing if the settings cannot be read."""
    try:
        paths = project.list_data_paths()
    except SettingsError:
        return []
    checks = []
    for key, path in paths.items():
        file = project.file_of(key)
        name = _name_row(file, key)
        if (project.root / path).exists():
            checks.append(Check(name, OK, path, file=file, key=key))
        else:
            fix = "put the data there, or write where it is"
            checks.append(Check(name, EMPTY, f"{path} is missing", fix, file, key))
    return checks


def _name_row(file: str, key: str) -> str:
    """Return a row's name: the key, and also the file if it is of a named workspace."""
    if key and file in ("", SETTINGS, CONFIG):
        return key
    return f"{file}: {key}" if key else file


def read_azure_names(project: Project[Any]) -> list[AzureNames]:
    """Return what Azure is asked about, once for each cluster, or raise SettingsError."""
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


def _place_row(row: Row, project: Project[Any]) -> Check:
    """Return a row with the file and the key of the setting that its fix is for."""
    check = Check(row.name, row.status, row.text, row.fix)
    if not row.setting:
        return check
    file, key = PLACES[row.setting]
    if key.startswith("compute."):
        key = key.replace("compute", row.compute_key, 1)
    own_file = project.files.config if file == CONFIG else project.files.settings
    return replace(check, file=own_file, key=key)


def _knows_workspace(project: Project[Any], answers: list[Check]) -> bool:
    """Return whether Azure was asked about the workspace, if the settings name one."""
    empty = {
        problem.key for problem in project.find_problems() if problem.kind == "empty"
    }
    if not empty.isdisjoint(NEEDED):
        return True  # There is no workspace to ask about yet.
    return any(
        check.name == "workspace" and check.status != UNASKED for check in answers
    )


def _name_workspace(checks: list[Check], workspace: str) -> list[Check]:
    return [replace(check, name=f"{workspace}: {check.name}") for check in checks]


def _to_json(checks: list[Check]) -> str:
    """Return the checks as JSON, on one line."""
    text = json.dumps({"checks": [vars(check) for check in checks]})
    # Azure Pipelines takes what follows ## for a command, wherever it is in a line.
    return text.replace("##", "\\u0023#")


def _print_table(checks: list[Check]) -> None:
    """Print checks as a table, and below it how to fix what is wrong.

    Settings may hold any text, so all text is made harmless for the screen.
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

    # Fixes stand below the table, whose columns would break a command into pieces.
    for check in checks:
        if check.fix:
            place = ": ".join(part for part in (check.file, check.key) if part)
            place = place or check.name
            fix = make_harmless(f"{place}: {check.fix}")
            console.print(Text(f"\n{fix}"), soft_wrap=True)

    counts = []
    for status in COLORS:
        count = sum(check.status == status for check in checks)
        if count:
            counts.append(f"{count} {status}")
    console.print("\n" + ", ".join(counts))
    if any(check.status == UNUSUAL for check in checks):
        console.print("What is to review may be right: it does not fail this command.")
