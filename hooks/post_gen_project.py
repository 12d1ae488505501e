"""Tells what is next. The answers were checked before: see pre_gen_project.py."""

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

# JSON, in which no answer can end the string: its quotes and backslashes are escaped.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")


def project_module(name: str) -> Any:
    """A module of the project's package, whatever that is called."""
    sys.dont_write_bytecode = True  # the project is to hold only what was generated
    package = ModuleType("project")
    package.__path__ = [os.path.abspath(ANSWERS["package_name"])]
    sys.modules["project"] = package
    return importlib.import_module(f"project.{name}")


def main() -> None:
    empty: dict[str, list[str]] = {}
    notes: list[str] = []
    for problem in project_module("settings").PROJECT.problems():
        if problem.kind == "empty":
            empty.setdefault(problem.file, []).append(problem.key)
        else:
            notes.append(str(problem))
    name, package = ANSWERS["project_slug"], ANSWERS["package_name"]
    lines = ["", f"The project is in {Path.cwd()}. What is next:", "", f"    cd {name}"]
    run = f"python -m {package} run training"
    newest = 11 if ANSWERS["azureml_sdk"] == "azureml-sdk" else 13
    if sys.version_info < (3, newest + 1):
        lines += ["    pip install -e .", f"    {run}"]
    else:  # the SDK needs an older one, which uv finds or fetches
        lines.append(f'    uv venv --python ">=3.10,<3.{newest + 1}"')
        lines.append("    uv pip install -e .")
        lines += [f"    uv run --no-project {run}"]
    if empty:
        lines += ["", "Before anything goes to Azure, fill in:", ""]
        lines += [f"    {', '.join(keys)} in {file}" for file, keys in empty.items()]
    if notes:
        lines += ["", "Worth a look:", "", *(f"    {note}" for note in notes)]
    # in ASCII, which no console fails on
    text = "\n".join(lines).encode("ascii", "backslashreplace").decode()
    try:
        print(text, flush=True)
    except OSError:  # nobody reads, as after `| head -1`: no reason to lose the project
        os._exit(0)


main()
