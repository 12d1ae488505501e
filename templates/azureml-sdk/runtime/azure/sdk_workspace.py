"""The workspace, by azureml-sdk.

`sdk_workspace.py` of the other SDK has the same classes and methods.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from azure.storage.blob import ContainerClient
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
from .connection import AzureError
from .resources import (
    Cluster,
    Failure,
    RegisteredEnvironment,
    ScheduleChange,
    StartedRun,
    StepStatus,
    read_end,
)
from .sdk_steps import build_steps
from .uploads import open_container

PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
TOKEN_MARGIN = (
    300  # seconds before a token expires, from which on a new one is asked for
)
TIME_ZONES = {zone.value: zone for zone in sdk.TimeZone}
#: A new cluster gives each idle node back, down to the last one.
SCALING = {"min_nodes": 0, "idle_seconds_before_scaledown": 1200}
MAX_ENDPOINTS = 1000  # that are looked through for a name


@dataclass(frozen=True)
class Run:
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
        return _state(self.sdk_run)

    def steps(self) -> list[StepStatus]:
        """Ask Azure for the steps that have been created so far."""
        statuses = []
        for step in self.sdk_run.get_steps():
            is_reused = step.get_properties().get("azureml.isreused") == "true"
            state = "reused" if is_reused else _state(step)
            statuses.append(StepStatus(step.id, step.name, state))
        return statuses

    def failures(self) -> list[Failure]:
        """Ask Azure for the steps that have failed; if none has, for the run itself."""
        steps = self.sdk_run.get_steps()
        failed_steps = [step for step in steps if step.get_status() == "Failed"]
        if not failed_steps:
            return [_failure(self.sdk_run, step="")]
        return [_failure(step, step=step.name) for step in failed_steps]


def _failure(run: Any, step: str) -> Failure:
    details = run.get_details()
    properties = run.get_properties()
    error = (details.get("error") or {}).get("error") or {}

    def read_log(log: str) -> str:
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
        # The SDK sends the first of the two; run history has recorded the second.
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
    """A workspace, for whoever is logged in."""

    def __init__(self, workspace: SdkWorkspace, config: WorkspaceConfig) -> None:
        self.sdk_workspace = workspace
        self.config = config
        self.name = workspace.name
        self.region = workspace.location

    @classmethod
    def connect(cls, config: WorkspaceConfig) -> Workspace:
        """Return the workspace; raise WorkspaceMissing, LoginMissing or AzureError."""
        auth = _log_in(config)
        try:
            workspace = SdkWorkspace.get(
                config.workspace_name,
                auth,
                config.subscription_id,
                config.resource_group,
            )
        except UserErrorException:
            # The SDK's text would list all subscriptions.
            raise AzureError(
                f"{config.files.config}: the login sees no subscription "
                f"{config.subscription_id}: write one that `az account list --output "
                "table` shows."
            ) from None
        except Exception as error:
            if connection.status_code(error) == 404:
                raise connection.WorkspaceMissing(config) from None
            raise
        return cls(workspace, config)

    @classmethod
    def create(cls, config: WorkspaceConfig, uses_identities: bool) -> Workspace:
        """Create the workspace, and its resource group if there is none.

        Its datastores are reached by identities, or else by the key of the account.
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
        """Return a cluster that is ready, or None; raise NotACluster or ClusterFailed."""
        compute = self.sdk_workspace.compute_targets.get(name)
        if compute is None:
            return None
        return _wait_until_ready(name, compute, self.config)

    def has_compute(self, name: str) -> bool:
        """Return whether there is a compute of this name, of any kind."""
        return name in self.sdk_workspace.compute_targets

    def create_cluster(self, setting: Compute) -> Cluster:
        """Create the cluster of the settings; raise ClusterFailed."""
        new = AmlCompute.provisioning_configuration(
            setting.vm_size,
            max_nodes=setting.max_nodes,
            **SCALING,
            **_identity_options(setting),
            **_network_options(setting),
        )
        compute = AmlCompute.create(self.sdk_workspace, setting.name, new)
        return _wait_until_ready(setting.name, compute, self.config)

    def use_image_builder(self, name: str) -> bool:
        """Let a cluster build the images; return False if it is that cluster already."""
        if self.sdk_workspace.get_details().get("imageBuildCompute") == name:
            return False
        self.sdk_workspace.update(image_build_compute=name)
        return True

    def register(self, environment: Environment) -> RegisteredEnvironment:
        """Register an environment, unless the newest version has the same contents."""
        name = environment.name
        existing = None
        try:
            existing = Environment.get(self.sdk_workspace, name)
        except Exception as error:  # The SDK raises no class of its own here.
            if connection.status_code(error) != 404:
                raise
        if existing and _contents(existing) == _contents(environment):
            return RegisteredEnvironment(name, existing.version, is_new=False)
        registered = environment.register(self.sdk_workspace)
        return RegisteredEnvironment(name, registered.version, is_new=True)

    @cached_property
    def _default_store(self) -> Any:
        return self.sdk_workspace.get_default_datastore()

    def default_datastore(self) -> tuple[str, ContainerClient]:
        """Return the default datastore's name, and a client of its container of blobs."""
        store = self._default_store
        # A datastore without keys is reached by the login. The SDK itself would send no
        # credential at all.
        credential = store.account_key or store.sas_token
        if not credential:
            credential = login.credential(CLOUDS[self.config.cloud].login)
        container = open_container(
            store.account_name, store.endpoint, store.container_name, credential
        )
        return store.name, container

    def build(
        self,
        pipeline: PipelineDefinition,
        settings: Any,
        folders: Mapping[str, str],
        changing: Collection[str],
    ) -> sdk.Pipeline:
        """Return the pipeline, on folders of the default datastore.

        Steps that read data named in `changing` are run each time.
        """
        datasets = {
            name: Dataset.File.from_files((self._default_store, folder), validate=False)
            for name, folder in folders.items()
        }
        steps = build_steps(pipeline, settings, datasets, changing)
        return sdk.Pipeline(self.sdk_workspace, steps)

    def start(
        self, built: sdk.Pipeline, experiment: str, parameters: dict[str, Any]
    ) -> StartedRun[Run]:
        """Run a pipeline, once, even if Azure starts it and its answer is lost.

        Raises StartUnknown if Azure does not say whether it has started.
        """
        sdk_experiment = Experiment(self.sdk_workspace, experiment)
        try:
            run = sdk_experiment.submit(built, pipeline_parameters=parameters)
        except Exception as error:  # Of requests, of msrest or of the service.
            address = connection.request_address(error)
            submission = re.search(r"/PipelineRuns/Submit/([^/?]+)", address)
            if submission is None:
                raise
            run_id = submission[1]
            try:
                run = sdk.PipelineRun(sdk_experiment, run_id)
                has_started = run.get_status() != "NotStarted"
            except Exception:  # noqa: BLE001 (whatever it is, nothing is known)
                raise connection.StartUnknown(run_id, experiment) from error
            if not has_started:
                raise
            return StartedRun(Run(run), answer_was_lost=True)
        return StartedRun(Run(run))

    def endpoint_name(self, name: str) -> str:
        """Return the name of the endpoint; each workspace has its own ones."""
        return name

    def find_endpoint(self, name: str) -> Endpoint | None:
        """Return an endpoint, or None."""
        endpoints = sdk.PipelineEndpoint.list(
            self.sdk_workspace, max_results=MAX_ENDPOINTS
        )
        for endpoint in endpoints:
            if endpoint.name == name:
                return Endpoint(endpoint)
        return None

    def publish(
        self,
        name: str,
        endpoint: Endpoint | None,
        built: sdk.Pipeline,
        description: str,
    ) -> Endpoint:
        """Publish a pipeline as the default of an endpoint, which may be new."""
        published = built.publish(name, description=description)
        if endpoint:
            endpoint.sdk_endpoint.add_default(published)
            return endpoint
        return Endpoint(
            sdk.PipelineEndpoint.publish(self.sdk_workspace, name, "", published)
        )

    def schedule(
        self,
        name: str,
        endpoint: Endpoint | None,
        setting: Schedule | None,
        built: sdk.Pipeline | None,
        experiment: str,
    ) -> list[ScheduleChange]:
        """Let the endpoint have one schedule, that of the settings, or none.

        Without `built` nothing is changed. Returns what was, or would be, changed.
        """
        changes = []
        description = setting.describe() if setting else ""
        active = self._active_schedules(endpoint)
        kept = None
        if setting:
            # The service words a recurrence in its own way, so descriptions are compared.
            for schedule in active:
                if schedule.description == description:
                    kept = schedule
                    break
            changes.append(
                ScheduleChange("unchanged" if kept else "scheduled", description)
            )
            if endpoint and built and not kept:
                kept = self._create_schedule(endpoint, setting, experiment)
                # If an answer is lost, the SDK asks again, and there are two new ones.
                active = self._active_schedules(endpoint)

        # The others are disabled last: if this fails, the next `publish` disables them,
        # while a schedule that is missing would not be noticed.
        for schedule in active:
            if kept and schedule.id == kept.id:
                continue
            if built:
                schedule.disable(wait_for_provisioning=True)
            changes.append(
                ScheduleChange("disabled", schedule.description or schedule.id)
            )
        return changes

    def _create_schedule(
        self, endpoint: Endpoint, setting: Schedule, experiment: str
    ) -> sdk.Schedule:
        zone = TIME_ZONES[setting.time_zone]
        return sdk.Schedule.create_for_pipeline_endpoint(
            self.sdk_workspace,
            endpoint.sdk_endpoint.name,
            endpoint.sdk_endpoint.id,
            experiment,
            recurrence=sdk.ScheduleRecurrence(**{**vars(setting), "time_zone": zone}),
            description=setting.describe(),
            wait_for_provisioning=True,
        )

    def _active_schedules(self, endpoint: Endpoint | None) -> list[sdk.Schedule]:
        if endpoint is None:
            return []
        schedules = sdk.Schedule.list(
            self.sdk_workspace, pipeline_endpoint_id=endpoint.sdk_endpoint.id
        )
        return [schedule for schedule in schedules if schedule.status == "Active"]


