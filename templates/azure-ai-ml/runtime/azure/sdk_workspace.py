"""A workspace of Azure ML and its runs, used by means of azure-ai-ml.

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
# The name of an endpoint has at most 32 characters, and ends in a digest of 6.
MAX_ENDPOINT_NAME = 32
DIGEST_CHARACTERS = 6
# Logs are downloaded in chunks of this size.
CHUNK_BYTES = 1 << 16
# Only so many of the newest jobs of the workspace, or of a schedule, are looked through.
JOBS_LOOKED_THROUGH = 500
# An endpoint keeps this many deployments. Azure allows 20.
KEPT_DEPLOYMENTS = 10


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
        return _state(self.client.jobs.get(self.id))

    def steps(self) -> list[StepStatus]:
        """Ask Azure for the steps that have been created so far."""
        statuses = []
        for job in self.client.jobs.list(parent_job_name=self.id):
            is_reused = job.properties.get("azureml.isreused") == "true"
            state = "reused" if is_reused else _state(job)
            statuses.append(StepStatus(job.name, job.display_name, state))
        return statuses

    def failures(self) -> list[Failure]:
        """Ask Azure why each failed step has failed.

        If no step has failed, the result is the failure of the pipeline job itself.
        """
        jobs = self.client.jobs.list(parent_job_name=self.id)
        failed_steps = [job for job in jobs if _state(job) == "failed"]
        if not failed_steps:
            return [self._failure(self.job, step="")]
        return [self._failure(job, step=job.display_name) for job in failed_steps]

    def _failure(self, job: Any, step: str) -> Failure:
        """Return why a job has failed, which may be the job of a step or of a pipeline.

        `step` is the name of the step, or "" for the job of a pipeline.
        """
        # `jobs.stream` reads these details too, but only prints them.
        details = self.client.jobs._runs_operations.get_run_details(job.name)
        error = details.error.error if details.error else None
        log_addresses: dict[str, str] = details.log_files or {}

        def read_log(log: str) -> str:
            """Download a log of the job, and return its end."""
            address = log_addresses[log]
            with (
                tempfile.TemporaryFile() as file,
                requests.get(address, stream=True, timeout=login.TIMEOUT) as reply,
            ):
                reply.raise_for_status()
                for chunk in reply.iter_content(CHUNK_BYTES):
                    file.write(chunk)
                return read_end(file)

        return Failure(
            step=step,
            reason=error.message if error else "",
            url=self.url.replace(f"/{self.id}?", f"/{job.name}?"),
            logs=list(log_addresses),
            read_log=read_log,
            is_parallel=job.properties.get("azureml.parallelrunstep") == "true",
        )


class Workspace(WorkspaceInterface):
    """A workspace, reached with the current login."""

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
        """Create the workspace, and its resource group if there is none.

        With `uses_identities`, its datastores are reached by the identity of the user or the
        cluster, or else by the key of the storage account.
        """
        client = _log_in(config)
        _provide_resource_group(client, config)
        new = entities.Workspace(
            name=config.workspace_name,
            location=config.region,
            system_datastores_auth_mode="identity" if uses_identities else None,
        )
        return cls(client, client.workspaces.begin_create(new).result(), config)

    def find_cluster(self, name: str) -> Cluster | None:
        """Return a cluster that is ready, or None if there is none of this name."""
        compute = self._find_compute(name)
        if compute is None:
            return None
        return _require_ready(name, compute, self.config)

    def has_compute(self, name: str) -> bool:
        """Return whether there is a compute of this name, of any kind."""
        return self._find_compute(name) is not None

    def _find_compute(self, name: str) -> entities.Compute | None:
        """Return the compute of this name, of any kind, or None."""
        try:
            return self.client.compute.get(name)
        except ResourceNotFoundError:
            return None

    def create_cluster(self, setting: Compute) -> Cluster:
        """Create the cluster that the settings describe, and wait until it is ready."""
        new = entities.AmlCompute(
            name=setting.name,
            size=setting.vm_size,
            max_instances=setting.max_nodes,
            location=self.region,
            identity=_cluster_identity(setting),
            network_settings=_network_settings(setting),
            enable_node_public_ip=setting.public_ip,
            **SCALING,
        )
        compute = self.client.compute.begin_create_or_update(new).result()
        return _require_ready(setting.name, compute, self.config)

    def use_image_builder(self, name: str) -> bool:
        """Let a cluster build the images of environments. Return whether this is new."""
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
        """The default datastore of the workspace, which Azure is asked for only once."""
        return self.client.datastores.get_default(include_secrets=True)

    def default_datastore(self) -> Datastore:
        """Return the default datastore."""
        store = self._default_store
        # A datastore without keys has neither of them, and is reached by the login.
        key = getattr(store.credentials, "account_key", None)
        sas_token = getattr(store.credentials, "sas_token", None)
        container = open_container(
            store.account_name,
            store.endpoint,
            store.container_name,
            key or sas_token or self.client._credential,
        )
        return Datastore(store.name, container)

    def build(
        self,
        pipeline: PipelineDefinition,
        settings: Any,
        folders: Mapping[str, str],
        changing_inputs: Collection[str],
    ) -> entities.PipelineJob:
        """Build a pipeline as a job of the SDK, which can be started or published.

        If there are `changing_inputs`, no step is reused.
        """
        addresses = {
            name: f"azureml://datastores/{self._default_store.name}/paths/"
            f"{folder.strip('/')}/"
            for name, folder in folders.items()
        }
        job = build_steps(pipeline, settings, addresses)
        # An endpoint runs on this cluster the steps that have no other.
        job.settings.default_compute = settings.compute.name
        for name, node in job.jobs.items():
            identity = settings.compute_of(name).identity
            if identity:
                node.identity = _step_identity(identity)
        # Azure ML does not notice changed files, and would reuse earlier results.
        job.settings.force_rerun = bool(changing_inputs) or None
        return job

    def start(
        self,
        built: entities.PipelineJob,
        pipeline_name: str,
        experiment: str,
        parameters: dict[str, Any],
    ) -> StartedRun:
        """Start a job in an experiment, and return its run."""
        set_parameters(built, parameters)
        name = f"{built.display_name}-{uuid.uuid4().hex[:12]}"
        built.name = name
        built.experiment_name = experiment
        built.tags = {PIPELINE_TAG: pipeline_name}
        try:
            job = self.client.jobs.create_or_update(built)
            return StartedRun(Run(self.client, job))
        except Exception as error:
            # The SDK raises errors of many classes, which share no other base class.
            started = self._find_started_run(error, name, experiment)
            if started is None:
                raise
            return StartedRun(started, response_was_lost=True)

    def _find_started_run(
        self, error: Exception, name: str, experiment: str
    ) -> Run | None:
        """Return the run of a job whose submission has failed, or None if there is none.

        `error` is the error of the submission, and `name` is the name of the job. Raises
        StartUnknown if Azure cannot be asked for the run.
        """
        # If the failed request was one of those that come before the submission, such as an
        # upload of code, no job has started.
        is_submission = "/jobs/" in find_request_address(error)
        if not is_submission:
            return None

        try:
            job = self.client.jobs.get(name)
        except ResourceNotFoundError:
            return None
        except Exception:  # noqa: BLE001 (no other error tells whether there is a run)
            raise StartUnknown(name, experiment) from error
        return Run(self.client, job)

    def endpoint_name(self, name: str) -> str:
        """Return a name for an endpoint that is unique in the region, as Azure demands.

        It begins with `name`, which may be shortened, and ends in a digest of the workspace's
        id and `name`. Azure allows only letters, digits and hyphens, a letter first.
        """
        identity = f"{self.sdk_workspace.id}/{name}".lower()
        digest = hashlib.sha256(identity.encode()).hexdigest()[:DIGEST_CHARACTERS]
        allowed = re.sub("[^a-z0-9]", "-", name.lower())
        starts_with_letter = re.sub("^[^a-z]*", "", allowed)
        start = starts_with_letter[: MAX_ENDPOINT_NAME - DIGEST_CHARACTERS - 1]
        return f"{(start or 'pipeline').strip('-')}-{digest}"

    def find_endpoint(self, name: str) -> Endpoint | None:
        """Return an endpoint that can be called, or None."""
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
        built: entities.PipelineJob,
        description: str,
    ) -> Endpoint:
        """Publish a job as the default deployment of an endpoint."""
        endpoints = self.client.batch_endpoints
        if endpoint is None:
            new = entities.BatchEndpoint(name=name, description=description)
            endpoints.begin_create_or_update(new).result()

        deployment = _deployment(name, built, description)
        deployments = self.client.batch_deployments
        deployments.begin_create_or_update(deployment).result()

        sdk_endpoint = endpoints.get(name)
        sdk_endpoint.defaults = {"deployment_name": deployment.name}
        endpoints.begin_create_or_update(sdk_endpoint).result()
        self._delete_old_deployments(name)
        return _describe_endpoint(endpoints.get(name))

    def _delete_old_deployments(self, endpoint_name: str) -> None:
        """Delete the project's deployments except the newest. Keep those made by others."""
        deployments = self.client.batch_deployments
        names = [deployment.name for deployment in deployments.list(endpoint_name)]
        ours = sorted(name for name in names if re.fullmatch(r"v\d{17}", name))
        for name in ours[:-KEPT_DEPLOYMENTS]:
            deployments.begin_delete(name, endpoint_name).result()

    def newest_runs(
        self,
        pipeline_name: str,
        experiment: str,
        endpoint: Endpoint | None,
        count: int,
    ) -> list[PastRun]:
        """Return the newest runs of a pipeline in an experiment, the newest first."""
        runs = []
        for job in islice(self.client.jobs.list(), JOBS_LOOKED_THROUGH):
            if job is None or job.type != constants.JobType.PIPELINE:
                continue  # The SDK yields None for a job that it cannot read.
            is_submitted = (
                job.experiment_name == experiment
                and job.tags.get(PIPELINE_TAG) == pipeline_name
            )
            # A job that an endpoint has started is in the experiment of the endpoint.
            is_published = (
                endpoint is not None
                and job.experiment_name == endpoint.sdk_endpoint.name
            )
            if is_submitted or is_published:
                runs.append(_read_past_run(job))
        return sorted(runs, key=lambda run: run.started, reverse=True)[:count]

    def list_schedules(
        self, name: str, endpoint: Endpoint | None
    ) -> list[ActiveSchedule]:
        """Return the active schedule of this name, as a list that may be empty."""
        schedule = self._find_enabled_schedule(name)
        if schedule is None:
            return []
        jobs = self.client.jobs.list(scheduled_job_name=name)
        runs = [_read_past_run(job) for job in islice(jobs, JOBS_LOOKED_THROUGH) if job]
        newest_run = max(runs, key=lambda run: run.started, default=None)
        created = schedule.creation_context.created_at
        return [
            ActiveSchedule(
                schedule.description or name,
                created.astimezone(timezone.utc),
                newest_run,
            )
        ]

    def plan_schedule(
        self, name: str, endpoint: Endpoint | None, setting: Schedule | None
    ) -> list[ScheduleChange]:
        """Return what `apply_schedule` would change, without changing anything."""
        enabled = self._find_enabled_schedule(name)
        description = setting.describe() if setting else ""
        if setting and enabled and enabled.description == description:
            return [ScheduleChange("unchanged", description)]
        if setting:
            return [ScheduleChange("scheduled", description)]
        if enabled:
            return [ScheduleChange("disabled", enabled.description or name)]
        return []

    def apply_schedule(
        self, publication: Publication, setting: Schedule | None
    ) -> list[ScheduleChange]:
        """Give a published pipeline the schedule of the settings, or disable its schedule."""
        endpoint = publication.endpoint
        changes = self.plan_schedule(endpoint.name, endpoint, setting)
        if setting:
            self._write_schedule(publication, setting)
        elif changes:
            self.client.schedules.begin_disable(endpoint.name).result()
        return changes

    def _find_enabled_schedule(self, name: str) -> entities.Schedule | None:
        """Return the schedule of this name, or None if there is none or it is disabled."""
        try:
            schedule = self.client.schedules.get(name)
        except ResourceNotFoundError:
            return None
        return schedule if schedule.is_enabled else None

    def _write_schedule(self, publication: Publication, setting: Schedule) -> None:
        """Create the schedule of a published pipeline, or replace the existing one."""
        job = publication.sdk_pipeline
        job.experiment_name = publication.experiment
        job.tags = {PIPELINE_TAG: publication.pipeline_name}
        schedule = entities.JobSchedule(
            name=publication.endpoint.name,
            description=setting.describe(),
            trigger=_make_trigger(setting),
            create_job=job,
            is_enabled=True,  # An existing schedule may have been disabled.
        )
        self.client.schedules.begin_create_or_update(schedule).result()


