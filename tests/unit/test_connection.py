"""Test the limits on calls of the SDKs, and what is found behind their errors."""

from __future__ import annotations

import threading
import time
from typing import ClassVar

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


def test_the_status_is_found_in_the_json_that_azureml_sdk_writes_about_an_answer() -> (
    None
):
    text = '{\n    "error_details": "<Error/>",\n    "status_code": 403,\n    "url": "a"\n}'
    error = sdk_errors.find_service_error(Exception(text))
    assert error.status == 403


def test_a_body_that_azure_core_cannot_read_is_no_trouble() -> None:
    class Response:
        status_code = 403
        headers: ClassVar[dict[str, str]] = {"x-ms-error-code": "AuthorizationFailure"}

        def text(self) -> str:
            raise AssertionError("unexpected type")

    error = Exception("no")
    error.response = Response()  # type: ignore[attr-defined]
    assert sdk_errors.find_service_error(error).code == "AuthorizationFailure"


def test_an_error_raised_from_none_hides_the_error_before_it() -> None:
    try:
        try:
            raise LookupError
        except LookupError:
            raise ValueError from None
    except ValueError as error:
        assert sdk_errors._list_causes(error) == [error]


def test_the_answer_to_an_earlier_request_does_not_explain_a_lost_connection() -> None:
    response = requests.Response()
    response.status_code = 404
    lost = requests.ConnectionError("The line is dead.")
    lost.__context__ = requests.HTTPError("There is none.", response=response)
    assert sdk_errors.find_service_error(lost) is None

    request = requests.Request("GET", "https://management.azure.com").prepare()
    given_up = request_guard.RequestFailed("No answer comes.", request)
    given_up.__context__ = lost.__context__
    assert sdk_errors.find_service_error(given_up) is None


def test_a_sentence_of_azure_in_the_text_of_an_error_is_read() -> None:
    text = "Request failed (403): Resource 'a' was disallowed by policy. Policy identifiers: '[]'."
    error = sdk_errors.find_service_error(Exception(text))
    assert (error.status, error.message) == (
        403,
        "Resource 'a' was disallowed by policy",
    )
