"""A workspace of Azure ML and its runs, implemented with azure-ai-ml.

`workspace_interface.py` describes the methods. Projects with azureml-sdk have another module
of this name, which implements the same interface.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from itertools import islice
from typing import Any

import requests
from azure.ai.ml import MLClient, constants, entities
from azure.core.exceptions import ResourceNotFoundError

from ..project import PipelineDefinition
from ..rules import CLOUDS
from ..settings_models import Compute, Schedule
from ..workspaces import WorkspaceConfig
from . import login
from .blob_container import open_container
from .errors import (
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
)
from .sdk_errors import find_request_address
from .sdk_steps import build_steps, set_parameters
from .workspace_interface import RunInterface, StartedRun, WorkspaceInterface

TIME_ZONES = {zone.value for zone in constants.TimeZone}
#: A new cluster releases idle nodes after 20 minutes, and may shrink to no node at all.
SCALING = {"min_instances": 0, "idle_time_before_scale_down": 1200}
# The name of an endpoint has at most 32 characters. The last 6 are a digest.
MAX_ENDPOINT_NAME = 32
DIGEST_CHARACTERS = 6
# Logs are downloaded in chunks of this size.
CHUNK_BYTES = 1 << 16
# At most this many of the newest jobs of the workspace, or of a schedule, are read.
MAX_JOBS_READ = 500
# An endpoint keeps this many deployments. Azure allows 20.
KEPT_DEPLOYMENTS = 10
# The random part at the end of a job's name has this many characters.
RANDOM_CHARACTERS = 12


@dataclass(frozen=True)
class Run(RunInterface):
    """A pipeline job."""

    client: MLClient
    job: Any

    @property
    def id(self) -> str:
        return str(self.job.name)

    @property
    def url(self) -> str:
        return str(self.job.studio_url)

    def state(self) -> str:
        """Ask Azure for the state of the job, in lower case."""
        return _get_state(self.client.jobs.get(self.id))

    def steps(self) -> list[StepStatus]:
        """Ask Azure for the steps that have been created so far."""
        statuses = []
        for job in self.client.jobs.list(parent_job_name=self.id):
            is_reused = job.properties.get("azureml.isreused") == "true"
            state = "reused" if is_reused else _get_state(job)
            statuses.append(StepStatus(job.name, job.display_name, state))
        return statuses

    def failures(self) -> list[Failure]:
        """Ask Azure why each failed step has failed.

        If no step has failed, the result is the failure of the pipeline job itself.
        """
        jobs = self.client.jobs.list(parent_job_name=self.id)
        failed_steps = [job for job in jobs if _get_state(job) == "failed"]
        if not failed_steps:
            return [self._describe_failure(self.job, step="")]
        return [
            self._describe_failure(job, step=job.display_name) for job in failed_steps
        ]

    def _describe_failure(self, job: Any, step: str) -> Failure:
        """Return why the job of a step or of a pipeline has failed, with its logs.

        `step` is the name of the step, or "" for the job of a pipeline.
        """
        # The public method `jobs.stream` only prints these details, so the private client is
        # used to get them.
        details = self.client.jobs._runs_operations.get_run_details(job.name)
        # Azure puts the error into an envelope, which also has the name "error".
        error = details.error.error if details.error else None
        log_addresses: dict[str, str] = details.log_files or {}

        # The address of a step's page is that of the pipeline job, with the id of the step's
        # job: …/runs/ID?wsid=….
        job_url = self.url.replace(f"/{self.id}?", f"/{job.name}?")
        return Failure(
            step=step,
            reason=error.message if error else "",
            url=job_url,
            logs=list(log_addresses),
            read_log=lambda log: _download_end(log_addresses[log]),
            is_parallel=job.properties.get("azureml.parallelrunstep") == "true",
        )


def _download_end(log_address: str) -> str:
    """Download a log, and return its end."""
    with (
        tempfile.TemporaryFile() as file,
        requests.get(log_address, stream=True, timeout=login.TIMEOUT) as response,
    ):
        response.raise_for_status()
        for chunk in response.iter_content(CHUNK_BYTES):
            file.write(chunk)
        return read_end(file)


class Workspace(WorkspaceInterface):
    """A workspace of Azure ML, accessed with the current login of this machine."""

    def __init__(
        self,
        client: MLClient,
        workspace: entities.Workspace,
        config: WorkspaceConfig,
    ) -> None:
        self.client = client
        self.sdk_workspace = workspace
        self.config = config
        self.name = workspace.name
        self.region = workspace.location

    @classmethod
    def connect(cls, config: WorkspaceConfig) -> Workspace:
        """Log in, and return the workspace.

        Raises LoginMissing if there is no valid login, and WorkspaceMissing if the workspace
        does not exist.
        """
        client = _log_in(config)
        try:
            workspace = client.workspaces.get(config.workspace_name)
        except ResourceNotFoundError:
            raise WorkspaceMissing(config) from None
        return cls(client, workspace, config)

    @classmethod
    def create(cls, config: WorkspaceConfig, uses_identities: bool) -> Workspace:
        """Create the workspace, and its resource group if it does not exist.

        With `uses_identities`, the workspace's datastores are accessed with the identity of
        the user or the cluster, and otherwise with the key of the storage account.
        """
        client = _log_in(config)
        _provide_resource_group(client, config)
        definition = entities.Workspace(
            name=config.workspace_name,
            location=config.region,
            # With None, Azure uses account keys.
            system_datastores_auth_mode="identity" if uses_identities else None,
        )
        sdk_workspace = client.workspaces.begin_create(definition).result()
        return cls(client, sdk_workspace, config)

    def find_cluster(self, name: str) -> Cluster | None:
        """Return the cluster of this name, which must be ready.

        Returns None if there is no compute of this name.
        """
        sdk_compute = self._find_compute(name)
        if sdk_compute is None:
            return None
        return _require_ready_cluster(name, sdk_compute, self.config)

    def has_compute(self, name: str) -> bool:
        """Return whether there is a compute of this name, of any kind."""
        return self._find_compute(name) is not None

    def _find_compute(self, name: str) -> entities.Compute | None:
        """Return the SDK's object for the compute of this name, of any kind, or None."""
        try:
            return self.client.compute.get(name)
        except ResourceNotFoundError:
            return None

    def create_cluster(self, compute: Compute) -> Cluster:
        """Create the cluster that the settings describe, and wait until it is ready."""
        definition = entities.AmlCompute(
            name=compute.name,
            size=compute.vm_size,
            max_instances=compute.max_nodes,
            location=self.region,
            identity=_make_cluster_identity(compute),
            network_settings=_make_network_settings(compute),
            enable_node_public_ip=compute.public_ip,
            **SCALING,
        )
        sdk_compute = self.client.compute.begin_create_or_update(definition).result()
        return _require_ready_cluster(compute.name, sdk_compute, self.config)

    def use_image_builder(self, name: str) -> bool:
        """Let the cluster of this name build the images of environments.

        Returns False if it already did so before.
        """
        if self.sdk_workspace.image_build_compute == name:
            return False
        change = entities.Workspace(
            name=self.name, location=self.region, image_build_compute=name
        )
        self.client.workspaces.begin_update(change).result()
        return True

    def register(self, environment: entities.Environment) -> RegisteredEnvironment:
        """Register an environment, unless this version of it exists already."""
        name = environment.name
        version = environment.version
        is_new = False
        try:
            self.client.environments.get(name, version)
        except ResourceNotFoundError:
            self.client.environments.create_or_update(environment)
            is_new = True
        return RegisteredEnvironment(name, version, is_new)

    @cached_property
    def _default_store(self) -> Any:
        """The SDK's default datastore of the workspace. Azure is asked for it only once."""
        return self.client.datastores.get_default(include_secrets=True)

    def default_datastore(self) -> Datastore:
        """Return the default datastore, with a client for the container of its files."""
        store = self._default_store
        account_key = getattr(store.credentials, "account_key", None)
        sas_token = getattr(store.credentials, "sas_token", None)
        # A datastore without a key and a SAS token is accessed with the user's own login.
        credential = account_key or sas_token or self.client._credential
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
    ) -> entities.PipelineJob:
        """Build the SDK's job for a pipeline, which can be started or published.

        `folders` maps each data input to the folder of the default datastore that it reads.
        `changing_inputs` are the data inputs whose files may change from run to run. If there
        are any, no step of the job is reused, because Azure ML does not notice changed files
        and would reuse earlier results.
        """
        datastore_address = f"azureml://datastores/{self._default_store.name}/paths"
        addresses = {
            name: f"{datastore_address}/{folder.strip('/')}/"
            for name, folder in folders.items()
        }
        job = build_steps(pipeline, settings, addresses)
        # If the pipeline is published, steps without a cluster of their own run on this one.
        job.settings.default_compute = settings.compute.name
        for name, node in job.jobs.items():
            identity = settings.compute_of(name).identity
            if identity:
                node.identity = _make_step_identity(identity)
        # With None, the job has no such setting, and its steps can be reused.
        job.settings.force_rerun = True if changing_inputs else None
        return job

    def start(
        self,
        sdk_pipeline: entities.PipelineJob,
        pipeline_name: str,
        experiment: str,
        parameters: dict[str, Any],
    ) -> StartedRun:
        """Submit the job of a pipeline to an experiment, and return its run.

        If Azure's response is lost, the run may have started nevertheless, so Azure is then
        asked whether the run exists. Raises the error of the submission if the run has not
        started, and StartUnknown if Azure cannot be asked.
        """
        set_parameters(sdk_pipeline, parameters)
        # With a name that is chosen here, the job can be found if the response is lost.
        random_part = uuid.uuid4().hex[:RANDOM_CHARACTERS]
        job_name = f"{sdk_pipeline.display_name}-{random_part}"
        sdk_pipeline.name = job_name
        sdk_pipeline.experiment_name = experiment
        sdk_pipeline.tags = {PIPELINE_TAG: pipeline_name}
        try:
            job = self.client.jobs.create_or_update(sdk_pipeline)
        except Exception as error:
            # The SDK's errors have only Exception in common.
            started = self._find_started_run(error, job_name, experiment)
            if started is None:
                raise
            return StartedRun(started, response_was_lost=True)
        return StartedRun(Run(self.client, job))

    def _find_started_run(
        self, error: Exception, job_name: str, experiment: str
    ) -> Run | None:
        """Return the run that has started although its submission ended in an error.

        `error` is the error of the submission. Returns None if no run has started. Raises
        StartUnknown if Azure cannot be asked whether the run has started.
        """
        # Only the address of the submission contains /jobs/. A failed request with another
        # address was sent before the submission, for example to upload the code. No run has
        # started then.
        is_submission = "/jobs/" in find_request_address(error)
        if not is_submission:
            return None

        try:
            job = self.client.jobs.get(job_name)
        except ResourceNotFoundError:
            return None
        except Exception:  # noqa: BLE001 (no other error tells whether there is a run)
            raise StartUnknown(job_name, experiment) from error
        return Run(self.client, job)

    def endpoint_name(self, name: str) -> str:
        """Return a name for an endpoint that is unique in the region, as Azure requires.

        It begins with `name`, which may be shortened, and ends with a digest of `name` and
        the workspace's id, such as `penguins-scoring-1a2b3c`. Azure allows only letters,
        digits and hyphens, with a letter first.
        """
        digest_source = f"{self.sdk_workspace.id}/{name}".lower()
        digest = hashlib.sha256(digest_source.encode()).hexdigest()[:DIGEST_CHARACTERS]

        hyphenated = re.sub("[^a-z0-9]", "-", name.lower())
        from_first_letter = re.sub("^[^a-z]+", "", hyphenated)
        max_prefix_length = MAX_ENDPOINT_NAME - DIGEST_CHARACTERS - len("-")
        prefix = from_first_letter[:max_prefix_length].rstrip("-")
        # Nothing is left of a name without letters, such as "123".
        return f"{prefix or 'pipeline'}-{digest}"

    def find_endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of this name, or None if there is none that can be called."""
        try:
            sdk_endpoint = self.client.batch_endpoints.get(name)
        except ResourceNotFoundError:
            return None
        if not _default_deployment(sdk_endpoint):
            # A failed publication may leave an endpoint without a deployment.
            return None
        return _describe_endpoint(sdk_endpoint)

    def publish(
        self,
        name: str,
        endpoint: Endpoint | None,
        sdk_pipeline: entities.PipelineJob,
        description: str,
    ) -> Endpoint:
        """Publish a job as the default deployment of an endpoint.

        If `endpoint` is None, an endpoint with this `name` is created. Old deployments of
        the endpoint are deleted.
        """
        if endpoint is None:
            self._create_endpoint(name, description)
        deployment = self._create_deployment(name, sdk_pipeline, description)
        self._make_default(name, deployment)
        self._delete_old_deployments(name)
        return _describe_endpoint(self.client.batch_endpoints.get(name))

    def _create_endpoint(self, name: str, description: str) -> None:
        """Create an endpoint, and wait until it exists."""
        definition = entities.BatchEndpoint(name=name, description=description)
        self.client.batch_endpoints.begin_create_or_update(definition).result()

    def _create_deployment(
        self, endpoint_name: str, sdk_pipeline: entities.PipelineJob, description: str
    ) -> str:
        """Create a deployment of a job, wait until it exists, and return its name."""
        definition = _define_deployment(endpoint_name, sdk_pipeline, description)
        self.client.batch_deployments.begin_create_or_update(definition).result()
        return str(definition.name)

    def _make_default(self, endpoint_name: str, deployment: str) -> None:
        """Make a deployment the default of its endpoint, which calls of the endpoint run."""
        endpoints = self.client.batch_endpoints
        sdk_endpoint = endpoints.get(endpoint_name)
        sdk_endpoint.defaults = {"deployment_name": deployment}
        endpoints.begin_create_or_update(sdk_endpoint).result()

    def _delete_old_deployments(self, endpoint_name: str) -> None:
        """Delete the project's deployments of an endpoint, except the newest ones.

        The project names its deployments after the time. Deployments with other names are
        kept, because somebody else has created them.
        """
        deployments = self.client.batch_deployments
        names = [deployment.name for deployment in deployments.list(endpoint_name)]
        # The project's names are times, such as v20260131063000123, so they sort by age.
        own_names = sorted(name for name in names if re.fullmatch(r"v\d{17}", name))
        for name in own_names[:-KEPT_DEPLOYMENTS]:
            deployments.begin_delete(name, endpoint_name).result()

    def newest_runs(
        self,
        pipeline_name: str,
        experiment: str,
        endpoint: Endpoint | None,
        count: int,
    ) -> list[PastRun]:
        """Return up to `count` runs of a pipeline in an experiment, the newest first.

        These are runs that `submit` or the endpoint has started. Only the MAX_JOBS_READ
        newest jobs of the workspace are considered.
        """
        # The SDK lists the newest jobs first. It yields None for a job that it cannot read.
        past_runs = [
            _read_past_run(job)
            for job in islice(self.client.jobs.list(), MAX_JOBS_READ)
            if job is not None and _belongs_to(job, pipeline_name, experiment, endpoint)
        ]
        return sorted(past_runs, key=lambda run: run.started, reverse=True)[:count]

    def list_schedules(
        self, name: str, endpoint: Endpoint | None
    ) -> list[ActiveSchedule]:
        """Return a list with the active schedule of this name, or an empty list.

        The method has the same form for both SDKs. In azureml-sdk, an `endpoint` can have
        several schedules. In azure-ai-ml, a name belongs to one schedule, and `endpoint` is
        not needed.
        """
        sdk_schedule = self._find_enabled_schedule(name)
        if sdk_schedule is None:
            return []
        created = sdk_schedule.creation_context.created_at
        return [
            ActiveSchedule(
                description=sdk_schedule.description or name,
                created=created.astimezone(timezone.utc),
                newest_run=self._find_newest_run_of_schedule(name),
            )
        ]

    def _find_newest_run_of_schedule(self, name: str) -> PastRun | None:
        """Return the newest run that a schedule has started, or None if there is none."""
        jobs = self.client.jobs.list(scheduled_job_name=name)
        past_runs = [
            _read_past_run(job)
            for job in islice(jobs, MAX_JOBS_READ)
            if job is not None  # The SDK yields None for a job that it cannot read.
        ]
        return max(past_runs, key=lambda run: run.started, default=None)

    def plan_schedule(
        self, name: str, endpoint: Endpoint | None, schedule: Schedule | None
    ) -> list[ScheduleChange]:
        """Return what `apply_schedule` would return, without changing anything.

        `schedule` is the schedule in the settings, or None. `endpoint` is needed only with
        azureml-sdk.
        """
        enabled_schedule = self._find_enabled_schedule(name)
        if schedule is None:
            if enabled_schedule is None:
                return []
            return [ScheduleChange("disabled", enabled_schedule.description or name)]

        description = schedule.describe()
        if enabled_schedule and enabled_schedule.description == description:
            return [ScheduleChange("unchanged", description)]
        return [ScheduleChange("scheduled", description)]

    def apply_schedule(
        self, publication: Publication, schedule: Schedule | None
    ) -> list[ScheduleChange]:
        """Give a published pipeline the schedule of the settings, or disable its schedule.

        If `schedule` is None, the pipeline has no active schedule afterwards. Returns the
        changes. A schedule that is as it was before is listed as unchanged.
        """
        endpoint = publication.endpoint
        changes = self.plan_schedule(endpoint.name, endpoint, schedule)
        if schedule is not None:
            # An unchanged schedule is written too, because it must start the job that has
            # just been published.
            self._write_schedule(publication, schedule)
        elif changes:
            self.client.schedules.begin_disable(endpoint.name).result()
        return changes

    def _find_enabled_schedule(self, name: str) -> entities.Schedule | None:
        """Return the schedule of this name, or None if there is none or it is disabled."""
        try:
            sdk_schedule = self.client.schedules.get(name)
        except ResourceNotFoundError:
            return None
        return sdk_schedule if sdk_schedule.is_enabled else None

    def _write_schedule(self, publication: Publication, schedule: Schedule) -> None:
        """Create the schedule of a published pipeline, or replace the existing one."""
        job = publication.sdk_pipeline
        job.experiment_name = publication.experiment
        job.tags = {PIPELINE_TAG: publication.pipeline_name}
        sdk_schedule = entities.JobSchedule(
            name=publication.endpoint.name,
            description=schedule.describe(),
            trigger=_make_trigger(schedule),
            create_job=job,
            is_enabled=True,  # An existing schedule may have been disabled.
        )
        self.client.schedules.begin_create_or_update(sdk_schedule).result()


def _belongs_to(
    job: Any, pipeline_name: str, experiment: str, endpoint: Endpoint | None
) -> bool:
    """Return whether a job is a run of the pipeline `pipeline_name`.

    The command `submit` starts runs in `experiment`, with the pipeline's name as a tag. An
    endpoint starts runs in an experiment that has the name of the endpoint.
    """
    if job.type != constants.JobType.PIPELINE:
        return False
    is_submitted = (
        job.experiment_name == experiment
        and job.tags.get(PIPELINE_TAG) == pipeline_name
    )
    is_started_by_endpoint = (
        endpoint is not None and job.experiment_name == endpoint.name
    )
    return is_submitted or is_started_by_endpoint


def _default_deployment(sdk_endpoint: entities.BatchEndpoint) -> str:
    """Return the name of an endpoint's default deployment, or an empty string."""
    return getattr(sdk_endpoint.defaults, "deployment_name", None) or ""


