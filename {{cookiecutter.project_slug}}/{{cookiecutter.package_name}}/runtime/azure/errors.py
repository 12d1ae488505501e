"""The errors that end a command for Azure with a message."""

from __future__ import annotations

from .. import COMMAND
from ..errors import CommandError
from ..harmless_text import make_harmless
from ..workspaces import WorkspaceConfig
from . import login, request_guard


class AzureError(CommandError):
    """Azure cannot do what was asked for. The message says why, and how to fix it.

    The message may quote Azure, so it is made harmless for the screen.
    """

    def __init__(self, message: str) -> None:
        super().__init__(make_harmless(message))


class CallTooLong(AzureError):
    """A call of an SDK has taken too long."""


class WorkspaceMissing(AzureError):
    """The workspace does not exist."""

    def __init__(self, config: WorkspaceConfig) -> None:
        command = f"{COMMAND} provision --create-workspace{config.files.option}"
        super().__init__(
            f"There is no workspace {config.workspace_name} in the resource group "
            f"{config.resource_group}. Run `{command}` to create it, or correct "
            f"{config.files.config}."
        )


class LoginMissing(AzureError):
    """Nobody is logged in, or Azure refuses the login. The message explains the cause."""

    def __init__(self, error: Exception, config: WorkspaceConfig) -> None:
        quotation = request_guard.quote_login_refusal()
        problem = login.explain_login(str(error), config.cloud, quotation)
        super().__init__(f"{problem.message} {problem.advice}")


class StartUnknown(AzureError):
    """The connection was lost, so it is unknown whether Azure has started a run."""

    def __init__(self, run_id: str, experiment: str) -> None:
        super().__init__(
            "Azure does not respond, so it is unknown whether the run has started. Look in "
            f"the Studio for run {run_id} of the experiment {experiment} before you submit "
            "again."
        )


class NotACluster(AzureError):
    """The compute of the settings is something else, such as a compute instance."""

    def __init__(self, name: str, kind: str, config: WorkspaceConfig) -> None:
        super().__init__(
            f"{config.files.settings}: the compute {name} is a {kind}, not a compute "
            "cluster. Write the name of a compute cluster instead."
        )


class ClusterFailed(AzureError):
    """Azure could not create the cluster."""

    def __init__(self, name: str, errors: object) -> None:
        super().__init__(
            f"The cluster {name} has failed ({errors}). Delete it in the Studio, then run "
            "`provision` again."
        )
