"""The project on Azure ML: `provision`, `submit` and `publish`.

What differs between the two SDKs is in `sdk_steps.py` and `sdk_workspace.py`.
"""

from __future__ import annotations

import difflib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from .. import COMMAND
from ..files import list_files
from ..project import Pipelines, Project
from ..settings_models import ProjectSettings, Schedule
from ..steps import LOG_END, parameter_values
from ..workspaces import NEEDED
from .check_answers import CheckFailed
from .checks import read_azure_names
from .connection import (
    AzureError,
    CallTooLong,
    Printer,
    WorkspaceMissing,
    call_with_limit,
    quiet_azure_calls,
    read_service_error,
)
from .resources import Failure
from .roles import provide_roles
from .sdk_steps import build_steps, environments, read_steps
from .sdk_workspace import TIME_ZONES, Run, Workspace
from .uploads import upload_files

POLL_SECONDS = 3
ROLE_SECONDS = 30  # between two looks whether a new role works
ROLE_TRIES = 12
MAX_FAILED_POLLS = 3  # in a row, before `--wait` gives up
SUCCESS_STATES = ("finished", "completed")  # azureml-sdk's word, and azure-ai-ml's
FINAL_STATES = (*SUCCESS_STATES, "failed", "canceled")
CHUNK_BYTES = 1 << 20

#: Parts of the names of a failed step's logs, the most telling log first.
TELLING_LOGS = (
    # What the entry script of a parallel step raised; the step's own log only says
    # "SystemExit: 42".
    "logs/user/error.txt",
    # What the script printed.
    "user_logs/std_log",
    # What happened to a step that died before its script ran.
    "executionlogs.txt",
)


@dataclass(frozen=True)
class DataFolder:
    """A folder of the default datastore, and the files that belong into it.

    Without files, the user has named the folder, and what is in it can change.
    """

    path: str
    files: dict[str, Path] = field(default_factory=dict)  # by their path on the store


def provision(
    project: Project[Any],
    pipelines: Pipelines,
    create_workspace: bool = False,
    debug: bool = False,
) -> None:
    """Create what the pipelines need on Azure; leave what exists as it is.

    Data that is not on this machine is reported, and no error: on a build server, git
    may hold the sample alone.
    """
    needs = [*NEEDED, "compute.name", "compute.vm_size"]
    if create_workspace:
        needs.append("region")
    config = project.workspace_config(needs)
    settings = project.settings()
    # Each key once, in the order of the pipelines.
    data_keys = dict.fromkeys(
        key for pipeline in pipelines.values() for key in pipeline.data.values()
    )

    with quiet_azure_calls(config, project.root, debug) as printer:
        status = "unchanged"
        try:
            workspace = call_with_limit(
                "to connect to the workspace", Workspace.connect, config
            )
        except WorkspaceMissing:
            if not create_workspace:
                raise
            uses_identities = settings.compute.identity is not None
            workspace = call_with_limit(
                "to create the workspace", Workspace.create, config, uses_identities
            )
            status = "created"

        session = _Session(workspace, project, settings, printer)
        session.report(status, f"workspace {workspace.name}, in {workspace.region}")
        session.provide_cluster()
        session.provide_image_builder()
        session.provide_roles()
        for environment in environments(pipelines, settings):
            session.provide_environment(environment)
        for key in data_keys:
            if _data_files(project, settings, key):
                session.upload(_project_data(project, settings, key))
            else:
                path = getattr(settings.data, key)
                session.report("missing", f"data.{key}: there is no file in {path}")


def submit(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    values: Mapping[str, str],
    wait: bool = False,
    debug: bool = False,
) -> bool:
    """Run a pipeline on Azure ML; return False if it was waited for and has failed.

    `values` are pipeline parameters as texts. The value of a parameter for data is a
    folder of the default datastore, which is read in place of the project's data.
    """
    config = project.workspace_config([*NEEDED, "compute.name"])
    settings = project.settings()
    pipeline = pipelines[name]
    steps = read_steps(build_steps(pipeline, settings))
    no_data = dict.fromkeys(pipeline.data, "")
    all_values = parameter_values(project, steps, no_data, values)
    overrides = {key: all_values[key] for key in values if key not in pipeline.data}
    data = _pipeline_data(project, settings, pipeline.data, values)

    with quiet_azure_calls(config, project.root, debug) as printer:
        workspace = call_with_limit(
            "to connect to the workspace", Workspace.connect, config
        )
        session = _Session(workspace, project, settings, printer)
        session.require_compute()
        session.upload_all(data)
        built = session.build(pipeline, data)
        started = call_with_limit(
            "to submit the pipeline", workspace.start, built, settings.name, overrides
        )

        run = started.run
        if started.answer_was_lost:
            session.report(
                "started",
                f"run {run.id} of the experiment {settings.name}, though the answer to "
                "that was lost",
            )
        session.report("submitted", f"{name}, run {run.id}\n{run.url}")
        if not wait:
            return True
        return session.follow(run)


