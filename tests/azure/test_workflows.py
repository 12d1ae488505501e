"""Test the workflows of GitHub and Azure DevOps: they are linted, and run on this machine.

The commands, their order, their conditions and the logins are read from the generated files.
Each job starts in a clean clone, and its Azure is the stand-in (azure_standin/). The tests
imitate the rest of a platform: its shell, its summary, its artifacts, and the `az` that a
login leaves behind. Nothing is installed: `pip` only checks what it is asked to install.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure_standin import Fault, Standin, resources
from azure_standin.wire import Request
from azure_user import ANSWERS, STEPS, User
from conftest import COLD, TEMPLATE, Bake
from toys import skip_preloading

WORKFLOWS = {
    "github": ".github/workflows/pipelines.yml",
    "azure-devops": "azure-pipelines.yml",
}
#: The workflows that call `status` each day.
STATUS_WORKFLOWS = {
    "github": ".github/workflows/status.yml",
    "azure-devops": "azure-pipelines-status.yml",
}
SDKS = {"github": "azureml-sdk", "azure-devops": "azure-ai-ml"}
TOOLS = Path(sys.executable).parent
#: The variables that the repository on GitHub has.
VARIABLES = {
    "AZURE_CLIENT_ID": resources.CLIENT_ID,
    "AZURE_TENANT_ID": resources.TENANT_ID,
}
#: A `pip` that installs nothing, and fails if the project does not have the extra.
PIP = """#!{python}
import sys, tomllib
from pathlib import Path
*options, requirement = sys.argv[1:]
assert options == ["install", "--quiet", "--editable"], options
extra = requirement.removeprefix(".").strip("[]")
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
assert not extra or extra in project["optional-dependencies"], requirement
"""
#: An `az` that answers azure-identity as the real one does. It keeps a token for each
#: resource, and requests a token only if somebody has logged in.
AZ = """#!{python}
import json, os, sys, time, urllib.error, urllib.parse, urllib.request
from pathlib import Path
*command, resource = sys.argv[1:]
assert command == "account get-access-token --output json --resource".split(), command
login_file = Path(os.environ["AZURE_CONFIG_DIR"], "login.json")
if not login_file.exists():
    sys.exit("ERROR: Please run 'az login' to setup account.")
login = json.loads(login_file.read_text())
if resource not in login["tokens"]:
    fields = {{
        "client_id": login["client"],
        "client_assertion": login["assertion"],
        "grant_type": "client_credentials",
        "scope": resource + "/.default",
    }}
    url = "https://login.microsoftonline.com/" + login["tenant"] + "/oauth2/v2.0/token"
    body = urllib.parse.urlencode(fields).encode()
    with urllib.request.urlopen(url, body) as answer:
        login["tokens"][resource] = json.load(answer)["access_token"]
    login_file.write_text(json.dumps(login))
