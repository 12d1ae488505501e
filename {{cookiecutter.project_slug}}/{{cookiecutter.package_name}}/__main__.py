"""The command line: `python -m {{ cookiecutter.package_name }} --help`."""

import sys

try:
    from .runtime.command_line import main
    from .runtime.project import Pipelines
    from .settings import PROJECT
except ModuleNotFoundError as error:  # PyYAML, as nothing else is imported here
    version = ".".join(map(str, sys.version_info[:2]))
    where = f"{error.name} is not installed for this Python {version}"
    sys.exit(f"{where} ({sys.executable}): install the project, as README.md says.")


def pipelines() -> Pipelines:
    # Here, as `check` and `--help` do without the SDK of Azure ML.
    from .pipelines import PIPELINES

    return PIPELINES


if __name__ == "__main__":
    sys.exit(main(PROJECT, pipelines))
