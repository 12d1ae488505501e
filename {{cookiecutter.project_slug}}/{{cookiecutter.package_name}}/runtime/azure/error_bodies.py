"""Parse the bodies of Azure's error replies, which have several forms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

# Errors may contain further errors. This many levels are read.
MAX_DEPTH = 20
# Characters that may precede the content of a body: a byte order mark and white space.
LEADING_CHARACTERS = "\ufeff \r\n"


@dataclass(frozen=True)
class CodeAndMessage:
    """An error in a reply of Azure. Its code or its message may be empty."""

    code: str
    message: str


def parse_errors(body: str) -> list[CodeAndMessage]:
    """Return all errors in the body of a reply. Empty if the body has no known form."""
    return [*_parse_json_errors(body), *_parse_xml_errors(body)]


def _parse_json_errors(body: str) -> list[CodeAndMessage]:
    """Return all errors in a JSON body, each before the errors that it contains."""
    content = _load_json(body)
    if not isinstance(content, dict):
        return []
    if "error_code" in content:  # MLflow
        return [_make_error(content.get("error_code"), content.get("message"))]
    if "error_description" in content:  # Microsoft Entra ID
        return [_make_error(content.get("error"), content["error_description"])]
    return list(_walk_errors(content.get("error", content)))


def _walk_errors(error: Any, depth: int = 0) -> Iterator[CodeAndMessage]:
    """Yield an error, and the errors in its details or in its message."""
    if not isinstance(error, dict) or depth > MAX_DEPTH:
        return
    if not isinstance(error.get("code"), str):
        return

    message = error.get("message")
    # The resource manager passes on the replies of other services as text.
    nested = _load_json(message) if isinstance(message, str) else None
    if isinstance(nested, dict):
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
    """Return the error in an XML body, as the storage service sends it."""
    if not body.lstrip(LEADING_CHARACTERS).startswith("<"):
        return []
    try:
        root = ElementTree.fromstring(body.lstrip(LEADING_CHARACTERS))
    except (ElementTree.ParseError, ValueError):
        return []
    code = root.findtext("Code")
    return [_make_error(code, root.findtext("Message"))] if code else []


def _load_json(text: str) -> Any:
    """Parse a JSON object. Return None for all other text."""
    if not text.lstrip(LEADING_CHARACTERS).startswith("{"):
        return None
    try:
        return json.loads(text.lstrip(LEADING_CHARACTERS))
    except (ValueError, RecursionError):
        return None


def _make_error(code: Any, message: Any) -> CodeAndMessage:
    """Return an error. Values that are not text become empty."""
    return CodeAndMessage(
        code if isinstance(code, str) else "",
        message if isinstance(message, str) else "",
    )
