"""`check`: check the settings, and with `--online` compare them with what is on Azure.

The rules for settings are in `rules.py`, and the checks on Azure in `online_checks.py`. This
module puts the results into one table, for all workspaces of the project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .. import COMMAND
from ..errors import SettingsError
from ..files import find_similar_path
from ..harmless_text import format_json, make_harmless
from ..project import Pipelines, Project
from ..rule import Problem
from ..steps import find_unknown_steps
from ..workspaces import CONFIG, NEEDED, SETTINGS
from .check_results import (
    EMPTY,
    NOT_CHECKED,
    OK,
    UNUSUAL,
    WRONG,
    AzureNames,
    NamedResult,
)
from .online_checks import ask_azure

#: The status in the table, by the kind of a problem with the settings.
STATUS_BY_PROBLEM = {"wrong": WRONG, "empty": EMPTY, "unusual": UNUSUAL}
#: The colors of the statuses, in a terminal and in a notebook.
COLORS = {
    OK: "#1a7f37",  # Green.
    EMPTY: "#bf8700",  # Yellow.
    UNUSUAL: "#a347ba",  # Purple.
    WRONG: "#cf222e",  # Red.
    NOT_CHECKED: "#6e7781",  # Gray.
}
#: The setting that is needed only to create a workspace.
REGION = "workspace.region"
#: The file and the key of each setting for Azure, by its field in AzureNames.
PLACE_BY_FIELD = {
    "subscription_id": (CONFIG, "subscription_id"),
    "resource_group": (CONFIG, "resource_group"),
    "workspace_name": (CONFIG, "workspace_name"),
    "region": (SETTINGS, REGION),
    "compute_name": (SETTINGS, "compute.name"),
    "vm_size": (SETTINGS, "compute.vm_size"),
    "max_nodes": (SETTINGS, "compute.max_nodes"),
}


@dataclass(frozen=True)
class TableRow:
    """A row of the table: what was checked, with which result, and how to fix a problem.

    `file` and `key` name the setting to change. They are empty if there is none.
    """

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

    If the user has chosen no workspace, all workspaces of the project are checked. The exit
    code is 1 if something is wrong, or if Azure could not be asked about a workspace.
    Settings to fill in or to review do not affect the exit code.
    """
    projects = [project] if project.files.name else project.for_all_workspaces()
    rows = check_settings(*projects)
    if any(_has_steps_in_settings(project) for project in projects):
        # The pipelines are loaded only if they are needed, because this imports the SDK.
        rows += check_steps(load_pipelines(), *projects)
    is_complete = True
    if online:
        online_rows, is_complete = _check_workspaces_on_azure(projects)
        rows += online_rows

    if as_json:
        print(format_json({"checks": [vars(row) for row in rows]}))
    else:
        _print_table(_merge_empty_settings(rows))
    is_wrong = any(row.status == WRONG for row in rows)
    return 1 if is_wrong or not is_complete else 0


def check_settings(*projects: Project[Any]) -> list[TableRow]:
    """Check the settings against their rules, and check whether the data exists.

    `projects` are copies of one project, one for each of its workspaces. Results that are the
    same for several workspaces, such as those for settings.yml, are returned only once.
    """
    problems = [problem for project in projects for problem in project.find_problems()]
    rows = [_make_problem_row(problem) for problem in problems]
    files_with_problems = {problem.file for problem in problems}
    for project in projects:
        for file in project.settings_files:
            if file not in files_with_problems and (project.root / file).exists():
                rows.append(TableRow(file, OK, "complete and valid"))
        rows += _check_data(project)
    # A dict drops repeated rows, and keeps the order of the others.
    return list(dict.fromkeys(rows))


def _has_steps_in_settings(project: Project[Any]) -> bool:
    """Return whether the setting `steps` assigns steps to clusters.

    Returns False if the settings are wrong.
    """
    try:
        return bool(project.settings().steps)
    except SettingsError:
        return False


def check_steps(pipelines: Pipelines, *projects: Project[Any]) -> list[TableRow]:
    """Return a row for each step in the settings that no pipeline has.

    `projects` are copies of one project, one for each of its workspaces.
    """
    # A dict drops repeated problems, and keeps the order of the others.
    problems = dict.fromkeys(
        problem
        for project in projects
        if _has_steps_in_settings(project)
        for problem in find_unknown_steps(project, pipelines)
    )
    return [_make_problem_row(problem) for problem in problems]


def _check_workspaces_on_azure(
    projects: list[Project[Any]],
) -> tuple[list[TableRow], bool]:
    """Return the results of the checks on Azure, and whether all workspaces were checked.

    `projects` are copies of one project, one for each of its workspaces.
    """
    all_rows = []
    is_complete = True
    for project in projects:
        rows = check_azure(project)
        if not _was_workspace_checked(project, rows):
            is_complete = False
        if len(projects) > 1:
            # The workspace in config.json has no name of its own.
            workspace = project.files.name or "config"
            rows = [replace(row, name=f"{workspace}: {row.name}") for row in rows]
        all_rows += rows
    return all_rows, is_complete


def check_azure(project: Project[Any]) -> list[TableRow]:
    """Compare the settings of one workspace with what is on Azure."""
    try:
        names_of_clusters = read_azure_names(project)
    except SettingsError:
        text = "not checked: correct the settings first"
        return [TableRow("Azure", NOT_CHECKED, text)]
    results = ask_azure(*names_of_clusters)
    return [_make_azure_row(result, project) for result in results]


