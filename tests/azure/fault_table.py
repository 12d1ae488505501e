"""Print a table: what each command does if one of its requests goes wrong, for both SDKs.

    python tests/azure/fault_table.py [SDK]

It takes about half an hour, and is no test: `test_faults.py` tests a part of it. Each route that a
command asks for is broken in each way. The table has the exit code, the seconds and the
message. A minute of silence, after which a request has failed, takes two seconds here.
"""

from __future__ import annotations

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

SILENCE = 2.0  # seconds, in place of a minute
#: Ten minutes, in this time.
LIMIT = 10 * SILENCE

STORAGE_REFUSALS = (
    "storage firewall",
    "keys switched off",
    "no role for data",
    "old key",
    "anonymous",
    "throttled storage",
)
OTHER_REFUSALS = ("missing role", "policy", "private link", "throttled manager")


@dataclass(frozen=True)
class Way:
    """A way in which a request goes wrong, and the code that the message must show."""

    name: str
    fault: Fault
    code: str = ""


def list_ways(route: str, position: int) -> Iterator[Way]:
    """Yield the ways in which a request to a route goes wrong.

    Each route stalls, is cut, and answers with two of the errors, chosen by its position in
    the table, so that all errors occur.
    """
    yield Way("stall", Fault(route, stall=60, times=None))
    yield Way("cut", Fault(route, cut=True, times=None))
    errors = [
        Way(str(status), Fault(route, status, times=None)) for status in (401, 409, 500)
    ]
    errors.append(
        Way("429 for an hour", Fault(route, 429, retry_after=3600, times=None))
    )
    for name in STORAGE_REFUSALS if " blob/" in route else OTHER_REFUSALS:
        refusal = REFUSALS[name]
        way = f"{refusal.status} {refusal.code}"
        fault = Fault(route, refusal.status, refusal=refusal, times=None)
        errors.append(Way(way, fault, refusal.code))
    yield errors[2 * position % len(errors)]
    yield errors[(2 * position + 1) % len(errors)]


# What is removed before a command, so that it has to ask for all that it can ask for.


def remove_everything(user: User) -> None:
    shutil.rmtree(user.home, ignore_errors=True)
    azure = user.standin.azure
    for resource_id in [id for id in azure.resources if "/resourcegroups/" in id]:
        del azure.resources[resource_id]
    azure.environments.clear()
    azure.blobs.clear()


def remove_data_and_code(user: User) -> None:
    remove_everything(user)
    azure = user.standin.azure
    user.standin.create_workspace("workspace", "group", "cpu-cluster")
    azure.experiments.clear()
    azure.modules.clear()
    azure.endpoints.clear()
    azure.schedules.clear()
    user.write("prep", f"print({time.time_ns()})")


def have_schedule(user: User) -> None:
    remove_data_and_code(user)
    path = user.project.path / "settings.yml"
    text = path.read_text(encoding="utf-8").partition("schedules: {")[0]
    schedule = "{training: {frequency: Minute, interval: 7}}"
    path.write_text(f"{text}schedules: {schedule}\n", encoding="utf-8")


PREPARATIONS: dict[str, Callable[[User], None]] = {
    "provision --create-workspace": remove_everything,
    "submit training": remove_data_and_code,
    "publish training": have_schedule,
}


def break_every_route(sdk: str, folder: Path) -> None:
    """Print the rows of all commands with one SDK."""
    answers = {**ANSWERS, "azureml_sdk": sdk}
    path = cookiecutter(
        str(TEMPLATE), no_input=True, extra_context=answers, output_dir=str(folder)
    )
    with Standin.running(folder / "standin") as standin:
        user = User(Project(Path(path), "penguins", sdk), standin, folder / "home")
        for step in STEPS:
            user.write(step, "print('done')")
        seen: set[str] = set()
        for command, prepare in PREPARATIONS.items():
            prepare(user)
            with closing(Shell(user)) as shell:
                before = len(standin.requests)
                result = shell.run(command)
                assert result.code == 0, result
            routes = {request.route or "" for request in standin.requests[before:]}
            # What commands have in common is tried with the first of them.
            with closing(start_shell(user)) as shell:
                for position, route in enumerate(sorted(routes - seen)):
                    for way in list_ways(route, position):
                        print_row(user, shell, command, prepare, route, way)
            seen |= routes


def start_shell(user: User) -> Shell:
    """Start a shell whose SDK has been imported, as imports are not what is measured."""
    # azureml-sdk keeps notes in the user's home, and looks for that when it is imported.
    shell = Shell(user, LONGEST_SILENCE=str(SILENCE), COLD="1")
    shell.run("submit --help")
    return shell


def print_row(
    user: User,
    shell: Shell,
    command: str,
    prepare: Callable[[User], None],
    route: str,
    way: Way,
) -> None:
    """Run a command while a route is broken, and print how it ended."""
    prepare(user)
    fault = replace(way.fault)
    user.standin.faults[:] = [fault]
    started = time.monotonic()
    result = shell.run(command)
    seconds = time.monotonic() - started
    user.standin.faults.clear()

    verdict = "ok"
    if not fault.seen:
        verdict = "NOT ASKED"
    elif result.code == 0:
        verdict = "goes on without it"
    elif "Traceback" in result.err or not result.err.endswith(".\n"):
        verdict = "NO SENTENCE"
    elif way.code and way.code not in result.err:
        verdict = "OTHER WORDS"
    if seconds > LIMIT:
        verdict += " LATE"
    cells = (
        user.project.sdk,
        command.partition(" ")[0],
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
    sdks = sys.argv[1:] or SDKS
    print("| SDK | command | route | fault | exit code | time | verdict | message |")
    print("|---|---|---|---|---|---|---|---|")
    try:
        for sdk in sdks:
            with TemporaryDirectory() as folder:
                break_every_route(sdk, Path(folder))
    finally:
        pytest_unconfigure()


if __name__ == "__main__":
    main()
