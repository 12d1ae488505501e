"""Parse the bodies of Azure's error responses, which have several formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

#: Errors may contain further errors, which may contain further ones. At most this many
#: levels are read, so that no response can exceed Python's limit of nested calls.
MAX_DEPTH = 20
#: Characters that may precede the content of a body: a byte order mark and white space.
LEADING_CHARACTERS = "\ufeff \r\n"


@dataclass(frozen=True)
class CodeAndMessage:
    """An error in a response of Azure. Its code or its message may be empty."""

    code: str
    message: str


def parse_errors(body: str) -> list[CodeAndMessage]:
    """Return all errors in the body of an error response, the outer ones first.

    The list is empty if the body is neither JSON nor XML in one of Azure's formats.
    """
    return [*_parse_json_errors(body), *_parse_xml_errors(body)]


def _parse_json_errors(body: str) -> list[CodeAndMessage]:
    """Return all errors in a JSON body, each before the errors that it contains."""
    content = _load_json(body)
    if not isinstance(content, dict):
        return []
    if "error_code" in content:  # The format of MLflow.
        return [_make_error(content.get("error_code"), content.get("message"))]
    if "error_description" in content:  # The format of Microsoft Entra ID.
        return [_make_error(content.get("error"), content["error_description"])]
    return list(_walk_errors(content.get("error", content)))


def _walk_errors(error: Any, depth: int = 0) -> Iterator[CodeAndMessage]:
    """Yield an error, and then the errors in its message and in its details.

    `error` is parsed JSON such as {"code": "NotFound", "message": "…", "details": […]}. The
    details are further errors of the same format. Nothing is yielded for JSON without a code.
    `depth` is the number of errors that contain this one.
    """
    is_error = isinstance(error, dict) and isinstance(error.get("code"), str)
    if not is_error or depth > MAX_DEPTH:
        return

    message = error.get("message")
    # If the resource manager passes on the response of another service, the message is the
    # JSON of that response.
    nested = _load_json(message) if isinstance(message, str) else None
    if isinstance(nested, dict):
        # The inner response is the whole message, so the outer error has none of its own.
        yield _make_error(error["code"], "")
        yield from _walk_errors(nested.get("error", nested), depth + 1)
    else:
        yield _make_error(error["code"], message)

    details = error.get("details")
    if not isinstance(details, list):
        return
    for detail in details:
        yield from _walk_errors(detail, depth + 1)


def _parse_xml_errors(body: str) -> list[CodeAndMessage]:
    """Return the error in an XML body, the format of the storage service, in a list."""
    content = body.lstrip(LEADING_CHARACTERS)
    if not content.startswith("<"):
        return []
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError):
        return []
    code = root.findtext("Code")
    return [_make_error(code, root.findtext("Message"))] if code else []


def _load_json(text: str) -> Any:
    """Parse a JSON object. Return None for any other text, such as a list or XML."""
    content = text.lstrip(LEADING_CHARACTERS)
    if not content.startswith("{"):
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _make_error(code: Any, message: Any) -> CodeAndMessage:
    """Return an error. A code or a message that is not text becomes empty."""
    return CodeAndMessage(
        code if isinstance(code, str) else "",
        message if isinstance(message, str) else "",
    )
