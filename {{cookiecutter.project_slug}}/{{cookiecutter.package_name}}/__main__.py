"""The command line: `python -m {{ cookiecutter.package_name }} --help`."""

import sys

from .runtime.command_line import main
from .runtime.project import Pipelines
from .settings import PROJECT


def pipelines() -> Pipelines:
    # Here, as `check` and `--help` do without the SDK of Azure ML.
    from .pipelines import PIPELINES

    return PIPELINES


if __name__ == "__main__":
    sys.exit(main(PROJECT, pipelines))
