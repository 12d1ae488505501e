"""The project on Azure ML: provision its needs, submit and publish its pipelines."""

from __future__ import annotations

import difflib
import hashlib
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azureml.core import Dataset, Environment, Experiment
from azureml.core import Workspace as AzureWorkspace
from azureml.core.compute import AmlCompute
from azureml.data.azure_storage_datastore import AzureBlobDatastore
from azureml.pipeline.core import (
    Pipeline,
    PipelineEndpoint,
    PipelineRun,
    Schedule,
    ScheduleRecurrence,
    StepRun,
    TimeZone,
)

from . import checks, pipelines
from .connection import (
    AzureError,
    Say,
    WorkspaceMissing,
    authenticate,
    azure,
    connect,
    request_address,
    status,
)
from .local_run import LOG_END, parameter_values
from .sdk_steps import read_steps
from .settings import ROOT, Settings, Workspace, read, read_workspace

BUILD = {"training": pipelines.training, "scoring": pipelines.scoring}
PLACE = ("subscription_id", "resource_group", "workspace_name")
IDLE_SECONDS = 1200  # after which the cluster gives a node back
POLL_SECONDS = 3
PATIENCE = 3  # polls in a row that may fail before --wait gives up
FINISHED = ("Finished", "Completed")  # the SDK's word, and run history's
ENDED = (*FINISHED, "Failed", "Canceled")  # and any other state can still change
#: The logs that tell most of a failed step, best first: what the entry script of a
#: ParallelRunStep raised, where its own log says SystemExit: 42; then what the script
#: printed; then what became of a step that has died before its script ran.
LOGS = (
    "logs/user/error.txt",
    "user_logs/std_log.txt",
    "user_logs/std_log_0.txt",
    "logs/azureml/executionlogs.txt",
    "azureml-logs/executionlogs.txt",
)


@dataclass(frozen=True)
class Data:
    """A folder of the default datastore, and the files here that belong there, by name.

    Their folder is named after what they hold: as Azure ML does not look into files,
    steps would use their old results again if files changed in their place.
    """

    folder: str
    files: dict[str, Path]

    @classmethod
    def of(cls, project: Settings, pipeline: str) -> Data:
        """The data that the settings name for a pipeline."""
        path = getattr(project.data, pipeline)
        source = ROOT / path
        root = source if source.is_dir() else source.parent
        found = sorted(source.rglob("*")) if source.is_dir() else [source]
        files = {
            file.relative_to(root).as_posix(): file
            for file in found
            if file.is_file() and not file.name.startswith(".")
        }
        if not files:
            where = f"settings.yml: data.{pipeline} is {path}, where no file is"
            raise AzureError(f"{where}: put the data there, or write where it is.")
        digest = hashlib.sha256()
        for name, file in files.items():
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
        return cls(f"{project.name}/{pipeline}-{digest.hexdigest()[:16]}", files)

    def upload(
        self, datastore: AzureBlobDatastore, say: Say, dry_run: bool = False
    ) -> None:
        """Upload the files that are not there yet."""
        # Not by the datastore's own upload_files, which goes on when one file fails.
        service = datastore.blob_service
        container = service.get_container_client(datastore.container_name)
        blobs = container.list_blobs(name_starts_with=f"{self.folder}/")
        there = {blob.name for blob in blobs}
        paths = {f"{self.folder}/{name}": file for name, file in self.files.items()}
        missing = paths.keys() - there
        for path in [] if dry_run else sorted(missing):
            with paths[path].open("rb") as content:
                container.upload_blob(path, content, overwrite=True, max_concurrency=4)
        done = f"uploaded   {len(missing)} of" if missing else "unchanged "
        would = "would be " if dry_run and missing else ""
        say(f"{would}{done} {len(paths)} data files: {self.folder} of {datastore.name}")


