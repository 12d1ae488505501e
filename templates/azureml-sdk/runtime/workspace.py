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
from azureml.pipeline import core as sdk

from . import checks, connection
from .connection import AzureError, Say, WorkspaceMissing
from .local_run import LOG_END, parameter_values
from .project import NEEDED, PipelineDefinition, Pipelines, Project, ProjectSettings
from .sdk_steps import build_steps, environments, read_steps

#: Of the cluster, which gives an idle node back, down to the last one.
SCALING = {"min_nodes": 0, "idle_seconds_before_scaledown": 1200}
POLL_SECONDS = 3
PATIENCE = 3  # polls in a row that may fail before --wait gives up
FINISHED = ("Finished", "Completed")  # the SDK's word, and run history's
ENDED = (*FINISHED, "Failed", "Canceled")  # and any other state can still change
#: What the names of logs hold, those first that tell most of a failed step: what the
#: entry script of a ParallelRunStep raised, where its own log says SystemExit: 42; what
#: the script printed; what became of a step that has died before its script ran; any.
LOGS = ("logs/user/error.txt", "user_logs/std_log", "executionlogs.txt", "")

#: By name: a folder of the default datastore, and the project's files by their paths
#: there; no files if the user has named the folder, where they can change.
DataFiles = dict[str, tuple[str, dict[str, Path]]]


def provision(
    project: Project[Any], pipelines: Pipelines, create_workspace: bool = False
) -> None:
    """Have on Azure what the pipelines need; what is there already stays as it is."""
    settings = project.settings()
    needs = [*NEEDED, "compute.name", "compute.vm_size"]
    config = project.workspace_config([*needs, "region"] if create_workspace else needs)
    keys = [key for pipeline in pipelines.values() for key in pipeline.data.values()]
    data = _data(project.root, settings, dict(zip(keys, keys)), {})
    with connection.azure(config) as say:
        done = "unchanged"
        try:
            workspace = connection.connect(config)
        except WorkspaceMissing:
            if not create_workspace:
                raise
            auth = connection.authenticate(config)
            scope = (config.subscription_id, config.resource_group, config.region)
            options = {"exist_ok": True, "show_output": False}
            workspace = Workspace.create(config.workspace_name, auth, *scope, **options)
            done = "created"
        session = _Session(workspace, settings, say)
        session.tell(done, f"workspace {workspace.name}, in {workspace.location}")
        session.provide_cluster()
        for environment in environments(pipelines, settings):
            session.provide_environment(environment)
        session.upload(data)


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
    given = {key: parameters[key] for key in values if key not in pipeline.data}
    data = _data(project.root, settings, pipeline.data, values)
    with connection.azure(config) as say:
        session = _Session(connection.connect(config), settings, say)
        run = session.start(session.build(pipeline, data), given)
        session.tell("submitted", f"{name}, run {run.id}\n{run.get_portal_url()}")
        return not wait or session.follow(run)


