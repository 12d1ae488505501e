"""The workspaces of a project on Azure ML, and the files that each is read from.

`.azureml/config.json` is the workspace without a name. A further workspace has a name, a
file `.azureml/NAME.json`, and perhaps a `settings.NAME.yml` with the settings that differ.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from .rules import Problem

SETTINGS = "settings.yml"
CONFIG = ".azureml/config.json"
#: The settings without which no workspace can be found.
NEEDED = ("subscription_id", "resource_group", "workspace_name")


@dataclass(frozen=True)
class WorkspaceFiles:
    """The files of a workspace, by its name; the workspace of `config.json` has none."""

    name: str = ""

    @property
    def config(self) -> str:
        """The file that says which workspace it is."""
        return f".azureml/{self.name}.json" if self.name else CONFIG

    @property
    def settings(self) -> str:
        """The file of the workspace's own settings."""
        return f"settings.{self.name}.yml" if self.name else SETTINGS

    @property
    def option(self) -> str:
        """The option, after a space, by which a command works in the workspace."""
        return f" --workspace {self.name}" if self.name else ""


@dataclass(frozen=True)
class WorkspaceConfig:
    """An Azure ML workspace, and the files that it was read from."""

    subscription_id: str
    resource_group: str
    workspace_name: str
    region: str
    cloud: str
    files: WorkspaceFiles


def list_workspaces(root: Path) -> list[WorkspaceFiles]:
    """Return all workspaces that have a file, the one of `config.json` first."""
    names = {file.stem for file in root.glob(".azureml/*.json")} - {"config"}
    for file in root.glob("settings.*.yml"):
        names.add(file.name.removeprefix("settings.").removesuffix(".yml"))
    return [WorkspaceFiles(name) for name in ["", *sorted(names)]]


def find_missing_config(root: Path, files: WorkspaceFiles) -> list[Problem]:
    """Return the problem of a named workspace without a file `.azureml/NAME.json`."""
    if not files.name or (root / files.config).exists():
        return []

    names = sorted(file.stem for file in root.glob(".azureml/*.json"))
    close_names = difflib.get_close_matches(files.name, names, 1)
    add_it = (
        f"copy {CONFIG} to {files.config} and write the names of the workspace there"
    )
    if (root / files.settings).exists():
        text = f"is of no workspace, as there is no {files.config}"
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
