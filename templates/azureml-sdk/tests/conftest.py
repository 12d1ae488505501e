"""A workspace that is never asked, so that pipelines are built and checked offline."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from azureml.core import Dataset, Workspace
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


@pytest.fixture
def build_pipeline() -> Callable[[str, Settings], Pipeline]:
    """Builds a pipeline with some settings, as `submit` does, but offline."""

    def build(name: str, settings: Settings) -> Pipeline:
        workspace = MagicMock(Workspace)
        store = AzureBlobDatastore(workspace, "workspaceblobstore", "blobs", "account")
        workspace.get_default_datastore.return_value = store
        cluster = SimpleNamespace(name="cpu-cluster", type="AmlCompute")
        workspace.compute_targets = {"cpu-cluster": cluster}
        data = Dataset.File.from_files("https://localhost/data", validate=False)
        data._registration = _DatasetRegistration(workspace, saved_id=NO_ID)
        pipeline = PIPELINES[name]
        steps = build_steps(pipeline, settings, dict.fromkeys(pipeline.data, data))
        provider = _AevaWorkflowProvider(DryRunServiceCaller(), None, workspace)
        return Pipeline(workspace, steps, _workflow_provider=provider)

    return build
