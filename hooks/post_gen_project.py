"""Say what to do next. The answers were checked before: see pre_gen_project.py."""

import json
import os
import platform
import re
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

# In JSON the quotes and backslashes of an answer are escaped, so no answer ends the string.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
GENERATION = json.loads(r"""{{ describe_generation()|tojson }}""")
IS_WINDOWS = os.name == "nt"

# Where to write what only Azure needs, if the answer was left empty.
PLACES = {
    "azure_subscription_id": "subscription_id in .azureml/config.json",
    "azure_resource_group": "resource_group in .azureml/config.json",
    "azure_workspace_name": "workspace_name in .azureml/config.json",
    "azure_region": "workspace.region in settings.yml",
    "compute_name": "compute.name in settings.yml",
    "vm_size": "compute.vm_size in settings.yml",
}


def first_commit() -> list[str]:
    """Return the commands that commit the project as it was generated."""
    init = [] if Path(".git").exists() else ["git init"]
    return [*init, "git add --all", 'git commit --message "Project as generated"']


def install() -> list[str]:
    """Return the commands that install the project, with a Python that it supports."""
    text = Path("pyproject.toml").read_text(encoding="utf-8")
    versions, oldest, too_new = re.search(
        r'requires-python = "(>=3\.(\d+),<3\.(\d+))"', text
    ).groups()
    supported = range(int(oldest), int(too_new))
    activate = r".venv\Scripts\activate" if IS_WINDOWS else ". .venv/bin/activate"

    needs_rosetta = ANSWERS["azureml_sdk"] == "azureml-sdk" and (
        platform.system() == "Darwin" and platform.machine() == "arm64"
    )
    if needs_rosetta:  # Packages of azureml-sdk exist for macOS on Intel's chips only.
        return [
            "uv venv --python cpython-3.11-macos-x86_64",
            activate,
            "uv pip install -e .",
        ]
    if IS_WINDOWS:
        pythons = ["python"] if sys.version_info[1] in supported else []
    else:
        names = [f"python3.{minor}" for minor in reversed(supported)]
        pythons = [name for name in names if shutil.which(name)]
    if pythons:
        return [f"{pythons[0]} -m venv .venv", activate, "pip install -e ."]

    # uv finds or fetches a Python that is supported.
    return [f'uv venv --python "{versions}"', activate, "uv pip install -e ."]


def explain_next_steps() -> str:
    """Return the commands to run next, and what to fill in before they go to Azure."""
    folder = os.getcwd()
    commands = [
        f'cd "{folder}"' if IS_WINDOWS else f"cd {shlex.quote(folder)}",
        *first_commit(),
        *install(),
        f"python -m {ANSWERS['package_name']} run training",
    ]
    lines = ["", "The project is generated. What is next:", ""]
    lines += [f"    {command}" for command in commands]

    empty = [place for question, place in PLACES.items() if not ANSWERS[question]]
    if empty:
        lines += ["", "Before you send anything to Azure, fill in:", ""]
        lines += [f"    {place}" for place in empty]
    return "\n".join(lines)


# cookiecutter makes this folder for the other CI platforms too. It stays if a file is in it.
with suppress(OSError):
    os.removedirs(".github/workflows")

# `cruft update` and `cruft diff` generate for themselves: there is nothing to do next.
if GENERATION["program"] != "cruft" or GENERATION["arguments"][:1] == ["create"]:
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(explain_next_steps(), flush=True)
    except OSError:  # Nobody reads, as after `| head -1`. The project is complete.
        os._exit(0)
