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

from azureml.core import Dataset, Environment, Experiment, Workspace
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

from . import checks
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
from .project import (
    NEEDED,
    PipelineDefinition,
    Pipelines,
    Project,
    ProjectSettings,
    WorkspaceConfig,
)
from .project import Schedule as ScheduleSettings
from .sdk_steps import build_steps, environments, read_steps

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
class Upload:
    """A folder of the default datastore, and the files here that belong there, by name.

    Their folder is named after what they hold: as Azure ML does not look into files,
    steps would use their old results again if files changed in their place.
    """

    folder: str
    files: dict[str, Path]

    @classmethod
    def of(cls, project: Project[Any], settings: ProjectSettings, data: str) -> Upload:
        """The files that a setting of `data` names."""
        path = getattr(settings.data, data)
        source = project.root / path
        root = source if source.is_dir() else source.parent
        found = sorted(source.rglob("*")) if source.is_dir() else [source]
        files = {
            file.relative_to(root).as_posix(): file
            for file in found
            if file.is_file() and not file.name.startswith(".")
        }
        if not files:
            where = f"settings.yml: data.{data} is {path}, where no file is"
            raise AzureError(f"{where}: put the data there, or write where it is.")
        digest = hashlib.sha256()
        for name, file in files.items():
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
        return cls(f"{settings.name}/{data}-{digest.hexdigest()[:16]}", files)

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


def provision(
    project: Project[Any], pipelines: Pipelines, create_workspace: bool = False
) -> None:
    """Have on Azure what the pipelines need; what is there already stays as it is."""
    settings = project.settings()
    needs = [*NEEDED, "compute.name", "compute.vm_size"]
    config = project.workspace_config([*needs, "region"] if create_workspace else needs)
    names = [name for one in pipelines.values() for name in one.data.values()]
    uploads = [Upload.of(project, settings, name) for name in dict.fromkeys(names)]
    with azure(config) as say:
        workspace = _provide_workspace(config, create_workspace, say)
        _provide_cluster(workspace, settings, say)
        for environment in environments(pipelines, settings):
            _provide_environment(workspace, environment, say)
        datastore = workspace.get_default_datastore()
        for upload in uploads:
            upload.upload(datastore, say)


def submit(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    values: Mapping[str, str],
    wait: bool = False,
) -> bool:
    """Run a pipeline on Azure ML; with `wait`, returns whether it ended well.

    `values` are pipeline parameters as texts; those of data are folders of the default
    datastore, to be read in place of the project's data.
    """
    settings, pipeline = project.settings(), pipelines[name]
    config = project.workspace_config([*NEEDED, "compute.name"])
    steps = read_steps(build_steps(pipeline, settings))
    nowhere = dict.fromkeys(pipeline.data, "")
    parameters = parameter_values(project, steps, nowhere, values)
    folders = {data: str(parameters.pop(data)) for data in pipeline.data}
    uploads = _uploads(project, settings, pipeline, folders)
    given = {name: value for name, value in parameters.items() if name in values}
    with azure(config) as say:
        workspace = connect(config)
        built = _build(workspace, settings, pipeline, uploads, say)
        run = _start(Experiment(workspace, settings.name), built, given, say)
        say(f"submitted  {name}, run {run.id}\n{run.get_portal_url()}")
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