def publish(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    folders: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> None:
    """Publish a pipeline behind its endpoint, and schedule it as the settings say.

    It reads the project's data as it is now, or whenever it runs what is in `folders` of
    the default datastore, by pipeline parameter. A dry run says what would be changed.
    """
    settings, pipeline = project.settings(), pipelines[name]
    config = project.workspace_config([*NEEDED, "compute.name"])
    schedule = _wanted_schedule(settings, pipelines, name)
    data = _data(project.root, settings, pipeline.data, folders or {})
    with connection.azure(config) as say:
        session = _Session(connection.connect(config), settings, say, dry_run)
        session.schedule(session.publish(name, pipeline, data), schedule)


def _data(
    root: Path,
    settings: ProjectSettings,
    keys: Mapping[str, str],
    folders: Mapping[str, str],
) -> DataFiles:
    """By name, the one of `folders`, or else the files that a key of `data` names.

    Their folder is named after what they hold: as Azure ML does not look into files,
    steps would use their old results again if files changed in their place.
    """
    data: DataFiles = {}
    for name, key in keys.items():
        if folders.get(name):
            data[name] = folders[name], {}
            continue
        path = getattr(settings.data, key)
        source = root / path
        top = source.parent if source.is_file() else source
        found = sorted(source.rglob("*")) or [source]
        files = [one for one in found if one.is_file() and one.name[0] != "."]
        if not files:
            where = f"settings.yml: data.{key} is {path}, where no file is"
            raise AzureError(f"{where}: put the data there, or write where it is.")
        names = [file.relative_to(top).as_posix() for file in files]
        digest = hashlib.sha256()
        for relative, file in zip(names, files):
            digest.update(f"{relative}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
        folder = f"{settings.name}/{key}-{digest.hexdigest()[:16]}"
        paths = [f"{folder}/{relative}" for relative in names]
        data[name] = folder, dict(zip(paths, files))
    return data


def _wanted_schedule(
    settings: ProjectSettings, pipelines: Pipelines, name: str
) -> dict[str, Any]:
    """The SDK's arguments for a pipeline's schedule; none if the settings have none."""
    schedules = settings.schedules
    unknown = schedules.keys() - pipelines.keys()
    if unknown:
        where = f"settings.yml: schedules.{min(unknown)} is not of a pipeline"
        raise AzureError(f"{where}: write one of {', '.join(pipelines)}.")
    if name not in schedules:
        return {}
    fields, zone = vars(schedules[name]), schedules[name].time_zone
    zones = {known.value: known for known in sdk.TimeZone}
    if zone not in zones:
        near = " or ".join(difflib.get_close_matches(zone, zones)) or "UTC"
        where = f"settings.yml: schedules.{name}.time_zone is {zone}"
        raise AzureError(f"{where}, which is not a Windows time zone: write {near}.")
    words = ", ".join(f"{key} {value}" for key, value in fields.items() if value)
    recurrence = sdk.ScheduleRecurrence(**{**fields, "time_zone": zones[zone]})
    return {"description": words, "recurrence": recurrence}


@dataclass
class _Session:
    """Work in the workspace; a dry run only tells what it would do."""

    workspace: Workspace
    settings: ProjectSettings
    say: Say
    dry_run: bool = False

    def tell(self, done: str, what: str) -> None:
        would = "would be " if self.dry_run and done != "unchanged" else ""
        self.say(f"{would}{done:10} {what}")

    def provide_cluster(self) -> None:
        wanted = self.settings.compute
        name, scaling = wanted.name, {**SCALING, "max_nodes": wanted.max_nodes}
        cluster = self.workspace.compute_targets.get(name)
        done = "unchanged" if cluster else "created"
        if cluster is None:
            new = AmlCompute.provisioning_configuration(wanted.vm_size, **scaling)
            cluster = AmlCompute.create(self.workspace, name, new)
        if not isinstance(cluster, AmlCompute):
            where = f"settings.yml: compute.name is {name}, a {cluster.type}"
            raise AzureError(f"{where}, not a compute cluster: write another name.")
        if cluster.provisioning_state != "Succeeded":
            cluster.wait_for_completion()
        if cluster.provisioning_state != "Succeeded":
            errors = cluster.provisioning_errors or cluster.provisioning_state
            fix = "delete it in the Studio, and provision again"
            raise AzureError(f"The cluster {name} has failed ({errors}): {fix}.")
        nodes, size = cluster.scale_settings.maximum_node_count, cluster.vm_size
        self.tell(done, f"cluster {name}, up to {nodes} nodes of {size}")
        if (nodes, size.lower()) != (wanted.max_nodes, wanted.vm_size.lower()):
            see = f"see `{checks.COMMAND} check --online`"
            self.tell("", f"not as in settings.yml: {see}")

    def provide_environment(self, wanted: Environment) -> None:
        found, done = None, "unchanged"
        try:
            found = Environment.get(self.workspace, wanted.name)
        except Exception as error:  # the SDK's own is as bare as that
            if connection.status(error) != 404:
                raise
        if found is None or _contents(found) != _contents(wanted):
            found, done = wanted.register(self.workspace), "registered"
        self.tell(done, f"environment {wanted.name}, version {found.version}")

    def upload(self, data: DataFiles) -> dict[str, Any]:
        """Upload the files that are not there yet; gives the data as datasets."""
        store = self.workspace.get_default_datastore()
        for folder, files in data.values():
            if not files:
                continue
            # Not by the datastore's upload_files, which goes on when one file fails.
            container = store.blob_service.get_container_client(store.container_name)
            blobs = container.list_blobs(name_starts_with=f"{folder}/")
            missing = files.keys() - {blob.name for blob in blobs}
            for path in [] if self.dry_run else sorted(missing):
                with files[path].open("rb") as file:
                    container.upload_blob(path, file, overwrite=True, max_concurrency=4)
            done = "uploaded" if missing else "unchanged"
            some = f"{len(missing)} of " if missing else ""
            self.tell(done, f"{some}{len(files)} data files: {folder} of {store.name}")
        return {
            name: Dataset.File.from_files((store, folder), validate=False)
            for name, (folder, _) in data.items()
        }

    def build(self, pipeline: PipelineDefinition, data: DataFiles) -> sdk.Pipeline:
        """The pipeline in the workspace, on data that is there."""
        name = self.settings.compute.name
        if name not in self.workspace.compute_targets:
            text = f"compute.name is {name}, which is not in {self.workspace.name}"
            fix = f"`{checks.COMMAND} provision` creates it"
            raise AzureError(f"settings.yml: {text}: {fix}.")
        changing = [key for key, (_, files) in data.items() if not files]
        steps = build_steps(pipeline, self.settings, self.upload(data), changing)
        return sdk.Pipeline(self.workspace, steps)

    def start(self, built: sdk.Pipeline, parameters: dict[str, Any]) -> sdk.PipelineRun:
        """Submit, once even where Azure has started the run and its answer is lost."""
        experiment = Experiment(self.workspace, self.settings.name)
        try:
            return experiment.submit(built, pipeline_parameters=parameters)
        except Exception as error:  # of requests, msrest or the service
            address = connection.request_address(error)
            asked = re.search(r"/PipelineRuns/Submit/([^/?]+)", address)
            if asked is None:
                raise
            where = f"run {asked[1]} of the experiment {experiment.name}"
            try:
                run = sdk.PipelineRun(experiment, asked[1])
                has_started = run.get_status() != "NotStarted"
            except Exception:  # noqa: BLE001 (nothing is known, whatever it is)
                text = "Azure does not answer whether the run has started"
                fix = f"look in the Studio for {where} before you submit again"
                raise AzureError(f"{text}: {fix}.") from error
            if not has_started:
                raise
            self.tell("started", f"{where}, though the answer to that was lost")
            return run

    def follow(self, run: sdk.PipelineRun) -> bool:
        """Tell how a run's steps get on until it has ended; whether it ended well."""
        told: dict[str, str] = {}
        run_state, failures = "", 0
        try:
            while run_state not in ENDED:
                time.sleep(POLL_SECONDS)
                try:
                    latest = run.get_status()
                    for step in run.get_steps():
                        reused = step.get_properties().get("azureml.isreused") == "true"
                        state = "reused" if reused else step.get_status().lower()
                        if told.get(step.id) != state:
                            told[step.id] = state
                            self.tell(state, step.name)
                    run_state, failures = latest, 0
                except Exception:
                    failures += 1
                    if failures == PATIENCE:
                        raise
        except BaseException:  # Ctrl-C too
            self.say(f"The run goes on. Follow it at {run.get_portal_url()}")
            raise
        self.tell(run_state.lower(), f"run {run.id}")
        if run_state == "Failed":
            _show_failures(run, self.say)
        return run_state in FINISHED

    def publish(self, name: str, pipeline: PipelineDefinition, data: DataFiles) -> Any:
        """Publish behind the endpoint, and return it; None if a dry run finds none."""
        workspace, project = self.workspace, self.settings.name
        endpoint_name = f"{project}-{name}"
        found = sdk.PipelineEndpoint.list(workspace, max_results=1000)
        endpoint = next((one for one in found if one.name == endpoint_name), None)
        before = f"version {endpoint.default_version}" if endpoint else "none"
        if self.dry_run:
            self.upload(data)
            self.tell("published", f"{endpoint_name}, a new default (now: {before})")
            return endpoint
        built = self.build(pipeline, data)
        new = built.publish(endpoint_name, description=f"{name}, {project}")
        if endpoint:
            endpoint.add_default(new)
        else:
            endpoint = sdk.PipelineEndpoint.publish(workspace, endpoint_name, "", new)
        version = f"version {endpoint.default_version}, now the default"
        self.tell("published", f"{endpoint_name}, {version} (before: {before})")
        self.say(endpoint.endpoint)
        return endpoint

    def schedule(self, endpoint: Any, wanted: dict[str, Any]) -> None:
        """Have one schedule on an endpoint, the wanted one, or else none."""
        # The service words a recurrence in its own way: descriptions are compared.
        words = wanted.get("description")
        found = self.active_schedules(endpoint)
        kept = next((one for one in found if words and one.description == words), None)
        if kept:
            self.tell("unchanged", f"schedule {words}")
        elif words:
            if not self.dry_run:
                scope = (self.workspace, endpoint.name, endpoint.id, self.settings.name)
                create = sdk.Schedule.create_for_pipeline_endpoint
                kept = create(*scope, **wanted, wait_for_provisioning=True)
                # Anew: if an answer is lost, the SDK asks again, and there are two.
                found = self.active_schedules(endpoint)
            self.tell("scheduled", words)
        # Last, as one too many is mended by the next publish, and one lost is not.
        for one in found:
            if kept is None or one.id != kept.id:
                if not self.dry_run:
                    one.disable(wait_for_provisioning=True)
                self.tell("disabled", f"schedule {one.description or one.id}")

    def active_schedules(self, endpoint: Any) -> list[sdk.Schedule]:
        if endpoint is None:
            return []
        found = sdk.Schedule.list(self.workspace, pipeline_endpoint_id=endpoint.id)
        return [schedule for schedule in found if schedule.status == "Active"]


def _contents(environment: Environment) -> tuple[str, dict[str, Any]]:
    """What an environment is built from: its image and its packages."""
    packages = environment.python.conda_dependencies.as_dict()
    return environment.docker.base_image, packages


def _show_failures(run: sdk.PipelineRun, say: Say) -> None:
    """Show why a run has failed: the ends of the logs of the steps that have."""
    failed = [step for step in run.get_steps() if step.get_status() == "Failed"]
    for one in failed or [run]:
        details, properties = one.get_details(), one.get_properties()
        error = (details.get("error") or {}).get("error") or {}
        reason = error.get("message") or "Azure ML gives no reason."
        if one is run:
            return say(reason)
        say(f"{one.name} has failed: {reason}")
        logs = sorted(details.get("logFiles") or {})
        log = next((name for part in LOGS for name in logs if part in name), None)
        if log:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "log.txt"
                one.download_file(log, str(file))
                lines = file.read_text("utf-8", "replace").splitlines()
            say("\n    ".join([f"Its {log} ends:", *lines[-LOG_END:]]))
        say(f"All its logs: {one.get_portal_url()}")
        # Of the two, run history has recorded the latter.
        is_parallel = properties.get("StepType") == "ParallelRunStep"
        if is_parallel or properties.get("azureml.parallelrunstep") == "true":
            say("logs/user/ there holds what the entry script printed and raised.")
