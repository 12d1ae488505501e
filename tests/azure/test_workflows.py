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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from azure_standin import Fault, Standin, resources
from azure_standin.wire import Request
from azure_user import ANSWERS, User
from conftest import COLD, TEMPLATE, Bake

FILES = {
    "github": ".github/workflows/pipelines.yml",
    "azure-devops": "azure-pipelines.yml",
}
#: The workflows that call `status` each day.
STATUS_FILES = {
    "github": ".github/workflows/status.yml",
    "azure-devops": "azure-pipelines-status.yml",
}
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


#: A step that leaves what the next one reads, and an entry script that scores nothing.
STEP = '''"""Leaves a report."""

from pathlib import Path

for folder in Path("../outputs").iterdir():
    folder.joinpath("report.html").write_text("made")
'''
SCORE = '''"""Scores nothing."""


def init() -> None:
    """There is no model."""


def run(files: list[str]) -> list[str]:
    return files
'''
WORKSPACE = re.compile("/workspaces/(test|prod)", re.IGNORECASE)


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
            action = step.get("uses", "").partition("@")[0]
            inputs = step.get("with", {})
            if action == "azure/login":
                assert rights["id-token"] == "write"
                ids = (inputs["client-id"], inputs["tenant-id"])
                steps.append(Step(login=(variable(ids[0]), variable(ids[1]))))
            elif action == "actions/upload-artifact":
                steps.append(Step(files=inputs["path"].split(), always=always))
            elif "run" in step:
                steps.append(Step(step["run"], always=always))
            else:
                assert action in ("actions/checkout", "actions/setup-python")
        on_push = {None: False, "github.event_name == 'push'": True}[job.get("if")]
        where = job.get("environment", "")
        jobs.append(Job(name, job.get("needs", ""), steps, on_push, where))
    # As GitHub documents it for `shell: bash`.
    return ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"], jobs


def variable(text: str) -> str:
    """Return the value of a variable that a workflow names, such as `${{ vars.ID }}`."""
    reference = re.fullmatch(r"\$\{\{ vars\.(\w+) \}\}", text)
    assert reference, text
    return VARIABLES[reference[1]]


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
            task = step.get("task")
            inputs = step.get("inputs", {})
            if task == "AzureCLI@2":
                assert inputs["scriptType"] == "bash"
                assert inputs["scriptLocation"] == "inlineScript"
                assert inputs["azureSubscription"] == f"penguins-{stage['stage']}"
                steps.append(Step(login=(resources.CLIENT_ID, resources.TENANT_ID)))
                steps.append(Step(inputs["inlineScript"]))
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
    return ["bash", "--noprofile", "--norc", "-c"], jobs


READ = {"github": github, "azure-devops": azure_devops}


@dataclass
class Ran:
    """How a job ended, what it printed and asked Azure, and what it leaves behind."""

    went_well: bool = True
    output: str = ""
    summary: str = ""
    artifacts: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


