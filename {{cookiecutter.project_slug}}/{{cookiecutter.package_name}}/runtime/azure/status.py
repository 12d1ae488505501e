"""`status`: how the newest runs of the pipelines have ended, and which schedule is overdue."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from .. import COMMAND
from ..project import Pipelines, Project
from ..settings_models import ProjectSettings, Schedule
from ..workspaces import NEEDED
from .connection import Printer, call_with_limit, quiet_azure_calls
from .resources import ActiveSchedule, PastRun
from .sdk_workspace import Workspace

# So many runs of each pipeline are shown.
SHOWN_RUNS = 3
#: A run may begin so much later than planned: nodes start, and clocks change in summer.
GRACE = timedelta(hours=2)
#: The time zone of a schedule's start is up to 12 hours behind UTC.
LARGEST_OFFSET = timedelta(hours=12)


def show_status(
    project: Project[Any], pipelines: Pipelines, debug: bool = False
) -> bool:
    """Print the newest runs of each pipeline in the workspace, and its schedules.

    Returns False if the newest run of a pipeline or of a schedule has failed, or if a
    schedule is overdue.
    """
    config = project.workspace_config(NEEDED)
    settings = project.settings()
    with quiet_azure_calls(config, project.root, debug) as printer:
        workspace = call_with_limit(
            "to connect to the workspace", Workspace.connect, config
        )
        checks = [
            _show_pipeline(workspace, settings, name, printer, project.files.option)
            for name in pipelines
        ]
        return all(checks)


def _show_pipeline(
    workspace: Workspace,
    settings: ProjectSettings,
    name: str,
    printer: Printer,
    workspace_option: str,
) -> bool:
    """Print the newest runs and the schedules of a pipeline. Return whether all is well."""
    endpoint_name = workspace.endpoint_name(f"{settings.name}-{name}")
    endpoint = call_with_limit(
        "to look up the endpoint", workspace.find_endpoint, endpoint_name
    )
    runs = call_with_limit(
        "to list the runs",
        workspace.newest_runs,
        name,
        settings.name,
        endpoint,
        SHOWN_RUNS,
    )
    schedules = call_with_limit(
        "to list the schedules", workspace.list_schedules, endpoint_name, endpoint
    )

    runs_are_well = _show_runs(runs, name, workspace, printer)
    setting = settings.schedules.get(name)
    schedules_are_well = _show_schedules(schedules, setting, printer)
    if setting and not schedules:
        printer(
            f"{'missing':10} schedule {setting.describe()}: `{COMMAND} publish "
            f"{name}{workspace_option}` creates it."
        )
    return runs_are_well and schedules_are_well


def _show_runs(
    runs: list[PastRun], name: str, workspace: Workspace, printer: Printer
) -> bool:
    """Print the newest runs of a pipeline. Return False if the newest one has failed."""
    if not runs:
        printer(f"{'none':10} {name} has not run in {workspace.name}")
        return True
    for run in runs:
        printer(f"{run.state:10} {name}, {_format(run.started)}, run {run.id}")
    printer(runs[0].url)
    return runs[0].state != "failed"


def _show_schedules(
    schedules: list[ActiveSchedule], setting: Schedule | None, printer: Printer
) -> bool:
    """Print the schedules of a pipeline. Return False if one has failed or is overdue."""
    are_well = True
    for schedule in schedules:
        newest = schedule.newest_run
        delay = describe_delay(schedule, setting, datetime.now(timezone.utc))
        if newest and newest.state == "failed":
            are_well = False
            printer(
                f"{'failed':10} schedule {schedule.description}: run {newest.id}, "
                f"{_format(newest.started)}\n{newest.url}"
            )
        elif delay:
            are_well = False
            printer(f"{'overdue':10} schedule {schedule.description}: {delay}")
        elif newest:
            printer(
                f"{'scheduled':10} {schedule.description}: newest run {newest.state}, "
                f"{_format(newest.started)}"
            )
        else:
            printer(f"{'scheduled':10} {schedule.description}: no run yet")
    return are_well


def describe_delay(
    schedule: ActiveSchedule, setting: Schedule | None, now: datetime
) -> str:
    """Return since when a schedule has started no run, if that is too long, or else "".

    `setting` is the schedule of the settings. An active schedule that differs from it is
    never overdue, as its times are not known.
    """
    if setting is None or setting.describe() != schedule.description:
        return ""

    newest = schedule.newest_run
    if newest:
        last_start = newest.started
    elif setting.start_time:
        start = datetime.fromisoformat(setting.start_time).replace(tzinfo=timezone.utc)
        last_start = max(schedule.created, start + LARGEST_OFFSET)
    else:
        last_start = schedule.created
    if now <= last_start + setting.longest_pause() + GRACE:
        return ""
    return f"it has started no run since {_format(last_start)}."


def _format(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
