"""The project on Azure ML: provision its needs, submit and publish its pipelines."""

from __future__ import annotations

import difflib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from .. import COMMAND
from ..files import list_files
from ..project import Pipelines, Project
from ..settings_models import ProjectSettings, Schedule
from ..steps import LOG_END, parameter_values
from ..workspaces import NEEDED
from . import connection
from .connection import AzureError, Failure, Say, WorkspaceMissing
from .sdk_steps import build_steps, environments, read_steps
from .sdk_workspace import TIME_ZONES, Run, Workspace

POLL_SECONDS = 3
PATIENCE = 3  # polls in a row that may fail before --wait gives up
FINISHED = ("finished", "completed")  # azureml-sdk's word, and run history's
ENDED = (*FINISHED, "failed", "canceled")  # and any other state can still change
#: What the names of logs hold, those first that tell most of a failed step: what the
#: entry script of a parallel step raised, where its own log says SystemExit: 42; what
#: the script printed; what became of a step that has died before its script ran; any.
LOGS = ("logs/user/error.txt", "user_logs/std_log", "executionlogs.txt", "")

#: By name: a folder of the default datastore, and the project's files by their paths
#: there; no files if the user has named the folder, where they can change.
DataFiles = dict[str, tuple[str, dict[str, Path]]]


def provision(
    project: Project[Any], pipelines: Pipelines, create_workspace: bool = False
) -> None:
    """Have on Azure what the pipelines need; what is there already stays as it is."""
    needs = [*NEEDED, "compute.name", "compute.vm_size"]
    config = project.workspace_config([*needs, "region"] if create_workspace else needs)
    settings = project.settings()
    keys = [key for pipeline in pipelines.values() for key in pipeline.data.values()]
    data = _data(project, settings, dict(zip(keys, keys)), {})
    with connection.azure(config) as say:
        done = "unchanged"
        try:
            workspace = Workspace.connect(config)
        except WorkspaceMissing:
            if not create_workspace:
                raise
            workspace, done = Workspace.create(config), "created"
        session = _Session(workspace, project, settings, say)
        session.tell(done, f"workspace {workspace.name}, in {workspace.region}")
        session.provide_cluster()
        for environment in environments(pipelines, settings):
            session.tell(*workspace.register(environment))
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
    config = project.workspace_config([*NEEDED, "compute.name"])
    settings, pipeline = project.settings(), pipelines[name]
    steps = read_steps(build_steps(pipeline, settings))
    nowhere = dict.fromkeys(pipeline.data, "")
    parameters = parameter_values(project, steps, nowhere, values)
    given = {key: parameters[key] for key in values if key not in pipeline.data}
    data = _data(project, settings, pipeline.data, values)
    with connection.azure(config) as say:
        session = _Session(Workspace.connect(config), project, settings, say)
        folders, changing = session.prepare(data)
        built = session.workspace.build(pipeline, settings, folders, changing)
        run, is_recovered = session.workspace.start(built, settings.name, given)
        if is_recovered:
            where = f"run {run.id} of the experiment {settings.name}"
            session.tell("started", f"{where}, though the answer to that was lost")
        session.tell("submitted", f"{name}, run {run.id}\n{run.url}")
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
    config = project.workspace_config([*NEEDED, "compute.name"])
    settings, pipeline = project.settings(), pipelines[name]
    schedule = _wanted_schedule(project, settings, pipelines, name)
    data = _data(project, settings, pipeline.data, folders or {})
    with connection.azure(config) as say:
        session = _Session(Workspace.connect(config), project, settings, say, dry_run)
        workspace = session.workspace
        endpoint = workspace.endpoint_name(f"{settings.name}-{name}")
        published = workspace.published(endpoint)
        before = published.version if published else "none"
        built = None
        if dry_run:
            session.upload(data)
            new = f"{endpoint}, a new default (now: {before})"
            session.tell("published", new)
        else:
            found, changing = session.prepare(data)
            built = workspace.build(pipeline, settings, found, changing)
            description = f"{name}, {settings.name}"
            published = workspace.publish(endpoint, published, built, description)
            now = f"{published.version}, now the default (before: {before})"
            session.tell("published", f"{endpoint}, {now}")
            say(published.url)
        done = workspace.schedule(endpoint, published, schedule, built, settings.name)
        for what, words in done:
            session.tell(what, words if what == "scheduled" else f"schedule {words}")