def _default_deployment(sdk_endpoint: entities.BatchEndpoint) -> str:
    """Return the name of an endpoint's default deployment, or an empty string."""
    return getattr(sdk_endpoint.defaults, "deployment_name", None) or ""


def _describe_endpoint(sdk_endpoint: entities.BatchEndpoint) -> Endpoint:
    """Describe an endpoint with its current default deployment."""
    return Endpoint(
        name=sdk_endpoint.name,
        version=f"deployment {_default_deployment(sdk_endpoint)}",
        url=str(sdk_endpoint.scoring_uri),
        sdk_endpoint=sdk_endpoint,
    )


def _log_in(config: WorkspaceConfig) -> MLClient:
    """Return a client with the current login of this machine.

    It never opens a prompt or a browser. Raises LoginMissing if no token can be had.
    """
    authority, manager = CLOUDS[config.cloud]
    credential = login.credential(authority)
    try:
        credential.get_token(f"https://{manager}/.default")
    except Exception as error:
        # msal, azure-identity and the HTTP client raise errors that share no other base
        # class. Whichever it is, no request to Azure can be made without a token.
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


def _cluster_identity(setting: Compute) -> entities.IdentityConfiguration | None:
    """Return the identity for a new cluster as an object of the SDK, or None."""
    if setting.identity is None:
        return None
    if setting.identity == "system":
        return entities.IdentityConfiguration(type="system_assigned")
    return entities.IdentityConfiguration(
        type="user_assigned",
        user_assigned_identities=[
            entities.ManagedIdentityConfiguration(resource_id=setting.identity)
        ],
    )


