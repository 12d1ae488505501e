"""A judge of the stand-in's answers, by Microsoft's specifications of the services.

Specifications and recordings are not part of this repository: they are looked for in
`shared/truth` beside it, and are missing elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path

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
#: The specification of each service that has one, as a part of its file's path.
_SPECIFIED = {"arm": "resource-manager", "ml": "run-history"}
#: What the services send all the same, as recordings show, though no spec names it.
_SENT_ALL_THE_SAME = re.compile(
    r"\$\.properties: has creationTime, |credentials: lacks required secrets"
    # Of the previews that azure-ai-ml asks for, and of a child of a job.
    r"|has (systemDatastoresAuthMode|secretsConfiguration|assetName|assetVersion|autoDeleteSetting), "
    r"|has (intellectualProperty|systemSettings|scheduleId|currentAttemptId), |jobs/\{id\}: \$: lacks required prop"
)


def judge(requests: Iterable[Request]) -> tuple[int, list[str]]:
    """How many answers have a specification, and what that says against them."""
    assert TRUTH
    spec = importlib.util.spec_from_file_location("specval", TRUTH / "specval.py")
    assert spec and spec.loader
    specval = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(specval)
    files = [str(file) for file in sorted((TRUTH / "specs").rglob("*.json"))]
    files = [file for file in files if not re.search("examples|common-types", file)]
    # The one that says where subscriptions are comes before that of any resource.
    files.sort(key=lambda file: "subscriptions.json" not in file)
    judged, faults = 0, []
    for request in requests:
        marker = _SPECIFIED.get(request.service, "none")
        known = [file for file in files if marker in file]
        found = specval.operation(known, request.method, request.path)
        if not found or not request.status:  # no answer, if a fault has cut the line
            continue
        judged += 1
        file, path, operation, _ = found
        base, schema, is_named = specval.response_schema(
            file, operation, request.status
        )
        if request.status < 400 and not is_named:
            faults.append(f"{path}: status {request.status} is not in the spec")
        if schema and request.answer:
            one = specval.Judge(base, strict=True)
            one.check(base, schema, json.loads(request.answer))
            faults += [f"{request.method} {path}: {error}" for error in one.errors]
    return judged, [one for one in faults if not _SENT_ALL_THE_SAME.search(one)]
