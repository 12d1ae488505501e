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

#: This many runs of each pipeline are shown.
SHOWN_RUNS = 3
#: A run may begin this much later than planned, because nodes take time to start, and because
#: clocks change to summer time.
GRACE = timedelta(hours=2)
#: The time zone of a schedule's start is at most 12 hours behind UTC.
LARGEST_OFFSET = timedelta(hours=12)


def show_status(
    project: Project[Any], pipelines: Pipelines, debug: bool = False
) -> bool:
    """Print the newest runs and the schedules of each pipeline in the workspace.

    Returns False if the newest run of a pipeline or of a schedule has failed, or if a
    schedule is overdue.
    """
    config = project.workspace_config(NEEDED)
    with open_session(project, config, debug=debug) as session:
        # All pipelines are shown, even if the first one has failed.
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

    are_runs_ok = _show_runs(session, name, runs)
    are_schedules_ok = _show_schedules(session, name, schedules)
    return are_runs_ok and are_schedules_ok


def _show_runs(session: Session, name: str, runs: list[PastRun]) -> bool:
    """Print the newest runs of a pipeline. Return False if the newest one has failed."""
    if not runs:
        session.report("none", f"{name} has not run in {session.workspace.name}")
        return True
    for run in runs:
        session.report(run.state, f"{name}, {_format_time(run.started)}, run {run.id}")
    newest_run = runs[0]
    session.printer(newest_run.url)
    return newest_run.state != "failed"


def _show_schedules(
    session: Session, name: str, schedules: list[ActiveSchedule]
) -> bool:
    """Print the schedules of a pipeline. Return False if one has failed or is overdue.

    A schedule in the settings that is not in the workspace is reported, but does not count
    as failed.
    """
    planned = session.settings.schedules.get(name)
    results = [_show_schedule(session, schedule, planned) for schedule in schedules]
    if planned and not schedules:
        command = f"{COMMAND} publish {name}{session.project.files.option}"
        session.report(
            "missing", f"schedule {planned.describe()}: run `{command}` to create it."
        )
    return all(results)


def _show_schedule(
    session: Session, schedule: ActiveSchedule, planned: Schedule | None
) -> bool:
    """Print one schedule of a pipeline.

    Returns False if its newest run has failed, or if the schedule is overdue. `planned` is
    the schedule in the settings, if there is one.
    """
    description = schedule.description
    newest_run = schedule.newest_run
    if newest_run and newest_run.state == "failed":
        started = _format_time(newest_run.started)
        session.report(
            "failed",
            f"schedule {description}: run {newest_run.id}, {started}\n{newest_run.url}",
        )
        return False

    delay = describe_delay(schedule, planned, datetime.now(timezone.utc))
    if delay:
        session.report("overdue", f"schedule {description}: {delay}")
        return False

    if newest_run:
        started = _format_time(newest_run.started)
        session.report(
            "scheduled", f"{description}: newest run {newest_run.state}, {started}"
        )
    else:
        session.report("scheduled", f"{description}: no run yet")
    return True


def describe_delay(
    schedule: ActiveSchedule, planned: Schedule | None, now: datetime
) -> str:
    """Say how long a schedule is overdue at the time `now`, or return "" if it is not.

    A schedule is overdue if it has started no run for longer than its times allow. The result
    is, for example, "it has started no run since 2026-11-29 05:00 UTC.". `planned` is the
    schedule in the settings, or None.
    """
    if planned is None or planned.describe() != schedule.description:
        # Only the settings contain the times of a schedule. The times of a schedule that
        # differs from the settings are not known, so it is never called overdue.
        return ""

    if schedule.newest_run:
        waiting_since = schedule.newest_run.started
    elif planned.start_time:
        # The start is a local time in the schedule's time zone. Read as UTC and moved by the
        # largest offset, it is a time by which the start has passed in every time zone.
        start = datetime.fromisoformat(planned.start_time).replace(tzinfo=timezone.utc)
        latest_start = start + LARGEST_OFFSET
        waiting_since = max(schedule.created, latest_start)
    else:
        waiting_since = schedule.created
    if now <= waiting_since + planned.longest_pause() + GRACE:
        return ""
    return f"it has started no run since {_format_time(waiting_since)}."


def _format_time(moment: datetime) -> str:
    """Return a time such as "2026-11-29 05:00 UTC"."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
