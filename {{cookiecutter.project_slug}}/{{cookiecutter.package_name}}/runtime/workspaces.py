"""The workspaces of a project on Azure ML, and the files that describe each of them.

`.azureml/config.json` describes the default workspace, which has no name. Each further
workspace has a name and a file `.azureml/NAME.json`. It may also have a file
`settings.NAME.yml`, which replaces some of the settings for this workspace.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .rule import Problem

SETTINGS = "settings.yml"
CONFIG = ".azureml/config.json"
#: The settings that are needed to find a workspace on Azure.
NEEDED = ("subscription_id", "resource_group", "workspace_name")
# What a file such as config.json holds, for messages.
_CONFIG_CONTENTS = "the subscription, the resource group and the name of the workspace"


@dataclass(frozen=True)
class WorkspaceFiles:
    """The files of a workspace, by their paths in the project."""

    #: The name of the workspace. Empty for the default workspace, of `config.json`.
    name: str = ""

    @property
    def config(self) -> str:
        """The file with the names of the subscription, resource group and workspace."""
        return f".azureml/{self.name}.json" if self.name else CONFIG

    @property
    def settings(self) -> str:
        """The file that replaces settings for this workspace, or `settings.yml`."""
        return f"settings.{self.name}.yml" if self.name else SETTINGS

    @property
    def option(self) -> str:
        """The option that chooses the workspace, with a space before it, or "".

        Messages append it to the commands that they propose.
        """
        return f" --workspace {self.name}" if self.name else ""


@dataclass(frozen=True)
class WorkspaceConfig:
    """The settings with which a workspace is reached, and the files that hold them."""

    subscription_id: str
    resource_group: str
    workspace_name: str
    region: str
    cloud: str
    files: WorkspaceFiles


def list_workspaces(root: Path) -> list[WorkspaceFiles]:
    """Return the files of all workspaces of a project, beginning with the default workspace.

    A workspace that has only a file `settings.NAME.yml` is listed too, so that the missing
    file `.azureml/NAME.json` is reported.
    """
    names = {file.stem for file in root.glob(".azureml/*.json")} - {"config"}
    for file in root.glob("settings.*.yml"):
        names.add(file.name.removeprefix("settings.").removesuffix(".yml"))
    return [WorkspaceFiles(name) for name in ["", *sorted(names)]]


def find_missing_config(root: Path, files: WorkspaceFiles) -> Problem | None:
    """Return a problem if a named workspace has no file `.azureml/NAME.json`, or else None.

    If the workspace has a file `settings.NAME.yml`, the problem says that this file belongs
    to no workspace. Otherwise it says that `--workspace` names an unknown workspace.
    """
    is_default_workspace = files.name == ""
    if is_default_workspace or (root / files.config).exists():
        return None
    workspaces = sorted(file.stem for file in root.glob(".azureml/*.json"))
    if (root / files.settings).exists():
        return _describe_orphan_settings(files, workspaces)
    return _describe_unknown_workspace(files, workspaces)


def _describe_orphan_settings(
    files: WorkspaceFiles, workspaces: Sequence[str]
) -> Problem:
    """Return the problem that a file `settings.NAME.yml` belongs to no workspace.

    `workspaces` are the names of the existing workspaces.
    """
    similar = difflib.get_close_matches(files.name, workspaces, n=1)
    fix = f"copy {CONFIG} to {files.config}, and fill in {_CONFIG_CONTENTS}"
    if similar:
        fix = f"rename it to settings.{similar[0]}.yml; or {fix}"
    return Problem(
        file=files.settings,
        key="",
        text=f"belongs to no workspace, as there is no {files.config}",
        fix=fix,
    )


def _describe_unknown_workspace(
    files: WorkspaceFiles, workspaces: Sequence[str]
) -> Problem:
    """Return the problem that the option `--workspace` names an unknown workspace.

    `workspaces` are the names of the existing workspaces.
    """
    similar = difflib.get_close_matches(files.name, workspaces, n=1)
    fix = (
        f"to add this workspace, copy {CONFIG} to {files.config}, and fill in"
        f" {_CONFIG_CONTENTS}"
    )
    if similar:
        fix = f"write {similar[0]}; or, {fix}"
    elif workspaces:
        fix = f"write an existing workspace ({', '.join(workspaces)}); or, {fix}"
    return Problem(
        file="",
        key="--workspace",
        text=f"is {files.name}, but there is no {files.config}",
        fix=fix,
    )
