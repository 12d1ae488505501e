"""What runs the project, here and on Azure ML: nobody needs to open it.

The same in every project, whatever its answers. It imports none of the project's own
files: it is handed them, as a `Project` and its `Pipelines`.

    project.py            what it is handed; settings.yml and config.json, read and checked
    rules.py              what a setting must be
    steps.py              the steps of a pipeline, and the values of its parameters
    files.py              the files of a folder of data
    graph.py              pictures of pipelines
    command_line.py       the commands
    local/run.py          a pipeline on this machine
    local/processes.py    the processes of its steps, by supervisor.py and fork_server.py
    local/reuse.py        what need not be run again there
    local/tracking.py     MLflow's database there
    local/parallel_driver.py  the driver of a parallel step there
    azure/login.py        the login, and what refusals of it mean
    azure/checks.py       `check`: the settings by their rules, and by what Azure says
    azure/connection.py   what Azure's other refusals mean
    azure/workspace.py    provision, submit, publish

and, for the SDK that the pipelines are written in:

    azure/sdk_steps.py    what its steps are made of
    azure/sdk_workspace.py  the workspace
"""

import sys
from pathlib import Path

#: Of the template that this is from: its CHANGELOG.md says what each asks of a project.
VERSION = "2.0.0"
#: What every command of the project begins with.
COMMAND = f"python -m {Path(__file__).resolve().parents[1].name}"


def not_installed(error: ModuleNotFoundError) -> str:
    """What to say when a package is missing; nothing but the standard library is here."""
    version = ".".join(map(str, sys.version_info[:2]))
    where = f"{error.name} is not installed for this Python {version}"
    return f"{where} ({sys.executable}): install the project, as README.md says."
