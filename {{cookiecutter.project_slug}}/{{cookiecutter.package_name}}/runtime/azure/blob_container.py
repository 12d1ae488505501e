"""Upload files to the default datastore, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from azure.storage.blob import ContainerClient

#: This many files are uploaded at the same time.
WORKERS = 4
#: Bytes in one request. Even on a slow connection, each request must end before the service
#: times out.
BLOCK_BYTES = 4 << 20


class _UploadInterrupted(Exception):
    """The user has pressed Ctrl-C during an upload."""


def open_container(
    account_name: str, host_suffix: str, container: str, credential: Any
) -> ContainerClient:
    """Return a client of a container in a storage account.

    `credential` is a key or a SAS token of the account, or a credential of azure-identity.
    `host_suffix` is the last part of the account's host, such as core.windows.net.
    """
    return ContainerClient(
        f"https://{account_name}.blob.{host_suffix}",
        container,
        credential=credential,
        max_block_size=BLOCK_BYTES,
        max_single_put_size=BLOCK_BYTES,
    )


def upload_files(
    container: ContainerClient,
    files: Mapping[str, Path],
    report_bytes: Callable[[str, int], None],
) -> None:
    """Upload files to a container, several at a time.

    `files` maps the path in the container to the local file. `report_bytes` is called with
    such a path and the number of bytes of its file that have been sent so far.

    After an error, no further upload is started, and the error is raised once the running
    uploads have ended. After Ctrl-C, each running upload ends with its current block.
    Completed uploads are kept in both cases.
    """
    is_interrupted = threading.Event()

    def report_block(path: str, sent_bytes: int) -> None:
        """Report the bytes sent so far, or end the upload if the user has pressed Ctrl-C."""
        if is_interrupted.is_set():
            raise _UploadInterrupted
        report_bytes(path, sent_bytes)

    with ThreadPoolExecutor(WORKERS) as pool:
        uploads = [
            pool.submit(_upload_file, container, path, file, report_block)
            for path, file in files.items()
        ]
        try:
            for upload in as_completed(uploads):
                upload.result()
        except BaseException as error:
            # KeyboardInterrupt (Ctrl-C) and SystemExit (a signal that ends the process) are
            # no subclasses of Exception. They end the running uploads too.
            if not isinstance(error, Exception):
                is_interrupted.set()
            # No further upload is started. The `with` block waits for the running ones.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _upload_file(
    container: ContainerClient,
    path: str,
    file: Path,
    report_bytes: Callable[[str, int], None],
) -> None:
    """Upload one file, and replace any file at its path."""
    with file.open("rb") as content:
        container.upload_blob(
            path,
            content,
            overwrite=True,
            progress_hook=partial(_report_sent, report_bytes, path),
        )


def _report_sent(
    report_bytes: Callable[[str, int], None], path: str, sent: int, _: int | None
) -> None:
    """Call `report_bytes` without the size of the file, which the SDK adds to its calls."""
    report_bytes(path, sent)
