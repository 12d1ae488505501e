"""What runs the project, here and on Azure ML: nobody needs to open it.

The same in every project, whatever its answers. It imports none of the project's own
files: it is handed them, as a `Project` and its `Pipelines`.

    project.py       what it is handed; settings.yml and config.json, read and checked
    rules.py         what a setting must be
    command_line.py  the commands
    checks.py        `check`: the settings by their rules, and by what Azure says
    local_run.py     a pipeline on this machine
    processes.py     what its steps run in, by step_process.py
    reuse.py         what need not be run again there
    parallel_run.py  the driver of a parallel step on this machine
    graph.py         pictures of pipelines
    workspace.py     provision, submit, publish
    connection.py    what Azure's refusals mean

and, for the SDK that the pipelines are written in:

    sdk_steps.py     what its steps are made of
    sdk_workspace.py the workspace
"""

import sys

#: Of the template that this is from: its CHANGELOG.md says what each asks of a project.
VERSION = "1.0.0"


def not_installed(error: ModuleNotFoundError) -> str:
    """What to say when a package is missing; nothing but the standard library is here."""
    version = ".".join(map(str, sys.version_info[:2]))
    where = f"{error.name} is not installed for this Python {version}"
    return f"{where} ({sys.executable}): install the project, as README.md says."
