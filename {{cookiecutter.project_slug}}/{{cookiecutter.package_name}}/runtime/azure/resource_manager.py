"""A client of the REST API of Azure's resource manager."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..rules import CLOUDS
from . import login, refusals, request_guard
from .check_results import NOT_CHECKED, WRONG, AzureNames, CheckFailed, CheckResult

if TYPE_CHECKING:
    import requests

#: The version of Azure ML's REST API.
ML_VERSION = "api-version=2024-04-01"


class ResourceManager:
    """Sends requests to Azure's resource manager, and repeats them while it is busy.

    `deadline` is the time of the monotonic clock after which no request is repeated.
    """

    def __init__(self, names: AzureNames, token: str, deadline: float) -> None:
        """Prepare a session that sends the token with each request."""
        # Imported here, because it is slow and `check` without --online does not need it.
        import requests

        self.names = names
        self.host = CLOUDS[names.cloud].resource_manager
        self.deadline = deadline
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"

    def get(
        self,
        path: str,
        query: str,
        none_if: tuple[int, ...] = (404,),
        status_if_forbidden: str = NOT_CHECKED,
    ) -> Any:
        """Return the JSON of a resource, or None if the HTTP status is one of `none_if`.

        `query` is the part of the URL after "?", such as "api-version=2024-04-01".

        Raises CheckFailed on any other error. This exception carries a CheckResult. If Azure
        forbids the access (HTTP 403), the CheckResult gets the status `status_if_forbidden`,
        such as "wrong". Raises ValueError if the response is not JSON.
        """
        response = self._send("GET", f"{path}?{query}")
        if response.status_code in none_if:
            return None
        if response.status_code != 200:
            raise self._make_check_failed(response, status_if_forbidden)
        try:
            return response.json()
        except RecursionError:
            # Callers expect the ValueError that any other unreadable JSON raises.
            raise ValueError("The JSON is nested too deeply.") from None

    def put(
        self, path: str, query: str, body: Mapping[str, Any], *, code_if_exists: str
    ) -> bool:
        """Create a resource, and return whether the login was permitted to do so.

        A response with the error code `code_if_exists`, such as RoleAssignmentExists, counts
        as success. Returns False on 403. Raises CheckFailed on any other error.
        """
        response = self._send("PUT", f"{path}?{query}", body)
        if response.status_code in (200, 201, 202):
            return True
        if response.status_code == 403:
            return False
        if code_if_exists in _read_error(response).codes:
            return True
        raise self._make_check_failed(response)

    def list_items(
        self, path: str, query: str = ML_VERSION
    ) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, which Azure sends in pages.

        Nothing is yielded if the list does not exist. Raises CheckFailed on any other error.
        """
        while query:
            page = self.get(path, query) or {"value": []}
            yield from page["value"]
            # The link to the next page has the same path and another query.
            query = urlsplit(page.get("nextLink") or "").query

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> requests.Response:
        """Send a request, and return the response, whatever its HTTP status.

        The request is repeated while Azure is busy (429), until the deadline. Raises
        CheckFailed if no response arrives, or if `request_guard.py` gives up the request.
        """
        while True:
            try:
                response = self.session.request(
                    method,
                    f"https://{self.host}{path}",
                    json=body,
                    timeout=login.TIMEOUT,
                    allow_redirects=False,  # The token is for this host alone.
                )
            except request_guard.RequestFailed as error:
                if error.response is not None:
                    # Azure has responded, but asks for too long a wait.
                    raise self._make_check_failed(error.response) from None
                raise _make_connection_failure(str(error)) from None
            except OSError as error:  # The base class of all errors of `requests`.
                raise _make_connection_failure(
                    f"The host {self.host} cannot be reached ({type(error).__name__})."
                ) from None

            if response.status_code != 429:
                return response
            seconds = refusals.seconds_to_wait(response.headers)
            if time.monotonic() + seconds > self.deadline:
                return response
            time.sleep(seconds)

    def _make_check_failed(
        self, response: requests.Response, status_if_forbidden: str = NOT_CHECKED
    ) -> CheckFailed:
        """Return the error to raise for an error response, with its explanation."""
        http_status = response.status_code
        check_status = NOT_CHECKED
        if http_status == 401:
            check_status = WRONG
        elif http_status == 403:
            check_status = status_if_forbidden

        explanation = refusals.explain(_read_error(response), self.names)
        result = CheckResult(
            status=check_status,
            text=f"{explanation.cause} {explanation.quotation}",
            fix=explanation.advice,
        )
        return CheckFailed(
            result,
            # If the login is not accepted or Azure is busy, other requests fail as well.
            stops_all=http_status in (401, 429),
            # As in all other messages, the quotation of Azure comes last.
            message=str(explanation),
        )


def _read_error(response: requests.Response) -> refusals.ServiceError:
    """Parse an error response of the resource manager."""
    return refusals.read_error(
        response.status_code, response.headers, response.text, response.url
    )


def _make_connection_failure(text: str) -> CheckFailed:
    """Return the CheckFailed to raise if no response arrives. It ends all checks.

    `text` is the sentence that describes the failure.
    """
    result = CheckResult(NOT_CHECKED, text, login.CONNECTION_ADVICE)
    return CheckFailed(result, stops_all=True)
