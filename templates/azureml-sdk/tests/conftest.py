"""A workspace that is never asked, so that pipelines are built and checked offline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from azureml._restclient.service_context import ServiceContext
from azureml.core import Dataset, Workspace
from azureml.core.authentication import AbstractAuthentication
from azureml.data.abstract_dataset import _DatasetRegistration
from azureml.data.azure_storage_datastore import AzureBlobDatastore
from azureml.pipeline.core import Pipeline
from azureml.pipeline.core._aeva_provider import _AevaWorkflowProvider
from azureml.pipeline.core._restclients.aeva.dryrun_service_caller import (
    DryRunServiceCaller,
)

from {{ cookiecutter.package_name }}.pipelines import (
    PIPELINES,
)
from {{ cookiecutter.package_name }}.runtime.sdk_steps import (
    build_steps,
)
from {{ cookiecutter.package_name }}.settings import (
    Settings,
)

NO_ID = "00000000-0000-0000-0000-000000000000"
NOWHERE = "https://localhost"


class NoAuthentication(AbstractAuthentication):
    def __init__(self) -> None:
        super().__init__(cloud="AzureCloud")  # else it looks the cloud up

    def get_authentication_header(self) -> dict[str, str]:
        return {}


class OfflineServices(ServiceContext):
    def _fetch_endpoints(self) -> dict[str, str]:
        return defaultdict(lambda: NOWHERE)


class OfflineWorkspace(Workspace):
    """A workspace with a default datastore and one compute cluster."""

    _discovery_url_internal = NOWHERE

    def __init__(self, cluster: str) -> None:
        auth = NoAuthentication()
        super().__init__(
            NO_ID, "group", "ws", auth, _disable_service_check=True, _workspace_id=NO_ID
        )
        self._service_context = OfflineServices(
            NO_ID, "group", "ws", NO_ID, NOWHERE, auth
        )
        self._cluster = SimpleNamespace(name=cluster, type="AmlCompute")

    @property
    def compute_targets(self) -> dict[str, Any]:
        return {self._cluster.name: self._cluster}

    def get_default_datastore(self) -> AzureBlobDatastore:
        return AzureBlobDatastore(self, "workspaceblobstore", "container", "account")


@pytest.fixture
def build_pipeline() -> Callable[[str, Settings], Pipeline]:
    """Builds a pipeline with some settings, as `submit` does, but offline."""

    def build(name: str, settings: Settings) -> Pipeline:
        workspace = OfflineWorkspace("cpu-cluster")
        data = Dataset.File.from_files(f"{NOWHERE}/data", validate=False)
        data._registration = _DatasetRegistration(workspace, saved_id=NO_ID)
        pipeline = PIPELINES[name]
        steps = build_steps(pipeline, settings, dict.fromkeys(pipeline.data, data))
        provider = _AevaWorkflowProvider(DryRunServiceCaller(), None, workspace)
        return Pipeline(workspace, steps, _workflow_provider=provider)

    return build
