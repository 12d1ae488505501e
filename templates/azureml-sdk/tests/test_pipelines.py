"""The graphs that Azure ML would be given, built by the SDK itself, offline."""

from __future__ import annotations

from pathlib import Path
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
from {{ cookiecutter.package_name }}.runtime.azure.sdk_steps import (
    build_steps,
    read_steps,
)
from {{ cookiecutter.package_name }}.settings import (
    PROJECT,
    Settings,
)

SETTINGS = PROJECT.settings()
COMPUTE = SETTINGS.compute.model_copy(update={"name": "cpu-cluster"})
SETTINGS = SETTINGS.model_copy(update={"compute": COMPUTE})
NO_ID = "00000000-0000-0000-0000-000000000000"


def build_pipeline(name: str, settings: Settings) -> Pipeline:
    """As `submit` does, in a workspace that is never asked."""
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


def edges(pipeline: Pipeline) -> set[str]:
    return {
        f"{edge.source_port.node.name}.{edge.source_port.name}"
        f" -> {edge.dest_port.node.name}.{edge.dest_port.name}"
        for edge in pipeline.graph.edges
    }


def test_training_graph() -> None:
    pipeline = build_pipeline("training", SETTINGS)

    assert pipeline.validate() == []
    assert edges(pipeline) == {
        "raw.data -> prep.raw",
        "prep.prepared -> train.prepared",
        "train.model -> evaluate.model",
        "train.holdout -> evaluate.holdout",
        "train.model -> register.model",
        "evaluate.evaluation -> register.evaluation",
    }
    hyperparameters = SETTINGS.training.hyperparameters
    assert set(pipeline.graph.params) == {"raw_data", "register", *hyperparameters}


def test_scoring_graph() -> None:
    pipeline = build_pipeline("scoring", SETTINGS)

    assert pipeline.validate() == []
    scored = "prep.prepared -> score.prepared"
    assert edges(pipeline) == {"raw.data -> prep.raw", scored}
    work = {"mini_batch_size", "node_count", "process_count_per_node"}
    assert set(pipeline.graph.params) == {"raw_data", "model_version", *work}


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_run_on_the_cluster(name: str) -> None:
    for node in build_pipeline(name, SETTINGS).graph.module_nodes:
        assert node.get_param("Target").get_value() == "cpu-cluster"


def test_an_unknown_cluster_is_refused() -> None:
    another = SETTINGS.compute.model_copy(update={"name": "another"})
    elsewhere = SETTINGS.model_copy(update={"compute": another})
    with pytest.raises(ValueError, match="another does not exist"):
        build_pipeline("training", elsewhere)


@pytest.mark.parametrize("name", PIPELINES)
def test_building_twice_gives_the_same_steps(name: str) -> None:
    """Else Azure ML would never use a step's results again."""
    first = read_steps(build_steps(PIPELINES[name], SETTINGS))
    assert first == read_steps(build_steps(PIPELINES[name], SETTINGS))


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_are_sent_without_caches_and_hidden_files(name: str) -> None:
    """A step's `.amlignore` sees to it; without one, nothing would be used again."""
    for step in read_steps(build_steps(PIPELINES[name], SETTINGS)):
        cache = step.source_directory / "__pycache__" / "x.pyc"
        cache.parent.mkdir(exist_ok=True)
        cache.touch()
        sent = read_steps(build_steps(PIPELINES[name], SETTINGS))
        (files,) = (one.snapshot for one in sent if one.name == step.name)
        cache.unlink()
        assert Path(step.script) in files or step.is_parallel
        assert all(file.suffix == ".py" for file in files), files
