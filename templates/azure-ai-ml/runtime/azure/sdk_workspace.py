"""The workspace, by azure-ai-ml.

`sdk_workspace.py` of the other SDK has the same classes and methods.
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
from typing import Any

import requests
from azure.ai.ml import MLClient, constants, entities
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient

from ..project import PipelineDefinition
from ..rules import CLOUDS
from ..settings_models import Compute, Schedule
from ..workspaces import WorkspaceConfig
from . import connection, login
from .resources import (
    Cluster,
    Failure,
    RegisteredEnvironment,
    ScheduleChange,
    StartedRun,
    StepStatus,
    read_end,
)
from .sdk_steps import build_steps, set_parameters
from .uploads import open_container

TIME_ZONES = {zone.value for zone in constants.TimeZone}
#: A new cluster gives each idle node back, down to the last one.
SCALING = {"min_instances": 0, "idle_time_before_scale_down": 1200}
MAX_ENDPOINT_NAME = 32  # characters
DIGEST_CHARACTERS = 6  # at the end of an endpoint's name
CHUNK_BYTES = 1 << 16  # of a log that is downloaded
KEPT_DEPLOYMENTS = 10  # of an endpoint; Azure allows 20


@dataclass(frozen=True)
class Run:
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
        """Ask Azure for the steps that have failed; if none has, for the job itself."""
        jobs = self.client.jobs.list(parent_job_name=self.id)
        failed_steps = [job for job in jobs if _state(job) == "failed"]
        if not failed_steps:
            return [self._failure(self.job, step="")]
        return [self._failure(job, step=job.display_name) for job in failed_steps]

    def _failure(self, job: Any, step: str) -> Failure:
        # `jobs.stream` reads these details too, but only prints them.
        details = self.client.jobs._runs_operations.get_run_details(job.name)
        error = details.error.error if details.error else None
        log_addresses: dict[str, str] = details.log_files or {}

        def read_log(log: str) -> str:
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


@dataclass(frozen=True)
class Endpoint:
    """A batch endpoint, and its default deployment."""

    sdk_endpoint: entities.BatchEndpoint

    @property
    def deployment(self) -> str:
        return getattr(self.sdk_endpoint.defaults, "deployment_name", None) or ""

    @property
    def version(self) -> str:
        return f"deployment {self.deployment}"

    @property
    def url(self) -> str:
        return str(self.sdk_endpoint.scoring_uri)


class Workspace:
    """A workspace, for whoever is logged in."""

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
        """Return the workspace; raise WorkspaceMissing or LoginMissing."""
        client = _log_in(config)
        try:
            workspace = client.workspaces.get(config.workspace_name)
        except ResourceNotFoundError:
            raise connection.WorkspaceMissing(config) from None
        return cls(client, workspace, config)

    @classmethod
    def create(cls, config: WorkspaceConfig, uses_identities: bool) -> Workspace:
        """Create the workspace, and its resource group if there is none.

        Its datastores are reached by identities, or else by the key of the account.
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
        """Return a cluster, or None; raise NotACluster or ClusterFailed."""
        compute = self._find_compute(name)
        if compute is None:
            return None
        return _require_ready(name, compute, self.config)

    def has_compute(self, name: str) -> bool:
        """Return whether there is a compute of this name, of any kind."""
        return self._find_compute(name) is not None

    def _find_compute(self, name: str) -> entities.Compute | None:
        try:
            return self.client.compute.get(name)
        except ResourceNotFoundError:
            return None

    def create_cluster(self, setting: Compute) -> Cluster:
        """Create the cluster of the settings; raise ClusterFailed."""
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
        """Let a cluster build the images; return False if it is that cluster already."""
        if self.sdk_workspace.image_build_compute == name:
            return False
        change = entities.Workspace(
            name=self.name, location=self.region, image_build_compute=name
        )
        self.client.workspaces.begin_update(change).result()
        return True

    def register(self, environment: entities.Environment) -> RegisteredEnvironment:
        """Register an environment, unless there is this version of it."""
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
        return self.client.datastores.get_default(include_secrets=True)

    def default_datastore(self) -> tuple[str, ContainerClient]:
        """Return the default datastore's name, and a client of its container of blobs."""
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
        return store.name, container

    def build(
        self,
        pipeline: PipelineDefinition,
        settings: Any,
        folders: Mapping[str, str],
        changing: Collection[str],
    ) -> entities.PipelineJob:
        """Return the pipeline's job, on folders of the default datastore.

        Steps that read data named in `changing` are run each time.
        """
        addresses = {
            name: f"azureml://datastores/{self._default_store.name}/paths/"
            f"{folder.strip('/')}/"
            for name, folder in folders.items()
        }
        job = build_steps(pipeline, settings, addresses)
        # An endpoint runs its pipeline on this cluster.
        job.settings.default_compute = settings.compute.name
        identity = settings.compute.identity
        if identity:
            for node in job.jobs.values():
                node.identity = _step_identity(identity)
        # Azure ML does not look into data. It would not see that files have changed.
        job.settings.force_rerun = bool(changing) or None
        return job

    def start(
        self,
        built: entities.PipelineJob,
        experiment: str,
        parameters: dict[str, Any],
    ) -> StartedRun[Run]:
        """Run a pipeline, once, even if Azure starts it and its answer is lost.

        Raises StartUnknown if Azure does not say whether it has started.
        """
        set_parameters(built, parameters)
        built.name = f"{built.display_name}-{uuid.uuid4().hex[:12]}"
        built.experiment_name = experiment
        try:
            job = self.client.jobs.create_or_update(built)
        except Exception as error:  # The SDK raises errors of many classes.
            is_submission = "/jobs/" in connection.request_address(error)
            if not is_submission:
                raise
            try:
                job = self.client.jobs.get(built.name)
            except ResourceNotFoundError:
                raise error from None
            except Exception:  # noqa: BLE001 (whatever it is, nothing is known)
                raise connection.StartUnknown(built.name, experiment) from error
            return StartedRun(Run(self.client, job), answer_was_lost=True)
        return StartedRun(Run(self.client, job))

    def endpoint_name(self, name: str) -> str:
        """Return a name that no other endpoint of the region has."""
        identity = f"{self.sdk_workspace.id}/{name}".lower()
        digest = hashlib.sha256(identity.encode()).hexdigest()[:DIGEST_CHARACTERS]
        starts_with_letter = re.sub("^[^a-z]*", "", name.lower())
        start = starts_with_letter[: MAX_ENDPOINT_NAME - DIGEST_CHARACTERS - 1]
        return f"{(start or 'pipeline').strip('-')}-{digest}"

    def find_endpoint(self, name: str) -> Endpoint | None:
        """Return an endpoint that can be called, or None."""
        try:
            endpoint = Endpoint(self.client.batch_endpoints.get(name))
        except ResourceNotFoundError:
            return None
        # An endpoint without a deployment is the rest of a publication that failed.
        return endpoint if endpoint.deployment else None

    def publish(
        self,
        name: str,
        endpoint: Endpoint | None,
        built: entities.PipelineJob,
        description: str,
    ) -> Endpoint:
        """Publish a job as the default deployment of an endpoint, which may be new."""
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
        return Endpoint(endpoints.get(name))

    def _delete_old_deployments(self, endpoint_name: str) -> None:
        """Keep the newest deployments of this project, and all that others have made."""
        deployments = self.client.batch_deployments
        names = [deployment.name for deployment in deployments.list(endpoint_name)]
        ours = sorted(name for name in names if re.fullmatch(r"v\d{17}", name))
        for name in ours[:-KEPT_DEPLOYMENTS]:
            deployments.begin_delete(name, endpoint_name).result()

    def schedule(
        self,
        name: str,
        endpoint: Endpoint | None,
        setting: Schedule | None,
        built: entities.PipelineJob | None,
        experiment: str,
    ) -> list[ScheduleChange]:
        """Let the pipeline have the schedule of the settings, or none.

        Without `built` nothing is changed. Returns what was, or would be, changed.
        """
        schedules = self.client.schedules
        try:
            existing = schedules.get(name)
        except ResourceNotFoundError:
            existing = None
        is_enabled = existing is not None and existing.is_enabled

        if setting is None:
            if not is_enabled:
                return []
            if built:
                schedules.begin_disable(name).result()
            return [ScheduleChange("disabled", existing.description or name)]

        description = setting.describe()
        if built:
            built.experiment_name = experiment
            new = entities.JobSchedule(
                name=name,
                description=description,
                trigger=_trigger(setting),
                create_job=built,
                is_enabled=True,  # It may have been disabled.
            )
            schedules.begin_create_or_update(new).result()
        if is_enabled and existing.description == description:
            return [ScheduleChange("unchanged", description)]
        return [ScheduleChange("scheduled", description)]


