"""The workflows of both platforms: linted, and run here, command by command.

The commands, their order, their conditions and the logins are read from the generated files.
Each job starts in a clean clone, and its Azure is the stand-in (azure_standin/). What is
played of the platforms is written down here: their shells, the summary, the artifacts, and
an `az` that whoever logs in leaves behind. Nothing is installed: `pip` only looks whether
it is told what is there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure_standin import Fault, Standin, resources
from azure_user import ANSWERS, User
from conftest import TEMPLATE, Bake, Project

FILES = {"github": ".github/workflows/pipelines.yml", "azure-devops": "azure-pipelines.yml"}
SDKS = {"github": "azureml-sdk", "azure-devops": "azure-ai-ml"}
TOOLS = Path(sys.executable).parent
VARIABLES = {
    "AZURE_CLIENT_ID": resources.CLIENT_ID,
    "AZURE_TENANT_ID": resources.TENANT_ID,
}
PIP = """#!{python}
import sys, tomllib
from pathlib import Path
*words, what = sys.argv[1:]
assert words == ["install", "--quiet", "--editable"], words
extra = what.removeprefix(".").strip("[]")
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
assert not extra or extra in project["optional-dependencies"], what
"""
#: As the real one answers azure-identity. It keeps a token for each resource, and has no new
#: one where nobody has logged in.
AZ = """#!{python}
import json, os, sys, time, urllib.error, urllib.parse, urllib.request
from pathlib import Path
*command, resource = sys.argv[1:]
assert command == "account get-access-token --output json --resource".split(), command
login = Path(os.environ["AZURE_CONFIG_DIR"], "login.json")
if not login.exists():
    sys.exit("ERROR: Please run 'az login' to setup account.")
known = json.loads(login.read_text())
if resource not in known["tokens"]:
    form = {{
        "client_id": known["client"],
        "client_assertion": known["assertion"],
        "grant_type": "client_credentials",
        "scope": resource + "/.default",
    }}
    url = "https://login.microsoftonline.com/" + known["tenant"] + "/oauth2/v2.0/token"
    body = urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(url, body) as answer:
        known["tokens"][resource] = json.load(answer)["access_token"]
    login.write_text(json.dumps(known))