def _log_in(config: WorkspaceConfig) -> authentication.AbstractAuthentication:
    """Return the login, or raise LoginMissing; never prompt.

    It is looked for in the same order as by `check --online`.
    """
    cloud = config.cloud
    principal = [os.environ.get(name) for name in PRINCIPAL]
    try:
        if all(principal):
            auth = authentication.ServicePrincipalAuthentication(*principal, cloud)
        else:
            auth = authentication.TokenAuthentication(_token_source(cloud), cloud)
        auth.get_authentication_header()
    except Exception as error:  # Of the SDK, of msal or of azure-identity.
        is_refusal = "AADSTS" in str(error)
        if all(principal) and not is_refusal:
            raise  # The login was not judged: Azure could not be reached.
        raise connection.LoginMissing(error, config) from error
    return auth


def _token_source(cloud: str) -> Callable[[str], str]:
    """Return a function that returns a token for an audience.

    It is a function, and no object, as the SDK copies what it is given.
    """
    credential = login.credential(CLOUDS[cloud].login)
    # The SDK asks at each request, and `az` takes a second for an answer.
    tokens: dict[str, Any] = {}

    def get_token(audience: str) -> str:
        token = tokens.get(audience)
        if token is None or token.expires_on < time.time() + TOKEN_MARGIN:
            token = credential.get_token(f"{audience}/.default")
            tokens[audience] = token
        return str(token.token)

    return get_token


