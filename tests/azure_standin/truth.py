"""Check the stand-in's answers by Microsoft's specifications of the services.

The specifications and recordings are not part of this repository. They are in the folder
`shared/truth` beside it, if there is one.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .wire import Request

_REPOSITORY = Path(__file__).resolve().parents[2]
TRUTH = next(
    (
        folder / "shared/truth"
        for folder in _REPOSITORY.parents
        if (folder / "shared/truth/specval.py").exists()
    ),
    None,
)
#: The services that have a specification, with a part of the path of its files.
_SPECIFICATIONS = {"arm": "resource-manager", "ml": "run-history"}
#: Faults of answers that the real services send as well, as recordings show.
_FAULTS_OF_RECORDINGS = re.compile(
    r"\$\.properties: has creationTime, |credentials: lacks required secrets"
    # These are properties of preview versions, which azure-ai-ml requests, and of a child
    # of a job.
    r"|has (systemDatastoresAuthMode|secretsConfiguration|assetName|assetVersion|autoDeleteSetting), "
    r"|has (intellectualProperty|systemSettings|scheduleId|currentAttemptId), |jobs/\{id\}: \$: lacks required prop"
)


def judge(requests: Iterable[Request]) -> tuple[int, list[str]]:
    """Check the answers to requests by the specifications.

    Returns the number of answers that have a specification, and a sentence on each fault.
    """
    specval = _import_specval()
    files = _list_specification_files()
    checked_answers = 0
    faults = []
    for request in requests:
        was_answered = request.status != 0
        part_of_path = _SPECIFICATIONS.get(request.service)
        if part_of_path is None or not was_answered:
            continue

        files_of_service = [file for file in files if part_of_path in file]
        match = specval.operation(files_of_service, request.method, request.path)
        if not match:
            continue

        checked_answers += 1
        file, path, operation, _ = match
        base, schema, status_is_specified = specval.response_schema(
            file, operation, request.status
        )
        if request.status < 400 and not status_is_specified:
            faults.append(f"{path}: status {request.status} is not in the spec")
        if schema and request.answer:
            validator = specval.Judge(base, strict=True)
            validator.check(base, schema, json.loads(request.answer))
            faults += [
                f"{request.method} {path}: {error}" for error in validator.errors
            ]
    unexpected = [fault for fault in faults if not _FAULTS_OF_RECORDINGS.search(fault)]
    return checked_answers, unexpected


def _import_specval() -> Any:
    """Import the validator, which lies beside the specifications."""
    assert TRUTH
    spec = importlib.util.spec_from_file_location("specval", TRUTH / "specval.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _list_specification_files() -> list[str]:
    """Return the paths of all specifications.

    The first is the one of subscriptions, because specifications of resources match its
    requests, too.
    """
    assert TRUTH
    files = [str(file) for file in sorted((TRUTH / "specs").rglob("*.json"))]
    files = [file for file in files if not re.search("examples|common-types", file)]
    return sorted(files, key=lambda file: "subscriptions.json" not in file)
