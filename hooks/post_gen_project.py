"""Tells what is next. The answers were checked before: see pre_gen_project.py."""

import json
import os
import re
import sys
from contextlib import suppress

# JSON, in which no answer can end the string: its quotes and backslashes are escaped.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
# The command that generates, which a hook is not told; a global function of Jinja knows it.
CALL = json.loads(r"""{{ lipsum.__globals__.os.sys.argv|tojson }}""")


def empty_settings() -> dict[str, list[str]]:
    """What Azure needs and the files leave empty, by file."""
    forms = {
        "settings.yml": r'^  (region|name|vm_size): ""',
        ".azureml/config.json": r'"(\w+)": ""',
    }
    sections = {"region": "workspace.", "name": "compute.", "vm_size": "compute."}
    found = {}
    for file, form in forms.items():
        with open(file, encoding="utf-8", errors="replace") as text:
            keys = re.findall(form, text.read(), re.MULTILINE)
        found[file] = [sections.get(key, "") + key for key in keys]
    return {file: keys for file, keys in found.items() if keys}


def main() -> None:
    name, package = ANSWERS["project_slug"], ANSWERS["package_name"]
    lines = [
        "",
        f"The project is in {os.getcwd()}. What is next:",
        "",
        f"    cd {name}",
    ]
    run = f"python -m {package} run training"
    newest = 11 if ANSWERS["azureml_sdk"] == "azureml-sdk" else 13
    if sys.version_info < (3, newest + 1):
        lines += ["    pip install -e .", f"    {run}"]
    else:  # the SDK needs an older one, which uv finds or fetches
        lines.append(f'    uv venv --python ">=3.10,<3.{newest + 1}"')
        lines.append("    uv pip install -e .")
        lines += [f"    uv run --no-project {run}"]
    if empty := empty_settings():
        lines += ["", "Before anything goes to Azure, fill in:", ""]
        lines += [f"    {', '.join(keys)} in {file}" for file, keys in empty.items()]
    # in ASCII, which no console fails on
    text = "\n".join(lines).encode("ascii", "backslashreplace").decode()
    with suppress(OSError):  # where nobody reads, as after `| head -1`
        print(text, flush=True)


with suppress(OSError):  # which cookiecutter makes for the other platforms too
    os.removedirs(".github/workflows")  # unless a file is in it
# `cruft update` and `cruft diff` generate for themselves, where nobody goes on.
if CALL[1:2] == ["create"] or not re.search(r"cruft(\.exe|.__main__\.py)?$", CALL[0]):
    main()
os._exit(0)  # with nothing more to print, whatever became of that
