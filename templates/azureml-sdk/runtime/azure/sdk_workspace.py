"""A workspace of Azure ML and its runs, used by means of azureml-sdk.

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

PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
# A token is replaced this many seconds before it expires.
TOKEN_MARGIN = 300
TIME_ZONES = {zone.value: zone for zone in sdk.TimeZone}
#: A new cluster releases idle nodes after 20 minutes, and may shrink to no node at all.
SCALING = {"min_nodes": 0, "idle_seconds_before_scaledown": 1200}
# The SDK finds an endpoint by listing all of them. It lists at most this many.
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
        """Ask Azure why each failed step has failed.

        If no step has failed, the result is the failure of the run itself.
        """
        steps = self.sdk_run.get_steps()
        failed_steps = [step for step in steps if step.get_status() == "Failed"]
        if not failed_steps:
            return [_failure(self.sdk_run, step="")]
        return [_failure(step, step=step.name) for step in failed_steps]


def _failure(run: Any, step: str) -> Failure:
    """Return why a run has failed, which may be the run of a step or of a pipeline.

    `step` is the name of the step, or "" for the run of a pipeline.
    """
    details = run.get_details()
    properties = run.get_properties()
    error = (details.get("error") or {}).get("error") or {}

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
        # The SDK sets the first of these properties, and Azure ML the second.
        is_parallel=properties.get("StepType") == "ParallelRunStep"
        or properties.get("azureml.parallelrunstep") == "true",
    )


class Workspace(WorkspaceInterface):
    """A workspace, reached with the current login."""

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
                f"{config.subscription_id}. Write one that `az account list --output "
                "table` shows."
            ) from None
        except Exception as error:
            if find_status_code(error) == 404:
                raise WorkspaceMissing(config) from None
            raise
        return cls(workspace, config)

    @classmethod
    def create(cls, config: WorkspaceConfig, uses_identities: bool) -> Workspace:
        """Create the workspace, and its resource group if there is none.

        With `uses_identities`, its datastores are reached by the identity of the user or the
        cluster, or else by the key of the storage account.
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
        """Return a cluster once it is ready, or None if there is none of this name."""
        compute = self.sdk_workspace.compute_targets.get(name)
        if compute is None:
            return None
        return _wait_until_ready(name, compute, self.config)

    def has_compute(self, name: str) -> bool:
        """Return whether there is a compute of this name, of any kind."""
        return name in self.sdk_workspace.compute_targets

    def create_cluster(self, setting: Compute) -> Cluster:
        """Create the cluster that the settings describe, and wait until it is ready."""
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
        """Let a cluster build the images of environments. Return whether this is new."""
        if self.sdk_workspace.get_details().get("imageBuildCompute") == name:
            return False
        self.sdk_workspace.update(image_build_compute=name)
        return True

    def register(self, environment: Environment) -> RegisteredEnvironment:
        """Register an environment, unless its newest version has the same contents."""
        name = environment.name
        existing = None
        try:
            existing = Environment.get(self.sdk_workspace, name)
        except Exception as error:
            # The SDK raises a plain Exception here, so only the status tells what is wrong.
            if find_status_code(error) != 404:
                raise
        if existing and _contents(existing) == _contents(environment):
            return RegisteredEnvironment(name, existing.version, is_new=False)
        registered = environment.register(self.sdk_workspace)
        return RegisteredEnvironment(name, registered.version, is_new=True)

    @cached_property
    def _default_store(self) -> Any:
        """The default datastore of the workspace, which Azure is asked for only once."""
        return self.sdk_workspace.get_default_datastore()

    def default_datastore(self) -> Datastore:
        """Return the default datastore."""
        store = self._default_store
        # A datastore without keys is reached by the login. The SDK itself would send no
        # credential at all.
        credential = store.account_key or store.sas_token
        if not credential:
            credential = login.credential(CLOUDS[self.config.cloud].login)
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
        """Build a pipeline as an object of the SDK, which can be started or published."""
        datasets = {
            name: Dataset.File.from_files((self._default_store, folder), validate=False)
            for name, folder in folders.items()
        }
        steps = build_steps(pipeline, settings, datasets, changing_inputs)
        return sdk.Pipeline(self.sdk_workspace, steps)

    def start(
        self,
        built: sdk.Pipeline,
        pipeline_name: str,
        experiment: str,
        parameters: dict[str, Any],
    ) -> StartedRun:
        """Start a run of a pipeline in an experiment, and return the run."""
        sdk_experiment = Experiment(self.sdk_workspace, experiment)
        try:
            run = sdk_experiment.submit(
                built,
                tags={PIPELINE_TAG: pipeline_name},
                pipeline_parameters=parameters,
            )
            return StartedRun(Run(run))
        except Exception as error:
            # requests, msrest and the SDK raise errors that share no other base class.
            started = self._find_started_run(error, sdk_experiment)
            if started is None:
                raise
            return StartedRun(started, response_was_lost=True)

    def _find_started_run(
        self, error: Exception, sdk_experiment: Experiment
    ) -> Run | None:
        """Return the run that a failed submission has started nevertheless, or None.

        `error` is the error of the submission. Raises StartUnknown if Azure cannot be asked
        whether the run has started.
        """
        # The SDK chooses the id of the run itself, and submits the run to an address that
        # contains this id. If the failed request had another address, it was one of those
        # that come before the submission, so no run has started.
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
        """Return an endpoint, or None if there is none of this name."""
        endpoints = sdk.PipelineEndpoint.list(
            self.sdk_workspace, max_results=MAX_ENDPOINTS
        )
        for endpoint in endpoints:
            if endpoint.name == name:
                return _describe_endpoint(endpoint)
        return None

    def publish(
        self,
        name: str,
        endpoint: Endpoint | None,
        built: sdk.Pipeline,
        description: str,
    ) -> Endpoint:
        """Publish a pipeline as the default version of an endpoint."""
        published = built.publish(name, description=description)
        if endpoint:
            sdk_endpoint = endpoint.sdk_endpoint
            sdk_endpoint.add_default(published)
        else:
            sdk_endpoint = sdk.PipelineEndpoint.publish(
                self.sdk_workspace, name, "", published
            )
        return _describe_endpoint(sdk_endpoint)

    def plan_schedule(
        self, name: str, endpoint: Endpoint | None, setting: Schedule | None
    ) -> list[ScheduleChange]:
        """Return what `apply_schedule` would change, without changing anything."""
        active = self._list_active_schedules(endpoint)
        unchanged = _find_same_schedule(active, setting)
        obsolete = [schedule for schedule in active if schedule is not unchanged]
        return _describe_changes(setting, unchanged is None, obsolete)

    def apply_schedule(
        self, publication: Publication, setting: Schedule | None
    ) -> list[ScheduleChange]:
        """Give a published pipeline the schedule of the settings, and disable all others."""
        active = self._list_active_schedules(publication.endpoint)
        wanted = _find_same_schedule(active, setting)
        is_new = wanted is None
        if setting and is_new:
            wanted = self._create_schedule(publication, setting)
            # If a reply is lost, the SDK sends the request again, which creates a second
            # schedule. So the schedules are listed again.
            active = self._list_active_schedules(publication.endpoint)

        # Obsolete schedules are disabled last. If this fails, the next `publish` disables
        # them. If the new schedule were missing instead, nobody would notice.
        obsolete = [
            schedule
            for schedule in active
            if wanted is None or schedule.id != wanted.id
        ]
        for schedule in obsolete:
            schedule.disable(wait_for_provisioning=True)
        return _describe_changes(setting, is_new, obsolete)

    def newest_runs(
        self,
        pipeline_name: str,
        experiment: str,
        endpoint: Endpoint | None,
        count: int,
    ) -> list[PastRun]:
        """Return the newest runs of a pipeline in an experiment, the newest first."""
        sdk_experiments = Experiment.list(self.sdk_workspace, experiment)
        if not sdk_experiments:
            return []
        # A run that the endpoint has started has no tag. It names the published pipeline.
        filters: list[dict[str, Any]] = [{"tags": {PIPELINE_TAG: pipeline_name}}]
        if endpoint:
            published = endpoint.sdk_endpoint.get_pipeline()
            filters.append({"properties": {"azureml.pipelineid": published.id}})

        runs = []
        for run_filter in filters:
            newest = sdk_experiments[0].get_runs(
                type="azureml.PipelineRun", **run_filter
            )
            # The SDK asks for each run by itself, so no more are taken than needed.
            runs += [_read_past_run(run) for run in islice(newest, count)]
        return sorted(runs, key=lambda run: run.started, reverse=True)[:count]

    def list_schedules(
        self, name: str, endpoint: Endpoint | None
    ) -> list[ActiveSchedule]:
        """Return the active schedules of an endpoint of this name."""
        schedules = []
        for schedule in self._list_active_schedules(endpoint):
            newest_run = schedule.get_last_pipeline_run()
            # The SDK itself shows no time of a schedule.
            caller = schedule._schedule_provider._service_caller
            created = read_time(caller.get_schedule_async(schedule.id).created_date)
            schedules.append(
                ActiveSchedule(
                    description=schedule.description or schedule.id,
                    created=created,
                    newest_run=_read_past_run(newest_run) if newest_run else None,
                )
            )
        return schedules

    def _create_schedule(
        self, publication: Publication, setting: Schedule
    ) -> sdk.Schedule:
        """Create a schedule for a published pipeline, and wait until it is active."""
        recurrence = sdk.ScheduleRecurrence(
            frequency=setting.frequency,
            interval=setting.interval,
            start_time=setting.start_time,
            time_zone=TIME_ZONES[setting.time_zone],
            hours=setting.hours,
            minutes=setting.minutes,
            week_days=setting.week_days,
        )
        return sdk.Schedule.create_for_pipeline_endpoint(
            self.sdk_workspace,
            publication.endpoint.name,
            publication.endpoint.sdk_endpoint.id,
            publication.experiment,
            recurrence=recurrence,
            description=setting.describe(),
            wait_for_provisioning=True,
        )

    def _list_active_schedules(self, endpoint: Endpoint | None) -> list[sdk.Schedule]:
        """Return the schedules of an endpoint that are not disabled."""
        if endpoint is None:
            return []
        schedules = sdk.Schedule.list(
            self.sdk_workspace, pipeline_endpoint_id=endpoint.sdk_endpoint.id
        )
        return [schedule for schedule in schedules if schedule.status == "Active"]


