"""The workspace, by azure-ai-ml."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
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
from .connection import Cluster, Failure
from .sdk_steps import build_steps, set_parameters

TIME_ZONES = {zone.value for zone in constants.TimeZone}
#: Of the cluster, which gives an idle node back, down to the last one.
SCALING = {"min_instances": 0, "idle_time_before_scale_down": 1200}
LONGEST_NAME = 32  # of an endpoint, which no other in the region may have
KEPT = 10  # deployments of an endpoint, of which Azure allows 20


@dataclass(frozen=True)
class Run:
    """A job of a pipeline."""

    client: MLClient
    job: Any

    @property
    def id(self) -> str:
        return str(self.job.name)

    @property
    def url(self) -> str:
        return str(self.job.studio_url)

    def state(self) -> str:
        return _state(self.client.jobs.get(self.id))

    def steps(self) -> Iterator[tuple[str, str, str]]:
        """The id, the name and the state of each step so far."""
        for job in self.client.jobs.list(parent_job_name=self.id):
            reused = job.properties.get("azureml.isreused") == "true"
            yield job.name, job.display_name, "reused" if reused else _state(job)

    def failures(self) -> Iterator[Failure]:
        jobs = self.client.jobs.list(parent_job_name=self.id)
        failed = [job for job in jobs if _state(job) == "failed"]
        for one in failed or [self.job]:
            # What `jobs.stream` reads, which only prints it.
            details = self.client.jobs._runs_operations.get_run_details(one.name)
            told = details.error.error if details.error else None
            logs: dict[str, str] = details.log_files or {}

            def read(log: str, addresses: dict[str, str] = logs) -> str:
                answer = requests.get(addresses[log], timeout=login.TIMEOUT)
                answer.raise_for_status()
                return answer.content.decode("utf-8", "replace")

            yield Failure(
                step=one.display_name if failed else "",
                reason=told.message if told else "",
                url=self.url.replace(f"/{self.id}?", f"/{one.name}?"),
                logs=list(logs),
                read=read,
                is_parallel=one.properties.get("azureml.parallelrunstep") == "true",
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
    """A workspace, as whoever is logged in."""

    def __init__(
        self,
        client: MLClient,
        workspace: entities.Workspace,
        config: WorkspaceConfig,
    ) -> None:
        self.client, self.sdk_workspace, self.config = client, workspace, config
        self.name, self.region = workspace.name, workspace.location

    @classmethod
    def connect(cls, config: WorkspaceConfig) -> Workspace:
        """The workspace; WorkspaceMissing if there is none."""
        client = _client(config)
        try:
            return cls(client, client.workspaces.get(config.workspace_name), config)
        except ResourceNotFoundError as error:
            raise connection.workspace_missing(config) from error

    @classmethod
    def create(cls, config: WorkspaceConfig) -> Workspace:
        """A new workspace, in a resource group that may be new too."""
        client = _client(config)
        _provide_resource_group(client, config)
        new = entities.Workspace(name=config.workspace_name, location=config.region)
        return cls(client, client.workspaces.begin_create(new).result(), config)

    def cluster(self, name: str) -> Cluster | None:
        """A cluster that is ready; AzureError if it has failed, or is of another kind."""
        found = self._compute(name)
        return _ready(name, found, self.config) if found else None

    def has_compute(self, name: str) -> bool:
        """Whether there is something of the name, be it a cluster or not."""
        return self._compute(name) is not None

    def _compute(self, name: str) -> entities.Compute | None:
        try:
            return self.client.compute.get(name)
        except ResourceNotFoundError:
            return None

    def create_cluster(self, wanted: Compute) -> Cluster:
        new = entities.AmlCompute(
            name=wanted.name,
            size=wanted.vm_size,
            max_instances=wanted.max_nodes,
            location=self.region,
            **SCALING,
        )
        created = self.client.compute.begin_create_or_update(new).result()
        return _ready(wanted.name, created, self.config)

    def register(self, wanted: entities.Environment) -> tuple[str, str]:
        """Have an environment; what was done, and which version there is."""
        name, version = wanted.name, wanted.version
        try:
            self.client.environments.get(name, version)
            done = "unchanged"
        except ResourceNotFoundError:
            self.client.environments.create_or_update(wanted)
            done = "registered"
        return done, f"environment {name}, version {version}"

    @cached_property
    def _store(self) -> Any:
        return self.client.datastores.get_default(include_secrets=True)

    def default_datastore(self) -> tuple[str, ContainerClient]:
        """Its name, and the client of its container of blobs."""
        store = self._store
        key = getattr(store.credentials, "account_key", None)
        key = key or getattr(store.credentials, "sas_token", None)
        place = f"https://{store.account_name}.blob.{store.endpoint}"
        credential = key or self.client._credential
        name = store.container_name
        return store.name, ContainerClient(place, name, credential=credential)

    def build(
        self,
        pipeline: PipelineDefinition,
        settings: Any,
        folders: Mapping[str, str],
        changing: Collection[str],
    ) -> entities.PipelineJob:
        """The pipeline in the workspace, on folders of the default datastore."""
        addresses = {
            name: f"azureml://datastores/{self._store.name}/paths/{folder.strip('/')}/"
            for name, folder in folders.items()
        }
        job = build_steps(pipeline, settings, addresses)
        # Azure ML does not look into data: what changes in its place is read anew.
        job.settings.force_rerun = bool(changing) or None
        return job

    def start(
        self,
        built: entities.PipelineJob,
        experiment_name: str,
        parameters: dict[str, Any],
    ) -> tuple[Run, bool]:
        """Run a pipeline, once even where Azure has started it and its answer is lost.

        Whether it was lost is told too.
        """
        set_parameters(built, parameters)
        built.name = f"{built.display_name}-{uuid.uuid4().hex[:12]}"
        built.experiment_name = experiment_name
        try:
            return Run(self.client, self.client.jobs.create_or_update(built)), False
        except Exception as error:  # of the SDK's many
            if "/jobs/" not in connection.request_address(error):
                raise
            try:
                return Run(self.client, self.client.jobs.get(built.name)), True
            except ResourceNotFoundError:
                raise error from None
            except Exception:  # noqa: BLE001 (nothing is known, whatever it is)
                raise connection.unknown_start(built.name, experiment_name) from error

    def endpoint_name(self, name: str) -> str:
        """A name that no other workspace of the region has, nor another pipeline."""
        whole = f"{self.sdk_workspace.id}/{name}".lower()
        digest = hashlib.sha256(whole.encode()).hexdigest()[:6]
        start = re.sub("^[^a-z]*", "", name.lower())[: LONGEST_NAME - 7] or "pipeline"
        return f"{start.strip('-')}-{digest}"

    def published(self, name: str) -> Endpoint | None:
        try:
            found = Endpoint(self.client.batch_endpoints.get(name))
        except ResourceNotFoundError:
            return None
        # Without a deployment it has been left half-made, and nothing can call it.
        return found if found.deployment else None

    def publish(
        self,
        name: str,
        before: Endpoint | None,
        built: entities.PipelineJob,
        description: str,
    ) -> Endpoint:
        """Publish behind an endpoint, which may be new, as its default."""
        endpoints, deployments = (
            self.client.batch_endpoints,
            self.client.batch_deployments,
        )
        if before is None:
            new = entities.BatchEndpoint(name=name, description=description)
            endpoints.begin_create_or_update(new).result()
        now = datetime.now(timezone.utc)
        component, version = built.component, f"v{now:%Y%m%d%H%M%S%f}"[:18]
        # Of a name, only its letters, digits and underscores are allowed.
        component.name = re.sub(r"\W", "_", f"{built.display_name}_{name}".lower())
        component.version, component.description = version, description
        settings = {"default_compute": built.settings.default_compute}
        if built.settings.force_rerun:
            settings["force_rerun"] = "True"
        deployment = entities.PipelineComponentBatchDeployment(
            name=version,
            endpoint_name=name,
            component=component,
            settings=settings,
        )
        deployments.begin_create_or_update(deployment).result()
        endpoint = endpoints.get(name)
        endpoint.defaults = {"deployment_name": version}
        endpoints.begin_create_or_update(endpoint).result()
        found = [one.name for one in deployments.list(name)]
        ours = sorted(one for one in found if re.fullmatch(r"v\d{17}", one))
        for old in ours[:-KEPT]:
            deployments.begin_delete(old, name).result()
        return Endpoint(endpoints.get(name))

    def schedule(
        self,
        name: str,
        published: Endpoint | None,
        wanted: Schedule | None,
        built: entities.PipelineJob | None,
        experiment_name: str,
    ) -> Iterator[tuple[str, str]]:
        """Have a pipeline's schedule as wanted, or else none.

        Tells what is done, or where nothing is built would be, to which schedule.
        """
        schedules = self.client.schedules
        try:
            found = schedules.get(name)
        except ResourceNotFoundError:
            found = None
        is_on = found is not None and found.is_enabled
        if wanted:
            words = wanted.words()
            if built:
                built.experiment_name = experiment_name
                new = entities.JobSchedule(
                    name=name,
                    description=words,
                    trigger=_trigger(wanted),
                    create_job=built,
                )
                schedules.begin_create_or_update(new).result()
            same = is_on and found.description == words
            yield "unchanged" if same else "scheduled", words
        elif is_on:
            if built:
                schedules.begin_disable(name).result()
            yield "disabled", found.description or name


def _client(config: WorkspaceConfig) -> MLClient:
    """Of whoever is logged in, as `check --online` asks; nobody is prompted."""
    authority, manager = CLOUDS[config.cloud]
    credential = login.credential(authority)
    try:
        credential.get_token(f"https://{manager}/.default")
    except Exception as error:  # of msal or of azure-identity
        raise connection.login_missing(error, config) from error
    scope = (config.subscription_id, config.resource_group, config.workspace_name)
    return MLClient(
        credential,
        *scope,
        cloud=config.cloud,
        enable_telemetry=False,
        # The SDK looks for errors of its uploads only where it shows their progress.
        # Otherwise it waits forever for files that could not be uploaded.
        show_progress=True,
    )


def _provide_resource_group(client: MLClient, config: WorkspaceConfig) -> None:
    """Have the workspace's resource group, of which the SDK knows nothing."""
    manager = CLOUDS[config.cloud][1]
    place = f"/subscriptions/{config.subscription_id}/resourceGroups"
    url = f"https://{manager}{place}/{config.resource_group}?api-version=2021-04-01"
    token = client._credential.get_token(f"https://{manager}/.default").token
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        answer = session.get(url, timeout=login.TIMEOUT)
        if answer.status_code == 404:
            body = {"location": config.region}
            answer = session.put(url, json=body, timeout=login.TIMEOUT)
    answer.raise_for_status()


def _trigger(wanted: Schedule) -> entities.RecurrenceTrigger:
    pattern = None
    if wanted.hours or wanted.minutes or wanted.week_days:
        days = [day.lower() for day in wanted.week_days or []]
        hours, minutes = wanted.hours or [0], wanted.minutes or [0]
        pattern = entities.RecurrencePattern(
            hours=hours, minutes=minutes, week_days=days or None
        )
    return entities.RecurrenceTrigger(
        frequency=wanted.frequency.lower(),
        interval=wanted.interval,
        schedule=pattern,
        start_time=wanted.start_time,
        time_zone=wanted.time_zone,
    )


def _state(job: Any) -> str:
    """Of a job; the SDK gives some states as members of an enumeration."""
    return str(getattr(job.status, "value", job.status)).lower()


def _ready(name: str, cluster: entities.Compute, config: WorkspaceConfig) -> Cluster:
    if not isinstance(cluster, entities.AmlCompute):
        raise connection.not_a_cluster(name, cluster.type, config)
    if cluster.provisioning_state != "Succeeded":
        errors = cluster.provisioning_errors or cluster.provisioning_state
        raise connection.cluster_failed(name, errors)
    return Cluster(cluster.size, cluster.max_instances)
