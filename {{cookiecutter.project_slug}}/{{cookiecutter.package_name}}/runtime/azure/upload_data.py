"""Upload data folders to the default datastore, and show the progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from .blob_container import upload_files
from .call_limits import call_with_limit
from .data_folders import DataFolder
from .resources import Datastore
from .sdk_errors import find_service_error
from .session import Session

#: New roles are tried at this interval in seconds, and at most this many times.
ROLE_SECONDS = 30
ROLE_TRIES = 12


def upload_data(
    session: Session, folders: Collection[DataFolder], has_new_roles: bool = False
) -> None:
    """Upload those files of the data folders that the default datastore does not have yet.

    In a dry run, these files are only reported. With `has_new_roles`, wait first until the
    roles that were just assigned have taken effect.
    """
    # A folder without local files is one that the user has named on the datastore, so there
    # is nothing to upload.
    folders_to_upload = [folder for folder in folders if folder.files]
    if not folders_to_upload:
        return

    datastore = call_with_limit(
        "to look up the default datastore", session.workspace.default_datastore
    )
    if has_new_roles:
        _wait_for_roles(session, datastore.container)
    for folder in folders_to_upload:
        _upload_folder(session, datastore, folder)


def _upload_folder(session: Session, datastore: Datastore, folder: DataFolder) -> None:
    """Upload those files of a folder that the datastore lacks, and report their number.

    A dry run only reports the number.
    """
    container = datastore.container
    blobs = container.list_blobs(name_starts_with=f"{folder.path}/")
    existing = {blob.name for blob in blobs}
    missing = {
        path: file
        for path, file in sorted(folder.files.items())
        if path not in existing
    }

    total = len(folder.files)
    place = f"{folder.path} on {datastore.name}"
    if not missing:
        session.report("unchanged", f"{total} data files: {place}")
        return
    if not session.dry_run:
        # The SDK's own upload continues after one file has failed, so it is not used here.
        with _show_progress(missing, session.printer.screen) as report_bytes:
            upload_files(container, missing, report_bytes)
    session.report("uploaded", f"{len(missing)} of {total} data files: {place}")


@contextmanager
def _show_progress(
    files: Mapping[str, Path], screen: TextIO
) -> Iterator[Callable[[str, int], None]]:
    """Show a progress bar if `screen` is a terminal, and yield the callback that moves it.

    The callback takes a path and the number of bytes of its file that have been sent so far.
    If `screen` is no terminal, nothing is shown.
    """
    console = Console(file=screen)
    progress = Progress(
        *Progress.get_default_columns(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    total_bytes = sum(file.stat().st_size for file in files.values())
    task = progress.add_task("uploading", total=total_bytes)
    sent_by_path: dict[str, int] = {}

    def report_bytes(path: str, bytes_sent: int) -> None:
        """Show how many bytes of a file have been sent. Called by several threads."""
        sent_by_path[path] = bytes_sent
        # The list is a copy, because other threads may add files at the same time.
        progress.update(task, completed=sum(list(sent_by_path.values())))

    with progress:
        yield report_bytes


def _wait_for_roles(session: Session, container: ContainerClient) -> None:
    """Wait until newly assigned roles take effect, which can take a few minutes.

    Without a role, the storage account refuses to list the files of its container. After
    ROLE_TRIES refusals, this function returns all the same, so that the upload reports the
    error.
    """
    for _ in range(ROLE_TRIES):
        try:
            next(iter(container.list_blobs(results_per_page=1)), None)
        except HttpResponseError as error:
            # This code of the storage service means that the login has no role yet.
            refusal = find_service_error(error)
            if not refusal or refusal.code != "AuthorizationPermissionMismatch":
                raise
        else:
            return
        session.report("waiting", "until the new roles take effect")
        time.sleep(ROLE_SECONDS)