def _describe_endpoint(sdk_endpoint: entities.BatchEndpoint) -> Endpoint:
    """Describe an endpoint of the SDK, with its current default deployment."""
    return Endpoint(
        name=sdk_endpoint.name,
        version=f"deployment {_default_deployment(sdk_endpoint)}",
        url=str(sdk_endpoint.scoring_uri),
        sdk_endpoint=sdk_endpoint,
    )


def _log_in(config: WorkspaceConfig) -> MLClient:
    """Return a client with the current login of this machine.

    The login never opens a prompt or a browser. Raises LoginMissing if there is no valid
    login.
    """
    login_host, management_host = CLOUDS[config.cloud]
    credential = login.credential(login_host)
    try:
        credential.get_token(f"https://{management_host}/.default")
    except Exception as error:
        # The errors of msal, azure-identity and the HTTP client have only Exception in
        # common. After any of them, there is no token, without which no request can be sent.
        raise LoginMissing(error, config) from error
    return MLClient(
        credential,
        config.subscription_id,
        config.resource_group,
        config.workspace_name,
        cloud=config.cloud,
        enable_telemetry=False,
        # With progress bars, the SDK raises the errors of failed uploads. Without them, it
        # ignores these errors, and then waits forever for files that were not uploaded.
        show_progress=True,
    )


