"""Test the time limits on calls of the SDKs, and how their errors are read."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from template_package import (
    blob_container,
    call_limits,
    connection,
    errors,
    login,
    online_checks,
    request_guard,
    roles,
    sdk_errors,
)


def test_call_that_sends_no_more_requests_is_given_up(
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
        "Azure was asked to publish, but has not responded for 0.35 seconds. Check in the "
        "Studio how far this has got, then run the command again."
    )


def test_operation_that_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_limits, "LONGEST_CALL", 0.1)
    monkeypatch.setattr(call_limits, "POLL_SECONDS", 0.02)
    with pytest.raises(
        call_limits.CallTooLong,
        match=r"asked to wait, but has not finished after 0.1 s",
    ):
        call_limits.call_with_limit("to wait", time.sleep, 5)


def test_call_with_limit_returns_and_raises_what_the_call_does() -> None:
    assert call_limits.call_with_limit("to add", sum, [1, 2]) == 3
    with pytest.raises(ZeroDivisionError):
        call_limits.call_with_limit("to divide", divmod, 1, 0)


def test_refusal_is_found_behind_the_errors_of_an_sdk() -> None:
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


def test_refusal_is_read_from_the_text_of_an_error() -> None:
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


def test_status_is_read_from_the_json_of_azureml_sdk() -> None:
    text = '{\n    "error_details": "<Error/>",\n    "status_code": 403,\n    "url": "a"\n}'
    error = sdk_errors.find_service_error(Exception(text))
    assert error.status == 403


def test_refusal_is_read_although_azure_core_cannot_read_its_body() -> None:
    class Response:
        status_code = 403
        headers: ClassVar[dict[str, str]] = {"x-ms-error-code": "AuthorizationFailure"}

        def text(self) -> str:
            raise AssertionError("unexpected type")

    error = Exception("no")
    error.response = Response()  # type: ignore[attr-defined]
    assert sdk_errors.find_service_error(error).code == "AuthorizationFailure"


def test_error_that_is_raised_from_none_hides_the_error_before_it() -> None:
    try:
        try:
            raise LookupError
        except LookupError:
            raise ValueError from None
    except ValueError as error:
        assert sdk_errors._list_error_and_causes(error) == [error]


def test_earlier_answer_does_not_explain_a_lost_connection() -> None:
    response = requests.Response()
    response.status_code = 404
    lost = requests.ConnectionError("The line is dead.")
    lost.__context__ = requests.HTTPError("There is none.", response=response)
    assert sdk_errors.find_service_error(lost) is None

    request = requests.Request("GET", "https://management.azure.com").prepare()
    given_up = request_guard.RequestFailed("It does not respond.", request)
    given_up.__context__ = lost.__context__
    assert sdk_errors.find_service_error(given_up) is None


def test_message_of_azure_is_read_from_the_text_of_an_error() -> None:
    text = "Request failed (403): Resource 'a' was disallowed by policy. Policy identifiers: '[]'."
    error = sdk_errors.find_service_error(Exception(text))
    assert (error.status, error.message) == (
        403,
        "Resource 'a' was disallowed by policy",
    )


class Config:
    """The configuration of a workspace, as far as the message about a login needs it."""

    cloud = "AzureCloud"


def test_login_that_fails_outside_the_sdk_is_explained(tmp_path: Path) -> None:
    """`provision` gets a token by itself when it assigns roles."""

    def fail() -> None:
        raise login.LoginError("AADSTS70043: The refresh token has expired.")

    with (
        pytest.raises(errors.CommandError) as error,
        connection.guard_azure_calls(Config, tmp_path),
    ):
        fail()
    assert str(error.value).startswith("Your login has expired (AADSTS70043). Run `az")


CLUSTER = roles.AzureNames(
    "id", "group", "workspace", "westeurope", "cpu-cluster", "size", 1, "environment"
)


class Manager:
    """A resource manager that knows the workspace, but not the cluster."""

    def __init__(self, *_: object) -> None:
        pass

    def get(self, path: str, *_: object, **__: object) -> dict[str, Any] | None:
        if "/computes/" in path:
            return None
        return {"properties": {"storageAccount": "/storageAccounts/store"}}


def test_cluster_that_azure_does_not_find_gets_no_role(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roles, "get_token", lambda cloud: "no token")
    monkeypatch.setattr(roles, "ResourceManager", Manager)
    with pytest.raises(roles.CheckFailed) as failed:
        roles.provide_roles([CLUSTER])
    assert failed.value.result.text == (
        "Azure does not find cpu-cluster, so its roles cannot be assigned."
    )


def make_response(status: int, code: str) -> requests.Response:
    """Return an error response of the resource manager."""
    response = requests.Response()
    response.status_code = status
    response.headers["Retry-After"] = "3600"
    response.url = "https://management.azure.com/subscriptions/id"
    body = {"error": {"code": code, "message": "Azure's own words."}}
    response._content = json.dumps(body).encode()
    return response


class PlayedSession:
    """A session of requests in which each request ends in the same way."""

    def __init__(self, outcome: requests.Response | Exception) -> None:
        self.outcome = outcome

    def request(self, *_: object, **__: object) -> requests.Response:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def assign_in(outcome: requests.Response | Exception) -> bool:
    """Assign a role through a resource manager whose requests end in this way."""
    manager = roles.ResourceManager(CLUSTER, "no token", deadline=0)
    manager.session = PlayedSession(outcome)
    principal = roles._Principal("you", "principal", "User", [])
    return bool(roles._assign_role(manager, principal, "/a/b/c", roles.ACR_PULL))


def test_only_a_missing_permission_is_left_to_an_owner() -> None:
    assert assign_in(make_response(201, "")) is True
    assert assign_in(make_response(409, "RoleAssignmentExists")) is True
    assert assign_in(make_response(403, "AuthorizationFailed")) is False


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalServerError"), (409, "ScopeLocked"), (429, "TooManyRequests")],
)
def test_a_role_that_azure_cannot_assign_is_an_error(status: int, code: str) -> None:
    with pytest.raises(roles.CheckFailed) as failed:
        assign_in(make_response(status, code))
    # `provision` prints this text, which ends with Azure's own words like any other message.
    assert str(failed.value).endswith(
        f'answered {status} {code}: "Azure\'s own words".'
    )
    assert failed.value.result.fix in str(failed.value)


def test_a_connection_that_is_cut_while_a_role_is_assigned_is_an_error() -> None:
    with pytest.raises(roles.CheckFailed, match="cannot be reached"):
        assign_in(requests.ConnectionError("The line is dead."))


def test_a_busy_azure_is_not_taken_for_a_broken_network() -> None:
    """The guard of all requests gives up, as Azure asks for too long a wait."""
    response = make_response(429, "TooManyRequests")
    request = requests.Request("PUT", response.url).prepare()
    busy = request_guard.RequestFailed("Azure is busy.", request, response)
    with pytest.raises(roles.CheckFailed) as failed:
        assign_in(busy)
    result = failed.value.result
    assert result.text.startswith("Azure is busy and asks you to wait 3600 s. ")
    assert result.fix == (
        "Run the command again after this time: it continues where it stopped."
    )


def test_each_need_of_a_check_is_a_fact_with_a_reason_to_skip_the_check() -> None:
    facts = {field.name for field in dataclasses.fields(online_checks.Facts)}
    for check in online_checks.CHECKS:
        assert facts.issuperset(check.needs)
        assert online_checks.REASON_BY_NEED.keys() >= set(check.needs)


BLOCKS = 200


class Container:
    """A container whose uploads take 10 s each, unless the callback ends them."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.block_counts: dict[str, int] = {}

    def upload_blob(
        self, path: str, *_: object, progress_hook: Callable[..., None], **__: object
    ) -> None:
        """Upload all blocks of a file, or fail."""
        if path == "failing":
            time.sleep(0.1)
            raise self.error
        for block in range(BLOCKS):
            self.block_counts[path] = block
            time.sleep(0.05)
            progress_hook(block, None)


def test_ctrl_c_ends_uploads_after_their_current_blocks(tmp_path: Path) -> None:
    """Four uploads run at a time, so the last ones are never started."""
    file = tmp_path / "file"
    file.touch()
    container = Container(KeyboardInterrupt())
    paths = ["failing", "a", "b", "c", "d", "e", "f"]
    with pytest.raises(KeyboardInterrupt):
        blob_container.upload_files(
            container, dict.fromkeys(paths, file), lambda path, sent_bytes: None
        )
    assert max(container.block_counts.values()) < BLOCKS / 4
    assert "f" not in container.block_counts
