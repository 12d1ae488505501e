"""Test that steps get the variables of the run, but not the secrets of a login."""

from __future__ import annotations

from pathlib import Path

import pytest
from template_package import load

tracking = load("runtime.local.tracking")

SECRETS = [
    "AZURE_CLIENT_SECRET",
    "AZURE_DEVOPS_EXT_PAT",
    "ARM_CLIENT_SECRET",
    "MSI_SECRET",
    "IDENTITY_HEADER",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "SYSTEM_ACCESSTOKEN",
    "ENDPOINT_AUTH_SYSTEMVSSCONNECTION",
    "servicePrincipalKey",
    "idToken",
    "MLFLOW_TRACKING_PASSWORD",
]
OTHERS = ["PATH", "GITHUB_ACTIONS", "MY_TOKEN_COUNT", "AZUREML_LOG_LEVEL", "TMPDIR"]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of a step whose run has secrets and other variables."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in (*SECRETS, *OTHERS):
        monkeypatch.setenv(name, "from the run")
    variables: dict[str, str] = tracking.make_step_environment(tmp_path)
    return variables


@pytest.mark.parametrize("name", SECRETS)
def test_step_does_not_get_a_secret(environment: dict[str, str], name: str) -> None:
    assert name not in environment


@pytest.mark.parametrize("name", OTHERS)
def test_step_gets_other_variables(environment: dict[str, str], name: str) -> None:
    assert environment[name] == "from the run"
