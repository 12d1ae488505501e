"""Print a table: what each command does if one of its requests goes wrong, for both SDKs.

    python tests/azure/fault_table.py [SDK [ROUTES]]

It takes about an hour, and is no test: `test_faults.py` tests a part of it. Each route that
a command asks for is broken in each way, or each that matches the pattern ROUTES, such as
"submit .*computes". The table has the exit code, the seconds and the message. A minute of
silence, after which a request has failed, takes four seconds here.
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

from cookiecutter.main import cookiecutter

sys.path[:0] = [str(Path(__file__).parents[1])]

from azure_standin import Fault, Standin
from azure_standin.refusals import REFUSALS
from azure_user import ANSWERS, STEPS, Shell, User
from conftest import SDKS, TEMPLATE, Project, pytest_unconfigure

SILENCE = 4.0  # seconds, in place of a minute
#: Ten minutes, in this time.
LIMIT = 10 * SILENCE
#: What the stand-in says when it answers with a status alone.
STANDIN_SENTENCE = "The stand-in was told to fail here"

REFUSALS_TRIED = (
    "storage firewall",
    "keys switched off",
    "anonymous",
    "missing role",
    "policy",
)


@dataclass(frozen=True)
class Way:
    """A way in which a request goes wrong, and Azure's words that the message must show."""

    name: str
    fault: Fault
    words: str = ""


def list_ways(route: str, position: int) -> Iterator[Way]:
    """Yield the ways in which a request to a route is answered wrongly, or its line is cut.

    Two of the refusals are chosen by the position of the route, so that all occur.
    """
    for status in (401, 409, 500):
        yield Way(str(status), Fault(route, status, times=None), str(status))
    busy = Fault(route, 429, retry_after=3600, times=None)
    yield Way("429 for an hour", busy, "429")
    count = len(REFUSALS_TRIED)
    for number in (2 * position, 2 * position + 1):
        refusal = REFUSALS[REFUSALS_TRIED[number % count]]
        fault = Fault(route, refusal.status, refusal=refusal, times=None)
        yield Way(f"{refusal.status} {refusal.code}", fault, refusal.code)
    yield Way("cut", Fault(route, cut=True, times=None))


# What is removed before a command, so that it has to ask for all that it can ask for.


def remove_everything(user: User, _: Shell) -> None:
    shutil.rmtree(user.home, ignore_errors=True)
    azure = user.standin.azure
    for resource_id in [id for id in azure.resources if "/resourcegroups/" in id]:
        del azure.resources[resource_id]
    azure.environments.clear()
    azure.role_assignments.clear()
    azure.blobs.clear()


def remove_data_and_code(user: User, shell: Shell) -> None:
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
    remove_data_and_code(user, shell)
    user.write("train", "raise SystemExit('broken')")


def set_schedule(user: User, interval: int) -> None:
    path = user.project.path / "settings.yml"
    text = path.read_text(encoding="utf-8").partition("schedules: {")[0]
    schedule = f"{{training: {{frequency: Minute, interval: {interval}}}}}"
    path.write_text(f"{text}schedules: {schedule}\n", encoding="utf-8")


def have_schedule(user: User, shell: Shell) -> None:
    remove_data_and_code(user, shell)
    set_schedule(user, interval=7)


def have_another_version(user: User, shell: Shell) -> None:
    have_schedule(user, shell)
    faults = user.standin.faults[:]
    user.standin.faults.clear()
    assert shell.run("publish training").code == 0
    user.standin.faults[:] = faults
    set_schedule(user, interval=8)


@dataclass(frozen=True)
class Scenario:
    """A command, and what is done before it."""

    name: str
    command: str
    prepare: Callable[[User, Shell], None]
    code: int = 0  # The exit code if nothing goes wrong.


#: What scenarios have in common is tried with the first of them.
SCENARIOS = [
    Scenario("publish", "publish training", have_schedule),
    Scenario("provision", "provision --create-workspace", remove_everything),
    Scenario("submit", "submit training", remove_data_and_code),
    Scenario("publish again", "publish training", have_another_version),
    Scenario("submit --wait", "submit training --wait", let_training_fail, 1),
]


def break_every_route(sdk: str, pattern: str, folder: Path) -> None:
    """Print the rows of all commands with one SDK, of the routes that match a pattern."""
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
                before = len(standin.requests)
                result = shell.run(scenario.command)
                assert result.code == scenario.code, result
            routes = {request.route or "" for request in standin.requests[before:]}
            for position, route in enumerate(sorted(routes - seen)):
                if re.search(pattern, f"{scenario.name} {route}"):
                    break_route(user, scenario, route, position)
            seen |= routes


def break_route(user: User, scenario: Scenario, route: str, position: int) -> None:
    """Print the rows of a route."""
    with closing(start_shell(user)) as shell:
        for way in list_ways(route, position):
            print_row(user, shell, scenario, route, way)
    # Threads of the SDK may wait on, in a shell that is used again.
    stall = Way("stall", Fault(route, stall=60, times=None))
    with closing(start_shell(user, LONGEST_SILENCE=str(SILENCE))) as shell:
        print_row(user, shell, scenario, route, stall)


def start_shell(user: User, **variables: str) -> Shell:
    """Start a shell whose SDK has been imported, as imports are not what is measured."""
    # azureml-sdk keeps notes in the user's home, and looks for that when it is imported.
    shell = Shell(user, COLD="1", **variables)
    shell.run("submit --help")
    return shell


def print_row(
    user: User,
    shell: Shell,
    scenario: Scenario,
    route: str,
    way: Way,
) -> None:
    """Run a command while a route is broken, and print how it ended."""
    scenario.prepare(user, shell)
    fault = replace(way.fault)
    user.standin.faults[:] = [fault]
    started = time.monotonic()
    result = shell.run(scenario.command)
    seconds = time.monotonic() - started
    user.standin.faults.clear()

    verdict = "ok"
    if not fault.seen:
        verdict = "NOT ASKED"
    elif result.code == 0:
        verdict = "goes on without it"
    elif "Traceback" in result.err or not result.err.endswith(".\n"):
        verdict = "NO SENTENCE"
    elif way.words not in result.err and STANDIN_SENTENCE not in result.err:
        verdict = "OTHER WORDS"
    if seconds > LIMIT:
        verdict += " LATE"
    cells = (
        user.project.sdk,
        scenario.name,
        route,
        way.name,
        result.code,
        f"{seconds:.1f} s",
        verdict,
        result.err.strip().replace("|", "/"),
    )
    print("|", *(f"{cell} |" for cell in cells), flush=True)


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
