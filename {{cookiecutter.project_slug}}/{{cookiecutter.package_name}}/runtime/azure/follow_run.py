"""Follow a run on Azure ML to its end, and explain why its steps have failed."""

from __future__ import annotations

import time

from ..steps import LOG_END
from .call_limits import call_with_limit
from .connection import Printer
from .errors import CallTooLong
from .resources import Failure
from .session import Session
from .workspace_interface import RunInterface

# Azure is asked for the state of the run at this interval.
POLL_SECONDS = 3
# After this many failed polls in a row, the run is no longer followed.
MAX_FAILED_POLLS = 3
# azureml-sdk calls a run that has succeeded finished, and azure-ai-ml calls it completed.
SUCCESS_STATES = ("finished", "completed")
FINAL_STATES = (*SUCCESS_STATES, "failed", "canceled")

#: Parts of the names of a failed step's logs, beginning with the most useful log.
LOGS_BY_USEFULNESS = (
    # What the entry script of a parallel step raised; the step's own log only says
    # "SystemExit: 42".
    "logs/user/error.txt",
    # What the script printed.
    "user_logs/std_log",
    # What happened to a step that died before its script ran.
    "executionlogs.txt",
)


def follow_run(session: Session, run: RunInterface) -> bool:
    """Report the states of a run's steps until the run ends. Return whether it succeeded.

    If following the run fails or is interrupted, the run itself continues.
    """
    try:
        final_state = _poll_until_end(session, run)
    except BaseException:  # This includes Ctrl-C.
        session.printer(f"The run goes on. Follow it at {run.url}")
        raise

    session.report(final_state, f"run {run.id}")
    if final_state == "failed":
        for failure in call_with_limit("to read the logs", run.failures):
            _show_failure(failure, session.printer)
    return final_state in SUCCESS_STATES


def _poll_until_end(session: Session, run: RunInterface) -> str:
    """Report changed states of steps until the run ends, and return its final state.

    Raises the error of a poll if MAX_FAILED_POLLS in a row have failed, or if one took too
    long.
    """
    reported: dict[str, str] = {}
    failed_polls = 0
    while True:
        time.sleep(POLL_SECONDS)
        try:
            state = _poll(session, run, reported)
        except CallTooLong:
            raise
        except Exception:
            failed_polls += 1
            if failed_polls == MAX_FAILED_POLLS:
                raise
            continue

        failed_polls = 0
        if state in FINAL_STATES:
            return state


def _poll(session: Session, run: RunInterface, reported: dict[str, str]) -> str:
    """Report the steps whose state has changed, and return the state of the run.

    `reported` has the last reported state of each step, and is updated.
    """
    # The state of the run is read first. If the run has ended, the states of the steps are
    # final, so none is missed.
    run_state = call_with_limit("for the state of the run", run.state)
    for step in call_with_limit("to say how the steps get on", run.steps):
        if reported.get(step.run_id) != step.state:
            reported[step.run_id] = step.state
            session.report(step.state, step.name)
    return run_state


def _show_failure(failure: Failure, printer: Printer) -> None:
    """Print why a step has failed, and the end of its most useful log."""
    reason = failure.reason or "Azure ML gives no reason."
    if not failure.step:
        printer(reason)
        return

    printer(f"{failure.step} has failed: {reason}")
    log = _choose_log(failure.logs)
    if log:
        text = call_with_limit("to send a log", failure.read_log, log)
        last_lines = text.splitlines()[-LOG_END:]
        printer("\n    ".join([f"Its {log} ends:", *last_lines]))
    printer(f"All its logs: {failure.url}")
    if failure.is_parallel:
        printer("The folder logs/user/ has what the entry script printed and raised.")


def _choose_log(logs: list[str]) -> str:
    """Return the name of the most useful log, or an empty string if there are no logs."""
    for part in LOGS_BY_USEFULNESS:
        for log in sorted(logs):
            if part in log:
                return log
    return min(logs, default="")
