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
from ..settings_models import Compute, ProjectSettings, Schedule
from ..steps import LOG_END, parameter_values
from ..workspaces import NEEDED, WorkspaceConfig
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

# `--wait` asks for the state of a run at this interval.
POLL_SECONDS = 3
# After this many failed polls in a row, `--wait` gives up.
MAX_FAILED_POLLS = 3
# A new role is tried at this interval, and at most this many times.
ROLE_SECONDS = 30
ROLE_TRIES = 12
# azureml-sdk calls a run that has succeeded finished, and azure-ai-ml calls it completed.
SUCCESS_STATES = ("finished", "completed")
FINAL_STATES = (*SUCCESS_STATES, "failed", "canceled")
CHUNK_BYTES = 1 << 20

#: Parts of the names of a failed step's logs. The log that explains most is first.
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
    """A folder of the default datastore, and the local files to upload into it."""

    path: str
    #: The local files by their paths on the datastore. There are none if the user has named
    #: the folder. Its contents can then change at any time.
    files: dict[str, Path] = field(default_factory=dict)


def provision(
    project: Project[Any],
    pipelines: Pipelines,
    create_workspace: bool = False,
    debug: bool = False,
) -> None:
    """Create what the pipelines need on Azure, and leave what exists as it is.

    Data that is not on this machine is reported, but is no error: a build server may have
    only the sample that is in git.
    """
    needs = [*NEEDED, "compute.name", "compute.vm_size"]
    if create_workspace:
        needs.append("region")
    config = project.workspace_config(needs)
    settings = project.settings()
    _check_subnets(project, settings, config)
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
            uses_identities = _use_identities(settings)
            workspace = call_with_limit(
                "to create the workspace", Workspace.create, config, uses_identities
            )
            status = "created"

        session = _Session(workspace, project, settings, printer)
        session.report(status, f"workspace {workspace.name}, in {workspace.region}")
        for compute in settings.all_computes().values():
            session.provide_cluster(compute)
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
    """Run a pipeline on Azure ML. Return False if the run has failed while it was followed.

    `name` is the pipeline's name. `values` are pipeline parameters as texts. For a
    parameter for data, the text is a folder of the default datastore, which the run reads
    in place of the project's data. With `wait`, the run is followed to its end.
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
        session.require_computes()
        session.upload_all(data)
        built = session.build(pipeline, data)
        started = call_with_limit(
            "to submit the pipeline",
            workspace.start,
            built,
            name,
            settings.name,
            overrides,
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
    """Publish a pipeline under an endpoint, and give it the schedule of the settings.

    The published pipeline reads the project's data as it is now. `folders` are folders of
    the default datastore, by the pipeline parameters that read them instead. Their files
    are read anew in each run. A dry run reports what would change, and changes nothing.
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
            session.require_computes()
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
            name,
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


def _check_subnets(
    project: Project[Any], settings: ProjectSettings, config: WorkspaceConfig
) -> None:
    """Raise AzureError if a subnet is not in the subscription of the workspace.

    Azure ML demands this. azureml-sdk leaves the subscription out of what it sends, so that
    Azure would look for the subnet in the wrong place.
    """
    for section, compute in settings.all_computes().items():
        if compute.subnet is None:
            continue
        subscription = compute.subnet.split("/")[2]
        if subscription.lower() != config.subscription_id.lower():
            key = f"{section}.subnet"
            raise AzureError(
                f"{project.file_of(key)}: {key} is in the subscription {subscription}, but "
                f"the workspace is in {config.subscription_id}. Write a subnet of that "
                "subscription."
            )


def _use_identities(settings: ProjectSettings) -> bool:
    """Return whether the settings give an identity to a cluster."""
    return any(compute.identity for compute in settings.all_computes().values())


def _pipeline_data(
    project: Project[Any],
    settings: ProjectSettings,
    data_keys: Mapping[str, str],
    folders: Mapping[str, str],
) -> dict[str, DataFolder]:
    """Return the folder that each data parameter of a pipeline reads.

    `data_keys` are the settings below `data`, by the parameters that read their files.
    `folders` are folders of the default datastore that the user has named, by the
    parameters that read them in place of the project's data.
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
    """Return the files at the path in the setting `data.KEY`, sorted by their paths.

    Each is a pair of its path below the one of the setting, and its path on this machine.
    """
    files = list_files(project.root / getattr(settings.data, key))
    return sorted(files.items(), key=itemgetter(1))


def _project_data(
    project: Project[Any], settings: ProjectSettings, key: str
) -> DataFolder:
    """Return the files of the setting `data.KEY`, and the folder to upload them into.

    The name of the folder holds a digest of the files. Azure ML does not notice when files
    in a folder change, and would reuse the results of earlier runs. So changed files go
    into a new folder. Raises AzureError if there are no files.
    """
    files = _data_files(project, settings, key)
    if not files:
        setting = f"data.{key}"
        raise AzureError(
            f"{project.file_of(setting)}: {setting} is {getattr(settings.data, key)}, but "
            "there is no file there. Put the data there, or correct the path."
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

    Raises AzureError if there is a schedule for an unknown pipeline, or if the schedule has
    an unknown time zone.
    """
    unknown_names = settings.schedules.keys() - pipelines.keys()
    if unknown_names:
        key = f"schedules.{min(unknown_names)}"
        raise AzureError(
            f"{project.file_of(key)}: {key} does not belong to a pipeline. Write one of "
            f"{', '.join(pipelines)}."
        )

    schedule = settings.schedules.get(name)
    if schedule and schedule.time_zone not in TIME_ZONES:
        key = f"schedules.{name}.time_zone"
        close = difflib.get_close_matches(schedule.time_zone, TIME_ZONES)
        suggestion = " or ".join(close) or "UTC"
        raise AzureError(
            f"{project.file_of(key)}: {key} is {schedule.time_zone}, which is not a "
            f"Windows time zone. Write {suggestion}."
        )
    return schedule


