"""A client of the REST API of Azure's resource manager."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..rules import CLOUDS
from . import login, refusals, request_guard
from .check_answers import UNASKED, WRONG, Answer, AzureNames, CheckFailed

if TYPE_CHECKING:
    import requests

# The version of the REST API of Azure ML.
ML_VERSION = "api-version=2024-04-01"


class ResourceManager:
    """Sends requests with a token, and waits while Azure is busy, until a deadline."""

    def __init__(self, names: AzureNames, token: str, deadline: float) -> None:
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
        status_if_forbidden: str = UNASKED,
    ) -> Any:
        """Return the JSON at a path, or None if the status code is one of `none_if`.

        Raises CheckFailed on any other error.
        """
        reply = self._wait_for_reply("GET", f"{path}?{query}")
        code = reply.status_code
        if code == 200:
            try:
                return reply.json()
            except RecursionError:
                raise ValueError("JSON that is nested too deeply") from None
        if code in none_if:
            return None

        raise self._describe_refusal(reply, status_if_forbidden)

    def put(self, path: str, query: str, body: Mapping[str, Any]) -> None:
        """Create a resource, unless it exists. Raises CheckFailed on an error."""
        reply = self._wait_for_reply("PUT", f"{path}?{query}", body)
        if reply.status_code not in (200, 201, 202, 409):
            raise self._describe_refusal(reply, WRONG)

    def list_items(
        self, path: str, query: str = ML_VERSION
    ) -> Iterator[dict[str, Any]]:
        """Yield the items on all pages of a list."""
        while query:
            page = self.get(path, query) or {"value": []}
            yield from page["value"]
            query = urlsplit(page.get("nextLink") or "").query

    def _describe_refusal(
        self, reply: requests.Response, status_if_forbidden: str
    ) -> CheckFailed:
        """Return the error to raise for a reply that refuses a request."""
        code = reply.status_code
        status = UNASKED
        if code == 401:
            status = WRONG
        elif code == 403:
            status = status_if_forbidden

        error = refusals.read_error(code, reply.headers, reply.text, reply.url)
        explanation = refusals.explain(error, self.names)
        answer = Answer(
            status=status,
            text=f"{explanation.cause} {explanation.answer}",
            fix=explanation.advice,
        )
        return CheckFailed(answer, stops_all=code in (401, 429))

    def _wait_for_reply(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> requests.Response:
        """Send a request, and repeat it while Azure is busy, until the deadline."""
        while True:
            try:
                reply = self.session.request(
                    method,
                    f"https://{self.host}{path}",
                    json=body,
                    timeout=login.TIMEOUT,
                    allow_redirects=False,  # The token is for this host alone.
                )
            except request_guard.RequestFailed as error:
                answer = Answer(UNASKED, str(error), login.CONNECTION_ADVICE)
                raise CheckFailed(answer, stops_all=True) from None
            except OSError as error:  # The base class of all errors of requests.
                text = f"{self.host} cannot be reached ({type(error).__name__})."
                answer = Answer(UNASKED, text, login.CONNECTION_ADVICE)
                raise CheckFailed(answer, stops_all=True) from None

            seconds = refusals.seconds_to_wait(reply.headers)
            if reply.status_code != 429 or time.monotonic() + seconds > self.deadline:
                return reply
            time.sleep(seconds)