def _identity_options(setting: Compute) -> dict[str, Any]:
    """Return the SDK's options for the identity of a new cluster."""
    if setting.identity is None:
        return {}
    if setting.identity == "system":
        return {"identity_type": "SystemAssigned"}
    return {"identity_type": "UserAssigned", "identity_id": [setting.identity]}


def _network_options(setting: Compute) -> dict[str, Any]:
    """Return the SDK's options for the subnet of a new cluster."""
    if setting.subnet is None:
        return {}
    # /subscriptions/ID/resourceGroups/GROUP/providers/…/virtualNetworks/NET/subnets/NAME
    parts = setting.subnet.split("/")
    return {
        "vnet_resourcegroup_name": parts[4],
        "vnet_name": parts[8],
        "subnet_name": parts[10],
        "enable_node_public_ip": setting.public_ip,
    }


def _state(run: Any) -> str:
    return str(run.get_status()).lower()


def _wait_until_ready(name: str, compute: Any, config: WorkspaceConfig) -> Cluster:
    """Return a compute as a cluster that is ready; raise NotACluster or ClusterFailed."""
    if not isinstance(compute, AmlCompute):
        raise connection.NotACluster(name, compute.type, config)
    if compute.provisioning_state != "Succeeded":
        compute.wait_for_completion()
    if compute.provisioning_state != "Succeeded":
        errors = compute.provisioning_errors or compute.provisioning_state
        raise connection.ClusterFailed(name, errors)
    return Cluster(compute.vm_size, compute.scale_settings.maximum_node_count)


def _contents(environment: Environment) -> tuple[str, dict[str, Any]]:
    """Return what an environment is built from: its image and its packages."""
    packages = environment.python.conda_dependencies.as_dict()
    return environment.docker.base_image, packages