def publish(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    folders: Mapping[str, str] | None = None,
    dry_run: bool = False,
    debug: bool = False,
) -> None:
    """Publish a pipeline behind its endpoint, and schedule it as the settings say.

    It reads the project's data as it is now. For the pipeline parameters in `folders`, it
    reads what is in that folder of the default datastore whenever it runs. A dry run
    reports what would change, and changes nothing.
    """
    config = project.workspace_config([*NEEDED, "compute.name"])
    settings = project.settings()
    pipeline = pipelines[name]
    schedule = _schedule_setting(project, settings, pipelines, name)
    data = _pipeline_data(project, settings, pipeline.data, folders or {})

    with quiet_azure_calls(config, project.root, debug) as printer:
        workspace = call_with_limit(
            "to connect to the workspace", Workspace.connect, config
        )
        session = _Session(workspace, project, settings, printer, dry_run)
        endpoint_name = workspace.endpoint_name(f"{settings.name}-{name}")
        endpoint = call_with_limit(
            "to look up the endpoint", workspace.find_endpoint, endpoint_name
        )
        earlier_version = endpoint.version if endpoint else "none"

        built = None
        if dry_run:
            session.upload_all(data)
            session.report(
                "published", f"{endpoint_name}, a new default (now: {earlier_version})"
            )
        else:
            session.require_compute()
            session.upload_all(data)
            built = session.build(pipeline, data)
            endpoint = call_with_limit(
                "to publish the pipeline",
                workspace.publish,
                endpoint_name,
                endpoint,
                built,
                f"{name}, {settings.name}",
            )
            session.report(
                "published",
                f"{endpoint_name}, {endpoint.version}, now the default "
                f"(before: {earlier_version})",
            )
            printer(endpoint.url)

        changes = call_with_limit(
            "to schedule the pipeline",
            workspace.schedule,
            endpoint_name,
            endpoint,
            schedule,
            built,
            settings.name,
        )
        for change in changes:
            if change.status == "scheduled":
                session.report(change.status, change.description)
            else:
                session.report(change.status, f"schedule {change.description}")


def _pipeline_data(
    project: Project[Any],
    settings: ProjectSettings,
    data_keys: Mapping[str, str],
    folders: Mapping[str, str],
) -> dict[str, DataFolder]:
    """Return the folder that each data parameter of a pipeline reads.

    `data_keys` maps the parameters to names of settings below `data`. `folders` are named
    by the user, and take the place of the project's data.
    """
    data = {}
    for parameter, key in data_keys.items():
        if folders.get(parameter):
            data[parameter] = DataFolder(folders[parameter])
        else:
            data[parameter] = _project_data(project, settings, key)
    return data


def _data_files(
    project: Project[Any], settings: ProjectSettings, key: str
) -> list[tuple[str, Path]]:
    """Return the files that `data.KEY` of the settings names, sorted by their path."""
    files = list_files(project.root / getattr(settings.data, key))
    return sorted(files.items(), key=itemgetter(1))


