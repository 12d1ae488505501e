"""The stand-in's answers and what clients compare, held to what Microsoft has written."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from azure_standin import Standin
from azure_standin.truth import TRUTH, judge
from test_standin import Project

pytestmark = pytest.mark.skipif(TRUTH is None, reason="no specifications beside it")
#: Seen on the wire, or in a specification.
RECORDED = (
    *("Default", "AmlCompute", "Succeeded", "Completed", "Failed", "Finished"),
    *("NotStarted", "StepType", "azureml.isreused", "azureml.parallelrunstep"),
    *("/totalDedicatedCores/usages", "/vmFamily/dedicatedCores/usages", "type"),
    *("logs/azureml/executionlogs.txt", "azureml-logs/executionlogs.txt"),
    *("limit", "name", "value", "properties", "tenantId", "supportedComputeTypes"),
    "true",
)
SPECIFIED = (
    *("Canceled", "Deleted", "Deleting", "Disabled", "Registering"),
    *("registrationState", "state"),
    *("credentialsType", "imageBuildCompute", "None"),
)
#: Of neither: where Microsoft's own clients have them.
IN_A_CLIENT = {
    "Registered": "azure.mgmt.core.policies._base",
    "allowSharedKeyAccess": "azure.mgmt.storage.models._models_py3",
    "AuthorizationPermissionMismatch": "azure.storage.blob._generated.models._azure_blob_storage_enums",
    "Active": "azureml.pipeline.core._aeva_provider",
    "ParallelRunStep": "azureml.pipeline.steps",
}
#: Not of Azure's answers; `failed` is its Failed in lower case.
OWN = {
    "",
    ".",
    "empty",
    "system",
    "workspace",
    "unchanged",
    "scheduled",
    "failed",
    "AzureCloud",
    "/jobs/",
    "AADSTS",
}


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


def test_what_is_compared_is_what_microsoft_writes() -> None:
    assert TRUTH
    folders = {RECORDED: ("recordings", "azure-powershell"), SPECIFIED: ("specs",)}
    for words, places in folders.items():
        files = [one for place in places for one in (TRUTH / place).rglob("*.json")]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        text = text.replace("\\", "")  # of JSON in JSON
        assert [word for word in words if f'{word}"' not in text] == []
    for word, module in IN_A_CLIENT.items():
        spec = importlib.util.find_spec(module)
        assert spec and spec.origin
        assert word in Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["*checks", "*workspace"])
def test_nothing_else_is_compared(name: str) -> None:
    """Of the texts that the generated package compares with, those above are all."""
    root = Path(__file__).resolve().parents[2]
    places = ["templates/*/runtime/azure/", "{{*/{{*/runtime/azure/"]
    files = [file for place in places for file in root.glob(f"{place}{name}.py")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    trees = [ast.parse(text) for text in texts if not text.startswith("{%")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    compared = [node for node in nodes if isinstance(node, ast.Compare)]
    found = {
        node.value
        for one in compared
        for node in ast.walk(one)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    # The version of an interface is sent with the question. It is not compared.
    found = {text for text in found if not text.startswith("api-version=")}
    assert len(found) > 3
    assert found <= {*RECORDED, *SPECIFIED, *IN_A_CLIENT, *OWN}
