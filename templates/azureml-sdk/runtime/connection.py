"""The way to the workspace: who asks, and what Azure's refusals mean.

Every error, of the SDK and of the services, becomes an AzureError of one sentence. What
the SDK prints, warns of and logs on its own account is kept off the screen.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any

import requests
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azureml.core import Workspace
from azureml.core.authentication import (
    AbstractAuthentication,
    ServicePrincipalAuthentication,
    TokenAuthentication,
)
from azureml.exceptions import UserErrorException

from . import checks
from .project import CONFIG, CommandError, WorkspaceConfig
from .rules import CLOUDS

Say = Callable[[str], None]
PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
UNREACHABLE = (
    requests.ConnectionError,
    requests.Timeout,
    ServiceRequestError,
    ServiceResponseError,
)


class AzureError(CommandError):
    """Azure cannot do what is asked; the message says why, and how to mend it."""


class WorkspaceMissing(AzureError):
    """There is no such workspace."""


@contextmanager
def azure(config: WorkspaceConfig) -> Iterator[Say]:
    """Around all that asks Azure; gives what to say things on the screen with."""
    say = partial(print, file=sys.stdout, flush=True)
    with (
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield say
        except AzureError:
            raise
        except Exception as error:  # the SDK's have no other base class
            raise AzureError(_sentence(error, config)) from error
        finally:
            logging.disable(logging.NOTSET)


def connect(config: WorkspaceConfig) -> Workspace:
    """The workspace, as whoever is logged in; WorkspaceMissing if there is none."""
    try:
        workspace = Workspace.get(
            config.workspace_name,
            auth=authenticate(config),
            subscription_id=config.subscription_id,
            resource_group=config.resource_group,
        )
    except UserErrorException as error:  # its text lists all subscriptions there are
        text = f"{CONFIG}: the login sees no subscription {config.subscription_id}"
        fix = "write one that `az account list --output table` shows"
        raise AzureError(f"{text}: {fix}.") from error
    except Exception as error:
        if status(error) != 404:
            raise
        text = f"There is no workspace {config.workspace_name} in the resource group"
        fix = f"`{checks.COMMAND} provision --create-workspace` creates it"
        text = f"{text} {config.resource_group}: {fix}, or correct {CONFIG}."
        raise WorkspaceMissing(text) from error
    return workspace


def authenticate(config: WorkspaceConfig) -> AbstractAuthentication:
    """Whoever is logged in, in the order of `check --online`; nobody is prompted."""
    login, _ = CLOUDS[config.cloud]
    principal = [os.environ.get(name, "") for name in PRINCIPAL]
    try:
        if all(principal):
            auth = ServicePrincipalAuthentication(*principal, cloud=config.cloud)
        else:
            auth = TokenAuthentication(_token_source(login), cloud=config.cloud)
        auth.get_authentication_header()
    except Exception as error:  # of the SDK, of msal or of azure-identity
        if all(principal) and "AADSTS" not in str(error):
            raise  # no answer about the login at all
        log_in = checks.log_in_command(config.cloud)
        failed = checks.explain_login(str(error), login, log_in)
        text, fix = failed.args[1:]
        raise AzureError(f"{text[0].upper()}{text[1:]}: {fix}.") from error
    return auth


def _token_source(login: str) -> Callable[[str], str]:
    """Gives a token for an audience; a function, as the SDK copies what it is given."""
    credential = checks.credential(login)
    tokens: dict[str, Any] = {}  # as `az` is slow, and asked anew each time

    def get_token(audience: str) -> str:
        token = tokens.get(audience)
        if token is None or token.expires_on < time.time() + 300:
            token = tokens[audience] = credential.get_token(f"{audience}/.default")
        return str(token.token)

    return get_token


def status(error: BaseException) -> int | None:
    """The HTTP status behind an error, which the SDK may have wrapped, or only told."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        code = getattr(cause, "status_code", getattr(response, "status_code", None))
        if code:
            return int(code)
    for cause in _causes(error):
        told = re.search(r"(?:Code|Error): (\d{3})\b|too many (\d{3}) ", _text(cause))
        if told:
            return int(told[1] or told[2])
    return None


def request_address(error: BaseException) -> str:
    """Of the request that an error is about, empty if that is not told."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        request = getattr(cause, "request", None) or getattr(response, "request", None)
        if url := getattr(request, "url", None):
            return str(url)
    return ""


def _sentence(error: Exception, config: WorkspaceConfig) -> str:
    """What went wrong, and how to mend it."""
    code, causes = status(error), list(_causes(error))
    told = _service_message(causes)
    if code in (401, 403, 429) or (code and code >= 500):
        replies = [getattr(cause, "response", None) for cause in causes]
        headers: Any = next((one.headers for one in replies if one is not None), {})
        where = f"the workspace {config.workspace_name}"
        log_in = checks.log_in_command(config.cloud)
        text, fix = checks.explain(code, headers, where, log_in)
        text += f" ({told})" if code >= 500 and told else ""
    elif any(isinstance(cause, UNREACHABLE) for cause in causes):
        text = f"Azure cannot be reached ({type(causes[-1]).__name__})"
        fix = checks.CONNECTION_FIX
    else:
        text = f"Azure refuses it with error {code}" if code else "The SDK gives up"
        fix = told or (_text(error).splitlines() or [type(error).__name__])[0]
    return f"{text[0].upper()}{text[1:]}: {fix.rstrip('.')}."


def _service_message(causes: list[BaseException]) -> str:
    """The message in the service's own reply."""
    for cause in causes:
        content = getattr(getattr(cause, "response", None), "text", "")
        content = content() if callable(content) else content
        told = re.search(r'"message"\s*:\s*"([^"]+)"', f"{content} {_text(cause)}")
        if told:
            return told[1].rstrip(".")
    return ""


def _text(error: BaseException) -> str:
    # Not str(): that of a ServiceException can fail itself.
    return str(getattr(error, "message", None) or next(iter(error.args), ""))


def _causes(error: Any) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    seen: list[Any] = []
    while isinstance(error, BaseException) and error not in seen:
        seen.append(error)
        yield error
        inner = getattr(error, "inner_exception", None)
        context = getattr(error, "__cause__", None) or error.__context__
        error = inner if isinstance(inner, BaseException) else context
