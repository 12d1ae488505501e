"""The command line: `python -m {{ cookiecutter.package_name }} --help`."""

import sys

from .runtime import not_installed

try:
    from .runtime.command_line import main
    from .runtime.project import Pipelines
    from .settings import PROJECT
except ModuleNotFoundError as error:
    # A package that settings.yml is read with: nothing else is imported here.
    sys.exit(not_installed(error))


def pipelines() -> Pipelines:
    """Import the pipelines only when they are needed, as the SDK is imported with them."""
    from .pipelines import PIPELINES

    return PIPELINES


def run_command() -> int:
    """Run the command that the command line names, and return its exit code."""
    return main(PROJECT, pipelines)


if __name__ == "__main__":
    sys.exit(run_command())
