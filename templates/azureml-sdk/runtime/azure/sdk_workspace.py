"""A workspace of Azure ML and its runs, implemented with azureml-sdk.

`workspace_interface.py` describes the methods. Projects with azure-ai-ml have another module
of this name, which implements the same interface.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from azureml.core import Dataset, Environment, Experiment, authentication
from azureml.core import Workspace as SdkWorkspace
from azureml.core.compute import AmlCompute
from azureml.exceptions import UserErrorException
from azureml.pipeline import core as sdk

from ..project import PipelineDefinition
from ..rules import CLOUDS
from ..settings_models import Compute, Schedule
from ..workspaces import WorkspaceConfig
from . import login, request_guard
from .blob_container import open_container
from .errors import (
    AzureError,
    ClusterFailed,
    LoginMissing,
    NotACluster,
    StartUnknown,
    WorkspaceMissing,
)
from .resources import (
    PIPELINE_TAG,
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
    read_end,
    read_time,
)
from .sdk_errors import find_request_address, find_status_code
from .sdk_steps import build_steps
from .workspace_interface import RunInterface, StartedRun, WorkspaceInterface

# The environment variables that describe a service principal.
PRINCIPAL_VARIABLES = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
# A token is replaced this many seconds before it expires.
TOKEN_MARGIN = 300
TIME_ZONES = {zone.value: zone for zone in sdk.TimeZone}
#: A new cluster releases idle nodes after 20 minutes, and may shrink to no node at all.
SCALING = {"min_nodes": 0, "idle_seconds_before_scaledown": 1200}
# The SDK finds an endpoint only by listing all endpoints. It lists at most this many.
MAX_ENDPOINTS = 1000


@dataclass(frozen=True)
class Run(RunInterface):
    """A pipeline run."""

    sdk_run: sdk.PipelineRun

    @property
    def id(self) -> str:
        return str(self.sdk_run.id)

    @property
    def url(self) -> str:
        return str(self.sdk_run.get_portal_url())

    def state(self) -> str:
        """Ask Azure for the state of the run, in lower case."""
        return _get_state(self.sdk_run)

    def steps(self) -> list[StepStatus]:
        """Ask Azure for the steps that have been created so far."""
        statuses = []
        for step in self.sdk_run.get_steps():
            is_reused = step.get_properties().get("azureml.isreused") == "true"
            state = "reused" if is_reused else _get_state(step)
            statuses.append(StepStatus(step.id, step.name, state))
        return statuses

    def failures(self) -> list[Failure]:
        """Ask Azure why each failed step has failed.

        If no step has failed, the result is the failure of the run itself.
        """
        steps = self.sdk_run.get_steps()
        failed_steps = [step for step in steps if step.get_status() == "Failed"]
        if not failed_steps:
            return [_describe_failure(self.sdk_run, step="")]
        return [_describe_failure(step, step=step.name) for step in failed_steps]


def _describe_failure(run: Any, step: str) -> Failure:
    """Return why the run of a step or of a pipeline has failed, with its logs.

    `step` is the name of the step, or "" for the run of a pipeline.
    """
    details = run.get_details()
    properties = run.get_properties()
    # Azure puts the error into an envelope, which also has the name "error".
    error = (details.get("error") or {}).get("error") or {}
    # The SDK marks a parallel step by the first of these properties, and Azure ML marks it by
    # the second.
    is_parallel = (
        properties.get("StepType") == "ParallelRunStep"
        or properties.get("azureml.parallelrunstep") == "true"
    )

    def read_log(log: str) -> str:
        """Download a log of the run, and return its end."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "log.txt"
            run.download_file(log, str(file))
            with file.open("rb") as content:
                return read_end(content)

    return Failure(
        step=step,
        reason=error.get("message") or "",
        url=run.get_portal_url(),
        logs=list(details.get("logFiles") or {}),
        read_log=read_log,
        is_parallel=is_parallel,
    )