def _make_cluster_identity(compute: Compute) -> entities.IdentityConfiguration | None:
    """Return the SDK's object for the identity of a new cluster.

    Returns None if the settings name no identity.
    """
    if compute.identity is None:
        return None
    if compute.identity == "system":
        return entities.IdentityConfiguration(type="system_assigned")
    return entities.IdentityConfiguration(
        type="user_assigned",
        user_assigned_identities=[
            entities.ManagedIdentityConfiguration(resource_id=compute.identity)
        ],
    )


def _make_network_settings(compute: Compute) -> entities.NetworkSettings | None:
    """Return the SDK's object for the subnet of a new cluster.

    Returns None if the settings name no subnet.
    """
    if compute.subnet is None:
        return None
    return entities.NetworkSettings(subnet=compute.subnet)


def _make_step_identity(identity: str) -> entities.ManagedIdentityConfiguration:
    """Return the SDK's object for the identity with which a step reads and writes data.

    `identity` is the identity of the cluster: `system`, or a resource id.
    """
    if identity == "system":
        return entities.ManagedIdentityConfiguration()
    return entities.ManagedIdentityConfiguration(resource_id=identity)


def _provide_resource_group(client: MLClient, config: WorkspaceConfig) -> None:
    """Create the resource group of the workspace if it does not exist.

    The SDK cannot create a resource group, so the requests are sent here.
    """
    management_host = CLOUDS[config.cloud].resource_manager
    url = (
        f"https://{management_host}/subscriptions/{config.subscription_id}/"
        f"resourceGroups/{config.resource_group}?api-version=2021-04-01"
    )
    token = client._credential.get_token(f"https://{management_host}/.default").token
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        response = session.get(url, timeout=login.TIMEOUT)
        if response.status_code == 404:
            body = {"location": config.region}
            response = session.put(url, json=body, timeout=login.TIMEOUT)
        response.raise_for_status()


