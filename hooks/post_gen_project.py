"""Print the commands to run next, and the Azure settings that are still empty."""

import json
import os
import platform
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

# JSON escapes the quotes and backslashes of an answer, so no answer can end this string.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
GENERATION = json.loads(r"""{{ describe_generation()|tojson }}""")
IS_WINDOWS = os.name == "nt"

# The newest minor version of Python 3 that each SDK supports, and the oldest that both
# support. 11 means Python 3.11.
NEWEST_MINOR = {"azureml-sdk": 11, "azure-ai-ml": 14}
OLDEST_MINOR = 11

# For each answer that Azure needs, the setting to fill in if it was left empty.
SETTING_BY_QUESTION = {
    "azure_subscription_id": "subscription_id in .azureml/config.json",
    "azure_resource_group": "resource_group in .azureml/config.json",
    "azure_workspace_name": "workspace_name in .azureml/config.json",
    "azure_region": "workspace.region in settings.yml",
    "compute_name": "compute.name in settings.yml",
    "vm_size": "compute.vm_size in settings.yml",
}


def list_commit_commands() -> list[str]:
    """Return the commands that commit the project as it was generated."""
    commands = ["git add --all", 'git commit --message "Project as generated"']
    if not Path(".git").exists():
        commands.insert(0, "git init")
    return commands


def list_install_commands() -> list[str]:
    """Return the commands that create an environment and install the project into it."""
    activation = r".venv\Scripts\activate" if IS_WINDOWS else ". .venv/bin/activate"
    is_apple_chip = platform.system() == "Darwin" and platform.machine() == "arm64"
    if is_apple_chip and ANSWERS["azureml_sdk"] == "azureml-sdk":
        # The packages of azureml-sdk exist only for Intel chips. macOS translates them.
        python = "cpython-3.11-macos-x86_64"
        return [f"uv venv --python {python}", activation, "uv pip install -e ."]

    newest_minor = NEWEST_MINOR[ANSWERS["azureml_sdk"]]
    for minor in range(newest_minor, OLDEST_MINOR - 1, -1):
        if shutil.which(f"python3.{minor}"):
            return [f"python3.{minor} -m venv .venv", activation, "pip install -e ."]

    # uv also finds a Python outside PATH, and downloads Python if there is none.
    return ["uv venv --python 3.11", activation, "uv pip install -e ."]


def explain_next_steps() -> str:
    """Return the text that is printed at the end of generation."""
    folder = os.getcwd()
    commands = [
        f'cd "{folder}"' if IS_WINDOWS else f"cd {shlex.quote(folder)}",
        *list_commit_commands(),
        *list_install_commands(),
        f"python -m {ANSWERS['package_name']} run training",
    ]
    lines = ["", "The project has been generated. Next steps:", ""]
    lines += [f"    {command}" for command in commands]

    settings_to_fill_in = [
        setting
        for question, setting in SETTING_BY_QUESTION.items()
        if not ANSWERS[question]
    ]
    if settings_to_fill_in:
        lines += ["", "Before you send anything to Azure, fill in:", ""]
        lines += [f"    {setting}" for setting in settings_to_fill_in]
    return "\n".join(lines)


# cookiecutter creates this folder even for other CI platforms, and leaves it empty. For a
# folder with files, os.removedirs raises OSError.
with suppress(OSError):
    os.removedirs(".github/workflows")

# `cruft update` and `cruft diff` generate into a temporary folder. There are no next steps
# in it.
if GENERATION["program"] != "cruft" or GENERATION["arguments"][:1] == ["create"]:
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(explain_next_steps(), flush=True)
    except OSError:
        # Nobody reads the output, as with `| head -1`. The project is complete nevertheless.
        os._exit(0)