class Workspace(WorkspaceInterface):
    """A workspace of Azure ML, accessed with the current login of this machine."""

    def __init__(self, workspace: SdkWorkspace, config: WorkspaceConfig) -> None:
        self.sdk_workspace = workspace
        self.config = config
        self.name = workspace.name
        self.region = workspace.location

    @classmethod
    def connect(cls, config: WorkspaceConfig) -> Workspace:
        """Log in, and return the workspace.

        Raises LoginMissing if there is no valid login, WorkspaceMissing if the workspace
        does not exist, and AzureError if the login has no access to the subscription.
        """
        auth = _log_in(config)
        try:
            workspace = SdkWorkspace.get(
                config.workspace_name,
                auth,
                config.subscription_id,
                config.resource_group,
            )
        except UserErrorException:
            # The message of the SDK's error would list all subscriptions of the login.
            raise AzureError(
                f"{config.files.config}: the login sees no subscription "
                f"{config.subscription_id}. Set subscription_id to one that "
                "`az account list --output table` shows."
            ) from None
        except Exception as error:
            if find_status_code(error) == 404:
                raise WorkspaceMissing(config) from None
            raise
        return cls(workspace, config)

    @classmethod
    def create(cls, config: WorkspaceConfig, uses_identities: bool) -> Workspace:
        """Create the workspace, and its resource group if it does not exist.

        With `uses_identities`, the workspace's datastores are accessed with the identity of
        the user or the cluster, and otherwise with the key of the storage account. If the
        workspace exists already, it is returned unchanged.
        """
        workspace = SdkWorkspace.create(
            config.workspace_name,
            _log_in(config),
            config.subscription_id,
            config.resource_group,
            config.region,
            exist_ok=True,
            show_output=False,
            system_datastores_auth_mode="identity" if uses_identities else "accessKey",
        )
        return cls(workspace, config)

    def find_cluster(self, name: str) -> Cluster | None:
        """Wait until the cluster of this name is ready, and return it.

        Returns None if there is no compute of this name.
        """
        sdk_compute = self.sdk_workspace.compute_targets.get(name)
        if sdk_compute is None:
            return None
        return _wait_until_ready(name, sdk_compute, self.config)

    def has_compute(self, name: str) -> bool:
        """Return whether there is a compute of this name, of any kind."""
        return name in self.sdk_workspace.compute_targets

    def create_cluster(self, compute: Compute) -> Cluster:
        """Create the cluster that the settings describe, and wait until it is ready."""
        configuration = AmlCompute.provisioning_configuration(
            compute.vm_size,
            max_nodes=compute.max_nodes,
            **SCALING,
            **_make_identity_options(compute),
            **_make_network_options(compute),
        )
        sdk_compute = AmlCompute.create(self.sdk_workspace, compute.name, configuration)
        return _wait_until_ready(compute.name, sdk_compute, self.config)

    def use_image_builder(self, name: str) -> bool:
        """Let the cluster of this name build the images of environments.

        Returns False if it already did so before.
        """
        if self.sdk_workspace.get_details().get("imageBuildCompute") == name:
            return False
        self.sdk_workspace.update(image_build_compute=name)
        return True

    def register(self, environment: Environment) -> RegisteredEnvironment:
        """Register an environment, unless its newest version has the same contents."""
        name = environment.name
        newest = self._find_environment(name)
        if newest is not None and _list_contents(newest) == _list_contents(environment):
            return RegisteredEnvironment(name, newest.version, is_new=False)
        registered = environment.register(self.sdk_workspace)
        return RegisteredEnvironment(name, registered.version, is_new=True)

    def _find_environment(self, name: str) -> Environment | None:
        """Return the newest version of an environment, or None if there is none."""
        try:
            return Environment.get(self.sdk_workspace, name)
        except Exception as error:
            # The SDK raises a plain Exception here. Only the status tells what is wrong.
            if find_status_code(error) == 404:
                return None
            raise

    @cached_property
    def _default_store(self) -> Any:
        """The SDK's default datastore of the workspace. Azure is asked for it only once."""
        return self.sdk_workspace.get_default_datastore()

    def default_datastore(self) -> Datastore:
        """Return the default datastore, with a client for the container of its files."""
        store = self._default_store
        # A datastore without keys is accessed with the user's own login. The SDK itself
        # would send no credential.
        credential = store.account_key or store.sas_token
        if not credential:
            login_host = CLOUDS[self.config.cloud].login
            credential = login.credential(login_host)
        container = open_container(
            store.account_name, store.endpoint, store.container_name, credential
        )
        return Datastore(store.name, container)

    def build(
        self,
        pipeline: PipelineDefinition,
        settings: Any,
        folders: Mapping[str, str],
        changing_inputs: Collection[str],
    ) -> sdk.Pipeline:
        """Build the SDK's object for a pipeline, which can be started or published.

        `folders` maps each data parameter to the folder of the default datastore that it
        reads. Steps that read one of the parameters `changing_inputs` are never reused.
        """
        # Without validation, a folder may also be filled after the pipeline is built.
        datasets = {
            name: Dataset.File.from_files((self._default_store, folder), validate=False)
            for name, folder in folders.items()
        }
        steps = build_steps(pipeline, settings, datasets, changing_inputs)
        return sdk.Pipeline(self.sdk_workspace, steps)

    def start(
        self,
        sdk_pipeline: sdk.Pipeline,
        pipeline_name: str,
        experiment: str,
        parameters: dict[str, Any],
    ) -> StartedRun:
        """Start a run of a pipeline in an experiment, and return the run.

        If Azure's response is lost, the run may have started nevertheless, so Azure is then
        asked whether the run exists. Raises the error of the submission if the run has not
        started, and StartUnknown if Azure cannot be asked.
        """
        sdk_experiment = Experiment(self.sdk_workspace, experiment)
        try:
            sdk_run = sdk_experiment.submit(
                sdk_pipeline,
                tags={PIPELINE_TAG: pipeline_name},
                pipeline_parameters=parameters,
            )
        except Exception as error:
            # The errors of requests, msrest and the SDK have only Exception in common.
            started = self._find_started_run(error, sdk_experiment)
            if started is None:
                raise
            return StartedRun(started, response_was_lost=True)
        return StartedRun(Run(sdk_run))

    def _find_started_run(
        self, error: Exception, sdk_experiment: Experiment
    ) -> Run | None:
        """Return the run that has started although its submission ended in an error.

        `error` is the error of the submission. Returns None if no run has started. Raises
        StartUnknown if Azure cannot be asked whether the run has started.
        """
        # The SDK chooses the id of the run itself, and submits the run to an address that
        # contains this id. A failed request with another address was sent before the
        # submission. No run has started then.
        address = find_request_address(error)
        submission = re.search(r"/PipelineRuns/Submit/([^/?]+)", address)
        if submission is None:
            return None

        run_id = submission[1]
        try:
            run = sdk.PipelineRun(sdk_experiment, run_id)
            has_started = run.get_status() != "NotStarted"
        except Exception:  # noqa: BLE001 (no error tells whether the run has started)
            raise StartUnknown(run_id, sdk_experiment.name) from error
        return Run(run) if has_started else None

    def endpoint_name(self, name: str) -> str:
        """Return `name` itself, because it must be unique only in the workspace."""
        return name

    def find_endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of this name, or None if it does not exist."""
        sdk_endpoints = sdk.PipelineEndpoint.list(
            self.sdk_workspace, max_results=MAX_ENDPOINTS
        )
        for sdk_endpoint in sdk_endpoints:
            if sdk_endpoint.name == name:
                return _describe_endpoint(sdk_endpoint)
        return None

    def publish(
        self,
        name: str,
        endpoint: Endpoint | None,
        sdk_pipeline: sdk.Pipeline,
        description: str,
    ) -> Endpoint:
        """Publish a pipeline as the default version of an endpoint.

        If `endpoint` is None, an endpoint with this `name` is created.
        """
        published = sdk_pipeline.publish(name, description=description)
        if endpoint is not None:
            sdk_endpoint = endpoint.sdk_endpoint
            sdk_endpoint.add_default(published)
        else:
            sdk_endpoint = sdk.PipelineEndpoint.publish(
                self.sdk_workspace, name, description="", pipeline=published
            )
        return _describe_endpoint(sdk_endpoint)

    def plan_schedule(
        self, name: str, endpoint: Endpoint | None, schedule: Schedule | None
    ) -> list[ScheduleChange]:
        """Return what `apply_schedule` would return, without changing anything.

        `schedule` is the schedule in the settings, or None. `name` is needed only with
        azure-ai-ml.
        """
        active = self._list_active_schedules(endpoint)
        unchanged = _find_same_schedule(active, schedule)
        obsolete = [
            sdk_schedule for sdk_schedule in active if sdk_schedule is not unchanged
        ]
        return _describe_changes(schedule, unchanged is None, obsolete)

    def apply_schedule(
        self, publication: Publication, schedule: Schedule | None
    ) -> list[ScheduleChange]:
        """Give a published pipeline the schedule of the settings, and disable all others.

        If `schedule` is None, no schedule stays active. Returns the changes. A schedule that
        is as it was before is listed as unchanged.
        """
        active = self._list_active_schedules(publication.endpoint)
        current = _find_same_schedule(active, schedule)
        is_new = current is None
        if schedule is not None and is_new:
            current = self._create_schedule(publication, schedule)
            # If a response is lost, the SDK sends the request again, which creates a second
            # schedule. List the schedules again to find it.
            active = self._list_active_schedules(publication.endpoint)

        obsolete = [
            sdk_schedule
            for sdk_schedule in active
            if current is None or sdk_schedule.id != current.id
        ]
        # The new schedule is created first, and then the others are disabled. If disabling
        # fails, the next `publish` tries again. In the other order, a failure could leave the
        # pipeline without a schedule, which nobody would notice.
        for sdk_schedule in obsolete:
            sdk_schedule.disable(wait_for_provisioning=True)
        return _describe_changes(schedule, is_new, obsolete)

    def newest_runs(
        self,
        pipeline_name: str,
        experiment: str,
        endpoint: Endpoint | None,
        count: int,
    ) -> list[PastRun]:
        """Return up to `count` runs of a pipeline in an experiment, the newest first.

        These are runs that `submit` has started, and runs of the pipeline that is published
        under the endpoint now.
        """
        sdk_experiments = Experiment.list(self.sdk_workspace, experiment)
        if not sdk_experiments:
            return []
        sdk_experiment = sdk_experiments[0]

        run_filters: list[dict[str, Any]] = [{"tags": {PIPELINE_TAG: pipeline_name}}]
        if endpoint is not None:
            # Runs that the endpoint has started have no tag, but a property with the id of
            # the published pipeline.
            published = endpoint.sdk_endpoint.get_pipeline()
            run_filters.append({"properties": {"azureml.pipelineid": published.id}})

        past_runs = []
        for run_filter in run_filters:
            # The SDK sends a request for each run, so only `count` runs are read.
            sdk_runs = sdk_experiment.get_runs(type="azureml.PipelineRun", **run_filter)
            for sdk_run in islice(sdk_runs, count):
                past_runs.append(_read_past_run(sdk_run))
        return sorted(past_runs, key=lambda run: run.started, reverse=True)[:count]

    def list_schedules(
        self, name: str, endpoint: Endpoint | None
    ) -> list[ActiveSchedule]:
        """Return the active schedules of an endpoint.

        `name` is needed only with azure-ai-ml.
        """
        active_schedules = []
        for sdk_schedule in self._list_active_schedules(endpoint):
            newest_run = sdk_schedule.get_last_pipeline_run()
            active_schedules.append(
                ActiveSchedule(
                    description=sdk_schedule.description or sdk_schedule.id,
                    created=_read_creation_time(sdk_schedule),
                    newest_run=_read_past_run(newest_run) if newest_run else None,
                )
            )
        return active_schedules

    def _create_schedule(
        self, publication: Publication, schedule: Schedule
    ) -> sdk.Schedule:
        """Create a schedule for a published pipeline, and wait until it is active."""
        recurrence = sdk.ScheduleRecurrence(
            frequency=schedule.frequency,
            interval=schedule.interval,
            start_time=schedule.start_time,
            time_zone=TIME_ZONES[schedule.time_zone],
            hours=schedule.hours,
            minutes=schedule.minutes,
            week_days=schedule.week_days,
        )
        return sdk.Schedule.create_for_pipeline_endpoint(
            self.sdk_workspace,
            publication.endpoint.name,
            publication.endpoint.sdk_endpoint.id,
            publication.experiment,
            recurrence=recurrence,
            description=schedule.describe(),
            wait_for_provisioning=True,
        )

    def _list_active_schedules(self, endpoint: Endpoint | None) -> list[sdk.Schedule]:
        """Return the SDK's objects for the schedules of an endpoint that are not disabled.

        The list is empty if `endpoint` is None.
        """
        if endpoint is None:
            return []
        schedules = sdk.Schedule.list(
            self.sdk_workspace, pipeline_endpoint_id=endpoint.sdk_endpoint.id
        )
        return [schedule for schedule in schedules if schedule.status == "Active"]


def _describe_endpoint(sdk_endpoint: sdk.PipelineEndpoint) -> Endpoint:
    """Describe an endpoint of the SDK, with its current default version."""
    return Endpoint(
        name=sdk_endpoint.name,
        version=f"version {sdk_endpoint.default_version}",
        url=str(sdk_endpoint.endpoint),
        sdk_endpoint=sdk_endpoint,
    )


def _find_same_schedule(
    active: list[sdk.Schedule], schedule: Schedule | None
) -> sdk.Schedule | None:
    """Return the active schedule that equals the one in the settings, or None."""
    if schedule is None:
        return None
    # Azure returns a recurrence in a different form, so the descriptions are compared.
    description = schedule.describe()
    for sdk_schedule in active:
        if sdk_schedule.description == description:
            return sdk_schedule
    return None


def _read_creation_time(sdk_schedule: sdk.Schedule) -> datetime:
    """Ask Azure for the time at which a schedule was created."""
    # The public classes of the SDK do not have this time.
    service_caller = sdk_schedule._schedule_provider._service_caller
    return read_time(service_caller.get_schedule_async(sdk_schedule.id).created_date)


def _describe_changes(
    schedule: Schedule | None, is_new: bool, disabled: list[sdk.Schedule]
) -> list[ScheduleChange]:
    """Describe what happens to the schedules of a published pipeline.

    `schedule` is the schedule in the settings, or None, and `is_new` tells whether Azure does
    not have it yet. `disabled` are the schedules that are disabled.
    """
    changes = []
    if schedule is not None and is_new:
        changes.append(ScheduleChange("scheduled", schedule.describe()))
    elif schedule is not None:
        changes.append(ScheduleChange("unchanged", schedule.describe()))
    for sdk_schedule in disabled:
        description = sdk_schedule.description or sdk_schedule.id
        changes.append(ScheduleChange("disabled", description))
    return changes


def _log_in(config: WorkspaceConfig) -> authentication.AbstractAuthentication:
    """Return the current login of this machine, without opening a prompt or a browser.

    A service principal in the environment variables comes first. Without a service principal,
    logins are tried in the same order as in `check --online`. Raises LoginMissing if there is
    no login, or if Azure refuses it. If Azure cannot be reached to check a service principal,
    the SDK's own error is raised.
    """
    cloud = config.cloud
    principal_values = [os.environ.get(name) for name in PRINCIPAL_VARIABLES]
    has_principal = all(principal_values)
    try:
        if has_principal:
            auth = authentication.ServicePrincipalAuthentication(
                *principal_values, cloud
            )
        else:
            auth = authentication.TokenAuthentication(_make_token_source(cloud), cloud)
        auth.get_authentication_header()
    except Exception as error:
        # The errors of the SDK, msal and azure-identity have only Exception in common. The
        # messages of Azure's refusals contain a code such as AADSTS7000215.
        is_refusal = "AADSTS" in str(error) or bool(request_guard.quote_login_refusal())
        if has_principal and not is_refusal:
            # Azure has not refused the service principal, but could not be reached. The error
            # of the connection explains this better than LoginMissing, which asks the user to
            # log in. Without a service principal, any error means that no login works.
            raise
        raise LoginMissing(error, config) from error
    return auth


def _make_token_source(cloud: str) -> Callable[[str], str]:
    """Return a function from which the SDK gets its tokens.

    The argument of the function is an audience: the address of the service that the token is
    for, such as https://management.azure.com. The function caches the tokens.

    The result is a function and not an object with a method, because the SDK makes deep
    copies of what it gets. A copied object would have its own, empty cache, whereas the copy
    of a function shares the cache of the original.
    """
    credential = login.credential(CLOUDS[cloud].login)
    # The SDK needs a token for each request, and `az` takes a second to return a token.
    token_by_audience: dict[str, Any] = {}

    def get_token(audience: str) -> str:
        """Return a token for an audience. It is reused until shortly before it expires."""
        token = token_by_audience.get(audience)
        if token is None or token.expires_on < time.time() + TOKEN_MARGIN:
            token = credential.get_token(f"{audience}/.default")
            token_by_audience[audience] = token
        return str(token.token)

    return get_token


def _make_identity_options(compute: Compute) -> dict[str, Any]:
    """Return the SDK's options for the identity of a new cluster."""
    if compute.identity is None:
        return {}
    if compute.identity == "system":
        return {"identity_type": "SystemAssigned"}
    return {"identity_type": "UserAssigned", "identity_id": [compute.identity]}


