"""The methods of a workspace and of its runs that the commands call.

`sdk_workspace.py` implements both interfaces with the SDK of the project.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..project import PipelineDefinition
from ..settings_models import Compute, ProjectSettings, Schedule
from .resources import (
    ActiveSchedule,
    Cluster,
    Datastore,
    Endpoint,
    Failure,
    PastRun,
    Publication,
    RegisteredEnvironment,
    ScheduleChange,
    StepStatus,
)


class RunInterface(Protocol):
    """A run of a pipeline on Azure ML."""

    @property
    def id(self) -> str:
        """The id of the run."""

    @property
    def url(self) -> str:
        """The address of the run in the Studio."""

    def state(self) -> str:
        """Ask Azure for the state of the run, in lower case."""

    def steps(self) -> list[StepStatus]:
        """Ask Azure for the steps that have been created so far."""

    def failures(self) -> list[Failure]:
        """Ask Azure why each failed step has failed.

        If no step has failed, the result is the failure of the run itself.
        """


@dataclass(frozen=True)
class StartedRun:
    """A run that Azure has started."""

    run: RunInterface
    #: Whether Azure's response to the submission was lost. The run was then found by its id.
    response_was_lost: bool = False


class WorkspaceInterface(Protocol):
    """A workspace of Azure ML, reached with the current login."""

    name: str
    region: str

    # Resources that `provision` creates

    def find_cluster(self, name: str) -> Cluster | None:
        """Return the cluster of this name, or None if there is no compute of this name.

        Raises NotACluster if a compute of another kind has this name, and ClusterFailed if
        Azure could not create the cluster.
        """

    def has_compute(self, name: str) -> bool:
        """Return whether there is a compute of this name, of any kind."""

    def create_cluster(self, compute: Compute) -> Cluster:
        """Create the cluster that the settings describe, and wait until it is ready.

        Raises ClusterFailed if Azure could not create it.
        """

    def use_image_builder(self, name: str) -> bool:
        """Let the cluster of this name build the images of environments.

        Returns True if this is a change, and False if the cluster builds them already.
        """

    def register(self, environment: Any) -> RegisteredEnvironment:
        """Register an environment (an object of the SDK), unless it is registered already."""

    def default_datastore(self) -> Datastore:
        """Return the default datastore of the workspace."""

    # Runs

    def build(
        self,
        pipeline: PipelineDefinition,
        settings: ProjectSettings,
        folders: Mapping[str, str],
        changing_inputs: Collection[str],
    ) -> Any:
        """Build the SDK's object for a pipeline, which can be started or published.

        `folders` maps each data parameter of the pipeline to the folder of the default
        datastore that it reads. `changing_inputs` are the data parameters whose files may
        change from run to run. Steps that read these files are never reused.
        """

    def start(
        self,
        sdk_pipeline: Any,
        pipeline_name: str,
        experiment: str,
        parameters: dict[str, Any],
    ) -> StartedRun:
        """Start a run of a pipeline that `build` has made, and return the run.

        If the connection is lost before Azure responds, the run may have started
        nevertheless, so Azure is then asked whether it has. Raises the error of the
        submission if the run has not started, and StartUnknown if Azure cannot be asked.
        """

    def newest_runs(
        self,
        pipeline_name: str,
        experiment: str,
        endpoint: Endpoint | None,
        count: int,
    ) -> list[PastRun]:
        """Return up to `count` runs of a pipeline in an experiment, the newest first."""

    # Published pipelines

    def endpoint_name(self, name: str) -> str:
        """Return the name of the endpoint for a pipeline, which begins with `name`."""

    def find_endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of this name that can be called, or None."""

    def publish(
        self,
        name: str,
        endpoint: Endpoint | None,
        sdk_pipeline: Any,
        description: str,
    ) -> Endpoint:
        """Publish a pipeline that `build` has made as the default version of an endpoint.

        If `endpoint` is None, an endpoint of this name is created.
        """

    def list_schedules(
        self, name: str, endpoint: Endpoint | None
    ) -> list[ActiveSchedule]:
        """Return the active schedules of an endpoint of this name."""

    def plan_schedule(
        self, name: str, endpoint: Endpoint | None, schedule: Schedule | None
    ) -> list[ScheduleChange]:
        """Return what `apply_schedule` would return, without changing anything."""

    def apply_schedule(
        self, publication: Publication, schedule: Schedule | None
    ) -> list[ScheduleChange]:
        """Give a published pipeline the schedule of the settings, and disable all others.

        `schedule` is the one in the settings. If it is None, no schedule stays active.
        Returns what has been changed, and the schedules that have stayed as they were.
        """