def _define_deployment(
    endpoint_name: str, sdk_pipeline: entities.PipelineJob, description: str
) -> entities.PipelineComponentBatchDeployment:
    """Return the SDK's object for a new deployment of a job.

    The deployment runs the component of the job, and both get the current time as their name
    and version: the UTC time to the millisecond, such as v20260131063000123.
    """
    now = datetime.now(timezone.utc)
    milliseconds = now.microsecond // 1000
    version = f"v{now:%Y%m%d%H%M%S}{milliseconds:03}"

    component = sdk_pipeline.component
    component.name = _make_component_name(sdk_pipeline.display_name, endpoint_name)
    component.version = version
    component.description = description

    # With the setting force_rerun, Azure ML reuses no steps. It must be text here.
    settings = {"default_compute": sdk_pipeline.settings.default_compute}
    if sdk_pipeline.settings.force_rerun:
        settings["force_rerun"] = "True"
    return entities.PipelineComponentBatchDeployment(
        name=version,
        endpoint_name=endpoint_name,
        component=component,
        settings=settings,
    )


def _make_component_name(pipeline_name: str, endpoint_name: str) -> str:
    """Return the name of the component of a published pipeline.

    Azure allows only letters, digits and underscores in it, so other characters become
    underscores.
    """
    return re.sub(r"\W", "_", f"{pipeline_name}_{endpoint_name}".lower())


