"""The workspace, by azureml-sdk."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
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
from . import connection, login
from .connection import AzureError, Cluster, Failure
from .sdk_steps import build_steps

PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
TIME_ZONES = {zone.value: zone for zone in sdk.TimeZone}
#: Of the cluster, which gives an idle node back, down to the last one.
SCALING = {"min_nodes": 0, "idle_seconds_before_scaledown": 1200}


@dataclass(frozen=True)
class Run:
    """A run of a pipeline."""

    sdk_run: sdk.PipelineRun

    @property
    def id(self) -> str:
        return str(self.sdk_run.id)

    @property
    def url(self) -> str:
        return str(self.sdk_run.get_portal_url())

    def state(self) -> str:
        return _state(self.sdk_run)

    def steps(self) -> Iterator[tuple[str, str, str]]:
        """The id, the name and the state of each step so far."""
        for step in self.sdk_run.get_steps():
            reused = step.get_properties().get("azureml.isreused") == "true"
            yield step.id, step.name, "reused" if reused else _state(step)

    def failures(self) -> Iterator[Failure]:
        steps = self.sdk_run.get_steps()
        failed = [step for step in steps if step.get_status() == "Failed"]
        for one in failed or [self.sdk_run]:
            details, properties = one.get_details(), one.get_properties()
            error = (details.get("error") or {}).get("error") or {}

            def read(log: str, run: Any = one) -> str:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / "log.txt"
                    run.download_file(log, str(file))
                    return file.read_text("utf-8", "replace")

            yield Failure(
                step=one.name if failed else "",
                reason=error.get("message") or "",
                url=one.get_portal_url(),
                logs=list(details.get("logFiles") or {}),
                read=read,
                # Of the two, run history has recorded the latter.
                is_parallel=properties.get("StepType") == "ParallelRunStep"
                or properties.get("azureml.parallelrunstep") == "true",
            )


@dataclass(frozen=True)
class Endpoint:
    """A pipeline endpoint, and its default version."""

    sdk_endpoint: sdk.PipelineEndpoint

    @property
    def version(self) -> str:
        return f"version {self.sdk_endpoint.default_version}"

    @property
    def url(self) -> str:
        return str(self.sdk_endpoint.endpoint)


class Workspace:
    """A workspace, as whoever is logged in."""

    def __init__(self, workspace: SdkWorkspace, config: WorkspaceConfig) -> None:
        self.sdk_workspace, self.config = workspace, config
        self.name, self.region = workspace.name, workspace.location

    @classmethod
    def connect(cls, config: WorkspaceConfig) -> Workspace:
        """The workspace; WorkspaceMissing if there is none."""
        name, group = config.workspace_name, config.resource_group
        auth, subscription = _authenticate(config), config.subscription_id
        try:
            return cls(SdkWorkspace.get(name, auth, subscription, group), config)
        except UserErrorException as error:  # its text lists all subscriptions
            text = f"the login sees no subscription {subscription}"
            fix = "write one that `az account list --output table` shows"
            raise AzureError(f"{config.files.config}: {text}: {fix}.") from error
        except Exception as error:
            if connection.status(error) != 404:
                raise
            raise connection.workspace_missing(config) from error

    @classmethod
    def create(cls, config: WorkspaceConfig) -> Workspace:
        """A new workspace, in a resource group that may be new too."""
        auth = _authenticate(config)
        scope = (config.subscription_id, config.resource_group, config.region)
        options = {"exist_ok": True, "show_output": False}
        name = config.workspace_name
        return cls(SdkWorkspace.create(name, auth, *scope, **options), config)

    def cluster(self, name: str) -> Cluster | None:
        """A cluster that is ready; AzureError if it has failed, or is of another kind."""
        found = self.sdk_workspace.compute_targets.get(name)
        return _ready(name, found, self.config) if found else None

    def has_compute(self, name: str) -> bool:
        """Whether there is something of the name, be it a cluster or not."""
        return name in self.sdk_workspace.compute_targets

    def create_cluster(self, wanted: Compute) -> Cluster:
        scaling = {**SCALING, "max_nodes": wanted.max_nodes}
        new = AmlCompute.provisioning_configuration(wanted.vm_size, **scaling)
        created = AmlCompute.create(self.sdk_workspace, wanted.name, new)
        return _ready(wanted.name, created, self.config)

    def register(self, wanted: Environment) -> tuple[str, str]:
        """Have an environment; what was done, and which version there is."""
        found, done = None, "unchanged"
        try:
            found = Environment.get(self.sdk_workspace, wanted.name)
        except Exception as error:  # the SDK's own is as bare as that
            if connection.status(error) != 404:
                raise
        if found is None or _contents(found) != _contents(wanted):
            found, done = wanted.register(self.sdk_workspace), "registered"
        return done, f"environment {wanted.name}, version {found.version}"

    @cached_property
    def _store(self) -> Any:
        return self.sdk_workspace.get_default_datastore()

    def default_datastore(self) -> tuple[str, Any]:
        """Its name, and the client of its container of blobs."""
        store = self._store
        return store.name, store.blob_service.get_container_client(store.container_name)

    def build(
        self,
        pipeline: PipelineDefinition,
        settings: Any,
        folders: Mapping[str, str],
        changing: Collection[str],
    ) -> sdk.Pipeline:
        """The pipeline in the workspace, on folders of the default datastore."""
        datasets = {
            name: Dataset.File.from_files((self._store, folder), validate=False)
            for name, folder in folders.items()
        }
        steps = build_steps(pipeline, settings, datasets, changing)
        return sdk.Pipeline(self.sdk_workspace, steps)

    def start(
        self, built: sdk.Pipeline, experiment_name: str, parameters: dict[str, Any]
    ) -> tuple[Run, bool]:
        """Run a pipeline, once even where Azure has started it and its answer is lost.

        Whether it was lost is told too.
        """
        experiment = Experiment(self.sdk_workspace, experiment_name)
        try:
            return Run(experiment.submit(built, pipeline_parameters=parameters)), False
        except Exception as error:  # of requests, msrest or the service
            address = connection.request_address(error)
            asked = re.search(r"/PipelineRuns/Submit/([^/?]+)", address)
            if asked is None:
                raise
            try:
                run = sdk.PipelineRun(experiment, asked[1])
                has_started = run.get_status() != "NotStarted"
            except Exception:  # noqa: BLE001 (nothing is known, whatever it is)
                raise connection.unknown_start(asked[1], experiment_name) from error
            if not has_started:
                raise
            return Run(run), True

    def endpoint_name(self, name: str) -> str:
        return name

    def published(self, name: str) -> Endpoint | None:
        found = sdk.PipelineEndpoint.list(self.sdk_workspace, max_results=1000)
        return next((Endpoint(one) for one in found if one.name == name), None)

    def publish(
        self, name: str, before: Endpoint | None, built: sdk.Pipeline, description: str
    ) -> Endpoint:
        """Publish behind an endpoint, which may be new, as its default."""
        new = built.publish(name, description=description)
        if before:
            before.sdk_endpoint.add_default(new)
            return before
        create = sdk.PipelineEndpoint.publish
        return Endpoint(create(self.sdk_workspace, name, "", new))

    def schedule(
        self,
        name: str,
        published: Endpoint | None,
        wanted: Schedule | None,
        built: sdk.Pipeline | None,
        experiment_name: str,
    ) -> Iterator[tuple[str, str]]:
        """Have one schedule on an endpoint, the wanted one, or else none.

        Tells what is done, or where nothing is built would be, to which schedule.
        """
        # The service words a recurrence in its own way: descriptions are compared.
        words = wanted.words() if wanted else ""
        endpoint = published.sdk_endpoint if published else None
        found = self._active_schedules(endpoint)
        kept = next((one for one in found if words and one.description == words), None)
        if kept:
            yield "unchanged", words
        elif wanted:
            if endpoint and built:
                zone = TIME_ZONES[wanted.time_zone]
                when = sdk.ScheduleRecurrence(**{**vars(wanted), "time_zone": zone})
                kept = sdk.Schedule.create_for_pipeline_endpoint(
                    self.sdk_workspace,
                    endpoint.name,
                    endpoint.id,
                    experiment_name,
                    recurrence=when,
                    description=words,
                    wait_for_provisioning=True,
                )
                # Anew: if an answer is lost, the SDK asks again, and there are two.
                found = self._active_schedules(endpoint)
            yield "scheduled", words
        # Last, as one too many is mended by the next publish, and one lost is not.
        for one in found:
            if kept is None or one.id != kept.id:
                if built:
                    one.disable(wait_for_provisioning=True)
                yield "disabled", one.description or one.id

    def _active_schedules(self, endpoint: Any) -> list[sdk.Schedule]:
        if endpoint is None:
            return []
        found = sdk.Schedule.list(self.sdk_workspace, pipeline_endpoint_id=endpoint.id)
        return [schedule for schedule in found if schedule.status == "Active"]


def _authenticate(config: WorkspaceConfig) -> authentication.AbstractAuthentication:
    """Whoever is logged in, in the order of `check --online`; nobody is prompted."""
    cloud, principal = config.cloud, [os.environ.get(name) for name in PRINCIPAL]
    try:
        if all(principal):
            auth = authentication.ServicePrincipalAuthentication(*principal, cloud)
        else:
            auth = authentication.TokenAuthentication(_token_source(cloud), cloud)
        auth.get_authentication_header()
    except Exception as error:  # of the SDK, of msal or of azure-identity
        if all(principal) and "AADSTS" not in str(error):
            raise  # no answer about the login at all
        raise connection.login_missing(error, config) from error
    return auth


def _token_source(cloud: str) -> Callable[[str], str]:
    """Gives a token for an audience; a function, as the SDK copies what it is given."""
    credential = login.credential(CLOUDS[cloud][0])
    tokens: dict[str, Any] = {}  # as `az` is slow, and asked anew each time

    def get_token(audience: str) -> str:
        token = tokens.get(audience)
        if token is None or token.expires_on < time.time() + 300:
            token = tokens[audience] = credential.get_token(f"{audience}/.default")
        return str(token.token)

    return get_token


def _state(run: Any) -> str:
    return str(run.get_status()).lower()


def _ready(name: str, cluster: Any, config: WorkspaceConfig) -> Cluster:
    if not isinstance(cluster, AmlCompute):
        raise connection.not_a_cluster(name, cluster.type, config)
    if cluster.provisioning_state != "Succeeded":
        cluster.wait_for_completion()
    if cluster.provisioning_state != "Succeeded":
        errors = cluster.provisioning_errors or cluster.provisioning_state
        raise connection.cluster_failed(name, errors)
    return Cluster(cluster.vm_size, cluster.scale_settings.maximum_node_count)


def _contents(environment: Environment) -> tuple[str, dict[str, Any]]:
    """What an environment is built from: its image and its packages."""
    packages = environment.python.conda_dependencies.as_dict()
    return environment.docker.base_image, packages
