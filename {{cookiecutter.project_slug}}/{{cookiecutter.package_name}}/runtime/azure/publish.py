"""`publish`: publish a pipeline under an endpoint, with the schedule of the settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ..project import PipelineDefinition, Pipelines, Project
from ..settings_models import ProjectSettings, Schedule
from ..workspaces import NEEDED
from .build_pipeline import build_pipeline
from .call_limits import call_with_limit
from .data_folders import DataFolder, choose_data_folders
from .errors import AzureError
from .resources import Endpoint, Publication, ScheduleChange
from .sdk_workspace import TIME_ZONES
from .session import Session, open_session
from .upload_data import upload_data


def publish(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    folders: Mapping[str, str] | None = None,
    *,
    dry_run: bool = False,
    debug: bool = False,
) -> None:
    """Publish the pipeline `name` under an endpoint, with the schedule of the settings.

    By default, the runs of the published pipeline read a copy of the project's data as it is
    now. For a data parameter in `folders`, each run reads the named folder of the default
    datastore instead, with the files that are in the folder when the run starts. A dry run
    only reports what would change.
    """
    config = project.workspace_config([*NEEDED, "compute.name"])
    pipeline = pipelines[name]
    settings: ProjectSettings = project.settings()
    _check_schedule_names(project, settings, pipelines)
    schedule = _get_schedule(project, settings, name)
    data = choose_data_folders(project, pipeline.data, folders or {})

    with open_session(project, config, debug=debug, dry_run=dry_run) as session:
        endpoint_name = find_endpoint_name(session, name)
        endpoint = call_with_limit(
            "to look up the endpoint", session.workspace.find_endpoint, endpoint_name
        )
        if dry_run:
            _report_plan(session, endpoint_name, endpoint, data, schedule)
            return

        publication = _publish_pipeline(
            session, name, pipeline, data, endpoint_name, endpoint
        )
        changes = call_with_limit(
            "to schedule the pipeline",
            session.workspace.apply_schedule,
            publication,
            schedule,
        )
        _report_schedule_changes(session, changes)


def find_endpoint_name(session: Session, pipeline_name: str) -> str:
    """Return the name of the endpoint under which a pipeline is published."""
    return session.workspace.endpoint_name(f"{session.settings.name}-{pipeline_name}")


def _report_plan(
    session: Session,
    endpoint_name: str,
    endpoint: Endpoint | None,
    data: Mapping[str, DataFolder],
    schedule: Schedule | None,
) -> None:
    """Report what `publish` would upload, publish and schedule, without changing anything.

    `endpoint` is None if there is no endpoint of this name yet.
    """
    # In a dry run, this only reports the files that are missing on the datastore.
    upload_data(session, data.values())

    version = endpoint.version if endpoint else "none"
    session.report("published", f"{endpoint_name}, a new default (now: {version})")

    changes = call_with_limit(
        "to look up the schedules",
        session.workspace.plan_schedule,
        endpoint_name,
        endpoint,
        schedule,
    )
    _report_schedule_changes(session, changes)


def _publish_pipeline(
    session: Session,
    name: str,
    pipeline: PipelineDefinition,
    data: Mapping[str, DataFolder],
    endpoint_name: str,
    endpoint: Endpoint | None,
) -> Publication:
    """Publish a pipeline as the default of its endpoint, and report the new version.

    `endpoint` is None if there is no endpoint of this name yet.
    """
    experiment = session.settings.name
    earlier_version = endpoint.version if endpoint else "none"
    description = f"{name}, {experiment}"
    built = build_pipeline(session, pipeline, data)
    new_endpoint = call_with_limit(
        "to publish the pipeline",
        session.workspace.publish,
        endpoint_name,
        endpoint,
        built,
        description,
    )
    session.report(
        "published",
        f"{endpoint_name}, {new_endpoint.version}, now the default "
        f"(before: {earlier_version})",
    )
    session.printer(new_endpoint.url)
    return Publication(name, experiment, new_endpoint, built)


def _report_schedule_changes(session: Session, changes: list[ScheduleChange]) -> None:
    """Print a line for each schedule that is new, unchanged or disabled."""
    for change in changes:
        if change.status == "scheduled":
            session.report(change.status, change.description)
        else:
            session.report(change.status, f"schedule {change.description}")


def _get_schedule(
    project: Project[Any], settings: ProjectSettings, name: str
) -> Schedule | None:
    """Return the schedule of a pipeline in the settings, or None if there is none.

    Raises AzureError if Azure does not know the time zone of the schedule.
    """
    schedule = settings.schedules.get(name)
    if schedule is None or schedule.time_zone in TIME_ZONES:
        return schedule

    key = f"schedules.{name}.time_zone"
    similar = difflib.get_close_matches(schedule.time_zone, TIME_ZONES)
    # If no known time zone has a similar name, UTC is an example of a valid one.
    suggestion = " or ".join(similar) or "UTC"
    raise AzureError(
        f"{project.file_of(key)}: {key} is {schedule.time_zone}, which is not a "
        f"Windows time zone. Use {suggestion}."
    )


def _check_schedule_names(
    project: Project[Any], settings: ProjectSettings, pipelines: Pipelines
) -> None:
    """Raise AzureError if the settings have a schedule for an unknown pipeline."""
    unknown_names = settings.schedules.keys() - pipelines.keys()
    if unknown_names:
        key = f"schedules.{min(unknown_names)}"
        raise AzureError(
            f"{project.file_of(key)}: {key} does not belong to a pipeline. Use one of the "
            f"names {', '.join(pipelines)}."
        )