def _log_in(config: WorkspaceConfig) -> MLClient:
    """Return a client for whoever is logged in, or raise LoginMissing; never prompt."""
    authority, manager = CLOUDS[config.cloud]
    credential = login.credential(authority)
    try:
        credential.get_token(f"https://{manager}/.default")
    except Exception as error:  # Of msal or of azure-identity.
        raise connection.LoginMissing(error, config) from error
    return MLClient(
        credential,
        config.subscription_id,
        config.resource_group,
        config.workspace_name,
        cloud=config.cloud,
        enable_telemetry=False,
        # The SDK looks for errors of its uploads only where it shows their progress.
        # Otherwise it waits forever for files that could not be uploaded.
        show_progress=True,
    )


def _cluster_identity(setting: Compute) -> entities.IdentityConfiguration | None:
    """Return the identity of a new cluster in the SDK's classes."""
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
    """Return the subnet of a new cluster in the SDK's classes."""
    if setting.subnet is None:
        return None
    return entities.NetworkSettings(subnet=setting.subnet)


def _step_identity(identity: str) -> entities.ManagedIdentityConfiguration:
    """Return the identity by which a step reads and writes: one that the cluster has."""
    if identity == "system":
        return entities.ManagedIdentityConfiguration()
    return entities.ManagedIdentityConfiguration(resource_id=identity)


def _provide_resource_group(client: MLClient, config: WorkspaceConfig) -> None:
    """Create the workspace's resource group if there is none; the SDK cannot."""
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
    """Return a new deployment of a job, named by the time, such as v20260131063000123."""
    now = datetime.now(timezone.utc)
    version = f"v{now:%Y%m%d%H%M%S%f}"[:18]  # down to milliseconds

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


def _trigger(setting: Schedule) -> entities.RecurrenceTrigger:
    """Return a schedule of the settings in the SDK's classes."""
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


def _state(job: Any) -> str:
    """Return the state of a job, in lower case."""
    # The SDK gives some states as members of an enumeration, and others as texts.
    return str(getattr(job.status, "value", job.status)).lower()


def _require_ready(
    name: str, compute: entities.Compute, config: WorkspaceConfig
) -> Cluster:
    """Return a compute as a cluster; raise NotACluster or ClusterFailed."""
    if not isinstance(compute, entities.AmlCompute):
        raise connection.NotACluster(name, compute.type, config)
    if compute.provisioning_state != "Succeeded":
        errors = compute.provisioning_errors or compute.provisioning_state
        raise connection.ClusterFailed(name, errors)
    return Cluster(compute.size, compute.max_instances)
