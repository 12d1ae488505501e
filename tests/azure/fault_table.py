"""Print a table: what each command does if one of its requests goes wrong, for both SDKs.

    python tests/azure/fault_table.py [SDK [ROUTES]]

This program takes about an hour, and is no test: `test_faults.py` tests a part of it. For
each command, it finds the routes that the command requests. It breaks each of them in each
way, or only those that match the pattern ROUTES, such as "submit .*computes". The table has
the exit code, the seconds and the message. A request fails after a minute of silence, which
takes four seconds here.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from cookiecutter.main import cookiecutter

sys.path[:0] = [str(Path(__file__).parents[1])]

from azure_standin import Fault, Standin
from azure_standin.refusals import REFUSALS
from azure_user import ANSWERS, STEPS, Shell, User
from conftest import SDKS, TEMPLATE, Project, Result, pytest_unconfigure

SILENCE = 4.0  # seconds, in place of a minute
#: A command may take ten minutes, which are this many seconds here.
LIMIT = 10 * SILENCE
#: The message of the stand-in if a fault has only a status.
STANDIN_SENTENCE = "The stand-in was told to fail here"

TRIED_REFUSALS = (
    "storage firewall",
    "keys switched off",
    "anonymous",
    "missing role",
    "policy",
)


@dataclass(frozen=True)
class Failure:
    """A way in which a request fails, and a text of Azure that the message must show."""

    name: str
    fault: Fault
    required_text: str = ""


def list_failures(route: str, position: int) -> Iterator[Failure]:
    """Yield the ways in which requests to a route fail, except for a stall.

    Two of the refusals are chosen by the position of the route, so that all of them occur.
    """
    for status in (401, 409, 500):
        yield Failure(str(status), Fault(route, status, times=None), str(status))
    busy = Fault(route, 429, retry_after=3600, times=None)
    yield Failure("429 for an hour", busy, "429")
    count = len(TRIED_REFUSALS)
    for number in (2 * position, 2 * position + 1):
        refusal = REFUSALS[TRIED_REFUSALS[number % count]]
        fault = Fault(route, refusal.status, refusal=refusal, times=None)
        yield Failure(f"{refusal.status} {refusal.code}", fault, refusal.code)
    yield Failure("cut", Fault(route, cut=True, times=None))


# These functions prepare a command, so that it sends every request that it can send.


def remove_everything(user: User, _: Shell) -> None:
    """Remove everything from Azure, and the SDK's records of uploads."""
    shutil.rmtree(user.home, ignore_errors=True)
    azure = user.standin.azure
    for resource_id in [id for id in azure.resources if "/resourcegroups/" in id]:
        del azure.resources[resource_id]
    azure.environments.clear()
    azure.role_assignments.clear()
    azure.blobs.clear()


def remove_data_and_code(user: User, shell: Shell) -> None:
    """Remove everything but a workspace with a cluster, and change the steps."""
    remove_everything(user, shell)
    azure = user.standin.azure
    user.standin.create_workspace("workspace", "group", "cpu-cluster")
    azure.experiments.clear()
    azure.modules.clear()
    azure.endpoints.clear()
    azure.schedules.clear()
    user.write("prep", f"print({time.time_ns()})")
    user.write("train", "print('done')")


def let_training_fail(user: User, shell: Shell) -> None:
    """Remove the data and the code, and let the step train fail."""
    remove_data_and_code(user, shell)
    user.write("train", "raise SystemExit('broken')")


def set_schedule(user: User, interval: int) -> None:
    """Write a schedule for training into settings.yml, in place of an earlier one."""
    path = user.project.path / "settings.yml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["schedules"] = {"training": {"frequency": "Minute", "interval": interval}}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")


def prepare_schedule(user: User, shell: Shell) -> None:
    """Remove the data and the code, and set a schedule."""
    remove_data_and_code(user, shell)
    set_schedule(user, interval=7)


def publish_another_version(user: User, shell: Shell) -> None:
    """Publish with a schedule, and set another one for the next version."""
    prepare_schedule(user, shell)
    faults = user.standin.faults[:]
    user.standin.faults.clear()
    assert shell.run("publish training").code == 0
    user.standin.faults[:] = faults
    set_schedule(user, interval=8)


@dataclass(frozen=True)
class Scenario:
    """A command, and a function that prepares it."""

    name: str
    command: str
    prepare: Callable[[User, Shell], None]
    #: The exit code if no request fails.
    code: int = 0