def provision(create_workspace: bool = False) -> None:
    """Have on Azure what the pipelines need; what is there already stays as it is."""
    project = read()
    needs = [*PLACE, "compute.name", "compute.vm_size"]
    place = read_workspace(needs=[*needs, "region"] if create_workspace else needs)
    data = [Data.of(project, pipeline) for pipeline in BUILD]
    with azure(place) as say:
        workspace = _provide_workspace(place, create_workspace, say)
        _provide_cluster(workspace, project, say)
        _provide_environment(workspace, project, say)
        datastore = workspace.get_default_datastore()
        for files in data:
            files.upload(datastore, say)


def submit(pipeline: str, values: Mapping[str, str], wait: bool = False) -> bool:
    """Run a pipeline on Azure ML; with `wait`, returns whether it ended well.

    `values` are pipeline parameters as texts; `raw_data` is a folder of the default
    datastore, to be read in place of the project's data.
    """
    project = read()
    place = read_workspace(needs=[*PLACE, "compute.name"])
    steps = read_steps(BUILD[pipeline](project))
    parameters = parameter_values(steps, {"raw_data": ""}, values)
    folder = str(parameters.pop("raw_data"))
    data = Data(folder, {}) if folder else Data.of(project, pipeline)
    given = {name: value for name, value in parameters.items() if name in values}
    with azure(place) as say:
        workspace = connect(place)
        built = _build(workspace, project, pipeline, data, say)
        run = _start(Experiment(workspace, project.name), built, given, say)
        say(f"submitted  {pipeline}, run {run.id}\n{run.get_portal_url()}")
        return not wait or _follow(run, say)


def _start(
    experiment: Experiment, built: Pipeline, parameters: Mapping[str, Any], say: Say
) -> PipelineRun:
    """Submit, once even where Azure has started the run and its answer is lost."""
    try:
        return experiment.submit(built, pipeline_parameters=parameters)
    except Exception as error:  # of requests, msrest or the service
        asked = re.search(r"/PipelineRuns/Submit/([^/?]+)", request_address(error))
        if asked is None:
            raise
        where = f"run {asked[1]} of the experiment {experiment.name}"
        try:
            run = PipelineRun(experiment, asked[1])
            has_started = run.get_status() != "NotStarted"
        except Exception:  # noqa: BLE001 (nothing is known, whatever it is)
            text = "Azure does not answer whether the run has started"
            fix = f"look in the Studio for {where} before you submit again"
            raise AzureError(f"{text}: {fix}.") from error
        if not has_started:
            raise
        say(f"started    {where}, though the answer to that was lost")
        return run


def publish(pipeline: str, folder: str | None = None, dry_run: bool = False) -> None:
    """Publish a pipeline behind its endpoint, and schedule it as the settings say.

    It reads the project's data as it is now, or else what is in a `folder` of the
    default datastore whenever it runs. A dry run says what would be changed.
    """
    project = read()
    place = read_workspace(needs=[*PLACE, "compute.name"])
    recurrence = _recurrence(project)
    data = Data(folder, {}) if folder else Data.of(project, pipeline)
    name = f"{project.name}-{pipeline}"
    with azure(place) as say:
        workspace = connect(place)
        endpoints = PipelineEndpoint.list(workspace, max_results=1000)
        endpoint = next((one for one in endpoints if one.name == name), None)
        before = f"version {endpoint.default_version}" if endpoint else "none"
        if dry_run:
            if data.files:
                data.upload(workspace.get_default_datastore(), say, dry_run)
            say(f"would be published  {name}, a new default (now: {before})")
        else:
            built = _build(workspace, project, pipeline, data, say)
            published = built.publish(name, description=f"{pipeline}, {project.name}")
            if endpoint:
                endpoint.add_default(published)
            else:
                endpoint = PipelineEndpoint.publish(workspace, name, "", published)
            version = f"version {endpoint.default_version}"
            say(f"published  {name}, {version}, now the default (before: {before})")
            say(endpoint.endpoint)
        _schedule(workspace, project, endpoint, recurrence, say, dry_run)


