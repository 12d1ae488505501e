"""What is said of Azure: its refusals in a sentence, and what it knows in a few words.

Every error, of the SDK and of the services, becomes an AzureError. What the SDK prints,
warns of and logs on its own account is kept off the screen.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import requests
from azure.core.exceptions import ServiceRequestError, ServiceResponseError

from .. import COMMAND
from ..errors import CommandError
from ..workspaces import WorkspaceConfig
from . import login

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


@dataclass(frozen=True)
class Cluster:
    """A compute cluster as it is."""

    vm_size: str
    max_nodes: int


@dataclass(frozen=True)
class Failure:
    """A step of a run that has failed, or the run itself, which then has no logs."""

    step: str
    reason: str
    url: str
    logs: list[str]
    read: Callable[[str], str]  # the text of one of them
    is_parallel: bool


def workspace_missing(config: WorkspaceConfig) -> WorkspaceMissing:
    name, group, files = config.workspace_name, config.resource_group, config.files
    text = f"There is no workspace {name} in the resource group {group}"
    command = f"{COMMAND} provision --create-workspace{files.option}"
    fix = f"`{command}` creates it, or correct {files.config}"
    return WorkspaceMissing(f"{text}: {fix}.")


def login_missing(error: Exception, config: WorkspaceConfig) -> AzureError:
    problem = login.explain_login(str(error), config.cloud)
    return AzureError(f"{problem.message} {problem.advice}")


def unknown_start(run: str, experiment: str) -> AzureError:
    text = "Azure does not answer whether the run has started"
    where = f"run {run} of the experiment {experiment}"
    return AzureError(
        f"{text}: look in the Studio for {where} before you submit again."
    )


def not_a_cluster(name: str, kind: str, config: WorkspaceConfig) -> AzureError:
    where = f"{config.files.settings}: compute.name is {name}, a {kind}"
    return AzureError(f"{where}, not a compute cluster: write another name.")


def cluster_failed(name: str, errors: object) -> AzureError:
    fix = "delete it in the Studio, and provision again"
    return AzureError(f"The cluster {name} has failed ({errors}): {fix}.")


class Say:
    """Prints on the screen, also where all else that is printed is noise."""

    def __init__(self) -> None:
        self.screen = sys.stdout

    def __call__(self, text: str) -> None:
        print(text, file=self.screen, flush=True)


@contextmanager
def azure(config: WorkspaceConfig) -> Iterator[Say]:
    """Around all that asks Azure; gives what to say things on the screen with."""
    say, noise = Say(), io.StringIO()
    with redirect_stdout(noise), redirect_stderr(noise), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield say
        except AzureError:
            raise
        except Exception as error:  # the SDK's have no other base class
            raise AzureError(_sentence(*_explain(error, config))) from error
        finally:
            logging.disable(logging.NOTSET)


def status(error: BaseException) -> int | None:
    """The HTTP status behind an error, which the SDK may have wrapped, or only told."""
    told = re.search(r"(?:Code:|Error:|too many) (\d{3})\b", "\n".join(_texts(error)))
    code = next(_found(error, "status_code"), told and told[1])
    return int(code) if code else None


def request_address(error: BaseException) -> str:
    """Of the request that an error is about, empty if that is not told."""
    urls = (getattr(request, "url", None) for request in _found(error, "request"))
    return str(next(filter(None, urls), ""))


def _explain(error: BaseException, config: WorkspaceConfig) -> tuple[str, str]:
    """What went wrong, and how to mend it."""
    code, texts, causes = status(error), _texts(error), _causes(error)
    replies = [text() if callable(text) else text for text in _found(error, "text")]
    said = " ".join(map(str, [*replies, *texts]))
    message = re.search(r'"message"\s*:\s*"([^"]+)"', said)
    told = message[1].rstrip(".") if message else ""
    if code in (401, 403, 429) or (code and code >= 500):
        headers: Any = next(_found(error, "headers"), {})
        where = f"the workspace {config.workspace_name}"
        text, fix = login.explain(code, headers, where, config.cloud)
        return text + (f" ({told})" if code >= 500 and told else ""), fix
    if any(isinstance(cause, UNREACHABLE) for cause in causes):
        kind = type(causes[-1]).__name__
        return f"Azure cannot be reached ({kind})", login.CONNECTION_FIX
    text = f"Azure refuses it with error {code}" if code else "the SDK gives up"
    return text, told or (texts[0].splitlines() or [type(error).__name__])[0]


def _sentence(text: str, fix: str) -> str:
    return f"{text[0].upper()}{text[1:]}: {fix.rstrip('.')}."


def _found(error: BaseException, name: str) -> Iterator[Any]:
    """What an error and those that it was raised from, or their replies, have by a name."""
    pairs = [(cause, getattr(cause, "response", None)) for cause in _causes(error)]
    return filter(None, (getattr(one, name, None) for pair in pairs for one in pair))


def _texts(error: BaseException) -> list[str]:
    # Not str(): that of a ServiceException can fail itself.
    texts = [(getattr(one, "message", ""), *one.args) for one in _causes(error)]
    return [str(next(filter(None, words), "")) for words in texts]


def _causes(error: Any) -> list[BaseException]:
    """An error and those that it was raised from."""
    causes: list[BaseException] = []
    while isinstance(error, BaseException) and error not in causes:
        causes.append(error)
        inner = getattr(error, "inner_exception", None)
        context = error.__cause__ or error.__context__
        error = inner if isinstance(inner, BaseException) else context
    return causes