def _was_workspace_checked(project: Project[Any], rows: list[TableRow]) -> bool:
    """Return whether the workspace was checked on Azure, or cannot be checked yet.

    It cannot be checked before the user has filled in its name, resource group and
    subscription. `rows` are the results of the checks on Azure.
    """
    empty_keys = {
        problem.key for problem in project.find_problems() if problem.kind == "empty"
    }
    if not empty_keys.isdisjoint(NEEDED):
        return True
    return any(row.name == "workspace" and row.status != NOT_CHECKED for row in rows)


def _make_problem_row(problem: Problem) -> TableRow:
    """Return the row for a problem of the settings."""
    return TableRow(
        name=_make_row_name(problem.file, problem.key),
        status=STATUS_BY_PROBLEM[problem.kind],
        text=problem.text,
        fix=problem.fix,
        file=problem.file,
        key=problem.key,
    )


def _check_data(project: Project[Any]) -> list[TableRow]:
    """Return one row for each data path in the settings, which tells whether it exists.

    The list is empty if the settings cannot be read, which another row reports.
    """
    try:
        path_by_key = project.list_data_paths()
    except SettingsError:
        return []

    rows = []
    for key, path in path_by_key.items():
        file = project.file_of(key)
        name = _make_row_name(file, key)
        if (project.root / path).exists():
            row = TableRow(name, OK, path, file=file, key=key)
        else:
            similar_path = find_similar_path(project.root, path)
            if similar_path:
                fix = f"did you mean {similar_path}?"
            else:
                fix = "put the data there, or correct the path"
            row = TableRow(name, EMPTY, f"{path} is missing", fix, file=file, key=key)
        rows.append(row)
    return rows


def _make_row_name(file: str, key: str) -> str:
    """Return the name of a setting in the table.

    The name is the key, such as `compute.vm_size`. In a file for a further workspace, the
    name of the file comes first: `settings.prod.yml: compute.vm_size`. A problem without a
    key concerns the whole file, and is named after the file.
    """
    if not key:
        return file
    if file in ("", SETTINGS, CONFIG):
        return key
    return f"{file}: {key}"


def read_azure_names(project: Project[Any]) -> list[AzureNames]:
    """Return the settings for Azure, one object for each cluster. Raises SettingsError."""
    settings = project.settings()
    config = project.workspace_config(needed_keys=())
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


def _make_azure_row(named_result: NamedResult, project: Project[Any]) -> TableRow:
    """Return the row of the table for the result of a check on Azure.

    If a change of a setting fixes the problem, the row names the file and the key of this
    setting.
    """
    result = named_result.result
    row = TableRow(named_result.name, result.status, result.text, result.fix)
    if not result.setting:
        return row

    default_file, key = PLACE_BY_FIELD[result.setting]
    if default_file == CONFIG:
        return replace(row, file=project.files.config, key=key)
    if key.startswith("compute."):
        # Further clusters have keys such as computes.gpu.vm_size.
        key = key.replace("compute", named_result.compute_key, 1)
    return replace(row, file=project.files.settings, key=key)


def _merge_empty_settings(rows: list[TableRow]) -> list[TableRow]:
    """Merge the rows of all empty settings for Azure into one, if no workspace is named yet.

    A new project runs on this machine without these settings. A row for each of them would
    look like an error.
    """
    azure_places = set(PLACE_BY_FIELD.values())
    empty_rows = [
        row
        for row in rows
        if row.status == EMPTY and (row.file, row.key) in azure_places
    ]
    empty_keys = [row.key for row in empty_rows]
    if not set(empty_keys).issuperset(NEEDED):
        # The user has begun to fill in the workspace, so each empty setting is shown.
        return rows

    keys_without_region = ", ".join(key for key in empty_keys if key != REGION)
    fix = f"before you use `provision` or `submit`, fill in {keys_without_region}"
    if REGION in empty_keys:
        fix += f", and {REGION} for `provision --create-workspace`"
    merged = TableRow(
        "Azure",
        EMPTY,
        "no workspace is named yet; local runs need none",
        f"{fix}, as docs/azure.md shows",
    )
    other_rows = [row for row in rows if row not in empty_rows]
    return [*other_rows, merged]


def _print_table(rows: list[TableRow]) -> None:
    """Print the table, and below it the fixes and a summary.

    The settings may contain any text, so control characters are shown as escapes.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, show_header=False)
    for row in rows:
        colored_status = Text(row.status, COLORS[row.status])
        name = Text(make_harmless(row.name))
        table.add_row(name, colored_status, Text(make_harmless(row.text)))
    console.print(table)

    # Fixes are printed below the table. In the table, a long command would be wrapped within
    # its column, and could not be copied.
    for row in rows:
        if row.fix:
            # For example "settings.yml: compute.vm_size", or "login" without a setting.
            setting = ": ".join(part for part in (row.file, row.key) if part)
            fix = make_harmless(f"{setting or row.name}: {row.fix}")
            console.print(Text(f"\n{fix}"), soft_wrap=True)
    console.print(f"\n{_count_statuses(rows)}")
    if any(row.status == UNUSUAL for row in rows):
        console.print(
            "Settings to review may be correct. They do not make this command fail."
        )


def _count_statuses(rows: list[TableRow]) -> str:
    """Return how many rows have each status, such as "9 ok, 2 wrong"."""
    counts = []
    for status in COLORS:
        count = sum(row.status == status for row in rows)
        if count:
            counts.append(f"{count} {status}")
    return ", ".join(counts)