def _schedule(
    workspace: AzureWorkspace,
    project: Settings,
    endpoint: Any,
    recurrence: ScheduleRecurrence | None,
    say: Say,
    dry_run: bool,
) -> None:
    """Have one schedule on an endpoint, that of the settings, or else none."""
    # The service words a recurrence in its own way: what it is made of is compared.
    wanted = vars(project.schedule) if project.schedule else {}
    words = ", ".join(f"{key} {value}" for key, value in wanted.items() if value)
    found = _active_schedules(workspace, endpoint)
    kept = next((one for one in found if words and one.description == words), None)
    would = "would be " if dry_run else ""
    if kept:
        say(f"unchanged  schedule {words}")
    elif recurrence:
        if not dry_run:
            kept = Schedule.create_for_pipeline_endpoint(
                workspace,
                endpoint.name,
                endpoint.id,
                experiment_name=project.name,
                recurrence=recurrence,
                description=words,
                wait_for_provisioning=True,
            )
            # Anew: if an answer is lost, the SDK asks again, and there are two.
            found = _active_schedules(workspace, endpoint)
        say(f"{would}scheduled  {words}")
    # Last, as one too many is mended by the next publish, and one lost is not.
    for schedule in found:
        if kept is None or schedule.id != kept.id:
            if not dry_run:
                schedule.disable(wait_for_provisioning=True)
            say(f"{would}disabled   schedule {schedule.description or schedule.id}")


def _active_schedules(workspace: AzureWorkspace, endpoint: Any) -> list[Schedule]:
    if endpoint is None:
        return []
    found = Schedule.list(workspace, pipeline_endpoint_id=endpoint.id)
    return [schedule for schedule in found if schedule.status == "Active"]


def _recurrence(project: Settings) -> ScheduleRecurrence | None:
    """The schedule of the settings, as the SDK takes it."""
    if project.schedule is None:
        return None
    zone = project.schedule.time_zone
    try:
        return ScheduleRecurrence(
            **{**vars(project.schedule), "time_zone": TimeZone(zone)}
        )
    except ValueError:
        near = difflib.get_close_matches(zone, [known.value for known in TimeZone])
        where = f"settings.yml: schedule.time_zone is {zone}, which is not a Windows time zone"
        raise AzureError(f"{where}: write {' or '.join(near) or 'UTC'}.") from None


def _provide_workspace(place: Workspace, create: bool, say: Say) -> AzureWorkspace:
    try:
        workspace = connect(place)
    except WorkspaceMissing:
        if not create:
            raise
        workspace = AzureWorkspace.create(
            place.workspace_name,
            auth=authenticate(place),
            subscription_id=place.subscription_id,
            resource_group=place.resource_group,
            location=place.region,
            exist_ok=True,
            show_output=False,
        )
        say(f"created    workspace {workspace.name}, in {workspace.location}")
    else:
        say(f"unchanged  workspace {workspace.name}, in {workspace.location}")
    return workspace


def _provide_cluster(workspace: AzureWorkspace, project: Settings, say: Say) -> None:
    compute, done = project.compute, "unchanged"
    cluster = workspace.compute_targets.get(compute.name)
    if cluster is None:
        configuration = AmlCompute.provisioning_configuration(
            vm_size=compute.vm_size,
            min_nodes=0,
            max_nodes=compute.max_nodes,
            idle_seconds_before_scaledown=IDLE_SECONDS,
        )
        cluster = AmlCompute.create(workspace, compute.name, configuration)
        done = "created"
    if not isinstance(cluster, AmlCompute):
        where = f"settings.yml: compute.name is {compute.name}, a {cluster.type}"
        raise AzureError(f"{where}, not a compute cluster: write another name.")
    if cluster.provisioning_state != "Succeeded":
        cluster.wait_for_completion()
    if cluster.provisioning_state != "Succeeded":
        errors = cluster.provisioning_errors or cluster.provisioning_state
        fix = "delete it in the Studio, and provision again"
        raise AzureError(f"The cluster {compute.name} has failed ({errors}): {fix}.")
    most, size = cluster.scale_settings.maximum_node_count, cluster.vm_size
    say(f"{done:10} cluster {compute.name}, up to {most} nodes of {size}")
    if (most, size.lower()) != (compute.max_nodes, compute.vm_size.lower()):
        say(f"{'':10} not as in settings.yml: see `{checks.COMMAND} check --online`")