expires = time.time() + 3599
print(json.dumps({{
    "accessToken": known["tokens"][resource],
    "expiresOn": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.localtime(expires)),
    "expires_on": int(expires),
    "subscription": "",
    "tenant": known["tenant"],
    "tokenType": "Bearer",
}}))
"""


@dataclass
class Step:
    """A command, a login (as whom, in which tenant), or the files of an artifact."""

    command: str = ""
    login: tuple[str, str] | None = None
    files: list[str] = field(default_factory=list)
    always: bool = False


@dataclass
class Job:
    name: str
    needs: str
    steps: list[Step]
    on_push_alone: bool
    environment: str


def github(path: Path) -> tuple[list[str], list[Job]]:
    """The jobs of a workflow, and the shell that runs their commands."""
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert whole[True] == {"pull_request": None, "push": {"branches": ["main"]}}
    assert whole["defaults"] == {"run": {"shell": "bash"}}
    jobs = []
    for name, job in whole["jobs"].items():
        steps = []
        rights = job.get("permissions", whole["permissions"])
        for step in job["steps"]:
            always = {None: False, "always()": True}[step.get("if")]
            action, given = step.get("uses", "").partition("@")[0], step.get("with", {})
            if action == "azure/login":
                assert rights["id-token"] == "write"
                ids = (given["client-id"], given["tenant-id"])
                steps.append(Step(login=(variable(ids[0]), variable(ids[1]))))
            elif action == "actions/upload-artifact":
                steps.append(Step(files=given["path"].split(), always=always))
            elif "run" in step:
                steps.append(Step(step["run"], always=always))
            else:
                assert action in ("actions/checkout", "actions/setup-python")
        on_push = {None: False, "github.event_name == 'push'": True}[job.get("if")]
        where = job.get("environment", "")
        jobs.append(Job(name, job.get("needs", ""), steps, on_push, where))
    # As GitHub documents it for `shell: bash`.
    return "bash --noprofile --norc -eo pipefail -c".split(), jobs


def variable(text: str) -> str:
    found = re.fullmatch(r"\$\{\{ vars\.(\w+) \}\}", text)
    assert found, text
    return VARIABLES[found[1]]


def azure_devops(path: Path) -> tuple[list[str], list[Job]]:
    """The stages of a pipeline, of one job each, and the shell that runs their commands."""
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert whole["trigger"] == ["main"]
    on_main = "and(succeeded(), eq(variables['Build.SourceBranch'], 'refs/heads/main'))"
    jobs: list[Job] = []
    for stage in whole["stages"]:
        (job,) = stage["jobs"]
        listed = job.get("steps") or job["strategy"]["runOnce"]["deploy"]["steps"]
        # A deployment has no files of the repository unless it asks for them.
        assert "job" in job or listed[0] == {"checkout": "self"}
        steps = []
        for step in listed:
            always = {None: False, "succeededOrFailed()": True}[step.get("condition")]
            task, given = step.get("task"), step.get("inputs", {})
            if task == "AzureCLI@2":
                assert (given["scriptType"], given["scriptLocation"]) == (
                    *("bash", "inlineScript"),
                )
                assert given["azureSubscription"] == f"penguins-{stage['stage']}"
                steps.append(Step(login=(resources.CLIENT_ID, resources.TENANT_ID)))
                steps.append(Step(given["inlineScript"]))
            elif "bash" in step:
                steps.append(Step(step["bash"], always=always))
            elif "publish" in step:
                steps.append(Step(files=[f"{step['publish']}/*"]))
            else:
                assert task in ("UsePythonVersion@0", "Cache@2") or "checkout" in step
        on_push = {None: False, on_main: True}[stage.get("condition")]
        needs = jobs[-1].name if jobs else ""
        where = job.get("environment", "")
        jobs.append(Job(stage["stage"], needs, steps, on_push, where))
    return "bash --noprofile --norc -c".split(), jobs


READ = {"github": github, "azure-devops": azure_devops}


@dataclass
class Ran:
    """How a job ended, what it printed, and what it leaves on the platform."""

    went_well: bool = True
    output: str = ""
    summary: str = ""
    artifacts: list[str] = field(default_factory=list)


class Platform:
    """Runs the workflow of a repository, which has its Azure around it."""

    def __init__(self, name: str, user: User, folder: Path) -> None:
        self.name, self.user, self.folder = name, user, folder
        self.repository, self.clones = user.project.path, 0
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()
        for tool, text in {"pip": PIP, "az": AZ}.items():
            script = folder / "bin" / tool
            script.parent.mkdir(exist_ok=True)
            script.write_text(text.format(python=sys.executable))
            script.chmod(0o755)

    def git(self, *words: str) -> None:
        who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
        subprocess.run(["git", *who, *words], cwd=self.repository, check=True)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A change")

    def push(self, *names: str) -> dict[str, Ran]:
        """What comes of a push to main; of `names` alone, as if others had gone well."""
        self.shell, jobs = READ[self.name](self.repository / FILES[self.name])
        results: dict[str, Ran] = {}
        for job in jobs:
            is_due = job.name in names if names else True
            before = results.get(job.needs, Ran(went_well=bool(names) or not job.needs))
            if is_due and before.went_well:
                results[job.name] = self.run(job)
        return results

    def run(self, job: Job) -> Ran:
        self.clones += 1
        clone = self.folder / f"{job.name}-{self.clones}"
        self.git("clone", "--quiet", ".", str(clone))
        python = Path(self.user.project.interpreter).parent
        path = [self.folder / "bin", python, TOOLS, os.environ["PATH"]]
        summary, azure = clone / "step-summary.md", clone / ".azure"
        environment = self.user.environment(
            login=False,
            PATH=os.pathsep.join(map(str, path)),
            GITHUB_STEP_SUMMARY=str(summary),
            AZURE_CONFIG_DIR=str(azure),
            MYPY_CACHE_DIR=str(TEMPLATE / "build" / "mypy" / self.user.project.sdk),
            **NO_IDENTITY,
        )
        environment["SSL_CERT_FILE"] = environment["REQUESTS_CA_BUNDLE"]
        ran = Ran()
        for step in job.steps:
            if not (ran.went_well or step.always):
                continue
            if step.login:
                azure.mkdir(exist_ok=True)
                client, tenant = step.login
                login = {"client": client, "tenant": tenant, "tokens": {}}
                login["assertion"] = resources.CLIENT_ASSERTION
                (azure / "login.json").write_text(json.dumps(login))
            for pattern in step.files:
                found = [p.relative_to(clone).as_posix() for p in clone.glob(pattern)]
                ran.artifacts += found
            if step.command:
                done = subprocess.run(
                    [*self.shell, step.command],
                    cwd=clone,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                ran.output += done.stdout
                ran.went_well &= done.returncode == 0
        uploaded = re.findall(r"##vso\[task\.uploadsummary\](.*)", ran.output)
        for file in [Path(one) for one in uploaded] + [summary]:
            ran.summary += file.read_text() if file.exists() else ""
        return ran


#: No managed identity is found, neither the stand-in's nor that of the machine.
NO_IDENTITY = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")


def tool(*words: str) -> None:
    done = subprocess.run(
        [str(TOOLS / words[0]), *words[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["", "sixty letters"])
def test_a_workflow_of_github_is_linted(bake: Bake, name: str) -> None:
    answers = {"project_name": "Abcdefghi " * 6} if name else {}
    project = bake(ci_platform="github", **answers)
    file = str(project.path / FILES["github"])
    tool("actionlint", file)
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", file)
    # Pinned actions, least permissions, no secret that stays behind, nothing injected.
    tool("zizmor", "--offline", "--no-progress", file)


@pytest.mark.parametrize("name", ["", "sixty letters"])
def test_a_pipeline_of_azure_devops_fits_its_schema(bake: Bake, name: str) -> None:
    answers = {"project_name": "Abcdefghi " * 6} if name else {}
    project = bake(ci_platform="azure-devops", **answers)
    file = str(project.path / FILES["azure-devops"])
    azure = ("--builtin-schema", "vendor.azure-pipelines")
    known = ("--data-transform", "azure-pipelines", "--regex-variant", "nonunicode")
    tool("check-jsonschema", *azure, *known, file)


def test_every_action_is_pinned_with_its_version(bake: Bake) -> None:
    file = bake(ci_platform="github").path / FILES["github"]
    uses = re.findall(r"uses: (.*)", file.read_text(encoding="utf-8"))
    assert len(uses) > 3
    for action in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)


@pytest.fixture(scope="module", params=FILES)
def platform(
    request: pytest.FixtureRequest,
    bake: Bake,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Platform]:
    """A repository with the workspaces `test` and `prod`, each on another cluster."""
    name, folder = request.param, tmp_path_factory.mktemp("platform")
    project = bake(**ANSWERS, ci_platform=name, azureml_sdk=SDKS[name])
    project.edit("settings.yml", "max_iterations: 200", "max_iterations: 20")
    config = json.loads((project.path / ".azureml/config.json").read_text())
    with Standin.running(folder / "standin") as standin:
        standin.azure.python = project.interpreter
        for where in ("test", "prod"):
            standin.create_workspace(where, "group", compute=f"{where}-cluster")
            file = project.path / ".azureml" / f"{where}.json"
            file.write_text(json.dumps(config | {"workspace_name": where}))
            own = project.path / f"settings.{where}.yml"
            own.write_text(f"compute:\n  name: {where}-cluster\n")
        yield Platform(name, User(project, standin, folder / "home"), folder)
        standin.verify()


@pytest.fixture(scope="module")
def first(platform: Platform) -> dict[str, Ran]:
    """The first push to main."""
    return platform.push()


def test_a_push_to_main_goes_to_the_end(first: dict[str, Ran]) -> None:
    assert [*first] == ["checks", "test", "prod"]
    for ran in first.values():
        assert ran.went_well, ran.output
