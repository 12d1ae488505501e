"""Checks the answers by the generated project's own rules, before anything is written.

Exits with 1 when an answer is wrong or files would be overwritten, upon which
cookiecutter generates nothing and leaves a project that is there already as it was.
"""

import importlib
import json
import os
import re
import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

# JSON, in which no answer can end the string: its quotes and backslashes are escaped.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
# The template's folder, where cookiecutter renders this hook, and the command that it was
# called by. It names neither to a hook; a global function of Jinja knows `os`.
HERE, *CALL = json.loads(
    r"""{{ ([lipsum.__globals__.os.getcwd()] + lipsum.__globals__.os.sys.argv)|tojson }}"""
)
# "cookiecutter", "cruft", or "" where another program calls their functions.
PROGRAM = "".join(re.findall(r"(cookiecutter|cruft)(?:\.exe|.__main__\.py)?$", CALL[0]))
PROJECT = Path(HERE) / "{% raw %}{{cookiecutter.project_slug}}{% endraw %}"
PACKAGE = PROJECT / "{% raw %}{{cookiecutter.package_name}}{% endraw %}"
AGAIN = """
Nothing was generated, no file was changed. To go on with the good answers:

{}

What cookiecutter adds below says no more than this."""
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


def overwritten() -> dict[str, str]:
    """What to say where the folder holds files, and the call does not keep them."""
    if not {*os.listdir()} - {".git"} or "skip_if_file_exists" in options():
        return {}
    text = f"{Path.cwd()} holds files, which would be overwritten"
    fix = "choose another project_slug"
    if PROGRAM != "cruft":
        fix = f"add --skip-if-file-exists, which keeps them, or {fix}"
    update = "its README says how a project is updated"
    key = "project_slug" if PROGRAM == "cruft" else ""
    return {key: f"{text}: {fix} ({update})."}


def fill_in(text: str) -> str:
    """A file of settings with the answers, whose places hold no other Jinja than these."""

    def answer(place: re.Match[str]) -> str:
        value = ANSWERS[place[1]]
        return json.dumps(value) if place[2] else str(value)

    return re.sub(r"{{ '{{' }} cookiecutter\.(\w+)(\|tojson)? }}", answer, text)


def check(root: Path) -> tuple[dict[str, str], list[str]]:
    """What is wrong, by question, and what is worth a look, about the settings."""
    settings, module = project_module("settings"), project_module("runtime.project")
    for file in (module.SETTINGS, module.CONFIG):
        (root / file).parent.mkdir(exist_ok=True)
        text = fill_in((PROJECT / file).read_text(encoding="utf-8"))
        (root / file).write_bytes(text.encode("utf-8", "replace"))
    wrong, notes = {}, []
    project = module.Project(root / "package", settings.Settings)
    project.package = ANSWERS["package_name"]
    for problem in project.problems():
        if problem.kind == "wrong":
            key = QUESTIONS.get(problem.key, problem.key)
            wrong[key] = f"{key} {problem.text}: {problem.fix}."
        elif problem.kind != "empty":
            notes.append(str(problem))
    if ANSWERS["check_azure"] != "online" or wrong:
        return wrong, notes
    from importlib.util import find_spec

    checks = project_module("runtime.azure.checks")
    checks.COMMAND = f"python -m {ANSWERS['package_name']}"
    has_library = find_spec("azure") and find_spec("azure.identity")
    for row in checks.ask(project, None if has_library else get_token):
        if row.status == checks.WRONG and row.key:
            key = QUESTIONS[row.key]
            wrong[key] = f"{key}: {row.text}: {row.fix}."
        elif row.fix:
            notes.append(f"{row.name}: {row.text}: {row.fix}")
    return wrong, notes


