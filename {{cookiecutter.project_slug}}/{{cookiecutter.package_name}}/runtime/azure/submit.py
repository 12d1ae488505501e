"""`submit`: run a pipeline on Azure ML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..project import Pipelines, Project
from ..steps import parameter_values
from ..workspaces import NEEDED
from .build_pipeline import build_pipeline
from .call_limits import call_with_limit
from .data_folders import choose_data_folders
from .follow_run import follow_run
from .sdk_steps import build_steps, read_steps
from .session import open_session


def submit(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    values: Mapping[str, str],
    *,
    wait: bool = False,
    debug: bool = False,
) -> bool:
    """Start a run of the pipeline `name`. Return False if the run is known to have failed.

    `values` are the values of pipeline parameters as strings. The value of a data parameter
    is a folder of the default datastore, which the run reads instead of the project's data.
    With `wait`, the run is followed to its end.
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

        run = started.run
        if started.answer_was_lost:
            session.report(
                "started",
                f"run {run.id} of the experiment {settings.name}, although Azure's reply "
                "was lost",
            )
        session.report("submitted", f"{name}, run {run.id}\n{run.url}")
        if not wait:
            return True
        return follow_run(session, run)


def _convert_parameters(
    project: Project[Any], pipelines: Pipelines, name: str, values: Mapping[str, str]
) -> dict[str, Any]:
    """Return the values of the parameters that are not for data, with their types.

    Raises PipelineError or SettingsError if a value is wrong.
    """
    pipeline = pipelines[name]
    steps = read_steps(build_steps(pipeline, project.settings()))
    no_folders = dict.fromkeys(pipeline.data, "")
    converted = parameter_values(project, steps, no_folders, values)
    return {key: converted[key] for key in values if key not in pipeline.data}
