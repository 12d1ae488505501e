"""`submit`: run a pipeline on Azure ML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..project import Pipelines, Project
from ..steps import find_parameter_values
from ..workspaces import NEEDED
from .build_pipeline import build_pipeline
from .call_limits import call_with_limit
from .data_folders import choose_data_folders
from .follow_run import follow_run
from .sdk_steps import build_steps, read_steps
from .session import Session, open_session
from .workspace_interface import StartedRun


def submit(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    values: Mapping[str, str],
    *,
    wait: bool = False,
    debug: bool = False,
) -> bool:
    """Start a run of the pipeline `name`, and with `wait` follow it to its end.

    Returns False if the run has failed. Without `wait`, this is not known yet, and the
    result is True. `values` are the values of pipeline parameters as strings. The value of a
    data parameter is a folder of the default datastore, which the run reads instead of the
    project's data.
    """
    config = project.workspace_config([*NEEDED, "compute.name"])
    settings = project.settings()
    pipeline = pipelines[name]
    parameters = _convert_parameters(project, pipelines, name, values)
    data = choose_data_folders(project, pipeline.data, values)

    with open_session(project, config, debug=debug) as session:
        built = build_pipeline(session, pipeline, data)
        started = call_with_limit(
            "to submit the pipeline",
            session.workspace.start,
            built,
            name,
            settings.name,
            parameters,
        )

        _report_start(session, name, started)
        if not wait:
            return True
        return follow_run(session, started.run)


def _report_start(session: Session, pipeline_name: str, started: StartedRun) -> None:
    """Print which run of a pipeline has started, and its address."""
    run = started.run
    if started.response_was_lost:
        session.report(
            "started",
            f"run {run.id} of the experiment {session.settings.name}, although Azure's "
            "response was lost",
        )
    session.report("submitted", f"{pipeline_name}, run {run.id}\n{run.url}")


def _convert_parameters(
    project: Project[Any], pipelines: Pipelines, name: str, values: Mapping[str, str]
) -> dict[str, Any]:
    """Convert the values of a pipeline's parameters to the types of their defaults.

    `values` maps the names of parameters to the strings that the user has written. The
    result has the same names, without data parameters, whose values are folders. Raises
    PipelineError or SettingsError if a value is wrong.
    """
    pipeline = pipelines[name]
    # The parameters and their defaults are only known once the steps are built.
    steps = read_steps(build_steps(pipeline, project.settings()))
    # `find_parameter_values` needs a folder for each data parameter. These values are left
    # out of the result, so the folders may be empty strings.
    empty_folders = dict.fromkeys(pipeline.data, "")
    converted = find_parameter_values(project, steps, empty_folders, values)
    return {key: converted[key] for key in values if key not in pipeline.data}
