"""Call Azure through the SDKs: silently, within a time limit, with errors as sentences."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import requests
from azure.core.exceptions import ServiceRequestError, ServiceResponseError

from .. import COMMAND
from ..errors import CommandError
from ..workspaces import WorkspaceConfig
from . import login
from .sdk_log import keep_sdk_output

#: Seconds that one call of an SDK may take. Azure needs minutes for a new workspace or a
#: new cluster; the SDKs themselves would wait for it without an end.
LONGEST_CALL = 30 * 60
UNREACHABLE = (
    requests.ConnectionError,
    requests.Timeout,
    ServiceRequestError,
    ServiceResponseError,
)

T = TypeVar("T")


class AzureError(CommandError):
    """Azure cannot do what was asked for; the message says why, and how to fix it."""


class WorkspaceMissing(AzureError):
    """The workspace does not exist."""

    def __init__(self, config: WorkspaceConfig) -> None:
        command = f"{COMMAND} provision --create-workspace{config.files.option}"
        super().__init__(
            f"There is no workspace {config.workspace_name} in the resource group "
            f"{config.resource_group}: `{command}` creates it, or correct "
            f"{config.files.config}."
        )


class LoginMissing(AzureError):
    """Nobody is logged in, or Azure refuses the login."""

    def __init__(self, error: Exception, config: WorkspaceConfig) -> None:
        problem = login.explain_login(str(error), config.cloud)
        super().__init__(f"{problem.message} {problem.advice}")


class StartUnknown(AzureError):
    """Azure does not say whether it has started a run."""

    def __init__(self, run_id: str, experiment: str) -> None:
        super().__init__(
            "Azure does not answer whether the run has started: look in the Studio for "
            f"run {run_id} of the experiment {experiment} before you submit again."
        )


class NotACluster(AzureError):
    """The compute of the settings is something else, such as a compute instance."""

    def __init__(self, name: str, kind: str, config: WorkspaceConfig) -> None:
        super().__init__(
            f"{config.files.settings}: compute.name is {name}, a {kind}, not a compute "
            "cluster: write another name."
        )


class ClusterFailed(AzureError):
    """Azure could not create the cluster."""

    def __init__(self, name: str, errors: object) -> None:
        super().__init__(
            f"The cluster {name} has failed ({errors}): delete it in the Studio, and "
            "provision again."
        )


class Printer:
    """Print lines on the screen, also while standard output is redirected."""

    def __init__(self) -> None:
        self.screen = sys.stdout

    def __call__(self, text: str) -> None:
        print(text, file=self.screen, flush=True)


@contextmanager
def quiet_azure_calls(
    config: WorkspaceConfig, root: Path, debug: bool = False
) -> Iterator[Printer]:
    """Silence the SDK, turn its errors into AzureError, and yield a printer.

    The printer still reaches the screen. What the SDK prints, and the traceback of an
    error, are in the log file below `root`, which the error's message names; with
    `debug` they are on the screen.
    """
    printer = Printer()
    with keep_sdk_output(root, debug) as log_file:
        try:
            yield printer
        except CommandError as error:
            if error.__cause__ is None:
                raise
            raise AzureError(_log_error(error, str(error), log_file)) from error
        except Exception as error:  # The errors of the SDKs have no other base class.
            message = _explain(error, config)
            raise AzureError(_log_error(error, message, log_file)) from error


def _log_error(error: Exception, message: str, log_file: str) -> str:
    """Log the traceback of `error`; return its message, with the log file's name."""
    logging.getLogger(__name__).error(message, exc_info=error)
    if not log_file:
        return message
    return f"{message} Details are in {log_file}."


def call_with_limit(purpose: str, function: Callable[..., T], *arguments: Any) -> T:
    """Return `function(*arguments)`; raise AzureError if that takes too long.

    The SDKs wait without an end for operations of Azure that do not end, and for
    servers that do not answer. `purpose` is for the message, such as "to publish".
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 (it is raised again below)
            future.set_exception(error)

    # As a daemon, the thread cannot keep the process from ending.
    threading.Thread(target=call, daemon=True).start()
    try:
        return future.result(LONGEST_CALL)
    except TimeoutError as error:
        if future.done():  # The function itself has raised it.
            raise
        raise AzureError(
            f"Azure has taken more than {LONGEST_CALL / 60:g} minutes {purpose}: look in "
            "the Studio how far it has got, then run the command again."
        ) from error


def status_code(error: BaseException) -> int | None:
    """Return the HTTP status behind an error, or None.

    An SDK may have wrapped the error, or name the status in its text only.
    """
    for code in _attributes(error, "status_code"):
        return int(code)
    text = "\n".join(_messages(error))
    match = re.search(r"(?:Code:|Error:|too many) (\d{3})\b", text)
    return int(match[1]) if match else None


def request_address(error: BaseException) -> str:
    """Return the address of the request that failed, or an empty text."""
    for request in _attributes(error, "request"):
        address = getattr(request, "url", None)
        if address:
            return str(address)
    return ""


def _explain(error: BaseException, config: WorkspaceConfig) -> str:
    """Return a sentence on what went wrong, and how to fix it."""
    code = status_code(error)
    causes = _causes(error)
    detail = _service_message(error)

    if code in (401, 403, 429) or (code and code >= 500):
        headers: Any = next(_attributes(error, "headers"), {})
        scope = f"the workspace {config.workspace_name}"
        text, fix = login.explain(code, headers, scope, config.cloud)
        if code >= 500 and detail:
            text = f"{text} ({detail})"
        return _sentence(text, fix)

    if any(isinstance(cause, UNREACHABLE) for cause in causes):
        kind = type(causes[-1]).__name__
        return _sentence(f"Azure cannot be reached ({kind})", login.CONNECTION_FIX)

    if not detail:
        lines = _messages(error)[0].splitlines()
        detail = lines[0] if lines else type(error).__name__
    if code:
        return _sentence(f"Azure refuses it with error {code}", detail)
    return _sentence("The SDK gives up", detail)


def _service_message(error: BaseException) -> str:
    """Return the `message` of the service's JSON reply, or an empty text."""
    replies = []
    for text in _attributes(error, "text"):
        replies.append(str(text() if callable(text) else text))
    texts = [*replies, *_messages(error)]
    match = re.search(r'"message"\s*:\s*"([^"]+)"', " ".join(texts))
    return match[1].rstrip(".") if match else ""


def _sentence(text: str, fix: str) -> str:
    return f"{text[0].upper()}{text[1:]}: {fix.rstrip('.')}."


def _attributes(error: BaseException, name: str) -> Iterator[Any]:
    """Yield an attribute of the error, its causes, and the HTTP responses they hold."""
    for cause in _causes(error):
        for owner in (cause, getattr(cause, "response", None)):
            value = getattr(owner, name, None)
            if value:
                yield value


def _messages(error: BaseException) -> list[str]:
    """Return the text of the error and of each of its causes, the error's first."""
    messages = []
    for cause in _causes(error):
        # str() of a ServiceException can fail itself, so it is not used here.
        candidates = (getattr(cause, "message", ""), *cause.args)
        messages.append(str(next(filter(None, candidates), "")))
    return messages


def _causes(error: Any) -> list[BaseException]:
    """Return an error, the error that it was raised from, and so on."""
    causes: list[BaseException] = []
    while isinstance(error, BaseException) and error not in causes:
        causes.append(error)
        # The errors of azureml-sdk keep the first error in an attribute.
        inner = getattr(error, "inner_exception", None)
        if isinstance(inner, BaseException):
            error = inner
        else:
            error = error.__cause__ or error.__context__
    return causes
