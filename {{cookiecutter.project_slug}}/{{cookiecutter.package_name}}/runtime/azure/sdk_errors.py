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

#: The errors of the packages requests and azure-core if no response arrives.
CONNECTION_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    ServiceRequestError,
    ServiceResponseError,
)
#: The forms in which the SDKs write an HTTP status into the messages of their errors, such
#: as "Code: 403", "too many 503 error responses" or "Request failed (403)".
STATUS_PATTERNS = (
    r"(?:Code:|Error:|too many) \(?(\d{3})\b",
    r"Request failed \((\d{3})\)",
    r'"status_code": (\d{3})\b',
)


def explain_sdk_error(error: BaseException, config: WorkspaceConfig) -> str:
    """Return what went wrong and how to fix it, in whole sentences.

    The first of these that exists is reported:

    1. The error response of Azure that has caused the error.
    2. The request that failed because it was given up or because its connection broke, if
       the error or one of its causes is about such a request.
    3. The host of the newest request, if this host has not responded.
    4. The newest response to any request, if it was an error other than 404.
    5. The first line of the error's own message.
    """
    service_error = find_service_error(error)
    if service_error:
        return str(refusals.explain(service_error, config))

    connection_failure = _explain_connection(error)
    if connection_failure:
        return connection_failure

    # The error may not contain the request or the response that has caused it. Then the
    # newest request of this process tells most about the cause.
    host = request_guard.silent_host()
    if host:
        return f"The host {host} does not respond. {login.CONNECTION_ADVICE}"
    response = request_guard.newest_response_if_error()
    # A 404 is not the cause: the SDKs look up many resources that need not exist.
    if response is not None and response.status_code != 404:
        return str(refusals.explain(_read_kept_response(response), config))

    lines = _get_message(error).splitlines()
    first_line = lines[0].rstrip(".") if lines else type(error).__name__
    return f"The SDK reports an error: {first_line}."


def _explain_connection(error: BaseException) -> str:
    """Explain an error that was caused by a request without a usable response.

    Either `request_guard.py` has given up the request, or its connection has failed. Returns
    "" for any other error.
    """
    causes = _list_error_and_causes(error)
    for cause in causes:
        if isinstance(cause, RequestFailed):
            return f"{cause} {login.CONNECTION_ADVICE}"
    if not any(isinstance(cause, CONNECTION_ERRORS) for cause in causes):
        return ""
    host = urlsplit(find_request_address(error)).hostname
    subject = f"The host {host}" if host else "Azure"
    # The innermost error is the most specific one, such as SSLError.
    innermost_error = type(causes[-1]).__name__
    return f"{subject} cannot be reached ({innermost_error}). {login.CONNECTION_ADVICE}"


def find_status_code(error: BaseException) -> int | None:
    """Return the HTTP status of the response that caused an error, or None if unknown.

    The status may be in the error itself, in one of its causes, or only in a message.
    """
    status_code = next(_find_attributes(error, "status_code"), None)
    if status_code is not None:
        return int(status_code)

    messages = _join_messages(error)
    for pattern in STATUS_PATTERNS:
        match = re.search(pattern, messages)
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
    service_error = _find_attached_response(error)
    if service_error is not None:
        return service_error
    return _find_response_by_status(error)


def _find_attached_response(error: BaseException) -> ServiceError | None:
    """Return the first error response that an error or one of its causes contains, or None.

    The SDKs keep a response in the attribute `response` of an error.
    """
    address = find_request_address(error)
    for cause in _list_error_and_causes(error):
        response: Any = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if not status:
            continue

        service_error = refusals.read_error(
            status, response.headers, _get_text(response), address
        )
        # A long-running operation reports its failure in a response with the status 200,
        # whose body contains an error code.
        if status >= 400 or service_error.code:
            return service_error
    return None