def _network_settings(setting: Compute) -> entities.NetworkSettings | None:
    """Return the subnet for a new cluster as an object of the SDK, or None."""
    if setting.subnet is None:
        return None
    return entities.NetworkSettings(subnet=setting.subnet)


def _step_identity(identity: str) -> entities.ManagedIdentityConfiguration:
    """Return the identity of the cluster by which a step reads and writes data."""
    if identity == "system":
        return entities.ManagedIdentityConfiguration()
    return entities.ManagedIdentityConfiguration(resource_id=identity)


def _provide_resource_group(client: MLClient, config: WorkspaceConfig) -> None:
    """Create the workspace's resource group if there is none, which the SDK cannot do."""
    manager = CLOUDS[config.cloud][1]
    url = (
        f"https://{manager}/subscriptions/{config.subscription_id}/resourceGroups/"
        f"{config.resource_group}?api-version=2021-04-01"
    )
    token = client._credential.get_token(f"https://{manager}/.default").token
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        reply = session.get(url, timeout=login.TIMEOUT)
        if reply.status_code == 404:
            body = {"location": config.region}
            reply = session.put(url, json=body, timeout=login.TIMEOUT)
    reply.raise_for_status()


def _deployment(
    endpoint_name: str, built: entities.PipelineJob, description: str
) -> entities.PipelineComponentBatchDeployment:
    """Return a new deployment of a job, named after the current time.

    The name is the UTC time to the millisecond, such as v20260131063000123.
    """
    now = datetime.now(timezone.utc)
    version = f"v{now:%Y%m%d%H%M%S%f}"[:18]  # Cut off after the milliseconds.

    component = built.component
    # The name of a component may only have letters, digits and underscores.
    component.name = re.sub(r"\W", "_", f"{built.display_name}_{endpoint_name}".lower())
    component.version = version
    component.description = description

    settings = {"default_compute": built.settings.default_compute}
    if built.settings.force_rerun:
        settings["force_rerun"] = "True"
    return entities.PipelineComponentBatchDeployment(
        name=version,
        endpoint_name=endpoint_name,
        component=component,
        settings=settings,
    )