#: A route that several scenarios request is broken in the first of them only.
SCENARIOS = [
    Scenario("publish", "publish training", prepare_schedule),
    Scenario("provision", "provision --create-workspace", remove_everything),
    Scenario("submit", "submit training", remove_data_and_code),
    Scenario("publish again", "publish training", publish_another_version),
    Scenario("submit --wait", "submit training --wait", let_training_fail, 1),
]


def break_every_route(sdk: str, pattern: str, folder: Path) -> None:
    """Print the rows of all commands with an SDK, for the routes that match a pattern."""
    answers = {**ANSWERS, "azureml_sdk": sdk}
    path = cookiecutter(
        str(TEMPLATE), no_input=True, extra_context=answers, output_dir=str(folder)
    )
    with Standin.running(folder / "standin") as standin:
        user = User(Project(Path(path), "penguins", sdk), standin, folder / "home")
        user.project.set("compute", identity="system")
        user.project.set("workspace", image_build_compute="cpu-cluster")
        standin.azure.python = user.project.interpreter
        for step in STEPS:
            user.write(step, "print('done')")
        seen: set[str] = set()
        for scenario in SCENARIOS:
            with closing(start_shell(user)) as shell:
                scenario.prepare(user, shell)
                request_count = len(standin.requests)
                result = shell.run(scenario.command)
                assert result.code == scenario.code, result
            routes = {
                request.route or "" for request in standin.requests[request_count:]
            }
            for position, route in enumerate(sorted(routes - seen)):
                if re.search(pattern, f"{scenario.name} {route}"):
                    break_route(user, scenario, route, position)
            seen |= routes


def break_route(user: User, scenario: Scenario, route: str, position: int) -> None:
    """Break a route in each way, and print a row for each."""
    with closing(start_shell(user)) as shell:
        for failure in list_failures(route, position):
            print_row(user, shell, scenario, route, failure)
    # A stall needs its own shell, because threads of the SDK may go on waiting in it.
    stall = Failure("stall", Fault(route, stall=60, times=None))
    with closing(start_shell(user, LONGEST_SILENCE=str(SILENCE))) as shell:
        print_row(user, shell, scenario, route, stall)


def start_shell(user: User, **variables: str) -> Shell:
    """Start a shell that has imported the SDK, so that no import is measured."""
    # azureml-sdk records uploads in the user's home, which it looks up when it is imported.
    shell = Shell(user, COLD="1", **variables)
    shell.run("submit --help")
    return shell


def print_row(
    user: User,
    shell: Shell,
    scenario: Scenario,
    route: str,
    failure: Failure,
) -> None:
    """Run a command while a route is broken, and print how it ended."""
    scenario.prepare(user, shell)
    # Each command counts its requests anew.
    fault = replace(failure.fault)
    user.standin.faults[:] = [fault]
    started = time.monotonic()
    result = shell.run(scenario.command)
    seconds = time.monotonic() - started
    user.standin.faults.clear()

    verdict = judge_result(result, fault, failure.required_text)
    if seconds > LIMIT:
        verdict += " LATE"
    cells = (
        user.project.sdk,
        scenario.name,
        route,
        failure.name,
        result.code,
        f"{seconds:.1f} s",
        verdict,
        result.err.strip().replace("|", "/"),
    )
    print("|", *(f"{cell} |" for cell in cells), flush=True)


def judge_result(result: Result, fault: Fault, required_text: str) -> str:
    """Return how a command has dealt with a fault; problems are in capital letters."""
    if not fault.seen:
        return "NOT REQUESTED"
    if result.code == 0:
        return "goes on without it"
    if "Traceback" in result.err or not result.err.endswith(".\n"):
        return "NO SENTENCE"
    if required_text not in result.err and STANDIN_SENTENCE not in result.err:
        return "OTHER MESSAGE"
    return "ok"


def main() -> None:
    """Print the table."""
    sdks = sys.argv[1:2] or SDKS
    pattern = sys.argv[2] if sys.argv[2:] else ""
    print("| SDK | command | route | fault | exit code | time | verdict | message |")
    print("|---|---|---|---|---|---|---|---|")
    try:
        for sdk in sdks:
            with TemporaryDirectory() as folder:
                break_every_route(sdk, pattern, Path(folder))
    finally:
        pytest_unconfigure()


if __name__ == "__main__":
    main()
