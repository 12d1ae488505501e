"""The command line: `python -m {{ cookiecutter.package_name }} --help`."""

import sys

from .runtime import not_installed

try:
    from .runtime.command_line import main
    from .runtime.project import Pipelines
    from .settings import PROJECT
except ModuleNotFoundError as error:  # PyYAML, as nothing else is imported here
    sys.exit(not_installed(error))


def pipelines() -> Pipelines:
    # Here, as `check` and `--help` do without the SDK of Azure ML.
    from .pipelines import PIPELINES

    return PIPELINES


if __name__ == "__main__":
    sys.exit(main(PROJECT, pipelines))
