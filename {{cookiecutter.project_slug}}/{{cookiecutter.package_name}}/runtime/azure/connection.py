"""Call Azure through the SDKs: silently, within limits, with errors as sentences."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import requests
from azure.core.exceptions import ServiceRequestError, ServiceResponseError

from .. import COMMAND
from ..errors import CommandError
from ..harmless_text import make_harmless
from ..workspaces import WorkspaceConfig
from . import login, refusals, request_guard
from .refusals import ServiceError
from .request_guard import RequestFailed
from .sdk_log import keep_sdk_output

#: Seconds that one call of an SDK may take while Azure answers. Azure needs minutes for a
#: new workspace or a new cluster; the SDKs themselves would wait for it without an end.
LONGEST_CALL = 30 * 60
#: A call is given up if no request was answered for so many times LONGEST_SILENCE. A request
#: that is not answered is given up earlier; this is for an SDK that waits for nothing.
SILENCES = 7
POLL_SECONDS = 0.5  # between two looks at a call that is going on
UNREACHABLE = (
    requests.ConnectionError,
    requests.Timeout,
    ServiceRequestError,
    ServiceResponseError,
)

P = ParamSpec("P")
T = TypeVar("T")


class AzureError(CommandError):
    """Azure cannot do what was asked for; the message says why, and how to fix it.

    The message may hold text of Azure, so it is made harmless for the screen.
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
            f"{config.files.settings}: the compute {name} is a {kind}, not a compute "
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
    """Print lines on the screen, also while standard output is redirected.

    They may hold text of Azure, so they are made harmless for the screen.
    """

    def __init__(self) -> None:
        self.screen = sys.stdout

    def __call__(self, text: str) -> None:
        print(make_harmless(text), file=self.screen, flush=True)


@contextmanager
def quiet_azure_calls(
    config: WorkspaceConfig, root: Path, debug: bool = False
) -> Iterator[Printer]:
    """Silence the SDK, limit the time of its requests, and raise its errors as AzureError.

    Yields a printer, which still prints on the screen. The SDK's own output and tracebacks
    go to a log file below `root`, whose path the error's message gives. With `debug`, they
    go to the screen.
    """
    printer = Printer()
    with keep_sdk_output(root, debug) as log_file, request_guard.guard_requests():
        try:
            yield printer
        except CommandError as error:
            if error.__cause__ is None:
                # The project's own code has raised it, with a message for the user.
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


def call_with_limit(
    purpose: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a function of an SDK, and return its result.

    Raises CallTooLong if Azure has answered no request for a while, or if the call takes
    longer than LONGEST_CALL. `purpose` is for the message, such as "to publish".
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (it is raised again below)
            future.set_exception(error)

    # As a daemon, the thread cannot keep the process from ending.
    threading.Thread(target=call, daemon=True).start()
    started = time.monotonic()
    while True:
        try:
            return future.result(POLL_SECONDS)
        except TimeoutError:
            if future.done():  # The function itself has raised it.
                raise
        _check_progress(purpose, started)


def _check_progress(purpose: str, started: float) -> None:
    """Raise CallTooLong if a call that began at `started` is not worth waiting for."""
    now = time.monotonic()
    answered = max(started, request_guard.last_answer_time())
    longest_wait = SILENCES * request_guard.LONGEST_SILENCE
    if now - answered > longest_wait:
        raise CallTooLong(
            f"Azure was asked {purpose}, and has not answered for "
            f"{_describe_time(longest_wait)}: look in the Studio how far it has got, then "
            "run the command again."
        )
    if now - started > LONGEST_CALL:
        raise CallTooLong(
            f"Azure has taken more than {_describe_time(LONGEST_CALL)} {purpose}: look in "
            "the Studio how far it has got, then run the command again."
        )


def _describe_time(seconds: float) -> str:
    return f"{seconds:g} seconds" if seconds < 60 else f"{seconds / 60:g} minutes"


def status_code(error: BaseException) -> int | None:
    """Return the HTTP status behind an error, or None.

    An SDK may have wrapped the error, or name the status in its text only.
    """
    for code in _attributes(error, "status_code"):
        return int(code)
    text = "\n".join(_messages(error))
    match = re.search(r"(?:Code:|Error:|too many) \(?(\d{3})\b", text)
    match = match or re.search(r"Request failed \((\d{3})\)", text)
    return int(match[1]) if match else None


def request_address(error: BaseException) -> str:
    """Return the address of the request that failed, or an empty text."""
    for request in _attributes(error, "request"):
        address = getattr(request, "url", None)
        if address:
            return str(address)
    return ""


def _explain(error: BaseException, config: WorkspaceConfig) -> str:
    """Return what went wrong, and how to fix it, in whole sentences."""
    service_error = read_service_error(error)
    if service_error:
        return str(refusals.explain(service_error, config))

    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, RequestFailed):
            return f"{cause} {login.CONNECTION_ADVICE}"
    if any(isinstance(cause, UNREACHABLE) for cause in causes):
        host = urlsplit(request_address(error)).hostname or "Azure"
        kind = type(causes[-1]).__name__
        return f"Azure cannot be reached at {host} ({kind}). {login.CONNECTION_ADVICE}"

    lines = _messages(error)[0].splitlines()
    detail = lines[0].rstrip(".") if lines else type(error).__name__
    return f"The SDK gives up: {detail}."


def read_service_error(error: BaseException) -> ServiceError | None:
    """Return the answer of a service that has caused an error of an SDK, if there is one."""
    return _find_response(error) or _find_remembered_refusal(error)


def _find_response(error: BaseException) -> ServiceError | None:
    """Return the answer of the first HTTP response among the causes of an error."""
    address = request_address(error)
    for cause in _causes(error):
        response: Any = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if not status:
            continue
        text = getattr(response, "text", "")
        body = str(text() if callable(text) else text)
        service_error = refusals.read_error(status, response.headers, body, address)
        # A long operation can fail in an answer with the status 200, which has a code.
        if status >= 400 or service_error.code:
            return service_error
    return None


def _find_remembered_refusal(error: BaseException) -> ServiceError | None:
    """Return the answer for an error that has a status, but no HTTP response.

    azureml-sdk raises such errors. The answer is the last refusal, if it has this status,
    or else whatever the text of the error tells about it.
    """
    status = status_code(error)
    if status is None:
        return None
    address = request_address(error)
    refusal = request_guard.last_refusal()
    if refusal is not None and refusal.status_code == status:
        return refusals.read_error(
            status, refusal.headers, refusal.text, refusal.url or address
        )
    text = "\n".join(_messages(error))
    body_in_text = re.search(r"\{.*\}", text, re.DOTALL)
    body = body_in_text[0] if body_in_text else ""
    service_error = refusals.read_error(status, {}, body, address)
    sentence = re.search(r"Request failed \(\d{3}\): (.+)", text)
    if sentence and not service_error.code:
        return replace(service_error, message=refusals.shorten(sentence[1]))
    return service_error


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
