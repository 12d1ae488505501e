"""The state of the stand-in: the workspaces and everything that was created in them."""

from __future__ import annotations

import sys
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .wire import now

if TYPE_CHECKING:
    from .execution import PipelineJob
    from .job_execution import ComponentJob

Json = dict[str, Any]
#: The blob container of the default datastore.
CONTAINER = "datastore"
#: The blob container of the runs' artifacts.
ARTIFACTS = "azureml"


def new_id() -> str:
    """Return a new random id."""
    return str(uuid.uuid4())


@dataclass
class Run:
    """A run in run history and in MLflow: of a pipeline, of a step, or started by MLflow."""

    id: str
    experiment: str
    number: int
    name: str = ""
    parent: str | None = None
    type: str = "azureml.PipelineRun"
    status: str = "NotStarted"
    created: str = field(default_factory=now)
    started: str | None = None
    ended: str | None = None
    error: str | None = None
    #: The run whose outputs and logs this run shows, if it was reused.
    data_of: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    #: Name of an output → its folder of blobs.
    outputs: dict[str, str] = field(default_factory=dict)
    metrics: list[Json] = field(default_factory=list)
    cancel: threading.Event = field(default_factory=threading.Event)

    @property
    def container(self) -> str:
        """Return the folder of the run's artifacts, in the blob container `azureml`."""
        return f"ExperimentRun/dcid.{self.data_of or self.id}"

    def begin(self) -> None:
        """Set the run to running."""
        self.status = "Running"
        self.started = now()

    def end(self, status: str, error: str | None = None) -> None:
        """Set the run to the status with which it ended."""
        self.status = status
        self.ended = now()
        self.error = error