def _make_network_options(compute: Compute) -> dict[str, Any]:
    """Return the SDK's options for the network of a new cluster.

    They set the subnet of its nodes, and whether each node gets a public IP address.
    """
    options: dict[str, Any] = {"enable_node_public_ip": compute.public_ip}
    if compute.subnet is None:
        return options
    # A subnet is a path of keys and values, such as /subscriptions/ID/resourceGroups/GROUP/….
    # Azure does not distinguish upper and lower case in the keys.
    path_parts = compute.subnet.strip("/").split("/")
    keys = [key.lower() for key in path_parts[0::2]]
    value_by_key = dict(zip(keys, path_parts[1::2], strict=True))
    options["vnet_resourcegroup_name"] = value_by_key["resourcegroups"]
    options["vnet_name"] = value_by_key["virtualnetworks"]
    options["subnet_name"] = value_by_key["subnets"]
    return options


def _read_past_run(sdk_run: Any) -> PastRun:
    """Return a PastRun that describes a pipeline run of the SDK."""
    details = sdk_run.get_details()
    # A queued run has no start time yet, so the current time is used.
    start_time = details.get("startTimeUtc")
    started = read_time(start_time) if start_time else datetime.now(timezone.utc)
    return PastRun(
        id=sdk_run.id,
        state=str(details["status"]).lower(),
        started=started,
        url=sdk_run.get_portal_url(),
    )


def _get_state(run: Any) -> str:
    """Return the state of a run in lower case, such as "running"."""
    return str(run.get_status()).lower()


def _wait_until_ready(name: str, sdk_compute: Any, config: WorkspaceConfig) -> Cluster:
    """Wait until a cluster is ready, and return it.

    Raises NotACluster if the compute is of another kind, and ClusterFailed if Azure could
    not create it.
    """
    if not isinstance(sdk_compute, AmlCompute):
        raise NotACluster(name, sdk_compute.type, config)
    if sdk_compute.provisioning_state != "Succeeded":
        sdk_compute.wait_for_completion()
    if sdk_compute.provisioning_state != "Succeeded":
        errors = sdk_compute.provisioning_errors or sdk_compute.provisioning_state
        raise ClusterFailed(name, errors)
    max_nodes = sdk_compute.scale_settings.maximum_node_count
    return Cluster(sdk_compute.vm_size, max_nodes)


def _list_contents(environment: Environment) -> tuple[str, dict[str, Any]]:
    """Return the base image and the packages of an environment, for comparisons."""
    packages = environment.python.conda_dependencies.as_dict()
    return environment.docker.base_image, packages
