"""The workspaces of a project on Azure ML, and the files that describe each of them.

`.azureml/config.json` describes the default workspace, which has no name. Each further
workspace has a name and a file `.azureml/NAME.json`. It may also have a file
`settings.NAME.yml`, which replaces some of the settings for this workspace.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from .rule import Problem

SETTINGS = "settings.yml"
CONFIG = ".azureml/config.json"
#: The settings that are needed to find a workspace on Azure.
NEEDED = ("subscription_id", "resource_group", "workspace_name")


@dataclass(frozen=True)
class WorkspaceFiles:
    """The files of a workspace, by their paths in the project."""

    #: The name of the workspace. Empty for the one of `config.json`.
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
    """What is needed to reach a workspace, and the files that this was read from."""

    subscription_id: str
    resource_group: str
    workspace_name: str
    region: str
    cloud: str
    files: WorkspaceFiles


def list_workspaces(root: Path) -> list[WorkspaceFiles]:
    """Return the files of all workspaces of a project, those of `config.json` first.

    A name of which there is only a `settings.NAME.yml` is listed too, so that the missing
    file is reported.
    """
    names = {file.stem for file in root.glob(".azureml/*.json")} - {"config"}
    for file in root.glob("settings.*.yml"):
        names.add(file.name.removeprefix("settings.").removesuffix(".yml"))
    return [WorkspaceFiles(name) for name in ["", *sorted(names)]]


def find_missing_config(root: Path, files: WorkspaceFiles) -> list[Problem]:
    """Return a problem if a named workspace has no file `.azureml/NAME.json`.

    It is a problem of the file `settings.NAME.yml`, or of the option `--workspace` if there
    is no such file either.
    """
    if not files.name or (root / files.config).exists():
        return []

    names = sorted(file.stem for file in root.glob(".azureml/*.json"))
    close_names = difflib.get_close_matches(files.name, names, 1)
    add_it = (
        f"copy {CONFIG} to {files.config} and write the names of the workspace there"
    )

    if (root / files.settings).exists():
        text = f"belongs to no workspace, as there is no {files.config}"
        fix = add_it
        if close_names:
            fix = f"rename it to settings.{close_names[0]}.yml, or {add_it}"
        return [Problem(files.settings, "", text, fix)]

    text = f"is {files.name}, but there is no {files.config}"
    fix = f"to add this workspace, {add_it}"
    if close_names:
        fix = f"write {close_names[0]}, or, {fix}"
    elif names:
        fix = f"{fix}, or name one that exists ({', '.join(names)})"
    return [Problem("", "--workspace", text, fix)]