expires = time.time() + 3599
print(json.dumps({{
    "accessToken": login["tokens"][resource],
    "expiresOn": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.localtime(expires)),
    "expires_on": int(expires),
    "subscription": "",
    "tenant": login["tenant"],
    "tokenType": "Bearer",
}}))
"""
#: A step that writes a report into each of its outputs, which is all that the next step needs.
TOY_STEP = '''"""Leaves a report."""

from pathlib import Path

for folder in Path("../outputs").iterdir():
    folder.joinpath("report.html").write_text("made")
'''
#: An entry script that scores nothing. It writes a file, because summarize reads its folder.
TOY_SCORE = '''"""Scores nothing, but leaves a file that the next step reads."""

import sys
from pathlib import Path


def init() -> None:
    """Write the file. There is no model."""
    folder = Path(sys.argv[sys.argv.index("--predictions") + 1])
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("part.parquet").write_text("made")


def run(files: list[str]) -> list[str]:
    return files
'''
WORKSPACE_IN_PATH = re.compile("/workspaces/(test|prod)", re.IGNORECASE)


# Reading the workflows ------------------------------------------------------------------


@dataclass
class Login:
    """A login with the identity of a client in a tenant."""

    client: str
    tenant: str


@dataclass
class Step:
    """A step of a job: either a command, or a login, or files to keep as an artifact."""

    command: str = ""
    login: Login | None = None
    artifact_patterns: list[str] = field(default_factory=list)
    runs_after_failure: bool = False


@dataclass
class Job:
    """A job of a GitHub workflow, or a stage of an Azure DevOps pipeline."""

    name: str
    needs: str
    steps: list[Step]
    only_on_push: bool
    environment: str


@dataclass
class Workflow:
    """The jobs of a workflow, and the shell that runs their commands."""

    shell: list[str]
    jobs: list[Job]


def read_github_workflow(path: Path) -> Workflow:
    """Read a workflow of GitHub."""
    content = read_yaml(path)
    # YAML reads the key `on` as true.
    assert content[True] == {"pull_request": None, "push": {"branches": ["main"]}}
    assert content["defaults"] == {"run": {"shell": "bash"}}
    jobs = []
    for name, job in content["jobs"].items():
        permissions = job.get("permissions", content["permissions"])
        steps = []
        for listed_step in job["steps"]:
            step = read_github_step(listed_step, permissions)
            if step:
                steps.append(step)
        condition = job.get("if")
        assert condition in (None, "github.event_name == 'push'")
        jobs.append(
            Job(
                name=name,
                needs=job.get("needs", ""),
                steps=steps,
                only_on_push=condition is not None,
                environment=job.get("environment", ""),
            )
        )
    # GitHub documents this command line for `shell: bash`.
    return Workflow(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"], jobs)


def read_github_step(step: dict[str, Any], permissions: dict[str, str]) -> Step | None:
    """Read a step of a GitHub job, or return None if the tests need not imitate it."""
    condition = step.get("if")
    assert condition in (None, "always()")
    runs_after_failure = condition is not None
    action = step.get("uses", "").partition("@")[0]
    inputs = step.get("with", {})
    if action == "azure/login":
        assert permissions["id-token"] == "write"
        client = read_variable(inputs["client-id"])
        tenant = read_variable(inputs["tenant-id"])
        return Step(login=Login(client, tenant))
    if action == "actions/upload-artifact":
        patterns = inputs["path"].split()
        return Step(artifact_patterns=patterns, runs_after_failure=runs_after_failure)
    if "run" in step:
        return Step(command=step["run"], runs_after_failure=runs_after_failure)
    assert action in ("actions/checkout", "actions/setup-python")
    return None


def read_variable(text: str) -> str:
    """Return the value of a variable that a workflow names, such as `${{ vars.ID }}`."""
    reference = re.fullmatch(r"\$\{\{ vars\.(\w+) \}\}", text)
    assert reference, text
    return VARIABLES[reference[1]]


def read_devops_pipeline(path: Path) -> Workflow:
    """Read a pipeline of Azure DevOps, whose stages have one job each."""
    content = read_yaml(path)
    assert content["trigger"] == ["main"]
    on_main = "and(succeeded(), eq(variables['Build.SourceBranch'], 'refs/heads/main'))"
    jobs: list[Job] = []
    for stage in content["stages"]:
        (job,) = stage["jobs"]
        if "job" in job:
            listed_steps = job["steps"]
        else:
            listed_steps = job["strategy"]["runOnce"]["deploy"]["steps"]
            # A deployment has no files of the repository unless it asks for them.
            assert listed_steps[0] == {"checkout": "self"}
        steps = []
        for listed_step in listed_steps:
            steps += read_devops_step(listed_step, stage["stage"])
        condition = stage.get("condition")
        assert condition in (None, on_main)
        jobs.append(
            Job(
                name=stage["stage"],
                # A stage needs the one before it.
                needs=jobs[-1].name if jobs else "",
                steps=steps,
                only_on_push=condition is not None,
                environment=job.get("environment", ""),
            )
        )
    return Workflow(["bash", "--noprofile", "--norc", "-c"], jobs)


def read_devops_step(step: dict[str, Any], stage: str) -> list[Step]:
    """Read a step of Azure DevOps: a login and a command, one of them, or nothing."""
    condition = step.get("condition")
    assert condition in (None, "succeededOrFailed()")
    task = step.get("task")
    inputs = step.get("inputs", {})
    if task == "AzureCLI@2":
        assert inputs["scriptType"] == "bash"
        assert inputs["scriptLocation"] == "inlineScript"
        assert inputs["azureSubscription"] == f"penguins-{stage}"
        login = Login(resources.CLIENT_ID, resources.TENANT_ID)
        return [Step(login=login), Step(command=inputs["inlineScript"])]
    if "bash" in step:
        runs_after_failure = condition is not None
        return [Step(command=step["bash"], runs_after_failure=runs_after_failure)]
    if "publish" in step:
        return [Step(artifact_patterns=[f"{step['publish']}/*"])]
    assert task in ("UsePythonVersion@0", "Cache@2") or "checkout" in step
    return []


READERS: dict[str, Callable[[Path], Workflow]] = {
    "github": read_github_workflow,
    "azure-devops": read_devops_pipeline,
}


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# Running the workflows ------------------------------------------------------------------


@dataclass
class JobResult:
    """How a job ended, what it printed and requested of Azure, and what it left behind."""

    succeeded: bool = True
    output: str = ""
    summary: str = ""
    artifacts: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


class Platform:
    """Runs the workflow of a repository, whose Azure is a stand-in."""

    def __init__(self, name: str, user: User, folder: Path) -> None:
        self.name = name
        self.user = user
        self.folder = folder
        self.repository = user.project.path
        self.clone_count = 0
        self.run_git("init", "--quiet", "--initial-branch=main")
        self.commit()
        self.install_tool("pip", PIP)
        self.install_tool("az", AZ)

    def install_tool(self, tool: str, text: str) -> None:
        """Put a script on PATH, before the real tool of this name."""
        script = self.folder / "bin" / tool
        script.parent.mkdir(exist_ok=True)
        script.write_text(text.format(python=sys.executable))
        script.chmod(0o755)

    def run_git(self, *arguments: str) -> str:
        """Run git in the repository, and return its output."""
        author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
        process = subprocess.run(
            ["git", *author, *arguments],
            cwd=self.repository,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return process.stdout

    def commit(self) -> None:
        """Commit all changes."""
        self.run_git("add", "--all")
        self.run_git("commit", "--quiet", "--message", "A change")

    def undo_commit(self) -> None:
        """Remove the last commit and its changes."""
        self.run_git("reset", "--quiet", "--hard", "HEAD~1")

    def push(self) -> dict[str, JobResult]:
        """Run the jobs of a push to main, until one fails; return the results by job."""
        workflow = self.read_workflow()
        results: dict[str, JobResult] = {}
        for job in workflow.jobs:
            is_due = not job.needs
            if job.needs in results:
                is_due = results[job.needs].succeeded
            if is_due:
                results[job.name] = self.run_job(job, workflow.shell)
        return results

    def push_with_one_job(self, name: str) -> JobResult:
        """Run one job of a push to main, as if the jobs that it needs had succeeded."""
        workflow = self.read_workflow()
        (job,) = [job for job in workflow.jobs if job.name == name]
        return self.run_job(job, workflow.shell)

    def read_workflow(self) -> Workflow:
        """Read the repository's workflow."""
        return READERS[self.name](self.repository / WORKFLOWS[self.name])

    def run_job(self, job: Job, shell: list[str]) -> JobResult:
        """Run the steps of a job in a new clone."""
        self.clone_count += 1
        clone = self.folder / f"{job.name}-{self.clone_count}"
        self.run_git("clone", "--quiet", ".", str(clone))
        summary_file = clone / "step-summary.md"
        login_file = clone / ".azure" / "login.json"
        login_file.parent.mkdir()
        environment = self.build_environment(clone, summary_file)
        request_count = len(self.user.standin.requests)

        result = JobResult()
        for step in job.steps:
            if not result.succeeded and not step.runs_after_failure:
                continue
            if step.login:
                write_login(login_file, step.login)
            for pattern in step.artifact_patterns:
                for path in clone.glob(pattern):
                    result.artifacts.append(path.relative_to(clone).as_posix())
            if step.command:
                process = subprocess.run(
                    [*shell, step.command],
                    cwd=clone,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                result.output += process.stdout
                if process.returncode != 0:
                    result.succeeded = False

        # Azure DevOps is told of a summary by a line of output, GitHub has a file for it.
        uploads = re.findall(r"##vso\[task\.uploadsummary\](.*)", result.output)
        for path in [*map(Path, uploads), summary_file]:
            if path.exists():
                result.summary += path.read_text(encoding="utf-8")
        result.requests = self.user.standin.requests[request_count:]
        if login_file.exists():
            result.tokens = list(json.loads(login_file.read_text())["tokens"].values())
        return result

    def build_environment(self, clone: Path, summary_file: Path) -> dict[str, str]:
        """Return the environment variables of a job."""
        project = self.user.project
        folders = [
            self.folder / "bin",
            Path(project.interpreter).parent,
            Path(COLD[project.sdk]).parent,
            TOOLS,
        ]
        path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
        # Neither the stand-in's managed identity nor that of the machine can be reached.
        no_identity = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
        return self.user.environment(
            login=False,
            PATH=path,
            GITHUB_STEP_SUMMARY=str(summary_file),
            AZURE_CONFIG_DIR=str(clone / ".azure"),
            MYPY_CACHE_DIR=str(TEMPLATE / "build" / "mypy" / project.sdk),
            # The other tests of the project take a minute, and test_local_run.py runs them.
            PYTEST_ADDOPTS="tests/test_settings.py",
            **no_identity,
        )


def write_login(file: Path, login: Login) -> None:
    """Write the file by which the `az` of these tests knows who has logged in."""
    content = {
        "client": login.client,
        "tenant": login.tenant,
        "assertion": resources.CLIENT_ASSERTION,
        "tokens": {},
    }
    file.write_text(json.dumps(content))


@contextmanager
def set_up_platform(name: str, bake: Bake, folder: Path) -> Iterator[Platform]:
    """Set up a repository with the workspaces `test` and `prod`, each with its own cluster.

    The steps of the project on Azure DevOps are toys, because GitHub runs the real ones.
    """
    project = bake(**ANSWERS, ci_platform=name, azureml_sdk=SDKS[name])
    project.edit("settings.yml", "max_iterations: 200", "max_iterations: 20")
    config = json.loads((project.path / ".azureml/config.json").read_text())
    with Standin.running(folder / "standin") as standin:
        standin.azure.python = project.interpreter
        for workspace in ("test", "prod"):
            cluster = f"{workspace}-cluster"
            standin.create_workspace(workspace, "group", cluster)
            config_file = project.path / ".azureml" / f"{workspace}.json"
            config_file.write_text(json.dumps(config | {"workspace_name": workspace}))
            settings_file = project.path / f"settings.{workspace}.yml"
            settings_file.write_text(f"compute:\n  name: {cluster}\n")
        user = User(project, standin, folder / "home")
        if name == "azure-devops":
            for step in STEPS:
                user.write(step, TOY_STEP)
            user.write("score", TOY_SCORE)
            skip_preloading(project)
        yield Platform(name, user, folder)
        standin.verify()


@pytest.fixture(scope="module")
def github(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A repository on GitHub, with azureml-sdk and the real steps."""
    folder = tmp_path_factory.mktemp("github")
    with set_up_platform("github", bake, folder) as platform:
        yield platform


@pytest.fixture(scope="module")
def azure_devops(
    bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A repository on Azure DevOps, with azure-ai-ml and toy steps."""
    folder = tmp_path_factory.mktemp("devops")
    with set_up_platform("azure-devops", bake, folder) as platform:
        # test_bake.py runs the real mypy on projects with this SDK.
        platform.install_tool("mypy", "#!/bin/sh\n")
        yield platform


# The files ------------------------------------------------------------------------------


def run_tool(*command: str) -> None:
    """Run a tool of the tests' environment, which must succeed."""
    tool, *arguments = command
    process = subprocess.run(
        [str(TOOLS / tool), *arguments], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr


def assert_linted(repository: Path, workflow: str) -> None:
    """Check that a workflow and the updates of its actions are valid and safe.

    zizmor demands pinned actions, least permissions, no secret that is left behind, and no
    code that a pull request can inject.
    """
    file = str(repository / workflow)
    updates = str(repository / ".github/dependabot.yml")
    run_tool("actionlint", file)
    run_tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", file)
    run_tool("check-jsonschema", "--builtin-schema", "vendor.dependabot", updates)
    run_tool("zizmor", "--offline", "--no-progress", file, updates)


def assert_actions_are_pinned(workflow: Path) -> None:
    """Check that each action is pinned by a commit, with its version as a comment."""
    actions = re.findall(r"uses: (.*)", workflow.read_text(encoding="utf-8"))
    assert actions
    for action in actions:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)


def test_github_workflows_of_a_project_are_linted_and_pinned(bake: Bake) -> None:
    project = bake(ci_platform="github").path
    for file in (WORKFLOWS["github"], STATUS_WORKFLOWS["github"]):
        assert_linted(project, file)
        assert_actions_are_pinned(project / file)


@pytest.mark.parametrize("name", ["test.yml", "release.yml"])
def test_workflows_of_this_repository_are_linted_and_pinned(name: str) -> None:
    file = f".github/workflows/{name}"
    assert_linted(TEMPLATE, file)
    assert_actions_are_pinned(TEMPLATE / file)
    for job in read_yaml(TEMPLATE / file)["jobs"].values():
        assert job["timeout-minutes"] <= 90


def test_this_repository_has_no_workflow_that_is_not_linted() -> None:
    files = {file.name for file in (TEMPLATE / ".github/workflows").iterdir()}
    assert files == {"test.yml", "release.yml"}


def test_azure_devops_pipelines_fit_their_schema(bake: Bake) -> None:
    project = bake(ci_platform="azure-devops").path
    schema = ("--builtin-schema", "vendor.azure-pipelines")
    options = ("--data-transform", "azure-pipelines", "--regex-variant", "nonunicode")
    for file in (WORKFLOWS["azure-devops"], STATUS_WORKFLOWS["azure-devops"]):
        run_tool("check-jsonschema", *schema, *options, str(project / file))


@pytest.mark.parametrize("platform", WORKFLOWS)
def test_status_of_prod_is_checked_each_day(bake: Bake, platform: str) -> None:
    project = bake(ci_platform=platform)
    text = (project.path / STATUS_WORKFLOWS[platform]).read_text("utf-8")
    assert re.findall(r"python -m penguins (.*)", text) == ["status --workspace prod"]
    assert '- cron: "30 7 * * *"' in text
    # Nobody approves these runs, so they must not have the identity of prod.
    assert "environment: status" in text or "azureSubscription: penguins-status" in text
    assert "environment: prod" not in text


@pytest.mark.parametrize("platform", WORKFLOWS)
def test_pull_request_runs_only_the_checks(bake: Bake, platform: str) -> None:
    project = bake(ci_platform=platform)
    workflow = READERS[platform](project.path / WORKFLOWS[platform])
    checks, test, prod = workflow.jobs
    assert (checks.name, checks.needs, checks.only_on_push) == ("checks", "", False)
    assert (test.name, test.needs, test.only_on_push) == ("test", "checks", True)
    assert (prod.name, prod.needs, prod.environment) == ("prod", "test", "prod")
    assert not [step for step in checks.steps if step.login]


@pytest.mark.parametrize("platform", WORKFLOWS)
def test_two_pushes_never_use_a_workspace_at_once(bake: Bake, platform: str) -> None:
    content = read_yaml(bake(ci_platform=platform).path / WORKFLOWS[platform])
    if platform == "github":
        groups = [content["jobs"][job]["concurrency"] for job in ("test", "prod")]
        assert groups == ["azure-ml-test", "azure-ml-prod"]
    else:
        locks = [stage.get("lockBehavior") for stage in content["stages"]]
        assert locks == [None, "runLatest", "runLatest"]


@pytest.mark.parametrize("platform", WORKFLOWS)
def test_page_has_the_answers_and_the_names_in_the_workflow(
    bake: Bake, platform: str
) -> None:
    project = bake(**ANSWERS, ci_platform=platform)
    workflow = project.path / WORKFLOWS[platform]
    page = {"github": "README.md", "azure-devops": "azure-pipelines.md"}[platform]
    text = workflow.with_name(page).read_text(encoding="utf-8")
    for answer in ("azure_subscription_id", "azure_resource_group"):
        assert f"='{ANSWERS[answer]}'" in text
    assert "WORKSPACE='workspace'" in text
    assert "--name penguins-$NAME" in text
    workflow_text = workflow.read_text(encoding="utf-8")
    variables = re.findall(r"vars\.(\w+)", workflow_text)
    connections = re.findall(r"Subscription: ([\w-]+)-", workflow_text)
    for name in variables + connections:
        assert name in text, name


# Pushes ---------------------------------------------------------------------------------


def assert_all_jobs_succeeded(results: dict[str, JobResult]) -> None:
    """Check a push: its jobs, the workspaces that they use, and their summaries."""
    assert list(results) == ["checks", "test", "prod"]
    for name, result in results.items():
        assert result.succeeded, result.output
        assert result.summary.startswith("```\n"), result.summary
        workspaces = set()
        for request in result.requests:
            workspaces |= set(WORKSPACE_IN_PATH.findall(request.path))
        assert workspaces == (set() if name == "checks" else {name})
        for secret in (resources.CLIENT_ASSERTION, *result.tokens):
            assert secret not in result.output
    assert not results["checks"].requests
    assert results["test"].tokens
    assert results["prod"].tokens
    for pipeline in ("training", "scoring"):
        assert f"submitted  {pipeline}, run" in results["test"].summary
        assert f"published  penguins-{pipeline}" in results["prod"].summary


def test_push_to_github_publishes_both_pipelines(github: Platform) -> None:
    results = github.push()

    assert_all_jobs_succeeded(results)
    checks = results["checks"]
    assert re.search("held-out rows: log loss .*, accuracy 0.9", checks.summary)
    assert "registered as version 1" in checks.summary
    reports = [Path(path).parts[2:] for path in checks.artifacts]
    assert reports == [
        ("evaluate", "outputs", "evaluation", "report.html"),
        ("prep", "outputs", "data_report", "report.html"),
    ]
    assert len(github.user.standin.azure.models["penguins"]) == 1


def test_refused_model_does_not_fail_the_job(github: Platform, tmp_path: Path) -> None:
    project = github.user.project
    project.edit("settings.yml", "max_iterations: 20", "max_iterations: 1")
    project.edit("settings.yml", "rate: 0.1", "rate: 0.0001")
    github.commit()
    result = github.push_with_one_job("test")
    github.undo_commit()

    assert result.succeeded, result.output
    azure = github.user.standin.azure
    last_run = [run for run in azure.runs.values() if run.name == "register"][-1]
    azure.restore(azure.files(last_run.outputs["registration"]), tmp_path)
    registration = json.loads((tmp_path / "registration.json").read_text())
    assert not registration["registered"], registration
    assert len(azure.models["penguins"]) == 1
    # Training is followed by scoring, which uses the model that was registered before.
    assert result.summary.count("finished   run") == 2


def test_summary_ends_with_the_log_of_a_failed_step(github: Platform) -> None:
    github.user.write("prep", 'raise SystemExit("The data is odd.")\n')
    github.commit()
    result = github.push_with_one_job("test")
    github.undo_commit()

    assert not result.succeeded
    assert "    The data is odd." in result.summary.splitlines()
    assert "submitted  scoring" not in result.output


def test_job_stops_at_once_if_azure_is_down(github: Platform) -> None:
    fault = Fault("GET arm/subscriptions", 503, times=None)
    github.user.standin.faults.append(fault)
    result = github.push_with_one_job("prod")
    github.user.standin.faults.remove(fault)

    assert not result.succeeded
    assert "answered 503" in result.summary
    assert "Run the command again later" in result.summary
    kinds = {(request.method, request.service) for request in result.requests}
    assert kinds == {("POST", "login"), ("GET", "arm")}


def test_push_to_azure_devops_publishes_both_pipelines(azure_devops: Platform) -> None:
    results = azure_devops.push()

    assert_all_jobs_succeeded(results)
    assert "ran evaluate" in results["checks"].summary
    artifacts = sorted(results["checks"].artifacts)
    assert artifacts == ["reports/data.html", "reports/evaluation.html"]


def test_failing_test_stops_the_push_before_azure(azure_devops: Platform) -> None:
    test_file = azure_devops.repository / "tests/test_settings.py"
    failing_test = """

def test_that_fails() -> None:
    assert PROJECT.package == "pelicans"
"""
    test_file.write_text(test_file.read_text(encoding="utf-8") + failing_test)
    azure_devops.commit()
    results = azure_devops.push()
    azure_devops.undo_commit()

    assert list(results) == ["checks"]
    checks = results["checks"]
    assert not checks.succeeded
    assert "assert 'penguins' == 'pelicans'" in checks.summary
    assert not checks.requests
    assert not checks.artifacts


def test_private_data_stays_out_of_git_and_of_azure(azure_devops: Platform) -> None:
    """Follow the page for private data.

    The job `test` uses the sample, and `prod` uses a folder of the datastore.
    """
    project = azure_devops.user.project
    private_file = project.path / "data/customers/ann.csv"
    private_file.parent.mkdir()
    private_file.write_text("name,churned\nAnn,yes\n")
    project.edit(
        "settings.yml", "training: data/sample/training", "training: data/customers"
    )
    with (project.path / "settings.test.yml").open("a", encoding="utf-8") as settings:
        settings.write("data: {training: data/sample/training}\n")
    project.edit(
        WORKFLOWS["azure-devops"],
        "publish training --workspace prod",
        "publish training --workspace prod --data customers/all",
    )
    azure_devops.commit()
    results = azure_devops.push()
    committed_files = azure_devops.run_git("ls-files", "data").splitlines()
    azure_devops.undo_commit()

    assert {Path(file).parts[1] for file in committed_files} == {"sample"}
    assert list(results) == ["checks", "test", "prod"]
    for result in results.values():
        assert result.succeeded, result.output
        for request in result.requests:
            assert b"Ann,yes" not in request.body
    assert "missing    data.training" in results["prod"].output
