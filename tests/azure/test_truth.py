"""The stand-in's answers fit Microsoft's specifications, and so do the texts we compare."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from azure_standin import Standin
from azure_standin.truth import TRUTH, judge
from test_standin import Project

pytestmark = pytest.mark.skipif(TRUTH is None, reason="no specifications beside it")
#: Texts that the generated package compares answers with. These are in recordings.
RECORDED_TEXTS = (
    *("Default", "AmlCompute", "Succeeded", "Completed", "Failed", "Finished"),
    *("NotStarted", "StepType", "azureml.isreused", "azureml.parallelrunstep"),
    *("/totalDedicatedCores/usages", "/vmFamily/dedicatedCores/usages", "type"),
    *("logs/azureml/executionlogs.txt", "azureml-logs/executionlogs.txt"),
    *("limit", "name", "value", "properties", "tenantId", "supportedComputeTypes"),
    "true",
)
#: These are in specifications.
SPECIFIED_TEXTS = (
    *("Canceled", "Deleted", "Deleting", "Disabled", "Registering"),
    *("registrationState", "state"),
    *("credentialsType", "imageBuildCompute", "None"),
)
#: These are only in Microsoft's own clients: the module that has each of them.
TEXTS_OF_CLIENTS = {
    "Registered": "azure.mgmt.core.policies._base",
    "allowSharedKeyAccess": "azure.mgmt.storage.models._models_py3",
    "AuthorizationPermissionMismatch": "azure.storage.blob._generated.models._azure_blob_storage_enums",
    "Active": "azureml.pipeline.core._aeva_provider",
    "ParallelRunStep": "azureml.pipeline.steps",
}
#: These are no answers of Azure. `failed` is its `Failed` in lower case.
TEXTS_OF_OURS = {
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


def test_answers_to_the_sdk_fit_the_specifications(tmp_path: Path) -> None:
    with Standin.running(tmp_path / "standin") as standin:
        project = Project(tmp_path / "project", standin)
        project.call("provision")
        project.call("submit", "training", {"scale": 10})
        # The second run reuses prep, and the third one fails.
        project.call("submit", "training", {"scale": 10})
        project.write("train/train.py", "raise SystemExit('no rows')")
        project.call("submit", "training", {"scale": 10})
        judged, faults = judge(standin.requests)
    assert faults == []
    assert judged > 30


def test_answer_of_the_wrong_type_is_a_fault(tmp_path: Path) -> None:
    with Standin.running(tmp_path / "standin") as standin:
        scope = standin.create_workspace("workspace", "group")
        resource = standin.azure.resources[scope.lower()]
        resource["properties"]["tenantId"] = 5
        project = Project(tmp_path / "project", standin)
        project.run("connect")
        _, faults = judge(standin.requests)
    assert any("tenantId: 5 is not string" in fault for fault in faults)


@pytest.mark.parametrize(
    ("texts", "folders"),
    [
        pytest.param(RECORDED_TEXTS, ["recordings", "azure-powershell"], id="recorded"),
        pytest.param(SPECIFIED_TEXTS, ["specs"], id="specified"),
    ],
)
def test_compared_texts_are_in_what_microsoft_published(
    texts: tuple[str, ...], folders: list[str]
) -> None:
    assert TRUTH
    published = ""
    for folder in folders:
        for file in (TRUTH / folder).rglob("*.json"):
            published += file.read_text(encoding="utf-8")
    # Some files have JSON within JSON, whose quotation marks are escaped.
    published = published.replace("\\", "")
    assert [name for name in texts if f'{name}"' not in published] == []


@pytest.mark.parametrize(("text", "module"), TEXTS_OF_CLIENTS.items())
def test_compared_text_is_in_microsofts_client(text: str, module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec
    assert spec.origin
    assert text in Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["*checks", "*workspace"])
def test_no_other_text_is_compared(name: str) -> None:
    """Find all texts that modules of the generated package compare with something."""
    patterns = [
        f"templates/*/runtime/azure/{name}.py",
        f"{{{{*/{{{{*/runtime/azure/{name}.py",
    ]
    compared_texts = set()
    for pattern in patterns:
        for file in Path(__file__).resolve().parents[2].glob(pattern):
            source = file.read_text(encoding="utf-8")
            # The other files are Python. This one only includes another by Jinja, and begins
            # with a comment in Jinja.
            if not source.startswith("{#"):
                compared_texts |= list_compared_texts(source)
    # The version of an interface is part of a request, and not compared with an answer.
    compared_texts = {
        text for text in compared_texts if not text.startswith("api-version=")
    }
    assert len(compared_texts) > 3
    assert compared_texts <= {
        *RECORDED_TEXTS,
        *SPECIFIED_TEXTS,
        *TEXTS_OF_CLIENTS,
        *TEXTS_OF_OURS,
    }


def list_compared_texts(source: str) -> set[str]:
    """Return all literal texts within the comparisons of a module."""
    texts = set()
    for comparison in ast.walk(ast.parse(source)):
        if not isinstance(comparison, ast.Compare):
            continue
        for node in ast.walk(comparison):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return texts
