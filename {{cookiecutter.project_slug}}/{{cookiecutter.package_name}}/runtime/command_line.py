"""The command line of a project: read it, run the command, and explain its errors."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from typing import Any

from . import not_installed
from .command_parser import make_parser
from .commands import CommandContext, PipelineLoader
from .errors import CommandError
from .harmless_text import make_harmless
from .project import Project
from .workspaces import SETTINGS


def main(project: Project[Any], load_pipelines: PipelineLoader) -> int:
    """Run the command that the command line names, and return its exit code."""
    _use_utf8()
    # With this exception, a run that is terminated also ends its steps, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = _run_command(project, load_pipelines)
        sys.stdout.flush()
        return code
    except CommandError as error:
        # The message may quote settings, data or Azure.
        print(make_harmless(str(error)), file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(not_installed(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        return _explain_lost_output(error)


def _use_utf8() -> None:
    """Make Python use UTF-8 for the names of files, and never fail at an output character.

    If the locale has another encoding, the command is started again in UTF-8.
    """
    if sys.getfilesystemencoding() != "utf-8":
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, command)
    for stream in (sys.stdout, sys.stderr):
        # Characters that the output's encoding lacks are printed as escape sequences.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run_command(project: Project[Any], load_pipelines: PipelineLoader) -> int:
    """Parse the command line, run the command, and return its exit code."""
    parser = make_parser(project.command, load_pipelines)
    options = vars(parser.parse_args())
    command = options.pop("command")
    workspace = options.pop("workspace", None)

    _check_project_folder(project)
    if workspace is not None:
        project = project.for_workspace(workspace)
    context = CommandContext(project, load_pipelines)
    with _remove_temporary_files():
        # The other options are keyword arguments of the command's function.
        exit_code: int = command(context, **options)
    return exit_code


def _check_project_folder(project: Project[Any]) -> None:
    """Raise CommandError if the package was installed without its project."""
    if (project.root / SETTINGS).exists() or (project.root / "steps").exists():
        return
    raise CommandError(
        f"{project.root} holds the package {project.package}, but neither {SETTINGS} nor "
        "steps/: the package was installed apart from its project. Run the command in "
        "the project's folder, or call `pip install -e .` there."
    )


@contextmanager
def _remove_temporary_files() -> Iterator[None]:
    """Remove all temporary files of a command at its end.

    azureml-sdk would leave a folder for logs, `azureml-logs`, to which all users of the
    machine may write.
    """
    with ExitStack() as stack:
        # If no temporary file can be written, the commands that need some say so.
        with suppress(OSError):
            folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            tempfile.tempdir = stack.enter_context(folder)
            stack.callback(setattr, tempfile, "tempdir", None)
        yield


def _explain_lost_output(error: OSError) -> int:
    """Return the exit code of a command whose output cannot be written.

    `error` is raised again if it has another cause.
    """
    is_disk_full = error.errno in (errno.ENOSPC, errno.EIO) and not error.filename
    # A program that reads the output, such as `head`, closes the pipe once it has enough.
    is_pipe_closed = isinstance(error, BrokenPipeError)
    if not is_disk_full and not is_pipe_closed:
        raise error

    # Python writes the rest of the output when it exits. This would fail again, so the rest
    # is discarded.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if is_disk_full:
        print(f"The output cannot be written: {error.strerror}.", file=sys.stderr)
    return 1
