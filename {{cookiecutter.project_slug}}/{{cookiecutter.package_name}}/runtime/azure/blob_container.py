"""Upload files to the default datastore, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from azure.storage.blob import ContainerClient

WORKERS = 4  # files that are uploaded at a time
#: Bytes in one request. Each request must end before the service gives it up, on a slow
#: connection too.
BLOCK_BYTES = 4 << 20


def open_container(
    account_name: str, endpoint: str, container: str, credential: Any
) -> ContainerClient:
    """Return a client of a container of blobs.

    `credential` is a key or a signature of the storage account, or a login.
    """
    return ContainerClient(
        f"https://{account_name}.blob.{endpoint}",
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
    """Upload files to their paths in the container.

    `report_bytes` is called with a path and how many bytes of its file have been sent. The
    first error is raised as soon as no file is being sent any more. Files that have arrived
    stay.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        uploads = [
            pool.submit(_upload_file, container, path, file, report_bytes)
            for path, file in files.items()
        ]
        try:
            for upload in as_completed(uploads):
                upload.result()
        except BaseException:  # An interrupt by Ctrl-C, too.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _upload_file(
    container: ContainerClient,
    path: str,
    file: Path,
    report_bytes: Callable[[str, int], None],
) -> None:
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
    report_bytes(path, sent)