def _describe_endpoint(sdk_endpoint: sdk.PipelineEndpoint) -> Endpoint:
    """Describe an endpoint with its current default version."""
    return Endpoint(
        name=sdk_endpoint.name,
        version=f"version {sdk_endpoint.default_version}",
        url=str(sdk_endpoint.endpoint),
        sdk_endpoint=sdk_endpoint,
    )


def _find_same_schedule(
    active: list[sdk.Schedule], setting: Schedule | None
) -> sdk.Schedule | None:
    """Return the active schedule that is as in the settings, or None."""
    if setting is None:
        return None
    # Azure returns a recurrence in another form, so the descriptions are compared.
    description = setting.describe()
    for schedule in active:
        if schedule.description == description:
            return schedule
    return None


def _describe_changes(
    setting: Schedule | None, is_new: bool, disabled: list[sdk.Schedule]
) -> list[ScheduleChange]:
    """Describe the schedule of the settings, if there is one, and the disabled schedules."""
    changes = []
    if setting:
        description = setting.describe()
        if is_new:
            changes.append(ScheduleChange("scheduled", description))
        else:
            changes.append(ScheduleChange("unchanged", description))
    for schedule in disabled:
        name = schedule.description or schedule.id
        changes.append(ScheduleChange("disabled", name))
    return changes


