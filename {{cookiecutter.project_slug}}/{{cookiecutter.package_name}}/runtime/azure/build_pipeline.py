"""Build a pipeline that Azure ML can run: its clusters exist, and its data is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import COMMAND
from ..project import PipelineDefinition
from .call_limits import call_with_limit
from .data_folders import DataFolder
from .errors import AzureError
from .session import Session
from .upload_data import upload_data


def build_pipeline(
    session: Session, pipeline: PipelineDefinition, data: Mapping[str, DataFolder]
) -> Any:
    """Upload the data of a pipeline, and return the SDK's pipeline that reads it.

    `data` maps each data parameter to the folder that the pipeline reads for it. Raises
    AzureError if a compute in the settings does not exist in the workspace.
    """
    _require_computes(session)
    upload_data(session, data.values())

    folders = {parameter: folder.path for parameter, folder in data.items()}
    # A folder without local files is one that the user has named on the datastore. Its files
    # may change from run to run.
    changing_inputs = [
        parameter for parameter, folder in data.items() if not folder.files
    ]
    return call_with_limit(
        "to prepare the pipeline",
        session.workspace.build,
        pipeline,
        session.settings,
        folders,
        changing_inputs,
    )


def _require_computes(session: Session) -> None:
    """Raise AzureError if a compute in the settings does not exist in the workspace."""
    workspace = session.workspace
    for section, compute in session.settings.all_computes().items():
        exists = call_with_limit(
            "to look up the compute", workspace.has_compute, compute.name
        )
        if exists:
            continue
        key = f"{section}.name"
        provision_command = f"{COMMAND} provision{session.project.files.option}"
        raise AzureError(
            f"{session.project.file_of(key)}: {key} is {compute.name}, which is not "
            f"in {workspace.name}. Run `{provision_command}` to create it."
        )