def get_token(login: str, scope: str) -> str:
    """A token without azure-identity: by the variables, or from `az`."""
    import shutil
    import subprocess

    import requests

    timeout = project_module("runtime.azure.login").TIMEOUT
    names = ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "FEDERATED_TOKEN_FILE")
    tenant, client, secret, file = (os.environ.get(f"AZURE_{name}") for name in names)
    if tenant and client and (secret or file):
        form = {"grant_type": "client_credentials", "client_id": client, "scope": scope}
        if secret:
            form["client_secret"] = secret
        else:
            jwt = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            form["client_assertion_type"] = jwt
            form["client_assertion"] = Path(file).read_text(encoding="utf-8")
        url = f"https://{login}/{tenant}/oauth2/v2.0/token"
        answer = requests.post(url, form, timeout=timeout).text
    else:
        az = [shutil.which("az") or "az", "account", "get-access-token"]
        az += ["--output", "json", "--resource", scope.removesuffix(".default")]
        quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        done = subprocess.run(az, check=False, timeout=2 * timeout, **quiet)
        answer = done.stdout or done.stderr
    token = re.search(r'"access_?token"\s*:\s*"([^"]+)"', answer, re.IGNORECASE)
    if not token:
        raise ValueError(answer)
    return token[1]


def quote(word: str) -> str:
    """A word of a command line, in ASCII."""
    import shlex
    import subprocess

    if os.name == "nt":
        return subprocess.list2cmdline([word])
    if word.isascii() and word.isprintable():
        return shlex.quote(word)
    octets = word.encode("utf-8", "surrogateescape").decode("latin-1")
    escaped = octets.encode("unicode_escape").decode().replace("'", "\\'")
    return f"$'{escaped}'"


def options() -> dict[str, list[str]]:
    """The options that the command was called with, by name, as they are written."""
    if PROGRAM == "cookiecutter":
        from cookiecutter.cli import main as command
    elif PROGRAM == "cruft":
        from cruft._cli import app
        from typer.main import get_command

        command = get_command(app).commands["create"]
    else:
        return {}
    words = CALL[1:] if PROGRAM == "cookiecutter" else CALL[2:]
    given, found = command.make_context(None, words, resilient_parsing=True), {}
    for option in command.params:
        value = given.params.get(option.name)
        if option.opts[0][0] == "-" and value and value != option.default:
            name = max(option.opts, key=len)
            values = value if option.multiple else [value]
            pairs = [[name] if option.is_flag else [name, str(v)] for v in values]
            found[option.name] = [*chain(*pairs)]
    return found


def again(wrong: set[str]) -> str:
    """The same command with the good answers, which asks for the others; in ASCII."""
    answers = {}
    for key, answer in ANSWERS.items():
        if key[0] != "_" and key not in wrong and (os.name != "nt" or answer.isascii()):
            if "{" in answer:  # which cookiecutter would take for Jinja
                text = json.dumps(answer, ensure_ascii=False)
                answer = f"{'{' * 2} {text} {'}' * 2}"
            answers[key] = answer
    kept = options()
    # --no-input would not ask, and --replay goes with no other answers
    for name in ("no_input", "replay", "replay_file", "extra_context"):
        kept.pop(name, None)
    if "overwrite_if_exists" in kept and PROGRAM == "cookiecutter":
        kept["skip_if_file_exists"] = ["--skip-if-file-exists"]
    words = [*chain(*kept.values()), ANSWERS["_template"]]
    if PROGRAM == "cruft":
        words = ["cruft", "create", *words, "--extra-context", json.dumps(answers)]
    else:
        words = ["cookiecutter", *words, *map("=".join, answers.items())]
    return " ".join(map(quote, words))


def main() -> int:
    if PROGRAM == "cruft" and CALL[1:2] != ["create"]:
        return 0  # `cruft update` makes what was checked once, in a folder of its own
    with TemporaryDirectory() as folder:
        wrong, notes = check(Path(folder))
    wrong = overwritten() | wrong | unprintable()
    lines = [*wrong.values()] or ["", "Worth a look:", "", *map("    {}".format, notes)]
    if wrong:
        folder = ANSWERS["project_slug"]
        if "_output_dir" in ANSWERS and len(Path(folder).parts) > 1:
            os.chdir(ANSWERS["_output_dir"])
            with suppress(OSError):
                os.removedirs(folder)  # of a/b, cookiecutter would leave a
        lines.append(AGAIN.format(again({*wrong})))
    elif not notes:
        return 0
    # in ASCII, which no console fails on
    text = "\n".join(lines).encode("ascii", "backslashreplace").decode()
    print(text, file=sys.stderr if wrong else sys.stdout, flush=True)
    return int(bool(wrong))


os._exit(main())  # to take apart what was imported takes a tenth of the time