def _find_response_by_status(error: BaseException) -> ServiceError | None:
    """Return the response behind an error that tells only an HTTP status, or None.

    azureml-sdk raises errors of this kind. The response is the last error response of this
    process if it has the same status, or else what the message of the error quotes. Returns
    None if the error tells no status.
    """
    status = find_status_code(error)
    if status is None:
        return None

    last_error_response = request_guard.last_error_response()
    if last_error_response is not None and last_error_response.status_code == status:
        return _read_kept_response(last_error_response)
    return _parse_message(_join_messages(error), status, find_request_address(error))


def _read_kept_response(response: requests.Response) -> ServiceError:
    """Parse an error response that the guard of all requests has kept."""
    return refusals.read_error(
        response.status_code, response.headers, response.text, response.url
    )


def _parse_message(message: str, status: int, address: str) -> ServiceError:
    """Read Azure's error response from the message of an SDK exception.

    The message contains either the JSON of the response, or one sentence without JSON, such
    as "Request failed (403): The login has no access". The sentence is used if there is no
    JSON. `status` is the HTTP status, and `address` is the URL of the request.
    """
    # The JSON is everything from the first brace to the last. It may span several lines.
    json_match = re.search(r"\{.*\}", message, re.DOTALL)
    body = json_match[0] if json_match else ""
    service_error = refusals.read_error(status, {}, body, address)
    sentence = re.search(r"Request failed \(\d{3}\): (.+)", message)
    if sentence and not service_error.code:
        return replace(service_error, message=refusals.shorten(sentence[1]))
    return service_error


def _get_text(response: Any) -> str:
    """Return the body of a response as text, or "" if it cannot be read.

    `text` is a property of the responses of requests, and a method of those of azure-core.
    """
    text = getattr(response, "text", "")
    if not callable(text):
        return str(text)
    # azure-core raises errors of many classes for a body that it does not expect.
    try:
        return str(text())
    except Exception:  # noqa: BLE001
        return ""


def _find_attributes(error: BaseException, name: str) -> Iterator[Any]:
    """Yield the attribute `name` of an error, of its causes, and of their responses.

    The first value is that of the error itself, if it has one. Missing and empty attributes
    are left out.
    """
    for cause in _list_error_and_causes(error):
        for owner in (cause, getattr(cause, "response", None)):
            value = getattr(owner, name, None)
            if value:
                yield value


def _join_messages(error: BaseException) -> str:
    """Return the messages of an error and of its causes, one below the other."""
    return "\n".join(_get_message(cause) for cause in _list_error_and_causes(error))


def _get_message(error: BaseException) -> str:
    """Return the message of an error, or an empty string."""
    # str() of azureml-sdk's ServiceException can itself fail, so it is not used here.
    for candidate in (getattr(error, "message", ""), *error.args):
        if candidate:
            return str(candidate)
    return ""


def _list_error_and_causes(error: BaseException) -> list[BaseException]:
    """Return an error, the error that has caused it, the cause of that error, and so on.

    The list ends before a response that has nothing to do with the error. Example: Azure
    responds with 404, and while the SDK handles this error, the connection of its next
    request fails. Python links the connection error to the 404 as if the 404 had caused it.
    So the list ends if an error with a response follows a connection error.
    """
    errors: list[BaseException] = []
    current: BaseException | None = error
    has_seen_connection_error = False
    # The loop also ends if the causes form a cycle.
    while current is not None and current not in errors:
        has_response = getattr(current, "response", None) is not None
        if has_seen_connection_error and has_response:
            break
        errors.append(current)
        if isinstance(current, (RequestFailed, *CONNECTION_ERRORS)):
            has_seen_connection_error = True
        current = _get_cause(current)
    return errors


def _get_cause(error: BaseException) -> BaseException | None:
    """Return the error that has caused an error, or None.

    The cause is the error after `from` in `raise … from …`, or without `from` the error that
    was being handled when this one was raised.
    """
    # The errors of azureml-sdk keep the original error in an attribute.
    inner_error = getattr(error, "inner_exception", None)
    if isinstance(inner_error, BaseException):
        return inner_error
    # With `raise … from None`, there is no cause.
    if error.__cause__ or error.__suppress_context__:
        return error.__cause__
    return error.__context__
