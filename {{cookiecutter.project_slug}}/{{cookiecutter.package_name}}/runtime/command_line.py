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

from . import describe_missing_package
from .command_parser import make_parser
from .commands import CommandContext, PipelineLoader
from .errors import CommandError
from .harmless_text import make_harmless
from .project import Project
from .workspaces import SETTINGS


def main(project: Project[Any], load_pipelines: PipelineLoader) -> int:
    """Run the command that the command line names, and return its exit code."""
    _use_utf8()
    # SIGTERM raises SystemExit here. A run then ends its steps, as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        exit_code = _run_command(project, load_pipelines)
        sys.stdout.flush()
        return exit_code
    except CommandError as error:
        # The message may quote text from settings, data or Azure's responses, which may hold
        # control characters.
        print(make_harmless(str(error)), file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(describe_missing_package(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        # An error that is not about the output of the command is raised again.
        return _report_lost_output(error)


def _use_utf8() -> None:
    """Make Python use UTF-8 for file names, and never fail to print a character.

    If the locale has another encoding, the command is restarted in Python's UTF-8 mode.
    """
    if sys.getfilesystemencoding() != "utf-8":
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, command)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A character that the stream's encoding lacks is printed as an escape sequence.
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
    with _use_own_temporary_folder():
        # The other options are keyword arguments of the command's function.
        exit_code: int = command(context, **options)
    return exit_code


def _check_project_folder(project: Project[Any]) -> None:
    """Raise CommandError if the package was installed without the project's other files."""
    if (project.root / SETTINGS).exists() or (project.root / "steps").exists():
        return
    raise CommandError(
        f"{project.root} holds the package {project.package}, but neither {SETTINGS} nor "
        "steps/: the package was installed apart from its project. Run the command in "
        "the project's folder, or call `pip install -e .` there."
    )


@contextmanager
def _use_own_temporary_folder() -> Iterator[None]:
    """Make Python write temporary files into a new folder, and remove it at the end.

    azureml-sdk would otherwise leave a folder for logs, `azureml-logs`, to which all users
    of the machine may write.
    """
    with ExitStack() as stack:
        # If the folder cannot be made, the command goes on without it, because not every
        # command needs temporary files. A command that does need them reports the reason.
        with suppress(OSError):
            folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            tempfile.tempdir = stack.enter_context(folder)
            # With None, Python chooses the usual folder of the system again.
            stack.callback(setattr, tempfile, "tempdir", None)
        yield


def _report_lost_output(error: OSError) -> int:
    """Report that standard output cannot be written, and return the exit code.

    Nothing is printed if the program that reads the output has closed the pipe, as `head`
    does after ten lines. An `error` with another cause is raised again.
    """
    is_pipe_closed = isinstance(error, BrokenPipeError)
    # An error with a file name is about this file, and not about standard output.
    is_output_broken = (
        error.errno in (errno.ENOSPC, errno.EIO) and error.filename is None
    )
    if not is_output_broken and not is_pipe_closed:
        raise error

    # At its exit, Python would try to write the rest of the output, and fail again. With
    # this line, it writes the rest to the null device.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if is_output_broken:
        print(f"The output cannot be written: {error.strerror}.", file=sys.stderr)
    return 1
