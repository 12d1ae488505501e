"""Explain the errors of the SDKs by the responses of Azure that have caused them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import requests
from azure.core.exceptions import ServiceRequestError, ServiceResponseError

from ..workspaces import WorkspaceConfig
from . import login, refusals, request_guard
from .refusals import ServiceError
from .request_guard import RequestFailed

# Errors of requests and of azure-core when no response arrives.
CONNECTION_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    ServiceRequestError,
    ServiceResponseError,
)
# The SDKs write a status code into the texts of their errors in these forms.
STATUS_PATTERNS = (
    r"(?:Code:|Error:|too many) \(?(\d{3})\b",
    r"Request failed \((\d{3})\)",
    r'"status_code": (\d{3})\b',
)


def explain_sdk_error(error: BaseException, config: WorkspaceConfig) -> str:
    """Return what went wrong and how to fix it, in whole sentences.

    The first of these that is there explains the error:

    1. An error response of Azure that has caused it.
    2. A request that was given up, or a connection that failed, among its causes.
    3. A host that has not responded to the newest request.
    4. The newest response to any request, if it was an error other than 404.
    5. The first line of the error's own message.
    """
    service_error = find_service_error(error)
    if service_error:
        return str(refusals.explain(service_error, config))

    causes = _list_causes(error)
    for cause in causes:
        if isinstance(cause, RequestFailed):
            return f"{cause} {login.CONNECTION_ADVICE}"
    if any(isinstance(cause, CONNECTION_ERRORS) for cause in causes):
        host = urlsplit(find_request_address(error)).hostname or "Azure"
        kind = type(causes[-1]).__name__
        return f"Azure cannot be reached at {host} ({kind}). {login.CONNECTION_ADVICE}"

    # An error of an SDK may contain nothing of the request or response that has caused it.
    host = request_guard.silent_host()
    if host:
        return f"No answer comes from {host}. {login.CONNECTION_ADVICE}"
    # A resource that does not exist is not the cause, as the SDKs look up many that need not
    # exist.
    refusal = request_guard.current_refusal()
    if refusal is not None and refusal.status_code != 404:
        return str(refusals.explain(_read_refusal(refusal), config))

    lines = _get_message(error).splitlines()
    detail = lines[0].rstrip(".") if lines else type(error).__name__
    return f"The SDK gives up: {detail}."


def find_status_code(error: BaseException) -> int | None:
    """Return the HTTP status that has caused an error, or None.

    An SDK may have wrapped the original error, or mention the status only in its text.
    """
    for status_code in _find_attributes(error, "status_code"):
        return int(status_code)

    text = _join_messages(error)
    for pattern in STATUS_PATTERNS:
        match = re.search(pattern, text)
        if match:
            return int(match[1])
    return None


def find_request_address(error: BaseException) -> str:
    """Return the address of the request that has failed, or an empty string."""
    for request in _find_attributes(error, "request"):
        address = getattr(request, "url", None)
        if address:
            return str(address)
    return ""


def find_service_error(error: BaseException) -> ServiceError | None:
    """Return the error response of Azure that has caused an error of an SDK, or None."""
    service_error = _read_attached_response(error)
    if service_error is not None:
        return service_error
    return _find_unattached_response(error)


def _read_attached_response(error: BaseException) -> ServiceError | None:
    """Return the error response that is attached to an error or to one of its causes."""
    address = find_request_address(error)
    for cause in _list_causes(error):
        response: Any = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if not status:
            continue

        service_error = refusals.read_error(
            status, response.headers, _get_text(response), address
        )
        # A long operation can fail in a response with the status 200, which has a code.
        if status >= 400 or service_error.code:
            return service_error
    return None


def _find_unattached_response(error: BaseException) -> ServiceError | None:
    """Return the error response for an error that has only a status, or None.

    azureml-sdk raises such errors. If the last error response has this status, it is the
    cause. Otherwise, the text of the error may contain parts of the response.
    """
    status = find_status_code(error)
    if status is None:
        return None

    address = find_request_address(error)
    last_refusal = request_guard.last_refusal()
    if last_refusal is not None and last_refusal.status_code == status:
        return _read_refusal(last_refusal)
    return _parse_error_text(_join_messages(error), status, address)


def _read_refusal(response: requests.Response) -> ServiceError:
    """Return the error response that the guard of all requests has kept."""
    return refusals.read_error(
        response.status_code, response.headers, response.text, response.url
    )


def _parse_error_text(text: str, status: int, address: str) -> ServiceError:
    """Return the error response that the text of an error quotes."""
    body = re.search(r"\{.*\}", text, re.DOTALL)
    service_error = refusals.read_error(status, {}, body[0] if body else "", address)
    sentence = re.search(r"Request failed \(\d{3}\): (.+)", text)
    if sentence and not service_error.code:
        return replace(service_error, message=refusals.shorten(sentence[1]))
    return service_error


def _get_text(response: Any) -> str:
    """Return the body of a response. `text` is a property in requests, else a method."""
    text = getattr(response, "text", "")
    if not callable(text):
        return str(text)
    # azure-core raises errors of many classes for a body that it does not expect.
    try:
        return str(text())
    except Exception:  # noqa: BLE001
        return ""


def _find_attributes(error: BaseException, name: str) -> Iterator[Any]:
    """Yield an attribute of the error, of its causes, and of the responses in them."""
    for cause in _list_causes(error):
        for owner in (cause, getattr(cause, "response", None)):
            value = getattr(owner, name, None)
            if value:
                yield value


def _join_messages(error: BaseException) -> str:
    """Return the messages of the error and of its causes, one below the other."""
    return "\n".join(_get_message(cause) for cause in _list_causes(error))


def _get_message(error: BaseException) -> str:
    """Return the message of an error, or an empty string."""
    # str() of azureml-sdk's ServiceException can itself fail, so it is not used here.
    for candidate in (getattr(error, "message", ""), *error.args):
        if candidate:
            return str(candidate)
    return ""


def _list_causes(error: BaseException) -> list[BaseException]:
    """Return an error, the error that it was raised from, and so on.

    The list of a connection error ends before the response to an earlier request, which may
    be the context in which this request was sent.
    """
    causes: list[BaseException] = []
    cause: BaseException | None = error
    is_unanswered = False
    while cause is not None and cause not in causes:
        if is_unanswered and getattr(cause, "response", None) is not None:
            break
        causes.append(cause)
        is_unanswered = is_unanswered or isinstance(
            cause, (RequestFailed, *CONNECTION_ERRORS)
        )
        # The errors of azureml-sdk keep the original error in an attribute.
        inner = getattr(cause, "inner_exception", None)
        if isinstance(inner, BaseException):
            cause = inner
        elif cause.__cause__ or cause.__suppress_context__:
            cause = cause.__cause__
        else:
            cause = cause.__context__
    return causes