class Platform:
    """Runs the workflow of a repository, which has its Azure around it."""

    def __init__(self, name: str, user: User, folder: Path) -> None:
        self.name, self.user, self.folder = name, user, folder
        self.repository, self.clones = user.project.path, 0
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()
        self.install("pip", PIP)
        self.install("az", AZ)

    def install(self, tool: str, text: str) -> None:
        """Put a script on the path, before the real tool of this name."""
        script = self.folder / "bin" / tool
        script.parent.mkdir(exist_ok=True)
        script.write_text(text.format(python=sys.executable))
        script.chmod(0o755)

    def git(self, *words: str) -> str:
        """Run git in the repository; return what it prints."""
        who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
        command = ["git", *who, *words]
        return subprocess.run(
            command, cwd=self.repository, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A change")

    def undo(self) -> None:
        self.git("reset", "--quiet", "--hard", "HEAD~1")

    def jobs(self) -> list[Job]:
        self.shell, jobs = READ[self.name](self.repository / FILES[self.name])
        return jobs

    def push(self, *names: str) -> dict[str, Ran]:
        """Run the jobs of a push to main; with `names`, only these, as if others had succeeded."""
        results: dict[str, Ran] = {}
        for job in self.jobs():
            is_due = job.name in names if names else True
            if names or not job.needs:
                results.setdefault(job.needs, Ran())
            if is_due and results.get(job.needs, Ran(went_well=False)).went_well:
                results[job.name] = self.run(job)
        return {name: ran for name, ran in results.items() if ran.output}

    def run(self, job: Job) -> Ran:
        self.clones += 1
        clone = self.folder / f"{job.name}-{self.clones}"
        self.git("clone", "--quiet", ".", str(clone))
        summary = clone / "step-summary.md"
        login = clone / ".azure" / "login.json"
        login.parent.mkdir()
        environment = self.environment(clone, summary)
        ran = Ran()
        before = len(self.user.standin.requests)
        for step in job.steps:
            if not (ran.went_well or step.always):
                continue
            if step.login:
                client, tenant = step.login
                known = {"client": client, "tenant": tenant, "tokens": {}}
                known["assertion"] = resources.CLIENT_ASSERTION
                login.write_text(json.dumps(known))
            for pattern in step.files:
                found = [path.relative_to(clone) for path in clone.glob(pattern)]
                ran.artifacts += [path.as_posix() for path in found]
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
            ran.summary += file.read_text(encoding="utf-8") if file.exists() else ""
        ran.requests = self.user.standin.requests[before:]
        if login.exists():
            ran.tokens = [*json.loads(login.read_text())["tokens"].values()]
        return ran

    def environment(self, clone: Path, summary: Path) -> dict[str, str]:
        project = self.user.project
        own = [Path(one).parent for one in (project.interpreter, COLD[project.sdk])]
        path = [self.folder / "bin", *own, TOOLS, os.environ["PATH"]]
        # Neither the stand-in's managed identity nor that of the machine is found.
        no_identity = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
        return self.user.environment(
            login=False,
            PATH=os.pathsep.join(map(str, path)),
            GITHUB_STEP_SUMMARY=str(summary),
            AZURE_CONFIG_DIR=str(clone / ".azure"),
            MYPY_CACHE_DIR=str(TEMPLATE / "build" / "mypy" / project.sdk),
            # The others take a minute, and are run by test_local_run.py.
            PYTEST_ADDOPTS="tests/test_settings.py",
            **no_identity,
        )


def tool(*words: str) -> None:
    done = subprocess.run(
        [str(TOOLS / words[0]), *words[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_linted(repository: Path, workflow: str) -> None:
    """The workflow and the updates of its actions are valid, and safe by zizmor's audits.

    Those want pinned actions, least permissions, no secret that stays behind, and no code
    that a pull request can inject.
    """
    file = str(repository / workflow)
    updates = str(repository / ".github/dependabot.yml")
    tool("actionlint", file)
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", file)
    tool("check-jsonschema", "--builtin-schema", "vendor.dependabot", updates)
    tool("zizmor", "--offline", "--no-progress", file, updates)


def assert_pinned(workflow: Path) -> None:
    uses = re.findall(r"uses: (.*)", workflow.read_text(encoding="utf-8"))
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)


def test_the_workflow_of_a_project_on_github_is_linted_and_pinned(bake: Bake) -> None:
    project = bake(ci_platform="github").path
    for file in (FILES["github"], STATUS_FILES["github"]):
        assert_linted(project, file)
        assert_pinned(project / file)


@pytest.mark.parametrize("name", ["test.yml", "release.yml"])
def test_the_workflows_of_this_repository_are_linted_and_pinned(name: str) -> None:
    file = f".github/workflows/{name}"
    assert_linted(TEMPLATE, file)
    assert_pinned(TEMPLATE / file)
    jobs = yaml.safe_load((TEMPLATE / file).read_text(encoding="utf-8"))["jobs"]
    for job in jobs.values():
        assert job["timeout-minutes"] <= 90


def test_all_workflows_of_this_repository_are_looked_at() -> None:
    files = {file.name for file in (TEMPLATE / ".github/workflows").iterdir()}
    assert files == {"test.yml", "release.yml"}


def test_a_pipeline_of_azure_devops_fits_its_schema(bake: Bake) -> None:
    project = bake(ci_platform="azure-devops").path
    azure = ("--builtin-schema", "vendor.azure-pipelines")
    known = ("--data-transform", "azure-pipelines", "--regex-variant", "nonunicode")
    for file in (FILES["azure-devops"], STATUS_FILES["azure-devops"]):
        tool("check-jsonschema", *azure, *known, str(project / file))


@pytest.mark.parametrize("name", FILES)
def test_each_day_the_runs_in_prod_are_looked_at(bake: Bake, name: str) -> None:
    text = (bake(ci_platform=name).path / STATUS_FILES[name]).read_text("utf-8")
    assert re.findall(r"python -m penguins (.*)", text) == ["status --workspace prod"]
    assert '- cron: "30 7 * * *"' in text
    # Nobody approves these runs, so they must not have the identity of prod.
    assert "environment: status" in text or "azureSubscription: penguins-status" in text
    assert "environment: prod" not in text


@contextmanager
def repository(name: str, bake: Bake, folder: Path) -> Iterator[Platform]:
    """A repository with the workspaces `test` and `prod`, each with its own cluster."""
    project = bake(**ANSWERS, ci_platform=name, azureml_sdk=SDKS[name])
    project.edit("settings.yml", "max_iterations: 200", "max_iterations: 20")
    config = json.loads((project.path / ".azureml/config.json").read_text())
    with Standin.running(folder / "standin") as standin:
        standin.azure.python = project.interpreter
        for where in ("test", "prod"):
            standin.create_workspace(where, "group", f"{where}-cluster")
            file = project.path / ".azureml" / f"{where}.json"
            file.write_text(json.dumps(config | {"workspace_name": where}))
            own = project.path / f"settings.{where}.yml"
            own.write_text(f"compute:\n  name: {where}-cluster\n")
        user = User(project, standin, folder / "home")
        if name == "azure-devops":  # The real steps run on the other platform.
            for step in ("prep", "train", "evaluate", "register", "monitor"):
                user.write(step, STEP)
            user.write("score", SCORE)
        yield Platform(name, user, folder)
        standin.verify()


@pytest.fixture(scope="module")
def on_github(
    bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    with repository("github", bake, tmp_path_factory.mktemp("github")) as platform:
        yield platform


@pytest.fixture(scope="module")
def on_azure_devops(
    bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("devops")
    with repository("azure-devops", bake, folder) as platform:
        platform.install("mypy", "#!/bin/sh\n")  # test_bake.py has it look at this SDK
        yield platform


def assert_it_goes_to_the_end(platform: Platform, pushed: dict[str, Ran]) -> None:
    assert [*pushed] == ["checks", "test", "prod"]
    for name, ran in pushed.items():
        assert ran.went_well, ran.output
        assert ran.summary.startswith("```\n"), ran.summary
        places = {
            match for one in ran.requests for match in WORKSPACE.findall(one.path)
        }
        assert places == ({name} if name != "checks" else set())
        for secret in (resources.CLIENT_ASSERTION, *ran.tokens):
            assert secret not in ran.output
    assert not pushed["checks"].requests
    assert pushed["test"].tokens
    assert pushed["prod"].tokens
    for pipeline in ("training", "scoring"):
        assert f"submitted  {pipeline}, run" in pushed["test"].summary
        assert f"published  penguins-{pipeline}" in pushed["prod"].summary


def test_a_push_goes_to_the_end_on_github(on_github: Platform) -> None:
    pushed = on_github.push()
    assert_it_goes_to_the_end(on_github, pushed)
    checks = pushed["checks"]
    assert re.search("held-out rows: log loss .*, accuracy 0.9", checks.summary)
    assert "registered as version 1" in checks.summary
    reports = [Path(path).parts[2:] for path in checks.artifacts]
    assert reports == [
        ("evaluate", "outputs", "evaluation", "report.html"),
        ("prep", "outputs", "data_report", "report.html"),
    ]
    assert len(on_github.user.standin.azure.models["penguins"]) == 1


def test_a_model_that_is_refused_stops_nothing(
    on_github: Platform, tmp_path: Path
) -> None:
    on_github.user.project.edit(
        "settings.yml", "max_iterations: 20", "max_iterations: 1"
    )
    on_github.user.project.edit("settings.yml", "rate: 0.1", "rate: 0.0001")
    on_github.commit()
    test = on_github.push("test")["test"]
    on_github.undo()
    assert test.went_well, test.output
    azure = on_github.user.standin.azure
    last = [run for run in azure.runs.values() if run.name == "register"][-1]
    azure.restore(azure.files(last.outputs["registration"]), tmp_path)
    registration = json.loads((tmp_path / "registration.json").read_text())
    assert not registration["registered"], registration
    assert len(azure.models["penguins"]) == 1
    assert test.summary.count("finished   run") == 2  # scoring goes on by the other one


def test_the_end_of_a_failed_steps_log_is_in_the_summary(on_github: Platform) -> None:
    on_github.user.write("prep", 'raise SystemExit("The data is odd.")\n')
    on_github.commit()
    test = on_github.push("test")["test"]
    on_github.undo()
    assert not test.went_well
    assert "    The data is odd." in test.summary.splitlines()
    assert "submitted  scoring" not in test.output


def test_an_azure_that_is_down_ends_it_at_once(on_github: Platform) -> None:
    fault = Fault("GET arm/subscriptions", 503, times=None)
    on_github.user.standin.faults.append(fault)
    prod = on_github.push("prod")["prod"]
    on_github.user.standin.faults.remove(fault)
    assert not prod.went_well
    assert "answered 503" in prod.summary
    assert "Run the command again later" in prod.summary
    kinds = {(one.method, one.service) for one in prod.requests}
    assert kinds == {("POST", "login"), ("GET", "arm")}


def test_a_push_goes_to_the_end_on_azure_devops(on_azure_devops: Platform) -> None:
    pushed = on_azure_devops.push()
    assert_it_goes_to_the_end(on_azure_devops, pushed)
    assert "ran evaluate" in pushed["checks"].summary
    names = sorted(pushed["checks"].artifacts)
    assert names == ["reports/data.html", "reports/evaluation.html"]


def test_a_failing_test_ends_it_before_azure(on_azure_devops: Platform) -> None:
    test = on_azure_devops.repository / "tests/test_settings.py"
    fails = (
        "\n\ndef test_that_fails() -> None:\n    assert PROJECT.package == 'pelicans'\n"
    )
    test.write_text(test.read_text(encoding="utf-8") + fails.replace("'", '"'))
    on_azure_devops.commit()
    pushed = on_azure_devops.push()
    on_azure_devops.undo()
    assert [*pushed] == ["checks"]
    assert not pushed["checks"].went_well
    assert "assert 'penguins' == 'pelicans'" in pushed["checks"].summary
    assert not pushed["checks"].requests
    assert not pushed["checks"].artifacts


def test_private_data_stays_out_of_git_and_the_workflow_goes_by_the_page(
    on_azure_devops: Platform,
) -> None:
    """As the page says: the sample in `test`, a folder of the datastore in `prod`."""
    project = on_azure_devops.user.project
    private = project.path / "data/customers/ann.csv"
    private.parent.mkdir()
    private.write_text("name,churned\nAnn,yes\n")
    project.edit(
        "settings.yml", "training: data/sample/training", "training: data/customers"
    )
    with (project.path / "settings.test.yml").open("a", encoding="utf-8") as settings:
        settings.write("data: {training: data/sample/training}\n")
    project.edit(
        FILES["azure-devops"],
        "publish training --workspace prod",
        "publish training --workspace prod --data customers/all",
    )
    on_azure_devops.commit()
    pushed = on_azure_devops.push()
    committed = on_azure_devops.git("ls-files", "data")
    on_azure_devops.undo()

    folders = {Path(file).parts[1] for file in committed.splitlines()}
    assert folders == {"sample"}
    assert [*pushed] == ["checks", "test", "prod"]
    for ran in pushed.values():
        assert ran.went_well, ran.output
    assert "missing    data.training" in pushed["prod"].output
    requests = [one for ran in pushed.values() for one in ran.requests]
    assert not [one for one in requests if b"Ann,yes" in one.body]


@pytest.mark.parametrize("name", FILES)
def test_a_pull_request_is_checked_alone(bake: Bake, name: str) -> None:
    _, jobs = READ[name](bake(ci_platform=name).path / FILES[name])
    checks, test, prod = jobs
    assert (checks.name, checks.needs, checks.on_push_alone) == ("checks", "", False)
    assert (test.name, test.needs, test.on_push_alone) == ("test", "checks", True)
    assert (prod.name, prod.needs, prod.environment) == ("prod", "test", "prod")
    assert not [step for step in checks.steps if step.login]


@pytest.mark.parametrize("name", FILES)
def test_two_pushes_are_never_in_a_workspace_at_once(bake: Bake, name: str) -> None:
    whole = yaml.safe_load((bake(ci_platform=name).path / FILES[name]).read_text())
    if name == "github":
        groups = [whole["jobs"][job]["concurrency"] for job in ("test", "prod")]
        assert groups == ["azure-ml-test", "azure-ml-prod"]
    else:
        locks = [stage.get("lockBehavior") for stage in whole["stages"]]
        assert locks == [None, "runLatest", "runLatest"]


@pytest.mark.parametrize("name", FILES)
def test_the_page_names_the_project_and_what_the_workflow_uses(
    bake: Bake, name: str
) -> None:
    project = bake(**ANSWERS, ci_platform=name)
    workflow = project.path / FILES[name]
    page = {"github": "README.md", "azure-devops": "azure-pipelines.md"}[name]
    text = workflow.with_name(page).read_text(encoding="utf-8")
    for answer in ("azure_subscription_id", "azure_resource_group"):
        assert f"='{ANSWERS[answer]}'" in text
    assert "WORKSPACE='workspace'" in text
    assert "--name penguins-$NAME" in text
    used = re.findall(r"vars\.(\w+)|Subscription: ([\w-]+)-", workflow.read_text())
    for one in filter(None, sum(used, ())):
        assert one in text, one