def _data(
    project: Project[Any],
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
        files = sorted(list_files(project.root / path).items(), key=itemgetter(1))
        if not files:
            where = f"{project.file_of(f'data.{key}')}: data.{key} is {path}"
            fix = "put the data there, or write where it is"
            raise AzureError(f"{where}, where no file is: {fix}.")
        digest = hashlib.sha256()
        for relative, file in files:
            digest.update(f"{relative}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
        folder = f"{settings.name}/{key}-{digest.hexdigest()[:16]}"
        data[name] = folder, {f"{folder}/{relative}": file for relative, file in files}
    return data


def _wanted_schedule(
    project: Project[Any], settings: ProjectSettings, pipelines: Pipelines, name: str
) -> Schedule | None:
    """A pipeline's schedule, if the settings have one."""
    schedules = settings.schedules
    unknown = schedules.keys() - pipelines.keys()
    if unknown:
        key = f"schedules.{min(unknown)}"
        where = f"{project.file_of(key)}: {key} is not of a pipeline"
        raise AzureError(f"{where}: write one of {', '.join(pipelines)}.")
    wanted = schedules.get(name)
    if wanted and wanted.time_zone not in TIME_ZONES:
        close = difflib.get_close_matches(wanted.time_zone, TIME_ZONES)
        near = " or ".join(close) or "UTC"
        key = f"schedules.{name}.time_zone"
        where = f"{project.file_of(key)}: {key} is {wanted.time_zone}"
        raise AzureError(f"{where}, which is not a Windows time zone: write {near}.")
    return wanted


@dataclass
class _Session:
    """Work in the workspace; a dry run only tells what it would do."""

    workspace: Workspace
    project: Project[Any]
    settings: ProjectSettings
    say: Say
    dry_run: bool = False

    def tell(self, done: str, what: str) -> None:
        would = "would be " if self.dry_run and done != "unchanged" else ""
        self.say(f"{would}{done:10} {what}")

    def provide_cluster(self) -> None:
        wanted = self.settings.compute
        cluster = self.workspace.cluster(wanted.name)
        done = "unchanged" if cluster else "created"
        cluster = cluster or self.workspace.create_cluster(wanted)
        nodes, size = cluster.max_nodes, cluster.vm_size
        self.tell(done, f"cluster {wanted.name}, up to {nodes} nodes of {size}")
        if (nodes, size.lower()) != (wanted.max_nodes, wanted.vm_size.lower()):
            command = f"{COMMAND} check --online{self.project.files.option}"
            self.tell("", f"not as in the settings: see `{command}`")

    def prepare(self, data: DataFiles) -> tuple[dict[str, str], list[str]]:
        """Upload data; gives its folders by name, and the names of those that change."""
        project, workspace = self.project, self.workspace
        name = self.settings.compute.name
        if not workspace.has_compute(name):
            text = f"compute.name is {name}, which is not in {workspace.name}"
            fix = f"`{COMMAND} provision{project.files.option}` creates it"
            raise AzureError(f"{project.file_of('compute.name')}: {text}: {fix}.")
        self.upload(data)
        changing = [key for key, (_, files) in data.items() if not files]
        return {key: folder for key, (folder, _) in data.items()}, changing

    def upload(self, data: DataFiles) -> None:
        """Upload the files that are not there yet."""
        store, container = self.workspace.default_datastore()
        for folder, files in data.values():
            if not files:
                continue
            # Not by the SDK's own upload, which goes on when one file fails.
            blobs = container.list_blobs(name_starts_with=f"{folder}/")
            missing = files.keys() - {blob.name for blob in blobs}
            for path, advance in self._each({path: files[path] for path in missing}):
                with files[path].open("rb") as file:
                    container.upload_blob(
                        path,
                        file,
                        overwrite=True,
                        max_concurrency=4,
                        progress_hook=advance,
                    )
            done = "uploaded" if missing else "unchanged"
            some = f"{len(missing)} of " if missing else ""
            self.tell(done, f"{some}{len(files)} data files: {folder} of {store}")

    def _each(
        self, files: Mapping[str, Path]
    ) -> Iterator[tuple[str, Callable[[int, int | None], None]]]:
        """Each path to upload, and what to tell its bytes, which the screen shows."""
        console = Console(file=self.say.screen)
        columns = (
            *Progress.get_default_columns(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        sizes = {path: file.stat().st_size for path, file in files.items()}
        done = 0
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            task = progress.add_task("uploading", total=sum(sizes.values()))

            def tell(before: int, sent: int, _: int | None) -> None:
                progress.update(task, completed=before + sent)

            for path, size in [] if self.dry_run else sorted(sizes.items()):
                yield path, partial(tell, done)
                done += size

    def follow(self, run: Run) -> bool:
        """Tell how a run's steps get on until it has ended; whether it ended well."""
        told: dict[str, str] = {}
        run_state, failures = "", 0
        try:
            while run_state not in ENDED:
                time.sleep(POLL_SECONDS)
                try:
                    latest = run.state()
                    for id, name, state in run.steps():
                        if told.get(id) != state:
                            told[id] = state
                            self.tell(state, name)
                    run_state, failures = latest, 0
                except Exception:
                    failures += 1
                    if failures == PATIENCE:
                        raise
        except BaseException:  # Ctrl-C too
            self.say(f"The run goes on. Follow it at {run.url}")
            raise
        self.tell(run_state, f"run {run.id}")
        if run_state == "failed":
            for failure in run.failures():
                _show(failure, self.say)
        return run_state in FINISHED


def _show(failure: Failure, say: Say) -> None:
    """Show why a step has failed: its error, and the end of the log that tells most."""
    reason = failure.reason or "Azure ML gives no reason."
    if not failure.step:
        return say(reason)
    say(f"{failure.step} has failed: {reason}")
    logs = sorted(failure.logs)
    log = next((name for part in LOGS for name in logs if part in name), None)
    if log:
        lines = failure.read(log).splitlines()
        say("\n    ".join([f"Its {log} ends:", *lines[-LOG_END:]]))
    say(f"All its logs: {failure.url}")
    if failure.is_parallel:
        say("logs/user/ there holds what the entry script printed and raised.")