class Azure:
    """The contents of one subscription's workspaces, which the routes read and write.

    Steps are executed below `runs_folder`. `environment` returns the environment variables
    by which a step with a home folder reaches the stand-in.
    """

    def __init__(
        self, runs_folder: Path, environment: Callable[[Path], dict[str, str]]
    ) -> None:
        self.lock = threading.RLock()
        self.runs_folder = runs_folder
        self.environment = environment
        self._create_stores()
        self._set_behaviour()

    def _create_stores(self) -> None:
        """Create the empty stores of everything that clients create."""
        #: Resource id in lower case → the resource as ARM returns it.
        self.resources: dict[str, Json] = {}
        #: "container/path" → content of a blob.
        self.blobs: dict[str, bytes] = {}
        #: "container/path" → metadata of a blob.
        self.blob_metadata: dict[str, dict[str, str]] = {}
        #: Blob and block id → content of a block, until the list of blocks arrives.
        self.blocks: dict[tuple[str, str], bytes] = {}
        self.experiments: dict[str, Json] = {}
        self.runs: dict[str, Run] = {}
        self.datasets: dict[str, Json] = {}
        self.registered_datasets: dict[str, Json] = {}
        self.environments: dict[str, list[Json]] = defaultdict(list)
        #: Snapshot id → path in the step's folder → blob.
        self.snapshots: dict[str, dict[str, str]] = {}
        self.modules: dict[str, Json] = {}
        #: Graph id → the graph and its interface.
        self.graphs: dict[str, Json] = {}
        #: Run id → the pipeline of v1 that the run executes.
        self.jobs: dict[str, PipelineJob] = {}
        #: Fingerprint of an executed step → its run, whose outputs can be reused.
        self.reusable: dict[str, Run] = {}
        #: Id in lower case → the specification of a component, as it was sent.
        self.components: dict[str, Json] = {}
        #: Name → a pipeline job of v2.
        self.component_jobs: dict[str, ComponentJob] = {}
        self.pipelines: dict[str, Json] = {}
        self.endpoints: dict[str, Json] = {}
        self.schedules: dict[str, Json] = {}
        #: Registered models: name → versions, oldest first.
        self.models: dict[str, list[Json]] = {}
        #: Name and version of a model → the properties that only ARM has, and not MLflow.
        self.model_details: dict[tuple[str, str], Json] = {}
        #: Path in lower case → the assignment of a role.
        self.role_assignments: dict[str, Json] = {}
        #: Id or name of a schedule → the ids of the runs that it has started.
        self.runs_of_schedules: dict[str, list[str]] = defaultdict(list)
        #: Name of a data asset → the folder of blobs of each of its versions.
        self.data_assets: dict[str, list[str]] = defaultdict(list)
        #: Id of a step's run → the cluster that the step has run on.
        self.clusters: dict[str, str] = {}

    def _set_behaviour(self) -> None:
        """Set how the services behave. Tests change these attributes."""
        #: The steps that end only when their run is cancelled.
        self.endless_steps: set[str] = set()
        #: Name of a step that fails before its script runs → the reason.
        self.stillborn_steps: dict[str, str] = {}
        #: Name of a workspace that cannot be created → the error.
        self.failing_deployments: dict[str, Json] = {}
        #: Whether storage refuses keys and anonymous requests, and demands roles.
        self.is_keyless = False
        #: Whether the login of the tests may assign roles.
        self.may_assign_roles = True
        #: How often a role that was just assigned does not work yet.
        self.blob_refusals_left = 0
        #: Whether the states of runs are names. The real service changes from numbers to these.
        self.names_states = False
        #: How run history calls a parallel step: PythonScriptStep or ParallelRunStep.
        self.parallel_step_type = "PythonScriptStep"
        #: Whether this machine has a managed identity.
        self.has_identity = False
        #: The Python that steps run with.
        self.python = sys.executable
        #: The name of the default datastore, which is empty if a workspace has none.
        self.default_datastore = "workspaceblobstore"
        #: The number of items on a page of a list.
        self.page_size = 1000

    def new_run(self, experiment: str, **values: Any) -> Run:
        """Create a run with a new id, unless `values` have an id."""
        with self.lock:
            run_id = values.pop("id", new_id())
            run = Run(run_id, experiment, number=len(self.runs) + 1, **values)
            self.runs[run.id] = run
        return run

    def list_resources_below(self, id: str) -> list[Json]:
        """Return the resources below another one, oldest first."""
        prefix = f"{id}/".lower()
        # The list is a copy, because other threads may add resources meanwhile.
        resources = list(self.resources.items())
        return [resource for name, resource in resources if name.startswith(prefix)]

    def children(self, run_id: str) -> list[Run]:
        """Return the runs whose parent is this run."""
        return [run for run in self.runs.values() if run.parent == run_id]

    def files(self, folder: str) -> dict[str, str]:
        """Return the blob of each file in a folder of blobs, by its path in the folder.

        If `folder` is itself a blob, it is the only file.
        """
        with self.lock:
            if folder in self.blobs:
                return {folder.rpartition("/")[2]: folder}
            names = [name for name in self.blobs if name.startswith(f"{folder}/")]
        return {name.removeprefix(f"{folder}/"): name for name in sorted(names)}

    def artifacts(self, run: Run) -> list[str]:
        """Return the paths of a run's artifacts and logs."""
        return list(self.files(f"azureml/{run.container}"))

    def restore(self, files: dict[str, str], target: Path) -> None:
        """Write blobs to disk: `files` has the blob of each path below `target`."""
        for path, blob in files.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(self.blobs[blob])

    def upload(self, source: Path, folder: str) -> None:
        """Copy all files of a folder on disk, if it exists, into a folder of blobs."""
        for path in sorted(source.rglob("*")):
            if path.is_file():
                blob = f"{folder}/{path.relative_to(source).as_posix()}"
                with self.lock:
                    self.blobs[blob] = path.read_bytes()

    def stop(self) -> None:
        """Cancel all runs."""
        for run in list(self.runs.values()):
            run.cancel.set()