def _make_trigger(schedule: Schedule) -> entities.RecurrenceTrigger:
    """Return the SDK's object for the times at which a schedule starts runs."""
    pattern = None
    if schedule.hours or schedule.minutes or schedule.week_days:
        week_days = [day.lower() for day in schedule.week_days or []]
        # The SDK requires hours and minutes. Without them in the settings, both are 0.
        pattern = entities.RecurrencePattern(
            hours=schedule.hours or [0],
            minutes=schedule.minutes or [0],
            week_days=week_days or None,
        )
    return entities.RecurrenceTrigger(
        frequency=schedule.frequency.lower(),
        interval=schedule.interval,
        schedule=pattern,
        start_time=schedule.start_time,
        time_zone=schedule.time_zone,
    )


def _read_past_run(sdk_job: Any) -> PastRun:
    """Return a PastRun that describes a pipeline job of the SDK."""
    # A job of the SDK has no start time, so the time of its creation is used.
    created = sdk_job.creation_context.created_at
    return PastRun(
        id=str(sdk_job.name),
        state=_get_state(sdk_job),
        started=created.astimezone(timezone.utc),
        url=str(sdk_job.studio_url),
    )


def _get_state(job: Any) -> str:
    """Return the state of a job in lower case, such as "running"."""
    # In the SDK, some states are members of an enumeration, and others are strings.
    return str(getattr(job.status, "value", job.status)).lower()


def _require_ready_cluster(
    name: str, sdk_compute: entities.Compute, config: WorkspaceConfig
) -> Cluster:
    """Return a Cluster that describes a compute of the SDK.

    Raises NotACluster if the compute is not a cluster, and ClusterFailed if the cluster is
    not ready.
    """
    if not isinstance(sdk_compute, entities.AmlCompute):
        raise NotACluster(name, sdk_compute.type, config)
    if sdk_compute.provisioning_state != "Succeeded":
        errors = sdk_compute.provisioning_errors or sdk_compute.provisioning_state
        raise ClusterFailed(name, errors)
    return Cluster(sdk_compute.size, sdk_compute.max_instances)