@dataclass
class _Session:
    """The work of one command in the workspace. In a dry run, it is only reported."""

    workspace: Workspace
    project: Project[Any]
    settings: ProjectSettings
    printer: Printer
    dry_run: bool = False
    has_new_roles: bool = False

    def report(self, status: str, text: str) -> None:
        """Print what was done, or in a dry run what would be done.

        `status` is a participle such as "created", which begins the line.
        """
        if self.dry_run and status != "unchanged":
            status = f"would be {status:10}"
        self.printer(f"{status:10} {text}")

    def provide_cluster(self, setting: Compute) -> None:
        """Create a cluster of the settings if the workspace has none of this name.

        An existing cluster is not changed. If it differs from the settings, this is
        reported.
        """
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
        has_other_nodes = nodes != setting.max_nodes
        has_other_size = size.lower() != setting.vm_size.lower()
        if has_other_nodes or has_other_size:
            command = f"{COMMAND} check --online{self.project.files.option}"
            self.report(
                "differing",
                f"cluster {setting.name} is not as in the settings. `{command}` shows the "
                "difference.",
            )

    def provide_image_builder(self) -> None:
        """Make the cluster that the settings name build the images of environments."""
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
        """Assign the roles by which steps read and write data without account keys.

        If the user may not assign a role, the command with which an owner does is printed.
        """
        clusters = [names for names in read_azure_names(self.project) if names.identity]
        if not clusters:
            return
        try:
            statuses = call_with_limit("to give roles", provide_roles, clusters)
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
        """Register an environment, unless the same one is registered already."""
        registered = call_with_limit(
            "to register the environment", self.workspace.register, environment
        )
        status = "registered" if registered.is_new else "unchanged"
        self.report(
            status, f"environment {registered.name}, version {registered.version}"
        )

    def require_computes(self) -> None:
        """Raise AzureError if the workspace lacks one of the computes in the settings."""
        for section, compute in self.settings.all_computes().items():
            exists = call_with_limit(
                "to look up the compute", self.workspace.has_compute, compute.name
            )
            if not exists:
                key = f"{section}.name"
                raise AzureError(
                    f"{self.project.file_of(key)}: {key} is {compute.name}, which is not "
                    f"in {self.workspace.name}: `{COMMAND} "
                    f"provision{self.project.files.option}` creates it."
                )

    def build(self, pipeline: Any, data: Mapping[str, DataFolder]) -> Any:
        """Return the SDK's pipeline, which reads the folders of its data parameters."""
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
        """Upload the project's data. Folders that the user has named are left alone."""
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
        """Wait until newly assigned roles work, which can take some minutes."""
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
                """Show how many bytes of a file have been sent."""
                sent[path] = bytes_sent
                progress.update(task, completed=sum(list(sent.values())))

            yield report_bytes

    def follow(self, run: Run) -> bool:
        """Report the states of a run's steps until it ends. Return whether it succeeded.

        A poll may fail a few times in a row before its error is raised. The run itself
        goes on if following it fails or is interrupted.
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
        except BaseException:  # This includes Ctrl-C.
            self.printer(f"The run goes on. Follow it at {run.url}")
            raise

        self.report(run_state, f"run {run.id}")
        if run_state == "failed":
            for failure in call_with_limit("to read the logs", run.failures):
                _show_failure(failure, self.printer)
        return run_state in SUCCESS_STATES

    def _poll(self, run: Run, reported: dict[str, str]) -> str:
        """Report the steps whose state has changed, and return the state of the run.

        `reported` has the last reported state of each step, and is updated.
        """
        # The state of the run is read first. If the run has ended, the states of the steps
        # are final, so none is missed.
        run_state = call_with_limit("to say how the run gets on", run.state)
        for step in call_with_limit("to say how the steps get on", run.steps):
            if reported.get(step.run_id) != step.state:
                reported[step.run_id] = step.state
                self.report(step.state, step.name)
        return run_state


def _show_failure(failure: Failure, printer: Printer) -> None:
    """Print why a step has failed, and the end of the log that explains most."""
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
