"""`provision`: create on Azure what the pipelines need."""

from __future__ import annotations

from typing import Any

from .. import COMMAND
from ..project import Pipelines, Project
from ..settings_models import Compute, ProjectSettings
from ..workspaces import NEEDED, WorkspaceConfig
from .call_limits import call_with_limit
from .check_results import CheckFailed
from .checks import read_azure_names
from .connection import guard_azure_calls
from .data_folders import DataFolder, list_data_files, make_data_folder
from .errors import AzureError, WorkspaceMissing
from .roles import provide_roles
from .sdk_steps import list_environments
from .sdk_workspace import Workspace
from .session import Session
from .upload_data import upload_data


def provision(
    project: Project[Any],
    pipelines: Pipelines,
    *,
    create_workspace: bool = False,
    debug: bool = False,
) -> None:
    """Create what the pipelines need on Azure, and upload their data.

    Resources that exist already are not changed. The workspace is created only with
    `create_workspace`. Data that is not on this machine is reported, but is not an error,
    because a build server may have only the sample data, which is in git.
    """
    needs = [*NEEDED, "compute.name", "compute.vm_size"]
    if create_workspace:
        needs.append("region")
    config = project.workspace_config(needs)
    settings = project.settings()
    _check_subnets(project, config)

    with guard_azure_calls(config, project.root, debug) as printer:
        workspace, status = _provide_workspace(config, settings, create_workspace)
        session = Session(workspace, project, settings, printer)
        session.report(status, f"workspace {workspace.name}, in {workspace.region}")

        for compute in settings.all_computes().values():
            _provide_cluster(session, compute)
        _provide_image_builder(session)
        has_new_roles = _provide_roles(session)
        for environment in list_environments(pipelines, settings):
            _provide_environment(session, environment)
        folders = _list_data_folders(session, pipelines)
        upload_data(session, folders, has_new_roles)


def _check_subnets(project: Project[Any], config: WorkspaceConfig) -> None:
    """Raise AzureError if a subnet is not in the subscription of the workspace.

    Azure ML requires a subnet in the workspace's own subscription. azureml-sdk does not send
    the subscription of the subnet, so Azure would look for the subnet in the wrong place.
    """
    for section, compute in project.settings().all_computes().items():
        if compute.subnet is None:
            continue
        # A subnet is a path such as /subscriptions/ID/resourceGroups/…, which begins with an
        # empty part before its first slash.
        subscription_id = compute.subnet.split("/")[2]
        if subscription_id.lower() != config.subscription_id.lower():
            key = f"{section}.subnet"
            raise AzureError(
                f"{project.file_of(key)}: {key} is in the subscription {subscription_id}, "
                f"but the workspace is in {config.subscription_id}. Name a subnet in the "
                "subscription of the workspace."
            )


def _provide_workspace(
    config: WorkspaceConfig, settings: ProjectSettings, create_workspace: bool
) -> tuple[Workspace, str]:
    """Return the workspace, and "created" if it is new, or else "unchanged".

    With `create_workspace`, the workspace is created if it does not exist. Otherwise
    WorkspaceMissing is raised.
    """
    try:
        workspace = call_with_limit(
            "to connect to the workspace", Workspace.connect, config
        )
        return workspace, "unchanged"
    except WorkspaceMissing:
        if not create_workspace:
            raise
        # The workspace is created below and not in this block: Python would report an error
        # of the creation as a consequence of WorkspaceMissing.

    # A cluster with an identity reaches the datastores of the workspace by this identity.
    computes = settings.all_computes().values()
    uses_identities = any(compute.identity for compute in computes)
    workspace = call_with_limit(
        "to create the workspace", Workspace.create, config, uses_identities
    )
    return workspace, "created"


def _provide_cluster(session: Session, setting: Compute) -> None:
    """Create the cluster that the settings describe, unless it exists, and report it.

    An existing cluster is not changed. If its VM size or its number of nodes differs from the
    settings, the difference is reported.
    """
    workspace = session.workspace
    cluster = call_with_limit(
        "to look up the cluster", workspace.find_cluster, setting.name
    )
    status = "unchanged"
    if cluster is None:
        status = "created"
        cluster = call_with_limit(
            "to create the cluster", workspace.create_cluster, setting
        )

    nodes = cluster.max_nodes
    size = cluster.vm_size
    session.report(status, f"cluster {setting.name}, up to {nodes} nodes of {size}")

    has_other_nodes = nodes != setting.max_nodes
    has_other_size = size.lower() != setting.vm_size.lower()
    if has_other_nodes or has_other_size:
        command = f"{COMMAND} check --online{session.project.files.option}"
        session.report(
            "differing",
            f"cluster {setting.name} differs from the settings. `{command}` shows the "
            "difference.",
        )


def _provide_image_builder(session: Session) -> None:
    """Let the cluster in the setting `workspace.image_build_compute` build images."""
    name = session.settings.workspace.image_build_compute
    if name is None:
        return
    was_changed = call_with_limit(
        "to choose the cluster that builds images",
        session.workspace.use_image_builder,
        name,
    )
    status = "chosen" if was_changed else "unchanged"
    session.report(status, f"cluster {name}, which builds images")


def _provide_roles(session: Session) -> bool:
    """Assign the roles by which the user and the clusters do without keys.

    Returns whether any role is newly assigned. For a role that the user may not
    assign, the command for an owner is printed. A cluster without the setting `identity`
    uses keys, and needs no role. Raises AzureError if Azure refuses anything else.
    """
    clusters = [
        cluster for cluster in read_azure_names(session.project) if cluster.identity
    ]
    if not clusters:
        return False
    try:
        statuses = call_with_limit("to assign roles", provide_roles, clusters)
    except CheckFailed as failed:
        raise AzureError(str(failed)) from failed

    for status in statuses:
        text = f"role {status.role.name} on {status.resource_name} for {status.owner}"
        if status.owner_command:
            session.report(
                "missing", f"{text}: an owner can assign it with {status.owner_command}"
            )
        elif status.is_new:
            session.report("assigned", text)
        else:
            session.report("unchanged", text)
    return any(status.is_new for status in statuses)


def _provide_environment(session: Session, environment: Any) -> None:
    """Register an environment, unless the same one is registered already."""
    registered = call_with_limit(
        "to register the environment", session.workspace.register, environment
    )
    status = "registered" if registered.is_new else "unchanged"
    session.report(
        status, f"environment {registered.name}, version {registered.version}"
    )


def _list_data_folders(session: Session, pipelines: Pipelines) -> list[DataFolder]:
    """Return the data folders of all pipelines.

    A setting below `data` whose path has no files is reported and left out.
    """
    project = session.project
    # A dict keeps each setting once, in the order of the pipelines.
    data_settings = dict.fromkeys(
        setting for pipeline in pipelines.values() for setting in pipeline.data.values()
    )

    folders = []
    for setting in data_settings:
        if list_data_files(project, setting):
            folders.append(make_data_folder(project, setting))
        else:
            path = getattr(session.settings.data, setting)
            session.report("missing", f"data.{setting}: there is no file in {path}")
    return folders
