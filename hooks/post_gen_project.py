"""Checks the answers by the generated project's own rules, then tells what is next.

Exits with 1 when an answer is wrong, upon which cookiecutter removes the project.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

# JSON, in which no answer can end the string: its quotes and backslashes are escaped.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
OUTPUT = ANSWERS.get("_output_dir")  # which cruft does not set
QUESTIONS = {  # of the settings that are asked for
    "package_name": "package_name",
    "name": "project_slug",
    "task": "task",
    "subscription_id": "azure_subscription_id",
    "resource_group": "azure_resource_group",
    "workspace_name": "azure_workspace_name",
    "workspace.region": "azure_region",
    "compute.name": "compute_name",
    "compute.vm_size": "vm_size",
    "compute.max_nodes": "max_nodes",
}


def again(wrong: set[str]) -> str:
    """The command that asks again, with the good answers as defaults, in ASCII."""
    import shlex
    import subprocess

    def quote(word: str) -> str:
        if os.name == "nt":
            return subprocess.list2cmdline([word])
        if word.isascii() and word.isprintable():
            return shlex.quote(word)
        plain = set(range(32, 127)) - set(b"'\\")  # all others by their number
        octal = (chr(b) if b in plain else f"\\{b:03o}" for b in word.encode())
        return f"$'{''.join(octal)}'"

    words = ["cookiecutter", ANSWERS["_template"]]
    if ANSWERS.get("_checkout"):
        words += ["--checkout", ANSWERS["_checkout"]]
    if OUTPUT not in (None, os.environ.get("PWD")):
        words += ["--output-dir", OUTPUT]
    for key, answer in ANSWERS.items():
        if key[0] != "_" and key not in wrong and (os.name != "nt" or answer.isascii()):
            words.append(f"{key}={answer}")
    return " ".join(map(quote, words))


def project_module(name: str) -> Any:
    """A module of the project's package, whatever that is called."""
    sys.dont_write_bytecode = True  # the project is to hold only what was generated
    package = ModuleType("project")
    package.__path__ = [os.path.abspath(ANSWERS["package_name"])]
    sys.modules["project"] = package
    return importlib.import_module(f"project.{name}")


def show(lines: list[str], file: TextIO = sys.stdout) -> None:
    """Print in ASCII, which no console fails on."""
    text = "\n".join(lines).encode("ascii", "backslashreplace").decode()
    print(text, file=file, flush=True)


def main() -> int:
    settings = project_module("settings")
    wrong: dict[str, str] = {}
    empty: dict[str, list[str]] = {}
    notes: list[str] = []
    for problem in settings.examine(Path.cwd()):
        if problem.kind == "wrong":
            key = QUESTIONS.get(problem.key, problem.key)
            wrong[key] = f"{key} {problem.text}: {problem.fix}."
        elif problem.kind == "empty":
            empty.setdefault(problem.file, []).append(problem.key)
        else:
            notes.append(str(problem))
    if ANSWERS["check_azure"] == "online" and not wrong:
        checks = project_module("checks")
        for check in checks.ask(Path.cwd()):
            if check.status == checks.WRONG and check.key:
                key = QUESTIONS[check.key]
                wrong[key] = f"{key}: {check.text}: {check.fix}."
            elif check.fix:
                notes.append(f"{check.name}: {check.text}: {check.fix}")
    if wrong:
        after = ["", "Nothing was generated. To go on with the good answers:"]
        show([*wrong.values(), *after, again({*wrong})], sys.stderr)
        return 1
    name, package = ANSWERS["project_slug"], ANSWERS["package_name"]
    lines = ["", f"The project is in {Path.cwd()}. What is next:", "", f"    cd {name}"]
    lines += ["    pip install -e .", f"    python -m {package} run training"]
    if empty:
        lines += ["", "Before anything goes to Azure, fill in:", ""]
        lines += [f"    {', '.join(keys)} in {file}" for file, keys in empty.items()]
    if notes:
        lines += ["", "Worth a look:", "", *(f"    {note}" for note in notes)]
    show(lines)
    return 0


sys.exit(main())
