"""`status`: show how the newest runs have ended, and which schedules are overdue."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from .. import COMMAND
from ..project import Pipelines, Project
from ..settings_models import Schedule
from ..workspaces import NEEDED
from .call_limits import call_with_limit
from .publish import find_endpoint_name
from .resources import ActiveSchedule, PastRun
from .session import Session, open_session

# This many runs of each pipeline are shown.
SHOWN_RUNS = 3
#: A run may begin this much later than planned, because nodes take time to start, and
#: clocks change in summer.
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
    with open_session(project, config, debug=debug) as session:
        results = [_show_pipeline(session, name) for name in pipelines]
        return all(results)


def _show_pipeline(session: Session, name: str) -> bool:
    """Print the newest runs and the schedules of a pipeline.

    Returns False if the newest run has failed, or if a schedule has failed or is overdue.
    """
    workspace = session.workspace
    endpoint_name = find_endpoint_name(session, name)
    endpoint = call_with_limit(
        "to look up the endpoint", workspace.find_endpoint, endpoint_name
    )
    runs = call_with_limit(
        "to list the runs",
        workspace.newest_runs,
        name,
        session.settings.name,
        endpoint,
        SHOWN_RUNS,
    )
    schedules = call_with_limit(
        "to list the schedules", workspace.list_schedules, endpoint_name, endpoint
    )

    runs_are_well = _show_runs(session, name, runs)
    schedules_are_well = _show_schedules(session, name, schedules)
    return runs_are_well and schedules_are_well


def _show_runs(session: Session, name: str, runs: list[PastRun]) -> bool:
    """Print the newest runs of a pipeline. Return False if the newest one has failed."""
    if not runs:
        session.report("none", f"{name} has not run in {session.workspace.name}")
        return True
    for run in runs:
        session.report(run.state, f"{name}, {_format_time(run.started)}, run {run.id}")
    newest = runs[0]
    session.printer(newest.url)
    return newest.state != "failed"


def _show_schedules(
    session: Session, name: str, schedules: list[ActiveSchedule]
) -> bool:
    """Print the schedules of a pipeline. Return False if one has failed or is overdue."""
    setting = session.settings.schedules.get(name)
    results = [_show_schedule(session, schedule, setting) for schedule in schedules]
    if setting and not schedules:
        command = f"{COMMAND} publish {name}{session.project.files.option}"
        session.report(
            "missing", f"schedule {setting.describe()}: `{command}` creates it."
        )
    return all(results)


def _show_schedule(
    session: Session, schedule: ActiveSchedule, setting: Schedule | None
) -> bool:
    """Print one schedule. Return False if its newest run has failed or is overdue."""
    description = schedule.description
    newest = schedule.newest_run
    if newest and newest.state == "failed":
        session.report(
            "failed",
            f"schedule {description}: run {newest.id}, {_format_time(newest.started)}\n"
            f"{newest.url}",
        )
        return False

    delay = describe_delay(schedule, setting, datetime.now(timezone.utc))
    if delay:
        session.report("overdue", f"schedule {description}: {delay}")
        return False

    if newest:
        time = _format_time(newest.started)
        session.report("scheduled", f"{description}: newest run {newest.state}, {time}")
    else:
        session.report("scheduled", f"{description}: no run yet")
    return True


def describe_delay(
    schedule: ActiveSchedule, setting: Schedule | None, now: datetime
) -> str:
    """Return a sentence if a schedule is overdue at the time `now`, or an empty string.

    `setting` is the schedule of the settings. An active schedule that differs from it is
    never called overdue, because its times are unknown.
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
    return f"it has started no run since {_format_time(last_start)}."


def _format_time(moment: datetime) -> str:
    """Return a time such as "2026-11-29 05:00 UTC"."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
