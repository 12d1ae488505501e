"""The stand-in's answers, held to Microsoft's specifications of the services.

The specifications are not part of this repository: they are looked for beside it, and
where they are missing this is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from . import Standin
from .test_standin import Project

_REPOSITORY = Path(__file__).resolve().parents[2]
#: Specifications, recordings and a judge, in `shared/truth` beside the repository.
TRUTH = next(
    (
        folder / "shared/truth"
        for folder in _REPOSITORY.parents
        if (folder / "shared/truth/specval.py").exists()
    ),
    None,
)
pytestmark = pytest.mark.skipif(TRUTH is None, reason="no specifications beside it")
#: What the services send all the same, as recordings show, though no spec names it.
SENT_ALL_THE_SAME = (
    r"\$\.properties: has creationTime, ",
    r"credentials: lacks required secrets",
)
#: What the project compares as a string, which so must have been seen.
COMPARED = [
    *("AmlCompute", "Default", "Succeeded", "Completed", "Failed", "ResourceNotFound"),
    *("PythonScriptStep", "azureml.isreused", "azureml.parallelrunstep"),
    *("Microsoft.MachineLearningServices/totalDedicatedCores/usages",),
    *("Microsoft.MachineLearningServices/vmFamily/dedicatedCores/usages",),
    *("logs/azureml/executionlogs.txt", "azureml-logs/executionlogs.txt"),
]
#: Of the SDK's source alone, not of a recording.
NOT_RECORDED = {"ResourceNotFound"}


def judge(requests: list[Any]) -> tuple[int, list[str]]:
    """How many answers have a specification, and what that says against them."""
    assert TRUTH
    spec = importlib.util.spec_from_file_location("specval", TRUTH / "specval.py")
    assert spec and spec.loader
    specval = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(specval)
    files = [str(file) for file in sorted((TRUTH / "specs").rglob("*.json"))]
    # The one that says where subscriptions are comes before that of any resource.
    files.sort(key=lambda file: "subscriptions.json" not in file)
    files = [file for file in files if not re.search("examples|common-types", file)]
    judged, faults = 0, []
    for request in requests:
        of_service = {"arm": "resource-manager", "ml": "run-history"}
        marker = of_service.get(request.service, "no specification")
        known = [file for file in files if marker in file]
        found = specval.operation(known, request.method, request.path)
        if not found:
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
    sent = re.compile("|".join(SENT_ALL_THE_SAME))
    return judged, [fault for fault in faults if not sent.search(fault)]


def test_all_answers_are_of_the_specified_form(tmp_path: Path) -> None:
    with Standin.running(tmp_path / "standin") as standin:
        project = Project(tmp_path / "project", standin)
        project.call("provision")
        project.call("submit", "training", {"scale": 10})
        project.call("submit", "training", {"scale": 10})  # prep is reused
        project.write("train/train.py", "raise SystemExit('no rows')")
        project.call("submit", "training", {"scale": 10})
        judged, faults = judge(standin.requests)
    assert faults == []
    assert judged > 30


def test_a_wrong_answer_is_found(tmp_path: Path) -> None:
    with Standin.running(tmp_path / "standin") as standin:
        scope = standin.create_workspace("workspace", "group")
        resource = standin.azure.resources[scope.lower()]
        resource["properties"]["tenantId"] = 5
        project = Project(tmp_path / "project", standin)
        project.run("connect")
        _, faults = judge(standin.requests)
    assert any("tenantId: 5 is not string" in fault for fault in faults)


@pytest.mark.parametrize("text", COMPARED)
def test_what_is_compared_stands_in_a_recording(text: str) -> None:
    assert TRUTH
    if text in NOT_RECORDED:
        pytest.skip("read from the SDK's source")
    folders = ("recordings", "azure-powershell")
    files = [file for folder in folders for file in (TRUTH / folder).glob("*.json")]
    assert any(text in file.read_text(encoding="utf-8") for file in files)
