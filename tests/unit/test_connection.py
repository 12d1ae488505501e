"""Test the limits on calls of the SDKs, and what is found behind their errors."""

from __future__ import annotations

import threading
import time

import pytest
import requests
from template_package import call_limits, request_guard, sdk_errors


def test_a_call_that_asks_nothing_any_more_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_guard, "LONGEST_SILENCE", 0.05)
    monkeypatch.setattr(call_limits, "POLL_SECONDS", 0.02)
    forever = threading.Event()
    started = time.monotonic()
    with pytest.raises(call_limits.CallTooLong) as failure:
        call_limits.call_with_limit("to publish", forever.wait, 60)
    assert time.monotonic() - started < 10
    assert str(failure.value) == (
        "Azure was asked to publish, and has not answered for 0.35 seconds: look in the "
        "Studio how far it has got, then run the command again."
    )


def test_an_operation_that_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_limits, "LONGEST_CALL", 0.1)
    monkeypatch.setattr(call_limits, "POLL_SECONDS", 0.02)
    with pytest.raises(
        call_limits.CallTooLong, match=r"more than 0.1 seconds to wait:"
    ):
        call_limits.call_with_limit("to wait", time.sleep, 5)


def test_what_a_call_returns_and_raises_is_passed_on() -> None:
    assert call_limits.call_with_limit("to add", sum, [1, 2]) == 3
    with pytest.raises(ZeroDivisionError):
        call_limits.call_with_limit("to divide", divmod, 1, 0)


def test_a_refusal_is_found_behind_the_errors_of_an_sdk() -> None:
    response = requests.Response()
    response.status_code = 403
    response.headers["x-ms-error-code"] = "AuthorizationFailure"
    request = requests.Request("PUT", "https://a.blob.core.windows.net/b").prepare()
    inner = requests.HTTPError(response=response, request=request)
    outer = RuntimeError("The SDK has failed.")
    outer.__cause__ = inner
    error = sdk_errors.find_service_error(outer)
    assert (error.status, error.code) == (403, "AuthorizationFailure")
    assert error.host == "a.blob.core.windows.net"


def test_a_refusal_is_read_from_the_text_of_an_error() -> None:
    text = (
        "ServiceException:\n\tCode: 409\n\tMessage: no\n\tDetails:\n"
        '{"error": {"code": "ScopeLocked", "message": "It is locked."}}'
    )
    error = sdk_errors.find_service_error(Exception(text))
    assert (error.status, error.code, error.message) == (
        409,
        "ScopeLocked",
        "It is locked",
    )
    assert sdk_errors.find_service_error(Exception("no answer at all")) is None


def test_a_sentence_of_azure_in_the_text_of_an_error_is_read() -> None:
    text = "Request failed (403): Resource 'a' was disallowed by policy. Policy identifiers: '[]'."
    error = sdk_errors.find_service_error(Exception(text))
    assert (error.status, error.message) == (
        403,
        "Resource 'a' was disallowed by policy",
    )