def _provide_environment(
    workspace: AzureWorkspace, project: Settings, say: Say
) -> None:
    wanted, done = pipelines.environment(project), "unchanged"
    try:
        found = Environment.get(workspace, wanted.name)
    except Exception as error:  # the SDK's own is as bare as that
        if status(error) != 404:
            raise
        found = None
    if found is None or _definition(found) != _definition(wanted):
        found, done = wanted.register(workspace), "registered"
    say(f"{done:10} environment {wanted.name}, version {found.version}")


def _definition(environment: Environment) -> tuple[str, dict[str, Any]]:
    """What an environment is built from: its image and its packages."""
    packages = environment.python.conda_dependencies.as_dict()
    return environment.docker.base_image, packages


def _build(
    workspace: AzureWorkspace,
    project: Settings,
    pipeline: str,
    data: Data,
    say: Say,
) -> Pipeline:
    """The pipeline in the workspace, on data that is there."""
    name = project.compute.name
    if name not in workspace.compute_targets:
        text = f"compute.name is {name}, which is not in {workspace.name}"
        fix = f"`{checks.COMMAND} provision` creates it"
        raise AzureError(f"settings.yml: {text}: {fix}.")
    datastore = workspace.get_default_datastore()
    if data.files:
        data.upload(datastore, say)
    raw = Dataset.File.from_files((datastore, data.folder), validate=False)
    return Pipeline(workspace, BUILD[pipeline](project, raw, bool(data.files)))


def _follow(run: PipelineRun, say: Say) -> bool:
    """Say what becomes of a run's steps, until it has ended; whether it ended well."""
    states: dict[str, str] = {}
    failures = 0
    try:
        while True:
            try:
                run_state = run.get_status()
                for step in run.get_steps():
                    is_reused = step.get_properties().get("azureml.isreused") == "true"
                    state = "reused" if is_reused else step.get_status().lower()
                    if states.get(step.id) != state:
                        states[step.id] = state
                        say(f"{state:10} {step.name}")
                failures = 0
            except Exception:
                failures += 1
                if failures == PATIENCE:
                    raise
                run_state = ""
            if run_state in ENDED:
                break
            time.sleep(POLL_SECONDS)
    except BaseException:  # Ctrl-C too
        say(f"The run goes on. Follow it at {run.get_portal_url()}")
        raise
    say(f"{run_state.lower():10} run {run.id}")
    if run_state == "Failed":
        _explain(run, say)
    return run_state in FINISHED


def _explain(run: PipelineRun, say: Say) -> None:
    """Show why a run has failed: the ends of the logs of the steps that have."""
    failed = [step for step in run.get_steps() if step.get_status() == "Failed"]
    for step in failed:
        details = step.get_details()
        logs, properties = details.get("logFiles") or {}, step.get_properties()
        say(f"{step.name} has failed: {_reason(details)}")
        name = next((name for name in (*LOGS, *logs) if name in logs), None)
        if name:
            say(f"Its {name} ends:")
            for line in _text(step, name).splitlines()[-LOG_END:]:
                say(f"    {line}")
        say(f"All its logs: {step.get_portal_url()}")
        # Of the two, run history has recorded the latter.
        is_parallel = properties.get("StepType") == "ParallelRunStep"
        if is_parallel or properties.get("azureml.parallelrunstep") == "true":
            say("logs/user/ there holds what the entry script printed and raised.")
    if not failed:
        say(_reason(run.get_details()))


def _reason(details: Mapping[str, Any]) -> str:
    """The message of the error that a run has ended with."""
    error = (details.get("error") or {}).get("error") or {}
    return str(error.get("message") or "Azure ML gives no reason.")


def _text(step: StepRun, name: str) -> str:
    """A log of a step."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "log.txt"
        step.download_file(name, str(file))
        return file.read_text(encoding="utf-8", errors="replace")