def _log_in(config: WorkspaceConfig) -> authentication.AbstractAuthentication:
    """Return the current login of this machine. It never opens a prompt or a browser.

    Logins are tried in the same order as by `check --online`. Raises LoginMissing if there
    is none, or if Azure refuses it. If a service principal is set and Azure cannot be
    reached, the SDK's own error is raised.
    """
    cloud = config.cloud
    principal = [os.environ.get(name) for name in PRINCIPAL]
    try:
        if all(principal):
            auth = authentication.ServicePrincipalAuthentication(*principal, cloud)
        else:
            auth = authentication.TokenAuthentication(_token_source(cloud), cloud)
        auth.get_authentication_header()
    except Exception as error:
        # The SDK, msal and azure-identity raise errors that share no other base class.
        is_refusal = "AADSTS" in str(error) or request_guard.quote_login_refusal()
        if all(principal) and not is_refusal:
            raise  # Azure has not refused the login, but could not be reached.
        raise LoginMissing(error, config) from error
    return auth


def _token_source(cloud: str) -> Callable[[str], str]:
    """Return a function from which the SDK gets a token for an audience.

    The function keeps its tokens and uses them again. It cannot be an object with a method,
    as the SDK copies what it is given: the copy of an object would have its own tokens.
    """
    credential = login.credential(CLOUDS[cloud].login)
    # The SDK asks for a token at each request, and `az` takes a second for one.
    tokens: dict[str, Any] = {}

    def get_token(audience: str) -> str:
        """Return a token for an audience, which is kept until shortly before it expires."""
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
    """Return the SDK's options for the subnet and the public addresses of a new cluster."""
    if setting.subnet is None:
        return {"enable_node_public_ip": setting.public_ip}
    # /subscriptions/ID/resourceGroups/GROUP/providers/…/virtualNetworks/NET/subnets/NAME
    parts = setting.subnet.split("/")
    return {
        "vnet_resourcegroup_name": parts[4],
        "vnet_name": parts[8],
        "subnet_name": parts[10],
        "enable_node_public_ip": setting.public_ip,
    }


def _read_past_run(run: Any) -> PastRun:
    """Describe a run of a pipeline."""
    details = run.get_details()
    # A run that waits for a node has no time of its start yet.
    started = details.get("startTimeUtc")
    return PastRun(
        id=run.id,
        state=str(details["status"]).lower(),
        started=read_time(started) if started else datetime.now(timezone.utc),
        url=run.get_portal_url(),
    )


def _state(run: Any) -> str:
    """Return the state of a run, in lower case."""
    return str(run.get_status()).lower()


def _wait_until_ready(name: str, compute: Any, config: WorkspaceConfig) -> Cluster:
    """Wait until a cluster is ready, and return it. Raises NotACluster or ClusterFailed."""
    if not isinstance(compute, AmlCompute):
        raise NotACluster(name, compute.type, config)
    if compute.provisioning_state != "Succeeded":
        compute.wait_for_completion()
    if compute.provisioning_state != "Succeeded":
        errors = compute.provisioning_errors or compute.provisioning_state
        raise ClusterFailed(name, errors)
    return Cluster(compute.vm_size, compute.scale_settings.maximum_node_count)


def _contents(environment: Environment) -> tuple[str, dict[str, Any]]:
    """Return the base image and the packages of an environment, to compare it by."""
    packages = environment.python.conda_dependencies.as_dict()
    return environment.docker.base_image, packages