def publish(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    folders: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> None:
    """Publish a pipeline behind its endpoint, and schedule it as the settings say.

    It reads the project's data as it is now, or else what is in `folders` of the default
    datastore (by pipeline parameter) whenever it runs. A dry run says what would be
    changed.
    """
    settings, pipeline = project.settings(), pipelines[name]
    config = project.workspace_config([*NEEDED, "compute.name"])
    unknown = settings.schedules.keys() - pipelines.keys()
    if unknown:
        where = f"settings.yml: schedules.{min(unknown)} is not of a pipeline"
        raise AzureError(f"{where}: write one of {', '.join(pipelines)}.")
    schedule = settings.schedules.get(name)
    recurrence = _recurrence(schedule, f"schedules.{name}")
    uploads = _uploads(project, settings, pipeline, folders or {})
    endpoint_name = f"{settings.name}-{name}"
    with azure(config) as say:
        workspace = connect(config)
        endpoints = PipelineEndpoint.list(workspace, max_results=1000)
        endpoint = next((one for one in endpoints if one.name == endpoint_name), None)
        before = f"version {endpoint.default_version}" if endpoint else "none"
        if dry_run:
            for upload in uploads.values():
                if upload.files:
                    upload.upload(workspace.get_default_datastore(), say, dry_run)
            say(f"would be published  {endpoint_name}, a new default (now: {before})")
        else:
            built = _build(workspace, settings, pipeline, uploads, say)
            description = f"{name}, {settings.name}"
            published = built.publish(endpoint_name, description=description)
            if endpoint:
                endpoint.add_default(published)
            else:
                endpoint = PipelineEndpoint.publish(
                    workspace, endpoint_name, "", published
                )
            version = f"version {endpoint.default_version}, now the default"
            say(f"published  {endpoint_name}, {version} (before: {before})")
            say(endpoint.endpoint)
        _schedule(
            workspace, settings.name, endpoint, schedule, recurrence, say, dry_run
        )


def _uploads(
    project: Project[Any],
    settings: ProjectSettings,
    pipeline: PipelineDefinition,
    folders: Mapping[str, str],
) -> dict[str, Upload]:
    """What a pipeline reads, by pipeline parameter."""
    return {
        name: (
            Upload(folders[name], {})
            if folders.get(name)
            else Upload.of(project, settings, data)
        )
        for name, data in pipeline.data.items()
    }


def _schedule(
    workspace: Workspace,
    experiment: str,
    endpoint: Any,
    schedule: ScheduleSettings | None,
    recurrence: ScheduleRecurrence | None,
    say: Say,
    dry_run: bool,
) -> None:
    """Have one schedule on an endpoint, that of the settings, or else none."""
    # The service words a recurrence in its own way: what it is made of is compared.
    wanted = vars(schedule) if schedule else {}
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
                experiment_name=experiment,
                recurrence=recurrence,
                description=words,
                wait_for_provisioning=True,
            )
            # Anew: if an answer is lost, the SDK asks again, and there are two.
            found = _active_schedules(workspace, endpoint)
        say(f"{would}scheduled  {words}")
    # Last, as one too many is mended by the next publish, and one lost is not.
    for one in found:
        if kept is None or one.id != kept.id:
            if not dry_run:
                one.disable(wait_for_provisioning=True)
            say(f"{would}disabled   schedule {one.description or one.id}")


def _active_schedules(workspace: Workspace, endpoint: Any) -> list[Schedule]:
    if endpoint is None:
        return []
    found = Schedule.list(workspace, pipeline_endpoint_id=endpoint.id)
    return [schedule for schedule in found if schedule.status == "Active"]


def _recurrence(
    schedule: ScheduleSettings | None, key: str
) -> ScheduleRecurrence | None:
    """A schedule of the settings, as the SDK takes it."""
    if schedule is None:
        return None
    zone = schedule.time_zone
    try:
        return ScheduleRecurrence(**{**vars(schedule), "time_zone": TimeZone(zone)})
    except ValueError:
        near = difflib.get_close_matches(zone, [known.value for known in TimeZone])
        where = (
            f"settings.yml: {key}.time_zone is {zone}, which is not a Windows time zone"
        )
        raise AzureError(f"{where}: write {' or '.join(near) or 'UTC'}.") from None


def _provide_workspace(config: WorkspaceConfig, create: bool, say: Say) -> Workspace:
    try:
        workspace = connect(config)
    except WorkspaceMissing:
        if not create:
            raise
        workspace = Workspace.create(
            config.workspace_name,
            auth=authenticate(config),
            subscription_id=config.subscription_id,
            resource_group=config.resource_group,
            location=config.region,
            exist_ok=True,
            show_output=False,
        )
        say(f"created    workspace {workspace.name}, in {workspace.location}")
    else:
        say(f"unchanged  workspace {workspace.name}, in {workspace.location}")
    return workspace


def _provide_cluster(workspace: Workspace, settings: ProjectSettings, say: Say) -> None:
    compute, done = settings.compute, "unchanged"
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


def _provide_environment(workspace: Workspace, wanted: Environment, say: Say) -> None:
    done = "unchanged"
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
    workspace: Workspace,
    settings: ProjectSettings,
    pipeline: PipelineDefinition,
    uploads: Mapping[str, Upload],
    say: Say,
) -> Pipeline:
    """The pipeline in the workspace, on data that is there."""
    name = settings.compute.name
    if name not in workspace.compute_targets:
        text = f"compute.name is {name}, which is not in {workspace.name}"
        fix = f"`{checks.COMMAND} provision` creates it"
        raise AzureError(f"settings.yml: {text}: {fix}.")
    datastore = workspace.get_default_datastore()
    datasets = {}
    for data, upload in uploads.items():
        if upload.files:
            upload.upload(datastore, say)
        files = (datastore, upload.folder)
        datasets[data] = Dataset.File.from_files(files, validate=False)
    # Files of this project are in a folder of their own; others may change in theirs.
    changing = {data for data, upload in uploads.items() if not upload.files}
    return Pipeline(workspace, build_steps(pipeline, settings, datasets, changing))


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
        _show_failures(run, say)
    return run_state in FINISHED


def _show_failures(run: PipelineRun, say: Say) -> None:
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