def _make_trigger(setting: Schedule) -> entities.RecurrenceTrigger:
    """Return the times of a schedule as an object of the SDK."""
    pattern = None
    if setting.hours or setting.minutes or setting.week_days:
        week_days = [day.lower() for day in setting.week_days or []]
        pattern = entities.RecurrencePattern(
            hours=setting.hours or [0],
            minutes=setting.minutes or [0],
            week_days=week_days or None,
        )
    return entities.RecurrenceTrigger(
        frequency=setting.frequency.lower(),
        interval=setting.interval,
        schedule=pattern,
        start_time=setting.start_time,
        time_zone=setting.time_zone,
    )


def _read_past_run(job: Any) -> PastRun:
    """Describe a job of a pipeline."""
    created = job.creation_context.created_at
    return PastRun(
        id=str(job.name),
        state=_state(job),
        started=created.astimezone(timezone.utc),
        url=str(job.studio_url),
    )


def _state(job: Any) -> str:
    """Return the state of a job, in lower case."""
    # The SDK gives some states as members of an enumeration, and others as strings.
    return str(getattr(job.status, "value", job.status)).lower()


def _require_ready(
    name: str, compute: entities.Compute, config: WorkspaceConfig
) -> Cluster:
    """Return a compute as a cluster that is ready.

    Raises NotACluster if the compute is of another kind, and ClusterFailed if it is not
    ready.
    """
    if not isinstance(compute, entities.AmlCompute):
        raise NotACluster(name, compute.type, config)
    if compute.provisioning_state != "Succeeded":
        errors = compute.provisioning_errors or compute.provisioning_state
        raise ClusterFailed(name, errors)
    return Cluster(compute.size, compute.max_instances)
