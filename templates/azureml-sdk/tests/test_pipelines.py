"""The pipelines as Azure ML would receive them, built by the SDK without Azure."""

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

CLUSTER = "cpu-cluster"
NO_ID = "00000000-0000-0000-0000-000000000000"


def choose_cluster(settings: Settings, name: str) -> Settings:
    """Return the settings with another compute cluster."""
    compute = settings.compute.model_copy(update={"name": name})
    return settings.model_copy(update={"compute": compute})


SETTINGS = choose_cluster(PROJECT.settings(), CLUSTER)


def create_workspace() -> Workspace:
    """Return a workspace with the clusters of the settings, which sends no requests."""
    workspace = MagicMock(Workspace)
    store = AzureBlobDatastore(workspace, "workspaceblobstore", "blobs", "account")
    workspace.get_default_datastore.return_value = store
    clusters = [compute.name for compute in SETTINGS.all_computes().values()]
    workspace.compute_targets = {
        name: SimpleNamespace(name=name, type="AmlCompute") for name in clusters
    }
    return workspace


def build_pipeline(name: str, settings: Settings) -> Pipeline:
    """Build a pipeline as `submit` does."""
    workspace = create_workspace()
    dataset = Dataset.File.from_files("https://localhost/data", validate=False)
    dataset._registration = _DatasetRegistration(workspace, saved_id=NO_ID)
    datasets = dict.fromkeys(PIPELINES[name].data, dataset)
    steps = build_steps(PIPELINES[name], settings, datasets)
    provider = _AevaWorkflowProvider(DryRunServiceCaller(), None, workspace)
    return Pipeline(workspace, steps, _workflow_provider=provider)


def list_edges(pipeline: Pipeline) -> set[str]:
    """Return the edges of the graph, such as "train.model -> evaluate.model"."""
    edges = set()
    for edge in pipeline.graph.edges:
        source, target = edge.source_port, edge.dest_port
        edges.add(
            f"{source.node.name}.{source.name} -> {target.node.name}.{target.name}"
        )
    return edges


def test_training_graph() -> None:
    pipeline = build_pipeline("training", SETTINGS)

    assert pipeline.validate() == []
    assert list_edges(pipeline) == {
        "raw.data -> prep.raw",
        "prep.prepared -> train.prepared",
        "train.model -> evaluate.model",
        "train.holdout -> evaluate.holdout",
        "train.model -> register.model",
        "evaluate.evaluation -> register.evaluation",
    }
    hyperparameters = SETTINGS.training.hyperparameters
    assert set(pipeline.graph.params) == {
        "raw_data",
        "on_violation",
        "register",
        *hyperparameters,
    }


def test_scoring_graph() -> None:
    pipeline = build_pipeline("scoring", SETTINGS)

    assert pipeline.validate() == []
    assert list_edges(pipeline) == {
        "raw.data -> prep.raw",
        "prep.prepared -> monitor.prepared",
        "prep.prepared -> score.prepared",
        "monitor.drift_report -> score.drift_report",
        "score.predictions -> summarize.predictions",
        "monitor.drift_report -> summarize.drift_report",
    }
    assert set(pipeline.graph.params) == {
        "raw_data",
        "on_violation",
        "model_version",
        "on_drift",
        "mini_batch_size",
        "node_count",
        "process_count_per_node",
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_run_on_their_cluster(name: str) -> None:
    for node in build_pipeline(name, SETTINGS).graph.module_nodes:
        cluster = SETTINGS.compute_of(node.name).name
        assert node.get_param("Target").get_value() == cluster


def test_a_cluster_that_does_not_exist_is_refused() -> None:
    settings = choose_cluster(SETTINGS, "another-cluster")
    with pytest.raises(ValueError, match="another-cluster does not exist"):
        build_pipeline("training", settings)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_built_twice_has_the_same_steps(name: str) -> None:
    """If it had not, Azure ML would never reuse the results of a step."""
    first = read_steps(build_steps(PIPELINES[name], SETTINGS))
    second = read_steps(build_steps(PIPELINES[name], SETTINGS))
    assert first == second


@pytest.mark.parametrize("name", PIPELINES)
def test_azure_ml_receives_only_code(name: str) -> None:
    """The `.amlignore` of a step leaves out caches, which would prevent its reuse."""
    for step in read_steps(build_steps(PIPELINES[name], SETTINGS)):
        cache = step.source_directory / "__pycache__" / "x.pyc"
        cache.parent.mkdir(exist_ok=True)
        cache.touch()
        try:
            steps = read_steps(build_steps(PIPELINES[name], SETTINGS))
        finally:
            cache.unlink()

        snapshots = {other.name: other.snapshot for other in steps}
        files = snapshots[step.name]
        assert Path(step.script) in files or step.is_parallel
        assert all(file.suffix == ".py" for file in files), files
