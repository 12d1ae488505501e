"""Checks the answers by the generated project's own rules, before anything is written.

Exits with 1 when an answer is wrong, upon which cookiecutter generates nothing and
leaves a project that is there already as it was.
"""

import importlib
import json
import os
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2

# JSON, in which no answer can end the string: its quotes and backslashes are escaped.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
# The template's folder, where cookiecutter renders this hook, and the command that it was
# called by. It names neither to a hook; a global function of Jinja knows `os`.
HERE, *CALL = json.loads(
    r"""{{ ([lipsum.__globals__.os.getcwd()] + lipsum.__globals__.os.sys.argv)|tojson }}"""
)
PROJECT = Path(HERE) / "{% raw %}{{cookiecutter.project_slug}}{% endraw %}"
PACKAGE = PROJECT / "{% raw %}{{cookiecutter.package_name}}{% endraw %}"
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


def project_module(name: str) -> Any:
    """A module of the package that is to be generated, which holds no Jinja."""
    sys.dont_write_bytecode = True  # in the template
    package = sys.modules.setdefault("project", ModuleType("project"))
    package.__path__ = [str(PACKAGE)]
    return importlib.import_module(f"project.{name}")


def unprintable() -> dict[str, str]:
    """What to say of text that no file could hold as it is."""
    wrong = {}
    for key in ("project_name", "description", "author_name"):
        odd = re.search(r"(?!\s)[\x00-\x1f\x7f-\x9f\ud800-\udfff]", ANSWERS[key])
        if odd and odd[0] < "\ud800":
            wrong[key] = f"{key} holds the character {odd[0]!a}: take it out."
        elif odd:
            fix = "set LC_ALL=C.UTF-8, or write it in ASCII"
            wrong[key] = f"{key} is not text in this terminal's encoding: {fix}."
    return wrong


def check(root: Path) -> tuple[dict[str, str], list[str]]:
    """What is wrong, by question, and what is worth a look, about the settings."""
    settings, module = project_module("settings"), project_module("runtime.project")
    files = jinja2.FileSystemLoader(PROJECT)
    jinja = jinja2.Environment(loader=files, **ANSWERS["_jinja2_env_vars"])
    for file in (module.SETTINGS, module.CONFIG):
        (root / file).parent.mkdir(exist_ok=True)
        text = jinja.get_template(file).render(cookiecutter=ANSWERS)
        (root / file).write_bytes(text.encode("utf-8", "replace"))
    wrong = {}
    project = module.Project(root / "package", settings.Settings)
    project.package = ANSWERS["package_name"]
    for problem in project.problems():
        if problem.kind == "wrong":
            key = QUESTIONS.get(problem.key, problem.key)
            wrong[key] = f"{key} {problem.text}: {problem.fix}."
    if ANSWERS["check_azure"] != "online" or wrong:
        return wrong, []
    notes = []
    checks = project_module("runtime.checks")
    checks.COMMAND = f"python -m {ANSWERS['package_name']}"
    for row in checks.ask(project):
        if row.status == checks.WRONG and row.key:
            key = QUESTIONS[row.key]
            wrong[key] = f"{key}: {row.text}: {row.fix}."
        elif row.fix:
            notes.append(f"{row.name}: {row.text}: {row.fix}")
    return wrong, notes


def again(wrong: set[str]) -> str:
    """The same command with the good answers, which asks for the others; in ASCII."""
    import shlex
    import subprocess

    from cookiecutter.cli import main

    def quote(word: str) -> str:
        if os.name == "nt":
            return subprocess.list2cmdline([word])
        if word.isascii() and word.isprintable():
            return shlex.quote(word)
        plain = set(range(32, 127)) - set(b"'\\")  # all others by their number
        octets = word.encode("utf-8", "surrogateescape")
        octal = (chr(b) if b in plain else f"\\{b:03o}" for b in octets)
        return f"$'{''.join(octal)}'"

    words = ["cookiecutter"]
    if re.search(r"cookiecutter(\.exe|.__main__\.py)?$", CALL[0]):
        given = main.make_context(
            "cookiecutter", CALL[1:], resilient_parsing=True
        ).params
        for option in main.params:
            value = given.get(option.name)
            # --no-input would not ask, and --replay goes with no other answers
            if option.name in ("no_input", "replay", "replay_file", "extra_context"):
                continue
            if option.opts[0][0] == "-" and value and value != option.default:
                words += option.opts[-1:] + ([] if option.is_flag else [str(value)])
    words.append(ANSWERS["_template"])
    for key, answer in ANSWERS.items():
        if key[0] != "_" and key not in wrong and (os.name != "nt" or answer.isascii()):
            if "{" in answer:  # which cookiecutter would take for Jinja
                text = json.dumps(answer, ensure_ascii=False)
                answer = f"{'{' * 2} {text} {'}' * 2}"
            words.append(f"{key}={answer}")
    return " ".join(map(quote, words))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wrong, notes = check(Path(folder))
    wrong |= unprintable()
    lines = [*wrong.values()] or ["", "Worth a look:", "", *map("    {}".format, notes)]
    if wrong:
        parts = Path(ANSWERS["project_slug"]).parts
        if "_output_dir" in ANSWERS and len(parts) > 1:  # cookiecutter would leave the
            os.chdir(ANSWERS["_output_dir"])  # folder a of a/b
            for end in range(len(parts), 0, -1):
                with suppress(OSError):
                    Path(*parts[:end]).rmdir()
        lines += [
            "",
            "Nothing was generated, no file was changed. To go on with the good answers:",
        ]
        lines += [
            "",
            again({*wrong}),
            "",
            "What cookiecutter adds below says no more than this.",
        ]
    elif not notes:
        return
    # in ASCII, which no console fails on
    text = "\n".join(lines).encode("ascii", "backslashreplace").decode()
    print(text, file=sys.stderr if wrong else sys.stdout, flush=True)
    sys.exit(bool(wrong))


main()