def _project_data(
    project: Project[Any], settings: ProjectSettings, key: str
) -> DataFolder:
    """Return the files of `data.KEY`, and the folder of the datastore for them.

    The folder is named by a digest of the files. Azure ML does not look into data, so
    steps would use their old results again if files changed in the same folder.
    """
    files = _data_files(project, settings, key)
    if not files:
        setting = f"data.{key}"
        raise AzureError(
            f"{project.file_of(setting)}: {setting} is {getattr(settings.data, key)}, "
            "where no file is: put the data there, or write where it is."
        )

    digest = hashlib.sha256()
    for relative, file in files:
        digest.update(f"{relative}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)

    folder = f"{settings.name}/{key}-{digest.hexdigest()[:16]}"
    return DataFolder(
        folder, {f"{folder}/{relative}": file for relative, file in files}
    )


def _schedule_setting(
    project: Project[Any], settings: ProjectSettings, pipelines: Pipelines, name: str
) -> Schedule | None:
    """Return the schedule that the settings have for a pipeline, or None.

    Raises AzureError for a schedule of no pipeline, and for an unknown time zone.
    """
    unknown_names = settings.schedules.keys() - pipelines.keys()
    if unknown_names:
        key = f"schedules.{min(unknown_names)}"
        raise AzureError(
            f"{project.file_of(key)}: {key} is not of a pipeline: write one of "
            f"{', '.join(pipelines)}."
        )

    schedule = settings.schedules.get(name)
    if schedule and schedule.time_zone not in TIME_ZONES:
        key = f"schedules.{name}.time_zone"
        close = difflib.get_close_matches(schedule.time_zone, TIME_ZONES)
        suggestion = " or ".join(close) or "UTC"
        raise AzureError(
            f"{project.file_of(key)}: {key} is {schedule.time_zone}, which is not a "
            f"Windows time zone: write {suggestion}."
        )
    return schedule


@dataclass
class _Session:
    """The work of one command in the workspace; a dry run only reports it."""

    workspace: Workspace
    project: Project[Any]
    settings: ProjectSettings
    printer: Printer
    dry_run: bool = False
    has_new_roles: bool = False

    def report(self, status: str, text: str) -> None:
        """Print what was done, or in a dry run what would be done."""
        if self.dry_run and status != "unchanged":
            status = f"would be {status:10}"
        self.printer(f"{status:10} {text}")

    def provide_cluster(self) -> None:
        """Create the cluster of the settings, unless the workspace has it."""
        setting = self.settings.compute
        status = "unchanged"
        cluster = call_with_limit(
            "to look up the cluster", self.workspace.find_cluster, setting.name
        )
        if cluster is None:
            status = "created"
            cluster = call_with_limit(
                "to create the cluster", self.workspace.create_cluster, setting
            )

        nodes = cluster.max_nodes
        size = cluster.vm_size
        self.report(status, f"cluster {setting.name}, up to {nodes} nodes of {size}")
        if nodes != setting.max_nodes or size.lower() != setting.vm_size.lower():
            command = f"{COMMAND} check --online{self.project.files.option}"
            self.report("", f"not as in the settings: see `{command}`")

    def provide_image_builder(self) -> None:
        """Let the cluster that the settings name build the images of environments."""
        name = self.settings.workspace.image_build_compute
        if name is None:
            return
        is_new = call_with_limit(
            "to choose the cluster that builds images",
            self.workspace.use_image_builder,
            name,
        )
        status = "chosen" if is_new else "unchanged"
        self.report(status, f"cluster {name}, which builds images")

    def provide_roles(self) -> None:
        """Give the roles for data without keys, or print how an owner gives them."""
        if self.settings.compute.identity is None:
            return
        names = read_azure_names(self.project)
        try:
            statuses = call_with_limit("to give roles", provide_roles, names)
        except CheckFailed as failed:
            raise AzureError(f"{failed.answer.text} {failed.answer.fix}") from failed
        for status in statuses:
            text = f"{status.role.name} on {status.account} for {status.owner}"
            if status.command:
                self.report("missing", f"role {text}: an owner runs {status.command}")
            elif status.is_new:
                self.report("assigned", f"role {text}")
                self.has_new_roles = True
            else:
                self.report("unchanged", f"role {text}")

    def provide_environment(self, environment: Any) -> None:
        """Register an environment, unless the workspace has the same one."""
        registered = call_with_limit(
            "to register the environment", self.workspace.register, environment
        )
        status = "registered" if registered.is_new else "unchanged"
        self.report(
            status, f"environment {registered.name}, version {registered.version}"
        )

    def require_compute(self) -> None:
        """Raise AzureError if the workspace has no compute of the name in the settings."""
        name = self.settings.compute.name
        if not call_with_limit(
            "to look up the compute", self.workspace.has_compute, name
        ):
            raise AzureError(
                f"{self.project.file_of('compute.name')}: compute.name is {name}, which "
                f"is not in {self.workspace.name}: `{COMMAND} "
                f"provision{self.project.files.option}` creates it."
            )

    def build(self, pipeline: Any, data: Mapping[str, DataFolder]) -> Any:
        """Return the SDK's pipeline, on folders of the default datastore."""
        folders = {name: folder.path for name, folder in data.items()}
        changing = [name for name, folder in data.items() if not folder.files]
        return call_with_limit(
            "to prepare the pipeline",
            self.workspace.build,
            pipeline,
            self.settings,
            folders,
            changing,
        )

    def upload_all(self, data: Mapping[str, DataFolder]) -> None:
        """Upload the project's data; folders that the user has named hold theirs."""
        for folder in data.values():
            if folder.files:
                self.upload(folder)

    def upload(self, folder: DataFolder) -> None:
        """Upload the files of a folder that are not on the datastore yet."""
        store, container = call_with_limit(
            "to look up the default datastore", self.workspace.default_datastore
        )
        if self.has_new_roles:
            self._wait_for_roles(container)
        blobs = container.list_blobs(name_starts_with=f"{folder.path}/")
        missing = folder.files.keys() - {blob.name for blob in blobs}
        total = len(folder.files)

        if missing and not self.dry_run:
            files = {path: folder.files[path] for path in sorted(missing)}
            # The SDK's own upload goes on when one file fails, so it is not used here.
            with self._show_progress(files) as report_bytes:
                upload_files(container, files, report_bytes)

        if missing:
            count = f"{len(missing)} of {total}"
            self.report("uploaded", f"{count} data files: {folder.path} of {store}")
        else:
            self.report("unchanged", f"{total} data files: {folder.path} of {store}")

    def _wait_for_roles(self, container: ContainerClient) -> None:
        """Wait until a role that was given just now works, which takes some minutes."""
        for _ in range(ROLE_TRIES):
            try:
                next(iter(container.list_blobs(results_per_page=1)), None)
            except HttpResponseError as error:
                refusal = read_service_error(error)
                if not refusal or refusal.code != "AuthorizationPermissionMismatch":
                    raise
                self.report("waiting", "until the new roles work")
                time.sleep(ROLE_SECONDS)
            else:
                break
        self.has_new_roles = False

    @contextmanager
    def _show_progress(
        self, files: Mapping[str, Path]
    ) -> Iterator[Callable[[str, int], None]]:
        """Show a progress bar in a terminal, and yield the callback that moves it.

        The callback takes a path and how many bytes of its file have been sent.
        """
        console = Console(file=self.printer.screen)
        columns = (
            *Progress.get_default_columns(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        total = sum(file.stat().st_size for file in files.values())
        sent: dict[str, int] = {}
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            task = progress.add_task("uploading", total=total)

            def report_bytes(path: str, bytes_sent: int) -> None:
                sent[path] = bytes_sent
                progress.update(task, completed=sum(list(sent.values())))

            yield report_bytes

    def follow(self, run: Run) -> bool:
        """Report the states of a run's steps until it ends; return whether it went well.

        A few failed polls are forgiven. The run goes on if this is interrupted.
        """
        reported: dict[str, str] = {}
        run_state = ""
        failed_polls = 0
        try:
            while run_state not in FINAL_STATES:
                time.sleep(POLL_SECONDS)
                try:
                    run_state = self._poll(run, reported)
                    failed_polls = 0
                except CallTooLong:
                    raise
                except Exception:
                    failed_polls += 1
                    if failed_polls == MAX_FAILED_POLLS:
                        raise
        except BaseException:  # Ctrl-C, too.
            self.printer(f"The run goes on. Follow it at {run.url}")
            raise

        self.report(run_state, f"run {run.id}")
        if run_state == "failed":
            for failure in call_with_limit("to read the logs", run.failures):
                _show_failure(failure, self.printer)
        return run_state in SUCCESS_STATES

    def _poll(self, run: Run, reported: dict[str, str]) -> str:
        """Report the steps whose state is not yet in `reported`; return the run's state."""
        # The run is asked first: once it has ended, its steps have, and all are reported.
        run_state = call_with_limit("to say how the run gets on", run.state)
        for step in call_with_limit("to say how the steps get on", run.steps):
            if reported.get(step.run_id) != step.state:
                reported[step.run_id] = step.state
                self.report(step.state, step.name)
        return run_state


def _show_failure(failure: Failure, printer: Printer) -> None:
    """Print why a step has failed: its error, and the end of its most telling log."""
    reason = failure.reason or "Azure ML gives no reason."
    if not failure.step:
        printer(reason)
        return

    printer(f"{failure.step} has failed: {reason}")
    log = _most_telling_log(failure.logs)
    if log:
        text = call_with_limit("to send a log", failure.read_log, log)
        last_lines = text.splitlines()[-LOG_END:]
        printer("\n    ".join([f"Its {log} ends:", *last_lines]))
    printer(f"All its logs: {failure.url}")
    if failure.is_parallel:
        printer("logs/user/ there holds what the entry script printed and raised.")


def _most_telling_log(logs: list[str]) -> str:
    """Return the name of the log to show first, or an empty text if there is none."""
    for part in TELLING_LOGS:
        for log in sorted(logs):
            if part in log:
                return log
    return min(logs, default="")
