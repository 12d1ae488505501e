"""What the stand-in knows: the workspace and everything that was created in it."""

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
#: The container of the default datastore.
CONTAINER = "datastore"
#: That of the runs' artifacts.
ARTIFACTS = "azureml"


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass
class Run:
    """A run as run history and MLflow know it: of a pipeline, of a step, or made by MLflow."""

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
    #: The run whose outputs and logs this one shows: another's if it was reused.
    data_of: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    #: Name → the folder of blobs of an output.
    outputs: dict[str, str] = field(default_factory=dict)
    metrics: list[Json] = field(default_factory=list)
    cancel: threading.Event = field(default_factory=threading.Event)

    @property
    def container(self) -> str:
        """Where the run's artifacts are kept, in the container `azureml` of the blob account."""
        return f"ExperimentRun/dcid.{self.data_of or self.id}"

    def begin(self) -> None:
        self.status, self.started = "Running", now()

    def end(self, status: str, error: str | None = None) -> None:
        self.status, self.ended, self.error = status, now(), error


class Azure:
    """The contents of one subscription's workspaces; the routes read and write it.

    `runs_folder` is where steps are executed, `environment` tells a step how to find the stand-in.
    """

    def __init__(
        self, runs_folder: Path, environment: Callable[[Path], dict[str, str]]
    ):
        self.lock = threading.RLock()
        self.runs_folder = runs_folder
        self.environment = environment
        #: Resource id in lower case → the resource as ARM gives it.
        self.resources: dict[str, Json] = {}
        #: "container/path" → content.
        self.blobs: dict[str, bytes] = {}
        #: "container/path" → the metadata that was set for it.
        self.blob_metadata: dict[str, dict[str, str]] = {}
        #: Blob and block id → content of a block that waits for its list.
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
        #: Run id → what it executes.
        self.jobs: dict[str, PipelineJob] = {}
        #: Fingerprint of an executed step → its run, whose outputs serve again.
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
        #: Name and version → what ARM, other than MLflow, was told of a model.
        self.model_details: dict[tuple[str, str], Json] = {}
        #: Names of steps that never end (until their run is cancelled): for a test to fill.
        self.endless_steps: set[str] = set()
        #: Name of a step that dies before its script runs → why: for a test to fill.
        self.stillborn_steps: dict[str, str] = {}
        #: Whether storage refuses keys and anonymous requests, and wants roles.
        self.is_keyless = False
        #: Path in lower case → the assignment of a role.
        self.role_assignments: dict[str, Json] = {}
        #: Id or name of a schedule → the ids of the runs that it has started.
        self.runs_of_schedules: dict[str, list[str]] = defaultdict(list)
        #: Name of a data asset → the folder of blobs of each of its versions.
        self.data_assets: dict[str, list[str]] = defaultdict(list)
        #: The cluster that each step has run on, by the id of the step's run.
        self.clusters: dict[str, str] = {}
        #: Whether whoever is logged in may assign roles.
        self.may_assign_roles = True
        #: How often a role that was just assigned does not work yet.
        self.blob_refusals_left = 0
        #: Name of a workspace that cannot be created → why: for a test to fill.
        self.failing_deployments: dict[str, Json] = {}
        #: The service is on its way from numbers to names for the states of runs.
        self.names_states = False
        #: What run history calls a parallel step: this, or ParallelRunStep.
        self.parallel_step_type = "PythonScriptStep"
        #: A machine that has a managed identity.
        self.has_identity = False
        #: The Python that steps run in.
        self.python = sys.executable
        #: Empty for a workspace without one.
        self.default_datastore = "workspaceblobstore"
        #: How many items a page of a list has.
        self.page_size = 1000

    def new_run(self, experiment: str, **values: Any) -> Run:
        with self.lock:
            run = Run(
                values.pop("id", new_id()), experiment, len(self.runs) + 1, **values
            )
            self.runs[run.id] = run
        return run

    def below(self, id: str) -> list[Json]:
        """The resources whose ids begin with that of another, oldest first."""
        start = f"{id}/".lower()
        known = list(self.resources.items())
        return [resource for name, resource in known if name.startswith(start)]

    def children(self, run_id: str) -> list[Run]:
        return [run for run in self.runs.values() if run.parent == run_id]

    def files(self, folder: str) -> dict[str, str]:
        """The files in a folder of blobs, or the one blob: path in the folder → blob."""
        with self.lock:
            if folder in self.blobs:
                return {folder.rpartition("/")[2]: folder}
            names = [name for name in self.blobs if name.startswith(f"{folder}/")]
        return {name.removeprefix(f"{folder}/"): name for name in sorted(names)}

    def artifacts(self, run: Run) -> list[str]:
        """The paths of a run's artifacts and logs."""
        return list(self.files(f"azureml/{run.container}"))

    def restore(self, files: dict[str, str], target: Path) -> None:
        """Write blobs to the paths that they are given in a folder."""
        for path, blob in files.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(self.blobs[blob])

    def upload(self, source: Path, folder: str) -> None:
        """Copy what is in a folder on disk, if there is one, into a folder of blobs."""
        for path in sorted(source.rglob("*")):
            if path.is_file():
                with self.lock:
                    self.blobs[f"{folder}/{path.relative_to(source).as_posix()}"] = (
                        path.read_bytes()
                    )

    def stop(self) -> None:
        """Cancel what still runs."""
        for run in list(self.runs.values()):
            run.cancel.set()
