"""The connection of one command to a workspace, and how it reports what it does there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..project import Project
from ..settings_models import ProjectSettings
from ..workspaces import WorkspaceConfig
from .call_limits import call_with_limit
from .connection import Printer, guard_azure_calls
from .sdk_workspace import Workspace
from .workspace_interface import WorkspaceInterface


@dataclass(frozen=True)
class Session:
    """A connected workspace, the project that uses it, and the printer of the command."""

    workspace: WorkspaceInterface
    project: Project[Any]
    settings: ProjectSettings
    printer: Printer
    #: Whether the command only reports what it would change.
    dry_run: bool = False

    def report(self, status: str, text: str) -> None:
        """Print what was done, or in a dry run what would be done.

        `status` is a participle such as "created", which begins the line.
        """
        if self.dry_run and status != "unchanged":
            status = f"would be {status:10}"
        self.printer(f"{status:10} {text}")


@contextmanager
def open_session(
    project: Project[Any],
    config: WorkspaceConfig,
    *,
    debug: bool,
    dry_run: bool = False,
) -> Iterator[Session]:
    """Connect to the workspace that `config` names, and yield a session.

    While the session is open, the SDK prints nothing, and its errors become AzureError.
    """
    settings = project.settings()
    with guard_azure_calls(config, project.root, debug) as printer:
        workspace = call_with_limit(
            "to connect to the workspace", Workspace.connect, config
        )
        yield Session(workspace, project, settings, printer, dry_run)
